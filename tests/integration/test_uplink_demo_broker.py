"""The uplink on the broker of the demo: an embedded rumqttd that speaks MQTT 3.1.1 and cuts what it finds too large."""

from __future__ import annotations

import asyncio
import random

import pytest

from drivers.api import Sample
from edge_agent import outbox as outbox_module
from edge_agent import schedule as schedule_module
from edge_agent import uplink as uplink_module
from edge_agent.clock import ClockSettings, SystemClock
from edge_agent.mqtt import MqttSettings
from edge_agent.outbox import Outbox
from edge_agent.uplink import Uplink

pytestmark = [pytest.mark.slow, pytest.mark.timeout(90)]
CLOCK = SystemClock(ClockSettings(trust="system"))
LIMIT = 20_000


class Here:
    """A broker as `make_town` wants it."""

    def __init__(self, port):
        self.port = port

    def settings(self, **more):
        return MqttSettings(**{"port": self.port, "version": "3.1.1", "reconnect_max": 0.3, **more})


@pytest.fixture
def small_broker(imported, unused_tcp_port):
    iotcore = imported("iotcore")
    with iotcore.Broker(port=unused_tcp_port, listen="127.0.0.1", max_payload_size=LIMIT):
        yield Here(unused_tcp_port)


async def test_a_backlog_passes_a_broker_that_cuts_connections_above_its_limit(
    tmp_path, small_broker, make_town, until, monkeypatch
):
    monkeypatch.setattr(outbox_module, "CLOSE_S", 0.05)
    monkeypatch.setattr(uplink_module, "BACKFILL_AFTER_S", (0, 0.1))
    monkeypatch.setattr(schedule_module, "PATIENCE_S", 1.0)
    source = random.Random(1)
    owed = set()
    async with Outbox.open(tmp_path / "outbox.db", "house-001", CLOCK) as outbox:
        for number in range(40):
            # Noise does not compress; the last one is more than the broker takes of anybody.
            text = source.randbytes(14_000 if number == 39 else 1500).hex()
            await outbox.accept("meter", Sample("meter", number, {"number": number, "text": text}), {"n": number})
            owed.add(number)
    town = await make_town(small_broker)
    async with Outbox.open(tmp_path / "outbox.db", "house-001", CLOCK) as outbox:
        uplink = Uplink("house-001", small_broker.settings(), outbox, CLOCK)
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(uplink.run())
            await until(lambda: {row[2] for row in town.rows() if row[0] == "meter"} >= owed - {39}, 60)
            for number in range(100, 130):
                await outbox.accept("meter", Sample("meter", number, {"number": number, "text": "live"}))
                await asyncio.sleep(0.3)
            await until(lambda: outbox.statistics()["depth"] <= 1, 30)
            await until(lambda: {row[2] for row in town.rows()} >= set(range(100, 130)))
            assert uplink.statistics()["connects"] > 1
            await uplink.stop("test")
            await running
