"""Cheap hours, and whether they pay. Pure: time is an argument."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, timedelta, timezone

from drivers.battery.settings import TariffSettings, WindowSettings, minutes_of

JST = timezone(timedelta(hours=9))
MINUTE_MS = 60_000
QUARTER_MS = 15 * MINUTE_MS
_DAYS_BACK, _DAYS_AHEAD = 2, 10
"""A window of holidays comes once a week at least; one that began the day before yesterday may still be open."""


@dataclass(frozen=True, slots=True)
class Span:
    """Cheap hours that follow each other without a gap, in unix ms."""

    start_ms: int
    end_ms: int


def cheap_span(tariff: TariffSettings, unix_ms: int) -> Span | None:
    """Return the cheap hours that hold a moment, None outside them; windows that touch are one."""
    return next((span for span in spans(tariff, unix_ms) if span.start_ms <= unix_ms < span.end_ms), None)


def next_span(tariff: TariffSettings, unix_ms: int) -> Span | None:
    """Return the first cheap hours that begin after a moment; None where all hours of the next days are cheap."""
    return next((span for span in spans(tariff, unix_ms) if span.start_ms > unix_ms), None)


def spans(tariff: TariffSettings, unix_ms: int) -> list[Span]:
    """Return the cheap hours of the days around a moment, those that touch as one, in order."""
    today = datetime.fromtimestamp(unix_ms / 1000, JST).date()
    found: list[Span] = []
    for start_ms, end_ms in sorted(
        (span.start_ms, span.end_ms)
        for day in range(-_DAYS_BACK, _DAYS_AHEAD)
        for window in tariff.cheap
        if (span := _span(tariff, window, today + timedelta(days=day))) is not None
    ):
        if found and start_ms <= found[-1].end_ms:
            found[-1] = Span(found[-1].start_ms, max(found[-1].end_ms, end_ms))
        else:
            found.append(Span(start_ms, end_ms))
    return found


def is_holiday(tariff: TariffSettings, day: date) -> bool:
    """Tell whether the tariff counts a day as a holiday."""
    return day.weekday() >= 5 or day.isoformat() in tariff.holidays


def pays(tariff: TariffSettings) -> bool:
    """Tell whether what is lost on the way costs less than the difference of the prices."""
    if tariff.cheap_price is None or tariff.usual_price is None:
        return True
    return tariff.cheap_price < tariff.usual_price * tariff.efficiency


def _span(tariff: TariffSettings, window: WindowSettings, day: date) -> Span | None:
    """Return the window that begins on a day, None where it does not stand on that day."""
    if window.days != "all" and (window.days == "holidays") != is_holiday(tariff, day):
        return None
    begin, end = minutes_of(window.begin), minutes_of(window.to)
    midnight_ms = round(datetime(day.year, day.month, day.day, tzinfo=JST).timestamp() * 1000)
    length = end - begin if end > begin else end - begin + 1440
    return Span(midnight_ms + begin * MINUTE_MS, midnight_ms + (begin + length) * MINUTE_MS)
