"""Which half hours of a meter were passed on, which are missing and can be repaired. Pure: no port, clock or loop.

A half hour is a register reading at :00 or :30 in Japan time. A meter remembers those of today and of 99 days before
(E2, E4 by the day that E5 chooses).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta
from decimal import Decimal

from drivers.api import Json
from drivers.route_b import meter
from drivers.route_b.meter import JST, Scaling

SLOTS = meter.HISTORY_SLOTS
SLOT = timedelta(minutes=30)
REMEMBERED_DAYS = 99
KEPT_DAYS = REMEMBERED_DAYS + 2
"""Days of the ledger: those that can still be repaired, today, and one that a wrong date may cost."""
SETTLED = timedelta(minutes=10)
"""A half hour that is younger may still be notified, and is not called missing."""
MOST_KWH_PER_SLOT = Decimal(30)
"""60 kWh in an hour, times the coefficient of a meter behind transformers; more is a spoilt digit."""

POSSIBLE_YEARS = range(2010, 2100)
"""Route B began after, and no device will run until; a date outside is spoilt whatever any clock says."""
NOTICED_FOR = timedelta(days=2)
"""EA and EB tell the last half hour; nothing that is much older can be meant."""
EARLY = timedelta(minutes=10)
"""A meter whose clock is off by more surprises, and must tell its date and time again."""
MOST_OFF = timedelta(days=1)
"""Clocks that differ by more: no moment of the meter is taken."""

REGISTERS = (meter.IMPORT_AT_30MIN, meter.EXPORT_AT_30MIN)


def slot_of(at: datetime) -> tuple[date, int]:
    """Return day and number (0 = 00:00) of a moment in Japan time."""
    local = at.astimezone(JST)
    return local.date(), local.hour * 2 + local.minute // 30


def moment_of(day: date, slot: int) -> datetime:
    """Return when a half hour is, aware."""
    return datetime.combine(day, time(), JST) + slot * SLOT


@dataclass(slots=True)
class Day:
    """One day in masks of 48 bits, bit n for the half hour n."""

    told: dict[int, int] = field(default_factory=dict)  # register → passed on
    repaired: int = 0  # passed on from the meter's memory
    absent: int = 0  # the meter's memory has no reading

    def lacks(self, register: int, slot: int) -> bool:
        """Tell whether a reading was not passed on yet."""
        return not self.told.get(register, 0) >> slot & 1


@dataclass(frozen=True, slots=True)
class Tally:
    """What is known of one day: half hours there, those of them repaired, and the missing ones by cause."""

    have: int
    repaired: int
    missing: Mapping[str, Sequence[str]]

    def as_data(self, day: date) -> dict[str, Json]:
        """Return the data of the event `half_hours`."""
        missing: dict[str, Json] = {cause: list(times) for cause, times in self.missing.items()}
        until = (day + timedelta(days=REMEMBERED_DAYS)).isoformat()
        told: dict[str, Json] = {"date": day.isoformat(), "have": self.have, "repaired": self.repaired}
        return told | {"missing": missing, "repairable_until": until}


class Ledger:
    """What was passed on of each day, bounded; `since` is the last half hour of a former meter, never read again."""

    def __init__(self, kept: Json = None) -> None:
        """Take what a memory holds; whatever makes no sense in it is forgotten."""
        self._days: dict[date, Day] = {}
        self.since: datetime | None = None
        table = kept if isinstance(kept, dict) else {}
        since = table.get("since")
        if isinstance(since, int) and 0 < since < 2**32:
            at = datetime.fromtimestamp(since, JST)
            self.since = at if at.year in POSSIBLE_YEARS else None
        days = table.get("days")
        for text, masks in days.items() if isinstance(days, dict) else ():
            self._restore(text, masks)
        self._bound()

    def _restore(self, text: str, masks: Json) -> None:
        if not isinstance(masks, list) or len(masks) != 4:
            return
        try:
            day, numbers = date.fromisoformat(text), [int(str(mask), 16) for mask in masks]
        except ValueError:
            return
        if day.year in POSSIBLE_YEARS and all(0 <= number < 1 << SLOTS for number in numbers):
            self._days[day] = Day(dict(zip(REGISTERS, numbers[:2], strict=True)), numbers[2], numbers[3])

    def as_json(self) -> dict[str, Json]:
        """Return what to remember, at most 8 KiB."""
        days: dict[str, Json] = {
            day.isoformat(): [
                f"{mask:x}" for mask in (*(kept.told.get(r, 0) for r in REGISTERS), kept.repaired, kept.absent)
            ]
            for day, kept in sorted(self._days.items())
        }
        return {"days": days} | ({"since": int(self.since.timestamp())} if self.since else {})

    def lacks(self, register: int, at: datetime) -> bool:
        """Tell whether a reading is still to be passed on."""
        if self.since is not None and at <= self.since:
            return False
        day, slot = slot_of(at)
        kept = self._days.get(day)
        return kept is None or kept.lacks(register, slot)

    def note(self, registers: Iterable[int], at: datetime, *, repaired: bool = False) -> None:
        """Remember that the readings of a half hour were passed on."""
        day, slot = slot_of(at)
        kept = self._days.setdefault(day, Day())
        if repaired and all(kept.lacks(register, slot) for register in REGISTERS):
            kept.repaired |= 1 << slot
        for register in registers:
            kept.told[register] = kept.told.get(register, 0) | 1 << slot
        kept.absent &= ~(1 << slot)
        self._bound()

    def withdraw(self, registers: Iterable[int], at: datetime) -> None:
        """Take back that readings were passed on."""
        day, slot = slot_of(at)
        if (kept := self._days.get(day)) is not None:
            for register in registers:
                kept.told[register] = kept.told.get(register, 0) & ~(1 << slot)
            if all(kept.lacks(register, slot) for register in REGISTERS):
                kept.repaired &= ~(1 << slot)

    def note_absent(self, at: datetime) -> None:
        """Remember that the meter has no reading of a half hour that is over."""
        day, slot = slot_of(at)
        kept = self._days.setdefault(day, Day())
        kept.absent |= 1 << slot
        self._bound()

    def forget_after(self, tomorrow: date) -> None:
        """Forget what cannot have been: it would stand before all that is still to come."""
        for day in [day for day in self._days if day > tomorrow]:
            del self._days[day]
        if self.since is not None and self.since.date() > tomorrow:
            self.since = None

    def start_anew(self, since: datetime | None) -> None:
        """Forget the former meter's memory: nothing up to `since` is taken from the new one."""
        self.since = since or self.newest()

    def newest(self) -> datetime | None:
        """Return the newest half hour that was passed on."""
        told = [
            moment_of(day, mask.bit_length() - 1)
            for day, kept in self._days.items()
            for mask in kept.told.values()
            if mask
        ]
        return max(told, default=None)

    def missing(self, day: date, now: datetime, registers: Sequence[int]) -> list[int]:
        """Return the half hours of a day that are over, and neither passed on nor known to be absent."""
        kept = self._days.get(day, Day())
        return [
            slot
            for slot in self._over(day, now)
            if not kept.absent >> slot & 1 and any(kept.lacks(register, slot) for register in registers)
        ]

    def due(self, now: datetime, registers: Sequence[int]) -> list[date]:
        """Return which of today and yesterday miss half hours, the elder last."""
        today = now.astimezone(JST).date()
        return [day for day in (today, today - timedelta(days=1)) if self.missing(day, now, registers)]

    def tally(self, day: date, now: datetime, registers: Sequence[int]) -> Tally:
        """Return what became of the half hours of a day that are over."""
        kept = self._days.get(day, Day())
        missing: dict[str, list[str]] = {}
        have = 0
        for slot in self._over(day, now):
            if not any(kept.lacks(register, slot) for register in registers):
                have += 1
            else:
                cause = "no_data" if kept.absent >> slot & 1 else "not_read"
                missing.setdefault(cause, []).append(f"{slot // 2:02}:{slot % 2 * 30:02}")
        return Tally(have, kept.repaired.bit_count(), missing)

    def _over(self, day: date, now: datetime) -> Iterable[int]:
        for slot in range(SLOTS):
            at = moment_of(day, slot)
            if at + SETTLED > now:
                return
            if self.since is None or at > self.since:
                yield slot

    def _bound(self) -> None:
        while len(self._days) > KEPT_DAYS:
            del self._days[min(self._days)]


class Moments:
    """Which moments, of those that a meter names with EA and EB, can be; what is doubtful must be answered again."""

    def __init__(self) -> None:
        self._doubted: set[datetime] = set()

    @property
    def doubtful(self) -> bool:
        """Tell whether the meter should be asked once more."""
        return bool(self._doubted)

    def taken(self, named: Iterable[datetime], now: datetime | None, *, answered: bool) -> set[datetime]:
        """Return those of one frame that can be; `now` by the best clock there is, `answered` for the answer to a Get.

        EA and EB tell the last half hour and no other: that one is sure. Any other is doubtful, for one spoilt digit
        makes it of the last, and taken when an answer names it again.
        """
        moments = set(named)
        sure = {at for at in moments if now is not None and timedelta() <= now - at < SLOT}
        doubtful = {at for at in moments - sure if _may_be(at, now)}
        confirmed = doubtful & self._doubted if answered else set()
        self._doubted = doubtful - confirmed
        return sure | confirmed


def _may_be(at: datetime, now: datetime | None) -> bool:
    if now is not None:
        return -MOST_OFF <= now - at <= NOTICED_FOR
    return at.year in POSSIBLE_YEARS


def implausible(counts: Sequence[int | None], scaling: Scaling, most_kwh: Decimal = MOST_KWH_PER_SLOT) -> str | None:
    """Say what is wrong with readings one slot apart, None when they can be: a register never runs back or leaps."""
    known = [(slot, count) for slot, count in enumerate(counts) if count is not None]
    most = most_kwh * scaling.coefficient
    for (slot, count), (later, next_count) in itertools.pairwise(known):
        step = next_count - count
        if step < 0 and scaling.digits is None:
            return f"the register runs back at number {later}"
        gained = scaling.kwh(step % 10**scaling.digits if scaling.digits else step)
        if gained is not None and gained > most * (later - slot):
            return f"{gained} kWh between the numbers {slot} and {later}"
    return None


def wanted_days(days: Json, today: date | None) -> list[date]:
    """Return the days a command names, each an ISO date or a number of days ago; raises ValueError."""
    if not isinstance(days, list) or not days:
        raise ValueError('write {"days": ["2026-06-01", …]}, or numbers of days ago')
    if len(days) > REMEMBERED_DAYS + 1:
        raise ValueError(f"{len(days)} days; a meter remembers {REMEMBERED_DAYS} and today")
    return sorted({_wanted_day(day, today) for day in days})


def _wanted_day(day: Json, today: date | None) -> date:
    if isinstance(day, str):
        return date.fromisoformat(day)
    if isinstance(day, int) and not isinstance(day, bool) and 0 <= day <= REMEMBERED_DAYS:
        if today is None:
            raise ValueError("the meter's date is not known yet; name dates")
        return today - timedelta(days=day)
    raise ValueError(f"{day!r} is neither a date nor a number of days ago up to {REMEMBERED_DAYS}")
