"""The agent put together: one event loop, one TaskGroup, every task named. Knows no device, no topic and no table."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from functools import partial
from importlib import metadata
from typing import Any

import msgspec

from drivers.api import ConfigError, Driver, Event, Json, RefusedError, Sample, TimeHint
from edge_agent import config, control, health, notify, registry, wire
from edge_agent.clock import SystemClock, iso_time
from edge_agent.config import AGENT, Configuration
from edge_agent.control import Desk
from edge_agent.logs import SECRETS
from edge_agent.now import LastValues
from edge_agent.outbox import Outbox
from edge_agent.readout import of_values
from edge_agent.supervisor import Supervisor
from edge_agent.uplink import Uplink

log = logging.getLogger(__name__)

DRIVERS_STOP_S = 6.5
"""Long enough for a driver that puts a battery back over a slow line; all others leave at once."""
UPLINK_STOP_S = 1.5
VITAL_STOP_S = 0.5
LEAVE_S = 9.8
"""A stop takes no longer, whatever a driver does: the kernel ends the process then, and systemd not before (20 s)."""
READ_WAIT_S = 20.0
"""How long a `read` waits for a device that has not answered since the agent began: longer than usual polls."""
META_PERIOD_S = 10.0
"""How often it is looked whether a driver has learnt something about its devices."""
FIRST_HEALTH_S = 3.0
OUTBOX_STUCK_S = 20.0


class Agent:
    """Everything one box does; `run` returns after `stop`."""

    def __init__(self, configuration: Configuration) -> None:
        document = configuration.document
        self.configuration = configuration
        self.clock = SystemClock(document.clock, document.simulation, on_change=partial(self._accept, AGENT))
        self.outbox = Outbox.open(configuration.outbox_path, document.gateway.id, self.clock, document.outbox)
        local = {"hand_over": self._take_secret}
        self.desk = Desk(self._handlers(), self._driver_command, self._real_unix_ms, local)
        self.uplink = Uplink(
            document.gateway.id,
            document.mqtt,
            self.outbox,
            self.clock,
            area=document.gateway.area,
            version=metadata.version("edge-gateway"),
            secret=self._secret,
            on_command=self.desk.answer,
            on_town=self._hear,
        )
        self.pulse = notify.Pulse(time.monotonic)
        self.clock.hints = self._time_hints
        self.clock.on_beat = self.outbox.on_beat = self.uplink.on_beat = self.pulse.tick
        self.last = LastValues()
        self.supervisors: dict[str, Supervisor] = {}
        self._running: dict[str, asyncio.Task[None]] = {}
        self._owners: dict[str, str] = {}
        """Which driver serves a device."""
        self._seen: dict[str, None] = {}
        """Names of quantities that were reported, in the order of their first report."""
        self._heard: dict[str, bytes] = {}
        self._meta_due = asyncio.Event()
        self._stopping = asyncio.Event()
        self._reload_due = asyncio.Event()
        self._renewal_due = asyncio.Event()
        self._renewals: dict[str, asyncio.Future[None]] = {}
        """Drivers to be built again, and who waits for it."""
        self._handed: dict[str, str] = {}
        """Secrets that a person has handed over and that this process cannot read from a file."""
        self._secret_users: dict[str, set[str]] = {}
        self._reason = "stopped"
        self._accepting = 0

    def stop(self, reason: str = "stopped") -> None:
        """Make `run` end cleanly."""
        self._reason = reason
        self._stopping.set()

    def reload(self) -> None:
        """Read the configuration's drivers again, as SIGHUP asks."""
        self._reload_due.set()

    async def run(self) -> None:
        """Serve until stopped; raises ConfigError where a person must act before anything can run."""
        for path in config.exposed_secrets(self.configuration.document.secrets_directory):
            log.warning("%s can be read by others; run: chmod 600 %s", path, path)
        socket = self.configuration.sockets[0]
        # The group is outermost: a driver that refuses to leave must not keep the outbox from being written.
        async with asyncio.TaskGroup() as tasks, control.listening(socket, self.desk), self.outbox:
            vital = [
                tasks.create_task(life, name=name)
                for name, life in (
                    ("clock", self.clock.run()),
                    ("uplink", self.uplink.run()),
                    ("health", self._report_health()),
                    ("meta", self._publish_meta()),
                    ("notify", notify.keep_alive(self.pulse)),
                    ("reload", self._reload_when_asked(tasks)),
                    ("renewal", self._renew_when_asked(tasks)),
                )
            ]
            lost = self.outbox.memory(AGENT).get("lost")
            self.last.lost |= {device: str(why) for device, why in lost.items()} if isinstance(lost, dict) else {}
            self._start_drivers(tasks)
            await self._remember_devices()
            notify.notify("READY=1\nSTATUS=started")
            log.info("gateway %s serves %d drivers", self._document.gateway.id, len(self.supervisors))
            await self._stopping.wait()
            await self._leave(vital)

    @property
    def _document(self) -> config.Document:
        return self.configuration.document

    # Drivers

    def _start_drivers(self, tasks: asyncio.TaskGroup) -> None:
        for name in self._document.drivers:
            if name not in self.supervisors:
                self._start_driver(tasks, name)
        for error in config.role_errors(self._document.roles, self._owners):
            log.error("%s", error)
        self._meta_due.set()

    def _start_driver(self, tasks: asyncio.TaskGroup, name: str) -> None:
        supervisor = self.supervisors[name] = Supervisor(name, partial(self._build, name))
        for subject, payload in self._heard.items():
            supervisor.hear(subject, payload)
        memory = self.outbox.memory(name)
        lost = partial(self._lost, supervisor)
        life = supervisor.run(partial(self._accept, name), memory, lost)
        self._running[name] = tasks.create_task(life, name=f"driver {name}")

    def _build(self, name: str) -> Driver:
        driver = self.configuration.build(name, self.clock, partial(self._secret, user=name))
        if errors := config.claim(name, tuple(driver.devices), self._owners):
            self._disown(name)
            raise errors[0]
        return driver

    def _secret(self, name: str, user: str = AGENT) -> str:
        """Return a secret and remember who uses it; what a person has handed over counts first."""
        self._secret_users.setdefault(name, set()).add(user)
        return self._handed[name] if name in self._handed else self.configuration.secret(name)

    def _disown(self, name: str) -> None:
        self._owners = {device: owner for device, owner in self._owners.items() if owner != name}

    async def _accept(self, driver: str, item: Sample | Event, remember: Mapping[str, Json] | None = None) -> None:
        """Take an item over: first the outbox, then what people see now."""
        if isinstance(item, Event) and item.kind == "device_lost" and item.device in self.last.lost:
            await self.outbox.memory(driver).update(remember or {})  # driver and link say the same loss; once is enough
            return
        if isinstance(item, Sample) and item.device in self.last.lost:
            await self._accept(AGENT, Event(item.device, "device_back", self.clock.boot_ms()))
        with self._outbox_watched():
            await self.outbox.accept(driver, item, remember)
        if isinstance(item, Sample):
            self._show(item)
            self._pass_on(item)
        elif item.kind == "device_lost":
            self.last.lose(item.device, str(item.data.get("reason", "")))
            self.uplink.publish_lost(item.device, self.clock.unix_ms())
            await self._remember_lost()
        elif item.kind == "device_back":
            self.last.lost.pop(item.device, None)
            await self._remember_lost()

    @contextlib.contextmanager
    def _outbox_watched(self) -> Iterator[None]:
        """Let the watchdog starve when the outbox takes nothing any more."""
        if self._accepting == 0:
            self.pulse.tick("outbox", OUTBOX_STUCK_S)
        self._accepting += 1
        try:
            yield
        finally:
            self._accepting -= 1
            if self._accepting == 0:
                self.pulse.forget("outbox")
            else:
                self.pulse.tick("outbox", OUTBOX_STUCK_S)

    def _show(self, sample: Sample) -> None:
        self.last.note(sample)
        if not self._seen.keys() >= sample.values.keys():
            self._seen |= dict.fromkeys(sample.values)
            self._meta_due.set()
        reading = self.last.reading(sample.device, self.clock.boot_ms())
        if reading is not None and isinstance(sample.at, int):
            self.uplink.publish_now(sample.device, reading.values, reading.valid_ms / 1000)

    def _pass_on(self, sample: Sample) -> None:
        """Let drivers that need it know what the device with a role has just read; records are no readings."""
        if not isinstance(sample.at, int):
            return
        for role, device in self._document.roles.named().items():
            if device == sample.device:
                for supervisor in self.supervisors.values():
                    supervisor.overhear(role, sample)

    async def _lost(self, supervisor: Supervisor, reason: str) -> None:
        """All devices behind a link are lost with it; each says so once."""
        for device in supervisor.devices:
            await self._accept(AGENT, Event(device, "device_lost", self.clock.boot_ms(), {"reason": reason[:500]}))

    async def _remember_lost(self) -> None:
        """Keep which devices are lost: a device that answers after a restart is back, one that does not is no news."""
        await self.outbox.memory(AGENT).update({"lost": {**self.last.lost}})

    # The town

    def _hear(self, subject: str, payload: bytes) -> None:
        self._heard[subject] = payload
        for supervisor in self.supervisors.values():
            supervisor.hear(subject, payload)

    async def _publish_meta(self) -> None:
        """Publish `meta` whenever it would say something else."""
        told = b""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(META_PERIOD_S):
                    await self._meta_due.wait()
            self._meta_due.clear()
            meta = self.meta()
            if (telling := wire.encode(meta)) != told:
                told = telling
                await self.uplink.publish_meta(meta)
            self.pulse.tick("meta", META_PERIOD_S)

    def meta(self) -> wire.Meta:
        """Return what the gateway is and what its quantities mean."""
        document = self._document
        devices = self._devices()
        shared = registry.vocabulary(table.get("driver", "") for table in document.drivers.values())
        known = registry.described(devices) | shared
        return wire.Meta(
            gateway=document.gateway.id,
            site=document.gateway.site,
            area=document.gateway.area,
            roles=document.roles.named(),
            devices=devices,
            quantities={
                name: {key: value for key, value in asdict(quantity).items() if value is not None and key != "name"}
                for name in self._seen
                if (quantity := known.get(name)) is not None
            },
            config=self.configuration.hash,
        )

    def _time_hints(self) -> list[TimeHint]:
        return [hint for supervisor in self.supervisors.values() if (hint := supervisor.time_hint()) is not None]

    def _devices(self) -> dict[str, dict[str, Any]]:
        devices: dict[str, dict[str, Any]] = {}
        for name, supervisor in self.supervisors.items():
            described = supervisor.describe()
            for device in supervisor.devices:
                kind = self._document.drivers.get(name, {}).get("driver")
                devices[device] = {"driver": kind, **described.get(device, {})}
        return devices

    async def _report_health(self) -> None:
        pause_s = FIRST_HEALTH_S
        while True:
            self.pulse.tick("health", pause_s)
            await asyncio.sleep(pause_s)
            pause_s = health.PERIOD_S
            now = self.health()
            self.uplink.publish_health(now)
            notify.notify(f"STATUS={health.summary(now)}")

    def health(self) -> dict[str, Any]:
        """Return how agent, drivers and box are."""
        return {
            "outbox": self.outbox.statistics(),
            "uplink": self.uplink.statistics(),
            "drivers": {name: self._driver_health(supervisor) for name, supervisor in self.supervisors.items()},
            "lost": dict(self.last.lost),
            "clock": self.clock.quality(),
            **health.box(self.configuration.state_directory),
        }

    def _driver_health(self, supervisor: Supervisor) -> dict[str, Any]:
        counters = supervisor.health()
        last_ms = counters.pop("last_ms")
        told = counters | {"last": self._time(last_ms) if isinstance(last_ms, int) else None}
        return told | ({"detail": own} if (own := dict(supervisor.status())) else {})

    def _time(self, boot_ms: int) -> str | None:
        offset_ms = self.clock.offset_ms()
        return None if offset_ms is None else iso_time(boot_ms + offset_ms)

    # Commands

    def _handlers(self) -> dict[str, control.Handler]:
        return {"status": self._status, "read": self._read, "outbox": self._outbox_status}

    async def _status(self, arguments: Mapping[str, Json]) -> Any:
        del arguments
        return {"gateway": self._document.gateway.id, "config": self.configuration.hash, **self.health()}

    async def _outbox_status(self, arguments: Mapping[str, Json]) -> Any:
        del arguments
        return self.outbox.statistics()

    async def _read(self, arguments: Mapping[str, Json]) -> Any:
        """Return each device's last values; waits a moment for one that has none yet."""
        wanted = arguments.get("devices") or list(self._owners)
        if not isinstance(wanted, list) or not all(isinstance(device, str) for device in wanted):
            raise RefusedError("devices is not a list of names")
        if unknown := [device for device in wanted if device not in self._owners]:
            raise RefusedError(f"no device {unknown[0]!r}; known: {', '.join(self._owners) or 'none'}")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(READ_WAIT_S):
                while not all(self._is_told(str(device)) for device in wanted):
                    await self.last.change()
        told = [self._told(str(device)) for device in wanted]
        if not arguments.get("devices"):  # a driver that could not be built has no devices to speak for it
            off = [(name, one.error) for name, one in self.supervisors.items() if not one.devices]
            told += [{"device": name, "error": error} for name, error in off]
        return told

    def _is_told(self, device: str) -> bool:
        return device in self.last.lost or self.last.reading(device, self.clock.boot_ms()) is not None

    def _told(self, device: str) -> dict[str, Any]:
        reading = self.last.reading(device, self.clock.boot_ms())
        if reading is None:
            owner = self.supervisors.get(self._owners[device])
            known = owner.error if owner else None
            if owner and owner.state == "waiting_for_credentials":
                return {"device": device, "error": known, "state": owner.state}
            return {"device": device, "error": self.last.lost.get(device) or known or "has not answered yet"}
        quality = {"clock": self.clock.quality(), "age_s": (self.clock.boot_ms() - reading.at_ms) / 1000}
        told = {"device": device, "time": self._time(reading.at_ms), "values": reading.values, "quality": quality}
        owner = self.supervisors.get(self._owners[device])
        quality |= of_values(owner.status(), device) if owner else {}
        own = owner.describe().get(device, {}).get("quantities") if owner else None
        return told | ({"quantities": own} if own else {})

    async def _driver_command(self, name: str, arguments: Mapping[str, Json]) -> Any:
        """Carry out `driver.command`; a bare `command` is for the driver of `device`, else of the grid's meter."""
        driver, dot, command = name.partition(".")
        if not dot:
            device = arguments.get("device") or self._document.roles.grid
            driver, command = self._owners.get(str(device), ""), name
        if not command or driver not in self.supervisors:
            raise RefusedError(f"no command {name!r}; known: {', '.join(self._handlers())}, and driver.command")
        return await self.supervisors[driver].command(command, arguments)

    def _real_unix_ms(self) -> int | None:
        """Return real UTC, the latest it can be: who sends commands does not live in simulated time."""
        return time.time_ns() // 1_000_000 if self._document.simulation else self.clock.latest_unix_ms()

    async def _take_secret(self, arguments: Mapping[str, Json]) -> Any:
        """Use a secret that a person has typed, and build the drivers anew that need it; returns their names."""
        name, text = arguments.get("secret"), arguments.get("text")
        if not isinstance(name, str) or not isinstance(text, str) or not text or len(text) > config.MAX_SECRET_BYTES:
            raise RefusedError("secret (its name) and text are missing")
        SECRETS.add(text)
        self._handed[name] = text
        with contextlib.suppress(ConfigError):
            if self.configuration.secret(name) == text:  # the file says the same, also next time
                del self._handed[name]
        users = sorted(self._secret_users.get(name, set()) & self.supervisors.keys())
        waiting = [self._renewals.setdefault(user, asyncio.get_running_loop().create_future()) for user in users]
        self._renewal_due.set()
        await asyncio.gather(*(asyncio.shield(renewed) for renewed in waiting))
        return users

    # Starting, reloading, leaving

    async def _renew_when_asked(self, tasks: asyncio.TaskGroup) -> None:
        """Build drivers again whose secrets have changed."""
        while True:
            await self._renewal_due.wait()
            self._renewal_due.clear()
            renewals, self._renewals = self._renewals, {}
            await self._end_drivers(names := list(renewals))
            for name in names:
                self._disown(name)
                self.supervisors.pop(name, None)
            self._start_drivers(tasks)
            for renewed in renewals.values():
                renewed.set_result(None)
            log.info("new credentials are in use by: %s", ", ".join(names))

    async def _remember_devices(self) -> None:
        """Clear the retained last values of devices that left the configuration, also while the agent was down."""
        memory = self.outbox.memory(AGENT)
        former = memory.get("devices")
        for device in former if isinstance(former, list) else []:
            if isinstance(device, str) and device not in self._owners:
                self.last.forget(device)
                self.uplink.clear_now(device)
        await memory.update({"devices": [*sorted(self._owners)]})

    async def _reload_when_asked(self, tasks: asyncio.TaskGroup) -> None:
        while True:
            await self._reload_due.wait()
            self._reload_due.clear()
            try:
                fresh = config.load(self.configuration.path)
            except ConfigError as error:
                log.error("%s: %s; the former configuration stays", self.configuration.path, error)
                continue
            await self._change_to(fresh, tasks)

    async def _change_to(self, fresh: Configuration, tasks: asyncio.TaskGroup) -> None:
        """Restart the drivers whose table changed or that wait for a person; leave the others alone."""
        former = self._document.drivers
        changed = [
            name
            for name, supervisor in self.supervisors.items()
            if fresh.document.drivers.get(name) != former.get(name)
            or supervisor.state in {"off", "waiting_for_credentials"}
        ]
        if _rest(fresh.document) != _rest(self._document):
            log.warning("changes outside drivers, roles and site take effect when the agent is started again")
        await self._end_drivers(changed)
        for name in changed:
            self._disown(name)
            del self.supervisors[name]
        self.configuration = fresh
        self._start_drivers(tasks)
        await self._remember_devices()
        log.info("configuration %s is in use; ended or started anew: %s", fresh.hash, ", ".join(changed) or "none")

    async def _end_drivers(self, names: list[str]) -> None:
        """Cancel drivers and wait a moment; one that does not leave is named and left behind."""
        ending = [task for name in names if (task := self._running.pop(name, None)) is not None]
        for task in await _cancelled(ending, DRIVERS_STOP_S):
            log.error("%s does not leave when cancelled", task.get_name())

    async def _leave(self, vital: list[asyncio.Task[None]]) -> None:
        """Stop drivers first, so that what they still say is kept; then tell the town; then the rest."""
        notify.notify("STOPPING=1")
        await self._end_drivers(list(self.supervisors))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(UPLINK_STOP_S):
                await self.uplink.stop(self._reason)
        await _cancelled(vital, VITAL_STOP_S)


async def _cancelled(tasks: list[asyncio.Task[None]], within_s: float) -> set[asyncio.Task[None]]:
    """Cancel tasks, wait a moment, and return those that did not end."""
    for task in tasks:
        task.cancel()
    return (await asyncio.wait(tasks, timeout=within_s))[1] if tasks else set()


def _rest(document: config.Document) -> Any:
    """Return what a reload cannot change."""
    gateway = msgspec.structs.replace(document.gateway, site="")
    return msgspec.structs.replace(document, drivers={}, roles=config.Roles(), gateway=gateway)


async def serve(configuration: Configuration) -> None:
    """Run an agent until SIGTERM or SIGINT; SIGHUP reloads its drivers."""
    agent = Agent(configuration)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, _stop, agent)
    loop.add_signal_handler(signal.SIGHUP, agent.reload)
    await agent.run()


def _stop(agent: Agent) -> None:
    # A driver that blocks the loop or ignores its cancellation must not keep the box from shutting down.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, LEAVE_S)
    agent.stop()
