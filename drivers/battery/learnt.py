"""What a house has used and its sun has given, half hour by half hour, and what is to be expected of it.

Pure: time is an argument. Only what was measured counts: a half hour that was not is a gap, and an expectation that
would need a gap is none at all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import Literal, TypeAlias

from drivers.api import Json

JST_MS = 9 * 3_600_000
DAY_MS = 86_400_000
HALF_HOUR_MS = 1_800_000
SLOTS = 48
WEEKDAYS = 7
WEEKS = 7
"""So many days of each weekday are kept: 49 in all, some 10 KB."""
OLDEST_DAYS = 70
"""A day longer ago than this was another season."""
ENOUGH = 3
"""Days that a mean of same weekdays, or of the same kind of day, rests on at least."""
LEAST_DAYS = 2
"""With fewer days than these nothing is expected."""

SPELLS = 6
MOST_SPELLS_MISSED = 1
"""A half hour counts when five of its six spells of five minutes were measured."""
NOISE_W = 100
"""Less than nothing by so much is a standby draw or a meter's tolerance; more is a reading that cannot be."""

UNIT_WH = 10
_DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz+-"
_GAP = "...."
MOST_UNITS = 64 * 64 - 1

Basis: TypeAlias = Literal["weekday", "kind", "days"]
"""What days a load was learnt from: the same weekday, the same kind of day, or any."""
_BASES: tuple[Basis, ...] = ("weekday", "kind", "days")

Flow: TypeAlias = "tuple[int, int]"
"""Load and PV of a half hour, in `UNIT_WH`."""
Day: TypeAlias = "list[Flow | None]"
Kind: TypeAlias = "tuple[int, bool]"
"""The weekday that a day counts as, and whether it is a holiday."""


@dataclass(frozen=True, slots=True)
class Expectation:
    """What a time to come will probably bring: the worst basis of its half hours and the fewest days of one."""

    load_kwh: float
    pv_kwh: float
    days: int
    basis: Basis


@dataclass(frozen=True, slots=True)
class _Known:
    """What former days tell of a half hour, of which a share is asked for: means in `UNIT_WH`, days, index of basis."""

    share: float
    load: float
    pv: float
    days: int
    basis: int


@dataclass(slots=True)
class _Spell:
    """Watts read within five minutes."""

    load_w: float = 0.0
    pv_w: float = 0.0
    count: int = 0


@dataclass(slots=True)
class _HalfHour:
    """A half hour under way."""

    number: int
    spells: list[_Spell] = field(default_factory=lambda: [_Spell() for _ in range(SPELLS)])

    def mean(self) -> tuple[float, float] | None:
        """Return load and PV in W, each spell weighing the same; None when too few were measured."""
        read = [spell for spell in self.spells if spell.count]
        if len(read) < SPELLS - MOST_SPELLS_MISSED:
            return None
        load_w = sum(spell.load_w / spell.count for spell in read) / len(read)
        return load_w, sum(spell.pv_w / spell.count for spell in read) / len(read)


class Learnt:
    """The last seven days of each weekday, as far as they were measured."""

    def __init__(self) -> None:
        self._days: dict[int, Day] = {}
        """Day since 1970-01-01 in Japan → its half hours."""
        self._current: _HalfHour | None = None
        self._changed: set[int] = set()
        self.changes = 0
        """How many half hours were learnt in this life, and days taken in from an earlier one."""

    def note(self, unix_ms: int | None, load_w: float, pv_w: float) -> None:
        """Take in load and PV of a moment; without a set clock they belong nowhere."""
        if unix_ms is None or unix_ms < 0:
            self._current = None
            return
        number = (unix_ms + JST_MS) // HALF_HOUR_MS
        if self._current is None or self._current.number != number:
            self._finish()
            self._current = _HalfHour(number)
        if load_w >= -NOISE_W and pv_w >= -NOISE_W:
            spell = self._current.spells[(unix_ms + JST_MS) % HALF_HOUR_MS * SPELLS // HALF_HOUR_MS]
            spell.load_w += max(load_w, 0.0)
            spell.pv_w += max(pv_w, 0.0)
            spell.count += 1

    def expect(self, begin_ms: int, end_ms: int, is_holiday: Callable[[int], bool]) -> Expectation | None:
        """Return what the time from `begin_ms` to `end_ms` (unix ms) will bring; None where one half hour is unknown.

        The load is the mean of the last 7 same weekdays, of the same kind of day while there are fewer than 3 of them,
        of any days while there are fewer than 3 of those. The sun knows no weekday: PV is the mean of the last 7 days.
        `is_holiday` tells it of a day since 1970-01-01; a holiday in the week counts as a Sunday.
        """
        load = pv = 0.0
        fewest, worst = WEEKS, 0
        for known in self._look_back(begin_ms, end_ms, is_holiday):
            if known is None:
                return None
            load += known.share * known.load
            pv += known.share * known.pv
            fewest, worst = min(fewest, known.days), max(worst, known.basis)
        return Expectation(load * UNIT_WH / 1000, pv * UNIT_WH / 1000, fewest, _BASES[worst])

    def first_gap(self, begin_ms: int, end_ms: int, is_holiday: Callable[[int], bool]) -> int | None:
        """Return the first half hour (unix ms) that keeps a time from being expected, None where nothing does."""
        half_hours = _half_hours(begin_ms, end_ms)
        known = self._look_back(begin_ms, end_ms, is_holiday)
        numbers = (number for (number, _), one in zip(half_hours, known, strict=True) if one is None)
        return next((number * HALF_HOUR_MS - JST_MS for number in numbers), None)

    def loads_w(self, begin_ms: int, end_ms: int, is_holiday: Callable[[int], bool]) -> list[float | None]:
        """Return the load to be expected in each half hour that a time touches; None for one that is unknown."""
        found = self._look_back(begin_ms, end_ms, is_holiday)
        return [None if known is None else known.load * UNIT_WH * 3_600_000 / HALF_HOUR_MS for known in found]

    @property
    def days(self) -> int:
        """How many days have at least one measured half hour."""
        return len(self._days)

    def _look_back(self, begin_ms: int, end_ms: int, is_holiday: Callable[[int], bool]) -> Iterator[_Known | None]:
        """Yield what former days tell of each half hour that a time touches; None for one that too few know."""
        former = sorted(self._days, reverse=True)
        kinds = {day: (_weekday(day, is_holiday), is_holiday(day)) for day in former}
        for number, share in _half_hours(begin_ms, end_ms):
            today, slot = divmod(number, SLOTS)
            kind = kinds.get(today) or (_weekday(today, is_holiday), is_holiday(today))
            flows = [
                (flow, kinds[day])
                for day in former
                if today - OLDEST_DAYS <= day <= today and (flow := self._days[day][slot]) is not None
            ]
            yield _mean(share, kind, flows) if len(flows) >= LEAST_DAYS else None

    def _finish(self) -> None:
        half_hour, self._current = self._current, None
        if half_hour is None or (mean := half_hour.mean()) is None:
            return
        flow = (_units(mean[0]), _units(mean[1]))
        if max(flow) > MOST_UNITS:
            return
        day, slot = divmod(half_hour.number, SLOTS)
        self._days.setdefault(day, [None] * SLOTS)[slot] = flow
        self._changed.add(day % WEEKDAYS)
        self.changes += 1
        self._forget(day)

    def _forget(self, today: int) -> None:
        """Keep the last days of each weekday; a day to come is left over from a clock that was wrong."""
        for former in [former for former in self._days if former > today]:
            del self._days[former]
            self._changed.add(former % WEEKDAYS)
        same = sorted(former for former in self._days if former % WEEKDAYS == today % WEEKDAYS)
        for former in same[:-WEEKS]:
            del self._days[former]

    # What is remembered

    def take_changes(self) -> dict[int, Json]:
        """Return weekday → what is to be remembered of it, for those that changed since the last call."""
        changed, self._changed = self._changed, set()
        return {weekday: self._saved(weekday) for weekday in sorted(changed)}

    def _saved(self, weekday: int) -> Json:
        return {str(day): _encoded(flows) for day, flows in sorted(self._days.items()) if day % WEEKDAYS == weekday}

    def recall(self, weekday: int, remembered: Json) -> bool:
        """Take in what an earlier life remembered of a weekday; False when it makes no sense, and then nothing is."""
        if remembered is None:
            return True
        days = _decoded(weekday, remembered)
        if days is None:
            return False
        self._days = days | self._days
        self.changes += len(days)
        return True


def _half_hours(begin_ms: int, end_ms: int) -> Iterator[tuple[int, float]]:
    """Yield the half hours of a time, counted in Japan from 1970-01-01, and which share of each belongs to it."""
    begin, end = begin_ms + JST_MS, end_ms + JST_MS
    for number in range(begin // HALF_HOUR_MS, -(-end // HALF_HOUR_MS)):
        start = number * HALF_HOUR_MS
        yield number, (min(end, start + HALF_HOUR_MS) - max(begin, start)) / HALF_HOUR_MS


def _mean(share: float, kind: Kind, flows: list[tuple[Flow, Kind]]) -> _Known:
    """Return the mean of the days that are most like one of a kind, the last ones first in `flows`."""
    days, basis = flows[:WEEKDAYS], len(kind)
    for index in range(len(kind)):
        alike = [one for one in flows if one[1][index] == kind[index]][:WEEKS]
        if len(alike) >= ENOUGH:
            days, basis = alike, index
            break
    suns = flows[:WEEKDAYS]
    load = sum(flow[0] for flow, _ in days) / len(days)
    return _Known(share, load, sum(flow[1] for flow, _ in suns) / len(suns), len(days), basis)


def _weekday(day: int, is_holiday: Callable[[int], bool]) -> int:
    weekday = date_of(day).weekday()
    return 6 if weekday < 5 and is_holiday(day) else weekday


def date_of(day: int) -> date:
    """Return the date of a day since 1970-01-01."""
    return date.fromordinal(date(1970, 1, 1).toordinal() + day)


def _units(watts: float) -> int:
    return round(watts * HALF_HOUR_MS / 3_600_000 / UNIT_WH)


def _encoded(flows: Day) -> str:
    """Write a day as four digits of base 64 for each half hour: load and PV."""
    return "".join(
        _GAP if flow is None else "".join(_DIGITS[units // 64] + _DIGITS[units % 64] for units in flow)
        for flow in flows
    )


def _decoded(weekday: int, remembered: Json) -> dict[int, Day] | None:
    """Return the days that were remembered of a weekday; None when any of it makes no sense."""
    if not isinstance(remembered, Mapping) or len(remembered) > WEEKS:
        return None
    days: dict[int, Day] = {}
    for key, text in remembered.items():
        if not (key.isascii() and key.isdigit() and len(key) <= 6 and int(key) % WEEKDAYS == weekday):
            return None
        if not isinstance(text, str) or (flows := _flows(text)) is None:
            return None
        days[int(key)] = flows
    return days


def _flows(text: str) -> Day | None:
    if len(text) != SLOTS * len(_GAP):
        return None
    found: Day = []
    for start in range(0, len(text), len(_GAP)):
        word = text[start : start + len(_GAP)]
        digits = [_DIGITS.find(digit) for digit in word]
        if word == _GAP:
            found.append(None)
        elif -1 in digits:
            return None
        else:
            found.append((digits[0] * 64 + digits[1], digits[2] * 64 + digits[3]))
    return found
