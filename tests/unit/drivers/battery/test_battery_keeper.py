"""A battery is never left in a wrong state: any order of commands, crashes, cuts, restarts and refusals."""

import asyncio
from dataclasses import dataclass, field, replace
from itertools import pairwise

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from drivers.api import Event, LinkError, MalformedError, RefusedError, Sample
from drivers.battery.debt import owed_from
from drivers.battery.keeper import Keeper
from drivers.battery.modes import ModeFacts, UnansweredError, Write
from drivers.battery.settings import AlertSettings, BatterySettings, TariffSettings, WindowSettings
from drivers.contract import DictMemory

POLL_S = 10
MIDNIGHT_MS = 1_780_239_600_000
"""2026-06-01T00:00 in Japan."""


class HandClock:
    """A clock that moves when the test says so."""

    def __init__(self, unix_ms=MIDNIGHT_MS):
        self.ms, self.offset = 1_000_000, None if unix_ms is None else unix_ms - 1_000_000

    def boot_ms(self):
        return self.ms

    def unix_ms(self):
        return None if self.offset is None else self.ms + self.offset

    async def sleep_until(self, boot_ms):
        self.ms = max(self.ms, boot_ms)


SEQUENCES = {
    "charge": (("power", "power_w"), ("minutes", 2), ("command", 1)),
    "hold": (("discharge_limit", 0),),
    "reserve": (("reserve", "soc_percent"),),
}
MODES = {"charge": ModeFacts(120, takes_power=True), "hold": ModeFacts(), "reserve": ModeFacts(takes_soc=True)}
NORMAL = {"power": 0, "minutes": 0, "command": 0, "discharge_limit": 5000, "reserve": 15}
STORED = {"discharge_limit", "reserve"}


@dataclass
class Inverter:
    """A device with a revert timer for `charge`, and everything that can go wrong with it."""

    clock: HandClock
    bits: dict = field(default_factory=lambda: dict(NORMAL))
    start: int = 1
    expires_ms: int | None = None
    sent: list = field(default_factory=list)
    refuse: dict = field(default_factory=dict)
    silent: int = 0
    cut: bool = False
    die_after: int | None = None
    lose_answers: int = 0
    lose_writes: dict = field(default_factory=dict)
    lose_reads: int = 0
    settle_s = 0.0
    witnesses = ("start",)
    modes = MODES

    def is_outage(self, values):
        state = values.get("state")
        return None if state is None else state == "off_grid"

    def faults_in(self, values):
        state = values.get("state")
        return {} if state is None else {"state": state if state == "fault" else None}

    def sequence(self, request, limits):
        given_values = {"power_w": request.power_w, "soc_percent": request.soc_percent}
        return tuple(
            Write(
                name, given_values.get(value, value), name in STORED, name in {"minutes", "command"}, name != "minutes"
            )
            for name, value in SEQUENCES[request.mode]
        )

    def undoing(self, mode, saved):
        order = [name for name, _ in reversed(SEQUENCES[mode])]
        values = saved | ({"command": 0} if mode == "charge" else {})
        return tuple(
            Write(name, values[name], name in STORED, compared=name != "minutes") for name in order if name in values
        )

    def touched(self, mode):
        return tuple(name for name, _ in SEQUENCES[mode])

    def idle(self, mode):
        return {"command": 0} if mode == "charge" else {}

    async def limits(self):
        return {}

    def tick(self):
        if self.expires_ms is not None and self.clock.ms >= self.expires_ms:
            self.bits["command"], self.expires_ms = 0, None

    def _answers(self):
        self.tick()
        if self.cut:
            raise LinkError("cut")
        if self.silent > 0:
            self.silent -= 1
            raise UnansweredError("silent")

    async def get(self, setting):
        await asyncio.sleep(0)
        self._answers()
        if self.lose_reads > 0:
            self.lose_reads -= 1
            raise UnansweredError("lost on the way back")
        return self.start if setting == "start" else self.bits[setting]

    async def put(self, write):
        await asyncio.sleep(0)
        self._answers()
        if self.lose_writes.get(write.setting, 0) > 0:
            self.lose_writes[write.setting] -= 1
            raise UnansweredError("lost on the way")
        if self.refuse.get(write.setting, 0) > 0:
            self.refuse[write.setting] -= 1
            raise RefusedError("exception 4")
        self.sent.append((write.setting, write.value))
        self.set(write.setting, write.value)
        if self.die_after is not None:
            self.die_after -= 1
            if self.die_after <= 0:
                self.die_after = None
                raise KilledError
        if self.lose_answers > 0:
            self.lose_answers -= 1
            raise UnansweredError("lost")

    def set(self, name, value):
        self.bits[name] = value
        if name == "command":
            self.expires_ms = self.clock.ms + self.bits["minutes"] * 60_000 if value else None

    def restart(self):
        self.start += 1
        self.expires_ms = None
        self.bits |= {"power": 0, "minutes": 0, "command": 0}

    @property
    def is_normal(self):
        self.tick()
        return all(self.bits[name] == NORMAL[name] for name in ("command", "discharge_limit", "reserve"))


class KilledError(BaseException):
    """The program ends here, without any clean-up."""


class House:
    """An inverter, the agent's memory on disk, and a keeper that may die and be started again."""

    def __init__(self, unix_ms=MIDNIGHT_MS, **table):
        self.clock = HandClock(unix_ms)
        self.inverter = Inverter(self.clock)
        self.memory = DictMemory()
        self.events = []
        self.soc = 50
        self.state = "on_grid"
        self.more = {}
        self.settings = BatterySettings(**{"owned_by": "agent", "no_revert_timer": "accepted"} | table)
        self.connected = False
        self.born()

    def born(self):
        self.keeper = Keeper("battery", "unit 1", self.inverter, self.settings, self.clock, POLL_S)
        self.connected = False

    async def emit(self, item, remember=None):
        if remember is not None:
            self.memory.take(remember)
        assert isinstance(item, Event)
        self.events.append((item.kind, dict(item.data)))

    async def _guarded(self, doing):
        try:
            return await doing
        except KilledError:
            self.born()
        except LinkError as error:
            self.keeper.disconnected(str(error))
            self.connected = False
        return None

    async def round(self):
        """One tick of the driver."""
        self.clock.ms += POLL_S * 1000
        if not self.connected:
            if self.inverter.cut:
                return
            self.connected = True
            await self._guarded(self.keeper.arrive(self.emit, self.memory))
        if not self.connected:
            return
        if self.inverter.cut:
            self.keeper.disconnected("cut")
            self.connected = False
            return
        if self.inverter.silent > 0:
            self.inverter.silent -= 1
            self.keeper.away("lost")
            return
        values = {"battery_soc_percent": self.soc, "state": self.state} | self.more
        await self._guarded(self.keeper.serve(values, self.clock.ms))

    async def rounds(self, seconds):
        for _ in range(seconds // POLL_S):
            await self.round()

    async def command(self, mode, **arguments):
        try:
            return await self._guarded(self.keeper.command({"mode": mode, **arguments}))
        except RefusedError as error:
            return error

    async def stop(self):
        await self._guarded(self.keeper.leave())
        self.keeper.disconnected("stopped")
        self.born()


OPERATIONS = st.one_of(
    st.tuples(st.just("command"), st.sampled_from(["charge", "hold", "reserve", "normal"])),
    st.tuples(st.just("round"), st.integers(1, 9)),
    st.tuples(st.just("kill"), st.none()),
    st.tuples(st.just("kill in write"), st.integers(1, 8)),
    st.tuples(st.just("stop"), st.none()),
    st.tuples(st.just("cut"), st.integers(0, 9)),
    st.tuples(st.just("silence"), st.integers(1, 5)),
    st.tuples(st.just("restart"), st.none()),
    st.tuples(st.just("refuse"), st.tuples(st.sampled_from(sorted(NORMAL)), st.integers(1, 3))),
    st.tuples(st.just("lost answers"), st.integers(1, 4)),
    st.tuples(st.just("soc"), st.integers(0, 100)),
)


async def play(operations):
    house = House()
    inverter = house.inverter
    await house.round()

    async def cut(ticks):
        inverter.cut = True
        await house.rounds(ticks * POLL_S)
        inverter.cut = False

    waits = {
        "command": lambda mode: house.command(mode, for_s=600),
        "round": lambda ticks: house.rounds(ticks * POLL_S),
        "stop": lambda _: house.stop(),
        "cut": cut,
    }
    acts = {
        "kill": lambda _: house.born(),
        "kill in write": lambda count: setattr(inverter, "die_after", count),
        "silence": lambda times: setattr(inverter, "silent", times),
        "restart": lambda _: inverter.restart(),
        "refuse": lambda what: inverter.refuse.update([what]),
        "lost answers": lambda times: setattr(inverter, "lose_answers", times),
        "soc": lambda percent: setattr(house, "soc", percent),
    }
    for name, argument in operations:
        if name in waits:
            await waits[name](argument)
        else:
            acts[name](argument)
    inverter.refuse.clear()
    inverter.silent = inverter.lose_answers = 0
    inverter.die_after = None
    return house


@settings(max_examples=400, deadline=None)
@given(st.lists(OPERATIONS, max_size=25))
@example([("kill in write", 1), ("command", "charge")])
@example([("command", "hold"), ("cut", 3)])
@example([("kill in write", 2), ("command", "hold"), ("command", "hold"), ("kill", None)])
def test_after_any_order_of_mishaps_and_a_return_the_device_is_normal_within_a_minute(operations):
    async def life():
        house = await play(operations)
        house.born()  # whatever was on, the agent dies and returns
        await house.rounds(60)
        assert house.inverter.is_normal, (house.inverter.bits, house.keeper.status())
        assert not house.keeper.policy.owes
        assert house.memory.get("battery/at/unit 1") is None

    asyncio.run(life())


@settings(max_examples=200, deadline=None)
@given(st.lists(OPERATIONS, max_size=25))
def test_without_a_crash_every_command_ends_in_normal(operations):
    async def life():
        house = await play(operations)
        await house.rounds(660)  # the longest command and a minute
        assert house.inverter.is_normal, (house.inverter.bits, house.keeper.status())

    asyncio.run(life())


async def test_a_command_is_saved_before_its_first_write_and_forgotten_when_undone():
    house = House()
    await house.round()
    seen = []
    put = house.inverter.put

    async def watched(write):
        seen.append(owed_from(house.memory.get("battery/at/unit 1")))
        await put(write)

    house.inverter.put = watched
    answer = await house.command("charge", power_w=1500, for_s=600)
    assert answer["mode"] == "charge"
    assert answer["until"] == "2026-06-01T00:10:10+09:00"
    assert [owed.saved for owed in seen] == [{"power": 0, "minutes": 0, "command": 0}] * 3
    assert house.inverter.sent == [("power", 1500), ("minutes", 2), ("command", 1)]
    await house.command("normal")
    assert house.inverter.bits == NORMAL
    assert house.memory.get("battery/at/unit 1") is None
    assert house.events[-1] == ("battery_mode", {"mode": "normal", "reason": house.keeper.policy.reason})


async def test_a_timer_is_set_anew_within_a_third_of_it_and_the_command_ends_at_its_deadline():
    house = House()
    await house.round()
    await house.command("charge", for_s=590)
    longest, last = 0, house.clock.ms
    while house.keeper.policy.request is not None:
        count = len(house.inverter.sent)
        await house.round()
        if len(house.inverter.sent) > count:
            longest, last = max(longest, house.clock.ms - last), house.clock.ms
    assert longest <= 40_000
    assert house.inverter.is_normal
    assert house.keeper.policy.reason == "its time is over"


async def test_a_long_timer_that_lies_in_flash_is_looked_at_often_and_set_anew_seldom_within_the_budget():
    house = House()
    house.inverter.modes = MODES | {"charge": ModeFacts(14_400, takes_power=True)}
    sequence = house.inverter.sequence
    house.inverter.sequence = lambda request, limits: tuple(
        replace(write, stored=True, value=240 if write.setting == "minutes" else write.value)
        for write in sequence(request, limits)
    )
    house.born()
    await house.round()
    await house.command("charge", for_s=7 * 3600)
    count = len(house.inverter.sent)
    reads, get = [], house.inverter.get

    async def watched(setting):
        reads.append(house.clock.ms)
        return await get(setting)

    house.inverter.get = watched
    await house.rounds(4_700)
    assert len(house.inverter.sent) == count
    assert max(later - former for former, later in pairwise(reads)) <= 40_000
    await house.rounds(100)
    assert house.inverter.sent[count:] == [("minutes", 240), ("command", 1)]
    house.keeper.ledger.today = 24
    await house.rounds(4_800)
    assert house.keeper.policy.reason.startswith("charge was broken off: 24 of 24 writes")
    assert house.inverter.is_normal


@pytest.mark.parametrize("setting", ["power", "minutes", "command"])
async def test_a_refused_write_in_the_middle_undoes_the_rest_at_once(setting):
    house = House()
    await house.round()
    house.inverter.refuse[setting] = 1
    answer = await house.command("charge", for_s=600)
    assert isinstance(answer, RefusedError)
    assert "exception 4" in str(answer)
    assert house.inverter.bits == NORMAL
    assert [kind for kind, _ in house.events] == ["battery_refused", "battery_mode"]


async def test_a_refused_undoing_is_tried_until_it_is_done_and_a_person_is_told_once():
    house = House()
    await house.round()
    await house.command("hold", for_s=600)
    house.inverter.refuse["discharge_limit"] = 9
    await house.command("normal")
    await house.rounds(300)
    assert house.inverter.is_normal
    assert [kind for kind, _ in house.events].count("battery_stuck") == 1


def with_power(power_w, sequence):
    """Let a charge come to another power, as where the device's own limit has moved, and be told with each sign."""

    def moved(request, limits):
        return tuple(
            replace(write, value=power_w, always=True) if write.setting == "power" else write
            for write in sequence(request, limits)
        )

    return moved


async def test_a_lost_answer_is_read_back_and_not_sent_again():
    house = House()
    await house.round()
    house.inverter.lose_answers = 3
    answer = await house.command("charge", for_s=600)
    assert answer["mode"] == "charge"
    assert house.inverter.sent == [("power", 2000), ("minutes", 2), ("command", 1)]


async def test_a_lost_write_of_what_the_device_counts_down_is_sent_again_before_the_command():
    house = House()
    await house.round()
    house.inverter.lose_writes = {"minutes": 1}
    answer = await house.command("charge", for_s=600)
    assert answer["mode"] == "charge"
    assert house.inverter.sent == [("power", 2000), ("minutes", 2), ("command", 1)]
    assert house.inverter.expires_ms is not None


async def test_one_lost_answer_to_a_look_ends_no_mode():
    house = House()
    await house.round()
    await house.command("charge", for_s=3600)
    for _ in range(60):
        house.inverter.lose_reads = 1
        await house.round()
    assert house.inverter.bits["command"] == 1
    assert [kind for kind, _ in house.events] == ["battery_mode"]


async def test_a_limit_that_moves_is_no_other_master():
    house = House()
    await house.round()
    await house.command("charge", for_s=3600)
    for power in range(2000, 1900, -10):
        house.inverter.sequence = with_power(power, house.inverter.sequence)
        await house.rounds(60)
    assert house.inverter.bits["command"] == 1
    assert house.inverter.bits["power"] == 1910
    assert [kind for kind, _ in house.events] == ["battery_mode"]


async def test_another_master_is_answered_three_times_and_then_left_alone():
    house = House()
    await house.round()
    await house.command("charge", for_s=6000)
    changes = 0
    while not house.keeper.policy.has_given_up(house.clock.ms):
        if house.inverter.bits["command"] == 1:
            house.inverter.set("command", 2)
            changes += 1
        await house.round()
        assert changes <= 4
    assert changes == 4
    assert house.inverter.bits["command"] == 2, "his command stands"
    assert house.inverter.bits["power"] == 0, "ours is undone"
    assert "battery_given_up" in [kind for kind, _ in house.events]
    count = len(house.inverter.sent)
    await house.rounds(600)
    assert len(house.inverter.sent) == count
    house.inverter.set("minutes", 60)
    house.inverter.set("command", 2)
    assert "somebody else" in str(await house.command("charge", for_s=60))


async def test_a_device_that_was_started_again_goes_back_to_normal():
    house = House()
    await house.round()
    await house.command("hold", for_s=6000)
    house.inverter.restart()
    assert not house.inverter.is_normal
    await house.rounds(60)
    assert house.inverter.is_normal
    assert "started again" in house.keeper.policy.reason


async def test_missing_and_old_readings_end_a_command():
    house = House()
    await house.round()
    await house.command("charge", for_s=6000)
    house.soc = None
    await house.rounds(20)
    assert house.inverter.is_normal
    assert "state of charge" in str(await house.command("charge", for_s=6000))


async def test_charging_ends_at_its_goal_and_never_goes_above_the_limit():
    house = House(max_soc_percent=80)
    await house.round()
    await house.command("charge", for_s=6000, soc_percent=100)
    assert house.keeper.policy.request.soc_percent == 80
    house.soc = 80
    await house.round()
    assert house.inverter.is_normal
    assert "charged to 80" in house.keeper.policy.reason


async def test_stored_writes_have_a_daily_budget_that_undoing_does_not_need():
    house = House(stored_writes_per_day=4)
    await house.round()
    for _ in range(2):
        assert (await house.command("hold", for_s=600))["mode"] == "hold"
        await house.command("normal")
        await house.round()
    assert "stored_writes_per_day" in str(await house.command("hold", for_s=600))
    assert house.inverter.is_normal
    house.born()
    await house.round()
    assert house.keeper.status()["writes"]["stored_today"] == 4
    house.clock.ms += 86_400_000
    await house.round()
    assert (await house.command("hold", for_s=600))["mode"] == "hold"


async def test_nothing_is_written_while_the_grid_is_gone():
    house = House()
    await house.round()
    await house.command("charge", for_s=300)
    house.state = "off_grid"
    await house.round()
    count = len(house.inverter.sent)
    await house.rounds(600)
    assert len(house.inverter.sent) == count
    assert house.keeper.status()["outage"] is True
    assert "grid is gone" in str(await house.command("hold", for_s=60))
    house.state = "on_grid"
    await house.round()
    assert house.inverter.is_normal


async def test_a_third_partys_battery_is_never_written_not_even_to_undo():
    house = House()
    await house.round()
    await house.command("hold", for_s=600)
    count = len(house.inverter.sent)
    house.settings = BatterySettings(owned_by="third_party", no_revert_timer="accepted", modes=["hold", "charge"])
    house.born()
    await house.rounds(120)
    assert "third party" in str(await house.command("hold", for_s=60))
    await house.stop()
    assert len(house.inverter.sent) == count


async def test_without_a_memory_that_outlives_a_crash_nothing_is_begun():
    class Scratch:
        def get(self, key):
            return None

        async def update(self, changes):
            pass

    house = House(tariff=TariffSettings(cheap=[WindowSettings("00:00", "07:00")], capacity_kwh=10))
    house.memory = Scratch()
    await house.rounds(60)
    assert "kept on disk" in str(await house.command("charge", for_s=60))
    assert house.inverter.sent == []


async def test_stopping_the_agent_puts_the_battery_back():
    house = House()
    await house.round()
    await house.command("hold", for_s=600)
    await house.stop()
    assert house.inverter.is_normal
    assert house.memory.get("battery/at/unit 1") is None


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"mode": "boost"}, "no mode"),
        ({"mode": "charge", "power_w": True}, "power_w"),
        ({"mode": "charge", "power_w": 20}, "20 W"),
        ({"mode": "charge", "for_s": -1}, "for_s"),
        ({"mode": "charge", "for_s": float("nan")}, "for_s"),
        ({"mode": "charge", "until": "tomorrow"}, "until"),
        ({"mode": "charge", "until": "2020-01-01T00:00"}, "deadline"),
        ({"mode": "charge", "speed": 9}, "speed"),
        ({"mode": "discharge_to_load"}, "not allowed"),
    ],
)
async def test_a_command_that_makes_no_sense_is_refused_with_its_reason(arguments, said):
    house = House()
    await house.round()
    with pytest.raises(RefusedError, match=said):
        await house.keeper.command(arguments)
    assert house.inverter.sent == []


async def test_the_schedule_charges_in_the_cheap_hours_and_yields_to_a_person():
    window = WindowSettings("01:00", "05:00")
    house = House(tariff=TariffSettings(cheap=[window], capacity_kwh=10, margin_min=0), max_soc_percent=90)
    await house.rounds(1800)
    assert house.keeper.status()["schedule"] == "normal: not in the cheap hours"
    await house.rounds(3 * 3600)
    assert house.keeper.policy.request.owner == "schedule"
    assert house.inverter.bits["command"] == 1
    await house.command("normal", for_s=1200)
    assert house.inverter.is_normal
    await house.rounds(1190)
    assert house.inverter.is_normal
    await house.rounds(60)
    assert house.inverter.bits["command"] == 1
    await house.rounds(2 * 3600)
    assert house.inverter.is_normal


async def test_the_schedules_power_changes_only_by_much():
    window = WindowSettings("00:00", "08:00")
    house = House(tariff=TariffSettings(cheap=[window], capacity_kwh=10, margin_min=0), max_soc_percent=90)
    powers = []
    for _ in range(8 * 360):
        await house.round()
        house.soc = min(90, house.soc + house.inverter.bits["power"] * POLL_S / 3600 / 10_000 * 100)
        powers += [house.inverter.bits["power"]] if house.inverter.bits["command"] == 1 else []
    assert house.soc == 90
    assert len({*powers}) <= 4
    assert house.inverter.is_normal


async def test_without_a_set_clock_the_schedule_wants_nothing():
    house = House(unix_ms=None, tariff=TariffSettings(cheap=[WindowSettings("00:00", "24:00")], capacity_kwh=10))
    await house.rounds(7200)
    assert house.inverter.sent == []
    assert house.keeper.status()["schedule"] == "normal: the clock is not set"


async def test_an_alert_keeps_a_reserve_and_lets_it_go_half_an_hour_after():
    house = House(alert=AlertSettings(level=3, soc_percent=80))
    await house.round()
    house.keeper.hear(b'{"level": 3, "checked_at": "2026-06-01T00:00:00+09:00", "valid_until": null}')
    await house.round()
    assert house.inverter.bits["reserve"] == 80
    house.keeper.hear(b'{"level": 1, "checked_at": "2026-06-01T00:10:00+09:00", "valid_until": null}')
    house.keeper.hear(b"\xff not an alert")
    await house.rounds(1200)
    assert house.inverter.bits["reserve"] == 80
    await house.rounds(900)
    assert house.inverter.is_normal
    assert house.keeper.policy.reason == "the alert is over"


def warned(house, level=3, minute=0):
    house.keeper.hear(b'{"level": %d, "checked_at": "2026-06-01T%02d:%02d:00+09:00"}' % (level, *divmod(minute, 60)))


def alarmed(charge):
    """A house that needs little, half an hour before cheap hours, with an alert."""
    tariff = TariffSettings(cheap=[WindowSettings("00:30", "03:00")], capacity_kwh=10, expected_load_kwh=1, learn=False)
    house = House(tariff=tariff, alert=AlertSettings(3, 80, charge))
    warned(house)
    return house


async def test_an_alert_raises_what_the_cheap_hours_charge_and_keeps_it():
    house = alarmed("cheap_hours")
    await house.rounds(1700)
    assert (house.inverter.bits["command"], house.inverter.bits["reserve"]) == (0, 80)
    await house.rounds(300)
    assert (house.inverter.bits["command"], house.inverter.bits["reserve"]) == (1, NORMAL["reserve"])
    shown = house.keeper.status()
    assert (shown["owner"], shown["plan"]["reason"], shown["plan"]["goal_percent"]) == ("alert", "alert", 80)
    house.soc = 80
    await house.rounds(60)
    assert (house.inverter.bits["command"], house.inverter.bits["reserve"]) == (0, 80)
    house.soc = 77  # 4 % must be gone before it is charged again
    count = len(house.inverter.sent)
    await house.rounds(300)
    assert len(house.inverter.sent) == count
    house.soc = 75
    await house.rounds(60)
    assert house.inverter.bits["command"] == 1
    warned(house, level=1, minute=50)
    await house.rounds(1900)
    assert house.inverter.is_normal
    assert house.keeper.status()["plan"]["goal_percent"] == 20


@pytest.mark.parametrize(("charge", "at_once", "in_cheap_hours"), [("at_once", 1, 1), ("never", 0, 0)])
async def test_an_alert_charges_outside_cheap_hours_only_where_that_is_configured(charge, at_once, in_cheap_hours):
    house = alarmed(charge)
    await house.rounds(600)
    assert house.inverter.bits["command"] == at_once
    await house.rounds(2400)
    assert house.inverter.bits["command"] == in_cheap_hours
    house.soc = 90
    await house.rounds(60)
    assert (house.inverter.bits["command"], house.inverter.bits["reserve"]) == (0, 80)


async def test_a_charge_for_an_alert_keeps_the_contract_and_does_not_come_and_go_with_a_restless_house():
    house = alarmed("at_once")
    tariff = msgspec.structs.replace(house.settings.tariff, contract_w=4000)
    house.settings = msgspec.structs.replace(house.settings, tariff=tariff)
    house.born()
    warned(house)
    for minute in range(60):
        warned(house, minute=minute)
        load_w = 3950 if minute % 3 == 2 else 2500
        charging_w = house.inverter.bits["power"] if house.inverter.bits["command"] else 0
        house.more = {"grid_power_w": load_w + charging_w, "battery_power_w": -charging_w, "pv_power_w": 0}
        await house.rounds(60)
        if house.inverter.bits["command"]:
            assert load_w + house.inverter.bits["power"] <= 4000
    assert house.inverter.sent.count(("reserve", 80)) <= 5


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_whatever_was_remembered_gives_a_debt_or_none(remembered):
    owed = owed_from(remembered)
    assert owed is None or owed_from(owed.as_json()) == owed


async def test_a_device_that_was_away_is_undone_before_the_schedule_goes_on():
    house = House(tariff=TariffSettings(cheap=[WindowSettings("00:00", "02:00")], capacity_kwh=10))
    await house.rounds(1800)
    assert house.inverter.bits["command"] == 1
    house.events.clear()
    house.inverter.silent = 1
    await house.rounds(60)
    assert [data["mode"] for _, data in house.events] == ["normal", "charge"]


def tariffed(*window, **more):
    """A house with a tariff whose inverter has no meter at the grid."""
    tariff = TariffSettings(cheap=[WindowSettings(*window)], capacity_kwh=10, margin_min=0, **more)
    house = House(tariff=tariff, max_soc_percent=90)
    house.more = {"battery_power_w": 0, "pv_power_w": 0}
    return house


async def test_the_schedule_gives_way_to_the_house_that_another_drivers_meter_sees():
    house = tariffed("00:00", "02:00", contract_w=4000)
    await house.rounds(60)
    assert house.keeper.status()["plan"]["reason"] == "house_unknown"

    async def lived(house_w, device="meter"):
        """A minute in which the meter answers twice, a moment before the inverter does."""
        for tick in range(60 // POLL_S):
            house.more["battery_power_w"] = -house.inverter.bits["power"] * house.inverter.bits["command"]
            if tick % 3 == 0:
                grid_w = house_w - house.more["battery_power_w"]
                house.keeper.overhear("grid", Sample(device, house.clock.ms, {"grid_power_w": grid_w}))
            await house.round()
        return house.inverter.bits["power"]

    assert await lived(500, device="battery") == 0, "its own reading is no other meter's"
    powers = [await lived(500 if minute < 6 else 2800) for minute in range(12)]
    assert powers[:6] == [500, 1000, 1500, 2000, 2000, 2000]
    assert powers[6:] == [1200] * 6
    plan = house.keeper.status()["plan"]
    assert (plan["house_w"], plan["house_from"], plan["power_w"]) == (2800, "house_meter", 1200)
    await house.rounds(120)
    assert house.inverter.is_normal
    assert house.keeper.status()["plan"]["reason"] == "house_unknown", "an old reading keeps no contract"


async def test_what_was_learnt_of_the_house_outlives_the_agent():
    house = tariffed("23:00", "07:00")
    house.more = {"battery_power_w": 0, "pv_power_w": 200, "grid_power_w": 400}
    for _ in range(3 * 86_400 // 150):
        house.clock.ms += (150 - POLL_S) * 1000
        await house.round()
    expected = house.keeper.status()["plan"]
    assert (expected["expected_load_kwh"], expected["expected_pv_kwh"]) == (9.6, 3.2)
    assert (expected["expected_from"], expected["learnt_days"]) == ("kind", 3)
    house.born()
    await house.rounds(60)
    again = house.keeper.status()["plan"]
    assert [again[key] for key in ("expected_load_kwh", "learnt_days", "goal_percent")] == [9.6, 3, 74]


async def test_a_garbled_memory_of_the_house_is_forgotten_with_a_message(caplog):
    house = tariffed("23:00", "07:00", expected_load_kwh=3)
    for weekday in range(7):
        house.memory.content[f"house/learnt/{weekday}"] = [{"20000": "A" * 192}, {"x": "y"}, 7][weekday % 3]
    await house.rounds(60)
    assert house.keeper.status()["plan"]["expected_from"] == "configured"
    assert len([record for record in caplog.records if "makes no sense" in record.getMessage()]) == 1


async def test_a_memory_without_room_costs_the_learnt_and_not_the_debt(caplog):
    house = tariffed("23:00", "07:00")
    house.more = {"battery_power_w": 0, "pv_power_w": 0, "grid_power_w": 400}
    update = house.memory.update

    async def full(changes):
        if any("/learnt/" in key for key in changes):
            raise MalformedError("the memory would take 70000 bytes")
        await update(changes)

    house.memory.update = full
    await house.rounds(4000)
    assert "is not kept" in caplog.text
    assert (await house.command("charge", for_s=600))["mode"] == "charge"


async def test_a_dead_grid_freezes_everything_and_says_how_long_the_battery_lasts():
    house = tariffed("00:00", "02:00")
    house.state = None
    house.more |= {"grid_voltage_l1_v": 101.5, "grid_voltage_l2_v": 0}
    await house.rounds(3600)
    assert house.inverter.bits["command"] == 1
    house.more = {"battery_power_w": 500, "grid_voltage_l1_v": 0.4, "grid_voltage_l2_v": None}
    await house.round()
    count = len(house.inverter.sent)
    await house.rounds(3600)
    assert len(house.inverter.sent) == count
    shown = house.keeper.status()
    assert (shown["outage"], shown["hours_left"]) == (True, 10.0)
    house.more |= {"grid_voltage_l1_v": 100}
    await house.round()
    assert [event for event in house.events if event[0].startswith("grid_")] == [
        ("grid_lost", {"hours_left": 10.0}),
        ("grid_back", {}),
    ]
    await house.rounds(60)
    assert "outage" not in house.keeper.status()


async def test_a_device_that_reports_a_fault_is_put_back_and_not_commanded_until_it_is_over():
    house = House()
    await house.rounds(60)
    await house.command("hold", for_s=7200)
    assert not house.inverter.is_normal
    house.state = "fault"
    await house.round()
    assert house.inverter.is_normal
    assert house.keeper.status()["fault"] == "state fault"
    assert house.keeper.status()["last_ended"] == "the device reports state fault"
    assert "reports state fault" in str(await house.command("hold", for_s=60))
    house.state = None
    await house.rounds(140)
    assert "fault" in house.keeper.status(), "a state that is not told now is the last one that was"
    house.state = "on_grid"
    await house.round()
    assert "fault" not in house.keeper.status()
    kinds = [(kind, data) for kind, data in house.events if kind.startswith("battery_fault")]
    assert kinds == [("battery_fault", {"state": "state fault"}), ("battery_fault_over", {})]
    assert (await house.command("hold", for_s=60))["mode"] == "hold"


async def test_after_a_fault_the_schedule_waits_a_quarter_of_an_hour():
    house = tariffed("00:00", "02:00")
    await house.rounds(3600)
    assert house.inverter.bits["command"] == 1
    for state in ("fault", "on_grid") * 6:
        house.state = state
        await house.round()
        assert house.inverter.bits["command"] == 0
    sent = len(house.inverter.sent)
    await house.rounds(840)
    assert len(house.inverter.sent) == sent
    await house.rounds(120)
    assert house.inverter.bits["command"] == 1


@pytest.mark.parametrize(("keeps_power", "first_w"), [(True, 2000), (False, 500)])
async def test_a_power_that_lies_in_flash_is_told_whole(keeps_power, first_w):
    house = tariffed("00:00", "01:00")
    house.inverter.modes = MODES | {"charge": ModeFacts(120, takes_power=True, keeps_power=keeps_power)}
    house.born()
    await house.rounds(60)
    assert house.inverter.sent[0] == ("power", first_w)


async def test_a_third_partys_battery_has_no_plan_and_nothing_is_learnt_for_it():
    house = tariffed("00:00", "24:00")
    house.settings = BatterySettings("third_party", tariff=house.settings.tariff)
    house.more |= {"grid_power_w": 400}
    house.born()
    await house.rounds(7200)
    assert "plan" not in house.keeper.status()
    assert house.memory.content == {}


@pytest.mark.parametrize("jump_h", [3, -3, 24 * 365 * 20, -24 * 365, None])
async def test_a_clock_that_jumps_during_a_charge_ends_it_unless_it_is_cheap_then_too(jump_h):
    house = tariffed("01:00", "03:00")
    house.clock.offset += 3_600_000
    await house.rounds(600)
    assert house.inverter.bits["command"] == 1
    house.clock.offset = None if jump_h is None else house.clock.offset + jump_h * 3_600_000
    await house.round()
    is_cheap = jump_h is not None and jump_h % 24 == 0
    assert house.inverter.is_normal is not is_cheap
    await house.rounds(5 * 3600)
    assert house.inverter.is_normal
    assert not house.keeper.policy.owes
