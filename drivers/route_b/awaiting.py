"""A smart meter whose credentials are still on their way: says so, and becomes the real driver once they are there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from drivers.api import CredentialsError, Emit, Json, Memory, RefusedError, TimeHint

if TYPE_CHECKING:
    from drivers.route_b.driver import RouteB


class AwaitingCredentials:
    """Stands in for a driver that `build` makes as soon as its credentials can be read."""

    def __init__(self, device: str, missing: CredentialsError, build: Callable[[], RouteB]) -> None:
        self.devices = (device,)
        self.backoff_ceiling_s = 300.0
        self._missing: CredentialsError | None = missing
        self._build = build
        self._driver: RouteB | None = None

    def awaits(self) -> CredentialsError | None:
        """Return what is missing, or None once it was there."""
        return self._missing

    async def run(self, emit: Emit, memory: Memory) -> None:
        """Serve if the credentials have come; raises CredentialsError while they have not."""
        if self._driver is None:
            try:
                self._driver = self._build()
            except CredentialsError as error:
                self._missing = error
                raise
            self._missing = None
        await self._driver.run(emit, memory)

    def describe(self) -> Mapping[str, Mapping[str, Json]]:
        """Return what is known of the meter."""
        return {} if self._driver is None else self._driver.describe()

    def status(self) -> Mapping[str, Json]:
        """Return the real driver's status, or what is waited for."""
        return {"state": "waiting_for_credentials"} if self._driver is None else self._driver.status()

    def time_hint(self) -> TimeHint | None:
        """Return what the meter's clock says."""
        return None if self._driver is None else self._driver.time_hint()

    async def command(self, name: str, arguments: Mapping[str, Json]) -> Json:
        """Hand a command on; raises RefusedError while there is no driver to carry it out."""
        if self._driver is None:
            raise RefusedError(f"waits for credentials: {self._missing}")
        return await self._driver.command(name, arguments)
