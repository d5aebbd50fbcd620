"""The binary UART protocol of J11 dongles (RS-WSUHA-J11, BP35C2-J11): bytes to messages and back. Pure: no port.

Experimental: written from public sources alone (open drivers for the family), never tried on a device.
Messages are big-endian: unique code, command, length (of the data + 4), sum of those 8 bytes, sum of the data, data.
They hold credentials, so no content is ever shown.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from struct import Struct
from typing import TypeAlias

from drivers.api import MalformedError
from drivers.route_b.skstack import Noise, Pan

MAX_MESSAGE_BYTES = 1361
ECHONET_PORT = 3610

RESET, VERSION, SET_UP, CREDENTIALS, SCAN = 0x00D9, 0x006B, 0x005F, 0x0054, 0x0051
START, OPEN_PORT, START_PANA, STOP_PANA, SEND = 0x0053, 0x0005, 0x0056, 0x0057, 0x0008
ANSWER = 0x2000
"""What an answer's command has above its request's."""
SCANNED, RECEIVED, STARTED, CONNECTION, AUTHENTICATED = 0x4051, 0x6018, 0x6019, 0x601A, 0x6028

DONE, ALREADY, NO_BEACON = 0x01, 0x0A, 0x0E
"""Results; `ALREADY`: the port is open."""
LET_IN, REFUSED, SILENT = 0x01, 0x02, 0x03
"""Results of an authentication."""
LOST = frozenset((0x03, 0x04))
"""States of a connection that has ended: of the radio, of the session."""

MARK = bytes.fromhex("D0F9EE5D")
"""What every message of a dongle begins with."""
_ASKS = bytes.fromhex("D0EA83FC")
_HEAD = Struct(">4sHHHH")
_BEACON = Struct(">8s2sb")
_DATAGRAM = Struct(">16sHH2sBBbH")
_ALL_CHANNELS = 0x0003FFF0  # 4 to 17


@dataclass(frozen=True, slots=True)
class Message:
    """What the dongle says: an answer or a notification."""

    command: int
    data: bytes = field(repr=False)

    @property
    def result(self) -> int | None:
        """Return the first byte, an answer's result."""
        return self.data[0] if self.data else None


@dataclass(frozen=True, slots=True)
class Datagram:
    """A UDP datagram from the air; `sender` is an IPv6 address."""

    sender: bytes
    remote_port: int
    local_port: int
    rssi_dbm: int
    data: bytes


Incoming: TypeAlias = Message | Noise


class J11Reader:
    """Cut a byte stream into messages, however it was chunked; both sums must hold."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    @property
    def waiting(self) -> bool:
        """Tell whether bytes are kept that wait for more."""
        return bool(self._buffer)

    def feed(self, chunk: bytes) -> list[Incoming]:
        """Take bytes in and return what is complete now; never raises."""
        found: list[Incoming] = []
        for at in range(0, len(chunk), MAX_MESSAGE_BYTES):  # keeps the buffer bounded whatever a read returned
            self._buffer += chunk[at : at + MAX_MESSAGE_BYTES]
            while self._step(found):
                pass
        return found

    def give_up(self) -> list[Incoming]:
        """Drop the head of what waits for more (a byte was lost) and return what the rest holds."""
        if not self._buffer:
            return []
        found: list[Incoming] = [Noise(f"{len(self._buffer)} bytes waited for more")]
        del self._buffer[:1]
        while self._step(found):
            pass
        return found

    def _step(self, found: list[Incoming]) -> bool:
        buffer = self._buffer
        if skipped := self._skip():
            found.append(Noise(f"{skipped} bytes that begin no message"))
        if len(buffer) < _HEAD.size:
            return False
        _, command, length, head_sum, data_sum = _HEAD.unpack_from(buffer)
        size = length + 8
        if sum(buffer[:8]) & 0xFFFF != head_sum or not _HEAD.size <= size <= MAX_MESSAGE_BYTES:
            return self._drop(found, "a message with a spoilt head")
        if len(buffer) < size:
            return False
        data = bytes(buffer[_HEAD.size : size])
        if sum(data) & 0xFFFF != data_sum:
            return self._drop(found, "a message with spoilt data")
        del buffer[:size]
        found.append(Message(command, data))
        return True

    def _skip(self) -> int:
        """Drop what comes before the next unique code, of which the end of the buffer may hold a beginning."""
        buffer = self._buffer
        at = buffer.find(MARK)
        if at < 0:
            at = len(buffer) - next(n for n in (3, 2, 1, 0) if buffer.endswith(MARK[:n]))
        del buffer[:at]
        return at

    def _drop(self, found: list[Incoming], reason: str) -> bool:
        found.append(Noise(reason))
        del self._buffer[: len(MARK)]
        return True


def request(command: int, data: bytes = b"") -> bytes:
    """Return a request; raises ValueError for too much data."""
    return _message(_ASKS, command, data)


def says(command: int, data: bytes = b"") -> bytes:
    """Return an answer or a notification, as the dongle sends them."""
    return _message(MARK, command, data)


def _message(code: bytes, command: int, data: bytes) -> bytes:
    if len(data) > MAX_MESSAGE_BYTES - _HEAD.size:
        raise ValueError(f"a message with {len(data)} bytes")
    head = code + command.to_bytes(2) + (len(data) + 4).to_bytes(2)
    return head + (sum(head) & 0xFFFF).to_bytes(2) + (sum(data) & 0xFFFF).to_bytes(2) + data


def set_up(channel: int) -> bytes:
    """Return the request for both networks, no sleep, full power, on a channel numbered as SKSTACK numbers them."""
    return request(SET_UP, bytes((5, 0, own_channel(channel), 0)))


def credentials(route_b_id: str, password: str) -> bytes:
    """Return the request that hands over the credentials."""
    return request(CREDENTIALS, route_b_id.encode("ascii") + password.encode("ascii"))


def scan(duration: int, pair_id: str) -> bytes:
    """Return an active scan of all channels for meters of one pairing ID."""
    return request(SCAN, bytes((duration,)) + _ALL_CHANNELS.to_bytes(4) + b"\x01" + pair_id.encode("ascii"))


def scan_s(duration: int) -> float:
    """Return how long a scan takes: 14 channels of 9.64 ms x 2^d each."""
    return 14 * 0.00964 * float(1 << duration)


def send_to(mac: str, data: bytes) -> bytes:
    """Return the request that sends a datagram to the ECHONET port of a meter."""
    ports = ECHONET_PORT.to_bytes(2) * 2
    return request(SEND, address(mac) + ports + len(data).to_bytes(2) + data)


def address(mac: str) -> bytes:
    """Return the link-local IPv6 address of a MAC."""
    digits = bytes.fromhex(mac)
    return bytes.fromhex("FE80000000000000") + bytes((digits[0] ^ 0x02,)) + digits[1:]


def own_channel(channel: int) -> int:
    """Return this family's number of a channel (4 to 17, each 400 kHz), from SKSTACK's (33 to 60, each 200 kHz)."""
    return min(max((channel - 33) // 2 + 4, 4), 17)


def pans(data: bytes, pair_id: str) -> list[Pan]:
    """Return the networks that a scan's notification tells of one channel; raises MalformedError."""
    if len(data) < 2:
        raise MalformedError("a scan result without a channel")
    if data[0] != 0:  # nobody answered on this channel
        return []
    if len(data) < 3 or len(data) != 3 + data[2] * _BEACON.size:
        raise MalformedError(f"a scan result of {len(data)} bytes")
    return [
        Pan(33 + 2 * (data[1] - 4), int.from_bytes(pan_id), mac.hex().upper(), lqi(rssi), pair_id)
        for mac, pan_id, rssi in _BEACON.iter_unpack(data[3:])
    ]


def datagram(data: bytes) -> Datagram:
    """Return what a reception's notification holds; raises MalformedError."""
    if len(data) < _DATAGRAM.size:
        raise MalformedError(f"a reception of {len(data)} bytes")
    sender, remote, local, _, _, _, rssi, size = _DATAGRAM.unpack_from(data)
    if len(data) != _DATAGRAM.size + size:
        raise MalformedError(f"a reception that claims {size} bytes and has {len(data) - _DATAGRAM.size}")
    return Datagram(sender, remote, local, rssi, data[_DATAGRAM.size :])


def lqi(rssi_dbm: int) -> int:
    """Return the link quality that SKSTACK dongles give for a received power."""
    return min(max(round((rssi_dbm + 104.27) / 0.275), 0), 255)
