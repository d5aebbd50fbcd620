"""Opening a dongle at its port: which family answers, and the session that speaks to it. Knows no meter."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from drivers.api import Clock, Json, Memory
from drivers.route_b.echonet import Frame
from drivers.route_b.joining import Joining
from drivers.route_b.link import open_port
from drivers.route_b.requests import Limits, Question
from drivers.route_b.session import Credentials, Port, Session, Timeouts


class MeterLink(Protocol):
    """A way to one meter. A dongle's session is one; UDP to a meter with a network of its own is another."""

    @property
    def limited(self) -> bool:
        """Tell whether the link must not send now (radio law), which is no fault of the meter."""

    async def run(self) -> None:
        """Take in all that arrives until cancelled; raises LinkError when the link is gone."""

    async def connect(self, memory: Memory) -> None:
        """Reach the meter; raises NoAnswerError, RefusedError, LinkError or ConfigError."""

    async def get(self, epcs: Sequence[int]) -> Frame:
        """Return the meter's answer to one question; as `Requests.get`."""

    async def ask(self, *questions: Question) -> list[Frame]:
        """Return the answers to some questions that nothing comes between; as `Requests.ask`."""

    def status(self) -> dict[str, Json]:
        """Return how the link does."""


@dataclass(frozen=True, slots=True)
class Opening:
    """What it takes to open a link: where, with what, and who hears the meter's notifications."""

    port: str
    credentials: Credentials
    hear: Callable[[Frame], None]
    timeouts: Timeouts
    limits: Limits
    clock: Clock
    joining: Joining
    memory: Memory
    tap: Callable[[Port], Port] = lambda port: port
    """Listens in on the bytes."""


@contextlib.asynccontextmanager
async def open_dongle(opening: Opening) -> AsyncIterator[MeterLink]:
    """Open the port for this process alone and close it in the end; raises LinkError."""
    async with open_port(opening.port) as port:
        yield Session(
            opening.tap(port),
            opening.credentials,
            opening.hear,
            opening.timeouts,
            limits=opening.limits,
            clock=opening.clock,
            joining=opening.joining,
        )
