"""Cheap hours in Japanese time, and the town's alert."""

from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivers.battery.alert import AlertWatch
from drivers.battery.settings import AlertSettings, TariffSettings, WindowSettings
from drivers.battery.tariff import JST, cheap_span, next_span, pays


def at(text):
    return round(datetime.fromisoformat(text).replace(tzinfo=JST).timestamp() * 1000)


def said(unix_ms):
    return datetime.fromtimestamp(unix_ms / 1000, JST).strftime("%d %H:%M")


def tariff(*windows, **more):
    return TariffSettings(cheap=[WindowSettings(*window) for window in windows], capacity_kwh=10, **more)


@pytest.mark.parametrize(
    ("windows", "moment", "span"),
    [
        ([("23:00", "07:00")], "2026-06-03T22:59", None),
        ([("23:00", "07:00")], "2026-06-03T23:00", "03 23:00-04 07:00"),
        ([("23:00", "07:00")], "2026-06-04T06:59", "03 23:00-04 07:00"),
        ([("23:00", "07:00")], "2026-06-04T07:00", None),
        ([("01:00", "05:00")], "2026-06-04T03:00", "04 01:00-04 05:00"),
        ([("23:00", "24:00"), ("00:00", "07:00")], "2026-06-04T02:00", "03 23:00-04 07:00"),
        ([("07:00", "23:00", "holidays")], "2026-06-05T12:00", None),
        ([("07:00", "23:00", "holidays")], "2026-06-06T12:00", "06 07:00-06 23:00"),
        ([("07:00", "23:00", "workdays")], "2026-06-06T12:00", None),
        ([("23:00", "07:00", "workdays")], "2026-06-06T02:00", "05 23:00-06 07:00"),  # Friday's night
        ([("23:00", "07:00", "workdays")], "2026-06-07T23:30", None),  # Sunday
    ],
)
def test_cheap_hours_follow_the_japanese_day_on_which_they_begin(windows, moment, span):
    found = cheap_span(tariff(*windows), at(moment))
    assert (found and f"{said(found.start_ms)}-{said(found.end_ms)}") == span


def test_a_public_holiday_is_one_because_the_table_says_so():
    table = tariff(("07:00", "23:00", "holidays"), holidays=["2026-11-23"])
    assert cheap_span(table, at("2026-11-23T12:00")) is not None
    assert cheap_span(table, at("2026-11-24T12:00")) is None
    assert said(next_span(table, at("2026-11-23T12:00")).start_ms) == "28 07:00"


def test_the_next_cheap_hours_may_be_days_away_or_never_end():
    assert said(next_span(tariff(("23:00", "07:00")), at("2026-06-03T23:00")).start_ms) == "04 23:00"
    assert said(next_span(tariff(("08:00", "20:00", "holidays")), at("2026-06-07T21:00")).start_ms) == "13 08:00"
    assert next_span(tariff(("00:00", "24:00")), at("2026-06-03T12:00")) is None


@pytest.mark.parametrize(("cheap", "usual", "pays_off"), [(None, 30, True), (18, 30, True), (28, 30, False)])
def test_a_difference_pays_when_it_is_more_than_what_is_lost_on_the_way(cheap, usual, pays_off):
    assert pays(tariff(("23:00", "07:00"), cheap_price=cheap, usual_price=usual)) is pays_off


@given(st.integers(0, 1439), st.integers(1, 1440), st.integers(0, 4_000_000_000_000))
def test_a_moment_in_cheap_hours_lies_in_their_span_and_the_span_has_their_length(begin, length, unix_ms):
    end = (begin + length) % 1440
    window = (f"{begin // 60:02}:{begin % 60:02}", f"{end // 60:02}:{end % 60:02}")
    span = cheap_span(tariff(window), unix_ms)
    minute = datetime.fromtimestamp(unix_ms / 1000, JST)
    inside = (minute.hour * 60 + minute.minute - begin) % 1440 < length
    assert (span is not None) == inside
    if span is not None:
        assert span.start_ms <= unix_ms < span.end_ms
        assert length == 1440 or span.end_ms - span.start_ms == length * 60_000


@given(st.binary(max_size=200))
def test_an_alert_of_any_bytes_raises_no_error_and_no_reserve(payload):
    watch = AlertWatch(AlertSettings())
    watch.hear(payload)
    assert not watch.is_raised(1)


@pytest.mark.parametrize(
    ("alert", "raised"),
    [
        ('{"level": 3, "checked_at": "2026-06-04T00:00:00+09:00"}', True),
        ('{"level": 2, "checked_at": "2026-06-04T00:00:00+09:00"}', False),
        ('{"level": 5, "checked_at": "2026-06-03T22:00:00+09:00"}', False),
        ('{"level": 5, "checked_at": "2026-06-04T00:00:00"}', False),
        ('{"level": 5, "checked_at": "2026-06-04T00:00:00+09:00", "valid_until": "2026-06-04T00:05:00+09:00"}', False),
        ('{"level": 5, "checked_at": "2026-06-04T00:00:00+09:00", "valid_until": "2026-06-04T06:00:00+09:00"}', True),
    ],
)
def test_an_alert_asks_for_a_reserve_while_it_is_high_enough_valid_and_fresh(alert, raised):
    watch = AlertWatch(AlertSettings(level=3))
    watch.hear(alert.encode())
    now = at("2026-06-04T00:10")
    assert watch.is_raised(now) is raised
    assert not watch.is_raised(None)
    assert not watch.is_raised(now + round(timedelta(days=1).total_seconds() * 1000))
