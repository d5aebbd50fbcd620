"""Waits that double, with full jitter."""

from __future__ import annotations

import itertools
import random

from edge_agent.backoff import LEAST_S, Backoff, spread


def test_waits_double_to_the_ceiling_and_are_spread_over_all_of_it():
    random.seed(1)
    runs = [list(itertools.islice(Backoff(1, 60).waits(), 10)) for _ in range(2000)]
    for step, bound in enumerate([1, 2, 4, 8, 16, 32, 60, 60, 60, 60]):
        drawn = [run[step] for run in runs]
        assert LEAST_S <= min(drawn) <= 0.1 * bound + LEAST_S
        assert 0.95 * bound < max(drawn) <= bound


def test_a_low_ceiling_is_kept_from_the_start():
    assert all(0 < wait <= 0.05 for wait in itertools.islice(Backoff(1, 0.05).waits(), 50))


def test_a_spread_stays_within_its_part():
    drawn = [spread(20) for _ in range(1000)]
    assert 15 <= min(drawn) < 16
    assert 24 < max(drawn) <= 25
