"""The house: exact sums, one truth for all processes, a sun that rises in the morning."""

import time
from dataclasses import astuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulators.house import DEFAULT_START_MS, House, UnknownTimeError

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
WINTER_MS = DEFAULT_START_MS - 120 * DAY_MS


def test_every_second_of_a_day_balances_and_the_registers_are_the_sums_of_the_watts():
    house = House(seed=3)
    now = house.at(house.start_ms)
    for second in range(1, 86_401):
        after = house.at(house.start_ms + second * 1000)
        assert now.load_w == now.grid_w + now.pv_w + now.battery_w
        assert after.import_ws - now.import_ws == max(now.grid_w, 0)
        assert after.export_ws - now.export_ws == max(-now.grid_w, 0)
        assert after.pv_ws - now.pv_ws == now.pv_w
        assert after.discharge_ws - now.discharge_ws == max(now.battery_w, 0)
        assert after.charge_ws - now.charge_ws == max(-now.battery_w, 0)
        now = after


@pytest.mark.parametrize("start_ms", [DEFAULT_START_MS, WINTER_MS])
@pytest.mark.parametrize("seed", range(8))
def test_a_day_of_energy_adds_up_exactly(seed, start_ms):
    house = House(seed, start_ms)
    first, load_ws = house.at(start_ms), 0
    for step in range(8640):
        load_ws += 10 * house.at(start_ms + step * 10_000).load_w
    last = house.at(start_ms + DAY_MS)
    flows = {
        name: getattr(last, name) - getattr(first, name)
        for name in ("import_ws", "export_ws", "pv_ws", "charge_ws", "discharge_ws")
    }
    assert load_ws + flows["export_ws"] + flows["charge_ws"] == (
        flows["import_ws"] + flows["pv_ws"] + flows["discharge_ws"]
    )
    assert flows["import_ws"] > 0
    assert flows["pv_ws"] > 0


@given(seed=st.integers(0, 10_000), steps=st.lists(st.integers(0, 5 * HOUR_MS), max_size=12))
@settings(max_examples=25, deadline=None)
def test_how_often_a_house_is_asked_changes_nothing(seed, steps):
    asked, jumped, now = House(seed), House(seed), DEFAULT_START_MS
    for step in steps:
        now += step
        asked.at(now)
    assert asked.at(now) == jumped.at(now)


def test_two_houses_of_one_seed_agree_and_another_seed_differs():
    later = DEFAULT_START_MS + 3 * DAY_MS + 12 * HOUR_MS
    assert House(5).at(later) == House(5).at(later)
    assert House(5).at(later) != House(6).at(later)


def test_the_registers_never_run_backwards():
    house = House(seed=2)
    names = ("import_ws", "export_ws", "pv_ws", "charge_ws", "discharge_ws")
    before = house.at(house.start_ms)
    for minute in range(2 * 1440):
        now = house.at(house.start_ms + minute * 60_000)
        assert all(getattr(now, name) >= getattr(before, name) for name in names)
        before = now


@pytest.mark.parametrize("start_ms", [DEFAULT_START_MS, WINTER_MS])
def test_the_sun_shines_by_day_in_japan_and_never_by_night(start_ms):
    house = House(1, start_ms)
    watts = [house.at(start_ms + hour * HOUR_MS).pv_w for hour in range(24)]
    assert watts[:5] == [0] * 5
    assert watts[20:] == [0] * 4
    assert max(watts[9:15]) > 500


@pytest.mark.parametrize("seed", range(5))
def test_the_battery_keeps_within_its_capacity_its_limit_and_its_evening(seed):
    house = House(seed)
    low = house.at(house.start_ms).soc_permille
    for minute in range(3 * 1440):
        now = house.at(house.start_ms + minute * 60_000)
        assert 0 <= now.battery_wh <= house.capacity_wh
        assert abs(now.battery_w) <= house.limit_w
        if now.battery_w > 0:
            assert (now.unix_ms // HOUR_MS + 9) % 24 >= 15
            assert now.grid_w > 0
        if now.battery_w < 0:
            assert now.pv_w > now.load_w
        low = min(low, now.soc_permille)
    assert low >= 140


def test_the_battery_fills_up_and_gives_back_in_the_evening():
    house = House(seed=4)
    charges = [house.at(house.start_ms + hour * HOUR_MS).soc_permille for hour in range(48)]
    assert max(charges) > 900
    assert charges[23] < max(charges[:23])


def test_without_sun_the_battery_stops_at_its_reserve():
    house = House(seed=2, pv_peak_w=0)
    charges = [house.at(house.start_ms + day * DAY_MS).soc_permille for day in range(8)]
    assert 149 <= charges[-1] == charges[-2] <= 250


def test_a_house_without_battery_or_sun_takes_all_from_the_grid():
    house = House(1, pv_peak_w=0, battery_wh=0)
    now = house.at(house.start_ms + 12 * HOUR_MS)
    assert (now.pv_w, now.battery_w, now.grid_w) == (0, 0, now.load_w)


def test_the_past_is_known_only_at_half_hours():
    house = House()
    noon = house.start_ms + 12 * HOUR_MS
    seen = house.at(noon - 30 * 60_000)
    house.at(noon + 5_000)
    assert house.half_hour(noon - 1) == seen
    assert house.half_hour(noon + 4_000).unix_ms == noon
    with pytest.raises(UnknownTimeError, match="5 s past"):
        house.at(noon)
    with pytest.raises(UnknownTimeError):
        house.half_hour(house.start_ms - 1)


def test_a_half_hour_ahead_is_what_the_house_will_say_then():
    house, other = House(), House()
    ahead = house.start_ms + HOUR_MS
    assert house.half_hour(ahead + 10) == other.at(ahead)


def test_a_house_remembers_what_a_meter_remembers_and_no_more(monkeypatch):
    monkeypatch.setattr("simulators.house._KEPT_HALF_HOURS", 48)
    house = House()
    house.at(house.start_ms + 3 * DAY_MS)
    assert len(house._half_hours) == 48
    assert house.half_hour(house.start_ms + 3 * DAY_MS).unix_ms == house.start_ms + 3 * DAY_MS
    with pytest.raises(UnknownTimeError):
        house.half_hour(house.start_ms + 2 * DAY_MS)


def test_the_phases_add_up_to_the_grid():
    house = House(seed=9)
    for minute in range(1440):
        now = house.at(house.start_ms + minute * 60_000)
        r, t = house.currents_da(now)
        assert r + t == now.grid_w // 10


def test_a_simulated_day_costs_little():
    house = House(seed=7)
    began = time.process_time()
    house.at(house.start_ms + DAY_MS)
    assert time.process_time() - began < 0.5


def test_balances_are_whole_numbers():
    assert all(type(number) is int for number in astuple(House().at(DEFAULT_START_MS + HOUR_MS)))
