"""A driver kept running as the supervisor keeps it, and what it emits, for tests against a simulator."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager

from drivers.api import Driver, DriverError, Event, Json, Sample
from drivers.contract import DictMemory


class Receiver:
    """Takes what a driver emits and remembers, and starts it anew `again_s` after each of its errors."""

    def __init__(self, memory: DictMemory | None = None, again_s: float = 0.05) -> None:
        self.memory = memory or DictMemory()
        self.items: list[Sample | Event] = []
        self.errors: list[DriverError] = []
        self._again_s = again_s
        self._task: asyncio.Task[None] | None = None

    async def emit(self, item: Sample | Event, remember: Mapping[str, Json] | None = None) -> None:
        """Keep an item, and what the driver wants remembered with it."""
        if remember is not None:
            self.memory.take(remember)
        self.items.append(item)

    def samples(self, device: str | None = None) -> list[Sample]:
        """Return the samples so far, of one device if it is named."""
        return [item for item in self.items if isinstance(item, Sample) and device in (None, item.device)]

    def events(self, kind: str | None = None) -> list[Event]:
        """Return the events so far, of one kind if it is named."""
        return [item for item in self.items if isinstance(item, Event) and kind in (None, item.kind)]

    def kinds(self) -> list[str]:
        """Return the kinds of the events so far."""
        return [event.kind for event in self.events()]

    def start(self, driver: Driver) -> None:
        """Begin to run a driver; what is not a DriverError ends it, and `until` shows it."""
        self._task = asyncio.create_task(self._live(driver))

    async def stop(self) -> None:
        """Cancel it and wait until it has left."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    @asynccontextmanager
    async def running(self, driver: Driver) -> AsyncIterator[Driver]:
        """Run a driver for as long as the block lasts."""
        self.start(driver)
        try:
            yield driver
        finally:
            await self.stop()

    async def until(self, state: Callable[[], object], within_s: float = 10.0) -> None:
        """Wait for a state of foreign code, which nobody announces; raises TimeoutError."""
        task = self._task
        assert task is not None, "no driver was started"
        async with asyncio.timeout(within_s):
            while not state():
                assert not task.done(), task
                await asyncio.sleep(0.005)

    async def _live(self, driver: Driver) -> None:
        while True:
            try:
                await driver.run(self.emit, self.memory)
            except DriverError as error:
                self.errors.append(error)
                await asyncio.sleep(self._again_s)
