"""UTC from a device's own clock, for a box that knows none: when a hint counts. Sets no clock and asks no device."""

from __future__ import annotations

import logging
from datetime import UTC, datetime

from drivers.api import TimeHint

log = logging.getLogger(__name__)

WAIT_MS = 10 * 60_000
"""Since boot. After a power cut the street's network takes its minutes, and what waits is placed by the first word."""
WITHIN_MS = 90_000
"""What the quality `meter` promises; a hint that leaves more open is none, and one that lies further off is a jump."""
FRESH_MS = 24 * 3600_000
"""A boot clock drifts by seconds in a day."""
NOT_BEFORE_MS = round(datetime(2026, 11, 1, tzinfo=UTC).timestamp() * 1000)
"""Nobody ran this version before it was made: a device that says so has lost its time."""
NOT_AFTER_MS = round(datetime(2100, 1, 1, tzinfo=UTC).timestamp() * 1000)


class DeviceTime:
    """The offset (unix ms minus boot ms) that devices have told; kept for this boot, and never moved by a jump."""

    def __init__(self) -> None:
        self.offset_ms: int | None = None
        self.within_ms: int | None = None
        """How far off the offset may be, as told last."""
        self._refused = ""

    def weigh(self, hint: TimeHint, boot_ms: int) -> None:
        """Believe a hint, or leave things as they are; the first refusal of a kind is a warning."""
        if boot_ms < WAIT_MS:
            return
        offset_ms = hint.unix_ms - hint.boot_ms
        if reason := self._objection(hint, offset_ms, boot_ms):
            log.log(logging.DEBUG if reason == self._refused else logging.WARNING, "a device's clock %s", reason)
            self._refused = reason
            return
        self._refused = ""
        if self.offset_ms is None:
            log.warning("no network time: a device's clock is used instead, give or take %d s", hint.within_ms // 1000)
        if self.offset_ms is None or abs(offset_ms - self.offset_ms) > hint.within_ms:  # else it says nothing new
            self.offset_ms = offset_ms
        self.within_ms = hint.within_ms

    def _objection(self, hint: TimeHint, offset_ms: int, boot_ms: int) -> str:
        if not 0 <= boot_ms - hint.boot_ms <= FRESH_MS:
            return "was not read in the last day"
        if not 0 <= hint.within_ms <= WITHIN_MS:
            return "leaves too much open"
        if not NOT_BEFORE_MS <= hint.unix_ms < NOT_AFTER_MS:
            return "shows a time that cannot be"
        if self.offset_ms is not None and abs(offset_ms - self.offset_ms) > WITHIN_MS:
            return "jumps, and is not followed"
        return ""
