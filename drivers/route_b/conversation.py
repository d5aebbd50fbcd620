"""What a conversation with a dongle of any family has: the port, the questions to its meter, the watch over it.

Knows no dongle's words: `session` and `j11_session` do. Opens no port, asks no meter.
"""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypedDict, TypeVar, Unpack

from drivers.api import Clock, Json, Memory
from drivers.route_b.echonet import Frame
from drivers.route_b.joining import Begin, Joining
from drivers.route_b.requests import Limits, Question, Requests
from drivers.route_b.skstack import Noise, Pan

log = logging.getLogger(__name__)

SCAN_DURATIONS = range(4, 9)
MAX_PANS = 32

Item = TypeVar("Item")
Item_co = TypeVar("Item_co", covariant=True)


class Port(Protocol):
    """Bytes in both directions; raises LinkError when they stop."""

    async def read(self) -> bytes:
        """Return the next bytes, at least one."""

    async def write(self, data: bytes) -> None:
        """Send bytes."""


class Reader(Protocol[Item_co]):
    """The reading half of a family's codec."""

    @property
    def waiting(self) -> bool:
        """Tell whether bytes are kept that wait for more."""

    def feed(self, chunk: bytes) -> Sequence[Item_co | Noise]:
        """Take bytes in and return what is complete now; never raises."""

    def give_up(self) -> Sequence[Item_co | Noise]:
        """Drop something of what waits for more and return what the rest holds."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """What the power company hands out for Route B; never shown."""

    route_b_id: str = field(repr=False)
    password: str = field(repr=False)

    @property
    def pair_id(self) -> str:
        """Return what a meter shows of the ID in its beacons."""
        return self.route_b_id[-8:].upper()


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long to wait for the dongle, in real seconds."""

    command_s: float = 5.0
    wake_s: float = 1.0
    join_s: float = 60.0
    late_beacon_s: float = 0.5  # some descriptions come after the end of the scan
    stalled_bytes_s: float = 2.0
    watch_s: float = 60.0  # between two looks at a dongle that says nothing by itself


@dataclass(slots=True)
class Counters:
    """What happened on the link since it was opened."""

    malformed: int = 0
    strangers: int = 0  # datagrams of others, to other ports, or not encrypted
    foreign_pans: int = 0  # networks of other route-B IDs in the last scan
    resets: int = 0


async def at_once() -> None:
    """Let a join begin."""


class Means(TypedDict, total=False):
    """What a conversation may be given: how long to wait for the meter, the driver's clock, what is kept of joins."""

    limits: Limits | None
    clock: Clock | None
    joining: Joining | None


class Conversation(ABC, Generic[Item]):
    """The state of one dongle of any family; `hear` gets the meter's notifications as they come."""

    limited = False
    """The radio law forbids sending for now; a family that does not tell so fails each sending instead."""

    def __init__(
        self,
        reader: Reader[Item],
        port: Port,
        credentials: Credentials,
        hear: Callable[[Frame], None],
        timeouts: Timeouts | None = None,
        **means: Unpack[Means],
    ) -> None:
        self._bytes = reader
        self._port = port
        self._credentials = credentials
        self._timeouts = timeouts or Timeouts()
        self._joining = means.get("joining") or Joining(credentials.route_b_id, means.get("clock"))
        self._commanding = asyncio.Lock()
        self._pans: list[Pan] = []
        self._mac = ""
        self._prepared = False
        self.requests = Requests(self.send, hear, means.get("limits"), means.get("clock"))
        self.version = ""
        self.joined = False
        self.lost_because = "not joined yet"
        self.counters = Counters()

    def status(self) -> dict[str, Json]:
        """Return what the dongle is and how the radio does."""
        return {
            "limited": self.limited,
            "firmware": self.version,
            "malformed": self.counters.malformed + self.requests.tally.malformed,
            "strangers": self.counters.strangers,
            "foreign_networks": self.counters.foreign_pans,
            "dongle_resets": self.counters.resets,
            **self.requests.status(),
            **self._told(),
        }

    async def run(self) -> None:
        """Take in all that arrives until cancelled; raises LinkError when the port is gone or the dongle silent."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._read(), name="route_b read")
            group.create_task(self.requests.run(), name="route_b infc")
            group.create_task(self._watch(), name="route_b watch")

    async def connect(self, memory: Memory) -> None:
        """Bring the dongle into the meter's network; raises as `prepare`, `scan` and `join` do."""
        await self._joining.connect(self, memory)

    async def get(self, epcs: Sequence[int]) -> Frame:
        """Return the meter's answer to one question for some properties; as `Requests.get`."""
        return await self.requests.get(epcs)

    async def ask(self, *questions: Question) -> list[Frame]:
        """Return the answers to some questions that nothing comes between; as `Requests.ask`."""
        return await self.requests.ask(*questions)

    @abstractmethod
    async def send(self, data: bytes) -> None:
        """Hand one datagram to the dongle, once it may send; as `Requests` wants it."""

    @abstractmethod
    async def prepare(self) -> None:
        """Bring the dongle into a known state; raises LinkError."""

    @abstractmethod
    async def scan(self) -> Pan | None:
        """Return the strongest of the meter's networks, scanning longer each time; None when it does not show."""

    @abstractmethod
    async def join(self, pan: Pan, begin: Begin = at_once) -> None:
        """Join the meter's network, awaiting `begin` just before that goes on the air.

        Raises NoAnswerError, or RefusedError when it answered and declined.
        """

    @abstractmethod
    def _told(self) -> dict[str, Json]:
        """Return `dialect`, `rssi_dbm` and what else only this family tells."""

    @abstractmethod
    async def _look(self) -> None:
        """Ask a joined dongle something that it always answers; raises LinkError when it does not."""

    @abstractmethod
    def _take(self, item: Item) -> None:
        """Take in what the dongle says; never raises."""

    async def _watch(self) -> None:
        """Look now and then whether a dongle lives that has nothing to say; raises LinkError."""
        while True:
            await asyncio.sleep(self._timeouts.watch_s)
            if self.joined:
                await self._look()

    async def _read(self) -> None:
        reader = self._bytes
        while True:
            try:
                async with asyncio.timeout(self._timeouts.stalled_bytes_s if reader.waiting else None):
                    chunk = await self._port.read()
            except TimeoutError:
                incoming = reader.give_up()
            else:
                incoming = reader.feed(chunk)
            for item in incoming:
                if isinstance(item, Noise):
                    self._take_noise(item.reason)
                else:
                    self._take(item)

    def _take_noise(self, reason: str) -> None:
        self.counters.malformed += 1
        log.debug("dropped: %s", reason)

    def _lose(self, reason: str) -> None:
        self.joined, self.lost_because = False, reason
        self.requests.lose(reason)
