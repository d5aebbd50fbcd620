"""One MQTT connection for asyncio, on paho. Decides nothing about what is sent, kept or sent again."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from paho.mqtt import client as paho
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from drivers.api import ConfigError, LinkError, RefusedError
from drivers.settings import Table

CONNECT_S = 20.0
"""Name resolution, TCP, TLS and CONNACK together."""
MAX_INCOMING_BYTES = 256 * 1024
"""No message from the town is larger."""
MAX_WAITING = 64
"""Messages received and not yet handled; beyond it the broker has to wait."""
SUCCESS = 0
UNSPECIFIED = 0x80
TAKEN_OVER = 0x8E
"""MQTT 5, 3.14.2.1: another client uses this id."""
REFUSALS = frozenset({0x84, 0x85, 0x86, 0x87, 0x8A, 0x8C})
"""CONNACK: version, client id, password, authorisation, banned, method: a person must act."""


class TlsSettings(Table, frozen=True):
    """`mqtt.tls:`; files by path, the private key as the name of a secret that holds PEM text."""

    ca: str | None = None
    certificate: str | None = None
    key: str | None = None


class MqttSettings(Table, frozen=True):
    """`mqtt:`; a broker at `host`:`port` or behind the Unix socket `socket`."""

    host: str = "127.0.0.1"
    port: int = 1883
    socket: str | None = None
    version: Literal["5", "3.1.1"] = "5"
    username: str | None = None
    password: str | None = None
    tls: TlsSettings | None = None
    keepalive_s: int = 30
    reconnect_max: float = 60.0
    max_payload: int = 65536
    acknowledged_by: Literal["aggregator", "broker"] = "aggregator"

    def check(self) -> None:
        """Raise ConfigError for values that are possible one by one and wrong together, or out of range."""
        if self.acknowledged_by == "broker" and self.version == "3.1.1":
            raise ConfigError(
                "acknowledged_by",
                "MQTT 3.1.1 reports a refused publish as success, so a broker's word would lose data",
                "set version: '5', or acknowledged_by: aggregator",
                self.acknowledged_by,
            )
        for key, least, most in (
            ("port", 1, 65535),
            ("keepalive_s", 5, 3600),
            ("reconnect_max", 0.1, 3600),
            ("max_payload", 1024, 1024 * 1024),
        ):
            value = getattr(self, key)
            if not least <= value <= most:
                raise ConfigError(key, f"not within {least} to {most}", "correct the value", value)
        if self.password is not None and self.username is None:
            raise ConfigError("password", "given without username", "add username", self.password)
        if self.tls and (self.tls.certificate is None) != (self.tls.key is None):
            raise ConfigError("tls", "certificate and key go together", "give both, or neither")


@dataclass(frozen=True, slots=True)
class Message:
    """What came from the broker."""

    topic: str
    payload: bytes
    retained: bool


@dataclass(frozen=True, slots=True)
class Will:
    """What the broker says in our name when we are gone."""

    topic: str
    payload: bytes


class _Client(paho.Client):
    """paho, with a Unix socket that is closed when nobody listens (paho 2.2 leaves it open)."""

    def _create_unix_socket_connection(self) -> socket.socket:
        opened = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            opened.connect(self._host)
        except OSError:
            opened.close()
            raise
        return opened


class Connection:
    """One connection from CONNECT to its end; it is never used again, so nothing of it can be sent twice.

    paho runs in a thread of its own; everything here is called on the event loop.
    """

    def __init__(self, client_id: str, settings: MqttSettings, secret: Callable[[str], str], will: Will) -> None:
        self._settings = settings
        self._loop = asyncio.get_running_loop()
        self._is_5 = settings.version == "5"
        self._client = self._make_client(client_id, secret, will)
        self._connected: asyncio.Future[None] = self._loop.create_future()
        self._ended = asyncio.Event()
        self._in_flight: dict[int, asyncio.Future[int]] = {}
        self._waiting = threading.BoundedSemaphore(MAX_WAITING)
        self._gone = threading.Event()
        self._room = asyncio.Event()
        self.on_message: Callable[[Message], None] | None = None
        """Called for each message; must not raise and must return at once."""
        self.on_end: Callable[[], None] | None = None
        """Called when the connection is gone."""
        self.error = ""
        """Why the connection ended."""
        self.taken_over = False
        """The broker said that another client took our name (MQTT 5; not every broker says so)."""
        self.dropped = False
        """The broker, or the network, ended the connection without a word."""
        self.receive_maximum = 65535
        """How many publishes the broker takes unacknowledged."""
        self.max_packet_bytes = 268_435_455

    async def connect(self) -> None:
        """Connect; raises RefusedError when the broker says no, LinkError for everything else."""
        # A thread of its own, as name resolution cannot be cancelled and must not keep anything waiting.
        threading.Thread(target=self._begin, name="mqtt-connect", daemon=True).start()
        try:
            async with asyncio.timeout(CONNECT_S):
                await asyncio.shield(self._connected)
        except TimeoutError:
            self._connected.cancel()
            self.close()
            raise LinkError(f"{self._where()} does not answer within {CONNECT_S:.0f} s") from None
        except BaseException:
            self.close()
            raise

    def subscribe(self, topics: list[str]) -> None:
        """Ask for topics with QoS 1."""
        self._client.subscribe([(topic, 1) for topic in topics])

    def publish(self, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False) -> asyncio.Future[int]:
        """Send; the future gives the PUBACK's reason code (QoS 0: success at once) or raises LinkError."""
        future: asyncio.Future[int] = self._loop.create_future()
        sent = self._client.publish(topic, payload, qos, retain)
        if sent.rc != paho.MQTT_ERR_SUCCESS or self._ended.is_set():
            future.set_exception(LinkError(f"not sent: {paho.error_string(sent.rc)}"))
            future.exception()  # whoever does not wait for it need not hear of it
        elif qos == 0:
            future.set_result(SUCCESS)
        else:
            # A PUBACK that came meanwhile waits in the loop behind us, so it finds the future.
            self._in_flight[sent.mid] = future
        return future

    @property
    def in_flight(self) -> int:
        """How many publishes wait for their PUBACK."""
        return len(self._in_flight)

    @property
    def is_alive(self) -> bool:
        """Tell whether the connection still stands."""
        return not self._ended.is_set()

    async def room(self) -> None:
        """Return when the broker takes one more publish; raises LinkError when the connection is gone."""
        while self.is_alive and len(self._in_flight) >= self.receive_maximum:
            self._room.clear()
            await self._room.wait()
        if not self.is_alive:
            raise LinkError(self.error)

    def close(self, error: str = "closed by us") -> None:
        """Disconnect cleanly; the broker drops the will."""
        self._client.disconnect()
        self._end(error)

    # On paho's threads.

    def _begin(self) -> None:
        settings = self._settings
        extra: dict[str, Any] = {"clean_start": True, "properties": _connect_properties()} if self._is_5 else {}
        try:
            self._client.connect(settings.socket or settings.host, settings.port, settings.keepalive_s, **extra)
        except (OSError, ValueError) as error:
            self._post(self._end, f"{self._where()}: {error}")
        else:
            if not self._gone.is_set():
                self._client.loop_start()

    def _on_socket_open(self, _client: Any, _data: Any, opened: Any) -> None:
        if not self._settings.socket:
            with contextlib.suppress(OSError):
                # Nagle would hold a PUBLISH back until the previous one's TCP acknowledgement.
                opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def _on_connect(self, _client: Any, _data: Any, _flags: Any, reason: Any, properties: Any) -> None:
        self._post(self._greeted, reason.value, str(reason), properties)

    def _on_disconnect(self, _client: Any, _data: Any, flags: Any, reason: Any, _properties: Any) -> None:
        self.taken_over = reason.value == TAKEN_OVER
        self.dropped = reason.value == UNSPECIFIED and not flags.is_disconnect_packet_from_server
        self._post(self._end, f"{self._where()}: {'the connection was dropped' if self.dropped else reason}")

    def _on_publish(self, _client: Any, _data: Any, mid: int, reason: Any, _properties: Any) -> None:
        self._post(self._acknowledged, mid, reason.value)

    def _on_message(self, _client: Any, _data: Any, message: Any) -> None:
        try:
            received = Message(message.topic, bytes(message.payload), bool(message.retain))
        except UnicodeDecodeError:
            return
        if len(received.payload) > MAX_INCOMING_BYTES:
            return
        while not self._waiting.acquire(timeout=1.0):
            if self._gone.is_set():
                return
        self._post(self._receive, received)

    def _post(self, function: Callable[..., None], *arguments: Any) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is left to hear it
            self._loop.call_soon_threadsafe(function, *arguments)

    # Back on the loop.

    def _greeted(self, code: int, text: str, properties: Any) -> None:
        if self._connected.done():
            return
        if code == SUCCESS:
            self.receive_maximum = getattr(properties, "ReceiveMaximum", self.receive_maximum)
            self.max_packet_bytes = getattr(properties, "MaximumPacketSize", self.max_packet_bytes)
            self._connected.set_result(None)
        elif code in REFUSALS:
            remedy = "check mqtt.username, mqtt.password, mqtt.tls and the broker's access list"
            self._connected.set_exception(RefusedError(f"{self._where()} refuses {text}; {remedy}"))
        else:
            self._connected.set_exception(LinkError(f"{self._where()} refuses: {text}"))

    def _acknowledged(self, mid: int, code: int) -> None:
        future = self._in_flight.pop(mid, None)
        if future is not None and not future.done():
            future.set_result(code)
        self._room.set()

    def _receive(self, message: Message) -> None:
        self._waiting.release()
        if self.on_message is not None and self.is_alive:
            self.on_message(message)

    def _end(self, error: str) -> None:
        if self._ended.is_set():
            return
        self.error = error
        self._gone.set()
        self._ended.set()
        if not self._connected.done():
            self._connected.set_exception(LinkError(error))
        for future in self._in_flight.values():
            if not future.done():
                future.set_exception(LinkError(error))
                future.exception()
        self._in_flight.clear()
        self._room.set()
        if self.on_end is not None:
            self.on_end()

    # Making the client.

    def _make_client(self, client_id: str, secret: Callable[[str], str], will: Will) -> paho.Client:
        settings = self._settings
        client = _Client(
            CallbackAPIVersion.VERSION2,
            client_id,
            clean_session=None if self._is_5 else True,
            protocol=paho.MQTTv5 if self._is_5 else paho.MQTTv311,
            transport="unix" if settings.socket else "tcp",
            reconnect_on_failure=False,  # paho would send its whole queue again, past any window
        )
        client.connect_timeout = CONNECT_S / 2
        client.max_inflight_messages_set(1000)  # the uplink's window is the bound
        client.will_set(will.topic, will.payload, qos=1, retain=True)
        if settings.username is not None:
            client.username_pw_set(settings.username, secret(settings.password) if settings.password else None)
        if settings.tls is not None:
            client.tls_set_context(_tls_context(settings.tls, secret))
        client.on_socket_open = self._on_socket_open
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_publish = self._on_publish
        client.on_message = self._on_message
        return client

    def _where(self) -> str:
        return self._settings.socket or f"{self._settings.host}:{self._settings.port}"


def _connect_properties() -> Properties:
    properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]  # paho leaves it untyped
    properties.MaximumPacketSize = MAX_INCOMING_BYTES
    return properties


def _tls_context(settings: TlsSettings, secret: Callable[[str], str]) -> ssl.SSLContext:
    """Return a context that checks the broker; raises ConfigError for files that do not fit."""
    try:
        context = ssl.create_default_context(cafile=settings.ca)
        if settings.certificate and settings.key:
            _load_chain(context, settings.certificate, secret(settings.key))
    except OSError as error:  # ssl.SSLError is one
        raise ConfigError("mqtt.tls", f"cannot be used: {error}", "check the files and that the key fits") from error
    return context


def _load_chain(context: ssl.SSLContext, certificate: str, key: str) -> None:
    """Give OpenSSL, which reads files only, a key that never touches a disk."""
    descriptor = os.memfd_create("key")
    try:
        os.write(descriptor, key.encode())
        context.load_cert_chain(certificate, f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)
