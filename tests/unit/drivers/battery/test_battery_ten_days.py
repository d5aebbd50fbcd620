"""Ten days of the simulated house under the schedule, in virtual time: real load, real sun, a battery of 9.8 kWh.

Load and sun come from `simulators.house`; here they meet a battery that does what the schedule wants, and otherwise
stores what is left over and serves the house. A step is three minutes.
"""

from dataclasses import dataclass
from datetime import datetime
from functools import cache

import pytest

from drivers.battery.plan import need
from drivers.battery.scheduler import HYSTERESIS_PERCENT, Now, Scheduler
from drivers.battery.settings import BatterySettings, TariffSettings, WindowSettings
from drivers.battery.tariff import JST, Span, next_span
from simulators.house import House

STEP_S = 180
STEPS_A_DAY = 86_400 // STEP_S
DAYS = 10
CAPACITY_KWH = 9.8
CONTRACT_W = 3_000
RESERVE_PERCENT = 30
SUMMER, WINTER = (round(datetime(2026, month, 1, 12, tzinfo=JST).timestamp() * 1000) for month in (6, 12))
TARIFF = TariffSettings(
    cheap=[WindowSettings("23:00", "07:00")],
    capacity_kwh=CAPACITY_KWH,
    expected_load_kwh=7,  # as in docs/battery.md
    expected_pv_kwh=2,
    contract_w=CONTRACT_W,
    reserve_percent=RESERVE_PERCENT,
)
BATTERY = BatterySettings("agent", max_charge_w=2_500, max_soc_percent=95, tariff=TARIFF)


@cache
def flows(seed, start_ms):
    """Return load and PV in W of each step; a plant of 1.8 kW, so that the sun alone is not enough."""
    house = House(seed, start_ms, pv_peak_w=1_800)
    return tuple(house._flows(start_ms // 1000 + step * STEP_S) for step in range(DAYS * STEPS_A_DAY))


def is_cheap(unix_ms):
    return not 7 <= datetime.fromtimestamp(unix_ms / 1000, JST).hour < 23


@dataclass
class Day:
    """From the end of the cheap hours to the next ones."""

    soc_percent: float
    goal_percent: int
    basis: str
    bought_kwh: float = 0.0


@dataclass(frozen=True)
class Step:
    """Charging and import, as they are once it was decided on the step's readings."""

    unix_ms: int
    charging_w: int
    import_w: float


class Home:
    """A battery between load, sun and grid."""

    def __init__(self):
        self.schedule = Scheduler(BATTERY, TARIFF)
        self.held_w = None
        self.stored_wh = 0.4 * CAPACITY_KWH * 1000

    @property
    def soc_percent(self):
        return self.stored_wh / CAPACITY_KWH / 10

    def step(self, boot_ms, unix_ms, load_w, pv_w):
        """Let the meters be read, the schedule decide, and three minutes pass; returns the plan and what was."""
        battery_w = self._battery_w(load_w - pv_w)
        self.schedule.overhear("grid", {"grid_power_w": load_w - pv_w - battery_w}, boot_ms, unix_ms)
        self.schedule.observe({"pv_power_w": pv_w, "battery_power_w": battery_w}, boot_ms, unix_ms)
        plan = self.schedule.decide(Now(boot_ms, unix_ms, self.soc_percent, self.held_w))
        self.held_w = plan.power_w if plan.mode == "charge" else None
        battery_w = self._battery_w(load_w - pv_w)
        self.stored_wh -= battery_w * STEP_S / 3600
        return plan, Step(unix_ms, self.held_w or 0, load_w - pv_w - battery_w)

    def _battery_w(self, missing_w):
        room_w = (CAPACITY_KWH * 1000 - self.stored_wh) * 3600 / STEP_S
        if self.held_w is not None:
            return -min(self.held_w, room_w)
        if missing_w < 0:
            return -min(-missing_w, 2_500, room_w)
        usable_wh = self.stored_wh - BATTERY.min_soc_percent / 100 * CAPACITY_KWH * 1000
        return min(missing_w, 2_500, max(usable_wh, 0.0) * 3600 / STEP_S)


@cache
def lived(seed, start_ms):
    """Return the whole days between cheap hours, and each step."""
    home, days, steps, aim = Home(), [], [], None
    for number, (load_w, pv_w) in enumerate(flows(seed, start_ms)):
        unix_ms = start_ms + number * STEP_S * 1000
        soc_percent = home.soc_percent
        plan, step = home.step(number * STEP_S * 1000, unix_ms, load_w, pv_w)
        if is_cheap(unix_ms):
            aim = plan.need
        elif aim is not None:
            days.append(Day(soc_percent, aim.goal_percent, aim.basis))
            aim = None
        if days and not is_cheap(unix_ms):
            days[-1].bought_kwh += max(step.import_w, 0.0) * STEP_S / 3_600_000
        steps.append(step)
    return days, steps


HOUSES = [(1, SUMMER), (1, WINTER)]


@pytest.mark.parametrize(("seed", "start_ms"), HOUSES)
def test_it_is_charged_in_the_cheap_hours_only_and_within_the_contract(seed, start_ms):
    _, steps = lived(seed, start_ms)
    charging = [step for step in steps if step.charging_w]
    assert len(charging) > 100
    assert all(is_cheap(step.unix_ms) for step in charging)
    assert all(step.import_w <= CONTRACT_W for step in charging)
    assert max(step.import_w for step in charging) > 0.9 * CONTRACT_W, "the contract was in reach"


@pytest.mark.parametrize(("seed", "start_ms"), HOUSES)
def test_the_reserve_is_there_when_the_cheap_hours_end(seed, start_ms):
    days, _ = lived(seed, start_ms)
    assert len(days) == DAYS
    assert min(day.soc_percent for day in days) >= RESERVE_PERCENT - HYSTERESIS_PERCENT
    assert all(day.soc_percent >= day.goal_percent - HYSTERESIS_PERCENT for day in days)
    assert [day.basis for day in days][:2] == ["configured"] * 2
    assert {day.basis for day in days[2:]} == {"days", "kind"}


def test_most_days_nothing_is_bought_at_the_usual_price():
    bought = [day.bought_kwh for seed, start_ms in HOUSES for day in lived(seed, start_ms)[0]]
    assert sum(kwh < 0.2 for kwh in bought) / len(bought) > 0.7, bought  # 17 of 20


@cache
def missed_kwh(seed, start_ms):
    """Return by how much load - PV of each day differs from what was learnt, and from what was configured."""
    schedule = Scheduler(BATTERY, TARIFF)
    days = flows(seed, start_ms)
    learnt, configured = [], []
    for step, (load_w, pv_w) in enumerate(days):
        unix_ms = start_ms + step * STEP_S * 1000
        schedule.learnt.note(unix_ms, load_w, pv_w)
        span = Span(unix_ms - 8 * 3_600_000, unix_ms)
        steps = 16 * 3600 // STEP_S
        if unix_ms % 86_400_000 == 22 * 3_600_000 and step + steps <= len(days):
            truth = sum(load_w - pv_w for load_w, pv_w in days[step : step + steps]) * STEP_S / 3_600_000
            found = need(BATTERY, TARIFF, schedule.learnt, span)
            assert next_span(TARIFF, unix_ms).start_ms == found.until_ms
            if found.basis != "configured":
                learnt.append(abs(found.load_kwh - found.pv_kwh - truth))
                configured.append(abs(TARIFF.expected_load_kwh - TARIFF.expected_pv_kwh - truth))
    return learnt, configured


def test_what_is_learnt_is_nearer_than_what_an_installer_typed():
    learnt, configured = [], []
    for seed in (1, 2, 3):
        for start_ms in (SUMMER, WINTER):
            ours, typed = missed_kwh(seed, start_ms)
            learnt += ours
            configured += typed
    assert len(learnt) == 6 * 7, "all but the first two days of each house"
    assert sum(learnt) < 0.89 * sum(configured)  # 3.0 and 3.9 kWh a day: 0.77
