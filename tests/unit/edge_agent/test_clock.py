"""The gateway's time: offsets, quality, steps, simulation."""

from __future__ import annotations

import asyncio
import time

import pytest

from drivers.api import ConfigError, TimeHint
from edge_agent import clock as clock_module
from edge_agent.clock import ClockSettings, SimulationSettings, SystemClock, iso_time
from edge_agent.device_time import WAIT_MS, WITHIN_MS, DeviceTime


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


# A device's clock, where nothing else is known.

NEW_YEAR_MS = 1_798_729_200_000  # 2027-01-01T00:00:00+09:00
HOUR_MS = 3_600_000


def hint(boot_ms=WAIT_MS, off_ms=0, within_ms=30_000):
    """A device that says that the boot began with the year 2027, or `off_ms` later."""
    return TimeHint(boot_ms, NEW_YEAR_MS + boot_ms + off_ms, within_ms)


@pytest.fixture
def told():
    return DeviceTime()


def believed(told, *hints, boot_ms=WAIT_MS):
    for one in hints:
        told.weigh(one, boot_ms)
    return None if told.offset_ms is None else told.offset_ms - NEW_YEAR_MS


def test_a_devices_time_is_not_used_before_the_network_had_its_minutes(told):
    assert believed(told, hint(WAIT_MS - 1), boot_ms=WAIT_MS - 1) is None
    assert believed(told, hint(WAIT_MS - 1)) == 0


@pytest.mark.parametrize(
    "wrong",
    [
        TimeHint(WAIT_MS, 1_793_491_199_999, 0),  # 2026-10-31: this version was not made yet
        TimeHint(WAIT_MS, 0, 0),
        TimeHint(WAIT_MS, 4_102_444_800_000, 0),  # 2100
        hint(within_ms=WITHIN_MS + 1),
        hint(within_ms=-1),
        hint(boot_ms=WAIT_MS + 1),
    ],
)
def test_a_time_that_cannot_be_or_leaves_too_much_open_is_refused(told, wrong, caplog):
    assert believed(told, wrong, wrong) is None
    assert len([record for record in caplog.records if record.levelname == "WARNING"]) == 1
    assert believed(told, hint(), wrong) == 0


def test_a_time_that_was_heard_two_days_ago_is_refused(told):
    assert believed(told, hint(), boot_ms=WAIT_MS + 48 * HOUR_MS) is None


def test_a_jump_is_refused_for_the_rest_of_the_boot_and_drift_is_followed(told):
    assert believed(told, hint(), hint(off_ms=20_000)) == 0  # within what the device left open
    for off_ms in (-HOUR_MS, HOUR_MS, 24 * HOUR_MS, WITHIN_MS + 1):
        assert believed(told, hint(off_ms=off_ms), hint(off_ms=off_ms)) == 0
    assert believed(told, hint(off_ms=3_000, within_ms=500)) == 3_000
    assert believed(told, hint(off_ms=3_400, within_ms=500)) == 3_000
    assert told.within_ms == 500


def test_without_any_other_time_the_meters_is_used_told_and_marked(host, monkeypatch):
    clock = SystemClock()
    monkeypatch.setattr(clock, "boot_ms", lambda: WAIT_MS)
    clock.hints = lambda: [hint(off_ms=5)]
    assert (clock.quality(), clock.unix_ms(), clock.latest_unix_ms()) == ("unknown", None, None)
    clock.look()
    assert clock.quality() == "meter"
    assert clock.unix_ms() == NEW_YEAR_MS + WAIT_MS + 5
    assert clock.latest_unix_ms() == clock.unix_ms() + 90_000
    event = clock.change()
    assert event.data == {
        "boot": clock.boot,
        "offset_ms": NEW_YEAR_MS + 5,
        "clock": "meter",
        "stepped_ms": None,
        "within_ms": 30_000,
    }
    assert clock.change() is None


def test_a_synchronised_clock_is_never_moved_by_a_device_and_takes_over_from_one(host, monkeypatch):
    clock = SystemClock()
    monkeypatch.setattr(clock, "boot_ms", lambda: WAIT_MS)
    asked = []

    def hints():
        asked.append(True)
        return [hint()]

    clock.hints = hints
    clock.look()
    assert (clock.quality(), clock.change().data["clock"]) == ("meter", "meter")
    host.synced = True
    clock.look()
    assert (clock.quality(), clock.offset_ms(), clock.latest_unix_ms()) == ("synced", 1_000_000, 1_000_000 + WAIT_MS)
    event = clock.change()
    assert (event.data["clock"], event.data["stepped_ms"]) == ("synced", 1_000_000 - NEW_YEAR_MS)
    assert "within_ms" not in event.data
    host.synced = False
    clock.look()
    assert (clock.quality(), clock.offset_ms()) == ("holdover", 1_000_000)
    assert len(asked) == 1


@pytest.mark.parametrize("settings", [{"settings": ClockSettings(trust="system")}, {"simulation": simulation()}])
def test_a_clock_that_is_trusted_or_simulated_asks_no_device(host, settings):
    clock = SystemClock(**settings)
    clock.hints = lambda: pytest.fail("was asked")
    clock.look()
    assert clock.quality() in {"synced", "simulated"}
