"""Simulated time as arithmetic."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivers.timescale import Timescale

START_MS = 1_780_239_600_000  # 2026-06-01T00:00:00+09:00
SINCE_MS = 1_795_300_000_000


@pytest.mark.parametrize(
    ("real_ms", "simulated_ms"),
    [(SINCE_MS, START_MS), (SINCE_MS + 1000, START_MS + 600_000), (SINCE_MS + 144_000, START_MS + 86_400_000)],
)
def test_a_day_at_600_times_takes_144_seconds(real_ms, simulated_ms):
    assert Timescale(START_MS, SINCE_MS, 600).simulated_ms(real_ms) == simulated_ms


@given(st.integers(0, 10**9), st.integers(0, 10**6), st.sampled_from([0.5, 1, 60, 600, 3600]))
def test_simulated_time_never_steps_back_and_leads_back_to_the_real_one(elapsed_ms, later_ms, speed):
    scale = Timescale(START_MS, SINCE_MS, speed)
    now, later = SINCE_MS + elapsed_ms, SINCE_MS + elapsed_ms + later_ms
    assert scale.simulated_ms(now) <= scale.simulated_ms(later)
    assert abs(scale.real_ms(scale.simulated_ms(now)) - now) <= 1 / speed + 0.001
