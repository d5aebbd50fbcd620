"""Samples and events into numbered batches, and the thinning of old ones. Pure: no clock, no disk, no event loop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, TypeAlias

import msgspec

from drivers.api import Event, MalformedError, Sample, Value
from edge_agent import wire

Topic: TypeAlias = Literal["telemetry", "events", "passages"]
Key: TypeAlias = tuple[str, int]
"""What names a batch for ever: (epoch, number)."""

MAX_ITEM_BYTES = 32 * 1024
"""One sample or event may be larger than a batch should be, but must leave room in the largest message."""
HEAD_BYTES = 200
"""More than a batch needs besides its rows: version, epoch, number, boot, times, clock."""
BLOCK_BYTES = 64
"""More than a block needs besides its device, columns and rows."""
MINUTE_MS = 60_000

_encode = msgspec.json.Encoder(decimal_format="number").encode


@dataclass(frozen=True, slots=True)
class Stamp:
    """Boot and moment of encoding, and what is known of UTC then."""

    boot: str
    boot_ms: int
    offset_ms: int | None
    quality: wire.ClockQuality


@dataclass(frozen=True, slots=True)
class Numbered:
    """An encoded batch; its payload never changes, except that thinning may take rows away."""

    epoch: str
    seq: int
    topic: Topic
    payload: bytes

    @property
    def key(self) -> Key:
        """Return what an acknowledgement names it by."""
        return self.epoch, self.seq


@dataclass(slots=True)
class OpenBatch:
    """Rows that wait for their batch to close."""

    rows: int = 0
    size: int = HEAD_BYTES
    _blocks: dict[tuple[str, tuple[str, ...], bool], wire.Block] = field(default_factory=dict)
    _b0: int | None = None

    def takes(self, size: int, limit: int) -> bool:
        """Tell whether `size` more bytes fit; an empty batch takes anything."""
        return not self.rows or (self.rows < wire.MAX_ROWS and self.size + size <= limit)

    def add(self, sample: Sample, size: int) -> None:
        """Put a sample in; `size` is what `measure` said."""
        columns = tuple(sample.values)
        timed = isinstance(sample.at, datetime)
        at = _unix_ms(sample.at) if isinstance(sample.at, datetime) else sample.at
        block = self._blocks.get((sample.device, columns, timed))
        if block is None:
            block = wire.Block(sample.device, list(columns), [], utc=at if timed else None)
            self._blocks[sample.device, columns, timed] = block
        if not timed and self._b0 is None:
            self._b0 = at
        base = block.utc if block.utc is not None else self._b0
        block.rows.append([at - (base or 0), *sample.values.values()])
        self.rows += 1
        self.size += size

    def encode(self, epoch: str, seq: int, stamp: Stamp) -> bytes:
        """Return the batch as it will be sent, every time."""
        b0 = stamp.boot_ms if self._b0 is None else self._b0
        return wire.encode(_head(epoch, seq, stamp, b0, blocks=list(self._blocks.values())))


def clean(sample: Sample) -> tuple[dict[str, Value], int]:
    """Return a sample's values and how many of them the wire cannot carry; those became None."""
    values = {name: value if wire.is_value(value) else None for name, value in sample.values.items()}
    return values, sum(values[name] is None and value is not None for name, value in sample.values.items())


def measure(device: str, values: Mapping[str, Value]) -> int:
    """Return an upper bound of the bytes a sample adds to a batch; raises MalformedError for what no batch carries."""
    try:
        size = BLOCK_BYTES + len(_encode([device, list(values), 10**13, list(values.values())]))
    except (TypeError, ValueError) as error:
        raise MalformedError(f"a sample of {device[:40]!r} cannot be written as JSON: {error}") from error
    if size > MAX_ITEM_BYTES:
        raise MalformedError(f"a sample of {device[:40]!r} takes {size} bytes; at most {MAX_ITEM_BYTES} are carried")
    return size


def form(event: Event) -> tuple[wire.BatchEvent, int]:
    """Return an event as the wire carries it (its time not yet relative) and its size; raises MalformedError."""
    dt, utc = (0, _unix_ms(event.at)) if isinstance(event.at, datetime) else (event.at, None)
    try:
        # A copy through the wire: later changes of what the driver holds must not reach the batch.
        data = msgspec.json.decode(_encode(dict(event.data)))
        formed = wire.BatchEvent(event.id, event.device, event.kind, dt, data, utc)
        size = len(_encode(formed)) + 16
    except (TypeError, ValueError, RecursionError) as error:
        raise MalformedError(f"an event {event.kind[:40]!r} cannot be written as JSON: {error}") from error
    if size > MAX_ITEM_BYTES:
        raise MalformedError(f"an event {event.kind[:40]!r} takes {size} bytes; at most {MAX_ITEM_BYTES} are carried")
    return formed, size


def encode_events(events: Sequence[wire.BatchEvent], epoch: str, seq: int, stamp: Stamp) -> bytes:
    """Return a batch of events whose `dt` still are boot-clock stamps."""
    b0 = next((event.dt for event in events if event.utc is None), stamp.boot_ms)
    relative = [
        event if event.utc is not None else msgspec.structs.replace(event, dt=event.dt - b0) for event in events
    ]
    return wire.encode(_head(epoch, seq, stamp, b0, events=relative))


def count_rows(payload: bytes) -> int:
    """Return how many rows or events a batch carries; 0 when it cannot be read."""
    try:
        batch = wire.decode_batch(payload)
    except MalformedError:
        return 0
    return sum(len(block.rows) for block in batch.blocks) + len(batch.events)


class Thinner:
    """Keeps the first row of each minute and block, over batches taken oldest first."""

    def __init__(self) -> None:
        self._minutes: dict[tuple[str, str, tuple[str, ...]], int] = {}

    def thin(self, payload: bytes) -> tuple[bytes | None, int]:
        """Return what is left of a batch (None: nothing) and how many rows went; device-timed blocks stay whole."""
        try:
            batch = wire.decode_batch(payload)
        except MalformedError:
            return payload, 0
        before = sum(len(block.rows) for block in batch.blocks)
        for block in batch.blocks:
            if block.utc is None:
                block.rows = [row for row in block.rows if self._is_first(batch, block, row[0])]
        batch.blocks = [block for block in batch.blocks if block.rows]
        gone = before - sum(len(block.rows) for block in batch.blocks)
        if not gone:
            return payload, 0
        return (wire.encode(batch) if batch.blocks or batch.events else None), gone

    def _is_first(self, batch: wire.Batch, block: wire.Block, offset: int) -> bool:
        series = (batch.boot, block.device, tuple(block.columns))
        minute = (batch.b0 + offset) // MINUTE_MS
        if self._minutes.get(series) == minute:
            return False
        self._minutes[series] = minute
        return True


def _head(epoch: str, seq: int, stamp: Stamp, b0: int, **content: Any) -> wire.Batch:
    t0 = None if stamp.offset_ms is None else b0 + stamp.offset_ms
    return wire.Batch(epoch=epoch, seq=seq, boot=stamp.boot, b0=b0, t0=t0, clock=stamp.quality, **content)


def _unix_ms(at: datetime) -> int:
    if at.tzinfo is None:
        raise MalformedError(f"a time without a zone: {at.isoformat()}")
    return round(at.timestamp() * 1000)
