"""Read the two advertisement frames that watch-over tags send. Pure: no radio, no clock, no event loop.

iBeacon: manufacturer data of company 0x004C, `02 15`, UUID, major and minor big endian, power at 1 m (23 bytes).
Eddystone-UID: service data 0xFEAA, `00`, power at 0 m, namespace 10, instance 6, 2 reserved that may be missing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from drivers.api import MalformedError

APPLE = 0x004C
EDDYSTONE = "0000feaa-0000-1000-8000-00805f9b34fb"

_IBEACON_LENGTH = 23
_EDDYSTONE_LENGTHS = (18, 20)
_AT_1M_DB = -41
"""Eddystone states its power at 0 m; 1 m is this much weaker (Eddystone-UID frame specification)."""

_IBEACON_ID = re.compile(
    r"ibeacon:(?P<uuid>[0-9a-f]{32}|[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})"
    r":(?P<major>0|[1-9][0-9]{0,4}):(?P<minor>0|[1-9][0-9]{0,4})",
    re.ASCII,
)
_EDDYSTONE_ID = re.compile(r"eddystone:(?P<namespace>[0-9a-f]{20}):(?P<instance>[0-9a-f]{12})", re.ASCII)


@dataclass(frozen=True, slots=True)
class IBeacon:
    """An iBeacon frame; `power_dbm` is what a receiver at 1 m measures."""

    uuid: bytes
    major: int
    minor: int
    power_dbm: int

    @property
    def key(self) -> bytes:
        """The 20 bytes that identify the tag."""
        return self.uuid + self.major.to_bytes(2, "big") + self.minor.to_bytes(2, "big")

    @property
    def id(self) -> str:
        """The tag's name in an enrolment list."""
        return f"ibeacon:{self.uuid.hex()}:{self.major}:{self.minor}"


@dataclass(frozen=True, slots=True)
class EddystoneUid:
    """An Eddystone-UID frame; `power_dbm` is what a receiver at 1 m measures."""

    namespace: bytes
    instance: bytes
    power_dbm: int

    @property
    def key(self) -> bytes:
        """The 16 bytes that identify the tag."""
        return self.namespace + self.instance

    @property
    def id(self) -> str:
        """The tag's name in an enrolment list."""
        return f"eddystone:{self.namespace.hex()}:{self.instance.hex()}"


def decode_ibeacon(data: bytes) -> IBeacon | None:
    """Return Apple manufacturer data as an iBeacon, None for Apple's other types; raises MalformedError."""
    if data[:1] != b"\x02":
        return None  # AirPods, Find My, Handoff …: other types of the same company
    if len(data) != _IBEACON_LENGTH or data[1] != _IBEACON_LENGTH - 2:
        raise MalformedError(f"an iBeacon has {_IBEACON_LENGTH} bytes and says 21, this one has {len(data)}")
    return IBeacon(
        uuid=data[2:18],
        major=int.from_bytes(data[18:20], "big"),
        minor=int.from_bytes(data[20:22], "big"),
        power_dbm=int.from_bytes(data[22:23], "big", signed=True),
    )


def decode_eddystone(data: bytes) -> EddystoneUid | None:
    """Return service data 0xFEAA as an Eddystone-UID, None for its other frames; raises MalformedError."""
    if data[:1] != b"\x00":
        return None  # URL 10, TLM 20, EID 30, and 40/41 of a find-my network on the same service
    if len(data) not in _EDDYSTONE_LENGTHS:
        raise MalformedError(f"an Eddystone-UID frame has 18 or 20 bytes, this one has {len(data)}")
    power_dbm = int.from_bytes(data[1:2], "big", signed=True) + _AT_1M_DB
    return EddystoneUid(namespace=data[2:12], instance=data[12:18], power_dbm=power_dbm)


def keys_of(manufacturer_data: Mapping[int, bytes], service_data: Mapping[str, bytes]) -> tuple[bytes, ...]:
    """Return the keys an advertisement carries, none for a stranger's or a malformed one.

    A tag that sends both frames in turn shows both at every reception, because BlueZ merges them.
    """
    keys = []
    if (data := manufacturer_data.get(APPLE)) is not None and len(data) == _IBEACON_LENGTH and data[:2] == b"\x02\x15":
        keys.append(data[2:22])
    if (data := service_data.get(EDDYSTONE)) is not None and len(data) in _EDDYSTONE_LENGTHS and data[0] == 0:
        keys.append(data[2:18])
    return tuple(keys)


def key_of_id(text: str) -> bytes:
    """Return the key of a tag named as in an enrolment list; raises MalformedError."""
    if match := _IBEACON_ID.fullmatch(text):
        major, minor = int(match["major"]), int(match["minor"])
        if major <= 0xFFFF and minor <= 0xFFFF:
            return IBeacon(bytes.fromhex(match["uuid"].replace("-", "")), major, minor, 0).key
    elif match := _EDDYSTONE_ID.fullmatch(text):
        return bytes.fromhex(match["namespace"] + match["instance"])
    raise MalformedError(
        "a tag is named ibeacon:<uuid in lower-case hex>:<major>:<minor> or eddystone:<20 hex>:<12 hex>"
    )
