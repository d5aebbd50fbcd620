"""Completes the half hours of one meter from its own memory, between polls. Knows no port, no dongle, no poll.

One day is read at a time, by requests that follow each other without another between them: SetC E5, Get E2, Get E4,
framed by the meter's own date, so that a midnight in between spoils nothing. Few recent gaps are read by EC.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Protocol

from drivers.api import Clock, Emit, Event, Json, Memory, RefusedError, Sample, Value
from drivers.route_b import echonet, history, meter
from drivers.route_b.echonet import Frame, FrameError
from drivers.route_b.history import Ledger, Moments
from drivers.route_b.meter import JST, Scaling
from drivers.route_b.requests import NoAnswerError, Question

log = logging.getLogger(__name__)

LONGEST_PAUSE_POLLS = 32
"""After failures in a row, this many polls pass before the meter's memory is asked again."""
PATIENT_FAILURES = 5
"""After so many the daily event is told all the same, with what is missing."""
REFUSALS = 2
"""So many in a row close the memory until the next join; a single one may be a spoilt digit."""
CLOCK_OFF_MS = 60_000
AGREE = timedelta(hours=1)
"""Two readings of a clock that differ by more are not of the same clock."""
REFUSES = "the meter does not let its memory be read"
_MINUTE_MS = 60_000
_SOURCES = {
    meter.IMPORT_AT_30MIN: meter.HISTORY_IMPORT,
    meter.EXPORT_AT_30MIN: meter.HISTORY_EXPORT,
}
_Readings = dict[int, dict[int, int | None]]
"""Half hour of a day → register → count."""


class Asks(Protocol):
    """A meter that can be asked; raises NoAnswerError."""

    async def get(self, epcs: Sequence[int]) -> Frame:
        """Return the meter's answer."""

    async def ask(self, *questions: Question) -> list[Frame]:
        """Return the answers to some questions that nothing comes between."""


class Repair:
    """What was passed on of a meter's half hours, and the days that are to be read again."""

    def __init__(self, device: str, clock: Clock, emit: Emit, memory: Memory, offers: Callable[[int], bool]) -> None:
        self._device = device
        self._clock = clock
        self._emit = emit
        self._memory = memory
        self._offers = offers
        self._ledger = Ledger(memory.get("half_hours"))
        self._moments = Moments()
        reported = memory.get("reported")
        self._reported = reported if isinstance(reported, str) else ""
        self._wanted: dict[date, bool] = {}  # day → whether to tell also what was told before
        self._check = True
        self._pause = self._failures = self._refusals = 0
        self._doubted: tuple[date, _Readings] | None = None
        self._refuses = self._told_refusal = False
        self._now: datetime | None = None  # of the meter, when last heard of
        self._heard_ms = 0  # of the boot clock, then
        self._clock_off: bool | None = None
        self.offset_s: int | None = None
        self.repaired = 0
        self._forget_future()

    def resume(self, emit: Emit, memory: Memory) -> None:
        """Go on after the link was opened again."""
        self._emit, self._memory = emit, memory

    @property
    def waiting(self) -> int:
        """Return how many days are to be read."""
        return len(self._wanted)

    def joined(self) -> None:
        """Look at today and yesterday at the next opportunity."""
        self._forget_future()
        self._check, self._refuses, self._pause, self._refusals = True, False, 0, 0

    def replaced(self) -> datetime | None:
        """Take nothing of the former meter's time from the new one; return that meter's last half hour."""
        self._forget_future()
        self._ledger.start_anew(None)
        self._doubted, self._check = None, True
        return self._ledger.since

    def to_remember(self) -> dict[str, Json]:
        """Return what to remember together with an item."""
        return {"half_hours": self._ledger.as_json()}

    def ask_for(self, days: Json) -> dict[str, Json]:
        """Plan to read days again, whatever was passed on of them; raises RefusedError."""
        today = None if self._now is None else self._now.date()
        if self._refuses:
            raise RefusedError(REFUSES)
        try:
            wanted = history.wanted_days(days, today)
        except ValueError as error:
            raise RefusedError(f"days: {error}") from None
        oldest = None if today is None else today - timedelta(days=history.REMEMBERED_DAYS)
        taken = [day for day in wanted if today is None or oldest is None or oldest <= day <= today]
        for day in taken[: history.KEPT_DAYS - len(self._wanted)]:
            self._wanted[day] = True
        self._pause = 0
        lost: list[Json] = [day.isoformat() for day in wanted if day not in self._wanted]
        return {"planned": [day.isoformat() for day in wanted if day in self._wanted], "not_remembered": lost}

    @property
    def doubtful(self) -> bool:
        """Tell whether the meter named a moment that it must name again before it is taken."""
        return self._moments.doubtful

    def taken(self, named: Iterable[datetime], *, answered: bool) -> set[datetime]:
        """Return those of the moments of one frame that can be; `answered` when the frame answers a Get."""
        return self._moments.taken(named, self.best_now(), answered=answered)

    async def pass_on(self, at: datetime, readings: Mapping[int, Decimal | None]) -> None:
        """Emit what the meter notified for a half hour, unless it was passed on before."""
        fresh = [register for register in readings if self._ledger.lacks(register, at)]
        if fresh:
            values: dict[str, Value] = {meter.HALF_HOUR_QUANTITIES[register]: readings[register] for register in fresh}
            last: Json = {"at": at.isoformat(), **{name: str(value) for name, value in values.items()}}
            await self._give(at, fresh, values, {"last_half_hour": last})
        if self._now is None or at > self._now:
            self._hear(at.astimezone(JST))
            self._check = True

    async def step(self, asks: Asks, scaling: Scaling | None) -> None:
        """Read at most one day of the meter's memory, if one is due; a failure costs some polls' patience."""
        if self._pause:
            self._pause -= 1
            return
        if scaling is None or not (self._check or self._wanted):
            return
        try:
            await self._work(asks, scaling)
        except (NoAnswerError, FrameError) as error:
            self._failures += 1
            self._pause = min(2**self._failures, LONGEST_PAUSE_POLLS)
            log.debug("%s: its memory is not read now: %s", self._device, error)
            if self._failures >= PATIENT_FAILURES and self._now is not None:
                await self._report_yesterday(self._now)
        else:
            self._failures = 0

    async def _work(self, asks: Asks, scaling: Scaling) -> None:
        registers = self._registers()
        if self._now is None or self._wanted or self._ledger.due(self._now, registers):
            self._now = await self._meter_now(asks)
        if self._check:
            self._check = False
            if not self._refuses:
                for day in self._ledger.due(self._now, registers):
                    self._wanted.setdefault(day, False)
        if self._wanted:
            await self._repair_day(asks, scaling, self._now)
        if not self._wanted:
            await self._report_yesterday(self._now)

    def _registers(self) -> list[int]:
        return [register for register, source in _SOURCES.items() if self._offers(source)]

    # The meter's own time.

    def _hear(self, now: datetime) -> None:
        self._now, self._heard_ms = now, self._clock.boot_ms()

    def best_now(self) -> datetime | None:
        """Return the time by the gateway's clock; without it by the meter's, when that was heard of; else None."""
        unix_ms = self._clock.unix_ms()
        if unix_ms is not None:
            return datetime.fromtimestamp(unix_ms / 1000, JST)
        if self._now is None:
            return None
        return self._now + timedelta(milliseconds=self._clock.boot_ms() - self._heard_ms)

    def _forget_future(self) -> None:
        if self._clock.unix_ms() is not None and (now := self.best_now()) is not None:
            self._ledger.forget_after(now.date() + timedelta(days=1))

    async def _meter_now(self, asks: Asks) -> datetime:
        """Return the meter's date and minute, twice the same where it surprises; raises NoAnswerError, FrameError."""
        now, asked_ms, of_clock = await self._ask_now(asks)
        expected = self.best_now()
        if expected is None or abs(now - expected) > history.EARLY:
            first = now
            now, asked_ms, of_clock = await self._ask_now(asks)
            if abs(now - first) > AGREE:
                raise NoAnswerError(f"the meter says that it is {first}, and then {now}")
        if of_clock:
            await self._check_clock(now, asked_ms)
        if asked_ms is not None and expected is not None and abs(now - expected) > history.MOST_OFF:
            raise NoAnswerError("the meter's date is off by more than a day: what it remembers has no sure date")
        self._hear(now)
        return now

    async def _ask_now(self, asks: Asks) -> tuple[datetime, int | None, bool]:
        """Return the meter's date and minute, when it was asked, and whether its clock said so, or its last reading."""
        asked_ms = self._clock.unix_ms()
        told = [b"", b""]
        if self._offers(meter.DATE):
            frame = await asks.get([meter.TIME, meter.DATE])
            told = [frame.properties.get(epc) or b"" for epc in (meter.TIME, meter.DATE)]
        if of_clock := all(told):
            now: datetime | None = meter.clock(*told)
        else:
            frame = await asks.get([meter.IMPORT_AT_30MIN])
            now = meter.at_half_hour(frame.properties.get(meter.IMPORT_AT_30MIN) or b"").at
        if now is None or now.year not in history.POSSIBLE_YEARS:
            raise NoAnswerError("the meter does not know what day it is")
        return now, asked_ms, of_clock

    async def _check_clock(self, now: datetime, asked_ms: int | None) -> None:
        """Compare with the host's clock; the meter tells no seconds, and its answer took a while."""
        answered_ms, boot_ms = self._clock.unix_ms(), self._clock.boot_ms()
        told_ms = round(now.timestamp() * 1000)
        if asked_ms is None or answered_ms is None:
            if self._clock_off is None:
                self._clock_off = False
                data: dict[str, Json] = {"meter": now.isoformat(), "offset_s": None}
                await self._emit(Event(self._device, "clock_check", boot_ms, data))
            return
        least_ms, most_ms = told_ms - answered_ms, told_ms + _MINUTE_MS - asked_ms
        off = least_ms > CLOCK_OFF_MS or most_ms < -CLOCK_OFF_MS
        self.offset_s = (least_ms + most_ms) // 2000 if off else 0
        if off != bool(self._clock_off):
            log.warning(
                "%s: its clock is %s", self._device, f"{self.offset_s} s ahead of ours" if off else "right again"
            )
            data = {"meter": now.isoformat(), "offset_s": self.offset_s}
            await self._emit(Event(self._device, "clock_check", boot_ms, data))
        self._clock_off = off

    # One day.

    async def _repair_day(self, asks: Asks, scaling: Scaling, now: datetime) -> None:
        day, again = next(iter(self._wanted.items()))
        registers = self._registers()
        if not 0 <= (now.date() - day).days <= history.REMEMBERED_DAYS or not registers:
            del self._wanted[day]
            return
        readings = await self._read_gap(asks, day, now, registers) if not again else None
        if readings is None:
            readings = await self._read_day(asks, day, now, registers)
        if readings is None:
            self._refusals += 1
            if self._refusals < REFUSALS:
                raise NoAnswerError("the meter refuses to tell of its memory, and is asked once more")
            self._refuses = True
            self._wanted.clear()
            log.log(logging.DEBUG if self._told_refusal else logging.WARNING, "%s: %s", self._device, REFUSES)
            self._told_refusal = True
            return
        self._refusals = 0
        self._doubt(day, readings, scaling)
        del self._wanted[day]
        await self._tell(day, readings, scaling, now, again=again)
        if again:
            await self._report(day, now)

    def _doubt(self, day: date, readings: _Readings, scaling: Scaling) -> None:
        """Raise NoAnswerError for readings that cannot be, unless the meter says the same twice."""
        for register in _SOURCES:
            counts = [readings.get(slot, {}).get(register) for slot in range(history.SLOTS)]
            reason = history.implausible(counts, scaling)
            if reason and self._doubted != (day, readings):
                self._doubted = (day, readings)
                raise NoAnswerError(f"the memory of {day} is read again: {reason}")
        self._doubted = None

    async def _read_day(self, asks: Asks, day: date, now: datetime, registers: Sequence[int]) -> _Readings | None:
        """Return what the meter remembers of a day; None when it refuses. Raises NoAnswerError, FrameError."""
        ago = (now.date() - day).days
        chosen, *frames = await asks.ask(
            Question.set({meter.HISTORY_DAY: bytes([ago])}),
            *(Question.get([_SOURCES[register]]) for register in registers),
        )
        if chosen.esv != echonet.SET_RES:
            return None
        readings: _Readings = {slot: {} for slot in range(history.SLOTS)}
        for register, frame in zip(registers, frames, strict=True):
            edt = frame.properties.get(_SOURCES[register])
            if not edt:
                return None
            told, counts = meter.history(edt)
            if told != ago:
                raise NoAnswerError(f"the meter tells of {told} days ago where {ago} was asked")
            for slot, count in enumerate(counts):
                readings[slot][register] = count
        then = await self._meter_now(asks)
        if then.date() != now.date() or abs(then - now) > AGREE:
            raise NoAnswerError(f"the meter said that it is {now}, and then {then}: midnight, or a spoilt digit")
        return readings

    async def _read_gap(self, asks: Asks, day: date, now: datetime, registers: Sequence[int]) -> _Readings | None:
        """Return a short gap by EC; None where that is not possible."""
        missing = self._ledger.missing(day, now, registers)
        if not missing or not (self._offers(meter.HISTORY_PAIRS) and self._offers(meter.PAIRS_FROM)):
            return None
        number = missing[-1] - missing[0] + 1
        if number > meter.MOST_PAIRS:
            return None
        newest = history.moment_of(day, missing[-1])
        chosen, frame = await asks.ask(
            Question.set({meter.PAIRS_FROM: meter.pairs_from(newest, number)}), Question.get([meter.HISTORY_PAIRS])
        )
        if chosen.esv != echonet.SET_RES:
            return None
        edt = frame.properties.get(meter.HISTORY_PAIRS)
        if not edt:
            return None
        at, pairs = meter.history_pairs(edt)
        if at != newest or len(pairs) != number:
            raise NoAnswerError(f"the meter tells of {at} where {newest} was asked")
        return {
            missing[-1] - back: {
                register: count for register, count in zip(_SOURCES, pair, strict=True) if register in registers
            }
            for back, pair in enumerate(pairs)
        }

    async def _tell(self, day: date, readings: _Readings, scaling: Scaling, now: datetime, *, again: bool) -> None:
        """Emit what was not passed on yet, or everything again; the last sample carries what to remember."""
        pending: list[tuple[datetime, dict[int, int]]] = []
        for slot, counts in sorted(readings.items()):
            at = history.moment_of(day, slot)
            if at > now or (self._ledger.since is not None and at <= self._ledger.since):
                continue
            known = {register: count for register, count in counts.items() if count is not None}
            if self._fresh(known, at, again=again):
                pending.append((at, known))
            elif len(known) < len(counts) and at + history.SETTLED <= now:
                self._ledger.note_absent(at)
        for number, (at, known) in enumerate(pending, 1):
            if fresh := self._fresh(known, at, again=again):  # the meter may have told it meanwhile
                values: dict[str, Value] = {
                    meter.HALF_HOUR_QUANTITIES[register]: scaling.kwh(known[register]) for register in fresh
                }
                await self._give(at, fresh, values, {} if number == len(pending) else None, repaired=True)
        if not pending:
            await self._memory.update(self.to_remember())

    def _fresh(self, registers: Iterable[int], at: datetime, *, again: bool) -> list[int]:
        return [register for register in registers if again or self._ledger.lacks(register, at)]

    async def _give(
        self,
        at: datetime,
        registers: Sequence[int],
        values: Mapping[str, Value],
        remember: Mapping[str, Json] | None,
        *,
        repaired: bool = False,
    ) -> None:
        """Emit the readings of one half hour, noted first so that nobody tells them too; `remember` also keeps that."""
        unknown = [register for register in registers if self._ledger.lacks(register, at)]
        self._ledger.note(registers, at, repaired=repaired)
        kept = None if remember is None else {**self.to_remember(), **remember}
        try:
            await self._emit(Sample(self._device, at.astimezone(UTC), values), kept)
        except BaseException:
            self._ledger.withdraw(unknown, at)  # nobody took it: it is to be told again
            raise
        self.repaired += repaired

    # What becomes of a day.

    async def _report_yesterday(self, now: datetime) -> None:
        """Tell once a day, when it is over, how complete it is."""
        yesterday = now.date() - timedelta(days=1)
        over = history.moment_of(now.date(), 0) + history.SETTLED
        if self._reported < yesterday.isoformat() and now >= over:
            self._reported = yesterday.isoformat()
            await self._report(yesterday, now)

    async def _report(self, day: date, now: datetime) -> None:
        tally = self._ledger.tally(day, now, self._registers() or [meter.IMPORT_AT_30MIN])
        missing = {
            ("refused" if self._refuses and cause == "not_read" else cause): of for cause, of in tally.missing.items()
        }
        data = history.Tally(tally.have, tally.repaired, missing).as_data(day)
        await self._emit(Event(self._device, "half_hours", self._clock.boot_ms(), data), {"reported": self._reported})
