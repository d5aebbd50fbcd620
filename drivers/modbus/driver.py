"""The Modbus driver: devices of one line polled on aligned ticks. Reads only; knows no pymodbus and no register."""

from __future__ import annotations

import asyncio
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
    Emit,
    Event,
    Json,
    LinkError,
    MalformedError,
    Memory,
    RefusedError,
    Sample,
)
from drivers.modbus.device import Device
from drivers.modbus.endpoints import Endpoint, Framing, Parity, SerialEndpoint, TcpEndpoint
from drivers.modbus.library import find
from drivers.modbus.link import Link, SilentError
from drivers.modbus.register_map import RegisterMap
from drivers.polling import Ticks
from drivers.settings import Table, convert

log = logging.getLogger(__name__)

SUNSPEC = "sunspec"
"""As a map's name: the device says itself where its registers are."""

LOST_AFTER = 2
"""A device is lost when it missed this many rounds in a row; one lost answer on a radio link is no event."""
FIRST_WAIT_S = 1.0
LONGEST_WAIT_S = 60.0

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


class _Watch:
    """How a device has been doing: rounds missed in a row, and when it is asked again."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self.missed = 0
        self.lost = False
        self.ask_at = 0.0

    def wait_longer(self, now: float) -> None:
        """Ask again at the next tick after the first miss, then ever more seldom."""
        wait_s = 0.0 if self.missed < LOST_AFTER else FIRST_WAIT_S * 2.0 ** min(self.missed - LOST_AFTER, 10)
        self.ask_at = now + min(wait_s, LONGEST_WAIT_S) * random.uniform(0.8, 1.0)


class Modbus:
    """One TCP endpoint or serial port and the devices behind it."""

    backoff_ceiling_s = LONGEST_WAIT_S

    def __init__(self, context: Context, settings: Settings, link: Link, devices: tuple[Device, ...]) -> None:
        self.devices = tuple(device.name for device in devices)
        self._clock = context.clock
        self._settings = settings
        self._link = link
        self._watches = tuple(_Watch(device) for device in devices)

    async def run(self, emit: Emit, memory: Memory) -> None:
        """Open the endpoint and poll its devices until it is lost; raises LinkError."""
        lost = memory.get("lost")
        for watch in self._watches:
            watch.lost = watch.lost or (isinstance(lost, list) and watch.device.name in lost)
        try:
            await self._link.open(self._settings.timeout_s)
            for watch in self._watches:
                watch.device.connected()
            await self._poll(emit)
        except LinkError as error:
            for watch in self._watches:
                await self._missed(watch, str(error), emit)
            raise
        finally:
            self._link.close()

    def describe(self) -> Mapping[str, Mapping[str, Json]]:
        """Return what the devices said of themselves so far."""
        return {watch.device.name: watch.device.describe() for watch in self._watches}

    def status(self) -> Mapping[str, Json]:
        """Return whether the link is open and how each device is doing."""
        return {
            "open": self._link.is_open,
            "devices": {
                watch.device.name: {"lost": watch.lost, "missed": watch.missed, **watch.device.status()}
                for watch in self._watches
            },
        }

    async def _poll(self, emit: Emit) -> None:
        """Read every device at once after connecting, then at every tick."""
        ticks = Ticks(self._clock, self._settings.poll_s)
        loop = asyncio.get_running_loop()
        while True:
            for watch in self._watches:
                if watch.ask_at <= loop.time():
                    await self._read(watch, emit)
            await ticks.next()

    async def _read(self, watch: _Watch, emit: Emit) -> None:
        device = watch.device
        try:
            values = await device.read(self._link, self._clock.boot_ms(), round(self._settings.slow_s * 1000))
        except (SilentError, RefusedError, MalformedError) as error:
            await self._missed(watch, str(error), emit)
            watch.wait_longer(asyncio.get_running_loop().time())
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

    async def _missed(self, watch: _Watch, reason: str, emit: Emit) -> None:
        watch.missed += 1
        log.log(logging.WARNING if watch.missed == 1 else logging.DEBUG, "%s: %s", watch.device.name, reason)
        if watch.missed >= LOST_AFTER and not watch.lost:
            watch.lost = True
            event = Event(watch.device.name, "device_lost", self._clock.boot_ms(), {"reason": reason})
            await emit(event, remember=self._lost_ones())

    def _lost_ones(self) -> dict[str, Json]:
        return {"lost": [watch.device.name for watch in self._watches if watch.lost] or None}


def create(context: Context, table: Mapping[str, Any]) -> Driver:
    """Build the driver from its table; reads register maps, opens no link; raises ConfigError."""
    settings = convert(table, Settings)
    if not settings.devices:
        raise ConfigError("devices", "no device", "name at least one, with its map and unit")
    endpoint = _endpoint(settings)
    maps = {name: _map(name, device, settings.maps) for name, device in settings.devices.items()}
    devices = tuple(
        Device(name, device.unit, device.timeout_s or settings.timeout_s, maps[name])
        for name, device in settings.devices.items()
    )
    wanted = [register_map for register_map in maps.values() if register_map is not None]
    gap_ms, delay_ms = settings.gap_ms, settings.connect_delay_ms
    link = Link(
        endpoint,
        context.clock,
        gap_ms=max((one.gap_ms for one in wanted), default=0) if gap_ms is None else gap_ms,
        connect_delay_ms=max((one.connect_delay_ms for one in wanted), default=0) if delay_ms is None else delay_ms,
    )
    return Modbus(context, settings, link, devices)


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
