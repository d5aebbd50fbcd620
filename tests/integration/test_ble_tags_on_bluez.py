"""The driver with the real bleak, against our BlueZ on a D-Bus of its own: what it hears, and how it comes back."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import random
import subprocess
import sys
import time
import tracemalloc

import pytest
from bleak import BleakScanner
from bleak.backends.bluezdbus import manager
from dbus_fast.aio import MessageBus
from running import Receiver

from drivers import contract
from drivers.api import ConfigError, Context, Event
from drivers.ble_tags import link
from drivers.ble_tags.driver import create
from drivers.contract import DictMemory
from drivers.timescale import Timescale
from edge_agent.clock import ClockSettings, SimulationSettings, SystemClock
from simulators.bluez import BlueZ, play_strangers, play_walks, private_bus, send, stranger_address, stranger_payload
from simulators.clock import SimulatedClock
from simulators.log import ServedLog
from simulators.walks import enrolment, first_walks, make_tags

START = "2026-06-01T15:00:00+09:00"


class Air:
    """A BlueZ on its bus, and the way to kill it and start it again."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.bus: MessageBus | None = None
        self.bluez: BlueZ | None = None

    async def start(self, release="5.88") -> BlueZ:
        self.bus = await MessageBus(bus_address=self.address).connect()
        self.bluez = BlueZ(self.bus, release)
        await self.bluez.appear()
        return self.bluez

    async def die(self) -> None:
        if self.bus is not None:
            self.bus.disconnect()
            with contextlib.suppress(EOFError, ConnectionError):
                await self.bus.wait_for_disconnect()
            self.bus = None


@pytest.fixture
async def air(tmp_path, monkeypatch, require):
    require("dbus-daemon")
    async with private_bus(tmp_path / "bus") as address:
        monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", address)
        air = Air(address)
        try:
            yield air
        finally:
            await air.die()
            await _close_bleak()


async def _close_bleak() -> None:
    """Close the connection that bleak keeps for as long as its event loop."""
    kept = manager._global_instances.pop(asyncio.get_running_loop(), None)
    if kept is not None and kept._bus is not None:
        kept._bus.disconnect()
        await asyncio.wait([kept._bus_watcher_task], timeout=2)


class Agent(Receiver):
    """Runs the tags driver and speaks as the town."""

    def __init__(self, table=None, memory=None, clock=None) -> None:
        super().__init__(memory)
        self.clock = clock or SystemClock(ClockSettings(trust="system"))
        self.driver = create(Context("tags", self.clock, lambda name: name), table or {})

    async def __aenter__(self):
        self.start(self.driver)
        return self

    async def __aexit__(self, *_) -> None:
        await self.stop()

    def enrol(self, tags, version=1) -> None:
        self.driver.hear("tags", json.dumps(enrolment(tags, version)).encode())

    async def sending(self, bluez, tags, state, rssi=-60, within_s=10.0) -> None:
        """Let tags send ten times a second until a state is reached."""
        async with asyncio.timeout(within_s):
            while not state():
                for tag in tags:
                    send(bluez, tag, rssi, _now_ms())
                await asyncio.sleep(0.1)


async def reached(state, within_s=5.0) -> None:
    async with asyncio.timeout(within_s):
        while not state():  # noqa: ASYNC110  (the states are those of foreign code)
            await asyncio.sleep(0.01)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


SHORT = {"leave_after_s": 1.0, "arrive_window_s": 1.0}


@pytest.mark.slow
async def test_an_enrolled_tag_arrives_and_leaves_and_a_stranger_does_neither(air) -> None:
    bluez = await air.start()
    known, stranger = make_tags(3)[:2], make_tags(3)[2]
    async with Agent(SHORT) as agent:
        agent.enrol(known)
        await agent.until(lambda: agent.driver.status()["hearing"])
        await agent.sending(bluez, [*known, stranger], lambda: len(agent.events("tag_arrived")) == 2)
        await agent.until(lambda: len(agent.events("tag_left")) == 2)
    assert sorted(event.data["tag"] for event in agent.events("tag_left")) == ["t-001", "t-002"]
    assert all(event.personal for event in agent.items if isinstance(event, Event))
    left = agent.events("tag_left")[0]
    assert left.data["last"] - left.data["first"] == left.data["stay_ms"]
    assert left.data["peak_rssi"] == -60
    assert left.at == agent.events("tag_arrived")[0].at + left.data["stay_ms"]
    assert agent.driver.status()["strangers"] > 0
    assert "t-003" not in repr(agent.items)
    assert {"open" in key for key in agent.memory.content} == {False}


@pytest.mark.parametrize("release", ["5.66", "5.88"])
async def test_with_our_filters_every_packet_of_an_unchanging_tag_is_heard(air, release) -> None:
    bluez = await air.start(release)
    [tag] = make_tags(1)
    heard: list[int | None] = []
    scanner = link.Scanner("hci0", lambda _manufacturer, _service, rssi: heard.append(rssi))
    await scanner.start()
    try:
        sent = [-60 - number % 3 for number in range(50)]
        for rssi in sent:
            send(bluez, tag, rssi, _now_ms())
        await reached(lambda: len(heard) == len(sent))
        assert heard == sent
    finally:
        await scanner.stop()


async def test_without_the_filters_the_newer_release_hides_an_unchanging_tag(air) -> None:
    """Shows that the simulated BlueZ has the trap that the filters are for."""
    bluez = await air.start("5.88")
    tag, last = make_tags(2)
    heard: list[str] = []
    async with BleakScanner(lambda device, _: heard.append(device.address), bluez={"adapter": "hci0"}):
        for _ in range(50):
            send(bluez, tag, -60, _now_ms())
        send(bluez, last, -60, _now_ms())
        await reached(lambda: last.address in heard)
    assert heard.count(tag.address) == 1


async def test_a_packet_without_strength_counts_and_has_none(air) -> None:
    bluez = await air.start()
    [tag] = make_tags(1)
    heard: list[int | None] = []
    scanner = link.Scanner("hci0", lambda _manufacturer, _service, rssi: heard.append(rssi))
    await scanner.start()
    try:
        bluez.advertise(tag.address, None, _now_ms(), manufacturer_data={0x4C: tag.ibeacon})
        await reached(lambda: heard)
        assert heard == [None]
    finally:
        await scanner.stop()


@pytest.mark.slow
async def test_bluetoothd_dies_and_comes_back_and_nobody_has_left(air, caplog) -> None:
    bluez = await air.start()
    tags = make_tags(2)
    async with Agent(SHORT) as agent:
        agent.enrol(tags)
        await agent.sending(bluez, tags, lambda: len(agent.events("tag_arrived")) == 2)
        await air.die()
        await agent.until(lambda: "device_lost" in agent.kinds())
        failures = len(agent.errors)
        await agent.until(lambda: len(agent.errors) > failures + 2)
        bluez = await air.start()
        packets = agent.driver.status()["packets"]
        await agent.sending(bluez, tags, lambda: agent.driver.status()["packets"] > packets + 20)
        assert agent.kinds() == ["tag_arrived", "tag_arrived", "device_lost", "device_back"]
        await agent.until(lambda: len(agent.events("tag_left")) == 2)
    assert all(event.data["deaf_ms"] > 0 for event in agent.events("tag_left"))


@pytest.mark.slow
async def test_a_restarted_bluetoothd_is_noticed_at_once(air) -> None:
    bluez = await air.start()
    tags = make_tags(1)
    async with Agent(SHORT) as agent:
        agent.enrol(tags)
        await agent.sending(bluez, tags, lambda: agent.events("tag_arrived"))
        await bluez.vanish()
        await bluez.appear()
        await agent.until(lambda: bluez.listening, within_s=5)
        assert agent.driver.status()["restarts"] == 1
        packets = agent.driver.status()["packets"]
        await agent.sending(bluez, tags, lambda: agent.driver.status()["packets"] > packets + 5)
        assert agent.kinds() == ["tag_arrived"]


async def test_an_unplugged_adapter_is_lost_once_and_comes_back(air) -> None:
    bluez = await air.start()
    async with Agent(SHORT) as agent:
        await agent.until(lambda: bluez.listening)
        bluez.unplug()
        await agent.until(lambda: len(agent.errors) > 3)
        assert agent.kinds() == ["device_lost"]
        assert "hci0" in agent.events("device_lost")[0].data["reason"]
        bluez.plug()
        await agent.until(lambda: bluez.listening)
        await agent.until(lambda: agent.kinds() == ["device_lost", "device_back"])


async def test_another_scanner_in_the_way_is_a_lost_link(air) -> None:
    bluez = await air.start()
    bluez.refuse_start = "org.bluez.Error.InProgress"
    async with Agent() as agent:
        await agent.until(lambda: len(agent.errors) > 1)
        assert "InProgress" in str(agent.errors[0])
        bluez.refuse_start = None
        await agent.until(lambda: bluez.listening)


async def test_a_start_that_is_never_answered_ends_in_time(air, monkeypatch) -> None:
    monkeypatch.setattr(link, "START_WITHIN_S", 0.3)
    bluez = await air.start()
    bluez.answer_start = False
    async with Agent() as agent:
        await agent.until(lambda: len(agent.errors) > 1)
        assert "did not answer" in str(agent.errors[0])
        bluez.answer_start = True
        await agent.until(lambda: bluez.listening)


async def test_long_silence_restarts_the_scanner_without_harm(air, monkeypatch) -> None:
    monkeypatch.setattr(link, "SILENCE_S", 0.2)
    bluez = await air.start()
    async with Agent() as agent:
        await agent.until(lambda: agent.driver.status()["restarts"] >= 2)
        await agent.until(lambda: bluez.listening)
    assert agent.kinds() == []
    assert not agent.errors


async def test_no_bus_at_all_is_a_lost_link(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", f"unix:path={tmp_path / 'none'}")
    async with Agent() as agent:
        await agent.until(lambda: len(agent.errors) > 1)
    assert agent.kinds() == ["device_lost"]


@pytest.mark.slow
async def test_a_passage_goes_on_over_a_restart_of_the_agent(air) -> None:
    bluez = await air.start()
    tags = make_tags(1)
    async with Agent(SHORT) as first:
        first.enrol(tags)
        await first.sending(bluez, tags, lambda: first.events("tag_arrived"))
    assert first.kinds() == ["tag_arrived"]
    await asyncio.sleep(1.2)  # longer than the silence that ends a passage
    async with Agent(SHORT, memory=first.memory) as second:
        await second.sending(bluez, tags, lambda: second.driver.status()["packets"] > 5)
        assert second.driver.status()["enrolled"] == 1, "the list is remembered too"
        await second.until(lambda: second.events("tag_left"))
    assert second.kinds() == ["tag_left"]
    assert second.events("tag_left")[0].data["first"] == pytest.approx(
        first.clock.unix_ms() - first.clock.boot_ms() + first.events("tag_arrived")[0].at, abs=5
    )
    assert second.events("tag_left")[0].data["deaf_ms"] >= 1000


@pytest.mark.slow
async def test_whoever_is_taken_off_the_list_is_forgotten_in_the_middle_of_a_passage(air) -> None:
    bluez = await air.start()
    tags = make_tags(2)
    async with Agent(SHORT) as agent:
        agent.enrol(tags, 1)
        await agent.sending(bluez, tags, lambda: len(agent.events("tag_arrived")) == 2)
        agent.enrol(tags[:1], 2)
        agent.enrol(tags, 1)  # older: must not come back
        await agent.sending(bluez, tags, lambda: agent.driver.status()["list_version"] == 1)
        agent.enrol(tags[:1], 2)
        await agent.sending(bluez, tags, lambda: agent.driver.status()["list_version"] == 2)
        agent.enrol(tags, 1)
        packets = agent.driver.status()["packets"]
        await agent.sending(bluez, tags, lambda: agent.driver.status()["packets"] > packets + 30)
        await agent.until(lambda: agent.events("tag_left"))
    assert [event.data["tag"] for event in agent.events("tag_left")] == ["t-001"]
    assert "t-002" not in json.dumps({key: agent.memory.content[key] for key in agent.memory.content if "open" in key})


@pytest.mark.slow
@pytest.mark.timeout(120)
async def test_a_thousand_tags_are_here_at_once(air) -> None:
    bluez = await air.start()
    tags = make_tags(1000)
    async with Agent({"leave_after_s": 60}) as agent:
        agent.enrol(tags)
        await agent.until(lambda: bluez.listening and agent.driver.status()["enrolled"] == 1000)
        for _ in range(3):
            for begin in range(0, 1000, 50):
                for tag in tags[begin : begin + 50]:
                    send(bluez, tag, -60, _now_ms())
                await asyncio.sleep(0.02)
        await agent.until(lambda: agent.driver.status()["present"] == 1000, within_s=60)
        await agent.until(lambda: agent.driver.status()["packets"] == 3000, within_s=60)
    assert agent.driver.status()["overrun"] == 0
    assert len({event.data["tag"] for event in agent.events("tag_arrived")}) == 1000


async def test_fifty_thousand_strangers_leave_a_number_behind_and_nothing_else(caplog) -> None:
    caplog.set_level(logging.DEBUG)
    rng = random.Random(3)
    agent = Agent()
    payloads = [stranger_payload(rng) for _ in range(500)]
    heard = agent.driver._heard
    for manufacturer_data, service_data in payloads:
        heard(manufacturer_data, service_data, -70)
    tracemalloc.start()
    try:
        before = tracemalloc.take_snapshot()
        for _ in range(50_000):
            heard({0x4C: b"\x02\x15" + rng.randbytes(21)}, {}, -70)
        after = tracemalloc.take_snapshot()
    finally:
        tracemalloc.stop()
    grown = sum(each.size_diff for each in after.compare_to(before, "filename") if "drivers" in str(each.traceback))
    assert grown < 1_000
    assert not agent.driver._queue
    assert (agent.driver._passages.present, agent.driver._passages.waiting) == (0, 0)
    assert agent.driver.status()["strangers"] == 50_500
    assert caplog.records == []


async def test_strangers_in_the_air_leave_nothing_in_log_memory_or_events(air, caplog) -> None:
    caplog.set_level(logging.DEBUG, "drivers")
    bluez = await air.start()
    rng = random.Random(5)
    async with Agent(SHORT) as agent:
        agent.enrol(make_tags(1))
        await agent.until(lambda: bluez.listening)
        addresses = [stranger_address(rng) for _ in range(500)]
        for address in addresses:
            manufacturer_data, service_data = stranger_payload(rng)
            bluez.advertise(address, -70, _now_ms(), manufacturer_data=manufacturer_data, service_data=service_data)
        await agent.until(lambda: agent.driver.status()["strangers"] >= 490)
    assert agent.kinds() == []
    assert not any(address in caplog.text or address.replace(":", "_") in caplog.text for address in addresses)
    assert set(agent.memory.content) <= {"list"}


@pytest.mark.slow
@pytest.mark.timeout(90)
@pytest.mark.parametrize(("speed", "pace", "count"), [(1.0, 0.05, 5), (60.0, 1.0, 10)])
async def test_the_passages_are_the_walks(air, tmp_path, speed, pace, count) -> None:
    bluez = await air.start()
    since = time.time() + 1.5  # the scanner listens before time begins to count
    settings = SimulationSettings(START, speed, since)
    timescale = settings.timescale()
    clock = SimulatedClock(Timescale(timescale.start_ms, timescale.since_ms, speed))
    tags = make_tags(8)
    expected = first_walks(tags, count, seed=7, start_ms=timescale.start_ms, pace=pace)
    table = {"arrive_window_s": 10 * pace, "leave_after_s": max(1.0, 20 * pace)}
    log = ServedLog(tmp_path / "log", clock)
    async with Agent(table, clock=SystemClock(simulation=settings)) as agent:
        agent.enrol(tags)
        await agent.until(lambda: bluez.listening and agent.driver.status()["enrolled"] == 8)
        playing = asyncio.gather(play_walks(bluez, expected, clock, log), play_strangers(bluez, clock, 20, 1))
        await agent.until(lambda: len(agent.events("tag_left")) >= len(expected), within_s=80)
        playing.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await playing
    log.close()
    slack_ms = 0.25 * speed * 1000
    found = sorted(agent.events("tag_left"), key=lambda event: event.data["first"])
    assert [event.data["tag"] for event in found] == [walk.tag.pseudonym for walk in expected]
    for event, walk in zip(found, expected, strict=True):
        assert event.data["first"] == pytest.approx(walk.enters_ms, abs=slack_ms)
        assert event.data["last"] == pytest.approx(walk.leaves_ms, abs=slack_ms)
        assert event.data["packets"] == len(walk.packets)
        assert event.data["peak_rssi"] == max(packet.rssi for packet in walk.packets)
    told = [json.loads(line)["walk"] for line in (tmp_path / "log").read_text().splitlines()]
    assert sorted(each["tag"] for each in told) == sorted(walk.tag.pseudonym for walk in expected)
    strangers_in_30_s = 20 * 0.3 * 30 / speed
    assert bluez.known <= 2 * strangers_in_30_s + len(tags) + 20, "BlueZ forgets who has passed"


@pytest.mark.slow
@pytest.mark.timeout(90)
async def test_the_tags_driver_keeps_the_contract(air) -> None:
    bluez = await air.start()
    await manager.get_global_bluez_manager()  # bleak's own connection lives as long as the loop, not as our driver

    def bench(begin=lambda: None):
        @contextlib.asynccontextmanager
        async def opened():
            begin()
            yield contract.Rig({}, silence=bluez.unplug, mend=bluez.plug)

        return opened

    await contract.check(create, bench(), {"no adapter": bench(bluez.unplug)}, name="tags", speed=600)


async def test_taking_a_packet_costs_less_than_twenty_microseconds() -> None:
    agent = Agent()
    rng = random.Random(1)
    packets = [{0x4C: b"\x02\x15" + rng.randbytes(21)} for _ in range(5_000)]

    def seconds() -> float:
        began = time.perf_counter()
        for manufacturer_data in packets:
            agent.driver._heard(manufacturer_data, {}, -70)
        return time.perf_counter() - began

    assert min(seconds() for _ in range(5)) / len(packets) < 20e-6


@pytest.mark.parametrize(
    ("table", "key"),
    [
        ({"adapter": "/org"}, "adapter"),
        ({"adapter": ""}, "adapter"),
        ({"arrive_packets": 0}, "arrive_packets"),
        ({"arrive_window_s": 30}, "arrive_window_s"),
        ({"leave_after_s": 0}, "leave_after_s"),
        ({"tag_file": "x"}, "tag_file"),
    ],
)
def test_a_wrong_table_of_tags_is_named(table, key) -> None:
    with pytest.raises(ConfigError) as refused:
        create(Context("tags", SystemClock(), lambda name: name), table)
    assert refused.value.key == key


async def test_a_pole_without_a_town_reads_its_tags_from_a_file(air, tmp_path) -> None:
    bluez = await air.start()
    tags = make_tags(3)
    (tmp_path / "tags.json").write_text(json.dumps(enrolment(tags, 1)))
    async with Agent({"tags_file": str(tmp_path / "tags.json")}) as agent:
        await agent.until(lambda: bluez.listening)
        assert agent.driver.status()["enrolled"] == 3


@pytest.mark.parametrize("content", [None, "{}"])
async def test_a_file_that_is_no_list_needs_a_person(tmp_path, content) -> None:
    path = tmp_path / "tags.json"
    if content is not None:
        path.write_text(content)
    driver = create(Context("tags", SystemClock(), lambda name: name), {"tags_file": str(path)})
    with pytest.raises(ConfigError) as refused:
        await driver.run(None, DictMemory())
    assert refused.value.key == "tags_file"


def test_a_house_needs_no_bleak() -> None:
    code = "import sys, drivers.ble_tags.driver; sys.exit('bleak' in sys.modules or 'dbus_fast' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
