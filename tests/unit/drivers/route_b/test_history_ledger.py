"""The ledger of half hours: bounded, total on any memory, exact about days, causes and a former meter."""

import json
from datetime import date, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivers.api import MEMORY_LIMIT_BYTES
from drivers.route_b import meter
from drivers.route_b.history import KEPT_DAYS, REGISTERS, SLOTS, Ledger, implausible, moment_of, slot_of, wanted_days
from drivers.route_b.meter import JST, Scaling

DAY = date(2026, 6, 1)
NEXT = datetime(2026, 6, 2, 12, tzinfo=JST)
IMPORT, EXPORT = REGISTERS


def test_a_day_has_forty_eight_half_hours_from_japanese_midnight():
    moments = [moment_of(DAY, slot) for slot in range(SLOTS)]
    assert moments[0].isoformat() == "2026-06-01T00:00:00+09:00"
    assert moments[-1].isoformat() == "2026-06-01T23:30:00+09:00"
    assert [slot_of(at) for at in moments] == [(DAY, slot) for slot in range(SLOTS)]


def test_what_was_passed_on_is_not_due_and_survives_in_the_memory():
    ledger = Ledger()
    for slot in range(SLOTS):
        ledger.note(REGISTERS if slot != 7 else [IMPORT], moment_of(DAY, slot), repaired=slot < 3)
    again = Ledger(json.loads(json.dumps(ledger.as_json())))
    for one in (ledger, again):
        assert one.missing(DAY, NEXT, REGISTERS) == [7]
        assert one.missing(DAY, NEXT, [IMPORT]) == []
        assert one.lacks(EXPORT, moment_of(DAY, 7))
        assert not one.lacks(IMPORT, moment_of(DAY, 7))
        assert one.due(NEXT, REGISTERS) == [date(2026, 6, 2), DAY]
        tally = one.tally(DAY, NEXT, REGISTERS)
        assert (tally.have, tally.repaired, tally.missing) == (47, 3, {"not_read": ["03:30"]})


def test_a_half_hour_that_may_still_be_notified_is_not_missing():
    ledger = Ledger()
    assert ledger.missing(DAY, moment_of(DAY, 1) + timedelta(minutes=9), [IMPORT]) == [0]
    assert ledger.missing(DAY, moment_of(DAY, 1) + timedelta(minutes=10), [IMPORT]) == [0, 1]


def test_what_the_meter_does_not_have_is_told_so_and_not_asked_for_again():
    ledger = Ledger()
    for slot in range(SLOTS):
        ledger.note_absent(moment_of(DAY, slot))
    assert ledger.missing(DAY, NEXT, [IMPORT]) == []
    data = ledger.tally(DAY, NEXT, [IMPORT]).as_data(DAY)
    assert (data["date"], data["have"], data["repairable_until"]) == ("2026-06-01", 0, "2026-09-08")
    assert len(data["missing"]["no_data"]) == 48


def test_nothing_of_a_former_meters_time_is_taken_from_the_new_one():
    ledger = Ledger()
    ledger.note([IMPORT], moment_of(DAY, 20))
    ledger.start_anew(None)
    again = Ledger(ledger.as_json())
    assert again.since == moment_of(DAY, 20)
    assert not again.lacks(IMPORT, moment_of(DAY, 19))
    assert again.missing(DAY, moment_of(DAY, 22), [IMPORT]) == [21]


def test_the_ledger_of_years_fits_a_drivers_memory():
    ledger = Ledger()
    for number in range(1000):
        for slot in range(SLOTS):
            ledger.note(REGISTERS, moment_of(DAY + timedelta(days=number), slot), repaired=True)
    kept = ledger.as_json()
    assert len(kept["days"]) == KEPT_DAYS
    assert len(json.dumps(kept)) < MEMORY_LIMIT_BYTES / 6


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=12), inner, max_size=5),
    max_leaves=12,
)


@given(
    ANYTHING
    | st.fixed_dictionaries(
        {
            "since": ANYTHING,
            "days": st.dictionaries(
                st.just("2026-06-01") | st.text(), ANYTHING | st.lists(st.text(), min_size=4, max_size=4)
            ),
        }
    )
)
def test_any_memory_makes_a_ledger(kept):
    ledger = Ledger(kept)
    ledger.due(NEXT, REGISTERS)
    assert Ledger(ledger.as_json()).as_json() == ledger.as_json()


@pytest.mark.parametrize(
    ("counts", "possible"),
    [
        ([100, 101, None, 105, 105], True),
        ([999_990, 5, 6], True),  # the register rolls over
        ([100, 99], False),
        ([100, 100 + 301], False),  # 30.1 kWh in half an hour
        ([100, None, 100 + 600], True),
        ([100, 50_000, 102], False),
        ([None] * 48, True),
    ],
)
def test_a_register_never_runs_back_or_leaps(counts, possible):
    assert (implausible(counts, Scaling(Decimal("0.1"), 1, 6)) is None) is possible


def test_without_its_digits_a_register_that_runs_back_is_doubted():
    assert implausible([5, 4], Scaling(Decimal(1)))
    assert implausible([5, 6], Scaling(Decimal(1))) is None


def test_a_command_names_days_by_date_or_by_how_long_ago():
    assert wanted_days(["2026-05-30", 1, 0, 1], DAY) == [date(2026, 5, 30), date(2026, 5, 31), DAY]


@pytest.mark.parametrize("days", [None, [], "x", {}, ["x"], [100], [-1], [True], [1.5], [None], [0] * 101, [[1]]])
def test_days_that_make_no_sense_are_refused(days):
    with pytest.raises(ValueError, match=r"day|date|isoformat"):
        wanted_days(days, DAY)


def test_days_ago_need_the_meters_date():
    with pytest.raises(ValueError, match="name dates"):
        wanted_days([0], None)


def test_pairs_read_back_as_they_were_asked():
    newest = moment_of(DAY, 25)
    asked = meter.pairs_from(newest, 2)
    assert asked.hex().upper() == "07EA06010C1E02"
    assert meter.history_pairs(asked + bytes.fromhex("00000002000000010000000100000000")) == (newest, ((2, 1), (1, 0)))
