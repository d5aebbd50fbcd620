"""What the gateway owes the aggregator, kept until it is acknowledged. Knows no broker."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sqlite3
from collections.abc import Awaitable, Callable, Container, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from drivers.api import ConfigError, Event, Json, Memory, Sample
from drivers.settings import Table
from edge_agent.batches import Key, Numbered, form
from edge_agent.clock import boottime_s, kernel_boot
from edge_agent.intake import Intake, StampingClock
from edge_agent.memory import DriverMemory, Notebook
from edge_agent.room import Room
from edge_agent.store import (
    SCHEMA_VERSION,
    TOPICS,
    Changes,
    Entry,
    ForeignFileError,
    Row,
    Store,
    export,
    is_corrupt,
    move_aside,
    remembered,
    stat,
)

__all__ = ["Outbox", "OutboxSettings", "export", "remembered", "stat"]

log = logging.getLogger(__name__)

CLOSE_S = 2.0
"""A batch closes this long after its first row."""
WRITE_AFTER_SILENT_S = 2.0
"""While the aggregator does not answer, telemetry waits off the disk no longer than this."""
KEEPER_S = 20.0
"""The keeper looks after the outbox at least this often, so that a stuck one shows."""
DELETE_AFTER_S = 60.0
"""Acknowledged batches leave the disk with the next write, or this long after the last acknowledgement."""
MAX_UNDELETED = 5000
RETRY_S = 5.0
"""How soon a disk that refused is tried again."""
MAX_HELD_BYTES = 8 * 1024 * 1024
"""The most that waits in memory, whatever the disk does."""
EXPIRE_EVERY_S = 600.0
REPLACE_EVERY_S = 3600.0
TELL_S = 600.0
"""How often at most an event says that data were dropped."""
IN_MEMORY = 2**62
"""Places from here on are not on disk."""
HELD_COST = 256
"""What a batch costs in memory besides its payload."""


class OutboxSettings(Table, frozen=True):
    """`outbox:`; `write_after` s is how long telemetry may wait for an acknowledgement off the disk (0: at once)."""

    limit_mib: int = 256
    write_after: float = 10.0

    def check(self) -> None:
        """Raise ConfigError for values out of range."""
        for key, least, most in (("limit_mib", 1, 1024 * 1024), ("write_after", 0, 600)):
            value = getattr(self, key)
            if not least <= value <= most:
                raise ConfigError(key, f"not within {least} to {most}", "correct the value", value)


@dataclass(slots=True)
class _Held:
    """A closed batch that is not on disk; `owed` ones are written at the first opportunity."""

    batch: Numbered
    since_s: float
    owed: bool
    told: bool = False


class Outbox:
    """Takes responsibility for samples and events; `async with Outbox.open(…) as outbox`.

    Ages are counted by the real boot clock, stamps come from `clock`: simulated time does not hurry the disk.
    Everything that touches the file happens under one lock.
    """

    def __init__(
        self,
        path: Path,
        gateway: str,
        clock: StampingClock,
        settings: OutboxSettings,
        now_s: Callable[[], float] = boottime_s,
        boot: str | None = None,
    ) -> None:
        self._path = path
        self._gateway = gateway
        self._clock = clock
        self._settings = settings
        self._now_s = now_s
        self._boot = boot or kernel_boot()
        self.intake = Intake(clock)
        self.on_closed: Callable[[Numbered], None] | None = None
        """Told of each new batch once it may be sent; called at once, must return at once."""
        self.on_beat: Callable[[str, float], None] = lambda _name, _within_s: None
        """Told that the keeper lives, and within how many seconds it will say so again."""
        self._answering = False
        self._held: dict[Key, _Held] = {}
        self._held_bytes = 0
        self._acknowledged: dict[Key, None] = {}
        self._acknowledged_s = 0.0
        self._notebook = Notebook()
        self._store: Store | None = None
        self._room = Room(settings.limit_mib * 1024 * 1024)
        self._retry_s = 0.0
        self._durable = True
        self._replace_s = 0.0
        self._expire_s = 0.0
        self._tell_s = 0.0
        self._told_total = 0
        self._aside: set[Key] = set()
        self._lock = asyncio.Lock()
        self._wake = asyncio.Event()

    @classmethod
    def open(
        cls, path: Path, gateway: str, clock: StampingClock, settings: OutboxSettings | None = None, **timing: Any
    ) -> Outbox:
        """Return an outbox to enter with `async with`; leaving it writes what is still owed."""
        return cls(path, gateway, clock, settings or OutboxSettings(), **timing)

    async def __aenter__(self) -> Self:
        async with self._lock:
            await self._open_file()
            await self._write()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._close_telemetry()
        async with self._lock:
            self._retry_s = 0.0
            await self._write(everything=True)
            if self._store is not None:
                await self._close_store(self._store)
        if self._held:
            log.error("%d batches could not be written before the end", len(self._held))

    # What drivers see.

    async def accept(self, driver: str, item: Sample | Event, remember: Mapping[str, Json] | None = None) -> None:
        """Take an item over; an event, and a sample that comes with `remember`, is on disk when this returns.

        Raises MalformedError for what no batch or memory can carry. While the disk refuses, memory has to do:
        `statistics()` then says so.
        """
        if isinstance(item, Event):
            formed = form(item)
            self._notebook.change(driver, remember or {})
            self.intake.add_event(formed, personal=item.personal)
        else:
            sample, size = self.intake.check(item)
            self._notebook.change(driver, remember or {})
            self._hold(self.intake.add(sample, size, self._now_s()))
            if self.intake.rows == 1:
                self._wake.set()
            if remember is None and self._settings.write_after > 0:
                return
            # Its memory must not be on disk before the sample is: they go together, now.
            self._close_telemetry(owed=True)
        await self._commit()

    def memory(self, driver: str) -> Memory:
        """Return the durable dictionary of a driver."""
        return DriverMemory(driver, self._notebook, self._commit)

    def statistics(self) -> dict[str, Any]:
        """Return depth (batches), bytes, oldest_age_s, dropped by kind, thinned rows, whether writes are durable."""
        stored = self._store.batches if self._store else 0
        waiting = max(0, stored - len(self._acknowledged))
        oldest = [held.since_s for held in self._held.values()]
        if self.intake.rows:
            oldest.append(self.intake.since_s)
        if waiting and self._store is not None and self._store.oldest_ms is not None:
            oldest.append(self._store.oldest_ms / 1000)
        return {
            "depth": waiting + len(self._held),
            "bytes": (self._store.bytes if self._store else 0) + self._held_bytes,
            "oldest_age_s": round(self._now_s() - min(oldest), 1) if oldest else None,
            "dropped": dict(self._room.dropped),
            "thinned": self._room.thinned,
            "expired": self._room.expired,
            "set_aside": len(self._aside),
            "uncarried_values": self.intake.uncarried,
            "durable": self._durable,
        }

    # What the uplink sees.

    @property
    def answering(self) -> bool:
        """Whether the aggregator acknowledges; while it does, telemetry waits for that rather than for the disk."""
        return self._answering

    @answering.setter
    def answering(self, value: bool) -> None:
        if value != self._answering:
            self._answering = value
            self._wake.set()

    def acknowledge(self, epoch: str, seqs: Iterable[int]) -> int:
        """Let go of batches the aggregator has; numbers never given out are ignored. Returns how many were let go."""
        count = sum(self._let_go((epoch, seq)) for seq in seqs)
        if count:
            self._acknowledged_s = self._now_s()
        return count

    async def backlog(self, after: int, limit: int, skip: Container[Key]) -> tuple[list[Numbered], int | None]:
        """Return the next batches to send behind place `after`, oldest first, and the place to go on from.

        At most `limit` bytes, but one batch at least; perhaps none, when those looked at are on their way (`skip`).
        The place is None at the end.
        """
        rows: list[tuple[int, Numbered]] = []
        async with self._lock:
            if self._store is not None and after < IN_MEMORY:
                rows = await self._read(self._store.page(after))
        if rows:
            return self._take(rows, after, limit, skip)
        held = [(IN_MEMORY + held.batch.seq, held.batch) for held in self._held.values() if held.told]
        rest = [(place, batch) for place, batch in held if place > after]
        found, place = self._take(rest, after, limit, skip)
        return found, place if rest and place < rest[-1][0] else None

    async def find(self, keys: Iterable[Key]) -> list[Numbered]:
        """Return those of the named batches that are still owed."""
        found: list[Numbered] = []
        async with self._lock:
            for key in keys:
                if key in self._held:
                    found.append(self._held[key].batch)
                elif self._store is not None and key not in self._acknowledged:
                    found += [batch for _, batch in await self._read(self._store.find([key]))]
        return [batch for batch in found if batch.key not in self._aside]

    async def set_aside(self, key: Key, reason: str) -> None:
        """Keep a batch that can never pass without sending it any more, and say so in an event."""
        self._aside.add(key)
        log.error("batch %s/%d is set aside: %s", *key, reason)
        if key in self._held:
            self._held[key].owed = True
        self._raise("batch_set_aside", {"epoch": key[0], "seq": key[1], "reason": reason})
        await self._commit()
        await asyncio.shield(self._set_aside(key))

    async def keep(self) -> None:
        """Close, write, delete and make room in time, for ever."""
        while True:
            self._wake.clear()
            self.on_beat("outbox keeper", KEEPER_S)
            await self.upkeep()
            delay_s = self._next_s() - self._now_s()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(KEEPER_S, max(0.01, delay_s))):
                    await self._wake.wait()

    async def upkeep(self) -> None:
        """Do everything that is due now."""
        now_s = self._now_s()
        if self.intake.rows and now_s >= self.intake.since_s + self._close_s():
            self._close_telemetry()
        if any(held.since_s + self._write_after_s() <= now_s for held in self._held.values() if not held.owed):
            for held in self._held.values():
                held.owed = True
        # Shielded like every use of the file: see _commit.
        await asyncio.shield(self._tidy())

    # Batches close.

    def _close_telemetry(self, *, owed: bool = False) -> None:
        self._hold(self.intake.close_telemetry(), owed=owed)

    def _hold(self, closed: Iterable[tuple[Numbered, float]], *, owed: bool = False) -> None:
        """Keep closed batches; what is not owed to the disk may be sent at once."""
        for batch, since_s in closed:
            held = self._held[batch.key] = _Held(batch, since_s, owed)
            self._held_bytes += len(batch.payload) + HELD_COST
            while self._held_bytes > MAX_HELD_BYTES:
                self._drop_held()
            if not owed:
                self._tell(held)
            self._wake.set()

    def _drop_held(self) -> None:
        """Make room in memory: the oldest telemetry, then events, then passages."""
        oldest = min(self._held.values(), key=lambda held: (TOPICS.index(held.batch.topic), held.since_s))
        self._release(oldest.batch.key)
        self._room.lose(oldest.batch.topic, oldest.batch.payload)

    def _release(self, key: Key) -> bool:
        held = self._held.pop(key, None)
        if held is not None:
            self._held_bytes -= len(held.batch.payload) + HELD_COST
        return held is not None

    def _tell(self, held: _Held) -> None:
        if not held.told:
            held.told = True
            if self.on_closed is not None:
                self.on_closed(held.batch)

    def _raise(self, kind: str, data: Mapping[str, Json]) -> None:
        """Add an event of the gateway's own; it is written with what is written next."""
        self.intake.add_event(form(Event("gateway", kind, self._clock.boot_ms(), data)))
        self._wake.set()

    # Acknowledgement.

    def _let_go(self, key: Key) -> bool:
        if self._release(key):
            return True
        if key[0] == self.intake.epoch and key[1] > self.intake.seq:
            return False
        if self._store is None or not self._store.knows(key[0]) or key in self._acknowledged:
            return False
        if not self._acknowledged:
            self._wake.set()  # its deletion has to be planned
        self._acknowledged[key] = None
        return True

    def _take(
        self, rows: list[tuple[int, Numbered]], after: int, limit: int, skip: Container[Key]
    ) -> tuple[list[Numbered], int]:
        found: list[Numbered] = []
        for place, batch in rows:
            if batch.key not in skip and batch.key not in self._acknowledged and batch.key not in self._aside:
                limit -= len(batch.payload) + 1
                if found and limit < 0:
                    break
                found.append(batch)
            after = place
        return found, after

    # The file; everything below runs under the lock.

    async def _commit(self) -> None:
        # Shielded: a driver that is cancelled here must not leave a transaction half done.
        await asyncio.shield(self._write_owed())

    async def _write_owed(self) -> None:
        async with self._lock:
            await self._write()

    async def _tidy(self) -> None:
        async with self._lock:
            self._tell_of_drops()
            await self._write()
            store = self._store
            if store is None or not self._durable:
                return
            try:
                if self._now_s() >= self._expire_s:
                    self._expire_s = self._now_s() + EXPIRE_EVERY_S
                    await self._room.expire(store, self._now_ms())
                if self._room.is_needed(store):
                    self._wake.set()  # one chunk at a time: drivers may write in between
                    await self._room.make(store)
            except sqlite3.Error as error:
                await self._refused(error)

    async def _set_aside(self, key: Key) -> None:
        async with self._lock:
            if self._store is not None:
                try:
                    await self._store.set_aside(key)
                except sqlite3.Error as error:
                    await self._refused(error)

    async def _write(self, *, everything: bool = False) -> None:
        """Write what is owed, if there is any; afterwards the uplink may send it, written or not."""
        self._hold(((batch, self._now_s()) for batch in self.intake.close_events()), owed=True)
        due = [held for held in self._held.values() if everything or held.owed]
        if self._now_s() >= self._retry_s and (
            due
            or not self._durable
            or not self._notebook.is_written
            or await self._has_deletions_due(everything=everything)
        ):
            # Twice: a damaged file is replaced on the way, and what was to go into it goes into the new one.
            await self._write_batches(due) or await self._write_batches(due)
        # Not before: an event sent and then lost by a crash would happen again under another id.
        for held in due:
            self._tell(held)

    async def _write_batches(self, due: list[_Held]) -> bool:
        """Write these; False when trying again at once makes sense."""
        if self._store is None:
            await self._open_file()
        store = self._store
        if store is None:
            return True
        memory, gone = self._notebook.take_unwritten(), list(self._acknowledged)
        entries = [Entry(held.batch, round(held.since_s * 1000)) for held in due]
        try:
            await store.write(Changes(entries, gone, memory), self._now_ms())
        except sqlite3.Error as error:
            self._notebook.give_back(memory)
            return not await self._refused(error)
        for key in gone:
            self._acknowledged.pop(key, None)
        for held in due:
            if not self._release(held.batch.key):  # acknowledged, or dropped, while it was being written
                self._acknowledged[held.batch.key] = None
        if not self._durable:
            log.info("%s: writes again", self._path)
        self._durable = True
        return True

    async def _has_deletions_due(self, *, everything: bool) -> bool:
        if not self._acknowledged or self._store is None:
            return False
        waited_s = self._now_s() - self._acknowledged_s
        if not (everything or waited_s >= DELETE_AFTER_S or len(self._acknowledged) > MAX_UNDELETED):
            return False
        # A second acknowledgement of what is gone already must not cost a write.
        asked = list(self._acknowledged)
        present = {batch.key for _, batch in await self._read(self._store.find(asked))}
        for key in asked:
            if key not in present:
                self._acknowledged.pop(key, None)
        return bool(present)

    async def _refused(self, error: sqlite3.Error | OSError) -> bool:
        """Go on in memory, or replace a damaged file (True), but not as often as a failing card would ask for."""
        if isinstance(error, sqlite3.Error) and is_corrupt(error) and self._now_s() >= self._replace_s:
            self._replace_s = self._now_s() + REPLACE_EVERY_S
            if self._store is not None:
                await self._close_store(self._store)
            self._move_aside("corrupt", str(error))
            self._notebook.rewrite()
            self._acknowledged.clear()
            await self._open_file()
            return self._store is not None
        if self._durable:
            log.warning("%s refuses to be written (%s): going on in memory", self._path, error)
        self._durable = False
        self._retry_s = self._now_s() + RETRY_S
        return False

    async def _close_store(self, store: Store) -> None:
        self._store = None
        with contextlib.suppress(sqlite3.Error):
            await store.close()

    async def _open_file(self) -> None:
        """Open the file, past what must be set aside; on refusal the outbox goes on without."""
        for _ in range(2):
            try:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                self._store = await Store.open(self._path, self._gateway, self._boot, self._now_ms())
                for driver, key, text in await self._store.memories():
                    self._notebook.load(driver, key, text)
            except ForeignFileError as error:
                self._move_aside(str(error), f"found {error}, expected {self._gateway}, version {SCHEMA_VERSION}")
            except (sqlite3.Error, OSError) as error:
                if not (isinstance(error, sqlite3.Error) and is_corrupt(error)):
                    await self._refused(error)
                    return
                self._move_aside("corrupt", str(error))
            else:
                return

    def _move_aside(self, why: str, reason: str) -> None:
        try:
            target = move_aside(self._path, why)
        except OSError as error:
            log.error("%s cannot be set aside: %s", self._path, error)
            return
        log.error("%s is set aside as %s: %s", self._path, target.name, reason)
        self._raise("outbox_set_aside", {"file": target.name, "reason": reason})

    async def _read(self, rows: Awaitable[list[Row]]) -> list[tuple[int, Numbered]]:
        """Return places and batches; nothing when the disk cannot be read."""
        try:
            return [(row.id, row.batch) for row in await rows]
        except sqlite3.Error as error:
            await self._refused(error)
            return []

    # Time.

    def _now_ms(self) -> int:
        return round(self._now_s() * 1000)

    def _close_s(self) -> float:
        return min(CLOSE_S, self._settings.write_after)

    def _write_after_s(self) -> float:
        return self._settings.write_after if self._answering else min(WRITE_AFTER_SILENT_S, self._settings.write_after)

    def _next_s(self) -> float:
        """Return when something is due next."""
        times = [self._expire_s]
        if self.intake.rows:
            times.append(self.intake.since_s + self._close_s())
        if waiting := [held.since_s for held in self._held.values() if not held.owed]:
            times.append(min(waiting) + self._write_after_s())
        if self._acknowledged:
            times.append(self._acknowledged_s + DELETE_AFTER_S)
        if not self._durable:
            times = [max(min(times), self._retry_s), self._retry_s]
        return min(times)

    def _tell_of_drops(self) -> None:
        dropped = self._room.dropped
        if sum(dropped.values()) == self._told_total or self._now_s() < self._tell_s:
            return
        self._told_total = sum(dropped.values())
        self._tell_s = self._now_s() + TELL_S
        log.error("no room: %d rows, %d events, %d passages dropped since the start", *dropped.values())
        counts: dict[str, Json] = {topic: count for topic, count in dropped.items()}  # noqa: C416  (another value type)
        self._raise("telemetry_dropped", counts | {"thinned": self._room.thinned})
