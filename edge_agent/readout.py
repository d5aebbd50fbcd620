"""Read each device once without an agent, and lay values out for people. Keeps nothing and publishes nothing."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal
from typing import Any

import msgspec

from drivers.api import (
    ConfigError,
    CredentialsError,
    Describes,
    Driver,
    DriverError,
    Event,
    Json,
    Memory,
    Reports,
    Sample,
)
from drivers.quantities import Quantity
from edge_agent import outbox, registry
from edge_agent.clock import SystemClock, iso_time
from edge_agent.config import Configuration

SOON_S = 0.1
GRACE_S = 0.3
"""A device that splits its answer into several samples gives the rest within this."""
PROGRESS_S = 3.0

Say = Callable[[str], None]


class SoonClock:
    """Another clock that leaps over waits while `leaps`: a person wants the values now, not at the next tick."""

    def __init__(self, clock: SystemClock) -> None:
        self._clock = clock
        self._leapt_ms = 0
        self.leaps = True

    def quality(self) -> str:
        """Return how far UTC can be trusted."""
        return self._clock.quality()

    def boot_ms(self) -> int:
        """Return the boot clock with all leaps."""
        return self._clock.boot_ms() + self._leapt_ms

    def unix_ms(self) -> int | None:
        """Return UTC, which does not leap."""
        return self._clock.unix_ms()

    async def sleep_until(self, boot_ms: int) -> None:
        """Return when the clock has reached a time, which it does after `SOON_S` at the latest."""
        if not self.leaps:
            await self._clock.sleep_until(boot_ms - self._leapt_ms)
        elif boot_ms > self.boot_ms():
            await asyncio.sleep(SOON_S)
        self._leapt_ms += max(0, boot_ms - self.boot_ms())


class Scratch:
    """A driver's memory for the time of one reading: begins with what an agent has written down, and keeps nothing."""

    def __init__(self, content: Mapping[str, Json] | None = None) -> None:
        self._content: dict[str, Json] = dict(content or {})

    @classmethod
    def of(cls, configuration: Configuration, driver: str) -> Scratch:
        """Return a copy of a driver's memory on this box; empty where there is none that can be read."""
        try:
            texts = outbox.remembered(configuration.outbox_path, driver)
            return cls({key: msgspec.json.decode(text) for key, text in texts.items()})
        except (OSError, sqlite3.Error, msgspec.DecodeError):
            return cls()

    def get(self, key: str) -> Json:
        """Return the value remembered, or None."""
        return self._content.get(key)

    async def update(self, changes: Mapping[str, Json]) -> None:
        """Remember until the end."""
        self._content |= changes


class Reading:
    """One driver's devices being read: collects until each wanted one has answered."""

    def __init__(self, name: str, driver: Driver, clock: SoonClock, memory: Memory, wanted: Iterable[str]) -> None:
        self.name = name
        self._memory = memory
        self.error: DriverError | None = None
        """What ended the driver."""
        self.status: Mapping[str, Json] = {}
        """What the driver said of itself at the end of the reading."""
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
        """The devices of which nothing is known yet."""
        return [device for device in self.values if device not in self.answered and device not in self.errors]

    async def run(self, within_s: float, grace_s: float = GRACE_S) -> None:
        """Run the driver until each device has answered or failed, or the time is over."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s), asyncio.TaskGroup() as tasks:
                running = tasks.create_task(self._one_run(), name=f"read {self.name}")
                await self._done.wait()
                self._clock.leaps = grace_s <= GRACE_S  # a longer look is no reason to hurry a device
                if not running.done():
                    await asyncio.sleep(grace_s)
                self._note_status()
                running.cancel()
        if not self.status:
            self._note_status()
        for device in self.waiting:
            self.errors[device] = f"no answer within {within_s:.0f} s"

    def _note_status(self) -> None:
        if isinstance(self.driver, Reports):
            self.status = dict(self.driver.status())

    def answer(self, device: str) -> dict[str, Any]:
        """Return what `read` says of a device."""
        if device not in self.answered:
            waits = {"state": "waiting_for_credentials"} if isinstance(self.error, CredentialsError) else {}
            return {"device": device, "error": self.errors.get(device, "no answer"), **waits}
        unix_ms = self._clock.unix_ms()
        age_s = asyncio.get_running_loop().time() - self.answered[device]
        own = self.driver.describe().get(device, {}) if isinstance(self.driver, Describes) else {}
        return {
            "device": device,
            "time": None if unix_ms is None else iso_time(unix_ms - round(age_s * 1000)),
            "values": self.values[device],
            "quality": {"clock": self._clock.quality(), "age_s": round(age_s, 3), **of_values(self.status, device)},
            **({"quantities": own["quantities"]} if own.get("quantities") else {}),
        }

    async def _one_run(self) -> None:
        try:
            await self.driver.run(self.emit, self._memory)
        except DriverError as error:
            self.error = error
            for device in self.waiting:
                self.errors[device] = str(error)
        finally:
            self._done.set()


def of_values(status: Mapping[str, Any], device: str) -> dict[str, Any]:
    """Return `values`: quantity → stale, bad or not_implemented, where a status tells it; all others are good."""
    devices = status.get("devices")
    own = devices.get(device) if isinstance(devices, Mapping) else None
    told = own.get("quality") if isinstance(own, Mapping) else None
    return {"values": dict(told)} if isinstance(told, Mapping) and told else {}


async def read_directly(
    configuration: Configuration, wanted: list[str], within_s: float, say: Say
) -> list[dict[str, Any]]:
    """Open the devices, read each once, all links at the same time; raises ConfigError for an unknown device."""
    readings, answers = await read_drivers(configuration, wanted, within_s, say)
    for one in readings:
        for device in one.values:
            answers[device] = one.answer(device)
    return [answers[device] for device in answers if not wanted or device in wanted]


async def read_drivers(
    configuration: Configuration,
    wanted: list[str],
    within_s: float,
    say: Say,
    graces_s: Mapping[str, float] | None = None,
) -> tuple[list[Reading], dict[str, dict[str, Any]]]:
    """Run the drivers of the wanted devices until these have answered; also returns who cannot even be built.

    `graces_s` says how long a driver may go on after that.
    """
    graces_s = graces_s or {}
    document = configuration.document
    clock = SystemClock(document.clock, document.simulation)
    readings, answers = _readings(configuration, clock, wanted)
    async with asyncio.TaskGroup() as tasks:
        lives = [
            tasks.create_task(one.run(within_s, graces_s.get(one.name, GRACE_S)), name=f"read {one.name}")
            for one in readings
        ]
        telling = tasks.create_task(_tell_progress(readings, say), name="progress")
        await asyncio.wait(lives) if lives else None
        telling.cancel()
    return readings, answers


def _readings(
    configuration: Configuration, clock: SystemClock, wanted: list[str]
) -> tuple[list[Reading], dict[str, dict[str, Any]]]:
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
            readings.append(Reading(name, driver, soon, Scratch.of(configuration, name), devices))
    if unknown := [device for device in wanted if device not in known]:
        raise ConfigError("DEVICE", "no such device", f"name some of: {', '.join(known) or 'none'}", unknown[0])
    return readings, answers


async def _tell_progress(readings: list[Reading], say: Say) -> None:
    while True:
        await asyncio.sleep(PROGRESS_S)
        for one in readings:
            if one.waiting:
                say(f"{', '.join(one.waiting)}: {_state(one.driver)}")


def _state(driver: Driver) -> str:
    status = driver.status() if isinstance(driver, Reports) else {}
    state = status.get("state")
    return f"接続中 / connecting ({state}) …" if isinstance(state, str) else "接続中 / connecting …"


def table(answers: Iterable[Mapping[str, Any]], vocabulary: dict[str, Quantity]) -> list[str]:
    """Return lines for people: each device's values with label and unit."""
    lines: list[str] = []
    for answer in answers:
        if "error" in answer:
            waits = answer.get("state") == "waiting_for_credentials"
            said = "認証情報待ち / waiting for credentials" if waits else "応答なし / no answer"
            lines.append(f"{answer['device']}  {said}: {answer['error']}")
            continue
        lines.append(f"{answer['device']}  {answer.get('time') or '時刻未設定 / clock not set'}")
        known = registry.described({answer["device"]: answer}) | vocabulary
        rows = [_row(name, value, known.get(name)) for name, value in answer["values"].items()]
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
