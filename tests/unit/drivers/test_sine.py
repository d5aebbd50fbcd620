"""The smallest driver, and what to copy beside it."""

import asyncio
import json

import pytest

from drivers import contract
from drivers.api import ConfigError, Context, Event
from drivers.contract import DictMemory, FastClock
from drivers.sine import create, value_at


def no_secret(name):
    raise AssertionError(f"a sine has no secret {name}")


async def collect(table, count, speed=1.0):
    items, enough = [], asyncio.Event()

    async def emit(item, remember=None):
        items.append(item)
        if len(items) == count:
            enough.set()

    driver = create(Context("wave", FastClock(speed), no_secret), table)
    async with asyncio.timeout(5), asyncio.TaskGroup() as tasks:
        running = tasks.create_task(driver.run(emit, DictMemory()))
        await enough.wait()
        running.cancel()
    return items


async def test_it_keeps_the_contract():
    await contract.check(create, contract.bench({"poll_s": 0.05}))


@pytest.mark.parametrize(
    ("boot_ms", "value"), [(0, 0.0), (15_000, 1.0), (30_000, 0.0), (45_000, -1.0), (5_000, 0.5), (60_000_005_000, 0.5)]
)
def test_the_value_follows_from_the_stamp(boot_ms, value):
    assert value_at(boot_ms, 60) == value
    assert str(value_at(boot_ms, 60)) == str(value)  # never -0.0


async def test_every_sample_is_exactly_what_its_stamp_says():
    for sample in await collect({"poll_s": 0.01, "period_s": 0.7}, 20):
        assert sample.device == "wave"
        assert sample.values == {"sine_value": value_at(sample.at, 0.7)}


async def test_what_is_served_stands_in_the_log_before_it_is_emitted(tmp_path):
    log = tmp_path / "served.jsonl"
    items = await collect({"poll_s": 0.01, "log": str(log)}, 5)
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [(line["boot_ms"], line["values"]) for line in lines[:5]] == [(item.at, item.values) for item in items[:5]]
    assert {line["device"] for line in lines} == {"wave"}
    assert all(isinstance(line["t"], int) and isinstance(line["sim"], int) for line in lines)


async def test_a_log_that_cannot_be_written_is_a_matter_of_configuration(tmp_path):
    driver = create(Context("wave", FastClock(), no_secret), {"poll_s": 0.01, "log": str(tmp_path / "no" / "log")})

    async def emit(item, remember=None):
        raise AssertionError("nothing may be emitted that is not in the log")

    with pytest.raises(ConfigError, match="cannot be written"):
        await driver.run(emit, DictMemory())


@pytest.mark.parametrize(
    "table", [{"poll_s": 0}, {"poll_s": -1}, {"poll_s": "10"}, {"period_s": float("nan")}, {"pol_s": 1}]
)
def test_a_wrong_table_says_which_key(table):
    with pytest.raises(ConfigError) as caught:
        create(Context("wave", FastClock(), no_secret), table)
    assert caught.value.key in table
    assert caught.value.remedy


async def test_each_wave_begins_with_one_event_and_the_log_says_when_it_was_kept(tmp_path):
    log = tmp_path / "served.jsonl"
    items = await collect({"poll_s": 0.01, "period_s": 0.05, "events": True, "log": str(log)}, 20)
    events = [item for item in items if isinstance(item, Event)]
    waves = [event.data["wave"] for event in events]
    assert len(waves) > 2
    assert waves == sorted(set(waves))
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    begun, kept = ([line[name] for line in lines if name in line] for name in ("begun", "kept"))
    assert [event.id for event in events] == begun[: len(events)]
    assert kept == begun[: len(kept)]
