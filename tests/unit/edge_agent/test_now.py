"""Last values: what can be believed, for how long, and what is gone when a device is lost."""

import asyncio
from datetime import UTC, datetime

from drivers.api import Sample
from edge_agent.now import LEAST_VALID_MS, MAX_COLUMN_SETS, LastValues


def noted(*samples):
    last = LastValues()
    for at, values in samples:
        last.note(Sample("meter", at, values))
    return last


def test_a_device_shows_its_newest_values():
    last = noted((1000, {"grid_power_w": 1}), (2000, {"grid_power_w": 2}))
    reading = last.reading("meter", 2500)
    assert (reading.at_ms, reading.values) == (2000, {"grid_power_w": 2})


def test_values_read_apart_are_shown_together_while_both_are_believed():
    last = noted((1000, {"import_energy_kwh": 5, "grid_power_w": 0}), (2000, {"grid_power_w": 2}))
    assert last.reading("meter", 2000).values == {"import_energy_kwh": 5, "grid_power_w": 2}


def test_a_value_that_was_not_read_again_disappears():
    last = noted((0, {"import_energy_kwh": 5}), *((at, {"grid_power_w": at}) for at in range(0, 60_000, 10_000)))
    assert last.reading("meter", 50_000).values == {"grid_power_w": 50_000}


def test_a_slow_value_is_believed_for_some_of_its_own_periods():
    last = noted((0, {"import_energy_kwh": 5}), (600_000, {"import_energy_kwh": 6}))
    assert last.reading("meter", 600_000 + 1_800_000).values == {"import_energy_kwh": 6}
    assert last.reading("meter", 600_000 + 1_800_001) is None


def test_nothing_is_believed_for_ever():
    last = noted((0, {"grid_power_w": 1}))
    assert last.reading("meter", LEAST_VALID_MS) is not None
    assert last.reading("meter", LEAST_VALID_MS + 1) is None


def test_a_lost_device_has_no_values_until_it_answers_again():
    last = noted((0, {"grid_power_w": 1}))
    last.lose("meter", "no answer")
    assert last.reading("meter", 1) is None
    assert last.lost == {"meter": "no answer"}
    last.note(Sample("meter", 5000, {"grid_power_w": 2}))
    assert last.reading("meter", 5000).values == {"grid_power_w": 2}
    assert last.lost == {}


def test_a_record_the_device_timed_itself_is_no_last_value():
    last = LastValues()
    last.note(Sample("meter", datetime(2026, 6, 1, tzinfo=UTC), {"import_energy_at_30min_kwh": 5}))
    assert last.reading("meter", 0) is None


def test_a_device_that_invents_names_does_not_fill_the_memory():
    last = noted(*((at, {f"invented_{at}": at}) for at in range(10 * MAX_COLUMN_SETS)))
    assert len(last.reading("meter", 10 * MAX_COLUMN_SETS).values) == MAX_COLUMN_SETS


async def test_whoever_waits_for_a_change_is_woken_by_the_next_sample():
    last = LastValues()
    async with asyncio.timeout(1), asyncio.TaskGroup() as tasks:
        waiting = tasks.create_task(last.change())
        await asyncio.sleep(0)
        last.note(Sample("meter", 1, {"grid_power_w": 1}))
    assert waiting.done()
