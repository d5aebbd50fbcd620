"""ECHONET Lite devices of one home on UDP: PV, battery, multi-input PCS, EcoCute, air conditioner, or a dumped image.

Written from the specification, with the codec of the simulated meter and not the driver's. Asks the house what flows.
"""

from __future__ import annotations

import argparse
import asyncio
import ipaddress
import json
import random
import socket
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path

from simulators.clock import SimulatedClock, add_time_options, clock_from, house_start_ms
from simulators.house import WS_PER_KWH, Balance, House, add_house_options, house_from
from simulators.log import Served, ServedLog, add_log_option
from simulators.metering import NODE, Frame, Property, parse, property_map

PORT = 3610
GROUP = "224.0.23.0"
KINDS = ("pv", "battery", "ecocute", "aircon", "pcs")
MAKER = bytes.fromhex("FFFFFE")
"""The code that the consortium keeps for trials."""

_IP_MULTICAST_ALL = 49
_WATCH_S = 0.5
_REQUESTS = frozenset({0x60, 0x61, 0x62, 0x63, 0x6E})
_MAX_IMAGE_BYTES = 4 * 1024 * 1024

Reader = Callable[[Balance], bytes]
Meaning = Callable[[Balance], Mapping[str, Served]]


def _u8(value: int) -> bytes:
    return bytes([max(0, min(value, 0xFF))])


def _u16(value: int) -> bytes:
    return max(0, min(value, 0xFFFD)).to_bytes(2, "big")


def _u32(value: int) -> bytes:
    return max(0, value).to_bytes(4, "big")


def _i32(value: int) -> bytes:
    return value.to_bytes(4, "big", signed=True)


def _milli_kwh(watt_seconds: int) -> int:
    """Return a register in 0.001 kWh, as these classes count."""
    return watt_seconds * 1000 // WS_PER_KWH


def _kwh(watt_seconds: int) -> Decimal:
    return Decimal(_milli_kwh(watt_seconds)) / 1000


@dataclass(slots=True)
class Thing:
    """One object: what its properties read, what they mean to us, which may be set, which are announced."""

    eoj: bytes
    name: str
    readers: dict[int, Reader]
    meanings: dict[int, Meaning] = field(default_factory=dict)
    setters: Mapping[int, Callable[[bytes], bool]] = field(default_factory=dict)
    announced: frozenset[int] = frozenset()

    def with_maps(self) -> Thing:
        """Add the property maps, which list themselves."""
        maps = {0x9D, 0x9E, 0x9F}
        readable = property_map(set(self.readers) | maps)
        announced, settable = property_map(set(self.announced)), property_map(set(self.setters))
        self.readers |= {0x9D: lambda _: announced, 0x9E: lambda _: settable, 0x9F: lambda _: readable}
        return self

    def meaning(self, codes: Iterable[int], balance: Balance) -> dict[str, Served]:
        """Return what served properties say in the vocabulary."""
        values: dict[str, Served] = {}
        for code in codes:
            if code in self.meanings:
                values |= self.meanings[code](balance)
        return values


def _common(serial: str, identification: bytes | None) -> dict[int, Reader]:
    """What every device object says of itself."""
    readers: dict[int, Reader] = {
        0x80: lambda _: b"\x30",
        0x82: lambda _: b"\x00\x00R\x00",
        0x88: lambda _: b"\x42",
        0x8A: lambda _: MAKER,
        0x8C: lambda _: b"SIMULATOR\x00\x00\x00",
        0x8D: lambda _: serial.encode("ascii")[:12].ljust(12, b"\x00"),
    }
    if identification is not None:
        readers[0x83] = lambda _: identification
    return readers


def pv(instance: int, common: dict[int, Reader]) -> Thing:
    """Return residential PV (0279)."""
    readers: dict[int, Reader] = {
        **common,
        0xD0: lambda _: b"\x00",
        0xD1: lambda _: b"\x44",
        0xE0: lambda b: _u16(b.pv_w),
        0xE1: lambda b: _u32(_milli_kwh(b.pv_ws)),
        0xE3: lambda b: _u32(_milli_kwh(b.export_ws)),
        0xE8: lambda _: _u16(5500),
    }
    meanings: dict[int, Meaning] = {
        0xE0: lambda b: {"pv_power_w": b.pv_w},
        0xE1: lambda b: {"pv_energy_kwh": _kwh(b.pv_ws)},
        0xE3: lambda b: {"pv_sold_energy_kwh": _kwh(b.export_ws)},
    }
    return Thing(bytes([0x02, 0x79, instance]), "pv", readers, meanings, announced=frozenset({0x80, 0x88}))


def battery(instance: int, common: dict[int, Reader], capacity_wh: int) -> Thing:
    """Return a storage battery (027D); its own sign: charging is positive."""
    mode = bytearray(b"\x46")

    def set_mode(edt: bytes) -> bool:
        if len(edt) != 1 or edt[0] not in {0x41, 0x42, 0x43, 0x44, 0x46}:
            return False
        mode[:] = edt
        return True

    readers: dict[int, Reader] = {
        **common,
        0xA0: lambda _: _u32(capacity_wh),
        0xA1: lambda _: _u32(capacity_wh),
        0xA4: lambda b: _u32(capacity_wh - b.battery_wh),
        0xA5: lambda b: _u32(b.battery_wh),
        0xC8: lambda _: _u32(100) + _u32(2500),
        0xC9: lambda _: _u32(100) + _u32(2500),
        0xCF: lambda b: b"\x43" if b.battery_w > 0 else b"\x42" if b.battery_w < 0 else b"\x44",
        0xD3: lambda b: _i32(-b.battery_w),
        0xD6: lambda b: _u32(_milli_kwh(b.discharge_ws)),
        0xD8: lambda b: _u32(_milli_kwh(b.charge_ws)),
        0xDA: lambda _: bytes(mode),
        0xDB: lambda _: b"\x00",
        0xE2: lambda b: _u32(b.battery_wh),
        0xE4: lambda b: _u8(b.soc_permille // 10),
        0xE6: lambda _: b"\x04",
    }
    meanings: dict[int, Meaning] = {
        0xD3: lambda b: {"battery_power_w": b.battery_w},
        0xD6: lambda b: {"battery_discharge_energy_kwh": _kwh(b.discharge_ws)},
        0xD8: lambda b: {"battery_charge_energy_kwh": _kwh(b.charge_ws)},
        0xE4: lambda b: {"battery_soc_percent": b.soc_permille // 10},
        0xE2: lambda b: {"battery_available_wh": b.battery_wh},
    }
    eoj = bytes([0x02, 0x7D, instance])
    return Thing(eoj, "battery", readers, meanings, {0xDA: set_mode}, frozenset({0x80, 0x88, 0xCF, 0xDA}))


def pcs(instance: int, common: dict[int, Reader]) -> Thing:
    """Return a multi-input PCS (02A5): PV and battery together, as its AC side sees them."""

    def net_ws(b: Balance) -> int:
        return b.pv_ws + b.discharge_ws - b.charge_ws  # the house's battery charges from PV alone: this never falls

    readers: dict[int, Reader] = {
        **common,
        0xD0: lambda _: b"\x00",
        0xE0: lambda b: _u32(_milli_kwh(net_ws(b))),
        0xE3: lambda _: _u32(0),
        0xE7: lambda b: _i32(b.pv_w + b.battery_w),
        0xE8: lambda _: bytes.fromhex("02027901027D01"),
    }
    meanings: dict[int, Meaning] = {
        0xE0: lambda b: {"ac_energy_kwh": _kwh(net_ws(b))},
        0xE7: lambda b: {"ac_power_w": b.pv_w + b.battery_w},
    }
    return Thing(bytes([0x02, 0xA5, instance]), "pcs", readers, meanings, announced=frozenset({0x80, 0x88}))


_TANK_L, _LEAST_L, _HEATER_W = 370, 150, 1200
_HEATS_FROM_S, _HEATS_TO_S, _DAY_S = 2 * 3600, 5 * 3600, 86_400


def _second_of_day(balance: Balance) -> int:
    return (balance.unix_ms // 1000 + 9 * 3600) % _DAY_S


def tank_l(balance: Balance) -> int:
    """Return the hot water left: heated from 02:00 to 05:00 in Japan, used through the rest of the day."""
    second = _second_of_day(balance)
    if _HEATS_FROM_S <= second < _HEATS_TO_S:
        return _LEAST_L + (_TANK_L - _LEAST_L) * (second - _HEATS_FROM_S) // (_HEATS_TO_S - _HEATS_FROM_S)
    used_s = (second - _HEATS_TO_S) % _DAY_S
    return _TANK_L - (_TANK_L - _LEAST_L) * used_s // (_DAY_S - (_HEATS_TO_S - _HEATS_FROM_S))


def _heats(balance: Balance) -> bool:
    return _HEATS_FROM_S <= _second_of_day(balance) < _HEATS_TO_S


def ecocute(instance: int, common: dict[int, Reader]) -> Thing:
    """Return an EcoCute (026B)."""
    readers: dict[int, Reader] = {
        **common,
        0x84: lambda b: _u16(_HEATER_W if _heats(b) else 4),
        0xB0: lambda _: b"\x41",
        0xB2: lambda b: b"\x41" if _heats(b) else b"\x42",
        0xB3: lambda _: _u8(85),
        0xC1: lambda _: _u8(78),
        0xC2: lambda _: bytes(4),
        0xC3: lambda _: b"\x42",
        0xE1: lambda b: _u16(tank_l(b)),
        0xE2: lambda _: _u16(_TANK_L),
        0xEA: lambda _: b"\x42",
    }
    meanings: dict[int, Meaning] = {
        0x84: lambda b: {"consumption_power_w": _HEATER_W if _heats(b) else 4},
        0xB2: lambda b: {"water_heater_state": "heating" if _heats(b) else "not_heating"},
        0xE1: lambda b: {"tank_remaining_l": tank_l(b)},
        0xE2: lambda _: {"tank_capacity_l": _TANK_L},
    }
    return Thing(bytes([0x02, 0x6B, instance]), "ecocute", readers, meanings, announced=frozenset({0x80, 0x88, 0xB2}))


class _Room:
    """What a person told the air conditioner, and how warm it is: outside follows the clock, the room the setting."""

    def __init__(self) -> None:
        self.is_on, self.mode, self.target_c = True, 0x41, 25

    def outdoor_c(self, balance: Balance) -> int:
        hour = _second_of_day(balance) // 3600
        return 12 + 10 - abs(hour - 14)

    def indoor_c(self, balance: Balance) -> int:
        return self.target_c + 1 if self.is_on else (self.target_c + self.outdoor_c(balance)) // 2

    def set_power(self, edt: bytes) -> bool:
        if edt not in {b"\x30", b"\x31"}:
            return False
        self.is_on = edt == b"\x30"
        return True

    def set_mode(self, edt: bytes) -> bool:
        if len(edt) != 1 or not 0x41 <= edt[0] <= 0x45:
            return False
        self.mode = edt[0]
        return True

    def set_target(self, edt: bytes) -> bool:
        if len(edt) != 1 or not 16 <= edt[0] <= 31:
            return False
        self.target_c = edt[0]
        return True


def aircon(instance: int, common: dict[int, Reader]) -> Thing:
    """Return an air conditioner (0130)."""
    room = _Room()
    readers: dict[int, Reader] = {
        **common,
        0x80: lambda _: b"\x30" if room.is_on else b"\x31",
        0x84: lambda _: _u16(450 if room.is_on else 2),
        0xA0: lambda _: b"\x41",
        0xB0: lambda _: bytes([room.mode]),
        0xB3: lambda _: _u8(room.target_c),
        0xBB: lambda b: room.indoor_c(b).to_bytes(1, "big", signed=True),
        0xBE: lambda b: room.outdoor_c(b).to_bytes(1, "big", signed=True),
    }
    meanings: dict[int, Meaning] = {
        0x80: lambda _: {"operation_status": "on" if room.is_on else "off"},
        0xB3: lambda _: {"target_temperature_c": room.target_c},
        0xBB: lambda b: {"room_temperature_c": room.indoor_c(b)},
        0xBE: lambda b: {"outdoor_temperature_c": room.outdoor_c(b)},
    }
    setters = {0x80: room.set_power, 0xB0: room.set_mode, 0xB3: room.set_target}
    eoj = bytes([0x01, 0x30, instance])
    return Thing(eoj, "aircon", readers, meanings, setters, frozenset({0x80, 0x88, 0xB0}))


def things(
    kinds: Sequence[str], *, capacity_wh: int = 9_800, seed: int = 1, instance: int = 1, identified: bool = True
) -> list[Thing]:
    """Return the objects of a node by kind; `identified` gives them an identification number (83)."""
    made = []
    for kind in kinds:
        serial = f"SIM{seed:04d}{kind[:4].upper()}"
        number = b"\xfe" + MAKER + serial.encode("ascii").rjust(13, b"\x00")
        common = _common(serial, number if identified else None)
        if kind == "battery":
            made.append(battery(instance, common, capacity_wh))
        else:
            made.append({"pv": pv, "pcs": pcs, "ecocute": ecocute, "aircon": aircon}[kind](instance, common))
    return [thing.with_maps() for thing in made]


def things_of_image(content: str) -> list[Thing]:
    """Return the objects of a node that `edge-agent echonet dump` wrote; raises ValueError for another file."""
    image = json.loads(content)
    objects = image.get("objects") if isinstance(image, dict) else None
    if not isinstance(objects, dict):
        raise ValueError("no image of a node: it has no table `objects`")  # noqa: TRY004  (a file's content, not a type)
    made = []
    for eoj, properties in objects.items():
        fixed = {int(code, 16): bytes.fromhex(edt) for code, edt in properties.items()}
        readers: dict[int, Reader] = {code: _fixed(edt) for code, edt in fixed.items()}
        made.append(Thing(bytes.fromhex(eoj), eoj, readers))
    return made


def _fixed(edt: bytes) -> Reader:
    return lambda _: edt


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
