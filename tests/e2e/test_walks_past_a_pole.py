"""Tags walk past a simulated pole, fast: the passages in the aggregator are the walks, and strangers leave nothing."""

from __future__ import annotations

import json
import sqlite3
from datetime import datetime

import paho.mqtt.client as paho
import pytest
from harness import AREA, JST, POLE, Simulation, Town, drained, get, online, passages, read_log

from simulators.programs import running, until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

START = datetime(2025, 6, 2, 15, tzinfo=JST)
SPEED = 30.0
WALKS = 12
ARRIVE_WITHIN_MS = 10_000
"""An arrival is stamped with its second packet."""
TOLERANCE_MS = 400 * SPEED
"""What scheduling may cost in real time, as simulated time."""


def tell_town(town: Town) -> None:
    """Publish, retained, what a town says: enrolled tags and an alert level."""
    client = paho.Client(paho.CallbackAPIVersion.VERSION2, transport="unix")
    client.connect(str(town.broker_socket), 1)
    client.loop_start()
    now = START.isoformat()
    alert = {"level": 5, "telegram": "test", "issued": now, "valid_until": None, "checked_at": now}
    for topic, payload in (
        (f"gwc/v1/{POLE}/tags", (town.home / "tags.json").read_text()),
        (f"gwc/v1/all/alert/{AREA}", json.dumps(alert)),
    ):
        client.publish(topic, payload, qos=1, retain=True).wait_for_publish(5)
    client.disconnect()
    client.loop_stop()


async def test_the_passages_are_the_walks(home, require) -> None:
    require("dbus-daemon")
    simulation = Simulation(START, SPEED)
    town = Town(home, simulation)
    tags, lamp, agent = town.pole_programs("--walks", str(WALKS))
    programs = (town.broker, town.aggregator, tags, lamp, agent)
    walked = town.log("tags")
    async with running(town.broker, town.aggregator, lamp, tags):
        await until(
            lambda: (home / "tags.json").exists() and town.broker_socket.exists(), 20, "the tags are there", tags
        )
        tell_town(town)
        await agent.start()
        try:
            await online(town, POLE)
            await until(lambda: len(walks(walked)) >= WALKS - 4, 200, "the tags have walked", *programs, poll_s=0.5)
            expected = walks(walked)
            newest = max(walk["leaves"] for walk in expected)
            await until(
                lambda: simulation.unix_ms() > newest + 60_000, 60, "the last passage is over", *programs, poll_s=0.5
            )
            await drained(town, home / f"{POLE}.yaml")
            events = await get(f"{town.page}/api/v1/gateways/{POLE}/events")
        finally:
            await agent.stop()
    found = passages(town.database, POLE)
    left = [event for event in found if event["kind"] == "tag_left" and event["utc_ms"] <= newest + TOLERANCE_MS]
    assert sorted(event["tag"] for event in left) == sorted(walk["tag"] for walk in expected)
    for walk in expected:
        mine = [
            event
            for event in left
            if event["tag"] == walk["tag"] and abs(event["last"] - walk["leaves"]) < TOLERANCE_MS
        ]
        assert len(mine) == 1, (walk, left)
        assert abs(mine[0]["first"] - walk["enters"]) < TOLERANCE_MS
        arrived = [
            event
            for event in found
            if event["kind"] == "tag_arrived"
            and event["tag"] == walk["tag"]
            and -TOLERANCE_MS < event["utc_ms"] - walk["enters"] < ARRIVE_WITHIN_MS + TOLERANCE_MS
        ]
        assert len(arrived) == 1, (walk, found)
    assert any(event["kind"] == "lamp_changed" and event["data"]["level"] == 5 for event in events["events"])
    assert no_stranger(town)


def walks(log) -> list[dict]:
    """Return the finished walks a scanner could hear."""
    return [line["walk"] for line in read_log(log) if "walk" in line]


def no_stranger(town: Town) -> bool:
    """Tell whether nothing but pseudonyms reached the aggregator."""
    with sqlite3.connect(town.database) as connection:
        data = [json.loads(text) for (text,) in connection.execute("SELECT data FROM event WHERE personal <> 0")]
    return bool(data) and all(event["tag"].startswith("t-") for event in data)
