"""Home devices as ECHONET Lite nodes on UDP: requests in, answers and announcements out. Knows no property.

With the codec of the simulated meter and not the driver's.
"""

from __future__ import annotations

import asyncio
import random
import socket
import struct
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from simulators.echonet_devices import MAKER, Reader, Thing, fixed
from simulators.house import Balance
from simulators.log import ServedLog
from simulators.metering import NODE, Frame, Property, parse

PORT = 3610
GROUP = "224.0.23.0"

_IP_MULTICAST_ALL = 49
_REQUESTS = frozenset({0x60, 0x61, 0x62, 0x63, 0x6E})


@dataclass(slots=True)
class Manners:
    """How a node behaves: properties it answers at most, seconds it takes, answers it loses, and whether it is mute.

    `delays_s`: each answer takes some time between the two, instead of `delay_s`.
    """

    most: int | None = None
    delay_s: float = 0.0
    loss: float = 0.0
    mute: bool = False
    refused: frozenset[int] = frozenset()
    delays_s: tuple[float, float] | None = None


class Node:
    """One address with its objects: requests in, answers out. Knows no socket."""

    def __init__(self, objects: Iterable[Thing], manners: Manners | None = None) -> None:
        self.manners = manners or Manners()
        self.things = {thing.eoj: thing for thing in objects}
        if NODE not in self.things:
            self.things[NODE] = self._profile()
        self._announced: dict[tuple[bytes, int], bytes] = {}
        self._tid = 0

    def _profile(self) -> Thing:
        devices = sorted(self.things)
        listed = bytes([len(devices)]) + b"".join(devices)
        classes = sorted({eoj[:2] for eoj in devices})
        readers: dict[int, Reader] = {
            0x80: lambda _: b"\x30",
            0x82: lambda _: bytes.fromhex("010E0100"),
            0x83: lambda _: b"\xfe" + MAKER + b"NODE".rjust(13, b"\x00"),
            0x8A: lambda _: MAKER,
            0xD3: lambda _: len(devices).to_bytes(3, "big"),
            0xD4: lambda _: (len(classes) + 1).to_bytes(2, "big"),
            0xD6: lambda _: listed,
            0xD7: lambda _: bytes([len(classes)]) + b"".join(classes),
        }
        return Thing(NODE, "node", readers, announced=frozenset({0x80, 0xD5})).with_maps()

    def instance_list(self) -> Frame:
        """Return what a node announces when it is switched on (INF D5)."""
        self._tid = self._tid % 0xFFFF + 1
        devices = sorted(eoj for eoj in self.things if eoj != NODE)
        listed = bytes([len(devices)]) + b"".join(devices)
        return Frame(self._tid.to_bytes(2, "big"), NODE, NODE, 0x73, ((0xD5, listed),))

    def exchange(self, serial: str) -> None:
        """Be other devices of the same kinds from now on: serial and identification number change, counters do not."""
        for thing in self.things.values():
            for code, edt in (
                (0x8D, serial.encode("ascii").ljust(12, b"\x00")),
                (0x83, b"\xfe" + MAKER + serial.encode("ascii").rjust(13, b"\x00")),
            ):
                if code in thing.readers and thing.eoj != NODE:
                    thing.readers[code] = fixed(edt)

    def again(self, codes: Iterable[int], balance: Balance) -> list[tuple[Thing, Frame]]:
        """Return announcements of properties that have not changed, one for each device that has any of them."""
        frames = []
        for thing in self.things.values():
            told = tuple((code, thing.readers[code](balance)) for code in sorted(codes) if code in thing.readers)
            if told and thing.eoj != NODE:
                self._tid = self._tid % 0xFFFF + 1
                frames.append((thing, Frame(self._tid.to_bytes(2, "big"), thing.eoj, NODE, 0x73, told)))
        return frames

    def changes(self, balance: Balance) -> list[tuple[Thing, Frame]]:
        """Return announcements of what changed since the last call; the first call takes note only."""
        frames = []
        for thing in self.things.values():
            for code in sorted(thing.announced & set(thing.readers)):
                edt = thing.readers[code](balance)
                before = self._announced.get((thing.eoj, code))
                self._announced[thing.eoj, code] = edt
                if before not in {None, edt}:
                    self._tid = self._tid % 0xFFFF + 1
                    frames.append((thing, Frame(self._tid.to_bytes(2, "big"), thing.eoj, NODE, 0x73, ((code, edt),))))
        return frames

    def answers(self, request: Frame, balance: Balance) -> list[tuple[Thing, Frame]]:
        """Return the answers to a request: one from each object meant, none from a node without it."""
        wanted = request.destination
        found = [
            thing for eoj, thing in self.things.items() if eoj == wanted or (wanted[2] == 0 and eoj[:2] == wanted[:2])
        ]
        answered = ((thing, self._answer(thing, request, balance)) for thing in found)
        return [(thing, frame) for thing, frame in answered if frame is not None]

    def _answer(self, thing: Thing, request: Frame, balance: Balance) -> Frame | None:
        if request.service in {0x62, 0x63}:
            good, bad = (0x72, 0x52) if request.service == 0x62 else (0x73, 0x53)
            properties = [(code, self._read(thing, code, balance)) for code, _ in request.properties]
            properties = properties[: self.manners.most]
            service = good if all(edt for _, edt in properties) else bad
        elif request.service in {0x60, 0x61}:
            properties = [self._set(thing, code, edt) for code, edt in request.properties]
            refused = any(edt for _, edt in properties)
            if request.service == 0x60 and not refused:
                return None
            service = {0x60: 0x50, 0x61: 0x51 if refused else 0x71}[request.service]
        else:
            return None
        return Frame(request.tid, thing.eoj, request.source, service, tuple(properties))

    def _read(self, thing: Thing, code: int, balance: Balance) -> bytes:
        reader = thing.readers.get(code)
        return b"" if reader is None or code in self.manners.refused else reader(balance)

    @staticmethod
    def _set(thing: Thing, code: int, edt: bytes) -> Property:
        setter = thing.setters.get(code)
        return (code, b"") if setter is not None and setter(edt) else (code, edt)


class NodeServer(asyncio.DatagramProtocol):
    """A node on UDP: listens on its own address and in the group, answers to the port of ECHONET Lite."""

    def __init__(
        self,
        node: Node,
        balance: Callable[[], Balance],
        log: ServedLog | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self.node = node
        self.requests: list[Frame] = []
        """The last thousand requests, for tests."""
        self.tally: Counter[str] = Counter()
        """How often what happened to those who ask."""
        self._balance, self._log = balance, log
        self._rng = rng or random.Random(1)
        self._transports: list[asyncio.DatagramTransport] = []
        self._port = PORT
        self._asker: str | None = None
        self.address = ""

    async def start(self, address: str, port: int = PORT) -> None:
        """Listen, and announce the node's objects."""
        self.address, self._port = address, port
        self._transports = await self._listen()
        self.announce(self.node.instance_list())

    async def _listen(self) -> list[asyncio.DatagramTransport]:
        """Return what sends and gets datagrams: the node's own address first, then the group."""
        loop, transports = asyncio.get_running_loop(), []
        for where in (self.address, GROUP):
            made = _socket(where, self._port, self.address)
            transport, _ = await loop.create_datagram_endpoint(lambda: self, sock=made)
            transports.append(transport)
        return transports

    async def move(self, address: str) -> None:
        """Go to another address, as after a router's restart, and announce the objects there."""
        self.tally["moved"] += 1
        self.close()
        await self.start(address, self._port)

    def close(self) -> None:
        """Stop listening."""
        for transport in self._transports:
            transport.close()
        self._transports.clear()

    def announce(self, frame: Frame) -> None:
        """Send a frame to all nodes."""
        if not self.node.manners.mute:
            self._send(frame, GROUP)

    def announce_changes(self) -> None:
        """Announce what changed since the last call."""
        balance = self._balance()
        self._announce_all(self.node.changes(balance), balance)

    def announce_again(self, codes: Iterable[int]) -> None:
        """Announce properties, changed or not."""
        balance = self._balance()
        self._announce_all(self.node.again(codes, balance), balance)

    def _announce_all(self, frames: Iterable[tuple[Thing, Frame]], balance: Balance) -> None:
        for thing, frame in frames:
            self.tally["announced"] += 1
            self._note(thing, frame, balance)
            self.announce(frame)

    def send_raw(self, data: bytes) -> None:
        """Send any bytes to all nodes, and to the host that asked last."""
        self.tally["malformed"] += 1
        for host in filter(None, (GROUP, self._asker)):
            self._send_bytes(data, host)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        request = parse(data)
        manners = self.node.manners
        if request is None or addr[0] == self.address or request.service not in _REQUESTS:
            return
        if manners.mute:
            self.tally["unanswered"] += 1
            return
        self._asker = addr[0]
        self.requests.append(request)
        del self.requests[:-1000]
        balance = self._balance()
        for thing, frame in self.node.answers(request, balance):
            self._answer(thing, frame, request, balance, addr[0])

    def _answer(self, thing: Thing, frame: Frame, request: Frame, balance: Balance, host: str) -> None:
        manners = self.node.manners
        if self._rng.random() < manners.loss:
            self.tally["lost"] += 1
            return
        self.tally["curt"] += len(frame.properties) < len(request.properties)
        self.tally["refused"] += any(code in manners.refused for code, _ in frame.properties)
        self._note(thing, frame, balance)
        delay_s = manners.delay_s if manners.delays_s is None else self._rng.uniform(*manners.delays_s)
        if delay_s:
            self.tally["late"] += 1
            asyncio.get_running_loop().call_later(delay_s, self._send, frame, host)
        else:
            self._send(frame, host)

    def _note(self, thing: Thing, frame: Frame, balance: Balance) -> None:
        values = thing.meaning((code for code, edt in frame.properties if edt), balance)
        if self._log is not None and values and frame.service in {0x72, 0x52, 0x73}:
            self._log.served(thing.name, values)

    def _send(self, frame: Frame, host: str) -> None:
        if not self.node.manners.mute:
            self._send_bytes(frame.encode(), host)

    def _send_bytes(self, data: bytes, host: str) -> None:
        if self._transports:
            self._transports[0].sendto(data, (host, self._port))


def _socket(address: str, port: int, interface: str) -> socket.socket:
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        made.setblocking(False)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.setsockopt(socket.IPPROTO_IP, _IP_MULTICAST_ALL, 0)
        made.bind((address, port))
        made.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(interface))
        if address == GROUP:
            member = struct.pack("4s4s", socket.inet_aton(GROUP), socket.inet_aton(interface))
            made.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, member)
    except OSError:
        made.close()
        raise
    return made
