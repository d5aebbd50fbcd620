"""The two built-in devices: a SUN2000 with a LUNA2000, and a SunSpec hybrid. Serves nothing.

They share no code with the driver: addresses, types, signs and "no value" patterns are written down here from the
makers' documents, so that a mistake in the driver's maps shows.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from decimal import Decimal

from simulators.house import Balance
from simulators.log import Served
from simulators.modbus_units import Cell, Unit

WS_PER_WH = 3_600
WS_PER_CENTI_KWH = 36_000


def _text(address: int, words: int, text: str) -> dict[int, int]:
    padded = text.encode().ljust(2 * words, b"\0")
    return {address + index: word for index, word in enumerate(struct.unpack(f">{words}H", padded))}


def _scaled(digits: int) -> Callable[[int, Balance], Served]:
    return lambda raw, _: Decimal(raw).scaleb(-digits)


def _named(names: Mapping[int, str]) -> Callable[[int, Balance], Served]:
    return lambda raw, _: names[raw]


def _centi_kwh(watt_seconds: int) -> int:
    return watt_seconds // WS_PER_CENTI_KWH % 2**32


def _deci_volts(balance: Balance) -> int:
    return 2_020 - balance.load_w // 200


def _centi_hertz(balance: Balance) -> int:
    return 4_998 + balance.unix_ms // 10_000 * 7 % 5


def _deci_celsius(balance: Balance) -> int:
    return 250 + balance.pv_w // 40


HUAWEI_STATES = {0x0200: "running", 0xA000: "no_irradiation"}
HUAWEI_BATTERY = {1: "standby", 2: "running"}


def huawei(serial: str = "SIM0000000001") -> Unit:
    """Return a SUN2000 with a LUNA2000: big endian, battery power counted + while charging, energy in 0.01 kWh."""
    cells = (
        Cell(32064, 2, lambda now: now.pv_w, "pv_power_w"),
        Cell(32066, 1, _deci_volts, "ac_voltage_v", _scaled(1)),
        Cell(32080, 2, lambda now: now.pv_w + now.battery_w, "ac_power_w"),
        Cell(32085, 1, _centi_hertz, "ac_frequency_hz", _scaled(2)),
        Cell(32087, 1, _deci_celsius, "inverter_temperature_c", _scaled(1)),
        Cell(
            32089,
            1,
            lambda now: 0x0200 if now.pv_w or now.battery_w else 0xA000,
            "inverter_state",
            _named(HUAWEI_STATES),
        ),
        Cell(32106, 2, lambda now: _centi_kwh(now.pv_ws), "pv_energy_kwh", _scaled(2)),
        Cell(37100, 1, lambda _: 1),
        Cell(37113, 2, lambda now: -now.grid_w, "grid_power_w", lambda raw, _: -raw),
        Cell(37119, 2, lambda now: _centi_kwh(now.export_ws), "export_energy_kwh", _scaled(2)),
        Cell(37121, 2, lambda now: _centi_kwh(now.import_ws), "import_energy_kwh", _scaled(2)),
        Cell(37760, 1, lambda now: now.soc_permille, "battery_soc_percent", _scaled(1)),
        Cell(37762, 1, lambda now: 2 if now.battery_w else 1, "battery_mode", _named(HUAWEI_BATTERY)),
        Cell(37765, 2, lambda now: -now.battery_w, "battery_power_w", lambda raw, _: -raw),
        Cell(37780, 2, lambda now: _centi_kwh(now.charge_ws), "battery_charge_energy_kwh", _scaled(2)),
        Cell(37782, 2, lambda now: _centi_kwh(now.discharge_ws), "battery_discharge_energy_kwh", _scaled(2)),
    )
    constants = _text(30000, 15, "SUN2000-5KTL-SIM") | _text(30015, 10, serial) | {30073: 0, 30074: 5_000}
    return Unit("inverter", ((30000, 30100), (32000, 32120), (37100, 37150), (37700, 37800)), cells, constants)


SUNSPEC_BASE = 40000
INVERTER_MODEL = SUNSPEC_BASE + 2 + 68
STRINGS_MODEL = INVERTER_MODEL + 52
BATTERY_MODEL = STRINGS_MODEL + 30
SUNSPEC_END = BATTERY_MODEL + 64
FINE_POWER_BELOW_W = 3_000
"""Below this the inverter shows tenths of a watt: real ones change W_SF with the power, too."""
SUNSPEC_STATES = {2: "sleeping", 4: "running"}


def _ac_watts(now: Balance) -> int:
    return now.pv_w + now.battery_w


def _is_fine(now: Balance) -> bool:
    return 0 < abs(_ac_watts(now)) < FINE_POWER_BELOW_W


def _sunspec_watts(now: Balance) -> int:
    return _ac_watts(now) * 10 if _is_fine(now) else _ac_watts(now)


def sunspec(serial: str = "SIM0000000002") -> Unit:
    """Return a single-phase SunSpec hybrid with one PV input: models 1, 101, 160, 802 and the end model, from 40000."""
    inv, pv, bat = INVERTER_MODEL, STRINGS_MODEL, BATTERY_MODEL
    cells = (
        Cell(inv + 2, 1, lambda now: abs(_ac_watts(now)) * 1_000 // _deci_volts(now)),
        Cell(inv + 10, 1, _deci_volts, "ac_voltage_v", _scaled(1)),
        Cell(inv + 14, 1, _sunspec_watts, "ac_power_w", lambda _, now: _ac_watts(now)),
        Cell(inv + 15, 1, lambda now: -1 if _is_fine(now) else 0),
        Cell(inv + 16, 1, _centi_hertz, "ac_frequency_hz", _scaled(2)),
        Cell(
            inv + 24,
            2,
            lambda now: (now.pv_ws + now.discharge_ws) // WS_PER_WH % 2**32,
            "ac_energy_kwh",
            _scaled(3),
        ),
        Cell(inv + 33, 1, _deci_celsius, "inverter_temperature_c", _scaled(1)),
        Cell(inv + 38, 1, lambda now: 4 if now.pv_w else 2, "inverter_state", _named(SUNSPEC_STATES)),
        Cell(pv + 21, 1, lambda now: now.pv_w, "pv_power_w"),
        Cell(pv + 22, 2, lambda now: now.pv_ws // WS_PER_WH % 2**32, "pv_energy_kwh", _scaled(3)),
        Cell(bat + 11, 1, lambda now: now.soc_permille, "battery_soc_percent", _scaled(1)),
    )
    return Unit("sunspec", ((SUNSPEC_BASE, SUNSPEC_END + 2),), cells, _sunspec_constants(serial))


def _sunspec_constants(serial: str) -> dict[int, int]:
    """Return headers, texts, scale factors, and "not implemented" (SunSpec's patterns) everywhere else."""
    common, inv, pv, bat = SUNSPEC_BASE + 2, INVERTER_MODEL, STRINGS_MODEL, BATTERY_MODEL
    words = {common: 1, common + 1: 66, inv: 101, inv + 1: 50, bat: 802, bat + 1: 62, SUNSPEC_END: 0xFFFF}
    words |= {SUNSPEC_BASE: 0x5375, SUNSPEC_BASE + 1: 0x6E53, common + 66: 2, common + 67: 0x8000}
    words |= _text(common + 2, 16, "edge-gateway") | _text(common + 18, 16, "Simulated inverter")
    words |= _text(common + 42, 8, "1") | _text(common + 50, 16, serial)
    words |= dict.fromkeys(range(inv + 2, inv + 38), 0x8000) | {inv + 24: 0, inv + 25: 0, inv + 39: 0xFFFF}
    words |= dict.fromkeys((*range(inv + 2, inv + 6), *range(inv + 7, inv + 13), inv + 16, inv + 27, inv + 29), 0xFFFF)
    words |= {inv + 6: _minus(2), inv + 13: _minus(1), inv + 17: _minus(2), inv + 26: 0, inv + 37: _minus(1)}
    words |= dict.fromkeys((*range(bat + 2, bat + 44), bat + 45, bat + 46, bat + 48, bat + 50, bat + 51), 0xFFFF)
    words |= dict.fromkeys((bat + 44, bat + 47, bat + 49, *range(bat + 52, bat + 64)), 0x8000)
    words |= dict.fromkeys((*range(pv + 6, pv + 8), *range(pv + 19, pv + 30)), 0xFFFF)
    words |= {pv: 160, pv + 1: 28, pv + 8: 1, pv + 9: 0xFFFF, pv + 10: 1, pv + 26: 0x8000}
    return words | {bat + 56: _minus(1)}


def _minus(exponent: int) -> int:
    return 0x10000 - exponent
