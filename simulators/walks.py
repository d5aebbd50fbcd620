"""Who walks past the pole, when, and how strong each packet arrives. Pure: a function of seed and start, no radio.

Frames are built here from the iBeacon and Eddystone-UID specifications, not with the driver's codec, so that the two
can disagree. A tag is audible within RANGE_M and sends every `interval`; a share of its packets is lost. That keeps
gaps far below 20 s of silence, so each walk is exactly one passage: enters with its first packet, leaves with its last.
"""

from __future__ import annotations

import heapq
import math
import random
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

RANGE_M = 25.0
POLE_M = 3.5
"""Height of the receiver above the tags."""
RSSI_AT_1M = -59
EXPONENT = 2.0
NOISE_DB = 4.0
LOSS = 0.1
INTERVAL_MS = 1_000
JITTER_MS = 10
"""Bluetooth adds 0 to 10 ms to every advertising interval."""
SHORTEST_GAP_MS = 60_000
USUAL_GAP_MS = 240_000
CYCLISTS = 0.1
LINGERERS = 0.15
UUID = bytes.fromhex("fda50693a4e24fb1afcfc6eb07647825")
NAMESPACE = bytes.fromhex("edd1ebeac04e5defa017")


@dataclass(frozen=True, slots=True)
class Tag:
    """A simulated tag: exactly one of its two frames is set."""

    pseudonym: str
    id: str
    address: str
    ibeacon: bytes | None = None
    eddystone: bytes | None = None


@dataclass(frozen=True, slots=True)
class Packet:
    """One reception: simulated unix ms and signal strength in dBm."""

    at_ms: int
    rssi: int


@dataclass(frozen=True, slots=True)
class Walk:
    """One walk past the pole."""

    tag: Tag
    packets: tuple[Packet, ...]

    @property
    def enters_ms(self) -> int:
        """When the first packet is heard."""
        return self.packets[0].at_ms

    @property
    def leaves_ms(self) -> int:
        """When the last packet is heard."""
        return self.packets[-1].at_ms


def make_tags(count: int) -> list[Tag]:
    """Return tags t-001, t-002 …: iBeacon and Eddystone-UID in turn."""
    return [_ibeacon(number) if number % 2 else _eddystone(number) for number in range(1, count + 1)]


def enrolment(tags: Sequence[Tag], version: int) -> dict[str, object]:
    """Return the town's `tags` message that enrols them."""
    entries = [{"id": tag.id, "pseudonym": tag.pseudonym, "valid_until": None} for tag in tags]
    return {"version": version, "tags": entries}


def walks(tags: Sequence[Tag], *, seed: int, start_ms: int, pace: float = 1.0) -> Iterator[Walk]:
    """Yield all walks from a start for ever, in order of their beginning; everything lasts `pace` times as long."""
    return heapq.merge(*(_walks_of(tag, seed, start_ms, pace) for tag in tags), key=lambda walk: walk.enters_ms)


def first_walks(tags: Sequence[Tag], count: int, *, seed: int, start_ms: int, pace: float = 1.0) -> list[Walk]:
    """Return the first walks: what a test may expect as passages."""
    return list(islice(walks(tags, seed=seed, start_ms=start_ms, pace=pace), count))


def rssi_at(distance_m: float, noise_db: float) -> int:
    """Return the strength at a distance by the log-distance path loss model, within what a receiver reports."""
    return max(-99, min(-20, round(RSSI_AT_1M - 10 * EXPONENT * math.log10(max(distance_m, 0.1)) + noise_db)))


def _walks_of(tag: Tag, seed: int, start_ms: int, pace: float) -> Iterator[Walk]:
    rng = random.Random(f"{seed} {tag.pseudonym}")
    at_ms = start_ms + rng.uniform(0, USUAL_GAP_MS) * pace
    while True:
        walk = Walk(tag, tuple(_packets(rng, at_ms, pace)))
        if len(walk.packets) >= 2:
            yield walk
            at_ms = walk.leaves_ms
        at_ms += (SHORTEST_GAP_MS + rng.expovariate(1 / (USUAL_GAP_MS - SHORTEST_GAP_MS))) * pace


def _packets(rng: random.Random, begin_ms: float, pace: float) -> Iterator[Packet]:
    speed = rng.uniform(3.5, 5.0) if rng.random() < CYCLISTS else rng.uniform(0.9, 1.6)
    kerb_m = rng.uniform(1.5, 6.0)
    half_m = math.sqrt(RANGE_M**2 - kerb_m**2 - POLE_M**2)
    pause_s = rng.uniform(30, 120) if rng.random() < LINGERERS else 0.0
    walking_s = 2 * half_m / speed
    elapsed_ms, end_ms = 0.0, (walking_s + pause_s) * 1000
    while elapsed_ms <= end_ms:
        walked_s = elapsed_ms / 1000
        if walked_s > walking_s / 2:
            walked_s = max(walking_s / 2, walked_s - pause_s)  # who lingers does so at the pole
        along_m = walked_s * speed - half_m
        rssi = rssi_at(math.hypot(along_m, kerb_m, POLE_M), rng.gauss(0, NOISE_DB))
        if rng.random() >= LOSS:
            yield Packet(round(begin_ms + elapsed_ms * pace), rssi)
        elapsed_ms += INTERVAL_MS + rng.uniform(0, JITTER_MS)


def _ibeacon(number: int) -> Tag:
    frame = b"\x02\x15" + UUID + struct.pack(">HHb", 1, number, RSSI_AT_1M)
    return Tag(f"t-{number:03d}", f"ibeacon:{UUID.hex()}:1:{number}", _address(number), ibeacon=frame)


def _eddystone(number: int) -> Tag:
    instance = number.to_bytes(6, "big")
    frame = struct.pack(">Bb", 0, RSSI_AT_1M + 41) + NAMESPACE + instance + b"\0\0"
    return Tag(f"t-{number:03d}", f"eddystone:{NAMESPACE.hex()}:{instance.hex()}", _address(number), eddystone=frame)


def _address(number: int) -> str:
    """Return a static random address: its top two bits are set (Core Specification, Vol 6, B 1.3.2.1)."""
    return "C0:00:00:" + number.to_bytes(3, "big").hex(":").upper()
