"""What a scenario does to simulated home devices: the kinds of its steps, and how they are played. Knows no frame."""

from __future__ import annotations

import asyncio
import ipaddress
import random
import socket
from collections.abc import Callable, Sequence
from typing import Annotated

import msgspec

from drivers.api import ConfigError
from simulators.clock import SimulatedClock
from simulators.echonet_node import Manners, Node, NodeServer
from simulators.log import ServedLog
from simulators.scenario import Epcs, LastingStep, Seconds, Share, Step, codes, kinds_of

Address = Annotated[str, msgspec.Meta(pattern=r"^\d{1,3}(\.\d{1,3}){3}$")]
Serial = Annotated[str, msgspec.Meta(pattern="^[ -~]{1,12}$")]


class NodeStep(Step, frozen=True, kw_only=True):
    """A step of one node, named by a device that it has (its kind, as battery, or its object, as 027D01), or of all."""

    device: str | None = None


class LastingNodeStep(LastingStep, frozen=True, kw_only=True):
    """The same, of a step that ends."""

    device: str | None = None

    @property
    def what(self) -> object:
        """Return what it is that lasts, and where."""
        return type(self), self.device


class Silent(LastingNodeStep, frozen=True, kw_only=True, tag="silent"):
    """The node neither answers nor announces."""


class Slow(LastingNodeStep, frozen=True, kw_only=True, tag="slow"):
    """Each answer takes some time between two."""

    seconds: tuple[float, float] = (3.0, 20.0)

    def __post_init__(self) -> None:
        if not 0 <= self.seconds[0] <= self.seconds[1] <= 600:
            raise ValueError("seconds: not two rising times between 0 and 600 s")


class Curt(LastingNodeStep, frozen=True, kw_only=True, tag="curt"):
    """The node answers so many properties of a request at most, and says nothing of the others."""

    most: Annotated[int, msgspec.Meta(ge=1, le=255)]


class Refuse(LastingNodeStep, frozen=True, kw_only=True, tag="refuse"):
    """The node answers some properties without data (Get_SNA), though its map lists them."""

    epcs: Epcs


class Loss(LastingNodeStep, frozen=True, kw_only=True, tag="loss"):
    """The share of answers that are lost."""

    share: Share


class Storm(LastingNodeStep, frozen=True, kw_only=True, tag="storm"):
    """The node announces properties (INF) over and over."""

    for_s: Seconds | None = 10.0
    per_s: Annotated[float, msgspec.Meta(gt=0, le=1000)] = 20.0
    epcs: Epcs = ("80", "88")


class Malformed(NodeStep, frozen=True, kw_only=True, tag="malformed"):
    """Datagrams that are no frames come from the node: cut, lengthened, changed, or noise."""

    count: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 20


class Move(NodeStep, frozen=True, kw_only=True, tag="move"):
    """The router gave the node another address; it announces itself from there."""

    to: Address

    def __post_init__(self) -> None:
        try:
            ipaddress.IPv4Address(self.to)
        except ValueError:
            raise ValueError("to: no IPv4 address") from None


class Restart(LastingNodeStep, frozen=True, kw_only=True, tag="restart"):
    """The node is switched off, and announces itself when it is on again."""

    for_s: Seconds | None = 30.0


class Exchange(NodeStep, frozen=True, kw_only=True, tag="exchange"):
    """Another device of the same kind is at that address: another serial (8D) and identification number (83)."""

    serial: Serial = "SIM9999NEXT"


KINDS = kinds_of(Silent, Slow, Curt, Refuse, Loss, Storm, Malformed, Move, Restart, Exchange)


def unfit_for(servers: Sequence[NodeServer]) -> Callable[[Step], ConfigError | None]:
    """Return what says whether a step makes no sense with these nodes."""
    names = sorted({name for server in servers for name in _names(server.node)})

    def unfit(step: Step) -> ConfigError | None:
        device = _device(step)
        if device is not None and device not in names:
            return ConfigError("device", "no such device here", f"one of {', '.join(names)}", device)
        if isinstance(step, Move) and device is None and len(servers) > 1:
            return ConfigError("device", "missing", "say which node moves; an address is for one alone")
        if isinstance(step, Move) and not _is_ours(step.to):
            return ConfigError("to", "not an address of this computer", "choose one of 127.0.0.0/8, or add it", step.to)
        return None

    return unfit


def _is_ours(address: str) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            return False
    return True


def _device(step: Step) -> str | None:
    return step.device if isinstance(step, NodeStep | LastingNodeStep) else None


def _names(node: Node) -> set[str]:
    return {name for eoj, thing in node.things.items() for name in (thing.name, eoj.hex().upper())} - {"node", "0EF001"}


class HomeStage:
    """The nodes of a home, and what happens to them."""

    def __init__(
        self,
        servers: Sequence[NodeServer],
        clock: SimulatedClock,
        log: ServedLog,
        group: asyncio.TaskGroup,
        seed: int = 1,
    ) -> None:
        self._servers = servers
        self._clock = clock
        self._log = log
        self._group = group
        self._chance = random.Random(f"home {seed}")
        self._storms: dict[NodeServer, asyncio.Task[None]] = {}

    def act(self, step: Step) -> None:
        """Do what a step says, and log it."""
        self._log.happened("echonet", step=msgspec.to_builtins(step))
        for server in self._meant(step):
            self._begin(server, step)

    def end(self, step: Step) -> None:
        """End what a step began, and log it."""
        self._log.happened("echonet", ended=msgspec.to_builtins(step))
        for server in self._meant(step):
            self._finish(server, step)

    def _meant(self, step: Step) -> list[NodeServer]:
        device = _device(step)
        return [server for server in self._servers if device is None or device in _names(server.node)]

    def _begin(self, server: NodeServer, step: Step) -> None:
        match step:
            case Exchange():
                server.node.exchange(step.serial)
            case Malformed():
                for _ in range(step.count):
                    server.send_raw(self._spoilt(server))
            case Storm():
                self._calm(server)
                self._storms[server] = self._group.create_task(self._storm(server, step), name="storm")
            case Move():
                self._group.create_task(server.move(step.to), name="move")
            case _:
                _behave(server.node.manners, step)

    def _finish(self, server: NodeServer, step: Step) -> None:
        if isinstance(step, Storm):
            self._calm(server)
        else:
            _behave_again(server.node.manners, step)
        if isinstance(step, Restart):
            server.announce(server.node.instance_list())

    def _calm(self, server: NodeServer) -> None:
        if (storm := self._storms.pop(server, None)) is not None:
            storm.cancel()

    async def _storm(self, server: NodeServer, step: Storm) -> None:
        while True:
            server.announce_again(codes(step.epcs))
            await self._clock.sleep_until(self._clock.unix_ms() + max(1, round(1000 / step.per_s)))

    def _spoilt(self, server: NodeServer) -> bytes:
        """Return a frame that was spoilt in one of four ways."""
        chance, frame = self._chance, server.node.instance_list().encode()
        match chance.randrange(4):
            case 0:
                return frame[: chance.randrange(len(frame))]
            case 1:
                return frame + chance.randbytes(1 + chance.randrange(40))
            case 2:
                return b"\x10\x82" + frame[2:]
            case _:
                return chance.randbytes(chance.randrange(200))


def _behave(manners: Manners, step: Step) -> None:
    match step:
        case Silent() | Restart():
            manners.mute = True
        case Slow():
            manners.delays_s = step.seconds
        case Curt():
            manners.most = step.most
        case Refuse():
            manners.refused = codes(step.epcs)
        case Loss():
            manners.loss = step.share


def _behave_again(manners: Manners, step: Step) -> None:
    match step:
        case Silent() | Restart():
            manners.mute = False
        case Slow():
            manners.delays_s = None
        case Curt():
            manners.most = None
        case Refuse():
            manners.refused = frozenset()
        case Loss():
            manners.loss = 0.0
