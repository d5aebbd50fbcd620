"""One unit behind a link: reads what is due and learns what the unit refuses. Knows no event and no wire."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal

from drivers.api import Json, MalformedError, RefusedError, Value
from drivers.modbus.learnt import HANGS_UP, Learnt
from drivers.modbus.link import ExceptionAnswerError, HungUpError, Reads, ShortAnswerError, SilentError, UnreachedError
from drivers.modbus.patience import read_or_refused
from drivers.modbus.planner import Block, Limits, MovedError, Point, Poll, Request, plan
from drivers.modbus.quality import Qualities, Quality
from drivers.modbus.register_map import RegisterMap
from drivers.modbus.sunspec import BASES, discover
from drivers.modbus.sunspec_points import Model
from drivers.quantities import QUANTITIES

PLAN_AGAIN_MS = 3_600_000
CUTS_BEFORE_HALVED, CUTS_BEFORE_REFUSED = 2, 5
"""Cuts of the link at one read in a row, before its halves are tried and before a single value is given up."""
SPOILT_BEFORE_HALVED = 3
"""Senseless answers to one read in a row after which smaller ones are tried."""

NO_REGISTER = 2
"""Illegal data address (Modbus Application Protocol 1.1b3, 7)."""


class Device:
    """A unit with a register map; without one it is asked for its SunSpec models at each connection."""

    def __init__(
        self, name: str, unit: int, timeout_s: float, register_map: RegisterMap | None, limits: Limits | None = None
    ) -> None:
        self.name = name
        self.unit = unit
        self.map = register_map
        self.counts: Counter[str] = Counter()
        self.learnt = Learnt()
        self.identity: dict[str, str] = {}
        self.was_blamed = False
        """Whether the last cut of the link taught something, so that it is worth opening it again at once."""
        self._timeout_s = timeout_s
        self._limits = limits
        self.qualities = Qualities()
        self._over = register_map if register_map is not None and register_map.is_sunspec else None
        self._is_sunspec = register_map is None or self._over is not None
        self._base = 0
        self._models: tuple[Model, ...] = ()
        self._suspects: dict[Request, int] = {}
        self._spoilt: Counter[Request] = Counter()
        self.connected()

    @property
    def refused(self) -> Mapping[str, int]:
        """Quantity → the exception its registers were refused with, 0 where the device hangs up or is silent."""
        return self.learnt.refused

    def connected(self) -> None:
        """Forget what may have changed while the link was closed; what was learnt of the unit is kept."""
        self._fast: list[Block] = []
        self._slow: list[Block] = []
        self._once: list[Block] = []
        self._planned_until_ms: int | None = None
        self._slow_due_ms = 0
        self._has_served = self._served_in_round = self._fell_silent = False
        if self._is_sunspec:
            self.map = None

    async def read(self, link: Reads, now_ms: int, slow_every_ms: int) -> dict[str, Value]:
        """Return the values that are due, read now; nothing when nothing is due.

        A block that is refused for now, silent or makes no sense is left out; raises SilentError, RefusedError or
        MalformedError when none was read, LinkError when the link is gone.
        """
        self.was_blamed = self._served_in_round = self._fell_silent = False
        if self.map is None:
            self.map = await self._discover(link)
        if self._planned_until_ms is None or now_ms >= self._planned_until_ms:
            self._plan(self.map, now_ms)
        is_slow_due = now_ms >= self._slow_due_ms
        asked = bool(self._fast or self.refused or (is_slow_due and self._slow))
        values = await self._read_due(link, now_ms, is_slow_due=is_slow_due, are_suspects=False)
        if not self._fell_silent:
            if self._suspects:
                values |= await self._read_due(link, now_ms, is_slow_due=is_slow_due, are_suspects=True)
            if is_slow_due:
                self._slow_due_ms = now_ms + slow_every_ms
        if asked and not values:
            raise RefusedError(f"unit {self.unit} serves none of its registers now")
        self.counts["rounds"] += 1
        values = self.qualities.take(self._finished(self.map, values), now_ms)
        if not self._fell_silent:
            await self._ask_again(link, now_ms)
        return values

    async def _read_due(self, link: Reads, now_ms: int, *, is_slow_due: bool, are_suspects: bool) -> dict[str, Value]:
        """Read what is due, of the suspected blocks or of the others; the fast ones last: their age is the sample's."""
        values: dict[str, Value] = {}
        if is_slow_due:
            values |= await self._read_once(link, now_ms, are_suspects=are_suspects)
            values |= await self._read_all(link, self._slow, now_ms, are_suspects=are_suspects)
        return values | await self._read_all(link, self._fast, now_ms, are_suspects=are_suspects)

    def _finished(self, register_map: RegisterMap, values: dict[str, Value]) -> dict[str, Value]:
        """Return what a round means, given what it should have read and what has counted before."""
        self.qualities.count(_parts_of_counters(register_map), values)
        missing = {point.quantity for point in register_map.points} - self.refused.keys() - values.keys()
        return register_map.derived.finish(values, missing, self.qualities.counted)

    async def models(self, link: Reads) -> tuple[Model, ...]:
        """Return the unit's SunSpec models, the same tuple until it is connected anew; raises as a read."""
        if self.map is None:
            self.map = await self._discover(link)
        return self._models

    def describe(self) -> dict[str, Json]:
        """Return maker, model and serial as far as the unit told, and how its counters count."""
        if self.map is None:
            return dict(self.identity)
        return {
            "maker": self.map.maker,
            "map": self.map.name,
            **self.identity,
            "registers": {point.quantity: _counting(point) for point in self.map.points if _counts(point)},
            **_declared(self.map),
        }

    def quality(self, now_ms: int, fast_ms: int, slow_ms: int) -> dict[str, Quality]:
        """Return how good each value is now, given how often they are read."""
        polls = _polls(self.map) if self.map else {}
        periods = {name: slow_ms for name, poll in polls.items() if poll == "slow"}
        once = {name for name, poll in polls.items() if poll == "once"}
        return self.qualities.now(now_ms, fast_ms, periods, once, self.refused)

    def status(self) -> dict[str, Json]:
        """Return counters and refusals."""
        return {**self.counts, "refused": dict(self.refused)}

    def _plan(self, register_map: RegisterMap, now_ms: int) -> None:
        limits = register_map.limits if self._limits is None else register_map.limits.within(self._limits)
        by_poll: dict[str, list[Point]] = {"fast": [], "slow": [], "once": list(register_map.identity)}
        for point in register_map.points:
            by_poll[point.poll].append(point)

        def blocks(points: Sequence[Point]) -> list[Block]:
            served = [point for point in points if point.quantity not in self.refused]
            return list(plan(served, limits, register_map.holes, self.learnt.breaks))

        self._fast, self._slow, self._once = (blocks(by_poll[poll]) for poll in ("fast", "slow", "once"))
        self._planned_until_ms, self._slow_due_ms = now_ms + PLAN_AGAIN_MS, 0

    async def _read_once(self, link: Reads, now_ms: int, *, are_suspects: bool) -> dict[str, Value]:
        if not self._once or self.map is None:
            return {}
        values = await self._read_all(link, self._once, now_ms, are_suspects=are_suspects)
        self._once = [block for block in self._once if not any(point.quantity in values for point in block.points)]
        for point in self.map.identity:
            if isinstance(told := values.pop(point.quantity, None), str):
                self.identity[point.quantity] = told
        return values

    async def _read_all(self, link: Reads, blocks: list[Block], now_ms: int, *, are_suspects: bool) -> dict[str, Value]:
        """Read those blocks that are suspected of making the device hang up or fall silent, or those that are not.

        A device that falls silent after it has answered in this round is asked nothing more; what it said is kept. One
        that is refused for good is halved until the refused register stands alone.
        """
        values: dict[str, Value] = {}
        if self._fell_silent:
            return values
        waiting = [block for block in blocks[::-1] if (block.request in self._suspects) == are_suspects]
        kept = [block for block in blocks if block not in waiting]
        while waiting:
            block = waiting.pop()
            try:
                values |= await self._read_block(link, block)
            except ExceptionAnswerError as error:
                if error.final:
                    waiting += self._halve(block, error.code, now_ms)[::-1]
                    continue
                self.counts["later"] += 1
            except (HungUpError, SilentError) as error:
                is_cut = isinstance(error, HungUpError)
                blocks[:] = kept + waiting[::-1] + self._blame(block, now_ms, is_cut=is_cut)
                if is_cut or not self._served_in_round:
                    raise
                self._fell_silent = True  # one time-out a round is enough
                return values
            except ShortAnswerError as error:
                kept += self._cut_short(block, error.data, values, now_ms)
                continue
            except MovedError:
                raise
            except MalformedError:
                kept += self._spoil(block, now_ms)
                continue
            kept.append(block)
        blocks[:] = kept
        return values

    async def _read_block(self, link: Reads, block: Block) -> dict[str, Value]:
        try:
            data = await link.read(self.unit, block.request, self._timeout_s)
        except (UnreachedError, ExceptionAnswerError) as error:
            if self.map is None or error.code not in self.map.absent_codes:
                raise
            raise ExceptionAnswerError(NO_REGISTER, block.request) from error  # this device's way to say it
        try:
            values = block.decode(data)
        except MovedError:
            self.learnt.forget()
            self.connected()
            raise
        self._suspects.pop(block.request, None)
        self._spoilt.pop(block.request, None)
        self._has_served = self._served_in_round = True
        return values

    def _spoil(self, block: Block, now_ms: int) -> Sequence[Block]:
        """Return what to read in place of a block whose answers make no sense: after a few its halves."""
        self.counts["malformed"] += 1
        self._spoilt[block.request] += 1
        if self._spoilt[block.request] < SPOILT_BEFORE_HALVED or len(block.points) == 1:
            return [block]
        return self._halve(block, 0, now_ms)

    def _halve(self, block: Block, code: int, now_ms: int) -> Sequence[Block]:
        """Return the halves of a block that cannot be read; a single point is refused."""
        self._spoilt.pop(block.request, None)
        halves = block.halves()
        if halves:
            self.learnt.part(halves[1])
            return halves
        self.learnt.refuse(block, code, now_ms)
        self._planned_until_ms = None  # the halving has gone further than the bad register asks for
        return ()

    def _blame(self, block: Block, now_ms: int, *, is_cut: bool) -> list[Block]:
        """Return what to read in place of a block that the device cut the link at, or left unanswered.

        After a few times in a row these are its halves. A link is cut for many reasons, so a cut counts only when the
        device has served something else before on the same connection, and a silence when it did so in this round; a
        device with a single read is halved without when it cuts the link.
        """
        self.counts["cuts" if is_cut else "silences"] += 1
        is_single = is_cut and len(self._fast) + len(self._slow) + len(self._once) <= 1 and len(block.points) > 1
        has_served = self._has_served if is_cut else self._served_in_round
        if block.request not in self._suspects or not (has_served or is_single):
            self._suspects.setdefault(block.request, 1)
            return [block]
        self.was_blamed = True
        self._suspects[block.request] += 1
        if self._suspects[block.request] < (CUTS_BEFORE_HALVED if len(block.points) > 1 else CUTS_BEFORE_REFUSED):
            return [block]
        del self._suspects[block.request]
        halves = self._halve(block, HANGS_UP, now_ms)
        self._suspects |= {half.request: 0 for half in halves}
        return [*halves]

    def _cut_short(self, block: Block, data: bytes, values: dict[str, Value], now_ms: int) -> Sequence[Block]:
        """Take the values that a truncated answer covers; returns two reads in place of the one from now on."""
        self.counts["truncated"] += 1
        covered = block.covered(len(data) // 2)
        if covered is None:
            return self._spoil(block, now_ms)
        values |= covered.decode(data[: 2 * covered.request.count])
        rest = Block([point for point in block.points if point not in covered.points])
        self.learnt.part(rest)
        return covered, rest

    async def _ask_again(self, link: Reads, now_ms: int) -> None:
        """Ask for one refused point whose time has come: a firmware update or a woken battery may bring it."""
        due = self.learnt.due(now_ms)
        point = next((one for one in self.map.points if one.quantity in due), None) if self.map else None
        if point is None:
            return
        block = Block([point])
        self.learnt.refuse(block, self.refused[point.quantity], now_ms)  # the next time is a period away, come what may
        try:
            await link.read(self.unit, block.request, self._timeout_s)
        except (RefusedError, MalformedError, SilentError):
            return
        except HungUpError:
            self.was_blamed = True
            raise
        self.learnt.serve(point.quantity)
        self._planned_until_ms = None

    async def _discover(self, link: Reads) -> RegisterMap:
        """Walk the unit's SunSpec models; one that does not answer well at a base is asked at the next one next time.

        What is busy, garbled or silent ends the walk with its error: a chain cut short would stay so until the unit is
        connected anew.
        """
        walk = discover(BASES[self._base :] + BASES[: self._base])
        request = next(walk)
        absent_codes = self._over.absent_codes if self._over is not None else ()
        while True:
            try:
                data = await read_or_refused(link, self.unit, request, self._timeout_s, absent_codes)
            except (SilentError, HungUpError, RefusedError, MalformedError):
                if request.address in BASES:
                    self._base = (BASES.index(request.address) + 1) % len(BASES)
                raise
            try:
                request = walk.send(data)
            except StopIteration as end:
                self.identity, self._models = dict(end.value.identity), end.value.models
                found: RegisterMap = end.value.register_map()
                return found if self._over is None else self._over.over(found)


def _counts(point: Point) -> bool:
    return point.quantity in QUANTITIES and QUANTITIES[point.quantity].kind == "counter"


def _polls(register_map: RegisterMap) -> dict[str, Poll]:
    """Return how often each quantity is told: a sum as seldom as that part of it that is read most seldom."""
    polls: dict[str, Poll] = {point.quantity: point.poll for point in register_map.points}
    for total in register_map.derived.sums:
        parts = {polls.get(name, "fast") for name in (total.quantity, *total.operands)}
        polls[total.quantity] = "once" if "once" in parts else "slow" if "slow" in parts else "fast"
    return polls


def _parts_of_counters(register_map: RegisterMap) -> Iterator[str]:
    for total in register_map.derived.sums:
        declared = register_map.quantities.get(total.quantity) or QUANTITIES.get(total.quantity)
        if declared is not None and declared.kind == "counter":
            yield from total.operands


def _counting(point: Point) -> dict[str, Json]:
    """Return step and modulus as decimal text; the step is unknown while a scale register decides it."""
    if point.scale_address is not None:
        return {"bits": 16 * point.encoding.words}
    modulus = Decimal(1 << 16 * point.encoding.words) * point.encoding.scale
    return {"step": format(point.encoding.scale, "f"), "modulus": format(modulus, "f")}


def _declared(register_map: RegisterMap) -> Mapping[str, Json]:
    if not register_map.quantities:
        return {}
    return {
        "quantities": {
            name: {"unit": one.unit, "kind": one.kind, "label_ja": one.label_ja, "label_en": one.label_en}
            for name, one in register_map.quantities.items()
        }
    }
