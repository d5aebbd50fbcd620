"""How a `control` table stands in a map's file, and what of it is refused. Pure: reads no file."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Annotated, Literal, TypeAlias

import msgspec
from msgspec import Meta

from drivers.api import ConfigError, RefusedError
from drivers.battery.modes import MODES, Mode
from drivers.modbus.control import LIMITS, Control, Place, Sequence, Setting, Step, bits
from drivers.modbus.planner import Request as Registers
from drivers.modbus.planner import Space
from drivers.modbus.register_map import RegisterMap, Writable, check_factor, check_number
from drivers.modbus.registers import WORDS, Encoding, WordOrder
from drivers.modbus.sunspec_points import inverter_states
from drivers.modbus.sunspec_points import table as model_table
from drivers.settings import Table, convert

Address = Annotated[int, Meta(ge=0, le=0xFFFF)]
Number: TypeAlias = Literal["u16", "s16", "u32", "s32", "f32"]

SAVED = "saved"
"""As a step's value: what the setting had before the mode."""
STORED_SIGN_S = 14_400
"""A sign of life that lies in flash is given at most every third of this: six a day of eight hours of charging."""


class _ReadTable(Table, frozen=True, forbid_unknown_fields=True):
    type: Number
    address: Address | None = None
    model: int | None = None
    point: str = ""
    order: WordOrder = "big"
    space: Space = "holding"
    scale: Decimal = Decimal(1)


class _StepTable(Table, frozen=True, forbid_unknown_fields=True):
    set: str
    to: int | float | str
    always: bool = False
    per: str | None = None


class _ModeTable(Table, frozen=True, forbid_unknown_fields=True):
    do: Annotated[list[_StepTable], Meta(min_length=1, max_length=16)]
    undo: Annotated[list[_StepTable], Meta(min_length=1, max_length=16)]
    revert_s: Annotated[int, Meta(ge=15, le=86_400)] | None = None


class _TimerTable(Table, frozen=True, forbid_unknown_fields=True):
    setting: str | None = None
    unit_s: Annotated[int, Meta(ge=1, le=3_600)] = 1
    ends: dict[str, int | float | str] = msgspec.field(default_factory=dict)


class _OutageTable(Table, frozen=True, forbid_unknown_fields=True):
    quantity: str
    values: list[str]


class _ControlTable(Table, frozen=True, forbid_unknown_fields=True):
    modes: dict[Mode, _ModeTable]
    reads: dict[str, _ReadTable] = msgspec.field(default_factory=dict)
    limits: dict[str, str] = msgspec.field(default_factory=dict)
    witnesses: list[str] = msgspec.field(default_factory=list)
    restless: list[str] = msgspec.field(default_factory=list)
    timer: _TimerTable = _TimerTable()
    outage: _OutageTable | None = None
    faults: dict[str, Annotated[list[str], Meta(min_length=1)]] = msgspec.field(default_factory=dict)
    settle_ms: Annotated[int, Meta(ge=0, le=10_000)] = 0


def parse_control(register_map: RegisterMap) -> Control | None:
    """Return a map's control table checked, None where it has none; raises ConfigError below `control`."""
    if not register_map.control:
        return None
    try:
        return _control(convert(register_map.control, _ControlTable), register_map)
    except ConfigError as error:
        if error.key.startswith("writable."):
            raise
        raise error.under("control") from error


def _control(table: _ControlTable, register_map: RegisterMap) -> Control:
    writable = register_map.writable
    settings = {name: _setting(one, compared=name not in table.restless) for name, one in writable.items()}
    for name, read in table.reads.items():
        if name in settings:
            raise ConfigError(f"reads.{name}", "stands under `writable` too", "give one of the two another name")
        settings[name] = _read_only(f"reads.{name}", read)
    bounds = _bounds(register_map, settings)
    if unknown := sorted(table.limits.keys() - set(LIMITS.values())):
        raise ConfigError(f"limits.{unknown[0]}", "no such limit", f"known: {', '.join(LIMITS.values())}")
    if unknown := [name for name in table.restless if name not in writable]:
        raise ConfigError("restless", "no such entry under `writable`", "correct the name", unknown[0])
    for key, names in (("limits", [*table.limits.values()]), ("witnesses", table.witnesses)):
        if unknown := [name for name in names if name not in settings]:
            raise ConfigError(key, "no such entry under `reads`", "declare it there", unknown[0])
    modes = {mode: _sequence(mode, row, settings) for mode, row in table.modes.items()}
    _check_timer(table.timer, modes, settings)
    divisors = Control(settings, modes).divisors
    if unknown := sorted(name for name in divisors if name not in settings or settings[name].writable):
        raise ConfigError("modes", "`per` is no entry under `reads`", "declare it there", unknown[0])
    outage, faults = _guards(table, register_map)
    witnesses, settle_s = tuple(table.witnesses), table.settle_ms / 1000
    return Control(settings | bounds, modes, {**table.limits}, witnesses, outage, settle_s, faults)


def _guards(
    table: _ControlTable, register_map: RegisterMap
) -> tuple[tuple[str, frozenset[str]] | None, dict[str, frozenset[str]]]:
    """Return the states in which nothing is written, and those in which nothing is commanded."""
    outage = None if table.outage is None else (table.outage.quantity, frozenset(table.outage.values))
    if outage is not None:
        _check_states("outage", *outage, register_map)
    faults = {quantity: frozenset(states) for quantity, states in table.faults.items()}
    for quantity, states in faults.items():
        _check_states(f"faults.{quantity}", quantity, states, register_map)
    return outage, faults


def _check_states(key: str, quantity: str, states: frozenset[str], register_map: RegisterMap) -> None:
    """Refuse a guard that no reading could ever meet."""
    names = {name for one in register_map.points if one.quantity == quantity for name in one.encoding.names.values()}
    if register_map.is_sunspec and quantity == "inverter_state":
        names |= inverter_states()
    if not names:
        raise ConfigError(key, "no state of this map", "name an `enum` under `points` that has `names`", quantity)
    if unknown := sorted(states - names):
        raise ConfigError(key, f"{quantity} is never that", f"known: {', '.join(sorted(names))}", unknown[0])


def _setting(one: Writable, *, compared: bool) -> Setting:
    encoding = one.encoding
    if encoding.type in {"enum", "bits"}:
        least, most = Decimal(0), Decimal((1 << 16 * encoding.words) - 1)
    else:
        least, most = one.minimum or Decimal(0), one.maximum or Decimal(0)
    registers = Registers("holding", one.address, encoding.words)
    place = None if one.model is None else _place(f"writable.{one.name}", one.model, one.point, encoding.words)
    at_most = None if one.at_most is None else _bound(one.at_most)
    return Setting(registers, encoding, one.stored, compared, least=least, most=most, place=place, at_most=at_most)


def _bound(quantity: str) -> str:
    """Return the name under which a point that bounds settings is read; no name in `writable` or `reads` is like it."""
    return f"points.{quantity}"


def _bounds(register_map: RegisterMap, settings: Mapping[str, Setting]) -> dict[str, Setting]:
    """Return the points that bound settings, as values that are only read; none goes by the name of a setting."""
    wanted = {one.at_most for one in register_map.writable.values()}
    bounds = {
        _bound(point.quantity): Setting(
            Registers(point.space, point.address, point.encoding.words), point.encoding, writable=False
        )
        for point in register_map.points
        if point.quantity in wanted
    }
    if taken := sorted(bounds.keys() & settings.keys()):
        raise ConfigError("reads", "is how `at_most` calls its point", "give it another name", taken[0])
    return bounds


def _read_only(key: str, read: _ReadTable) -> Setting:
    if (read.address is None) == (read.model is None):
        raise ConfigError(f"{key}.address", "is where?", "give `address`, or `model` and `point` of SunSpec")
    check_factor(key, read.scale)
    words = WORDS[read.type]
    place = None if read.model is None else _place(key, read.model, read.point, words)
    registers = Registers(read.space, read.address or 0, words)
    return Setting(registers, Encoding(read.type, words, read.order, read.scale), writable=False, place=place)


def _place(key: str, model: int, point: str, words: int) -> Place:
    """Return where a point is in its model, by the official table."""
    rows = model_table(model)
    row = None if rows is None else rows.points.get(point)
    if rows is None or row is None:
        raise ConfigError(f"{key}.point", f"model {model} has no such point here", "see the SunSpec model", point)
    if row.words != words:
        raise ConfigError(f"{key}.type", f"{point} has {row.words} registers", "correct the type")
    return Place(model, row.at, None if row.scale is None else rows.points[row.scale].at)


def _check_timer(timer: _TimerTable, modes: Mapping[Mode, Sequence], settings: Mapping[str, Setting]) -> None:
    """Refuse a timer that the sequences do not set to what they say."""
    for name, to in timer.ends.items():
        _step(f"timer.ends.{name}", _StepTable(name, to), settings, set())
    if timer.setting is None:
        return
    if timer.setting not in settings or not settings[timer.setting].writable:
        raise ConfigError("timer.setting", "no such entry under `writable`", "declare it there", timer.setting)
    for mode, sequence in modes.items():
        counts = [step.to for step in sequence.do if step.setting == timer.setting]
        told_s = [count * timer.unit_s for count in counts if isinstance(count, Decimal)]
        if sequence.revert_s is not None and told_s != [sequence.revert_s]:
            raise ConfigError(
                f"modes.{mode}.revert_s", "is not what `do` sets the timer to", "make the two agree", sequence.revert_s
            )


def _sequence(mode: Mode, row: _ModeTable, settings: Mapping[str, Setting]) -> Sequence:
    if mode == MODES[0]:
        raise ConfigError(f"modes.{mode}", "is what undoing leads to", "remove it; each mode has its `undo`")
    do = tuple(
        _step(f"modes.{mode}.do.{n}", step, settings, {"power_w", "soc_percent"}) for n, step in enumerate(row.do)
    )
    undo = tuple(_step(f"modes.{mode}.undo.{n}", step, settings, {SAVED}) for n, step in enumerate(row.undo))
    if fixed := [one for one in undo if isinstance(one.to, Decimal) and _scaled_by_device(settings[one.setting])]:
        raise ConfigError(f"modes.{mode}.undo", f"{fixed[0].setting} is scaled by the device", "undo it to `saved`")
    undone = {step.setting for step in undo}
    for number, step in enumerate(do):
        if settings[step.setting].stored and step.always and (row.revert_s or 0) < STORED_SIGN_S:
            raise ConfigError(
                f"modes.{mode}.do.{number}.always",
                f"{step.setting} lies in flash and would wear out",
                f"remove it, or set a timer of at least {STORED_SIGN_S} s",
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


def _scaled_by_device(setting: Setting) -> bool:
    return setting.place is not None and setting.place.scale_at is not None


def _step(key: str, row: _StepTable, settings: Mapping[str, Setting], words: set[str]) -> Step:
    setting = settings.get(row.set)
    if setting is None or not setting.writable:
        raise ConfigError(f"{key}.set", "no such entry under `writable`", "declare it there", row.set)
    if row.per is not None and row.to != "power_w":
        raise ConfigError(f"{key}.per", "only a power is divided", "remove it, or write `to: power_w`", row.per)
    if isinstance(row.to, str) and row.to in words:
        return Step(row.set, row.to, row.always, row.per)
    named = {text: number for number, text in setting.encoding.names.items()}
    if isinstance(row.to, str) and row.to not in named:
        known = ", ".join(sorted(words | named.keys()))
        raise ConfigError(f"{key}.to", "no such value", f"a number or one of: {known}", row.to)
    plain = named[row.to] if isinstance(row.to, str) else row.to
    number = Decimal(plain if isinstance(plain, int) else str(plain))
    check_number(f"{key}.to", number, "stay within the setting's limits")
    try:
        bits(row.set, setting, number)
    except RefusedError as error:
        raise ConfigError(f"{key}.to", str(error), "stay within the setting's limits", row.to) from error
    return Step(row.set, number, row.always)
