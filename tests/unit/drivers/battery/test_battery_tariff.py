"""Cheap hours in Japanese time, and what is charged in them."""

from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivers.battery.alert import AlertWatch
from drivers.battery.settings import AlertSettings, BatterySettings, TariffSettings, WindowSettings
from drivers.battery.tariff import JST, Situation, cheap_span, goal_percent, pays, wish


def at(text):
    return round(datetime.fromisoformat(text).replace(tzinfo=JST).timestamp() * 1000)


def said(unix_ms):
    return datetime.fromtimestamp(unix_ms / 1000, JST).strftime("%d %H:%M")


def tariff(*windows, **more):
    return TariffSettings(cheap=[WindowSettings(*window) for window in windows], capacity_kwh=10, **more)


def battery(*windows, percent=90, **more):
    return BatterySettings("agent", max_soc_percent=percent, max_charge_w=2000, tariff=tariff(*windows, **more))


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


def test_charging_begins_as_late_as_it_can_and_ends_before_the_cheap_hours_do():
    settings = battery(("23:00", "07:00"))
    wishes = {
        hour: wish(settings, Situation(at("2026-06-03T23:00") + hour * 3_600_000, 10.0)) for hour in range(8)
    }  # 8 kWh at an easy 1.6 kW take 5 h before 06:45
    assert [wishes[hour].mode for hour in range(8)] == ["normal"] * 3 + ["charge"] * 5
    assert "later" in wishes[0].why
    assert wishes[3].power_w == round(8000 / 4.75)
    assert wishes[7].power_w == 2000
    assert wishes[3].soc_percent == 90
    assert said(wishes[3].until_ms) == "04 07:00"


@pytest.mark.parametrize(
    ("more", "situation", "mode", "why"),
    [
        ({}, {"soc_percent": 90.0}, "normal", "charged enough"),
        ({"hold": True}, {"soc_percent": 90.0}, "hold", "charged enough"),
        ({}, {"soc_percent": None}, "normal", "no fresh"),
        ({}, {"unix_ms": None}, "normal", "clock"),
        ({"cheap_price": 28, "usual_price": 30}, {}, "normal", "does not pay"),
        ({"cheap_price": 18, "usual_price": 30}, {}, "charge", "to 90 %"),
        ({"contract_w": 6000}, {}, "normal", "load is unknown"),
        ({"contract_w": 6000}, {"grid_w": 5500.0}, "charge", "to 90 %"),
        ({"contract_w": 6000}, {"grid_w": 5950.0}, "normal", "all that its contract"),
        ({"expected_load_kwh": 3.0, "expected_pv_kwh": 2.5}, {}, "normal", "charged enough"),
        ({"expected_load_kwh": 6.0}, {}, "charge", "to 70 %"),
    ],
)
def test_the_schedule_says_what_it_wants_and_why(more, situation, mode, why):
    now = {"unix_ms": at("2026-06-04T05:30"), "soc_percent": 40.0} | situation
    found = wish(battery(("23:00", "07:00"), **more), Situation(**now))
    assert (found.mode, why in found.why) == (mode, True), found


def test_the_power_leaves_the_house_what_it_takes():
    settings = battery(("23:00", "07:00"), contract_w=6000)
    now = at("2026-06-04T05:30")
    assert wish(settings, Situation(now, 10.0, grid_w=5500.0, battery_w=0.0)).power_w == 500
    assert wish(settings, Situation(now, 10.0, grid_w=5500.0, battery_w=-500.0)).power_w == 1000
    assert wish(settings, Situation(now, 10.0, grid_w=1000.0, battery_w=500.0)).power_w == 2000


def test_a_goal_follows_what_the_day_needs_within_the_limits():
    settings = battery(("23:00", "07:00"))
    assert goal_percent(settings, tariff(("23:00", "07:00"))) == 90
    assert goal_percent(settings, tariff(("23:00", "07:00"), expected_load_kwh=5.0, expected_pv_kwh=1.0)) == 50
    assert goal_percent(settings, tariff(("23:00", "07:00"), expected_load_kwh=1.0, expected_pv_kwh=9.0)) == 10
    assert pays(tariff(("23:00", "07:00"), cheap_price=10.0))


@given(st.integers(0, 4_000_000_000_000), st.floats(0, 100), st.none() | st.floats(-20_000, 20_000))
def test_no_wish_leaves_the_limits(unix_ms, soc, grid_w):
    settings = battery(("21:00", "09:00"), contract_w=5000)
    found = wish(settings, Situation(unix_ms, soc, grid_w))
    if found.mode == "charge":
        assert 100 <= found.power_w <= 2000
        assert grid_w + found.power_w <= 5000
        assert unix_ms < found.until_ms <= unix_ms + 12 * 3_600_000
    assert found.mode in {"charge", "normal"}


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
