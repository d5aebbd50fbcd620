"""Getting into the meter's network politely: the remembered one first, then scans, and few joins. Knows no dongle."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Protocol, TypeAlias

import msgspec

from drivers.api import Clock, Json, Memory, RefusedError
from drivers.route_b.requests import NoAnswerError
from drivers.route_b.skstack import Pan

log = logging.getLogger(__name__)

JOIN_SPACING_S = 30.0
"""Between the beginnings of two joins, whatever went wrong: joining over and over is what fills the air."""
REFUSALS_BEFORE_A_SCAN = 5
"""So many refusals in a row by the remembered network: whoever answers there may not be our meter any more."""
LOOK_S = 0.5
"""How long a clock that may run fast is not looked at while a former program's join is waited out."""
GRAIN_S = 0.001
"""A shorter wait may not move a clock at all."""
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


Begin: TypeAlias = Callable[[], Awaitable[None]]
"""To be awaited just before a join goes on the air."""


class Network(Protocol):
    """A dongle that can look for networks and join one; `skstack.Pan` describes a network of any dongle family."""

    async def prepare(self) -> None:
        """Bring the dongle into a known state; raises LinkError."""

    async def scan(self) -> Pan | None:
        """Return the meter's network, or None."""

    async def join(self, pan: Pan, begin: Begin) -> None:
        """Join it, awaiting `begin` once everything is ready for it.

        Raises NoAnswerError, or RefusedError when the meter answered and declined.
        """


class Joining:
    """What a driver keeps of its joins, over all openings of the port: when the last one began, and how many.

    When it began is also written into the driver's memory, so that a program that crashes over and over joins no
    more often than one that runs; by the driver's clock, since the event loop's own tells nothing of a former program.
    """

    def __init__(self, route_b_id: str, clock: Clock | None = None) -> None:
        self._fingerprint = hashlib.sha256(route_b_id.encode()).hexdigest()[:8]  # tells IDs apart, gives none away
        self._clock = clock
        self._last_s: float | None = None
        self._refused = 0  # by the remembered network, since the last scan
        self.state = "idle"
        self.joins = 0
        self.attempts = 0
        self.scans = 0
        self.pan: Pan | None = None  # the network last tried
        self.nothing_found = False  # in the last scan
        self.join_s: float | None = None  # how long the last successful join took

    async def connect(self, network: Network, memory: Memory) -> None:
        """Join the remembered network, or find it anew when that fails; the network found is remembered."""
        pan = self._remembered(memory)
        if pan is not None and self._refused < REFUSALS_BEFORE_A_SCAN:
            try:
                await self._join(network, pan, memory)
            except NoAnswerError as error:
                log.info("the remembered network is not there: %s", error)
            except RefusedError:
                self._refused += 1
                raise
            else:
                self._refused = 0
                return
        self._refused = 0
        self.state = "scanning"
        self.scans += 1
        await network.prepare()
        pan = await network.scan()
        self.nothing_found = pan is None
        if pan is None:
            raise NoAnswerError("no meter answers the scan; check the route-B ID and the dongle's place")
        await self._join(network, pan, memory)
        await memory.update({"pan": self._kept(pan)})

    async def _join(self, network: Network, pan: Pan, memory: Memory) -> None:
        loop = asyncio.get_running_loop()
        while (wait_s := self._too_soon_s(memory)) > 0:
            self.state = "waiting"
            await asyncio.sleep(min(max(wait_s, GRAIN_S), LOOK_S))
        self.state = "joining"
        self.pan = pan
        began_s = loop.time()
        await network.join(pan, partial(self._begin, memory))
        self.nothing_found = False
        self.join_s = round(loop.time() - began_s, 1)
        self.joins += 1
        self.state = "joined"

    async def _begin(self, memory: Memory) -> None:
        """Write down that a join begins now, before it does: what follows may be the program's end."""
        self._last_s = asyncio.get_running_loop().time()
        self.attempts += 1
        if self._clock is not None:
            await memory.update({"join": {"boot": _boot(), "at_ms": self._clock.boot_ms()}})

    def _too_soon_s(self, memory: Memory) -> float:
        """Return how many seconds too early a join would begin now; not above 0 when it may."""
        if self._last_s is not None:
            return self._last_s + JOIN_SPACING_S - asyncio.get_running_loop().time()
        try:
            kept = msgspec.convert(memory.get("join"), _KeptJoin)
        except msgspec.ValidationError:
            return 0.0
        if self._clock is None:
            return 0.0
        now_ms = self._clock.boot_ms()
        same_boot = kept.boot == _boot() and kept.at_ms <= now_ms
        # At least so long ago: both stamps are cut off to milliseconds; before this boot means as long as it lasts.
        ago_ms = now_ms - kept.at_ms - 1 if same_boot else now_ms
        return JOIN_SPACING_S - ago_ms / 1000

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


class _KeptJoin(msgspec.Struct, frozen=True):
    """What the memory holds of the last join: when it began, in milliseconds since a boot."""

    boot: str
    at_ms: Annotated[int, msgspec.Meta(ge=0)]


def _boot() -> str:
    """Name the boot that the machine is in, as the kernel does; empty where it has no name."""
    try:
        return BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:
        return ""
