"""The aggregator beside a real Mosquitto: acknowledged means committed, whoever dies and whatever comes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import socket
import sqlite3
import sys
import time
from pathlib import Path

import httpx
import paho.mqtt.client as paho
import pytest

from aggregator.app import run
from aggregator.config import load
from edge_agent import wire

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

EPOCH = "9f31c2aa04b7d1e5"


async def until(true, within_s=20.0):
    """Return when `true()` holds, be it plain or awaited."""
    async with asyncio.timeout(within_s):
        while True:
            held = true()
            if await held if asyncio.iscoroutine(held) else held:
                return
            await asyncio.sleep(0.02)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Aggregator:
    """The aggregator in this process, its page and its database."""

    def __init__(self, home: Path, broker, version="5"):
        self.port = free_port()
        self.database = home / "store" / "aggregator.db"
        self.config = home / "aggregator.yaml"
        self.config.write_text(
            f"mqtt: {{socket: {broker.socket}, version: '{version}', reconnect_max: 0.5}}\n"
            f"store: {{path: {self.database}}}\nhttp: {{port: {self.port}}}\naccept_simulated: true\n"
        )
        self.log = home / "aggregator.log"
        self.url = f"http://127.0.0.1:{self.port}"
        self._stop = asyncio.Event()
        self._task = None

    async def start(self):
        self._stop.clear()
        self._task = asyncio.ensure_future(run(load(self.config), self._stop))
        await until(self.healthy, 30)

    async def stop(self):
        if self._task is not None:
            self._stop.set()
            async with asyncio.timeout(10):
                await self._task
            self._task = None

    async def get(self, path):
        async with httpx.AsyncClient() as client:
            return await client.get(f"{self.url}{path}", timeout=5)

    async def healthy(self):
        with contextlib.suppress(httpx.HTTPError):
            return (await self.get("/healthz")).status_code == 200
        return False

    def ask(self, statement, *values):
        """Return rows straight from the file."""
        connection = sqlite3.connect(f"{self.database.as_uri()}?mode=ro", uri=True)
        try:
            return connection.execute(statement, values).fetchall()
        finally:
            connection.close()

    def batches(self):
        return {(epoch, seq) for epoch, seq in self.ask("SELECT epoch, seq FROM batch")}


class Program(Aggregator):
    """The aggregator as a process that can be killed."""

    process = None

    async def start(self):
        with self.log.open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "aggregator", "run", str(self.config), stdout=log, stderr=log
            )
        await until(self.healthy, 60)
        assert self.process.returncode is None, self.log.read_text()

    async def stop(self):
        if self.process is not None and self.process.returncode is None:
            self.process.terminate()
            async with asyncio.timeout(10):
                await self.process.wait()

    async def kill(self):
        self.process.kill()
        await self.process.wait()


class Gateway:
    """Sends batches and collects acknowledgements, as the agent does."""

    def __init__(self, broker, id_="house-001"):
        self.id = id_
        self.acknowledged = set()
        self._client = paho.Client(paho.CallbackAPIVersion.VERSION2, client_id=id_, transport="unix")
        self._client.on_message = self._hear
        self._client.on_connect = lambda client, *_: client.subscribe(wire.down_topic(id_, "ack"), 1)
        self._client.reconnect_delay_set(0.1, 0.3)
        self._client.connect(str(broker.socket), 1)
        self._client.loop_start()

    def _hear(self, _client, _data, message):
        ack = wire.decode(message.payload, wire.Ack)
        self.acknowledged |= {(ack.epoch, seq) for seq in ack.seqs}

    def send(self, rest, payload, *, qos=1, retain=False):
        self._client.publish(wire.up_topic(self.id, *rest.split("/")), payload, qos, retain)

    def send_batch(self, seq, **changes):
        self.send("telemetry", batch(seq, **changes))

    def close(self):
        self._client.disconnect()
        self._client.loop_stop()


def batch(seq, **changes):
    block = {"device": "meter", "columns": ["grid_power_w"], "rows": [[seq * 10_000, seq]]}
    t0 = int(time.time() * 1000) - 86_400_000
    body = {"v": 1, "epoch": EPOCH, "seq": seq, "boot": "a1", "b0": 0, "t0": t0, "clock": "synced", "blocks": [block]}
    return json.dumps(body | changes).encode()


@pytest.fixture
async def aggregator(tmp_path, broker):
    made = Aggregator(tmp_path, broker)
    await made.start()
    yield made
    await made.stop()


@pytest.fixture
async def gateway(broker):
    made = Gateway(broker)
    yield made
    made.close()


async def test_a_batch_is_in_the_database_when_it_is_acknowledged(aggregator, gateway):
    for seq in range(50):
        gateway.send_batch(seq)
        await until(lambda seq=seq: (EPOCH, seq) in gateway.acknowledged)
        assert (EPOCH, seq) in aggregator.batches()


async def test_nothing_is_acknowledged_while_the_database_cannot_commit(aggregator, gateway):
    gateway.send_batch(0)
    await until(lambda: gateway.acknowledged)
    lock = sqlite3.connect(aggregator.database, isolation_level=None)
    lock.execute("BEGIN IMMEDIATE")
    gateway.send_batch(1)
    # The busy time-out is 5 s: until it has passed once, the commit is merely waiting.
    await until(lambda: unhealthy(aggregator), 30)
    assert (EPOCH, 1) not in gateway.acknowledged
    lock.execute("ROLLBACK")
    lock.close()
    await until(lambda: (EPOCH, 1) in gateway.acknowledged, 30)
    await until(aggregator.healthy)


async def test_kill_9_at_any_moment_loses_and_doubles_nothing(tmp_path, broker, gateway):
    program = Program(tmp_path, broker)
    await program.start()
    chance = random.Random(1)
    payloads = {(EPOCH, seq): batch(seq) for seq in range(400)}
    for number, payload in enumerate(payloads.values()):
        gateway.send("telemetry", payload)
        await asyncio.sleep(chance.random() * 0.01)
        if number in (130, 270):
            await program.kill()
            assert gateway.acknowledged <= program.batches()
            await program.start()
    for _ in range(10):
        gateway.send(
            "backfill", wire.encode_backfill([payloads[key] for key in payloads.keys() - gateway.acknowledged])
        )
        with contextlib.suppress(TimeoutError):
            await until(lambda: gateway.acknowledged >= payloads.keys(), 3)
            break
    assert gateway.acknowledged == payloads.keys() == program.batches()
    found = program.ask("SELECT boot_ms, grid_power_w FROM telemetry ORDER BY boot_ms")
    assert found == [(seq * 10_000, seq) for seq in range(400)]
    await program.stop()
    assert program.process.returncode == 0


async def test_what_was_sent_while_we_were_away_comes_afterwards(aggregator, gateway):
    await aggregator.stop()
    gateway.send_batch(7)
    await aggregator.start()
    await until(lambda: (EPOCH, 7) in gateway.acknowledged)


async def test_poison_among_many_stops_nobody(aggregator, gateway, broker):
    neighbour = Gateway(broker, "house-002")
    poison = [b"poison", b"{" * 60_000, b"x" * 10_000_000, batch(999, v=7), b"\x78\x9c" + b"\0" * 500, b""]
    for number, payload in enumerate(poison):
        gateway.send("backfill" if number % 2 else "telemetry", payload)
        neighbour.send_batch(number)
        gateway.send_batch(number)
    wanted = {(EPOCH, seq) for seq in range(len(poison))}
    await until(lambda: gateway.acknowledged >= wanted and neighbour.acknowledged >= wanted)
    (count,) = aggregator.ask("SELECT count(*) FROM quarantine WHERE gateway = 'house-001'")[0]
    assert count == len(poison)
    assert len(aggregator.ask("SELECT 1 FROM telemetry")) == 2 * len(poison)
    neighbour.close()


async def test_an_unknown_version_is_acknowledged_so_that_its_outbox_can_empty(aggregator, gateway):
    gateway.send_batch(5, v=2, something={"new": 1})
    await until(lambda: (EPOCH, 5) in gateway.acknowledged)
    assert aggregator.batches() == set()


async def test_what_was_taken_and_not_committed_comes_again_from_the_broker(aggregator, gateway):
    lock = sqlite3.connect(aggregator.database, isolation_level=None)
    lock.execute("BEGIN IMMEDIATE")
    gateway.send_batch(1)
    await until(lambda: unhealthy(aggregator), 30)
    await aggregator.stop()
    lock.execute("ROLLBACK")
    lock.close()
    await aggregator.start()
    await until(lambda: (EPOCH, 1) in gateway.acknowledged)


async def unhealthy(aggregator):
    return (await aggregator.get("/healthz")).status_code == 503


async def test_a_broker_that_restarts_is_found_again(aggregator, broker):
    await broker.kill()
    await until(lambda: unhealthy(aggregator))
    await broker.start()
    await until(aggregator.healthy)
    gateway = Gateway(broker)
    gateway.send_batch(1)
    await until(lambda: (EPOCH, 1) in gateway.acknowledged)
    gateway.close()


async def test_mqtt_3_1_1_works_as_well(tmp_path, broker, gateway):
    aggregator = Aggregator(tmp_path, broker, "3.1.1")
    await aggregator.start()
    gateway.send_batch(1)
    await until(lambda: (EPOCH, 1) in gateway.acknowledged)
    await aggregator.stop()
    gateway.send_batch(2)
    await aggregator.start()
    await until(lambda: (EPOCH, 2) in gateway.acknowledged)
    await aggregator.stop()


async def test_a_thousand_batches_share_few_commits(aggregator, gateway):
    for seq in range(1000):
        gateway.send_batch(seq)
    await until(lambda: len(gateway.acknowledged) == 1000, 60)
    assert (await aggregator.get("/healthz")).json()["commits"] < 500


async def test_live_values_arrive_by_stream(aggregator, gateway):
    gateway.send("meta", json.dumps({"v": 1, "gateway": "house-001", "roles": {"grid": "meter"}}).encode(), retain=True)
    await until(lambda: known(aggregator))
    async with (
        httpx.AsyncClient() as client,
        client.stream("GET", f"{aggregator.url}/api/v1/gateways/house-001/live") as stream,
    ):
        gateway.send("now/meter", json.dumps({"grid_power_w": 512}).encode(), qos=0)
        heard = ""
        async for line in stream.aiter_lines():
            heard += line
            if '"load_power_w":512' in heard:
                break
        assert stream.headers["cache-control"] == "no-store"


async def known(aggregator):
    return (await aggregator.get("/api/v1/gateways/house-001")).status_code == 200


async def test_a_taken_port_is_said_in_one_line(tmp_path, broker):
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        aggregator = Aggregator(tmp_path, broker)
        text = aggregator.config.read_text().replace(str(aggregator.port), str(holder.getsockname()[1]))
        aggregator.config.write_text(text)
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "aggregator", "run", str(aggregator.config), stderr=asyncio.subprocess.PIPE
        )
        async with asyncio.timeout(30):
            _, errors = await process.communicate()
    assert process.returncode == 1
    assert b"cannot listen there" in errors
    assert b"Traceback" not in errors
