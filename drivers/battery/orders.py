"""What a person or the town says to a battery, as a request. Pure: both clocks are arguments."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from drivers.api import Json, RefusedError
from drivers.battery.modes import MODES, Owner, Request
from drivers.battery.tariff import JST

DEFAULT_FOR_S = 3_600.0


def request_of(arguments: Mapping[str, Json], owner: Owner, now_ms: int, unix_ms: int | None) -> Request:
    """Return the request in a command's arguments; raises RefusedError for one that makes no sense."""
    mode = next((mode for mode in MODES if mode == arguments["mode"]), None)
    if mode is None:
        raise RefusedError(f"no mode {arguments['mode']!r}; known: {', '.join(MODES)}")
    if unknown := set(arguments) - {"device", "mode", "power_w", "soc_percent", "for_s", "until"}:
        raise RefusedError(f"battery takes no {', '.join(sorted(unknown))}")
    return Request(
        mode,
        owner,
        now_ms + round(min(_for_s(arguments, unix_ms) * 1000, 1e9)),
        _whole(arguments, "power_w", 100_000),
        _whole(arguments, "soc_percent", 100),
    )


def _for_s(arguments: Mapping[str, Json], unix_ms: int | None) -> float:
    """Return how long a command is to hold."""
    until, for_s = arguments.get("until"), arguments.get("for_s")
    if until is None:
        if for_s is None:
            return DEFAULT_FOR_S
        if isinstance(for_s, bool) or not isinstance(for_s, int | float) or not 0 < for_s < float("inf"):
            raise RefusedError(f"for_s is {for_s!r}, not a number of seconds above 0")
        return float(for_s)
    if unix_ms is None:
        raise RefusedError("the clock is not set, so `until` means nothing; say for how long")
    try:
        moment = datetime.fromisoformat(str(until))
        moment = moment if moment.tzinfo is not None else moment.replace(tzinfo=JST)
        return moment.timestamp() - unix_ms / 1000
    except (ValueError, OverflowError, OSError):
        raise RefusedError(f"until is {until!r}, not a time like 2026-12-01T07:00+09:00") from None


def _whole(arguments: Mapping[str, Json], key: str, most: int) -> int | None:
    value = arguments.get(key)
    if value is None:
        return None
    if type(value) is not int or not 0 < value <= most:
        raise RefusedError(f"{key} is {value!r}, not a whole number from 1 to {most}")
    return value
