"""Aligned ticks for drivers that poll. Asks the clock it is given and nothing else."""

from __future__ import annotations

from drivers.api import Clock


class Ticks:
    """Wake at whole multiples of a period on the boot clock: no drift, and ticks missed while busy are skipped.

    All drivers of a box that share a period wake at the same moments.
    """

    def __init__(self, clock: Clock, period_s: float) -> None:
        if period_s <= 0:
            raise ValueError(f"a period of {period_s} s never ticks")
        self._clock = clock
        self._period_ms = max(1, round(period_s * 1000))
        self._last: int | None = None

    async def next(self) -> int:
        """Wait for the next tick and return its time in boot-clock ms; the first tick is the next multiple."""
        now = self._clock.boot_ms()
        tick = now - now % self._period_ms
        if tick < now:
            tick += self._period_ms
        if self._last is not None and tick <= self._last:  # still the same moment, or woken a little early
            tick = self._last + self._period_ms
        await self._clock.sleep_until(tick)
        self._last = tick
        return tick
