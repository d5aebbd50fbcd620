"""Our driver on the simulated dongle and meter, as two processes: the meter's own log judges every value."""

import asyncio
import contextlib
import json
import sys
import time
from datetime import datetime
from decimal import Decimal

import pytest

from drivers.api import Context, Sample
from drivers.contract import DictMemory, FastClock
from drivers.route_b.driver import create
from drivers.timescale import Timescale

CREDENTIALS = '{"id": "00112233445566778899AABBCCDDEEFF", "password": "0123456789AB"}'
SPEED = 600
START = "2026-06-01T00:00:00+09:00"


class SameClock(FastClock):
    """The driver's clock, whose UTC is that of the simulated meter."""

    def __init__(self, since_s):
        super().__init__(SPEED)
        self.since_s = since_s

    def unix_ms(self):
        start_ms = datetime.fromisoformat(START).timestamp() * 1000
        return round(Timescale(start_ms, self.since_s * 1000, SPEED).simulated_ms(time.time() * 1000))


@contextlib.asynccontextmanager
async def simulated_meter(folder, *options):
    """Run `edge-sim meter` and give the path of its port once it is there."""
    port = folder / "meter"
    command = ["-m", "simulators", "meter", "--link", str(port), "--log", str(folder / "served.log")]
    times = ["--speed", str(SPEED), "--start", START]
    process = await asyncio.create_subprocess_exec(
        sys.executable, *command, *times, *options, stdout=asyncio.subprocess.DEVNULL
    )
    try:
        async with asyncio.timeout(20):
            while not port.exists():  # another process makes it
                assert process.returncode is None
                await asyncio.sleep(0.02)
        yield port
    finally:
        process.terminate()
        await process.wait()


def served(folder):
    """Return what the meter says it served, as sets of (quantity, value): of each poll, and of each moment it named."""
    polls, moments = [], {}
    for line in map(json.loads, (folder / "served.log").read_text().splitlines()):
        values = {(name, None if value is None else Decimal(str(value))) for name, value in line["values"].items()}
        if "at" in line:  # its memory tells import and export one after the other
            moments.setdefault(datetime.fromisoformat(line["at"]), set()).update(values)
        else:
            polls.append(values)
    return polls, moments


def as_set(sample):
    return {(name, None if value is None else Decimal(str(value))) for name, value in sample.values.items()}


@pytest.mark.slow
@pytest.mark.timeout(90)
@pytest.mark.parametrize(
    "options",
    [
        ("--dialect", "c2"),
        ("--dialect", "a1", "--unit", "0.0001", "--digits", "8", "--notify", "infc"),
        ("--dialect", "c2", "--binary", "--two-wire", "--without", "D3,E3,EB", "--coefficient", "1"),
    ],
    ids=["c2", "a1-infc", "c2-binary-two-wire"],
)
async def test_every_value_is_one_that_the_meter_served(tmp_path, options):
    samples, enough = [], asyncio.Event()

    async def emit(item, remember=None):
        if isinstance(item, Sample):
            samples.append(item)
            half_hours = sum(not isinstance(sample.at, int) for sample in samples)
            if len(samples) >= 200 and half_hours >= 2:
                enough.set()

    since_s = int(time.time())
    async with simulated_meter(tmp_path, *options, "--since", str(since_s)) as port:
        context = Context("meter", SameClock(since_s), {"route-b": CREDENTIALS}.__getitem__)
        driver = create(context, {"port": str(port), "credentials": "route-b", "poll_s": 10})
        async with asyncio.TaskGroup() as group:
            task = group.create_task(driver.run(emit, DictMemory()))
            await asyncio.wait_for(enough.wait(), 60)
            status = driver.status()
            task.cancel()
    polls, moments = served(tmp_path)
    for sample in samples:
        told = polls if isinstance(sample.at, int) else [moments[sample.at]]
        assert any(as_set(sample) <= values for values in told), sample
    stamps = [sample.at for sample in samples if isinstance(sample.at, int)]
    assert stamps == sorted(set(stamps))
    assert (status["failures"], status["malformed"], status["strangers"], status["scans"]) == (0, 0, 0, 1)
