"""A real Mosquitto behind a Unix socket, and a town that listens and acknowledges as the aggregator does."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from edge_agent import wire
from edge_agent.mqtt import Connection, Message, MqttSettings, Will

BASE = """
listener 0 {socket}
user root
persistence false
sys_interval 0
"""


async def until(true: Callable[[], object], within_s: float = 10.0) -> None:
    """Return when `true()` holds; fails after `within_s`."""
    async with asyncio.timeout(within_s):
        while not true():  # noqa: ASYNC110  (states of other processes: no event tells)
            await asyncio.sleep(0.01)


@pytest.fixture(name="until")
def until_fixture():
    """`await until(lambda: …)` waits for a state."""
    return until


class Broker:
    """A Mosquitto process; may be stopped, killed and started again."""

    def __init__(self, program: str, home: Path, extra: str) -> None:
        self._program = program
        self.socket = home / "mqtt.sock"
        self._config = home / "mosquitto.conf"
        self.log = home / "mosquitto.log"
        open_to_all = "" if "allow_anonymous" in extra else "allow_anonymous true\n"
        self._config.write_text(BASE.format(socket=self.socket) + open_to_all + extra)
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        self.socket.unlink(missing_ok=True)
        with self.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                self._program, "-c", str(self._config), stdout=log, stderr=log
            )
        await until(self._answers)

    async def stop(self) -> None:
        await self._end("terminate")

    async def kill(self) -> None:
        await self._end("kill")

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.returncode is None, self.log.read_text()
        with socket.socket(socket.AF_UNIX) as probe:
            return probe.connect_ex(str(self.socket)) == 0

    async def _end(self, how: str) -> None:
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                getattr(process, how)()
            await process.wait()

    def settings(self, **more) -> MqttSettings:
        return MqttSettings(**{"socket": str(self.socket), "reconnect_max": 0.5, **more})


@pytest.fixture
async def make_broker(tmp_path, require) -> AsyncIterator[Callable[..., Broker]]:
    """`await make_broker(extra="…")` starts a Mosquitto with more lines of configuration."""
    brokers: list[Broker] = []
    program = require("mosquitto")

    async def make(extra: str = "") -> Broker:
        home = tmp_path / f"broker-{len(brokers)}"
        home.mkdir()
        brokers.append(Broker(program, home, extra))
        await brokers[-1].start()
        return brokers[-1]

    yield make
    for broker in brokers:
        await broker.kill()


@pytest.fixture
async def broker(make_broker) -> Broker:
    """A Mosquitto that is running."""
    return await make_broker()


class Town:
    """A client that hears everything, and acknowledges batches while `acknowledges` is set."""

    def __init__(self, settings: MqttSettings, name: str = "town") -> None:
        self._settings = settings
        self._name = name
        self.acknowledges = True
        self.messages: list[Message] = []
        self.connection: Connection | None = None

    async def connect(self) -> None:
        self.connection = Connection(self._name, self._settings, str, Will("town/gone", b""))
        self.connection.on_message = self._hear
        await self.connection.connect()
        self.connection.subscribe(["gw/v1/#"])

    def close(self) -> None:
        if self.connection is not None:
            self.connection.close()

    def payloads(self, *rest: str) -> list[bytes]:
        """Payloads of a topic of house-001, in order."""
        return [message.payload for message in self.messages if message.topic == wire.up_topic("house-001", *rest)]

    def batches(self) -> list[bytes]:
        """Every batch heard, on whatever topic, as often as it came."""
        found: list[bytes] = []
        for message in self.messages:
            _, rest = wire.split_up_topic(message.topic)
            if rest[0] in {"telemetry", "events", "passages"}:
                found.append(message.payload)
            elif rest[0] == "backfill":
                found += wire.decode_backfill(message.payload)
        return found

    def rows(self) -> set[tuple]:
        """(device, boot ms, values) of every row heard."""
        rows = set()
        for payload in self.batches():
            batch = wire.decode_batch(payload)
            for block in batch.blocks:
                rows |= {(block.device, batch.b0 + offset, *values) for offset, *values in block.rows}
        return rows

    def events(self) -> list[wire.BatchEvent]:
        return [event for payload in self.batches() for event in wire.decode_batch(payload).events]

    def acknowledge(self, payloads) -> None:
        batches = [wire.decode_batch(payload) for payload in payloads]
        for payload in wire.encode_acks((batch.epoch, batch.seq) for batch in batches):
            self.say("ack", payload)

    def say(self, *rest_and_payload, retain: bool = False) -> None:
        *rest, payload = rest_and_payload
        assert self.connection is not None
        self.connection.publish(wire.down_topic("house-001", *rest), payload, retain=retain)

    def _hear(self, message: Message) -> None:
        self.messages.append(message)
        _, rest = wire.split_up_topic(message.topic)
        if not self.acknowledges:
            return
        if rest[0] in {"telemetry", "events", "passages"}:
            self.acknowledge([message.payload])
        elif rest[0] == "backfill":
            self.acknowledge(wire.decode_backfill(message.payload))


@pytest.fixture
async def make_town() -> AsyncIterator[Callable[..., Town]]:
    """`await make_town(broker)` connects a town."""
    towns: list[Town] = []

    async def make(broker: Broker, **settings) -> Town:
        towns.append(Town(broker.settings(**settings), f"town-{len(towns)}"))
        await towns[-1].connect()
        return towns[-1]

    yield make
    for town in towns:
        town.close()


@pytest.fixture
async def town(broker, make_town) -> Town:
    """A town that listens and acknowledges."""
    return await make_town(broker)
