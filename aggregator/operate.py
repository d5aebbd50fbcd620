"""What an operator does to the database from a command line: import, look at the quarantine, retire. No broker."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from aggregator.ingest import Rules, read, read_exported
from aggregator.writing import ADMITTED, HELD, Writing
from drivers.api import MalformedError

GROUP = 200
MAX_LINE_BYTES = 1024 * 1024


@dataclass(slots=True)
class Imported:
    """What an import did; `problems` names lines that were no batches."""

    batches: int = 0
    put_aside: int = 0
    problems: tuple[str, ...] = ()


def import_lines(writing: Writing, lines: Iterable[bytes], now_ms: int, rules: Rules) -> Imported:
    """Store an outbox export, a JSON line per batch; a line that is none is named and skipped."""
    done, problems = Imported(), []
    group = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            if len(line) > MAX_LINE_BYTES:
                raise MalformedError(f"longer than {MAX_LINE_BYTES} bytes")
            group.append(read_exported(line, now_ms, rules))
        except MalformedError as error:
            problems.append(f"line {number}: {error}")
            continue
        if len(group) >= GROUP:
            _count(done, writing, group)
            group = []
    _count(done, writing, group)
    done.problems = tuple(problems)
    return done


def _count(done: Imported, writing: Writing, group: list[Any]) -> None:
    writing.commit(group)
    done.batches += sum(len(reading.contents) for reading in group)
    done.put_aside += sum(len(reading.set_aside) for reading in group)


def quarantine(connection: sqlite3.Connection, gateway: str | None, id_: int | None = None) -> Iterator[dict[str, Any]]:
    """Yield what is put aside, newest last, without the payloads."""
    names = ("id", "gateway", "topic", "reason", "size", "n", "first_ms", "last_ms", "whole")
    for row in connection.execute(
        "SELECT id, gateway, topic, reason, size, n, first_ms, last_ms, length(payload) = size FROM quarantine"
        " WHERE (?1 IS NULL OR gateway = ?1) AND (?2 IS NULL OR id = ?2) ORDER BY last_ms, id",
        (gateway, id_),
    ):
        yield dict(zip(names, row, strict=True)) | {"whole": bool(row[-1])}


def payload(connection: sqlite3.Connection, id_: int) -> bytes | None:
    """Return what is kept of a payload that was put aside."""
    row = connection.execute("SELECT payload FROM quarantine WHERE id = ?", (id_,)).fetchone()
    return bytes(row[0]) if row else None


def replay(writing: Writing, ids: Iterable[int], now_ms: int, rules: Rules) -> tuple[int, int]:
    """Offer what was put aside again; returns (accepted, still refused). What is accepted leaves the quarantine."""
    accepted = refused = 0
    for id_ in ids:
        if _replay_one(writing, id_, now_ms, rules):
            writing.connection.execute("DELETE FROM quarantine WHERE id = ?", (id_,))
            accepted += 1
        else:
            refused += 1
    return accepted, refused


def _replay_one(writing: Writing, id_: int, now_ms: int, rules: Rules) -> bool:
    ask = "SELECT digest, topic, payload, size, n FROM quarantine WHERE id = ?"
    row = writing.connection.execute(ask, (id_,)).fetchone()
    if row is None or len(row[2]) < row[3]:
        return False
    reading = read(row[1], bytes(row[2]), now_ms, rules, force=True)
    if any(aside.digest == row[0] for aside in reading.set_aside):
        return False
    writing.commit([reading])
    # Put aside once more by the store itself (a retired gateway): the entry was counted, and stays.
    after = writing.connection.execute(ask, (id_,)).fetchone()
    return after is not None and after[4] == row[4]


def retire(connection: sqlite3.Connection, gateway: str, now_ms: int | None) -> bool:
    """Retire a gateway (its data stay, new ones are put aside), or take it back with None; False when unknown."""
    done = connection.execute("UPDATE gateway SET retired_ms = ? WHERE id = ?", (now_ms, gateway))
    return done.rowcount > 0


def gateways(connection: sqlite3.Connection) -> list[dict[str, Any]]:
    """Return every gateway with its last sign of life and the boots that are held as a second box."""
    found = connection.execute(
        "SELECT id, first_seen_ms, last_seen_ms, newest_utc_ms, clock, retired_ms IS NOT NULL,"
        " (SELECT group_concat(boot) FROM boot WHERE boot.gateway = gateway.id AND identity = ?)"
        " FROM gateway ORDER BY id",
        (HELD,),
    )
    names = ("id", "first_seen_ms", "last_seen_ms", "newest_ms", "clock", "retired", "held_boots")
    return [dict(zip(names, row, strict=True)) | {"retired": bool(row[5])} for row in found]


def admit(writing: Writing, gateway: str, boot: str) -> int | None:
    """Let the held rows of a boot into the series after an identity conflict; returns how many, None if unknown."""
    connection = writing.connection
    found = connection.execute("SELECT id FROM boot WHERE gateway = ? AND boot = ?", (gateway, boot)).fetchone()
    if found is None:
        return None
    connection.execute("UPDATE boot SET identity = ? WHERE id = ?", (ADMITTED, *found))
    return connection.execute("UPDATE telemetry SET held = 0 WHERE boot = ? AND held = 2", found).rowcount
