"""What the properties of a low-voltage smart meter (class 0288) mean, to our vocabulary. Pure: no frame, no port.

Values are as ECHONET Appendix release R has them. The meter's "no data", overflow and underflow become None, never 0;
bytes of a wrong length or out of range raise FrameError with the offset inside the property.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from struct import Struct
from typing import Any

from drivers.api import Value
from drivers.route_b.echonet import UNITS_KWH, FrameError, property_map

JST = timezone(timedelta(hours=9))
"""Meters keep Japan standard time, which has no summer time."""

IMPORT, EXPORT, POWER, CURRENTS = 0xE0, 0xE3, 0xE7, 0xE8
UNIT, COEFFICIENT, DIGITS = 0xE1, 0xD3, 0xD7
IMPORT_AT_30MIN, EXPORT_AT_30MIN = 0xEA, 0xEB
MAKER, SERIAL, FAULT, RELEASE = 0x8A, 0x8D, 0x88, 0x82
TIME, DATE = 0x97, 0x98
GETTABLE = 0x9F
HISTORY_IMPORT, HISTORY_EXPORT, HISTORY_DAY = 0xE2, 0xE4, 0xE5
HISTORY_PAIRS, PAIRS_FROM = 0xEC, 0xED
ONE_MINUTE, MINUTE_PAIRS, MINUTES_FROM = 0xD0, 0xEE, 0xEF

MAKERS = {
    "000006": "Mitsubishi Electric",
    "000016": "Toshiba",
    "000035": "Toshiba Toko Meter Systems",
    "000052": "Osaki Electric",
    "000085": "Takaoka Toko",
    "0000CB": "Fuji Electric",
}

MAX_COUNT = 99_999_999
HISTORY_SLOTS = 48
MOST_PAIRS, MOST_MINUTES = 12, 10
"""So many half hours are told by one EC, so many minutes by one EE."""

Pairs = tuple[datetime | None, tuple[tuple[int | None, int | None], ...]]

_NO_COUNT = frozenset((0xFFFFFFFE, 0xFFFFFFFF))
_NO_POWER = frozenset((0x7FFFFFFE, 0x7FFFFFFF, -0x80000000))
_NO_CURRENT = frozenset((0x7FFE, 0x7FFF, -0x8000))
_U32 = Struct(">I")
_I32 = Struct(">i")
_TWO_I16 = Struct(">hh")
_MINUTE = Struct(">H4B")
_HISTORY = Struct(">H48I")


@dataclass(frozen=True, slots=True)
class Scaling:
    """How counts become energy: kWh per count (E1), coefficient (D3), digits before the register rolls over (D7)."""

    unit_kwh: Decimal
    coefficient: int = 1
    digits: int | None = None

    def kwh(self, count: int | None) -> Decimal | None:
        """Return the exact energy of a count."""
        return None if count is None else count * self.unit_kwh * self.coefficient

    @property
    def modulus_kwh(self) -> Decimal | None:
        """Return the energy at which the registers start again from zero, if the meter said so."""
        return None if self.digits is None else self.kwh(10**self.digits)


@dataclass(frozen=True, slots=True)
class AtHalfHour:
    """A register reading at a moment the meter names; `at` is None while its clock is not set."""

    at: datetime | None
    count: int | None


@dataclass(frozen=True, slots=True)
class AtMinute:
    """Both registers at the last minute, which the meter names; `at` is None while its clock is not set."""

    at: datetime | None
    imported: int | None
    exported: int | None


def _sized(edt: bytes, size: int) -> bytes:
    if len(edt) != size:
        raise FrameError(f"{len(edt)} bytes where {size} belong", min(len(edt), size))
    return edt


def count(edt: bytes) -> int | None:
    """Return a register (E0, E3) in counts."""
    if len(edt) != 4:
        _sized(edt, 4)
    (value,) = _U32.unpack(edt)
    return _count(value, 0)


def _count(value: int, offset: int) -> int | None:
    if value <= MAX_COUNT:
        return value
    if value in _NO_COUNT:
        return None
    raise FrameError(f"a register of {value}; {MAX_COUNT} is the most", offset)


def power_w(edt: bytes) -> int | None:
    """Return instantaneous power (E7), import positive."""
    if len(edt) != 4:
        _sized(edt, 4)
    (value,) = _I32.unpack(edt)
    return None if value in _NO_POWER else int(value)


def currents_a(edt: bytes) -> tuple[float | None, float | None]:
    """Return R and T phase current (E8), import positive; T is None on a two-wire supply."""
    if len(edt) != 4:
        _sized(edt, 4)
    r, t = _TWO_I16.unpack(edt)
    return (None if r in _NO_CURRENT else r / 10), (None if t in _NO_CURRENT else t / 10)


def unit_kwh(edt: bytes) -> Decimal:
    """Return kWh per count (E1)."""
    unit = UNITS_KWH.get(_sized(edt, 1)[0])
    if unit is None:
        raise FrameError(f"{edt[0]:02X} is no unit of energy", 0)
    return unit


def coefficient(edt: bytes) -> int:
    """Return the coefficient (D3), 0 to 999999."""
    (value,) = _U32.unpack(_sized(edt, 4))
    if value > 999_999:
        raise FrameError(f"a coefficient of {value}; 999999 is the most", 0)
    return int(value)


def digits(edt: bytes) -> int:
    """Return the number of digits of the registers (D7), 1 to 8."""
    value = _sized(edt, 1)[0]
    if not 1 <= value <= 8:
        raise FrameError(f"{value} digits; registers have 1 to 8", 0)
    return value


def at_half_hour(edt: bytes) -> AtHalfHour:
    """Return the reading at the last :00 or :30 (EA, EB)."""
    _sized(edt, 11)
    at = _moment(edt[:7])
    (value,) = _U32.unpack_from(edt, 7)
    return AtHalfHour(at, _count(value, 7))


def at_minute(edt: bytes) -> AtMinute:
    """Return the readings of the last minute (D0)."""
    _sized(edt, 15)
    at = _moment(edt[:7])
    imported, exported = (_count(_U32.unpack_from(edt, offset)[0], offset) for offset in (7, 11))
    return AtMinute(at, imported, exported)


def _moment(raw: bytes) -> datetime | None:
    """Return year, month, day, hour, minute and perhaps second; None while the meter has no time (all FF)."""
    year, month, day, hour, minute = _MINUTE.unpack_from(raw)
    if year == 0xFFFF:
        return None
    try:
        return datetime(year, month, day, hour, minute, raw[6] if len(raw) > 6 else 0, tzinfo=JST)
    except ValueError as error:
        raise FrameError(f"no date and time: {error}", 0) from None


def clock(time_of_day: bytes, date: bytes) -> datetime:
    """Return the meter's own date (98) and time (97), whose seconds it does not tell."""
    hour, minute = _sized(time_of_day, 2)
    try:
        return datetime(int.from_bytes(_sized(date, 4)[:2], "big"), date[2], date[3], hour, minute, tzinfo=JST)
    except ValueError as error:
        raise FrameError(f"no date and time: {error}", 0) from None


def fault(edt: bytes) -> bool:
    """Return whether the meter says that it is faulty (88)."""
    value = _sized(edt, 1)[0]
    if value not in (0x41, 0x42):
        raise FrameError(f"{value:02X} is neither 41 (fault) nor 42 (none)", 0)
    return value == 0x41


def history(edt: bytes) -> tuple[int | None, tuple[int | None, ...]]:
    """Return (days ago, or None when not set; 48 half-hourly readings from 00:00) of E2 or E4."""
    day, *slots = _HISTORY.unpack(_sized(edt, _HISTORY.size))
    if day > 99 and day != 0xFF:
        raise FrameError(f"{day} days ago; 99 is the most", 0)
    return (None if day == 0xFF else day), tuple(_count(slot, 2 + 4 * at) for at, slot in enumerate(slots))


def pairs_from(newest: datetime, number: int) -> bytes:
    """Return what ED or EF must be set to for EC or EE to tell `number` readings back from `newest`."""
    at = newest.astimezone(JST)
    return at.year.to_bytes(2, "big") + bytes((at.month, at.day, at.hour, at.minute, number))


def history_pairs(edt: bytes, most: int = MOST_PAIRS) -> Pairs:
    """Return (newest moment, pairs of import and export going back from it) of EC, or of EE with its own `most`."""
    if len(edt) < 7:
        _sized(edt, 7)
    number = edt[6]
    if not 1 <= number <= most:
        raise FrameError(f"{number} pairs; 1 to {most} are possible", 6)
    _sized(edt, 7 + 8 * number)
    counts = [_count(_U32.unpack_from(edt, at)[0], at) for at in range(7, len(edt), 4)]
    return _moment(edt[:6]), tuple(zip(counts[::2], counts[1::2], strict=True))


def text(edt: bytes) -> str:
    """Return a fixed-width text without its padding; what is not printable ASCII becomes the replacement character."""
    stripped = edt.decode("ascii", "replace").strip(" \0")
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in stripped)


def readings(properties: Mapping[int, bytes], scaling: Scaling | None) -> tuple[dict[str, Value], list[str]]:
    """Return the values of an answer to E7, E8, E0, E3 by quantity, and what was wrong with those that are None.

    A refused property (no data) is left out; energies are left out while the scaling is not known.
    """
    values: dict[str, Value] = {}
    problems: list[str] = []
    for epc, edt in properties.items():
        if not edt:
            continue
        try:
            if epc == POWER:
                values["grid_power_w"] = power_w(edt)
            elif epc == CURRENTS:
                values["current_r_a"], values["current_t_a"] = currents_a(edt)
            elif epc in _REGISTERS and scaling is not None:
                values[_REGISTERS[epc]] = scaling.kwh(count(edt))
        except FrameError as error:
            problems.append(f"EPC {epc:02X}: {error}")
            values.update(dict.fromkeys(_QUANTITIES[epc]))
    return values, problems


_REGISTERS = {IMPORT: "import_energy_kwh", EXPORT: "export_energy_kwh"}
_QUANTITIES = {
    POWER: ("grid_power_w",),
    CURRENTS: ("current_r_a", "current_t_a"),
    IMPORT: ("import_energy_kwh",),
    EXPORT: ("export_energy_kwh",),
}
HALF_HOUR_QUANTITIES = {
    IMPORT_AT_30MIN: "import_energy_at_30min_kwh",
    EXPORT_AT_30MIN: "export_energy_at_30min_kwh",
}
MINUTE_QUANTITIES = ("import_energy_at_1min_kwh", "export_energy_at_1min_kwh")


# What follows explains any property to a person or a script (`edge-agent decode`).

Fields = dict[str, Any]
_COUNTED = "kWh or count"  # depends on whether the scaling is known
_Explain = Callable[[bytes, Scaling | None], Fields]

_PLACES = {
    1: "living room", 2: "dining room", 3: "kitchen", 4: "bathroom", 5: "lavatory", 6: "washroom", 7: "passage",
    8: "room", 9: "stairs", 10: "entrance", 11: "storeroom", 12: "garden", 13: "garage", 14: "veranda", 15: "other",
}  # fmt: skip


def explain(epc: int, edt: bytes, scaling: Scaling | None = None) -> Fields:
    """Return name, value or values, and unit of a property, as JSON-able fields; without scaling energies are counts.

    An EPC that class 0288 does not have gives no fields; data that make no sense give value None and `error`.
    """
    known = _PROPERTIES.get(epc)
    if known is None:
        return {}
    name, unit, read = known
    fields: Fields = {"name": name} if name else {}
    if not edt:  # asked for, refused or acknowledged
        return fields
    try:
        fields |= read(edt, scaling)
    except FrameError as error:
        fields |= {"value": None, "error": error.reason}
    if unit:
        fields["unit"] = unit if unit != _COUNTED else "kWh" if scaling else "count"
    return fields


def _energy(value: int | None, scaling: Scaling | None) -> int | Decimal | None:
    return scaling.kwh(value) if scaling else value


def _iso(at: datetime | None) -> str | None:
    return at.isoformat() if at else None


def _value(read: Callable[[bytes], Any]) -> _Explain:
    return lambda edt, _: {"value": read(edt)}


def _one_of(**names: str) -> _Explain:
    def read(edt: bytes, _: Scaling | None) -> Fields:
        name = names.get(f"x{_sized(edt, 1)[0]:02X}")
        if name is None:
            raise FrameError(f"{edt[0]:02X} is no value of this property", 0)
        return {"value": name}

    return read


def _explain_register(edt: bytes, scaling: Scaling | None) -> Fields:
    return {"value": _energy(count(edt), scaling)}


def _explain_currents(edt: bytes, _: Scaling | None) -> Fields:
    return {"values": dict(zip(("current_r_a", "current_t_a"), currents_a(edt), strict=True))}


def _explain_half_hour(edt: bytes, scaling: Scaling | None) -> Fields:
    reading = at_half_hour(edt)
    return {"value": _energy(reading.count, scaling), "at": _iso(reading.at)}


def _explain_history(edt: bytes, scaling: Scaling | None) -> Fields:
    day, slots = history(edt)
    return {"day": day, "slots": [_energy(slot, scaling) for slot in slots]}


def _explain_minute(edt: bytes, scaling: Scaling | None) -> Fields:
    reading = at_minute(edt)
    counts = zip(_REGISTERS.values(), (reading.imported, reading.exported), strict=True)
    return {"values": {name: _energy(count, scaling) for name, count in counts}, "at": _iso(reading.at)}


def _explain_pairs(most: int) -> _Explain:
    """Explain EC or EE: a time, a number, and that many pairs (import, export) going back from it."""

    def read(edt: bytes, scaling: Scaling | None) -> Fields:
        at, pairs = history_pairs(edt, most)
        return {"at": _iso(at), "pairs": [[_energy(value, scaling) for value in pair] for pair in pairs]}

    return read


def _explain_request(most: int) -> _Explain:
    def read(edt: bytes, _: Scaling | None) -> Fields:
        number = _sized(edt, 7)[6]
        if not 1 <= number <= most:
            raise FrameError(f"{number} pairs; 1 to {most} are possible", 6)
        return {"value": number, "at": _iso(_moment(edt[:6]))}

    return read


def _day(edt: bytes) -> int | None:
    value = _sized(edt, 1)[0]
    if value > 99 and value != 0xFF:
        raise FrameError(f"{value} days ago; 99 is the most", 0)
    return None if value == 0xFF else value


def _location(edt: bytes) -> str:
    if len(edt) == 17:
        return edt.hex().upper()
    code = _sized(edt, 1)[0]
    if code in (0x00, 0xFF):
        return "not set" if code == 0 else "not fixed"
    place = _PLACES.get(code >> 3 & 0x0F) if code < 0x80 else None
    return f"{place} {code & 7}".removesuffix(" 0") if place else edt.hex().upper()


def release(edt: bytes) -> str:
    """Return the release of the Appendix that a meter follows, with its revision (82)."""
    _sized(edt, 4)
    if edt[:2] != b"\0\0" or not 0x41 <= edt[2] <= 0x5A:
        raise FrameError("no letter of a release", 2)
    return f"{edt[2]:c} revision {edt[3]}"


def _time_of_day(edt: bytes) -> str:
    hour, minute = _sized(edt, 2)
    if hour > 23 or minute > 59:
        raise FrameError(f"{hour}:{minute} is no time of day", 0)
    return f"{hour:02}:{minute:02}"


def _date(edt: bytes) -> str:
    try:
        return datetime(int.from_bytes(_sized(edt, 4)[:2], "big"), edt[2], edt[3], tzinfo=JST).date().isoformat()
    except ValueError as error:
        raise FrameError(f"no date: {error}", 0) from None


def _hex(*sizes: int) -> Callable[[bytes], str]:
    def read(edt: bytes) -> str:
        if len(edt) not in sizes:
            _sized(edt, sizes[0])
        return edt.hex().upper()

    return read


def _text_of(size: int) -> Callable[[bytes], str]:
    return lambda edt: text(_sized(edt, size))


def _map(edt: bytes) -> list[str]:
    return _names(property_map(edt))


def _names(epcs: Iterable[int]) -> list[str]:
    return [f"{epc:02X}" for epc in epcs]


_PROPERTIES: dict[int, tuple[str, str, _Explain]] = {
    0x80: ("operation_status", "", _one_of(x30="on", x31="off")),
    0x81: ("installation_location", "", _value(_location)),
    0x82: ("standard_version", "", _value(release)),
    0x83: ("identification_number", "", _value(_hex(17))),
    0x88: ("meter_fault", "", _one_of(x41="fault", x42="none")),
    0x89: ("fault_description", "", _value(_hex(2))),
    0x8A: ("maker", "", _value(_hex(3))),
    0x8C: ("product_code", "", _value(_text_of(12))),
    0x8D: ("serial", "", _value(_text_of(12))),
    0x97: ("time_of_day", "", _value(_time_of_day)),
    0x98: ("date", "", _value(_date)),
    0x9D: ("notified_properties", "", _value(_map)),
    0x9E: ("settable_properties", "", _value(_map)),
    0x9F: ("gettable_properties", "", _value(_map)),
    0xC0: ("route_b_identification", "", _value(_hex(16))),
    0xD0: ("", _COUNTED, _explain_minute),
    0xD3: ("coefficient", "", _value(coefficient)),
    0xD7: ("digits", "", _value(digits)),
    0xE0: ("import_energy_kwh", _COUNTED, _explain_register),
    0xE1: ("unit_kwh", "kWh", _value(unit_kwh)),
    0xE2: ("import_energy_kwh", _COUNTED, _explain_history),
    0xE3: ("export_energy_kwh", _COUNTED, _explain_register),
    0xE4: ("export_energy_kwh", _COUNTED, _explain_history),
    0xE5: ("history_day", "", _value(_day)),
    0xE7: ("grid_power_w", "W", _value(power_w)),
    0xE8: ("", "A", _explain_currents),
    0xEA: ("import_energy_at_30min_kwh", _COUNTED, _explain_half_hour),
    0xEB: ("export_energy_at_30min_kwh", _COUNTED, _explain_half_hour),
    0xEC: ("", _COUNTED, _explain_pairs(MOST_PAIRS)),
    0xED: ("history_request", "", _explain_request(MOST_PAIRS)),
    0xEE: ("", _COUNTED, _explain_pairs(MOST_MINUTES)),
    0xEF: ("history_request", "", _explain_request(MOST_MINUTES)),
}
