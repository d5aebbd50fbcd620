"""Any number in a map is taken or named: what is taken reads and writes short values, whatever the device says."""

from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drivers.api import ConfigError, RefusedError
from drivers.battery.modes import Request
from drivers.modbus.control_table import parse_control
from drivers.modbus.register_map import parse
from drivers.modbus.registers import decode
from drivers.settings import load_yaml

MAP = """
maker: Nobody
points:
  pv_power_w: {address: 10, type: s32, scale: <point.scale>, offset: <point.offset>}
  dc_power_w: {address: 12, type: f32, scale: <point.scale>}
  ac_power_w: {address: 14, type: f64, scale: <point.scale>, offset: <point.offset>}
  load_power_w: {address: 20, type: u64, scale: <point.scale>, offset: <point.offset>, sentinels: [<sentinel>]}
sums:
  grid_power_w: {add: [load_power_w], subtract: [pv_power_w], least: <least>}
writable:
  watts: {address: 30, type: s64, scale: <scale>, offset: <offset>, min: <min>, max: <max>, at_most: load_power_w}
  mode: {address: 40, type: enum, names: {1: go, <code>: stop}}
control:
  reads:
    rated_w: {address: 50, type: f32, scale: <read.scale>}
  modes:
    charge: {do: [{set: watts, to: power_w}], undo: [{set: watts, to: saved}]}
    hold: {do: [{set: watts, to: <to>}], undo: [{set: watts, to: saved}]}
"""
SOUND = {
    "point.scale": "0.1",
    "point.offset": "-100",
    "sentinel": "0xFFFFFFFFFFFFFFFF",
    "least": "0",
    "scale": "0.1",
    "offset": "0",
    "min": "0",
    "max": "5000",
    "code": "2",
    "read.scale": "10",
    "to": "1500",
}
HOSTILE = [
    "1e999999",
    "-1e999999",
    "1e-999999",
    "1e21",
    "1e-21",
    "1." + "0" * 30,
    ".nan",
    ".inf",
    "sNaN",
    "'-Infinity'",
]
HOSTILE += ["0x" + "f" * 6000, "9" * 5000, "1" + "0" * 4000, "1.0e+300", "''", "1e", "0"]
SHORT = 600
"""Letters: an f64 has 309 digits before its point."""


def written(numbers):
    text = MAP
    for name, number in (SOUND | numbers).items():
        text = text.replace(f"<{name}>", number)
    register_map = parse("hostile", text)
    return register_map, parse_control(register_map)


def number():
    plain = st.integers(-(1 << 70), 1 << 70).map(str) | st.floats().map(repr)
    far = st.builds("{}e{}".format, st.integers(-99, 99), st.integers(-2_000_000, 2_000_000) | st.integers(-25, 25))
    return st.sampled_from(HOSTILE) | plain | far | far.map("'{}'".format)


@settings(max_examples=150, deadline=None)
@given(
    st.dictionaries(st.sampled_from(sorted(SOUND)), number(), max_size=3),
    st.integers(0, (1 << 64) - 1),
    st.sampled_from([None, 10, 0x10000 - 10]),
)
def test_a_map_with_any_numbers_is_refused_by_name_or_reads_and_writes_short_values(numbers, raw, exponent):
    try:
        register_map, control = written(numbers)
    except ConfigError as error:
        error.add_note(str(error))  # it can be shown
        return
    values = {}
    for point in register_map.points:
        value = decode(raw & (1 << 16 * point.encoding.words) - 1, point.encoding, exponent)
        values[point.quantity] = value
        assert value is None or len(f"{value:f}") < SHORT
    assert all(value is None or len(f"{value:f}") < SHORT for value in register_map.derived.finish(values).values())
    bound = values["load_power_w"]
    for mode in ("charge", "hold"):
        try:
            (write,) = control.sequence(
                Request(mode, "person", 0, power_w=1_500), {}, {} if bound is None else {"points.load_power_w": bound}
            )
        except RefusedError:
            continue
        assert 0 <= write.value < 1 << 64


@pytest.mark.parametrize(
    "name", ["point.scale", "point.offset", "least", "scale", "offset", "min", "max", "read.scale"]
)
@pytest.mark.parametrize("number", ["1e999999", "1e-999999", "1e21", "1e-21", ".nan", "'-Infinity'"])
def test_a_number_that_no_device_counts_in_is_refused_with_its_key(name, number):
    with pytest.raises(ConfigError, match="not a number within 1e-20 and 1e20") as caught:
        written({name: number})
    assert caught.value.key.endswith(name.rpartition(".")[2])


@pytest.mark.parametrize(("name", "number"), [("point.scale", "1e20"), ("point.scale", "1e-20"), ("least", "-1e20")])
def test_a_number_at_the_edge_is_taken(name, number):
    register_map, _ = written({name: number})
    assert decode(7, register_map.points[0].encoding) is not None


@pytest.mark.parametrize("number", ["0x" + "f" * 6000, "1" + "0" * 4000, "-0b1" + "0" * 200])
def test_a_whole_number_too_long_to_be_shown_is_refused_with_its_line(number):
    with pytest.raises(ConfigError, match="too long line 2"):
        load_yaml(f"a: 1\nb: {number}\n")
    assert load_yaml(f"a: {1 << 64}\n") == {"a": 1 << 64}


def test_a_value_of_a_point_stays_exact():
    register_map, _ = written({"point.scale": "1e-20", "point.offset": "0"})
    assert decode(3, register_map.points[0].encoding) == Decimal("3e-20")
