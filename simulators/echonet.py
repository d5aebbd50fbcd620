"""`edge-sim echonet`: devices of one home, or a dumped image, as nodes on UDP. Knows no property.

With the codec of the simulated meter and not the driver's.
"""

from __future__ import annotations

import argparse
import asyncio
import ipaddress
import random
import socket
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from simulators.clock import SimulatedClock, add_time_options, clock_from, house_start_ms
from simulators.echonet_devices import KINDS, MAKER, Reader, Thing, things, things_of_image
from simulators.house import Balance, House, add_house_options, house_from
from simulators.log import ServedLog, add_log_option
from simulators.metering import NODE, Frame, Property, parse

PORT = 3610
GROUP = "224.0.23.0"

_IP_MULTICAST_ALL = 49
_WATCH_S = 0.5
_REQUESTS = frozenset({0x60, 0x61, 0x62, 0x63, 0x6E})
_MAX_IMAGE_BYTES = 4 * 1024 * 1024


@dataclass(slots=True)
class Manners:
    """How a node behaves: properties it answers at most, seconds it takes, answers it loses, and whether it is mute."""

    most: int | None = None
    delay_s: float = 0.0
    loss: float = 0.0
    mute: bool = False
    refused: frozenset[int] = frozenset()


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
        self._balance, self._log = balance, log
        self._rng = rng or random.Random(1)
        self._transports: list[asyncio.DatagramTransport] = []
        self._port = PORT
        self.address = ""

    async def start(self, address: str, port: int = PORT) -> None:
        """Listen, and announce the node's objects."""
        loop = asyncio.get_running_loop()
        self.address, self._port = address, port
        for made in (_socket(address, port, address), _socket(GROUP, port, address)):
            transport, _ = await loop.create_datagram_endpoint(lambda: self, sock=made)
            self._transports.append(transport)
        self.announce(self.node.instance_list())

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
        for thing, frame in self.node.changes(balance):
            self._note(thing, frame, balance)
            self.announce(frame)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        request = parse(data)
        manners = self.node.manners
        if request is None or manners.mute or addr[0] == self.address or request.service not in _REQUESTS:
            return
        self.requests.append(request)
        del self.requests[:-1000]
        balance = self._balance()
        for thing, frame in self.node.answers(request, balance):
            if self._rng.random() < manners.loss:
                continue
            self._note(thing, frame, balance)
            if manners.delay_s:
                asyncio.get_running_loop().call_later(manners.delay_s, self._send, frame, addr[0])
            else:
                self._send(frame, addr[0])

    def _note(self, thing: Thing, frame: Frame, balance: Balance) -> None:
        values = thing.meaning((code for code, edt in frame.properties if edt), balance)
        if self._log is not None and values and frame.service in {0x72, 0x52, 0x73}:
            self._log.served(thing.name, values)

    def _send(self, frame: Frame, host: str) -> None:
        if self._transports and not self.node.manners.mute:
            self._transports[0].sendto(frame.encode(), (host, self._port))


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


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of `edge-sim echonet`."""
    parser.add_argument("--address", default="127.0.0.11", help="address of the first node (default 127.0.0.11)")
    parser.add_argument("--port", type=int, default=PORT, help="UDP port (default 3610, which products always use)")
    parser.add_argument("--devices", nargs="+", choices=KINDS, default=list(KINDS[:4]), help="which devices")
    parser.add_argument("--apart", action="store_true", help="each device on an address of its own, counted upwards")
    parser.add_argument("--instance", type=int, default=1, metavar="N", help="instance number of the objects")
    parser.add_argument("--image", type=Path, metavar="FILE", help="play an image of `edge-agent echonet dump` instead")
    parser.add_argument("--most", type=int, metavar="N", help="answer at most N properties, silently")
    parser.add_argument("--delay", type=float, default=0.0, metavar="S", help="seconds before each answer")
    parser.add_argument("--loss", type=float, default=0.0, metavar="P", help="share of answers lost, 0 to 1")
    add_house_options(parser)
    add_time_options(parser)
    add_log_option(parser)


async def run(args: argparse.Namespace) -> int:
    """Serve until told to stop."""
    clock = clock_from(args)
    house = house_from(args, house_start_ms(args, clock))
    log = ServedLog(args.log, clock)
    servers = _servers(args, house, clock, log)
    try:
        for offset, server in enumerate(servers):
            address = str(ipaddress.IPv4Address(args.address) + offset)
            await server.start(address, args.port)
            shown = " ".join(eoj.hex().upper() for eoj in server.node.things if eoj != NODE)
            print(f"ECHONET Lite node at {address}:{args.port}: {shown}", flush=True)  # noqa: T201  (a command line)
        while True:
            for server in servers:
                server.announce_changes()
            await asyncio.sleep(_WATCH_S)
    finally:
        for server in servers:
            server.close()
        log.close()


def _servers(args: argparse.Namespace, house: House, clock: SimulatedClock, log: ServedLog) -> list[NodeServer]:
    manners = Manners(args.most, args.delay, args.loss)
    if args.image is not None:
        if args.image.stat().st_size > _MAX_IMAGE_BYTES:
            raise ValueError(f"{args.image} is too long for an image of a node")
        groups = [things_of_image(args.image.read_text(encoding="utf-8"))]
    else:
        kinds = [[kind] for kind in args.devices] if args.apart else [args.devices]
        groups = [things(some, capacity_wh=args.battery_wh, seed=args.seed, instance=args.instance) for some in kinds]
    return [
        NodeServer(Node(group, manners), lambda: house.at(clock.unix_ms()), log, random.Random(args.seed))
        for group in groups
    ]
