"""The driver of ECHONET Lite devices at home: found by address or identification, polled, listened to. Reads only,
except what the configuration names under `sets`; knows no byte of a property.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

from msgspec import Meta, field

from drivers.api import (
    ConfigError,
    Context,
    Driver,
    Emit,
    Event,
    Json,
    LinkError,
    MalformedError,
    Memory,
    RefusedError,
    Sample,
    Value,
)
from drivers.echonet_ip import devices, identity, quirks
from drivers.echonet_ip.devices import CLASSES
from drivers.echonet_ip.link import PORT, Link, SilentError, check_address
from drivers.echonet_ip.properties import DeviceClass, encode
from drivers.echonet_ip.session import Learnt, Session
from drivers.polling import Ticks
from drivers.route_b import echonet
from drivers.route_b.echonet import Frame
from drivers.settings import Table, convert

SUMMARY = "ECHONET Lite devices at home over the network: PV, battery, EV charger, EcoCute; reads only"

log = logging.getLogger(__name__)

LOST_AFTER = 2
"""A device is lost when it missed this many rounds in a row, and then looked for again."""
FIRST_WAIT_S = 1.0
LONGEST_WAIT_S = 60.0
SEARCH_HOLDS_S = 10.0
"""Devices that look for themselves share a search this long; nothing makes us shout more often."""
MAX_CANDIDATES = 16
"""Hosts tried for one device after one search."""
MAX_WAITING = 64
"""Announcements waiting to be handed on; a device that repeats itself faster loses some, counted."""


MAX_DESCRIBED = 120
"""Quantities of one device told in `meta`, which may have 64 KiB in all; of circuits power comes first, then energy."""


class DeviceSettings(Table, frozen=True, forbid_unknown_fields=True):
    """One allowed device: its object, and its address or identification or both; `sets` names what may be set."""

    eoj: str
    address: str | None = None
    identification: str | None = None
    sets: list[str] = field(default_factory=list)
    replaces: Literal["pv"] | None = None


class Settings(Table, frozen=True, forbid_unknown_fields=True):
    """The driver's table; `address` is the box's own, on the network where the devices are."""

    devices: dict[str, DeviceSettings]
    address: str = ""
    port: Annotated[int, Meta(ge=1, le=65535)] = PORT
    poll_s: Annotated[float, Meta(ge=0.05, le=3600)] = 30.0
    timeout_s: Annotated[float, Meta(ge=0.05, le=60)] = 5.0
    search_s: Annotated[float, Meta(ge=0.05, le=30)] = 3.0
    quirks: str | None = None


class _Watch:
    """One allowed device: where it is, how it wants to be asked, and how it has been doing."""

    def __init__(self, name: str, settings: DeviceSettings, eoj: bytes, device_class: DeviceClass) -> None:
        self.name, self.settings, self.eoj = name, settings, eoj
        self.plain_class = self.device_class = device_class
        self.keys: dict[int, bytes] = {}
        self.quantities: dict[str, Json] = {}
        self.learnt = Learnt()
        self.session: Session | None = None
        self.host = settings.address
        self.stored: Json = None
        self.missed = 0
        self.reason = ""
        self.lost = False
        self.ask_at = 0.0
        self.last_at = -1

    def wait_longer(self, now: float) -> None:
        """Ask again at the next tick after the first miss, then ever more seldom."""
        wait_s = 0.0 if self.missed < LOST_AFTER else FIRST_WAIT_S * 2.0 ** min(self.missed - LOST_AFTER, 10)
        self.ask_at = now + min(wait_s, LONGEST_WAIT_S) * random.uniform(0.8, 1.0)

    def values(self, got: Mapping[int, bytes]) -> dict[str, Value]:
        """Return what properties say in our vocabulary."""
        self.keys |= {epc: edt for epc, edt in got.items() if epc in self.device_class.keys}
        values = self.device_class.decode(got, self.keys)
        for name, meaning in devices.described(values.keys() - self.quantities.keys()).items():
            if len(self.quantities) < MAX_DESCRIBED:
                self.quantities[name] = meaning
        if self.settings.replaces == "pv" and "ac_power_w" in values:
            values["pv_power_w"] = values["ac_power_w"]
        return values


class EchonetIp:
    """UDP port 3610 of one network and the allowed devices on it."""

    backoff_ceiling_s = LONGEST_WAIT_S

    def __init__(
        self, context: Context, settings: Settings, watches: tuple[_Watch, ...], known: tuple[quirks.Quirk, ...]
    ) -> None:
        self.devices = tuple(watch.name for watch in watches)
        self._clock = context.clock
        self._settings = settings
        self._watches = watches
        self._quirks = known
        self._link = Link(settings.address, settings.port)
        self._link.heard = self._hear
        self._searching = asyncio.Lock()
        self._nodes: dict[str, Frame] = {}
        self._nodes_at = float("-inf")
        self._waiting: asyncio.Queue[tuple[_Watch, Mapping[int, bytes], int]] = asyncio.Queue(MAX_WAITING)
        self._strangers = 0
        self._dropped = 0

    async def run(self, emit: Emit, memory: Memory) -> None:
        """Open the port and serve the devices until it is lost; raises LinkError."""
        lost = memory.get("lost")
        while not self._waiting.empty():  # heard in an earlier life
            self._waiting.get_nowait()
        for watch in self._watches:
            self._recall(watch, memory)
            watch.lost = watch.lost or (isinstance(lost, list) and watch.name in lost)
        try:
            await self._link.open()
            async with asyncio.TaskGroup() as group:
                group.create_task(self._link.lost(), name="echonet-port")
                group.create_task(self._announced(emit), name="echonet-announcements")
                for watch in self._watches:
                    group.create_task(self._serve(watch, emit, memory), name=f"echonet-{watch.name}")
        except ExceptionGroup as errors:
            raise _first(errors) from errors
        finally:
            self._link.close()

    def describe(self) -> Mapping[str, Mapping[str, Json]]:
        """Return what the devices said of themselves so far."""
        return {watch.name: _description(watch) for watch in self._watches}

    def status(self) -> Mapping[str, Json]:
        """Return whether the port is open, how each device is doing, and what was dropped."""
        return {
            "open": self._link.is_open,
            **self._link.counts.json(),
            "strangers": self._strangers,
            "announcements_dropped": self._dropped,
            "devices": {
                watch.name: {
                    "lost": watch.lost,
                    "missed": watch.missed,
                    "reason": watch.reason,
                    "address": watch.session.host if watch.session else None,
                    **watch.learnt.json(),
                }
                for watch in self._watches
            },
        }

    async def command(self, name: str, arguments: Mapping[str, Json]) -> Json:
        """Carry out `set {device, quantity, value}` or `search {}`; raises RefusedError."""
        if name == "search":
            return [_node(host, frame) for host, frame in (await self._searched()).items()]
        if name != "set":
            raise RefusedError(f"no command {name!r}; there are: search, set")
        watch = next((one for one in self._watches if one.name == arguments.get("device")), None)
        quantity = str(arguments.get("quantity"))
        if watch is None or quantity not in watch.settings.sets:
            raise RefusedError("the configuration does not allow that; name the quantity under the device's `sets`")
        one = watch.plain_class.settable(quantity)
        if one is None or watch.session is None:
            raise RefusedError(f"{watch.name} is not there now")
        try:
            edt = encode(one, arguments.get("value"))
        except ValueError as error:
            raise RefusedError(str(error)) from error
        await watch.session.write(one.epc, edt)
        log.info("%s: %s set to %s", watch.name, quantity, arguments.get("value"))
        return {"device": watch.name, quantity: arguments.get("value")}

    async def _serve(self, watch: _Watch, emit: Emit, memory: Memory) -> None:
        """Read one device at once, then at every tick; a slow one misses ticks, its neighbours do not."""
        ticks, loop = Ticks(self._clock, self._settings.poll_s), asyncio.get_running_loop()
        while True:
            if watch.ask_at <= loop.time():
                try:
                    await self._round(watch, emit, memory)
                except (SilentError, RefusedError, MalformedError) as error:
                    await self._miss(watch, str(error), emit)
                    watch.wait_longer(loop.time())
                await self._keep_learnt(watch, memory)
            await ticks.next()

    async def _round(self, watch: _Watch, emit: Emit, memory: Memory) -> None:
        session = watch.session
        if session is None:
            session = await self._find(watch)
            await self._settle(watch, session, emit, memory)
        values = watch.values(await session.read(watch.device_class.epcs))
        if watch.missed:
            log.info("%s answers again", watch.name)
        watch.missed, watch.reason, watch.ask_at = 0, "", 0.0
        if watch.lost:
            watch.lost = False
            await emit(Event(watch.name, "device_back", self._clock.boot_ms()), remember=self._lost_ones())
        if values:
            await self._hand_over(watch, values, emit)

    async def _hand_over(self, watch: _Watch, values: Mapping[str, Value], emit: Emit, at: int | None = None) -> None:
        """Emit a sample stamped `at`, or now; two of one device never share a millisecond."""
        at = self._clock.boot_ms() if at is None else at
        while at <= watch.last_at:
            await self._clock.sleep_until(watch.last_at + 1)
            at = self._clock.boot_ms()
        watch.last_at = at
        await emit(Sample(watch.name, at, values))

    async def _find(self, watch: _Watch) -> Session:
        """Return a session with the device where it was, else where a search finds it; raises SilentError."""
        silent: Exception | None = None
        if watch.host is not None:
            try:
                if (session := await self._met(watch, watch.host)) is not None:
                    return session
            except (SilentError, MalformedError) as error:
                if watch.settings.identification is None:
                    raise
                silent = error
        for host in await self._candidates(watch):
            try:
                if host != watch.host and (session := await self._met(watch, host)) is not None:
                    return session
            except (SilentError, MalformedError) as error:
                silent = error
        raise SilentError(f"{watch.name} is nowhere on the network") from silent

    async def _met(self, watch: _Watch, host: str) -> Session | None:
        """Return a session with the object of a host once it is known to be the device meant, else None."""
        session = Session(self._link, host, watch.eoj, watch.learnt)
        await session.refresh()
        wanted = watch.settings.identification
        if wanted is None or identity.same(wanted, session.identification):
            return session
        level = logging.DEBUG if watch.missed else logging.WARNING
        log.log(level, "%s: at %s there is another device", watch.name, host)
        return None

    async def _candidates(self, watch: _Watch) -> list[str]:
        """Return the hosts that have the device's object, from a search."""
        found = []
        for host, frame in list((await self._searched()).items()):
            try:
                if watch.eoj in identity.instances(frame.properties[identity.INSTANCES_GET]):
                    found.append(host)
            except MalformedError as error:
                log.debug("%s: %s", host, error)
        return found[:MAX_CANDIDATES]

    async def _searched(self) -> dict[str, Frame]:
        """Return the nodes of the network, asked at most every ten seconds."""
        loop = asyncio.get_running_loop()
        async with self._searching:
            if loop.time() - self._nodes_at > SEARCH_HOLDS_S:
                self._nodes = await self._link.search(self._settings.search_s)
                self._nodes_at = loop.time()
            return self._nodes

    async def _settle(self, watch: _Watch, session: Session, emit: Emit, memory: Memory) -> None:
        """Take a found device in: its quirks, and an event when it is another than before or elsewhere."""
        at, before = self._clock.boot_ms(), memory.get(f"place:{watch.name}")
        now: dict[str, Json] = {"address": session.host, "identification": session.identification}
        quirk = quirks.fitting(self._quirks, watch.plain_class.code, _who(session))
        watch.device_class = quirks.understood(watch.plain_class, quirk).listed(session.readable)
        watch.keys, watch.quantities = {}, {}
        timeout_s = quirk.timeout_s if quirk else None
        watch.learnt.grant(quirk.most_properties if quirk else None, timeout_s or self._settings.timeout_s)
        watch.session, watch.host = session, session.host
        if not isinstance(before, dict):
            await memory.update({f"place:{watch.name}": now})
        elif not (session.is_sure and session.identification):
            log.debug("%s does not say who it is", watch.name)
        elif before.get("identification") != now["identification"]:
            watch.learnt.forget()
            data: dict[str, Json] = {"was": before.get("identification"), "now": now["identification"]}
            await emit(Event(watch.name, "device_replaced", at, data), remember={f"place:{watch.name}": now})
        elif before.get("address") != session.host:
            log.info("%s is now at %s", watch.name, session.host)
            data = {"was": before.get("address"), "now": session.host}
            await emit(Event(watch.name, "device_moved", at, data), remember={f"place:{watch.name}": now})

    async def _miss(self, watch: _Watch, reason: str, emit: Emit) -> None:
        watch.missed, watch.reason = watch.missed + 1, reason
        log.log(logging.WARNING if watch.missed == 1 else logging.DEBUG, "%s: %s", watch.name, reason)
        if watch.missed >= LOST_AFTER:
            watch.session = None  # look for it again, its maps included
            if not watch.lost:
                watch.lost = True
                event = Event(watch.name, "device_lost", self._clock.boot_ms(), {"reason": reason})
                await emit(event, remember=self._lost_ones())

    def _lost_ones(self) -> dict[str, Json]:
        return {"lost": [watch.name for watch in self._watches if watch.lost] or None}

    def _recall(self, watch: _Watch, memory: Memory) -> None:
        """Take up what earlier lives learnt of a device."""
        watch.stored = memory.get(f"learnt:{watch.name}")
        watch.learnt = Learnt.from_json(watch.stored, self._settings.timeout_s)
        watch.session = None
        place = memory.get(f"place:{watch.name}")
        if watch.settings.identification is not None and isinstance(place, dict):
            last = place.get("address")
            watch.host = last if isinstance(last, str) else watch.settings.address

    async def _keep_learnt(self, watch: _Watch, memory: Memory) -> None:
        if (learnt := watch.learnt.json()) != watch.stored:
            watch.stored = learnt
            await memory.update({f"learnt:{watch.name}": learnt})

    def _hear(self, host: str, frame: Frame) -> None:
        """Take an announcement in: values of allowed devices are kept, of strangers only that they exist."""
        watch = next((one for one in self._watches if one.session and (one.host, one.eoj) == (host, frame.seoj)), None)
        if watch is not None:
            if frame.esv == echonet.INFC:
                self._link.answer_infc(host, frame)
            if self._waiting.full():
                self._dropped += 1
            else:
                self._waiting.put_nowait((watch, frame.properties, self._clock.boot_ms()))
        elif frame.seoj[:2] == echonet.NODE_PROFILE[:2] and identity.INSTANCES_INF in frame.properties:
            self._someone_came()
        else:
            self._strangers += 1

    def _someone_came(self) -> None:
        """A node was switched on: lost devices are looked for at the next tick rather than in a minute."""
        for watch in self._watches:
            if watch.lost:
                watch.ask_at = 0.0

    async def _announced(self, emit: Emit) -> None:
        """Hand on what devices announce by themselves."""
        while True:
            watch, properties, heard_at = await self._waiting.get()
            values = watch.values(properties)
            if values and heard_at >= watch.last_at:  # what a poll has overtaken is old
                await self._hand_over(watch, values, emit, heard_at)


def _description(watch: _Watch) -> dict[str, Json]:
    described: dict[str, Json] = {"eoj": watch.eoj.hex().upper(), "class": watch.plain_class.label_en}
    if watch.session is not None:
        described |= {"address": watch.session.host, "identification": watch.session.identification}
        described |= {key: text for key, text in _who(watch.session).items() if text}
    if watch.quantities:
        described["quantities"] = dict(watch.quantities)
    return described


def _who(session: Session) -> dict[str, str]:
    """Return maker, product and serial of a device as text."""
    who = session.who
    return {
        "maker": who.get(identity.MAKER, b"").hex().upper(),
        "product": identity.text(who.get(identity.PRODUCT, b"")),
        "serial": identity.text(who.get(identity.SERIAL, b"")),
    }


def _node(host: str, frame: Frame) -> Json:
    try:
        objects = identity.instances(frame.properties[identity.INSTANCES_GET])
    except MalformedError as error:
        return {"address": host, "error": str(error)}
    return {"address": host, "objects": [one.hex().upper() for one in objects]}


def _first(errors: ExceptionGroup[Exception]) -> Exception:
    """Return the error that ended the group: a LinkError if there is one."""
    leaves = [error for error in errors.exceptions if not isinstance(error, ExceptionGroup)]
    return next((error for error in leaves if isinstance(error, LinkError)), leaves[0] if leaves else errors)


def create(context: Context, table: Mapping[str, Any]) -> Driver:
    """Build the driver from its table; reads quirks, opens no port; raises ConfigError."""
    settings = convert(table, Settings)
    if not settings.devices:
        raise ConfigError("devices", "no device", "name at least one; `edge-agent echonet scan` shows what is there")
    if settings.address:
        check_address("address", settings.address)
    watches = tuple(_watch(name, one) for name, one in settings.devices.items())
    _refuse_twins(watches)
    return EchonetIp(context, settings, watches, quirks.load(settings.quirks))


def _refuse_twins(watches: Iterable[_Watch]) -> None:
    """Raise ConfigError for one device under two names: its announcements would reach the first alone."""
    names: dict[tuple[str, bytes], str] = {}
    for watch in watches:
        number = identity.normal(watch.settings.identification or "").removesuffix(f"/{watch.eoj.hex().upper()}")
        for key, place in (("address", watch.settings.address), ("identification", number)):
            other = names.setdefault((place, watch.eoj), watch.name) if place else watch.name
            if other != watch.name:
                where = f"devices.{watch.name}.{key}"
                raise ConfigError(where, f"the same object as of {other}", "remove one, or correct it", place)


def _watch(name: str, settings: DeviceSettings) -> _Watch:
    where = f"devices.{name}"
    eoj = identity.eoj_from(settings.eoj)
    if eoj is None or not 1 <= eoj[2] <= 0x7F:
        raise ConfigError(f"{where}.eoj", "no object", "six hexadecimal digits in quotes, as '027901'", settings.eoj)
    device_class = CLASSES.get(eoj[:2].hex().upper())
    if device_class is None:
        raise ConfigError(f"{where}.eoj", "no class we read", f"one of {', '.join(CLASSES)}", settings.eoj)
    if settings.address is None and settings.identification is None:
        raise ConfigError(where, "neither `address` nor `identification`", "give one; a router changes addresses")
    if settings.identification is not None and not identity.normal(settings.identification):
        raise ConfigError(
            f"{where}.identification", "empty", "copy it from `edge-agent echonet scan`, or remove it", ""
        )
    if settings.address is not None:
        check_address(f"{where}.address", settings.address)
    for quantity in settings.sets:
        if device_class.settable(quantity) is None:
            names = ", ".join(one.name for one in device_class.properties if one.settable) or "nothing"
            raise ConfigError(f"{where}.sets", "not to be set", f"of this class: {names}", quantity)
    if settings.replaces is not None and device_class.code != "02A5":
        raise ConfigError(f"{where}.replaces", "only a multi-input PCS (02A5) stands for others", "remove it")
    return _Watch(name, settings, eoj, device_class)
