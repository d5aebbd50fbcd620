"""What a register map lets a client write, as a device would have it: limits, timer, and what the battery then does.

Shares the map's text with the driver and no arithmetic. A mode's own steps say when the battery is in it; what no mode
uses can be written within its limits and does nothing.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from drivers.modbus.register_map import RegisterMap
from drivers.modbus.sunspec_points import table
from simulators.inverter_control import Act, ControlRegisters, Description, Register, Timer
from simulators.modbus_chains import exponent_of
from simulators.modbus_maps import BATTERY_VOLTS

LIMIT_W = 5_000
"""What the device says when it is asked for its own limits."""
RESERVE_PERCENT = 10
"""How low the battery may go before anyone wrote; the house itself does not go so low."""
WORDS = {"u16": 1, "s16": 1, "u32": 2, "s32": 2, "f32": 2, "u64": 4, "s64": 4, "f64": 4}


@dataclass(frozen=True, slots=True)
class Coding:
    """How a number lies in registers: value = count * scale + offset."""

    type: str
    words: int
    is_little: bool
    scale: Fraction
    offset: Fraction

    def bits(self, value: Fraction) -> int:
        """Return a value as it lies on the wire."""
        count = (value - self.offset) / self.scale
        if self.type[0] == "f":
            packed = struct.pack(">f" if self.words == 2 else ">d", count)
            return self._ordered(int.from_bytes(packed, "big"))
        return self._ordered(int(count) % (1 << 16 * self.words))

    def number(self, bits: int) -> Fraction:
        """Return the value of what lies on the wire."""
        bits = self._ordered(bits)
        if self.type[0] == "f":
            (count,) = struct.unpack(">f" if self.words == 2 else ">d", bits.to_bytes(2 * self.words, "big"))
            return Fraction(count) * self.scale + self.offset if math.isfinite(count) else Fraction(0)
        if self.type[0] == "s" and bits >> 16 * self.words - 1:
            bits -= 1 << 16 * self.words
        return bits * self.scale + self.offset

    def _ordered(self, bits: int) -> int:
        if not self.is_little:
            return bits
        return sum((bits >> 16 * index & 0xFFFF) << 16 * (self.words - 1 - index) for index in range(self.words))


def control_of(
    register_map: RegisterMap, now_ms: Callable[[], int], models: Mapping[int, int] | None = None
) -> ControlRegisters:
    """Return the writable side of a map's device; `models` tells where one with SunSpec has its models."""
    return ControlRegisters(description_of(register_map, models or {}), now_ms)


def description_of(register_map: RegisterMap, models: Mapping[int, int]) -> Description:
    """Return what the map says of writing, with a SunSpec device's models at their addresses."""
    control = register_map.control
    modes: Mapping[str, Any] = control.get("modes", {})
    timer = _timer(control)
    idle = {step["set"]: step["to"] for mode in modes.values() for step in mode["undo"] if step["to"] != "saved"}
    registers = {one.name: one for one in _writables(register_map, models, idle, timer)}
    registers |= {name: _read_only(name, row, models) for name, row in control.get("reads", {}).items()}

    def bits(name: str, to: Any) -> int:
        return _bits(register_map, name, to, models)

    return Description(
        tuple(registers.values()),
        Timer(
            timer.starts,
            {name: bits(name, to) for name, to in {**timer.ends}.items()},
            timer.setting,
            timer.unit_s,
            timer.fixed_s,
            timer.counts_down,
        ),
        tuple(_acts(modes, timer, bits)),
        command=_command(modes),
        witness=next(iter(control.get("witnesses", [])), None),
    )


def _timer(control: Mapping[str, Any]) -> Timer:
    """Return the map's timer; what it ends with is as the map says it, not yet as bits."""
    row = control.get("timer", {})
    timed = [mode for mode in control.get("modes", {}).values() if "revert_s" in mode]
    starts = frozenset(step["set"] for mode in timed for step in mode["do"] if step.get("always"))
    undone = {step["set"]: step["to"] for mode in timed for step in mode["undo"] if step["to"] != "saved"}
    setting = row.get("setting")
    fixed_s = max((mode["revert_s"] for mode in timed), default=0) if setting is None else 0
    counts_down = setting in control.get("restless", [])
    return Timer(starts, row.get("ends", undone), setting, row.get("unit_s", 1), fixed_s, counts_down)


def _acts(modes: Mapping[str, Any], timer: Timer, bits: Callable[[str, Any], int]) -> Iterator[Act]:
    for kind, mode in modes.items():
        given = {step["to"]: step for step in mode["do"] if step["to"] in {"power_w", "soc_percent"}}
        amount: Mapping[str, Any] = next(iter(given.values()), {})
        when = {
            step["set"]: bits(step["set"], step["to"])
            for step in mode["do"]
            if step["to"] not in {"power_w", "soc_percent"} and step["set"] != timer.setting
        }
        yield Act(kind, when, amount.get("set"), amount.get("per"), "revert_s" in mode)


def _command(modes: Mapping[str, Any]) -> str:
    """Return what a second master would take back: the last step of the first mode, which commands."""
    name: str = next((mode["do"][-1]["set"] for mode in modes.values()), "")
    return name


def _writables(
    register_map: RegisterMap, models: Mapping[int, int], idle: Mapping[str, Any], timer: Timer
) -> Iterator[Register]:
    for name, one in register_map.writable.items():
        coding, address = _coding(register_map, name, models)
        numbers = frozenset(one.encoding.names) if one.encoding.type == "enum" else frozenset()
        low, high = Fraction(one.minimum or 0), Fraction(one.maximum or 0)

        def takes(
            bits: int,
            coding: Coding = coding,
            numbers: frozenset[int] = numbers,
            low: Fraction = low,
            high: Fraction = high,
        ) -> bool:
            if numbers:
                return coding.number(bits) in numbers
            return coding.type == "bits" or low <= coding.number(bits) <= high

        if name in idle:
            initial = _bits(register_map, name, idle[name], models)
        elif numbers:
            resting = (number for number, said in one.encoding.names.items() if said in {"off", "stop"})
            initial = coding.bits(Fraction(next(resting, min(numbers))))
        elif name == timer.setting and timer.counts_down:
            initial = coding.bits(max(low, Fraction(0)))
        elif any(word in name for word in ("reserve", "min_soc", "slot")):
            initial = coding.bits(max(low, Fraction(RESERVE_PERCENT)))
        else:
            initial = coding.bits(Fraction(0) if low == -high else high)
        yield Register(
            name,
            address,
            coding.words,
            initial,
            takes,
            one.stored,
            needs_block=one.block or coding.words > 1,
            number=coding.number,
        )


def _coding(register_map: RegisterMap, name: str, models: Mapping[int, int]) -> tuple[Coding, int]:
    one = register_map.writable[name]
    address, exponent = _place(one.address, one.model, one.point, models)
    encoding, scale = one.encoding, Fraction(one.encoding.scale) * Fraction(10) ** exponent
    is_little = encoding.order == "little"
    return Coding(encoding.type, encoding.words, is_little, scale, Fraction(encoding.offset)), address


def _bits(register_map: RegisterMap, name: str, to: Any, models: Mapping[int, int]) -> int:
    names = register_map.writable[name].encoding.names
    number = next((number for number, said in names.items() if said == to), to)
    return _coding(register_map, name, models)[0].bits(Fraction(str(number)))


def _place(address: int, model: int | None, point: str, models: Mapping[int, int]) -> tuple[int, int]:
    """Return a register's address and the exponent of its scale factor."""
    rows = None if model is None else table(model)
    if model is None or rows is None:
        return address, 0
    row = rows.points[point]
    return models[model] + row.at, 0 if row.scale is None else exponent_of(row.scale)


def _read_only(name: str, row: Mapping[str, Any], models: Mapping[int, int]) -> Register:
    kind = str(row["type"])
    address, exponent = _place(int(row.get("address", 0)), row.get("model"), str(row.get("point", "")), models)
    scale = Fraction(str(row.get("scale", 1))) * Fraction(10) ** exponent
    coding = Coding(kind, WORDS[kind], row.get("order") == "little", scale, Fraction(0))
    return Register(
        name,
        address,
        coding.words,
        coding.bits(Fraction(BATTERY_VOLTS if name.endswith("_v") else LIMIT_W)),
        space=str(row.get("space", "holding")),
        number=coding.number,
    )
