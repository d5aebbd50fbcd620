"""The Modbus driver: devices of one line polled on aligned ticks, batteries commanded where the table allows it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeAlias

import msgspec
from msgspec import Meta

from drivers.api import (
    ConfigError,
    Context,
    Driver,
    DriverError,
    Emit,
    Event,
    Json,
    LinkError,
    MalformedError,
    Memory,
    RefusedError,
    Sample,
)
from drivers.battery.debt import key_at, key_of, owed_from
from drivers.battery.house import ROLES
from drivers.battery.keeper import Keeper
from drivers.battery.policy import check
from drivers.battery.settings import BatterySettings
from drivers.modbus.battery import ModbusBattery
from drivers.modbus.control_table import parse_control
from drivers.modbus.device import Device
from drivers.modbus.endpoints import Endpoint, Framing, Parity, SerialEndpoint, TcpEndpoint
from drivers.modbus.library import find
from drivers.modbus.link import BROADCAST, ExceptionAnswerError, HungUpError, Link, SilentError
from drivers.modbus.planner import MOST_REGISTERS, Request, Space
from drivers.modbus.register_map import RegisterMap
from drivers.polling import Ticks
from drivers.settings import Table, convert

SUMMARY = "inverters, batteries and meters over Modbus: TCP, RTU, RTU over TCP, SunSpec"

log = logging.getLogger(__name__)

SUNSPEC = "sunspec"
"""As a map's name: the device says itself where its registers are."""

NO_MODE_REMEDY = (
    "remove it; without it the device is only read",
    "remove it, or name `sunspec_storage` where the device has model 124",
)

MOST_UNITS = 256
LOST_AFTER = 2
"""A device is lost when it missed this many rounds in a row; one lost answer on a radio link is no event."""
FIRST_WAIT_S = 1.0
LONGEST_WAIT_S = 60.0
OWING_WAIT_S = 30.0
"""The longest wait for a device that a mode was left on, and for the link of one that may be commanded.

Within a minute of its return it is back in normal: the wait, a failing attempt to connect, the pause after it, and some
ten requests.
"""
LEAVE_S = 6.0
"""To put batteries back when the driver is stopped; the next start does what this does not reach.

Ten requests of 250 ms, one lost answer, and what was not done then once more. The agent waits a little longer.
"""

Transport: TypeAlias = Literal["tcp", "rtu_over_tcp", "serial"]
Seconds = Annotated[float, Meta(ge=0.05, le=30)]
Baudrate = Annotated[int, Meta(ge=300, le=921_600)]


class SerialSettings(Table, frozen=True, forbid_unknown_fields=True):
    """A serial line that speaks RTU."""

    port: str
    baudrate: Baudrate = 9600
    parity: Parity = "N"
    stopbits: Literal[1, 2] = 1
    local_echo: bool = False


class DeviceSettings(Table, frozen=True, forbid_unknown_fields=True):
    """One unit of the line; `map` names a register map or is `sunspec`."""

    map: str
    unit: Annotated[int, Meta(ge=0, le=255)] = 1
    timeout_s: Seconds | None = None
    battery: BatterySettings | None = None


class Settings(Table, frozen=True, forbid_unknown_fields=True):
    """The driver's table: how the line is reached (`host` or `serial`) and the devices behind it by name.

    `transport` says what the bytes are: `tcp`, `rtu_over_tcp` (a transparent serial converter, `baudrate` being the
    speed behind it) or `serial`; without it, `serial` where there is a serial table and `tcp` otherwise.
    """

    devices: dict[str, DeviceSettings]
    host: str | None = None
    port: Annotated[int, Meta(ge=1, le=65535)] = 502
    transport: Transport | None = None
    serial: SerialSettings | None = None
    baudrate: Baudrate | None = None
    poll_s: Annotated[float, Meta(ge=0.05, le=3600)] = 10.0
    slow_s: Annotated[float, Meta(ge=0.05, le=86_400)] = 60.0
    timeout_s: Seconds = 2.0
    gap_ms: Annotated[float, Meta(ge=0, le=5_000)] | None = None
    connect_delay_ms: Annotated[float, Meta(ge=0, le=30_000)] | None = None
    maps: str | None = None


class _Registers(Table, frozen=True, forbid_unknown_fields=True):
    """What the command `registers` takes."""

    unit: Annotated[int, Meta(ge=1, le=255)]
    address: Annotated[int, Meta(ge=0, le=0xFFFF)]
    count: Annotated[int, Meta(ge=1, le=MOST_REGISTERS)] = 1
    space: Space = "holding"
    timeout_s: Seconds | None = None


class _Watch:
    """How a device has been doing: rounds missed in a row, and when it is asked again."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self.missed = 0
        self.lost = False
        self.ask_at = 0.0

    def wait_longer(self, now: float, longest_s: float = LONGEST_WAIT_S) -> None:
        """Ask again at the next tick after the first miss, then ever more seldom."""
        wait_s = 0.0 if self.missed < LOST_AFTER else FIRST_WAIT_S * 2.0 ** min(self.missed - LOST_AFTER, 10)
        self.ask_at = now + min(wait_s, longest_s) * random.uniform(0.8, 1.0)


class Modbus:
    """One TCP endpoint or serial port and the devices behind it."""

    def __init__(
        self,
        context: Context,
        settings: Settings,
        link: Link,
        devices: tuple[Device, ...],
        keepers: tuple[Keeper, ...] = (),
    ) -> None:
        self.devices = tuple(device.name for device in devices)
        self._clock = context.clock
        self._settings = settings
        self._link = link
        self._watches = tuple(_Watch(device) for device in devices)
        self._keepers = {keeper.device: keeper for keeper in keepers}
        self.backoff_ceiling_s = OWING_WAIT_S if any(keeper.may_write for keeper in keepers) else LONGEST_WAIT_S
        self._left: list[str] = []
        self._changes_saved = self._counted_saved = 0

    async def run(self, emit: Emit, memory: Memory) -> None:
        """Open the endpoint and poll its devices until it is lost; raises LinkError."""
        lost, learnt, counted = memory.get("lost"), memory.get("learnt"), memory.get("counted")
        for watch in self._watches:
            if isinstance(learnt, dict) and not watch.device.learnt.changes:
                watch.device.learnt.recall(learnt.get(watch.device.name))
            if isinstance(counted, dict) and isinstance(names := counted.get(watch.device.name), list):
                watch.device.qualities.recall(names)
            watch.lost = watch.lost or (isinstance(lost, list) and watch.device.name in lost)
        self._counted_saved = self._counted()
        try:
            await self._open(emit, memory)
            await self._poll(emit, memory)
        except LinkError as error:
            for watch in self._watches:
                await self._missed(watch, str(error), emit)
            raise
        finally:
            await self._leave()
            self._link.close()

    async def _open(self, emit: Emit, memory: Memory) -> None:
        left = self._left_commanded(memory)
        for name in left if left != self._left else ():
            log.warning("%s: a former command was not undone, and without a `battery` table nothing is written", name)
        self._left = left
        await self._link.open(self._settings.timeout_s)
        for watch in self._watches:
            watch.device.connected()
        for keeper in self._keepers.values():
            await keeper.arrive(emit, memory)

    def _left_commanded(self, memory: Memory) -> list[str]:
        """Return the devices that are owed something and that nobody may write to any more."""
        units = self._settings.devices.items()
        kept = {device.unit for name, device in units if name in self._keepers}
        found = [name for name in self.devices if name not in self._keepers and memory.get(key_of(name)) is not None]
        for unit in range(1, MOST_UNITS):
            remembered = memory.get(key_at(_place(unit)))
            if remembered is not None and unit not in kept:
                owed = owed_from(remembered)
                former = f"{owed.device if owed is not None else ''} ({_place(unit)})".strip()
                found += [name for name, device in units if device.unit == unit] or [former]
        return list(dict.fromkeys(found))

    async def _leave(self) -> None:
        """Put batteries back before the link is closed; what cannot be done now is done at the next start."""
        with contextlib.suppress(TimeoutError, DriverError):
            async with asyncio.timeout(LEAVE_S):
                for keeper in self._keepers.values() if self._link.is_open else ():
                    await keeper.leave()
        for keeper in self._keepers.values():
            keeper.disconnected("the link was lost")

    async def command(self, name: str, arguments: Mapping[str, Json]) -> Json:
        """Carry out `battery`: {device, mode, for_s or until, power_w, soc_percent}; without a mode: how it stands.

        Or `registers`: {unit, space, address, count, timeout_s}, which reads them once, whatever map the unit has.
        """
        if name == "registers":
            return await self._registers(convert(arguments, _Registers))
        if name != "battery" or not self._keepers:
            raise RefusedError(f"no command {name!r} here: no device of this line has a `battery` table")
        device = arguments.get("device") or (next(iter(self._keepers)) if len(self._keepers) == 1 else None)
        if device not in self._keepers:
            raise RefusedError(f"device is {device!r}; batteries here: {', '.join(self._keepers)}")
        return await self._keepers[str(device)].command(arguments)

    async def _registers(self, asked: _Registers) -> Json:
        """Return {hex}, {exception}, {silent} or {malformed}; raises LinkError while the line is not open."""
        request = Request(asked.space, asked.address, asked.count)
        try:
            data = await self._link.read(asked.unit, request, asked.timeout_s or self._settings.timeout_s)
        except ExceptionAnswerError as error:
            return {"exception": error.code}
        except SilentError as error:
            return {"silent": str(error)}
        except MalformedError as error:
            return {"malformed": str(error)}
        return {"hex": data.hex()}

    def warnings(self) -> list[ConfigError]:
        """Return what is risky about the batteries' tables."""
        return [
            ConfigError(
                f"devices.{name}.battery.no_revert_timer",
                "a mode stays on when this box dies",
                f"the device does not end by itself: {', '.join(keeper.policy.lasting)}; leave it out to refuse them",
                "accepted",
            )
            for name, keeper in self._keepers.items()
            if keeper.settings.no_revert_timer == "accepted" and keeper.policy.lasting
        ]

    @property
    def subjects(self) -> frozenset[str]:
        """The town's alert, where a battery keeps a reserve for it."""
        return frozenset({"alert"} if any(keeper.settings.alert for keeper in self._keepers.values()) else ())

    def hear(self, subject: str, payload: bytes) -> None:
        """Hand the alert to the batteries."""
        if subject == "alert":
            for keeper in self._keepers.values():
                keeper.hear(payload)

    @property
    def roles(self) -> frozenset[str]:
        """Grid and PV of the house, where a battery follows a tariff: its own device may not be who measures them."""
        return frozenset(ROLES if any(keeper.settings.tariff for keeper in self._keepers.values()) else ())

    def overhear(self, role: str, sample: Sample) -> None:
        """Hand a reading of another device to the batteries."""
        for keeper in self._keepers.values():
            keeper.overhear(role, sample)

    def describe(self) -> Mapping[str, Mapping[str, Json]]:
        """Return what the devices said of themselves so far."""
        return {watch.device.name: watch.device.describe() for watch in self._watches}

    def status(self) -> Mapping[str, Json]:
        """Return whether the link is open and how each device is doing."""
        return {
            "open": self._link.is_open,
            "link": dict(self._link.counts),
            "devices": {
                watch.device.name: {
                    "lost": watch.lost,
                    "missed": watch.missed,
                    **watch.device.status(),
                    "quality": {name: one for name, one in self.quality(watch.device.name).items() if one != "good"},
                }
                for watch in self._watches
            },
            **self._batteries(),
        }

    def _batteries(self) -> dict[str, Json]:
        """Return how the batteries stand; and those left in a mode that nobody may undo any more."""
        shown: dict[str, Json] = {"left_commanded": [*self._left]} if self._left else {}
        if self._keepers:
            shown["batteries"] = {name: keeper.status() for name, keeper in self._keepers.items()}
        return shown

    def quality(self, device: str) -> dict[str, Json]:
        """Return quantity → good, stale, bad or not_implemented for a device of this line."""
        (watch,) = (watch for watch in self._watches if watch.device.name == device)
        fast_ms, slow_ms = round(self._settings.poll_s * 1000), round(self._settings.slow_s * 1000)
        return dict(watch.device.quality(self._clock.boot_ms(), fast_ms, slow_ms))

    async def _poll(self, emit: Emit, memory: Memory) -> None:
        """Read every device at once after connecting, then at every tick."""
        ticks = Ticks(self._clock, self._settings.poll_s)
        loop = asyncio.get_running_loop()
        while True:
            for watch in self._watches:
                if watch.ask_at <= loop.time():
                    await self._read_or_learn(watch, emit, memory)
            await self._save_learnt(memory)
            await ticks.next()

    async def _read_or_learn(self, watch: _Watch, emit: Emit, memory: Memory) -> None:
        """Read a device; when it hangs up because of a register it is asked for, open the link again at once."""
        try:
            await self._read(watch, emit)
        except HungUpError as error:
            if not watch.device.was_blamed:
                raise
            log.debug("%s: %s", watch.device.name, error)
            for keeper in self._keepers.values():
                keeper.disconnected("the link was lost")
            await self._save_learnt(memory)
            await self._open(emit, memory)

    async def _save_learnt(self, memory: Memory) -> None:
        changes = sum(watch.device.learnt.changes for watch in self._watches)
        if changes != self._changes_saved:
            learnt = {watch.device.name: watch.device.learnt.saved() for watch in self._watches}
            await memory.update({"learnt": {name: saved for name, saved in learnt.items() if saved} or None})
            self._changes_saved = changes
        if (number := self._counted()) != self._counted_saved:
            counted = {watch.device.name: sorted(watch.device.qualities.counted) for watch in self._watches}
            await memory.update({"counted": {name: [*names] for name, names in counted.items() if names}})
            self._counted_saved = number

    def _counted(self) -> int:
        return sum(len(watch.device.qualities.counted) for watch in self._watches)

    async def _read(self, watch: _Watch, emit: Emit) -> None:
        device = watch.device
        try:
            values = await device.read(self._link, self._clock.boot_ms(), round(self._settings.slow_s * 1000))
        except (SilentError, RefusedError, MalformedError) as error:
            await self._missed(watch, str(error), emit)
            owes = (keeper := self._keepers.get(device.name)) is not None and keeper.policy.owes
            watch.wait_longer(asyncio.get_running_loop().time(), OWING_WAIT_S if owes else LONGEST_WAIT_S)
            return
        at = self._clock.boot_ms()
        if watch.missed:
            log.info("%s answers again", device.name)
        watch.missed, watch.ask_at = 0, 0.0
        if watch.lost:
            watch.lost = False
            await emit(Event(device.name, "device_back", at), remember=self._lost_ones())
        if values:
            await emit(Sample(device.name, at, values))
        if (keeper := self._keepers.get(device.name)) is not None:
            await keeper.serve(values, at)

    async def _missed(self, watch: _Watch, reason: str, emit: Emit) -> None:
        watch.missed += 1
        log.log(logging.WARNING if watch.missed == 1 else logging.DEBUG, "%s: %s", watch.device.name, reason)
        if watch.missed >= LOST_AFTER and not watch.lost:
            watch.lost = True
            if (keeper := self._keepers.get(watch.device.name)) is not None:
                keeper.away("the device was lost")
            event = Event(watch.device.name, "device_lost", self._clock.boot_ms(), {"reason": reason})
            await emit(event, remember=self._lost_ones())

    def _lost_ones(self) -> dict[str, Json]:
        return {"lost": [watch.device.name for watch in self._watches if watch.lost] or None}


def create(context: Context, table: Mapping[str, Any]) -> Driver:
    """Build the driver from its table; reads register maps, opens no link; raises ConfigError."""
    settings = convert(table, Settings)
    if not settings.devices:
        raise ConfigError("devices", "no device", "name at least one, with its map and unit")
    _check_units(settings)
    _check_learning(settings)
    endpoint = _endpoint(settings)
    maps = {name: _map(name, device, settings.maps) for name, device in settings.devices.items()}
    devices = tuple(
        Device(name, device.unit, device.timeout_s or settings.timeout_s, maps[name], endpoint.limits)
        for name, device in settings.devices.items()
    )
    wanted = [register_map for register_map in maps.values() if register_map is not None]
    gap_ms, delay_ms = settings.gap_ms, settings.connect_delay_ms
    link = Link(
        endpoint,
        context.clock,
        gap_ms=max((one.gap_ms for one in wanted), default=0) if gap_ms is None else gap_ms,
        connect_delay_ms=max((one.connect_delay_ms for one in wanted), default=0) if delay_ms is None else delay_ms,
        writable=frozenset(
            device.unit for device in settings.devices.values() if device.battery and device.battery.owned_by == "agent"
        ),
    )
    keepers = [_keeper(device, settings, maps[device.name], link, context) for device in devices]
    return Modbus(context, settings, link, devices, tuple(keeper for keeper in keepers if keeper is not None))


def _place(unit: int) -> str:
    """Return where a device is on its line, whatever it is called."""
    return f"unit {unit}"


def _check_units(settings: Settings) -> None:
    """Refuse two tables that would both command one unit."""
    seen: dict[int, str] = {}
    for name, device in settings.devices.items():
        if device.battery is not None and (other := seen.setdefault(device.unit, name)) != name:
            raise ConfigError(
                f"devices.{name}.battery", f"{other} commands unit {device.unit} already", "keep one of the two"
            )


def _check_learning(settings: Settings) -> None:
    """Refuse two batteries that would both be charged for all that the house takes."""
    batteries = ((name, device.battery) for name, device in settings.devices.items())
    learning = [name for name, one in batteries if one is not None and one.tariff is not None and one.tariff.learn]
    if len(learning) > 1:
        raise ConfigError(
            f"devices.{learning[1]}.battery.tariff.learn",
            "the house is learnt for one battery",
            "give all but one `learn: false`, and `expected_load_kwh` for what each is to serve",
        )


def _keeper(
    read: Device, settings: Settings, register_map: RegisterMap | None, link: Link, context: Context
) -> Keeper | None:
    """Return what commands a device's battery; None where its table does not ask for it."""
    name, device = read.name, settings.devices[read.name]
    if device.battery is None:
        return None
    try:
        control = None if register_map is None else parse_control(register_map)
        if control is None:
            raise ConfigError("battery", "the map tells no mode", NO_MODE_REMEDY[device.map == SUNSPEC])
        if device.unit == BROADCAST:
            raise ConfigError("unit", "every unit would be written", "give the device's own number", BROADCAST)
        timeout_s = device.timeout_s or settings.timeout_s
        battery = ModbusBattery(link, device.unit, timeout_s, control, lambda: read.models(link))
        check(device.battery, battery.modes, settings.poll_s)
    except ConfigError as error:
        raise error.under(f"devices.{name}") from error
    return Keeper(name, _place(device.unit), battery, device.battery, context.clock, settings.poll_s)


def _endpoint(settings: Settings) -> Endpoint:
    transport = settings.transport or ("serial" if settings.serial is not None else "tcp")
    if settings.serial is not None and settings.host is not None:
        raise ConfigError("serial", "`host` is given too", "keep one of them: a driver serves one line")
    if transport == "serial":
        if settings.serial is None:
            raise ConfigError("serial", "missing", "give the serial port: `serial: {port: /dev/ttyUSB0}`")
        return SerialEndpoint(**msgspec.structs.asdict(settings.serial))
    if settings.serial is not None:
        raise ConfigError("transport", "a serial port is given", "leave it out, or give `host` for it", transport)
    if not settings.host:
        raise ConfigError("host", "missing", "give the device's address, or `serial` for a serial port")
    if transport == "tcp" and settings.baudrate is not None:
        raise ConfigError(
            "baudrate", "Modbus TCP has none", "remove it, or `transport: rtu_over_tcp`", settings.baudrate
        )
    framing: Framing = "tcp" if transport == "tcp" else "rtu"
    return TcpEndpoint(settings.host, settings.port, framing, settings.baudrate)


def _map(name: str, device: DeviceSettings, folder: str | None) -> RegisterMap | None:
    """Return a device's map; None for one that is discovered."""
    try:
        return None if device.map == SUNSPEC else find(device.map, folder)
    except ConfigError as error:
        raise error.under(f"devices.{name}.map") from error
