"""Back in normal within a minute, in virtual time: the driver, its supervisor, and a link that is gone for long."""

import asyncio
import contextlib
import itertools
import random
from dataclasses import replace

import pytest

from drivers.api import Context
from drivers.contract import DictMemory
from drivers.modbus import driver as modbus_driver
from drivers.modbus.driver import create
from edge_agent import backoff
from edge_agent.app import DRIVERS_STOP_S
from edge_agent.supervisor import Supervisor
from simulators.house import House
from simulators.inverter import InverterServer, _Connection, units_of
from simulators.inverter_control import huawei_control

pytestmark = pytest.mark.looptime

HALF_FULL = replace(House(seed=1).at(1_780_239_600_000 + 12 * 3_600_000), soc_permille=500)
MINUTE_S = 60
UNIX_MS = 1_780_239_600_000
BATTERY = {"owned_by": "agent", "no_revert_timer": "accepted"}


class LoopClock:
    """The event loop's time, from an hour after boot."""

    def boot_ms(self):
        return 3_600_000 + round(asyncio.get_running_loop().time() * 1000)

    def unix_ms(self):
        return UNIX_MS + self.boot_ms()

    async def sleep_until(self, boot_ms):
        await asyncio.sleep((boot_ms - self.boot_ms()) / 1000)


class End(asyncio.Transport):
    """One end of a wire in memory; bytes arrive after `latency_s`, and those in `lost` not at all."""

    def __init__(self, wire, latency_s):
        super().__init__()
        self.wire, self.latency_s, self.peer, self.protocol = wire, latency_s, None, None
        self.is_gone = False

    def write(self, data):
        if self.wire.may_pass(self):
            asyncio.get_running_loop().call_later(self.latency_s, self._arrive, bytes(data))

    def _arrive(self, data):
        if not self.peer.is_gone:
            self.peer.protocol.data_received(data)

    def abort(self):
        for one in (self, self.peer):
            if not one.is_gone:
                one.is_gone = True
                asyncio.get_running_loop().call_soon(one.protocol.connection_lost, None)

    close = abort

    def is_closing(self):
        return self.is_gone

    def get_extra_info(self, name, default=None):
        return default


class Wire:
    """A hybrid reached over a wire that can be cut, is slow to answer and may lose answers; time is the loop's."""

    def __init__(self, monkeypatch, answer_s=0.05):
        self.clock = LoopClock()
        self.control = huawei_control(self.clock.unix_ms)
        self.server = InverterServer(units_of(["huawei", "sunspec"]), lambda: HALF_FULL)
        self.server.controls[1] = self.control
        self.answer_s, self.is_up, self.lose, self.ends = answer_s, True, lambda: False, []
        self.attempts, self.knocked = 0, asyncio.Event()
        self.memory = DictMemory()
        monkeypatch.setattr(asyncio.get_running_loop(), "create_connection", self.connect)

    async def connect(self, build, host, port):
        """Connect while the wire is up; a packet that nobody takes is not refused, it is never answered."""
        self.attempts += 1
        self.knocked.set()
        if not self.is_up:
            await asyncio.Event().wait()
        client, server = End(self, 0.0), End(self, self.answer_s)
        client.peer, server.peer = server, client
        client.protocol, server.protocol = build(), _Connection(self.server)
        self.ends = [client, server]
        server.protocol.connection_made(server)
        client.protocol.connection_made(client)
        return client, client.protocol

    def may_pass(self, end):
        return self.is_up and not (end is self.ends[1] and self.lose())

    def cut(self):
        self.is_up = False
        self.ends[0].abort()

    def build(self, neighbours=0, **battery):
        devices = {"inverter": {"map": "huawei_sun2000", "unit": 1, "battery": BATTERY | battery}}
        devices |= {f"neighbour_{unit}": {"map": "sunspec", "unit": 1 + unit} for unit in range(1, 1 + neighbours)}
        return create(Context("modbus", self.clock, str), {"host": "192.0.2.1", "devices": devices})

    @contextlib.asynccontextmanager
    async def supervised(self, driver):
        supervisor = Supervisor("modbus", lambda: driver)

        async def emit(item, remember=None):
            if remember is not None:
                self.memory.take(remember)

        async def lost(reason):
            del reason

        task = asyncio.ensure_future(supervisor.run(emit, self.memory, lost))
        try:
            yield supervisor
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def told(self, supervisor, mode, **arguments):
        await self.until(lambda: "rounds" in supervisor.driver.status()["devices"]["inverter"], 30)
        await supervisor.command("battery", {"mode": mode, "for_s": 36_000, **arguments})
        assert not self.control.is_normal

    async def until(self, condition, within_s):
        """Wait in virtual time; returns how long it took."""
        began = asyncio.get_running_loop().time()
        async with asyncio.timeout(within_s):
            while not condition():  # noqa: ASYNC110  (the simulator's state has no event)
                await asyncio.sleep(0.1)
        return asyncio.get_running_loop().time() - began


@pytest.fixture
async def wire(monkeypatch):
    return Wire(monkeypatch)


async def back_after_ten_minutes(wire, supervisor):
    """Cut the link for ten minutes; seconds from its return, at the worst moment, until the inverter is in normal."""
    await wire.told(supervisor, "discharge_to_load", power_w=1200)
    wire.cut()
    await asyncio.sleep(600)
    wire.knocked.clear()
    await wire.knocked.wait()  # this attempt was sent into nothing and fails yet
    wire.is_up = True
    assert not wire.control.is_normal
    return await wire.until(lambda: wire.control.is_normal, 300)


@pytest.fixture
def unlucky(monkeypatch):
    """Every wait between attempts is drawn as long as it can be."""

    class Unlucky(random.Random):
        def uniform(self, a, b):
            return max(a, b)

    monkeypatch.setattr(backoff, "random", Unlucky())
    monkeypatch.setattr(modbus_driver, "random", Unlucky())


async def test_after_a_link_that_was_cut_for_long_the_inverter_is_in_normal_within_a_minute(wire, unlucky):
    wire.answer_s = 0.2
    driver = wire.build()
    async with wire.supervised(driver) as supervisor:
        assert await back_after_ten_minutes(wire, supervisor) <= MINUTE_S
        assert wire.attempts > 15


class Silent(set):
    """Units that hear and do not answer; tells when one of them was asked."""

    def __init__(self, *units):
        super().__init__(units)
        self.asked = asyncio.Event()

    def __contains__(self, unit):
        if is_silent := super().__contains__(unit):
            self.asked.set()
        return is_silent


@pytest.mark.parametrize("neighbours", [0, 1])
@pytest.mark.parametrize("silent_s", [30, 120, 900])
async def test_a_silent_inverter_is_in_normal_within_a_minute_of_its_return(wire, unlucky, silent_s, neighbours):
    """It returns when it has just let a request pass. Alone the link is opened again; a neighbour keeps it open."""
    async with wire.supervised(wire.build(neighbours)) as supervisor:
        await wire.told(supervisor, "discharge_to_load", power_w=1200)
        wire.server.silent = Silent(1)
        await asyncio.sleep(silent_s)
        assert not wire.control.is_normal
        wire.server.silent.asked.clear()
        await wire.server.silent.asked.wait()
        wire.server.silent.clear()
        assert await wire.until(lambda: wire.control.is_normal, 900) <= MINUTE_S


async def test_a_line_without_a_battery_of_ours_waits_longer_and_would_miss_the_minute(wire, unlucky):
    ours, theirs = wire.build(), wire.build(owned_by="third_party")
    assert ours.backoff_ceiling_s < theirs.backoff_ceiling_s == MINUTE_S
    ours.backoff_ceiling_s = theirs.backoff_ceiling_s
    async with wire.supervised(ours) as supervisor:
        assert await back_after_ten_minutes(wire, supervisor) > MINUTE_S


@pytest.mark.parametrize("hangs_up", [False, True])
@pytest.mark.parametrize("after_s", [0.5, 7, 39])
async def test_a_restarted_inverter_is_back_in_normal_within_a_minute(wire, unlucky, hangs_up, after_s):
    async with wire.supervised(wire.build()) as supervisor:
        await wire.told(supervisor, "hold")
        await asyncio.sleep(after_s)
        wire.control.restart()
        if hangs_up:
            wire.ends[1].abort()
        assert await wire.until(lambda: wire.control.is_normal, 300) <= MINUTE_S


@pytest.mark.parametrize(
    ("mode", "arguments"), [("charge", {"power_w": 1500}), ("discharge_to_load", {"power_w": 1200})]
)
@pytest.mark.parametrize("lost", [None, *range(10)])
async def test_a_stop_undoes_all_at_200_ms_an_answer_and_with_one_answer_lost(wire, mode, arguments, lost):
    wire.answer_s = 0.2
    answers = itertools.count()
    async with wire.supervised(wire.build()) as supervisor:
        await wire.told(supervisor, mode, **arguments)
        wire.lose = lambda: next(answers) == lost
    assert wire.control.changed() == {}
    assert wire.memory.get("battery/at/unit 1") is None


async def test_a_stop_beside_a_mute_inverter_ends_in_time_and_the_next_start_undoes(wire):
    async with wire.supervised(wire.build()) as supervisor:
        await wire.told(supervisor, "hold")
        wire.lose = lambda: True
        began = asyncio.get_running_loop().time()
    assert asyncio.get_running_loop().time() - began < DRIVERS_STOP_S
    assert not wire.control.is_normal
    wire.lose = lambda: False
    async with wire.supervised(wire.build()):
        assert await wire.until(lambda: wire.control.is_normal, 300) <= MINUTE_S
