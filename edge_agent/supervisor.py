"""Keep one driver alive: run it again when it fails, wait as its error says. Knows no device and no other driver."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Literal, TypeAlias, TypeVar

from drivers.api import (
    Awaits,
    Commands,
    ConfigError,
    CredentialsError,
    Describes,
    Driver,
    DriverError,
    Emit,
    Event,
    Hears,
    Json,
    LinkError,
    MalformedError,
    Memory,
    Overhears,
    RefusedCredentialsError,
    RefusedError,
    Reports,
    Sample,
    TellsTime,
    TimeHint,
)
from edge_agent.backoff import Backoff, spread

log = logging.getLogger(__name__)

T = TypeVar("T")
State: TypeAlias = Literal["starting", "running", "waiting", "refused", "waiting_for_credentials", "off"]

STEADY_S = 60.0
"""A run that lasted this long was a success: the next failure waits shortly again."""
REFUSED_S = 300.0
"""A device that said no is asked this seldom: a wrong password tried often locks the account at the utility."""
MISSING_CREDENTIALS_S = 60.0
"""How often it is looked whether credentials have come by another way than a command."""
REFUSED_CREDENTIALS_S = 3600.0
"""A power company may begin the service after it has sent the letter: refused credentials can become right."""


class BugError(Exception):
    """A driver broke the contract of the seam by ending without an error."""


class Supervisor:
    """One driver's life and what is known of it."""

    def __init__(self, name: str, build: Callable[[], Driver]) -> None:
        self.name = name
        self.state: State = "starting"
        self.driver: Driver | None = None
        self.ok = 0
        self.errors = 0
        self.error: str | None = None
        self.refused: str | None = None
        self.last_ms: int | None = None
        self._failing: str | None = None
        self._dropping = False
        try:
            self.driver = build()
        except ConfigError as error:
            self._off(error)
        except (Exception, SystemExit) as error:
            log.exception("driver %s cannot be built", name)
            self._off(ConfigError("", f"a bug: {error!r}", "report it to the driver's maker"))

    @property
    def devices(self) -> tuple[str, ...]:
        """The devices behind the driver; none while it could not be built."""
        return () if self.driver is None else tuple(self.driver.devices)

    def health(self) -> dict[str, Json]:
        """Return state and counters for people and for `health`."""
        known: dict[str, Json] = {"state": self.state, "ok": self.ok, "errors": self.errors, "last_ms": self.last_ms}
        return known | {key: text for key, text in (("error", self.error), ("refused", self.refused)) if text}

    async def run(self, emit: Emit, memory: Memory, lost: Callable[[str], Awaitable[None]]) -> None:
        """Run the driver for ever, or wait for ever where a person must act; `lost` hears why the link went."""
        if self.driver is None:
            await asyncio.Event().wait()
            return
        loop, backoff = asyncio.get_running_loop(), Backoff(ceiling_s=self.driver.backoff_ceiling_s)
        pauses = backoff.waits()
        while True:
            started, self.state = loop.time(), "running"
            error = await self._one_run(self.driver, emit, memory)
            await lost(_said(error))
            if isinstance(error, ConfigError) and not isinstance(error, CredentialsError):
                self._off(error)
                await asyncio.Event().wait()
            if loop.time() - started >= STEADY_S:
                pauses = backoff.waits()
            self._report(error)
            await asyncio.sleep(_pause_s(error) or next(pauses))

    @property
    def awaited(self) -> CredentialsError | None:
        """What a person has not given yet, as the driver says."""
        if not isinstance(self.driver, Awaits):
            return None
        return self._guarded("awaits", lambda found: found, self.driver.awaits)

    def describe(self) -> dict[str, Mapping[str, Json]]:
        """Return what the driver knows of its devices now."""
        if not isinstance(self.driver, Describes):
            return {}
        return self._guarded("describe", dict, self.driver.describe) or {}

    def status(self) -> Mapping[str, Json]:
        """Return the driver's own counters."""
        if not isinstance(self.driver, Reports):
            return {}
        return self._guarded("status", dict, self.driver.status) or {}

    def time_hint(self) -> TimeHint | None:
        """Return what a device's own clock says of UTC."""
        if not isinstance(self.driver, TellsTime):
            return None
        return self._guarded("time_hint", _hint, self.driver.time_hint)

    def hear(self, subject: str, payload: bytes) -> None:
        """Hand a message from the town to the driver, if it wants to hear of the subject."""
        driver = self.driver
        if isinstance(driver, Hears) and subject in driver.subjects:
            self._guarded("hear", lambda _: None, lambda: driver.hear(subject, payload))

    def overhear(self, role: str, sample: Sample) -> None:
        """Hand a reading of the device with a role to the driver, if it wants to know."""
        driver = self.driver
        if isinstance(driver, Overhears) and role in driver.roles:
            self._guarded("overhear", lambda _: None, lambda: driver.overhear(role, sample))

    async def command(self, name: str, arguments: Mapping[str, Json]) -> Json:
        """Let the driver carry out a command; raises DriverError, whatever went wrong."""
        if not isinstance(self.driver, Commands):
            raise RefusedError(f"driver {self.name} takes no commands")
        try:
            return await self.driver.command(name, arguments)
        except DriverError:
            raise
        except Exception as error:
            log.exception("driver %s has a bug in its command %s", self.name, name)
            raise RefusedError(f"a bug in driver {self.name}: {_said(error)}") from error

    def _guarded(self, what: str, shape: Callable[[Any], T], call: Callable[[], Any]) -> T | None:
        """Call into the driver; a bug there is logged and costs only the answer."""
        try:
            return shape(call())
        except Exception:
            log.exception("driver %s has a bug in %s()", self.name, what)
            return None

    async def _one_run(self, driver: Driver, emit: Emit, memory: Memory) -> BaseException:
        """Run the driver once and return what ended it; only a cancellation meant for us passes."""

        async def counted(item: Sample | Event, remember: Mapping[str, Json] | None = None) -> None:
            try:
                await emit(item, remember)
            except MalformedError as error:
                self._dropped(error)
            else:
                self._delivered(item)

        try:
            await driver.run(counted, memory)
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            return error  # the driver cancelled itself: a bug of its own, no reason to end
        except (Exception, SystemExit) as error:
            return _leaf(error)
        return BugError("run() returned; it must serve until it is cancelled or its link is lost")

    def _delivered(self, item: Sample | Event) -> None:
        self.ok += 1
        if isinstance(item.at, int):
            self.last_ms = item.at
        if isinstance(item, Sample) and self._failing is not None:
            log.info("driver %s is back", self.name)
            self._failing = self.error = self.refused = None

    def _dropped(self, error: MalformedError) -> None:
        """Count an item that nobody can carry; the driver goes on."""
        self.errors += 1
        level = logging.DEBUG if self._dropping else logging.WARNING
        self._dropping = True
        log.log(level, "driver %s gave what cannot be carried: %s", self.name, error)

    def _off(self, error: ConfigError) -> None:
        self.errors += 1
        self.state, self.error = "off", str(error.under(f"drivers.{self.name}"))
        log.error("driver %s is off until the configuration is mended and reloaded: %s", self.name, self.error)

    def _report(self, error: BaseException) -> None:
        """Say the first failure of a kind aloud and its repetitions quietly."""
        self.errors += 1
        kind, self.error = type(error).__name__, _said(error)
        self.state = "waiting"
        if isinstance(error, RefusedError):
            self.state, self.refused = "refused", self.error
        if isinstance(error, CredentialsError):
            self.state = "waiting_for_credentials"
        known, self._failing = self._failing == kind, kind
        if known:
            log.debug("driver %s failed again: %s", self.name, self.error)
        elif isinstance(error, CredentialsError):
            log.warning("driver %s waits for credentials: %s", self.name, self.error)
        elif isinstance(error, DriverError):
            log.warning("driver %s failed: %s", self.name, self.error)
        else:
            log.error("driver %s has a bug", self.name, exc_info=error)


def _hint(found: TimeHint | None) -> TimeHint | None:
    return None if found is None else TimeHint(int(found.boot_ms), int(found.unix_ms), int(found.within_ms))


def _pause_s(error: BaseException) -> float | None:
    """Return how long to wait after an error that has a wait of its own."""
    if isinstance(error, RefusedCredentialsError):
        return spread(REFUSED_CREDENTIALS_S, 0.1)
    if isinstance(error, CredentialsError):
        return spread(MISSING_CREDENTIALS_S, 0.1)
    return spread(REFUSED_S, 0.1) if isinstance(error, RefusedError) else None


def _leaf(error: BaseException) -> BaseException:
    """Return the error a group carries, where a driver let a group out: its worst, in the order of the policy."""
    if not isinstance(error, BaseExceptionGroup):
        return error
    leaves = [_leaf(inner) for inner in error.exceptions]
    kinds = (ConfigError, RefusedError, LinkError, MalformedError)
    bugs = [leaf for leaf in leaves if not isinstance(leaf, kinds)]
    return next((leaf for kind in kinds for leaf in leaves if isinstance(leaf, kind) and not bugs), leaves[0])


def _said(error: BaseException) -> str:
    text = str(error) or type(error).__name__
    return text if isinstance(error, DriverError) else f"{type(error).__name__}: {text}"
