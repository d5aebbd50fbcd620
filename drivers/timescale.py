"""Simulated time as arithmetic. Pure: asks no clock."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Timescale:
    """Time that shows `start_ms` when the real clock shows `since_ms`, and runs `speed` times as fast (unix ms)."""

    start_ms: int
    since_ms: int
    speed: float = 1.0

    def simulated_ms(self, real_ms: float) -> int:
        """Return the simulated time at a real time."""
        return self.start_ms + int((real_ms - self.since_ms) * self.speed)

    def real_ms(self, simulated_ms: float) -> float:
        """Return the real time at which the simulated clock reaches a time."""
        return self.since_ms + (simulated_ms - self.start_ms) / self.speed
