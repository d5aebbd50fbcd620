"""What a whole gateway costs: ten devices with 120 points each second, from Modbus to the broker, in real time.

Ours is `edge-agent run` as installed, acknowledged by the aggregator. CPU and memory are the kernel's figures for the
process, points are counted where they arrive.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket

import pytest
from gateways import (
    NOT_THERE,
    THINGSBOARD,
    Cost,
    Listener,
    Load,
    agent_configuration,
    thingsboard_configuration,
    thingsboard_slaves,
    town_with_tcp,
    watch,
)

from simulators.programs import Program, ProgramError, running, until

LOAD = Load(devices=10, points=120)
WARM_UP_S = 10.0
WATCH_S = 60.0
HOUR_S = 3600.0
MOST_US_PER_POINT = 25.0
MOST_GROWTH_KIB = 1024


@contextlib.asynccontextmanager
async def _listening(broker: Program, port: int):
    """Run the broker and count what it hears."""

    def is_open() -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return True
        return False

    async with running(broker):
        await until(is_open, 10, "the broker listens", broker)
        listener = Listener(port)
        try:
            yield listener
        finally:
            listener.close()


async def _ours(home, units_port: int, seconds: float, every_s: float = 10.0) -> Cost:
    """Return what `edge-agent run` costs while an aggregator acknowledges."""
    town, port = town_with_tcp(home)
    agent = town.python("agent", "edge_agent", "run", agent_configuration(town, units_port, LOAD))
    async with _listening(town.broker, port) as listener, running(town.aggregator, agent):
        await until(lambda: listener.points > 0, 30, "the first points", agent, town.aggregator)
        await asyncio.sleep(WARM_UP_S)
        return await watch(agent.pid, listener, seconds, every_s)


async def _thingsboards(home, units_port: int, seconds: float) -> Cost:
    """Return what the ThingsBoard gateway costs with its own storage in memory."""
    town, port = town_with_tcp(home)
    folder = thingsboard_configuration(home, port, thingsboard_slaves(units_port, LOAD))
    gateway = Program(
        "thingsboard",
        [THINGSBOARD / "bin" / "python", "-c", "from thingsboard_gateway.tb_gateway import daemon; daemon()"],
        home / "logs" / "thingsboard.log",
        {"TB_GW_CONFIG_DIR": f"{folder}/"},
        cwd=folder,
    )
    async with _listening(town.broker, port) as listener, running(gateway):
        await until(lambda: listener.points > 0, 60, "the first points", gateway)
        await asyncio.sleep(WARM_UP_S)
        return await watch(gateway.pid, listener, seconds)


def _line(name: str, cost: Cost) -> str:
    share = f"{1e3 * cost.cpu_s / cost.seconds:6.1f} ms CPU each second"
    points = f"{cost.points / cost.seconds:6.0f} points/s"
    memory = f"{cost.resident_kib[0] / 1024:5.1f} MiB, {cost.grown_kib:+d} KiB in {cost.seconds:.0f} s"
    return f"  {name:<28} {cost.us_per_point:8.1f} µs/point  {share}  {points}  {memory}"


@pytest.mark.timeout(400)
async def test_ten_devices_with_120_points_at_one_second_beside_thingsboard(home, units_port, capsys):
    (home / "a").mkdir()
    (home / "b").mkdir()
    costs = {"edge-agent run": await _ours(home / "a", units_port, WATCH_S)}
    without = "" if THINGSBOARD.exists() else NOT_THERE
    try:
        if not without:
            costs["ThingsBoard gateway 3.8.5"] = await _thingsboards(home / "b", units_port, WATCH_S)
    except ProgramError as error:  # it is a baseline: that it does not run here is no fault of ours
        without = f"not measured: {error}"
    ours = costs["edge-agent run"]
    with capsys.disabled():
        print(
            f"\n{LOAD.devices} devices × {LOAD.points} points at 1 s, the whole process, load {os.getloadavg()[0]:.1f}:"
        )
        for name, cost in costs.items():
            print(f"{_line(name, cost)}  {cost.us_per_point / ours.us_per_point:.2f} × ours")
        if without:
            print(f"  ThingsBoard gateway: {without}")
    assert ours.points >= 0.95 * LOAD.devices * LOAD.points * WATCH_S
    assert ours.us_per_point <= MOST_US_PER_POINT
    assert ours.grown_kib < MOST_GROWTH_KIB


@pytest.mark.timeout(HOUR_S + 120)
async def test_the_same_for_an_hour(home, units_port, capsys, request):
    if not request.config.getoption("--hour"):
        pytest.skip("an hour of real time: make bench ARGS=--hour")
    cost = await _ours(home, units_port, HOUR_S, every_s=60)
    with capsys.disabled():
        print(f"\n{_line('edge-agent run', cost)}\n  MiB by the minute: ", end="")
        print(" ".join(f"{kib / 1024:.1f}" for kib in cost.resident_kib))
    assert cost.points >= 0.95 * LOAD.devices * LOAD.points * HOUR_S
    assert cost.us_per_point <= MOST_US_PER_POINT
    assert cost.grown_kib < MOST_GROWTH_KIB
