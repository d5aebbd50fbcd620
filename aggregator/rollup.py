"""Curves and energies from stored readings: buckets, load, differences of counters. Pure: no database, no clock."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

from aggregator.store import Number, Point

PARTS_WITHIN_MS = 15_000
"""Load is told only from parts at most this far apart."""
DAY_MS = 86_400_000
JST = timezone(timedelta(hours=9))
"""Japan's time has no summer time: a day is always 24 hours."""
WIDTHS_MS = tuple(s * 1000 for s in (10, 20, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400))
POWER_ROLES = {"grid": "grid_power_w", "pv": "pv_power_w", "battery": "battery_power_w"}
"""Which quantity of the device in a role is its power; + flows into the house."""
ENERGY_ROLES = {
    "import": ("grid", "import_energy_kwh"),
    "export": ("grid", "export_energy_kwh"),
    "pv": ("pv", "pv_energy_kwh"),
    "charge": ("battery", "battery_charge_energy_kwh"),
    "discharge": ("battery", "battery_discharge_energy_kwh"),
}


@dataclass(frozen=True, slots=True)
class Curve:
    """Points for a chart: each reading as it was, or one line per bucket as `columns` says; `t` is unix ms."""

    columns: tuple[str, ...]
    bucket_ms: int | None
    points: list[tuple[Any, ...]]


def curve(points: Sequence[Point], kind: str, from_ms: int, to_ms: int, limit: int) -> Curve:
    """Return readings as they are, or, when there are more than `limit`, honest buckets.

    A gauge's bucket tells mean, least, greatest and how many; a counter's or state's is its last reading, unchanged,
    with that reading's own time.
    """
    if len(points) <= limit:
        return Curve(("t", "value"), None, list(points))
    width = bucket_width_ms(to_ms - from_ms, limit)
    if kind != "gauge":
        last = {t // width: (t, value) for t, value in points}
        return Curve(("t", "value"), width, list(last.values()))
    return Curve(("t", "mean", "min", "max", "n"), width, [_summary(*each) for each in _buckets(points, width)])


def bucket_width_ms(span_ms: int, limit: int) -> int:
    """Return the least usual width that cuts a span into at most `limit` buckets."""
    least = -(-span_ms // limit)
    return next((width for width in WIDTHS_MS if width >= least), -(-least // DAY_MS) * DAY_MS)


def _buckets(points: Iterable[Point], width: int) -> list[tuple[int, list[Number]]]:
    buckets: dict[int, list[Number]] = {}
    for t, value in points:
        known = buckets.setdefault(t // width * width, [])
        if value is not None and not isinstance(value, str):
            known.append(value)
    return list(buckets.items())


def _summary(t: int, values: list[Number]) -> tuple[Any, ...]:
    if not values:
        return t, None, None, None, 0
    mean = sum(float(value) for value in values) / len(values)
    return t, round(mean, 3), min(values), max(values), len(values)


def load_points(parts: Sequence[Sequence[Point]]) -> list[Point]:
    """Return the load at each moment of the first part: the sum of all parts where they lie within 15 s, else None.

    A part that no device plays is not among `parts`; a part that is silent makes the load unknown, never smaller.
    """
    if not parts:
        return []
    first, *others = parts
    times = [[t for t, _ in part] for part in others]
    found: list[Point] = []
    for t, value in first:
        chosen = [(t, value), *(_nearest(part, when, t) for part, when in zip(others, times, strict=True))]
        found.append((t, total(chosen)))
    return found


def total(parts: Sequence[Point | None]) -> Number | None:
    """Return the sum of powers read within 15 s of each other; None when one is missing or too far away."""
    known = [part for part in parts if part is not None and isinstance(part[1], int | float | Decimal)]
    if not known or len(known) < len(parts):
        return None
    times = [t for t, _ in known]
    if max(times) - min(times) > PARTS_WITHIN_MS:
        return None
    numbers = [value for _, value in known if not isinstance(value, str) and value is not None]
    if all(isinstance(value, int) for value in numbers):
        return sum(numbers)
    return sum((Decimal(str(value)) for value in numbers), Decimal())


def _nearest(part: Sequence[Point], times: Sequence[int], t: int) -> Point | None:
    at = bisect_left(times, t)
    near = [part[index] for index in (at - 1, at) if 0 <= index < len(part)]
    return min(near, key=lambda point: abs(point[0] - t), default=None)


def power_parts(roles: Mapping[str, str]) -> list[tuple[str, str]] | None:
    """Return (device, quantity) of every power that makes up the load, grid first; None where no grid is named."""
    if "grid" not in roles:
        return None
    return [(roles[role], quantity) for role, quantity in POWER_ROLES.items() if role in roles]


def gained(points: Iterable[Point], modulus: Decimal | None = None, cuts: Iterable[int] = ()) -> Decimal | None:
    """Return how much a register grew over readings in order of time; None with fewer than one reading.

    `cuts` are the times (unix ms) of another meter's first readings: no difference is taken across one.

    A step back is a roll-over where the register's modulus is known and the step then is small; otherwise the
    device was exchanged or reset and its new register counts from its first reading on.
    """
    sum_kwh: Decimal | None = None
    last: Decimal | None = None
    ahead = sorted(cuts, reverse=True)
    for t, value in points:
        while ahead and ahead[-1] <= t:
            ahead.pop()
            last = None
        if value is None or isinstance(value, str):
            continue
        reading = Decimal(str(value))
        if sum_kwh is None or last is None:
            sum_kwh = sum_kwh or Decimal()
        else:
            sum_kwh += _step(last, reading, modulus)
        last = reading
    return sum_kwh


def _step(last: Decimal, reading: Decimal, modulus: Decimal | None) -> Decimal:
    step = reading - last
    if step >= 0:
        return step
    around = step + modulus if modulus is not None else Decimal(-1)
    return around if modulus is not None and 0 <= around <= modulus / 10 else Decimal()


def home_kwh(energies: Mapping[str, Decimal | None], roles: Mapping[str, str]) -> Decimal | None:
    """Return what the home used: import - export + PV + discharge - charge; None when a part is unknown."""
    signs = {"import": 1, "export": -1, "pv": 1, "discharge": 1, "charge": -1}
    parts = [(sign, energies.get(name)) for name, sign in signs.items() if ENERGY_ROLES[name][0] in roles]
    if "grid" not in roles or any(energy is None for _, energy in parts):
        return None
    return sum((sign * energy for sign, energy in parts if energy is not None), Decimal())


def day_of(unix_ms: int) -> tuple[str, int, int]:
    """Return the local date of a moment and the unix ms of that day's beginning and end."""
    local = datetime.fromtimestamp(unix_ms / 1000, JST)
    start = datetime(local.year, local.month, local.day, tzinfo=JST)
    start_ms = int(start.timestamp() * 1000)
    return start.date().isoformat(), start_ms, start_ms + DAY_MS
