"""The SQLite store: one writer in a thread of its own, readers beside it. Knows no MQTT and no HTTP."""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import sqlite3
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from aggregator import queries, schema
from aggregator.ingest import Reading
from aggregator.store import GatewayRecord, Outcome, Point, StoreError, TooLongError, Track
from aggregator.writing import Writing

log = logging.getLogger(__name__)
T = TypeVar("T")

READERS = 2
READ_LIMIT_OPERATIONS = 200
"""How often (times 100,000 steps of SQLite's machine) a question may be asked whether it should end: some seconds."""
BUSY_MS = 5000


def open_writer(path: Path) -> sqlite3.Connection:
    """Open or make the database for writing, readable by nobody else; raises StoreError."""
    connection = None
    try:
        path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o640))
        connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        for pragma in ("journal_mode=WAL", "synchronous=FULL", f"busy_timeout={BUSY_MS}", "cache_size=-32000"):
            connection.execute(f"PRAGMA {pragma}")
        schema.migrate(connection)
    except (OSError, sqlite3.Error) as error:
        if connection is not None:
            connection.close()
        raise StoreError(f"{path}: {error}") from error
    return connection


def open_reader(path: Path) -> sqlite3.Connection:
    """Open the database for questions only."""
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None, check_same_thread=False
    )
    connection.execute(f"PRAGMA busy_timeout={BUSY_MS}")
    return connection


class SqliteStore:
    """A `Store` on one file in WAL mode with synchronous=FULL: what `commit` returned survives a power cut."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._writing = Writing(open_writer(path))
        self._writer = ThreadPoolExecutor(1, "store-write")
        self._readers = ThreadPoolExecutor(READERS, "store-read")
        self._of_thread = threading.local()
        self._opened: list[sqlite3.Connection] = []

    async def commit(self, readings: Sequence[Reading]) -> Outcome:
        """Make all readings durable in one transaction."""
        return await self._write(self._writing.commit, readings)

    async def sweep(self, now_ms: int) -> int:
        """Place held rows whose boot's clock is known by now; returns how many."""
        return await self._write(self._writing.sweep, now_ms)

    async def gateways(self) -> list[GatewayRecord]:
        """Return every gateway, by id."""
        return await self._read(queries.gateways)

    async def gateway(self, gateway: str) -> GatewayRecord | None:
        """Return one gateway, or None."""
        return next(iter(await self._read(queries.gateways, gateway)), None)

    async def tracks(
        self, gateway: str, quantities: Sequence[str], from_ms: int, to_ms: int, device: str | None = None
    ) -> list[Track]:
        """Return the readings with from <= time < to that are part of the series."""
        return await self._read(queries.tracks, gateway, quantities, from_ms, to_ms, device)

    async def before(self, gateway: str, device: str, quantity: str, at_ms: int, oldest_ms: int) -> Point | None:
        """Return the last reading with oldest <= time < at."""
        return await self._read(queries.before, gateway, device, quantity, at_ms, oldest_ms)

    async def oldest(self, gateway: str, device: str, quantity: str) -> int | None:
        """Return the unix ms of the first device-timed reading of a quantity, or None."""
        return await self._read(queries.oldest, gateway, device, quantity)

    async def events(
        self, gateway: str | None, *, personal: bool, from_ms: int, to_ms: int, kinds: Sequence[str], limit: int
    ) -> list[dict[str, Any]]:
        """Return events of a span, newest first."""
        return await self._read(queries.events, gateway, personal, from_ms, to_ms, kinds, limit)

    async def rows(
        self, gateway: str, from_ms: int, to_ms: int, limit: int, after: tuple[int, str, str, int] | None
    ) -> list[dict[str, Any]]:
        """Return stored rows as they came, oldest first."""
        return await self._read(queries.rows, gateway, from_ms, to_ms, limit, after)

    async def close(self) -> None:
        """Finish the transaction under way and close the file."""
        await asyncio.to_thread(self._writer.shutdown)
        await asyncio.to_thread(self._readers.shutdown)
        for connection in [self._writing.connection, *self._opened]:
            with suppress(sqlite3.Error):
                connection.close()

    async def _write(self, act: Callable[..., T], *arguments: Any) -> T:
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._writer, functools.partial(act, *arguments))
        except sqlite3.Error as error:
            raise StoreError(f"{self._path}: {error}") from error

    async def _read(self, ask: Callable[..., T], *arguments: Any) -> T:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._readers, functools.partial(self._ask, ask, *arguments))

    def _ask(self, ask: Callable[..., T], *arguments: Any) -> T:
        """Run a question on this thread's own connection, ended when it takes too long."""
        left = READ_LIMIT_OPERATIONS

        def tired() -> bool:
            nonlocal left
            left -= 1
            return left <= 0

        try:
            connection = self._connection()
            connection.set_progress_handler(tired, 100_000)
            return ask(connection, *arguments)
        except sqlite3.Error as error:
            if left <= 0:
                raise TooLongError("the question took too long; ask for a shorter span") from error
            raise StoreError(f"{self._path}: {error}") from error

    def _connection(self) -> sqlite3.Connection:
        connection: sqlite3.Connection | None = getattr(self._of_thread, "connection", None)
        if connection is None:
            connection = open_reader(self._path)
            self._of_thread.connection = connection
            self._opened.append(connection)
        return connection
