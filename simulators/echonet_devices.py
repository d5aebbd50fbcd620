"""Devices of one home as ECHONET Lite objects: what their properties read, mean and take. Knows no socket, no request.

Written from the Appendix of the specification. Asks the house what flows; a vehicle or a heater is part of its load.
"""

from __future__ import annotations

import itertools
import json
import re
import reprlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path

from simulators.house import WS_PER_KWH, Balance
from simulators.log import Served
from simulators.metering import property_map

KINDS = ("pv", "battery", "ecocute", "aircon", "pcs", "ev", "panel")
MAKER = bytes.fromhex("FFFFFE")
"""The code that the consortium keeps for trials."""

MAX_OBJECTS = 84
"""More do not fit into the list that a node gives of them."""

_EOJ, _EPC, _EDT = (re.compile(one) for one in ("[0-9A-Fa-f]{6}", "[89A-Fa-f][0-9A-Fa-f]", "([0-9A-Fa-f]{2}){0,255}"))

Reader = Callable[[Balance], bytes]
Meaning = Callable[[Balance], Mapping[str, Served]]


def _u8(value: int) -> bytes:
    return bytes([max(0, min(value, 0xFF))])


def _u16(value: int) -> bytes:
    return max(0, min(value, 0xFFFD)).to_bytes(2, "big")


def _u32(value: int) -> bytes:
    return max(0, value).to_bytes(4, "big")


def _i32(value: int) -> bytes:
    return value.to_bytes(4, "big", signed=True)


def _milli_kwh(watt_seconds: int) -> int:
    """Return a register in 0.001 kWh, as these classes count."""
    return watt_seconds * 1000 // WS_PER_KWH


def _kwh(watt_seconds: int) -> Decimal:
    return Decimal(_milli_kwh(watt_seconds)) / 1000


@dataclass(slots=True)
class Thing:
    """One object: what its properties read, what they mean to us, which may be set, which are announced."""

    eoj: bytes
    name: str
    readers: dict[int, Reader]
    meanings: dict[int, Meaning] = field(default_factory=dict)
    setters: Mapping[int, Callable[[bytes], bool]] = field(default_factory=dict)
    announced: frozenset[int] = frozenset()

    def with_maps(self) -> Thing:
        """Add the property maps, which list themselves."""
        maps = {0x9D, 0x9E, 0x9F}
        readable = property_map(set(self.readers) | maps)
        announced, settable = property_map(set(self.announced)), property_map(set(self.setters))
        self.readers |= {0x9D: lambda _: announced, 0x9E: lambda _: settable, 0x9F: lambda _: readable}
        return self

    def meaning(self, codes: Iterable[int], balance: Balance) -> dict[str, Served]:
        """Return what served properties say in the vocabulary."""
        values: dict[str, Served] = {}
        for code in codes:
            if code in self.meanings:
                values |= self.meanings[code](balance)
        return values


def _common(serial: str, identification: bytes | None) -> dict[int, Reader]:
    """What every device object says of itself."""
    readers: dict[int, Reader] = {
        0x80: lambda _: b"\x30",
        0x82: lambda _: b"\x00\x00R\x00",
        0x88: lambda _: b"\x42",
        0x8A: lambda _: MAKER,
        0x8C: lambda _: b"SIMULATOR\x00\x00\x00",
        0x8D: lambda _: serial.encode("ascii")[:12].ljust(12, b"\x00"),
    }
    if identification is not None:
        readers[0x83] = lambda _: identification
    return readers


def pv(instance: int, common: dict[int, Reader]) -> Thing:
    """Return residential PV (0279)."""
    readers: dict[int, Reader] = {
        **common,
        0xD0: lambda _: b"\x00",
        0xD1: lambda _: b"\x44",
        0xE0: lambda b: _u16(b.pv_w),
        0xE1: lambda b: _u32(_milli_kwh(b.pv_ws)),
        0xE3: lambda b: _u32(_milli_kwh(b.export_ws)),
        0xE8: lambda _: _u16(5500),
    }
    meanings: dict[int, Meaning] = {
        0xE0: lambda b: {"pv_power_w": b.pv_w},
        0xE1: lambda b: {"pv_energy_kwh": _kwh(b.pv_ws)},
        0xE3: lambda b: {"pv_sold_energy_kwh": _kwh(b.export_ws)},
    }
    return Thing(bytes([0x02, 0x79, instance]), "pv", readers, meanings, announced=frozenset({0x80, 0x88}))


def battery(instance: int, common: dict[int, Reader], capacity_wh: int) -> Thing:
    """Return a storage battery (027D); its own sign: charging is positive."""
    mode = bytearray(b"\x46")

    def set_mode(edt: bytes) -> bool:
        if len(edt) != 1 or edt[0] not in {0x41, 0x42, 0x43, 0x44, 0x46}:
            return False
        mode[:] = edt
        return True

    readers: dict[int, Reader] = {
        **common,
        0xA0: lambda _: _u32(capacity_wh),
        0xA1: lambda _: _u32(capacity_wh),
        0xA4: lambda b: _u32(capacity_wh - b.battery_wh),
        0xA5: lambda b: _u32(b.battery_wh),
        0xC8: lambda _: _u32(100) + _u32(2500),
        0xC9: lambda _: _u32(100) + _u32(2500),
        0xCF: lambda b: b"\x43" if b.battery_w > 0 else b"\x42" if b.battery_w < 0 else b"\x44",
        0xD3: lambda b: _i32(-b.battery_w),
        0xD6: lambda b: _u32(_milli_kwh(b.discharge_ws)),
        0xD8: lambda b: _u32(_milli_kwh(b.charge_ws)),
        0xDA: lambda _: bytes(mode),
        0xDB: lambda _: b"\x00",
        0xE2: lambda b: _u32(b.battery_wh),
        0xE4: lambda b: _u8(b.soc_permille // 10),
        0xE6: lambda _: b"\x04",
    }
    meanings: dict[int, Meaning] = {
        0xD3: lambda b: {"battery_power_w": b.battery_w},
        0xD6: lambda b: {"battery_discharge_energy_kwh": _kwh(b.discharge_ws)},
        0xD8: lambda b: {"battery_charge_energy_kwh": _kwh(b.charge_ws)},
        0xE4: lambda b: {"battery_soc_percent": b.soc_permille // 10},
        0xE2: lambda b: {"battery_available_wh": b.battery_wh},
    }
    eoj = bytes([0x02, 0x7D, instance])
    return Thing(eoj, "battery", readers, meanings, {0xDA: set_mode}, frozenset({0x80, 0x88, 0xCF, 0xDA}))


def pcs(instance: int, common: dict[int, Reader]) -> Thing:
    """Return a multi-input PCS (02A5): PV and battery together, as its AC side sees them."""

    def net_ws(b: Balance) -> int:
        return b.pv_ws + b.discharge_ws - b.charge_ws  # the house's battery charges from PV alone: this never falls

    readers: dict[int, Reader] = {
        **common,
        0xD0: lambda _: b"\x00",
        0xE0: lambda b: _u32(_milli_kwh(net_ws(b))),
        0xE3: lambda _: _u32(0),
        0xE7: lambda b: _i32(b.pv_w + b.battery_w),
        0xE8: lambda _: bytes.fromhex("02027901027D01"),
    }
    meanings: dict[int, Meaning] = {
        0xE0: lambda b: {"ac_energy_kwh": _kwh(net_ws(b))},
        0xE7: lambda b: {"ac_power_w": b.pv_w + b.battery_w},
    }
    return Thing(bytes([0x02, 0xA5, instance]), "pcs", readers, meanings, announced=frozenset({0x80, 0x88}))


_TANK_L, _LEAST_L, _HEATER_W = 370, 150, 1200
_HEATS_FROM_S, _HEATS_TO_S, _DAY_S = 2 * 3600, 5 * 3600, 86_400


def _second_of_day(balance: Balance) -> int:
    return (balance.unix_ms // 1000 + 9 * 3600) % _DAY_S


def tank_l(balance: Balance) -> int:
    """Return the hot water left: heated from 02:00 to 05:00 in Japan, used through the rest of the day."""
    second = _second_of_day(balance)
    if _HEATS_FROM_S <= second < _HEATS_TO_S:
        return _LEAST_L + (_TANK_L - _LEAST_L) * (second - _HEATS_FROM_S) // (_HEATS_TO_S - _HEATS_FROM_S)
    used_s = (second - _HEATS_TO_S) % _DAY_S
    return _TANK_L - (_TANK_L - _LEAST_L) * used_s // (_DAY_S - (_HEATS_TO_S - _HEATS_FROM_S))


def _heats(balance: Balance) -> bool:
    return _HEATS_FROM_S <= _second_of_day(balance) < _HEATS_TO_S


def ecocute(instance: int, common: dict[int, Reader]) -> Thing:
    """Return an EcoCute (026B)."""
    readers: dict[int, Reader] = {
        **common,
        0x84: lambda b: _u16(_HEATER_W if _heats(b) else 4),
        0xB0: lambda _: b"\x41",
        0xB2: lambda b: b"\x41" if _heats(b) else b"\x42",
        0xB3: lambda _: _u8(85),
        0xC1: lambda _: _u8(78),
        0xC2: lambda _: bytes(4),
        0xC3: lambda _: b"\x42",
        0xE1: lambda b: _u16(tank_l(b)),
        0xE2: lambda _: _u16(_TANK_L),
        0xEA: lambda _: b"\x42",
    }
    meanings: dict[int, Meaning] = {
        0x84: lambda b: {"consumption_power_w": _HEATER_W if _heats(b) else 4},
        0xB2: lambda b: {"water_heater_state": "heating" if _heats(b) else "not_heating"},
        0xE1: lambda b: {"tank_remaining_l": tank_l(b)},
        0xE2: lambda _: {"tank_capacity_l": _TANK_L},
    }
    return Thing(bytes([0x02, 0x6B, instance]), "ecocute", readers, meanings, announced=frozenset({0x80, 0x88, 0xB2}))


class _Room:
    """What a person told the air conditioner, and how warm it is: outside follows the clock, the room the setting."""

    def __init__(self) -> None:
        self.is_on, self.mode, self.target_c = True, 0x41, 25

    def outdoor_c(self, balance: Balance) -> int:
        hour = _second_of_day(balance) // 3600
        return 12 + 10 - abs(hour - 14)

    def indoor_c(self, balance: Balance) -> int:
        return self.target_c + 1 if self.is_on else (self.target_c + self.outdoor_c(balance)) // 2

    def set_power(self, edt: bytes) -> bool:
        if edt not in {b"\x30", b"\x31"}:
            return False
        self.is_on = edt == b"\x30"
        return True

    def set_mode(self, edt: bytes) -> bool:
        if len(edt) != 1 or not 0x41 <= edt[0] <= 0x45:
            return False
        self.mode = edt[0]
        return True

    def set_target(self, edt: bytes) -> bool:
        if len(edt) != 1 or not 16 <= edt[0] <= 31:
            return False
        self.target_c = edt[0]
        return True


def aircon(instance: int, common: dict[int, Reader]) -> Thing:
    """Return an air conditioner (0130)."""
    room = _Room()
    readers: dict[int, Reader] = {
        **common,
        0x80: lambda _: b"\x30" if room.is_on else b"\x31",
        0x84: lambda _: _u16(450 if room.is_on else 2),
        0xA0: lambda _: b"\x41",
        0xB0: lambda _: bytes([room.mode]),
        0xB3: lambda _: _u8(room.target_c),
        0xBB: lambda b: room.indoor_c(b).to_bytes(1, "big", signed=True),
        0xBE: lambda b: room.outdoor_c(b).to_bytes(1, "big", signed=True),
    }
    meanings: dict[int, Meaning] = {
        0x80: lambda _: {"operation_status": "on" if room.is_on else "off"},
        0xB3: lambda _: {"target_temperature_c": room.target_c},
        0xBB: lambda b: {"room_temperature_c": room.indoor_c(b)},
        0xBE: lambda b: {"outdoor_temperature_c": room.outdoor_c(b)},
    }
    setters = {0x80: room.set_power, 0xB0: room.set_mode, 0xB3: room.set_target}
    eoj = bytes([0x01, 0x30, instance])
    return Thing(eoj, "aircon", readers, meanings, setters, frozenset({0x80, 0x88, 0xB0}))


_EV_WH, _EV_CHARGES_W = 40_000, 2_000
_EV_LEAVES_S, _EV_RETURNS_S = 8 * 3600, 18 * 3600
_EV_CHARGES_FROM_S, _EV_CHARGES_TO_S = 1 * 3600, 5 * 3600
_EV_FULL_PERCENT, _EV_TRIP_PERCENT = 80, 20


def _ev_charges(balance: Balance) -> bool:
    return _EV_CHARGES_FROM_S <= _second_of_day(balance) < _EV_CHARGES_TO_S


def _ev_charged_ws(balance: Balance) -> int:
    """Return what was charged since 2026 began in Japan: four hours each night."""
    days, second = divmod(balance.unix_ms // 1000 + 9 * 3600 - 1_767_225_600, _DAY_S)
    tonight_s = min(max(second - _EV_CHARGES_FROM_S, 0), _EV_CHARGES_TO_S - _EV_CHARGES_FROM_S)
    return _EV_CHARGES_W * (days * (_EV_CHARGES_TO_S - _EV_CHARGES_FROM_S) + tonight_s)


def ev_percent(balance: Balance) -> int:
    """Return the vehicle's charge: 80 % when it leaves, 60 % when it comes back, charged from 01:00 to 05:00."""
    second = _second_of_day(balance)
    span_s = _EV_CHARGES_TO_S - _EV_CHARGES_FROM_S
    charged = _EV_TRIP_PERCENT * min(max(second - _EV_CHARGES_FROM_S, 0), span_s) // span_s
    return _EV_FULL_PERCENT - _EV_TRIP_PERCENT + (charged if second < _EV_LEAVES_S else 0)


def _ev_is_here(balance: Balance) -> bool:
    return not _EV_LEAVES_S <= _second_of_day(balance) < _EV_RETURNS_S


def ev(instance: int, common: dict[int, Reader]) -> Thing:
    """Return an EV charger and discharger (027E); its own sign: charging is positive. By day the vehicle is away."""

    def power_w(b: Balance) -> int:
        return _EV_CHARGES_W if _ev_charges(b) else 0

    def percent(b: Balance) -> bytes:
        return _u8(ev_percent(b)) if _ev_is_here(b) else b"\xff"

    def available_wh(b: Balance) -> bytes:
        return _u32(_EV_WH * ev_percent(b) // 100) if _ev_is_here(b) else b"\xff" * 4

    readers: dict[int, Reader] = {
        **common,
        0xC5: lambda _: _u32(_EV_CHARGES_W),
        0xC6: lambda _: _u32(0),
        0xC7: lambda b: b"\x43" if _ev_is_here(b) else b"\x30",
        0xD3: lambda b: _i32(power_w(b)),
        0xD6: lambda _: _u32(0),
        0xD8: lambda b: _u32(_milli_kwh(_ev_charged_ws(b))),
        0xDA: lambda b: b"\x42" if _ev_charges(b) else b"\x44",
        0xDB: lambda _: b"\x00",
        0xE2: available_wh,
        0xE4: percent,
    }
    meanings: dict[int, Meaning] = {
        0xC7: lambda b: {"ev_connection": "chargeable_dischargeable" if _ev_is_here(b) else "none"},
        0xD3: lambda b: {"ev_power_w": -power_w(b)},
        0xD6: lambda _: {"ev_discharge_energy_kwh": Decimal("0.000")},
        0xD8: lambda b: {"ev_charge_energy_kwh": _kwh(_ev_charged_ws(b))},
        0xE2: lambda b: {"ev_available_wh": _EV_WH * ev_percent(b) // 100 if _ev_is_here(b) else None},
        0xE4: lambda b: {"ev_soc_percent": ev_percent(b) if _ev_is_here(b) else None},
    }
    eoj = bytes([0x02, 0x7E, instance])
    return Thing(eoj, "ev", readers, meanings, announced=frozenset({0x80, 0x88, 0xC7, 0xDA}))


_CIRCUIT_PERCENT = (38, 27, 19, 11, 5)
"""What each circuit takes of the house's load."""


def load_ws(balance: Balance) -> int:
    """Return what the house has taken, as its other registers tell it."""
    b = balance
    return b.import_ws - b.export_ws + b.pv_ws + b.discharge_ws - b.charge_ws


def circuits_w(balance: Balance) -> tuple[int, ...]:
    """Return what each circuit takes; together it is the load, to the watt."""
    ends = [balance.load_w * percent // 100 for percent in itertools.accumulate(_CIRCUIT_PERCENT)]
    return tuple(end - begin for begin, end in itertools.pairwise([0, *ends]))


def circuits_ws(balance: Balance) -> tuple[int, ...]:
    """Return what each circuit has taken; it never falls."""
    return tuple(load_ws(balance) * percent // 100 for percent in _CIRCUIT_PERCENT)


def _both_ways(balance: Balance) -> tuple[tuple[int, int, int], ...]:
    """Return watts and watt-seconds of PV and battery; the normal direction is into the house."""
    b = balance
    return (b.pv_w, b.pv_ws, 0), (b.battery_w, b.discharge_ws, b.charge_ws)


def _listed(values: Sequence[bytes]) -> bytes:
    """Return a list of all circuits: the first one's number, how many there are, and each one's bytes."""
    return bytes([1, len(values)]) + b"".join(values)


def _phases(power_w: int) -> bytes:
    """Return the currents of a circuit at 200 V, in 0.1 A: R and T carry alike."""
    return (power_w // 20).to_bytes(2, "big", signed=True) * 2


def _of_circuits(kind: str, what: str, values: Callable[[Balance], Iterable[Served]]) -> Meaning:
    return lambda b: {f"{kind}{number}_{what}": value for number, value in enumerate(values(b), 1)}


def _currents_of_circuits(kind: str, watts: Callable[[Balance], Sequence[int]]) -> Meaning:
    def amperes(b: Balance) -> list[Served]:
        return [power_w // 20 / 10 for power_w in watts(b)]

    r, t = (_of_circuits(kind, f"current_{phase}_a", amperes) for phase in ("r", "t"))
    return lambda b: {**r(b), **t(b)}


def _circuits() -> tuple[dict[int, Reader], dict[int, Meaning]]:
    """Return the lists of a panel: five circuits that share the load, and two that go both ways, PV and battery."""

    def both_ways_w(b: Balance) -> list[int]:
        return [power_w for power_w, _, _ in _both_ways(b)]

    readers: dict[int, Reader] = {
        0xB1: lambda _: bytes([len(_CIRCUIT_PERCENT)]),
        0xB3: lambda b: _listed([_u32(_milli_kwh(taken)) for taken in circuits_ws(b)]),
        0xB5: lambda b: _listed([_phases(power_w) for power_w in circuits_w(b)]),
        0xB7: lambda b: _listed([_i32(power_w) for power_w in circuits_w(b)]),
        0xB8: lambda _: b"\x02",
        0xBA: lambda b: _listed([_u32(_milli_kwh(to)) + _u32(_milli_kwh(back)) for _, to, back in _both_ways(b)]),
        0xBC: lambda b: _listed([_phases(power_w) for power_w in both_ways_w(b)]),
        0xBE: lambda b: _listed([_i32(power_w) for power_w in both_ways_w(b)]),
    }
    to = _of_circuits("duplex", "normal_energy_kwh", lambda b: [_kwh(to) for _, to, _ in _both_ways(b)])
    back = _of_circuits("duplex", "reverse_energy_kwh", lambda b: [_kwh(back) for _, _, back in _both_ways(b)])
    meanings: dict[int, Meaning] = {
        0xB3: _of_circuits("circuit", "consumption_energy_kwh", lambda b: [_kwh(taken) for taken in circuits_ws(b)]),
        0xB5: _currents_of_circuits("circuit", circuits_w),
        0xB7: _of_circuits("circuit", "consumption_power_w", circuits_w),
        0xBA: lambda b: {**to(b), **back(b)},
        0xBC: _currents_of_circuits("duplex", both_ways_w),
        0xBE: _of_circuits("duplex", "power_w", both_ways_w),
    }
    return readers, meanings


def panel(instance: int, common: dict[int, Reader]) -> Thing:
    """Return a distribution board's metering (0287) of the house's main and its circuits; both phases carry alike."""
    of_circuits, meant_by_circuits = _circuits()

    def currents_da(b: Balance) -> tuple[int, int]:
        total = b.grid_w // 10
        return total // 2, total - total // 2

    def amperes(b: Balance) -> dict[str, Served]:
        r, t = currents_da(b)
        return {"current_r_a": r / 10, "current_t_a": t / 10}

    readers: dict[int, Reader] = {
        **common,
        0xC0: lambda b: _u32(_milli_kwh(b.import_ws)),
        0xC1: lambda b: _u32(_milli_kwh(b.export_ws)),
        0xC2: lambda _: b"\x03",
        0xC6: lambda b: _i32(b.grid_w),
        0xC7: lambda b: b"".join(part.to_bytes(2, "big", signed=True) for part in currents_da(b)),
        0xC8: lambda _: _u16(1010) + _u16(1008),
        **of_circuits,
    }
    meanings: dict[int, Meaning] = {
        0xC0: lambda b: {"import_energy_kwh": _kwh(b.import_ws)},
        0xC1: lambda b: {"export_energy_kwh": _kwh(b.export_ws)},
        0xC6: lambda b: {"grid_power_w": b.grid_w},
        0xC7: amperes,
        0xC8: lambda _: {"voltage_r_v": 101.0, "voltage_t_v": 100.8},
        **meant_by_circuits,
    }
    return Thing(bytes([0x02, 0x87, instance]), "panel", readers, meanings, announced=frozenset({0x80, 0x88}))


_MADE: Mapping[str, Callable[[int, dict[int, Reader]], Thing]] = {
    "pv": pv,
    "pcs": pcs,
    "ecocute": ecocute,
    "aircon": aircon,
    "ev": ev,
    "panel": panel,
}


def things(
    kinds: Sequence[str], *, capacity_wh: int = 9_800, seed: int = 1, instance: int = 1, identified: bool = True
) -> list[Thing]:
    """Return the objects of a node by kind; `identified` gives them an identification number (83)."""
    made = []
    for kind in kinds:
        serial = f"SIM{seed:04d}{kind[:4].upper()}"
        number = b"\xfe" + MAKER + serial.encode("ascii").rjust(13, b"\x00")
        common = _common(serial, number if identified else None)
        if kind == "battery":
            made.append(battery(instance, common, capacity_wh))
        else:
            made.append(_MADE[kind](instance, common))
    return [thing.with_maps() for thing in made]


def things_of_image(content: str, file: str | Path = "image") -> list[Thing]:
    """Return the objects of a node that `edge-agent echonet dump` wrote; raises ValueError that names file and key."""
    try:
        image = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file}: no image of a node: {error}") from None
    objects = image.get("objects") if isinstance(image, dict) else None
    if not isinstance(objects, dict) or len(objects) > MAX_OBJECTS:
        raise ValueError(f"{file}: no image of a node: it has no table `objects` of {MAX_OBJECTS} at most")
    return [_thing_of(eoj, properties, f"{file}: objects.{eoj}") for eoj, properties in objects.items()]


def _thing_of(eoj: str, properties: object, where: str) -> Thing:
    if not _EOJ.fullmatch(eoj):
        raise ValueError(f"{where}: no object; six hexadecimal digits, as 027D01")
    if not isinstance(properties, dict):
        raise ValueError(f'{where}: no table of properties; write it like {{"E4": "32"}}')  # noqa: TRY004  (a file's content, not a type)
    readers: dict[int, Reader] = {}
    for code, edt in properties.items():
        if not _EPC.fullmatch(code):
            raise ValueError(f"{where}.{code}: no property; two hexadecimal digits from 80 to FF")
        if not isinstance(edt, str) or not _EDT.fullmatch(edt):
            raise ValueError(f"{where}.{code} = {reprlib.repr(edt)}: no bytes; pairs of hexadecimal digits in quotes")
        readers[int(code, 16)] = fixed(bytes.fromhex(edt))
    return Thing(bytes.fromhex(eoj), eoj.upper(), readers)


def fixed(edt: bytes) -> Reader:
    """Return what reads a property that never changes."""
    return lambda _: edt
