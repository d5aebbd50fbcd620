"""The tags a pole may know: the enrolled ones, and no others. Pure: no radio, no clock, no file.

The town's list decides. What is not on it leaves nothing behind, so this module never sees an address and has no
place where a stranger could be kept. The list names a pseudonym for each tag; nothing else leaves the pole.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import msgspec

from drivers.api import MalformedError
from drivers.ble_tags.adverts import key_of_id

MAX_LIST_BYTES = 4 * 1024 * 1024
"""20,000 entries of some 140 bytes (the children of a city of 300,000 people), and room."""
MAX_TAGS = 20_000
MAX_VERSION = 2**53
"""Beyond this a JSON number is no longer exact everywhere."""

_PSEUDONYM = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,31}", re.ASCII)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Tag:
    """An enrolled tag: the name it goes by, and until when its consent holds (unix ms, None: no end)."""

    pseudonym: str
    valid_until_ms: int | None = None


@dataclass(frozen=True, slots=True)
class AllowList:
    """One version of the enrolment; version -1 is the empty list before any other."""

    version: int = -1
    tags: Mapping[bytes, Tag] = field(default_factory=dict)

    def find(self, keys: Iterable[bytes], unix_ms: int | None) -> str | None:
        """Return the pseudonym of the first enrolled key whose consent still holds, or None.

        While the clock is not set no consent counts as ended: the town's next list takes the tag away.
        """
        for key in keys:
            tag = self.tags.get(key)
            if tag is not None and (tag.valid_until_ms is None or unix_ms is None or unix_ms < tag.valid_until_ms):
                return tag.pseudonym
        return None

    def replaced_by(self, other: AllowList) -> AllowList:
        """Return the newer of both: an older version, or the same again, never replaces a list."""
        return other if other.version > self.version else self

    def pseudonyms(self) -> frozenset[str]:
        """Return the names in use."""
        return frozenset(tag.pseudonym for tag in self.tags.values())


class _Entry(msgspec.Struct):
    id: str
    pseudonym: str
    valid_until: str | None = None


class _List(msgspec.Struct):
    version: int
    tags: list[_Entry]


_decoder = msgspec.json.Decoder(_List)


def decode_list(payload: bytes) -> AllowList:
    """Return the enrolment list of a `tags` message; raises MalformedError and then says which entry, never its id."""
    if len(payload) > MAX_LIST_BYTES:
        raise MalformedError(f"a list of {len(payload)} bytes; at most {MAX_LIST_BYTES}")
    try:
        message = _decoder.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError) as error:
        raise MalformedError(f"not an enrolment list: {error}") from error
    if not 0 <= message.version < MAX_VERSION:
        raise MalformedError("the version is not a number from 0 up")
    if len(message.tags) > MAX_TAGS:
        raise MalformedError(f"{len(message.tags)} tags; at most {MAX_TAGS}")
    tags: dict[bytes, Tag] = {}
    for number, entry in enumerate(message.tags):
        key, tag = _read(entry, number)
        if key in tags:
            raise MalformedError(f"entry {number}: the tag stands twice")
        tags[key] = tag
    return AllowList(message.version, tags)


def _read(entry: _Entry, number: int) -> tuple[bytes, Tag]:
    """Return key and tag of an entry; its message names the entry's place only, because messages reach logs."""
    try:
        key = key_of_id(entry.id)
    except MalformedError as error:
        raise MalformedError(f"entry {number}: {error}") from None
    if not _PSEUDONYM.fullmatch(entry.pseudonym):
        raise MalformedError(f"entry {number}: a pseudonym has 1 to 32 letters, digits, dots, dashes or underscores")
    until = None if entry.valid_until is None else _unix_ms(entry.valid_until, number)
    return key, Tag(entry.pseudonym, until)


def _unix_ms(text: str, number: int) -> int:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise MalformedError(f"entry {number}: valid_until is not an ISO 8601 time") from None
    if moment.tzinfo is None:
        raise MalformedError(f"entry {number}: valid_until has no time zone")
    return (moment - _EPOCH) // timedelta(milliseconds=1)
