"""What commands that drivers bring may do on a box (drivers.api.Box): see tables, keep secrets, talk to a driver."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

from drivers.api import Ask, Commands, Driver, DriverError, Event, Json, LinkError, RefusedError, Sample
from edge_agent import config, control
from edge_agent.clock import SystemClock
from edge_agent.config import Configuration
from edge_agent.readout import Scratch


class AgentBox:
    """The box that a configuration describes."""

    def __init__(self, configuration: Configuration) -> None:
        self._configuration = configuration

    def tables(self, kind: str) -> Mapping[str, Mapping[str, Any]]:
        """Return the tables of all drivers of a kind, by name."""
        drivers = self._configuration.document.drivers
        return {name: table for name, table in drivers.items() if table.get("driver") == kind}

    def store_secret(self, name: str, text: str) -> Path:
        """Write a secret where the agent's next start finds it, readable by nobody else; raises OSError."""
        return config.store_secret(name, text, self._configuration.document.secrets_directory)

    async def hand_over(self, name: str, text: str) -> list[str] | None:
        """Give a running agent a secret; returns the drivers it restarted, or None where no agent runs."""
        try:
            restarted = await control.ask(self._configuration.sockets, "hand_over", {"secret": name, "text": text})
        except control.NoAgentError:
            return None
        return [str(driver) for driver in restarted]

    @contextlib.asynccontextmanager
    async def conversing(self, name: str) -> AsyncIterator[Ask]:
        """Talk to a driver: through the agent where one runs, else run it for the time of the block."""
        sockets = self._configuration.sockets

        async def through_the_agent(command: str, arguments: Mapping[str, Json]) -> Any:
            return await control.ask(sockets, f"{name}.{command}", arguments, control.CARRY_OUT_S + 5)

        try:
            await control.ask(sockets, "status", {})
        except control.NoAgentError:
            async with self._running(name) as directly:
                yield directly
            return
        yield through_the_agent

    @contextlib.asynccontextmanager
    async def _running(self, name: str) -> AsyncIterator[Ask]:
        document = self._configuration.document
        driver = self._configuration.build(name, SystemClock(document.clock, document.simulation))

        async def directly(command: str, arguments: Mapping[str, Json]) -> Any:
            if life.done():
                raise life.result()
            if not isinstance(driver, Commands):
                raise RefusedError(f"driver {name} takes no commands")
            return await driver.command(command, arguments)

        async with asyncio.TaskGroup() as tasks:
            life = tasks.create_task(_life(driver, Scratch.of(self._configuration, name)), name=f"driver {name}")
            try:
                yield directly
            finally:
                life.cancel()


async def _life(driver: Driver, memory: Scratch) -> DriverError:
    """Run a driver whose values nobody wants, and return what ended it."""

    async def drop(item: Sample | Event, remember: Mapping[str, Json] | None = None) -> None:
        del item
        await memory.update(remember or {})

    try:
        await driver.run(drop, memory)
    except DriverError as error:
        return error
    return LinkError("the driver has ended")
