"""How much of the radio law's transmit time a dongle has used (ARIB STD-T108: 360 s an hour). Pure: time is given."""

from __future__ import annotations

from collections import deque

HOUR_S = 3600.0
MAX_READINGS = 256


class AirTime:
    """The account of one dongle, from readings of its counter of transmitted milliseconds (register SFD)."""

    def __init__(self) -> None:
        self._readings: deque[tuple[float, int]] = deque(maxlen=MAX_READINGS)
        self._sent_ms = 0
        self._before_ms: int | None = None

    def measure(self, now_s: float, counter_ms: int) -> None:
        """Take a reading in; a counter that went back has started anew."""
        before_ms, self._before_ms = self._before_ms, counter_ms
        if before_ms is not None:
            self._sent_ms += counter_ms - before_ms if counter_ms >= before_ms else counter_ms
        self._readings.append((now_s, self._sent_ms))
        while self._readings[0][0] < now_s - HOUR_S:
            self._readings.popleft()

    @property
    def last_hour_s(self) -> float | None:
        """Return the seconds transmitted in the last hour, as far back as readings go; None before two of them."""
        if len(self._readings) < 2:
            return None
        return round((self._readings[-1][1] - self._readings[0][1]) / 1000, 3)
