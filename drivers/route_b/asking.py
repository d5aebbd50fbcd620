"""What a poll asks a meter for: the live values, and what more there is room for. Knows no port and no answer.

A meter must take six properties in a question (AIF specification). One that cannot is asked for the live values alone.
"""

from __future__ import annotations

from drivers.api import Clock
from drivers.route_b import meter
from drivers.route_b.known import REFUSED_FOR_MS, Known
from drivers.route_b.meter_time import MeterTime

LIVE = (meter.POWER, meter.CURRENTS, meter.IMPORT, meter.EXPORT)
EACH_MINUTE = (meter.ONE_MINUTE, meter.TIME)
"""Of a meter of the second generation; its clock confirms the minute that D0 names, and D0 has the date."""
CLOCK = (meter.TIME, meter.DATE)
SILENCES = 3
"""So many questions for more without an answer, each followed by an answered one for less, are learnt for a day."""


class Asking:
    """Chooses the properties of each poll, and hears what became of it."""

    def __init__(self, known: Known, meter_time: MeterTime, clock: Clock) -> None:
        self._known = known
        self._meter_time = meter_time
        self._clock = clock
        self._asked_more = self._unanswered = False
        self._silences = 0
        self._live_until_ms = 0

    def wanted(self) -> list[int]:
        """Return what to ask for now: one to six properties."""
        live = self._known.offered(LIVE) or [meter.POWER]
        more = [] if self._unanswered or self._clock.boot_ms() < self._live_until_ms else self._more()
        self._asked_more = bool(more)
        return [*live, *more]

    def _more(self) -> list[int]:
        if self._known.offers(meter.ONE_MINUTE):
            return self._known.offered(EACH_MINUTE)
        clock = self._known.offered(CLOCK)
        due = len(clock) == len(CLOCK) and self._meter_time.is_due(self._clock.boot_ms(), self._clock.unix_ms())
        return clock if due else []

    def answered(self) -> None:
        """Note that the last poll was answered."""
        if self._asked_more:
            self._silences = 0
        elif self._unanswered:
            self._silences += 1
            if self._silences >= SILENCES:
                self._silences, self._live_until_ms = 0, self._clock.boot_ms() + REFUSED_FOR_MS
        self._unanswered = False

    def unanswered(self) -> None:
        """Note that it was not: the next one asks for the live values alone."""
        self._unanswered = self._unanswered or self._asked_more
