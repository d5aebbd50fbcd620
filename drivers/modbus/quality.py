"""How good each value of a device is: good, stale, bad or not implemented. Pure: reads nothing and asks no clock."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Literal, TypeAlias

from drivers.api import Value
from drivers.quantities import QUANTITIES

Quality: TypeAlias = Literal["good", "stale", "bad", "not_implemented"]
"""`bad`: refused by the device, or it had a value and has none now. `not_implemented`: it never had one."""

PERIODS_UNTIL_STALE = 2.5


class Qualities:
    """When each quantity was read last, and whether it had a value."""

    def __init__(self) -> None:
        self._read_ms: dict[str, int] = {}
        self._values: dict[str, Value] = {}
        self._without_value: set[str] = set()
        self.counted: set[str] = set()
        """Counters and parts of counters that were above 0 once; remembered, because an agent may be started again at
        night."""

    def recall(self, counted: Iterable[object]) -> None:
        """Take the counters that an earlier life saw above 0; what is no name is passed over."""
        names = {name for name in counted if isinstance(name, str)}
        self.counted |= {name for name in names if name not in QUANTITIES or _is_counter(name)}

    def count(self, parts: Iterable[str], values: Mapping[str, Value]) -> None:
        """Note which parts of counters are above 0; many of them are hidden, so that `take` sees their total only."""
        self.counted |= {name for name in parts if values.get(name)}

    def take(self, values: dict[str, Value], now_ms: int) -> dict[str, Value]:
        """Note what was read and return it; a counter that fell to 0 has no value, because 0 is no reading of it.

        Inverters serve 0 as their energy while they sleep or wake up; a meter that is really replaced counts up soon.
        """
        for name, value in values.items():
            if value == 0 and name in self.counted:
                values[name] = None
            elif value is not None:
                self._values[name] = value
                if value != 0 and _is_counter(name):
                    self.counted.add(name)
            self._read_ms[name] = now_ms
        self._without_value -= values.keys()
        self._without_value |= {name for name, value in values.items() if value is None}
        return values

    def now(
        self,
        now_ms: int,
        period_ms: int,
        periods_ms: Mapping[str, int],
        once: Collection[str],
        refused: Collection[str],
    ) -> dict[str, Quality]:
        """Return the quality of each quantity that was read or refused; `once` are never stale."""
        qualities: dict[str, Quality] = dict.fromkeys(refused, "bad")
        for name, read_ms in self._read_ms.items():
            late = now_ms - read_ms > PERIODS_UNTIL_STALE * periods_ms.get(name, period_ms)
            qualities.setdefault(name, self._quality(name, is_late=late and name not in once))
        return qualities

    def _quality(self, name: str, *, is_late: bool) -> Quality:
        if is_late:
            return "stale"
        if name in self._without_value:
            return "bad" if name in self._values or name in self.counted else "not_implemented"
        return "good"


def _is_counter(name: str) -> bool:
    return name in QUANTITIES and QUANTITIES[name].kind == "counter"
