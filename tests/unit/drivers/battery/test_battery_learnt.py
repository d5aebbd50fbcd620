"""What a house needs is learnt from what was read: bounded, never invented, in Japanese time."""

import json
from datetime import datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drivers.api import MEMORY_LIMIT_BYTES
from drivers.battery.learnt import HALF_HOUR_MS, OLDEST_DAYS, WEEKDAYS, WEEKS, Learnt
from drivers.battery.tariff import JST

DAY_MS = 86_400_000
MONDAY_MS = round(datetime(2026, 6, 1, tzinfo=JST).timestamp() * 1000)


def is_holiday(day):
    return (day + 3) % 7 >= 5


def lived(learnt, begin_ms, end_ms, load_w=500, pv_w=0, every_s=150):
    """Let a house live; `load_w` may depend on the moment."""
    for unix_ms in range(begin_ms, end_ms, every_s * 1000):
        learnt.note(unix_ms, load_w(unix_ms) if callable(load_w) else load_w, pv_w)
    learnt.note(end_ms, -9999, 0)  # no reading: only the half hour before is over


def days_of(count, load_w=500, pv_w=0):
    learnt = Learnt()
    for day in range(count):
        begin = MONDAY_MS + day * DAY_MS
        lived(learnt, begin, begin + DAY_MS, load_w[day] if isinstance(load_w, list) else load_w, pv_w, every_s=290)
    return learnt


def expected(learnt, day, begin_h=0.0, end_h=24.0):
    start = MONDAY_MS + day * DAY_MS
    return learnt.expect(start + round(begin_h * 3_600_000), start + round(end_h * 3_600_000), is_holiday)


def test_a_steady_house_is_expected_to_stay_as_it_is():
    found = expected(days_of(7, 500, 200), 7)
    assert found.load_kwh == pytest.approx(12.0)
    assert found.pv_kwh == pytest.approx(4.8)


@pytest.mark.parametrize(
    ("days", "day", "basis", "count", "load_w"),
    [
        (1, 1, None, 0, None),
        (2, 2, "days", 2, 150),  # Monday and Tuesday
        (4, 4, "kind", 4, 250),  # Monday to Thursday for a Friday
        (6, 6, "days", 6, 350),  # a Saturday alone is not enough for a Sunday
        (14, 14, "kind", 7, 343),  # two Mondays are not enough: seven days from Monday to Friday
        (22, 28, "weekday", 4, 100),  # Mondays
    ],
)
def test_same_weekdays_count_where_there_are_enough_then_the_kind_of_day_then_any(days, day, basis, count, load_w):
    learnt = days_of(days, [100 * (1 + one % 7) for one in range(days)])
    found = expected(learnt, day)
    if basis is None:
        assert found is None
        return
    assert (found.basis, found.days) == (basis, count)
    assert found.load_kwh == pytest.approx(load_w * 24 / 1000, abs=0.25)


def test_a_holiday_in_the_week_counts_as_a_sunday():
    learnt = days_of(21, [100, 100, 100, 100, 100, 300, 700] * 3)
    tuesday = MONDAY_MS + 22 * DAY_MS
    number = (tuesday + 9 * 3_600_000) // DAY_MS
    found = learnt.expect(tuesday, tuesday + DAY_MS, lambda day: is_holiday(day) or day == number)
    assert found.load_kwh == pytest.approx(700 * 24 / 1000, abs=0.25)


def test_the_sun_knows_no_weekday_and_no_season_long_past():
    learnt = Learnt()
    for day in range(21):
        begin = MONDAY_MS + day * DAY_MS
        lived(learnt, begin, begin + DAY_MS, 500, 1000 if day < 14 else 100, every_s=290)
    assert expected(learnt, 21).pv_kwh == pytest.approx(2.4)
    assert expected(learnt, 19 + OLDEST_DAYS) is not None
    assert expected(learnt, 20 + OLDEST_DAYS) is None


def test_a_part_of_a_half_hour_counts_as_its_share():
    learnt = days_of(3, lambda unix_ms: 1000 if (unix_ms - MONDAY_MS) % DAY_MS < 12 * 3_600_000 else 400)
    assert expected(learnt, 3, 11.75, 12.25).load_kwh == pytest.approx(0.25 + 0.1)
    assert expected(learnt, 3, 11.9, 12.0).load_kwh == pytest.approx(0.1)
    assert expected(learnt, 3, 8.0, 8.0).load_kwh == 0


@pytest.mark.parametrize("missed_min", [0, 5, 10])
def test_a_half_hour_with_too_few_readings_is_a_gap_and_no_zero(missed_min):
    learnt = Learnt()
    for day in range(3):
        begin = MONDAY_MS + day * DAY_MS
        lived(learnt, begin + missed_min * 60_000, begin + HALF_HOUR_MS, 600)
    found = expected(learnt, 3, 0, 0.5)
    if missed_min == 10:
        assert found is None
    else:
        assert found.load_kwh == pytest.approx(0.3)


def test_a_gap_that_is_needed_makes_the_whole_expectation_none():
    learnt = Learnt()
    for day in range(5):
        begin = MONDAY_MS + day * DAY_MS
        lived(learnt, begin, begin + 20 * 3_600_000, 500, every_s=290)
    assert expected(learnt, 5, 7, 20) is not None
    assert expected(learnt, 5, 7, 20.5) is None
    start = MONDAY_MS + 5 * DAY_MS
    assert learnt.first_gap(start + 7 * 3_600_000, start + 23 * 3_600_000, is_holiday) == start + 20 * 3_600_000
    assert learnt.first_gap(start + 7 * 3_600_000, start + 20 * 3_600_000, is_holiday) is None


def test_readings_bunched_in_a_few_minutes_weigh_no_more_than_the_others():
    learnt = Learnt()
    for day in range(2):
        begin = MONDAY_MS + day * DAY_MS
        for second in range(300):
            learnt.note(begin + second * 1000, 6000, 0)
        lived(learnt, begin + 300_000, begin + HALF_HOUR_MS, 0, every_s=300)
    assert expected(learnt, 2, 0, 0.5).load_kwh == pytest.approx(0.5)


def test_what_cannot_be_a_load_is_left_out_and_standby_counts_as_nothing():
    learnt = Learnt()
    for day in range(2):
        begin = MONDAY_MS + day * DAY_MS
        for second in range(0, 1800, 60):
            learnt.note(begin + second * 1000, 500, -20)
            learnt.note(begin + second * 1000, -5000, 0)
            learnt.note(begin + second * 1000, float("nan"), 0)
        learnt.note(begin + HALF_HOUR_MS, 0, 0)
    found = expected(learnt, 2, 0, 0.5)
    assert (found.load_kwh, found.pv_kwh) == (pytest.approx(0.25), 0)


def test_without_a_set_clock_nothing_is_learnt():
    learnt = Learnt()
    for _ in range(10_000):
        learnt.note(None, 500, 0)
    assert learnt.days == 0


def test_a_clock_that_was_wrong_for_a_while_costs_little():
    learnt = days_of(21)
    lived(learnt, MONDAY_MS + 4000 * DAY_MS, MONDAY_MS + 4001 * DAY_MS, 9000, every_s=290)
    lived(learnt, MONDAY_MS + 21 * DAY_MS, MONDAY_MS + 22 * DAY_MS, 500, every_s=290)
    found = expected(learnt, 22)
    assert (found.basis, found.load_kwh) == ("weekday", pytest.approx(12.0))
    assert learnt.days <= 22


def saved(learnt, content=None):
    content = {} if content is None else content
    return content | learnt.take_changes()


def recalled(content):
    learnt = Learnt()
    assert all(learnt.recall(weekday, json.loads(json.dumps(one))) for weekday, one in content.items())
    return learnt


def test_what_was_learnt_survives_a_restart_and_stays_small():
    content, learnt = {}, Learnt()
    for day in range(100):
        begin = MONDAY_MS + day * DAY_MS
        lived(learnt, begin, begin + DAY_MS, 100 * (1 + day % 7), 5000, every_s=290)
        content = saved(learnt, content)
    assert learnt.days == WEEKDAYS * WEEKS
    assert len(json.dumps(content)) < 12_000 < MEMORY_LIMIT_BYTES
    again = recalled(content)
    assert again.days == learnt.days
    for day in range(100, 107):
        assert expected(again, day) == expected(learnt, day)
    assert again.take_changes() == {}


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 70 * 48), st.integers(-200, 60_000), st.integers(-200, 60_000)), max_size=30))
def test_any_half_hours_survive_a_restart_and_never_come_back_as_something_else(half_hours):
    learnt = Learnt()
    for number, load_w, pv_w in half_hours:
        begin = MONDAY_MS + number * HALF_HOUR_MS
        lived(learnt, begin, begin + HALF_HOUR_MS, load_w, pv_w, every_s=300)
    again = recalled(saved(learnt))
    assert again._days == learnt._days
    assert learnt.days <= WEEKDAYS * WEEKS
    for number, *_ in half_hours:
        start = MONDAY_MS + number * HALF_HOUR_MS
        found = again.expect(start, start + HALF_HOUR_MS, is_holiday)
        loads = [max(load_w, 0) / 2000 for _, load_w, _ in half_hours]
        assert found is None or min(loads) - 0.01 <= found.load_kwh <= max(loads) + 0.01


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=9),
)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 6), JSON)
def test_whatever_was_remembered_is_taken_or_refused_whole(weekday, remembered):
    learnt = Learnt()
    is_taken = learnt.recall(weekday, remembered)
    assert is_taken == (remembered is None or remembered == {})
    assert learnt.days == 0


@pytest.mark.parametrize("place", [0, 100, 191])
@pytest.mark.parametrize("wrong", ["", "!", "é", "..", "\0"])
def test_a_damaged_text_is_refused(place, wrong):
    content = saved(days_of(1))
    ((weekday, days),) = content.items()
    ((day, text),) = days.items()
    assert len(text) == 192
    assert not Learnt().recall(weekday, {day: text[:place] + wrong + text[place + 1 :]})
    assert not Learnt().recall((weekday + 1) % 7, days)
    assert not Learnt().recall(weekday, {"-" + day: text})
    assert not Learnt().recall(weekday, {str(int(day) + 7 * one): text for one in range(8)})
    assert Learnt().recall(weekday, days)
