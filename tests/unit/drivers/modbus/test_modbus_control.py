"""A map's control table: what it refuses, and how numbers become bits."""

import re
import struct
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
    "points": {
        "battery_soc_percent": {"address": 10, "type": "u16"},
        "battery_mode": {"address": 12, "type": "enum", "names": {0: "standby", 3: "fault"}},
        "inverter_state": {
            "address": 11,
            "type": "enum",
            "names": {0: "running", 1: "shutdown_fault", 2: "off_grid"},
        },
    },
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


INFINITE = Decimal("Infinity")


def control(**table):
    return parse_control(parse("test", yaml.safe_dump(MAP | {"control": {"modes": {"charge": CHARGE}} | table})))


CONTROLLED = [name for name in known() if find(name).control]


def test_there_are_shipped_maps_that_command():
    assert len(CONTROLLED) >= 11


@pytest.mark.parametrize("name", CONTROLLED)
def test_every_shipped_control_table_can_be_read_and_undoes_all_it_stores(name):
    found = parse_control(find(name))
    readings = dict.fromkeys(found.readings, Decimal(50))
    for mode in found.modes:
        saved = dict.fromkeys(found.touched(mode), 0)
        done = {write.setting for write in found.sequence(Request(mode, "person", 0, 100, 50), {}, readings)}
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


WHOLE = {kind: int(kind[1:]) for kind in ("u16", "s16", "u32", "s32", "u64", "s64")}


def setting_of(kind, order="big", scale=Decimal(1), offset=Decimal(0)):
    encoding = Encoding(kind, WORDS[kind], order, scale, offset=offset)
    return Setting(Registers("holding", 1, WORDS[kind]), encoding, least=Decimal("-1e45"), most=Decimal("1e45"))


def number_of(kind, data):
    """Draw a count that the type holds, its ends among them."""
    if kind in WHOLE:
        least, most = (
            (-(1 << WHOLE[kind] - 1), (1 << WHOLE[kind] - 1) - 1) if kind[0] == "s" else (0, 2 ** WHOLE[kind] - 1)
        )
        return data.draw(st.integers(least, most) | st.sampled_from([least, most]))
    width = 32 if kind == "f32" else 64
    return data.draw(st.floats(width=width, allow_nan=False, allow_infinity=False))


@given(
    st.sampled_from([*WHOLE, "f32", "f64"]),
    st.sampled_from(["big", "little"]),
    st.sampled_from([Decimal(1), Decimal("0.1"), Decimal(10), Decimal(-1)]),
    st.sampled_from([Decimal(0), Decimal(-100)]),
    st.data(),
)
def test_what_was_encoded_is_decoded_to_the_same_number(kind, order, scale, offset, data):
    plain = number_of(kind, data)
    code = {"f32": ">f", "f64": ">d"}.get(kind)
    wire = struct.pack(code, plain) if code else (plain % (1 << WHOLE[kind])).to_bytes(WHOLE[kind] // 8, "big")
    words = [wire[at : at + 2] for at in range(0, len(wire), 2)]
    raw = int.from_bytes(b"".join(words if order == "big" else reversed(words)), "big")
    setting = setting_of(kind, order, scale, offset)
    value = number(setting, raw)
    if code is None:
        assert value == plain * scale + offset
        assert bits("x", setting, Decimal(value)) == raw
    elif abs(value) < Decimal("1e45"):
        again = number(setting, bits("x", setting, value))
        assert abs(again - value) <= abs(value) * Decimal("1e-6") + Decimal("1e-4")
        if scale in (1, -1) and not offset and plain:
            assert bits("x", setting, value) == raw


@pytest.mark.parametrize(
    ("kind", "order", "value", "words"),
    [
        ("f32", "little", "1500", "8000 44bb"),
        ("f64", "big", "1500", "4097 7000 0000 0000"),
        ("f64", "little", "-0.5", "0000 0000 0000 bfe0"),
        ("u64", "big", "1500", "0000 0000 0000 05dc"),
        ("u64", "little", "1500", "05dc 0000 0000 0000"),
        ("s64", "little", "-2", "fffe ffff ffff ffff"),
        ("u32", "little", "0x12345678", "5678 1234"),
    ],
)
def test_the_words_of_a_number_lie_on_the_wire_as_its_type_says(kind, order, value, words):
    raw = bits("x", setting_of(kind, order), Decimal(int(value, 16) if "x" in value else value))
    assert raw.to_bytes(2 * WORDS[kind], "big").hex(" ", 2) == words


@pytest.mark.parametrize(
    ("kind", "value"),
    [("f32", "4e38"), ("f64", "1e400"), ("u64", "-1"), ("u64", str(1 << 64)), ("s64", str(1 << 63)), ("string", "1")],
)
def test_a_number_that_its_type_does_not_hold_is_refused(kind, value):
    setting = Setting(Registers("holding", 1, 4), Encoding(kind, WORDS.get(kind, 4)), least=-INFINITE, most=INFINITE)
    with pytest.raises(RefusedError, match=f"does not fit {kind}"):
        bits("x", setting, Decimal(value))


@pytest.mark.parametrize("name", CONTROLLED)
def test_every_shipped_map_that_commands_and_knows_a_fault_minds_it(name):
    found = parse_control(find(name))
    told = {one.quantity for one in find(name).points if "fault" in one.encoding.names.values()}
    assert told <= found.faults.keys()


def test_faults_are_told_by_each_state_that_says_so():
    table = control(faults={"inverter_state": ["shutdown_fault"], "battery_mode": ["fault"]})
    assert table.faults_in({"inverter_state": "running", "battery_mode": "fault"}) == {
        "inverter_state": None,
        "battery_mode": "fault",
    }
    assert table.faults_in({"inverter_state": None, "battery_soc_percent": 5}) == {}
    assert control(faults={}).faults_in({"inverter_state": "shutdown_fault"}) == {}


@pytest.mark.parametrize(
    ("guard", "key", "said"),
    [
        ({"outage": {"quantity": "inverter_stat", "values": ["off_grid"]}}, "control.outage", "no state of this map"),
        ({"outage": {"quantity": "inverter_state", "values": ["island"]}}, "control.outage", "never that"),
        ({"faults": {"battery_soc_percent": ["fault"]}}, "control.faults.battery_soc_percent", "no state"),
        ({"faults": {"battery_mode": ["fault", "ill"]}}, "control.faults.battery_mode", "never that"),
        ({"faults": {"battery_mode": []}}, "control.faults", "length"),
    ],
)
def test_a_guard_that_no_reading_could_meet_is_refused(guard, key, said):
    with pytest.raises(ConfigError, match=said) as caught:
        control(**guard)
    assert caught.value.key.startswith(key)


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
