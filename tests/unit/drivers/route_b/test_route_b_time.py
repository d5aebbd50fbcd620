"""The meter's clock for a gateway that has none: asked for only then, bounded honestly, never set by a spoilt digit."""

import asyncio
import itertools
import random
from datetime import timedelta

import pytest
from meter_air import START, START_MS, Home, VirtualClock

from drivers.api import TellsTime
from drivers.route_b import meter
from drivers.route_b.meter_time import OLD_MS, READINGS, MeterTime

MINUTE_MS = 60_000


def lost_clock():
    clock = VirtualClock()
    clock.ahead_ms = None
    return clock


def error_ms(home):
    """Return how far the hint is from the truth, and how far it says that it may be."""
    hint = home.driver.time_hint()
    return abs(hint.unix_ms - START_MS - hint.boot_ms), hint.within_ms


@pytest.mark.looptime(noop_cycles=0)
@pytest.mark.parametrize("release", ["F", "R"])
async def test_a_gateway_without_a_clock_learns_the_time_and_how_far_off_it_may_be(release):
    async with Home(clock=lost_clock(), poll_s=31, release=release).at_work() as home:
        assert isinstance(home.driver, TellsTime)
        assert home.driver.time_hint() is None
        await asyncio.sleep(95)
        off_ms, within_ms = error_ms(home)
        assert off_ms <= within_ms <= 61_000
        await asyncio.sleep(1800)
        off_ms, within_ms = error_ms(home)
        assert off_ms <= within_ms <= 25_000
        home.clock.ahead_ms = START_MS + home.driver.time_hint().unix_ms - home.clock.true_ms()  # the agent believes it
        asked = home.asked_for("6206E700E800E000E30097009800")
        await asyncio.sleep(1800)
        assert home.asked_for("6206E700E800E000E30097009800") - asked <= 1
        await asyncio.sleep(2 * OLD_MS / 1000)
        assert 2 <= home.asked_for("6206E700E800E000E30097009800") - asked <= 3 or release == "R"
    assert home.driver.status()["failures"] == 0


@pytest.mark.looptime(noop_cycles=0)
async def test_a_gateway_that_knows_the_time_does_not_ask_for_it_at_a_poll():
    async with Home().at_work() as home:
        await asyncio.sleep(3600)
    assert home.driver.time_hint() is None
    assert home.asked_for("6206E700E800E000E30097009800") == 0
    assert home.asked_for("6204E700E800E000E300") >= 119


@pytest.mark.looptime(noop_cycles=0)
async def test_a_meter_that_has_no_clock_to_read_gives_no_hint_and_its_values_all_the_same():
    async with Home(clock=lost_clock(), without=frozenset({0x98})).at_work() as home:
        await asyncio.sleep(900)
    assert home.driver.time_hint() is None
    assert home.driver.status()["polls"] >= 29


@pytest.mark.looptime(noop_cycles=0)
async def test_a_meter_whose_clock_is_wrong_is_passed_on_as_it_is():
    async with Home(clock=lost_clock(), clock_error_s=-7200).at_work() as home:
        await asyncio.sleep(900)
        off_ms, within_ms = error_ms(home)
        assert abs(off_ms - 7_200_000) <= within_ms <= 31_000


@pytest.mark.looptime(noop_cycles=0)
async def test_spoilt_digits_of_date_and_time_set_no_time():
    """Every twentieth answer has one bit of 97 or 98 spoilt: whatever is told, it is true and close."""
    dice, home, hints, clocks = random.Random(3), Home(clock=lost_clock(), poll_s=31), [], itertools.count(1)

    def spoil(request, answer):
        if request[10:12] != b"\x62\x06" or next(clocks) % READINGS:
            return [answer]
        at = dice.choice([38, 39, 42, 43, 44, 45])
        return [answer[:at] + bytes([answer[at] ^ 1 << dice.randrange(8)]) + answer[at + 1 :]]

    home.spoil = spoil
    async with home.at_work():
        for _ in range(400):
            await asyncio.sleep(30)
            if home.driver.time_hint() is not None:
                hints.append(error_ms(home))
    assert len(hints) > 390
    assert all(off_ms <= within_ms <= 61_000 for off_ms, within_ms in hints)


@pytest.mark.looptime(noop_cycles=0)
@pytest.mark.parametrize("release", ["F", "R"])
async def test_a_meter_that_takes_no_more_than_four_properties_is_read_all_the_same(release):
    home = Home(clock=lost_clock(), release=release)
    home.spoil = lambda request, answer: [] if request[11] > 4 else [answer]
    async with home.at_work():
        await asyncio.sleep(3600)
        assert home.driver.time_hint() is None
        status = home.driver.status()
    assert status["failures"] == 3
    assert status["polls"] >= 110
    more = [data for data in home.asked if data[10:12] == b"\x62\x06"]
    assert 3 <= len(more) <= 45  # three questions, each asked again until its deadline


@pytest.mark.looptime(noop_cycles=0)
async def test_a_poll_that_the_radio_lost_takes_no_property_away():
    home = Home(clock=lost_clock(), release="R")
    async with home.at_work():
        for _ in range(5):
            home.silent = True
            await asyncio.sleep(100)
            home.silent = False
            await asyncio.sleep(600)
        told = len(home.told("1min"))
        await asyncio.sleep(300)
        assert len(home.told("1min")) >= told + 8
    assert home.driver.time_hint() is not None


# The bounds alone.


def moment(seconds):
    """What a meter shows at a time after the start: the minute, without its seconds."""
    return (START + timedelta(seconds=seconds)).replace(second=0, microsecond=0)


def test_one_reading_is_not_believed_and_two_leave_less_open():
    told = MeterTime()
    told.heard(moment(10), 9_500, 10_500)
    assert told.hint() is None
    told.heard(moment(55), 54_500, 55_500)
    hint = told.hint()
    assert abs(hint.unix_ms - START_MS - hint.boot_ms) <= hint.within_ms <= 60_000
    told.heard(moment(61), 60_500, 61_500)
    told.heard(moment(62), 61_500, 62_500)
    told.heard(moment(58), 57_500, 58_500)
    assert told.hint().within_ms <= 4_000
    told.heard(moment(90 + 60), 89_500, 90_500)  # one digit of one answer
    assert abs(told.hint().unix_ms - START_MS - told.hint().boot_ms) <= told.hint().within_ms <= 4_000


def test_readings_that_contradict_each_other_begin_again():
    told = MeterTime()
    told.heard(moment(10), 9_500, 10_500)
    told.heard(moment(3_620), 19_500, 20_500)
    assert told.hint().within_ms > 1_800_000  # either may be the wrong one
    told.heard(moment(3_630), 29_500, 30_500)
    told.heard(moment(3_640), 39_500, 40_500)
    assert abs(told.hint().unix_ms - START_MS - 40_500 - 3_600_000) <= told.hint().within_ms <= 31_000


def test_what_is_no_time_is_no_reading():
    told = MeterTime()
    for properties in (
        {},
        {meter.TIME: b""},
        {meter.TIME: b"\xff\xff", meter.DATE: b"\xff" * 4},
        {meter.TIME: b"\x00\x00", meter.DATE: b"\x07\xb2\x01\x01"},  # 1970
        {meter.TIME: b"\x00\x05", meter.ONE_MINUTE: b"\x00" * 15},
        {meter.TIME: b"\x00\x05", meter.ONE_MINUTE: bytes.fromhex("07EA0601000400") + bytes(8)},  # 97 says 00:05
        {meter.TIME: b"\x00\x05"},
    ):
        for _ in range(3):
            told.take(properties, 0, 1_000)
    assert told.hint() is None
