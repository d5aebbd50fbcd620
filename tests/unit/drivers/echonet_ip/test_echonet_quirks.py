"""Quirks as data: what they add and leave out, for whom, and how a wrong file says so."""

import pytest

from drivers.api import ConfigError
from drivers.echonet_ip import quirks
from drivers.echonet_ip.devices import CLASSES
from drivers.echonet_ip.properties import decode
from drivers.quantities import QUANTITIES

OWN = """
maker: "00000B"
maker_name: Example
source: a test
quirks:
  - device_class: "027D"
    products: ["LJ*"]
    ignore: ["E4"]
    most_properties: 2
    timeout_s: 20
    properties:
      - {epc: "D3", name: battery_power_w, type: i32}
      - {epc: "F1", name: battery_temperature_c, type: i16, at: 2, factor: "0.1"}
"""


def test_a_quirk_fits_one_class_of_one_makers_products():
    quirk = quirks.parse(OWN)
    assert quirks.fitting(quirk, "027D", {"maker": "00000B", "product": "LJ-1"}) is quirk[0]
    assert quirks.fitting(quirk, "027D", {"maker": "00000B", "product": "XX"}) is None
    assert quirks.fitting(quirk, "0279", {"maker": "00000B", "product": "LJ-1"}) is None
    assert quirks.fitting(quirk, "027D", {"maker": "000005", "product": "LJ-1"}) is None
    assert quirks.fitting(quirk, "027D", {}) is None


def test_a_quirk_replaces_adds_and_leaves_out():
    one = quirks.parse(OWN)[0]
    battery = one.applied(CLASSES["027D"])
    assert 0xE4 not in battery.epcs
    assert 0xF1 in battery.epcs
    got = {0xD3: bytes.fromhex("000003E8"), 0xE4: b"\x32", 0xF1: bytes.fromhex("0000 FFE7")}
    assert decode(battery.properties, got) == {"battery_power_w": 1000, "battery_temperature_c": -2.5}
    assert (one.most_properties, one.timeout_s) == (2, 20)


def test_the_shipped_quirks_are_sound_and_use_the_vocabulary():
    shipped = quirks.load()
    assert {quirk.maker_name for quirk in shipped} >= {"Nichicon", "Kyocera"}
    assert all(one.name in QUANTITIES for quirk in shipped for one in quirk.properties)


def test_nichicons_pcs_tells_the_houses_load():
    pcs = quirks.fitting(quirks.load(), "02A5", {"maker": "00006C"}).applied(CLASSES["02A5"])
    values = decode(pcs.properties, {0xF5: bytes.fromhex("000002BC" + "00000000" + "FF" * 8)})
    assert values == {"load_power_w": 700}


def test_a_file_of_the_same_name_hides_the_one_that_was_shipped(tmp_path):
    (tmp_path / "kyocera.yaml").write_text(OWN)
    assert "Kyocera" not in {quirk.maker_name for quirk in quirks.load(str(tmp_path))}


@pytest.mark.parametrize(
    ("change", "key"),
    [
        (('"027D"', '"0288"'), "quirks.0.device_class"),
        (('["E4"]', '["7F"]'), "quirks.0.ignore"),
        (('"F1"', '"G1"'), "quirks.0.properties.1.epc"),
        (('"0.1"', '"zero"'), "quirks.0.properties.1"),
        (('"0.1"', '"0"'), "quirks.0.properties.1.factor"),
        (("battery_temperature_c", "Battery"), "quirks.0.properties.1.name"),
        (("at: 2", "at: 2, size: 3"), "quirks.0.properties.1.size"),
        (("source: a test", "sauce: a test"), "sauce"),
    ],
)
def test_a_wrong_file_says_which_key(change, key):
    with pytest.raises(ConfigError) as caught:
        quirks.parse(OWN.replace(*change))
    assert caught.value.key == key
    assert caught.value.remedy


def test_a_wrong_file_is_named(tmp_path):
    (tmp_path / "bad.yaml").write_text("maker: [")
    with pytest.raises(ConfigError, match=r"bad\.yaml"):
        quirks.load(str(tmp_path))
