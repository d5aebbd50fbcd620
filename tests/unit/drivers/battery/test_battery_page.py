"""The worked example of docs/battery.md is what the schedule does."""

import re
from datetime import datetime
from pathlib import Path

import yaml

from drivers.battery.scheduler import Now, Scheduler
from drivers.battery.settings import BatterySettings
from drivers.battery.tariff import JST, pays
from drivers.settings import convert

PAGE = (Path(__file__).resolve().parents[4] / "docs" / "battery.md").read_text(encoding="utf-8")
MONDAY_MS = round(datetime(2026, 6, 1, tzinfo=JST).timestamp() * 1000)
THURSDAY_MS = MONDAY_MS + 3 * 86_400_000


def table():
    """Return the `battery` table of the section on cheap hours."""
    (block,) = re.findall(r"## Cheap hours\n\n```yaml\n(.*?)```", PAGE, re.DOTALL)
    settings = convert(yaml.safe_load(block)["battery"], BatterySettings)
    settings.check()
    return settings


def result(step):
    """Return what the page says in the row that begins with some words."""
    (found,) = re.findall(rf"^\| {re.escape(step)}.*\| (.*) \|$", PAGE, re.MULTILINE)
    return found


def at(schedule, unix_ms, soc_percent, held_w=None, house_w=300):
    boot_ms = unix_ms - MONDAY_MS
    schedule.overhear("grid", {"grid_power_w": house_w + (held_w or 0)}, boot_ms, unix_ms)
    schedule.observe({"battery_power_w": -(held_w or 0), "pv_power_w": 0}, boot_ms, unix_ms)
    return schedule.decide(Now(boot_ms, unix_ms, soc_percent, held_w))


def clock(unix_ms):
    return datetime.fromtimestamp(unix_ms / 1000, JST).strftime("%H:%M")


def test_the_night_on_the_page_is_what_the_schedule_makes_of_its_table():
    settings = table()
    schedule = Scheduler(settings, settings.tariff)
    for unix_ms in range(MONDAY_MS, THURSDAY_MS, 300_000):
        hour = datetime.fromtimestamp(unix_ms / 1000, JST).hour
        load_w = 500 if 7 <= hour < 17 else 900 if 17 <= hour < 23 else 300
        schedule.learnt.note(unix_ms, load_w, 400 if 9 <= hour < 15 else 0)
    schedule.learnt.note(THURSDAY_MS, 300, 0)
    assert pays(settings.tariff)
    assert result("prices") == "it pays"
    night_ms = THURSDAY_MS - 3_600_000
    plan = at(schedule, night_ms, 40.0)
    shown = plan.status()
    assert (
        result(f"load from 07:00 to 23:00, from {shown['learnt_days']} days of") == f"{shown['expected_load_kwh']} kWh"
    )
    assert shown["expected_from"] == "kind"
    assert result("PV") == f"{shown['expected_pv_kwh']} kWh"
    assert result("goal: 10 % + 8.0 of 9.8 kWh") == f"{shown['goal_percent']} %"
    assert result("missing") == f"{shown['missing_kwh']:.1f} kWh"
    assert result("begins: 5.1 kWh at 1600 W before 06:45") == clock(plan.begins_ms)
    assert plan.reason == "later"
    minute_ms, held_w, powers = -(-plan.begins_ms // 60_000) * 60_000, None, []
    for minute in range(3):
        held_w = at(schedule, minute_ms + minute * 60_000, 40.0, held_w).power_w
        powers.append(held_w)
    begins = [clock(minute_ms + minute * 60_000) for minute in range(3)]
    assert result(f"power at {', '.join(begins)}") == f"{', '.join(map(str, powers))} W"
    cut = at(schedule, THURSDAY_MS + 5 * 3_600_000, 60.0, 1500, house_w=2600)
    assert cut.is_cut
    assert result("at 05:00 the house takes 2600 W of its 4000 W") == f"{cut.power_w} W"
