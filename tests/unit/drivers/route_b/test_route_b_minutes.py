"""One-minute registers of second-generation meters: those of the house exactly, once, and nothing made up."""

import asyncio
import itertools
from datetime import datetime, timedelta
from decimal import Decimal

import pytest
from meter_air import START, Home

from drivers.route_b import meter
from drivers.route_b.meter import JST, AtMinute, Scaling
from drivers.route_b.minutes import LONGEST_PAUSE_POLLS, Minutes
from simulators.house import House

MINUTE = timedelta(minutes=1)
IMPORT, EXPORT = "import_energy_at_1min_kwh", "export_energy_at_1min_kwh"
SECOND_GENERATION = {0xC0, 0xD0, 0xEE, 0xEF}
EVENING = START + timedelta(hours=23, minutes=30)
"""Half an hour before a midnight."""


def ms(moment):
    return round(moment.timestamp() * 1000)


def house_says(begin, first, last, step_ws=360, modulus=10**8, per_kwh=10_000):
    """Return what the house's registers show at each minute, counted as the meter does."""
    oracle, said = House(start_ms=ms(begin)), set()
    for number in range((last - first) // MINUTE + 1):
        at = first + number * MINUTE
        balance = oracle.at(ms(at))
        for name, ws in ((IMPORT, balance.import_ws), (EXPORT, balance.export_ws)):
            said.add((at, name, Decimal(ws // step_ws % modulus) / per_kwh))
    return said


def home(start=START, **more):
    return Home(start_ms=ms(start), **{"release": "R", "unit": "0.0001", "digits": 8} | more)


def exact(told):
    """Return what was told as a set, having seen that nothing was told twice."""
    assert len({(at, name) for at, name, _ in told}) == len(told)
    assert all(isinstance(value, Decimal) for _, _, value in told)
    return set(told)


@pytest.mark.looptime(noop_cycles=0)
async def test_each_minute_is_the_houses_to_the_integer_across_midnight():
    async with home(EVENING).at_work() as house:
        await asyncio.sleep(3600 + 20)
    told = exact(house.told("1min"))
    assert told == house_says(EVENING, EVENING, EVENING + 60 * MINUTE)
    assert house.driver.status()["minutes"] == 61
    assert house.driver.status()["minutes_repaired"] == 0
    assert house.asked_for("6206E700E800E000E300D0009700") >= 119
    assert {0xC0, 0xEE, 0xEF} & house.asked_epcs() == set()  # nothing was missing


@pytest.mark.looptime(noop_cycles=0)
async def test_a_register_that_rolls_over_loses_no_minute():
    # Three digits of 0.0001 kWh are 0.0999 kWh: the import starts anew again and again.
    async with home(START + timedelta(hours=1), digits=3).at_work() as house:
        await asyncio.sleep(1800 + 20)
    begin = START + timedelta(hours=1)
    expected = house_says(begin, begin, begin + 30 * MINUTE, modulus=1000)
    assert exact(house.told("1min")) == expected
    imports = [value for _, name, value in sorted(expected) if name == IMPORT]
    assert any(later < earlier for earlier, later in itertools.pairwise(imports))


@pytest.mark.looptime(noop_cycles=0)
async def test_a_meter_of_the_first_generation_is_never_asked_for_them():
    async with home(release="Q").at_work() as house:
        await asyncio.sleep(1800)
    assert house.told("1min") == []
    assert SECOND_GENERATION & house.asked_epcs() == set()
    assert house.asked_for("6204E700E800E000E300") >= 59
    assert "minutes" not in house.driver.status()


@pytest.mark.looptime(noop_cycles=0)
async def test_a_meter_without_a_property_map_is_never_asked_for_them():
    async with home(release="R", without=frozenset({0x9F})).at_work() as house:
        await asyncio.sleep(600)
    assert SECOND_GENERATION & house.asked_epcs() == set()
    assert house.driver.status()["polls"] >= 19


@pytest.mark.looptime(noop_cycles=0)
async def test_a_meter_that_lists_the_minute_and_refuses_it_is_learnt():
    house = home()
    del house.meter._readers[0xD0]
    house.meter._readers[0x9F] = home().meter._readers[0x9F]
    async with house.at_work():
        await asyncio.sleep(1800)
        assert house.driver.status()["refused"] == ["D0"]
    assert house.told("1min") == []
    assert house.asked_for("6206E700E800E000E300D0009700") == 2
    assert house.driver.status()["failures"] == 0


@pytest.mark.looptime(noop_cycles=0)
async def test_minutes_that_a_silence_took_are_read_from_the_meters_memory_once():
    async with home().at_work() as house:
        await asyncio.sleep(600)
        house.silent = True
        await asyncio.sleep(1200)
        house.silent = False
        await asyncio.sleep(600)
        assert house.driver.status()["minutes_repaired"] >= 15
    assert exact(house.told("1min")) == house_says(START, START, START + 39 * MINUTE)
    assert 2 <= house.asked_for("6101EF07") <= 3


@pytest.mark.looptime(noop_cycles=0)
async def test_polls_further_apart_than_a_minute_leave_no_minute_out_and_days_are_read_all_the_same():
    async with home(poll_s=240, known_days=1).at_work() as house:
        await asyncio.sleep(3600)
    first = min(at for at, _, _ in house.told("1min"))
    last = max(at for at, _, _ in house.told("1min"))
    assert last - first >= 50 * MINUTE
    assert exact(house.told("1min")) == house_says(START - timedelta(days=1), first, last)
    assert len({at for at, _, _ in house.told("30min")}) == 48 + 2


@pytest.mark.looptime(noop_cycles=0)
async def test_of_a_long_outage_the_last_hour_is_asked_for_and_no_more():
    async with home().at_work() as house:
        await asyncio.sleep(300)
        house.silent = True
        await asyncio.sleep(4 * 3600)
        house.silent = False
        await asyncio.sleep(900)
    told = sorted({at for at, _, _ in house.told("1min")})
    gap = max(later - earlier for earlier, later in itertools.pairwise(told))
    assert timedelta(hours=2, minutes=55) < gap < timedelta(hours=3, minutes=20)
    assert exact(house.told("1min")) <= house_says(START, START, START + timedelta(hours=5))


@pytest.mark.looptime(noop_cycles=0)
async def test_a_meter_that_does_not_open_its_minutes_is_not_asked_again_and_live_values_go_on():
    house = home()
    taken = house.meter._take_value
    house.meter._take_value = lambda code, data: code != 0xEF and taken(code, data)
    async with house.at_work():
        await asyncio.sleep(300)
        house.silent = True
        await asyncio.sleep(300)
        house.silent = False
        await asyncio.sleep(300)
        house.silent = True
        await asyncio.sleep(150)
        house.silent = False
        await asyncio.sleep(300)
        assert house.driver.status()["polls"] >= 25
    assert house.asked_for("6101EF07") == 2  # a single refusal may be a spoilt digit
    assert exact(house.told("1min")) < house_says(START, START, START + timedelta(hours=1))


@pytest.mark.looptime(noop_cycles=0)
async def test_a_meter_without_an_export_register_tells_no_export():
    async with home(without=frozenset({0xE3, 0xE4, 0xEB})).at_work() as house:
        await asyncio.sleep(600)
    assert {name for _, name, _ in house.told("1min")} == {IMPORT}


@pytest.mark.looptime(noop_cycles=0)
async def test_a_meter_whose_clock_is_ahead_is_taken_at_its_own_word():
    async with home(clock_error_s=720).at_work() as house:
        await asyncio.sleep(600)
    ahead = timedelta(minutes=12)
    told = {(at - ahead, name, value) for at, name, value in exact(house.told("1min"))}
    first = min(at for at, _, _ in told)
    assert first <= START + MINUTE
    assert told == house_says(START, first, START + 9 * MINUTE)


REGISTERS = range(45, 53)
"""Where the registers of D0 stand in the answer to a poll; before them its time, after them the clock (97)."""


@pytest.mark.looptime(noop_cycles=0)
@pytest.mark.parametrize("registers", [False, True])
async def test_every_spoilt_byte_of_a_poll_gives_a_value_or_nothing_and_never_another_minute(registers):
    """Polls are further apart than minutes and no gap is filled, so that a minute misnamed would stand alone."""
    house, spoilt = home(poll_s=100, without=frozenset({0xEE, 0xEF})), []

    def spoil(request, answer):
        if request[10:12] != b"\x62\x06" or len(spoilt) == 0:
            spoilt.extend([0] * (request[10:12] == b"\x62\x06"))
            return [answer]
        places = REGISTERS if registers else [at for at in range(len(answer)) if at not in REGISTERS]
        at, flip = places[len(spoilt) * 17 % len(places)], 1 << len(spoilt) % 7
        spoilt.append(at)
        return [answer[:at] + bytes([answer[at] ^ flip]) + answer[at + 1 :]]

    house.spoil = spoil
    async with house.at_work():
        await asyncio.sleep(6 * 3600)
    assert len(spoilt) > 100
    true = house_says(START, START, START + timedelta(hours=6))
    told = exact(house.told("1min"))
    assert {(at, name) for at, name, _ in told} <= {(at, name) for at, name, _ in true}
    assert len(told) > 40
    if not registers:
        assert told <= true
    else:  # the registers of this moment stand beside them: no digit is off by more than two kWh
        exactly = {(at, name): value for at, name, value in true}
        assert all(abs(value - exactly[at, name]) < 2 for at, name, value in told)


# The rules alone.

SCALING = Scaling(Decimal("0.1"), 1, 6)
NOON = datetime(2026, 6, 1, 12, 5, tzinfo=JST)
D0 = bytes.fromhex("07EA06010C0500" + "00001234" + "00000056")
POLL = {meter.ONE_MINUTE: D0, meter.TIME: b"\x0c\x05", meter.IMPORT: D0[7:11], meter.EXPORT: D0[11:]}


def test_a_minute_is_read_as_the_appendix_has_it():
    assert meter.at_minute(D0) == AtMinute(NOON, 0x1234, 0x56)
    assert meter.at_minute(bytes.fromhex("FFFFFFFFFFFFFF" + "FFFFFFFE" * 2)) == AtMinute(None, None, None)
    assert meter.history_pairs(bytes.fromhex("07EA06010C050200000002FFFFFFFE0000000100000003"), 10) == (
        NOON,
        ((2, None), (1, 3)),
    )
    for text in ("", "07EA06010C0500", D0.hex() + "00", "07EA06010C0560" + "00" * 8, "07EA06010C0500" + "99" * 8):
        with pytest.raises(meter.FrameError):
            meter.at_minute(bytes.fromhex(text))
    with pytest.raises(meter.FrameError, match="1 to 10"):
        meter.history_pairs(bytes.fromhex("07EA06010C050B") + bytes(88), 10)


class Bench:
    def __init__(self):
        self.minutes, self.items = Minutes("meter", lambda epc: True), []

    async def emit(self, item, remember=None):
        self.items.append(item)

    async def poll(self, change=None, now=NOON + timedelta(seconds=20)):
        await self.minutes.pass_on({**POLL, **(change or {})}, SCALING, now, self.emit)
        return len(self.items)

    async def step(self, ask):
        link = type("Link", (), {"ask": staticmethod(ask)})
        await self.minutes.step(link, SCALING, self.emit)


async def test_a_minute_that_its_own_clock_confirms_is_taken_at_once_and_only_once():
    bench = Bench()
    assert [await bench.poll(), await bench.poll()] == [1, 1]
    (sample,) = bench.items
    assert sample.at == NOON
    assert sample.values == {IMPORT: Decimal("466.0"), EXPORT: Decimal("8.6")}


@pytest.mark.parametrize(
    ("change", "now"),
    [
        ({meter.TIME: b"\x0c\x06"}, NOON),
        ({meter.TIME: b""}, NOON),
        ({}, None),
        ({}, NOON + timedelta(hours=3)),
        ({meter.ONE_MINUTE: D0[:6] + b"\x07" + D0[7:]}, NOON),
        ({meter.IMPORT: bytes.fromhex("00001233")}, NOON),  # less than a minute ago
        ({meter.IMPORT: bytes.fromhex("00001334")}, NOON),  # 25.6 kWh more than a minute ago
    ],
)
async def test_what_nothing_confirms_must_come_twice(change, now):
    bench = Bench()
    assert await bench.poll(change, now) == 0
    assert await bench.poll(change, now) == 1


@pytest.mark.parametrize("now", [NOON + timedelta(days=2), NOON - timedelta(days=2)])
async def test_a_minute_of_another_day_is_never_taken(now):
    bench = Bench()
    assert [await bench.poll(now=now) for _ in range(3)] == [0, 0, 0]
    assert bench.minutes.malformed == 3


async def test_an_answer_that_makes_no_sense_counts_and_gives_nothing():
    bench = Bench()
    assert await bench.poll({meter.ONE_MINUTE: b"\x01"}) == 0
    assert await bench.poll({meter.ONE_MINUTE: bytes.fromhex("FFFFFFFFFFFFFF") + D0[7:]}) == 0
    assert await bench.poll({meter.ONE_MINUTE: D0[:7] + bytes.fromhex("FFFFFFFE" * 2)}) == 0
    assert bench.minutes.malformed == 1


async def test_a_silent_memory_is_asked_ever_more_seldom():
    bench, asked = Bench(), []
    await bench.poll()
    later = {meter.ONE_MINUTE: D0[:5] + b"\x09" + D0[6:], meter.TIME: b"\x0c\x09"}
    await bench.poll(later)
    assert bench.minutes.waiting == 3

    async def ask(*questions):
        asked.append(number)
        raise meter.FrameError("nothing", 0)

    for number in range(100):  # noqa: B007  (`ask` looks at it)
        await bench.step(ask)
    assert asked[:4] == [0, 3, 8, 17]
    assert asked[-1] - asked[-2] == LONGEST_PAUSE_POLLS + 1


async def test_a_minute_that_nobody_took_over_is_told_again():
    bench = Bench()
    emit = bench.emit

    async def full(item, remember=None):
        raise asyncio.CancelledError

    bench.emit = full
    with pytest.raises(asyncio.CancelledError):
        await bench.poll()
    bench.emit = emit
    assert await bench.poll() == 1
