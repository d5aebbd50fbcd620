"""Cheap hours and what to charge in them. Pure: time is an argument; without a set clock nothing is wished for."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, timedelta, timezone
from typing import Literal

from drivers.battery.settings import BatterySettings, TariffSettings, WindowSettings, minutes_of

JST = timezone(timedelta(hours=9))
MINUTE_MS = 60_000
QUARTER_MS = 15 * MINUTE_MS
EASY_SHARE = 0.8
"""Charging begins early enough for this share of the greatest power; the rest is for a house that takes more."""
LEAST_CHARGE_WH = 100
"""Less is not worth a command."""


@dataclass(frozen=True, slots=True)
class Span:
    """Cheap hours that follow each other without a gap, in unix ms."""

    start_ms: int
    end_ms: int


@dataclass(frozen=True, slots=True)
class Situation:
    """What the decision needs to know now; None = unknown. Grid + is import, battery + is discharge."""

    unix_ms: int | None
    soc_percent: float | None
    grid_w: float | None = None
    battery_w: float | None = None


@dataclass(frozen=True, slots=True)
class Wish:
    """What the schedule wants until `until_ms` (unix ms), and why in a few words."""

    mode: Literal["charge", "hold", "normal"]
    why: str
    until_ms: int = 0
    power_w: int | None = None
    soc_percent: int | None = None


def cheap_span(tariff: TariffSettings, unix_ms: int) -> Span | None:
    """Return the cheap hours that hold a moment, None outside them; windows that touch are one."""
    now = datetime.fromtimestamp(unix_ms / 1000, JST)
    spans = sorted(
        (span.start_ms, span.end_ms)
        for day in range(-2, 3)
        for window in tariff.cheap
        if (span := _span(tariff, window, now.date() + timedelta(days=day))) is not None
    )
    found: Span | None = None
    for start_ms, end_ms in spans:
        if found is not None and start_ms <= found.end_ms:
            found = Span(found.start_ms, max(found.end_ms, end_ms))
        elif found is not None and found.start_ms <= unix_ms < found.end_ms:
            break
        else:
            found = Span(start_ms, end_ms)
    return found if found is not None and found.start_ms <= unix_ms < found.end_ms else None


def _span(tariff: TariffSettings, window: WindowSettings, day: date) -> Span | None:
    """Return the window that begins on a day, None where it does not stand on that day."""
    if window.days != "all" and (window.days == "holidays") != _is_holiday(tariff, day):
        return None
    begin, end = minutes_of(window.begin), minutes_of(window.to)
    midnight_ms = round(datetime(day.year, day.month, day.day, tzinfo=JST).timestamp() * 1000)
    length = end - begin if end > begin else end - begin + 1440
    return Span(midnight_ms + begin * MINUTE_MS, midnight_ms + (begin + length) * MINUTE_MS)


def _is_holiday(tariff: TariffSettings, day: date) -> bool:
    return day.weekday() >= 5 or day.isoformat() in tariff.holidays


def goal_percent(settings: BatterySettings, tariff: TariffSettings) -> int:
    """Return the state of charge the cheap hours should end with."""
    if tariff.expected_load_kwh is None:
        return settings.max_soc_percent
    need_kwh = max(tariff.expected_load_kwh - tariff.expected_pv_kwh, 0.0)
    percent = settings.min_soc_percent + round(100 * need_kwh / tariff.capacity_kwh)
    return min(percent, settings.max_soc_percent)


def pays(tariff: TariffSettings) -> bool:
    """Tell whether what is lost on the way costs less than the difference of the prices."""
    if tariff.cheap_price is None or tariff.usual_price is None:
        return True
    return tariff.cheap_price < tariff.usual_price * tariff.efficiency


def wish(settings: BatterySettings, now: Situation) -> Wish:
    """Return what the schedule wants now."""
    tariff = settings.tariff
    if tariff is None:
        return Wish("normal", "no tariff is configured")
    if now.unix_ms is None:
        return Wish("normal", "the clock is not set")
    if not pays(tariff):
        return Wish("normal", "the difference of the prices does not pay")
    span = cheap_span(tariff, now.unix_ms)
    if span is None:
        return Wish("normal", "not in the cheap hours")
    if now.soc_percent is None:
        return Wish("normal", "no fresh state of charge")
    return _in_cheap_hours(settings, tariff, now, now.unix_ms, now.soc_percent, span)


def _in_cheap_hours(
    settings: BatterySettings, tariff: TariffSettings, now: Situation, unix_ms: int, soc: float, span: Span
) -> Wish:
    """Charge as late as an easy power allows, evenly until shortly before the end, within the house's contract."""
    rest = Wish("hold" if tariff.hold else "normal", "charged enough for the next day", span.end_ms)
    goal = goal_percent(settings, tariff)
    missing_wh = (goal - soc) / 100 * tariff.capacity_kwh * 1000
    if missing_wh < LEAST_CHARGE_WH:
        return rest
    done_ms = max(span.end_ms - tariff.margin_min * MINUTE_MS, span.start_ms)
    needed_ms = missing_wh / (settings.max_charge_w * EASY_SHARE) * 3_600_000
    if unix_ms < done_ms - needed_ms:
        return Wish(rest.mode, "charging begins later in the cheap hours", span.end_ms)
    left_ms = max(done_ms - unix_ms, QUARTER_MS)
    power_w = min(settings.max_charge_w, round(missing_wh * 3_600_000 / left_ms))
    if tariff.contract_w is not None:
        if now.grid_w is None:
            return Wish(rest.mode, "the house's load is unknown, so its contract cannot be kept", span.end_ms)
        others_w = now.grid_w + min(now.battery_w or 0.0, 0.0)
        power_w = min(power_w, int(tariff.contract_w - others_w))
    if power_w < LEAST_CHARGE_WH:
        return Wish(rest.mode, "the house takes all that its contract allows", span.end_ms)
    return Wish("charge", f"to {goal} % before the cheap hours end", span.end_ms, power_w, goal)
