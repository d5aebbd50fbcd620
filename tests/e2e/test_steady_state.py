"""One house at 10 s: what the agent costs, and how fast an installer sees values."""

from __future__ import annotations

import asyncio
import json
import os
import time
from pathlib import Path

import pytest
from harness import HOUSE, Town, online, rows

from simulators.programs import running, until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

MIB_LIMIT = 45
CPU_SHARE_LIMIT = 0.05
WATCH_S = 25.0


def resident_mib(pid: int) -> float:
    """Return the resident memory of a process in MiB."""
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


def cpu_seconds(pid: int) -> float:
    """Return the processor time a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def test_a_house_at_ten_seconds_costs_little_and_reads_at_once(home, record_property) -> None:
    town = Town(home)
    house = town.house_simulators("--radio-time", "0")
    agent = town.house_agent(poll_s=10, write_after=10, sine=False)
    async with running(town.broker, town.aggregator, house, agent):
        await online(town, HOUSE)
        await until(
            lambda: {row.device for row in rows(town.database, HOUSE)} >= {"meter", "inverter"}, 40, "rows", agent
        )
        began, used = time.monotonic(), cpu_seconds(agent.pid)
        await asyncio.sleep(WATCH_S)
        share = (cpu_seconds(agent.pid) - used) / (time.monotonic() - began)
        memory = resident_mib(agent.pid)
        record_property("agent_resident_mib", round(memory, 1))
        record_property("agent_cpu_share", round(share, 4))

        read = town.python("read", "edge_agent", "read", "--json", home / f"{HOUSE}.yaml")
        began = time.monotonic()
        await read.start()
        assert await read.wait() == 0, read.tail()
        took = time.monotonic() - began
    assert memory <= MIB_LIMIT
    assert share <= CPU_SHARE_LIMIT
    answers = [json.loads(line) for line in read.log.read_text().splitlines() if line.startswith("{")]
    values = {answer["device"]: answer["values"] for answer in answers}
    assert {"grid_power_w", "import_energy_kwh"} <= values["meter"].keys()
    assert {"pv_power_w", "battery_power_w", "battery_soc_percent"} <= values["inverter"].keys()
    assert took < 5, f"{took:.1f} s"
