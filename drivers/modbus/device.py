"""One unit behind a link: reads what is due and learns what the unit refuses. Knows no event and no pymodbus."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from decimal import Decimal

from drivers.api import Json, MalformedError, RefusedError, Value
from drivers.modbus.link import ExceptionAnswerError, Reads, SilentError
from drivers.modbus.planner import Block, MovedError, Point, Request, plan
from drivers.modbus.register_map import RegisterMap
from drivers.modbus.sunspec import BASES, discover
from drivers.quantities import QUANTITIES

ASK_AGAIN_MS = 3_600_000
"""Refused registers are asked once more this often: a firmware update or a woken battery may bring them."""


class Device:
    """A unit with a register map; without one it is asked for its SunSpec models at each connection."""

    def __init__(self, name: str, unit: int, timeout_s: float, register_map: RegisterMap | None) -> None:
        self.name = name
        self.unit = unit
        self.map = register_map
        self.counts: Counter[str] = Counter()
        self.refused: dict[str, int] = {}
        self.identity: dict[str, str] = {}
        self._timeout_s = timeout_s
        self._over = register_map if register_map is not None and register_map.is_sunspec else None
        self._is_sunspec = register_map is None or self._over is not None
        self._base = 0
        self.connected()

    def connected(self) -> None:
        """Forget what may have changed while the link was closed."""
        self.refused.clear()
        self._fast: list[Block] = []
        self._slow: list[Block] = []
        self._once: list[Block] = []
        self._planned_until_ms: int | None = None
        self._slow_due_ms = 0
        if self._is_sunspec:
            self.map = None

    async def read(self, link: Reads, now_ms: int, slow_every_ms: int) -> dict[str, Value]:
        """Return the values that are due, read now; nothing when nothing is due.

        A block that is refused for now or makes no sense is left out; raises SilentError, RefusedError or
        MalformedError when none was read, LinkError when the link is gone.
        """
        if self.map is None:
            self.map = await self._discover(link)
        if self._planned_until_ms is None or now_ms >= self._planned_until_ms:
            self._plan(self.map, now_ms)
        is_slow_due = now_ms >= self._slow_due_ms
        asked = bool(self._fast or self.refused or (is_slow_due and self._slow))
        values = await self._read_once(link)
        if is_slow_due:
            values |= await self._read_all(link, self._slow)
            self._slow_due_ms = now_ms + slow_every_ms
        values |= await self._read_all(link, self._fast)  # last, so that its age is the sample's
        if asked and not values:
            raise RefusedError(f"unit {self.unit} serves none of its registers now")
        self.counts["rounds"] += 1
        return self.map.derived.finish(values)

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

    def status(self) -> dict[str, Json]:
        """Return counters and refusals."""
        return {**self.counts, "refused": dict(self.refused)}

    def _plan(self, register_map: RegisterMap, now_ms: int) -> None:
        self.refused.clear()

        def blocks(points: Sequence[Point]) -> list[Block]:
            return list(plan(points, register_map.limits, register_map.holes))

        by_poll: dict[str, list[Point]] = {"fast": [], "slow": [], "once": list(register_map.identity)}
        for point in register_map.points:
            by_poll[point.poll].append(point)
        self._fast, self._slow, self._once = (blocks(by_poll[poll]) for poll in ("fast", "slow", "once"))
        self._planned_until_ms, self._slow_due_ms = now_ms + ASK_AGAIN_MS, 0

    async def _read_once(self, link: Reads) -> dict[str, Value]:
        if not self._once or self.map is None:
            return {}
        values = await self._read_all(link, self._once)
        self._once = []
        for point in self.map.identity:
            if isinstance(told := values.pop(point.quantity, None), str):
                self.identity[point.quantity] = told
        return values

    async def _read_all(self, link: Reads, blocks: list[Block]) -> dict[str, Value]:
        """Read all blocks; a block that is refused for good is halved until the refused register stands alone."""
        values: dict[str, Value] = {}
        waiting, kept = blocks[::-1], list[Block]()
        while waiting:
            block = waiting.pop()
            try:
                values |= block.decode(await link.read(self.unit, block.request, self._timeout_s))
            except ExceptionAnswerError as error:
                if error.final:
                    waiting += block.halves()[::-1] or self._refuse(block, error.code)
                    continue
                self.counts["later"] += 1
            except MovedError:
                self.connected()
                raise
            except MalformedError:
                self.counts["malformed"] += 1
            kept.append(block)
        blocks[:] = kept
        return values

    def _refuse(self, block: Block, code: int) -> tuple[Block, ...]:
        self.refused |= {point.quantity: code for point in block.points}
        return ()

    async def _discover(self, link: Reads) -> RegisterMap:
        """Walk the unit's SunSpec models; a unit that is silent at one base is asked at the next one next time."""
        walk = discover(BASES[self._base :] + BASES[: self._base])
        request = next(walk)
        while True:
            try:
                data = await self._header(link, request)
            except SilentError:
                self._base = (self._base + 1) % len(BASES)
                raise
            try:
                request = walk.send(data)
            except StopIteration as end:
                self.identity = dict(end.value.identity)
                found: RegisterMap = end.value.register_map()
                return found if self._over is None else self._over.over(found)

    async def _header(self, link: Reads, request: Request) -> bytes | None:
        try:
            return await link.read(self.unit, request, self._timeout_s)
        except (ExceptionAnswerError, MalformedError):
            return None


def _counts(point: Point) -> bool:
    return point.quantity in QUANTITIES and QUANTITIES[point.quantity].kind == "counter"


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
            name: {"unit": one.unit, "kind": one.kind, "ja": one.label_ja, "en": one.label_en}
            for name, one in register_map.quantities.items()
        }
    }
