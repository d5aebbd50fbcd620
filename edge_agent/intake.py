"""Where samples and events become numbered batches. Keeps nothing once it is numbered, and knows no disk."""

from __future__ import annotations

import logging
import secrets
from typing import Protocol

from drivers.api import Sample
from edge_agent import batches, wire
from edge_agent.batches import Numbered, OpenBatch, Stamp, Topic

log = logging.getLogger(__name__)


class StampingClock(Protocol):
    """What is needed to know of time to place a batch."""

    @property
    def boot(self) -> str: ...
    def boot_ms(self) -> int: ...
    def offset_ms(self) -> int | None: ...
    def quality(self) -> wire.ClockQuality: ...


class Intake:
    """One epoch's counter, the rows whose batch is open, and the events that wait for a number."""

    def __init__(self, clock: StampingClock) -> None:
        self._clock = clock
        self.epoch = secrets.token_hex(8)
        """Drawn anew at each start: no crash and no new card can give a number to other content."""
        self.seq = 0
        """The last number given out; telemetry, events and passages share the counter."""
        self.max_bytes = wire.MAX_BATCH_BYTES
        self.uncarried = 0
        """Values that no batch can carry (not finite, beyond any physical size); they became null."""
        self.since_s = 0.0
        """When the first row of the open batch came."""
        self._open = OpenBatch()
        self._events: dict[Topic, list[tuple[wire.BatchEvent, int]]] = {"events": [], "passages": []}

    @property
    def rows(self) -> int:
        """How many rows the open batch has."""
        return self._open.rows

    def check(self, sample: Sample) -> tuple[Sample, int]:
        """Return a sample as it can be carried, and its size; raises MalformedError."""
        values, uncarried = batches.clean(sample)
        size = batches.measure(sample.device, values)
        if uncarried and not self.uncarried:
            log.warning("%s: a value that is no finite number of physical size became null", sample.device)
        self.uncarried += uncarried
        return Sample(sample.device, sample.at, values), size

    def add(self, sample: Sample, size: int, now_s: float) -> list[tuple[Numbered, float]]:
        """Take a checked sample; returns the batches that closed because of it, with the time of their first row."""
        closed = [] if self._open.takes(size, self.max_bytes) else self.close_telemetry()
        if not self._open.rows:
            self.since_s = now_s
        self._open.add(sample, size)
        return closed + self.close_telemetry() if self._open.rows >= wire.MAX_ROWS else closed

    def add_event(self, formed: tuple[wire.BatchEvent, int], *, personal: bool = False) -> None:
        """Take an event that `batches.form` has formed."""
        self._events["passages" if personal else "events"].append(formed)

    def close_telemetry(self) -> list[tuple[Numbered, float]]:
        """Number the open batch, if it has rows, and encode it once and for all."""
        if not self._open.rows:
            return []
        closing, self._open = self._open, OpenBatch()
        self.seq += 1
        payload = closing.encode(self.epoch, self.seq, self._stamp())
        return [(Numbered(self.epoch, self.seq, "telemetry", payload), self.since_s)]

    def close_events(self) -> list[Numbered]:
        """Number the events that wait; what came together goes together, as far as a batch reaches."""
        closed: list[Numbered] = []
        for topic, waiting in self._events.items():
            while waiting:
                chosen = self._take_events(waiting)
                self.seq += 1
                payload = batches.encode_events(chosen, self.epoch, self.seq, self._stamp())
                closed.append(Numbered(self.epoch, self.seq, topic, payload))
        return closed

    def _take_events(self, waiting: list[tuple[wire.BatchEvent, int]]) -> list[wire.BatchEvent]:
        count, size = 1, batches.HEAD_BYTES + waiting[0][1]
        while count < min(len(waiting), wire.MAX_ROWS) and size + waiting[count][1] <= self.max_bytes:
            size += waiting[count][1]
            count += 1
        chosen = [event for event, _ in waiting[:count]]
        del waiting[:count]
        return chosen

    def _stamp(self) -> Stamp:
        return Stamp(self._clock.boot, self._clock.boot_ms(), self._clock.offset_ms(), self._clock.quality())
