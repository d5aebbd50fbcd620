"""The agent is killed at random moments: nothing owed is lost, nothing is doubled, nothing is invented."""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import replace
from datetime import datetime

import pytest
from harness import HOUSE, JST, Simulation, Town, drained, event_ids, online, read_log, rows, served
from judge import Row, judge

from simulators.programs import running, until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

SEEDS = 20
SEEDS_A_TOWN = 5
WRITE_AFTER_S = 1.0
OWED_BEFORE_KILL_S = WRITE_AFTER_S + 2
SPEED = 10.0
POLL_S = 10.0
"""Simulated: every second of the test."""
SLACK_MS = 400 * SPEED
NOON = datetime(2025, 6, 2, 12, tzinfo=JST)


@pytest.mark.parametrize("first", range(0, SEEDS, SEEDS_A_TOWN))
async def test_killed_at_any_moment_every_reading_arrives_once(home, first: int) -> None:
    town = Town(home, Simulation(NOON, SPEED), seed=first + 1)
    house = town.house_simulators("--radio-time", "0")
    agent = town.house_agent(poll_s=POLL_S, write_after=WRITE_AFTER_S)
    config = home / f"{HOUSE}.yaml"
    logs = (town.log("house"), town.log("sine"))
    owed = []
    async with running(town.broker, town.aggregator, house):
        for seed in range(first, first + SEEDS_A_TOWN):
            chance = random.Random(seed)
            lines = len(read_log(logs[0]))
            await agent.start()
            began = time.time() * 1000
            await until(lambda seen=lines: len(read_log(logs[0])) > seen + 4, 30, "the agent reads", agent, house)
            if chance.random() < 0.5:
                await town.broker.stop()
            await asyncio.sleep(chance.uniform(0, 9))
            await agent.kill()
            owed.append((began, time.time() * 1000 - OWED_BEFORE_KILL_S * 1000))
            if town.broker.exit_code is not None:
                await town.broker.start()
        await agent.start()
        began = time.time() * 1000
        await online(town, HOUSE)
        await asyncio.sleep(3)
        await house.stop()
        owed.append((began, time.time() * 1000 - 500))
        await drained(town, config)
        await agent.stop()
    stored, said = rows(town.database, HOUSE), served(*logs)

    verdict = judge(stored, said, owed, SLACK_MS)
    assert verdict.clean, verdict
    assert {row.device for row in stored} >= {"meter", "inverter", "sine", "meter/30min"}
    assert verdict.matched > 10 * SEEDS_A_TOWN

    told = event_ids(town.database, HOUSE, "wave_began")
    lines = read_log(town.log("sine"))
    begun, kept = ({line[name] for line in lines if name in line} for name in ("begun", "kept"))
    assert kept <= {*told} <= begun, "every event that was accepted, and no other"
    assert len(told) == len({*told}) > SEEDS_A_TOWN

    owed_rows = [row for row in stored if row.device == "sine" and is_owed(row, said, owed)]
    victim = owed_rows[len(owed_rows) // 2]
    assert not judge(without(stored, victim), said, owed, SLACK_MS).clean
    assert not judge([*stored, victim], said, owed, SLACK_MS).clean
    shifted = replace(victim, at=victim.at + 1)
    assert not judge([*without(stored, victim), shifted], said, owed, SLACK_MS).clean


def without(rows: list[Row], victim: Row) -> list[Row]:
    """Return the rows but one."""
    return [row for row in rows if row is not victim]


def is_owed(row: Row, said, owed) -> bool:
    """Tell whether the line behind an exact row lies in an owed span."""
    return any(line.device == row.device and line.at == row.at and a <= line.t <= b for line in said for a, b in owed)
