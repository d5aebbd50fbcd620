"""The judge of the crash tests is judged itself: each kind of damage must make it fail."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import pytest
from judge import Row, Served, judge

SERVED = [
    *(
        Served("meter", 1000.0 * i, 1000.0 * i, {"grid_power_w": 500 + i, "import_energy_kwh": "12.3"})
        for i in range(20)
    ),
    *(Served("sine", 1000.0 * i, 1000.0 * i, {"sine_value": i / 10}, exact=True) for i in range(20)),
]
ROWS = [
    Row(
        line.device,
        int(line.at) + (0 if line.exact else 7),
        dict(line.values) | ({} if line.exact else {"import_energy_kwh": Decimal("12.3")}),
    )
    for line in SERVED
]
ALL = [(0.0, 1e9)]


def test_what_was_served_and_stored_once_is_clean() -> None:
    verdict = judge(ROWS, SERVED, ALL, slack_ms=100)
    assert verdict.clean, verdict
    assert verdict.matched == len(SERVED)


@pytest.mark.parametrize("at", [0, 13, 25, 39])
def test_a_deleted_row_is_a_loss(at: int) -> None:
    verdict = judge(ROWS[:at] + ROWS[at + 1 :], SERVED, ALL, slack_ms=100)
    assert [line.device for line in verdict.lost] == [ROWS[at].device]


@pytest.mark.parametrize("at", [0, 13, 25, 39])
@pytest.mark.parametrize("shift", [0, 1])
def test_a_doubled_row_is_noticed_even_when_its_stamp_differs_by_a_millisecond(at: int, shift: int) -> None:
    verdict = judge([*ROWS, replace(ROWS[at], at=ROWS[at].at + shift)], SERVED, ALL, slack_ms=100)
    assert [row.device for row in verdict.invented] == [ROWS[at].device]


@pytest.mark.parametrize("at", [20, 25, 39])
@pytest.mark.parametrize("shift", [-1, 1])
def test_a_row_shifted_by_a_millisecond_is_noticed(at: int, shift: int) -> None:
    moved = replace(ROWS[at], at=ROWS[at].at + shift)
    verdict = judge([*ROWS[:at], moved, *ROWS[at + 1 :]], SERVED, ALL, slack_ms=100)
    assert verdict.invented == [moved]
    assert len(verdict.lost) == 1


def test_a_value_with_a_new_stamp_is_invented() -> None:
    moved = replace(ROWS[3], at=ROWS[3].at + 5000)
    assert judge([*ROWS[:3], moved, *ROWS[4:]], SERVED, ALL, slack_ms=100).invented == [moved]


def test_a_changed_value_is_invented() -> None:
    changed = replace(ROWS[3], values={**ROWS[3].values, "grid_power_w": 0})
    assert judge([*ROWS[:3], changed, *ROWS[4:]], SERVED, ALL, slack_ms=100).invented == [changed]


def test_what_was_served_outside_the_owed_spans_may_be_missing() -> None:
    verdict = judge(ROWS[:10], SERVED[:20], [(0.0, 9000.0)], slack_ms=100)
    assert verdict.clean, verdict
