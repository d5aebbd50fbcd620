"""Judges what reached the aggregator against what the simulators say they served. Pure: no process, no database.

A served line is what a simulated device put on the wire, a row is what the aggregator holds. A device that
stamps its own values (half hours, the sine wave) is matched to the millisecond. A polled device does not know
when the agent will stamp its answer: its row must carry the served values and a stamp within `slack_ms` after
the answer left, and no line may serve for two rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any


@dataclass(frozen=True, slots=True)
class Served:
    """One answer of a simulator: real and simulated unix ms, and its values; `exact` when the device stamped it."""

    device: str
    t: float
    at: float
    values: Mapping[str, Any]
    exact: bool = False


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the aggregator: unix ms (simulated, in a simulation) and its values that are not NULL."""

    device: str
    at: int
    values: Mapping[str, Any]


@dataclass(slots=True)
class Verdict:
    """What is wrong: served and owed but absent, or present without a line of its own."""

    lost: list[Served] = field(default_factory=list)
    invented: list[Row] = field(default_factory=list)
    matched: int = 0

    @property
    def clean(self) -> bool:
        """Whether nothing was lost, doubled or invented."""
        return not self.lost and not self.invented

    def __str__(self) -> str:
        lines = [f"{self.matched} rows match; {len(self.lost)} lost, {len(self.invented)} invented or doubled"]
        lines += [f"  lost: {line}" for line in self.lost[:5]]
        lines += [f"  invented or doubled: {row}" for row in self.invented[:5]]
        return "\n".join(lines)


def judge(
    rows: Iterable[Row], served: Iterable[Served], owed: Iterable[tuple[float, float]], slack_ms: float
) -> Verdict:
    """Match every row with one line; `owed` are the spans of real time (unix ms) whose lines must all be there."""
    verdict = Verdict()
    spans = list(owed)
    lines_of: dict[str, list[Served]] = {}
    for line in sorted(served, key=lambda line: line.at):
        lines_of.setdefault(line.device, []).append(line)
    used: set[int] = set()
    for row in sorted(rows, key=lambda row: row.at):
        line = _line_for(row, lines_of.get(row.device, []), used, slack_ms)
        if line is None:
            verdict.invented.append(row)
        else:
            used.add(id(line))
            verdict.matched += 1
    for lines in lines_of.values():
        verdict.lost += [
            line for line in lines if id(line) not in used and any(start <= line.t <= end for start, end in spans)
        ]
    return verdict


def _line_for(row: Row, lines: Sequence[Served], used: set[int], slack_ms: float) -> Served | None:
    for line in lines:
        if line.at > row.at:
            return None
        fits = line.at == row.at if line.exact else row.at - line.at <= slack_ms
        if fits and id(line) not in used and _same(row.values, line.values):
            return line
    return None


def _same(row: Mapping[str, Any], line: Mapping[str, Any]) -> bool:
    """Tell whether the row holds just what the line says: same quantities, same numbers."""
    told = {name: value for name, value in line.items() if value is not None}
    return row.keys() == told.keys() and all(_number(row[name]) == _number(told[name]) for name in row)


def _number(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float | str | Decimal):
        return value
    try:
        return Decimal(str(value))
    except ArithmeticError:
        return value
