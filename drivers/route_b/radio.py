"""How strong the meter's signal is, in dBm and in words, measured anew for a person who moves the dongle. Pure policy.

The dongles hear down to about -103 dBm at 100 kbit/s. The verdicts leave room above that for weather, for a closed
meter box and for a parked car: 28 dB good, 18 dB fair, 11 dB weak.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Literal, Protocol, TypeAlias

from drivers.api import Json, LinkError
from drivers.route_b import meter
from drivers.route_b.echonet import Frame

Strength: TypeAlias = Literal["good", "fair", "weak", "bad"]

LIMITS_DBM: tuple[tuple[float, Strength], ...] = ((-75.0, "good"), (-85.0, "fair"), (-92.0, "weak"))
WORDS: dict[Strength, str] = {
    "good": "良好 / good",
    "fair": "普通 / fair",
    "weak": "弱い / weak",
    "bad": "弱すぎ / too weak",
}
PATIENCE_S = 15.0
"""Another question may be on its way, such as one for a day of the meter's memory; ours waits for its turn."""
LEAST_PAUSE_S = 1.5
"""A question costs air time that all share: whoever asks more often gets the last answer again."""


class Radio(Protocol):
    """A link whose status tells the strength of what was last heard."""

    async def get(self, epcs: Sequence[int]) -> Frame:
        """Ask the meter."""

    def status(self) -> dict[str, Json]:
        """Return `rssi_dbm` among others."""


class Gauge:
    """Measures at most every `LEAST_PAUSE_S`, by asking the meter for its power."""

    def __init__(self) -> None:
        self._measured_s = float("-inf")
        self._last: dict[str, Json] = {}

    async def measure(self, radio: Radio) -> dict[str, Json]:
        """Return `answered_s` (None without an answer) and `rssi_dbm` as of now."""
        loop = asyncio.get_running_loop()
        if (began := loop.time()) - self._measured_s < LEAST_PAUSE_S:
            return self._last
        answered_s: float | None
        try:
            async with asyncio.timeout(PATIENCE_S):
                await radio.get([meter.POWER])
            answered_s = round(loop.time() - began, 2)
        except (TimeoutError, LinkError):
            answered_s = None
        self._measured_s = loop.time()
        status = radio.status()
        # Dongles of the A1 dialect tell a strength only in scans: it does not follow their movement.
        self._last = {
            "answered_s": answered_s,
            "rssi_dbm": status.get("rssi_dbm"),
            "follows": status.get("dialect") != "A1",
        }
        return self._last


def strength(rssi_dbm: float) -> Strength:
    """Return the word for a received power."""
    return next((word for limit, word in LIMITS_DBM if rssi_dbm >= limit), "bad")
