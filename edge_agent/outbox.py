"""What the gateway owes the aggregator, kept until it is acknowledged. Knows no broker."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from drivers.api import Clock, Event, Json, Memory, Sample
from drivers.settings import Table


class OutboxSettings(Table, frozen=True):
    """`outbox:`; `write_after` s is how long telemetry may wait for its acknowledgement off the disk (0: not at all)."""

    limit_mib: int = 256
    write_after: float = 10.0


class Outbox:
    """Takes responsibility for samples and events; `async with Outbox.open(…) as outbox`."""

    @classmethod
    def open(cls, path: Path, gateway: str, clock: Clock, settings: OutboxSettings | None = None) -> Outbox:
        """Return an outbox to enter with `async with`; leaving it writes what is still owed."""
        raise NotImplementedError

    async def accept(self, driver: str, item: Sample | Event, remember: Mapping[str, Json] | None = None) -> None:
        """Take an item over; an event, and whatever comes with `remember`, is on disk when this returns."""
        raise NotImplementedError

    def memory(self, driver: str) -> Memory:
        """Return the durable dictionary of a driver."""
        raise NotImplementedError

    def statistics(self) -> dict[str, Any]:
        """Return depth (batches), bytes, oldest_age_s, dropped by kind, thinned rows, and whether writes are durable."""
        raise NotImplementedError


def stat(path: Path) -> dict[str, Any]:
    """Return what an outbox file holds; reads only, safe beside a running agent."""
    raise NotImplementedError


def export(path: Path) -> Any:
    """Yield `{"topic":…,"batch":{…}}` lines (bytes) of an outbox file, oldest first; reads only."""
    raise NotImplementedError
