"""A register map played backwards: the house's values → the registers that a device with this map would hold.

Shares the map's text with the driver and no arithmetic: the driver decodes, this encodes. Serves nothing itself.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal
from fractions import Fraction

from drivers.modbus.planner import Point
from drivers.modbus.register_map import RegisterMap
from simulators.house import Balance
from simulators.log import Served
from simulators.modbus_units import Cell, Unit

WS_PER_KWH = 3_600_000

AC_VOLTS, BATTERY_VOLTS = 202, 50


def _load_ws(now: Balance) -> int:
    return now.import_ws - now.export_ws + now.pv_ws + now.discharge_ws - now.charge_ws


_WATTS: Mapping[str, Callable[[Balance], int]] = {
    "pv_power_w": lambda now: now.pv_w,
    "pv1_power_w": lambda now: now.pv_w,
    "pv_direct_w": lambda now: now.pv_w,
    "grid_power_w": lambda now: now.grid_w,
    "grid_power_l1_w": lambda now: now.grid_w,
    "grid_import_w": lambda now: max(now.grid_w, 0),
    "grid_export_w": lambda now: max(-now.grid_w, 0),
    "load_power_w": lambda now: now.load_w,
    "load_l1_w": lambda now: now.load_w,
    "battery_power_w": lambda now: now.battery_w,
    "battery1_power_w": lambda now: now.battery_w,
    "battery_charge_w": lambda now: max(-now.battery_w, 0),
    "battery_discharge_w": lambda now: max(now.battery_w, 0),
    "ac_power_w": lambda now: now.pv_w + now.battery_w,
    "dc_power_w": lambda now: now.pv_w + now.battery_w,
}
"""What a point shows by its name; other powers are 0, so that everything flows through the first string and phase."""

_WATT_SECONDS: Mapping[str, Callable[[Balance], int]] = {
    "pv_energy": lambda now: now.pv_ws,
    "ac_energy": lambda now: now.pv_ws,
    "import_energy": lambda now: now.import_ws,
    "export_energy": lambda now: now.export_ws,
    "load_energy": _load_ws,
    "battery_charge_energy": lambda now: now.charge_ws,
    "battery1_charge_energy": lambda now: now.charge_ws,
    "battery_discharge_energy": lambda now: now.discharge_ws,
    "battery1_discharge_energy": lambda now: now.discharge_ws,
}

_STEADY = {
    "_hz": 50,
    "_c": 25,
    "_wh": 9_800,
    "_limit_w": 2_500,
    "_rated_power_w": 5_000,
    "reserve_percent": 20,
    "soh_percent": 98,
}


def value_of(name: str, now: Balance) -> Fraction:
    """Return what the point of this name shows in the house, in the vocabulary's unit and sign."""
    if name in _WATTS:
        return Fraction(_WATTS[name](now))
    stem = next((stem for stem in _WATT_SECONDS if name in {f"{stem}_kwh", f"{stem}_low", f"{stem}_high"}), None)
    if stem is not None:
        return Fraction(_WATT_SECONDS[stem](now), WS_PER_KWH)
    if name.endswith("soc_percent"):
        return Fraction(now.soc_permille, 10)
    volts, watts = (BATTERY_VOLTS, now.battery_w) if name.startswith("battery") else (AC_VOLTS, now.pv_w)
    if name.endswith(("_v", "_a")):
        return Fraction(volts if name.endswith("_v") else watts // volts)
    return Fraction(next((value for end, value in _STEADY.items() if name.endswith(end)), 0))


def state_of(name: str, names: Mapping[int, str], now: Balance) -> int:
    """Return the number of the state that the house is in, as near as the device has one."""
    wanted = ["running", "normal", "on_grid"]
    if "battery" in name:
        wanted = ["standby", "idle"]
        if now.battery_w:
            wanted = ["discharging" if now.battery_w > 0 else "charging", "running"]
    numbers = {said: number for number, said in names.items()}
    return next((numbers[said] for said in wanted if said in numbers), min(names, default=0))


def unit_of(register_map: RegisterMap, device: str = "inverter") -> Unit:
    """Return the unit that a map describes; its quantities are the map's points, not its sums."""
    if register_map.is_sunspec:
        raise ValueError(f"{register_map.name} says nothing of registers: play a SunSpec chain instead")
    points = (*register_map.points, *register_map.identity)
    holding, inputs = (
        _space(device, [point for point in points if point.space == space], register_map)
        for space in ("holding", "input")
    )
    return Unit(device, holding.ranges, holding.cells, holding.constants, inputs)


def _space(device: str, points: Iterable[Point], register_map: RegisterMap) -> Unit:
    """Return the points of one space; registers between points that are read in one go are 0."""
    cells: list[Cell] = []
    constants: dict[int, int] = {}
    ranges: list[tuple[int, int]] = []
    for point in sorted(points, key=lambda point: point.first):
        if ranges and point.first - ranges[-1][1] <= register_map.limits.max_gap:
            ranges[-1] = (ranges[-1][0], max(ranges[-1][1], point.end))
        else:
            ranges.append((point.first, point.end))
        if point.scale_address is not None:
            constants[point.scale_address] = _exponent(point.quantity) & 0xFFFF
        if point.encoding.type == "string":
            text = (
                f"SIM {register_map.name}"[: 2 * point.encoding.words].encode().ljust(2 * point.encoding.words, b"\0")
            )
            words = struct.unpack(f">{point.encoding.words}H", text)
            constants |= {point.address + index: word for index, word in enumerate(words)}
        else:
            hidden = point.quantity in register_map.derived.hidden
            cells.append(_cell(point, "" if hidden else point.quantity))
    return Unit(device, tuple(ranges), tuple(cells), constants)


def _exponent(name: str) -> int:
    """Return the scale factor that a SunSpec-like register of this quantity uses."""
    return {"_a": -2, "_hz": -2, "_v": -1, "_c": -1}.get(name[name.rindex("_") :], 0)


def _cell(point: Point, quantity: str) -> Cell:
    encoding, name = point.encoding, point.quantity
    exponent = 0 if point.scale_address is None else _exponent(name)
    step = Fraction(encoding.scale) * Fraction(10) ** exponent
    sign = -1 if encoding.negate else 1

    def count(now: Balance) -> int:
        if encoding.type == "enum":
            return state_of(name, encoding.names, now)
        if encoding.type == "bits":
            return 0
        number = (sign * value_of(name, now) - Fraction(encoding.offset)) / step
        return int(number) if encoding.type[0] != "f" else _float_bits(float(number), encoding.words)

    def raw(now: Balance) -> int:
        bits = count(now) % (1 << 16 * encoding.words)
        return _swapped(bits, encoding.words) if encoding.order == "little" else bits

    def shown(_: int, now: Balance) -> Served:
        number = count(now)
        if encoding.type == "enum":
            return encoding.names.get(number, f"unknown_{number}")
        if encoding.type == "bits":
            return "none"
        if encoding.type[0] == "f":
            return float(value_of(name, now))
        number %= 1 << 16 * encoding.words
        if encoding.type[0] == "s" and number >> 16 * encoding.words - 1:
            number -= 1 << 16 * encoding.words
        exact = sign * (number * step + Fraction(encoding.offset))
        return Decimal(exact.numerator) / Decimal(exact.denominator)

    return Cell(point.address, encoding.words, raw, quantity, shown)


def _float_bits(number: float, words: int) -> int:
    return int.from_bytes(struct.pack(">f" if words == 2 else ">d", number), "big")


def _swapped(bits: int, words: int) -> int:
    parts = [bits >> 16 * index & 0xFFFF for index in range(words)]
    swapped = 0
    for part in parts:
        swapped = swapped << 16 | part
    return swapped
