"""The registers that a map calls writable, as a device would keep them: limits, counters, nothing that acts on a house.

A hybrid whose battery follows is in inverter_control; this is for every other map, to see what is written and undone.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from drivers.modbus.register_map import RegisterMap, Writable

READ_HOLDING, WRITE_ONE, WRITE_MANY = 3, 6, 16
ILLEGAL_FUNCTION, ILLEGAL_ADDRESS, ILLEGAL_VALUE = 1, 2, 3

LIMIT_W = 5_000
"""What the device says when it is asked for its own limits."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One value: `low`…`high` in counts, or one of `numbers`; `read_only` ones are never written."""

    address: int
    words: int
    type: str
    is_little: bool
    low: Fraction
    high: Fraction
    numbers: frozenset[int]
    stored: bool
    block: bool
    read_only: bool = False

    def bits(self, number: Fraction) -> int:
        """Return the bits of a number as they lie on the wire."""
        if self.type[0] == "f":
            return self._ordered(int.from_bytes(struct.pack(">f" if self.words == 2 else ">d", number), "big"))
        return self._ordered(int(number) % (1 << 16 * self.words))

    def takes(self, bits: int) -> bool:
        """Return whether the device accepts these bits."""
        bits = self._ordered(bits)
        if self.numbers:
            return bits in self.numbers
        if self.type == "bits":
            return True
        if self.type[0] == "f":
            (number,) = struct.unpack(">f" if self.words == 2 else ">d", bits.to_bytes(2 * self.words, "big"))
            return bool(self.low <= number <= self.high)
        if self.type[0] == "s" and bits >> 16 * self.words - 1:
            bits -= 1 << 16 * self.words
        return self.low <= bits <= self.high

    def _ordered(self, bits: int) -> int:
        if not self.is_little:
            return bits
        return sum((bits >> 16 * index & 0xFFFF) << 16 * (self.words - 1 - index) for index in range(self.words))


class WrittenRegisters:
    """The settings of one unit and what became of them."""

    def __init__(self, register_map: RegisterMap) -> None:
        self.settings = {name: _setting(one) for name, one in register_map.writable.items()}
        self._initial = {name: _initial(one) for name, one in self.settings.items()}
        for name, row in register_map.control.get("reads", {}).items():
            self.settings[name] = _read_only(row)
            self._initial[name] = self.settings[name].bits(Fraction(LIMIT_W))
        self.bits = dict(self._initial)
        self.writes: Counter[str] = Counter()
        """Writes carried out by name, and of them `stored` and `ram`."""
        self.order: list[tuple[str, int]] = []
        """Every write carried out, (name, bits), oldest first."""

    def changed(self) -> dict[str, int]:
        """Return what differs from the beginning."""
        return {name: bits for name, bits in self.bits.items() if bits != self._initial[name]}

    def answer(self, pdu: bytes) -> bytes | None:
        """Return the answer to a request about these registers; None for any other."""
        if pdu[0] in {WRITE_ONE, WRITE_MANY}:
            code = self._write(pdu)
            return bytes((pdu[0] | 0x80, code)) if code else pdu[:5]
        if pdu[0] != READ_HOLDING or len(pdu) != 5:
            return None
        first, count = struct.unpack(">HH", pdu[1:])
        words = self._words()
        if not count or not all(address in words for address in range(first, first + count)):
            return None
        data = b"".join(words[address].to_bytes(2, "big") for address in range(first, first + count))
        return bytes((READ_HOLDING, len(data))) + data

    def _words(self) -> dict[int, int]:
        return {
            one.address + index: self.bits[name] >> 16 * (one.words - 1 - index) & 0xFFFF
            for name, one in self.settings.items()
            for index in range(one.words)
        }

    def _write(self, pdu: bytes) -> int:
        """Carry a write out; returns 0 or the exception code of its refusal."""
        if pdu[0] == WRITE_ONE:
            if len(pdu) != 5:
                return ILLEGAL_VALUE
            (address, bits), words = struct.unpack(">HH", pdu[1:]), 1
        else:
            if len(pdu) < 6 or len(pdu) != 6 + pdu[5]:
                return ILLEGAL_VALUE
            address, words = struct.unpack(">HH", pdu[1:5])
            bits = int.from_bytes(pdu[6:], "big")
        named = ((name, one) for name, one in self.settings.items() if (one.address, one.words) == (address, words))
        name, one = next(named, ("", None))
        if one is None or one.read_only:
            return ILLEGAL_ADDRESS
        if pdu[0] == WRITE_ONE and one.block:
            return ILLEGAL_FUNCTION
        if not one.takes(bits):
            return ILLEGAL_VALUE
        self.bits[name] = bits
        self.writes.update((name, "stored" if one.stored else "ram"))
        self.order.append((name, bits))
        return 0


def _setting(one: Writable) -> Setting:
    encoding = one.encoding
    scale = Fraction(encoding.scale)
    low, high = Fraction(one.minimum or 0) / scale, Fraction(one.maximum or 0) / scale
    numbers = frozenset(encoding.names) if encoding.type == "enum" else frozenset()
    is_little = encoding.order == "little"
    return Setting(one.address, encoding.words, encoding.type, is_little, low, high, numbers, one.stored, one.block)


def _initial(one: Setting) -> int:
    """Return what a setting has before anyone wrote: no choice made, no limit set, no setpoint."""
    if one.numbers:
        return one.bits(Fraction(min(one.numbers)))
    return one.bits(Fraction(0) if one.low < 0 else one.high)


def _read_only(row: Mapping[str, Any]) -> Setting:
    kind = str(row["type"])
    none = Fraction(0)
    is_little, words = row.get("order") == "little", 1 if kind.endswith("16") else 2
    return Setting(int(row["address"]), words, kind, is_little, none, none, frozenset(), True, False, read_only=True)
