"""The J11 family's messages, and the session that speaks them with the simulated dongle. Experimental, as both are."""

import asyncio
import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivers.api import Context, LinkError, MalformedError, RefusedError, Sample
from drivers.contract import DictMemory, FastClock
from drivers.route_b import j11
from drivers.route_b.driver import create
from drivers.route_b.j11 import J11Reader, Message
from drivers.route_b.j11_session import J11Session
from drivers.route_b.requests import Limits, NoAnswerError, SessionLostError
from drivers.route_b.session import Credentials, Timeouts
from drivers.route_b.skstack import Noise, Pan
from simulators.air import Radio
from simulators.clock import SimulatedClock
from simulators.house import House
from simulators.j11 import J11Dongle
from simulators.meter import MeterInRange, MeterSettings, serve
from simulators.metering import Meter, Nameplate

ID, PASSWORD = "00112233445566778899AABBCCDDEEFF", "0123456789AB"
METER = Pan(0x3B, 0x76A4, "001C640003CD76A4", 179, "CCDDEEFF")


def test_requests_are_those_of_the_public_sources():
    assert j11.request(j11.VERSION).hex() == "d0ea83fc006b000403a80000"
    assert j11.request(j11.OPEN_PORT, bytes.fromhex("1234")).hex() == "d0ea83fc00050006034400461234"
    assert j11.set_up(35).hex() == "d0ea83fc005f000803a0000a05000500"
    secret = j11.credentials("ABCDEFGHIJKLMNOPQRSTUVWXYZ012345", "0123456789ab")
    assert secret[:12].hex() == "d0ea83fc0054003003bd0bde"
    assert secret[12:] == b"ABCDEFGHIJKLMNOPQRSTUVWXYZ0123450123456789ab"
    assert j11.scan(6, "CCDDEEFF")[12:] == bytes.fromhex("060003FFF001") + b"CCDDEEFF"
    assert j11.send_to("001C640003CD76A4", b"\x10\x81")[12:].hex() == (
        "fe80000000000000021c640003cd76a40e1a0e1a00021081"
    )
    with pytest.raises(ValueError, match="1350 bytes"):
        j11.request(j11.SEND, bytes(1350))


def test_channels_keep_the_numbers_of_the_other_family():
    assert [j11.own_channel(33 + 2 * n) for n in range(14)] == list(range(4, 18))
    assert (j11.own_channel(0), j11.own_channel(255)) == (4, 17)


def test_a_message_is_read_however_it_was_cut():
    stream = b"noise" + j11.says(0x206B, b"\x01\x02") + b"\xd0" + j11.says(0x6018, b"\xd0\xf9\xee\x5d" * 3)
    for size in range(1, len(stream)):
        reader = J11Reader()
        found = [item for at in range(0, len(stream), size) for item in reader.feed(stream[at : at + size])]
        assert [item for item in found if isinstance(item, Message)] == [
            Message(0x206B, b"\x01\x02"),
            Message(0x6018, b"\xd0\xf9\xee\x5d" * 3),
        ]
        assert not reader.waiting


def test_every_spoilt_byte_costs_its_message_alone():
    message = j11.says(0x206B, bytes(range(20)))
    for place in range(len(message)):
        for change in (1, 0x80, 0xFF):
            spoilt = bytearray(message)
            spoilt[place] ^= change
            reader = J11Reader()
            found = reader.feed(bytes(spoilt))
            for _ in range(3):  # a spoilt length may wait for bytes that never come
                found += reader.give_up()
            found += reader.feed(message)
            assert [item for item in found if isinstance(item, Message)] == [Message(0x206B, bytes(range(20)))]
            assert any(isinstance(item, Noise) for item in found)


@given(st.lists(st.one_of(st.binary(max_size=40), st.binary(max_size=20).map(lambda d: j11.says(0x6018, d)))))
def test_any_stream_gives_messages_or_noise_and_keeps_no_more_than_one_message(chunks):
    reader = J11Reader()
    for chunk in chunks:
        for item in reader.feed(chunk):
            assert isinstance(item, Message | Noise)
    assert len(reader._buffer) <= j11.MAX_MESSAGE_BYTES


def test_noise_without_end_fills_no_memory():
    reader = J11Reader()
    for noise in (bytes(100_000), j11.MARK * 25_000, (j11.MARK + b"\0") * 20_000):
        reader.feed(noise)
        assert len(reader._buffer) <= j11.MAX_MESSAGE_BYTES


@given(st.binary(max_size=60))
def test_notifications_of_any_content_give_values_or_our_error(data):
    for parse in (j11.datagram, lambda content: j11.pans(content, "CCDDEEFF")):
        with contextlib.suppress(MalformedError):
            parse(data)


def test_a_scan_result_may_name_several_networks_or_none():
    one, two = bytes.fromhex("001C640003CD76A476A4C9"), bytes.fromhex("001C640003CDFFFEFFFEB0")
    assert j11.pans(b"\x01\x05", "CCDDEEFF") == []
    assert j11.pans(b"\x00\x11\x02" + one + two, "CCDDEEFF") == [
        METER,
        Pan(0x3B, 0xFFFE, "001C640003CDFFFE", 88, "CCDDEEFF"),
    ]


def test_a_message_shows_none_of_its_content():
    assert "30313233" not in repr(Message(0x2054, b"0123")).lower()
    assert "0123" not in repr(Message(0x2054, b"0123"))


class Wire:
    """A serial line in memory."""

    def __init__(self):
        self.arrived = asyncio.Queue()
        self.dongle = None

    async def read(self):
        if (data := await self.arrived.get()) is None:
            raise LinkError("the port has closed")
        return data

    async def write(self, data):
        self.dongle.receive(data)


@contextlib.asynccontextmanager
async def conversation(radio=None, password=PASSWORD):
    """Give a session on the simulated dongle with its meter, in virtual time."""
    radio = radio or Radio(ID, PASSWORD, radio_time=1.0, latency_s=0.5)
    wire, clock = Wire(), SimulatedClock(real_ms=lambda: 1_780_239_600_000)
    heard = []
    async with asyncio.TaskGroup() as group:
        wire.dongle = J11Dongle(radio, wire.arrived.put_nowait, group)
        settings = MeterSettings(dialect="j11", radio=radio)
        meter = Meter(House(start_ms=1_780_239_600_000), clock.unix_ms, Nameplate())
        log = type("NoLog", (), {"served": lambda *args, **named: None})()
        wire.dongle.peer = MeterInRange(meter, wire.dongle, clock, log, settings, group)
        session = J11Session(wire, Credentials(ID, password), heard.append, Timeouts(), limits=Limits())
        task = group.create_task(session.run())
        try:
            yield session, wire.dongle
        finally:
            task.cancel()
            wire.dongle.power_off()


@pytest.mark.looptime
async def test_a_meter_is_found_joined_and_asked():
    async with conversation() as (session, _):
        await session.connect(memory := DictMemory())
        assert (memory.get("pan")["channel"], memory.get("pan")["mac"]) == (0x3B, METER.mac)
        frame = await session.get([0xE7, 0xE8])
        assert list(frame.properties) == [0xE7, 0xE8]
        assert all(frame.properties.values())
        status = session.status()
        assert (status["dialect"], status["rssi_dbm"], status["malformed"], status["strangers"]) == ("J11", -55, 0, 0)


@pytest.mark.looptime
async def test_of_several_networks_of_the_meter_the_strongest_is_taken():
    weak, strong = bytes.fromhex("001C640003CD000111119C"), bytes.fromhex("001C640003CD00022222D8")
    async with conversation() as (session, dongle):
        await session.prepare()
        receive = dongle.receive

        def among_others(data):
            receive(data)
            session._port.arrived.put_nowait(j11.says(j11.SCANNED, b"\x00\x11\x02" + weak + strong))

        dongle.receive = among_others
        assert await session.scan() == Pan(0x3B, 0x2222, "001C640003CD0002", j11.lqi(-40), "CCDDEEFF")
        assert {pan.mac for pan in session._pans} == {"001C640003CD0001", "001C640003CD0002", METER.mac}


def heard_from(mac, remote=3610, local=3610):
    """Return how the dongle tells of a notification from an address and port."""
    notice = bytes.fromhex("1081000102880105FF017301E704000003A1")
    head = j11.address(mac) + remote.to_bytes(2) + local.to_bytes(2) + bytes.fromhex("76A40002C9")
    return j11.says(j11.RECEIVED, head + len(notice).to_bytes(2) + notice)


@pytest.mark.looptime
async def test_what_comes_from_another_house_or_port_is_dropped_and_counted():
    async with conversation() as (session, _):
        session._port.arrived.put_nowait(heard_from(METER.mac))  # before the session: nobody's
        await session.connect(DictMemory())
        before = session.requests.tally.notifications
        for foreign in (heard_from("001C640003CDFFFE"), heard_from(METER.mac, 716), heard_from(METER.mac, local=716)):
            session._port.arrived.put_nowait(foreign)
        session._port.arrived.put_nowait(heard_from(METER.mac))
        await session.get([0xE7])
        assert (session.requests.tally.notifications - before, session.counters.strangers) == (1, 4)


@pytest.mark.looptime
async def test_a_datagram_that_the_dongle_could_not_send_is_told_as_such_and_sent_again():
    async with conversation() as (session, dongle):
        await session.connect(DictMemory())
        dongle.exhaust()
        with pytest.raises(NoAnswerError, match="the dongle did not send: 01"):
            await session.send(b"x")
        with pytest.raises(NoAnswerError, match="no answer within 20 s: the dongle did not send"):
            await session.get([0xE7])
        asyncio.get_running_loop().call_later(1, dongle.rested)
        began = asyncio.get_running_loop().time()
        assert (await session.get([0xE7])).properties[0xE7]
        assert 5 <= asyncio.get_running_loop().time() - began < 7


@pytest.mark.looptime
async def test_a_remembered_network_of_the_other_family_is_joined_without_a_scan():
    async with conversation() as (session, _):
        await session.prepare()
        await session.join(METER)
        assert (await session.get([0xE7])).properties[0xE7]
    assert asyncio.get_running_loop().time() < 10


@pytest.mark.looptime
async def test_a_wrong_password_is_refused_and_another_id_never_found():
    async with conversation(password="BA9876543210") as (session, _):
        with pytest.raises(RefusedError):
            await session.connect(DictMemory())
    async with conversation(Radio("F" * 32, PASSWORD)) as (session, _):
        assert await session.scan() is None


@pytest.mark.looptime
async def test_a_meter_that_is_not_there_is_no_answer_and_no_refusal():
    async with conversation() as (session, _):
        with pytest.raises(NoAnswerError, match="does not answer the join"):
            await session.join(Pan(0x21, 0x76A4, METER.mac, 0))


@pytest.mark.looptime
@pytest.mark.parametrize("end", [lambda dongle: dongle.end_session(0x29), lambda dongle: dongle.restart()])
async def test_an_ended_session_and_a_restart_are_noticed_and_mended(end):
    async with conversation() as (session, dongle):
        await session.connect(memory := DictMemory())
        end(dongle)
        await asyncio.sleep(0)
        with pytest.raises(SessionLostError):
            await session.get([0xE7])
        await session.connect(memory)
        assert (await session.get([0xE7])).properties[0xE7]


@pytest.mark.looptime
async def test_a_dongle_that_falls_silent_while_nobody_asks_is_a_link_error_within_a_minute():
    async def joined_then_mute():
        async with conversation() as (session, dongle):
            await session.connect(DictMemory())
            dongle.receive = lambda data: None
            await asyncio.Event().wait()

    with pytest.raises(ExceptionGroup) as caught:
        await joined_then_mute()
    assert caught.group_contains(LinkError, match="does not answer 006B")
    assert asyncio.get_running_loop().time() < 20 + 60 + 5  # the join, the watch, a command


@pytest.mark.looptime
async def test_a_quiet_dongle_that_lives_is_watched_and_left_alone():
    async with conversation() as (session, dongle):
        await session.connect(DictMemory())
        asked, receive = [], dongle.receive
        dongle.receive = lambda data: (asked.append(data), receive(data))
        began = asyncio.get_running_loop().time()
        await asyncio.sleep(3600)
        assert session.joined
        assert asked == [j11.request(j11.VERSION)] * 60
        await session.get([0xE7])
        dongle.end_session(0x29)
        asked.clear()
        await asyncio.sleep(3600)
        assert asked == []  # whoever joins again finds out whether it lives
    assert asyncio.get_running_loop().time() - began > 7200


@pytest.mark.looptime
async def test_a_mute_dongle_is_a_link_error():
    async with conversation() as (session, dongle):
        dongle.receive = lambda data: None
        with pytest.raises(LinkError, match="does not answer 00D9"):
            await session.prepare()


async def test_the_driver_finds_the_family_out_by_itself(tmp_path):
    samples, enough = [], asyncio.Event()

    async def emit(item, remember=None):
        samples.append(item)
        if sum(isinstance(sample, Sample) for sample in samples) >= 20:
            enough.set()

    clock = SimulatedClock()
    start_ms = clock.unix_ms() // 1_800_000 * 1_800_000
    async with asyncio.TaskGroup() as group:
        ready = asyncio.Event()
        serving = group.create_task(
            serve(
                House(start_ms=start_ms),
                clock,
                link=tmp_path / "dongle",
                ready=ready,
                settings=MeterSettings(dialect="j11"),
            )
        )
        await ready.wait()
        context = Context("meter", FastClock(600), {"route-b": f'{{"id": "{ID}", "password": "{PASSWORD}"}}'}.get)
        driver = create(context, {"port": str(tmp_path / "dongle"), "credentials": "route-b", "poll_s": 10})
        running = group.create_task(driver.run(emit, DictMemory()))
        await asyncio.wait_for(enough.wait(), 20)
        status = driver.status()
        running.cancel()
        serving.cancel()
    assert (status["dialect"], status["failures"]) == ("J11", 0)
