"""How long to wait before trying again: doubling, with full jitter. Sleeps nowhere and knows nobody who does."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

LEAST_S = 0.1
"""Even the luckiest draw waits this long, so that nothing spins."""


@dataclass(frozen=True, slots=True)
class Backoff:
    """Waits that double from `first_s` to `ceiling_s`; a fleet that fails together does not come back together."""

    first_s: float = 1.0
    ceiling_s: float = 60.0

    def waits(self) -> Iterator[float]:
        """Yield waits in seconds for ever; each is drawn anew between almost nothing and the bound reached."""
        bound = min(self.first_s, self.ceiling_s)
        while True:
            yield max(min(LEAST_S, bound), random.uniform(0, bound))
            bound = min(bound * 2, self.ceiling_s)


def spread(seconds: float, part: float = 0.25) -> float:
    """Return a time drawn evenly within `part` of `seconds` on either side."""
    return seconds * random.uniform(1 - part, 1 + part)
