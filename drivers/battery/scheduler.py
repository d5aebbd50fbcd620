"""The schedule of one battery: learns what the house needs, decides each quarter hour, keeps the house's contract.

Pure: time is an argument. It wants; whether the battery does so is the policy's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from drivers.api import Value
from drivers.battery.house import Balance, House
from drivers.battery.learnt import Learnt
from drivers.battery.plan import Need, Plan, Reason, begins_ms, done_ms, easy_watts, need
from drivers.battery.policy import LEAST_POWER_W
from drivers.battery.settings import BatterySettings, TariffSettings
from drivers.battery.tariff import MINUTE_MS, QUARTER_MS, Span, pays, spans

LEAST_CHARGE_KWH = 0.1
"""Less is not worth a command."""
HYSTERESIS_PERCENT = 4
"""Once the goal was reached, so much must be gone before it is charged again in the same cheap hours."""
RAMP_SHARE = 0.25
RAMP_MS = MINUTE_MS
"""The power rises by this share of the greatest at a time, a minute apart; it falls at once."""
STEADY_SHARE = 0.1
"""A smaller change is none: each is a write."""
CUT_SHARE = 0.05
"""Power that is cut is a multiple of this share, so that a restless house is not followed watt by watt."""


@dataclass(frozen=True, slots=True)
class Now:
    """What a decision is taken on: both clocks, and the battery as it stands; None = unknown."""

    boot_ms: int
    unix_ms: int | None
    soc_percent: float | None
    held_w: int | None = None
    """The power that the battery was told by the schedule, None while it charges not or for somebody else."""
    is_stored: bool = False
    """Whether the device keeps each power in its flash: then it does not ramp, and rises each quarter hour at most."""
    alert_percent: int | None = None
    """What the town's alert wants in the battery as soon as may be, None while there is none."""
    is_at_once: bool = False
    """Whether the alert may charge outside the cheap hours, too."""


class Scheduler:
    """What the tariff wants of a battery."""

    def __init__(self, settings: BatterySettings, tariff: TariffSettings) -> None:
        self._settings = settings
        self._tariff = tariff
        self.house = House()
        self.learnt = Learnt()
        self.plan = Plan("normal", "undecided")
        self._spans: list[Span] = []
        self._span: Span | None = None
        self._quarter = -1
        self._need: Need | None = None
        self._easy: list[tuple[int, float]] = []
        self._known_changes = 0
        """How much had been learnt when the need was worked out."""
        self._alert_percent: int | None = None
        """The goal that the alert asked for at the last decision."""
        self._target_w = 0
        self._is_due = True
        """Whether the target is to be worked out anew."""
        self._is_full = False
        """Whether the goal was reached by charging in these cheap hours."""
        self._changed_ms = -QUARTER_MS
        """When the power last changed, on the boot clock."""

    def observe(self, values: Mapping[str, Value], at_ms: int, unix_ms: int | None) -> None:
        """Take in what the battery's device read."""
        self._note(self.house.observe(values, at_ms), unix_ms)

    def overhear(self, role: str, values: Mapping[str, Value], at_ms: int, unix_ms: int | None) -> None:
        """Take in what the device with a role in the house read."""
        self._note(self.house.overhear(role, values, at_ms), unix_ms)

    def _note(self, balance: Balance | None, unix_ms: int | None) -> None:
        if balance is not None and self._tariff.learn:
            self.learnt.note(unix_ms, balance.load_w, balance.pv_w)

    def decide(self, now: Now) -> Plan:
        """Return what is wanted now."""
        former, self.plan = self.plan, self._decided(now)
        is_changed = self.plan.power_w != now.held_w if self.plan.mode == "charge" else former.mode == "charge"
        self._changed_ms = now.boot_ms if is_changed else self._changed_ms
        return self.plan

    def _decided(self, now: Now) -> Plan:
        if now.unix_ms is None:
            return Plan("normal", "clock")
        span = self._look_ahead(now.unix_ms)
        if span is None or self._need is None:
            return Plan("normal", "outside")
        known = self._known(now, span, self._raised(self._need, now.alert_percent))
        is_cheap = now.unix_ms >= span.start_ms
        if not is_cheap and not now.is_at_once:
            return replace(known, next_ms=span.start_ms)
        known = replace(known, next_ms=(now.unix_ms // QUARTER_MS + 1) * QUARTER_MS)
        if now.soc_percent is None:
            return replace(known, reason="no_soc")
        if not is_cheap:
            return self._fill(replace(known, until_ms=now.unix_ms + QUARTER_MS), now, left_ms=0)
        known = replace(known, mode="hold" if self._tariff.hold else "normal", until_ms=span.end_ms)
        left_ms = 0 if now.alert_percent is not None else done_ms(self._tariff, span) - now.unix_ms
        return self._fill(known, now, left_ms)

    def _raised(self, aim: Need, alert_percent: int | None) -> Need:
        """Return the need with the goal that the town's alert asks for."""
        if alert_percent != self._alert_percent:
            self._alert_percent, self._is_due = alert_percent, True
        if alert_percent is None:
            return aim
        return replace(aim, goal_percent=max(aim.goal_percent, min(alert_percent, self._settings.max_soc_percent)))

    def _known(self, now: Now, span: Span, aim: Need) -> Plan:
        """Return all that is known of the cheap hours, present or next, before anything is decided."""
        known = Plan("normal", "outside", span=span, need=aim)
        if (demand := self.house.demand(now.boot_ms)) is not None:
            known = replace(known, house_w=round(demand.watts), house_source=demand.source)
        if now.soc_percent is not None:
            missing_kwh = max(aim.missing_kwh(self._tariff, now.soc_percent), 0.0)
            begins = max(begins_ms(done_ms(self._tariff, span), self._easy, missing_kwh), span.start_ms)
            known = replace(known, missing_kwh=missing_kwh, begins_ms=begins if missing_kwh else None)
        return known

    def _fill(self, known: Plan, now: Now, left_ms: int) -> Plan:
        """Charge what is missing in what is left, 0 for at once, or say why not."""
        if self._is_enough(known.missing_kwh or 0.0, is_charging=now.held_w is not None):
            return replace(known, reason="enough" if pays(self._tariff) else "does_not_pay")
        if now.alert_percent is None and now.held_w is None and self._is_early(known, left_ms):
            return replace(known, reason="later")
        return self._charge(known, now, left_ms)

    def _is_early(self, known: Plan, left_ms: int) -> bool:
        return known.span is not None and left_ms > done_ms(self._tariff, known.span) - (known.begins_ms or 0)

    def _look_ahead(self, unix_ms: int) -> Span | None:
        """Return the present cheap hours or the next; each quarter hour is looked at what is needed for the time after.

        That is worked out anew where another half hour was learnt.
        """
        quarter = unix_ms // QUARTER_MS
        if quarter != self._quarter:
            self._spans, self._is_due = spans(self._tariff, unix_ms), True
        span = next((span for span in self._spans if unix_ms < span.end_ms), None)
        if span is not None and (span != self._span or (self._is_due and self.learnt.changes != self._known_changes)):
            self._is_full = self._is_full and span == self._span
            self._is_due, self._known_changes = True, self.learnt.changes
            self._need = need(self._settings, self._tariff, self.learnt, span)
            self._easy = easy_watts(self._settings, self._tariff, self.learnt, span)
        self._span, self._quarter = span, quarter
        return span

    def _is_enough(self, missing_kwh: float, *, is_charging: bool) -> bool:
        """Tell whether there is nothing to charge; what is charging goes on to the goal."""
        if is_charging:
            self._is_full = self._is_full or missing_kwh <= 0
            return missing_kwh <= 0
        hysteresis_kwh = HYSTERESIS_PERCENT / 100 * self._tariff.capacity_kwh
        return missing_kwh < (max(hysteresis_kwh, LEAST_CHARGE_KWH) if self._is_full else LEAST_CHARGE_KWH)

    def _charge(self, known: Plan, now: Now, left_ms: int) -> Plan:
        """Charge evenly over what is left, rising slowly, within what the house leaves of its contract."""
        most_w = self._settings.max_charge_w
        if self._is_due or now.held_w is None:
            even_w = (known.missing_kwh or 0.0) * 1000 * 3_600_000 / max(left_ms, QUARTER_MS)
            self._target_w, self._is_due = min(max(round(even_w), LEAST_POWER_W), most_w), False
        power_w = self._ramped(now, self._target_w)
        is_cut = False
        if self._tariff.contract_w is not None:
            if known.house_w is None:
                return replace(known, reason="house_unknown")
            limit_w = self._tariff.contract_w - known.house_w
            if is_cut := power_w > limit_w:
                step_w = max(round(most_w * CUT_SHARE), 1)
                power_w = limit_w // step_w * step_w
        pause_ms = QUARTER_MS if now.alert_percent is not None else self._pause_ms(now)  # it keeps a reserve meanwhile
        is_waiting = self.plan.reason == "house_full" and now.boot_ms - self._changed_ms < pause_ms
        if power_w < LEAST_POWER_W or is_waiting:
            return replace(known, reason="house_full")
        reason: Reason = "charge" if now.alert_percent is None else "alert"
        return replace(known, mode="charge", reason=reason, power_w=power_w, is_cut=is_cut, begins_ms=None)

    def _ramped(self, now: Now, target_w: int) -> int:
        """Return the power on the way to a target: up in steps, down at once, a small change not at all."""
        if now.held_w is None:
            return target_w if now.is_stored else min(target_w, self._step_w)
        if abs(target_w - now.held_w) < self._settings.max_charge_w * STEADY_SHARE:
            return now.held_w
        if target_w < now.held_w:
            return target_w
        if self._is_too_soon(now):
            return now.held_w
        return target_w if now.is_stored else min(target_w, now.held_w + self._step_w)

    @property
    def _step_w(self) -> int:
        return max(round(self._settings.max_charge_w * RAMP_SHARE), LEAST_POWER_W)

    def _is_too_soon(self, now: Now) -> bool:
        return now.boot_ms - self._changed_ms < self._pause_ms(now)

    def _pause_ms(self, now: Now) -> int:
        return QUARTER_MS if now.is_stored else RAMP_MS
