"""How many writes a battery has taken, stored and RAM, and what is left of the day. Pure: time is an argument."""

from __future__ import annotations

from drivers.api import Json, RefusedError
from drivers.battery.modes import Write

DAY_MS = 86_400_000
JST_MS = 9 * 3_600_000


class Ledger:
    """Counts of writes; `stored` ones wear the device's flash and have a daily budget (Japanese days)."""

    def __init__(self, budget: int) -> None:
        self._budget = budget
        self.stored = self.ram = self.today = 0
        self._day = -1

    def recall(self, remembered: Json) -> None:
        """Take in what an earlier life counted, unless this one knows more."""
        if not isinstance(remembered, dict):
            return
        counts = [remembered.get(key) for key in ("stored", "ram", "today", "day")]
        stored, ram, today, day = (count if type(count) is int else 0 for count in counts)
        if stored + ram > self.stored + self.ram:
            self.stored, self.ram, self.today, self._day = stored, ram, today, day

    def count(self, write: Write, unix_ms: int | None) -> None:
        """Count a write that is about to be sent."""
        self._turn(unix_ms)
        if write.stored:
            self.stored += 1
            self.today += 1
        else:
            self.ram += 1

    def afford(self, stored: int, unix_ms: int | None) -> None:
        """Raise RefusedError when the day's budget does not cover so many stored writes; undoing never asks."""
        self._turn(unix_ms)
        if stored and self.today + stored > self._budget:
            raise RefusedError(
                f"{self.today} of {self._budget} writes to the device's flash are used today (stored_writes_per_day)"
            )

    def reserve(self, stored: int) -> Json:
        """Return what is remembered before so many stored writes: a crash must not make them uncounted."""
        return {"stored": self.stored + stored, "ram": self.ram, "today": self.today + stored, "day": self._day}

    def as_json(self) -> Json:
        """Return what is remembered."""
        return self.reserve(0)

    def status(self, unix_ms: int | None) -> dict[str, Json]:
        """Return the counts."""
        self._turn(unix_ms)
        return {"stored": self.stored, "ram": self.ram, "stored_today": self.today, "stored_per_day": self._budget}

    def _turn(self, unix_ms: int | None) -> None:
        """Begin a new day; while the clock is not set no day ends, so that the budget holds."""
        if unix_ms is None:
            return
        day = (unix_ms + JST_MS) // DAY_MS
        if day != self._day:
            if self._day >= 0:
                self.today = 0
            self._day = day
