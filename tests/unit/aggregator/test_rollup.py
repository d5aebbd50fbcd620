"""Load, buckets and register differences: told when known, None when not, exact."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.rollup import bucket_width_ms, curve, day_of, gained, home_kwh, load_points, power_parts, total


def test_load_is_the_sum_of_fresh_parts():
    assert load_points([[(0, 500)], [(15_000, 1200)], [(-10, -300)]]) == [(0, None)]
    assert load_points([[(0, 500)], [(14_000, 1200)], [(0, -300)]]) == [(0, 1400)]


def test_a_silent_part_makes_the_load_unknown_and_never_smaller():
    assert load_points([[(0, 500), (10_000, 510)], []]) == [(0, None), (10_000, None)]
    assert load_points([[(0, 500), (60_000, 510)], [(0, 100)]]) == [(0, 600), (60_000, None)]


def test_a_negative_load_is_shown_and_not_clamped():
    assert load_points([[(0, -500)], [(0, 100)]]) == [(0, -400)]


def test_parts_on_both_sides_may_be_too_far_from_each_other():
    assert total([(0, 1), (10_000, 1), (-10_000, 1)]) is None


def test_a_house_without_a_meter_has_no_load():
    assert power_parts({"pv": "inverter"}) is None
    assert power_parts({"grid": "m", "pv": "i"}) == [("m", "grid_power_w"), ("i", "pv_power_w")]


@given(
    st.lists(st.tuples(st.integers(0, 10**7), st.integers(-9999, 9999)), min_size=1, max_size=300), st.integers(2, 50)
)
def test_buckets_keep_extremes_and_count(points, limit):
    points.sort()
    made = curve(points, "gauge", 0, 10**7, limit)
    if len(points) <= limit:
        assert made.points == points
        return
    assert sum(point[4] for point in made.points) == len(points)
    assert min(point[2] for point in made.points) == min(value for _, value in points)
    assert max(point[3] for point in made.points) == max(value for _, value in points)
    assert len(made.points) <= limit + 1


def test_a_bucket_of_unknowns_is_unknown():
    points = [(second * 1000, None) for second in range(100)]
    assert curve(points, "gauge", 0, 100_000, 10).points[0] == (0, None, None, None, 0)


def test_a_counter_keeps_real_readings():
    points = [(second * 1000, Decimal(second)) for second in range(100)]
    made = curve(points, "counter", 0, 100_000, 10)
    assert set(made.points) <= set(points)
    assert made.points[-1] == points[-1]


def test_widths_are_usual_ones():
    assert bucket_width_ms(86_400_000, 300) == 300_000
    assert bucket_width_ms(31 * 86_400_000, 10) == 4 * 86_400_000


def test_energy_is_the_growth_of_the_register():
    readings = [(0, Decimal("99999.5")), (1, Decimal("99999.9")), (2, Decimal("0.3"))]
    assert gained(readings, Decimal(100_000)) == Decimal("0.8")
    assert gained(readings) == Decimal("0.4")
    assert gained([]) is None
    assert gained([(0, Decimal(5)), (1, None), (2, Decimal(6))]) == 1


def test_an_exchanged_meter_counts_from_its_first_reading():
    readings = [(0, Decimal(5000)), (1, Decimal(5001)), (2, Decimal(2)), (3, Decimal(3))]
    assert gained(readings, Decimal(100_000)) == 2


@given(st.lists(st.integers(0, 5000), min_size=1, max_size=50), st.integers(0, 99_999_999))
def test_a_register_that_rolls_over_loses_nothing(steps, start):
    register, readings = start, [(0, Decimal(start).scaleb(-4))]
    for number, step in enumerate(steps, 1):
        register = (register + step) % 100_000_000
        readings.append((number, Decimal(register).scaleb(-4)))
    assert gained(readings, Decimal(10_000)) == Decimal(sum(steps)).scaleb(-4)


def test_the_homes_energy_needs_every_part():
    roles = {"grid": "m", "pv": "i"}
    known = {"import": Decimal(3), "export": Decimal(1), "pv": Decimal(5), "charge": None, "discharge": None}
    assert home_kwh(known, roles) == 7
    assert home_kwh(known, roles | {"battery": "i"}) is None
    assert home_kwh(known, {"pv": "i"}) is None


def test_a_day_is_a_day_in_japan():
    assert day_of(1_795_273_199_999) == ("2026-11-21", 1_795_186_800_000, 1_795_273_200_000)


@pytest.mark.parametrize("cut", [3, 4])
def test_no_difference_is_taken_from_one_meter_to_the_next(cut):
    readings = [(1, Decimal(10)), (2, Decimal(11)), (4, Decimal(900)), (5, Decimal(902))]
    assert gained(readings, Decimal(1000), [cut]) == 3
    assert gained(readings, Decimal(1000), [cut, 0, 99]) == 3
    assert gained(readings, Decimal(1000)) == 892
