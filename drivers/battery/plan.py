"""What a battery needs when cheap hours end, when charging has to begin for it, and words for the answer.

Pure: time is an argument; without a set clock there is no plan to make.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from functools import partial
from math import ceil
from typing import Literal, TypeAlias

from drivers.api import Json
from drivers.battery.house import Source
from drivers.battery.learnt import DAY_MS, HALF_HOUR_MS, Basis, Learnt, date_of
from drivers.battery.settings import BatterySettings, TariffSettings
from drivers.battery.tariff import JST, MINUTE_MS, Span, is_holiday, next_span, pays

EASY_SHARE = 0.8
"""Charging begins early enough for this share of the greatest power; the rest is for a house that takes more."""
LEAST_EASY_SHARE = 0.1
"""It is never planned with less, however much the house is expected to take."""

Reason: TypeAlias = Literal[
    "undecided",
    "clock",
    "outside",
    "no_soc",
    "does_not_pay",
    "enough",
    "later",
    "house_unknown",
    "house_full",
    "charge",
    "alert",
]

REASONS: dict[Reason, tuple[str, str]] = {
    "undecided": ("まだ決めていない", "not decided yet"),
    "clock": ("時計が合っていない", "the clock is not set"),
    "outside": ("安い時間帯ではない", "not in the cheap hours"),
    "no_soc": ("蓄電池残量の新しい値がない", "no fresh state of charge"),
    "does_not_pay": ("料金の差が充放電の損失に見合わない", "the difference of the prices does not pay"),
    "enough": ("次の日に足りる", "charged enough for the next day"),
    "later": ("安い時間帯の終わりに合わせて後で充電する", "charging begins later in the cheap hours"),
    "house_unknown": (
        "家の消費電力が分からず、契約を守れない",
        "the house's load is unknown, so its contract cannot be kept",
    ),
    "house_full": ("家の消費電力で契約の上限に達する", "the house takes all that its contract allows"),
    "charge": ("安い時間帯の終わりまでに充電する", "charging before the cheap hours end"),
    "alert": ("警報に備えて充電する", "charging because of the town's alert"),
}

NeedBasis: TypeAlias = Literal[Basis, "configured", "nothing"]


@dataclass(frozen=True, slots=True)
class Need:
    """What the battery is to hold when cheap hours end, and what that rests on; without a load it is filled."""

    goal_percent: int
    until_ms: int
    """When the next cheap hours begin."""
    basis: NeedBasis
    days: int = 0
    load_kwh: float | None = None
    pv_kwh: float | None = None
    gap_ms: int | None = None
    """The first half hour that is not learnt yet (unix ms), where one keeps what was learnt from counting."""

    def missing_kwh(self, tariff: TariffSettings, soc_percent: float) -> float:
        """Return what is to be charged at a state of charge; negative when there is more than needed."""
        return (self.goal_percent - soc_percent) / 100 * tariff.capacity_kwh


@dataclass(frozen=True, slots=True)
class Plan:
    """What the schedule wants until `until_ms` (unix ms), and why."""

    mode: Literal["charge", "hold", "normal"]
    reason: Reason
    until_ms: int = 0
    power_w: int | None = None
    is_cut: bool = False
    """Whether the power is less than planned because of the house's contract."""
    span: Span | None = None
    """The cheap hours it is about: the present ones or the next."""
    need: Need | None = None
    missing_kwh: float | None = None
    begins_ms: int | None = None
    house_w: int | None = None
    house_source: Source | None = None
    next_ms: int | None = None
    """When it is decided anew at the latest."""

    @property
    def why(self) -> str:
        """The reason in a few words."""
        said = REASONS[self.reason][1]
        return (
            said
            if self.need is None or self.reason not in {"charge", "alert"}
            else f"{said}, to {self.need.goal_percent} %"
        )

    def status(self) -> dict[str, Json]:
        """Return the plan for people and programs."""
        need, span = self.need, self.span
        shown: dict[str, Json | float] = {
            "mode": self.mode,
            "reason": self.reason,
            "why": dict(zip(("ja", "en"), REASONS[self.reason], strict=True)),
            "power_w": self.power_w,
            "cut_by_contract": self.is_cut or None,
            "house_w": self.house_w,
            "house_from": self.house_source,
            "missing_kwh": _rounded(self.missing_kwh),
            "charging_begins": _time(self.begins_ms),
            "next_decision": _time(self.next_ms),
        }
        if span is not None:
            shown |= {"cheap_from": _time(span.start_ms), "cheap_to": _time(span.end_ms)}
        if need is not None:
            shown |= {
                "goal_percent": need.goal_percent,
                "expected_until": _time(need.until_ms),
                "expected_load_kwh": _rounded(need.load_kwh),
                "expected_pv_kwh": _rounded(need.pv_kwh),
                "expected_from": need.basis,
                "learnt_days": need.days or None,
                "not_learnt_yet": _time(need.gap_ms),
            }
        return {key: value for key, value in shown.items() if value is not None}


def need(settings: BatterySettings, tariff: TariffSettings, learnt: Learnt, span: Span) -> Need:
    """Return what the battery is to hold when the cheap hours of `span` end, until the next ones begin."""
    following = next_span(tariff, span.start_ms)
    until_ms = span.end_ms if following is None else following.start_ms
    load_kwh, pv_kwh, basis, days = _expected(tariff, learnt, span.end_ms, until_ms)
    reserve = settings.min_soc_percent if tariff.reserve_percent is None else tariff.reserve_percent
    if not pays(tariff):
        goal = reserve
    elif load_kwh is None:
        goal = settings.max_soc_percent
    else:
        for_load = max(load_kwh - (pv_kwh or 0.0), 0.0) / tariff.capacity_kwh * 100
        goal = max(reserve, ceil(round(settings.min_soc_percent + for_load, 3)))
    is_kept_from = tariff.learn and basis in {"configured", "nothing"}
    gap_ms = learnt.first_gap(span.end_ms, until_ms, partial(_is_holiday, tariff)) if is_kept_from else None
    return Need(min(goal, settings.max_soc_percent), until_ms, basis, days, load_kwh, pv_kwh, gap_ms)


def _expected(
    tariff: TariffSettings, learnt: Learnt, begin_ms: int, end_ms: int
) -> tuple[float | None, float | None, NeedBasis, int]:
    """Return load, PV, basis and days: learnt ones, else what was configured, else nothing."""
    expected = learnt.expect(begin_ms, end_ms, partial(_is_holiday, tariff)) if tariff.learn else None
    if expected is not None:
        return expected.load_kwh, expected.pv_kwh, expected.basis, expected.days
    if tariff.expected_load_kwh is not None:
        return tariff.expected_load_kwh, tariff.expected_pv_kwh, "configured", 0
    return None, None, "nothing", 0


def _is_holiday(tariff: TariffSettings, day: int) -> bool:
    return is_holiday(tariff, date_of(day))


def done_ms(tariff: TariffSettings, span: Span) -> int:
    """Return when charging is to be done: some minutes before the cheap hours end."""
    return max(span.end_ms - tariff.margin_min * MINUTE_MS, span.start_ms)


def easy_watts(
    settings: BatterySettings, tariff: TariffSettings, learnt: Learnt, span: Span
) -> list[tuple[int, float]]:
    """Return how long and with how many watts it may well be charged, from the end of the cheap hours backwards.

    That is an easy share of the greatest power, less where the house is expected to take much of its contract.
    """
    done = done_ms(tariff, span)
    start_ms = max(span.start_ms, done - DAY_MS)
    loads_w = learnt.loads_w(start_ms, done, partial(_is_holiday, tariff)) if tariff.learn else []
    easy_w, least_w = settings.max_charge_w * EASY_SHARE, settings.max_charge_w * LEAST_EASY_SHARE
    found: list[tuple[int, float]] = []
    end_ms = done
    while end_ms > start_ms:
        begin_ms = max((end_ms - 1) // HALF_HOUR_MS * HALF_HOUR_MS, start_ms)
        load_w = loads_w.pop() if loads_w else None
        room_w = tariff.contract_w - load_w if tariff.contract_w is not None and load_w is not None else easy_w
        found.append((end_ms - begin_ms, max(min(easy_w, room_w), least_w)))
        end_ms = begin_ms
    return found


def begins_ms(done: int, easy: list[tuple[int, float]], missing_kwh: float) -> int:
    """Return the latest moment at which charging can begin and be done in time."""
    begin, left_wh = done, missing_kwh * 1000
    for length_ms, watts in easy:
        share = min(left_wh / (watts * length_ms / 3_600_000), 1.0)
        begin -= round(share * length_ms)
        left_wh -= share * watts * length_ms / 3_600_000
        if left_wh <= 0:
            break
    return begin


def _time(unix_ms: int | None) -> str | None:
    return None if unix_ms is None else datetime.fromtimestamp(unix_ms / 1000, JST).isoformat(timespec="minutes")


def _rounded(kwh: float | None) -> float | None:
    return None if kwh is None else round(kwh, 2)
