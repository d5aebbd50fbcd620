"""The port: answers are matched strictly, one request at a time goes to a host, and noise leaves counters alone."""

import asyncio
import random
import socket

import pytest

from drivers.api import ConfigError, LinkError
from drivers.echonet_ip.link import Link, SilentError, check_address, is_taken
from drivers.route_b import echonet
from drivers.route_b.echonet import CONTROLLER, Frame
from simulators.echonet import Manners

PV = bytes.fromhex("027901")
FOREIGN = bytes.fromhex("0100FFFF06062478230B995C888800FF00FF098305FF010EF001D662")  # echonet-lite.js, pull request 18


@pytest.fixture
async def link(home):
    made = Link(home.box, home.port)
    await made.open()
    yield made
    made.close()


async def test_a_get_is_answered(home, link):
    await home.node(11, ["pv"])
    frame = await link.get(home.address(11), PV, (0xE0, 0xE8), 1.0)
    assert frame.properties == {0xE0: home.balance.pv_w.to_bytes(2, "big"), 0xE8: (5500).to_bytes(2, "big")}
    assert (link.counts.requests, link.counts.answers) == (1, 1)


async def test_a_search_finds_every_node(home, link):
    for last in (11, 12, 13):
        await home.node(last, ["pv"])
    found = await link.search(0.2)
    assert sorted(found) == [home.address(last) for last in (11, 12, 13)]


async def test_silence_is_said_and_the_network_lives_on(home, link):
    with pytest.raises(SilentError, match="did not answer for 027901 within"):
        await link.get(home.address(99), PV, (0xE0,), 0.05)
    await home.node(11, ["pv"])
    assert await link.get(home.address(11), PV, (0xE0,), 1.0)


async def test_one_request_at_a_time_goes_to_a_host_and_hosts_do_not_wait_for_each_other(home, link):
    slow = await home.node(11, ["pv"], Manners(delay_s=0.15))
    await home.node(12, ["pv"])
    order = []

    async def ask(last, name):
        await link.get(home.address(last), PV, (0xE0,), 5.0)
        order.append((name, len(slow.requests)))

    async with asyncio.TaskGroup() as group:
        group.create_task(ask(11, "first"))
        group.create_task(ask(11, "second"))
        group.create_task(ask(12, "other host"))
    assert order == [("other host", 1), ("first", 1), ("second", 2)]


async def test_an_answer_after_its_time_is_counted_and_tells_a_slow_device_from_a_dead_one(home, link):
    node = await home.node(11, ["pv"], Manners(delay_s=0.2))
    with pytest.raises(SilentError):
        await link.get(home.address(11), PV, (0xE0,), 0.05)
    node.node.manners.delay_s = 0
    while not link.counts.late:  # noqa: ASYNC110  (a counter has no event)
        await asyncio.sleep(0.02)
    assert link.late(home.address(11)) == 1
    assert link.late(home.address(12)) == 0


def answer(asked, **changes):
    """An answer to a request, wrong in one way."""
    return Frame(asked.tid, asked.deoj, asked.seoj, 0x72, {0xE0: b"\x00\x07"})._replace(**changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"tid": 0},
        {"seoj": bytes.fromhex("027902")},
        {"deoj": bytes.fromhex("05FF02")},
        {"esv": echonet.SET_RES},
        {"properties": {0xE1: b"\x00\x00\x00\x07"}},
        {"properties": {0xE0: b"\x00\x07", 0xE1: b"\x00\x00\x00\x07"}},
    ],
    ids=["TID", "object", "receiver", "service", "property", "one property too many"],
)
async def test_what_is_not_the_answer_is_not_taken_for_it(home, link, changes):
    with responder(home, lambda asked: [answer(asked, **changes), answer(asked)]):
        frame = await link.get(home.address(20), PV, (0xE0,), 2.0)
    assert frame.properties == {0xE0: b"\x00\x07"}
    assert link.counts.foreign == 1


async def test_an_announcement_with_our_own_tid_is_no_answer(home, link):
    heard = []
    link.heard = lambda host, frame: heard.append((host, frame.properties))
    with responder(home, lambda asked: [answer(asked, esv=0x73, properties={0xE0: b"\xff\xff"}), answer(asked)]):
        frame = await link.get(home.address(20), PV, (0xE0,), 2.0)
    assert frame.properties == {0xE0: b"\x00\x07"}
    assert heard == [(home.address(20), {0xE0: b"\xff\xff"})]


@pytest.mark.looptime
async def test_announcements_that_want_an_answer_are_confirmed_ten_times_a_second_at_most():
    link, sent = Link("127.0.0.1"), []
    link._send = lambda data, host: sent.append(host)
    infc = Frame(7, PV, CONTROLLER, echonet.INFC, {0x80: b"\x30"})
    for _ in range(50):
        link.answer_infc("192.0.2.1", infc)
    assert (len(sent), link.counts.unconfirmed) == (10, 40)
    await asyncio.sleep(1.0)
    link.answer_infc("192.0.2.1", infc)
    assert len(sent) == 11


async def test_an_answer_from_another_host_is_not_taken(home, link):
    other = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    other.bind((home.address(66), home.port))

    def spoof(asked):
        other.sendto(echonet.encode(answer(asked, properties={0xE0: b"\xff\x00"})), (home.box, home.port))
        return []

    with other, responder(home, spoof), pytest.raises(SilentError):
        await link.get(home.address(20), PV, (0xE0,), 0.3)
    assert link.counts.foreign == 1


def responder(home, answers):
    """A host that answers each request with what `answers` gives for it."""
    return _Responder(home, answers)


class _Responder:
    def __init__(self, home, answers):
        self._home, self._answers = home, answers

    def __enter__(self):
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._socket.bind((self._home.address(20), self._home.port))
        asyncio.get_running_loop().add_reader(self._socket, self._read)

    def _read(self):
        data, source = self._socket.recvfrom(2000)
        for frame in self._answers(echonet.decode(data)):
            self._socket.sendto(echonet.encode(frame), source)

    def __exit__(self, *_):
        asyncio.get_running_loop().remove_reader(self._socket)
        self._socket.close()


def noise(seed, count):
    """Packets as a hostile or broken network sends them: mutated frames, foreign ones, plain noise; seeded."""
    draw = random.Random(seed)
    frames = [
        echonet.encode(Frame(7, PV, CONTROLLER, esv, {0xE0: b"\x01\x02", 0x80: b"\x30"}))
        for esv in (0x72, 0x52, 0x73, 0x74, 0x71, 0x62, 0x00)
    ]
    frames += [FOREIGN, bytes.fromhex("108101000EF0010EF0017301D5040105FF01")]
    for _ in range(count):
        data = bytearray(draw.choice(frames))
        for _ in range(draw.randrange(4)):
            change = draw.randrange(3)
            at = draw.randrange(len(data) + 1)
            if change == 0:
                data[at : at + 1] = bytes([draw.randrange(256)])
            elif change == 1:
                del data[at:]
                data = data or bytearray(b"\x10")
            else:
                data += draw.randbytes(draw.randrange(20))
        yield bytes(data)


async def test_fifty_thousand_packets_of_noise_are_counted_and_leave_nothing_behind(home, link):
    heard = 0

    def take(_host, _frame):
        nonlocal heard
        heard += 1

    link.heard = take
    hosts = [f"10.{n >> 8 & 255}.{n & 255}.1" for n in range(5_000)]
    for number, data in enumerate(noise(20261121, 50_000)):
        link._take(data, hosts[number % len(hosts)])
    counts = link.counts
    assert counts.malformed + counts.foreign + counts.announcements + counts.late + counts.answers == 50_000
    assert counts.malformed > 10_000
    assert counts.foreign > 5_000
    assert heard == counts.announcements > 1_000
    assert not link._asked
    assert not link._expired
    assert not link._late
    assert not link._busy


async def test_noise_on_the_wire_does_not_disturb_a_request(home, link):
    await home.node(11, ["pv"])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as loud:
        loud.bind((home.address(66), 0))
        for number, data in enumerate(noise(3, 2_000)):
            loud.sendto(data, (home.box, home.port))
            if number % 100 == 0:
                frame = await link.get(home.address(11), PV, (0xE0,), 5.0)
                assert frame.properties == {0xE0: home.balance.pv_w.to_bytes(2, "big")}


async def test_a_search_takes_only_so_many_hosts(home, link):
    task = asyncio.ensure_future(link.search(0.1))
    await asyncio.sleep(0)
    for number in range(1_000):
        found = Frame(link._search_tid, echonet.NODE_PROFILE, CONTROLLER, 0x72, {0xD6: bytes.fromhex("01027901")})
        link._take(echonet.encode(found), f"10.0.{number >> 8}.{number & 255}")
    assert len(await task) == 128


async def test_hosts_that_were_asked_once_are_forgotten(link):
    for number in range(1_000):
        link._turn(f"10.0.{number >> 8}.{number & 255}")
    assert len(link._busy) == 256


async def test_a_port_of_another_box_cannot_be_opened():
    link = Link("192.0.2.77", 3610)
    with pytest.raises(LinkError, match="UDP port 3610"):
        await link.open()
    assert not link.is_open


async def test_a_taken_port_is_noticed(home, link):
    assert is_taken(home.box, home.port)
    assert not is_taken(home.address(77), home.port)
    assert not is_taken("192.0.2.1", home.port)  # not ours: another mistake, told by its own message


@pytest.mark.parametrize("text", ["", "fe80::1", "224.0.23.0", "0.0.0.0", "house", "192.168.1.300"])
def test_what_is_no_address_of_one_device_is_refused(text):
    with pytest.raises(ConfigError):
        check_address("address", text)
