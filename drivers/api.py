"""The seam between drivers and whoever runs them. Knows no MQTT, no database, no agent and no device."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, Protocol, Self, TypeAlias, runtime_checkable

Value: TypeAlias = int | float | Decimal | str | None
Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"

MEMORY_LIMIT_BYTES = 64 * 1024


class DriverError(Exception):
    """What went wrong with a device; the class says what to do next."""


class LinkError(DriverError):
    """A port, radio or network is gone or silent: retry, waiting longer each time."""


class RefusedError(DriverError):
    """The device said no (a wrong password, a locked register): retry seldom, never hammer."""


class MalformedError(DriverError):
    """Bytes make no sense: drop them, count them, go on."""


class ConfigError(DriverError):
    """A person must act. Says which key, which value, what is wrong and what to do about it."""

    def __init__(self, key: str, problem: str, remedy: str, value: object = None) -> None:
        super().__init__(key, problem, remedy)
        self.key = key
        self.problem = problem
        self.remedy = remedy
        self.value = value

    def under(self, prefix: str) -> Self:
        """Return the same error with its key placed below `prefix`."""
        key = f"{prefix}.{self.key}" if self.key else prefix
        return type(self)(key, self.problem, self.remedy, self.value)

    def __str__(self) -> str:
        shown = "" if self.value is None else f" = {self.value!r}"
        return f"{self.key}{shown}: {self.problem}; {self.remedy}"


class CredentialsError(ConfigError):
    """The credentials of a link are not there yet, or make no sense: wait visibly, look again now and then."""


class RefusedCredentialsError(CredentialsError):
    """The device has refused the credentials: wait visibly for others, try these again very seldom."""


@dataclass(frozen=True, slots=True)
class Sample:
    """Values of one device read together: `at` is boot-clock ms, or an aware UTC time the device itself gave."""

    device: str
    at: int | datetime
    values: Mapping[str, Value]


def new_event_id() -> str:
    """Return 32 hexadecimal digits that no other event has."""
    return secrets.token_hex(16)


@dataclass(frozen=True, slots=True)
class Event:
    """Something happened to a device at `at` (boot-clock ms, or aware UTC); `personal` marks what concerns a person."""

    device: str
    kind: str
    at: int | datetime
    data: Mapping[str, Json] = field(default_factory=dict)
    personal: bool = False
    id: str = field(default_factory=new_event_id)


class Emit(Protocol):
    """Hand an item over; returns once responsibility for it was taken, with `remember` written in the same step."""

    def __call__(self, item: Sample | Event, remember: Mapping[str, Json] | None = None) -> Awaitable[None]: ...


class Memory(Protocol):
    """A driver's small durable dictionary (at most `MEMORY_LIMIT_BYTES` of JSON); a key set to None is forgotten."""

    def get(self, key: str) -> Json: ...

    async def update(self, changes: Mapping[str, Json]) -> None: ...


@runtime_checkable
class Kept(Protocol):
    """A memory that outlives the program: what was updated can be read after a crash."""

    @property
    def is_kept(self) -> bool:
        """Whether all of the last `update` is on disk; False while the disk refuses to be written."""


class Clock(Protocol):
    """Time as a driver sees it; under simulation all of it runs at the simulated speed."""

    def boot_ms(self) -> int:
        """Return milliseconds since boot, never stepping back."""

    def unix_ms(self) -> int | None:
        """Return UTC in milliseconds, or None while the clock has not been set."""

    async def sleep_until(self, boot_ms: int) -> None:
        """Return when the boot clock has reached `boot_ms`."""


@dataclass(frozen=True, slots=True)
class TimeHint:
    """What a device's own clock says of UTC: when the boot clock showed `boot_ms` it was `unix_ms` ± `within_ms`."""

    boot_ms: int
    unix_ms: int
    within_ms: int


@dataclass(frozen=True, slots=True)
class Context:
    """What a driver gets from its runner: its name in the configuration, time, and secrets by name."""

    name: str
    clock: Clock
    secret: Callable[[str], str]


class Driver(Protocol):
    """The life of one link and of the devices behind it."""

    @property
    def devices(self) -> tuple[str, ...]:
        """The names of the devices behind the link, known before anything is opened."""

    @property
    def backoff_ceiling_s(self) -> float:
        """The longest wait between two attempts to open the link."""

    async def run(self, emit: Emit, memory: Memory) -> None:
        """Serve the link until cancelled; raises LinkError, RefusedError or ConfigError when the link is lost."""


Factory: TypeAlias = Callable[[Context, Mapping[str, Any]], Driver]
"""Build a driver from its table of the configuration; opens nothing; raises ConfigError."""


@runtime_checkable
class Describes(Protocol):
    """A driver that knows more of its devices than their names (maker, serial, register modulus)."""

    def describe(self) -> Mapping[str, Mapping[str, Json]]:
        """Return what is known now, per device; goes into `meta`."""


@runtime_checkable
class Reports(Protocol):
    """A driver with counters of its own."""

    def status(self) -> Mapping[str, Json]:
        """Return the driver's state and counters; goes into `health`."""


@runtime_checkable
class TellsTime(Protocol):
    """A driver whose device has a clock of its own, of use to a gateway that has none."""

    def time_hint(self) -> TimeHint | None:
        """Return what the device's clock bounds as last heard; None while it says nothing sure."""


@runtime_checkable
class Commands(Protocol):
    """A driver that can be told to do something."""

    async def command(self, name: str, arguments: Mapping[str, Json]) -> Json:
        """Carry out `name`; raises RefusedError when the device or the driver declines."""


@runtime_checkable
class Warns(Protocol):
    """A driver whose configuration is right, but has something that a person should know."""

    def warnings(self) -> Sequence[ConfigError]:
        """Return what `check` and `doctor` should say, as errors below the driver's table; nothing is opened."""


@runtime_checkable
class Hears(Protocol):
    """A driver that wants messages from the town, such as `alert` or `tags`."""

    @property
    def subjects(self) -> frozenset[str]:
        """The subjects it wants to hear."""

    def hear(self, subject: str, payload: bytes) -> None:
        """Take a message in; any bytes may come; returns at once."""


@runtime_checkable
class Overhears(Protocol):
    """A driver that needs to know what another driver's device reads, by that device's role in the house."""

    @property
    def roles(self) -> frozenset[str]:
        """The roles it wants to hear of: grid, pv, battery."""

    def overhear(self, role: str, sample: Sample) -> None:
        """Take in a reading that was just taken; its stamp tells its age later on; returns at once."""


@runtime_checkable
class Awaits(Protocol):
    """A driver that can be built while its credentials are still on their way."""

    def awaits(self) -> CredentialsError | None:
        """Return what is missing before it can serve, or None."""


Ask: TypeAlias = Callable[[str, Mapping[str, Json]], Awaitable[Any]]
"""Let a driver carry out a command; raises DriverError."""


class Box(Protocol):
    """What a command that a driver brings may do on a box; it gets one as `arguments.box(path)`."""

    def tables(self, kind: str) -> Mapping[str, Mapping[str, Any]]:
        """Return the tables of all drivers of a kind, by name."""

    def store_secret(self, name: str, text: str) -> Path:
        """Write a secret where the agent's next start finds it, readable by nobody else; raises OSError."""

    async def hand_over(self, name: str, text: str) -> list[str] | None:
        """Give a running agent a secret; returns the drivers it restarted, or None where no agent runs."""

    def conversing(self, name: str) -> AbstractAsyncContextManager[Ask]:
        """Talk to a driver: through the agent where one runs, else run it for the time of the block."""
