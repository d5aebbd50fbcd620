"""The broker stops for five minutes while the house runs."""

from __future__ import annotations

import asyncio
import time

import pytest
from harness import HOUSE, Town, drained, online, rows, served
from judge import judge

from simulators.programs import running, until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(480)]

OUTAGE_S = 300.0
POLL_S = 2.0
SLACK_MS = 400.0
LIVE_WITHIN_S = 5.0


async def test_five_minutes_without_broker_lose_and_double_nothing(home) -> None:
    town = Town(home)
    house = town.house_simulators("--radio-time", "0")
    agent = town.house_agent(poll_s=POLL_S, write_after=2)
    logs = (town.log("house"), town.log("sine"))
    async with running(town.broker, town.aggregator, house, agent):
        await online(town, HOUSE)
        began = time.time() * 1000
        await asyncio.sleep(5)
        await town.broker.stop()
        await asyncio.sleep(OUTAGE_S)
        await town.broker.start()
        back = time.time() * 1000
        await online(town, HOUSE)

        def live() -> bool:
            newest = max((row.at for row in rows(town.database, HOUSE) if row.device == "inverter"), default=0)
            return newest > back

        reconnected = time.monotonic()
        await until(live, LIVE_WITHIN_S, "live values within 5 s of the reconnection", agent, town.aggregator)
        assert time.monotonic() - reconnected < LIVE_WITHIN_S
        await house.stop()
        ended = time.time() * 1000 - 500
        await drained(town, home / f"{HOUSE}.yaml")
        await agent.stop()
    verdict = judge(rows(town.database, HOUSE), served(*logs), [(began, ended)], SLACK_MS)
    assert verdict.clean, verdict
    assert verdict.matched >= 2 * OUTAGE_S / POLL_S
