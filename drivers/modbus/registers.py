"""Registers ⇄ values: types, word order, "no value" patterns, scale. Pure: no port, no clock, no event loop.

A register is 16 bits, big endian on the wire. The bits of a value are compared with its "no value" patterns before
anything else is done to them, so a pattern is always written as it lies on the wire (0x8000, not -32768).
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal, DecimalException
from typing import Literal, TypeAlias, get_args

from drivers.api import MalformedError, Value

Type: TypeAlias = Literal["u16", "s16", "u32", "s32", "u64", "s64", "f32", "f64", "string", "bits", "enum"]
WordOrder: TypeAlias = Literal["big", "little"]
"""Order of the 16-bit words of a longer value: `little` means the low word comes first."""

TYPES: frozenset[str] = frozenset(get_args(Type))
WORDS = {"u16": 1, "s16": 1, "u32": 2, "s32": 2, "u64": 4, "s64": 4, "f32": 2, "f64": 4, "bits": 1, "enum": 1}
"""Registers of each type; bits and enum may be declared longer, a string has no length of its own."""

MAX_SCALE_EXPONENT = 10
"""A SunSpec scale factor outside -10…10 is not one (SunSpec Information Model Specification, `sunssf`)."""
NO_SCALE_FACTOR = 0x8000
FARTHEST_EXPONENT = 20
"""A number of a map lies within 1e-20 and 1e20, and has no digit below: any value stays short, and exact enough."""

_CODES = {1: "H", 2: "I", 4: "Q"}
_FLOATS = {"f32": ">f", "f64": ">d"}
_IS_SIGNED = {kind: kind[0] == "s" for kind in ("u16", "s16", "u32", "s32", "u64", "s64", "bits", "enum")}


@dataclass(frozen=True, slots=True)
class Encoding:
    """How a value lies in `words` registers and what its number means; `scale` and `offset` are exact.

    value = number * scale * 10 ** scale factor + offset, turned round by `negate`.
    """

    type: Type
    words: int
    order: WordOrder = "big"
    scale: Decimal = Decimal(1)
    negate: bool = False
    sentinels: frozenset[int] = frozenset()
    names: Mapping[int, str] = field(default_factory=dict)
    offset: Decimal = Decimal(0)


@dataclass(frozen=True, slots=True)
class Span:
    """Registers of one value inside a block: `offset` counts from the block's first register."""

    offset: int
    words: int
    text: bool = False


Raw: TypeAlias = int | bytes


class Layout:
    """The spans of one block read with one precompiled struct; spans may not overlap, holes are skipped."""

    def __init__(self, count: int, spans: Sequence[Span]) -> None:
        parts = [">"]
        at = 0
        for span in spans:
            if span.offset < at or span.offset + span.words > count:
                raise ValueError(f"{span} overlaps its neighbour or leaves a block of {count} registers")
            parts.append(f"{2 * (span.offset - at)}x{_code(span)}")
            at = span.offset + span.words
        parts.append(f"{2 * (count - at)}x")
        self._struct = struct.Struct("".join(parts))

    def split(self, data: bytes) -> tuple[Raw, ...]:
        """Return the raw bits of every span; raises MalformedError unless `data` is exactly the block."""
        if len(data) != self._struct.size:
            raise MalformedError(f"{len(data)} bytes where the block has {self._struct.size}")
        return self._struct.unpack(data)


def _code(span: Span) -> str:
    return f"{2 * span.words}s" if span.text or span.words not in _CODES else _CODES[span.words]


def decode(raw: Raw, encoding: Encoding, scale_factor: Raw | None = None) -> Value:
    """Return the value of raw bits, None where the device has none; `scale_factor` is a raw `sunssf` register."""
    if isinstance(raw, bytes):
        return text(raw) if encoding.type == "string" else None
    if raw in encoding.sentinels:
        return None
    if encoding.order == "little":
        raw = _swap_words(raw, encoding.words)
    return _MEANING[encoding.type](raw, encoding, _exponent(scale_factor))


def encode(number: Decimal, encoding: Encoding) -> int:
    """Return the raw bits that `decode` reads as this number, to the nearest count; raises ValueError if none do."""
    try:
        count = (number - encoding.offset) / encoding.scale
        plain = _float_bits(count, encoding) if encoding.type in _FLOATS else _whole_bits(count, encoding)
    except (DecimalException, OverflowError, KeyError) as error:
        raise ValueError(f"{number} does not fit {encoding.type}") from error
    return _swap_words(plain, encoding.words) if encoding.order == "little" else plain


def _float_bits(count: Decimal, encoding: Encoding) -> int:
    near = float(count)
    if not math.isfinite(near):
        raise OverflowError
    return int.from_bytes(struct.pack(_FLOATS[encoding.type], -near if encoding.negate else near), "big")


def _whole_bits(count: Decimal, encoding: Encoding) -> int:
    whole = int(-count.to_integral_value() if encoding.negate else count.to_integral_value())
    least, most = whole_range(encoding)
    if not least <= whole <= most:
        raise OverflowError
    return whole & (1 << 16 * encoding.words) - 1


def is_tame(number: Decimal) -> bool:
    """Tell whether a number may stand in a map: finite, and no digit of it farther than FARTHEST_EXPONENT."""
    exponent = number.as_tuple().exponent
    return isinstance(exponent, int) and exponent >= -FARTHEST_EXPONENT and number.adjusted() <= FARTHEST_EXPONENT


def whole_range(encoding: Encoding) -> tuple[int, int]:
    """Return the least and the most that a type of whole numbers holds, in counts; raises KeyError for another type."""
    bits = 16 * encoding.words
    return (-(1 << bits - 1), (1 << bits - 1) - 1) if _IS_SIGNED[encoding.type] else (0, (1 << bits) - 1)


def text(raw: bytes) -> str | None:
    """Return the printable text of string registers; None when there is none."""
    shown = raw.split(b"\0", 1)[0].decode("utf-8", "replace")
    shown = "".join(letter for letter in shown if letter.isprintable() and letter != "\ufffd").strip()
    return shown or None


def scale_exponent(raw: int) -> int | None:
    """Return the exponent in a raw `sunssf` register, None when it holds none (0x8000 or outside -10…10)."""
    exponent = _signed(raw, 16)
    return exponent if abs(exponent) <= MAX_SCALE_EXPONENT and raw != NO_SCALE_FACTOR else None


def _exponent(scale_factor: Raw | None) -> int | None:
    if scale_factor is None:
        return 0
    return scale_exponent(scale_factor) if isinstance(scale_factor, int) else None


def _signed(raw: int, bits: int) -> int:
    return raw - (1 << bits) if raw >> (bits - 1) else raw


def _swap_words(raw: int, words: int) -> int:
    swapped = 0
    for _ in range(words):
        swapped = swapped << 16 | raw & 0xFFFF
        raw >>= 16
    return swapped


def _unsigned_number(raw: int, encoding: Encoding, exponent: int | None) -> Value:
    return _number(raw, encoding, exponent)


def _signed_number(raw: int, encoding: Encoding, exponent: int | None) -> Value:
    return _number(_signed(raw, 16 * encoding.words), encoding, exponent)


def _number(number: int, encoding: Encoding, exponent: int | None) -> Value:
    """Scale exactly; a whole number stays an int, so that watts are 512 and not 512.0."""
    if exponent is None:
        return None
    if encoding.negate:
        number = -number
    if encoding.scale == 1 and exponent == 0 and not encoding.offset:
        return number
    value = number * encoding.scale.scaleb(exponent)
    return value + (-encoding.offset if encoding.negate else encoding.offset) if encoding.offset else value


def _float(raw: int, encoding: Encoding, exponent: int | None) -> Value:
    (number,) = struct.unpack(_FLOATS[encoding.type], raw.to_bytes(2 * encoding.words, "big"))
    if exponent is None or not math.isfinite(number):
        return None
    shown = _shortest_float32(number) if encoding.words == 2 else repr(number)
    value = Decimal(shown) * encoding.scale.scaleb(exponent)
    value = value + encoding.offset if encoding.offset else value
    return (-value if encoding.negate else value) or Decimal(0)  # never -0


def _shortest_float32(number: float) -> str:
    """Return the shortest decimal text that is this float32: 230.1, not 230.10000610351562."""
    for digits in range(6, 9):
        shown = f"{number:.{digits}g}"
        if struct.pack(">f", float(shown)) == struct.pack(">f", number):
            return shown
    return f"{number:.9g}"


def _enum(raw: int, encoding: Encoding, _: int | None) -> Value:
    return encoding.names.get(raw, f"unknown_{raw}")


def _bits(raw: int, encoding: Encoding, _: int | None) -> Value:
    """Return the names of the set bits, comma between them, lowest first; `none` when no bit is set."""
    width = 16 * encoding.words
    return ",".join(encoding.names.get(bit, f"bit_{bit}") for bit in range(width) if raw >> bit & 1) or "none"


def _no_number(_: int, __: Encoding, ___: int | None) -> Value:
    return None


_MEANING: Mapping[str, Callable[[int, Encoding, int | None], Value]] = {
    "u16": _unsigned_number,
    "u32": _unsigned_number,
    "u64": _unsigned_number,
    "s16": _signed_number,
    "s32": _signed_number,
    "s64": _signed_number,
    "f32": _float,
    "f64": _float,
    "enum": _enum,
    "bits": _bits,
    "string": _no_number,
}
