"""The simulators' own clock, real or fast. Knows no device; shares only the arithmetic of simulated time."""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Callable
from datetime import datetime, timedelta, timezone

from drivers.arguments import real
from drivers.timescale import Timescale

JST = timezone(timedelta(hours=9))
"""Japan keeps no summer time; devices there show this and nothing else."""

DAY_MS = 86_400_000
SPEED = real(0.001, 100_000)
"""Simulated seconds in a second, as an option."""
_LONGEST_SLEEP_S = 5.0
"""The host's clock may be set while we sleep; look again this often."""


def _real_ms() -> int:
    return time.time_ns() // 1_000_000


class SimulatedClock:
    """UTC in milliseconds that never steps back; runs as the timescale says, or as the host's clock without one."""

    def __init__(self, timescale: Timescale | None = None, real_ms: Callable[[], int] = _real_ms) -> None:
        self._timescale = timescale
        self._real_ms = real_ms
        self._latest = 0
        self.begins_ms = self.unix_ms() if timescale is None else timescale.start_ms

    def unix_ms(self) -> int:
        """Return the simulated time."""
        now = self._real_ms()
        shown = now if self._timescale is None else self._timescale.simulated_ms(now)
        self._latest = max(self._latest, shown)
        return self._latest

    def real_ms(self) -> int:
        """Return the host's time, for logs that are compared with other programs."""
        return self._real_ms()

    def local(self) -> datetime:
        """Return the simulated time in Japan."""
        return datetime.fromtimestamp(self.unix_ms() / 1000, JST)

    async def sleep_until(self, unix_ms: int) -> None:
        """Return when the simulated clock has reached a time."""
        left_s = self._real_seconds_until(unix_ms)
        while left_s > 0:
            await asyncio.sleep(min(left_s, _LONGEST_SLEEP_S))
            left_s = self._real_seconds_until(unix_ms)

    def _real_seconds_until(self, unix_ms: int) -> float:
        wanted = unix_ms if self._timescale is None else self._timescale.real_ms(unix_ms)
        return (wanted - self._real_ms()) / 1000 if self.unix_ms() < unix_ms else 0.0


def add_time_options(parser: argparse.ArgumentParser) -> None:
    """Add --start, --speed and --since, which mean the same in every simulator and in the agent's `simulation`."""
    parser.add_argument(
        "--start", metavar="TIME", help="simulated time to begin at, ISO 8601 with offset (default: now)"
    )
    parser.add_argument("--speed", type=SPEED, default=1.0, metavar="N", help="simulated seconds in a second")
    parser.add_argument(
        "--since",
        type=real(0, 1e10),
        metavar="UNIX_S",
        help="real time at which --start held (default: when this starts)",
    )


def clock_from(args: argparse.Namespace) -> SimulatedClock:
    """Return the clock of a simulator's options; raises ValueError with a sentence for a person."""
    if args.start is None and args.speed == 1.0 and args.since is None:
        return SimulatedClock()
    since_ms = _real_ms() if args.since is None else round(args.since * 1000)
    start_ms = since_ms if args.start is None else _instant_ms(args.start)
    return SimulatedClock(Timescale(start_ms, since_ms, args.speed))


def house_start_ms(args: argparse.Namespace, clock: SimulatedClock) -> int:
    """Return when the house's history begins: at --start, or at yesterday's Japanese midnight."""
    if args.start is not None:
        return clock.begins_ms
    offset_ms = 9 * 3_600_000
    return (clock.begins_ms + offset_ms) // DAY_MS * DAY_MS - offset_ms - DAY_MS


def _instant_ms(text: str) -> int:
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(f"--start {text}: add the offset, as in 2026-06-01T00:00:00+09:00")
    return round(moment.timestamp() * 1000)
