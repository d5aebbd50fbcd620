"""Values of home devices: real frames, signs, orders that are easily mistaken, sentinels, and bytes without sense."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivers.api import MalformedError
from drivers.echonet_ip import identity
from drivers.echonet_ip.devices import CLASSES, decode, encode
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
    for name, found in decode(CLASSES[code].properties, got).items():
        assert name in QUANTITIES
        assert found is None or type(found) in {int, float, str, Decimal}
        assert QUANTITIES[name].unit != "kWh" or found is None or type(found) is Decimal


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
