"""Opening a dongle at its port: which family answers, and the session that speaks to it. Knows no meter."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from drivers.api import Clock, Json, Memory
from drivers.route_b import j11, skstack
from drivers.route_b.conversation import Credentials, Port, Timeouts
from drivers.route_b.echonet import Frame
from drivers.route_b.j11_session import J11Session
from drivers.route_b.joining import Joining
from drivers.route_b.link import locate, open_port, stable_name
from drivers.route_b.requests import Limits, Question
from drivers.route_b.session import Session

_SK_WORD = b"EVER "
_MOST_KEPT_BYTES = 4096


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
    """Open the port for this process alone and close it in the end; raises LinkError.

    A dongle that answered once is found again by the name that stays with it, whatever its tty is called then.
    """
    where = locate(opening.port, _known_name(opening))
    async with open_port(where) as serial_port:
        port = opening.tap(serial_port)
        family = await ask_family(port, opening.timeouts.wake_s)
        if family is not None and (name := stable_name(where)) is not None:
            await opening.memory.update({"dongle": {"port": opening.port, "name": name}})
        make = J11Session if family == "J11" else Session
        yield make(
            port,
            opening.credentials,
            opening.hear,
            opening.timeouts,
            limits=opening.limits,
            clock=opening.clock,
            joining=opening.joining,
        )


def _known_name(opening: Opening) -> str | None:
    kept = opening.memory.get("dongle")
    if not isinstance(kept, dict) or kept.get("port") != opening.port:
        return None
    return name if isinstance(name := kept.get("name"), str) else None


async def ask_family(port: Port, wake_s: float) -> Literal["SK", "J11"] | None:
    """Return which family of dongles answers, or None for neither (a dongle may wait for the end of a request)."""
    if _SK_WORD in await _said(port, b"\r\n" + skstack.command("SKVER"), (_SK_WORD,), wake_s):
        return "SK"
    said = await _said(port, j11.request(j11.VERSION), (_SK_WORD, j11.MARK), wake_s)
    if j11.MARK in said:
        return "J11"
    return "SK" if _SK_WORD in said else None


async def _said(port: Port, question: bytes, words: tuple[bytes, ...], wait_s: float) -> bytes:
    """Return what comes within some seconds of a question, as soon as it holds one of the words."""
    said = b""
    await port.write(question)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(wait_s):
            while not any(word in said for word in words):
                said = (said + await port.read())[-_MOST_KEPT_BYTES:]
    return said
