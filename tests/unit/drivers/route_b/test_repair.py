"""The repair alone, with a meter that answers at once: who took nothing over is told again, and nobody twice."""

import asyncio
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from drivers.api import Event, RefusedError, Sample
from drivers.contract import DictMemory
from drivers.route_b import echonet
from drivers.route_b.meter import JST, Scaling
from drivers.route_b.repair import LONGEST_PAUSE_POLLS, Repair
from drivers.route_b.requests import NoAnswerError, Question
from simulators.house import House
from simulators.metering import Meter, Nameplate

MIDNIGHT = datetime(2026, 6, 1, tzinfo=JST)
SCALING = Scaling(Decimal("0.1"), 1, 6)


def days_ago(days):
    return round((MIDNIGHT - timedelta(days=days)).timestamp() * 1000)


class Clock:
    def __init__(self):
        self.now = MIDNIGHT + timedelta(hours=1)

    def boot_ms(self):
        return self.unix_ms()

    def unix_ms(self):
        return round(self.now.timestamp() * 1000)


class Home:
    """A repair, its meter, and a place that takes items over as long as `room` lasts."""

    def __init__(self, house=None, **plate):
        self.clock, self.memory, self.items, self.room, self.silent = Clock(), DictMemory(), [], 10_000, False
        self.meter = Meter(house or House(start_ms=days_ago(3)), self.clock.unix_ms, Nameplate(**plate))
        self.asked = []
        self.repair = self.new()

    def new(self):
        return Repair("meter", self.clock, self.emit, self.memory, lambda epc: epc not in (0xEC, 0xED))

    async def emit(self, item, remember=None):
        if self.room <= 0:
            raise asyncio.CancelledError
        self.room -= 1
        self.items.append(item)
        await self.memory.update(remember or {})

    async def get(self, epcs):
        return (await self.ask(Question.get(epcs)))[0]

    async def ask(self, *questions):
        if self.silent:
            raise NoAnswerError("silence")
        frames = [
            echonet.Frame(1, echonet.CONTROLLER, echonet.METER, question.esv, dict(question.properties))
            for question in questions
        ]
        self.asked += [frame.esv for frame in frames]
        return [echonet.decode(self.meter.answer(echonet.encode(frame)).frame.encode()) for frame in frames]

    @property
    def moments(self):
        return [item.at for item in self.items if isinstance(item, Sample)]

    def events(self, kind):
        return [item.data for item in self.items if isinstance(item, Event) and item.kind == kind]

    async def steps(self, number):
        for _ in range(number):
            await self.repair.step(self, SCALING)


async def test_one_day_is_read_at_a_time_and_then_nothing_more():
    home = Home()
    await home.steps(1)
    assert len(home.moments) == 2 + 1  # 00:00, 00:30 and 01:00 of today
    await home.steps(1)
    assert len(home.moments) == 3 + 48
    asked = len(home.asked)
    await home.steps(5)
    assert len(home.asked) == asked
    assert home.events("half_hours")[0]["have"] == 48


@pytest.mark.parametrize("room", [0, 1, 10, 50])
async def test_what_nobody_took_over_is_told_again_and_nothing_twice(room):
    home = Home()
    home.room = room
    with pytest.raises(asyncio.CancelledError):
        await home.steps(5)
    home.room = 10_000
    home.repair.joined()
    await home.steps(5)
    assert len(home.moments) == len(set(home.moments)) == 51


async def test_after_a_power_cut_what_was_not_written_down_is_told_again():
    home = Home()
    home.room = 20
    with pytest.raises(asyncio.CancelledError):
        await home.steps(5)
    home.room = 10_000
    home.repair = home.new()
    await home.steps(5)
    assert set(home.moments) == {(MIDNIGHT + timedelta(minutes=30 * n)).astimezone(UTC) for n in range(-48, 3)}


async def test_a_notification_while_a_day_is_read_is_not_told_by_both():
    home = Home()
    emit = home.emit

    async def busy(item, remember=None):
        await home.repair.pass_on(MIDNIGHT, {0xEA: Decimal(1), 0xEB: Decimal(1)})
        await emit(item, remember)

    home.repair.resume(busy, home.memory)
    await home.steps(3)
    assert home.moments.count(MIDNIGHT.astimezone(UTC)) == 1


async def test_a_silent_memory_is_asked_ever_more_seldom_and_the_tally_comes_all_the_same():
    home = Home()
    await home.repair.pass_on(MIDNIGHT + timedelta(minutes=30), {0xEA: Decimal(1)})
    home.silent = True
    asked = []
    get = home.get

    async def counted(epcs):
        asked.append(polls)
        return await get(epcs)

    home.get = counted
    for polls in range(200):  # noqa: B007  (`counted` looks at it)
        await home.steps(1)
    assert asked[:5] == [0, 3, 8, 17, 34]
    assert asked[-1] - asked[-2] == LONGEST_PAUSE_POLLS + 1
    (tally,) = home.events("half_hours")
    assert (tally["date"], tally["have"], len(tally["missing"]["not_read"])) == ("2026-05-31", 0, 48)
    home.silent = False
    home.repair.joined()
    await home.steps(5)
    assert len(set(home.moments)) == 51


async def test_a_clock_that_is_right_is_never_called_off_however_slow_the_answer():
    home = Home()
    get = home.get

    async def slow(epcs):
        frame = await get(epcs)
        home.clock.now += timedelta(seconds=110)
        return frame

    home.get = slow
    await home.steps(5)
    assert home.events("clock_check") == []


@pytest.mark.parametrize("error_s", [125, -125, 3600])
async def test_a_clock_that_is_off_is_told_and_told_again_when_it_is_right(error_s):
    home = Home(clock_error_s=error_s)
    await home.steps(3)
    (told,) = home.events("clock_check")
    assert abs(told["offset_s"] - error_s) <= 60
    home.meter.nameplate = Nameplate()
    home.repair.ask_for(["2026-05-31"])
    await home.steps(1)
    assert home.events("clock_check")[1]["offset_s"] == 0


async def test_without_a_clock_of_our_own_the_meters_is_told_as_a_hint():
    home = Home()
    home.repair._clock = Unset(home.clock)
    await home.steps(3)
    (told,) = home.events("clock_check")
    assert (told["meter"], told["offset_s"]) == ("2026-06-01T01:00:00+09:00", None)


class Unset:
    def __init__(self, clock):
        self.boot_ms = clock.boot_ms

    def unix_ms(self):
        return None


async def test_a_midnight_between_date_and_day_never_puts_a_reading_on_the_wrong_day():
    home = Home()
    home.clock.now = MIDNIGHT + timedelta(hours=23, minutes=59)
    ask = home.ask

    async def late(*questions):
        if questions[0].esv == echonet.SET_C:
            home.clock.now = max(home.clock.now, MIDNIGHT + timedelta(hours=24, seconds=20))
        return await ask(*questions)

    home.ask = late
    await home.steps(20)
    house = House(start_ms=days_ago(3))
    for item in [item for item in home.items if isinstance(item, Sample)]:
        said = house.half_hour(round(item.at.timestamp() * 1000))
        assert item.values["import_energy_at_30min_kwh"] == Decimal(said.import_ws // 360_000) / 10
    assert len(set(home.moments)) >= 48


@pytest.mark.slow  # a hundred days of a house
async def test_a_command_reads_as_far_back_as_the_meter_remembers_exactly_and_once():
    home = Home(House(start_ms=days_ago(101)))
    await home.steps(3)
    told = home.repair.ask_for([*range(2, 100)])
    assert len(told["planned"]) == 98
    await home.steps(100)
    assert home.repair.waiting == 0
    house = home.meter._house
    first = MIDNIGHT - timedelta(days=99)
    moments = [first + n * timedelta(minutes=30) for n in range(99 * 48 + 3)]
    assert sorted(home.moments) == [at.astimezone(UTC) for at in moments]
    readings = {item.at: item.values for item in home.items if isinstance(item, Sample)}
    for at in moments:
        said = house.half_hour(round(at.timestamp() * 1000))
        assert readings[at.astimezone(UTC)] == {
            "import_energy_at_30min_kwh": Decimal(said.import_ws // 360_000) / 10,
            "export_energy_at_30min_kwh": Decimal(said.export_ws // 360_000) / 10,
        }
    assert {data["have"] for data in home.events("half_hours")} == {48}
    with pytest.raises(RefusedError, match="100 is neither"):
        home.repair.ask_for([100])
