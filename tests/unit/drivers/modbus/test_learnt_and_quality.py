"""What is learnt of a unit survives as JSON, and how good its values are."""

import json
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drivers.modbus.learnt import ASK_AGAIN_AFTER_CUT_MS, ASK_AGAIN_MS, HANGS_UP, MOST_BREAKS, Learnt
from drivers.modbus.planner import Block, Limits, Point, plan
from drivers.modbus.quality import Qualities
from drivers.modbus.registers import Encoding

U16 = Encoding("u16", 1)


def point(quantity, address):
    return Point(quantity, "holding", address, U16)


POINTS = [point(name, 100 + 2 * n) for n, name in enumerate("abcdef")]


def read_blocks(learnt):
    served = [one for one in POINTS if one.quantity not in learnt.refused]
    return [(one.request.address, one.request.count) for one in plan(served, Limits(), (), learnt.breaks)]


def test_a_refused_register_is_read_around_and_the_way_to_it_is_forgotten():
    learnt = Learnt()
    learnt.part(Block(POINTS[3:]))
    learnt.part(Block(POINTS[1:3]))
    learnt.refuse(Block(POINTS[1:2]), 2, 0)
    assert read_blocks(learnt) == [(100, 1), (104, 7)]


def test_blocks_that_only_cannot_be_read_together_stay_apart():
    learnt = Learnt()
    learnt.part(Block(POINTS[3:]))
    assert read_blocks(learnt) == [(100, 5), (106, 5)]


@pytest.mark.parametrize(("code", "wait_ms"), [(2, ASK_AGAIN_MS), (HANGS_UP, ASK_AGAIN_AFTER_CUT_MS)])
def test_what_was_refused_is_asked_for_again_seldom(code, wait_ms):
    learnt = Learnt()
    learnt.refuse(Block(POINTS[:1]), code, 1_000)
    assert learnt.due(wait_ms) == set()
    assert learnt.due(1_000 + wait_ms) == {"a"}
    learnt.serve("a")
    assert learnt.refused == {}


def test_it_is_the_same_after_a_restart():
    learnt, again = Learnt(), Learnt()
    learnt.refuse(Block(POINTS[1:2]), HANGS_UP, 0)
    learnt.part(Block(POINTS[4:]))
    again.recall(json.loads(json.dumps(learnt.saved())))
    assert (again.refused, again.breaks) == (learnt.refused, learnt.breaks)
    assert read_blocks(again) == read_blocks(learnt)
    assert Learnt().saved() is None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.sampled_from(["holding", "refused", "breaks"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["refused", "breaks", "x"]), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None)
@given(JSON)
def test_a_damaged_memory_is_passed_over(saved):
    learnt = Learnt()
    learnt.recall(saved)
    assert read_blocks(learnt)


def test_a_unit_that_refuses_at_random_fills_no_memory():
    learnt = Learnt()
    for address in range(3_000):
        learnt.part(Block([point("x", address)]))
    assert len(learnt.breaks) == MOST_BREAKS


def now(qualities, now_ms, refused=()):
    return qualities.now(now_ms, 1_000, {"battery_soc_percent": 60_000}, {"ac_voltage_v"}, refused)


def test_each_value_is_good_stale_bad_or_not_implemented():
    qualities = Qualities()
    qualities.take({"pv_power_w": 5, "battery_power_w": 7, "battery_soh_percent": None, "ac_voltage_v": 1}, 0)
    qualities.take({"pv_power_w": 5, "battery_power_w": None, "battery_soc_percent": 50}, 4_000)
    assert now(qualities, 5_000, {"grid_power_w"}) == {
        "grid_power_w": "bad",
        "pv_power_w": "good",
        "battery_power_w": "bad",
        "battery_soh_percent": "stale",
        "ac_voltage_v": "good",
        "battery_soc_percent": "good",
    }
    assert now(qualities, 500)["battery_soh_percent"] == "not_implemented"
    assert now(qualities, 60_000)["pv_power_w"] == "stale"
    assert now(qualities, 60_000)["battery_soc_percent"] == "good"


def test_a_counter_that_falls_to_zero_at_night_has_no_value_until_it_counts_again():
    qualities = Qualities()
    shown = [
        qualities.take({"pv_energy_kwh": one}, at)["pv_energy_kwh"]
        for at, one in enumerate([0, Decimal("812.4"), 0, Decimal(0), Decimal("812.4"), Decimal("0.3")])
    ]
    assert shown == [0, Decimal("812.4"), None, None, Decimal("812.4"), Decimal("0.3")]
    assert qualities.take({"pv_power_w": 0}, 9) == {"pv_power_w": 0}


def test_a_counter_that_is_zero_after_a_restart_in_the_night_has_no_value_either():
    before, after = Qualities(), Qualities()
    before.take({"pv_energy_kwh": Decimal("812.4"), "pv_power_w": 5, "load_energy_kwh": 0}, 0)
    after.recall([*json.loads(json.dumps(sorted(before.counted))), 5, None, "pv_power_w"])
    assert after.take({"pv_energy_kwh": 0, "pv_power_w": 0, "load_energy_kwh": 0}, 1) == {
        "pv_energy_kwh": None,
        "pv_power_w": 0,
        "load_energy_kwh": 0,
    }
    assert now(after, 1) == {"pv_energy_kwh": "bad", "pv_power_w": "good", "load_energy_kwh": "good"}
