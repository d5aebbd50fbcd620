"""Maps as data: every shipped one loads, and a wrong one says which key is wrong and what to do."""

import json
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drivers.api import ConfigError
from drivers.modbus import library
from drivers.modbus.planner import plan
from drivers.modbus.register_map import parse

DATA = Path(__file__).parents[3] / "data" / "modbus"

SMALLEST = """
maker: Nobody
points:
  pv_power_w: {address: 10, type: s32}
"""


def broken(old, new, text=SMALLEST):
    assert old in text
    with pytest.raises(ConfigError) as caught:
        parse("broken", text.replace(old, new))
    assert caught.value.remedy
    return str(caught.value)


@pytest.mark.parametrize("name", library.known())
def test_every_shipped_map_loads_and_can_be_planned(name):
    register_map = library.find(name)
    blocks = plan(register_map.points, register_map.limits, register_map.holes)
    assert {p.quantity for block in blocks for p in block.points} == {p.quantity for p in register_map.points}


def test_the_folder_of_maps_ships_the_hybrid():
    assert "huawei_sun2000" in library.known()


def test_a_point_has_the_defaults_of_its_map():
    text = SMALLEST.replace("maker:", "space: input\norder: little\nsentinels: {s32: [0x7FFFFFFF]}\nmaker:")
    (point,) = parse("m", text).points
    assert (point.space, point.encoding.order, point.encoding.sentinels) == ("input", "little", {0x7FFFFFFF})


def test_a_scale_is_exact_although_yaml_reads_a_float():
    (point,) = parse("m", SMALLEST.replace("s32", "s32, scale: 0.1")).points
    assert str(point.encoding.scale) == "0.1"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("s32", "i32", "points.pv_power_w.type = 'i32'"),
        ("address: 10", "adress: 10", "did you mean 'address'?"),
        ("address: 10", "address: 65535", "reaches past register 65535"),
        ("address: 10", "address: 70000", "points.pv_power_w.address = 70000"),
        ("address: 10", "address: '10'", "points.pv_power_w.address = '10'"),
        ("pv_power_w", "pv_power", "points.pv_power: no such quantity"),
        ("pv_power_w", "inverter_state", "a state cannot be read as s32"),
        ("pv_power_w", "pv_energy_kwh", "points.pv_energy_kwh.negate = True: a counter has no sign"),
        ("s32", "string", "points.pv_power_w.words: missing"),
        ("s32", "s32, words: 3", "s32 has 2 registers"),
        ("s32", "s32, scale: 0", "points.pv_power_w.scale"),
        ("s32", "s32, scale: .nan", "points.pv_power_w.scale"),
        ("s32", "s32, sentinels: [0x100000000]", "does not fit 2 registers"),
        ("s32", "s32, sentinels: [-1]", "does not fit 2 registers"),
        ("s32", "s32, scale_address: 200", "needs 191 registers in one read"),
        ("maker: Nobody", "maker: Nobody\nforbidden: [{first: 11, last: 12}]", "forbidden hole 11…12"),
        ("maker: Nobody", "maker: Nobody\nforbidden: [{first: 2, last: 1}]", "forbidden.0.last = 1"),
        ("maker: Nobody", "maker: Nobody\nsentinels: {i16: [1]}", "sentinels.i16: no such type"),
        ("maker: Nobody", "maker: Nobody\nlimits: {max_registers: 126}", "limits.max_registers"),
        ("maker: Nobody", "maker: Nobody\nlimits: {absent_codes: [4, 6]}", "limits.absent_codes = 6: means busy"),
        ("maker: Nobody", "maker: Nobody\nquantities: {pv_power_w: {kind: gauge}}", "already in the vocabulary"),
        ("maker: Nobody", "maker: Nobody\nidentity: {colour: {address: 1, type: u16}}", "identity.colour"),
        ("  pv_power_w: {address: 10, type: s32}", "  {}", "the map has no point"),
        ("maker: Nobody\n", "", "maker: missing"),
    ],
)
def test_a_wrong_map_names_key_value_and_remedy(old, new, said):
    text = SMALLEST.replace("s32}", "s32, negate: true}") if "negate" in said else SMALLEST
    assert said in broken(old, new, text)


def test_values_that_share_a_part_of_their_registers_are_refused():
    said = broken("type: s32}", "type: s32}\n  battery_power_w: {address: 11, type: s16}")
    assert "points.battery_power_w.address = 11: overlaps points.pv_power_w" in said


def test_a_text_and_a_number_in_the_same_registers_are_refused():
    assert "overlaps" in broken("type: s32}", "type: s32}\n  inverter_state: {address: 10, type: string, words: 2}")


def test_a_quantity_outside_the_vocabulary_must_be_declared():
    text = SMALLEST.replace("pv_power_w", "string_voltage_v")
    assert "declare it under `quantities`" in broken("Nobody", "Somebody", text)
    declared = text + "quantities: {string_voltage_v: {unit: V, kind: gauge, label_en: String voltage}}"
    assert parse("m", declared).quantities["string_voltage_v"].unit == "V"


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=300))
def test_any_text_is_a_map_or_a_configuration_error(text):
    with pytest.raises(ConfigError):
        parse("noise", text)


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_a_map_with_one_character_changed_is_a_map_or_a_configuration_error(data):
    text = library.BESIDE.joinpath("huawei_sun2000.yaml").read_text()
    at = data.draw(st.integers(0, len(text) - 1))
    changed = text[:at] + data.draw(st.characters(codec="utf-8")) + text[at + 1 :]
    try:
        register_map = parse("changed", changed)
    except ConfigError:
        return
    plan(register_map.points, register_map.limits, register_map.holes)


def test_a_local_map_hides_a_shipped_one(tmp_path):
    (tmp_path / "huawei_sun2000.yaml").write_text(SMALLEST)
    assert library.find("huawei_sun2000", str(tmp_path)).maker == "Nobody"
    assert library.find("huawei_sun2000").maker == "Huawei"


@pytest.mark.parametrize("name", ["nothing", "../huawei_sun2000", "/etc/passwd", ""])
def test_an_unknown_map_names_the_known_ones(name):
    with pytest.raises(ConfigError, match="huawei_sun2000"):
        library.find(name)


def test_a_broken_map_file_is_named(tmp_path):
    (tmp_path / "mine.yaml").write_text(SMALLEST.replace("s32", "s33"))
    with pytest.raises(ConfigError, match=r"mine\.yaml: points\.pv_power_w\.type = 's33'"):
        library.find("mine", str(tmp_path))


SUNSYNK = """
maker: Sunsynk
models: SG01LP1
order: little
points:
  inverter_state: {address: 59, type: enum, names: {0: standby, 1: self_check, 2: running, 3: alarm, 4: fault}}
  battery_charge_energy_kwh: {address: 72, type: u32, scale: 0.1}
  battery_discharge_energy_kwh: {address: 74, type: u32, scale: 0.1}
  pv_energy_kwh: {address: 96, type: u32, scale: 0.1}
  grid_power_w: {address: 172, type: s16}
  battery_soc_percent: {address: 184, type: u16}
  pv_power_w: {address: 186, type: u16}
  battery_power_w: {address: 190, type: s16}
"""


def test_a_captured_sunsynk_reads_as_its_publisher_says():
    image = json.loads((DATA / "sunsynk_3k6.json").read_text())
    words = {}
    for first, text in image["blocks"]:
        words |= {first + n: int(text[4 * n : 4 * n + 4], 16) for n in range(len(text) // 4)}
    values = {}
    for block in plan(parse("sunsynk", SUNSYNK).points, parse("sunsynk", SUNSYNK).limits):
        asked = range(block.request.address, block.request.address + block.request.count)
        values |= block.decode(b"".join(words.get(address, 0).to_bytes(2) for address in asked))
    expect = image["expect"]
    assert values == {
        "inverter_state": "running",
        "battery_charge_energy_kwh": Decimal(str(expect["total_bat_charge_kWh"])),
        "battery_discharge_energy_kwh": Decimal(str(expect["total_bat_discharge_kWh"])),
        "pv_energy_kwh": Decimal(str(expect["total_pv_kWh"])),
        "grid_power_w": expect["grid_ct_W"],
        "battery_soc_percent": expect["soc_pct"],
        "pv_power_w": expect["pv_W"],
        "battery_power_w": expect["battery_W"],
    }
