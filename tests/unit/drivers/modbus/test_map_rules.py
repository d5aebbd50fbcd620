"""Sums, silence by state, offsets, doubles, far scale factors and writable registers: what maps say beside points."""

import struct
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drivers.api import ConfigError
from drivers.modbus.derived import Derived, Sum, Withheld
from drivers.modbus.planner import plan
from drivers.modbus.register_map import parse
from drivers.modbus.registers import Encoding, decode

MAP = """
maker: Nobody
points:
  inverter_state: {address: 0, type: enum, names: {1: sleeping, 4: running}}
  ac_voltage_v: {address: 1, type: u16, scale: 0.1}
  pv1_power_w: {address: 2, type: u16, sentinels: [0xFFFF]}
  pv2_power_w: {address: 3, type: u16, sentinels: [0xFFFF]}
  grid_import_w: {address: 4, type: u16, hidden: true}
  grid_export_w: {address: 5, type: u16, hidden: true}
  battery_temperature_c: {address: 6, type: u16, scale: 0.1, offset: -100}
sums:
  pv_power_w: {add: [pv1_power_w, pv2_power_w], optional: [pv2_power_w]}
  grid_power_w: {add: [grid_import_w], subtract: [grid_export_w]}
  dc_power_w: {add: [pv_power_w], subtract: [grid_power_w], least: 0}
withheld:
  - {state: inverter_state, says: [sleeping], values: [ac_voltage_v, pv1_power_w]}
writable:
  reserve_percent: {address: 9, type: u16, unit: "%", min: 0, max: 100, stored: false}
  mode: {address: 10, type: enum, names: {0: normal, 1: charge}}
"""


def read(*words, text=MAP):
    register_map = parse("m", text)
    (block,) = plan(register_map.points, register_map.limits)
    return register_map.derived.finish(block.decode(struct.pack(f">{len(words)}H", *words)))


def test_parts_become_totals_and_hidden_parts_are_not_told():
    assert read(4, 2020, 300, 200, 0, 120, 1211) == {
        "inverter_state": "running",
        "ac_voltage_v": Decimal("202.0"),
        "pv1_power_w": 300,
        "pv2_power_w": 200,
        "battery_temperature_c": Decimal("21.1"),
        "pv_power_w": 500,
        "grid_power_w": -120,
        "dc_power_w": 620,
    }


def test_an_optional_part_may_have_no_value_and_another_may_not():
    assert read(4, 0, 300, 0xFFFF, 0, 0, 0)["pv_power_w"] == 300
    assert read(4, 0, 0xFFFF, 200, 0, 0, 0)["pv_power_w"] is None


def test_a_total_is_not_lower_than_its_least():
    assert read(4, 0, 10, 0, 500, 0, 0)["dc_power_w"] == 0


def test_a_value_is_withheld_while_the_state_says_so():
    asleep = read(1, 0, 0, 0, 0, 0, 0)
    assert (asleep["ac_voltage_v"], asleep["pv1_power_w"], asleep["pv2_power_w"]) == (None, None, 0)
    assert asleep["pv_power_w"] is None
    assert read(77, 0, 0, 0, 0, 0, 0)["ac_voltage_v"] == 0  # an unknown state withholds nothing


def test_only_zeros_may_be_withheld():
    rule = Withheld("s", frozenset({"sleeping"}), frozenset({"v", "hz", "w"}), zeros=True)
    values = {"s": "sleeping", "v": Decimal("0.0"), "hz": Decimal("50.01"), "w": None, "x": 0}
    assert set(rule.silenced(values)) == {"v"}
    assert not set(rule.silenced(values | {"s": "running"}))
    text = MAP.replace("values: [ac_voltage_v, pv1_power_w]", "values: [ac_voltage_v, pv1_power_w], zeros: true")
    shown = read(1, 0, 7, 0, 0, 0, 0, text=text)
    assert (shown["ac_voltage_v"], shown["pv1_power_w"]) == (None, 7)


def test_one_of_several_bits_may_withhold():
    rule = Withheld("flags", frozenset({"fault"}), frozenset({"x"}))
    assert [rule.applies({"flags": said}) for said in ("none", "fan,fault", "faulty", None)] == [
        False,
        True,
        False,
        False,
    ]


def test_a_total_that_lacks_a_needed_part_is_not_told():
    total = Sum("t", ("a",), ("b",), frozenset({"c"}))
    assert total.of({"a": 1}) == {}
    assert total.of({}) == {}
    assert total.of({"a": 1, "b": 3}) == {"t": -2}
    assert Sum("t", ("a", "b"), (), frozenset({"a", "b"})).of({"b": None}) == {"t": None}


def test_a_total_stands_in_for_a_point_that_the_device_does_not_serve():
    derived = Derived((Sum("pv_power_w", ("a",)),))
    assert derived.finish({"a": 5, "pv_power_w": 7})["pv_power_w"] == 7
    assert derived.finish({"a": 5, "pv_power_w": None})["pv_power_w"] == 5
    assert derived.finish({"a": 5})["pv_power_w"] == 5


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from("abcde"),
        st.none()
        | st.integers()
        | st.decimals(-(10**300), 10**300, allow_nan=False, allow_infinity=False)
        | st.text(max_size=3),
    )
)
def test_any_values_can_be_finished(values):
    derived = Derived(
        (Sum("t", ("a", "b"), ("c",), frozenset({"b"})), Sum("u", ("t",))),
        (Withheld("d", frozenset({"x"}), frozenset({"a"})),),
        frozenset({"c"}),
        {"e": "c"},
    )
    shown = derived.finish(dict(values))
    assert "c" not in shown
    assert shown.keys() - values.keys() <= {"t", "u"}


def test_what_stands_in_for_a_withheld_value_is_withheld_too():
    derived = Derived((Sum("t", ("a",)),), (Withheld("s", frozenset({"off"}), frozenset({"t"})),))
    assert derived.finish({"s": "off", "a": 5, "t": 7})["t"] is None
    assert derived.finish({"s": "on", "a": 5, "t": None})["t"] == 5
    text = MAP.replace("values: [ac_voltage_v, pv1_power_w]", "values: [grid_power_w]")
    assert read(1, 0, 0, 0, 9, 0, 0, text=text)["grid_power_w"] is None


@pytest.mark.parametrize(
    ("exponent", "shown"), [(0, 123), (-1, Decimal("12.3")), (10, Decimal("123E10")), (11, None), (None, None)]
)
def test_a_far_scale_factor_is_applied_and_refused_outside_its_range(exponent, shown):
    derived = Derived(hidden=frozenset({"sf"}), exponents={"w": "sf"})
    assert derived.finish({"w": 123, "sf": exponent}) == {"w": shown}
    assert derived.finish({"w": 123}) == {"w": None}


def test_a_double_is_read_to_its_last_digit():
    bits = int.from_bytes(struct.pack(">d", 1234567.891))
    assert decode(bits, Encoding("f64", 4)) == Decimal("1234567.891")
    assert decode(0x7FF8 << 48, Encoding("f64", 4)) is None


def test_an_offset_turns_round_with_its_value():
    assert decode(7, Encoding("u16", 1, offset=Decimal(-10), negate=True)) == 3


def test_writable_registers_are_data():
    register_map = parse("m", MAP)
    reserve, mode = register_map.writable["reserve_percent"], register_map.writable["mode"]
    assert (reserve.address, reserve.minimum, reserve.maximum, reserve.stored) == (9, 0, 100, False)
    assert mode.encoding.names == {0: "normal", 1: "charge"}
    assert mode.stored


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("add: [grid_import_w]", "add: [grid_imp_w]", "sums.grid_power_w = 'grid_imp_w': no such point"),
        ("grid_power_w: {add", "grid_pow_w: {add", "sums.grid_pow_w: no such quantity"),
        ("optional: [pv2_power_w]", "optional: [pv3_power_w]", "neither added nor subtracted"),
        ("{address: 3, type: u16", "{address: 3, poll: slow, type: u16", "not read together"),
        ("{address: 0, type: enum", "{address: 0, poll: slow, type: enum", "withheld.0.state: is not read at every"),
        ("says: [sleeping]", "says: [asleep]", "withheld.0.says = 'asleep': inverter_state never says this"),
        ("values: [ac_voltage_v, ", "values: [ac_volts_v, ", "withheld.0 = 'ac_volts_v': no such point"),
        ("least: 0", "least: .inf", "sums.dc_power_w.least"),
        ("hidden: true}\n  grid_export", "hidden: false}\n  grid_export", "points.grid_import_w: no such quantity"),
        ("{address: 1, type", "{address: 1, hidden: true, type", "hidden, but a quantity of the vocabulary"),
        ("offset: -100", "offset: .nan", "points.battery_temperature_c.offset"),
        (", min: 0, max: 100", "", "writable.reserve_percent: has no limits"),
        ("max: 100", "max: -1", "writable.reserve_percent: has no limits"),
        ("max: 100", "max: .nan", "writable.reserve_percent.max = 'NaN': not a number within"),
        ("max: 100", "max: 100000", "its limits do not fit u16"),
        ("min: 0, max", "at_most: nothing, min: 0, max", "writable.reserve_percent.at_most = 'nothing': no such point"),
        ("min: 0, max", "at_most: inverter_state, min: 0, max", "at_most = 'inverter_state': enum is no bound"),
        ("{0: normal, 1: charge}", "{0: normal, 1: charge}, at_most: pv1_power_w", "writable.mode.at_most"),
        ("mode: {address: 10", "mode: {address: 9", "writable.reserve_percent.address = 9: overlaps mode"),
        ("address: 9, type: u16", "address: 9, type: u32", "writable.mode.address = 10: overlaps reserve_percent"),
        ("address: 9, type: u16", "address: 8, type: u32", ""),
        ("{0: normal, 1: charge}", "{0: charge, 1: charge}", "writable.mode.names = 'charge': means two numbers"),
        (", names: {0: normal, 1: charge}", "", "writable.mode.names: missing"),
        ("type: u16, unit", "type: string, words: 2, unit", "text is not written"),
        ("address: 9,", "address: 65535, order: big,", ""),
        ("address: 9, type: u16", "address: 65535, type: u32", "reaches past register 65535"),
    ],
)
def test_a_wrong_rule_names_key_value_and_remedy(old, new, said):
    assert old in MAP
    text = MAP.replace(old, new)
    if not said:
        parse("m", text)
        return
    with pytest.raises(ConfigError) as caught:
        parse("m", text)
    assert said in str(caught.value)
    assert caught.value.remedy


def test_a_map_over_sunspec_adds_to_what_was_found():
    own = parse("k", "maker: K\nsunspec: true\nlimits: {gap_ms: 7}\nwithheld:\n"
                     "  - {state: inverter_state, says: [sleeping], values: [ac_voltage_v]}\n")  # fmt: skip
    found = parse("sunspec", MAP + "limits: {max_registers: 125}\n")
    both = own.over(found)
    assert both.points == found.points
    assert (both.name, both.gap_ms, both.limits) == ("k", 7, found.limits)
    assert both.derived.sums == found.derived.sums
    assert both.derived.withheld == found.derived.withheld + own.derived.withheld
