"""A BlueZ on a private D-Bus: one adapter, tags that walk past, strangers. No kernel, no radio, no GATT.

It answers what a BLE scanner asks of bluetoothd and reports as bluetoothd does, in the ways that differ between
releases: 5.66 reports RSSI at every packet once any filter is set, 5.88 only when it moved by 8 dB or the filter
names RSSI. Walks run on the simulated clock, strangers in real time, so that the load stays bounded at any speed.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import select
import shutil
import socket
import tempfile
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeAlias

from dbus_fast import Message, MessageType, Variant
from dbus_fast.aio import MessageBus

from drivers.arguments import real, whole
from simulators.clock import SimulatedClock, add_time_options, clock_from
from simulators.house import SEED
from simulators.log import ServedLog, add_log_option
from simulators.walks import Tag, Walk, enrolment, make_tags, walks

BLUEZ = "org.bluez"
ADAPTER = "org.bluez.Adapter1"
DEVICE = "org.bluez.Device1"
OBJECTS = "org.freedesktop.DBus.ObjectManager"
PROPERTIES = "org.freedesktop.DBus.Properties"
HCI = "/org/bluez/hci0"
EDDYSTONE = "0000feaa-0000-1000-8000-00805f9b34fb"
APPLE = 0x004C

TEMPORARY_MS = 30_000
"""bluetoothd forgets a device this long after its last packet (main.conf, TemporaryTimeout)."""
RSSI_STEP_DB = 8
BUS_WITHIN_S = 10.0
LONGEST_SOCKET_PATH = 107
SETTLE_S = 2.0
"""Real seconds that a scanner gets to learn its tags before somebody walks past."""
FASTEST = 60.0
"""Above this speed the walks are slowed down, so that the packets in a real second stay bounded."""

Release: TypeAlias = Literal["5.66", "5.88"]
_Props: TypeAlias = dict[str, Variant]

_BUS_CONFIG = """<busconfig><type>session</type><listen>unix:path={path}</listen><auth>EXTERNAL</auth>
<policy context="default">
<allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/><allow own="*"/>
</policy>
</busconfig>
"""


@contextlib.asynccontextmanager
async def private_bus(path: Path) -> AsyncIterator[str]:
    """Run a D-Bus daemon on a socket and give its address; one that listens there already is used and left alone."""
    path = _socket_path(path)
    address = f"unix:path={path}"
    if _listens(path):
        yield address
        return
    daemon = shutil.which("dbus-daemon")
    if daemon is None:
        raise ValueError("there is no dbus-daemon; sudo apt install dbus")
    path.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(prefix="edge-sim-bus-") as folder:
        config = Path(folder) / "bus.conf"
        config.write_text(_BUS_CONFIG.format(path=path))
        process = await asyncio.create_subprocess_exec(
            daemon,
            f"--config-file={config}",
            "--nofork",
            "--nopidfile",
            "--print-address",
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            async with asyncio.timeout(BUS_WITHIN_S):
                if process.stdout is None or not await process.stdout.readline():
                    raise ValueError(f"--bus {path}: dbus-daemon did not start; is the folder writable?")
            yield address
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            await process.wait()
            path.unlink(missing_ok=True)


def _socket_path(path: Path) -> Path:
    path = path.absolute()
    if len(os.fsencode(path)) > LONGEST_SOCKET_PATH:
        raise ValueError(f"--bus {path}: a socket's path has at most {LONGEST_SOCKET_PATH} bytes; choose a shorter one")
    return path


def _listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(os.fspath(path)) == 0


class BlueZ:
    """The service org.bluez with one adapter; `advertise` is a packet in the air."""

    def __init__(self, bus: MessageBus, release: Release = "5.88") -> None:
        self.release = release
        self.refuse_start: str | None = None
        self.answer_start = True
        self._bus = bus
        self._objects: dict[str, dict[str, _Props]] = {"/org/bluez": {"org.bluez.AgentManager1": {}}, HCI: _adapter()}
        self._heard_ms: dict[str, int] = {}
        self._scanners: set[str] = set()
        self._since_s = 0.0
        self._filters: dict[str, Mapping[str, Variant]] = {}
        self._methods: dict[tuple[str, str], Callable[[Message], Message | bool | None]] = {
            (OBJECTS, "GetManagedObjects"): lambda m: Message.new_method_return(m, "a{oa{sa{sv}}}", [self._objects]),
            (PROPERTIES, "Get"): self._get,
            (PROPERTIES, "GetAll"): self._get_all,
            (PROPERTIES, "Set"): self._set,
            (ADAPTER, "SetDiscoveryFilter"): self._set_filter,
            (ADAPTER, "StartDiscovery"): self._start,
            (ADAPTER, "StopDiscovery"): self._stop,
        }
        bus.add_message_handler(self._on_message)

    @property
    def listening(self) -> bool:
        """Whether anyone scans."""
        return bool(self._scanners)

    def listening_s(self) -> float:
        """Return for how many real seconds somebody has scanned; below zero while nobody does."""
        return asyncio.get_running_loop().time() - self._since_s if self._scanners else -1.0

    @property
    def known(self) -> int:
        """How many devices it remembers."""
        return len(self._heard_ms)

    async def appear(self) -> None:
        """Take the name org.bluez, as a bluetoothd that starts."""
        rule = "type='signal',sender='org.freedesktop.DBus',member='NameOwnerChanged'"
        await self._bus.call(
            Message(
                destination="org.freedesktop.DBus",
                path="/org/freedesktop/DBus",
                interface="org.freedesktop.DBus",
                member="AddMatch",
                signature="s",
                body=[rule],
            )
        )
        await self._bus.request_name(BLUEZ)

    async def vanish(self) -> None:
        """Give the name up and forget everything, as a bluetoothd that dies."""
        await self._bus.release_name(BLUEZ)
        self._scanners.clear()
        self._filters.clear()
        for path in list(self._heard_ms):
            del self._objects[path], self._heard_ms[path]
        self._objects[HCI] = _adapter()

    def unplug(self) -> None:
        """Take the adapter away."""
        for path in list(self._heard_ms):
            self._forget(path)
        del self._objects[HCI]
        self._scanners.clear()
        self._signal("/", OBJECTS, "InterfacesRemoved", "oas", [HCI, [ADAPTER]])

    def plug(self) -> None:
        """Put the adapter back."""
        self._objects[HCI] = _adapter()
        self._signal("/", OBJECTS, "InterfacesAdded", "oa{sa{sv}}", [HCI, self._objects[HCI]])

    def advertise(
        self,
        address: str,
        rssi: int | None,
        now_ms: int,
        *,
        manufacturer_data: Mapping[int, bytes] | None = None,
        service_data: Mapping[str, bytes] | None = None,
    ) -> bool:
        """Receive a packet; returns whether a scanner was there to be told. Without `rssi` BlueZ reports none."""
        if not self._scanners:
            return False
        path = f"{HCI}/dev_{address.replace(':', '_')}"
        data = _advertising(manufacturer_data or {}, service_data or {})
        new = path not in self._heard_ms
        self._heard_ms[path] = now_ms
        if new:
            strength = {} if rssi is None else {"RSSI": Variant("n", rssi)}
            self._objects[path] = {DEVICE: _device(address) | strength | data}
            self._signal("/", OBJECTS, "InterfacesAdded", "oa{sa{sv}}", [path, self._objects[path]])
        elif changed := self._changes(path, rssi, data):
            self._change(path, DEVICE, changed)
        return True

    def expire(self, now_ms: int) -> None:
        """Forget the devices that have been silent for TEMPORARY_MS."""
        for path in [path for path, heard_ms in self._heard_ms.items() if now_ms - heard_ms >= TEMPORARY_MS]:
            self._forget(path)

    def _changes(self, path: str, rssi: int | None, data: _Props) -> _Props:
        """Return the properties that this release would report for a packet of a known device."""
        known = self._objects[path][DEVICE]
        filters = [self._filters.get(scanner, {}) for scanner in self._scanners]
        duplicates = any("DuplicateData" in each and each["DuplicateData"].value for each in filters)
        by_rssi = any("RSSI" in each or (self.release == "5.66" and each) for each in filters)
        changed = {name: value for name, value in data.items() if duplicates or known.get(name) != value}
        if rssi is not None:
            former = known["RSSI"].value if "RSSI" in known else -127
            if by_rssi or abs(rssi - former) >= RSSI_STEP_DB:
                changed["RSSI"] = Variant("n", rssi)
        return changed

    def _forget(self, path: str) -> None:
        del self._heard_ms[path], self._objects[path]
        self._signal("/", OBJECTS, "InterfacesRemoved", "oas", [path, [DEVICE]])

    def _change(self, path: str, interface: str, changed: _Props) -> None:
        self._objects[path][interface].update(changed)
        self._signal(path, PROPERTIES, "PropertiesChanged", "sa{sv}as", [interface, changed, []])

    def _signal(self, path: str, interface: str, member: str, signature: str, body: list[Any]) -> None:
        # dbus-fast gives the connection up when its socket is full, so wait until the daemon has read on; a socket
        # that is writable has three quarters of its buffer free.
        if (socket_fd := self._bus._fd) is not None:  # noqa: SLF001  (it offers no public one)
            select.select([], [socket_fd], [], BUS_WITHIN_S)
        self._bus.send(Message.new_signal(path, interface, member, signature, body))

    def _on_message(self, message: Message) -> Message | bool | None:
        if message.message_type is MessageType.SIGNAL:
            if message.member == "NameOwnerChanged" and not message.body[2]:
                self._gone(message.body[0])
            return None
        if message.message_type is not MessageType.METHOD_CALL:
            return None
        method = self._methods.get((message.interface or "", message.member or ""))
        if method is None:
            return None
        if message.interface != OBJECTS and message.path not in self._objects:
            return Message.new_error(message, "org.freedesktop.DBus.Error.UnknownObject", f"no {message.path}")
        return method(message)

    def _gone(self, client: str) -> None:
        """End the session of a scanner that has left the bus, as when the agent was killed."""
        self._filters.pop(client, None)
        if client in self._scanners:
            self._scanners.discard(client)
            self._tell_discovering()

    def _get(self, message: Message) -> Message:
        interface, name = message.body
        value = self._objects[message.path or ""].get(interface, {}).get(name)
        if value is None:
            return Message.new_error(message, "org.freedesktop.DBus.Error.InvalidArgs", f"no property {name}")
        return Message.new_method_return(message, "v", [value])

    def _get_all(self, message: Message) -> Message:
        return Message.new_method_return(message, "a{sv}", [self._objects[message.path or ""].get(message.body[0], {})])

    def _set(self, message: Message) -> Message:
        interface, name, value = message.body
        if message.path == HCI and name == "Powered" and not value.value:
            self._scanners.clear()
        self._change(message.path or "", interface, {name: value})
        return Message.new_method_return(message)

    def _set_filter(self, message: Message) -> Message:
        self._filters[message.sender or ""] = message.body[0]
        return Message.new_method_return(message)

    def _start(self, message: Message) -> Message | bool:
        if not self.answer_start:
            return True  # taken, and never answered
        if self.refuse_start is not None:
            return Message.new_error(message, self.refuse_start, "as told")
        if not self._objects[HCI][ADAPTER]["Powered"].value:
            return Message.new_error(message, "org.bluez.Error.NotReady", "Resource Not Ready")
        if message.sender in self._scanners:
            return Message.new_error(message, "org.bluez.Error.InProgress", "Operation already in progress")
        if not self._scanners:
            self._since_s = asyncio.get_running_loop().time()
        self._scanners.add(message.sender or "")
        self._tell_discovering()
        return Message.new_method_return(message)

    def _stop(self, message: Message) -> Message:
        if message.sender not in self._scanners:
            return Message.new_error(message, "org.bluez.Error.Failed", "No discovery started")
        self._scanners.discard(message.sender or "")
        self._tell_discovering()
        return Message.new_method_return(message)

    def _tell_discovering(self) -> None:
        if HCI in self._objects:
            self._change(HCI, ADAPTER, {"Discovering": Variant("b", bool(self._scanners))})


def _adapter() -> dict[str, _Props]:
    return {
        ADAPTER: {
            "Address": Variant("s", "00:1A:7D:DA:71:13"),
            "AddressType": Variant("s", "public"),
            "Name": Variant("s", "pole"),
            "Alias": Variant("s", "pole"),
            "Class": Variant("u", 0),
            "Powered": Variant("b", True),
            "Discoverable": Variant("b", False),
            "Pairable": Variant("b", False),
            "Discovering": Variant("b", False),
            "UUIDs": Variant("as", []),
            "Roles": Variant("as", ["central", "peripheral"]),
        }
    }


def _device(address: str) -> _Props:
    return {
        "Address": Variant("s", address),
        "AddressType": Variant("s", "random"),
        "Alias": Variant("s", address.replace(":", "-")),
        "Adapter": Variant("o", HCI),
        "Paired": Variant("b", False),
        "Connected": Variant("b", False),
        "Trusted": Variant("b", False),
        "UUIDs": Variant("as", []),
        "ServicesResolved": Variant("b", False),
    }


def _advertising(manufacturer_data: Mapping[int, bytes], service_data: Mapping[str, bytes]) -> _Props:
    properties: _Props = {}
    if manufacturer_data:
        properties["ManufacturerData"] = Variant(
            "a{qv}", {company: Variant("ay", data) for company, data in manufacturer_data.items()}
        )
    if service_data:
        properties["ServiceData"] = Variant("a{sv}", {uuid: Variant("ay", data) for uuid, data in service_data.items()})
        properties["UUIDs"] = Variant("as", list(service_data))
    return properties


def send(bluez: BlueZ, tag: Tag, rssi: int, now_ms: int) -> bool:
    """Send one packet of a tag; returns whether a scanner was there."""
    return bluez.advertise(
        tag.address,
        rssi,
        now_ms,
        manufacturer_data=None if tag.ibeacon is None else {APPLE: tag.ibeacon},
        service_data=None if tag.eddystone is None else {EDDYSTONE: tag.eddystone},
    )


async def walk(bluez: BlueZ, one: Walk, clock: SimulatedClock, log: ServedLog) -> None:
    """Play one walk and log, before its last packet, when a scanner was first and last told of the tag."""
    enters_ms: int | None = None
    packets = 0
    for number, packet in enumerate(one.packets, 1):
        await clock.sleep_until(packet.at_ms)
        now_ms = clock.unix_ms()
        if bluez.listening:
            enters_ms = now_ms if enters_ms is None else enters_ms
            packets += 1
        if number == len(one.packets) and enters_ms is not None and packets > 1:
            told = {"tag": one.tag.pseudonym, "enters": enters_ms, "leaves": now_ms, "packets": packets}
            log.happened("tags", walk=told)
        send(bluez, one.tag, packet.rssi, now_ms)


async def play_walks(
    bluez: BlueZ,
    schedule: Iterable[Walk],
    clock: SimulatedClock,
    log: ServedLog,
    *,
    count: int | None = None,
    settle_s: float = 0.0,
) -> None:
    """Play walks as they come, at most `count`; forgets silent devices on the way.

    Left out are walks that would begin while nobody has scanned for `settle_s` (real): a pole that has just started
    does not know its tags yet.
    """
    played = 0
    async with asyncio.TaskGroup() as group:
        for one in schedule:
            if played == count:
                break
            if one.enters_ms < clock.unix_ms():
                continue
            while clock.unix_ms() < one.enters_ms:
                await clock.sleep_until(min(one.enters_ms, clock.unix_ms() + TEMPORARY_MS // 3))
                bluez.expire(clock.unix_ms())
            if bluez.listening_s() >= settle_s:
                played += 1
                group.create_task(walk(bluez, one, clock, log), name=f"walk of {one.tag.pseudonym}")
        while True:
            await clock.sleep_until(clock.unix_ms() + TEMPORARY_MS // 3)
            bluez.expire(clock.unix_ms())


async def play_strangers(bluez: BlueZ, clock: SimulatedClock, per_second: float, seed: int) -> None:
    """Send packets of phones and other people's tags at a rate in real seconds; addresses change all the time."""
    rng = random.Random(f"{seed} strangers")
    address = stranger_address(rng)
    while True:
        await asyncio.sleep(rng.expovariate(per_second))
        if rng.random() < 0.3:
            address = stranger_address(rng)
        manufacturer_data, service_data = stranger_payload(rng)
        bluez.advertise(
            address,
            rng.randint(-99, -45),
            clock.unix_ms(),
            manufacturer_data=manufacturer_data,
            service_data=service_data,
        )


def stranger_address(rng: random.Random) -> str:
    """Return a resolvable private address: its top bits are 01."""
    octets = bytes([0x40 | rng.getrandbits(6)]) + rng.randbytes(5)
    return octets.hex(":").upper()


def stranger_payload(rng: random.Random) -> tuple[dict[int, bytes], dict[str, bytes]]:
    """Return what phones, find-my tags, other people's beacons and broken devices send."""
    kind = rng.randrange(6)
    if kind == 0:
        return {APPLE: b"\x10\x05" + rng.randbytes(5)}, {}
    if kind == 1:
        return {APPLE: b"\x12\x19" + rng.randbytes(25)}, {}
    if kind == 2:
        return {APPLE: b"\x02\x15" + rng.randbytes(21)}, {}
    if kind == 3:
        return {}, {EDDYSTONE: b"\x40" + rng.randbytes(20)}
    if kind == 4:
        return {APPLE: b"\x02\x15" + rng.randbytes(rng.randrange(20))}, {EDDYSTONE: b"\x00" + rng.randbytes(5)}
    return {rng.getrandbits(16): rng.randbytes(rng.randrange(1, 28))}, {}


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the simulator's options."""
    parser.add_argument(
        "--bus", type=Path, required=True, metavar="PATH", help="socket of the private D-Bus that it starts"
    )
    parser.add_argument("--seed", type=SEED, default=1, help="another number gives other walks")
    parser.add_argument(
        "--tags", type=whole(1, 100_000), default=12, metavar="N", help="how many tags there are (default 12)"
    )
    parser.add_argument(
        "--walks",
        type=whole(1, 1_000_000_000),
        metavar="N",
        help="stop after so many that a scanner heard (default: never)",
    )
    parser.add_argument(
        "--strangers",
        type=real(0, 10_000),
        default=10.0,
        metavar="RATE",
        help="their packets in a real second (default 10)",
    )
    parser.add_argument(
        "--pace",
        type=real(0.001, 1_000_000),
        metavar="FACTOR",
        help=f"how many times longer everything takes (default 1; above speed {FASTEST:g}: speed / {FASTEST:g})",
    )
    parser.add_argument("--bluez", choices=("5.66", "5.88"), default="5.88", help="release to behave like")
    parser.add_argument("--tags-file", type=Path, metavar="OUT", help="write the enrolment list of the tags here")
    add_time_options(parser)
    add_log_option(parser)


async def run(args: argparse.Namespace) -> int:
    """Serve until cancelled."""
    clock = clock_from(args)
    pace = pace_for(args.speed) if args.pace is None else args.pace
    tags = make_tags(args.tags)
    schedule = walks(tags, seed=args.seed, start_ms=clock.begins_ms, pace=pace)
    if args.tags_file is not None:
        _write(args.tags_file, enrolment(tags, clock.real_ms() // 1000))
    log = ServedLog(args.log, clock)
    async with private_bus(args.bus) as address:
        bus = await MessageBus(bus_address=address).connect()
        try:
            bluez = BlueZ(bus, args.bluez)
            await bluez.appear()
            print(f"DBUS_SYSTEM_BUS_ADDRESS={address}", flush=True)  # noqa: T201  (a command line)
            async with asyncio.TaskGroup() as group:
                playing = play_walks(bluez, schedule, clock, log, count=args.walks, settle_s=SETTLE_S)
                group.create_task(playing, name="walks")
                if args.strangers > 0:
                    group.create_task(play_strangers(bluez, clock, args.strangers, args.seed), name="strangers")
        finally:
            bus.disconnect()
            log.close()
    return 0


def pace_for(speed: float) -> float:
    """Return how much slower walks must be at a speed; the pole's `leave_after_s` has to grow by the same factor."""
    return max(1.0, speed / FASTEST)


def _write(path: Path, content: dict[str, object]) -> None:
    """Write the file whole or not at all: a reader may be waiting for it."""
    draft = path.with_name(path.name + ".new")
    draft.write_text(json.dumps(content))
    draft.replace(path)
