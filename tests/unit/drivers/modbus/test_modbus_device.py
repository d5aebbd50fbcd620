"""One unit that is read on a bad line: its chain of models, its sums and their quality, what it refuses."""

import struct
from dataclasses import replace
from decimal import Decimal

import pytest

from drivers.api import MalformedError, RefusedError
from drivers.modbus import survey
from drivers.modbus.derived import Derived
from drivers.modbus.device import Device
from drivers.modbus.learnt import ASK_AGAIN_MS
from drivers.modbus.library import find
from drivers.modbus.link import ExceptionAnswerError, ShortAnswerError, SilentError, UnreachedError
from drivers.modbus.register_map import parse
from simulators.house import House
from simulators.modbus_chains import chain_of
from simulators.modbus_units import Unit

NOON = House(seed=1).at(1_780_239_600_000 + 12 * 3_600_000)
FAILURE, REFUSED, BUSY = 4, 2, 6


class Wire:
    """A unit in memory; `mishap` may raise instead of an answer."""

    is_open = True

    def __init__(self, unit, mishap=lambda request: None):
        self.unit, self.mishap, self.asked, self.words = unit, mishap, [], {}

    async def read(self, unit, request, timeout_s):
        self.asked.append(request)
        self.mishap(request)
        answer = self.unit.read(request.address, request.count, NOON)
        if answer is None:
            raise ExceptionAnswerError(REFUSED, request)
        asked = range(request.address, request.address + request.count)
        served = dict(zip(asked, struct.iter_unpack(">H", answer[0]), strict=True))
        return b"".join(self.words.get(at, served[at][0]).to_bytes(2) for at in asked)

    async def open(self, timeout_s):
        pass

    def close(self):
        pass


class Once:
    """What goes wrong with the nth request and with none after it, so often that asking again at once is in vain."""

    def __init__(self, nth, error, times=3):
        self.left, self.error, self.times = nth, error, times

    def __call__(self, request):
        self.left -= 1
        if self.left < 0 and self.times:
            self.times -= 1
            raise self.error(request)


PASSING = {
    "busy": lambda request: ExceptionAnswerError(BUSY, request),
    "failure": lambda request: ExceptionAnswerError(FAILURE, request),
    "garbled": lambda request: MalformedError("noise"),
    "short": lambda request: ShortAnswerError(b"", request),
    "silent": lambda request: SilentError("no answer"),
}
SOLAREDGE = chain_of([1, 103, 120, 124, 160, 201], maker="SolarEdge")


def reading(unit=SOLAREDGE, register_map=None, **mishap):
    return Device("d", 1, 1.0, register_map), Wire(unit, **mishap)


async def rounds(device, wire, count, poll_ms=1_000):
    """Return what each round read, errors among them."""
    told = []
    for number in range(count):
        try:
            told.append(await device.read(wire, number * poll_ms, 10 * poll_ms))
        except (RefusedError, MalformedError, SilentError) as error:
            told.append(error)
    return told


async def requests_of_a_walk():
    device, wire = reading()
    await device.models(wire)
    return len(wire.asked)


@pytest.mark.parametrize("passing", PASSING)
async def test_what_passes_is_never_the_end_of_a_chain_nor_the_want_of_a_maker(passing):
    wanted_device, wire = reading()
    (wanted,) = await rounds(wanted_device, wire, 1)
    assert wanted["grid_power_w"] == -NOON.grid_w  # this maker's meters count export
    for nth in range(await requests_of_a_walk()):
        device, wire = reading(mishap=Once(nth, PASSING[passing], times=1 if passing == "silent" else 3))
        error, *told = await rounds(device, wire, 4)
        assert isinstance(error, RefusedError | MalformedError | SilentError)
        assert {name: value for values in told for name, value in values.items()} == wanted
        assert device.describe() == wanted_device.describe()
        assert await device.models(wire) == await wanted_device.models(wire)


@pytest.mark.parametrize("passing", ["busy", "failure", "garbled", "short"])
async def test_one_such_answer_in_a_walk_costs_no_round(passing):
    for nth in range(await requests_of_a_walk()):
        device, wire = reading(mishap=Once(nth, PASSING[passing], times=1))
        (values,) = await rounds(device, wire, 1)
        assert values["grid_power_w"] == -NOON.grid_w


def beyond(first, error):
    """Let every read from a register on go wrong."""

    def mishap(request):
        if request.address >= first:
            raise error(request)

    return mishap


async def test_a_chain_without_an_end_model_ends_where_the_device_refuses():
    end = SOLAREDGE.ranges[0][1] - 2
    device, wire = reading(mishap=beyond(end, lambda request: ExceptionAnswerError(REFUSED, request)))
    assert len(await device.models(wire)) == 6
    device, wire = reading(mishap=beyond(end, PASSING["failure"]))
    with pytest.raises(ExceptionAnswerError):
        await device.models(wire)
    over = replace(find("sunspec_storage"), absent_codes=frozenset({FAILURE}))
    device, wire = reading(register_map=over, mishap=beyond(end, PASSING["failure"]))
    assert len(await device.models(wire)) == 6


@pytest.mark.parametrize("passing", ["busy", "garbled"])
async def test_a_survey_of_a_busy_unit_says_so_and_not_that_it_has_no_models(passing):
    whole = await survey.chain_of(Wire(SOLAREDGE), 1, 1.0)
    for nth in range(await requests_of_a_walk()):
        assert await survey.chain_of(Wire(SOLAREDGE, Once(nth, PASSING[passing], times=2)), 1, 1.0) == whole
        with pytest.raises((ExceptionAnswerError, MalformedError)):
            await survey.chain_of(Wire(SOLAREDGE, Once(nth, PASSING[passing])), 1, 1.0)
    (found,) = [one async for one in survey.scan(Wire(SOLAREDGE, Once(5, PASSING[passing])), [1], 1.0)]
    assert found.told()["trouble"]
    (found,) = [one async for one in survey.scan(Wire(SOLAREDGE), [1], 1.0)]
    assert "trouble" not in found.told()


async def test_a_dump_leaves_nothing_out_because_the_unit_is_busy():
    span = survey.Span("holding", 40_000, 40_100)
    whole = await survey.dump(Wire(SOLAREDGE), 1, [span], 1.0)
    assert await survey.dump(Wire(SOLAREDGE, Once(1, PASSING["busy"], times=2)), 1, [span], 1.0) == whole
    with pytest.raises(ExceptionAnswerError):
        await survey.dump(Wire(SOLAREDGE, Once(1, PASSING["busy"])), 1, [span], 1.0)


TWO_BATTERIES = parse(
    "two",
    """
maker: T
sentinels: {u16: [0xFFFF]}
points:
  ac_power_w: {address: 0, type: u16}
  battery1_power_w: {address: 100, type: u16}
  battery1_charge_energy_kwh: {address: 101, type: u16}
  battery2_power_w: {address: 200, type: u16}
  charged2: {address: 201, type: u16, hidden: true}
  total_w: {address: 300, type: u16}
quantities:
  house_w: {kind: gauge, unit: W}
  total_w: {kind: gauge, unit: W}
sums:
  battery_power_w: {add: [battery1_power_w, battery2_power_w], optional: [battery2_power_w]}
  battery_charge_energy_kwh:
    add: [battery1_charge_energy_kwh, charged2]
    optional: [charged2]
  house_w: {add: [ac_power_w], subtract: [battery_power_w], optional: [battery_power_w]}
  total_w: {add: [ac_power_w]}
""",
)
BATTERIES = Unit("d", ((0, 400),), (), {0: 500, 100: 30, 101: 700, 200: 40, 201: 900, 300: 7})
TOTALS = ("battery_power_w", "battery_charge_energy_kwh", "house_w", "total_w")


def totals(values):
    return {name: values[name] for name in TOTALS if name in values}


WHOLE = {"battery_power_w": 70, "battery_charge_energy_kwh": 1600, "house_w": 430, "total_w": 7}


def at_first(address, error):
    """Let the first read that touches a register go wrong."""
    left = [error]

    def mishap(request):
        if left and request.address <= address < request.address + request.count:
            raise left.pop()(request)

    return mishap


@pytest.mark.parametrize("passing", ["busy", "garbled"])
async def test_a_part_that_one_round_does_not_read_takes_the_total_with_it(passing):
    device, wire = reading(BATTERIES, TWO_BATTERIES, mishap=at_first(200, PASSING[passing]))
    without, whole = await rounds(device, wire, 2)
    assert totals(without) == {"total_w": 7}
    assert totals(whole) == WHOLE
    device, wire = reading(BATTERIES, TWO_BATTERIES, mishap=at_first(300, PASSING[passing]))
    without, whole = await rounds(device, wire, 2)
    assert "total_w" not in without  # what stands in does so for good, not for a round
    assert totals(whole) == WHOLE


async def test_a_part_that_the_device_does_not_have_is_left_out():
    refused = replace(BATTERIES, ranges=((0, 200), (300, 301)))
    absent = replace(BATTERIES, constants={**BATTERIES.constants, 200: 0xFFFF, 201: 0xFFFF})
    for unit in (refused, absent):
        told = await rounds(*reading(unit, TWO_BATTERIES), 3)
        one = {"battery_power_w": 30, "battery_charge_energy_kwh": 700, "house_w": 470, "total_w": 7}
        assert [totals(values) for values in told] == [one] * 3


@pytest.mark.parametrize("asleep", [0, 0xFFFF])
@pytest.mark.parametrize("register", [101, 201])
async def test_a_total_never_steps_back_because_a_part_of_it_sleeps(asleep, register):
    device, wire = reading(BATTERIES, TWO_BATTERIES)
    told = []
    for word in (700, asleep, asleep, 800):
        wire.words[register] = word
        told += await rounds(device, wire, 1)
    other = WHOLE["battery_charge_energy_kwh"] - BATTERIES.constants[register]
    assert [one["battery_charge_energy_kwh"] for one in told] == [other + 700, None, None, other + 800]
    assert all(one["battery_power_w"] == 70 for one in told)
    again, wire = reading(BATTERIES, TWO_BATTERIES)
    again.qualities.recall(sorted(device.qualities.counted))
    wire.words[register] = asleep
    (after_a_restart,) = await rounds(again, wire, 1)
    assert after_a_restart["battery_charge_energy_kwh"] is None
    assert again.quality(0, 1_000, 1_000)["battery_charge_energy_kwh"] == "bad"


async def test_a_part_that_counted_and_is_refused_now_leaves_no_total():
    device, wire = reading(BATTERIES, TWO_BATTERIES)
    await rounds(device, wire, 1)
    wire.unit = replace(BATTERIES, ranges=((0, 201), (300, 301)))
    *_, last = await rounds(device, wire, 3)
    assert device.refused == {"charged2": REFUSED}
    assert "battery_charge_energy_kwh" not in last


async def test_pv_of_two_strings_does_not_fall_when_the_second_sleeps():
    device, wire = reading(chain_of([1, 103, 124, 160]))
    await device.models(wire)
    (low,) = (point.address + 1 for point in device.map.points if point.quantity == "pv2_energy_kwh")
    wire.words[low] = 5_000
    told = []
    for word in (5_000, 0, 5_001):
        wire.words[low] = word
        told += await rounds(device, wire, 1)
    both = Decimal(NOON.pv_ws // 3_600 + 5_000) / 1_000
    assert [one["pv_energy_kwh"] for one in told] == [both, None, both + Decimal("0.001")]


SELDOM = parse(
    "seldom",
    """
maker: T
points:
  ac_power_w: {address: 0, type: u16}
  bought_low: {address: 100, type: u16, hidden: true, poll: slow}
  bought_high: {address: 101, type: u16, hidden: true, poll: slow, scale: 65536}
  rated1: {address: 200, type: u16, hidden: true, poll: once}
sums:
  import_energy_kwh: {add: [bought_low, bought_high]}
  load_energy_kwh: {add: [import_energy_kwh]}
  inverter_rated_power_w: {add: [rated1]}
  pv_power_w: {add: [ac_power_w]}
""",
)


async def test_a_total_is_as_stale_as_its_most_seldom_part():
    device, wire = reading(BATTERIES, SELDOM)
    (values,) = await rounds(device, wire, 1)
    assert values["import_energy_kwh"] == 30 + 700 * 65536
    every = {"import_energy_kwh", "load_energy_kwh", "inverter_rated_power_w", "pv_power_w"}

    def good(now_ms):
        told = device.quality(now_ms, 10_000, 60_000)
        assert every <= told.keys()
        return {name for name in every if told[name] == "good"}

    assert good(20_000) == every
    assert good(140_000) == every - {"pv_power_w"}
    assert good(160_000) == {"inverter_rated_power_w"}


@pytest.mark.parametrize("code", [1, 2, 3, 4, 10, 11, 128])
async def test_what_a_map_names_as_absent_is_cornered_like_an_illegal_address(code):
    def mishap(request):
        if request.address <= 101 < request.address + request.count:
            raise (UnreachedError("no path", code) if code in {10, 11} else ExceptionAnswerError(code, request))

    register_map = replace(TWO_BATTERIES, absent_codes=frozenset({4, 10, 11, 128}), derived=Derived())
    device, wire = reading(BATTERIES, register_map, mishap=mishap)
    told = await rounds(device, wire, 2)
    assert device.refused.keys() == {"battery1_charge_energy_kwh"}
    assert [values.keys() ^ {point.quantity for point in register_map.points} for values in told] == [
        {"battery1_charge_energy_kwh"}
    ] * 2


async def test_a_refused_register_is_asked_for_once_an_hour_and_read_again_when_it_is_served():
    device, wire = reading(replace(BATTERIES, ranges=((0, 201), (300, 301))), TWO_BATTERIES)
    register = 201

    async def asked_for_it_at(*moments):
        wire.asked.clear()
        for now_ms in moments:
            await device.read(wire, now_ms, 10_000)
        return sum(one.address <= register < one.address + one.count for one in wire.asked)

    assert await asked_for_it_at(0) > 0
    assert device.refused == {"charged2": REFUSED}
    assert await asked_for_it_at(1_000, ASK_AGAIN_MS - 1) == 0
    assert await asked_for_it_at(ASK_AGAIN_MS, ASK_AGAIN_MS + 1, 2 * ASK_AGAIN_MS - 1) == 1
    wire.unit = BATTERIES
    assert await asked_for_it_at(2 * ASK_AGAIN_MS) == 1
    assert device.refused == {}
    values = await device.read(wire, 2 * ASK_AGAIN_MS + 1_000, 10_000)
    assert totals(values) == WHOLE


@pytest.mark.parametrize("trouble", [*PASSING, "refused"])
async def test_a_register_that_is_asked_for_again_costs_nothing_else(trouble):
    error = PASSING.get(trouble, lambda request: ExceptionAnswerError(REFUSED, request))
    device, wire = reading(replace(BATTERIES, ranges=((0, 201), (300, 301))), TWO_BATTERIES)
    (before,) = await rounds(device, wire, 1)
    wire.mishap = at_first(201, error)
    assert await device.read(wire, ASK_AGAIN_MS, 10_000) == before
    assert device.refused == {"charged2": REFUSED}


async def test_what_was_read_before_a_silence_is_kept_and_nothing_more_is_asked_in_that_round():
    device, wire = reading(BATTERIES, TWO_BATTERIES, mishap=at_first(200, PASSING["silent"]))
    part, whole = await rounds(device, wire, 2)
    assert (part["ac_power_w"], part["battery1_power_w"]) == (500, 30)
    assert not part.keys() & {"battery2_power_w", "total_w", "battery_power_w"}
    assert totals(whole) == WHOLE
    assert [one.address for one in wire.asked] == [0, 100, 200, 0, 100, 300, 200]  # the suspect last


async def test_a_unit_that_says_nothing_at_all_is_silent():
    def mishap(request):
        raise SilentError("no answer")

    device, wire = reading(BATTERIES, TWO_BATTERIES, mishap=mishap)
    assert [type(one) for one in await rounds(device, wire, 8)] == [SilentError] * 8
    assert device.refused == {}


async def test_what_is_read_once_is_asked_for_until_it_was_read():
    device, wire = reading(BATTERIES, SELDOM, mishap=at_first(200, PASSING["busy"]))
    told = await rounds(device, wire, 25)
    assert [number for number, values in enumerate(told) if "inverter_rated_power_w" in values] == [10]
