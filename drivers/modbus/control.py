"""The `control` table of a register map: each mode as a sequence of writes and its undoing. Pure: writes nothing.

Its steps name entries of the map's `writable` table, which gives type, limits and whether a register lies in flash. A
setting's value is handled as its bits as they lie on the wire, so that what was saved is written back exactly.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Annotated, Literal, TypeAlias

import msgspec
from msgspec import Meta

from drivers.api import ConfigError, RefusedError, Value
from drivers.battery.modes import MODES, Mode, ModeFacts, Request, Write
from drivers.modbus.planner import Request as Registers
from drivers.modbus.planner import Space
from drivers.modbus.register_map import RegisterMap, Writable
from drivers.modbus.registers import WORDS, Encoding, WordOrder, decode
from drivers.settings import Table, convert

Address = Annotated[int, Meta(ge=0, le=0xFFFF)]
Number: TypeAlias = Literal["u16", "s16", "u32", "s32", "f32"]

SAVED = "saved"
"""As a step's value: what the setting had before the mode."""
LIMITS: Mapping[Mode, str] = {"charge": "charge_w", "discharge_to_load": "discharge_w"}
"""Which of the device's own limits bounds a mode's power."""


class _ReadTable(Table, frozen=True, forbid_unknown_fields=True):
    address: Address
    type: Number
    order: WordOrder = "big"
    space: Space = "holding"
    scale: Decimal = Decimal(1)


class _StepTable(Table, frozen=True, forbid_unknown_fields=True):
    set: str
    to: int | float | str
    always: bool = False


class _ModeTable(Table, frozen=True, forbid_unknown_fields=True):
    do: Annotated[list[_StepTable], Meta(min_length=1, max_length=16)]
    undo: Annotated[list[_StepTable], Meta(min_length=1, max_length=16)]
    revert_s: Annotated[int, Meta(ge=15, le=86_400)] | None = None


class _OutageTable(Table, frozen=True, forbid_unknown_fields=True):
    quantity: str
    values: list[str]


class _ControlTable(Table, frozen=True, forbid_unknown_fields=True):
    modes: dict[Mode, _ModeTable]
    reads: dict[str, _ReadTable] = msgspec.field(default_factory=dict)
    limits: dict[str, str] = msgspec.field(default_factory=dict)
    witnesses: list[str] = msgspec.field(default_factory=list)
    restless: list[str] = msgspec.field(default_factory=list)
    outage: _OutageTable | None = None
    settle_ms: Annotated[int, Meta(ge=0, le=10_000)] = 0


@dataclass(frozen=True, slots=True)
class Setting:
    """One value the device lets us write, or only read (`writable` false)."""

    registers: Registers
    encoding: Encoding
    stored: bool = False
    compared: bool = True
    writable: bool = True
    least: Decimal = Decimal(0)
    most: Decimal = Decimal(0)


@dataclass(frozen=True, slots=True)
class Step:
    """A setting and what it gets: a number, an argument of the command, or what was saved."""

    setting: str
    to: Decimal | str
    always: bool = False


@dataclass(frozen=True, slots=True)
class Sequence:
    """One mode: the steps that make it and those that undo it, each in order."""

    do: tuple[Step, ...]
    undo: tuple[Step, ...]
    revert_s: int | None = None

    @property
    def facts(self) -> ModeFacts:
        """Return what the policy needs to know of the mode."""
        taken = {step.to for step in self.do}
        return ModeFacts(self.revert_s, "power_w" in taken, "soc_percent" in taken)


@dataclass(frozen=True, slots=True)
class Control:
    """A device's modes as data."""

    settings: Mapping[str, Setting]
    modes: Mapping[Mode, Sequence]
    limits: Mapping[str, str] = field(default_factory=dict)
    witnesses: tuple[str, ...] = ()
    outage: tuple[str, frozenset[str]] | None = None
    settle_s: float = 0.0

    def is_outage(self, values: Mapping[str, object]) -> bool | None:
        """Tell from a sample whether the grid is gone; None where it does not say."""
        if self.outage is None or not isinstance(state := values.get(self.outage[0]), str):
            return None
        return state in self.outage[1]

    def sequence(self, request: Request, limits: Mapping[str, int]) -> tuple[Write, ...]:
        """Return a request's writes; its power is cut to the device's own limit."""
        most_w = limits.get(LIMITS.get(request.mode, ""))
        power_w = request.power_w if request.power_w is None or most_w is None else min(request.power_w, most_w)
        given = {"power_w": power_w, "soc_percent": request.soc_percent}
        writes = []
        for step in self.modes[request.mode].do:
            number = given.get(step.to) if isinstance(step.to, str) else step.to
            if number is None:
                raise RefusedError(f"{request.mode} needs {step.to}")
            writes.append(self._write(step, bits(step.setting, self.settings[step.setting], Decimal(number))))
        return tuple(writes)

    def undoing(self, mode: Mode, saved: Mapping[str, int]) -> tuple[Write, ...]:
        """Return what undoes a mode; a setting that was never saved was never written."""
        if mode not in self.modes:
            raise RefusedError(f"the map does not know {mode} any more, so nobody knows how to undo it")
        writes = []
        for step in self.modes[mode].undo:
            if isinstance(step.to, Decimal):
                writes.append(self._write(step, bits(step.setting, self.settings[step.setting], step.to)))
            elif step.setting in saved:
                writes.append(self._write(step, saved[step.setting]))
        return tuple(writes)

    def touched(self, mode: Mode) -> tuple[str, ...]:
        """Return the settings that a mode changes or undoes."""
        sequence = self.modes[mode]
        return tuple(dict.fromkeys(step.setting for step in (*sequence.do, *sequence.undo)))

    def idle(self, mode: Mode) -> dict[str, int]:
        """Return the settings that are undone to a number: they have it while nobody commands the device."""
        return {
            step.setting: bits(step.setting, self.settings[step.setting], step.to)
            for step in self.modes[mode].undo
            if isinstance(step.to, Decimal)
        }

    def _write(self, step: Step, value: int) -> Write:
        setting = self.settings[step.setting]
        return Write(step.setting, value, setting.stored, step.always, setting.compared)


def parse_control(register_map: RegisterMap) -> Control | None:
    """Return a map's control table checked, None where it has none; raises ConfigError below `control`."""
    if not register_map.control:
        return None
    try:
        return _control(convert(register_map.control, _ControlTable), register_map.writable)
    except ConfigError as error:
        raise error.under("control") from error


def _control(table: _ControlTable, writable: Mapping[str, Writable]) -> Control:
    settings = {name: _setting(one, compared=name not in table.restless) for name, one in writable.items()}
    for name, read in table.reads.items():
        if name in settings:
            raise ConfigError(f"reads.{name}", "stands under `writable` too", "give one of the two another name")
        settings[name] = Setting(
            Registers(read.space, read.address, WORDS[read.type]),
            Encoding(read.type, WORDS[read.type], read.order, read.scale),
            writable=False,
        )
    if unknown := sorted(table.limits.keys() - set(LIMITS.values())):
        raise ConfigError(f"limits.{unknown[0]}", "no such limit", f"known: {', '.join(LIMITS.values())}")
    if unknown := [name for name in table.restless if name not in writable]:
        raise ConfigError("restless", "no such entry under `writable`", "correct the name", unknown[0])
    for key, names in (("limits", [*table.limits.values()]), ("witnesses", table.witnesses)):
        if unknown := [name for name in names if name not in settings]:
            raise ConfigError(key, "no such entry under `reads`", "declare it there", unknown[0])
    modes = {mode: _sequence(mode, row, settings) for mode, row in table.modes.items()}
    outage = None if table.outage is None else (table.outage.quantity, frozenset(table.outage.values))
    return Control(settings, modes, {**table.limits}, tuple(table.witnesses), outage, table.settle_ms / 1000)


def _setting(one: Writable, *, compared: bool) -> Setting:
    encoding = one.encoding
    if encoding.type in {"enum", "bits"}:
        least, most = Decimal(0), Decimal((1 << 16 * encoding.words) - 1)
    else:
        least, most = one.minimum or Decimal(0), one.maximum or Decimal(0)
    registers = Registers("holding", one.address, encoding.words)
    return Setting(registers, encoding, one.stored, compared, least=least, most=most)


def _sequence(mode: Mode, row: _ModeTable, settings: Mapping[str, Setting]) -> Sequence:
    if mode == MODES[0]:
        raise ConfigError(f"modes.{mode}", "is what undoing leads to", "remove it; each mode has its `undo`")
    do = tuple(
        _step(f"modes.{mode}.do.{n}", step, settings, {"power_w", "soc_percent"}) for n, step in enumerate(row.do)
    )
    undo = tuple(_step(f"modes.{mode}.undo.{n}", step, settings, {SAVED}) for n, step in enumerate(row.undo))
    undone = {step.setting for step in undo}
    for number, step in enumerate(do):
        if settings[step.setting].stored and step.always:
            raise ConfigError(
                f"modes.{mode}.do.{number}.always", f"{step.setting} lies in flash and would wear out", "remove it"
            )
        if settings[step.setting].stored and step.setting not in undone:
            raise ConfigError(
                f"modes.{mode}.do.{number}", f"{step.setting} is stored and never undone", "add it to `undo`: saved"
            )
    if not any(step.setting in undone for step in do):
        raise ConfigError(f"modes.{mode}.undo", "undoes nothing of `do`", "undo at least the setting that commands")
    if row.revert_s is not None and not any(step.always for step in do):
        raise ConfigError(f"modes.{mode}.do", "no step restarts the revert timer", "mark it with `always: true`")
    return Sequence(do, undo, row.revert_s)


def _step(key: str, row: _StepTable, settings: Mapping[str, Setting], words: set[str]) -> Step:
    setting = settings.get(row.set)
    if setting is None or not setting.writable:
        raise ConfigError(f"{key}.set", "no such entry under `writable`", "declare it there", row.set)
    if isinstance(row.to, str) and row.to in words:
        return Step(row.set, row.to, row.always)
    named = {text: number for number, text in setting.encoding.names.items()}
    if isinstance(row.to, str) and row.to not in named:
        known = ", ".join(sorted(words | named.keys()))
        raise ConfigError(f"{key}.to", "no such value", f"a number or one of: {known}", row.to)
    number = Decimal(str(named.get(row.to, row.to) if isinstance(row.to, str) else row.to))
    try:
        bits(row.set, setting, number)
    except RefusedError as error:
        raise ConfigError(f"{key}.to", str(error), "stay within the setting's limits", row.to) from error
    return Step(row.set, number, row.always)


def bits(name: str, setting: Setting, number: Decimal) -> int:
    """Return a number's bits on the wire; raises RefusedError where it leaves the setting's limits."""
    if not setting.least <= number <= setting.most:
        raise RefusedError(f"{name} = {number} is not within {setting.least} and {setting.most}")
    encoding = setting.encoding
    if encoding.type == "enum" and number not in encoding.names:
        raise RefusedError(f"{name} = {number} is none of {', '.join(encoding.names.values())}")
    count = number / encoding.scale
    width = 16 * encoding.words
    if encoding.type == "f32":
        raw = int.from_bytes(struct.pack(">f", count), "big")
    else:
        whole = int(count.to_integral_value())
        lowest, highest = (
            (-(1 << width - 1), (1 << width - 1) - 1) if encoding.type[0] == "s" else (0, (1 << width) - 1)
        )
        if not lowest <= whole <= highest:
            raise RefusedError(f"{name} = {number} does not fit {encoding.type}")
        raw = whole & (1 << width) - 1
    return _swapped(raw) if encoding.order == "little" and encoding.words == 2 else raw


def _swapped(raw: int) -> int:
    return (raw & 0xFFFF) << 16 | raw >> 16


def number(setting: Setting, raw: int) -> Value:
    """Return what a setting's bits mean."""
    return decode(raw, setting.encoding)
