"""One unit that is read on a bad line: its chain of models, its sums and their quality, what it refuses."""

from dataclasses import replace

import pytest

from drivers.api import MalformedError, RefusedError
from drivers.modbus import survey
from drivers.modbus.device import Device
from drivers.modbus.library import find
from drivers.modbus.link import ExceptionAnswerError, ShortAnswerError, SilentError
from simulators.house import House
from simulators.modbus_chains import chain_of

NOON = House(seed=1).at(1_780_239_600_000 + 12 * 3_600_000)
FAILURE, REFUSED, BUSY = 4, 2, 6


class Wire:
    """A unit in memory; `mishap` may raise instead of an answer."""

    is_open = True

    def __init__(self, unit, mishap=lambda request: None):
        self.unit, self.mishap, self.asked = unit, mishap, []

    async def read(self, unit, request, timeout_s):
        self.asked.append(request)
        self.mishap(request)
        answer = self.unit.read(request.address, request.count, NOON)
        if answer is None:
            raise ExceptionAnswerError(REFUSED, request)
        return answer[0]

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
