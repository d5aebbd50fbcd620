"""The link against servers that misbehave: no answer is taken for another, nothing is sent twice, a cut is noticed."""

import asyncio
import logging
import os
import random
import struct
import tty
from contextlib import asynccontextmanager
from itertools import pairwise

import pytest
from pymodbus.framer.rtu import FramerRTU

from drivers.api import LinkError, MalformedError
from drivers.contract import FastClock
from drivers.modbus.link import ExceptionAnswerError, Link, SerialEndpoint, SilentError, TcpEndpoint
from drivers.modbus.planner import Request

TIMEOUT_S = 0.15

NOISE = (
    b"\xff" * 5,
    b"\0" * 40,
    bytes(range(256)) * 3,
    bytes.fromhex("000100000003016401"),  # an answer to a function that does not exist
    bytes.fromhex("0001000000050103ff0001"),  # a length of its own inside
)


def registers(address, count):
    """What an honest unit answers: each register holds its own address."""
    return b"".join(struct.pack(">H", (address + n) & 0xFFFF) for n in range(count))


def frame(rtu, tid, unit, pdu):
    if rtu:
        body = bytes([unit]) + pdu
        return body + FramerRTU.compute_CRC(body).to_bytes(2, "big")
    return struct.pack(">HHHB", tid, 0, len(pdu) + 1, unit) + pdu


class Server:
    """A raw server; `behaviour(ask)` is a coroutine per request with ask.tid, unit, function, address, count."""

    def __init__(self, behaviour, *, rtu=False):
        self.behaviour, self.rtu = behaviour, rtu
        self.asked, self.connections, self.tasks, self.writers = [], 0, set(), []

    async def __aenter__(self):
        self.server = await asyncio.start_server(self.serve, "127.0.0.1", 0)
        self.port = self.server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_):
        self.server.close()
        for writer in self.writers:
            writer.close()
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    async def serve(self, reader, writer):
        self.connections += 1
        self.writers.append(writer)
        try:
            while True:
                ask = Ask(self, writer, await reader.readexactly(8 if self.rtu else 12))
                self.asked.append((ask.unit, ask.function, ask.address, ask.count))
                task = asyncio.ensure_future(self.behaviour(ask))
                self.tasks.add(task)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


class Ask:
    def __init__(self, server, writer, data):
        self.server, self.writer = server, writer
        self.tid = 0
        if server.rtu:
            self.unit, self.function, self.address, self.count = struct.unpack(">BBHH", data[:6])
        else:
            self.tid, _, _, self.unit, self.function, self.address, self.count = struct.unpack(">HHHBBHH", data)

    def pdu(self, **other):
        function, address = other.get("function", self.function), other.get("address", self.address)
        body = registers(address, other.get("count", self.count))
        return bytes([function, len(body)]) + body

    def answer(self, pdu=None, *, tid=None, unit=None):
        tid, unit = self.tid if tid is None else tid, self.unit if unit is None else unit
        self.writer.write(frame(self.server.rtu, tid, unit, self.pdu() if pdu is None else pdu))


@asynccontextmanager
async def linked(behaviour, *, rtu=False, **options):
    async with Server(behaviour, rtu=rtu) as server:
        endpoint = TcpEndpoint("127.0.0.1", server.port, "rtu" if rtu else "tcp")
        link = Link(endpoint, FastClock(), **options)
        await link.open(1)
        try:
            yield link, server
        finally:
            link.close()


async def honest(ask):
    ask.answer()


def late(seconds, *addresses):
    """A unit that answers in order, and some addresses late: while it is late, the next request waits."""
    busy = asyncio.Lock()

    async def behaviour(ask):
        async with busy:
            await asyncio.sleep(seconds if ask.address in addresses else 0.002)
            ask.answer()

    return behaviour


def read(link, address, count=2, unit=1, space="holding", timeout_s=TIMEOUT_S):
    return link.read(unit, Request(space, address, count), timeout_s)


@pytest.mark.parametrize("rtu", [False, True])
async def test_an_honest_unit_is_read(rtu):
    async with linked(honest, rtu=rtu) as (link, server):
        assert await read(link, 100, 3) == registers(100, 3)
        assert await read(link, 7, 125, unit=9, space="input") == registers(7, 125)
    assert server.asked == [(1, 3, 100, 3), (9, 4, 7, 125)]


@pytest.mark.parametrize("rtu", [False, True])
async def test_a_late_answer_is_never_taken_for_the_next_one(rtu):
    async with linked(late(1.5 * TIMEOUT_S, 100), rtu=rtu) as (link, _):
        with pytest.raises(SilentError):
            await read(link, 100)
        for address in (200, 300, 400):
            assert await read(link, address) == registers(address, 2)


async def test_a_cancelled_read_leaves_nothing_behind_for_the_next_one():
    async with linked(late(0.05, 100), rtu=True) as (link, _):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.02):
                await read(link, 100)
        assert await read(link, 200) == registers(200, 2)


@pytest.mark.parametrize("rtu", [False, True])
async def test_an_answer_of_another_unit_is_no_answer(rtu):
    async def foreign(ask):
        ask.answer(unit=7)

    async with linked(foreign, rtu=rtu) as (link, _):
        with pytest.raises((SilentError, MalformedError)):
            await read(link, 100)


async def test_an_answer_to_another_transaction_is_no_answer():
    async def confused(ask):
        ask.answer(tid=ask.tid + 1)

    async with linked(confused) as (link, _):
        with pytest.raises(SilentError):
            await read(link, 100)


async def test_a_unit_without_transaction_ids_is_served_until_one_answer_is_missing():
    async def untagged(ask):
        if ask.address == 100:
            await asyncio.sleep(1.5 * TIMEOUT_S)
        ask.answer(tid=0)

    async with linked(untagged) as (link, _):
        assert await read(link, 50) == registers(50, 2)
        with pytest.raises(SilentError):
            await read(link, 100)
        with pytest.raises(LinkError, match="earlier request"):
            await read(link, 200)
        assert not link.is_open


@pytest.mark.parametrize("rtu", [False, True])
async def test_an_answer_of_another_function_is_malformed(rtu):
    async def wrong(ask):
        ask.answer(ask.pdu(function=4))

    async with linked(wrong, rtu=rtu) as (link, _):
        with pytest.raises(MalformedError, match="function 4"):
            await read(link, 100)


@pytest.mark.parametrize("rtu", [False, True])
@pytest.mark.parametrize("count", [1, 3, 125])
async def test_an_answer_with_another_number_of_registers_is_malformed(rtu, count):
    async def wrong(ask):
        ask.answer(ask.pdu(count=count))

    async with linked(wrong, rtu=rtu) as (link, _):
        with pytest.raises(MalformedError, match=f"{count} registers where 2"):
            await read(link, 100)


@pytest.mark.parametrize(("code", "final"), [(1, True), (2, True), (3, True), (4, False), (5, False), (6, False)])
async def test_an_exception_tells_whether_asking_again_helps(code, final):
    async def refusing(ask):
        ask.answer(bytes([ask.function | 0x80, code]))

    async with linked(refusing) as (link, server):
        with pytest.raises(ExceptionAnswerError) as caught:
            await read(link, 100)
    assert (caught.value.code, caught.value.final) == (code, final)
    assert len(server.asked) == 1


@pytest.mark.parametrize("code", [10, 11])
async def test_a_gateway_that_does_not_reach_the_unit_means_silence(code):
    async def unreachable(ask):
        ask.answer(bytes([ask.function | 0x80, code]))

    async with linked(unreachable) as (link, _):
        with pytest.raises(SilentError, match="does not reach"):
            await read(link, 100)


async def test_a_silent_unit_costs_one_time_out_and_one_request():
    async def silent(ask):
        pass

    async with linked(silent) as (link, server):
        loop = asyncio.get_running_loop()
        began = loop.time()
        with pytest.raises(SilentError):
            await read(link, 100)
        assert TIMEOUT_S <= loop.time() - began < 2 * TIMEOUT_S
    assert len(server.asked) == 1


async def test_a_cut_in_the_middle_of_a_request_is_noticed_at_once_and_nothing_is_sent_again():
    async def hang_up(ask):
        ask.writer.close()

    async with linked(hang_up) as (link, server):
        loop = asyncio.get_running_loop()
        began = loop.time()
        with pytest.raises(LinkError, match="hung up") as caught:
            await read(link, 100, timeout_s=5)
        assert not isinstance(caught.value, SilentError)
        assert loop.time() - began < 1
        with pytest.raises(LinkError, match="is not open"):
            await read(link, 100)
        await asyncio.sleep(0.3)  # a background reconnection would come after 0.1 s
    assert (len(server.asked), server.connections) == (1, 1)


async def test_a_link_that_is_open_but_mute_is_closed_after_three_time_outs():
    async def silent(ask):
        pass

    async with linked(silent) as (link, server):
        for _ in range(2):
            with pytest.raises(SilentError):
                await read(link, 100, timeout_s=0.05)
        with pytest.raises(LinkError, match="mute") as caught:
            await read(link, 100, timeout_s=0.05)
        assert not isinstance(caught.value, SilentError)
        assert not link.is_open
        server.behaviour = honest
        await link.open(1)
        assert await read(link, 100) == registers(100, 2)


async def test_one_unit_that_answers_keeps_a_link_with_a_dead_neighbour_open():
    async def half_dead(ask):
        if ask.unit == 1:
            ask.answer()

    async with linked(half_dead) as (link, server):
        for _ in range(4):
            assert await read(link, 100, unit=1) == registers(100, 2)
            with pytest.raises(SilentError):
                await read(link, 100, unit=2, timeout_s=0.05)
        assert link.is_open
    assert server.connections == 1


async def test_an_endpoint_that_refuses_connections_is_a_link_error():
    async with Server(honest) as server:
        port = server.port
    with pytest.raises(LinkError, match=f"127.0.0.1:{port}"):
        await Link(TcpEndpoint("127.0.0.1", port), FastClock()).open(1)


async def test_an_endpoint_with_no_such_name_is_a_link_error():
    with pytest.raises(LinkError):
        await Link(TcpEndpoint("no-such-host.invalid"), FastClock()).open(5)


async def test_a_serial_port_that_is_not_there_is_a_link_error(tmp_path):
    with pytest.raises(LinkError):
        await Link(SerialEndpoint(str(tmp_path / "none")), FastClock()).open(1)


@pytest.mark.parametrize("rtu", [False, True])
async def test_an_answer_that_drips_in_byte_by_byte_is_read(rtu):
    async def drip(ask):
        for byte in frame(ask.server.rtu, ask.tid, ask.unit, ask.pdu()):
            ask.writer.write(bytes([byte]))
            await asyncio.sleep(0.001)

    async with linked(drip, rtu=rtu) as (link, _):
        assert await read(link, 100, timeout_s=1) == registers(100, 2)


async def test_an_answer_that_comes_twice_is_taken_once():
    async def twice(ask):
        ask.answer()
        ask.answer()

    async with linked(twice) as (link, _):
        for address in (100, 200, 300):
            assert await read(link, address) == registers(address, 2)


@pytest.mark.parametrize("noise", NOISE, ids=lambda noise: noise[:7].hex())
async def test_noise_gives_an_error_and_no_log_of_frames(noise, caplog):
    async def noisy(ask):
        ask.writer.write(noise)

    with caplog.at_level(logging.DEBUG):
        async with linked(noisy) as (link, _):
            with pytest.raises((LinkError, MalformedError)):
                await read(link, 100)
    assert not [record for record in caplog.records if record.levelno > logging.DEBUG]


async def test_failures_leave_no_frame_dumps_in_the_log(caplog):
    async def silent(ask):
        pass

    async with linked(silent) as (link, _):
        for _ in range(2):
            with pytest.raises(SilentError):
                await read(link, 100, timeout_s=0.05)
    assert not caplog.records


async def test_requests_keep_the_gap_that_the_device_wants():
    moments = []

    async def noting(ask):
        moments.append(asyncio.get_running_loop().time())
        ask.answer()

    async with linked(noting, gap_ms=30) as (link, _):
        await asyncio.gather(*(read(link, address) for address in range(4)))
    assert min(b - a for a, b in pairwise(moments)) >= 0.028


class StandingClock(FastClock):
    """A clock that moves only when somebody sleeps."""

    def __init__(self):
        super().__init__()
        self.ms = 1_000

    def boot_ms(self):
        return self.ms

    async def sleep_until(self, boot_ms):
        self.ms = max(self.ms, boot_ms)


async def test_the_first_request_waits_as_long_after_connecting_as_the_device_wants():
    asked_at = []

    async def noting(ask):
        asked_at.append(clock.ms)
        ask.answer()

    async with Server(noting) as server:
        clock = StandingClock()
        link = Link(TcpEndpoint("127.0.0.1", server.port), clock, connect_delay_ms=1_500)
        for _ in range(2):
            await link.open(1)
            for address in range(2):
                await read(link, address)
        link.close()
    assert asked_at == [2_500, 2_500, 4_000, 4_000]


async def test_callers_that_come_together_are_served_one_after_the_other():
    at_once = 0

    async def counting(ask):
        nonlocal at_once
        at_once += 1
        assert at_once == 1
        await asyncio.sleep(0.002)
        at_once -= 1
        ask.answer()

    async with linked(counting) as (link, _):
        answers = await asyncio.gather(*(read(link, address) for address in range(20)))
    assert answers == [registers(address, 2) for address in range(20)]


def mean(rng, timeout_s):
    """A unit that answers in order, but as it likes."""
    busy = asyncio.Lock()

    async def behaviour(ask):
        kind = rng.choice(("honest", "honest", "honest", "late", "short", "twice", "foreign", "silent"))
        async with busy:
            if kind == "late":
                await asyncio.sleep(timeout_s * rng.uniform(1.05, 1.4))
            if kind == "foreign":
                ask.answer(unit=ask.unit + 1)
            elif kind == "short":
                ask.answer(ask.pdu(count=1))
            elif kind != "silent":
                ask.answer()
            if kind == "twice":
                ask.answer()

    return behaviour


@pytest.mark.slow
@pytest.mark.parametrize("rtu", [False, True])
@pytest.mark.parametrize("seed", [1, 2])
async def test_no_answer_is_ever_taken_for_that_of_another_request(rtu, seed):
    """Late, short, doubled, foreign and absent answers in any order; what is returned is what was asked for."""
    rng, timeout_s, served = random.Random(seed), 0.06, 0
    async with linked(mean(rng, timeout_s), rtu=rtu) as (link, _):
        for _ in range(120):
            address = rng.randrange(0xF000)
            try:
                answer = await read(link, address, timeout_s=timeout_s)
            except (LinkError, MalformedError):
                if not link.is_open:
                    await link.open(1)
            else:
                served += 1
                assert answer == registers(address, 2)
    assert served > 30


async def test_a_serial_line_waits_out_a_late_answer_and_keeps_its_silence():
    """Two ends of a pseudo-terminal; the unit answers address 100 late."""
    master, slave = os.openpty()
    tty.setraw(master)
    tty.setraw(slave)
    os.set_blocking(master, False)
    loop, buffer, came, left = asyncio.get_running_loop(), bytearray(), [], [0.0]
    busy_until = [0.0]

    def reply(function, address, count):
        left.append(loop.time())
        body = registers(address, count)
        os.write(master, frame(True, 0, 1, bytes([function, len(body)]) + body))

    def readable():
        buffer.extend(os.read(master, 512))
        while len(buffer) >= 8:
            _, function, address, count = struct.unpack(">BBHH", bytes(buffer[:6]))
            del buffer[:8]
            came.append((address, loop.time() - left[-1]))
            busy_until[0] = max(busy_until[0], loop.time()) + (1.5 * TIMEOUT_S if address == 100 else 0.002)
            loop.call_at(busy_until[0], reply, function, address, count)

    loop.add_reader(master, readable)
    link = Link(SerialEndpoint(os.ttyname(slave), baudrate=9600), FastClock())
    try:
        await link.open(1)
        assert await read(link, 50) == registers(50, 2)
        with pytest.raises(SilentError):
            await read(link, 100)
        for address in (200, 300, 400):
            assert await read(link, address) == registers(address, 2)
        assert min(quiet for _, quiet in came[1:]) >= 0.0039  # 3.5 characters at 9600 baud, 11 bits each
    finally:
        loop.remove_reader(master)
        link.close()
        await asyncio.sleep(0.01)
        os.close(master)
        os.close(slave)
