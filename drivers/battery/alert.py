"""The town's alert as a battery hears it: is a reserve wanted. Pure: time is an argument; any bytes may come."""

from __future__ import annotations

from datetime import datetime

import msgspec

from drivers.battery.settings import AlertSettings

STALE_MS = 3_600_000
"""An alert whose source was not checked for so long says nothing any more; it is republished every 5 min."""
STEP_DOWN_MS = 1_800_000
"""A level that falls lets the reserve go only after this long, so that it is not written to and fro."""
MOST_BYTES = 16 * 1024


class _Alert(msgspec.Struct):
    level: int
    checked_at: str
    valid_until: str | None = None


_decoder = msgspec.json.Decoder(_Alert)


class AlertWatch:
    """The last alert heard, and whether it asks for a reserve."""

    def __init__(self, settings: AlertSettings | None) -> None:
        self._settings = settings
        self._alert: _Alert | None = None
        self._raised_ms: int | None = None

    def hear(self, payload: bytes) -> None:
        """Take in a message; one that makes no sense changes nothing."""
        if self._settings is None or len(payload) > MOST_BYTES:
            return
        try:
            self._alert = _decoder.decode(payload)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return

    def is_raised(self, unix_ms: int | None) -> bool:
        """Tell whether a reserve is wanted now; never while the clock is not set."""
        if unix_ms is None or self._settings is None:
            return False
        if self._alert is not None and self._alert.level >= self._settings.level and _holds(self._alert, unix_ms):
            self._raised_ms = unix_ms
        return self._raised_ms is not None and 0 <= unix_ms - self._raised_ms < STEP_DOWN_MS


def _holds(alert: _Alert, unix_ms: int) -> bool:
    checked_ms = _unix_ms(alert.checked_at)
    if checked_ms is None or unix_ms - checked_ms > STALE_MS:
        return False
    if alert.valid_until is None:
        return True
    until_ms = _unix_ms(alert.valid_until)
    return until_ms is not None and unix_ms < until_ms


def _unix_ms(text: str) -> float | None:
    try:
        moment = datetime.fromisoformat(text)
        return None if moment.tzinfo is None else moment.timestamp() * 1000
    except (ValueError, OverflowError):
        return None
