"""Questions to the SQLite store, each on a connection that cannot write. Computes nothing beyond what it reads."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import msgspec

from aggregator import schema
from aggregator.store import GatewayRecord, Point, Track

_decode = msgspec.json.Decoder(float_hook=Decimal).decode


def gateways(connection: sqlite3.Connection, only: str | None = None) -> list[GatewayRecord]:
    """Return every gateway, or the one named, by id."""
    found = connection.execute(
        "SELECT id, first_seen_ms, last_seen_ms, newest_utc_ms, clock, state, meta, retired_ms FROM gateway"
        " WHERE ?1 IS NULL OR id = ?1 ORDER BY id",
        (only,),
    ).fetchall()
    return [
        GatewayRecord(id_, first, last, newest, clock, _object(state), _object(meta), retired, _counts(connection, id_))
        for id_, first, last, newest, clock, state, meta, retired in found
    ]


def _object(text: str | None) -> dict[str, Any] | None:
    return _decode(text) if text else None


def _counts(connection: sqlite3.Connection, gateway: str) -> dict[str, int]:
    """Return what was counted of a gateway, and how much is put aside now."""
    counts = dict(connection.execute("SELECT name, n FROM tally WHERE gateway = ? AND n > 0", (gateway,)).fetchall())
    (waiting,) = connection.execute("SELECT count(*) FROM quarantine WHERE gateway = ?", (gateway,)).fetchone()
    for name, held in (("held_clock", schema.HELD_CLOCK), ("held_identity", schema.HELD_IDENTITY)):
        (counts[name],) = connection.execute(
            "SELECT count(*) FROM telemetry JOIN boot ON boot.id = telemetry.boot"
            " WHERE gateway = ? AND held <> 0 AND held = ?",
            (gateway, held),
        ).fetchone()
    return counts | {"quarantine": waiting}


def _sources(connection: sqlite3.Connection, gateway: str, device: str | None) -> list[tuple[int, str]]:
    return connection.execute(
        "SELECT id, device FROM source WHERE gateway = ?1 AND (?2 IS NULL OR device = ?2) ORDER BY device",
        (gateway, device),
    ).fetchall()


def tracks(
    connection: sqlite3.Connection,
    gateway: str,
    quantities: Sequence[str],
    from_ms: int,
    to_ms: int,
    device: str | None,
) -> list[Track]:
    """Return every reading of the quantities with from <= time < to, device by device, nulls left out."""
    found = []
    for source, name in _sources(connection, gateway, device):
        points: dict[str, list[Point]] = {quantity: [] for quantity in quantities}
        _read_rows(connection, source, points, from_ms, to_ms)
        _read_values(connection, source, points, from_ms, to_ms)
        for quantity, readings in points.items():
            if readings:
                found.append(Track(name, quantity, sorted(readings, key=lambda point: point[0])))
    return found


def _read_rows(
    connection: sqlite3.Connection, source: int, points: dict[str, list[Point]], from_ms: int, to_ms: int
) -> None:
    columns = [name for name in points if name in schema.COLUMNS]
    cells = "".join(f', "{name}"' for name in columns)
    for utc_ms, other, *row in connection.execute(
        f"SELECT utc_ms, other{cells} FROM telemetry WHERE source = ? AND held = 0 AND utc_ms >= ? AND utc_ms < ?"  # noqa: S608  (columns of our vocabulary)
        " ORDER BY utc_ms",
        (source, from_ms, to_ms),
    ):
        for name, cell in zip(columns, row, strict=True):
            if cell is not None:
                points[name].append((utc_ms, schema.from_cell(name, cell)))
        if other is not None:
            for name, value in schema.load_other(other).items():
                if name in points and value is not None:
                    points[name].append((utc_ms, value))


def _read_values(
    connection: sqlite3.Connection, source: int, points: dict[str, list[Point]], from_ms: int, to_ms: int
) -> None:
    for quantity, readings in points.items():
        for utc_ms, cell, other in connection.execute(
            "SELECT utc_ms, value, other FROM device_value"
            " WHERE source = ? AND quantity = ? AND utc_ms >= ? AND utc_ms < ?",
            (source, quantity, from_ms, to_ms),
        ):
            value = schema.load_other(other).get("value") if other else schema.from_cell(quantity, cell)
            readings.append((utc_ms, value))


def before(
    connection: sqlite3.Connection, gateway: str, device: str, quantity: str, at_ms: int, oldest_ms: int
) -> Point | None:
    """Return the last reading of a vocabulary quantity with oldest <= time < at."""
    if quantity not in schema.COLUMNS:
        return None
    for source, _ in _sources(connection, gateway, device):
        row = connection.execute(
            f'SELECT utc_ms, "{quantity}" FROM telemetry WHERE source = ? AND held = 0 AND utc_ms >= ? AND utc_ms < ?'  # noqa: S608  (checked above)
            f' AND "{quantity}" IS NOT NULL ORDER BY utc_ms DESC LIMIT 1',
            (source, oldest_ms, at_ms),
        ).fetchone()
        if row:
            return row[0], schema.from_cell(quantity, row[1])
    return None


def oldest(connection: sqlite3.Connection, gateway: str, device: str, quantity: str) -> int | None:
    """Return the unix ms of the first device-timed reading of a quantity, or None."""
    for source, _ in _sources(connection, gateway, device):
        row = connection.execute(
            "SELECT min(utc_ms) FROM device_value WHERE source = ? AND quantity = ?", (source, quantity)
        ).fetchone()
        return row[0]  # type: ignore[no-any-return]  # an INTEGER column
    return None


def events(
    connection: sqlite3.Connection,
    gateway: str | None,
    personal: bool,  # noqa: FBT001  (handed through)
    from_ms: int,
    to_ms: int,
    kinds: Sequence[str],
    limit: int,
) -> list[dict[str, Any]]:
    """Return events of a span, newest first; those without a time only when the span is open to the right."""
    where = ["personal = ?", "utc_ms >= ?", "utc_ms < ?"]
    values: list[Any] = [personal, from_ms, to_ms]
    if gateway is not None:
        where.append("gateway = ?")
        values.append(gateway)
    if kinds:
        where.append(f"kind IN ({', '.join('?' * len(kinds))})")
        values += kinds
    found = connection.execute(
        "SELECT gateway, id, device, kind, utc_ms, received_ms, data FROM event"  # noqa: S608  (fixed clauses)
        f" WHERE {' AND '.join(where)} ORDER BY utc_ms DESC, id LIMIT ?",
        (*values, limit),
    )
    names = ("gateway", "id", "device", "kind", "time", "received", "data")
    return [dict(zip(names, (*row[:6], _decode(row[6])), strict=True)) for row in found]


def rows(
    connection: sqlite3.Connection,
    gateway: str,
    from_ms: int,
    to_ms: int,
    limit: int,
    after: tuple[int, str, str, int] | None,
) -> list[dict[str, Any]]:
    """Return stored rows as they came, by (time, device, boot, boot ms), beyond `after`."""
    cells = "".join(f', "{name}"' for name in schema.COLUMNS)
    start = after or (from_ms, "", "", -(2**62))
    found = connection.execute(
        f"SELECT utc_ms, device, boot_id, boot_ms, clock, other{cells} FROM telemetry_rows"  # noqa: S608  (our vocabulary)
        " WHERE source IN (SELECT id FROM source WHERE gateway = ?) AND held = 0 AND utc_ms >= ? AND utc_ms < ?"
        " AND (utc_ms, device, boot_id, boot_ms) > (?, ?, ?, ?)"
        " ORDER BY utc_ms, device, boot_id, boot_ms LIMIT ?",
        (gateway, max(from_ms, start[0]), to_ms, *start, limit),
    )
    return [_row(row) for row in found]


def _row(row: Sequence[Any]) -> dict[str, Any]:
    values = {
        name: schema.from_cell(name, cell)
        for name, cell in zip(schema.COLUMNS, row[6:], strict=True)
        if cell is not None
    }
    names = ("time", "device", "boot", "boot_ms", "clock")
    return dict(zip(names, row[:5], strict=True)) | {"values": values | schema.load_other(row[5])}
