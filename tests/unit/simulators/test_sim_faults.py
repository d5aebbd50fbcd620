"""Faults of a byte stream: each does what it says, and the seed decides all."""

import asyncio
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulators.faults import Fault, Lane, Pipe, lane, parse, proxy

TEXT = bytes(range(256)) * 4


def through(lane, chunks, age_s=0.0):
    return b"".join(lane.feed(chunk, age_s).data for chunk in chunks)


def test_without_faults_everything_passes():
    assert through(Lane([]), [TEXT]) == TEXT


def test_drop_loses_about_as_many_bytes_as_its_rate_says():
    left = through(Lane([Fault("drop", rate=0.25)]), [TEXT * 10])
    assert 0.7 < len(left) / len(TEXT * 10) < 0.8
    assert through(Lane([Fault("drop", after_bytes=2, for_bytes=3)]), [b"abcdefgh"]) == b"abfgh"


def test_duplicate_doubles_bytes_in_their_place():
    assert through(Lane([Fault("duplicate", after_bytes=1, for_bytes=2)]), [b"abcd"]) == b"abbccd"


def test_corrupt_changes_every_chosen_byte_and_keeps_the_length():
    damaged = through(Lane([Fault("corrupt")]), [TEXT])
    assert len(damaged) == len(TEXT)
    assert all(left != right for left, right in zip(damaged, TEXT, strict=True))


def test_insert_puts_noise_behind_bytes_and_keeps_them():
    noisy = through(Lane([Fault("insert", rate=0.5)]), [b"a" * 1000])
    assert 1400 < len(noisy) < 1600
    assert noisy.count(b"a") >= 1000
    assert through(Lane([Fault("insert")]), [b"abc"])[::2] == b"abc"


def test_split_writes_a_chunk_byte_by_byte():
    lane = Lane([Fault("split", seconds=0.1, for_bytes=1), Fault("cut", after_bytes=5)])
    pieces = lane.feed(b"abc").pieces()
    assert [(piece.data, piece.wait_s) for piece in pieces] == [(b"a", 0), (b"b", 0.1), (b"c", 0.1)]
    assert [piece.data for piece in lane.feed(b"de").pieces()] == [b"de"]
    assert lane.struck == 1
    assert [piece.cut for piece in lane.feed(b"f").pieces()] == [True]


async def test_a_pipe_is_spoilt_for_a_time():
    out = []
    pipe = Pipe(Lane([]), out.append, lambda: None)
    pipe.spoil(spoilt := Lane([Fault("duplicate")]))
    pipe.feed(b"ab")
    pipe.spoil(None)
    pipe.feed(b"cd")
    assert (out, spoilt.struck) == ([b"aabb", b"cd"], 2)


def test_cut_ends_the_stream_at_its_byte_for_good():
    lane = Lane([Fault("cut", after_bytes=3)])
    passed = lane.feed(b"abcdef")
    assert (passed.data, passed.cut) == (b"abc", True)
    assert lane.feed(b"more").data == b""
    assert lane.feed(b"more").cut


def test_delay_makes_every_chunk_wait_and_stall_only_one():
    late = Lane([Fault("delay", seconds=0.5)])
    assert [late.feed(b"a").wait_s, late.feed(b"b").wait_s] == [0.5, 0.5]
    stalled = Lane([Fault("stall", seconds=9, after_bytes=2)])
    assert [stalled.feed(b"a").wait_s, stalled.feed(b"bcd").wait_s, stalled.feed(b"e").wait_s] == [0, 9, 0]


def test_a_fault_keeps_to_its_seconds():
    fault = Fault("drop", after_s=10, for_s=5)
    lane = Lane([fault])
    assert [lane.feed(b"x", age).data for age in (0, 9.9, 10, 14.9, 15)] == [b"x", b"x", b"", b"", b"x"]


@given(
    data=st.binary(max_size=300),
    cuts=st.lists(st.integers(0, 300), max_size=8),
    seed=st.integers(0, 1000),
    rates=st.tuples(*[st.floats(0, 1)] * 4),
)
def test_the_damage_is_the_same_however_the_bytes_were_chunked(data, cuts, seed, rates):
    kinds = ("drop", "duplicate", "corrupt", "insert")
    faults = [Fault(kind, rate=rate) for kind, rate in zip(kinds, rates, strict=True)]
    faults.append(Fault("cut", after_bytes=200))
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    chunks = [data[left:right] for left, right in itertools.pairwise(edges)]
    assert through(Lane(faults, seed), chunks) == through(Lane(faults, seed), [data])


def test_another_seed_is_other_damage():
    faults = [Fault("corrupt", rate=0.5)]
    assert through(Lane(faults, 1), [TEXT]) != through(Lane(faults, 2), [TEXT])


def test_a_fault_concerns_the_way_it_names():
    faults = [Fault("drop", way="in")]
    assert through(lane(faults, "in"), [b"abc"]) == b""
    assert through(lane(faults, "out"), [b"abc"]) == b"abc"


@pytest.mark.looptime
async def test_a_pipe_keeps_the_order_of_what_it_delays(looptime):
    out, cut = [], []
    pipe = Pipe(Lane([Fault("delay", seconds=2, for_bytes=1), Fault("cut", after_bytes=6)]), out.append, cut.append)
    pipe._on_cut = lambda: cut.append(True)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(pipe.run())
        for chunk in (b"ab", b"cd", b"efg"):
            pipe.feed(chunk)
        assert out == []
        await asyncio.sleep(2.1)
        assert (b"".join(out), cut) == (b"abcdef", [True])
        task.cancel()


def test_a_pipe_without_faults_passes_bytes_at_once():
    out = []
    pipe = Pipe(Lane([]), out.append, lambda: None)
    pipe.feed(b"now")
    assert out == [b"now"]


async def test_a_proxy_damages_a_real_connection_one_way_only():
    async def shout(reader, writer):
        while data := await reader.read(100):
            writer.write(data.upper())
        writer.close()

    server = await asyncio.start_server(shout, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        async with proxy("127.0.0.1", port, [Fault("cut", after_bytes=4, way="out")]) as near:
            reader, writer = await asyncio.open_connection("127.0.0.1", near)
            writer.write(b"abcdefgh")
            async with asyncio.timeout(5):
                assert await reader.read() == b"ABCD"
            writer.close()


async def test_a_proxy_to_nowhere_closes():
    server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()
    async with proxy("127.0.0.1", port, []) as near:
        reader, writer = await asyncio.open_connection("127.0.0.1", near)
        async with asyncio.timeout(5):
            assert await reader.read() == b""
        writer.close()


def test_a_fault_is_written_as_one_word():
    assert parse("corrupt:rate=0.01,after_bytes=200,way=out") == Fault("corrupt", 0.01, after_bytes=200, way="out")
    assert parse("cut") == Fault("cut")


@pytest.mark.parametrize(
    "text", ["", "burn", "drop:rate=x", "drop:colour=1", "drop:way=up", "drop:rate=-1", "drop:kind=cut", "cut:after_s"]
)
def test_a_wrong_fault_is_a_value_error(text):
    with pytest.raises(ValueError, match=r"."):
        parse(text)
