"""What the simulated dongles do with the air they are given: limits, refusals, expiry, latency. Plays no meter."""

import asyncio
import contextlib
import random
import statistics
from collections import Counter
from dataclasses import replace

import pytest

from simulators import air
from simulators.air import ONE_PROPERTY, SENDING, SEVERAL_PROPERTIES, Radio, Times, drawn, measured
from simulators.dongle import Dongle
from simulators.j11 import J11Dongle

RADIO = Radio(radio_time=1.0)
MAC = RADIO.mac


class Peer:
    """A meter that answers nothing."""

    def __init__(self, requests):
        self.joined, self.heard = lambda: None, requests.append


class Bench:
    """A dongle, what it said, and what its meter heard."""

    def __init__(self, group, radio, dialect):
        self._said, self.heard = bytearray(), []
        self.dongle = Dongle(dialect, radio, self._said.extend, group, tally=Counter())
        self.dongle.peer = Peer(self.heard)

    def ask(self, line):
        self._said.clear()
        self.dongle.receive(line.encode() + b"\r\n")
        return self.said

    @property
    def said(self):
        return self._said.decode("ascii", "replace")

    async def join(self, password="0123456789AB", mac=MAC):
        self.ask("SKSREG SFE 0")
        self.ask(f"SKSETPWD C {password}")
        self.ask(f"SKSETRBID {RADIO.route_b_id}")
        self.ask("SKSREG S2 3B")
        self.ask(f"SKSREG S3 {mac[-4:]}")
        self.ask(f"SKJOIN {air.link_local(mac)}")
        await asyncio.sleep(60)
        return self.said

    def send(self, data=b"\x10\x81" + bytes(10)):
        self._said.clear()
        self.dongle.receive(f"SKSENDTO 1 {air.link_local(MAC)} 0E1A 1 0 {len(data):04X} ".encode() + data)
        return self.said


@contextlib.asynccontextmanager
async def bench(radio=RADIO, dialect="c2"):
    async with asyncio.TaskGroup() as group:
        made = Bench(group, radio, dialect)
        try:
            yield made
        finally:
            made.dongle.power_off()


@pytest.mark.looptime
async def test_a_dongle_without_transmit_time_sends_nothing_and_joins_nobody():
    async with bench() as one:
        assert "EVENT 25" in await one.join()
        assert " 0 00\r\nOK" in one.send()
        assert len(one.heard) == 1
        one.dongle.exhaust()
        assert "EVENT 32" in one.said
        assert "ESREG 1" in one.ask("SKSREG SFB")
        assert int(one.ask("SKSREG SFD").split()[1], 16) == RADIO.transmit_ms
        assert " 0 01\r\nOK" in one.send()
        assert len(one.heard) == 1
        one.ask("SKTERM")
        assert "EVENT 24" in await one.join()
        one.dongle.rested()
        assert "EVENT 33" in one.said
        assert "ESREG 0" in one.ask("SKSREG SFB")
        assert "EVENT 25" in await one.join()


@pytest.mark.looptime
async def test_a_refused_join_shows_frames_on_02cc_and_an_unanswered_one_shows_none():
    async with bench(replace(RADIO, joins="refused")) as one:
        said = await one.join()
        assert said.count(" 02CC 02CC ") == 2
        assert "EVENT 24" in said
        one.dongle.retune(replace(RADIO, joins="unanswered"))
        said = await one.join()
        assert (said.count("02CC"), said.count("EVENT 24")) == (0, 1)
        one.dongle.retune(RADIO)
        assert "EVENT 25" in await one.join()
        assert (one.dongle.tally["joins_refused"], one.dongle.tally["joins_unanswered"]) == (1, 1)


@pytest.mark.looptime
@pytest.mark.parametrize(("renews", "event"), [(True, "EVENT 25"), (False, "EVENT 24")])
async def test_a_session_expires_and_is_renewed_by_the_dongle_itself_or_not(renews, event):
    async with bench() as one:
        await one.join()
        one.ask("SKVER")
        one.dongle.expire(renews=renews)
        await asyncio.sleep(10)
        assert one.said.index("EVENT 29") < one.said.index(" 02CC 02CC ") < one.said.index(event)
        assert one.dongle.session is renews


@pytest.mark.looptime
async def test_an_exchanged_meter_is_another_network():
    async with bench() as one:
        await one.join()
        other = replace(RADIO, mac="001C640003CD80B5")
        one.dongle.retune(other)
        assert " 0 01\r\nOK" in one.send()
        assert not one.dongle.deliver(b"\x10\x81")
        one.ask("SKTERM")
        assert "EVENT 24" in await one.join()
        assert "Pan ID:80B5" in await one_scan(one)
        assert "EVENT 25" in await one.join(mac=other.mac)


async def one_scan(one):
    one.ask("SKSCAN 2 FFFFFFFF 4 0")
    await asyncio.sleep(10)
    return one.said


async def test_the_stick_without_options_refuses_them_and_speaks_text():
    async with bench(dialect="dss") as one:
        for option in ("ROPT", "WOPT 01", "SKAPPVER"):
            assert one.ask(option).endswith("FAIL ER04\r\n")
        assert one.ask("SKINFO").splitlines()[-2].endswith(" 0")
        assert "EVER 1.5.2" in one.ask("SKVER")


@pytest.mark.looptime
async def test_a_damaged_length_costs_a_j11_dongle_one_request():
    said = []
    async with asyncio.TaskGroup() as group:
        dongle = J11Dongle(Radio(), said.append, group)
        request = bytearray.fromhex("d0ea83fc006b000403a80000")
        spoilt = request[:]
        spoilt[6] = 0x40  # it says that 16 KiB follow
        dongle.receive(bytes(spoilt + request))
    assert [message[4:6].hex() for message in said] == ["2fff", "206b"]


@pytest.mark.parametrize("spread", [ONE_PROPERTY, SEVERAL_PROPERTIES, SENDING])
def test_times_are_drawn_as_they_were_measured(spread):
    chance = random.Random(1)
    times = sorted(drawn(spread, chance) for _ in range(20_000))
    for share, seconds in spread[1:-1]:
        assert statistics.fmean(time <= seconds for time in times) == pytest.approx(share, abs=0.01)
    assert spread[0][1] <= times[0]
    assert times[-1] <= spread[-1][1]


def test_measured_air_loses_about_17_of_100_answers_and_takes_its_time():
    radio, times = measured(Radio()), Times(random.Random(1))
    assert 1 - (1 - radio.loss) ** 2 == pytest.approx(0.17, abs=0.005)
    whole = [times.sending_s(radio) + times.answering_s(radio, 1) for _ in range(5_000)]
    assert statistics.median(whole) == pytest.approx(0.569, rel=0.02)
    assert max(whole) <= 0.811
    assert air.ideal(radio) == Radio()
