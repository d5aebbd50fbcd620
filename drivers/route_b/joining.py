"""Getting into the meter's network politely: the remembered one first, then scans, and few joins. Knows no dongle."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from typing import Annotated, Protocol

import msgspec

from drivers.api import Json, Memory
from drivers.route_b.requests import NoAnswerError
from drivers.route_b.skstack import Pan

log = logging.getLogger(__name__)

JOIN_SPACING_S = 30.0
"""Between the beginnings of two joins, whatever went wrong: joining over and over is what fills the air."""


class Network(Protocol):
    """A dongle that can look for networks and join one; `skstack.Pan` describes a network of any dongle family."""

    async def prepare(self) -> None:
        """Bring the dongle into a known state; raises LinkError, or ConfigError for unusable credentials."""

    async def scan(self) -> Pan | None:
        """Return the meter's network, or None."""

    async def join(self, pan: Pan) -> None:
        """Join it; raises NoAnswerError, or RefusedError when the meter answered and declined."""


class Joining:
    """What a driver keeps of its joins, over all openings of the port: when the last one began, and how many."""

    def __init__(self, route_b_id: str) -> None:
        self._fingerprint = hashlib.sha256(route_b_id.encode()).hexdigest()[:8]  # tells IDs apart, gives none away
        self._last_s: float | None = None
        self.state = "idle"
        self.joins = 0
        self.attempts = 0
        self.scans = 0
        self.pan: Pan | None = None  # the network last tried
        self.nothing_found = False  # in the last scan
        self.join_s: float | None = None  # how long the last successful join took

    async def connect(self, network: Network, memory: Memory) -> None:
        """Join the remembered network, or find it anew when that fails; the network found is remembered."""
        if (pan := self._remembered(memory)) is not None:
            try:
                await self._join(network, pan)
            except NoAnswerError as error:
                log.info("the remembered network is not there: %s", error)
            else:
                return
        self.state = "scanning"
        self.scans += 1
        await network.prepare()
        pan = await network.scan()
        self.nothing_found = pan is None
        if pan is None:
            raise NoAnswerError("no meter answers the scan; check the route-B ID and the dongle's place")
        await self._join(network, pan)
        await memory.update({"pan": self._kept(pan)})

    async def _join(self, network: Network, pan: Pan) -> None:
        loop = asyncio.get_running_loop()
        if self._last_s is not None and (wait_s := self._last_s + JOIN_SPACING_S - loop.time()) > 0:
            self.state = "waiting"
            await asyncio.sleep(wait_s)
        self.state = "joining"
        self._last_s = loop.time()
        self.attempts += 1
        self.pan = pan
        await network.join(pan)
        self.nothing_found = False
        self.join_s = round(loop.time() - self._last_s, 1)
        self.joins += 1
        self.state = "joined"

    def _remembered(self, memory: Memory) -> Pan | None:
        try:
            kept = msgspec.convert(memory.get("pan"), _KeptPan)
        except msgspec.ValidationError:
            return None
        fits = kept.of == self._fingerprint and len(kept.mac) == 16 and all(c in "0123456789ABCDEF" for c in kept.mac)
        return Pan(kept.channel, kept.pan_id, kept.mac, 0) if fits else None

    def _kept(self, pan: Pan) -> dict[str, Json]:
        return {"of": self._fingerprint, "channel": pan.channel, "pan_id": pan.pan_id, "mac": pan.mac}


class _KeptPan(msgspec.Struct, frozen=True):
    """What the memory holds of a network."""

    of: str
    channel: Annotated[int, msgspec.Meta(ge=0x21, le=0x3C)]
    pan_id: Annotated[int, msgspec.Meta(ge=0, le=0xFFFF)]
    mac: str
