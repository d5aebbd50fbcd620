"""Open passages as they are remembered over a restart. Pure: neither memory nor clock, only what goes in and out.

They lie in 16 small records, so that one arrival in a crowd rewrites a sixteenth. A record states its moment in boot
ms and, when known, in unix ms; that is enough to place its times on the clock of any later boot.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable

from drivers.api import Json
from drivers.ble_tags.passage import Passage

SHARDS = 16
MAX_IN_SHARD = 20
"""16 records of 20 passages of at most 100 characters stay below half of a driver's memory; more are not kept."""
LOST = "lost"
LIST = "list"

_FIELDS = 6


def key_for(tag: str) -> str:
    """Return the key of the record that a tag's passage belongs to."""
    return f"open{zlib.crc32(tag.encode()) % SHARDS:x}"


def shard_of(tag: str, stays: Iterable[Passage], now_ms: int, unix_ms: int | None) -> dict[str, Json]:
    """Return the record that holds one tag, as a change to remember; None forgets an empty one."""
    key = key_for(tag)
    return {key: _record([stay for stay in stays if key_for(stay.tag) == key], now_ms, unix_ms)}


def shards(stays: Iterable[Passage], now_ms: int, unix_ms: int | None) -> dict[str, Json]:
    """Return all records."""
    by_key: dict[str, list[Passage]] = {f"open{number:x}": [] for number in range(SHARDS)}
    for stay in stays:
        by_key[key_for(stay.tag)].append(stay)
    return {key: _record(members, now_ms, unix_ms) for key, members in by_key.items()}


def same(one: Json, other: Json) -> bool:
    """Tell whether two records hold the same passages, whenever they were written."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.get("stays") == other.get("stays")
    return one == other


def restore(get: Callable[[str], Json], now_ms: int, unix_ms: int | None) -> list[Passage]:
    """Return the remembered passages on today's boot clock; a record that does not read is skipped."""
    found = []
    for number in range(SHARDS):
        record = get(f"open{number:x}")
        if not isinstance(record, dict) or (shift_ms := _shift_ms(record, now_ms, unix_ms)) is None:
            continue
        stays = record.get("stays")
        if isinstance(stays, dict):
            found += [stay for tag, row in stays.items() if (stay := _passage(tag, row, shift_ms)) is not None]
    return found


def _record(stays: list[Passage], now_ms: int, unix_ms: int | None) -> Json:
    if not stays:
        return None
    rows: dict[str, Json] = {stay.tag: _row(stay) for stay in stays[:MAX_IN_SHARD]}
    return {"boot_ms": now_ms, "unix_ms": unix_ms, "stays": rows}


def _row(stay: Passage) -> list[Json]:
    return [stay.first_ms, stay.last_ms, stay.closest_ms, stay.packets, stay.peak_rssi, stay.deaf_ms]


def _shift_ms(record: dict[str, Json], now_ms: int, unix_ms: int | None) -> int | None:
    """Return what turns a record's boot ms into today's.

    Without UTC on either side a smaller clock tells of a new boot; the stop in between is then taken as nothing.
    """
    then_ms, then_unix_ms = record.get("boot_ms"), record.get("unix_ms")
    if type(then_ms) is not int:
        return None
    if unix_ms is not None and type(then_unix_ms) is int:
        return now_ms - max(0, unix_ms - then_unix_ms) - then_ms
    return 0 if then_ms <= now_ms else now_ms - then_ms


def _passage(tag: str, row: Json, shift_ms: int) -> Passage | None:
    if not isinstance(row, list) or len(row) != _FIELDS:
        return None
    first_ms, last_ms, closest_ms, packets, peak_rssi, deaf_ms = row
    if type(first_ms) is not int or type(last_ms) is not int or type(packets) is not int or type(deaf_ms) is not int:
        return None
    return Passage(
        tag,
        first_ms + shift_ms,
        last_ms + shift_ms,
        closest_ms + shift_ms if type(closest_ms) is int else None,
        packets,
        peak_rssi if type(peak_rssi) is int else None,
        deaf_ms,
    )
