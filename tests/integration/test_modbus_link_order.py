"""No answer is ever taken for that of another request, on lines without transaction ids: RTU, and RTU over TCP.

A unit handles its requests in order, but is late (up to six time-outs), silent, cut short, says everything twice,
answers with another function, or is talked over: by units nobody asked, by its neighbours in the very shape that is
waited for, and by itself, when it first answers somebody else. Time is virtual, so a run costs CPU and no patience.
"""

import asyncio
import fcntl
import os
import random
import select
import struct
import sys
import termios
import time
import tty
from collections import Counter
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
from pymodbus.framer.rtu import FramerRTU

from drivers.api import LinkError, MalformedError
from drivers.contract import FastClock
from drivers.modbus.connection import Connection
from drivers.modbus.link import ExceptionAnswerError, Link, SerialEndpoint, SilentError, TcpEndpoint
from drivers.modbus.missing import LATEST_S
from drivers.modbus.planner import Request

TIMEOUT_S = 1.0
REFUSED = range(0x8000, 0xA000)
"""Addresses that every unit refuses, so that exceptions are attributed, too."""
UNITS = (1, 2, 5)
KINDS = (
    *("honest", "honest", "honest", "honest", "late", "short", "twice", "function", "silent", "noise"),
    *("foreign", "foreign count", "foreign function", "neighbour"),
)
ON_TIME = ("function", "foreign count", "foreign function")


def frame(unit, pdu):
    body = bytes([unit]) + pdu
    return body + FramerRTU.compute_CRC(body).to_bytes(2, "big")


def content(unit, function, address, count):
    """What an honest unit answers: each register tells its address, its unit and its space."""
    return b"".join(struct.pack(">H", (address + n + 1000 * unit + 500 * function) & 0xFFFF) for n in range(count))


class Bus:
    """Units on one line; each answers one request after the other, as the dice say."""

    pace = 0.01, 0.3, 0.9

    def __init__(self, rng, kinds=KINDS):
        self.rng, self.kinds = rng, kinds
        self.free_at, self.buffer, self.send = {}, b"", None
        self.asked, self.spoken = [], 0

    def receive(self, data):
        self.buffer += data
        while len(self.buffer) >= 8:
            request, self.buffer = self.buffer[:8], self.buffer[8:]
            assert frame(request[0], request[1:6]) == request
            self.handle(*struct.unpack(">BBHH", request[:6]))

    def handle(self, unit, function, address, count):
        self.asked.append((unit, function, address, count))
        loop, kind = asyncio.get_running_loop(), self.rng.choice(self.kinds)
        took_s = TIMEOUT_S * (self.rng.uniform(1.02, 6) if kind == "late" else self.rng.choice(self.pace))
        self.free_at[unit] = at = max(self.free_at.get(unit, 0), loop.time()) + took_s
        if at > loop.time() + LATEST_S / 2:  # nobody holds requests for so long
            kind, self.free_at[unit] = "silent", at - took_s
        if kind in ON_TIME and at > loop.time() + TIMEOUT_S:  # late as well, it is beyond telling apart
            kind = "honest"
        if kind == "neighbour":
            loop.call_at(at, self.speak_of_another, len(self.asked), unit, function, count)
        for n, shown in enumerate(self.answers(kind, unit, function, address, count)):
            loop.call_at(at + n * 1e-4, lambda shown=shown: self.send(shown))

    def speak_of_another(self, number, unit, function, count):
        """While a unit is waited for, another of ours that owes nothing says something of the same shape."""
        now = asyncio.get_running_loop().time()
        idle = [one for one in UNITS if one != unit and self.free_at.get(one, 0) < now]
        if idle and len(self.asked) == number:
            self.send(frame(self.rng.choice(idle), bytes([function, 2 * count]) + b"\xcc" * 2 * count))
            self.spoken += 1

    def answers(self, kind, unit, function, address, count):
        pdu = bytes([function, 2 * count]) + content(unit, function, address, count)
        if address in REFUSED:
            pdu = bytes([function | 0x80, 2])
        if kind == "short":
            pdu = bytes([function, 2 * (count // 2)]) + b"\xee\xee" * (count // 2)
        if kind == "function":
            pdu = bytes([7 - function]) + pdu[1:]
        whole = frame(unit, pdu)
        noise = bytes(self.rng.choices(range(256), k=self.rng.randrange(1, 30)))
        return {
            "silent": [],
            "twice": [whole + whole],
            "foreign": [frame(unit + 10, bytes([function, 2 * count]) + b"\xdd" * 2 * count), whole],
            "foreign count": [frame(unit, bytes([function, 2 * count + 2]) + b"\xbb" * (2 * count + 2)), whole],
            "foreign function": [frame(unit, bytes([7 - function, 2 * count]) + b"\xaa" * 2 * count), whole],
            "noise": [noise + whole],
        }.get(kind, [whole])


@asynccontextmanager
async def over_tcp(bus):
    async def serve(reader, writer):
        def send(data):
            if not writer.is_closing():
                writer.write(data)

        bus.send, bus.buffer = send, b""
        try:
            while data := await reader.read(512):
                bus.receive(data)
        except ConnectionError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield TcpEndpoint("127.0.0.1", server.sockets[0].getsockname()[1], "rtu", 19200)


@asynccontextmanager
async def over_pty(bus):
    master, slave = os.openpty()
    tty.setraw(master)
    tty.setraw(slave)
    os.set_blocking(master, False)

    def waiting():
        return int.from_bytes(fcntl.ioctl(slave, termios.FIONREAD, bytes(4)), sys.byteorder)

    def send(data):
        """Write, and be sure that it has passed the kernel: virtual time does not wait for that."""
        there = waiting() + os.write(master, data)
        give_up_at = time.monotonic() + 1
        while waiting() < there and time.monotonic() < give_up_at:
            pass

    def ask(connection, data):
        """Likewise for what the link sends; this wait is the kernel's, not the loop's."""
        plain_send(connection, data)
        select.select([master], [], [], 1)

    plain_send, Connection.send = Connection.send, ask
    bus.send = send
    asyncio.get_running_loop().add_reader(master, lambda: bus.receive(os.read(master, 512)))
    try:
        yield SerialEndpoint(os.ttyname(slave), 19200)
    finally:
        Connection.send = plain_send
        asyncio.get_running_loop().remove_reader(master)
        bus.send = len  # an answer that comes even later goes nowhere
        os.close(master)
        os.close(slave)


LINES = {"rtu_over_tcp": over_tcp, "pty": over_pty}


class LoopClock(FastClock):
    """The driver's clock on the event loop's time."""

    def boot_ms(self):
        return round(asyncio.get_running_loop().time() * 1000)


@asynccontextmanager
async def linked(line, bus, **options):
    async with LINES[line](bus) as endpoint:
        link = Link(endpoint, LoopClock(), **options)
        await link.open(5)
        try:
            yield link
        finally:
            link.close()
            await asyncio.sleep(0.01)


async def hammered(line, seed, requests):
    """Ask and ask; returns how often each thing happened."""
    rng = random.Random(seed)
    bus, told = Bus(rng), Counter()
    async with linked(line, bus) as link:
        while len(bus.asked) < requests:
            unit, space = rng.choice(UNITS), rng.choice(("holding", "holding", "holding", "input"))
            address, count = rng.randrange(0xF000), rng.choice((1, 2, 2, 2, 10))
            try:
                answer = await link.read(unit, Request(space, address, count), TIMEOUT_S)
            except ExceptionAnswerError:
                told["refused" if address in REFUSED else "refused wrongly"] += 1
            except (LinkError, MalformedError):
                told["failed"] += 1
                if not link.is_open:
                    await link.open(5)
            else:
                assert answer == content(unit, 3 if space == "holding" else 4, address, count)
                assert address not in REFUSED
                told["served"] += 1
        assert told["refused wrongly"] == 0
        return told + link.counts + Counter({"spoken": bus.spoken})


@pytest.mark.looptime(noop_cycles=12)
@pytest.mark.parametrize("line", LINES)
async def test_no_answer_of_a_bad_line_is_taken_for_that_of_another_request(line):
    told = await hammered(line, seed=1, requests=400)
    assert told["served"] > 40
    assert told["refused"] > 5
    assert told["late"] > 20


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.looptime(noop_cycles=12)
@pytest.mark.parametrize("line", LINES)
async def test_ten_thousand_answers_of_a_bad_line_are_told_apart(line):
    told = await hammered(line, seed=2, requests=10_000)
    assert told["served"] > 1_000
    assert told["late"] > 500
    assert told["stray"] > 500
    assert told["spoken"] > 200


@pytest.mark.looptime(noop_cycles=12)
async def test_a_dead_unit_costs_one_time_out_and_its_neighbour_is_asked_at_once():
    class HalfDead(Bus):
        def answers(self, kind, unit, function, address, count):
            return [] if unit == 2 else super().answers(kind, unit, function, address, count)

    loop, bus = asyncio.get_running_loop(), HalfDead(random.Random(1), ("honest",))
    async with linked("rtu_over_tcp", bus) as link:
        for _ in range(5):
            began = loop.time()
            with pytest.raises(SilentError):
                await link.read(2, Request("holding", 100, 2), TIMEOUT_S)
            assert loop.time() - began < 1.1 * TIMEOUT_S
            began = loop.time()
            assert await link.read(1, Request("holding", 100, 2), TIMEOUT_S) == content(1, 3, 100, 2)
            assert loop.time() - began < TIMEOUT_S


@pytest.mark.looptime(noop_cycles=12)
async def test_a_late_answer_that_comes_twice_does_not_hide_that_the_probe_is_unanswered():
    """The unit is late by 1.2 s, says something else with it, and answers the probe later still."""

    class Scripted(Bus):
        delays_s = iter((1.2, 1.9))

        def handle(self, unit, function, address, count):
            self.asked.append((unit, function, address, count))
            loop, delay_s = asyncio.get_running_loop(), next(self.delays_s, None)
            shown = frame(unit, bytes([function, 2 * count]) + content(unit, function, address, count))
            if delay_s is not None:
                loop.call_later(delay_s, lambda: self.send(shown))
            if len(self.asked) == 1:
                other = frame(unit, bytes([function, 2 * count]) + b"\xaa" * 2 * count)
                loop.call_later(delay_s + 1e-4, lambda: self.send(other))

    bus = Scripted(random.Random(1))
    async with linked("rtu_over_tcp", bus) as link:
        for request in (Request("holding", 100, 1), Request("holding", 200, 1), Request("input", 300, 1)):
            with pytest.raises((LinkError, MalformedError)):
                await link.read(1, request, TIMEOUT_S)
    assert (1, 4, 200, 1) in bus.asked  # the probe, whose answer was on its way when the third request was due


@pytest.mark.looptime(noop_cycles=12)
async def test_a_unit_that_knows_only_one_function_is_read_again_after_half_a_minute():
    """It answers nothing at all to the function that would show that it is in step."""

    class Narrow(Bus):
        silent = False

        def answers(self, kind, unit, function, address, count):
            return [] if function == 4 or self.silent else super().answers(kind, unit, function, address, count)

    loop, bus = asyncio.get_running_loop(), Narrow(random.Random(1), ("honest",))
    async with linked("rtu_over_tcp", bus) as link:
        bus.silent = True
        with pytest.raises(SilentError):
            await link.read(1, Request("holding", 100, 2), TIMEOUT_S)
        bus.silent, missed_at = False, loop.time()
        while True:
            try:
                answer = await link.read(1, Request("holding", 100, 2), TIMEOUT_S)
                break
            except LinkError:
                await asyncio.sleep(3)
                if not link.is_open:
                    await link.open(5)
        assert answer == content(1, 3, 100, 2)
        assert loop.time() - missed_at < LATEST_S + 10


async def test_a_serial_port_is_opened_for_one_program_alone_and_free_as_soon_as_it_is_closed():
    async with over_pty(Bus(random.Random(1), ("honest",))) as endpoint:
        first, second = Link(endpoint, FastClock()), Link(endpoint, FastClock())
        for _ in range(3):
            await first.open(1)
            with pytest.raises(LinkError, match="another program has it locked"):
                await second.open(1)
            first.close()


@pytest.mark.parametrize("pieces", [1, 3, 8, 40])
async def test_an_adapter_that_hears_itself_is_not_taken_for_the_unit(pieces):
    bus = Bus(random.Random(1), ("honest",))
    bus.pace = (0.01,)
    async with over_pty(bus) as endpoint:
        send, receive = bus.send, bus.receive

        def echo(data):
            for at in range(0, len(data), pieces):
                send(data[at : at + pieces])
            receive(data)

        bus.receive = echo
        link = Link(replace(endpoint, local_echo=True), FastClock())
        await link.open(1)
        try:
            # 0x0304… looks like the start of an answer; the echo of a request for it is the nastiest one.
            for address in (100, 0x0300, 0x0403, 0x8303):
                try:
                    assert await link.read(3, Request("holding", address, 5), 3) == content(3, 3, address, 5)
                except ExceptionAnswerError:
                    assert address in REFUSED
        finally:
            link.close()


async def test_a_port_that_disappears_is_noticed_at_once():
    bus = Bus(random.Random(1), ("honest",))
    async with over_pty(bus) as endpoint:
        link = Link(endpoint, FastClock())
        await link.open(1)
    with pytest.raises(LinkError) as caught:
        await link.read(1, Request("holding", 100, 2), 0.5)
    assert not isinstance(caught.value, SilentError)
    await asyncio.sleep(0.01)
    assert not link.is_open
