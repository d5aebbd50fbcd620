"""A register map as YAML text → checked points (docs: configs/modbus/README.md). Pure: finds and reads no file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from functools import lru_cache
from itertools import pairwise
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from drivers.api import ConfigError
from drivers.modbus.derived import Derived, Sum, Withheld
from drivers.modbus.planner import MOST_REGISTERS, Hole, Limits, Point, Poll, Space, crosses
from drivers.modbus.registers import FARTHEST_EXPONENT, TYPES, WORDS, Encoding, Type, WordOrder, is_tame, whole_range
from drivers.quantities import QUANTITIES, Kind
from drivers.settings import Table, convert, load_yaml

IDENTITY = ("model", "serial", "version")
"""What a map may say about the device itself; read at each connection and shown in `meta`."""

_STATE_TYPES = frozenset({"enum", "bits", "string"})

Address = Annotated[int, Meta(ge=0, le=0xFFFF)]


@dataclass(frozen=True, slots=True)
class Declared:
    """What a map says of a quantity that the vocabulary does not have."""

    unit: str
    kind: Kind
    label_ja: str
    label_en: str


@dataclass(frozen=True, slots=True)
class Writable:
    """A register that may be written, and with what; the numbers are in the value's unit, not in counts.

    `stored` registers lie in flash and wear out; `block` wants function 16 even for one register; `at_most` names a
    point of the map that bounds what a mode writes, too. One of a SunSpec `model` has no address of its own: the device
    says where the model is.
    """

    name: str
    address: int
    encoding: Encoding
    unit: str = ""
    minimum: Decimal | None = None
    maximum: Decimal | None = None
    stored: bool = True
    block: bool = False
    at_most: str | None = None
    model: int | None = None
    point: str = ""


@dataclass(frozen=True, slots=True)
class RegisterMap:
    """A device as data; `gap_ms` and `connect_delay_ms` are the pauses that its network part wants."""

    name: str
    maker: str
    points: tuple[Point, ...]
    identity: tuple[Point, ...] = ()
    holes: tuple[Hole, ...] = ()
    limits: Limits = field(default_factory=Limits)
    gap_ms: int = 0
    connect_delay_ms: int = 0
    quantities: Mapping[str, Declared] = field(default_factory=dict)
    control: Mapping[str, Any] = field(default_factory=dict)
    """The map's `control` table as it stands in the file; whoever commands the device checks it."""
    writable: Mapping[str, Writable] = field(default_factory=dict)
    derived: Derived = field(default_factory=Derived)
    absent_codes: frozenset[int] = frozenset()
    """Exception codes by which this device says "no such register", beside 1, 2 and 3."""
    is_sunspec: bool = False
    """The device is asked for its models; this map only adds to what it says."""

    def over(self, found: RegisterMap) -> RegisterMap:
        """Return what a device said of itself, with this map's points, rules, limits and pauses laid over it."""
        own = {point.quantity for point in self.points}
        points = (*(point for point in found.points if point.quantity not in own), *self.points)
        derived = Derived(
            (*self.derived.sums, *found.derived.sums),
            (*found.derived.withheld, *self.derived.withheld),
            found.derived.hidden | self.derived.hidden,
            found.derived.exponents,
        )
        declared = {**found.quantities, **self.quantities}
        limits = found.limits if self.limits == Limits() else self.limits
        return replace(self, points=points, derived=derived, quantities=declared, limits=limits)


BUSY = frozenset({5, 6})
"""Exceptions "acknowledge" and "server device busy": the registers are there."""


class _LimitsTable(Table, frozen=True, forbid_unknown_fields=True):
    max_registers: Annotated[int, Meta(ge=1, le=MOST_REGISTERS)] = 100
    max_gap: Annotated[int, Meta(ge=0, le=MOST_REGISTERS)] = 16
    gap_ms: Annotated[int, Meta(ge=0, le=5_000)] = 0
    connect_delay_ms: Annotated[int, Meta(ge=0, le=30_000)] = 0
    absent_codes: list[Annotated[int, Meta(ge=1, le=255)]] = msgspec.field(default_factory=list)


class _HoleTable(Table, frozen=True, forbid_unknown_fields=True):
    first: Address
    last: Address
    space: Space = "holding"


class _QuantityTable(Table, frozen=True, forbid_unknown_fields=True):
    kind: Kind
    unit: str = ""
    label_ja: str = ""
    label_en: str = ""


class _PointTable(Table, frozen=True, forbid_unknown_fields=True):
    address: Address
    type: Type
    words: Annotated[int, Meta(ge=1, le=64)] | None = None
    space: Space | None = None
    order: WordOrder | None = None
    scale: Decimal = Decimal(1)
    scale_address: Address | None = None
    negate: bool = False
    sentinels: list[int] | None = None
    names: dict[int, str] = msgspec.field(default_factory=dict)
    poll: Poll = "fast"
    offset: Decimal = Decimal(0)
    hidden: bool = False


class _SumTable(Table, frozen=True, forbid_unknown_fields=True):
    add: list[str] = msgspec.field(default_factory=list)
    subtract: list[str] = msgspec.field(default_factory=list)
    optional: list[str] = msgspec.field(default_factory=list)
    least: Decimal | None = None


class _WithheldTable(Table, frozen=True, forbid_unknown_fields=True):
    state: str
    says: list[str]
    values: list[str]
    zeros: bool = False


class _WritableTable(Table, frozen=True, forbid_unknown_fields=True):
    type: Type
    address: Address | None = None
    model: int | None = None
    point: str = ""
    order: WordOrder | None = None
    words: Annotated[int, Meta(ge=1, le=4)] | None = None
    scale: Decimal = Decimal(1)
    offset: Decimal = Decimal(0)
    names: dict[int, str] = msgspec.field(default_factory=dict)
    unit: str = ""
    min: Decimal | None = None
    max: Decimal | None = None
    at_most: str | None = None
    stored: bool = True
    block: bool = False


class _MapTable(Table, frozen=True, forbid_unknown_fields=True):
    maker: str
    points: dict[str, dict[str, Any]] = msgspec.field(default_factory=dict)
    sunspec: bool = False
    models: str = ""
    source: str = ""
    space: Space = "holding"
    order: WordOrder = "big"
    sentinels: dict[str, list[int]] = msgspec.field(default_factory=dict)
    limits: _LimitsTable = _LimitsTable()
    forbidden: list[_HoleTable] = msgspec.field(default_factory=list)
    identity: dict[str, dict[str, Any]] = msgspec.field(default_factory=dict)
    quantities: dict[str, _QuantityTable] = msgspec.field(default_factory=dict)
    control: dict[str, Any] = msgspec.field(default_factory=dict)
    sums: dict[str, _SumTable] = msgspec.field(default_factory=dict)
    withheld: list[_WithheldTable] = msgspec.field(default_factory=list)
    writable: dict[str, dict[str, Any]] = msgspec.field(default_factory=dict)


@lru_cache(maxsize=16)
def parse(name: str, yaml_text: str) -> RegisterMap:
    """Return the map in a YAML text, the same for the same text; raises ConfigError with key, value and remedy."""
    table = convert(load_yaml(yaml_text), _MapTable)
    _check_tables(table)
    points = tuple(_point(table, f"points.{key}", key, row) for key, row in table.points.items())
    identity = tuple(_identity_point(table, key, row) for key, row in table.identity.items())
    holes = tuple(Hole(hole.space, hole.first, hole.last) for hole in table.forbidden)
    limits = Limits(table.limits.max_registers, table.limits.max_gap)
    hidden = frozenset(key for key, row in table.points.items() if row.get("hidden") is True)
    for key, point in _keyed(points, identity):
        _check_reach(key, point, limits, holes)
        _check_meaning(key, point, table, hidden)
    _check_overlaps(_keyed(points, identity))
    derived = Derived(tuple(_sums(table, points)), tuple(_withheld(table, points)), hidden)
    writable = {key: _writable(table, key, row) for key, row in table.writable.items()}
    _check_bounds(writable, points)
    _check_apart(writable)
    declared = {
        key: Declared(entry.unit, entry.kind, entry.label_ja, entry.label_en) for key, entry in table.quantities.items()
    }
    pauses = (table.limits.gap_ms, table.limits.connect_delay_ms)
    return RegisterMap(
        name,
        table.maker,
        points,
        identity,
        holes,
        limits,
        *pauses,
        quantities=declared,
        control=table.control,
        writable=writable,
        derived=derived,
        absent_codes=frozenset(table.limits.absent_codes),
        is_sunspec=table.sunspec,
    )


def _keyed(points: Iterable[Point], identity: Iterable[Point]) -> list[tuple[str, Point]]:
    keyed = [(f"points.{point.quantity}", point) for point in points]
    return keyed + [(f"identity.{point.quantity}", point) for point in identity]


def _identity_point(table: _MapTable, key: str, row: Mapping[str, Any]) -> Point:
    if key not in IDENTITY:
        raise ConfigError(f"identity.{key}", "no such entry", f"known entries: {', '.join(IDENTITY)}")
    return _point(table, f"identity.{key}", key, {**row, "poll": "once"})


def _point(table: _MapTable, key: str, quantity: str, row: Mapping[str, Any]) -> Point:
    try:
        entry = convert(row, _PointTable)
    except ConfigError as error:
        raise error.under(key) from error
    words = _words(key, entry)
    sentinels = entry.sentinels if entry.sentinels is not None else table.sentinels.get(entry.type, [])
    for sentinel in sentinels:
        if not 0 <= sentinel < 1 << 16 * words:
            raise ConfigError(
                f"{key}.sentinels", f"does not fit {words} registers", "write it as it lies on the wire", sentinel
            )
    check_factor(key, entry.scale)
    check_number(f"{key}.offset", entry.offset, "give what is added after `scale`")
    encoding = Encoding(
        type=entry.type,
        words=words,
        order=entry.order or table.order,
        scale=entry.scale,
        negate=entry.negate,
        sentinels=frozenset(sentinels),
        names=entry.names,
        offset=entry.offset,
    )
    return Point(quantity, entry.space or table.space, entry.address, encoding, entry.poll, entry.scale_address)


def check_number(key: str, number: Decimal, remedy: str) -> None:
    """Raise ConfigError for a number that no device counts in: not finite, or so far from 1 that values explode."""
    if not is_tame(number):
        problem = f"not a number within 1e-{FARTHEST_EXPONENT} and 1e{FARTHEST_EXPONENT}"
        raise ConfigError(key, problem, remedy, f"{number:.3e}" if number.is_finite() else str(number))


def check_factor(key: str, scale: Decimal) -> None:
    """Raise ConfigError for a scale that makes no value or a far one."""
    remedy = "give the unit of one count, such as 0.1"
    check_number(f"{key}.scale", scale, remedy)
    if scale == 0:
        raise ConfigError(f"{key}.scale", "not a factor", remedy, str(scale))


def _words(key: str, entry: _PointTable | _WritableTable) -> int:
    fixed = WORDS.get(entry.type)
    if entry.type in _STATE_TYPES:
        words = entry.words or fixed
        if words is None:
            raise ConfigError(f"{key}.words", "missing", "give the length of the string in registers")
        if entry.type != "string" and words not in {1, 2, 4}:
            raise ConfigError(f"{key}.words", f"no {entry.type} has this length", "1, 2 or 4", words)
        return words
    if fixed is None or entry.words not in {None, fixed}:
        raise ConfigError(f"{key}.words", f"{entry.type} has {fixed} registers", "remove it", entry.words)
    return fixed


def _check_tables(table: _MapTable) -> None:
    if not table.points and not table.sunspec:
        raise ConfigError("points", "the map has no point", "name at least one quantity")
    for kind in table.sentinels:
        if kind not in TYPES:
            raise ConfigError(f"sentinels.{kind}", "no such type", f"known types: {', '.join(sorted(TYPES))}")
    for number, hole in enumerate(table.forbidden):
        if hole.last < hole.first:
            raise ConfigError(f"forbidden.{number}.last", "before `first`", "give the last register", hole.last)
    if busy := sorted(BUSY.intersection(table.limits.absent_codes)):
        raise ConfigError("limits.absent_codes", "means busy, which passes", "remove it", busy[0])
    for quantity in table.quantities:
        if quantity in QUANTITIES:
            raise ConfigError(f"quantities.{quantity}", "already in the vocabulary", "remove the declaration")


def _check_reach(key: str, point: Point, limits: Limits, holes: Sequence[Hole]) -> None:
    if point.end > 0x10000:
        raise ConfigError(f"{key}.address", "reaches past register 65535", "correct address or words", point.address)
    if point.end - point.first > limits.max_registers:
        raise ConfigError(
            key,
            f"needs {point.end - point.first} registers in one read",
            f"limits.max_registers is {limits.max_registers}: raise it or split the point",
        )
    if hole := crosses(point.space, point.first, point.end, holes):
        raise ConfigError(
            key, f"lies in the forbidden hole {hole.first}…{hole.last}", "move the point or shorten the hole"
        )


def _check_meaning(key: str, point: Point, table: _MapTable, hidden: frozenset[str]) -> None:
    if key.startswith("identity."):
        return
    if point.quantity in hidden:
        if point.quantity in QUANTITIES:
            raise ConfigError(key, "hidden, but a quantity of the vocabulary", "give a hidden point a name of its own")
        return
    known, declared = QUANTITIES.get(point.quantity), table.quantities.get(point.quantity)
    if known is None and declared is None:
        raise ConfigError(key, "no such quantity", "use a name of the vocabulary or declare it under `quantities`")
    kind = known.kind if known is not None else declared.kind if declared is not None else "state"
    if (kind == "state") != (point.encoding.type in _STATE_TYPES):
        raise ConfigError(
            f"{key}.type",
            f"a {kind} cannot be read as {point.encoding.type}",
            "states take enum, bits or string, everything else a number",
            point.encoding.type,
        )
    if point.encoding.negate and kind == "counter":
        raise ConfigError(f"{key}.negate", "a counter has no sign", "remove it", value=True)


def _check_overlaps(points: Sequence[tuple[str, Point]]) -> None:
    """Refuse values that share a part of their registers; several values on exactly the same ones are fine."""
    owners: dict[tuple[Space, int, int, bool], str] = {}
    for key, point in points:
        end = point.address + point.encoding.words
        owners[point.space, point.address, end, point.encoding.type == "string"] = f"{key}.address"
        if point.scale_address is not None:
            owners.setdefault(
                (point.space, point.scale_address, point.scale_address + 1, False), f"{key}.scale_address"
            )
    spans = sorted(owners.items())
    for ((space, _, end, _), key), ((other_space, first, _, _), other) in pairwise(spans):
        if space == other_space and first < end:
            raise ConfigError(other, f"overlaps {key}", "correct address, type or words", first)


def _sums(table: _MapTable, points: Sequence[Point]) -> Iterator[Sum]:
    """Return the sums, each of values that one round reads together."""
    polls = {point.quantity: point.poll for point in points}
    for quantity, entry in table.sums.items():
        key = f"sums.{quantity}"
        total = Sum(quantity, tuple(entry.add), tuple(entry.subtract), frozenset(entry.optional), entry.least)
        if quantity not in QUANTITIES and quantity not in table.quantities:
            raise ConfigError(key, "no such quantity", "use a name of the vocabulary or declare it under `quantities`")
        for name in total.operands:
            if name not in polls:
                raise ConfigError(key, "no such point or sum before this one", "add points of this map", name)
        if stray := sorted(total.optional.difference(total.operands)):
            raise ConfigError(f"{key}.optional", "neither added nor subtracted", "add it or remove it", stray[0])
        if not total.operands or len({polls[name] for name in total.operands}) > 1:
            raise ConfigError(key, "its parts are not read together", "give all of them the same `poll`")
        if entry.least is not None:
            check_number(f"{key}.least", entry.least, "give the lowest total")
        polls.setdefault(quantity, polls[total.operands[0]])
        yield total


def _withheld(table: _MapTable, points: Sequence[Point]) -> Iterator[Withheld]:
    """Return what is withheld; a map over SunSpec may name quantities that only the device knows."""
    known = {point.quantity: point for point in points}
    for number, entry in enumerate(table.withheld):
        key = f"withheld.{number}"
        for name in (entry.state, *entry.values):
            if (
                name not in known
                and (name not in table.sums or name == entry.state)
                and not (table.sunspec and name in QUANTITIES)
            ):
                raise ConfigError(key, "no such point", "name points of this map", name)
        if state := known.get(entry.state):
            for said in entry.says:
                if said not in state.encoding.names.values():
                    remedy = f"it may say: {', '.join(state.encoding.names.values()) or 'nothing, it has no `names`'}"
                    raise ConfigError(f"{key}.says", f"{entry.state} never says this", remedy, said)
            if state.poll != "fast":
                raise ConfigError(f"{key}.state", "is not read at every tick", "give the state `poll: fast`")
        yield Withheld(entry.state, frozenset(entry.says), frozenset(entry.values), entry.zeros)


def _writable(table: _MapTable, name: str, row: Mapping[str, Any]) -> Writable:
    key = f"writable.{name}"
    try:
        entry = convert(row, _WritableTable)
    except ConfigError as error:
        raise error.under(key) from error
    if entry.type == "string":
        raise ConfigError(f"{key}.type", "text is not written", "choose a number, enum or bits", entry.type)
    check_factor(key, entry.scale)
    for part, number in (("offset", entry.offset), ("min", entry.min), ("max", entry.max)):
        if number is not None:
            check_number(f"{key}.{part}", number, "give it in the value's unit")
    words = _words(key, entry)
    if (entry.address is None) == (entry.model is None) or (entry.model is None) != (not entry.point):
        raise ConfigError(f"{key}.address", "is where?", "give `address`, or `model` and `point` of SunSpec")
    if entry.model is not None and not table.sunspec:
        raise ConfigError(f"{key}.model", "the map is not for SunSpec", "give the `address`", entry.model)
    address = entry.address or 0
    if address + words > 0x10000:
        raise ConfigError(f"{key}.address", "reaches past register 65535", "correct address or type", address)
    encoding = Encoding(
        entry.type,
        words,
        entry.order or table.order,
        entry.scale,
        sentinels=frozenset(table.sentinels.get(entry.type, [])),
        names=entry.names,
        offset=entry.offset,
    )
    bounds = (entry.min, entry.max)
    place = (entry.model, entry.point)
    return Writable(name, address, encoding, entry.unit, *bounds, entry.stored, entry.block, entry.at_most, *place)


def _check_bounds(writable: Mapping[str, Writable], points: Sequence[Point]) -> None:
    """Refuse a writable number without limits: what cannot be bounded cannot be written safely."""
    known = {point.quantity: point for point in points}
    for name, one in writable.items():
        key = f"writable.{name}"
        if one.at_most is not None:
            _check_at_most(f"{key}.at_most", one.at_most, one.encoding, known.get(one.at_most))
        if one.encoding.type in _STATE_TYPES:
            if one.encoding.type == "enum" and not one.encoding.names:
                raise ConfigError(f"{key}.names", "missing", "name every number that may be written")
            continue
        if one.minimum is None or one.maximum is None or one.minimum > one.maximum:
            raise ConfigError(key, "has no limits", "give `min` and `max`, in the value's unit")
        least, most = _range(one.encoding)
        low, high = sorted((bound - one.encoding.offset) / one.encoding.scale for bound in (one.minimum, one.maximum))
        if one.model is None and not least <= low <= high <= most:  # SunSpec's scale is the device's
            raise ConfigError(key, f"its limits do not fit {one.encoding.type}", "correct limits, scale or type")


def _check_apart(writable: Mapping[str, Writable]) -> None:
    """Refuse what could be written over another setting, and a name that means two numbers.

    In a SunSpec model two settings may be the same point, such as a rate of discharge and, turned round, of charge.
    """
    spans = sorted(
        (one.address, one.address + one.encoding.words, one.name) for one in writable.values() if not one.point
    )
    for (_, end, name), (first, _, other) in pairwise(spans):
        if first < end:
            raise ConfigError(f"writable.{other}.address", f"overlaps {name}", "correct address or type", first)
    for name, one in writable.items():
        said = [*one.encoding.names.values()]
        if twice := sorted({text for text in said if said.count(text) > 1}):
            raise ConfigError(f"writable.{name}.names", "means two numbers", "give each number its own name", twice[0])


def _check_at_most(key: str, named: str, encoding: Encoding, point: Point | None) -> None:
    """Refuse a bound that could not be read by itself, or not be compared."""
    if encoding.type in _STATE_TYPES:
        raise ConfigError(key, f"{encoding.type} is not compared", "remove it", named)
    if point is None:
        raise ConfigError(key, "no such point", "name a point of this map", named)
    if point.encoding.type in _STATE_TYPES:
        raise ConfigError(key, f"{point.encoding.type} is no bound", "name a point that is a number", named)
    if point.scale_address is not None:
        raise ConfigError(key, "is scaled by another register", "name a point without `scale_address`", named)


def _range(encoding: Encoding) -> tuple[Decimal, Decimal]:
    if encoding.type in {"f32", "f64"}:
        return Decimal("-3.4e38"), Decimal("3.4e38")
    least, most = whole_range(encoding)
    return Decimal(least), Decimal(most)
