"""The alert level in force at this pole, from what the town says. Pure: no clock, no lamp, no network.

A level is raised at once and lowered only by a newer message. The town repeats its message every 5 min with a new
`checked_at`; silence for STALE_AFTER_MS, or the end of `valid_until`, makes it stale. A stale level 4 or 5 holds, and
is reported as stale: whoever fled a flood must not see the all-clear because a cable was cut. A stale level 0 to 3
becomes unknown, which is shown as normal light and reported.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import msgspec

from drivers.api import Json, MalformedError

MAX_ALERT_BYTES = 16 * 1024
STALE_AFTER_MS = 15 * 60_000
"""Three of the town's repetitions in a row were missed."""
FUTURE_MS = 5 * 60_000
"""A check further ahead of a known clock than this is refused: it would silence every honest message after it."""
HELD_FROM = 4
"""Stale levels from here up stay in force."""
MAX_LEVEL = 5

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Alert:
    """What the town said: level 0 to 5 and the telegram behind it; times in unix ms."""

    level: int
    telegram: str
    checked_at_ms: int
    valid_until_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Level:
    """The level in force: None when nothing valid is known; `stale` when nobody has confirmed it lately."""

    level: int | None
    stale: bool = False
    telegram: str = ""


class _Message(msgspec.Struct):
    level: int
    checked_at: str
    telegram: str = ""
    valid_until: str | None = None


_decoder = msgspec.json.Decoder(_Message)


def decode_alert(payload: bytes) -> Alert:
    """Return an `alert` message; raises MalformedError."""
    if len(payload) > MAX_ALERT_BYTES:
        raise MalformedError(f"an alert of {len(payload)} bytes; at most {MAX_ALERT_BYTES}")
    try:
        message = _decoder.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError) as error:
        raise MalformedError(f"not an alert: {error}") from error
    if not 0 <= message.level <= MAX_LEVEL:
        raise MalformedError(f"level {message.level} is not 0 to {MAX_LEVEL}")
    until = message.valid_until
    return Alert(
        message.level,
        message.telegram[:120],
        _unix_ms(message.checked_at, "checked_at"),
        None if until is None else _unix_ms(until, "valid_until"),
    )


def _unix_ms(text: str, name: str) -> int:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise MalformedError(f"{name} is not an ISO 8601 time") from None
    if moment.tzinfo is None:
        raise MalformedError(f"{name} has no time zone")
    return (moment - _EPOCH) // timedelta(milliseconds=1)


class Standing:
    """The newest thing the town said, and what of it still stands."""

    def __init__(self) -> None:
        self._alert: Alert | None = None
        self._received_ms: int | None = None

    def take(self, alert: Alert, boot_ms: int, unix_ms: int | None) -> bool:
        """Take a message in; returns False for one that is older than what is known or too far in the future."""
        if unix_ms is not None and alert.checked_at_ms > unix_ms + FUTURE_MS:
            return False
        known = self._alert
        if known is not None and unix_ms is not None and known.checked_at_ms > unix_ms + FUTURE_MS:
            known = None  # taken while the clock was not set; now it is seen to be wrong
        if known is not None and alert.checked_at_ms < known.checked_at_ms:
            return False
        if known is not None and alert.checked_at_ms == known.checked_at_ms and alert.level < known.level:
            return False  # two messages of one moment: the graver one is right until a newer one says otherwise
        fresh = known is None or alert.checked_at_ms > known.checked_at_ms or self._received_ms is None
        self._alert = alert
        self._received_ms = boot_ms if fresh else self._received_ms
        return True

    def level(self, boot_ms: int, unix_ms: int | None) -> Level:
        """Return the level in force now."""
        alert = self._alert
        if alert is None:
            return Level(None)
        if not self._is_stale(alert, boot_ms, unix_ms):
            return Level(alert.level, telegram=alert.telegram)
        return Level(alert.level if alert.level >= HELD_FROM else None, stale=True, telegram=alert.telegram)

    def remember(self) -> Json:
        """Return what must outlive a power cut."""
        alert = self._alert
        if alert is None:
            return None
        return [alert.level, alert.telegram, alert.checked_at_ms, alert.valid_until_ms]

    def resume(self, saved: Json) -> None:
        """Take up what an earlier run remembered; until the town speaks again its age is known by UTC only."""
        if self._alert is not None or not isinstance(saved, list) or len(saved) != 4:
            return
        level, telegram, checked_at_ms, valid_until_ms = saved
        if type(level) is not int or not 0 <= level <= MAX_LEVEL or type(checked_at_ms) is not int:
            return
        alert = Alert(level, str(telegram), checked_at_ms)
        self._alert = replace(alert, valid_until_ms=valid_until_ms) if type(valid_until_ms) is int else alert

    def _is_stale(self, alert: Alert, boot_ms: int, unix_ms: int | None) -> bool:
        if self._received_ms is None and unix_ms is None:
            return True  # remembered, and nobody can say from when
        if self._received_ms is not None and boot_ms - self._received_ms > STALE_AFTER_MS:
            return True
        if unix_ms is None:
            return False
        expired = alert.valid_until_ms is not None and unix_ms >= alert.valid_until_ms
        return expired or unix_ms - alert.checked_at_ms > STALE_AFTER_MS
