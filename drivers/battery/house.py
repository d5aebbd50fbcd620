"""What a house takes now, from readings that belong together. Pure: time is an argument.

The battery's own device tells its battery, and often PV and grid as its own meter sees them. Where another device has
the role of the grid or of PV in the house (such as the smart meter), that one goes first.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from drivers.api import Value

FRESH_MS = 90_000
"""An older reading of the grid keeps no contract: a smart meter is asked each 30 s, and one answer may be lost."""
TOGETHER_MS = 15_000
"""Readings further apart than this are not of one moment."""

ROLES = {"grid": "grid_power_w", "pv": "pv_power_w"}

Source: TypeAlias = Literal["house_meter", "own_meter"]


@dataclass(frozen=True, slots=True)
class Part:
    """A power read at a moment of the boot clock; + flows into the house's bus."""

    at_ms: int
    watts: float


@dataclass(frozen=True, slots=True)
class Demand:
    """What the house would draw from the grid if the battery did nothing, and who says so."""

    watts: float
    source: Source


@dataclass(frozen=True, slots=True)
class Balance:
    """Load and PV of one moment."""

    load_w: float
    pv_w: float


class House:
    """The newest reading of each part of the house."""

    def __init__(self) -> None:
        self._own: dict[str, Part] = {}
        self._others: dict[str, Part] = {}
        self._elsewhere: set[str] = set()
        """Quantities that another device has the role for, whether it tells them now or not."""
        self._demands: dict[Source, tuple[Part, int]] = {}
        """What was demanded, and how far apart the two readings behind it were."""
        self._counted_ms: int | None = None

    def observe(self, values: Mapping[str, Value], at_ms: int) -> Balance | None:
        """Take in what the battery's device read; returns the house's balance if this completes one."""
        for quantity in ("battery_power_w", *ROLES.values()):
            if quantity in values:
                _put(self._own, quantity, values[quantity], at_ms)
        return self._completed()

    def overhear(self, role: str, values: Mapping[str, Value], at_ms: int) -> Balance | None:
        """Take in what the device with a role read; returns the house's balance if this completes one."""
        quantity = ROLES.get(role)
        if quantity is None or quantity not in values:
            return None
        self._elsewhere.add(quantity)
        _put(self._others, quantity, values[quantity], at_ms)
        return self._completed()

    def demand(self, now_ms: int) -> Demand | None:
        """Return what the house takes beside the battery, from the house's meter, else the device's own, else None."""
        sources: tuple[Source, ...] = ("house_meter", "own_meter")
        for source in sources:
            if source in self._demands and now_ms - (part := self._demands[source][0]).at_ms <= FRESH_MS:
                return Demand(part.watts, source)
        return None

    def forget_own(self) -> None:
        """The battery's device is lost: what it read is in doubt."""
        self._own.clear()
        self._demands.clear()

    def _completed(self) -> Balance | None:
        battery = self._own.get("battery_power_w")
        if battery is None:
            return None
        self._match("house_meter", self._others.get("grid_power_w"), battery)
        self._match("own_meter", self._own.get("grid_power_w"), battery)
        return self._balance(battery)

    def _match(self, source: Source, grid: Part | None, battery: Part) -> None:
        """Keep the demand: what a meter showed counts with what the battery did then, not with what it does now."""
        if grid is None or not _together(grid, battery):
            return
        apart_ms, known = abs(grid.at_ms - battery.at_ms), self._demands.get(source)
        if known is None or known[0].at_ms != grid.at_ms or apart_ms < known[1]:
            self._demands[source] = Part(grid.at_ms, grid.watts + battery.watts), apart_ms

    def _balance(self, battery: Part) -> Balance | None:
        """Return load = grid + PV + battery, once for each reading of the grid."""
        grid, pv = self._of_role("grid_power_w"), self._of_role("pv_power_w")
        if grid is None or pv is None or grid.at_ms == self._counted_ms or not _together(grid, pv, battery):
            return None
        self._counted_ms = grid.at_ms
        return Balance(grid.watts + pv.watts + battery.watts, pv.watts)

    def _of_role(self, quantity: str) -> Part | None:
        """Return the part of whoever has the role; the own one only where nobody else ever had it."""
        return (self._others if quantity in self._elsewhere else self._own).get(quantity)


def _put(parts: dict[str, Part], quantity: str, value: Value, at_ms: int) -> None:
    if value is None or isinstance(value, str):
        parts.pop(quantity, None)
    else:
        parts[quantity] = Part(at_ms, float(value))


def _together(*parts: Part) -> bool:
    stamps = [part.at_ms for part in parts]
    return max(stamps) - min(stamps) <= TOGETHER_MS
