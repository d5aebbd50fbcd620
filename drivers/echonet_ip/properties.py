"""Properties of home devices as data: where a value stands in the bytes, and how it is read and written. Pure.

Knows no class, no transport and no maker.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Literal, TypeAlias

from drivers.api import Value
from drivers.route_b.echonet import UNITS_KWH

Type: TypeAlias = Literal["u8", "i8", "u16", "i16", "u32", "i32", "bits"]

MAX_CIRCUITS = 252
"""Of one kind (simplex, duplex) that a distribution board may count."""

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
class ChannelList:
    """Values of many circuits in one property: the first one's number, how many there are, then `size` bytes for each.

    The names of `parts` hold the circuit's number at `{}`; `at` counts within the bytes of one circuit.
    """

    epc: int
    size: int
    parts: tuple[Property, ...]
    count_epc: int
    """The property that says how many circuits there are; a list may hold places for more."""


@dataclass(frozen=True, slots=True)
class DeviceClass:
    """One class of the Appendix: its code, names for people, and what is read of it.

    Of several properties with the same name the first one counts that a device lists.
    """

    code: str
    label_ja: str
    label_en: str
    properties: tuple[Property, ...]
    lists: tuple[ChannelList, ...] = ()

    @property
    def keys(self) -> frozenset[int]:
        """Return the properties that others cannot be understood without: units, numbers of circuits."""
        units = (one.unit_epc for one in (*self.properties, *(part for one in self.lists for part in one.parts)))
        return frozenset((*(epc for epc in units if epc is not None), *(one.count_epc for one in self.lists)))

    @property
    def epcs(self) -> tuple[int, ...]:
        """Return the properties to ask for, each once, the most wanted first."""
        wanted = [*(one.epc for one in self.properties), *(one.epc for one in self.lists), *sorted(self.keys)]
        return tuple(dict.fromkeys(wanted))

    def listed(self, readable: Collection[int] | None) -> DeviceClass:
        """Return the class as a device has it that lists these properties; None: it lists nothing."""
        chosen: dict[str, Property] = {}
        for one in self.properties:
            before = chosen.setdefault(one.name, one)
            if readable is not None and before.epc not in readable and one.epc in readable:
                chosen[one.name] = one
        return replace(self, properties=tuple(chosen.values()))

    def decode(self, got: Mapping[int, bytes], known: Mapping[int, bytes] | None = None) -> dict[str, Value]:
        """Return the values of what was got; `known` holds `keys` that were got earlier."""
        return decode(self.properties, got, known) | _decode_lists(self.lists, got, {**(known or {}), **got})

    def settable(self, name: str) -> Property | None:
        """Return the property that a quantity is set by, or None."""
        return next((one for one in self.properties if one.settable and one.name == name), None)


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


def _decode_lists(
    lists: Iterable[ChannelList], got: Mapping[int, bytes], known: Mapping[int, bytes]
) -> dict[str, Value]:
    return {
        part.name.format(number): _value(part, edt, known)
        for one in lists
        for number, edt in _circuits(one, got.get(one.epc, b""), known.get(one.count_epc, b""))
        for part in one.parts
    }


def _circuits(one: ChannelList, edt: bytes, count: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield number and bytes of each circuit in a list; none where its length contradicts it."""
    if len(edt) < 2 or len(edt) != 2 + edt[1] * one.size:
        return
    most = min(count[0], MAX_CIRCUITS) if len(count) == 1 else MAX_CIRCUITS
    for place in range(edt[1]):
        number = edt[0] + place
        if 1 <= number <= most:
            yield number, edt[2 + place * one.size :][: one.size]


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
