"""Which mode a battery should be in and what to do next about it. Pure: time is an argument, nothing is written here.

The device is in `normal` unless somebody's request holds. Whatever ends a request (its deadline, its goal, a missing
reading, a refusal, a lost link, a restart of either side) ends in the same way: what was changed is owed back, and
until that was done and read back the only step is `restore`. No request is taken up again by itself.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import replace
from typing import Literal, TypeAlias

from drivers.api import ConfigError, RefusedError
from drivers.battery.modes import OWNERS, Mode, ModeFacts, Request
from drivers.battery.settings import BatterySettings

Step: TypeAlias = Literal["wait", "apply", "refresh", "restore"]

FRESH_MS = 150_000
"""A state of charge older than this is none: the battery may be full or empty by now."""
LOOK_MS = 40_000
"""What was set is compared with the device at least this often, so that a restart is undone within a minute."""
SLOWEST_POLL_S = 10.0
"""Where no mode has a timer; looks happen at polls."""
REFRESHES_PER_TIMER = 3
APPLY_PAUSE_MS = 5_000
"""Sequences of writes begin at least this far apart; what is owed back does not wait."""
RETRY_MS = 5_000
LONGEST_RETRY_MS = 30_000
"""Half of the minute within which a device that answers again must be back in normal."""
FOREIGN_WINDOW_MS = 600_000
MOST_FOREIGN = 3
"""More changes by somebody else than these in the window, and the battery is left to him."""
GIVEN_UP_MS = 3_600_000
SCHEDULE_PAUSE_MS = 900_000
"""After a failure the schedule and the alert wait this long; a person may try at once."""
LEAST_POWER_W = 100
"""Some inverters go to standby when they are told 0 W."""


class Policy:
    """The state of one battery's command; the caller carries out `step` and reports what came of it."""

    def __init__(self, settings: BatterySettings, modes: Mapping[Mode, ModeFacts], poll_s: float) -> None:
        self._settings = settings
        self.modes = allowed(settings, modes)
        self._poll_ms = round(poll_s * 1000)
        self.request: Request | None = None
        """What is wanted; None leaves the battery to itself and to the schedule."""
        self.held: Request | None = None
        """What the device was told and has confirmed."""
        self.owes = False
        """Whether the device may differ from normal by our doing."""
        self.reason = ""
        """Why the last request ended."""
        self.failures = 0
        """Attempts to restore in a row that did not succeed."""
        self._soc: float | None = None
        self._soc_ms = self._outage_ms = -FRESH_MS
        self._faults: dict[str, tuple[str, int]] = {}
        """What the device says is wrong, by quantity, and when it said so."""
        self._foreign: deque[int] = deque(maxlen=MOST_FOREIGN + 1)
        self._given_up_until_ms = 0
        self._automatic_from_ms, self._pause = 0, ""
        self._retry_ms = self._apply_ms = self._look_ms = self._sign_ms = 0
        self._is_due_again = False

    @property
    def lasting(self) -> tuple[Mode, ...]:
        """The allowed modes that the device does not end by itself."""
        return tuple(mode for mode, facts in self.modes.items() if facts.revert_s is None)

    def observe_soc(self, percent: float | None, at_ms: int) -> None:
        """Take in a state of charge read at `at_ms`, None where the device has none."""
        self._soc, self._soc_ms = percent, at_ms

    def observe_outage(self, at_ms: int, *, is_out: bool) -> None:
        """Take in whether the grid is gone."""
        self._outage_ms = at_ms if is_out else -FRESH_MS

    def observe_fault(self, quantity: str, state: str | None, at_ms: int) -> None:
        """Take in a state of the device that is a fault, None for one that is not."""
        if state is None:
            self._faults.pop(quantity, None)
        else:
            self._faults[quantity] = state, at_ms
            self._pause_automatic(f"the device reported {quantity} {state}", at_ms)

    def fault(self, now_ms: int) -> str | None:
        """Return what the device says is wrong with it, None where that is nothing or old."""
        told = (f"{name} {state}" for name, (state, at_ms) in self._faults.items() if now_ms - at_ms < FRESH_MS)
        return ", ".join(told) or None

    def is_frozen(self, now_ms: int) -> bool:
        """Tell whether the grid is gone: then nothing at all is written."""
        return now_ms - self._outage_ms < FRESH_MS

    def has_given_up(self, now_ms: int) -> bool:
        """Tell whether the battery is left to another master."""
        return now_ms < self._given_up_until_ms

    def soc_percent(self, now_ms: int) -> float | None:
        """Return the state of charge, None where it is unknown or old."""
        return self._soc if now_ms - self._soc_ms < FRESH_MS else None

    def ask(self, request: Request, now_ms: int) -> Request:
        """Want a mode from now on; returns the request within its limits; a RefusedError changes nothing."""
        request = self._within_limits(request, now_ms)
        if self.request is not None and OWNERS.index(request.owner) < OWNERS.index(self.request.owner):
            raise RefusedError(f"the {self.request.owner} has the battery in {self.request.mode}")
        if request.owner in {"schedule", "alert"} and now_ms < self._automatic_from_ms:
            raise RefusedError(f"it waits after a failure ({self._pause})")
        if request.owner == "person":
            self._given_up_until_ms = 0
            self._foreign.clear()
        elif self.has_given_up(now_ms):
            raise RefusedError("another master commands the battery")
        if (unfit := self._unfit(request, now_ms)) is not None:
            raise RefusedError(unfit)
        self.request = request
        return request

    def end(self, reason: str) -> None:
        """Want normal again."""
        if self.request is not None or self.held is not None:
            self.reason = reason
        self.request = None

    def away(self, reason: str) -> None:
        """The device cannot be reached, or was away: all it was told is in doubt."""
        self.end(reason)
        self.held = None
        self._retry_ms = 0

    def step(self, now_ms: int) -> Step:
        """Return what to do now."""
        if self.is_frozen(now_ms):
            return "wait"
        if self.request is not None and (over := self._over(self.request, now_ms)) is not None:
            self.end(over)
        wanted = None if self.request is None or self.request.mode == "normal" else self.request
        if self.owes and (wanted is None or self.held is None or self.held.mode != wanted.mode):
            return "restore" if now_ms >= self._retry_ms else "wait"
        if wanted is None:
            return "wait"
        if not wanted.orders(self.held) or self._is_due_again:
            return "apply" if now_ms >= self._apply_ms else "wait"
        return "refresh" if now_ms >= self._look_ms else "wait"

    def begun(self, now_ms: int) -> None:
        """The first write is about to leave."""
        self.owes = True
        self._apply_ms = now_ms + APPLY_PAUSE_MS

    def applied(self, request: Request, now_ms: int) -> None:
        """The device confirmed all of a request."""
        self.held, self._is_due_again = request, False
        self.refreshed(now_ms)

    def refreshed(self, now_ms: int) -> None:
        """The device still does what it was told, and its timer was set anew."""
        self._sign_ms = now_ms + max(self._timer_ms() // REFRESHES_PER_TIMER - self._poll_ms, 0)
        self.looked(now_ms)

    def looked(self, now_ms: int) -> None:
        """The device still does what it was told."""
        period_ms = min(LOOK_MS, self._timer_ms() // REFRESHES_PER_TIMER)
        self._look_ms = min(now_ms + max(period_ms - self._poll_ms, 0), self._sign_ms)

    def is_sign_due(self, now_ms: int) -> bool:
        """Tell whether the device's timer is to be set anew."""
        return now_ms >= self._sign_ms

    def _timer_ms(self) -> int:
        """Return the timer of the mode that is held; without one a sign of life is due at each look."""
        revert_s = self.modes[self.held.mode].revert_s if self.held is not None else None
        return LOOK_MS * REFRESHES_PER_TIMER if revert_s is None else revert_s * 1000

    def restored(self) -> None:
        """Everything that was owed is back and was read back."""
        self.owes, self.held, self.failures, self._is_due_again = False, None, 0, False

    def failed(self, reason: str, now_ms: int) -> None:
        """A sequence broke off: undo what was done of it at once."""
        self.end(reason)
        self.held = None
        self._retry_ms = 0
        self._pause_automatic(reason, now_ms)

    def _pause_automatic(self, reason: str, now_ms: int) -> None:
        self._automatic_from_ms, self._pause = now_ms + SCHEDULE_PAUSE_MS, reason

    def restore_failed(self, now_ms: int) -> None:
        """The device is not back in normal yet."""
        self._retry_ms = now_ms + min(RETRY_MS << min(self.failures, 10), LONGEST_RETRY_MS)
        self.failures += 1

    def foreign(self, now_ms: int) -> bool:
        """Somebody else changed what we had set: set it again, or, too often, give the battery up (True)."""
        self._foreign.append(now_ms)
        self._is_due_again = True
        if len(self._foreign) <= MOST_FOREIGN or now_ms - self._foreign[0] > FOREIGN_WINDOW_MS:
            return False
        self._foreign.clear()
        self._given_up_until_ms = now_ms + GIVEN_UP_MS
        self.end("another master commands the battery")
        self.held = None
        return True

    def _within_limits(self, request: Request, now_ms: int) -> Request:
        settings = self._settings
        if settings.owned_by == "third_party":
            raise RefusedError("the battery is commanded by a third party (owned_by); nothing is written")
        longest_ms = now_ms + round(settings.longest_hours * 3_600_000)
        request = replace(request, deadline_ms=min(request.deadline_ms, longest_ms))
        if request.mode == "normal":
            return replace(request, power_w=None, soc_percent=None)
        if request.mode not in self.modes:
            raise RefusedError(f"{request.mode} is not allowed here; allowed: {', '.join(('normal', *self.modes))}")
        facts = self.modes[request.mode]
        most_w = settings.max_charge_w if request.mode == "charge" else settings.max_discharge_w
        power_w = min(request.power_w or most_w, most_w)
        if facts.takes_power and power_w < LEAST_POWER_W:
            raise RefusedError(f"{power_w} W is less than the {LEAST_POWER_W} W an inverter can keep")
        goal = settings.max_soc_percent if request.soc_percent is None else request.soc_percent
        has_goal = facts.takes_soc or request.mode == "charge"
        return replace(
            request,
            power_w=power_w if facts.takes_power else None,
            soc_percent=max(settings.min_soc_percent, min(goal, settings.max_soc_percent)) if has_goal else None,
        )

    def _unfit(self, request: Request, now_ms: int) -> str | None:
        if request.deadline_ms <= now_ms:
            return "its deadline is over already"
        if request.mode == "normal":
            return None
        if self.is_frozen(now_ms):
            return "the grid is gone; nothing is written until it is back"
        return self._over(request, now_ms)

    def _over(self, request: Request, now_ms: int) -> str | None:
        """Say why a request holds no longer; None while it does."""
        if now_ms >= request.deadline_ms:
            return "its time is over"
        if request.mode == "normal":
            return None
        fault, soc = self.fault(now_ms), self.soc_percent(now_ms)
        if fault is not None or soc is None:
            return "no fresh state of charge" if fault is None else f"the device reports {fault}"
        if request.mode == "charge" and request.soc_percent is not None and soc >= request.soc_percent:
            return f"charged to {request.soc_percent} %"
        if request.mode == "discharge_to_load" and soc <= self._settings.min_soc_percent:
            return f"discharged to {self._settings.min_soc_percent} %"
        return None


def check(settings: BatterySettings, modes: Mapping[Mode, ModeFacts], poll_s: float) -> None:
    """Raise ConfigError, below the device's table, where a configuration and a device's modes do not fit."""
    try:
        settings.check()
        found = allowed(settings, modes)
        for mode in settings.modes or ():
            _check_mode(settings, mode, modes)
        if settings.tariff is not None and settings.owned_by == "agent":
            for mode in ("charge", "hold") if settings.tariff.hold else ("charge",):
                _check_needed("tariff", mode, found)
        if settings.alert is not None and settings.owned_by == "agent":
            _check_needed("alert", "reserve", found)
    except ConfigError as error:
        raise error.under("battery") from error
    timers_s = [facts.revert_s for facts in found.values() if facts.revert_s is not None]
    slowest = min((timer_s / (2 * REFRESHES_PER_TIMER) for timer_s in timers_s), default=SLOWEST_POLL_S)
    if poll_s > slowest:
        raise ConfigError("battery", "poll_s is too slow for its modes", f"poll every {slowest:g} s or faster", poll_s)


def _check_mode(settings: BatterySettings, mode: Mode, modes: Mapping[Mode, ModeFacts]) -> None:
    if mode == "normal":
        return
    if mode not in modes:
        raise ConfigError("modes", "the device does not offer it", f"it offers: {', '.join(modes)}", mode)
    if modes[mode].revert_s is None and settings.no_revert_timer != "accepted":
        raise ConfigError(
            "modes",
            "the device does not end this mode by itself, so it stays on when this box dies",
            "remove it, or write `no_revert_timer: accepted`",
            mode,
        )


def _check_needed(key: str, mode: Mode, found: Mapping[Mode, ModeFacts]) -> None:
    if mode not in found:
        raise ConfigError(key, f"needs the mode {mode}, which is not allowed", "allow it (modes, no_revert_timer)")


def allowed(settings: BatterySettings, modes: Mapping[Mode, ModeFacts]) -> dict[Mode, ModeFacts]:
    """Return the modes of a device that a configuration lets it take."""
    accepted = settings.no_revert_timer == "accepted"
    wanted = modes if settings.modes is None else settings.modes
    return {
        mode: facts
        for mode, facts in modes.items()
        if mode in wanted and (accepted or facts.revert_s is not None) and settings.owned_by == "agent"
    }
