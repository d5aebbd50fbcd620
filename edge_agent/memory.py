"""What drivers remember across restarts, as text in memory. Writes nothing itself: the outbox does."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

import msgspec

from drivers.api import MEMORY_LIMIT_BYTES, Json, MalformedError

Change = tuple[str, str, str | None]
"""Driver, key, and the value as JSON text; None forgets the key."""


class Notebook:
    """All drivers' memories, and which entries the disk does not have yet."""

    def __init__(self) -> None:
        self._texts: dict[str, dict[str, str]] = {}
        self._unwritten: dict[tuple[str, str], str | None] = {}

    def load(self, driver: str, key: str, text: str) -> None:
        """Take in an entry found on disk, unless the driver has already changed it."""
        if (driver, key) not in self._unwritten:
            self._texts.setdefault(driver, {})[key] = text

    def get(self, driver: str, key: str) -> Json:
        """Return a fresh copy of a value, or None."""
        text = self._texts.get(driver, {}).get(key)
        return None if text is None else msgspec.json.decode(text)

    def change(self, driver: str, changes: Mapping[str, Json]) -> None:
        """Change entries, all or none; raises MalformedError when the driver's memory would grow too large."""
        texts = {key: _text(value) for key, value in changes.items()}
        after = {key: text for key, text in (self._texts.get(driver, {}) | texts).items() if text is not None}
        size = sum(len(key.encode()) + len(text.encode()) for key, text in after.items())
        if size > MEMORY_LIMIT_BYTES:
            raise MalformedError(f"the memory of {driver!r} would take {size} bytes; the limit is {MEMORY_LIMIT_BYTES}")
        before = self._texts.get(driver, {})
        self._unwritten |= {(driver, key): text for key, text in texts.items() if before.get(key) != text}
        self._texts[driver] = after

    def take_unwritten(self) -> list[Change]:
        """Return what the disk does not have, and count it as written; `give_back` when it was not."""
        changes = [(driver, key, text) for (driver, key), text in self._unwritten.items()]
        self._unwritten = {}
        return changes

    def give_back(self, changes: list[Change]) -> None:
        """Put changes back that could not be written; newer ones stay."""
        self._unwritten = {(driver, key): text for driver, key, text in changes} | self._unwritten

    def rewrite(self) -> None:
        """Count everything as unwritten: the disk starts afresh."""
        for driver, texts in self._texts.items():
            self._unwritten |= {
                (driver, key): text for key, text in texts.items() if (driver, key) not in self._unwritten
            }

    @property
    def is_written(self) -> bool:
        """Tell whether the disk has everything."""
        return not self._unwritten

    def is_written_for(self, driver: str) -> bool:
        """Tell whether the disk has everything of one driver."""
        return all(owner != driver for owner, _ in self._unwritten)


class DriverMemory:
    """One driver's view (drivers.api.Memory)."""

    def __init__(self, driver: str, notebook: Notebook, commit: Callable[[], Awaitable[None]]) -> None:
        self._driver = driver
        self._notebook = notebook
        self._commit = commit

    def get(self, key: str) -> Json:
        """Return the value remembered, or None."""
        return self._notebook.get(self._driver, key)

    @property
    def is_kept(self) -> bool:
        """Whether the disk has all of it (drivers.api.Kept)."""
        return self._notebook.is_written_for(self._driver)

    async def update(self, changes: Mapping[str, Json]) -> None:
        """Remember and write down; raises MalformedError when the limit of a driver's memory is exceeded."""
        self._notebook.change(self._driver, changes)
        if not self._notebook.is_written:
            await self._commit()


def _text(value: Json) -> str | None:
    if value is None:
        return None
    try:
        return msgspec.json.encode(value).decode()
    except (TypeError, ValueError, RecursionError) as error:
        raise MalformedError(f"cannot be remembered as JSON: {error}") from error
