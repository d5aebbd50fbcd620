"""Tables of the SQLite store, their migrations, and how a value becomes a cell and back. Opens no database.

Wide rows: one column per entry of the vocabulary. Energies are INTEGER in 0.0001 kWh. A value its column cannot
hold exactly, and every quantity without a column, goes into the JSON column `other` as it came.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import msgspec

from drivers.api import Value
from drivers.quantities import ENERGY_STEPS_PER_KWH, QUANTITIES

HELD_CLOCK = 1
"""The boot's clock is not known: no time yet."""
HELD_IDENTITY = 2
"""Another box sends under the same id: kept out of the series until an operator decides."""

ENERGIES = frozenset(name for name, quantity in QUANTITIES.items() if quantity.unit == "kWh")
STATES = frozenset(name for name, quantity in QUANTITIES.items() if quantity.kind == "state")
COLUMNS = tuple(QUANTITIES)

_STEP = Decimal(1) / ENERGY_STEPS_PER_KWH
_encode = msgspec.json.Encoder(decimal_format="number").encode
_decode = msgspec.json.Decoder(dict[str, Any], float_hook=Decimal).decode


def column_type(name: str) -> str:
    """Return the SQL type of a quantity's column."""
    if name in ENERGIES:
        return "INTEGER"
    return "ANY" if name in STATES else "REAL"


_VALUE_COLUMNS = "".join(f'  "{name}" {column_type(name)},\n' for name in COLUMNS)

_FIRST = f"""
CREATE TABLE gateway (
  id TEXT PRIMARY KEY,
  first_seen_ms INTEGER NOT NULL,
  last_seen_ms INTEGER NOT NULL,
  newest_utc_ms INTEGER,          -- time of the newest row or event
  clock TEXT,                     -- quality said by the last live batch
  live_boot INTEGER,              -- boot of the last live batch
  state TEXT, meta TEXT,          -- JSON as last published
  retired_ms INTEGER
) STRICT, WITHOUT ROWID;
CREATE TABLE tally (
  gateway TEXT NOT NULL, name TEXT NOT NULL, n INTEGER NOT NULL,
  PRIMARY KEY (gateway, name)
) STRICT, WITHOUT ROWID;
CREATE TABLE source (
  id INTEGER PRIMARY KEY, gateway TEXT NOT NULL, device TEXT NOT NULL, UNIQUE (gateway, device)
) STRICT;
CREATE TABLE boot (
  id INTEGER PRIMARY KEY, gateway TEXT NOT NULL, boot TEXT NOT NULL,
  first_live_ms INTEGER,          -- when its first live batch was received
  first_utc_ms INTEGER,           -- time of its first row
  offset_ms INTEGER,              -- utc = boot ms + offset, once a clock_offset event told
  identity INTEGER NOT NULL DEFAULT 0,  -- 1: held as a second box, 2: admitted by an operator
  UNIQUE (gateway, boot)
) STRICT;
CREATE TABLE batch (
  gateway TEXT NOT NULL, epoch TEXT NOT NULL, seq INTEGER NOT NULL, digest BLOB NOT NULL, received_ms INTEGER NOT NULL,
  PRIMARY KEY (gateway, epoch, seq)
) STRICT, WITHOUT ROWID;
CREATE INDEX batch_by_age ON batch (received_ms);
CREATE TABLE telemetry (
  source INTEGER NOT NULL, boot INTEGER NOT NULL, boot_ms INTEGER NOT NULL,
  utc_ms INTEGER, held INTEGER NOT NULL DEFAULT 0, clock TEXT NOT NULL, received_ms INTEGER NOT NULL,
{_VALUE_COLUMNS}  other TEXT,
  PRIMARY KEY (source, boot, boot_ms)
) STRICT, WITHOUT ROWID;
CREATE INDEX telemetry_by_time ON telemetry (source, utc_ms) WHERE held = 0;
CREATE INDEX telemetry_held ON telemetry (boot) WHERE held <> 0;
CREATE TABLE device_value (
  source INTEGER NOT NULL, quantity TEXT NOT NULL, utc_ms INTEGER NOT NULL,
  value ANY, other TEXT, received_ms INTEGER NOT NULL,
  PRIMARY KEY (source, quantity, utc_ms)
) STRICT, WITHOUT ROWID;
CREATE TABLE event (
  gateway TEXT NOT NULL, id TEXT NOT NULL, device TEXT NOT NULL, kind TEXT NOT NULL,
  boot INTEGER, boot_ms INTEGER, utc_ms INTEGER, held INTEGER NOT NULL DEFAULT 0,
  data TEXT NOT NULL, personal INTEGER NOT NULL, received_ms INTEGER NOT NULL,
  PRIMARY KEY (gateway, id)
) STRICT, WITHOUT ROWID;
CREATE INDEX event_by_time ON event (personal, gateway, utc_ms);
CREATE INDEX event_held ON event (boot) WHERE held <> 0;
CREATE TABLE conflict (
  gateway TEXT NOT NULL, place TEXT NOT NULL, name TEXT NOT NULL, offered TEXT NOT NULL,
  stored TEXT NOT NULL, first_ms INTEGER NOT NULL, n INTEGER NOT NULL DEFAULT 1,
  PRIMARY KEY (gateway, place, name, offered)
) STRICT, WITHOUT ROWID;
CREATE TABLE quarantine (
  id INTEGER PRIMARY KEY, gateway TEXT NOT NULL, digest BLOB NOT NULL, topic TEXT NOT NULL, reason TEXT NOT NULL,
  payload BLOB NOT NULL, size INTEGER NOT NULL, first_ms INTEGER NOT NULL, last_ms INTEGER NOT NULL,
  n INTEGER NOT NULL DEFAULT 1,
  UNIQUE (gateway, digest)
) STRICT;
CREATE VIEW telemetry_rows AS
  SELECT source.gateway, source.device, boot.boot AS boot_id, telemetry.*
  FROM telemetry JOIN source ON source.id = telemetry.source JOIN boot ON boot.id = telemetry.boot;
CREATE VIEW device_values AS
  SELECT source.gateway, source.device, device_value.*
  FROM device_value JOIN source ON source.id = device_value.source;
"""  # noqa: S608  (the names are those of our own vocabulary)

MIGRATIONS = (_FIRST,)
"""Statement groups in order; `user_version` says how many a database has had."""


def migrate(connection: sqlite3.Connection) -> None:
    """Bring a database to this code's tables, in one transaction; raises sqlite3.DatabaseError for a newer one."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version > len(MIGRATIONS):
            raise sqlite3.DatabaseError(f"written by a newer version (tables {version}, known {len(MIGRATIONS)})")
        for step in MIGRATIONS[version:]:
            for statement in step.split(";\n"):
                if statement.strip():
                    connection.execute(statement)
        _grow(connection)
        connection.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")
        connection.execute("COMMIT")
    except BaseException:
        connection.execute("ROLLBACK")
        raise


def _grow(connection: sqlite3.Connection) -> None:
    """Add a column for each entry that the vocabulary has gained since the database was made."""
    present = {row[1] for row in connection.execute("PRAGMA table_info(telemetry)")}
    for name in COLUMNS:
        if name not in present:
            connection.execute(f'ALTER TABLE telemetry ADD COLUMN "{name}" {column_type(name)}')


def to_cell(name: str, value: Value) -> tuple[Any, bool]:
    """Return (cell, True) when the quantity's column holds the value exactly, else (None, False)."""
    if value is None:
        return None, True
    if name in ENERGIES:
        return _steps(value)
    if name in STATES:
        return (value, True) if isinstance(value, int | str) else (None, False)
    if name in QUANTITIES and isinstance(value, int | float | Decimal):
        real = float(value)
        return (real, True) if Decimal(repr(real)) == value else (None, False)
    return None, False


def _steps(value: Value) -> tuple[Any, bool]:
    """Return an energy as a whole number of steps when it is one."""
    if not isinstance(value, int | Decimal):
        return None, False
    steps = Decimal(value) * ENERGY_STEPS_PER_KWH
    whole = steps == steps.to_integral_value() and abs(steps) < 2**63
    return (int(steps), True) if whole else (None, False)


def from_cell(name: str, cell: Any) -> int | float | Decimal | str | None:
    """Return a stored cell as the value that came: energies as Decimal kWh, whole gauges as int."""
    if cell is None:
        return None
    if name in ENERGIES:
        return kwh(cell)
    if isinstance(cell, float) and cell.is_integer() and abs(cell) < 2**53:
        return int(cell)
    return cell  # type: ignore[no-any-return]


def kwh(steps: int) -> Decimal:
    """Return whole steps as exact kWh without needless zeros: 125340 -> 12.534."""
    energy = (steps * _STEP).normalize()
    return energy.quantize(Decimal(1)) if energy == energy.to_integral_value() else energy


def split(values: Mapping[str, Value]) -> tuple[list[Any], dict[str, Value]]:
    """Return the cells in the order of COLUMNS, and what no column holds."""
    cells, other = {}, {}
    for name, value in values.items():
        cell, fits = to_cell(name, value)
        if fits:
            cells[name] = cell
        else:
            other[name] = value
    return [cells.get(name) for name in COLUMNS], other


def dump_other(other: Mapping[str, Value]) -> str | None:
    """Return what no column holds as JSON text, digits untouched; None when there is nothing."""
    return _encode(other).decode() if other else None


def load_other(text: str | None) -> dict[str, Any]:
    """Return the JSON column as a dictionary, fractions as Decimal."""
    return _decode(text) if text else {}
