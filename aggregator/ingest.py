"""Turns a payload into rows, values, events and what must be put aside. Pure: no broker, no database, no clock.

Whatever bytes arrive, `read` returns a Reading; nothing is dropped without a trace and nothing is acknowledged
unless its number could be read.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import msgspec

from drivers.api import Value
from edge_agent import wire

FUTURE_MS = 10 * 60 * 1000
"""A row further ahead of our clock than this is put aside: a gateway's clock is wrong, or ours."""
OLDEST_MS = 1_577_836_800_000
"""2020-01-01: no row is older; an unset clock would say 1970."""
LAST_MS = 4_102_444_800_000
"""2100-01-01: the end of time for simulated rows, which may lie ahead of our clock."""
MAX_BOOT_MS = 2**53
MAX_SEQ = 2**63 - 1
MAX_EVENT_DATA_BYTES = 16 * 1024
MAX_TEXT = 1024
"""The longest text a quantity may have as its value."""
PERSONAL_KINDS = frozenset({"tag_arrived", "tag_left"})
"""Passages concern a person also when a backfill carries them."""

Stream: TypeAlias = Literal["telemetry", "events", "passages", "backfill", "stored"]
STREAMS = ("telemetry", "events", "passages", "backfill")

_DEVICE = re.compile(r"[^\x00-\x1f\x7f/+#]{1,64}\Z")
_QUANTITY = re.compile(r"[a-z][a-z0-9_]{0,63}\Z")
_WORD = re.compile(r"[A-Za-z0-9_.:-]{1,64}\Z")


@dataclass(frozen=True, slots=True)
class Rules:
    """What the operator allows."""

    accept_simulated: bool = False


@dataclass(frozen=True, slots=True)
class Row:
    """Values of one device at one moment of one boot; `utc_ms` is None while that boot's clock is not known."""

    device: str
    boot_ms: int
    utc_ms: int | None
    values: dict[str, Value]


@dataclass(frozen=True, slots=True)
class DeviceValue:
    """A value whose time the device itself gave."""

    device: str
    quantity: str
    utc_ms: int
    value: Value


@dataclass(frozen=True, slots=True)
class Happening:
    """An event as stored: one of `boot_ms` and `utc_ms` may be None, `data` is JSON text."""

    id: str
    device: str
    kind: str
    boot_ms: int | None
    utc_ms: int | None
    data: str
    personal: bool


@dataclass(frozen=True, slots=True)
class Content:
    """What one batch brings; `live` when it came first-hand rather than from a backfill or a file."""

    epoch: str
    seq: int
    digest: bytes
    boot: str
    clock: wire.ClockQuality
    live: bool
    rows: list[Row]
    values: list[DeviceValue]
    events: list[Happening]
    offsets: dict[str, int]


@dataclass(frozen=True, slots=True)
class SetAside:
    """Bytes that could not enter the series, as they must be offered again, with the reason."""

    gateway: str
    topic: str
    payload: bytes
    reason: str

    @property
    def digest(self) -> bytes:
        """Return the key under which these bytes are kept once."""
        return digest(self.topic.encode("utf-8", "surrogatepass") + b"\0" + self.payload)


@dataclass(slots=True)
class Reading:
    """One message understood as far as it could be."""

    gateway: str
    topic: str
    payload: bytes
    now_ms: int
    contents: list[Content] = field(default_factory=list)
    set_aside: list[SetAside] = field(default_factory=list)
    acks: list[tuple[str, int]] = field(default_factory=list)
    state: wire.State | None = None
    meta: wire.Meta | None = None
    force: bool = False

    def put_aside(self, reason: str, payload: bytes | None = None) -> None:
        """Keep the whole message, or one batch of it, for a person to look at."""
        if payload is None:
            self.set_aside.append(SetAside(self.gateway, self.topic, self.payload, reason))
        else:
            topic = wire.up_topic(self.gateway, "stored")
            self.set_aside.append(SetAside(self.gateway, topic, payload, reason))


class _Numbered(msgspec.Struct):
    epoch: str
    seq: int


def digest(payload: bytes) -> bytes:
    """Return 16 bytes that name a payload."""
    return hashlib.sha256(payload).digest()[:16]


def read(topic: str, payload: bytes, now_ms: int, rules: Rules, *, force: bool = False) -> Reading:
    """Understand one message of a gateway; `force` looks again at what was stored or put aside before."""
    try:
        gateway, rest = wire.split_up_topic(topic)
    except wire.WireError as error:
        reading = Reading("", topic, payload, now_ms)
        reading.put_aside(str(error))
        return reading
    reading = Reading(gateway, topic, payload, now_ms, force=force)
    limit = wire.MAX_INFLATED_BYTES if rest == ["stored"] else wire.MAX_PAYLOAD_BYTES
    if len(payload) > limit:
        reading.put_aside(f"{len(payload)} bytes; the contract allows {limit}")
        return reading
    try:
        _read_kind(reading, "/".join(rest), rules)
    except wire.WireError as error:
        reading.put_aside(str(error))
    return reading


def read_exported(line: bytes, now_ms: int, rules: Rules) -> Reading:
    """Understand one line of an outbox export; raises WireError when it is not one."""
    exported = wire.decode(line, _Exported)
    if not wire.is_gateway_id(exported.gateway):
        raise wire.WireError(f"not a gateway: {exported.gateway[:40]!r}")
    reading = Reading(exported.gateway, wire.up_topic(exported.gateway, "stored"), bytes(exported.batch), now_ms)
    _read_batch(reading, bytes(exported.batch), rules, live=False, personal=exported.topic == "passages")
    return reading


class _Exported(msgspec.Struct):
    gateway: str
    topic: Literal["telemetry", "events", "passages"]
    batch: msgspec.Raw


def _read_kind(reading: Reading, kind: str, rules: Rules) -> None:
    if kind in ("telemetry", "events", "passages"):
        _read_batch(reading, reading.payload, rules, live=True, personal=kind == "passages")
    elif kind == "stored":
        _read_batch(reading, reading.payload, rules, live=False, personal=False)
    elif kind == "backfill":
        for raw in wire.decode_backfill(reading.payload):
            _read_batch(reading, raw, rules, live=False, personal=False)
    elif kind == "state":
        reading.state = wire.decode(reading.payload, wire.State) if reading.payload else None
    elif kind == "meta":
        reading.meta = _read_meta(reading) if reading.payload else None
    else:
        raise wire.WireError(f"no such topic in version {wire.VERSION}: {reading.topic[:120]!r}")


def _read_meta(reading: Reading) -> wire.Meta:
    meta = wire.decode(reading.payload, wire.Meta)
    if meta.v != wire.VERSION:
        raise wire.VersionError(f"version {meta.v} is not known here (this is {wire.VERSION})")
    if meta.gateway != reading.gateway:
        raise wire.WireError(f"the topic says {reading.gateway!r}, the payload {meta.gateway[:40]!r}")
    return meta


def _read_batch(reading: Reading, raw: bytes, rules: Rules, *, live: bool, personal: bool) -> None:
    """Add one batch to the reading, or put it aside; acknowledge it either way when its number can be read."""
    try:
        batch = wire.decode_batch(raw)
        _check(batch)
    except wire.WireError as error:
        reading.put_aside(str(error), raw)
        reading.acks += _number_of(raw)
        return
    reading.acks.append((batch.epoch, batch.seq))
    if batch.clock == "simulated" and not rules.accept_simulated:
        reading.put_aside("its clock is simulated; accept_simulated: true lets it in", raw)
        return
    reading.contents.append(_place(reading, raw, batch, live=live, personal=personal))


def _number_of(raw: bytes) -> list[tuple[str, int]]:
    try:
        numbered = wire.decode(raw, _Numbered)
    except wire.WireError:
        return []
    fits = wire.EPOCH.match(numbered.epoch) and 0 <= numbered.seq <= MAX_SEQ
    return [(numbered.epoch, numbered.seq)] if fits else []


def _check(batch: wire.Batch) -> None:
    """Raise WireError where a batch is well formed and yet nothing a database should take."""
    if batch.seq > MAX_SEQ or not _WORD.match(batch.boot):
        raise wire.WireError(f"number {batch.seq} or boot {batch.boot[:70]!r} is out of form")
    if abs(batch.b0) > MAX_BOOT_MS or abs(batch.t0 or 0) > MAX_BOOT_MS:
        raise wire.WireError(f"b0 {batch.b0} or t0 {batch.t0} is no time")
    for block in batch.blocks:
        _check_block(block)
    for event in batch.events:
        _check_event(event)


def _check_block(block: wire.Block) -> None:
    if not _DEVICE.match(block.device):
        raise wire.WireError(f"a device cannot be called {block.device[:70]!r}")
    for column in block.columns:
        if not _QUANTITY.match(column):
            raise wire.WireError(f"a quantity cannot be called {column[:70]!r}")
    if abs(block.utc or 0) > MAX_BOOT_MS or any(abs(row[0]) > MAX_BOOT_MS for row in block.rows):
        raise wire.WireError(f"a time of {block.device!r} is none")
    if any(isinstance(value, str) and len(value) > MAX_TEXT for row in block.rows for value in row[1:]):
        raise wire.WireError(f"a text of {block.device!r} is longer than {MAX_TEXT} characters")


def _check_event(event: wire.BatchEvent) -> None:
    if not (_WORD.match(event.id) and _WORD.match(event.kind)):
        raise wire.WireError(f"event id {event.id[:70]!r} or kind {event.kind[:70]!r} is out of form")
    if event.device and not _DEVICE.match(event.device):
        raise wire.WireError(f"a device cannot be called {event.device[:70]!r}")
    if abs(event.dt) > MAX_BOOT_MS or abs(event.utc or 0) > MAX_BOOT_MS:
        raise wire.WireError(f"the time of event {event.id!r} is none")
    if len(_data(event)) > MAX_EVENT_DATA_BYTES:
        raise wire.WireError(f"event {event.id!r} carries more than {MAX_EVENT_DATA_BYTES} bytes")


def _data(event: wire.BatchEvent) -> bytes:
    try:
        return wire.encode(event.data)
    except (RecursionError, ValueError, TypeError) as error:
        raise wire.WireError(f"event {event.id!r} cannot be kept: {error}") from error


def _place(reading: Reading, raw: bytes, batch: wire.Batch, *, live: bool, personal: bool) -> Content:
    """Give every row its time; rows whose time is impossible are put aside as a batch of their own."""
    content = Content(batch.epoch, batch.seq, digest(raw), batch.boot, batch.clock, live, [], [], [], {})
    refused: list[wire.Block] = []
    for block in batch.blocks:
        bad = [row for row in block.rows if not _add_row(content, batch, block, row, reading.now_ms)]
        if bad:
            refused.append(wire.Block(block.device, block.columns, bad, block.utc))
    late = [event for event in batch.events if not _add_event(content, batch, event, reading.now_ms, personal)]
    if refused or late:
        times = ", ".join(_times(batch, refused, late))
        kept = wire.encode(msgspec.structs.replace(batch, blocks=refused, events=late))
        reading.put_aside(f"not between 2020 and our clock + {FUTURE_MS // 60000} min: {times}", kept)
    return content


def _times(batch: wire.Batch, blocks: Iterable[wire.Block], events: Iterable[wire.BatchEvent]) -> list[str]:
    """Return some of the unix ms that were refused."""
    found = [
        (batch.t0 or 0) + row[0] if block.utc is None else block.utc + row[0] for block in blocks for row in block.rows
    ]
    found += [(batch.t0 or 0) + event.dt if event.utc is None else event.utc for event in events]
    return [str(time) for time in found[:3]] + (["…"] if len(found) > 3 else [])


def _add_row(content: Content, batch: wire.Batch, block: wire.Block, row: list[Any], now_ms: int) -> bool:
    offset, values = row[0], row[1:]
    if block.utc is not None:
        utc_ms = block.utc + offset
        if not possible(utc_ms, now_ms, batch.clock):
            return False
        told = zip(block.columns, values, strict=True)
        content.values.extend(
            DeviceValue(block.device, name, utc_ms, value) for name, value in told if value is not None
        )
        return True
    moment = _moment(batch, offset)
    if moment is not None and not possible(moment, now_ms, batch.clock):
        return False
    content.rows.append(Row(block.device, batch.b0 + offset, moment, dict(zip(block.columns, values, strict=True))))
    return True


def _add_event(content: Content, batch: wire.Batch, event: wire.BatchEvent, now_ms: int, personal: bool) -> bool:  # noqa: FBT001  (the caller hands it through)
    timed = event.utc is not None
    utc_ms = event.utc if timed else _moment(batch, event.dt)
    if utc_ms is not None and not possible(utc_ms, now_ms, batch.clock):
        return False
    boot_ms = None if timed else batch.b0 + event.dt
    private = personal or event.kind in PERSONAL_KINDS
    data = _data(event).decode()
    content.events.append(Happening(event.id, event.device, event.kind, boot_ms, utc_ms, data, private))
    if event.kind == "clock_offset" and (offset := _offset(event.data)):
        content.offsets[offset[0]] = offset[1]
    return True


def _moment(batch: wire.Batch, offset: int) -> int | None:
    return None if batch.t0 is None or batch.clock == "unknown" else batch.t0 + offset


def _offset(data: dict[str, Any]) -> tuple[str, int] | None:
    boot, offset_ms = data.get("boot"), data.get("offset_ms")
    if isinstance(boot, str) and _WORD.match(boot) and type(offset_ms) is int and abs(offset_ms) <= MAX_BOOT_MS:
        return boot, offset_ms
    return None


def possible(utc_ms: int, now_ms: int, clock: str) -> bool:
    """Tell whether a row may have this time; simulated time may run ahead of ours."""
    last_ms = LAST_MS if clock == "simulated" else now_ms + FUTURE_MS
    return OLDEST_MS <= utc_ms <= last_ms
