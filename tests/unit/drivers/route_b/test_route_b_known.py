"""What is learnt of a meter ends: a refusal holds for a day of the boot clock, each its own, without a new join."""

import pytest

from drivers.contract import DictMemory
from drivers.route_b import echonet, meter
from drivers.route_b.known import REFUSED_FOR_MS, Known

HOUR_MS = 3_600_000


class Clock:
    def __init__(self, ahead_ms=1_780_239_600_000):
        self.boot, self.ahead_ms = 1_000_000, ahead_ms

    def boot_ms(self):
        return self.boot

    def unix_ms(self):
        return None if self.ahead_ms is None else self.boot + self.ahead_ms


def answer(**refused):
    properties = {meter.POWER: b"\0\0\0\1"} | {int(epc[1:], 16): b"" for epc in refused}
    return echonet.Frame(1, echonet.METER, echonet.CONTROLLER, echonet.GET_SNA, properties)


async def refuse(known, memory, **refused):
    for _ in range(2):
        await known.note_refusals(answer(**refused), memory)


@pytest.fixture
def clock():
    return Clock()


async def test_each_refusal_is_tried_again_after_its_own_day_within_one_session(clock):
    known, memory = Known("meter", clock), DictMemory()
    known.start(memory)
    await refuse(known, memory, xE8=True)
    clock.boot += 6 * HOUR_MS
    await refuse(known, memory, xE3=True)
    assert known.refused == ["E3", "E8"]
    clock.boot += 18 * HOUR_MS - 1
    assert not known.offers(0xE8)
    clock.boot += 1
    assert known.offers(0xE8)
    assert known.refused == ["E3"]
    await known.note_refusals(answer(xE8=True), memory)
    assert known.offers(0xE8)  # once is not yet a habit
    await known.note_refusals(answer(xE8=True), memory)
    assert known.refused == ["E3", "E8"]
    clock.boot += 6 * HOUR_MS
    assert known.refused == ["E8"]


async def test_a_restart_keeps_what_is_left_of_each_day(clock):
    memory = DictMemory()
    known = Known("meter", clock)
    known.start(memory)
    await memory.update({"properties": {"of": ""}})
    await refuse(known, memory, xE8=True)
    clock.boot += 20 * HOUR_MS
    again = Known("meter", rebooted := Clock(clock.unix_ms()))
    rebooted.boot = 0
    again.start(memory)
    assert again.refused == ["E8"]
    rebooted.boot = 4 * HOUR_MS
    assert again.refused == []


@pytest.mark.parametrize("kept", [["E8"], {"E8": 2**80}, {"E8": "x", "xx": 1, "E80": 2**80}, 7, None])
async def test_whatever_is_remembered_holds_for_a_day_at_most(clock, kept):
    memory = DictMemory()
    await memory.update({"properties": {"of": "", "refused": kept}})
    for ahead_ms in (clock.ahead_ms, None):
        clock.ahead_ms = ahead_ms
        clock.boot += 1
        known = Known("meter", clock)
        known.start(memory)
        clock.boot += REFUSED_FOR_MS
        assert known.offers(0xE8)
