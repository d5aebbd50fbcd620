"""A Modbus unit played by the simulator and a driver beside it: read once, or commanded in time that the test moves."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import replace
from decimal import Decimal
from typing import Any

from running import Receiver

from drivers.api import Context, Driver, Sample
from drivers.contract import DictMemory, FastClock
from drivers.modbus.driver import create
from drivers.modbus.planner import Point, Space
from drivers.modbus.register_map import RegisterMap
from drivers.modbus.registers import encode
from simulators.house import Balance
from simulators.inverter import InverterServer, mapped
from simulators.modbus_chains import models_of
from simulators.modbus_control import control_of
from simulators.modbus_units import Cell, Unit

AT_ONCE = {"host": "127.0.0.1", "gap_ms": 0, "connect_delay_ms": 0}
START_MS = 1_780_239_600_000
PAUSE_MS = 1_000


async def first_sample(
    unit: Unit,
    device_map: str,
    now: Balance,
    *,
    number: int = 1,
    server: Callable[..., InverterServer] = InverterServer,
    **line: Any,
) -> tuple[Mapping[str, Any], Driver]:
    """Return what the real driver reads of a unit, and the driver."""
    served = server({number: unit}, lambda: now)
    await served.start()
    devices = {"inverter": {"map": device_map, "unit": number}}
    table = {**AT_ONCE, "port": served.port, "poll_s": 3600, "devices": devices, **line}
    driver = create(Context("modbus", FastClock(), str), table)
    arrived: asyncio.Future[Mapping[str, Any]] = asyncio.get_running_loop().create_future()

    async def emit(item: object, remember: object = None) -> None:
        del remember
        if isinstance(item, Sample) and not arrived.done():
            arrived.set_result(item.values)

    task = asyncio.ensure_future(driver.run(emit, DictMemory()))
    try:
        async with asyncio.timeout(10):
            return await arrived, driver
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await served.close()


def saying(unit: Unit, register_map: RegisterMap, said: Mapping[str, str | int]) -> Unit:
    """Return a played map whose points hold what `said` has of them at the time: a state's name, or a count."""
    points = {(point.space, point.address): point for point in register_map.points}

    def altered(one: Unit, space: Space) -> Unit:
        return replace(one, cells=tuple(_altered(cell, points.get((space, cell.address)), said) for cell in one.cells))

    inputs = None if unit.inputs is None else altered(unit.inputs, "input")
    return replace(altered(unit, "holding"), inputs=inputs)


def _altered(cell: Cell, point: Point | None, said: Mapping[str, str | int]) -> Cell:
    if point is None:
        return cell

    def raw(now: Balance) -> int:
        told = said.get(point.quantity)
        if isinstance(told, str):
            numbers = {name: number for number, name in point.encoding.names.items()}
            return encode(Decimal(numbers[told]), point.encoding)
        return cell.raw(now) if told is None else told

    return replace(cell, raw=raw)


class SteppedClock:
    """A clock that stands still until the test lets the next sleeper wake."""

    def __init__(self) -> None:
        self.ms = 3_600_000
        self._sleepers: list[tuple[int, asyncio.Future[None]]] = []
        self._asleep = asyncio.Event()

    def boot_ms(self) -> int:
        """Return ms since boot."""
        return self.ms

    def unix_ms(self) -> int:
        """Return UTC in ms."""
        return START_MS + self.ms

    async def sleep_until(self, boot_ms: int) -> None:
        """Return when the test has moved the time to `boot_ms`; a pause before a read-back takes no step of its own."""
        if boot_ms <= self.ms + PAUSE_MS:
            self.ms = max(self.ms, boot_ms)
            await asyncio.sleep(0)
            return
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._sleepers.append((boot_ms, woken))
        self._asleep.set()
        await woken

    async def step(self) -> None:
        """Wait until somebody sleeps, move the time to his, and wait until somebody sleeps again."""
        await self.idle()
        self._sleepers.sort(key=lambda sleeper: sleeper[0])
        self.ms, woken = self._sleepers.pop(0)
        if not woken.done():
            woken.set_result(None)
        self._asleep.clear()
        await self.idle()

    async def idle(self) -> None:
        """Wait until somebody sleeps: the driver has finished its round."""
        async with asyncio.timeout(10):
            while True:
                self._sleepers = [one for one in self._sleepers if not one[1].cancelled()]
                if self._sleepers:
                    return
                self._asleep.clear()
                await self._asleep.wait()


class Commanded:
    """A map's device whose battery can be commanded, at a house, and drivers that come and go with one memory."""

    def __init__(self, register_map: RegisterMap, house: Balance, **line: Any) -> None:
        self.map = register_map
        self._line = line
        self.clock = SteppedClock()
        unit = mapped(register_map)
        models = models_of(unit) if register_map.is_sunspec else None
        self.control = control_of(register_map, self.clock.unix_ms, models)
        self.server = InverterServer({1: unit}, lambda: house)
        self.server.let_command(self.control, 1)
        self.receiver = Receiver(again_s=0.001)

    def build(self, battery: Mapping[str, Any] | None) -> Driver:
        """Return a driver of the device."""
        device = {"map": self.map.name, "unit": 1, **({"battery": battery} if battery else {})}
        table = {**AT_ONCE, "port": self.server.port, "devices": {"inverter": device}, **self._line}
        return create(Context("modbus", self.clock, str), table)

    @contextlib.asynccontextmanager
    async def running(self, driver: Driver) -> AsyncIterator[Driver]:
        """Run a driver and let it read once."""
        async with self.receiver.running(driver):
            await self.clock.step()
            yield driver

    @contextlib.asynccontextmanager
    async def dying(self, driver: Driver) -> AsyncIterator[Driver]:
        """Run a driver that ends as if it were killed."""
        async with self.running(doomed(driver)):
            yield driver

    def hang_up(self) -> None:
        """Let the device drop its clients, as one that is started again does."""
        for connection in list(self.server.connections):
            connection.hang_up()

    async def rounds(self, count: int) -> None:
        """Let the driver read so many times more."""
        for _ in range(count):
            await self.clock.step()


def doomed(driver: Driver) -> Driver:
    """Return a driver that says no farewell when it ends, as if it were killed."""

    async def nothing() -> None:
        return None

    driver._leave = nothing  # type: ignore[attr-defined]  # what a kill leaves out
    return driver
