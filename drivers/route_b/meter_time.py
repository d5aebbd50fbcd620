"""What a meter's clock says of UTC, as bounds on the boot clock's offset. Asks nothing; knows no frame and no port.

A meter shows minutes, and an answer was true at some moment between question and answer: one reading leaves a minute
and the latency open. Readings one after another cut that down.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Mapping
from datetime import datetime

from drivers.api import TimeHint
from drivers.route_b import meter
from drivers.route_b.echonet import FrameError
from drivers.route_b.history import POSSIBLE_YEARS

log = logging.getLogger(__name__)

MINUTE_MS = 60_000
READINGS = 20
"""So many of the last ones count. Of them the tightest bound on each side is left out: it may be a spoilt digit."""
OLD_MS = 3600 * 1000
"""A gateway that has its time from the meter asks again after so long: its crystal drifts seconds a day."""


class MeterTime:
    """Between which offsets (unix ms minus boot ms) the clock of one meter lies."""

    def __init__(self) -> None:
        self._bounds: deque[tuple[int, int]] = deque(maxlen=READINGS)
        self._heard_ms = 0
        self._wanted = False

    def is_due(self, boot_ms: int, unix_ms: int | None) -> bool:
        """Tell whether to ask for it: while the gateway knows no time, and each hour where it once knew none."""
        self._wanted = self._wanted or unix_ms is None
        return unix_ms is None or (self._wanted and boot_ms - self._heard_ms >= OLD_MS)

    def take(self, properties: Mapping[int, bytes], asked_ms: int, answered_ms: int) -> None:
        """Take in an answer with the clock's time (97) and its date (98), or with D0 that names the same minute."""
        time_of_day, date, minute = (properties.get(epc) for epc in (meter.TIME, meter.DATE, meter.ONE_MINUTE))
        if not time_of_day:
            return
        try:
            if date:
                self.heard(meter.clock(time_of_day, date), asked_ms, answered_ms)
            elif minute and (at := meter.at_minute(minute).at) and bytes((at.hour, at.minute)) == time_of_day:
                self.heard(at.replace(second=0), asked_ms, answered_ms)
        except FrameError as error:
            log.debug("the meter's clock: %s", error)

    def heard(self, shown: datetime, asked_ms: int, answered_ms: int) -> None:
        """Take in a minute that the meter showed at some moment between two readings of the boot clock."""
        if shown.year not in POSSIBLE_YEARS:
            return
        shown_ms = round(shown.timestamp() * 1000)
        self._bounds.append((shown_ms - answered_ms, shown_ms + MINUTE_MS - asked_ms))
        self._heard_ms = answered_ms
        least_ms, most_ms = self._between()
        if least_ms > most_ms:  # another meter, a clock that was set or has drifted: begin again
            for _ in range(len(self._bounds) - 1):
                self._bounds.popleft()

    def hint(self) -> TimeHint | None:
        """Return the middle of what can be, and how far off it may be; None before the meter has said so twice."""
        if len(self._bounds) < 2:
            return None
        least_ms, most_ms = self._between()
        within_ms = (most_ms - least_ms + 1) // 2
        return TimeHint(self._heard_ms, self._heard_ms + least_ms + within_ms, within_ms)

    def _between(self) -> tuple[int, int]:
        """Return the second-tightest bound of each side, or the only one."""
        leasts, mosts = (sorted(side) for side in zip(*self._bounds, strict=True))
        return leasts[max(len(leasts) - 2, 0)], mosts[min(1, len(mosts) - 1)]
