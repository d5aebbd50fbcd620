"""The gateway's time: offsets, quality, steps, simulation."""

from __future__ import annotations

import asyncio
import time

import pytest

from drivers.api import ConfigError
from edge_agent import clock as clock_module
from edge_agent.clock import ClockSettings, SimulationSettings, SystemClock, iso_time


@pytest.fixture
def host(monkeypatch):
    """A host whose clock the test sets."""

    class Host:
        synced = False
        offset = 1_000_000

    monkeypatch.setattr(clock_module, "is_synchronized", lambda: Host.synced)
    monkeypatch.setattr(clock_module, "_real_offset_ms", lambda: Host.offset)
    return Host


def test_utc_is_unknown_until_the_clock_was_set_once(host):
    clock = SystemClock()
    assert (clock.unix_ms(), clock.offset_ms(), clock.quality(), clock.change()) == (None, None, "unknown", None)
    host.synced = True
    clock.look()
    assert clock.quality() == "synced"
    assert clock.offset_ms() == 1_000_000
    host.synced = False
    clock.look()
    assert clock.quality() == "holdover"
    assert clock.offset_ms() == 1_000_000


def test_the_hosts_clock_is_believed_when_the_settings_say_so(host):
    clock = SystemClock(ClockSettings(trust="system"))
    assert clock.quality() == "synced"
    assert abs(clock.unix_ms() - clock.boot_ms() - 1_000_000) < 100


def test_an_offset_is_told_once_and_again_when_it_steps(host):
    host.synced = True
    clock = SystemClock()
    event = clock.change()
    assert event.kind == "clock_offset"
    assert event.data["boot"] == clock.boot
    assert event.data["offset_ms"] == 1_000_000
    host.offset += 250
    assert clock.change() is None
    host.offset += 1
    assert clock.change().data["stepped_ms"] == 251
    assert clock.change() is None


async def test_the_watcher_tells_when_a_clock_becomes_known(host, monkeypatch):
    monkeypatch.setattr(clock_module, "WATCH_S", 0.01)
    told = asyncio.Queue()
    clock = SystemClock(on_change=told.put)
    async with asyncio.TaskGroup() as tasks:
        watcher = tasks.create_task(clock.run())
        await asyncio.sleep(0.05)
        assert told.empty()
        host.synced = True
        event = await asyncio.wait_for(told.get(), 5)
        watcher.cancel()
    assert event.data["clock"] == "synced"


def test_the_kernel_can_be_asked():
    assert isinstance(clock_module._kernel_says_synced(), bool)


def test_the_boot_id_is_eight_hex_digits_and_stays():
    boots = {SystemClock().boot for _ in range(3)}
    assert len(boots) == 1
    assert len(boots.pop()) == 8


def simulation(**more):
    return SimulationSettings(**{"start": "2026-06-01T00:00:00+09:00", "speed": 600, **more})


def test_simulated_time_runs_fast_and_two_processes_agree():
    since = time.time() - 10
    first, second = (SystemClock(simulation=simulation(since=since)) for _ in range(2))
    assert first.boot == second.boot
    assert first.quality() == "simulated"
    assert abs(first.boot_ms() - 6_000_000) < 60_000
    assert abs(first.boot_ms() - second.boot_ms()) < 10_000
    assert first.offset_ms() == 1_780_239_600_000
    assert first.boot != SystemClock(simulation=simulation(since=since + 1)).boot


async def test_waiting_under_simulation_takes_real_time_divided_by_speed():
    clock = SystemClock(simulation=simulation())
    began = time.monotonic()
    target = clock.boot_ms() + 60_000
    await clock.sleep_until(target)
    assert clock.boot_ms() >= target
    assert 0.09 < time.monotonic() - began < 1


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("start", "yesterday"),
        ("start", "2026-06-01T00:00:00"),
        ("speed", 0),
        ("speed", float("nan")),
        ("since", float("inf")),
    ],
)
def test_a_simulation_that_cannot_be_is_refused_by_its_key(key, value):
    with pytest.raises(ConfigError) as caught:
        simulation(**{key: value}).timescale()
    assert caught.value.key == key


def test_times_for_people_are_in_japans_offset():
    assert iso_time(1_795_000_000_123) == "2026-11-18T20:06:40+09:00"
    assert iso_time(None) is None
