"""Classes of home devices: property bytes to our vocabulary and signs, and back for the few that may be set. Pure.

Written from the Appendix of the ECHONET Lite specification (releases K to R). Knows no transport and no maker.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Literal, TypeAlias

from drivers.api import Value

Type: TypeAlias = Literal["u8", "i8", "u16", "i16", "u32", "i32", "bits"]

OPERATION, FAULT, GET_MAP, SET_MAP = 0x80, 0x88, 0x9F, 0x9E
NODE_PROFILE_CLASS = "0EF0"

_SIZES: dict[Type, int] = {"u8": 1, "i8": 1, "u16": 2, "i16": 2, "u32": 4, "i32": 4, "bits": 4}
_RANGES: dict[Type, tuple[int, int]] = {
    # The two highest values of an unsigned type and the ends of a signed one say underflow, overflow and "no value".
    "u8": (0, 0xFD),
    "i8": (-0x7F, 0x7D),
    "u16": (0, 0xFFFD),
    "i16": (-0x7FFF, 0x7FFD),
    "u32": (0, 0xFFFFFFFD),
    "i32": (-0x7FFFFFFF, 0x7FFFFFFD),
    "bits": (0, 0xFFFFFFFF),
}
UNITS_KWH = {
    0x00: Decimal(1),
    0x01: Decimal("0.1"),
    0x02: Decimal("0.01"),
    0x03: Decimal("0.001"),
    0x04: Decimal("0.0001"),
    0x0A: Decimal(10),
    0x0B: Decimal(100),
    0x0C: Decimal(1000),
    0x0D: Decimal(10000),
}
"""Codes of a unit property (0287 C2)."""


@dataclass(frozen=True, slots=True)
class Property:
    """One number or word inside a property: `size` bytes in all, the value at byte `at`, times `factor`.

    A raw value outside `lowest`…`highest` is one of the device's ways to say "no value".
    """

    epc: int
    name: str
    type: Type
    factor: Decimal = Decimal(1)
    at: int = 0
    size: int = 0
    lowest: int | None = None
    highest: int | None = None
    states: Mapping[int, str] = field(default_factory=dict)
    unit_epc: int | None = None
    """The property whose code says what one count is worth."""
    settable: bool = False

    @property
    def bytes(self) -> int:
        """Return how many bytes the whole property has."""
        return self.size or self.at + _SIZES[self.type]


@dataclass(frozen=True, slots=True)
class DeviceClass:
    """One class of the Appendix: its code, names for people, and what is read of it."""

    code: str
    label_ja: str
    label_en: str
    properties: tuple[Property, ...]

    @property
    def epcs(self) -> tuple[int, ...]:
        """Return the properties to ask for, each once, the most wanted first."""
        wanted = dict.fromkeys(one.epc for one in self.properties)
        return tuple(wanted | dict.fromkeys(one.unit_epc for one in self.properties if one.unit_epc is not None))

    def settable(self, name: str) -> Property | None:
        """Return the property that a quantity is set by, or None."""
        return next((one for one in self.properties if one.settable and one.name == name), None)


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

_PANEL = DeviceClass(
    "0287",
    "分電盤メータリング",
    "power distribution board metering",
    (
        Property(0xC6, "grid_power_w", "i32"),
        Property(0xC7, "current_r_a", "i16", _TENTH, size=4),
        Property(0xC7, "current_t_a", "i16", _TENTH, at=2),
        Property(0xC0, "import_energy_kwh", "u32", highest=_CUMULATIVE, unit_epc=0xC2),
        Property(0xC1, "export_energy_kwh", "u32", highest=_CUMULATIVE, unit_epc=0xC2),
        Property(0xC8, "voltage_r_v", "u16", _TENTH, size=4),
        Property(0xC8, "voltage_t_v", "u16", _TENTH, at=2),
        *_common(),
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


def decode(
    properties: Iterable[Property], got: Mapping[int, bytes], units: Mapping[int, bytes] | None = None
) -> dict[str, Value]:
    """Return the values of the properties that were got; None where the device says it has none or makes no sense.

    `units` holds unit properties read earlier; without the unit a count is None.
    """
    known = {**(units or {}), **got}
    values: dict[str, Value] = {}
    for one in properties:
        edt = got.get(one.epc)
        if edt:
            values[one.name] = _value(one, edt, known)
    return values


def _value(one: Property, edt: bytes, known: Mapping[int, bytes]) -> Value:
    if len(edt) != one.bytes:
        return None
    raw = int.from_bytes(edt[one.at : one.at + _SIZES[one.type]], "big", signed=one.type.startswith("i"))
    if one.type == "bits":  # 026B C2: bit 0 is the lowest of the last byte, as pychonet reads it too
        return ",".join(word for bit, word in one.states.items() if raw >> bit & 1) or "none"
    if one.states:
        return one.states.get(raw)
    lowest, highest = _RANGES[one.type]
    if not max(lowest, _or(one.lowest, lowest)) <= raw <= min(highest, _or(one.highest, highest)):
        return None
    if one.unit_epc is not None:
        code = known.get(one.unit_epc, b"")
        unit = UNITS_KWH.get(code[0]) if len(code) == 1 else None
        return None if unit is None else raw * unit
    return _scaled(one, raw)


def _scaled(one: Property, raw: int) -> Value:
    """Return a Decimal for an energy, an int where nothing stands behind the point, else the nearest float."""
    product = raw * one.factor
    if one.name.endswith("_kwh"):
        return product
    return int(product) if product == product.to_integral_value() and one.factor == int(one.factor) else float(product)


def _or(limit: int | None, otherwise: int) -> int:
    return otherwise if limit is None else limit


def encode(one: Property, value: object) -> bytes:
    """Return the bytes that set a property to a value; raises ValueError that says what it may be."""
    if one.states:
        code = next((code for code, word in one.states.items() if word == value), None)
        if code is None:
            raise ValueError(f"{one.name} is one of {', '.join(one.states.values())}")
        return bytes((code,))
    lowest, highest = _or(one.lowest, _RANGES[one.type][0]), _or(one.highest, _RANGES[one.type][1])
    if isinstance(value, bool) or not isinstance(value, int) or not lowest <= value <= highest:
        raise ValueError(f"{one.name} is a whole number from {lowest} to {highest}")
    return value.to_bytes(_SIZES[one.type], "big", signed=one.type.startswith("i"))


def extended(properties: Sequence[Property], more: Sequence[Property], ignored: Iterable[int]) -> tuple[Property, ...]:
    """Return a class's properties with a maker's own ones: same names are replaced, ignored ones left out."""
    without = set(ignored)
    names = {one.name for one in more}
    return (*(one for one in properties if one.epc not in without and one.name not in names), *more)
