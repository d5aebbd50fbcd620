"""What the schedule wants: as much as is needed, as late as it can, slowly, and never above the house's contract."""

from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivers.battery.plan import REASONS, need
from drivers.battery.scheduler import HYSTERESIS_PERCENT, Now, Scheduler
from drivers.battery.settings import BatterySettings, TariffSettings, WindowSettings
from drivers.battery.tariff import JST, cheap_span

NIGHT = [WindowSettings("23:00", "07:00")]
MINUTE_MS = 60_000


def at(text):
    return round(datetime.fromisoformat(text).replace(tzinfo=JST).timestamp() * 1000)


def said(unix_ms):
    return datetime.fromtimestamp(unix_ms / 1000, JST).strftime("%d %H:%M")


def battery(percent=90, **more):
    return BatterySettings(
        "agent",
        max_soc_percent=percent,
        max_charge_w=2000,
        tariff=TariffSettings(**{"cheap": NIGHT, "capacity_kwh": 10} | more),
    )


def scheduler(settings):
    return Scheduler(settings, settings.tariff)


def decided(settings, moment, soc, held_w=None, grid_w=None, battery_w=None, **now):
    """One decision of a schedule that is new to the house."""
    schedule = scheduler(settings)
    if grid_w is not None:
        schedule.observe({"grid_power_w": grid_w, "battery_power_w": battery_w or 0.0}, 0, None)
    return schedule.decide(Now(0, None if moment is None else at(moment), soc, held_w, **now))


def test_charging_begins_as_late_as_it_can_and_evenly_fills_what_is_left():
    settings = battery()
    moments = ("03T23:00", *(f"04T0{hour}:00" for hour in range(7)))
    plans = [
        decided(settings, f"2026-06-{moment}", 10.0, held_w=1700 if hour >= 3 else None)
        for hour, moment in enumerate(moments)
    ]
    assert [plans[hour].mode for hour in range(len(moments))] == ["normal"] * 3 + ["charge"] * 5
    assert plans[0].reason == "later"
    assert said(plans[0].begins_ms) == "04 01:45"  # 8 kWh at an easy 1.6 kW take 5 h before 06:45
    assert plans[3].power_w == 1700  # 1684 W would do; so small a change is none
    assert plans[7].power_w == 2000
    assert plans[3].need.goal_percent == 90
    assert said(plans[3].until_ms) == "04 07:00"
    assert said(plans[3].next_ms) == "04 02:15"


@pytest.mark.parametrize(
    ("more", "now", "mode", "reason"),
    [
        ({}, {"soc": 90.0}, "normal", "enough"),
        ({"hold": True}, {"soc": 90.0}, "hold", "enough"),
        ({}, {"soc": None}, "normal", "no_soc"),
        ({}, {"moment": None}, "normal", "clock"),
        ({}, {"moment": "2026-06-04T12:00"}, "normal", "outside"),
        ({"cheap": [WindowSettings("00:00", "24:00")]}, {"soc": 95.0}, "normal", "enough"),
        ({"cheap_price": 28, "usual_price": 30}, {}, "normal", "does_not_pay"),
        ({"cheap_price": 28, "usual_price": 30, "reserve_percent": 80}, {}, "charge", "charge"),
        ({"cheap_price": 18, "usual_price": 30}, {}, "charge", "charge"),
        ({"contract_w": 6000}, {}, "normal", "house_unknown"),
        ({"contract_w": 6000}, {"grid_w": 5500.0}, "charge", "charge"),
        ({"contract_w": 6000}, {"grid_w": 5950.0}, "normal", "house_full"),
        ({"expected_load_kwh": 3.0, "expected_pv_kwh": 2.5}, {}, "normal", "enough"),
        ({"expected_load_kwh": 6.0}, {}, "charge", "charge"),
    ],
)
def test_the_schedule_says_what_it_wants_and_why(more, now, mode, reason):
    found = decided(battery(**more), **{"moment": "2026-06-04T05:30", "soc": 40.0} | now)
    assert (found.mode, found.reason) == (mode, reason), found
    assert found.status()["why"] == dict(zip(("ja", "en"), REASONS[reason], strict=True))


@pytest.mark.parametrize(
    ("more", "goal"),
    [
        ({}, 90),
        ({"expected_load_kwh": 5.0, "expected_pv_kwh": 1.0}, 50),
        ({"expected_load_kwh": 5.01, "expected_pv_kwh": 1.0}, 51),
        ({"expected_load_kwh": 1.0, "expected_pv_kwh": 9.0}, 10),
        ({"expected_load_kwh": 1.0, "expected_pv_kwh": 9.0, "reserve_percent": 30}, 30),
        ({"expected_load_kwh": 5.0, "expected_pv_kwh": 1.0, "reserve_percent": 30}, 50),
        ({"expected_load_kwh": 50.0, "reserve_percent": 30}, 90),
        ({"expected_load_kwh": 50.0, "reserve_percent": 30, "cheap_price": 30, "usual_price": 30}, 30),
    ],
)
def test_the_goal_is_the_reserve_or_what_the_day_needs_within_the_limits(more, goal):
    settings = battery(**more)
    moment = at("2026-06-04T01:00")
    schedule = scheduler(settings)
    found = need(settings, settings.tariff, schedule.learnt, cheap_span(settings.tariff, moment))
    assert found.goal_percent == goal
    assert said(found.until_ms) == "04 23:00"
    assert found.basis == ("configured" if "expected_load_kwh" in more else "nothing")


def lived(schedule, days, load_w, pv_w=0.0, start="2026-06-01T00:00"):
    for minute in range(0, days * 1440, 5):
        moment = at(start) + minute * MINUTE_MS
        grid_w = (load_w(moment) if callable(load_w) else load_w) - pv_w
        values = {"grid_power_w": grid_w, "pv_power_w": pv_w, "battery_power_w": 0.0}
        schedule.observe(values, minute * MINUTE_MS, moment)


def test_what_was_learnt_goes_before_what_was_configured_unless_it_is_not_to_be():
    for learn, load_kwh, basis in ((True, 9.6, "kind"), (False, 2.0, "configured")):
        settings = battery(expected_load_kwh=2.0, learn=learn)
        schedule = scheduler(settings)
        lived(schedule, 3, 600.0, 160.0)
        plan = schedule.decide(Now(3 * 86_400_000, at("2026-06-04T00:30"), 50.0))
        assert plan.need.load_kwh == pytest.approx(load_kwh)
        assert plan.need.basis == basis
        assert plan.need.days == (3 if learn else 0)
        assert plan.need.gap_ms is None
        assert plan.need.goal_percent == (81 if learn else 30)


def test_a_plan_that_still_learns_says_what_it_lacks():
    schedule = scheduler(battery(expected_load_kwh=2.0))
    lived(schedule, 1, 600.0)
    plan = schedule.decide(Now(86_400_000, at("2026-06-02T00:30"), 50.0)).status()
    assert (plan["expected_from"], plan["not_learnt_yet"]) == ("configured", "2026-06-02T07:00+09:00")


def test_charging_begins_earlier_where_the_house_is_expected_to_take_its_contract():
    def at_night(moment):
        return 5500.0 if datetime.fromtimestamp(moment / 1000, JST).hour in {4, 5} else 300.0

    begins = {}
    for contract_w in (None, 6000):
        schedule = scheduler(battery(contract_w=contract_w))
        lived(schedule, 3, at_night)
        begins[contract_w] = said(schedule.decide(Now(3 * 86_400_000, at("2026-06-04T00:00"), 26.0)).begins_ms)
    assert begins == {None: "04 04:45", 6000: "04 03:22"}


@dataclass
class Home:
    """A house with a battery that does what the schedule wants."""

    schedule: Scheduler
    unix_ms: int
    soc: float = 10.0
    house_w: float = 500.0
    boot_ms: int = 0
    held_w: int | None = None
    is_stored: bool = False

    def minute(self, seconds=60):
        battery_w = -float(self.held_w or 0)
        values = {"grid_power_w": self.house_w - battery_w, "battery_power_w": battery_w}
        self.schedule.observe(values, self.boot_ms, self.unix_ms)
        now = Now(self.boot_ms, self.unix_ms, self.soc, self.held_w, self.is_stored)
        plan = self.schedule.decide(now)
        self.held_w = plan.power_w if plan.mode == "charge" else None
        self.soc += (self.held_w or 0) * seconds / 3600 / 10_000 * 100
        self.boot_ms += seconds * 1000
        self.unix_ms += seconds * 1000
        return plan


def test_the_power_rises_in_steps_a_minute_apart():
    home = Home(scheduler(battery()), at("2026-06-04T03:00"))
    powers = [home.minute(10).power_w for _ in range(40)]
    assert powers[:6] == [500] * 6
    assert powers[6:12] == [1000] * 6
    assert powers[12:18] == [1500] * 6
    assert powers[18:] == [2000] * 22


def test_a_device_that_keeps_its_power_in_flash_is_told_seldom():
    home = Home(scheduler(battery(contract_w=4000)), at("2026-06-04T01:45"), is_stored=True)
    told = []
    while home.unix_ms < at("2026-06-04T07:00"):
        home.house_w = 500.0 + 300 * (home.boot_ms // MINUTE_MS % 7 == 0)
        told.append(home.minute().power_w)
    changes = sum(before != after for before, after in pairwise(told))
    assert told[0] >= 1600
    assert changes <= 4
    assert home.soc == pytest.approx(90, abs=1)


def test_what_is_not_needed_any_more_is_not_charged_even_into_flash():
    home = Home(scheduler(battery()), at("2026-06-04T06:35"), soc=70.0, is_stored=True)
    assert home.minute().power_w == 2000
    while home.unix_ms < at("2026-06-04T06:45"):
        home.minute()
    home.soc = 88.0
    assert home.minute().power_w == 800


def test_a_house_that_takes_more_is_given_way_at_once_and_the_power_comes_back_slowly():
    home = Home(scheduler(battery(contract_w=3000)), at("2026-06-04T03:00"))
    for _ in range(6):
        home.minute()
    assert home.held_w == 2000
    home.house_w = 1730.0
    plan = home.minute(10)
    assert (plan.power_w, plan.is_cut) == (1200, True)
    assert plan.status()["cut_by_contract"] is True
    home.house_w = 2950.0
    assert home.minute(10).reason == "house_full"
    home.house_w = 400.0
    assert [home.minute(10).reason for _ in range(6)] == ["house_full"] * 5 + ["charge"]
    assert home.held_w == 500
    for _ in range(4):
        home.minute()
    assert home.held_w == 2000


def test_when_the_meter_falls_silent_charging_ends():
    home = Home(scheduler(battery(contract_w=6000)), at("2026-06-04T03:00"))
    home.minute()
    assert home.held_w is not None
    now = Now(home.boot_ms + 120_000, home.unix_ms + 120_000, home.soc, home.held_w)
    assert home.schedule.decide(now).reason == "house_unknown"


def test_a_goal_that_was_reached_is_not_defended_to_the_last_percent():
    home = Home(scheduler(battery(hold=False)), at("2026-06-04T01:45"))
    while home.soc < 90:
        home.minute()
    assert home.minute().reason == "enough"
    home.soc = 90.1 - HYSTERESIS_PERCENT
    assert home.minute().reason == "enough"
    home.soc = 89.9 - HYSTERESIS_PERCENT
    home.unix_ms = at("2026-06-04T06:40")
    assert home.minute().mode == "charge"
    while home.unix_ms < at("2026-06-04T23:30"):
        home.minute()
    home.soc = 89.0
    home.unix_ms = at("2026-06-05T06:44")
    assert home.minute().mode == "charge", "another night begins afresh"


@given(
    st.integers(0, 4_000_000_000_000),
    st.none() | st.floats(0, 100),
    st.none() | st.integers(100, 2000),
    st.none() | st.floats(-20_000, 20_000),
    st.floats(-5_000, 5_000),
    st.booleans(),
)
def test_no_wish_leaves_the_limits(unix_ms, soc, held_w, grid_w, battery_w, is_stored):
    settings = battery(cheap=[WindowSettings("21:00", "09:00")], contract_w=5000)
    schedule = scheduler(settings)
    if grid_w is not None:
        schedule.observe({"grid_power_w": grid_w, "battery_power_w": battery_w}, 0, None)
    found = schedule.decide(Now(0, unix_ms, soc, held_w, is_stored))
    assert found.mode in {"charge", "normal"}
    if found.mode == "charge":
        assert 100 <= found.power_w <= 2000
        assert round(grid_w + battery_w) + found.power_w <= 5000
        assert unix_ms < found.until_ms <= unix_ms + 12 * 3_600_000
        assert soc < found.need.goal_percent
