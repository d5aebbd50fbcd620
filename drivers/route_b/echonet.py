"""ECHONET Lite frames to values and back (format 1, part 2 of the specification). Pure: no port, no clock, no class.

What a property means is the business of the class that owns it (`meter` for the smart meter).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from decimal import Decimal
from struct import Struct
from typing import NamedTuple

from drivers.api import MalformedError

MAX_FRAME_BYTES = 1500
"""The largest frame of any carrier: one UDP datagram at home; Route B carries at most 1232."""

CONTROLLER = bytes.fromhex("05FF01")
METER = bytes.fromhex("028801")
NODE_PROFILE = bytes.fromhex("0EF001")

SET_I, SET_C, GET, INF_REQ, SET_GET = 0x60, 0x61, 0x62, 0x63, 0x6E
SET_RES, GET_RES, INF, INFC, INFC_RES, SET_GET_RES = 0x71, 0x72, 0x73, 0x74, 0x7A, 0x7E
SET_I_SNA, SET_C_SNA, GET_SNA, INF_SNA, SET_GET_SNA = 0x50, 0x51, 0x52, 0x53, 0x5E

SERVICE_NAMES = {
    SET_I: "SetI",
    SET_C: "SetC",
    GET: "Get",
    INF_REQ: "INF_REQ",
    SET_GET: "SetGet",
    SET_RES: "Set_Res",
    GET_RES: "Get_Res",
    INF: "INF",
    INFC: "INFC",
    INFC_RES: "INFC_Res",
    SET_GET_RES: "SetGet_Res",
    SET_I_SNA: "SetI_SNA",
    SET_C_SNA: "SetC_SNA",
    GET_SNA: "Get_SNA",
    INF_SNA: "INF_SNA",
    SET_GET_SNA: "SetGet_SNA",
}

UNITS_KWH = {
    0x00: Decimal(1),
    0x01: Decimal("0.1"),
    0x02: Decimal("0.01"),
    0x03: Decimal("0.001"),
    0x04: Decimal("0.0001"),
    0x0A: Decimal(10),
    0x0B: Decimal(100),
    0x0C: Decimal(1000),
    0x0D: Decimal(10000),
}
"""Codes of the unit property of an energy register (0288 E1, 0287 C2): kWh that one count stands for."""

_TWO_LISTS = frozenset((SET_GET, SET_GET_RES, SET_GET_SNA))
_TO_DESTINATION = frozenset((SET_I, SET_C, GET, INF_REQ, SET_GET, INFC_RES))
_HEAD = Struct(">HH3s3sBB")
_EHD = 0x1081
_NONE: Mapping[int, bytes] = {}
_new = tuple.__new__  # the constructor of a NamedTuple costs a tenth of the whole decoding


class FrameError(MalformedError):
    """Bytes are no ECHONET Lite frame, or no value of their property; `offset` is the byte where that shows."""

    def __init__(self, reason: str, offset: int) -> None:
        super().__init__(reason, offset)
        self.reason = reason
        self.offset = offset

    def __str__(self) -> str:
        return f"{self.reason} (at byte {self.offset})"


class Frame(NamedTuple):
    """One frame: objects as 3 bytes, `properties` = EPC → EDT in the order sent, `gets` the second list of a SetGet.

    A tuple rather than a dataclass because a frame is built for every answer of every home behind one gateway.
    """

    tid: int
    seoj: bytes
    deoj: bytes
    esv: int
    properties: Mapping[int, bytes]
    gets: Mapping[int, bytes] = _NONE

    @property
    def service(self) -> str:
        """Return the name of the service, or ESV and its hex digits for one the specification does not know."""
        return SERVICE_NAMES.get(self.esv, f"ESV {self.esv:02X}")

    @property
    def subject(self) -> bytes:
        """Return the object whose properties these are: the destination of a request, else the source."""
        return self.deoj if self.esv in _TO_DESTINATION else self.seoj


def decode(data: bytes) -> Frame:
    """Return the frame that `data` is, every length checked and no byte left over; raises FrameError."""
    size = len(data)
    if not 12 <= size <= MAX_FRAME_BYTES:
        raise _wrong_size(data)
    ehd, tid, seoj, deoj, esv, count = _HEAD.unpack_from(data)
    if ehd != _EHD:
        raise _wrong_head(data)
    if esv in _TWO_LISTS:
        return _decode_two_lists(data, tid, seoj, deoj, esv)
    properties: dict[int, bytes] = {}
    offset = 12
    try:
        for _ in range(count):
            start = offset + 2
            offset = start + data[start - 1]
            properties[data[start - 2]] = data[start:offset]
    except IndexError:
        raise _wrong_list(data, 11) from None
    if offset != size or len(properties) != count or not count:
        raise _wrong_list(data, 11)
    return _new(Frame, (tid, seoj, deoj, esv, properties, _NONE))


def _decode_two_lists(data: bytes, tid: int, seoj: bytes, deoj: bytes, esv: int) -> Frame:
    sets, offset = _read_list(data, 11)
    gets, end = _read_list(data, offset)
    if end != len(data):
        raise FrameError(f"{len(data) - end} bytes follow the last property", end)
    return Frame(tid, seoj, deoj, esv, sets, gets)


def _read_list(data: bytes, at: int) -> tuple[dict[int, bytes], int]:
    """Return the properties counted by the byte at `at`, and the offset behind them; raises FrameError."""
    if at >= len(data):
        raise FrameError("the count of the second list is missing", at)
    count = data[at]
    if count == 0:
        raise FrameError("a list of no properties (OPC 0)", at)
    offset = at + 1
    properties: dict[int, bytes] = {}
    for index in range(1, count + 1):
        if offset + 2 > len(data):
            raise FrameError(f"property {index} of {count} is missing", offset)
        epc, size = data[offset], data[offset + 1]
        if offset + 2 + size > len(data):
            left = len(data) - offset - 2
            raise FrameError(f"property {epc:02X} claims {size} bytes, {left} are left", offset + 1)
        if epc in properties:
            raise FrameError(f"property {epc:02X} stands twice", offset)
        properties[epc] = data[offset + 2 : offset + 2 + size]
        offset += 2 + size
    return properties, offset


def _wrong_list(data: bytes, at: int) -> FrameError:
    """Say what is wrong with a list that the fast path refused."""
    try:
        _, end = _read_list(data, at)
    except FrameError as error:
        return error
    return FrameError(f"{len(data) - end} bytes follow the last property", end)


def _wrong_size(data: bytes) -> FrameError:
    if len(data) > MAX_FRAME_BYTES:
        return FrameError(f"{len(data)} bytes; no frame has more than {MAX_FRAME_BYTES}", MAX_FRAME_BYTES)
    if data[:2] != b"\x10\x81"[: len(data)]:
        return _wrong_head(data)
    return FrameError(f"{len(data)} bytes; the header alone takes 12", len(data))


def _wrong_head(data: bytes) -> FrameError:
    if data[0] != 0x10:
        return FrameError(f"EHD1 is {data[0]:02X}; ECHONET Lite says 10", 0)
    if data[1] == 0x82:
        return FrameError("EHD2 is 82: free format, which has no properties", 1)
    return FrameError(f"EHD2 is {data[1]:02X}; format 1 says 81", 1)


def encode(frame: Frame) -> bytes:
    """Return the bytes of a frame; raises ValueError for what a frame cannot hold."""
    body = _encode_list(frame.properties)
    if frame.esv in _TWO_LISTS:
        body += _encode_list(frame.gets)
    if len(frame.seoj) != 3 or len(frame.deoj) != 3:
        raise ValueError("an object is 3 bytes")
    return b"\x10\x81" + frame.tid.to_bytes(2, "big") + frame.seoj + frame.deoj + bytes((frame.esv,)) + body


def _encode_list(properties: Mapping[int, bytes]) -> bytes:
    if not properties:
        raise ValueError("a frame without properties")
    parts = [bytes((len(properties),))]
    for epc, edt in properties.items():
        parts.append(bytes((epc, len(edt))))
        parts.append(edt)
    return b"".join(parts)


def get(tid: int, epcs: Iterable[int], deoj: bytes = METER) -> bytes:
    """Return the request that asks `deoj` for the values of some properties."""
    return encode(Frame(tid, CONTROLLER, deoj, GET, dict.fromkeys(epcs, b"")))


def infc_response(frame: Frame) -> bytes:
    """Return the answer that an INFC must get: same TID, objects swapped, same properties without data."""
    source = CONTROLLER if frame.deoj[2] == 0 else frame.deoj  # instance 00 addresses every instance
    return encode(Frame(frame.tid, source, frame.seoj, INFC_RES, dict.fromkeys(frame.properties, b"")))


def property_map(edt: bytes) -> tuple[int, ...]:
    """Return the EPCs of a property map (9D, 9E, 9F) in ascending order; raises FrameError."""
    if not edt:
        raise FrameError("an empty property map", 0)
    count = edt[0]
    if count < 16:
        epcs = set(edt[1:])
        if len(edt) - 1 != count:
            raise FrameError(f"a map of {count} properties has {len(edt) - 1} bytes", min(len(edt), count + 1))
    else:
        if len(edt) != 17:
            raise FrameError(f"a map of {count} properties takes 17 bytes, not {len(edt)}", min(len(edt), 17))
        # Byte i (0-15), bit j stands for EPC (8 + j) * 16 + i: part 2, appendix 1.
        epcs = {(8 + bit) * 16 + i for i in range(16) for bit in range(8) if edt[1 + i] >> bit & 1}
    if len(epcs) != count:
        raise FrameError(f"a map of {count} properties names {len(epcs)}", 0)
    return tuple(sorted(epcs))


def encode_property_map(epcs: Iterable[int]) -> bytes:
    """Return the property map that names some EPCs (80 to FF)."""
    named = sorted(set(epcs))
    if len(named) < 16:
        return bytes((len(named), *named))
    rows = bytearray(16)
    for epc in named:
        rows[epc & 0x0F] |= 1 << ((epc >> 4) - 8)
    return bytes((len(named),)) + bytes(rows)
