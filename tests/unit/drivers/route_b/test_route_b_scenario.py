"""The whole driver through one file of every fault, in virtual time: no half hour is lost, none made up or doubled."""

import asyncio
import contextlib
import itertools
import json
import random
from collections import Counter
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from meter_air import CREDENTIALS, START_MS, VirtualClock

from drivers.api import Context, Event, LinkError, Sample
from drivers.contract import DictMemory
from drivers.route_b.checks import check
from drivers.route_b.driver import RouteB, create
from drivers.route_b.j11_session import J11Session
from drivers.route_b.session import Session
from simulators import clock, scenario
from simulators.air import Radio
from simulators.clock import SimulatedClock
from simulators.house import House
from simulators.log import ServedLog
from simulators.meter import MeterSettings, serve
from simulators.meter_steps import (
    KINDS,
    EndSession,
    Exchange,
    NoJoinAnswer,
    RefuseStep,
    WrongPassword,
    unfit_for_j11,
)
from simulators.metering import NOBODYS_POWER_W, Nameplate

HALF_HOUR_S = 1800
HOURS = 9
POLL_S = 60
SEED = 1


class Wire:
    """A serial line in memory: the simulator plugs in and pulls out at one end, the driver opens the other."""

    def __init__(self):
        self._on_data = None
        self._arrived = None
        self.joins_at = []

    def plug_in(self):
        self._arrived = asyncio.Queue()
        return self

    def listen(self, on_data):
        self._on_data = on_data

    def close(self):
        self._on_data = None
        self._arrived.put_nowait(None)

    def opened(self):
        if self._on_data is None:
            raise LinkError("there is no such port")
        return WireEnd(self, self._arrived)

    def write(self, data):
        self._arrived.put_nowait(bytes(data))


class WireEnd:
    """The driver's end, until the dongle is pulled out."""

    def __init__(self, wire, arrived):
        self._wire, self._arrived, self._receive = wire, arrived, wire._on_data

    async def read(self):
        if (data := await self._arrived.get()) is None:
            self._arrived.put_nowait(None)
            raise LinkError("the port has closed")
        return data

    async def write(self, data):
        if self._wire._on_data is not self._receive:
            raise LinkError("the port has closed")
        if data.startswith(b"SKJOIN"):
            self._wire.joins_at.append(asyncio.get_running_loop().time())
        self._receive(data)


class Played:
    """A scenario and what came of it: what the driver emitted, what the simulator logged and counted."""

    def __init__(self, tmp_path, steps, dialect="c2"):
        self.steps = steps
        self.clock = VirtualClock()
        self.items, self.memory, self.tally, self.wire = [], DictMemory(), Counter(), Wire()
        self._path = tmp_path / "served.log"
        self._settings = MeterSettings(
            dialect=dialect,
            radio=Radio(radio_time=1.0),
            nameplate=Nameplate(unit="0.01"),
            binary=dialect != "j11",
            seed=SEED,
            scenario=steps,
        )
        context = Context("meter", self.clock, {"route-b": CREDENTIALS}.__getitem__)
        built = create(context, {"port": "wire", "credentials": "route-b", "poll_s": POLL_S})
        self.driver = RouteB(context, built._settings, built._credentials, self._open)
        self._session = J11Session if dialect == "j11" else Session

    @contextlib.asynccontextmanager
    async def _open(self, opening):
        yield self._session(
            self.wire.opened(),
            opening.credentials,
            opening.hear,
            opening.timeouts,
            limits=opening.limits,
            clock=opening.clock,
            joining=opening.joining,
        )

    async def _emit(self, item, remember=None):
        self.items.append(item)
        await self.memory.update(remember or {})

    async def _supervise(self):
        while True:
            with contextlib.suppress(LinkError):
                await self.driver.run(self._emit, self.memory)
            await asyncio.sleep(5)

    async def play(self, seconds):
        random.seed(SEED)  # of the driver's waits
        simulated = SimulatedClock(real_ms=self.clock.true_ms)
        log = ServedLog(self._path, simulated)
        house = House(start_ms=START_MS)
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(
                    serve(house, simulated, link=None, log=log, settings=self._settings, plug_in=self.wire.plug_in,
                          tally=self.tally)
                ),
                group.create_task(self._supervise()),
            ]  # fmt: skip
            await asyncio.sleep(seconds)
            self.status = self.driver.status()
            for task in tasks:
                task.cancel()
        log.close()
        return self

    def log(self):
        return [json.loads(line) for line in self._path.read_text().splitlines()]

    def events(self, kind):
        return [item.data for item in self.items if isinstance(item, Event) and item.kind == kind]

    def doctor(self):
        """Return what the doctor says of each step: verdict, finding, remedy."""
        health = {"state": "running", "error": "", "detail": self.status}
        context = Context("meter", self.clock, str)
        return {name.removeprefix("meter: "): rest for name, *rest in check(context, {"port": "wire"}, health)}

    def live(self):
        return [item for item in self.items if isinstance(item, Sample) and isinstance(item.at, int)]

    def told(self):
        """Return ((moment, quantity), value) of every half hour passed on."""
        timed = [item for item in self.items if isinstance(item, Sample) and not isinstance(item.at, int)]
        return [((item.at, name), value) for item in timed for name, value in item.values.items()]


def house_says(last_s, exchanged_s=None):
    """Return what hung there shows at each half hour up to a second: 0.01 kWh, from zero on after an exchange."""
    house, said = House(start_ms=START_MS), {}
    for at_s in range(0, last_s + 1, HALF_HOUR_S):
        balance, zero = house.half_hour(START_MS + at_s * 1000), (0, 0)
        if exchanged_s is not None and at_s >= exchanged_s:
            begun = begun_at(exchanged_s)
            zero = begun.import_ws, begun.export_ws
        at = datetime.fromtimestamp(START_MS / 1000 + at_s, UTC)
        said[at, "import_energy_at_30min_kwh"] = Decimal((balance.import_ws - zero[0]) // 36_000) / 100
        said[at, "export_energy_at_30min_kwh"] = Decimal((balance.export_ws - zero[1]) // 36_000) / 100
    return said


def begun_at(second):
    return House(start_ms=START_MS).at(START_MS + second * 1000)


def plain(values):
    return {(name, None if value is None else Decimal(str(value))) for name, value in values.items()}


def is_served(played):
    """See that each live sample is a line that the meter served just before, and that no line is used twice."""
    lines = [(line["sim"] - START_MS, plain(line["values"])) for line in played.log() if line.get("values")]
    at = 0
    for sample in played.live():
        wanted = plain(sample.values)
        at = next(n for n in range(at, len(lines)) if lines[n][1] >= wanted and lines[n][0] >= sample.at - 15_000) + 1
        assert lines[at - 1][0] <= sample.at
    return True


@pytest.fixture(autouse=True)
def nobody_sets_the_host_clock(monkeypatch):
    """The simulators' clock looks at it every five seconds, which is what takes long where seconds cost nothing."""
    monkeypatch.setattr(clock, "_LONGEST_SLEEP_S", HALF_HOUR_S)


@pytest.fixture
def steps(root):
    return scenario.read(root / "tests" / "data" / "route_b" / "every_fault.yaml", KINDS)


def tags(steps):
    return [type(step).__struct_config__.tag for step in steps]


def lost_nothing(played):
    """See that every half hour was passed on, once and as the house has it, and no value was made up or doubled."""
    exchanged_s = next(round(step.at_s) for step in played.steps if isinstance(step, Exchange))
    told = played.told()
    assert len(told) == len(dict(told))
    assert dict(told) == house_says(HOURS * 3600 - 1, exchanged_s)
    assert is_served(played)
    assert NOBODYS_POWER_W not in {sample.values.get("grid_power_w") for sample in played.live()}
    assert [sample.at for sample in played.live()] == sorted({sample.at for sample in played.live()})
    assert len(played.live()) > 0.65 * HOURS * 3600 / POLL_S
    assert played.driver.describe()["meter"]["serial"] == "NEXTMETER1"
    assert [event["fault"] for event in played.events("meter_fault")] == [True, False]
    assert len(played.events("meter_replaced")) == 1
    assert len(played.events("clock_check")) >= 1


HARM = {
    "lost", "joins_refused", "joins_unanswered", "limits", "muted_in", "sent_52", "sent_73", "sent_74",
    *(f"damage_{kind}" for kind in ("insert", "duplicate", "drop", "corrupt", "split", "delay", "stall")),
}  # fmt: skip


@pytest.mark.looptime(noop_cycles=0)  # all is in memory: nothing comes from outside
async def test_a_file_of_every_fault_costs_no_half_hour_and_makes_none_up(tmp_path, steps):
    played = await Played(tmp_path, steps).play(HOURS * 3600)
    lost_nothing(played)
    acted = [line["step"]["do"] for line in played.log() if "step" in line]
    assert acted == tags(steps)
    assert [line for line in played.log() if "missed" in line] == []
    assert set(acted) == set(KINDS)  # no kind is left out of the file
    sk_alone = {"neighbour_beacons", "expired", "renewals_refused"}
    assert {name for name in HARM | sk_alone if not played.tally[name]} == set()
    assert len(played.events("device_lost")) >= 8
    begun = []
    for at in played.wire.joins_at:  # a second SKJOIN soon after belongs to the first, whose line was bad
        begun += [at] if not begun or at - begun[-1] > 15 else []
    assert min(later - earlier for earlier, later in itertools.pairwise(begun)) > 29.999


@pytest.mark.looptime(noop_cycles=0)
async def test_a_j11_dongle_lives_through_all_of_it_that_it_can_have(tmp_path, steps):
    fit = tuple(step for step in steps if unfit_for_j11(step) is None)
    played = await Played(tmp_path, fit, "j11").play(HOURS * 3600)
    lost_nothing(played)
    assert [line["step"]["do"] for line in played.log() if "step" in line] == tags(fit)
    assert {name for name in HARM | {"sends_refused"} if not played.tally[name]} == set()


@pytest.mark.looptime(noop_cycles=0)
async def test_a_dongle_that_refuses_to_say_its_data_mode_is_joined_and_read(tmp_path):
    played = await Played(tmp_path, (), "dss").play(600)
    assert (played.status["dialect"], played.status["failures"], played.status["joins"]) == ("C2", 0, 1)
    assert len(played.live()) >= 600 // POLL_S
    assert is_served(played)


@pytest.mark.looptime(noop_cycles=0)
@pytest.mark.parametrize(
    ("keeps_out", "remedy"), [(WrongPassword, "first 24 characters"), (NoJoinAnswer, "it joins again by itself")]
)
async def test_the_doctor_says_why_a_meter_that_was_read_before_lets_nobody_in_any_more(tmp_path, keeps_out, remedy):
    played = await Played(tmp_path, (keeps_out(at_s=600), EndSession(at_s=601))).play(2 * 3600)
    assert played.status["polls"] >= 9
    assert played.status["scans"] >= 3
    *_, (last, (verdict, said, what_to_do)) = played.doctor().items()
    assert (last, verdict) == ("join", "error"), said
    assert remedy in what_to_do


@pytest.mark.looptime(noop_cycles=0)
async def test_a_meter_without_a_serial_that_is_exchanged_is_told_by_its_address(tmp_path):
    played = await Played(tmp_path, (RefuseStep(at_s=0, epcs=("8D",)), Exchange(at_s=7200))).play(3 * 3600)
    (replaced,) = played.events("meter_replaced")
    assert (replaced["series"], replaced["last"]["serial"], replaced["first"]["serial"]) == (2, None, None)
    assert played.driver.describe()["meter"]["series"] == 2


@pytest.mark.looptime(noop_cycles=0)
async def test_joins_without_an_answer_come_ever_more_seldom_and_start_over_after_a_reading(tmp_path, monkeypatch):
    monkeypatch.setattr(random, "uniform", lambda low, high: high)
    away_s = (3600, 3 * 3600)
    steps = [step for at in away_s for step in (NoJoinAnswer(at_s=at, for_s=3600), EndSession(at_s=at + 1))]
    played = await Played(tmp_path, tuple(steps)).play(4 * 3600)
    for at in away_s:
        begun = [join for join in played.wire.joins_at if at < join < at + 3600]
        waited = [later - earlier for earlier, later in itertools.pairwise(begun[1::2])]  # every other one scans first
        assert waited[0] < 120
        assert all(later > earlier + 5 for earlier, later in itertools.pairwise(waited[:6]))
        assert all(later == pytest.approx(300, rel=0.5) for later in waited[6:])
