"""Is the grid gone, and how long does a battery last then. Pure: knows no device, writes nothing."""

from __future__ import annotations

from collections.abc import Mapping

from drivers.api import Value

DEAD_V = 20.0
"""A grid with less is none; what is induced into a dead line stays below."""


def is_grid_gone(values: Mapping[str, Value], *, told: bool | None) -> bool | None:
    """Tell whether the grid is gone: as the device says (`told`), else by its voltage; None where neither does."""
    if told is not None:
        return told
    volts = [
        float(value)
        for name, value in values.items()
        if name.startswith("grid_voltage_") and value is not None and not isinstance(value, str)
    ]
    return max(volts) < DEAD_V if volts else None


def hours_left(capacity_kwh: float, soc_percent: float | None, discharge_w: float | None) -> float | None:
    """Return for how long a battery lasts at its present discharge; None where it does not discharge or tell."""
    if soc_percent is None or not discharge_w or discharge_w <= 0:
        return None
    return round(soc_percent / 100 * capacity_kwh * 1000 / discharge_w, 1)
