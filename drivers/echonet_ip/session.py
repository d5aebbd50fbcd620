"""How one object of one host is asked: its property maps first, then only what it lists, in portions it can serve.

Some devices answer fewer properties than asked, some refuse one they list, some take 20 s. What was learnt of a device
is kept as JSON, so that it is not learnt again at every start. Opens no port and waits for nothing but answers.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from drivers.api import Json, MalformedError, RefusedError
from drivers.echonet_ip import identity
from drivers.echonet_ip.devices import GET_MAP, SET_MAP
from drivers.echonet_ip.link import SilentError
from drivers.route_b import echonet
from drivers.route_b.echonet import NODE_PROFILE, Frame

log = logging.getLogger(__name__)

MOST_PROPERTIES = 10
"""Asked at once from a device we know nothing of; real ones answered ten (a 027D with instance 2)."""
LONGEST_TIMEOUT_S = 20.0
_PROBE_AFTER = 500
"""Portions; on a bad radio a device seems to want few properties at once, and must be able to show that it does not."""
_MOST_SKIPPED = 512
"""A refused property is asked again at the latest after so many polls."""


class Asks(Protocol):
    """The part of a link that a session needs."""

    async def get(self, host: str, eoj: bytes, epcs: Iterable[int], timeout_s: float) -> Frame:
        """Return the answer to one Get; raises SilentError."""

    async def set(self, host: str, eoj: bytes, properties: Mapping[int, bytes], timeout_s: float) -> Frame:
        """Return the answer to one SetC; raises SilentError."""

    def late(self, host: str) -> int:
        """Return how many answers of a host came too late."""


@dataclass(slots=True)
class _Refusal:
    """How often in a row a property was refused, and for how many polls it is left out now."""

    times: int = 0
    skip: int = 0


@dataclass(slots=True)
class Learnt:
    """What is known of how a device wants to be asked."""

    most: int = MOST_PROPERTIES
    base_s: float = 5.0
    """What the configuration or a quirk grants a request; a slow device gets more."""
    timeout_s: float = 5.0
    refusals: dict[int, _Refusal] = field(default_factory=dict)
    ceiling: int = MOST_PROPERTIES
    """What a quirk allows to ask at once."""
    late: int = 0
    """Late answers already taken into account."""
    complete: int = 0
    """Portions in a row that came complete; after many of them a larger one is tried again."""

    def json(self) -> dict[str, Json]:
        """Return it as JSON."""
        refused: list[Json] = [f"{epc:02X}" for epc in sorted(self.refusals)]
        return {"most": self.most, "timeout_s": self.timeout_s, "refused": refused}

    def grant(self, most: int | None, timeout_s: float) -> None:
        """Take up what a quirk allows to ask at once (None: what is usual) and what a request is granted at least."""
        self.ceiling = MOST_PROPERTIES if most is None else most
        self.most = min(self.most, self.ceiling)
        self.base_s = timeout_s
        self.timeout_s = max(self.timeout_s, timeout_s)

    def forget(self) -> None:
        """Begin anew: another device is there."""
        self.most, self.timeout_s, self.complete = min(MOST_PROPERTIES, self.ceiling), self.base_s, 0
        self.refusals.clear()

    @classmethod
    def from_json(cls, stored: Json, timeout_s: float) -> Learnt:
        """Return what was stored, or the beginning for anything that is not that."""
        new = cls(base_s=timeout_s, timeout_s=timeout_s)
        if not isinstance(stored, dict):
            return new
        most, waited, refused = stored.get("most"), stored.get("timeout_s"), stored.get("refused")
        if isinstance(most, int) and 1 <= most <= MOST_PROPERTIES:
            new.most = most
        if isinstance(waited, int | float) and timeout_s <= waited <= LONGEST_TIMEOUT_S:
            new.timeout_s = float(waited)
        for epc in refused if isinstance(refused, list) else ():
            if isinstance(epc, str) and len(epc) == 2 and set(epc) <= set("0123456789ABCDEF"):
                new.refusals[int(epc, 16)] = _Refusal(1, 1)
        return new


class Session:
    """One object at one address; `refresh` reads its maps and who it is, `read` its values."""

    def __init__(self, link: Asks, host: str, eoj: bytes, learnt: Learnt) -> None:
        self._link = link
        self.host, self.eoj, self.learnt = host, eoj, learnt
        self.readable: frozenset[int] | None = None
        self.settable: frozenset[int] = frozenset()
        self.who: dict[int, bytes] = {}

    @property
    def identification(self) -> str | None:
        """Return what names this device at any address, or None while it is unknown or says nothing unique."""
        return identity.identify(self.eoj, self.who)

    @property
    def is_sure(self) -> bool:
        """Say whether that name is final: a device that lists its number (83) may have kept it back this time."""
        return identity.IDENTIFICATION in self.who or identity.IDENTIFICATION not in (self.readable or ())

    async def refresh(self) -> None:
        """Read the property maps, then what the device says of itself; raises SilentError."""
        self.readable = await self._map(GET_MAP)
        if self.readable is None:
            log.info("%s: %s lists nothing; it is asked for what its class may have", self.host, self.eoj.hex().upper())
        self.settable = await self._map(SET_MAP) or frozenset()
        self.who = await self.read(identity.WHO)
        if self.identification is None and self.is_sure and self.eoj != NODE_PROFILE:
            self.who |= await self._of_node()

    async def _map(self, epc: int) -> frozenset[int] | None:
        """Return a property map; None when the device gives none or one without sense."""
        try:
            return frozenset(echonet.property_map((await self._ask((epc,))).get(epc, b"")))
        except MalformedError as error:
            log.debug("%s: map %02X: %s", self.host, epc, error)
            return None

    async def _of_node(self) -> dict[int, bytes]:
        """Return the node's identification number for an object that has neither number nor serial of its own."""
        wanted = (identity.IDENTIFICATION,)
        frame = await self._link.get(self.host, NODE_PROFILE, wanted, self.learnt.timeout_s)
        return {epc: edt for epc, edt in frame.properties.items() if edt}

    async def read(self, epcs: Sequence[int]) -> dict[int, bytes]:
        """Return the properties served of those asked and listed; raises SilentError when nothing answers."""
        wanted = [epc for epc in epcs if self._is_wanted(epc)]
        got: dict[int, bytes] = {}
        while wanted:
            portion, wanted = wanted[: self.learnt.most], wanted[self.learnt.most :]
            got |= await self._portion(portion)
        return got

    def _is_wanted(self, epc: int) -> bool:
        if self.readable is not None and epc not in self.readable:
            return False
        refusal = self.learnt.refusals.get(epc)
        if refusal is None or refusal.skip <= 0:
            return True
        refusal.skip -= 1
        return False

    async def _portion(self, epcs: Sequence[int]) -> dict[int, bytes]:
        """Ask some properties at once, and one by one those that did not come."""
        got = await self._ask(epcs) if len(epcs) == 1 else await self._ask_many(epcs)
        missing = [epc for epc in epcs if epc not in got]
        if len(epcs) == 1:
            self._note(epcs[0], served=not missing)
            self._probe()
            return got
        alone: dict[int, bytes] = {}
        for epc in missing:
            one = await self._ask((epc,))
            self._note(epc, served=epc in one)
            alone |= one
        if alone:  # it can serve them, but not so many at once
            self.learnt.most = max(1, min(self.learnt.most, len(epcs) - len(missing)))
            self.learnt.complete = 0
        self._probe()
        for epc in got:
            self._note(epc, served=True)
        return got | alone

    def _probe(self) -> None:
        learnt = self.learnt
        learnt.complete += 1
        if learnt.complete >= _PROBE_AFTER:
            learnt.complete, learnt.most = 0, min(learnt.most * 2, learnt.ceiling)

    async def _ask_many(self, epcs: Sequence[int]) -> dict[int, bytes]:
        """Ask several at once; a device that is silent twice, yet answers one alone, is asked fewer from now on."""
        try:
            return await self._ask(epcs)
        except SilentError:
            first = await self._ask(epcs[:1])  # raises when it is silent altogether
        try:
            return await self._ask(epcs)  # what was silent was the air
        except SilentError:
            self.learnt.most, self.learnt.complete = max(1, len(epcs) // 2), 0
            return first

    async def _ask(self, epcs: Sequence[int]) -> dict[int, bytes]:
        """Return what one Get served; learns how long the device takes; raises SilentError."""
        learnt, began = self.learnt, asyncio.get_running_loop().time()
        if (late := self._link.late(self.host)) != learnt.late:  # it does answer, only later than we waited
            learnt.late = late
            learnt.timeout_s = min(learnt.timeout_s * 2, max(LONGEST_TIMEOUT_S, learnt.base_s))
        frame = await self._link.get(self.host, self.eoj, epcs, learnt.timeout_s)
        if (asyncio.get_running_loop().time() - began) * 4 < learnt.timeout_s:
            learnt.timeout_s = max(learnt.base_s, learnt.timeout_s / 2)
        return {epc: edt for epc, edt in frame.properties.items() if edt}

    def _note(self, epc: int, *, served: bool) -> None:
        """Keep in mind that a listed property was refused: asked again after 1, 2, 4, … polls."""
        if served:
            self.learnt.refusals.pop(epc, None)
            return
        refusal = self.learnt.refusals.setdefault(epc, _Refusal())
        refusal.times = min(refusal.times + 1, 16)
        refusal.skip = min(2 ** (refusal.times - 1), _MOST_SKIPPED)

    async def write(self, epc: int, edt: bytes) -> None:
        """Set one property; raises SilentError, or RefusedError when the device does not take it."""
        if epc not in self.settable:
            raise RefusedError(f"{self.eoj.hex().upper()} does not list {epc:02X} as one that can be set")
        frame = await self._link.set(self.host, self.eoj, {epc: edt}, self.learnt.timeout_s)
        if frame.esv != echonet.SET_RES:
            raise RefusedError(f"{self.eoj.hex().upper()} refuses {epc:02X} = {edt.hex().upper()}")
