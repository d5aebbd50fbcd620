"""SunSpec models → points with the vocabulary's names and signs. Pure: the walk is elsewhere, sends nothing.

Where two models tell the same quantity the first rule that finds it counts. An inverter with storage behind it keeps
its AC side apart from its panels; without storage what comes out of it is PV.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from functools import cache

from drivers.modbus.derived import Derived, Sum, Withheld
from drivers.modbus.planner import Guard, Limits, Point, Poll
from drivers.modbus.register_map import Declared
from drivers.modbus.registers import WORDS, Encoding, Type
from drivers.modbus.sunspec_models import MODELS
from drivers.quantities import QUANTITIES

LIMITS = Limits(max_registers=125, max_gap=16)

INVERTERS = (101, 102, 103, 111, 112, 113, 701)
METERS = (201, 202, 203, 204, 211, 212, 213, 214)
STORAGE = (124, 713, 802)
STRINGS, PORTS, NAMEPLATE = 160, 714, 120
PV_ONLY = 4
"""What model 120 says of an inverter that can have no battery (DERTyp), whatever storage models it shows."""
MOST_STRINGS = 6

EXPORT_COUNTS_PLUS = ("SolarEdge",)
"""Makers whose meters count power + while exporting; the others count + while importing."""

_TYPES: Mapping[str, tuple[Type, frozenset[int]]] = {
    "int16": ("s16", frozenset({0x8000})),
    "uint16": ("u16", frozenset({0xFFFF})),
    "count": ("u16", frozenset({0xFFFF})),
    "acc16": ("u16", frozenset({0, 0xFFFF})),
    "enum16": ("enum", frozenset({0xFFFF})),
    "bitfield16": ("bits", frozenset({0xFFFF})),
    "int32": ("s32", frozenset({0x80000000})),
    "uint32": ("u32", frozenset({0xFFFFFFFF})),
    "acc32": ("u32", frozenset({0, 0xFFFFFFFF})),
    "enum32": ("enum", frozenset({0xFFFFFFFF})),
    "bitfield32": ("bits", frozenset({0xFFFFFFFF})),
    "int64": ("s64", frozenset({1 << 63})),
    "uint64": ("u64", frozenset({(1 << 64) - 1})),
    "acc64": ("u64", frozenset({0, (1 << 64) - 1})),
    "float32": ("f32", frozenset()),
    "float64": ("f64", frozenset()),
    "sunssf": ("s16", frozenset({0x8000})),
    "string": ("string", frozenset()),
}
"""Our type and the patterns for "no value"; an accumulator's 0 means that nothing was ever accumulated."""

_STATES = {"mppt": "running"}


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
class Row:
    """A point of a model as the specification's table has it; `at` counts from the header or the repetition."""

    at: int
    name: str
    type: str
    words: int
    scale: str | None
    symbols: Mapping[int, str]


@dataclass(frozen=True, slots=True)
class Table:
    """A model's points by name, and those of its repeating part, which begins at `group_at`."""

    points: Mapping[str, Row]
    group: Mapping[str, Row] = field(default_factory=dict)
    group_at: int = 0

    @property
    def stride(self) -> int:
        """Registers of one repetition; 0 when nothing repeats."""
        return max((row.at + row.words for row in self.group.values()), default=0)


@cache
def table(model: int) -> Table | None:
    """Return the table of a model; None for one that is not a home's."""
    text = next((text for ids, text in MODELS.items() if model in ids), None)
    if text is None:
        return None
    points: dict[str, Row] = {}
    group: dict[str, Row] = {}
    group_at, target = 0, points
    for line in text.replace("\n+ ", " ").split("\n"):
        words = line.split()
        if words[:1] == ["group"]:
            group_at, target = int(words[2]), group
        elif words:
            symbols = dict(word.split("=") for word in words[7:])
            named = {int(number): symbol.lower() for number, symbol in symbols.items()}
            scale = None if words[4] == "-" else words[4]
            target[words[1]] = Row(int(words[0]), words[1], words[2], int(words[3]), scale, named)
    return Table(points, group, group_at)


_PHASES = (
    ("AphA", "ac_current_l1_a"),
    ("AphB", "ac_current_l2_a"),
    ("AphC", "ac_current_l3_a"),
    ("PPVphAB", "ac_voltage_l12_v"),
    ("PPVphBC", "ac_voltage_l23_v"),
    ("PPVphCA", "ac_voltage_l31_v"),
    ("PhVphA", "ac_voltage_v"),
    ("PhVphB", "ac_voltage_l2_v"),
    ("PhVphC", "ac_voltage_l3_v"),
    ("AL1", "ac_current_l1_a"),
    ("AL2", "ac_current_l2_a"),
    ("AL3", "ac_current_l3_a"),
    ("VL1L2", "ac_voltage_l12_v"),
    ("VL2L3", "ac_voltage_l23_v"),
    ("VL3L1", "ac_voltage_l31_v"),
    ("VL1", "ac_voltage_v"),
    ("VL2", "ac_voltage_l2_v"),
    ("VL3", "ac_voltage_l3_v"),
)
_INVERTER = (
    ("W", "ac_power_w"),
    ("A", "ac_current_a"),
    ("Hz", "ac_frequency_hz"),
    *_PHASES,
    ("DCA", "dc_current_a"),
    ("DCV", "dc_voltage_v"),
    ("DCW", "dc_power_w"),
    ("TmpCab", "inverter_temperature_c"),
)
_SPARES = (("TmpSnk", "heat_sink_c", "inverter_temperature_c"), ("LNV", "line_neutral_v", "ac_voltage_v"))
"""What stands in for a value that a device leaves out: SolarEdge measures its heat sink only."""

_METER = (
    ("W", "grid_power_w"),
    ("WphA", "grid_power_l1_w"),
    ("WphB", "grid_power_l2_w"),
    ("WphC", "grid_power_l3_w"),
    ("A", "grid_current_a"),
    ("AphA", "grid_current_l1_a"),
    ("AphB", "grid_current_l2_a"),
    ("AphC", "grid_current_l3_a"),
    ("PhV", "grid_voltage_v"),
    ("PhVphA", "grid_voltage_l1_v"),
    ("PhVphB", "grid_voltage_l2_v"),
    ("PhVphC", "grid_voltage_l3_v"),
    ("PhVphAB", "grid_voltage_l12_v"),
    ("PhVphBC", "grid_voltage_l23_v"),
    ("PhVphCA", "grid_voltage_l31_v"),
    ("Hz", "grid_frequency_hz"),
    ("TotWhImp", "import_energy_kwh"),
    ("TotWhExp", "export_energy_kwh"),
    ("TotWhImpPhA", "import_energy_l1_kwh"),
    ("TotWhImpPhB", "import_energy_l2_kwh"),
    ("TotWhImpPhC", "import_energy_l3_kwh"),
    ("TotWhExpPhA", "export_energy_l1_kwh"),
    ("TotWhExpPhB", "export_energy_l2_kwh"),
    ("TotWhExpPhC", "export_energy_l3_kwh"),
)
_GRID_SIDE = [name for _, name in _PHASES if "voltage" in name]
_ASLEEP = Withheld(
    "inverter_state", frozenset({"off", "sleeping"}), frozenset({*_GRID_SIDE, "ac_frequency_hz"}), zeros=True
)
"""A grid of 0 V and 0 Hz is an inverter that has stopped measuring it (seen on a KACO; SolarEdge measures on)."""

_NEXT_METER = (("W", "power_w"), ("TotWhImp", "import_energy_kwh"), ("TotWhExp", "export_energy_kwh"))
_BATTERY: Mapping[int, tuple[tuple[str, str], ...]] = {
    802: (
        ("SoC", "battery_soc_percent"),
        ("SoH", "battery_soh_percent"),
        ("V", "battery_voltage_v"),
        ("WHRtg", "battery_rated_wh"),
        ("ChaSt", "battery_mode"),
    ),
    713: (
        ("SoC", "battery_soc_percent"),
        ("SoH", "battery_soh_percent"),
        ("WHRtg", "battery_rated_wh"),
        ("WHAvail", "battery_available_wh"),
    ),
    124: (
        ("ChaState", "battery_soc_percent"),
        ("InBatV", "battery_voltage_v"),
        ("ChaSt", "battery_mode"),
        ("MinRsvPct", "battery_reserve_percent"),
    ),
}
_ONCE = ((120, "WRtg", "inverter_rated_power_w"), (702, "WMaxRtg", "inverter_rated_power_w"))
_SLOW = ((123, "WMaxLimPct", "power_limit_percent"),)


class Builder:
    """Collects the points of one chain; each quantity is taken from the first place that has it."""

    def __init__(
        self, models: Sequence[Model], maker: str, port_types: Sequence[int] = (), der_type: int | None = None
    ) -> None:
        self.points: dict[str, Point] = {}
        self.declared: dict[str, Declared] = {}
        self._models, self._maker, self._port_types = models, maker, port_types
        self._hidden: set[str] = set()
        self._exponents: dict[str, str] = {}
        self._sums: list[Sum] = []
        shows_storage = any(model.id in STORAGE for model in models) or 1 in port_types
        self._has_storage = shows_storage and der_type != PV_ONLY

    def build(self) -> Derived:
        """Fill `points` and return how they become quantities."""
        if inverter := self._first(INVERTERS):
            self._inverter(inverter)
        self._meters()
        for number in _BATTERY:
            if battery := self._first((number,)):
                for name, quantity in _BATTERY[number]:
                    self._add(battery, name, quantity)
        self._strings()
        self._ports()
        for poll, rules in (("once", _ONCE), ("slow", _SLOW)):
            for number, name, quantity in rules:
                if model := self._first((number,)):
                    self._add(model, name, quantity, poll="once" if poll == "once" else "slow")
        return Derived(tuple(self._sums), (_ASLEEP,), frozenset(self._hidden), self._exponents)

    def _first(self, ids: Sequence[int]) -> Model | None:
        return next((model for number in ids for model in self._models if model.id == number), None)

    def _inverter(self, model: Model) -> None:
        for name, quantity in _INVERTER:
            self._add(model, name, quantity)
        self._add(model, "InvSt", "inverter_state")  # model 701, whose St is only off or on
        self._add(model, "St", "inverter_state")
        energy = "ac_energy_kwh" if self._has_storage else "pv_energy_kwh"
        self._add(model, "WH", energy)
        self._add(model, "TotWhInj", energy)
        if not self._has_storage:
            self._add(model, "W", "pv_power_w")
        for name, spare, quantity in _SPARES:
            if self._add(model, name, spare, hidden=True):
                self._sums.append(Sum(quantity, (spare,)))

    def _meters(self) -> None:
        meters = [model for model in self._models if model.id in METERS]
        is_turned = self._maker.startswith(EXPORT_COUNTS_PLUS)
        for number, meter in enumerate(meters, start=1):
            for name, quantity in _METER if number == 1 else _NEXT_METER:
                shown = quantity if number == 1 else f"meter{number}_{quantity}"
                self._add(meter, name, shown, negate=is_turned and "power" in quantity)
                if shown in self.points and shown not in QUANTITIES:
                    self._declare(shown, number)

    def _declare(self, quantity: str, number: int) -> None:
        is_power = quantity.endswith("_w")
        what = "電力" if is_power else "買電量" if "import" in quantity else "売電量"
        english = "power" if is_power else "imported energy" if "import" in quantity else "exported energy"
        unit, kind = ("W", "gauge") if is_power else ("kWh", "counter")
        label = f"メーター{number} {what}", f"Meter {number}, {english}"
        self.declared[quantity] = Declared(unit, "gauge" if kind == "gauge" else "counter", *label)

    def _strings(self) -> None:
        """PV inputs of model 160; Fronius keeps a battery's charge and discharge as modules 3 and 4."""
        model, rows = self._first((STRINGS,)), table(STRINGS)
        if model is None or rows is None:
            return
        count = max(0, (model.length + 2 - rows.group_at) // rows.stride)
        if self._maker.startswith("Fronius") and self._has_storage and count == 4:
            for index, way in ((2, "charge"), (3, "discharge")):
                self._add(model, "DCW", f"battery_{way}_w", index=index, hidden=True)
                self._add(model, "DCWH", f"battery_{way}_energy_kwh", index=index)
            self._sums.append(Sum("battery_power_w", ("battery_discharge_w",), ("battery_charge_w",)))
            count = 2
        for index in range(min(count, MOST_STRINGS)):
            self._string(model, index, index + 1)
        self._pv_from_strings()

    def _ports(self) -> None:
        """PV ports of model 714; ports of other types are left out, their sign is the maker's."""
        model = self._first((PORTS,))
        pv_ports = [index for index, port_type in enumerate(self._port_types) if port_type == 0]
        if model is None or "pv1_power_w" in self.points:
            return
        for number, index in enumerate(pv_ports[:MOST_STRINGS], start=1):
            self._string(model, index, number)
        self._pv_from_strings()

    def _string(self, model: Model, index: int, number: int) -> None:
        for name, quantity in (("DCW", "power_w"), ("DCV", "voltage_v"), ("DCA", "current_a")):
            self._add(model, name, f"pv{number}_{quantity}", index=index)
        if self._has_storage:
            energy = "DCWH" if model.id == STRINGS else "DCWhInj"
            self._add(model, energy, f"pv{number}_energy_kwh", index=index, hidden=True)

    def _pv_from_strings(self) -> None:
        for what in ("power_w", "energy_kwh"):
            strings = (f"pv{number}_{what}" for number in range(1, MOST_STRINGS + 1))
            known = tuple(name for name in strings if name in self.points)
            if self._has_storage and known and all(total.quantity != f"pv_{what}" for total in self._sums):
                self._sums.append(Sum(f"pv_{what}", known, optional=frozenset(known[1:])))

    def _add(
        self,
        model: Model,
        name: str,
        quantity: str,
        *,
        index: int | None = None,
        negate: bool = False,
        hidden: bool = False,
        poll: Poll = "fast",
    ) -> bool:
        """Take a point under a name, unless the name is taken or the device's model does not reach so far."""
        rows = table(model.id)
        row = None if rows is None else (rows.points if index is None else rows.group).get(name)
        if rows is None or row is None or quantity in self.points:
            return False
        start = model.address if index is None else model.address + rows.group_at + index * rows.stride
        address, scale_at = start + row.at, self._scale_at(model, rows, row)
        if max(address + row.words, (scale_at or 0) + 1) > model.end:
            return False
        guards = (Guard(model.address, model.id), Guard(model.address + 1, model.length))
        is_near = address + row.words - model.address <= LIMITS.max_registers
        if not is_near and scale_at is not None:
            self._far_exponent(model, row, quantity, scale_at, guards, poll)
        encoding = encoding_of(row, quantity, negate=negate)
        self.points[quantity] = Point(
            quantity, "holding", address, encoding, poll, scale_at if is_near else None, guards if is_near else ()
        )
        if hidden:
            self._hidden.add(quantity)
        return True

    def _scale_at(self, model: Model, rows: Table, row: Row) -> int | None:
        """Return where a point's scale factor lies; a repeating part's factors stand in the fixed part."""
        if row.scale is None or row.scale not in rows.points:
            return None
        return model.address + rows.points[row.scale].at

    def _far_exponent(
        self, model: Model, row: Row, quantity: str, scale_at: int, guards: tuple[Guard, ...], poll: Poll
    ) -> None:
        """A model longer than one read: the scale factor is a value of its own, read in the same round."""
        name = f"exponent_{model.address}_{row.scale}_{poll}".lower()
        kind, sentinels = _TYPES["sunssf"]
        self.points[name] = Point(name, "holding", scale_at, Encoding(kind, 1, sentinels=sentinels), poll, None, guards)
        self._hidden.add(name)
        self._exponents[quantity] = name


def inverter_states() -> frozenset[str]:
    """Return the states that inverters of the standard's models tell."""
    rows = (known.points.get(name) for model in INVERTERS if (known := table(model)) for name in ("St", "InvSt"))
    return frozenset(_state(symbol) for row in rows if row is not None for symbol in row.symbols.values())


def _state(symbol: str) -> str:
    """Return a symbol in our words; models 111 and 112 write some with two letters before them."""
    plain = symbol.removeprefix("gg")
    return _STATES.get(plain, plain)


def encoding_of(row: Row, quantity: str, *, negate: bool = False) -> Encoding:
    """Return how a row is decoded; energies become kWh by their quantity's name."""
    kind, sentinels = _TYPES[row.type]
    scale = Decimal("0.001") if quantity.endswith("_kwh") else Decimal(1)
    names = {number: _state(symbol) for number, symbol in row.symbols.items()}
    return Encoding(
        kind,
        WORDS.get(kind, row.words) if kind not in {"enum", "bits"} else row.words,
        scale=scale,
        negate=negate,
        sentinels=sentinels,
        names=names,
    )


def port_types(model: Model, data: bytes) -> Iterator[int]:
    """Yield the type of each port of model 714 whose registers, from the header on, are `data`."""
    rows = table(PORTS)
    if rows is None or model.id != PORTS:
        return
    count = max(0, (model.length + 2 - rows.group_at) // rows.stride)
    for index in range(count):
        at = 2 * (rows.group_at + index * rows.stride)
        if at + 2 <= len(data):
            yield int.from_bytes(data[at : at + 2], "big")
