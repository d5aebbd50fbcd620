"""Modbus requests and answers as frames of a TCP stream and of an RTU line. Pure: sends nothing, waits for nothing.

Readers take bytes however they were cut and give whole frames; what cannot be one is skipped (RTU) or named
(MalformedError, TCP). Modbus Application Protocol 1.1b3; Modbus over Serial Line 1.02, 2.5.1.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from drivers.api import MalformedError

READ_HOLDING, READ_INPUT, WRITE_MANY = 3, 4, 16
READ_FUNCTIONS = {"holding": READ_HOLDING, "input": READ_INPUT}
EXCEPTION = 0x80

MOST_WRITTEN = 123
"""Registers of one write (Modbus Application Protocol 1.1b3, 6.12)."""
MOST_RTU_BYTES = 256
MOST_TCP_LENGTH = 254
"""What the length field counts: unit and at most 253 bytes of PDU."""

_HEADER = struct.Struct(">HHHB")
_FIXED_ANSWERS = {5: 8, 6: 8, 15: 8, 16: 8, 22: 10}
_COUNTED_ANSWERS = frozenset({1, 2, 3, 4, 23})


@dataclass(frozen=True, slots=True)
class Answer:
    """One frame of a unit: its function code and what follows it; `transaction` is None where a line has none."""

    unit: int
    function: int
    body: bytes
    transaction: int | None = None

    @property
    def asked_function(self) -> int:
        """The function code of the request that this answers."""
        return self.function & ~EXCEPTION

    @property
    def exception(self) -> int | None:
        """The exception code, None for an answer that is not one."""
        return (self.body[0] if self.body else 0) if self.function & EXCEPTION else None

    def registers(self) -> bytes:
        """Return the register bytes of a read; raises MalformedError when its byte count is not what came."""
        if not self.body or self.body[0] != len(self.body) - 1 or self.body[0] % 2:
            raise MalformedError(f"an answer of {len(self.body)} bytes that counts {self.body[:1].hex() or 'nothing'}")
        return self.body[1:]


def read_pdu(function: int, address: int, count: int) -> bytes:
    """Return the request to read `count` registers."""
    return struct.pack(">BHH", function, address, count)


def write_pdu(address: int, data: bytes) -> bytes:
    """Return the request to write register bytes; always function 16, since some inverters refuse 6."""
    return struct.pack(">BHHB", WRITE_MANY, address, len(data) // 2, len(data)) + data


def tcp_frame(transaction: int, unit: int, pdu: bytes) -> bytes:
    """Return a PDU as it travels over Modbus TCP."""
    return _HEADER.pack(transaction, 0, len(pdu) + 1, unit) + pdu


def rtu_frame(unit: int, pdu: bytes) -> bytes:
    """Return a PDU as it travels over a serial line."""
    body = bytes((unit,)) + pdu
    return body + struct.pack("<H", crc(body))


class Reader(Protocol):
    """Bytes of one connection → the frames in them."""

    def feed(self, chunk: bytes) -> Iterator[Answer]: ...

    def reset(self) -> None: ...


class TcpReader:
    """Cut a Modbus TCP stream into answers; holds one frame at most."""

    def __init__(self) -> None:
        self._buffer = b""

    def feed(self, chunk: bytes) -> Iterator[Answer]:
        """Yield the answers that became whole; raises MalformedError where no frame can start."""
        self._buffer += chunk
        while len(self._buffer) > _HEADER.size:
            transaction, protocol, length, unit = _HEADER.unpack_from(self._buffer)
            if protocol != 0 or not 2 <= length <= MOST_TCP_LENGTH:
                shown, self._buffer = self._buffer[:8].hex(), b""
                raise MalformedError(f"no Modbus TCP frame starts with {shown}")
            if len(self._buffer) < 6 + length:
                return
            frame, self._buffer = self._buffer[: 6 + length], self._buffer[6 + length :]
            yield Answer(unit, frame[7], frame[8:], transaction)

    def reset(self) -> None:
        """Nothing is dropped: on TCP the rest of a frame still comes."""


class RtuReader:
    """Find answers in the bytes of a serial line by length and check sum; holds one frame at most."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, chunk: bytes) -> Iterator[Answer]:
        """Yield the answers that became whole; skips what cannot be one."""
        buffer = self._buffer
        buffer += chunk
        while len(buffer) >= 3:
            size = _rtu_size(buffer)
            if size is None:
                del buffer[0]
            elif len(buffer) < size:
                return
            elif crc(buffer[: size - 2]) != buffer[size - 2] | buffer[size - 1] << 8:
                del buffer[0]
            else:
                frame = bytes(buffer[: size - 2])
                del buffer[:size]
                yield Answer(frame[0], frame[1], frame[2:])

    def reset(self) -> None:
        """Forget a frame that was never completed."""
        self._buffer.clear()


def _rtu_size(buffer: bytearray) -> int | None:
    """Return how long the answer at the start of at least three bytes is; None when none starts there."""
    function = buffer[1]
    if function & EXCEPTION:
        known = function & ~EXCEPTION in _FIXED_ANSWERS or function & ~EXCEPTION in _COUNTED_ANSWERS
        return 5 if known else None
    if function in _COUNTED_ANSWERS:
        size = 5 + buffer[2]
        return size if size <= MOST_RTU_BYTES else None
    return _FIXED_ANSWERS.get(function)


def _crc_row(byte: int) -> int:
    for _ in range(8):
        byte = byte >> 1 ^ (0xA001 if byte & 1 else 0)
    return byte


_CRC_TABLE = tuple(_crc_row(byte) for byte in range(256))


def crc(data: bytes | bytearray) -> int:
    """Return the check sum of an RTU frame, whose low byte is sent first (Modbus over Serial Line 1.02, 6.2.2)."""
    value = 0xFFFF
    for byte in data:
        value = value >> 8 ^ _CRC_TABLE[(value ^ byte) & 0xFF]
    return value
