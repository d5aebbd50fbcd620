"""Values of home devices: real frames, signs, orders that are easily mistaken, sentinels, and bytes without sense."""

from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pychonet.DistributionPanelMeter import _0287B3, _0287B5, _0287B7, _0287BA, _0287BC, _0287BE

from drivers.api import MalformedError
from drivers.echonet_ip import identity
from drivers.echonet_ip.devices import CLASSES, described
from drivers.echonet_ip.properties import decode, encode
from drivers.quantities import QUANTITIES
from drivers.route_b import echonet

# Rows G and N of the shared vectors: real frames, published by u-one/go-el-controller and in issues 148 and 268 of
# scottyphillips/echonetlite_homeassistant.
BATTERY_2 = (
    "10810046027D0205FF01720A800130A00400002710A10400002710A20400000000A30400000000D30400000000A40400000000E40109"
    "A50400000000E60104"
)
AIRCON = "1081000001300105FF0172048101418311FE00000860F189306DF500000000000000BB011BBE0116"
AIRCON_2 = "10810A3701300105FF0172078402006485040001B0D089020000A30131B30119BB0117BE0115"
AIRCON_ON = "108100050130010EF0017301800130"
NODE_SNA = (
    "108100000EF00105FF0152088001308204010C0100D303000001D4020002"
    "D500D60401013001D7030101309F0E0D808283898A9D9E9FBFD3D4D6D7"
)
NODE_OF_A_METER = "108100010EF00105FF017201D60401028801"
WATER_METER = "1081012F02810105FF017203800130E0040000F863E10103"
REFRIGERATOR = "1081005C03B70105FF017205800130B00142B10142B20142B30142"


def values_of(frame_hex):
    frame = echonet.decode(bytes.fromhex(frame_hex))
    return decode(CLASSES[frame.seoj[:2].hex().upper()].properties, frame.properties)


def value(code, epc, edt_hex, name):
    return decode(CLASSES[code].properties, {epc: bytes.fromhex(edt_hex)})[name]


def test_a_real_battery_with_instance_number_two():
    assert values_of(BATTERY_2) == {
        "operation_status": "on",
        "battery_capacity_wh": 10_000,
        "battery_power_w": 0,
        "battery_soc_percent": 9,
    }


def test_real_air_conditioners():
    assert values_of(AIRCON) == {"room_temperature_c": 27, "outdoor_temperature_c": 22}
    assert values_of(AIRCON_2) == {
        "consumption_power_w": 100,
        "consumption_energy_kwh": Decimal("110.800"),
        "target_temperature_c": 25,
        "room_temperature_c": 23,
        "outdoor_temperature_c": 21,
    }
    assert values_of(AIRCON_ON) == {"operation_status": "on"}


def test_a_real_node_lists_its_objects_and_keeps_its_answer_through_a_refusal():
    frame = echonet.decode(bytes.fromhex(NODE_SNA))
    assert frame.esv == echonet.GET_SNA
    assert identity.instances(frame.properties[0xD6]) == (bytes.fromhex("013001"),)
    assert frame.properties[0xD5] == b""
    assert len(echonet.property_map(frame.properties[0x9F])) == 13
    meter = echonet.decode(bytes.fromhex(NODE_OF_A_METER))
    assert identity.instances(meter.properties[0xD6]) == (bytes.fromhex("028801"),)


@pytest.mark.parametrize("frame_hex", [WATER_METER, REFRIGERATOR])
def test_classes_that_are_not_read_are_frames_all_the_same(frame_hex):
    assert echonet.decode(bytes.fromhex(frame_hex)).seoj[:2].hex().upper() not in CLASSES


def test_charging_is_positive_for_the_battery_and_negative_for_us():
    assert value("027D", 0xD3, "000003E8", "battery_power_w") == -1000
    assert value("027D", 0xD3, "FFFFFC18", "battery_power_w") == 1000
    assert value("027E", 0xD3, "00000BB8", "ev_power_w") == -3000
    assert value("027D", 0xD4, "FFF6", "battery_current_a") == 1.0


def test_d6_is_discharge_and_d8_is_charge():
    got = {0xD6: bytes.fromhex("000003E9"), 0xD8: bytes.fromhex("000007D2")}
    battery = decode(CLASSES["027D"].properties, got)
    assert battery == {
        "battery_discharge_energy_kwh": Decimal("1.001"),
        "battery_charge_energy_kwh": Decimal("2.002"),
    }
    assert all(type(one) is Decimal for one in battery.values())


def test_pv_counts_thousandths_of_a_kilowatt_hour():
    assert value("0279", 0xE0, "0B4C", "pv_power_w") == 2892
    assert value("0279", 0xE1, "3B9AC9FF", "pv_energy_kwh") == Decimal("999999.999")
    assert value("0279", 0xD1, "41", "pv_restraint") == "output_control"


def test_a_multi_input_pcs_counts_what_it_gives_as_positive():
    assert value("02A5", 0xE7, "FFFFFF9C", "ac_power_w") == -100


def test_a_panel_counts_in_the_unit_it_names():
    got = {0xC0: bytes.fromhex("00002710"), 0xC2: b"\x02"}
    panel = decode(CLASSES["0287"].properties, got)
    assert panel == {"import_energy_kwh": Decimal("100.00")}
    assert decode(CLASSES["0287"].properties, {0xC0: bytes.fromhex("00002710")}) == {"import_energy_kwh": None}
    assert value("0287", 0xC7, "00467FFE", "current_r_a") == 7.0
    assert value("0287", 0xC7, "00467FFE", "current_t_a") is None


PANEL = CLASSES["0287"]


def circuits(*values, first=1, size=4):
    return bytes([first, len(values)]) + b"".join(value.to_bytes(size, "big", signed=value < 0) for value in values)


def test_the_circuits_of_a_panel_are_read_by_their_numbers():
    got = {
        0xB1: b"\x04",
        0xC2: b"\x03",
        0xB7: circuits(120, 0, -5, first=2),
        0xB3: circuits(1234567, 0xFFFFFFFE, 0, first=2),
        0xB5: circuits(0x00460028, 0x000A7FFE, 0x7FFE7FFE, first=2),
    }
    assert PANEL.decode(got) == {
        "circuit2_consumption_power_w": 120,
        "circuit3_consumption_power_w": 0,
        "circuit4_consumption_power_w": -5,
        "circuit2_consumption_energy_kwh": Decimal("1234.567"),
        "circuit3_consumption_energy_kwh": None,
        "circuit4_consumption_energy_kwh": Decimal("0.000"),
        "circuit2_current_r_a": 7.0,
        "circuit2_current_t_a": 4.0,
        "circuit3_current_r_a": 1.0,
        "circuit3_current_t_a": None,
        "circuit4_current_r_a": None,
        "circuit4_current_t_a": None,
    }


def test_two_way_circuits_are_counted_apart_and_in_both_directions():
    both = (5000).to_bytes(4, "big") + (0xFFFFFFFE).to_bytes(4, "big")
    got = {0xB8: b"\x01", 0xC2: b"\x02", 0xBA: b"\x01\x01" + both, 0xBE: circuits(-800), 0xBC: circuits(0xFFB0FFB0)}
    assert PANEL.decode(got) == {
        "duplex1_normal_energy_kwh": Decimal("50.00"),
        "duplex1_reverse_energy_kwh": None,
        "duplex1_power_w": -800,
        "duplex1_current_r_a": -8.0,
        "duplex1_current_t_a": -8.0,
    }


def test_places_in_a_list_beyond_the_circuits_there_are_say_nothing():
    filled = circuits(100, *[0x7FFFFFFE] * 59)
    assert PANEL.decode({0xB7: filled}, {0xB1: b"\x01"}) == {"circuit1_consumption_power_w": 100}
    assert len(PANEL.decode({0xB7: filled})) == 60  # how many there are was not told
    assert PANEL.decode({0xB7: circuits(1, first=0)}) == {}
    assert len(PANEL.decode({0xB7: circuits(*[1] * 60, first=230)})) == 23  # 252 is the last


@pytest.mark.parametrize("edt", [b"", b"\x01", b"\x01\x02" + bytes(4), b"\x01\x01" + bytes(5), b"\x01\x00" + bytes(4)])
def test_a_list_whose_length_contradicts_it_names_no_circuit(edt):
    assert PANEL.decode({0xB7: edt}) == {}


def test_the_unit_of_a_panel_that_was_got_earlier_counts():
    assert PANEL.decode({0xB3: circuits(10)}, {0xC2: b"\x01"}) == {"circuit1_consumption_energy_kwh": Decimal("1.0")}
    assert PANEL.decode({0xB3: circuits(10)}) == {"circuit1_consumption_energy_kwh": None}
    assert PANEL.keys == {0xB1, 0xB8, 0xC2}


def test_every_circuit_can_be_named_to_people():
    names = [part.name.format(7) for one in PANEL.lists for part in one.parts]
    told = described([*names, "grid_power_w", "circuit12_consumption_power_w"])
    assert told.keys() == {*names, "circuit12_consumption_power_w"}
    assert list(told)[:3] == [names[0], "circuit12_consumption_power_w", names[1]]
    assert told["circuit7_consumption_energy_kwh"] == {
        "unit": "kWh",
        "kind": "counter",
        "label_ja": "回路7 消費電力量",
        "label_en": "Circuit 7, energy it took",
    }
    assert not QUANTITIES.keys() & told.keys()


def test_a_quantity_that_a_quirk_names_like_a_circuits_is_passed_over():
    assert list(described(["circuit1_voltage_v", "circuit2_consumption_power_w"])) == ["circuit2_consumption_power_w"]


def test_a_battery_counts_on_its_ac_side_where_it_lists_no_other_counters():
    got = {epc: bytes.fromhex("000003E8") for epc in (0xA8, 0xA9)}
    energies = {"battery_charge_energy_kwh", "battery_discharge_energy_kwh"}
    ac_only = CLASSES["027D"].listed({0xA8, 0xA9, 0xD3, 0xE4})
    assert ac_only.decode(got | {0xA9: bytes.fromhex("000007D0")}) == {
        "battery_charge_energy_kwh": Decimal("1.000"),
        "battery_discharge_energy_kwh": Decimal("2.000"),
    }
    for readable in ({0xA8, 0xA9, 0xD6, 0xD8}, None):  # never one counter now and the other then
        assert not energies & CLASSES["027D"].listed(readable).decode(got).keys()


@pytest.mark.parametrize(
    ("code", "epc", "edt", "name"),
    [
        ("0279", 0xE0, "FFFE", "pv_power_w"),
        ("0279", 0xE0, "FFFF", "pv_power_w"),
        ("0279", 0xE1, "FFFFFFFE", "pv_energy_kwh"),
        ("0279", 0xE1, "3B9ACA00", "pv_energy_kwh"),
        ("027D", 0xD3, "7FFFFFFF", "battery_power_w"),
        ("027D", 0xD3, "80000000", "battery_power_w"),
        ("027D", 0xE4, "FF", "battery_soc_percent"),
        ("027D", 0xE4, "65", "battery_soc_percent"),
        ("02A5", 0xE7, "7FFFFFFE", "ac_power_w"),
        ("02A5", 0xE7, "80000000", "ac_power_w"),
        ("026B", 0xB3, "FD", "water_heater_target_c"),
        ("0130", 0xBB, "7E", "room_temperature_c"),
        ("0130", 0xBE, "80", "outdoor_temperature_c"),
        ("0130", 0xBA, "FD", "room_humidity_percent"),
        ("027D", 0xDA, "99", "battery_mode"),
    ],
)
def test_what_says_no_value_is_none_and_never_zero(code, epc, edt, name):
    assert value(code, epc, edt, name) is None


def test_the_water_heaters_alarms_are_words():
    assert value("026B", 0xC2, "00000000", "water_heater_alarm") == "none"
    assert value("026B", 0xC2, "00000003", "water_heater_alarm") == "no_hot_water,leak"


@pytest.mark.parametrize("one", [one for each in CLASSES.values() for one in each.properties], ids=lambda one: one.name)
def test_every_name_is_of_the_vocabulary(one):
    assert one.name in QUANTITIES
    assert (QUANTITIES[one.name].kind == "state") == bool(one.states)


@given(st.sampled_from(sorted(CLASSES)), st.dictionaries(st.integers(0x80, 0xFF), st.binary(max_size=20)))
def test_any_bytes_give_a_value_of_the_seam(code, got):
    values = CLASSES[code].decode(got)
    units = {name: told["unit"] for name, told in described(values).items()}
    for name, found in values.items():
        assert name in QUANTITIES or name in units
        assert found is None or type(found) in {int, float, str, Decimal}
        unit = QUANTITIES[name].unit if name in QUANTITIES else units[name]
        assert unit != "kWh" or found is None or type(found) is Decimal


@given(st.binary(max_size=300))
def test_any_bytes_give_an_instance_list_or_the_one_error(edt):
    try:
        objects = identity.instances(edt)
    except MalformedError:
        return
    assert bytes([len(objects)]) + b"".join(objects) == edt


def test_what_may_be_set_is_encoded_and_nothing_else():
    aircon = CLASSES["0130"]
    assert encode(aircon.settable("air_conditioner_mode"), "cool") == b"\x42"
    assert encode(aircon.settable("target_temperature_c"), 26) == b"\x1a"
    assert aircon.settable("room_temperature_c") is None
    assert CLASSES["0279"].settable("power_limit_percent") is None
    for wrong in (51, -1, True, "26", None):
        with pytest.raises(ValueError, match="whole number from 0 to 50"):
            encode(aircon.settable("target_temperature_c"), wrong)
    with pytest.raises(ValueError, match="one of auto, cool"):
        encode(aircon.settable("air_conditioner_mode"), "freeze")


IN_KWH = {0xC2: b"\x00", 0xB1: b"\xfc", 0xB8: b"\xfc"}  # counts in kWh, and no circuit is left out
AMPERES = st.lists(st.tuples(st.integers(-3000, 3000), st.integers(-3000, 3000)), max_size=30)
WATTS = st.lists(st.integers(-(10**6), 10**6), max_size=30)
COUNTS = st.lists(st.tuples(st.integers(0, 999_999_999), st.integers(0, 999_999_999)), max_size=30)


def listed(first, values, size):
    return bytes([first, len(values)]) + b"".join(
        part.to_bytes(size, "big", signed=True) for value in values for part in value
    )


def by_circuit(epc, edt, name):
    """Return what we read of a list under one name, by circuit."""
    read = PANEL.decode({epc: edt}, IN_KWH)
    return [float(value) for key, value in read.items() if key.endswith(f"_{name}") and value is not None]


@settings(max_examples=40)
@given(st.integers(1, 200), AMPERES, WATTS, COUNTS)
def test_pychonet_reads_the_same_of_every_circuit(first, amperes, watts, counts):
    for epc, read in ((0xB5, _0287B5), (0xBC, _0287BC)):
        theirs = read(edt := listed(first, amperes, 2))["currents"]
        assert by_circuit(epc, edt, "current_r_a") == [one["r_phase_a"] for one in theirs]
        assert by_circuit(epc, edt, "current_t_a") == [one["t_phase_a"] for one in theirs]
    edt = listed(first, [(watt,) for watt in watts], 4)
    assert by_circuit(0xB7, edt, "consumption_power_w") == _0287B7(edt)["values"]
    assert by_circuit(0xBE, edt, "power_w") == _0287BE(edt)["values"]
    edt = listed(first, [(count,) for count, _ in counts], 4)
    assert by_circuit(0xB3, edt, "consumption_energy_kwh") == _0287B3(edt)["values"]
    theirs = _0287BA(edt := listed(first, counts, 4))["values"]
    assert by_circuit(0xBA, edt, "normal_energy_kwh") == [one["normal_direction_kwh"] for one in theirs]
    assert by_circuit(0xBA, edt, "reverse_energy_kwh") == [one["reverse_direction_kwh"] for one in theirs]
