"""Twelve hours on a bad radio in virtual time: the whole driver on the simulated dongle and meter, joined by a wire."""

import asyncio
import contextlib
import itertools
import json
import random
from datetime import UTC, datetime
from decimal import Decimal

import pytest

from drivers.api import Context, LinkError, Sample
from drivers.contract import DictMemory
from drivers.route_b.driver import RouteB, create
from drivers.route_b.session import Session
from simulators.air import Neighbour, Radio
from simulators.clock import SimulatedClock
from simulators.dongle import Dongle
from simulators.house import House
from simulators.log import ServedLog
from simulators.meter import MeterInRange, MeterSettings
from simulators.metering import Meter, Nameplate

START_MS = 1_780_239_600_000  # 2026-06-01T00:00:00+09:00
ID, PASSWORD = "00112233445566778899AABBCCDDEEFF", "0123456789AB"
POLL_S = 30
HALF_HOUR_MS = 1_800_000


class VirtualClock:
    """The driver's clock: the event loop's own time."""

    def boot_ms(self):
        return round(asyncio.get_running_loop().time() * 1000)

    def unix_ms(self):
        return START_MS + self.boot_ms()

    async def sleep_until(self, boot_ms):
        await asyncio.sleep(max(0, boot_ms - self.boot_ms()) / 1000)


class Wire:
    """A serial line in memory: what a session wants of a port on one side, a dongle on the other."""

    def __init__(self):
        self.dongle = None
        self.joins_at = []
        self._arrived = asyncio.Queue()

    async def read(self):
        if (data := await self._arrived.get()) is None:
            raise LinkError("the port has closed")
        return data

    async def write(self, data):
        if self.dongle is None:
            raise LinkError("the port has closed")
        if data.startswith(b"SKJOIN"):
            self.joins_at.append(asyncio.get_running_loop().time())
        self.dongle.receive(data)

    def say(self, data):
        self._arrived.put_nowait(bytes(data))

    def unplug(self):
        self.dongle.power_off()
        self.dongle = None
        self._arrived.put_nowait(None)


class Town:
    """One meter in range of one dongle, which can be pulled out, plugged in and restarted."""

    def __init__(self, radio, group, log, seed=1, release="F"):
        self.clock = SimulatedClock(real_ms=VirtualClock().unix_ms)
        self.settings = MeterSettings(radio=radio, nameplate=Nameplate(unit="0.01", release=release))
        self.meter = Meter(House(start_ms=START_MS), self.clock.unix_ms, self.settings.nameplate)
        self.log = ServedLog(log, self.clock)
        self.group = group
        self.seed = seed
        self.wire = Wire()
        self.notices = None
        self.plug_in()

    def plug_in(self):
        wire = self.wire
        wire.dongle = Dongle("c2", self.settings.radio, wire.say, self.group, binary=True, seed=self.seed)
        peer = MeterInRange(self.meter, wire.dongle, self.clock, self.log, self.settings, self.group)
        wire.dongle.peer = peer
        if self.notices is not None:
            self.notices.cancel()
        self.notices = self.group.create_task(peer.tell_half_hours())

    def opener(self):
        @contextlib.asynccontextmanager
        async def open_link(opening):
            if self.wire.dongle is None:
                raise LinkError("there is no such port")
            yield Session(
                self.wire,
                opening.credentials,
                opening.hear,
                opening.timeouts,
                limits=opening.limits,
                clock=opening.clock,
                joining=opening.joining,
            )

        return open_link


async def supervise(driver, emit, memory):
    while True:
        with contextlib.suppress(LinkError):
            await driver.run(emit, memory)
        await asyncio.sleep(5)


@contextlib.asynccontextmanager
async def bad_radio(tmp_path, seed=1, release="F", **radio):
    """Give a town, its driver at work, and the list of what the driver emits."""
    items, memory = [], DictMemory()

    async def emit(item, remember=None):
        items.append(item)
        await memory.update(remember or {})

    context = Context("meter", VirtualClock(), {"route-b": json.dumps({"id": ID, "password": PASSWORD})}.__getitem__)
    built = create(context, {"port": "wire", "credentials": "route-b", "poll_s": POLL_S})
    async with asyncio.TaskGroup() as group:
        town = Town(Radio(ID, PASSWORD, radio_time=1.0, **radio), group, tmp_path / "served.log", seed, release)
        driver = RouteB(context, built._settings, built._credentials, town.opener())
        task = group.create_task(supervise(driver, emit, memory))
        yield town, driver, items
        task.cancel()
        town.notices.cancel()
        if town.wire.dongle is not None:
            town.wire.dongle.power_off()
        town.log.close()


def served(tmp_path):
    return [json.loads(line) for line in (tmp_path / "served.log").read_text().splitlines()]


def plain(values):
    return {(name, None if value is None else Decimal(str(value))) for name, value in values.items()}


def house_says(slots):
    """Return what the house's registers showed at each half hour from the start, as the meter counts: 0.01 kWh."""
    house, said = House(start_ms=START_MS), {}
    for at_ms in (START_MS + n * HALF_HOUR_MS for n in slots):
        at, balance = datetime.fromtimestamp(at_ms / 1000, UTC), house.half_hour(at_ms)
        said[at, "import_energy_at_30min_kwh"] = Decimal(balance.import_ws // 36_000) / 100
        said[at, "export_energy_at_30min_kwh"] = Decimal(balance.export_ws // 36_000) / 100
    return said


def house_says_each_minute(first_ms, last_ms):
    """Return the same for each minute of a span, both ends included, in ms from the start."""
    house, said = House(start_ms=START_MS), {}
    for at_ms in range(START_MS + first_ms, START_MS + last_ms + 1, 60_000):
        at, (bought, sold) = datetime.fromtimestamp(at_ms / 1000, UTC), house.registers_at_minute(at_ms)
        said[at, "import_energy_at_1min_kwh"] = Decimal(bought // 36_000) / 100
        said[at, "export_energy_at_1min_kwh"] = Decimal(sold // 36_000) / 100
    return said


def live(items):
    return [item for item in items if isinstance(item, Sample) and isinstance(item.at, int)]


def half_hours(items):
    return [item for item in items if isinstance(item, Sample) and not isinstance(item.at, int)]


@pytest.mark.slow
@pytest.mark.timeout(60)
@pytest.mark.looptime(noop_cycles=0)  # nothing here is real, so nothing needs time to arrive
@pytest.mark.parametrize(("seed", "release"), [(1, "F"), (2, "F"), (3, "R")])
async def test_twelve_hours_of_a_bad_radio_lose_no_half_hour_and_almost_no_poll(tmp_path, seed, release):
    hours = 12
    random.seed(seed)  # of the waits between joins
    async with bad_radio(tmp_path, seed, release, loss=0.17, latency_s=0.57, expires_s=3600, neighbour=Neighbour()) as (
        town,
        driver,
        items,
    ):
        await asyncio.sleep(4 * 3600 + 11)
        town.wire.dongle.restart()
        await asyncio.sleep(4 * 3600)
        assert driver.status()["dongle_resets"] == 1
        town.wire.unplug()
        await asyncio.sleep(20)
        town.plug_in()
        await asyncio.sleep(hours * 3600 - asyncio.get_running_loop().time())
        status = driver.status()
    samples = live(items)

    assert status["polls"] / (status["polls"] + status["failures"]) >= 0.99
    assert len(samples) >= 0.99 * hours * 3600 / POLL_S

    spacing = [later - earlier for earlier, later in zip(town.wire.joins_at, town.wire.joins_at[1:], strict=False)]
    assert min(spacing) >= 30
    assert status["dongle_resets"] == 0  # of the dongle that was plugged in last
    assert len(town.wire.joins_at) == 3  # the first, after the restart, after the unplugging; no expiry needs one

    # Nothing invented, nothing doubled: each sample is a line that the meter served just before, no line is used twice.
    lines = [(line["sim"] - START_MS, plain(line["values"])) for line in served(tmp_path)]
    at = 0
    for sample in samples:
        at = next(n for n in range(at, len(lines)) if lines[n][1] == plain(sample.values)) + 1
        assert 0 <= sample.at - lines[at - 1][0] < 1000
    assert [sample.at for sample in samples] == sorted({sample.at for sample in samples})

    told = [((item.at, name), value) for item in half_hours(items) for name, value in item.values.items()]
    assert len(told) == len(dict(told))
    assert {key: value for key, value in told if "30min" in key[1]} == house_says(range(2 * hours))
    minutes = {key: value for key, value in told if "1min" in key[1]}
    assert bool(minutes) is (release == "R")
    if minutes:
        spans = [round(end(at for at, _ in minutes).timestamp() * 1000) - START_MS for end in (min, max)]
        assert spans[0] <= 3 * 60_000
        assert spans[1] >= (hours * 60 - 2) * 60_000
        assert minutes == house_says_each_minute(*spans)


@pytest.mark.looptime
async def test_a_dongle_at_its_transmit_limit_sends_nothing_and_is_not_joined_anew(tmp_path):
    async with bad_radio(tmp_path, transmit_ms=100, rest_s=600) as (town, driver, _items):
        await until(lambda: driver.status().get("limited"))
        assert driver.status()["state"] == "limited"
        began = asyncio.get_running_loop().time()
        served_before, polled = len(served(tmp_path)), driver.status()["polls"]
        await asyncio.sleep(500)
        assert (len(served(tmp_path)), driver.status()["polls"]) == (served_before, polled)
        await until(lambda: driver.status()["polls"] > polled)
        assert 600 <= asyncio.get_running_loop().time() - began < 640
    assert len(town.wire.joins_at) == 1
    assert driver.status()["transmit_s_last_hour"] > 0


@pytest.mark.looptime
async def test_an_agent_that_dies_over_and_over_joins_once_in_thirty_seconds_and_reads_in_between(tmp_path):
    chance, memory, items = random.Random(7), DictMemory(), []

    async def emit(item, remember=None):
        items.append(item)
        await memory.update(remember or {})

    context = Context("meter", VirtualClock(), {"route-b": json.dumps({"id": ID, "password": PASSWORD})}.__getitem__)
    built = create(context, {"port": "wire", "credentials": "route-b", "poll_s": POLL_S})
    async with asyncio.TaskGroup() as group:
        town = Town(Radio(ID, PASSWORD, radio_time=1.0), group, tmp_path / "served.log")
        for _ in range(40):  # each life knows of the one before what its memory keeps
            driver = RouteB(context, built._settings, built._credentials, town.opener())
            life = group.create_task(driver.run(emit, memory))
            await asyncio.sleep(chance.uniform(1, 45))
            life.cancel()
            await asyncio.wait([life])
        town.notices.cancel()
        town.wire.dongle.power_off()
        town.log.close()
    joins = town.wire.joins_at
    assert len(joins) >= 15
    assert min(later - earlier for earlier, later in itertools.pairwise(joins)) >= 30
    assert len(live(items)) >= 8


@pytest.mark.looptime
@pytest.mark.parametrize("event", [0x24, 0x26, 0x27, 0x28])
async def test_a_session_that_ends_by_any_event_is_joined_again_politely(event, tmp_path):
    async with bad_radio(tmp_path) as (town, driver, _items):
        for times in (1, 2, 3):
            await until(lambda times=times: len(town.wire.joins_at) == times and driver.status()["state"] == "joined")
            polled = driver.status()["polls"]
            await until(lambda polled=polled: driver.status()["polls"] > polled)
            town.wire.dongle.end_session(event)
            await asyncio.sleep(0.1)
        await until(lambda: len(town.wire.joins_at) == 4)
    spacing = [later - earlier for earlier, later in zip(town.wire.joins_at, town.wire.joins_at[1:], strict=False)]
    assert min(spacing) >= 30
    assert driver.status()["scans"] == 1


@pytest.mark.looptime
async def test_a_session_that_expires_is_renewed_without_a_join_or_a_poll_lost(tmp_path):
    async with bad_radio(tmp_path, expires_s=120) as (town, driver, items):
        await asyncio.sleep(1000)
        status = driver.status()
    assert (status["failures"], status["resent"], len(town.wire.joins_at)) == (0, 0, 1)
    assert len(live(items)) >= 30


@pytest.mark.looptime
async def test_a_session_that_is_not_renewed_is_joined_again_from_memory(tmp_path):
    async with bad_radio(tmp_path, expires_s=120, renews=False) as (town, driver, _items):
        await asyncio.sleep(400)
        status = driver.status()
    assert status["scans"] == 1
    assert len(town.wire.joins_at) >= 3
    assert status["failures"] == 0


@pytest.mark.looptime
async def test_only_the_paired_one_of_two_networks_is_joined(tmp_path):
    async with bad_radio(tmp_path, neighbour=Neighbour()) as (_town, driver, items):
        await until(lambda: live(items))
        assert driver.status()["foreign_networks"] == 1
        assert driver.status()["pan_id"] == "76A4"


async def until(condition):
    """Wait in virtual time."""
    async with asyncio.timeout(3600):
        while not condition():  # noqa: ASYNC110  (costs nothing in virtual time)
            await asyncio.sleep(0.5)
