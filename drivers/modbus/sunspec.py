"""SunSpec: find the base, walk the chain of models, turn the known ones into points. Pure: sends nothing.

`discover` is a generator that asks for reads and is sent their answers, so the same walk serves a driver, a scan and a
test. The device's own lengths are followed, never the specification's: SolarEdge's common model has 65 registers where
the specification says 66.
"""

from __future__ import annotations

import struct
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

from drivers.api import MalformedError
from drivers.modbus.planner import Guard, Limits, Point, Request
from drivers.modbus.register_map import RegisterMap
from drivers.modbus.registers import WORDS, Encoding, Type, text

MARKER = b"SunS"
BASES = (40000, 0, 50000)
END_MODEL = 0xFFFF
MAX_MODELS = 64
"""Homes have about fifteen; a longer chain is a loop or noise."""
LIMITS = Limits(max_registers=125, max_gap=16)

INVERTERS = (101, 102, 103)
INVERTER_STATES = {
    1: "off",
    2: "sleeping",
    3: "starting",
    4: "running",
    5: "throttled",
    6: "shutting_down",
    7: "fault",
    8: "standby",
}
NOT_IMPLEMENTED: Mapping[str, frozenset[int]] = {
    "s16": frozenset({0x8000}),
    "u16": frozenset({0xFFFF}),
    "enum": frozenset({0xFFFF}),
    "u32": frozenset({0, 0xFFFFFFFF}),
}
"""Patterns for "no value". u32 stands for acc32 here, whose 0 means that nothing was ever accumulated."""


class NotSunSpecError(MalformedError):
    """No marker at any of the bases."""


@dataclass(frozen=True, slots=True)
class Model:
    """One block of the chain: `address` is its header (id, length), `length` counts the registers after it."""

    id: int
    address: int
    length: int

    @property
    def end(self) -> int:
        """One past its last register."""
        return self.address + 2 + self.length


@dataclass(frozen=True, slots=True)
class _Row:
    """A point of a model: `at` and `scale_at` count from the header, as in the specification's tables."""

    quantity: str
    at: int
    type: Type
    scale_at: int
    unit: Decimal = Decimal(1)


_INVERTER_ROWS = (
    _Row("pv_power_w", 14, "s16", 15),
    _Row("pv_energy_kwh", 24, "u32", 26, Decimal("0.001")),
    _Row("ac_voltage_v", 10, "u16", 13),
    _Row("ac_frequency_hz", 16, "u16", 17),
    _Row("inverter_temperature_c", 33, "s16", 37),
)
_STORAGE_ROWS = (_Row("battery_soc_percent", 11, "u16", 56), _Row("battery_soh_percent", 13, "u16", 58))
_STATE_AT = 38
_COMMON_TEXTS = {"maker": (2, 16), "model": (18, 16), "version": (42, 8), "serial": (50, 16)}

Walk = Generator[Request, bytes | None, "Chain"]


@dataclass(frozen=True, slots=True)
class Chain:
    """What a SunSpec device says it is: its models in order and the texts of its first common model."""

    models: tuple[Model, ...]
    identity: Mapping[str, str]

    def register_map(self) -> RegisterMap:
        """Return the points of the first inverter and the first battery model; raises MalformedError without any."""
        points = tuple(self._points())
        if not points:
            known = ", ".join(str(model.id) for model in self.models) or "none"
            raise MalformedError(f"no model of this chain is understood (found: {known})")
        return RegisterMap("sunspec", self.identity.get("maker", "SunSpec"), points, limits=LIMITS)

    def _points(self) -> Iterator[Point]:
        if inverter := self._first(*INVERTERS):
            yield from (_point(inverter, row) for row in _INVERTER_ROWS if _inside(inverter, row))
            if inverter.length + 2 > _STATE_AT:
                yield _state(inverter)
        if storage := self._first(802):
            yield from (_point(storage, row) for row in _STORAGE_ROWS if _inside(storage, row))

    def _first(self, *ids: int) -> Model | None:
        return next((model for model in self.models if model.id in ids), None)


def discover(bases: Sequence[int] = BASES) -> Walk:
    """Ask for reads of holding registers and be sent their bytes (None: refused or senseless); returns the chain.

    Raises NotSunSpecError, or MalformedError for a chain that loops or runs off the register space.
    """
    for base in bases:
        if (yield Request("holding", base, 2)) == MARKER:
            return (yield from _walk(base + 2))
    raise NotSunSpecError(f"no SunSpec marker at {', '.join(map(str, bases))}")


def _walk(address: int) -> Walk:
    models: list[Model] = []
    identity: dict[str, str] = {}
    while len(models) < MAX_MODELS and address + 2 <= 0x10000:
        header = yield Request("holding", address, 2)
        if header is None or len(header) != 4:
            break  # SMA ends its chain without an end model: the next header is simply refused
        model = Model(*_header(header, address))
        if model.id == END_MODEL:
            break
        if model.length == 0 or model.end > 0x10000:
            raise MalformedError(f"model {model.id} at {address} claims {model.length} registers")
        models.append(model)
        if model.id == 1 and not identity:
            identity = yield from _identify(model)
        address = model.end
    else:
        raise MalformedError(f"the chain of models does not end within {MAX_MODELS} models")
    return Chain(tuple(models), identity)


def _header(data: bytes, address: int) -> tuple[int, int, int]:
    model_id, length = struct.unpack(">2H", data)
    return model_id, address, length


def _identify(common: Model) -> Generator[Request, bytes | None, dict[str, str]]:
    """Read maker, model, version and serial number of a common model in one read."""
    data = yield Request("holding", common.address, min(common.length + 2, LIMITS.max_registers))
    if data is None:
        return {}
    texts = {name: text(data[2 * at : 2 * (at + words)]) for name, (at, words) in _COMMON_TEXTS.items()}
    return {name: shown for name, shown in texts.items() if shown}


def _inside(model: Model, row: _Row) -> bool:
    return max(row.at + WORDS[row.type], row.scale_at + 1) <= model.length + 2


def _guards(model: Model) -> tuple[Guard, ...]:
    """Return the header as guards: when a model's variant or neighbours change, addresses move."""
    return Guard(model.address, model.id), Guard(model.address + 1, model.length)


def _point(model: Model, row: _Row) -> Point:
    return Point(
        quantity=row.quantity,
        space="holding",
        address=model.address + row.at,
        encoding=Encoding(row.type, WORDS[row.type], scale=row.unit, sentinels=NOT_IMPLEMENTED[row.type]),
        scale_address=model.address + row.scale_at,
        guards=_guards(model),
    )


def _state(model: Model) -> Point:
    encoding = Encoding("enum", 1, sentinels=NOT_IMPLEMENTED["enum"], names=INVERTER_STATES)
    return Point("inverter_state", "holding", model.address + _STATE_AT, encoding, guards=_guards(model))
