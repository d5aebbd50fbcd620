"""Read each device once without an agent, and lay values out for people. Keeps nothing and publishes nothing."""

from __future__ import annotations

import asyncio
import contextlib
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal
from typing import Any

from drivers.api import Clock, ConfigError, Driver, DriverError, Event, Json, Reports, Sample
from drivers.quantities import Quantity
from edge_agent.clock import SystemClock, iso_time
from edge_agent.config import Configuration

SOON_S = 0.1
GRACE_S = 0.3
"""A device that splits its answer into several samples gives the rest within this."""
PROGRESS_S = 3.0

Say = Callable[[str], None]


class SoonClock:
    """Another clock that leaps over waits: a person wants the values now, not at the next tick."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._leapt_ms = 0

    def boot_ms(self) -> int:
        """Return the boot clock with all leaps."""
        return self._clock.boot_ms() + self._leapt_ms

    def unix_ms(self) -> int | None:
        """Return UTC, which does not leap."""
        return self._clock.unix_ms()

    async def sleep_until(self, boot_ms: int) -> None:
        """Return when the clock has reached a time, which it does after `SOON_S` at the latest."""
        if boot_ms > self.boot_ms():
            await asyncio.sleep(SOON_S)
        self._leapt_ms += max(0, boot_ms - self.boot_ms())


class _Scratch:
    """A driver's memory for the time of one reading."""

    def __init__(self) -> None:
        self._content: dict[str, Json] = {}

    def get(self, key: str) -> Json:
        return self._content.get(key)

    async def update(self, changes: Mapping[str, Json]) -> None:
        self._content |= changes


class _Reading:
    """One driver's devices being read: collects until each wanted one has answered."""

    def __init__(self, name: str, driver: Driver, clock: Clock, wanted: Iterable[str]) -> None:
        self.name = name
        self._clock = clock
        self.driver = driver
        self.values: dict[str, dict[str, Any]] = {device: {} for device in wanted}
        self.answered: dict[str, float] = {}
        """When each device answered, by the event loop's time."""
        self.errors: dict[str, str] = {}
        self._done = asyncio.Event()

    async def emit(self, item: Sample | Event, remember: Mapping[str, Json] | None = None) -> None:
        del remember
        if item.device not in self.values or not isinstance(item.at, int):
            return
        if isinstance(item, Sample):
            self.values[item.device] |= item.values
            age_s = (self._clock.boot_ms() - item.at) / 1000
            self.answered[item.device] = asyncio.get_running_loop().time() - age_s
            self.errors.pop(item.device, None)
        elif item.kind == "device_lost":
            self.errors[item.device] = str(item.data.get("reason") or "does not answer")
        if not self.waiting:
            self._done.set()

    @property
    def waiting(self) -> list[str]:
        return [device for device in self.values if device not in self.answered and device not in self.errors]

    async def run(self, within_s: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s), asyncio.TaskGroup() as tasks:
                running = tasks.create_task(self._one_run(), name=f"read {self.name}")
                await self._done.wait()
                await asyncio.sleep(GRACE_S)
                running.cancel()
        for device in self.waiting:
            self.errors[device] = f"no answer within {within_s:.0f} s"

    async def _one_run(self) -> None:
        try:
            await self.driver.run(self.emit, _Scratch())
        except DriverError as error:
            for device in self.waiting:
                self.errors[device] = str(error)
        finally:
            self._done.set()


async def read_directly(
    configuration: Configuration, wanted: list[str], within_s: float, say: Say
) -> list[dict[str, Any]]:
    """Open the devices, read each once, all links at the same time; raises ConfigError for an unknown device."""
    document = configuration.document
    clock = SystemClock(document.clock, document.simulation)
    readings, answers = _readings(configuration, clock, wanted)
    async with asyncio.TaskGroup() as tasks:
        lives = [tasks.create_task(one.run(within_s), name=f"read {one.name}") for one in readings]
        telling = tasks.create_task(_tell_progress(readings, say), name="progress")
        await asyncio.wait(lives) if lives else None
        telling.cancel()
    for one in readings:
        for device in one.values:
            answers[device] = _answer(one, device, clock)
    return [answers[device] for device in answers if not wanted or device in wanted]


def _readings(
    configuration: Configuration, clock: Clock, wanted: list[str]
) -> tuple[list[_Reading], dict[str, dict[str, Any]]]:
    """Build the drivers that serve the wanted devices; one that cannot be built answers with its error."""
    readings, answers, known = [], dict[str, dict[str, Any]](), list[str]()
    for name in configuration.document.drivers:
        soon = SoonClock(clock)
        try:
            driver = configuration.build(name, soon)
        except ConfigError as error:
            if not wanted or name in wanted:
                answers[name] = {"device": name, "error": str(error.under(f"drivers.{name}"))}
            known.append(name)
            continue
        known += driver.devices
        if devices := [device for device in driver.devices if not wanted or device in wanted]:
            readings.append(_Reading(name, driver, soon, devices))
    if unknown := [device for device in wanted if device not in known]:
        raise ConfigError("DEVICE", "no such device", f"name some of: {', '.join(known) or 'none'}", unknown[0])
    return readings, answers


def _answer(reading: _Reading, device: str, clock: SystemClock) -> dict[str, Any]:
    if device not in reading.answered:
        return {"device": device, "error": reading.errors.get(device, "no answer")}
    unix_ms = clock.unix_ms()
    age_s = asyncio.get_running_loop().time() - reading.answered[device]
    return {
        "device": device,
        "time": None if unix_ms is None else iso_time(unix_ms - round(age_s * 1000)),
        "values": reading.values[device],
        "quality": {"clock": clock.quality(), "age_s": round(age_s, 3)},
    }


async def _tell_progress(readings: list[_Reading], say: Say) -> None:
    while True:
        await asyncio.sleep(PROGRESS_S)
        for one in readings:
            if one.waiting:
                say(f"{', '.join(one.waiting)}: {_state(one.driver)}")


def _state(driver: Driver) -> str:
    status = driver.status() if isinstance(driver, Reports) else {}
    state = status.get("state")
    return f"接続中 / connecting ({state}) …" if isinstance(state, str) else "接続中 / connecting …"


def table(answers: Iterable[Mapping[str, Any]], vocabulary: Mapping[str, Quantity]) -> list[str]:
    """Return lines for people: each device's values with label and unit."""
    lines: list[str] = []
    for answer in answers:
        if "error" in answer:
            lines.append(f"{answer['device']}  応答なし / no answer: {answer['error']}")
            continue
        lines.append(f"{answer['device']}  {answer.get('time') or '時刻未設定 / clock not set'}")
        rows = [_row(name, value, vocabulary.get(name)) for name, value in answer["values"].items()]
        width = max((_width(label) for label, _ in rows), default=0)
        lines += [f"  {label}{' ' * (width - _width(label))}  {shown}" for label, shown in rows]
    return lines


def _row(name: str, value: Any, quantity: Quantity | None) -> tuple[str, str]:
    label = f"{quantity.label_ja} / {quantity.label_en}" if quantity else name
    if value is None:
        return label, "値なし / no value"
    shown = f"{value:f}" if isinstance(value, Decimal) else str(value)
    return label, f"{shown} {quantity.unit}".rstrip() if quantity else shown


def _width(text: str) -> int:
    """Return how many columns of a terminal a text takes; Japanese letters take two."""
    return sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in text)
