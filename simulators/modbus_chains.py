"""Any chain of SunSpec's home models, showing a house. Serves nothing; what it does not know is "not implemented".

The models' tables are the official ones that the driver has, too; what the registers hold is computed here.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping, Sequence

from drivers.modbus.sunspec_points import Row, Table, table
from simulators.house import Balance
from simulators.modbus_units import Cell, Unit

BASE = 40_000
END_MODEL = 0xFFFF
WS_PER_WH = 3_600
REPETITIONS = 2
"""PV inputs of model 160, ports of model 714; all of the sun falls on the first."""

_NONE = {"int": 1, "suns": 1, "uint": 0, "enum": 0, "bitf": 0, "coun": 0, "acc1": 2, "acc3": 2, "acc6": 2, "stri": 2}
"""The beginning of a type: 1 = only the top bit says "not implemented", 0 = all bits, 2 = none."""

_EXPONENTS = {"A_SF": -2, "V_SF": -1, "Hz_SF": -2, "Tmp_SF": -1, "SoC_SF": -1, "ChaState_SF": -1, "Pct_SF": -1}
_EXPONENTS |= {"DCA_SF": -2, "DCV_SF": -1, "InOutWRte_SF": -2, "MinRsvPct_SF": -2}

METERS = frozenset({201, 202, 203, 204, 211, 212, 213, 214})

_Shows = Callable[[Balance], float]
_COMMON: Mapping[str, _Shows] = {
    "Hz": lambda _: 50,
    "PhV": lambda _: 202,
    "PhVphA": lambda _: 202,
    "LNV": lambda _: 202,
    "TmpCab": lambda _: 25,
}
_INVERTER: Mapping[str, _Shows] = {
    **_COMMON,
    "W": lambda now: now.pv_w + now.battery_w,
    "A": lambda now: abs(now.pv_w + now.battery_w) // 202,
    "WH": lambda now: (now.pv_ws + now.discharge_ws) // WS_PER_WH,
    "TotWhInj": lambda now: (now.pv_ws + now.discharge_ws) // WS_PER_WH,
    "St": lambda _: 4,
    "InvSt": lambda _: 3,
}
_METER: Mapping[str, _Shows] = {
    **_COMMON,
    "W": lambda now: now.grid_w,
    "TotWhImp": lambda now: now.import_ws // WS_PER_WH,
    "TotWhExp": lambda now: now.export_ws // WS_PER_WH,
}
_BATTERY: Mapping[str, _Shows] = {
    "SoC": lambda now: now.soc_permille / 10,
    "ChaState": lambda now: now.soc_permille / 10,
    "ChaSt": lambda now: 6 if now.battery_w == 0 else 3 if now.battery_w > 0 else 4,
    "WHRtg": lambda now: now.battery_wh,
    "V": lambda _: 50,
}
_STRING: Mapping[str, _Shows] = {
    "DCW": lambda now: now.pv_w,
    "DCWH": lambda now: now.pv_ws // WS_PER_WH,
    "DCWhInj": lambda now: now.pv_ws // WS_PER_WH,
    "DCV": lambda _: 300,
    "PrtTyp": lambda _: 0,
}


def chain_of(ids: Sequence[int], device: str = "inverter", maker: str = "edge-gateway") -> Unit:
    """Return a unit with these models in this order; raises ValueError for one that is not in the table."""
    constants = {BASE: 0x5375, BASE + 1: 0x6E53}
    cells: list[Cell] = []
    at = BASE + 2
    for number in ids:
        rows = table(number)
        if rows is None:
            raise ValueError(f"model {number} is not known; known ones stand in drivers/modbus/sunspec_models.py")
        length = _length(rows)
        for address, row, repetition in _placed(rows, at):
            constants |= _constant(address, row, number, maker)
            if shows := _shown(number, row, repetition):
                cells.append(_cell(address, row, shows))
        constants |= {at: number, at + 1: length}
        if rows.group and "N" in rows.points:
            constants[at + rows.points["N"].at] = REPETITIONS
        if rows.group and "NPrt" in rows.points:
            constants[at + rows.points["NPrt"].at] = REPETITIONS
        at += 2 + length
    if at + 2 > 0x10000:
        raise ValueError("the chain is longer than the register space")
    constants |= {at: END_MODEL, at + 1: 0}
    return Unit(device, ((BASE, at + 2),), tuple(cells), constants)


def exponent_of(scale: str) -> int:
    """Return the power of ten that a scale factor of this name has here."""
    return _EXPONENTS.get(scale, 0)


def models_of(unit: Unit) -> dict[int, int]:
    """Return where a chain has each of its models, the first of its kind."""
    found: dict[int, int] = {}
    at = BASE + 2
    while (number := unit.constants.get(at, END_MODEL)) != END_MODEL:
        found.setdefault(number, at)
        at += 2 + unit.constants[at + 1]
    return found


def _length(rows: Table) -> int:
    fixed = max(row.at + row.words for row in rows.points.values())
    return fixed - 2 + REPETITIONS * rows.stride


def _placed(rows: Table, at: int) -> Iterator[tuple[int, Row, int]]:
    """Yield every point with its address and its repetition, 0 for the fixed part."""
    for row in rows.points.values():
        yield at + row.at, row, 0
    for repetition in range(REPETITIONS if rows.group else 0):
        for row in rows.group.values():
            yield at + rows.group_at + repetition * rows.stride + row.at, row, repetition + 1


def _constant(address: int, row: Row, model: int, maker: str) -> dict[int, int]:
    """Return what a point holds that shows nothing: its scale factor, its text, or "not implemented"."""
    if row.type == "string":
        told = {"Mn": maker, "Md": "Simulated chain", "Vr": "1", "SN": "SIM0000000003"}.get(row.name, "")
        data = (told if model == 1 else "").encode().ljust(2 * row.words, b"\0")
        return {address + index: word for index, word in enumerate(struct.unpack(f">{row.words}H", data))}
    if row.type == "sunssf":
        return {address: exponent_of(row.name) & 0xFFFF}
    if row.type.startswith("float"):
        return {address: 0x7FC0 if row.words == 2 else 0x7FF8}
    kind = _NONE.get(row.type[:4], 0)
    first, other = {0: (0xFFFF, 0xFFFF), 1: (0x8000, 0), 2: (0, 0)}[kind]
    return {address: first} | {address + index: other for index in range(1, row.words)}


def _shown(model: int, row: Row, repetition: int) -> _Shows | None:
    if repetition:
        if row.name == "PrtTyp" or repetition == 1:
            return _STRING.get(row.name)
        return (lambda _: 0) if row.name == "DCW" else None
    if model in METERS:
        return _METER.get(row.name)
    if model in {124, 713, 802}:
        return _BATTERY.get(row.name)
    return _INVERTER.get(row.name) if 101 <= model <= 113 or model == 701 else None


def _cell(address: int, row: Row, shows: _Shows) -> Cell:
    exponent = exponent_of(row.scale or "")

    def raw(now: Balance) -> int:
        if row.type.startswith("float"):
            return int.from_bytes(struct.pack(">f" if row.words == 2 else ">d", shows(now)), "big")
        return round(shows(now) * 10.0**-exponent) % (1 << 16 * row.words)

    return Cell(address, row.words, raw)
