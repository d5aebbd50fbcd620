"""Aligned ticks against a clock that the test turns."""

import asyncio
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivers.polling import Ticks


class TurnedClock:
    """Jumps to the time slept for; the test adds what work costs."""

    def __init__(self, now=0):
        self.now = now

    def boot_ms(self):
        return self.now

    def unix_ms(self):
        return None

    async def sleep_until(self, boot_ms):
        self.now = max(self.now, boot_ms)


async def ticks_of(clock, period_s, costs):
    ticks = Ticks(clock, period_s)
    seen = []
    for cost in costs:
        seen.append(await ticks.next())
        clock.now += cost
    return seen


async def test_ticks_are_whole_multiples_of_the_period():
    assert await ticks_of(TurnedClock(1234), 10, [5, 5, 5]) == [10_000, 20_000, 30_000]


async def test_a_clock_that_stands_on_a_multiple_ticks_at_once():
    assert await ticks_of(TurnedClock(20_000), 10, [0, 0]) == [20_000, 30_000]


async def test_a_clock_that_wakes_a_little_early_gives_no_tick_twice():
    class EarlyClock(TurnedClock):
        async def sleep_until(self, boot_ms):
            self.now = max(self.now, boot_ms - 3)

    assert await ticks_of(EarlyClock(5), 10, [0, 1, 0]) == [10_000, 20_000, 30_000]


async def test_work_that_takes_long_does_not_drift():
    assert await ticks_of(TurnedClock(1), 10, [9_999, 9_000, 1]) == [10_000, 20_000, 30_000]


async def test_missed_ticks_are_skipped_and_never_caught_up():
    assert await ticks_of(TurnedClock(1), 10, [75_000, 0, 0]) == [10_000, 90_000, 100_000]


async def test_two_drivers_of_one_period_wake_together():
    first = await ticks_of(TurnedClock(3), 2, [150, 20, 1900])
    second = await ticks_of(TurnedClock(1999), 2, [1, 1, 1])
    assert first == second == [2000, 4000, 6000]


@given(
    start=st.integers(0, 10**12),
    period_ms=st.integers(1, 90_000_000),
    costs=st.lists(st.integers(0, 10**8), min_size=1, max_size=30),
)
def test_ticks_grow_stay_aligned_and_are_never_early(start, period_ms, costs):
    clock = TurnedClock(start)
    called, seen = [], []

    async def run():
        ticks = Ticks(clock, period_ms / 1000)
        for cost in costs:
            called.append(clock.now)
            seen.append(await ticks.next())
            clock.now += cost

    asyncio.run(run())
    assert all(tick % period_ms == 0 for tick in seen)
    assert all(later > earlier for earlier, later in itertools.pairwise(seen))
    # Never in the past, and never further off than one period.
    assert all(0 <= tick - asked <= period_ms for tick, asked in zip(seen, called, strict=True))


@pytest.mark.parametrize("period_s", [0, -1])
def test_a_period_that_never_ticks_is_refused(period_s):
    with pytest.raises(ValueError, match="never ticks"):
        Ticks(TurnedClock(), period_s)
