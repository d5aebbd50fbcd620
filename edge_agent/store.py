"""The outbox's SQLite file: batches, epochs, memories. Decides nothing; every method is one transaction or none."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiosqlite
import msgspec

from edge_agent.batches import Key, Numbered, Topic
from edge_agent.memory import Change
from edge_agent.wire import is_gateway_id

log = logging.getLogger(__name__)

SCHEMA_VERSION = 1
TOPICS: tuple[Topic, ...] = ("telemetry", "events", "passages")
WHOLE, THINNED, ASIDE = 0, 1, 2
SEQ_BITS = 40
"""A batch's id is its epoch's number and, in the lower bits, its own: ordered, unique, and needing no index."""
MAX_SEQ = 2**SEQ_BITS - 1

_SCHEMA = f"""
CREATE TABLE IF NOT EXISTS about(key TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS epoch(number INTEGER PRIMARY KEY, epoch TEXT NOT NULL UNIQUE);
CREATE TABLE IF NOT EXISTS batch(
  id INTEGER PRIMARY KEY,
  topic INTEGER NOT NULL,
  since INTEGER NOT NULL,  -- boot-clock ms of the oldest row on the scale of about.boot; earlier boots below 0
  state INTEGER NOT NULL,  -- {WHOLE} whole, {THINNED} thinned, {ASIDE} set aside
  body BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS memory(driver TEXT, key TEXT, value TEXT NOT NULL, PRIMARY KEY(driver, key)) WITHOUT ROWID;
PRAGMA user_version = {SCHEMA_VERSION};
"""
_PRAGMAS = (
    "PRAGMA journal_mode=WAL",
    "PRAGMA synchronous=FULL",  # an accepted event survives a power cut
    "PRAGMA wal_autocheckpoint=256",  # 1 MiB: a log that wraps early writes fewest blocks
    "PRAGMA busy_timeout=2000",
)
_SURVEY = """
SELECT (page_count - freelist_count) * page_size, (SELECT since FROM batch ORDER BY id LIMIT 1)
FROM pragma_page_count, pragma_freelist_count, pragma_page_size
"""


class ForeignFileError(Exception):
    """The file is sound and not ours: of another gateway, or of a later version."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A batch on its way to the disk; `since_ms` is when its oldest row was taken over (real boot clock)."""

    batch: Numbered
    since_ms: int


@dataclass(slots=True)
class Changes:
    """What one transaction writes."""

    entries: list[Entry] = field(default_factory=list)
    acknowledged: list[Key] = field(default_factory=list)
    memory: list[Change] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Row:
    """A batch on disk, with its place in the order."""

    id: int
    since_ms: int
    batch: Numbered


class Store:
    """An open file; sqlite3.Error leaves any method with nothing changed."""

    def __init__(self, db: aiosqlite.Connection, boot: str) -> None:
        self._db = db
        self._boot = boot
        self._epochs: dict[str, int] = {}
        self._names: dict[int, str] = {}
        self.batches = 0
        self.bytes = 0
        """Pages in use, as bytes."""
        self.oldest_ms: int | None = None

    @classmethod
    async def open(cls, path: Path, gateway: str, boot: str, now_ms: int) -> Store:
        """Open or create a file; raises ForeignFileError, sqlite3.Error (`is_corrupt` tells which kind)."""
        db = await aiosqlite.connect(path, isolation_level=None)
        store = cls(db, boot)
        try:
            await store._prepare(gateway, now_ms)
        except sqlite3.OperationalError as error:
            await db.close()
            if error.sqlite_errorcode == sqlite3.SQLITE_ERROR:  # sound, but its tables are not ours
                raise ForeignFileError("another-form") from error
            raise
        except BaseException:
            await db.close()
            raise
        return store

    async def close(self) -> None:
        """Close the file; the write-ahead log goes into it."""
        await self._db.close()

    async def _prepare(self, gateway: str, now_ms: int) -> None:
        [[version]] = await self._fetch("PRAGMA user_version")
        if version > SCHEMA_VERSION:
            raise ForeignFileError(f"version-{version}")
        if version == 0 and await self._fetch("SELECT 1 FROM sqlite_master LIMIT 1"):
            raise ForeignFileError("another-form")
        for pragma in _PRAGMAS:
            await self._fetch(pragma)
        [[verdict], *_] = await self._fetch("PRAGMA quick_check(1)")
        if verdict != "ok":
            raise sqlite3.DatabaseError(f"database disk image is malformed: {verdict}")
        await self._db.executescript(_SCHEMA)
        about = dict(await self._fetch("SELECT key, value FROM about"))
        if about.setdefault("gateway", gateway) != gateway:
            raise ForeignFileError(f"of-{about['gateway']}" if is_gateway_id(str(about["gateway"])) else "another-form")
        await self._begin_boot(about, now_ms)
        await self._load_epochs()
        await self._survey()

    async def _begin_boot(self, about: dict[str, Any], now_ms: int) -> None:
        """Carry ages over from an earlier boot, as far as that boot's clock was seen to run."""
        carried_ms = about.get("boot_ms", 0) if about.get("boot", self._boot) != self._boot else 0
        await self._fetch("BEGIN IMMEDIATE")
        if carried_ms:
            await self._fetch("UPDATE batch SET since = since - ?", (carried_ms,))
        rows = [("gateway", about["gateway"]), ("boot", self._boot), ("boot_ms", now_ms)]
        await self._many("INSERT OR REPLACE INTO about VALUES(?, ?)", rows)
        await self._fetch("DELETE FROM epoch WHERE number NOT IN (SELECT DISTINCT id >> ? FROM batch)", (SEQ_BITS,))
        await self._fetch("COMMIT")

    async def _load_epochs(self) -> None:
        rows = await self._fetch("SELECT number, epoch FROM epoch")
        self._names = {number: name for number, name in rows}  # noqa: C416  (rows are typed as Any)
        self._epochs = {name: number for number, name in rows}
        [[self.batches]] = await self._fetch("SELECT count(*) FROM batch")

    async def memories(self) -> list[tuple[str, str, str]]:
        """Return every driver's entries: driver, key, JSON text."""
        return [(row[0], row[1], row[2]) for row in await self._fetch("SELECT driver, key, value FROM memory")]

    def knows(self, epoch: str) -> bool:
        """Tell whether batches of an epoch may be on disk."""
        return epoch in self._epochs

    async def write(self, changes: Changes, now_ms: int) -> None:
        """Write everything in one transaction, on disk when this returns."""
        numbers = dict(self._epochs)
        gone = [id_ for key in changes.acknowledged if (id_ := self._id(key)) is not None]
        await self._fetch("BEGIN IMMEDIATE")
        try:
            rows = [self._row(entry, numbers) for entry in changes.entries]
            fresh = [(number, name) for name, number in numbers.items() if name not in self._epochs]
            await self._many("INSERT INTO epoch VALUES(?, ?)", fresh)
            # A commit can succeed and still report an error; writing the same batch again then changes nothing.
            change = await self._many("INSERT OR IGNORE INTO batch VALUES(?, ?, ?, 0, ?)", rows)
            change -= await self._many("DELETE FROM batch WHERE id = ?", [(id_,) for id_ in gone])
            await self._write_memory(changes.memory)
            await self._fetch("UPDATE about SET value = ? WHERE key = 'boot_ms'", (now_ms,))
            await self._fetch("COMMIT")
        except BaseException:
            await self._roll_back()
            raise
        self._epochs = numbers
        self._names = {number: name for name, number in numbers.items()}
        self.batches += change
        await self._survey()

    async def page(self, after: int, most: int = 64) -> list[Row]:
        """Return the next batches behind id `after` that are to be sent, oldest first."""
        found = await self._fetch(
            "SELECT id, topic, since, body FROM batch WHERE id > ? AND state != ? ORDER BY id LIMIT ?",
            (after, ASIDE, most),
        )
        return [row for each in found if (row := self._read(each)) is not None]

    async def find(self, keys: Iterable[Key]) -> list[Row]:
        """Return those of the named batches that are here and to be sent."""
        rows: list[Row] = []
        for key in keys:
            found = await self._fetch(
                "SELECT id, topic, since, body FROM batch WHERE id = ? AND state != ?", (self._id(key), ASIDE)
            )
            rows += [row for each in found if (row := self._read(each)) is not None]
        return rows

    async def set_aside(self, key: Key) -> None:
        """Keep a batch without sending it any more."""
        await self._fetch("UPDATE batch SET state = ? WHERE id = ?", (ASIDE, self._id(key)))

    async def telemetry(self, after: int, state: int, most: int) -> list[Row]:
        """Return telemetry in a state (whole, thinned) behind id `after`, oldest first."""
        found = await self._fetch(
            "SELECT id, topic, since, body FROM batch WHERE id > ? AND topic = 0 AND state = ? ORDER BY id LIMIT ?",
            (after, state, most),
        )
        return [row for each in found if (row := self._read(each)) is not None]

    async def last_thinned(self, most: int) -> list[Row]:
        """Return the newest batches that were thinned, oldest first."""
        found = await self._fetch(
            "SELECT id, topic, since, body FROM batch WHERE topic = 0 AND state = ? ORDER BY id DESC LIMIT ?",
            (THINNED, most),
        )
        return [row for each in reversed(found) if (row := self._read(each)) is not None]

    async def replace(self, thinned: Iterable[tuple[int, bytes | None]]) -> None:
        """Give batches their thinned content; None removes one."""
        pairs = list(thinned)
        await self._fetch("BEGIN IMMEDIATE")
        try:
            kept = [(body, THINNED, id_) for id_, body in pairs if body is not None]
            await self._many("UPDATE batch SET body = ?, state = ? WHERE id = ?", kept)
            removed = await self._many(
                "DELETE FROM batch WHERE id = ?", [(id_,) for id_, body in pairs if body is None]
            )
            await self._fetch("COMMIT")
        except BaseException:
            await self._roll_back()
            raise
        self.batches -= removed
        await self._survey()

    async def oldest(self, most: int) -> list[Row]:
        """Return what goes first when room is needed: telemetry, then events, then passages, each oldest first."""
        for topic in range(len(TOPICS)):
            found = await self._fetch(
                "SELECT id, topic, since, body FROM batch WHERE topic = ? ORDER BY id LIMIT ?", (topic, most)
            )
            if found:
                return [row for each in found if (row := self._read(each)) is not None]
        return []

    async def expired_passages(self, before_ms: int) -> list[Row]:
        """Return personal events taken over before a moment of the real boot clock."""
        found = await self._fetch(
            "SELECT id, topic, since, body FROM batch WHERE topic = 2 AND since < ?", (before_ms,)
        )
        return [row for each in found if (row := self._read(each)) is not None]

    def _id(self, key: Key) -> int | None:
        epoch, seq = key
        number = self._epochs.get(epoch)
        return None if number is None or not 0 <= seq <= MAX_SEQ else number << SEQ_BITS | seq

    def _row(self, entry: Entry, numbers: dict[str, int]) -> tuple[int, int, int, bytes]:
        batch = entry.batch
        number = numbers.setdefault(batch.epoch, max(numbers.values(), default=0) + 1)
        return number << SEQ_BITS | batch.seq, TOPICS.index(batch.topic), entry.since_ms, batch.payload

    def _read(self, row: Any) -> Row | None:
        id_, topic, since_ms, body = row
        name = self._names.get(id_ >> SEQ_BITS)
        if name is None or not 0 <= topic < len(TOPICS):
            return None
        return Row(id_, since_ms, Numbered(name, id_ & MAX_SEQ, TOPICS[topic], bytes(body)))

    async def _write_memory(self, changes: list[Change]) -> None:
        kept = [change for change in changes if change[2] is not None]
        await self._many("INSERT OR REPLACE INTO memory VALUES(?, ?, ?)", kept)
        gone = [change[:2] for change in changes if change[2] is None]
        await self._many("DELETE FROM memory WHERE driver = ? AND key = ?", gone)

    async def _survey(self) -> None:
        """Learn size and age after a change; none of these statements reads more than a page or two."""
        [[self.bytes, self.oldest_ms]] = await self._fetch(_SURVEY)

    async def _fetch(self, sql: str, parameters: Iterable[Any] = ()) -> list[Any]:
        return list(await self._db.execute_fetchall(sql, parameters))

    async def _many(self, sql: str, rows: Iterable[Iterable[Any]]) -> int:
        """Return how many rows changed."""
        cursor = await self._db.executemany(sql, rows)
        count = cursor.rowcount
        await cursor.close()
        return max(count, 0)

    async def _roll_back(self) -> None:
        try:
            await self._fetch("ROLLBACK")
        except sqlite3.Error:
            log.debug("nothing to roll back")  # SQLite does so itself on some errors


def is_corrupt(error: sqlite3.Error) -> bool:
    """Tell a damaged file from a disk that refuses."""
    code = getattr(error, "sqlite_errorcode", None)
    if code is None:
        return "malformed" in str(error)
    return code & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def move_aside(path: Path, why: str) -> Path:
    """Rename a file with its log, so that nothing is lost and nothing of it is sent; returns its new path."""
    number = 1
    while (target := path.with_name(f"{path.name}.{why}.{number}")).exists():
        number += 1
    for suffix in ("", "-wal", "-shm"):
        source = path.with_name(path.name + suffix)
        if source.exists():
            source.rename(target.with_name(target.name + suffix))
    return target


def stat(path: Path) -> dict[str, Any]:
    """Return what an outbox file holds; reads only, safe beside a running agent; raises sqlite3.Error, OSError."""
    with closing(_read_only(path)) as db:
        about = dict(db.execute("SELECT key, value FROM about"))
        sums = db.execute(
            "SELECT topic, state, count(*), sum(length(body)) FROM batch GROUP BY topic, state"
        ).fetchall()
        drivers = [row[0] for row in db.execute("SELECT DISTINCT driver FROM memory ORDER BY driver")]
    return {
        "gateway": about.get("gateway"),
        "batches": sum(row[2] for row in sums),
        "bytes": sum(row[3] for row in sums),
        "by_topic": {topic: sum(row[2] for row in sums if row[0] == index) for index, topic in enumerate(TOPICS)},
        "thinned": sum(row[2] for row in sums if row[1] == THINNED),
        "set_aside": sum(row[2] for row in sums if row[1] == ASIDE),
        "file_bytes": path.stat().st_size,
        "memories": drivers,
    }


def export(path: Path) -> Iterator[bytes]:
    """Yield `{"gateway":…,"topic":…,"batch":{…}}` lines, oldest first, as the aggregator imports them; reads only."""
    with closing(_read_only(path)) as db:
        (gateway,) = db.execute("SELECT value FROM about WHERE key = 'gateway'").fetchone()
        for topic, body in db.execute("SELECT topic, body FROM batch ORDER BY id"):
            yield msgspec.json.encode({"gateway": gateway, "topic": TOPICS[topic], "batch": msgspec.Raw(body)})


def remembered(path: Path, driver: str) -> dict[str, str]:
    """Return one driver's memory as key → JSON text; reads only; raises sqlite3.Error, OSError."""
    with closing(_read_only(path)) as db:
        return dict(db.execute("SELECT key, value FROM memory WHERE driver = ?", (driver,)).fetchall())


def _read_only(path: Path) -> sqlite3.Connection:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no outbox here")
    return sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)
