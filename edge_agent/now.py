"""The last values of each device, for people who look now. Keeps no history and publishes nothing."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from drivers.api import Sample, Value

LEAST_VALID_MS = 30_000
"""A device that polls fast is still believed for this long."""
PERIODS_VALID = 3
"""A value is shown until this many of its own periods have passed without a new one."""

MAX_COLUMN_SETS = 32
"""No device has more; a driver that invents names must not fill the memory."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What a device showed last: values with the stamp of the newest, and how long they can be believed."""

    at_ms: int
    values: dict[str, Value]
    valid_ms: int


@dataclass(slots=True)
class _Columns:
    """The last sample of one column set; a meter's half-hour values live longer than its power."""

    sample: Sample
    at_ms: int
    period_ms: int | None = None

    @property
    def valid_ms(self) -> int:
        return max(LEAST_VALID_MS, PERIODS_VALID * (self.period_ms or 0))


class LastValues:
    """Last values per device; a lost device has none until it answers again."""

    def __init__(self) -> None:
        self._columns: dict[str, dict[frozenset[str], _Columns]] = {}
        self._changed = asyncio.Event()
        self.lost: dict[str, str] = {}
        """Devices that do not answer, with the reason."""

    def note(self, sample: Sample) -> None:
        """Take in a sample; one that a device timed itself is a record, not a last value."""
        if not isinstance(sample.at, int):
            return
        columns = self._columns.setdefault(sample.device, {})
        former = columns.get(frozenset(sample.values))
        period_ms = None if former is None else sample.at - former.at_ms
        columns[frozenset(sample.values)] = _Columns(sample, sample.at, period_ms)
        if len(columns) > MAX_COLUMN_SETS:
            del columns[min(columns, key=lambda key: columns[key].at_ms)]
        self.lost.pop(sample.device, None)
        self._changed.set()
        self._changed = asyncio.Event()

    def lose(self, device: str, reason: str) -> None:
        """Forget a device's values because it does not answer."""
        self._columns.pop(device, None)
        self.lost[device] = reason

    def forget(self, device: str) -> None:
        """Forget a device that left the configuration."""
        self._columns.pop(device, None)
        self.lost.pop(device, None)

    def reading(self, device: str, now_ms: int) -> Reading | None:
        """Return what can still be believed of a device, or None."""
        fresh = [one for one in self._columns.get(device, {}).values() if now_ms - one.at_ms <= one.valid_ms]
        if not fresh:
            return None
        fresh.sort(key=lambda one: one.at_ms)
        values = {name: value for one in fresh for name, value in one.sample.values.items()}
        return Reading(fresh[-1].at_ms, values, fresh[-1].valid_ms)

    async def change(self) -> None:
        """Return when another sample has come."""
        await self._changed.wait()
