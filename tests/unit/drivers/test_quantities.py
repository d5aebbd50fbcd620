"""The vocabulary keeps its own rules."""

import re

import pytest

from drivers.quantities import QUANTITIES

UNITS = {"w": "W", "a": "A", "kwh": "kWh", "wh": "Wh", "percent": "%", "v": "V", "hz": "Hz", "c": "°C", "l": "L"}


@pytest.mark.parametrize("quantity", QUANTITIES.values(), ids=QUANTITIES)
def test_an_entry_is_complete_and_its_name_ends_in_its_unit(quantity):
    assert QUANTITIES[quantity.name] is quantity
    assert re.fullmatch(r"[a-z][a-z0-9_]*", quantity.name)
    assert quantity.label_ja
    assert quantity.label_en
    suffix = quantity.name.rpartition("_")[2]
    assert UNITS.get(suffix, "") == quantity.unit


@pytest.mark.parametrize("quantity", QUANTITIES.values(), ids=QUANTITIES)
def test_kind_and_home_assistants_classes_agree(quantity):
    expected = {"gauge": "measurement", "counter": "total_increasing", "state": None}[quantity.kind]
    assert quantity.state_class == expected
    assert (quantity.unit == "kWh") == (quantity.kind == "counter") == (quantity.device_class == "energy")


@pytest.mark.parametrize("quantity", [one for one in QUANTITIES.values() if one.echonet], ids=lambda one: one.name)
def test_an_echonet_reference_is_class_and_property(quantity):
    assert re.fullmatch(r"(0288|0279|027D|027E|02A5|0287|026B|0130)/[0-9A-F]{2}", quantity.echonet)


def test_the_vocabulary_names_what_a_house_is_made_of():
    assert {
        "grid_power_w",
        "import_energy_kwh",
        "export_energy_kwh",
        "pv_power_w",
        "pv_energy_kwh",
        "battery_power_w",
        "battery_soc_percent",
        "battery_charge_energy_kwh",
        "battery_discharge_energy_kwh",
    } <= set(QUANTITIES)


def test_no_two_quantities_share_a_label():
    for labels in ([one.label_ja for one in QUANTITIES.values()], [one.label_en for one in QUANTITIES.values()]):
        assert len(labels) == len(set(labels))
