"""The `control` table of a register map: each mode as a sequence of writes and its undoing. Pure: writes nothing.

Its steps name entries of the map's `writable` table, which gives type, limits and whether a register lies in flash. A
setting's value is handled as its bits as they lie on the wire, so that what was saved is written back exactly. How the
table stands in the file, and what is refused, is in `control_table`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from decimal import ROUND_CEILING, ROUND_DOWN, ROUND_FLOOR, Decimal

from drivers.api import RefusedError, Value
from drivers.battery.modes import Mode, ModeFacts, Request, Write
from drivers.modbus.planner import Request as Registers
from drivers.modbus.registers import Encoding, decode, encode, scale_exponent

LIMITS: Mapping[Mode, str] = {"charge": "charge_w", "discharge_to_load": "discharge_w"}
"""Which of the device's own limits bounds a mode's power."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a SunSpec device has a setting: `at` and `scale_at` count from the header of its first such model."""

    model: int
    at: int
    scale_at: int | None = None


@dataclass(frozen=True, slots=True)
class Setting:
    """One value the device lets us write, or only read (`writable` false); with a `place` it has no address yet.

    `at_most` names the reading that what a mode writes may not exceed.
    """

    registers: Registers
    encoding: Encoding
    stored: bool = False
    compared: bool = True
    writable: bool = True
    least: Decimal = Decimal(0)
    most: Decimal = Decimal(0)
    place: Place | None = None
    at_most: str | None = None

    def placed(self, address: int, data: bytes) -> Setting:
        """Return the setting of a device whose model lies at `address` and holds `data`; raises RefusedError."""
        if self.place is None:
            return self
        end = self.place.at + self.registers.count
        if 2 * max(end, (self.place.scale_at or 0) + 1) > len(data):
            raise RefusedError(f"model {self.place.model} of this device ends before register {end}")
        exponent: int | None = 0
        if self.place.scale_at is not None:
            exponent = scale_exponent(int.from_bytes(data[2 * self.place.scale_at :][:2], "big"))
        if exponent is None:
            raise RefusedError(f"model {self.place.model} has no scale factor now")
        registers = replace(self.registers, address=address + self.place.at)
        encoding = replace(self.encoding, scale=self.encoding.scale.scaleb(exponent))
        return replace(self, registers=registers, encoding=encoding)


@dataclass(frozen=True, slots=True)
class Step:
    """A setting and what it gets: a number, an argument of the command, or what was saved.

    With `per` a power is divided by that reading: percent of a rated power, amperes of a voltage.
    """

    setting: str
    to: Decimal | str
    always: bool = False
    per: str | None = None


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
    faults: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """States in which nothing is commanded, by quantity."""

    @property
    def models(self) -> frozenset[int]:
        """The SunSpec models that its settings are in; none where the map gives their addresses."""
        return frozenset(one.place.model for one in self.settings.values() if one.place is not None)

    @property
    def divisors(self) -> frozenset[str]:
        """The readings that powers are divided by."""
        return frozenset(step.per for mode in self.modes.values() for step in mode.do if step.per is not None)

    @property
    def readings(self) -> frozenset[str]:
        """What must be read before a sequence can be computed: divisors, and what bounds a setting by `at_most`."""
        written = {step.setting for mode in self.modes.values() for step in mode.do}
        return self.divisors | {bound for name in written if (bound := self.settings[name].at_most) is not None}

    def facts(self) -> dict[Mode, ModeFacts]:
        """Return what the policy needs to know of each mode."""
        return {
            mode: replace(
                one.facts,
                keeps_power=any(step.to == "power_w" and self.settings[step.setting].stored for step in one.do),
            )
            for mode, one in self.modes.items()
        }

    def placed(self, found: Mapping[int, tuple[int, bytes]]) -> Control:
        """Return the control of a device with these models: id → address and registers from the header on."""
        settings = {
            name: one if one.place is None else one.placed(*found[one.place.model])
            for name, one in self.settings.items()
        }
        return replace(self, settings=settings)

    def is_outage(self, values: Mapping[str, object]) -> bool | None:
        """Tell from a sample whether the grid is gone; None where it does not say."""
        if self.outage is None or not isinstance(state := values.get(self.outage[0]), str):
            return None
        return state in self.outage[1]

    def faults_in(self, values: Mapping[str, object]) -> dict[str, str | None]:
        """Return what a sample says of faults: quantity → the fault's name, None where it tells another state."""
        return {
            quantity: state if state in faults else None
            for quantity, faults in self.faults.items()
            if isinstance(state := values.get(quantity), str)
        }

    def sequence(
        self, request: Request, limits: Mapping[str, int], readings: Mapping[str, Decimal] | None = None
    ) -> tuple[Write, ...]:
        """Return a request's writes, by fresh `readings`; its power is cut to the device's own limit."""
        most_w = limits.get(LIMITS.get(request.mode, ""))
        power_w = request.power_w if request.power_w is None or most_w is None else min(request.power_w, most_w)
        given = {"power_w": power_w, "soc_percent": request.soc_percent}
        writes = []
        for step in self.modes[request.mode].do:
            number = given.get(step.to) if isinstance(step.to, str) else step.to
            if number is None:
                raise RefusedError(f"{request.mode} needs {step.to}")
            if step.per is not None:
                number = self._shared(step, Decimal(number), (readings or {}).get(step.per))
            number = self._bounded(step, Decimal(number), readings or {})
            writes.append(self._write(step, bits(step.setting, self.settings[step.setting], number)))
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
                raw, setting = saved[step.setting], self.settings[step.setting]
                if 0 <= raw < 1 << 16 * setting.registers.count and number(setting, raw) is None:
                    raise RefusedError(f"{step.setting} had no value, so nobody knows what to put back")
                writes.append(self._write(step, raw))
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

    def _shared(self, step: Step, power_w: Decimal, divisor: Decimal | None) -> Decimal:
        """Return a power in what the setting counts, never more of it than asked for."""
        if divisor is None or divisor <= 0:
            raise RefusedError(f"the device does not tell {step.per} now")
        scale = self.settings[step.setting].encoding.scale
        shared = (power_w / divisor / scale).to_integral_value(ROUND_DOWN) * scale
        if not shared:
            raise RefusedError(f"{power_w} W is less than one step of {step.setting}")
        return shared

    def _bounded(self, step: Step, number: Decimal, readings: Mapping[str, Decimal]) -> Decimal:
        """Return a number cut to what `at_most` of its setting reads now, never rounded above it."""
        setting = self.settings[step.setting]
        if setting.at_most is None:
            return number
        most = readings.get(setting.at_most)
        if most is None:
            raise RefusedError(f"the device does not tell {setting.at_most} now, which bounds {step.setting}")
        encoding = setting.encoding
        if encoding.type not in {"f32", "f64"}:
            rounding = ROUND_FLOOR if encoding.scale > 0 else ROUND_CEILING
            count = ((most - encoding.offset) / encoding.scale).to_integral_value(rounding)
            most = count * encoding.scale + encoding.offset
        return min(number, most)

    def _write(self, step: Step, value: int) -> Write:
        setting = self.settings[step.setting]
        return Write(step.setting, value, setting.stored, step.always, setting.compared)


def bits(name: str, setting: Setting, number: Decimal) -> int:
    """Return a number's bits on the wire; raises RefusedError where it leaves the setting's limits."""
    if not setting.least <= number <= setting.most:
        raise RefusedError(f"{name} = {number} is not within {setting.least} and {setting.most}")
    encoding = setting.encoding
    if encoding.type == "enum" and number not in encoding.names:
        raise RefusedError(f"{name} = {number} is none of {', '.join(encoding.names.values())}")
    try:
        return encode(number, encoding)
    except ValueError as error:
        raise RefusedError(f"{name} = {error}") from error


def number(setting: Setting, raw: int) -> Value:
    """Return what a setting's bits mean."""
    return decode(raw, setting.encoding)
