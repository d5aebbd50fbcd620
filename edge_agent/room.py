"""Keeps the outbox's file within its bound: thins, drops and expires. Decides what goes; the store removes it."""

from __future__ import annotations

import logging

from edge_agent.batches import Thinner, Topic, count_rows
from edge_agent.store import WHOLE, Row, Store

log = logging.getLogger(__name__)

CHUNK = 100
"""Batches handled in one transaction; everything else waits for it."""
LOW_MARK = 0.97
"""Once over the bound, make room down to this part of it, so that the work comes in pieces worth a write."""
PERSONAL_MS = 72 * 3600 * 1000
"""A person's passage that nobody has asked for in this time is nobody's business any more."""


class Room:
    """What is thinned first, what is dropped next, and how much of each went."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.dropped: dict[Topic, int] = {"telemetry": 0, "events": 0, "passages": 0}
        """Rows and events lost because there was no room."""
        self.thinned = 0
        self.expired = 0
        self._making = False
        self._after = 0
        self._thinner: Thinner | None = None

    def is_needed(self, store: Store) -> bool:
        """Tell whether the file is over its bound, or still on the way down."""
        mark = self.limit_bytes * LOW_MARK if self._making else self.limit_bytes
        self._making = store.batches > 0 and store.bytes > mark
        return self._making

    async def make(self, store: Store) -> None:
        """Do one chunk of work: thin the oldest telemetry that is still whole, and drop only when there is none."""
        if not await self._thin(store):
            await self._drop(store)

    async def expire(self, store: Store, now_ms: int) -> None:
        """Remove personal events that are too old."""
        if rows := await store.expired_passages(now_ms - PERSONAL_MS):
            self.expired += sum(count_rows(row.batch.payload) for row in rows)
            await store.replace([(row.id, None) for row in rows])
            log.warning("%d passages were older than %d h and are gone", self.expired, PERSONAL_MS // 3_600_000)

    def lose(self, topic: Topic, payload: bytes) -> None:
        """Count what was dropped."""
        self.dropped[topic] += count_rows(payload)

    async def _thin(self, store: Store) -> bool:
        """Thin a chunk; False when nothing is whole any more."""
        rows = await store.telemetry(self._after, WHOLE, CHUNK)
        if not rows:
            self._after = 0
            self._thinner = None
            return False
        thinner = self._thinner or await self._seed(store)
        left = [(row, *thinner.thin(row.batch.payload)) for row in rows]
        await store.replace([(row.id, payload) for row, payload, _ in left])
        # Only now: after a refused write the same rows are met again, with a thinner that has not seen them.
        self._thinner = thinner
        self._after = rows[-1].id
        self.thinned += sum(gone for _, _, gone in left)
        return True

    async def _seed(self, store: Store) -> Thinner:
        """Return a thinner that knows which minutes were kept before a restart."""
        thinner = Thinner()
        for row in await store.last_thinned(CHUNK):
            thinner.thin(row.batch.payload)
        return thinner

    async def _drop(self, store: Store) -> None:
        rows: list[Row] = await store.oldest(CHUNK)
        await store.replace([(row.id, None) for row in rows])
        for row in rows:
            self.lose(row.batch.topic, row.batch.payload)
