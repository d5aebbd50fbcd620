"""The values of one round → what they mean together: sums, far scale factors, silence by state. Pure: reads nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal

from drivers.api import Value


@dataclass(frozen=True, slots=True)
class Sum:
    """`add` minus `subtract`, all of one round; `optional` is added where it has a value, such as a second string.

    There is no total when a value that is not optional was not read, and None when one has no value.
    """

    quantity: str
    add: tuple[str, ...] = ()
    subtract: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()

    @property
    def operands(self) -> tuple[str, ...]:
        """Everything the total is made of."""
        return self.add + self.subtract + self.optional


@dataclass(frozen=True, slots=True)
class Withheld:
    """Values that mean nothing while a state says one of `states`: inverters serve 0 V at night, not "no value"."""

    state: str
    states: frozenset[str]
    values: frozenset[str]

    def applies(self, values: Mapping[str, Value]) -> bool:
        """Return whether the state, or one of its set bits, is one of those; an unknown state withholds nothing."""
        state = values.get(self.state)
        return isinstance(state, str) and not self.states.isdisjoint(state.split(","))


@dataclass(frozen=True, slots=True)
class Derived:
    """How a map's points become its quantities; without any rule values pass as they are."""

    sums: tuple[Sum, ...] = ()
    withheld: tuple[Withheld, ...] = ()
    hidden: frozenset[str] = frozenset()
    exponents: Mapping[str, str] = field(default_factory=dict)
    """Quantity → hidden quantity with its power of ten, where the two lie too far apart for one read."""

    def finish(self, values: dict[str, Value]) -> dict[str, Value]:
        """Return what a round means; the values are those that were read in it, by point."""
        for quantity, exponent in self.exponents.items():
            if quantity in values:
                values[quantity] = _scaled(values[quantity], values.get(exponent))
        for rule in self.withheld:
            if rule.applies(values):
                values |= dict.fromkeys(values.keys() & rule.values)
        for total in self.sums:
            if total.quantity not in values and all(name in values for name in total.add + total.subtract):
                values |= _total(total, values)
        return {name: value for name, value in values.items() if name not in self.hidden} if self.hidden else values


def _scaled(value: Value, exponent: Value) -> Value:
    if not isinstance(value, int | Decimal) or not isinstance(exponent, int) or not -10 <= exponent <= 10:
        return None
    return value if exponent == 0 else Decimal(value).scaleb(exponent)


def _total(total: Sum, values: Mapping[str, Value]) -> dict[str, Value]:
    """Return the total under its name; nothing where none of its parts was read."""
    parts = [(values[name], 1) for name in total.add] + [(values[name], -1) for name in total.subtract]
    spare = [values[name] for name in total.optional if name in values]
    if not parts and not spare:
        return {}
    parts += [(value, 1) for value in spare if value is not None]
    numbers = [value * sign for value, sign in parts if isinstance(value, int | Decimal)]
    return {total.quantity: sum(numbers) if numbers and len(numbers) == len(parts) else None}
