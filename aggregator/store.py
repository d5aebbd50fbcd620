"""What the aggregator asks of its database, whichever it is. Declares only: no SQL, no file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Protocol, TypeAlias

from aggregator.ingest import Reading

Number: TypeAlias = int | float | Decimal
Point: TypeAlias = tuple[int, Number | str | None]


class StoreError(Exception):
    """The database cannot serve now (full, locked, gone): try the same again later."""


class TooLongError(StoreError):
    """A question took longer than a reader may hold the database: ask for less."""


@dataclass(frozen=True, slots=True)
class NewEvent:
    """An event that was not known before this commit."""

    gateway: str
    id: str
    device: str
    kind: str
    utc_ms: int | None
    received_ms: int
    data: str
    personal: bool


@dataclass(slots=True)
class Outcome:
    """What a commit made durable: numbers to acknowledge per gateway, and events seen for the first time."""

    acks: list[tuple[str, str, int]] = field(default_factory=list)
    events: list[NewEvent] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Track:
    """All readings of one quantity of one device in a span, oldest first, nulls left out."""

    device: str
    quantity: str
    points: list[Point]


@dataclass(frozen=True, slots=True)
class GatewayRecord:
    """What is durably known of a gateway; `meta` and `state` are JSON as last published."""

    id: str
    first_seen_ms: int
    last_seen_ms: int
    newest_utc_ms: int | None
    clock: str | None
    state: dict[str, Any] | None
    meta: dict[str, Any] | None
    retired_ms: int | None
    counts: dict[str, int]


class Store(Protocol):
    """The durable side; every method raises StoreError when the database cannot serve."""

    async def commit(self, readings: Sequence[Reading]) -> Outcome:
        """Make all readings durable in one transaction; none of it happened when this raises."""

    async def sweep(self, now_ms: int) -> int:
        """Place held rows whose boot's clock is known by now, forget old bookkeeping; returns rows placed."""

    async def gateways(self) -> list[GatewayRecord]:
        """Return every gateway that was ever heard, by id."""

    async def gateway(self, gateway: str) -> GatewayRecord | None:
        """Return one gateway, or None when it was never heard."""

    async def tracks(
        self, gateway: str, quantities: Sequence[str], from_ms: int, to_ms: int, device: str | None = None
    ) -> list[Track]:
        """Return the readings with from <= time < to that are part of the series."""

    async def before(self, gateway: str, device: str, quantity: str, at_ms: int, oldest_ms: int) -> Point | None:
        """Return the last reading with oldest <= time < at."""

    async def oldest(self, gateway: str, device: str, quantity: str) -> int | None:
        """Return the unix ms of the first device-timed reading of a quantity, or None."""

    async def events(
        self, gateway: str | None, *, personal: bool, from_ms: int, to_ms: int, kinds: Sequence[str], limit: int
    ) -> list[dict[str, Any]]:
        """Return events of a span, newest first; of every gateway when none is named."""

    async def rows(
        self, gateway: str, from_ms: int, to_ms: int, limit: int, after: tuple[int, str, str, int] | None
    ) -> list[dict[str, Any]]:
        """Return stored rows as they came, by (time, device, boot, boot ms), beyond `after`."""

    async def close(self) -> None:
        """Finish what is under way and let go of the database."""
