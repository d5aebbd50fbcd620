"""The aggregator's link to the MQTT broker; the only file here that imports paho. Understands no payload.

A message is acknowledged to the broker when whoever took it says so, after the database commit. The broker keeps
our session while we are away. When the queue is full we stop reading the socket, so that TCP holds the broker back.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import socket
import ssl
import time
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from aggregator.config import Mqtt
from drivers.api import ConfigError
from edge_agent import wire

log = logging.getLogger(__name__)

SUBSCRIPTIONS = (
    *((f"{wire.UP}/+/{kind}", 1) for kind in ("telemetry", "backfill", "events", "passages", "state", "meta")),
    (f"{wire.UP}/+/response/+", 1),
    (f"{wire.UP}/+/now/+", 0),
    (f"{wire.UP}/+/health", 0),
)
QUEUE_MESSAGES = 2000
QUEUE_BYTES = 32 * 1024 * 1024
"""Beyond either the socket is read no more until half is done."""
MAX_PACKET_BYTES = 16 * 1024 * 1024
"""A broker that speaks MQTT 5 sends us nothing longer; one that does not is bounded by its own limit."""
SESSION_EXPIRY_S = 7 * 86400
CONNECT_WITHIN_S = 15.0
FIRST_WAIT_S = 1.0
STEADY_S = 30.0


class BrokerError(Exception):
    """The broker cannot be reached, refused us, or went away: try again."""


@dataclass(frozen=True, slots=True)
class Message:
    """One message as it came; `retained` tells that the broker had kept it."""

    topic: str
    payload: bytes
    retained: bool
    received_ms: int
    mid: int
    qos: int
    connection: object


class _Client(paho.Client):
    """paho, which forgets to close a Unix socket that nobody listens to."""

    def _create_unix_socket_connection(self) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.connect(self._host)
        except OSError:
            sock.close()
            raise
        return sock


class Broker:
    """A connection that is made again whenever it is lost; messages wait in `take`."""

    def __init__(self, settings: Mqtt, hear: Callable[[Message], bool]) -> None:
        """`hear` sees every message at once and tells whether it must also be queued for the database."""
        self._settings = settings
        self._hear = hear
        self._queue: deque[Message] = deque()
        self._queued_bytes = 0
        self._filled = asyncio.Event()
        self._paused = False
        self._client: paho.Client | None = None
        self._up = asyncio.Event()
        self._ended: asyncio.Future[str] | None = None
        self.connected = False

    @property
    def depth(self) -> int:
        """How many messages wait for the database."""
        return len(self._queue)

    async def run(self) -> None:
        """Keep the connection until cancelled; waits double with full jitter up to `reconnect_max`."""
        ceiling_s, failed = FIRST_WAIT_S, False
        while True:
            began = time.monotonic()
            try:
                await self._session()
            except BrokerError as error:
                if time.monotonic() - began > STEADY_S:
                    ceiling_s, failed = FIRST_WAIT_S, False
                log.log(
                    logging.DEBUG if failed else logging.WARNING, "broker %s: %s; trying again", self._place(), error
                )
                failed = True
            await asyncio.sleep(random.uniform(0.1, min(ceiling_s, self._settings.reconnect_max)))
            ceiling_s = min(ceiling_s * 2, self._settings.reconnect_max)

    async def take(self, limit: int, gather_s: float) -> list[Message]:
        """Return the next messages, at least one and at most `limit`, having let them gather a moment."""
        while not self._queue:
            self._filled.clear()
            await self._filled.wait()
        await asyncio.sleep(gather_s)
        taken = [self._queue.popleft() for _ in range(min(limit, len(self._queue)))]
        self._queued_bytes -= sum(len(message.payload) for message in taken)
        self._resume()
        return taken

    def acknowledge(self, messages: Iterable[Message]) -> None:
        """Tell the broker that it may forget these; those of an earlier connection it sends again."""
        for message in messages:
            if message.connection is self._client and self._client is not None and message.qos:
                self._client.ack(message.mid, message.qos)

    def publish(self, topic: str, payload: bytes) -> None:
        """Send with QoS 1; without a connection it is dropped, and the gateway asks again by sending again."""
        if self.connected and self._client is not None:
            self._client.publish(topic, payload, qos=1)

    # One connection

    async def _session(self) -> None:
        loop = asyncio.get_running_loop()
        self._ended = loop.create_future()
        self._up.clear()
        client = self._client = self._new_client(loop)
        try:
            async with asyncio.timeout(CONNECT_WITHIN_S):
                await asyncio.to_thread(self._connect, client)
                self._watch(client)
                await self._until_up(self._ended)
            await self._serve(client, self._ended)
        except TimeoutError as error:
            raise BrokerError(f"no answer within {CONNECT_WITHIN_S:.0f} s") from error
        finally:
            self.connected = False
            self._client = None
            with suppress(Exception):
                client.disconnect()
                client.loop_write()
            with suppress(Exception):
                client._sock_close()  # noqa: SLF001  (paho closes its socket only when the broker answers)

    async def _until_up(self, ended: asyncio.Future[str]) -> None:
        while not self._up.is_set():
            if ended.done():
                raise BrokerError(ended.result())
            await asyncio.sleep(0.01)

    async def _serve(self, client: paho.Client, ended: asyncio.Future[str]) -> None:
        """Do paho's chores each second until the connection ends."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(1):
                    raise BrokerError(await asyncio.shield(ended))
            if client.loop_misc() != MQTTErrorCode.MQTT_ERR_SUCCESS:
                self._end("it fell silent")

    def _connect(self, client: paho.Client) -> None:
        settings = self._settings
        host, port = (settings.socket, 1) if settings.socket else (settings.host, settings.port)
        options: dict[str, Any] = {}
        if settings.version == "5":
            properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]  # paho leaves it untyped
            properties.SessionExpiryInterval = SESSION_EXPIRY_S
            properties.MaximumPacketSize = MAX_PACKET_BYTES
            options = {"clean_start": False, "properties": properties}
        try:
            client.connect(host, port, settings.keepalive_s, **options)
        except (OSError, ValueError) as error:
            raise BrokerError(f"cannot be reached: {error}") from error

    def _new_client(self, loop: asyncio.AbstractEventLoop) -> paho.Client:
        settings = self._settings
        modern = settings.version == "5"
        client = _Client(
            CallbackAPIVersion.VERSION2,
            client_id=settings.client_id,
            protocol=MQTTProtocolVersion.MQTTv5 if modern else MQTTProtocolVersion.MQTTv311,
            clean_session=None if modern else False,
            transport="unix" if settings.socket else "tcp",
            manual_ack=True,
        )
        client.max_queued_messages_set(0)
        client.max_inflight_messages_set(1000)
        client.connect_timeout = 10
        self._identify(client)
        client.on_connect = self._on_connect
        client.on_message = self._on_message
        client.on_disconnect = self._on_disconnect
        client.on_socket_close = lambda _client, _data, sock: _forget_socket(loop, sock)
        client.on_socket_register_write = lambda _client, _data, sock: _in_loop(
            loop, self._write_when_ready, client, sock
        )
        client.on_socket_unregister_write = lambda _client, _data, sock: _in_loop(loop, loop.remove_writer, sock)
        return client

    def _identify(self, client: paho.Client) -> None:
        settings = self._settings
        if settings.username is not None:
            client.username_pw_set(settings.username, read_password(settings))
        if settings.tls is not None:
            context = ssl.create_default_context(cafile=settings.tls.ca)
            if settings.tls.certificate and settings.tls.key:
                context.load_cert_chain(settings.tls.certificate, settings.tls.key)
            client.tls_set_context(context)

    def _watch(self, client: paho.Client) -> None:
        sock = client.socket()
        if sock is None:
            raise BrokerError("it closed the connection at once")
        self._paused = False
        asyncio.get_running_loop().add_reader(sock, self._read, client)

    def _write_when_ready(self, client: paho.Client, sock: Any) -> None:
        if sock.fileno() >= 0:
            asyncio.get_running_loop().add_writer(sock, self._guard, client.loop_write)

    def _read(self, client: paho.Client) -> None:
        self._guard(client.loop_read)
        sock: Any = client.socket()
        while isinstance(sock, ssl.SSLSocket) and sock.pending() and not self._paused:
            self._guard(client.loop_read)
            sock = client.socket()

    def _guard(self, step: Callable[[], MQTTErrorCode]) -> None:
        """Let paho work; whatever goes wrong with one connection ends it, and the next one is a fresh client."""
        try:
            if step() != MQTTErrorCode.MQTT_ERR_SUCCESS:
                self._end("the connection broke")
        except Exception as error:  # a packet that paho cannot read must not end the aggregator
            log.debug("broker", exc_info=True)
            self._end(f"it sent what is no MQTT: {error!r}")

    def _end(self, reason: str) -> None:
        self.connected = False
        if self._ended is not None and not self._ended.done():
            self._ended.set_result(reason)

    def _on_connect(self, client: paho.Client, _data: Any, flags: Any, reason: Any, _properties: Any) -> None:
        if reason.is_failure:
            self._end(f"refused us: {reason}; see mqtt.username, mqtt.password_file and the broker's access rules")
            return
        client.subscribe(list(SUBSCRIPTIONS))
        self.connected = True
        self._up.set()
        kept = "our session was kept" if flags.session_present else "a new session"
        log.info("connected to the broker %s; %s", self._place(), kept)

    def _on_disconnect(self, _client: paho.Client, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        self._end(f"the connection ended: {reason}")

    def _on_message(self, client: paho.Client, _data: Any, message: paho.MQTTMessage) -> None:
        try:
            topic = message.topic
        except UnicodeDecodeError:
            topic = repr(message._topic)  # noqa: SLF001  (paho offers no undecoded topic)
        heard = Message(
            topic, bytes(message.payload), message.retain, time.time_ns() // 1_000_000, message.mid, message.qos, client
        )
        try:
            wanted = self._hear(heard)
        except Exception:  # a message that trips us must not come back for ever
            log.exception("a message on %r", topic)
            wanted = True
        if not wanted:
            self.acknowledge([heard])
            return
        self._queue.append(heard)
        self._queued_bytes += len(heard.payload)
        self._filled.set()
        if len(self._queue) >= QUEUE_MESSAGES or self._queued_bytes >= QUEUE_BYTES:
            self._pause(client)

    def _pause(self, client: paho.Client) -> None:
        sock = client.socket()
        if sock is not None and not self._paused:
            self._paused = True
            asyncio.get_running_loop().remove_reader(sock)

    def _resume(self) -> None:
        if not self._paused or len(self._queue) > QUEUE_MESSAGES // 2 or self._queued_bytes > QUEUE_BYTES // 2:
            return
        self._paused = False
        if self._client is not None and (sock := self._client.socket()) is not None:
            asyncio.get_running_loop().add_reader(sock, self._read, self._client)

    def _place(self) -> str:
        return self._settings.socket or f"{self._settings.host}:{self._settings.port}"


def read_password(settings: Mqtt) -> str | None:
    """Return the password from its file, or from what systemd hands over as `mqtt-password`; raises ConfigError."""
    file = settings.password_file
    if file is None:
        handed_over = Path(os.environ.get("CREDENTIALS_DIRECTORY", "/nonexistent"), "mqtt-password")
        if not handed_over.exists():
            return None
        file = str(handed_over)
    try:
        return Path(file).read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError("mqtt.password_file", f"cannot be read: {error}", "name a readable file", None) from error


def _in_loop(loop: asyncio.AbstractEventLoop, act: Callable[..., Any], *arguments: Any) -> None:
    """Do it in the loop's thread: paho connects in another one."""
    try:
        running = asyncio.get_running_loop() is loop
    except RuntimeError:
        running = False
    if running:
        act(*arguments)
    else:
        loop.call_soon_threadsafe(act, *arguments)


def _forget_socket(loop: asyncio.AbstractEventLoop, sock: Any) -> None:
    def forget(number: int) -> None:
        if number >= 0:
            loop.remove_reader(number)
            loop.remove_writer(number)

    _in_loop(loop, forget, sock.fileno())
