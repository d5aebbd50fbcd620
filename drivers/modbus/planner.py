"""Points → the fewest reads that carry them, and each answer → values. Pure: sends nothing.

A point, its scale register and its guards always travel in one read, because scale factors and SunSpec headers may
change from one read to the next.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal, TypeAlias

from drivers.api import MalformedError, Value
from drivers.modbus.registers import Encoding, Layout, Span, decode

Space: TypeAlias = Literal["holding", "input"]
Poll: TypeAlias = Literal["fast", "slow", "once"]

MOST_REGISTERS = 125
"""One answer holds no more (Modbus Application Protocol 1.1b3, 6.3)."""


@dataclass(frozen=True, slots=True)
class Guard:
    """A register that must hold `word`, or the map no longer fits the device (SunSpec headers move)."""

    address: int
    word: int


@dataclass(frozen=True, slots=True)
class Point:
    """One quantity of a device: where its registers are, what they mean, how often they are read."""

    quantity: str
    space: Space
    address: int
    encoding: Encoding
    poll: Poll = "fast"
    scale_address: int | None = None
    guards: tuple[Guard, ...] = ()

    @property
    def first(self) -> int:
        """The lowest register that must be read for the point."""
        return min(self._needs())

    @property
    def end(self) -> int:
        """One past the highest register that must be read for the point."""
        return max(self._needs()) + 1

    def _needs(self) -> Iterator[int]:
        yield self.address
        yield self.address + self.encoding.words - 1
        if self.scale_address is not None:
            yield self.scale_address
        for guard in self.guards:
            yield guard.address


@dataclass(frozen=True, slots=True)
class Hole:
    """Registers `first`…`last` that are never read, because the device answers a read over them badly."""

    space: Space
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Limits:
    """How far reads are merged: over at most `max_gap` unwanted registers, up to `max_registers` in all."""

    max_registers: int = 100
    max_gap: int = 16

    def within(self, other: Limits) -> Limits:
        """Return what both allow."""
        return Limits(min(self.max_registers, other.max_registers), min(self.max_gap, other.max_gap))


@dataclass(frozen=True, slots=True, order=True)
class Break:
    """No read may cover both the register before `address` and the one at it: a device was found to answer it badly."""

    space: Space
    address: int


@dataclass(frozen=True, slots=True)
class Request:
    """One read of neighbouring registers."""

    space: Space
    address: int
    count: int


class MovedError(MalformedError):
    """A guarded register holds another word: the device's map has changed since it was discovered."""


class Block:
    """One read and the points its answer carries."""

    def __init__(self, points: Sequence[Point]) -> None:
        """Build the read that covers all `points`, which lie in one space."""
        self.points = tuple(points)
        space, first = points[0].space, min(point.first for point in points)
        end = max(point.end for point in points)
        self.request = Request(space, first, end - first)
        spans = sorted(set(self._spans()), key=lambda span: span.offset)
        index = {span: number for number, span in enumerate(spans)}
        self._layout = Layout(self.request.count, spans)
        self._cells = tuple(
            (point.quantity, point.encoding, index[self._value_span(point)], self._scale_index(point, index))
            for point in points
        )
        self._guards = tuple((index[Span(guard.address - first, 1)], guard) for guard in self._guarded())

    def decode(self, data: bytes) -> dict[str, Value]:
        """Return quantity → value of an answer's register bytes; raises MalformedError, or MovedError by a guard."""
        raw = self._layout.split(data)
        for at, guard in self._guards:
            if raw[at] != guard.word:
                raise MovedError(f"register {guard.address} holds {raw[at]!r} where {guard.word} was found before")
        return {
            quantity: decode(raw[at], encoding, None if scale is None else raw[scale])
            for quantity, encoding, at, scale in self._cells
        }

    def covered(self, registers: int) -> Block | None:
        """Return the block of those points that lie wholly in the first so many registers; None without any."""
        end = self.request.address + registers
        points = [point for point in self.points if point.end <= end]
        return Block(points) if points else None

    def halves(self) -> tuple[Block, ...]:
        """Return two blocks with half of the points each, none for a block of one point: to corner a bad register."""
        ordered = sorted(self.points, key=lambda point: point.first)
        middle = len(ordered) // 2
        return tuple(Block(half) for half in (ordered[:middle], ordered[middle:])) if middle else ()

    def _spans(self) -> Iterator[Span]:
        first = self.request.address
        for point in self.points:
            yield self._value_span(point)
            if point.scale_address is not None:
                yield Span(point.scale_address - first, 1)
        for guard in self._guarded():
            yield Span(guard.address - first, 1)

    def _guarded(self) -> list[Guard]:
        return sorted({guard for point in self.points for guard in point.guards}, key=lambda guard: guard.address)

    def _value_span(self, point: Point) -> Span:
        offset = point.address - self.request.address
        return Span(offset, point.encoding.words, text=point.encoding.type == "string")

    def _scale_index(self, point: Point, index: Mapping[Span, int]) -> int | None:
        return None if point.scale_address is None else index[Span(point.scale_address - self.request.address, 1)]


def plan(
    points: Iterable[Point],
    limits: Limits,
    holes: Sequence[Hole] = (),
    breaks: Collection[Break] = (),
) -> tuple[Block, ...]:
    """Return the reads that carry every point once, within the limits, over no forbidden hole and no break."""
    ordered = sorted(points, key=lambda point: (point.space, point.first, point.end))
    blocks: list[Block] = []
    for _, near in groupby(ordered, key=lambda point: point.space):
        group: list[Point] = []
        for point in near:
            if group and not _joins(group, point, limits, holes, breaks):
                blocks.append(Block(group))
                group = []
            group.append(point)
        blocks.append(Block(group))
    return tuple(blocks)


def crosses(space: Space, first: int, end: int, holes: Iterable[Hole]) -> Hole | None:
    """Return a forbidden hole that reading registers first…end-1 would touch."""
    return next((hole for hole in holes if hole.space == space and first <= hole.last and hole.first < end), None)


def _joins(
    group: Sequence[Point], point: Point, limits: Limits, holes: Sequence[Hole], breaks: Collection[Break]
) -> bool:
    first, end = group[0].first, max(member.end for member in group)
    last = max(end, point.end)
    return (
        point.first - end <= limits.max_gap
        and last - first <= limits.max_registers
        and crosses(point.space, first, last, holes) is None
        and not any(one.space == point.space and first < one.address < last for one in breaks)
    )
