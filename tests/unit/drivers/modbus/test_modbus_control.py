"""A map's control table: what it refuses, and how numbers become bits."""

import re
from dataclasses import replace
from decimal import Decimal

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from drivers.api import ConfigError, Context, RefusedError
from drivers.battery.modes import ModeFacts, Request
from drivers.contract import FastClock
from drivers.modbus.control import Setting, bits, number
from drivers.modbus.control_table import parse_control
from drivers.modbus.driver import create
from drivers.modbus.library import BESIDE, find, known
from drivers.modbus.planner import Request as Registers
from drivers.modbus.register_map import parse
from drivers.modbus.registers import WORDS, Encoding

MAP = {
    "maker": "Test",
    "points": {"battery_soc_percent": {"address": 10, "type": "u16"}},
    "writable": {
        "command": {"address": 20, "type": "enum", "names": {0: "stop", 1: "charge"}, "stored": False},
        "watts": {"address": 21, "type": "u32", "min": 0, "max": 5000},
    },
}
CHARGE = {
    "revert_s": 60,
    "do": [{"set": "watts", "to": "power_w"}, {"set": "command", "to": "charge", "always": True}],
    "undo": [{"set": "command", "to": "stop"}, {"set": "watts", "to": "saved"}],
}


DIVISORS = {"watts_per_percent": Decimal(50)}


def control(**table):
    return parse_control(parse("test", yaml.safe_dump(MAP | {"control": {"modes": {"charge": CHARGE}} | table})))


@pytest.mark.parametrize("name", known())
def test_every_shipped_control_table_can_be_read_and_undoes_all_it_stores(name):
    if not (BESIDE / f"{name}.yaml").is_file():
        pytest.skip("not one of ours")
    found = parse_control(find(name))
    if found is None:
        pytest.skip("only read")
    for mode in found.modes:
        saved = dict.fromkeys(found.touched(mode), 0)
        done = {write.setting for write in found.sequence(Request(mode, "person", 0, 100, 50), {}, DIVISORS)}
        stored = {name for name in done if found.settings[name].stored}
        assert stored <= {write.setting for write in found.undoing(mode, saved)}


def test_a_mode_is_its_writes_in_order_and_undone_in_order():
    table = control()
    writes = table.sequence(Request("charge", "person", 0, power_w=1500), {"charge_w": 1200})
    assert [(write.setting, write.value, write.stored, write.always) for write in writes] == [
        ("watts", 1200, True, False),
        ("command", 1, False, True),
    ]
    undone = table.undoing("charge", {"watts": 777, "command": 5})
    assert [(write.setting, write.value) for write in undone] == [("command", 0), ("watts", 777)]
    assert [write.setting for write in table.undoing("charge", {})] == ["command"]
    with pytest.raises(RefusedError, match="does not know hold"):
        table.undoing("hold", {"watts": 1})
    assert table.idle("charge") == {"command": 0}
    assert table.touched("charge") == ("watts", "command")
    with pytest.raises(RefusedError, match="needs power_w"):
        table.sequence(Request("charge", "person", 0), {})


@pytest.mark.parametrize(
    ("table", "key", "said"),
    [
        (
            {"modes": {"charge": CHARGE | {"do": [{"set": "volts", "to": 1}]}}},
            "control.modes.charge.do.0.set",
            "no such",
        ),
        ({"modes": {"charge": CHARGE | {"do": [{"set": "command", "to": "go"}]}}}, "do.0.to", "no such value"),
        ({"modes": {"charge": CHARGE | {"do": [{"set": "command", "to": 7, "always": True}]}}}, "do.0.to", "none of"),
        ({"modes": {"charge": CHARGE | {"do": [{"set": "watts", "to": 9000}]}}}, "do.0.to", "not within"),
        ({"modes": {"charge": CHARGE | {"undo": [{"set": "command", "to": "stop"}]}}}, "do.0", "never undone"),
        ({"modes": {"charge": CHARGE | {"undo": [{"set": "watts", "to": "power_w"}]}}}, "undo.0.to", "no such value"),
        ({"modes": {"charge": {**CHARGE, "do": CHARGE["do"][:1]}}}, "charge.do", "restarts the revert timer"),
        (
            {"modes": {"charge": CHARGE | {"do": [{"set": "watts", "to": 1, "always": True}]}}},
            "do.0.always",
            "wear out",
        ),
        ({"modes": {"normal": CHARGE}}, "modes.normal", "undoing leads to"),
        ({"modes": {"boost": CHARGE}}, "control", "boost"),
        ({"witnesses": ["uptime"]}, "control.witnesses", "no such entry"),
        ({"restless": ["uptime"]}, "control.restless", "no such entry"),
        ({"limits": {"amps": "watts"}}, "control.limits.amps", "no such limit"),
        ({"reads": {"watts": {"address": 5, "type": "u16"}}}, "control.reads.watts", "too"),
        ({"speed": 1}, "control.speed", "no such key"),
        ({"timer": {"setting": "clock"}}, "control.timer.setting", "no such entry"),
        ({"timer": {"setting": "watts"}}, "control.modes.charge.revert_s", "not what `do` sets the timer to"),
        ({"timer": {"ends": {"clock": 0}}}, "control.timer.ends.clock.set", "no such entry"),
        ({"timer": {"ends": {"command": "go"}}}, "control.timer.ends.command.to", "no such value"),
        ({"reads": {"most_w": {"type": "u16"}}}, "control.reads.most_w.address", "is where"),
        ({"reads": {"most_w": {"type": "u16", "model": 124, "point": "W"}}}, "reads.most_w.point", "no such point"),
        ({"reads": {"most_w": {"type": "u32", "model": 124, "point": "WChaMax"}}}, "most_w.type", "1 registers"),
        (
            {"modes": {"charge": {**CHARGE, "do": [{"set": "watts", "to": 9, "per": "w"}, CHARGE["do"][1]]}}},
            "do.0.per",
            "only a power",
        ),
        (
            {"modes": {"charge": {**CHARGE, "do": [{"set": "watts", "to": "power_w", "per": "w"}, CHARGE["do"][1]]}}},
            "control.modes",
            "no entry under `reads`",
        ),
    ],
)
def test_a_table_that_could_leave_something_behind_is_refused_with_its_key(table, key, said):
    with pytest.raises(ConfigError, match=re.escape(said)) as caught:
        control(**table)
    assert key in caught.value.key


def test_a_sign_of_life_may_lie_in_flash_where_the_timer_lasts_for_hours():
    seldom = {"charge": CHARGE | {"revert_s": 14_400, "do": [{"set": "watts", "to": 1, "always": True}]}}
    assert control(modes=seldom).modes["charge"].facts == ModeFacts(14_400)


def sunspec(**writable):
    one = {"model": 124, "point": "OutWRte", "type": "s16", "min": 0, "max": 100}
    return parse("test", yaml.safe_dump({"maker": "T", "sunspec": True, "writable": {"rate": one | writable}}))


@pytest.mark.parametrize(
    ("spoilt", "key"),
    [
        ({"address": 5}, "writable.rate.address"),
        ({"model": None}, "writable.rate.address"),
        ({"point": ""}, "writable.rate.address"),
        ({"point": "NoPoint"}, "writable.rate.point"),
    ],
)
def test_a_register_is_at_an_address_or_in_a_model(spoilt, key):
    def checked(writable):
        to = [{"set": "rate", "to": "saved"}]
        modes = {"hold": {"do": [{"set": "rate", "to": 0}], "undo": to}}
        return parse_control(replace(sunspec(**writable), control={"modes": modes}))

    assert checked({}).models == {124}
    with pytest.raises(ConfigError) as caught:
        checked(spoilt)
    assert caught.value.key == key


def test_what_a_device_scales_is_undone_to_what_it_was_not_to_a_number():
    modes = {"hold": {"do": [{"set": "rate", "to": 0}], "undo": [{"set": "rate", "to": 100}]}}
    with pytest.raises(ConfigError, match="scaled by the device"):
        parse_control(replace(sunspec(), control={"modes": modes}))


def test_a_map_that_is_not_for_sunspec_has_no_models():
    with pytest.raises(ConfigError, match="not for SunSpec"):
        parse("test", yaml.safe_dump(MAP | {"writable": {"x": {"model": 124, "point": "OutWRte", "type": "s16"}}}))


@given(
    st.sampled_from(["u16", "s16", "u32", "s32", "f32"]),
    st.sampled_from(["big", "little"]),
    st.sampled_from([Decimal(1), Decimal("0.1"), Decimal(10)]),
    st.integers(-30_000, 30_000),
)
def test_what_was_encoded_is_decoded_to_the_same_number(kind, order, scale, count):
    setting = Setting(
        Registers("holding", 1, WORDS[kind]),
        Encoding(kind, WORDS[kind], order, scale),
        least=Decimal(-(10**6)),
        most=Decimal(10**6),
    )
    value = count * scale
    if kind[0] == "u" and count < 0:
        with pytest.raises(RefusedError):
            bits("x", setting, value)
    else:
        assert number(setting, bits("x", setting, value)) == value


def test_outage_is_told_only_by_the_state_that_says_so():
    table = control(outage={"quantity": "inverter_state", "values": ["off_grid"]})
    assert table.is_outage({"inverter_state": "off_grid"}) is True
    assert table.is_outage({"inverter_state": "running"}) is False
    assert table.is_outage({"inverter_state": None}) is None
    assert table.is_outage({}) is None
    assert control().is_outage({"inverter_state": "off_grid"}) is None


def test_the_examples_of_the_manual_are_taken_as_they_stand():
    text = (BESIDE.parents[1] / "docs" / "battery.md").read_text(encoding="utf-8")
    first, tariff, table = (yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL))
    device = first["drivers"]["solar"]["devices"]["inverter"]
    for battery in (device["battery"], tariff["battery"]):
        line = {"host": "h", "devices": {"inverter": device | {"battery": battery}}}
        driver = create(Context("solar", FastClock(), str), line)
        assert driver.warnings() == []
    found = parse_control(parse("acme_h5", yaml.safe_dump(MAP | table)))
    assert found.modes["charge"].facts == ModeFacts(60, takes_power=True)


@pytest.mark.parametrize(("name", "keeps"), [("huawei_sun2000", False), ("goodwe_et", True), ("sungrow_sh", True)])
def test_a_schedule_is_told_whether_a_charging_power_lies_in_flash(name, keeps):
    assert parse_control(find(name)).facts()["charge"].keeps_power is keeps
