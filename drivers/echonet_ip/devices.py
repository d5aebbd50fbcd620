"""Classes of home devices: property bytes to our vocabulary and signs, and back for the few that may be set. Pure.

Written from the Appendix of the ECHONET Lite specification (releases K to R). Knows no transport and no maker.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from decimal import Decimal

from drivers.api import Json
from drivers.echonet_ip.properties import ChannelList, DeviceClass, Property

OPERATION, FAULT, GET_MAP, SET_MAP = 0x80, 0x88, 0x9F, 0x9E
NODE_PROFILE_CLASS = "0EF0"

_MILLI = Decimal("0.001")
_TENTH = Decimal("0.1")
_CUMULATIVE = 999_999_999
_CONNECTION = {0x00: "connected", 0x01: "independent", 0x02: "connected_no_export", 0x03: "unknown"}
_STATUS = {0x30: "on", 0x31: "off"}
_BATTERY_MODES = {
    0x40: "other",
    0x41: "rapid_charge",
    0x42: "charge",
    0x43: "discharge",
    0x44: "standby",
    0x45: "test",
    0x46: "auto",
    0x48: "restart",
    0x49: "recalculation",
}
_EV_MODES = {
    0x40: "other",
    0x42: "charge",
    0x43: "discharge",
    0x44: "standby",
    0x46: "charge_discharge",
    0x47: "idle",
    0x48: "preparation",
    0x49: "auto",
}
_EV_CONNECTIONS = {
    0x30: "none",
    0x40: "connected",
    0x41: "chargeable",
    0x42: "dischargeable",
    0x43: "chargeable_dischargeable",
    0x44: "unknown",
}


def _energy(epc: int, name: str) -> Property:
    return Property(epc, name, "u32", _MILLI, highest=_CUMULATIVE)


def _state(epc: int, name: str, states: Mapping[int, str], *, settable: bool = False) -> Property:
    return Property(epc, name, "u8", states=states, settable=settable)


def _common(*, settable: bool = False) -> tuple[Property, ...]:
    """What every device has."""
    return (
        _state(OPERATION, "operation_status", _STATUS, settable=settable),
        _state(FAULT, "device_fault", {0x41: "fault", 0x42: "none"}),
    )


_PV = DeviceClass(
    "0279",
    "住宅用太陽光発電",
    "residential PV",
    (
        Property(0xE0, "pv_power_w", "u16"),
        _energy(0xE1, "pv_energy_kwh"),
        _energy(0xE3, "pv_sold_energy_kwh"),
        _state(0xD0, "grid_connection", _CONNECTION),
        _state(
            0xD1,
            "pv_restraint",
            {0x41: "output_control", 0x42: "other_reason", 0x43: "unknown_reason", 0x44: "none", 0x45: "unknown"},
        ),
        Property(0xA0, "power_limit_percent", "u8", highest=100),
        Property(0xE8, "inverter_rated_power_w", "u16"),
        *_common(),
    ),
)

_BATTERY = DeviceClass(
    "027D",
    "蓄電池",
    "storage battery",
    (
        # The Appendix counts charging positive; we count what flows into the house's bus.
        Property(0xD3, "battery_power_w", "i32", Decimal(-1), lowest=-_CUMULATIVE, highest=_CUMULATIVE),
        Property(0xE4, "battery_soc_percent", "u8", highest=100),
        _energy(0xD6, "battery_discharge_energy_kwh"),  # D6 discharge, D8 charge: the order that is easily mistaken
        _energy(0xD8, "battery_charge_energy_kwh"),
        _energy(0xA9, "battery_discharge_energy_kwh"),  # on its AC side; D6 and D8 are optional, these are not
        _energy(0xA8, "battery_charge_energy_kwh"),
        _state(0xCF, "battery_state", _BATTERY_MODES),
        _state(0xDA, "battery_mode", _BATTERY_MODES, settable=True),
        Property(0xA1, "battery_capacity_wh", "u32", highest=_CUMULATIVE),
        Property(0xE2, "battery_available_wh", "u32", highest=_CUMULATIVE),
        Property(0xE5, "battery_soh_percent", "u8", highest=100),
        Property(0xD4, "battery_current_a", "i16", -_TENTH),
        Property(0xD5, "battery_voltage_v", "i16"),
        Property(0xC8, "battery_charge_limit_w", "u32", at=4, highest=_CUMULATIVE),
        Property(0xC9, "battery_discharge_limit_w", "u32", at=4, highest=_CUMULATIVE),
        _state(0xDB, "grid_connection", _CONNECTION),
        *_common(),
    ),
)

_PCS = DeviceClass(
    "02A5",
    "マルチ入力PCS",
    "multi-input PCS",
    (
        Property(0xE7, "ac_power_w", "i32"),
        _energy(0xE0, "ac_energy_kwh"),
        _energy(0xE3, "ac_reverse_energy_kwh"),
        _state(0xD0, "grid_connection", _CONNECTION),
        *_common(),
    ),
)

_EV = DeviceClass(
    "027E",
    "電気自動車充放電器",
    "EV charger and discharger",
    (
        Property(0xD3, "ev_power_w", "i32", Decimal(-1), lowest=-_CUMULATIVE, highest=_CUMULATIVE),
        Property(0xE4, "ev_soc_percent", "u8", highest=100),
        _energy(0xD6, "ev_discharge_energy_kwh"),
        _energy(0xD8, "ev_charge_energy_kwh"),
        _state(0xC7, "ev_connection", _EV_CONNECTIONS),
        _state(0xDA, "ev_mode", _EV_MODES),
        Property(0xE2, "ev_available_wh", "u32", highest=_CUMULATIVE),
        _state(0xDB, "grid_connection", _CONNECTION),
        *_common(),
    ),
)

_ECOCUTE = DeviceClass(
    "026B",
    "電気温水器（エコキュート）",
    "electric water heater (EcoCute)",
    (
        _state(0xB2, "water_heater_state", {0x41: "heating", 0x42: "not_heating"}),
        Property(0xE1, "tank_remaining_l", "u16"),
        Property(0xE2, "tank_capacity_l", "u16"),
        Property(0xC1, "tank_temperature_c", "u8", highest=100),
        Property(0xB3, "water_heater_target_c", "u8", highest=100),
        _state(0xB0, "water_heater_mode", {0x41: "auto", 0x42: "manual_heating", 0x43: "manual_stop"}, settable=True),
        _state(0xC3, "hot_water_supply", {0x41: "supplying", 0x42: "not_supplying"}),
        _state(0xEA, "bath_state", {0x41: "filling", 0x42: "stopped", 0x43: "keeping_warm"}),
        Property(0xC2, "water_heater_alarm", "bits", states={0: "no_hot_water", 1: "leak", 2: "freeze"}),
        Property(0x84, "consumption_power_w", "u16"),
        _energy(0x85, "consumption_energy_kwh"),
        *_common(),
    ),
)

_AIRCON_MODES = {0x41: "auto", 0x42: "cool", 0x43: "heat", 0x44: "dry", 0x45: "fan", 0x40: "other"}
_FAN_LEVELS = {0x41: "auto", **{0x30 + level: str(level) for level in range(1, 9)}}
_AIRCON = DeviceClass(
    "0130",
    "家庭用エアコン",
    "home air conditioner",
    (
        _state(0xB0, "air_conditioner_mode", _AIRCON_MODES, settable=True),
        Property(0xBB, "room_temperature_c", "i8"),
        Property(0xBE, "outdoor_temperature_c", "i8"),
        Property(0xB3, "target_temperature_c", "u8", highest=50, settable=True),
        Property(0xBA, "room_humidity_percent", "u8", highest=100),
        _state(0xA0, "fan_level", _FAN_LEVELS),
        Property(0x84, "consumption_power_w", "u16"),
        _energy(0x85, "consumption_energy_kwh"),
        *_common(settable=True),
    ),
)


def _counted(epc: int, name: str, *, at: int = 0, size: int = 0) -> Property:
    """Return an energy of a distribution board, which counts in the unit of its C2."""
    return Property(epc, name, "u32", at=at, size=size, highest=_CUMULATIVE, unit_epc=0xC2)


def _currents(epc: int, of: str = "") -> tuple[Property, Property]:
    prefix = of and f"{of}_"
    return (
        Property(epc, f"{prefix}current_r_a", "i16", _TENTH, size=4),
        Property(epc, f"{prefix}current_t_a", "i16", _TENTH, at=2),
    )


_PANEL = DeviceClass(
    "0287",
    "分電盤メータリング",
    "power distribution board metering",
    (
        Property(0xC6, "grid_power_w", "i32"),
        *_currents(0xC7),
        _counted(0xC0, "import_energy_kwh"),
        _counted(0xC1, "export_energy_kwh"),
        Property(0xC8, "voltage_r_v", "u16", _TENTH, size=4),
        Property(0xC8, "voltage_t_v", "u16", _TENTH, at=2),
        *_common(),
    ),
    # Simplex circuits take power. Which way is normal for a duplex one (a PV, a battery) its installer knows.
    (
        ChannelList(0xB7, 4, (Property(0xB7, "circuit{}_consumption_power_w", "i32"),), 0xB1),
        ChannelList(0xB3, 4, (_counted(0xB3, "circuit{}_consumption_energy_kwh"),), 0xB1),
        ChannelList(0xB5, 4, _currents(0xB5, "circuit{}"), 0xB1),
        ChannelList(0xBE, 4, (Property(0xBE, "duplex{}_power_w", "i32"),), 0xB8),
        ChannelList(
            0xBA,
            8,
            (
                _counted(0xBA, "duplex{}_normal_energy_kwh", size=8),
                _counted(0xBA, "duplex{}_reverse_energy_kwh", at=4),
            ),
            0xB8,
        ),
        ChannelList(0xBC, 4, _currents(0xBC, "duplex{}"), 0xB8),
    ),
)

CLASSES: Mapping[str, DeviceClass] = {one.code: one for one in (_PV, _BATTERY, _PCS, _EV, _ECOCUTE, _AIRCON, _PANEL)}
"""The classes we read, by code; instances of any number are the same class."""

LABELS: Mapping[str, str] = {
    **{one.code: one.label_en for one in CLASSES.values()},
    NODE_PROFILE_CLASS: "node profile",
    "05FF": "controller",
    "0288": "smart meter",
    "0280": "watt-hour meter",
    "0281": "water meter",
    "0291": "lighting",
    "03B7": "refrigerator",
}
"""Names of classes for people, also of some that we do not read."""

_CIRCUIT = re.compile(r"(circuit|duplex)([0-9]{1,3})_([a-z_]+)")
_CIRCUITS = {"circuit": ("回路", "Circuit"), "duplex": ("双方向回路", "Two-way circuit")}
_OF_A_CIRCUIT: dict[str, tuple[str, str, str, str]] = {
    "consumption_power_w": ("W", "gauge", "消費電力", "power it takes"),
    "consumption_energy_kwh": ("kWh", "counter", "消費電力量", "energy it took"),
    "power_w": ("W", "gauge", "電力（正方向＋）", "power (normal direction +)"),
    "normal_energy_kwh": ("kWh", "counter", "正方向電力量", "energy in the normal direction"),
    "reverse_energy_kwh": ("kWh", "counter", "逆方向電力量", "energy in the reverse direction"),
    "current_r_a": ("A", "gauge", "R相電流", "R phase current"),
    "current_t_a": ("A", "gauge", "T相電流", "T phase current"),
}


def _worth(name: str) -> tuple[int, int, str]:
    match = _CIRCUIT.fullmatch(name)
    if match is None or match[3] not in _OF_A_CIRCUIT:  # a quirk may name a circuit's quantity as it likes
        return (0, 0, name)
    return (list(_OF_A_CIRCUIT).index(match[3]), int(match[2]), name)


def described(names: Iterable[str]) -> dict[str, Json]:
    """Return unit, kind and labels of those quantities that are a circuit's, which no vocabulary could list.

    They come in the order of their worth: power of all circuits, then energy, then currents.
    """
    told: dict[str, Json] = {}
    for name in sorted(names, key=_worth):
        if (match := _CIRCUIT.fullmatch(name)) and (meaning := _OF_A_CIRCUIT.get(match[3])):
            unit, kind, ja, en = meaning
            of_ja, of_en = _CIRCUITS[match[1]]
            labels: dict[str, Json] = {"label_ja": f"{of_ja}{match[2]} {ja}", "label_en": f"{of_en} {match[2]}, {en}"}
            told[name] = {"unit": unit, "kind": kind, **labels}
    return told
