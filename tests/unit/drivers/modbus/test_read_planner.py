"""The planner: every point read once, within the limits, over no forbidden hole."""

import struct
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drivers.api import MalformedError
from drivers.modbus.planner import Block, Guard, Hole, Limits, MovedError, Point, Request, plan
from drivers.modbus.registers import Encoding


def point(address, words=1, *, name=None, space="holding", **more):
    kind = {1: "u16", 2: "u32", 4: "u64"}[words]
    return Point(name or f"q{space}{address}", space, address, Encoding(kind, words), **more)


@st.composite
def devices(draw):
    """Points that do not overlap, limits they fit into, and holes between them."""
    at, points, holes = draw(st.integers(0, 50)), [], []
    for _ in range(draw(st.integers(1, 30))):
        words = draw(st.sampled_from([1, 2, 4]))
        points.append(point(at, words, space=draw(st.sampled_from(["holding", "input"]))))
        at += words
        gap = draw(st.integers(0, 40))
        if gap and draw(st.booleans()):
            first = draw(st.integers(at, at + gap - 1))
            holes.append(Hole("holding", first, draw(st.integers(first, at + gap - 1))))
        at += gap
    limits = Limits(draw(st.integers(4, 125)), draw(st.integers(0, 40)))
    return draw(st.permutations(points)), limits, holes


@settings(max_examples=40, deadline=None)
@given(devices())
def test_every_register_that_is_wanted_is_read_exactly_once_and_no_limit_or_hole_is_crossed(device):
    points, limits, holes = device
    blocks = plan(points, limits, holes)
    assert sorted(p.quantity for block in blocks for p in block.points) == sorted(p.quantity for p in points)
    read = [
        (block.request.space, address)
        for block in blocks
        for address in range(block.request.address, block.request.address + block.request.count)
    ]
    assert len(read) == len(set(read))
    wanted = {(p.space, p.address + word) for p in points for word in range(p.encoding.words)}
    assert wanted <= set(read)
    forbidden = {(hole.space, address) for hole in holes for address in range(hole.first, hole.last + 1)}
    assert not forbidden & set(read)
    for block in blocks:
        assert block.request.count <= limits.max_registers
        gap = longest = 0
        for address in range(block.request.address, block.request.address + block.request.count):
            gap = 0 if (block.request.space, address) in wanted else gap + 1
            longest = max(longest, gap)
        assert longest <= limits.max_gap


@settings(max_examples=40, deadline=None)
@given(devices())
def test_no_two_neighbouring_reads_could_have_been_one(device):
    points, limits, holes = device
    for space in ("holding", "input"):
        blocks = [block.request for block in plan(points, limits, holes) if block.request.space == space]
        for left, right in pairwise(blocks):
            end = right.address + right.count
            too_far = right.address - left.address - left.count > limits.max_gap
            first_point = min(p.end for p in points if p.space == space and p.address >= right.address)
            too_long = first_point - left.address > limits.max_registers
            hole = any(h.space == space and h.first < end and h.last >= left.address for h in holes)
            assert too_far or too_long or hole


@settings(max_examples=40, deadline=None)
@given(devices())
def test_every_value_is_taken_from_its_own_registers(device):
    points, limits, holes = device
    for block in plan(points, limits, holes):
        first, count = block.request.address, block.request.count
        values = block.decode(struct.pack(f">{count}H", *range(first, first + count)))
        for p in block.points:
            expected = 0
            for word in range(p.encoding.words):
                expected = expected << 16 | p.address + word
            assert values[p.quantity] == expected


def test_a_point_and_its_scale_register_travel_together():
    blocks = plan([point(10, scale_address=40), point(60)], Limits(max_registers=50, max_gap=5))
    assert [block.request for block in blocks] == [Request("holding", 10, 31), Request("holding", 60, 1)]
    words = [0] * 31
    words[0], words[30] = 5, 0xFFFF
    assert str(blocks[0].decode(struct.pack(">31H", *words))["qholding10"]) == "0.5"


def test_several_values_may_lie_in_the_same_registers():
    names = {0: "fan", 1: "grid"}
    block = Block([point(7), Point("flags", "holding", 7, Encoding("bits", 1, names=names))])
    assert block.decode(b"\x00\x03") == {"qholding7": 3, "flags": "fan,grid"}


def test_a_map_that_moved_is_noticed_before_a_value_is_taken():
    block = Block([point(12, guards=(Guard(10, 103), Guard(11, 50)))])
    assert block.request == Request("holding", 10, 3)
    assert block.decode(struct.pack(">3H", 103, 50, 9)) == {"qholding12": 9}
    for words in ((111, 50, 9), (103, 60, 9)):
        with pytest.raises(MovedError):
            block.decode(struct.pack(">3H", *words))


def test_an_answer_of_another_length_is_malformed():
    block = Block([point(1), point(2)])
    for size in (0, 2, 3, 5, 6):
        with pytest.raises(MalformedError):
            block.decode(bytes(size))


@settings(max_examples=40, deadline=None)
@given(devices())
def test_halving_a_refused_block_corners_every_single_point(device):
    points, limits, holes = device
    waiting, alone = list(plan(points, limits, holes)), []
    while waiting:
        block = waiting.pop()
        halves = block.halves()
        waiting += halves
        if not halves:
            alone += block.points
    assert sorted(p.quantity for p in alone) == sorted(p.quantity for p in points)
