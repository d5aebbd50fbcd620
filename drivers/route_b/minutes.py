"""The one-minute registers of a second-generation meter: each minute once, short gaps from its memory. Knows no port.

D0 tells the last minute with each poll; EE tells up to ten minutes back from one that EF names. The time is the
meter's own and counts only where a second word in the same answer, or the next answer, says the same.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Protocol

from drivers.api import Emit, Sample
from drivers.route_b import echonet, history, meter
from drivers.route_b.echonet import Frame, FrameError
from drivers.route_b.meter import JST, AtMinute, Scaling
from drivers.route_b.requests import NoAnswerError, Question

log = logging.getLogger(__name__)

MINUTE = timedelta(minutes=1)
MOST_BEHIND = timedelta(hours=1)
"""Older minutes are not asked for: no document at hand says how many a meter keeps."""
LONGEST_PAUSE_POLLS = 16
MOST_KWH_PER_MINUTE = Decimal(2)
"""120 kWh in an hour, times the coefficient; more is a spoilt digit."""
AGREE = timedelta(hours=1)
"""A meter whose clock is off by more must name a minute twice."""

_Counts = tuple[int | None, int | None]
"""Import and export."""


class Asks(Protocol):
    """A meter that can be asked; raises NoAnswerError."""

    async def ask(self, *questions: Question) -> list[Frame]:
        """Return the answers to some questions that nothing comes between."""


class Minutes:
    """Which minutes of one meter were passed on, and which of the last hour are still to be asked for."""

    def __init__(self, device: str, offers: Callable[[int], bool]) -> None:
        self._device = device
        self._offers = offers
        self._newest: datetime | None = None
        self._told: dict[datetime, None] = {}
        self._missing: set[datetime] = set()
        self._doubted: AtMinute | None = None
        self._doubted_pairs: list[_Counts] | None = None
        self._pause = self._failures = 0
        self._refused = self._refuses = False
        self.told = self.repaired = self.malformed = 0

    def joined(self) -> None:
        """Ask again what was refused: another firmware, or another meter, may answer."""
        self._refused, self._refuses, self._pause, self._failures = False, False, 0, 0

    def replaced(self) -> None:
        """Forget the former meter: no gap is filled across the exchange."""
        self._newest = self._doubted = None
        self._missing.clear()

    @property
    def waiting(self) -> int:
        """Return how many minutes are to be asked for."""
        return len(self._missing)

    async def pass_on(
        self, properties: Mapping[int, bytes], scaling: Scaling | None, now: datetime | None, emit: Emit
    ) -> None:
        """Emit the minute that the answer to a poll tells, unless it was told before or cannot be.

        `now` is the best time there is, None without any.
        """
        if scaling is None or not (edt := properties.get(meter.ONE_MINUTE)):
            return
        try:
            reading = meter.at_minute(edt)
        except FrameError as error:
            self.malformed += 1
            log.debug("%s: EPC D0: %s", self._device, error)
            return
        if reading.at is None or (minute := _floor(reading.at)) in self._told:
            self._doubted = None
            return
        if self._is_taken(reading, properties, scaling, now):
            self._follow(minute)
            await self._give(reading.at, (reading.imported, reading.exported), scaling, emit)

    def _is_taken(
        self, reading: AtMinute, properties: Mapping[int, bytes], scaling: Scaling, now: datetime | None
    ) -> bool:
        """Tell whether a spoilt digit can be ruled out: nothing contradicts the answer, or it came twice."""
        doubted, self._doubted = self._doubted, None
        at = reading.at
        if at is None or not _may_be(at, now):
            self.malformed += 1
            return False
        if doubted == reading or (
            now is not None and _is_sure(at, now, properties) and _fits(reading, properties, scaling)
        ):
            return True
        self._doubted = reading
        return False

    def _follow(self, minute: datetime) -> None:
        """Note what lies between the newest minute and this one as missing, as far as a meter may remember."""
        if self._newest is not None and minute > self._newest:
            number = min(minute - self._newest, MOST_BEHIND) // MINUTE
            self._missing |= {minute - back * MINUTE for back in range(1, number)}
        oldest = minute - MOST_BEHIND
        self._missing = {at for at in self._missing if oldest <= at < minute}
        # A meter whose clock is set back tells some minutes again: they were told, and are not told twice.
        if self._newest is None or minute > self._newest or self._newest - minute > MOST_BEHIND:
            self._newest = minute
        for told in [told for told in self._told if abs(told - minute) > 2 * MOST_BEHIND]:
            del self._told[told]

    async def step(self, asks: Asks, scaling: Scaling | None, emit: Emit) -> None:
        """Ask for at most ten missing minutes, if some are; a failure costs some polls' patience."""
        if self._pause:
            self._pause -= 1
            return
        offered = self._offers(meter.MINUTE_PAIRS) and self._offers(meter.MINUTES_FROM)
        if scaling is None or self._refuses or not self._missing or not offered:
            return
        newest = max(self._missing)
        asked = {at for at in self._missing if newest - at < meter.MOST_MINUTES * MINUTE}
        number = (newest - min(asked)) // MINUTE + 1
        try:
            pairs = await self._read(asks, newest, number, scaling)
            if pairs is None and not self._refused:
                self._refused = True
                raise NoAnswerError("the meter refuses, and is asked once more")
        except (NoAnswerError, FrameError) as error:
            self._failures += 1
            self._pause = min(2**self._failures, LONGEST_PAUSE_POLLS)
            log.debug("%s: its minutes are not read now: %s", self._device, error)
            return
        self._failures, self._refused = 0, pairs is None
        if pairs is None:
            self._refuses = True
            self._missing.clear()
            log.info("%s: does not let its minutes be read", self._device)
            return
        for back, counts in reversed(list(enumerate(pairs))):
            if (at := newest - back * MINUTE) in self._missing:
                self._missing.discard(at)
                self.repaired += await self._give(at, counts, scaling, emit)

    async def _read(self, asks: Asks, newest: datetime, number: int, scaling: Scaling) -> list[_Counts] | None:
        """Return the minutes back from `newest`; None when the meter refuses."""
        chosen, frame = await asks.ask(
            Question.set({meter.MINUTES_FROM: meter.pairs_from(newest, number)}), Question.get([meter.MINUTE_PAIRS])
        )
        edt = frame.properties.get(meter.MINUTE_PAIRS)
        if chosen.esv != echonet.SET_RES or not edt:
            return None
        at, told = meter.history_pairs(edt, meter.MOST_MINUTES)
        if at != newest or len(told) != number:
            raise NoAnswerError(f"the meter tells of {at} where {newest} was asked")
        pairs = list(told)
        self._doubt(pairs, scaling)
        return pairs

    def _doubt(self, pairs: list[_Counts], scaling: Scaling) -> None:
        """Raise NoAnswerError for minutes that cannot be, unless the meter says the same twice."""
        doubted, self._doubted_pairs = self._doubted_pairs, None
        for side in (0, 1):
            counts = [pair[side] for pair in reversed(pairs)]
            if (reason := history.implausible(counts, scaling, _most_kwh(scaling))) and doubted != pairs:
                self._doubted_pairs = pairs
                raise NoAnswerError(f"the minutes are read again: {reason}")

    async def _give(self, at: datetime, counts: _Counts, scaling: Scaling, emit: Emit) -> bool:
        """Emit one minute, noted first so that nobody tells it too; returns whether the meter had a value."""
        minute = _floor(at)
        values = {
            name: scaling.kwh(count)
            for name, count in zip(meter.MINUTE_QUANTITIES, counts, strict=True)
            if count is not None
        }
        self._told[minute] = None
        self._missing.discard(minute)
        if not values:
            return False
        try:
            await emit(Sample(self._device, at.astimezone(UTC), values))
        except BaseException:
            del self._told[minute]  # nobody took it
            raise
        self.told += 1
        return True


def _floor(at: datetime) -> datetime:
    return at.replace(second=0, microsecond=0)


def _may_be(at: datetime, now: datetime | None) -> bool:
    if now is not None:
        return abs(now - at) <= history.MOST_OFF
    return at.year in history.POSSIBLE_YEARS


def _is_sure(at: datetime, now: datetime, properties: Mapping[int, bytes]) -> bool:
    """Tell whether the clock in the same answer (97) shows this very minute, and the date is right."""
    local = at.astimezone(JST)
    shown = bytes((local.hour, local.minute))
    return abs(now - at) <= AGREE and not local.second and properties.get(meter.TIME) == shown


def _fits(reading: AtMinute, properties: Mapping[int, bytes], scaling: Scaling) -> bool:
    """Tell whether the registers at the minute lie just below those that the same answer shows now."""
    for count, epc in ((reading.imported, meter.IMPORT), (reading.exported, meter.EXPORT)):
        try:
            now = meter.count(properties.get(epc) or b"")
        except FrameError:
            now = None
        if history.implausible((count, now), scaling, _most_kwh(scaling)):
            return False
    return True


def _most_kwh(scaling: Scaling) -> Decimal:
    return max(MOST_KWH_PER_MINUTE, scaling.unit_kwh)
