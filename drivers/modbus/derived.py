"""The values of one round → what they mean together: sums, far scale factors, silence by state. Pure: reads nothing."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal

from drivers.api import Value


@dataclass(frozen=True, slots=True)
class Sum:
    """`add` minus `subtract`, all of one round; a device need not have the `optional` ones, such as a second string.

    There is no total in a round in which something that it has was not read, and None when one that it must have has
    no value, or one that once counted has none or 0: a counter takes no step back. A total stands in for a point of
    the same name that the device does not serve.
    """

    quantity: str
    add: tuple[str, ...] = ()
    subtract: tuple[str, ...] = ()
    optional: frozenset[str] = frozenset()
    least: Decimal | None = None
    """A lower total is shown as this: losses would make PV negative at night."""

    @property
    def operands(self) -> tuple[str, ...]:
        """Everything the total is made of."""
        return self.add + self.subtract

    def of(
        self, values: Mapping[str, Value], missing: Collection[str] = (), counted: Collection[str] = ()
    ) -> dict[str, Value]:
        """Return the total under its name; nothing where a needed part, one of those `missing`, or every part is."""
        unread = [name for name in self.operands if name not in values]
        if any(name not in self.optional or name in missing or name in counted for name in unread):
            return {}
        if len(unread) == len(self.operands):
            return {}
        if any(name in counted and not values.get(name) for name in self.operands):
            return {self.quantity: None}
        signed = [(values.get(name), 1, name) for name in self.add]
        signed += [(values.get(name), -1, name) for name in self.subtract]
        parts = [(value, sign) for value, sign, name in signed if value is not None or name not in self.optional]
        numbers = [value * sign for value, sign in parts if isinstance(value, int | Decimal)]
        if not numbers or len(numbers) < len(parts):
            return {self.quantity: None}
        total = sum(numbers)
        return {self.quantity: total if self.least is None else max(total, self.least)}


@dataclass(frozen=True, slots=True)
class Withheld:
    """Values that mean nothing while a state says one of `states`: inverters serve 0 V at night, not "no value".

    With `zeros` only those of them that are 0 mean nothing: other inverters go on measuring the grid in their sleep.
    """

    state: str
    states: frozenset[str]
    values: frozenset[str]
    zeros: bool = False

    def applies(self, values: Mapping[str, Value]) -> bool:
        """Return whether the state, or one of its set bits, is one of those; an unknown state withholds nothing."""
        state = values.get(self.state)
        return isinstance(state, str) and not self.states.isdisjoint(state.split(","))

    def silenced(self, values: Mapping[str, Value]) -> Iterator[str]:
        """Yield the quantities that mean nothing now."""
        if self.applies(values):
            yield from (name for name in self.values if not self.zeros or values.get(name) == 0)


@dataclass(frozen=True, slots=True)
class Derived:
    """How a map's points become its quantities; without any rule values pass as they are."""

    sums: tuple[Sum, ...] = ()
    withheld: tuple[Withheld, ...] = ()
    hidden: frozenset[str] = frozenset()
    exponents: Mapping[str, str] = field(default_factory=dict)
    """Quantity → hidden quantity with its power of ten, where the two lie too far apart for one read."""

    def finish(
        self, values: dict[str, Value], missing: Collection[str] = (), counted: Collection[str] = ()
    ) -> dict[str, Value]:
        """Return what a round means; the values are those that were read in it, by point.

        `missing` are points that the device has and this round did not read, `counted` parts of counters that were
        above 0 once.
        """
        missing = set(missing)
        for quantity, exponent in self.exponents.items():
            if quantity in values:
                values[quantity] = _scaled(values[quantity], values.get(exponent))
        silent = {name for rule in self.withheld for name in rule.silenced(values)}
        values |= dict.fromkeys(values.keys() & silent)
        for total in self.sums:
            if values.get(total.quantity) is None and total.quantity not in missing:
                told = total.of(values, missing, counted)
                values |= told
                if not told and not missing.isdisjoint(total.operands):
                    missing.add(total.quantity)
        values |= dict.fromkeys(values.keys() & silent)  # what stands in for a withheld value is withheld, too
        return {name: value for name, value in values.items() if name not in self.hidden} if self.hidden else values


def _scaled(value: Value, exponent: Value) -> Value:
    if not isinstance(value, int | Decimal) or not isinstance(exponent, int) or not -10 <= exponent <= 10:
        return None
    return value if exponent == 0 else Decimal(value).scaleb(exponent)
