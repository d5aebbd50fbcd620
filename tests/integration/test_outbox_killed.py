"""SIGKILL at random moments: whatever `accept` has taken over is in the file, once."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time

import pytest

from edge_agent.outbox import export, stat

WRITER = """
import asyncio, itertools, sys
from pathlib import Path
from drivers.api import Event, Sample
from edge_agent.clock import ClockSettings, SystemClock
from edge_agent.outbox import Outbox, OutboxSettings

async def main(path, start):
    clock = SystemClock(ClockSettings(trust="system"))
    async with Outbox.open(Path(path), "house-001", clock, OutboxSettings(write_after=0.2)) as outbox:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(outbox.keep())
            last = outbox.memory("meter").get("last")
            print("last", last, flush=True)
            for number in itertools.count(start):
                await outbox.accept("meter", Sample("meter", clock.boot_ms(), {"number": number}))
                print("sample", number, clock.boot_ms(), flush=True)
                await asyncio.sleep(0.002)
                if number % 5 == 0:
                    await outbox.accept("meter", Event("meter", "x", 1, {"number": number}), {"last": number})
                    print("event", number, clock.boot_ms(), flush=True)

asyncio.run(main(sys.argv[1], int(sys.argv[2])))
"""


def run_and_kill(path, start, after_s):
    """Return the lines a writer printed before it was killed."""
    command = [sys.executable, "-c", WRITER, str(path), str(start)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        first = process.stdout.readline()
        assert first, "the writer did not start"
        time.sleep(after_s)
        process.send_signal(signal.SIGKILL)
        return [first, *process.stdout.read().splitlines()]


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize("seed", range(3))
def test_nothing_taken_over_is_lost_or_doubled(tmp_path, seed):
    path, source, start = tmp_path / "outbox.db", random.Random(seed), 1
    events, samples, latest = set(), set(), 0
    for _ in range(4):
        first, *lines = run_and_kill(path, start, source.uniform(0.05, 1.2))
        remembered = first.split()[1]
        assert remembered == "None" or int(remembered) >= latest
        said = [line.split() for line in lines if len(line.split()) == 3]
        end_ms = max((int(at) for _, _, at in said), default=0)
        new = {int(number) for kind, number, _ in said if kind == "event"}
        events |= new
        latest = max(new, default=latest)
        # Owed: telemetry older than write_after (0.2 s), and a margin for a busy machine.
        samples |= {int(number) for kind, number, at in said if kind == "sample" and int(at) < end_ms - 700}
        start += 100_000
    assert stat(path)["gateway"] == "house-001"
    stored = [json.loads(line)["batch"] for line in export(path)]
    found_events = [event["data"]["number"] for batch in stored for event in batch.get("events", [])]
    found_samples = [row[1] for batch in stored for block in batch.get("blocks", []) for row in block["rows"]]
    assert events <= set(found_events)
    assert samples <= set(found_samples)
    assert len(found_events) == len(set(found_events))
    assert len(found_samples) == len(set(found_samples))
    assert len({(batch["epoch"], batch["seq"]) for batch in stored}) == len(stored)
    assert events
