"""Joins keep their distance, also over restarts of the program; a first start waits for nothing."""

import asyncio
import contextlib
from dataclasses import replace

import pytest

from drivers.api import RefusedError
from drivers.contract import DictMemory
from drivers.route_b import joining
from drivers.route_b.joining import JOIN_SPACING_S, Joining
from drivers.route_b.requests import NoAnswerError
from drivers.route_b.skstack import Pan

ID = "00112233445566778899AABBCCDDEEFF"
PAN = Pan(0x3B, 0x76A4, "001C640003CD76A4", 179, "CCDDEEFF")

pytestmark = pytest.mark.looptime


class Machine:
    """A clock since boot that outlives the programs, in the event loop's virtual time; `speed` as in a simulation."""

    def __init__(self, boot, speed=1.0, booted_s=0.0):
        self.boot, self.speed, self.booted_s = boot, speed, booted_s

    def boot_ms(self):
        return round((asyncio.get_running_loop().time() - self.booted_s) * 1000 * self.speed)

    def unix_ms(self):
        return None

    async def sleep_until(self, boot_ms):
        raise AssertionError("a clock may leap over its waits")


class Air:
    """A network that is found at once and answers `answers`; remembers when it was joined, and what was done."""

    def __init__(self, *, answers=True):
        self.answers, self.ready_after_s = answers, 0
        self.there, self.refusing = PAN, set()  # channels on which somebody declines
        self.joined_at, self.done = [], []

    async def prepare(self):
        pass

    async def scan(self):
        self.done.append("scan")
        return self.there

    async def join(self, pan, begin):
        await asyncio.sleep(self.ready_after_s)
        await begin()
        self.joined_at.append(asyncio.get_running_loop().time())
        self.done.append(pan.channel)
        if pan.channel in self.refusing:
            raise RefusedError("declined")
        if not self.answers:
            raise NoAnswerError("nobody there")

    @property
    def shortest_s(self):
        return min(later - earlier for earlier, later in zip(self.joined_at, self.joined_at[1:], strict=False))


@pytest.fixture
def boot(tmp_path, monkeypatch):
    """The file in which the kernel names its boot."""
    path = tmp_path / "boot_id"
    path.write_text("first\n")
    monkeypatch.setattr(joining, "BOOT_ID", path)
    return path


async def started(machine, air, memory):
    """Start the program anew: nothing is left but its memory."""
    await Joining(ID, machine).connect(air, memory)


async def test_a_first_start_joins_at_once(boot):
    air = Air()
    await asyncio.sleep(7)
    await started(Machine("first"), air, DictMemory())
    assert air.joined_at == [7]


@pytest.mark.parametrize("answers", [True, False])
async def test_a_program_that_crashes_over_and_over_joins_once_in_thirty_seconds(boot, answers):
    machine, air, memory = Machine("first"), Air(answers=answers), DictMemory()
    for crash_after_s in (0, 1, 3, 12, 29, 31, 200, 2):
        try:
            async with asyncio.timeout(40):
                await started(machine, air, memory)
        except (NoAnswerError, TimeoutError):
            pass
        await asyncio.sleep(crash_after_s)
    assert len(air.joined_at) >= 8
    assert air.shortest_s >= JOIN_SPACING_S


async def test_a_program_that_dies_while_it_waits_for_its_turn_does_not_begin_to_wait_anew(boot):
    machine, air, memory = Machine("first"), Air(), DictMemory()
    await started(machine, air, memory)
    for _ in range(5):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(started(machine, air, memory), 5)
    await started(machine, air, memory)
    assert air.joined_at == [0, pytest.approx(30, abs=0.01)]


async def test_the_distance_is_that_of_the_joins_on_the_air_however_long_a_dongle_took_to_be_ready(boot):
    machine, air, memory = Machine("first"), Air(), DictMemory()
    one = Joining(ID, machine)
    for ready_after_s in (12, 0, 5, 0):
        air.ready_after_s = ready_after_s
        await one.connect(air, memory)
    await started(machine, air, memory)
    assert air.joined_at == [12, 42, 77, 107, pytest.approx(137, abs=0.01)]


async def test_after_a_new_boot_only_a_machine_that_has_just_started_waits(boot):
    air, memory = Air(), DictMemory()
    await asyncio.sleep(35)
    await started(Machine("first"), air, memory)
    boot.write_text("second\n")
    await asyncio.sleep(100)
    await started(Machine("second", booted_s=100), air, memory)  # up for 35 s, as it was the last time
    boot.write_text("third\n")
    await asyncio.sleep(20)
    await started(Machine("third", booted_s=150), air, memory)  # up for 5 s
    assert air.joined_at == [35, 135, 180]


async def test_simulated_time_counts_in_a_simulation(boot):
    machine, air, memory = Machine("first", speed=600), Air(), DictMemory()
    for _ in range(3):
        await started(machine, air, memory)
    assert 0.05 <= air.shortest_s <= joining.LOOK_S


@pytest.mark.parametrize("kept", [7, {"boot": "first"}, {"boot": "first", "at_ms": -1}, {"boot": 1, "at_ms": 0}])
async def test_a_memory_that_makes_no_sense_stops_nobody(boot, kept):
    air, memory = Air(), DictMemory()
    await memory.update({"join": kept})
    await started(Machine("first"), air, memory)
    assert air.joined_at == [0]


async def test_a_join_from_the_future_of_this_boot_is_none_to_wait_for_longer_than_any_other(boot):
    air, memory = Air(), DictMemory()
    await memory.update({"join": {"boot": "first", "at_ms": 10**15}})
    await asyncio.sleep(10)
    await started(Machine("first"), air, memory)
    assert air.joined_at == [30]


async def test_a_machine_without_names_for_its_boots_keeps_the_distance_all_the_same(boot):
    boot.unlink()
    machine, air, memory = Machine("first"), Air(), DictMemory()
    await started(machine, air, memory)
    await started(machine, air, memory)
    assert air.shortest_s >= JOIN_SPACING_S


async def connects(joins, air, memory, times):
    for _ in range(times):
        with contextlib.suppress(RefusedError):
            await joins.connect(air, memory)


async def test_a_remembered_network_that_refuses_five_times_in_a_row_is_scanned_for(boot):
    air, memory = Air(), DictMemory()
    joins = Joining(ID, Machine("first"))
    await joins.connect(air, memory)
    air.refusing = {0x3B}
    air.done.clear()
    await connects(joins, air, memory, 12)
    assert air.done == [0x3B] * 5 + ["scan", 0x3B] + [0x3B] * 5 + ["scan", 0x3B]
    air.there = replace(PAN, channel=0x21)
    air.done.clear()
    await connects(joins, air, memory, 7)
    assert air.done == [0x3B] * 5 + ["scan", 0x21, 0x21]  # our meter is on another channel, and remembered there


async def test_refusals_with_a_join_between_them_are_no_row(boot):
    air, memory = Air(), DictMemory()
    joins = Joining(ID, Machine("first"))
    await joins.connect(air, memory)
    air.done.clear()
    for _ in range(3):
        air.refusing = {0x3B}
        await connects(joins, air, memory, 4)
        air.refusing = set()
        await joins.connect(air, memory)
    assert "scan" not in air.done
