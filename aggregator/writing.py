"""The write side of the SQLite store: readings become rows, exactly once. Runs in one thread; knows no event loop.

Identities: a boot-stamped row is (gateway, device, boot, boot ms), a device-timed value (gateway, device, quantity,
UTC), an event its id. A conflict fills what is NULL and never overwrites; a different value is kept aside and counted.
"""

from __future__ import annotations

import hashlib
import logging
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from aggregator import schema
from aggregator.ingest import FUTURE_MS, Content, DeviceValue, Happening, Reading, Row, SetAside
from aggregator.store import NewEvent, Outcome
from edge_agent import wire

log = logging.getLogger(__name__)

MAX_GATEWAYS = 20_000
MAX_DEVICES = 256
"""Of one gateway; more would be an attack on the disk rather than a house."""
MAX_CONFLICTS = 1000
"""Kept aside per gateway; beyond, conflicts are counted only."""
QUARANTINE_ENTRIES = 1000
QUARANTINE_BYTES = 16 * 1024 * 1024
"""Put aside per gateway; beyond, the oldest makes room and is counted."""
KEEP_WHOLE_BYTES = wire.MAX_INFLATED_BYTES
KEEP_HEAD_BYTES = 4096
"""What is kept of a payload that is too long to be kept: enough to see what it is."""
BATCH_MEMORY_MS = 90 * 86_400_000
"""Numbers of batches are remembered this long; a later double still meets its rows' identities."""
HELD, ADMITTED = 1, 2
"""What a boot's `identity` says: held as a second box, or admitted by an operator."""
INTERLEAVED_MS = 60_000
"""Two boots of one gateway whose rows overlap by more than this are two boxes."""

_CELLS = ", ".join(f'"{name}"' for name in schema.COLUMNS)
_INSERT_ROW = (
    f"INSERT INTO telemetry (source, boot, boot_ms, utc_ms, held, clock, received_ms, other, {_CELLS}) "  # noqa: S608  (names of our own vocabulary)
    f"VALUES ({', '.join('?' * (8 + len(schema.COLUMNS)))}) ON CONFLICT DO NOTHING"
)
_SELECT_ROW = f"SELECT utc_ms, other, {_CELLS} FROM telemetry WHERE source = ? AND boot = ? AND boot_ms = ?"  # noqa: S608  (likewise)


class RefusedReadingError(ValueError):
    """A reading that the store declines for a reason worth telling."""


@dataclass(slots=True)
class _Boot:
    id: int
    first_live_ms: int | None
    first_utc_ms: int | None
    offset_ms: int | None
    identity: int

    @property
    def identity_held(self) -> bool:
        return self.identity == HELD


class Writing:
    """The one writer of a database file."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection
        self._sources: dict[tuple[str, str], int] = {}
        self._boots: dict[tuple[str, str], _Boot] = {}

    def commit(self, readings: Sequence[Reading]) -> Outcome:
        """Make all readings durable in one transaction; raises sqlite3.Error with nothing of it done."""
        outcome = Outcome()
        with self._transaction():
            for reading in readings:
                self._take(reading, outcome)
        return outcome

    def sweep(self, now_ms: int) -> int:
        """Place held rows whose boot's clock is known, forget old batch numbers; returns rows placed."""
        self._forget()  # an operator's command may have changed a boot from another process
        with self._transaction():
            self.connection.execute(
                "UPDATE telemetry SET held = 0 WHERE held = 2 AND held <> 0"
                " AND boot IN (SELECT id FROM boot WHERE identity = ?)",
                (ADMITTED,),
            )
            waiting = self.connection.execute(
                "SELECT gateway, boot FROM boot WHERE offset_ms IS NOT NULL AND ("
                "EXISTS (SELECT 1 FROM telemetry WHERE telemetry.boot = boot.id AND held = 1)"
                " OR EXISTS (SELECT 1 FROM event WHERE event.boot = boot.id AND held = 1))"
            ).fetchall()
            placed = sum(self._place(self._boot(gateway, boot), now_ms) for gateway, boot in waiting)
            self.connection.execute(
                "DELETE FROM batch WHERE (gateway, epoch, seq) IN"
                " (SELECT gateway, epoch, seq FROM batch WHERE received_ms < ? LIMIT 5000)",
                (now_ms - BATCH_MEMORY_MS,),
            )
        return placed

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self.connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            self.connection.execute("COMMIT")
        except BaseException:
            self._forget()
            if self.connection.in_transaction:
                self.connection.execute("ROLLBACK")
            raise

    def _forget(self) -> None:
        """Drop what was remembered of the database: a rollback may have undone it."""
        self._sources.clear()
        self._boots.clear()

    def _take(self, reading: Reading, outcome: Outcome) -> None:
        """Store one reading; one that cannot be stored is put aside and never stops the others."""
        self.connection.execute("SAVEPOINT reading")
        before = len(outcome.events)
        try:
            self._store(reading, outcome)
        except sqlite3.OperationalError:
            raise
        except Exception as error:  # whatever a payload does to us, its neighbours go on
            self.connection.execute("ROLLBACK TO reading")
            self._forget()
            del outcome.events[before:]
            log.warning("%s: put aside: %s", reading.gateway or "?", error, exc_info=not isinstance(error, ValueError))
            reason = str(error) if isinstance(error, RefusedReadingError) else f"the store could not take it: {error!r}"
            self._set_aside(SetAside(reading.gateway, reading.topic, reading.payload, reason[:500]), reading.now_ms)
        self.connection.execute("RELEASE reading")
        outcome.acks += [(reading.gateway, epoch, seq) for epoch, seq in reading.acks]

    def _store(self, reading: Reading, outcome: Outcome) -> None:
        if reading.contents or reading.state or reading.meta:
            self._see(reading)
        for content in reading.contents:
            if self._is_new(reading, content):
                self._store_content(reading, content, outcome)
        for aside in reading.set_aside:
            self._set_aside(aside, reading.now_ms)

    def _see(self, reading: Reading) -> None:
        """Note that a gateway was heard, and what it says of itself; refuses a retired one."""
        known = self.connection.execute("SELECT retired_ms FROM gateway WHERE id = ?", (reading.gateway,)).fetchone()
        if known is None:
            (count,) = self.connection.execute("SELECT count(*) FROM gateway").fetchone()
            if count >= MAX_GATEWAYS:
                raise RefusedReadingError(f"more than {MAX_GATEWAYS} gateways")
        elif known[0] is not None:
            raise RefusedReadingError("the gateway is retired; `edge-aggregator gateway restore` takes it back")
        self.connection.execute(
            "INSERT INTO gateway (id, first_seen_ms, last_seen_ms) VALUES (?1, ?2, ?2)"
            " ON CONFLICT DO UPDATE SET last_seen_ms = max(last_seen_ms, excluded.last_seen_ms)",
            (reading.gateway, reading.now_ms),
        )
        for name, message in (("state", reading.state), ("meta", reading.meta)):
            if message is not None:
                self.connection.execute(
                    f"UPDATE gateway SET {name} = ? WHERE id = ?",  # noqa: S608  (one of the two words above)
                    (wire.encode(message).decode(), reading.gateway),
                )

    def _is_new(self, reading: Reading, content: Content) -> bool:
        """Tell whether a batch must be looked at; one that is stored already is only counted."""
        key = (reading.gateway, content.epoch, content.seq)
        known = self.connection.execute(
            "SELECT digest FROM batch WHERE gateway = ? AND epoch = ? AND seq = ?", key
        ).fetchone()
        if known is None:
            self.connection.execute(
                "INSERT INTO batch (gateway, epoch, seq, digest, received_ms) VALUES (?, ?, ?, ?, ?)",
                (*key, content.digest, reading.now_ms),
            )
            return True
        if known[0] != content.digest and not reading.force:
            place = f"batch {content.epoch} {content.seq}"
            self._conflict(reading, place, "content", known[0].hex(), content.digest.hex())
            return True
        self._tally(reading.gateway, "batches_repeated", 0 if reading.force else 1)
        return reading.force

    def _store_content(self, reading: Reading, content: Content, outcome: Outcome) -> None:
        boot = self._boot(reading.gateway, content.boot)
        if content.live:
            self._watch_identity(reading, content, boot, outcome)
        for row in content.rows:
            self._store_row(reading, content, boot, row)
        for value in content.values:
            self._store_value(reading, value)
        for event in content.events:
            self._store_event(reading, boot, event, outcome)
        self._note_times(reading, content, boot)
        for name, offset_ms in content.offsets.items():
            self._learn_offset(reading, name, offset_ms)

    def _note_times(self, reading: Reading, content: Content, boot: _Boot) -> None:
        rows = [row.utc_ms for row in content.rows if row.utc_ms is not None]
        times = rows + [event.utc_ms for event in content.events if event.utc_ms is not None]
        if rows and (boot.first_utc_ms is None or min(rows) < boot.first_utc_ms):
            boot.first_utc_ms = min(rows)
            self.connection.execute("UPDATE boot SET first_utc_ms = ? WHERE id = ?", (boot.first_utc_ms, boot.id))
        if content.live:
            self.connection.execute("UPDATE gateway SET clock = ? WHERE id = ?", (content.clock, reading.gateway))
        if times and not boot.identity_held:
            # A simulated day that is played again starts earlier than the last one ended: the newest is what came last.
            replayed = content.live and content.clock == "simulated"
            self.connection.execute(
                "UPDATE gateway SET newest_utc_ms = CASE WHEN ? THEN ?2 ELSE max(ifnull(newest_utc_ms, ?2), ?2) END"
                " WHERE id = ?3",
                (replayed, max(times), reading.gateway),
            )

    # Rows and values

    def _store_row(self, reading: Reading, content: Content, boot: _Boot, row: Row) -> None:
        source = self._source(reading.gateway, row.device)
        utc_ms = row.utc_ms
        if utc_ms is None and boot.offset_ms is not None and row.boot_ms + boot.offset_ms <= reading.now_ms + FUTURE_MS:
            utc_ms = row.boot_ms + boot.offset_ms
        held = _held(utc_ms, boot)
        cells, other = schema.split(row.values)
        key = (source, boot.id, row.boot_ms)
        fields = (*key, utc_ms, held, content.clock, reading.now_ms, schema.dump_other(other), *cells)
        if self.connection.execute(_INSERT_ROW, fields).rowcount == 0:
            self._tally(reading.gateway, "rows_repeated")
            self._merge_row(reading, boot, key, utc_ms, row)

    def _merge_row(
        self, reading: Reading, boot: _Boot, key: tuple[int, int, int], utc_ms: int | None, row: Row
    ) -> None:
        """Fill what is NULL in a stored row; whatever differs is kept aside."""
        stored_utc, stored_other, *cells = self.connection.execute(_SELECT_ROW, key).fetchone()
        other = schema.load_other(stored_other)
        stored = {name: schema.from_cell(name, cell) for name, cell in zip(schema.COLUMNS, cells, strict=True)} | other
        place = f"row {row.device} {key[1]} {row.boot_ms}"
        changes: dict[str, Any] = {}
        for name, value in row.values.items():
            if value is None or stored.get(name) == value:
                continue
            if stored.get(name) is not None:
                self._conflict(reading, place, name, str(stored[name]), str(value))
                continue
            cell, fits = schema.to_cell(name, value)
            if fits:
                changes[name] = cell
            else:
                other[name] = value
                changes["other"] = schema.dump_other(other)
        if stored_utc is None and utc_ms is not None:
            changes |= {"utc_ms": utc_ms, "held": _held(utc_ms, boot)}
        elif utc_ms is not None and utc_ms != stored_utc:
            self._conflict(reading, place, "utc_ms", str(stored_utc), str(utc_ms))
        if changes:
            assignments = ", ".join(f'"{name}" = ?' for name in changes)
            self.connection.execute(
                f"UPDATE telemetry SET {assignments} WHERE source = ? AND boot = ? AND boot_ms = ?",  # noqa: S608  (columns)
                (*changes.values(), *key),
            )

    def _store_value(self, reading: Reading, value: DeviceValue) -> None:
        key = (self._source(reading.gateway, value.device), value.quantity, value.utc_ms)
        cell, fits = schema.to_cell(value.quantity, value.value)
        other = None if fits else schema.dump_other({"value": value.value})
        done = self.connection.execute(
            "INSERT INTO device_value (source, quantity, utc_ms, value, other, received_ms) VALUES (?, ?, ?, ?, ?, ?)"
            " ON CONFLICT DO NOTHING",
            (*key, cell, other, reading.now_ms),
        )
        if done.rowcount:
            return
        self._tally(reading.gateway, "values_repeated")
        stored_cell, stored_other = self.connection.execute(
            "SELECT value, other FROM device_value WHERE source = ? AND quantity = ? AND utc_ms = ?", key
        ).fetchone()
        stored = schema.load_other(stored_other).get("value", schema.from_cell(value.quantity, stored_cell))
        if stored != value.value:
            place = f"value {value.device} {value.utc_ms}"
            self._conflict(reading, place, value.quantity, str(stored), str(value.value))

    # Events and clocks

    def _store_event(self, reading: Reading, boot: _Boot, event: Happening, outcome: Outcome) -> None:
        utc_ms = event.utc_ms
        if utc_ms is None and event.boot_ms is not None and boot.offset_ms is not None:
            utc_ms = event.boot_ms + boot.offset_ms
        done = self.connection.execute(
            "INSERT INTO event (gateway, id, device, kind, boot, boot_ms, utc_ms, held, data, personal, received_ms)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
            (
                *(reading.gateway, event.id, event.device, event.kind),
                *(boot.id, event.boot_ms, utc_ms, schema.HELD_CLOCK if utc_ms is None else 0),
                *(event.data, event.personal, reading.now_ms),
            ),
        )
        if done.rowcount:
            what = (event.id, event.device, event.kind, utc_ms, reading.now_ms, event.data, event.personal)
            outcome.events.append(NewEvent(reading.gateway, *what))
            return
        self._tally(reading.gateway, "events_repeated")
        stored = self.connection.execute(
            "SELECT device, kind, data FROM event WHERE gateway = ? AND id = ?", (reading.gateway, event.id)
        ).fetchone()
        for name, mine, theirs in zip(
            ("device", "kind", "data"), stored, (event.device, event.kind, event.data), strict=True
        ):
            if mine != theirs:
                self._conflict(reading, f"event {event.id}", name, mine, theirs)

    def _learn_offset(self, reading: Reading, name: str, offset_ms: int) -> None:
        """Remember how a boot's clock lay to UTC, and place what waited for it; the first word counts."""
        boot = self._boot(reading.gateway, name)
        if boot.offset_ms is None:
            boot.offset_ms = offset_ms
            self.connection.execute("UPDATE boot SET offset_ms = ? WHERE id = ?", (offset_ms, boot.id))
        self._place(boot, reading.now_ms)

    def _place(self, boot: _Boot, now_ms: int) -> int:
        """Give held rows and events of a boot their time; what would lie in the future stays held."""
        limit = now_ms + FUTURE_MS - (boot.offset_ms or 0)
        rows = self.connection.execute(
            "UPDATE telemetry SET utc_ms = boot_ms + ?, held = ? WHERE boot = ? AND held = 1 AND boot_ms <= ?",
            (boot.offset_ms, schema.HELD_IDENTITY if boot.identity_held else 0, boot.id, limit),
        ).rowcount
        events = self.connection.execute(
            "UPDATE event SET utc_ms = boot_ms + ?, held = 0 WHERE boot = ? AND held = 1 AND boot_ms <= ?",
            (boot.offset_ms, boot.id, limit),
        ).rowcount
        return rows + events

    def _watch_identity(self, reading: Reading, content: Content, boot: _Boot, outcome: Outcome) -> None:
        """Notice two boxes under one id: a boot comes back after a younger one, with rows of the same hours."""
        (live_id,) = self.connection.execute(
            "SELECT live_boot FROM gateway WHERE id = ?", (reading.gateway,)
        ).fetchone()
        if live_id == boot.id or boot.identity_held:
            return
        if boot.first_live_ms is None:
            boot.first_live_ms = reading.now_ms
            self.connection.execute("UPDATE boot SET first_live_ms = ? WHERE id = ?", (reading.now_ms, boot.id))
        else:
            self._compare_boots(reading, content, boot, live_id, outcome)
        self.connection.execute("UPDATE gateway SET live_boot = ? WHERE id = ?", (boot.id, reading.gateway))

    def _compare_boots(self, reading: Reading, content: Content, boot: _Boot, live_id: int, outcome: Outcome) -> None:
        name, began_ms, identity = self.connection.execute(
            "SELECT boot, first_utc_ms, identity FROM boot WHERE id = ?", (live_id,)
        ).fetchone()
        newest = max((row.utc_ms for row in content.rows if row.utc_ms is not None), default=None)
        if identity == ADMITTED or newest is None or began_ms is None or newest <= began_ms + INTERLEAVED_MS:
            return
        log.error("%s: two boxes send under this id; rows of boot %s are held", reading.gateway, name)
        self._boot(reading.gateway, name).identity = HELD
        self.connection.execute("UPDATE boot SET identity = ? WHERE id = ?", (HELD, live_id))
        self.connection.execute(
            "UPDATE telemetry SET held = ? WHERE boot = ? AND held = 0", (schema.HELD_IDENTITY, live_id)
        )
        data = wire.encode({"boot": content.boot, "held_boot": name}).decode()
        id_ = hashlib.sha256(f"identity_conflict {reading.gateway} {name}".encode()).hexdigest()[:32]
        self._store_event(reading, boot, Happening(id_, "", "identity_conflict", None, newest, data, False), outcome)

    # Small things

    def _source(self, gateway: str, device: str) -> int:
        found = self._sources.get((gateway, device))
        if found is None:
            found = self._sources[gateway, device] = self._new_source(gateway, device)
        return found

    def _new_source(self, gateway: str, device: str) -> int:
        row = self.connection.execute(
            "SELECT id FROM source WHERE gateway = ? AND device = ?", (gateway, device)
        ).fetchone()
        if row is None:
            (count,) = self.connection.execute("SELECT count(*) FROM source WHERE gateway = ?", (gateway,)).fetchone()
            if count >= MAX_DEVICES:
                raise RefusedReadingError(f"more than {MAX_DEVICES} devices")
            row = self.connection.execute(
                "INSERT INTO source (gateway, device) VALUES (?, ?) RETURNING id", (gateway, device)
            ).fetchone()
        return int(row[0])

    def _boot(self, gateway: str, name: str) -> _Boot:
        found = self._boots.get((gateway, name))
        if found is None:
            if len(self._boots) > 10_000:
                self._boots.clear()
            self.connection.execute(
                "INSERT INTO boot (gateway, boot) VALUES (?, ?) ON CONFLICT DO NOTHING", (gateway, name)
            )
            row = self.connection.execute(
                "SELECT id, first_live_ms, first_utc_ms, offset_ms, identity FROM boot WHERE gateway = ? AND boot = ?",
                (gateway, name),
            ).fetchone()
            found = self._boots[gateway, name] = _Boot(row[0], row[1], row[2], row[3], row[4])
        return found

    def _tally(self, gateway: str, name: str, n: int = 1) -> None:
        self.connection.execute(
            "INSERT INTO tally (gateway, name, n) VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET n = n + excluded.n",
            (gateway, name, n),
        )

    def _conflict(self, reading: Reading, place: str, name: str, stored: str, offered: str) -> None:
        """Keep a value that contradicts a stored one aside, once, and count it."""
        self._tally(reading.gateway, "conflicts")
        (count,) = self.connection.execute(
            "SELECT count(*) FROM conflict WHERE gateway = ?", (reading.gateway,)
        ).fetchone()
        full = count >= MAX_CONFLICTS
        self.connection.execute(
            "UPDATE conflict SET n = n + 1 WHERE gateway = ? AND place = ? AND name = ? AND offered = ?"
            if full
            else "INSERT INTO conflict (gateway, place, name, offered, stored, first_ms) VALUES (?, ?, ?, ?, ?, ?)"
            " ON CONFLICT DO UPDATE SET n = n + 1",
            (reading.gateway, place, name, offered, *(() if full else (stored, reading.now_ms))),
        )

    def _set_aside(self, aside: SetAside, now_ms: int) -> None:
        """Keep a payload once, the newest of each gateway within the bounds."""
        size = len(aside.payload)
        kept = aside.payload if size <= KEEP_WHOLE_BYTES else aside.payload[:KEEP_HEAD_BYTES]
        topic = aside.topic.encode("utf-8", "replace").decode()[:512]
        self.connection.execute(
            "INSERT INTO quarantine (gateway, digest, topic, reason, payload, size, first_ms, last_ms)"
            " VALUES (?, ?, ?, ?, ?, ?, ?7, ?7) ON CONFLICT DO UPDATE SET n = n + 1, last_ms = excluded.last_ms",
            (aside.gateway, aside.digest, topic, aside.reason[:500], kept, size, now_ms),
        )
        self._tally(aside.gateway, "put_aside")
        self._bound_quarantine(aside.gateway)

    def _bound_quarantine(self, gateway: str) -> None:
        while True:
            entries, held = self.connection.execute(
                "SELECT count(*), ifnull(sum(length(payload)), 0) FROM quarantine WHERE gateway = ?", (gateway,)
            ).fetchone()
            if entries <= QUARANTINE_ENTRIES and held <= QUARANTINE_BYTES:
                return
            self.connection.execute(
                "DELETE FROM quarantine WHERE id ="
                " (SELECT id FROM quarantine WHERE gateway = ? ORDER BY last_ms, id LIMIT 1)",
                (gateway,),
            )
            self._tally(gateway, "put_aside_evicted")


def _held(utc_ms: int | None, boot: _Boot) -> int:
    if utc_ms is None:
        return schema.HELD_CLOCK
    return schema.HELD_IDENTITY if boot.identity_held else 0
