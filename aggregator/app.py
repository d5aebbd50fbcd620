"""Puts the aggregator together: broker, ingest, store, page, in one TaskGroup. Knows no device."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import uvicorn

from aggregator.api import create_api
from aggregator.broker import Broker, Message, read_password
from aggregator.config import Settings
from aggregator.ingest import Reading, Rules, read
from aggregator.live import Live
from aggregator.services.half_hours import HalfHourService
from aggregator.sqlite import SqliteStore
from aggregator.store import Outcome, Store, StoreError
from edge_agent import wire

log = logging.getLogger(__name__)

GROUP_MESSAGES = 500
GROUP_S = 0.05
"""Messages that come within this time share one commit, and one write to the disk."""
SWEEP_S = 60.0
ACKS_PER_MESSAGE = 500
RETRY_MAX_S = 10.0


class StoppedError(Exception):
    """Somebody asked us to stop."""


@dataclass(slots=True)
class Vitals:
    """What `healthz` tells."""

    store_error: str | None = None
    messages: int = 0
    commits: int = 0


class Ingest:
    """Takes messages from the broker into the store, then acknowledges them to the broker and to the gateway."""

    def __init__(self, broker: Broker, store: Store, live: Live, rules: Rules, vitals: Vitals) -> None:
        self._broker = broker
        self._store = store
        self._live = live
        self._rules = rules
        self._vitals = vitals

    async def run(self) -> None:
        """Work until cancelled; a group that the store does not take is offered again until it does."""
        while True:
            messages = await self._broker.take(GROUP_MESSAGES, GROUP_S)
            readings = [self._read(message) for message in messages]
            outcome = await self._commit(readings)
            self._vitals.messages += len(messages)
            self._vitals.commits += 1
            self._broker.acknowledge(messages)
            self._acknowledge_batches(outcome)
            self._tell(readings, outcome)

    async def sweep(self) -> None:
        """Each minute, place rows whose boot's clock has become known."""
        while True:
            await asyncio.sleep(SWEEP_S)
            try:
                if placed := await self._store.sweep(unix_ms()):
                    log.info("%d held rows and events have their time now", placed)
            except StoreError as error:
                log.warning("the sweep waits for the next minute: %s", error)

    def _read(self, message: Message) -> Reading:
        try:
            return read(message.topic, message.payload, message.received_ms, self._rules)
        except Exception as error:  # a bug of ours must not stop the stream
            log.exception("a message on %r", message.topic)
            reading = Reading("", message.topic, message.payload, message.received_ms)
            reading.put_aside(f"our own fault: {error!r}")
            return reading

    async def _commit(self, readings: Sequence[Reading]) -> Outcome:
        wait_s = 0.5
        while True:
            try:
                outcome = await self._store.commit(readings)
            except StoreError as error:
                level = logging.DEBUG if self._vitals.store_error else logging.ERROR
                log.log(level, "the store does not take data; gateways keep theirs meanwhile: %s", error)
                self._vitals.store_error = str(error)
                await asyncio.sleep(random.uniform(wait_s / 2, wait_s))
                wait_s = min(wait_s * 2, RETRY_MAX_S)
            else:
                if self._vitals.store_error:
                    log.info("the store takes data again")
                self._vitals.store_error = None
                return outcome

    def _acknowledge_batches(self, outcome: Outcome) -> None:
        committed: dict[str, list[tuple[str, int]]] = {}
        for gateway, epoch, seq in outcome.acks:
            committed.setdefault(gateway, []).append((epoch, seq))
        for gateway, numbers in committed.items():
            for start in range(0, len(numbers), ACKS_PER_MESSAGE):
                for payload in wire.encode_acks(numbers[start : start + ACKS_PER_MESSAGE]):
                    self._broker.publish(wire.down_topic(gateway, "ack"), payload)

    def _tell(self, readings: Sequence[Reading], outcome: Outcome) -> None:
        for reading in readings:
            for content in reading.contents:
                if content.live:
                    with contextlib.suppress(wire.WireError):
                        self._live.note_clock(reading.gateway, content.clock)
        for event in outcome.events:
            self._live.tell(event)


def unix_ms() -> int:
    """Return our own time."""
    return time.time_ns() // 1_000_000


class _Server(uvicorn.Server):
    """uvicorn without hands on our signals."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def run(settings: Settings, stop: asyncio.Event | None = None) -> None:
    """Serve until `stop`, or SIGTERM or SIGINT where none is given; raises StoreError or ConfigError at once."""
    read_password(settings.mqtt)
    store = SqliteStore(Path(settings.store.path))
    try:
        await _serve(settings, store, stop or _stop_signal())
    finally:
        await store.close()


async def _serve(settings: Settings, store: Store, stop: asyncio.Event) -> None:
    live, vitals = Live(unix_ms), Vitals()
    await _remember(store, live)
    broker = Broker(settings.mqtt, lambda message: _hear(message, live, half_hours))
    half_hours = HalfHourService(store, live, broker.publish, settings.half_hours, unix_ms)
    ingest = Ingest(broker, store, live, Rules(settings.accept_simulated), vitals)
    api = create_api(store, live, unix_ms, lambda: _health(broker, live, vitals))
    options = uvicorn.Config(
        api,
        host=settings.http.host,
        port=settings.http.port,
        log_config=None,
        access_log=False,
        lifespan="off",
        server_header=False,
        timeout_graceful_shutdown=3,
        limit_concurrency=500,
        h11_max_incomplete_event_size=64 * 1024,
    )
    server = _Server(options)
    try:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(broker.run(), name="broker")
            tasks.create_task(ingest.run(), name="ingest")
            tasks.create_task(ingest.sweep(), name="sweep")
            if settings.half_hours.days:
                tasks.create_task(half_hours.run(), name="half hours")
            http = tasks.create_task(_serve_http(server, settings), name="http")
            await stop.wait()
            live.close()
            server.should_exit = True
            await http
            raise StoppedError
    except* StoppedError:
        log.info("stopped")


def _hear(message: Message, live: Live, half_hours: HalfHourService) -> bool:
    """Give a message to whoever listens; tells whether the database needs it too. Answers to commands it does not."""
    if message.topic.split("/")[3:4] == ["response"]:
        half_hours.hear(message.topic, message.payload)
        return False
    return live.hear(message.topic, message.payload, retained=message.retained)


async def _serve_http(server: uvicorn.Server, settings: Settings) -> None:
    """Serve pages; an address that cannot be had ends the aggregator with a clear word."""
    log.info("page: http://%s:%d/", settings.http.host, settings.http.port)
    try:
        await server.serve()
    except SystemExit as error:
        raise OSError(
            f"http.host = {settings.http.host!r}, http.port = {settings.http.port}: cannot listen there; "
            "choose another port or end what holds it"
        ) from error


async def _remember(store: Store, live: Live) -> None:
    """Start from what the database knows, until the broker tells what it has retained."""
    for record in await store.gateways():
        if record.meta is not None:
            live.hear(wire.up_topic(record.id, "meta"), wire.encode(record.meta), retained=True)
        if record.clock is not None:
            live.note_clock(record.id, record.clock)


def _stop_signal() -> asyncio.Event:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    return stop


def _health(broker: Broker, live: Live, vitals: Vitals) -> dict[str, object]:
    return {
        "status": "ok" if broker.connected and vitals.store_error is None else "degraded",
        "broker": broker.connected,
        "store": vitals.store_error is None,
        "waiting": broker.depth,
        "messages": vitals.messages,
        "commits": vitals.commits,
        "refused": live.refused,
    }
