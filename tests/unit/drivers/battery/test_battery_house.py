"""What a house takes, from readings of one moment: the house's meter first, stale ones never."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drivers.battery.house import FRESH_MS, TOGETHER_MS, Balance, Demand, House

OWN = {"grid_power_w": 900, "pv_power_w": 400, "battery_power_w": -500}


def test_one_device_that_measures_all_gives_load_and_demand_at_once():
    house = House()
    assert house.observe(OWN, 1000) == Balance(800.0, 400.0)
    assert house.demand(1000) == Demand(400.0, "own_meter")
    assert house.demand(1000 + FRESH_MS) is not None
    assert house.demand(1001 + FRESH_MS) is None


def test_the_houses_meter_goes_before_the_inverters_own():
    house = House()
    house.observe(OWN, 1000)
    assert house.overhear("grid", {"grid_power_w": 2500, "current_r_a": 12}, 3000) == Balance(2400.0, 400.0)
    assert house.demand(3000) == Demand(2000.0, "house_meter")
    house.observe(OWN, 61_000)
    assert house.demand(3001 + FRESH_MS) == Demand(400.0, "own_meter"), "stale: the own meter is next"
    assert house.demand(61_001 + FRESH_MS) is None, "both stale: nobody knows"


def test_a_meter_counts_with_what_the_battery_did_at_its_moment_and_not_later():
    house = House()
    house.observe({"battery_power_w": 0}, 1000)
    house.overhear("grid", {"grid_power_w": 1000}, 2000)
    for at_ms in range(11_000, 91_000, 10_000):
        house.observe({"battery_power_w": -2000}, at_ms)  # charging began; the meter has not seen it yet
    assert house.demand(80_000) == Demand(1000.0, "house_meter")
    house.overhear("grid", {"grid_power_w": 3000}, 82_000)
    assert house.demand(82_000) == Demand(1000.0, "house_meter")


def test_the_nearest_reading_of_the_battery_counts():
    house = House()
    house.observe({"battery_power_w": 0}, 1000)
    house.overhear("grid", {"grid_power_w": 3000}, 10_500)
    house.observe({"battery_power_w": -2000}, 11_000)
    assert house.demand(11_000) == Demand(1000.0, "house_meter")


def test_another_plant_is_the_houses_sun_and_its_silence_is_a_gap():
    house = House()
    house.overhear("pv", {"pv_power_w": 3000}, 900)
    assert house.observe(OWN, 1000) == Balance(3400.0, 3000.0)
    assert house.observe(OWN, 1000 + TOGETHER_MS) is None, "not the own PV instead"
    house.overhear("pv", {"pv_power_w": None}, 20_000)
    assert house.observe(OWN, 21_000) is None
    house.overhear("pv", {"pv_power_w": 0}, 30_000)
    assert house.observe(OWN, 31_000) == Balance(400.0, 0.0)


@pytest.mark.parametrize("missing", ["grid_power_w", "pv_power_w", "battery_power_w"])
@pytest.mark.parametrize("how", [{}, {"value": None}, {"value": "fault"}])
def test_a_missing_part_is_no_zero(missing, how):
    house = House()
    values = OWN | ({missing: how["value"]} if how else {})
    if not how:
        del values[missing]
    assert house.observe(values, 1000) is None
    if missing != "pv_power_w":
        assert house.demand(1000) is None


def test_a_reading_counts_once_and_a_lost_device_leaves_nothing_behind():
    house = House()
    assert house.observe(OWN, 1000) is not None
    assert house.overhear("battery", {"battery_power_w": 5}, 1100) is None
    assert house.overhear("grid", {"import_energy_kwh": 5}, 1200) is None
    assert house.observe({"battery_soc_percent": 50}, 1300) is None
    house.forget_own()
    assert house.demand(1300) is None


READINGS = st.lists(
    st.tuples(
        st.sampled_from(["own", "grid", "pv"]),
        st.integers(0, 30_000),
        st.none() | st.floats(-20_000, 20_000),
        st.none() | st.floats(-20_000, 20_000),
        st.none() | st.floats(-20_000, 20_000),
    ),
    max_size=30,
)


@settings(max_examples=60, deadline=None)
@given(READINGS)
def test_whatever_is_read_a_demand_is_one_that_two_fresh_readings_gave(readings):
    house, now_ms, given_w = House(), 0, set()
    seen = {"grid": [], "battery": []}
    for who, wait_ms, grid, pv, battery in readings:
        now_ms += wait_ms
        values = {"grid_power_w": grid, "pv_power_w": pv, "battery_power_w": battery}
        if who == "own":
            house.observe(values, now_ms)
            seen["battery"] += [(now_ms, battery)] if battery is not None else []
        else:
            house.overhear(who, values, now_ms)
        if who != "pv" and grid is not None:
            seen["grid"].append((now_ms, grid))
        given_w = {g + b for at, g in seen["grid"] for when, b in seen["battery"] if abs(at - when) <= TOGETHER_MS}
        found = house.demand(now_ms)
        assert found is None or found.watts in given_w
