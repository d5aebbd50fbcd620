"""PV and battery over Modbus: a Huawei-like hybrid, a SunSpec hybrid, or any map, capture or chain of models.

All units of a line show the same house.

The served log holds one line for each complete set of a unit's quantities that one connection has fetched, written
before the last answer of the set leaves; `t` and `sim` are of that moment. What a client fetched of a set it never
completed is logged under `partial` in place of `values`.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import struct
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from pathlib import Path

from drivers.api import ConfigError
from drivers.arguments import LAST_PORT, whole
from drivers.modbus.library import find
from drivers.modbus.register_map import RegisterMap
from simulators.clock import SimulatedClock, add_time_options, clock_from, house_start_ms
from simulators.house import Balance, House, add_house_options, house_from
from simulators.inverter_control import (
    READ_FUNCTIONS,
    WRITE_MANY,
    WRITE_ONE,
    ControlRegisters,
    add_control_options,
    fight,
    huawei_control,
    trouble,
)
from simulators.log import Served, ServedLog, add_log_option
from simulators.modbus_chains import chain_of, models_of
from simulators.modbus_control import control_of
from simulators.modbus_hybrids import huawei, sunspec
from simulators.modbus_images import image_of
from simulators.modbus_maps import unit_of
from simulators.modbus_transport import Framing, Line, Trouble, add_transport_options, on_terminal
from simulators.modbus_units import Unit
from simulators.terminal import Terminal

READ_HOLDING, READ_INPUT = 3, 4
WRITES = frozenset({5, 6, 15, 16, 22, 23})
ILLEGAL_FUNCTION, ILLEGAL_ADDRESS, ILLEGAL_VALUE, NO_UNIT = 1, 2, 3, 11
MOST_REGISTERS = 125


class _Round:
    """What one connection has fetched of a unit's quantities since the last complete set."""

    def __init__(self, unit: Unit, log: ServedLog | None) -> None:
        self._unit, self._log = unit, log
        self._values: dict[str, Served] = {}

    def served(self, values: Mapping[str, Served]) -> None:
        """Take an answer's quantities; a complete set is logged at once."""
        if self._values.keys() & values.keys():
            self.cut()
        self._values |= values
        if self._log is not None and self._values.keys() == self._unit.quantities:
            self._log.served(self._unit.device, self._values)
            self._values = {}

    def cut(self) -> None:
        """Log what was fetched of a set that stays incomplete."""
        if self._log is not None and self._values:
            shown = {name: str(value) if isinstance(value, Decimal) else value for name, value in self._values.items()}
            self._log.happened(self._unit.device, partial=shown)
        self._values = {}


def _laid_over(
    control: ControlRegisters,
    space: str,
    first: int,
    count: int,
    found: tuple[bytes, dict[str, Served]] | None,
    unit: Unit | None,
) -> tuple[bytes, dict[str, Served]] | None:
    """Return what was read with the registers that can be written, or need not be asked of the unit, laid over it."""
    words = control.words(space)
    if found is None:
        if not all(address in words for address in range(first, first + count)):
            return None
        found = (bytes(2 * count), {})
    registers = [*struct.unpack(f">{count}H", found[0])]
    values = dict(found[1])
    for index in range(count):
        registers[index] = words.get(first + index, registers[index])
    for cell in unit.cells if unit is not None else ():
        if cell.quantity in values and (number := control.number_at(space, cell.address)) is not None:
            values[cell.quantity] = float(number)
    return struct.pack(f">{count}H", *registers), values


def _is_sun2000(unit: Unit) -> bool:
    return any(cell.address == 32089 and cell.quantity == "inverter_state" for cell in unit.cells)


class InverterServer:
    """A Modbus TCP server for several units; any number of clients."""

    def __init__(self, units: Mapping[int, Unit], balance: Callable[[], Balance], log: ServedLog | None = None) -> None:
        self.units = dict(units)
        self.balance = balance
        self.log = log
        self.requests: list[tuple[int, int, int, int]] = []
        """The last (unit, function, address, count or value), newest last."""
        self.writes = 0
        self.controls: dict[int, ControlRegisters] = {}
        """Units whose settings can be written; without any the line answers reads only."""
        self.silent: set[int] = set()
        """Units that answer nothing, as if they had no power."""
        self.connections: set[_Connection] = set()
        self.framing: Framing = "tcp"
        self.troubles: list[Trouble] = []
        self.dice = random.Random(1)
        self._server: asyncio.Server | None = None
        self._terminal: Terminal | None = None

    @property
    def port(self) -> int:
        """The port it listens on."""
        if self._server is None:
            raise RuntimeError("the server is not started")
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    def let_command(self, control: ControlRegisters, number: int | None = None) -> None:
        """Let a unit of the line be written, the hybrid unless it is named; the house's battery follows."""
        house = self.balance
        hybrids = [one for one, unit in self.units.items() if _is_sun2000(unit)]
        self.controls |= dict.fromkeys(hybrids if number is None else [number], control)
        if self.controls:
            self.balance = lambda: control.overlay(house())

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> None:
        """Listen; port 0 takes a free one."""
        self._server = await asyncio.get_running_loop().create_server(lambda: _Connection(self), host, port)

    def start_serial(self, link: Path) -> None:
        """Answer on a pseudo-terminal that `link` leads to."""
        self._terminal, rounds = Terminal(link), self.rounds()
        on_terminal(self._terminal, lambda unit_id, pdu: self.answer(unit_id, pdu, rounds), self.troubles, self.dice)

    async def close(self) -> None:
        """Stop listening and hang up on every client."""
        if self._terminal is not None:
            self._terminal.close()
            self._terminal = None
        if self._server is not None:
            self._server.close()
            for connection in list(self.connections):
                connection.hang_up()
            await self._server.wait_closed()
            self._server = None

    def answer(self, unit_id: int, pdu: bytes, rounds: Mapping[int, _Round]) -> bytes | None:
        """Return the answer to a request; None from a silent unit."""
        function = pdu[0]
        if function in WRITES:
            self.writes += 1
        if unit_id in self.silent:
            return None
        control = self.controls.get(unit_id)
        if control is not None and function in {WRITE_ONE, WRITE_MANY}:
            return self._written(unit_id, control, pdu) or None
        code = self._refusal(unit_id, pdu)
        if code:
            return bytes((function | 0x80, code))
        address, count = struct.unpack(">HH", pdu[1:])
        unit = self.units[unit_id]
        space = unit if function == READ_HOLDING else unit.inputs
        found = None if space is None else space.read(address, count, self.balance())
        if control is not None:
            found = _laid_over(control, READ_FUNCTIONS[function], address, count, found, space)
        if found is None:
            return bytes((function | 0x80, ILLEGAL_ADDRESS))
        registers, values = found
        if values:
            rounds[unit_id].served(values)
        return bytes((function, len(registers))) + registers

    def _written(self, unit_id: int, control: ControlRegisters, pdu: bytes) -> bytes:
        """Carry a write out and log it with the counts so far."""
        count = len(control.order)
        answer = control.written(pdu)
        if self.log is not None and len(control.order) > count:
            name, bits = control.order[-1]
            counts = {kind: control.writes[kind] for kind in ("stored", "ram")}
            self.log.happened(self.units[unit_id].device, written=name, bits=bits, writes=counts)
        return answer

    def _refusal(self, unit_id: int, pdu: bytes) -> int:
        """Return the exception code of a request that is none of ours; 0 for a read."""
        if unit_id not in self.units:
            return NO_UNIT
        if pdu[0] != READ_HOLDING and not (pdu[0] == READ_INPUT and self.units[unit_id].inputs):
            return ILLEGAL_FUNCTION
        if len(pdu) != 5:
            return ILLEGAL_VALUE
        address, count = struct.unpack(">HH", pdu[1:])
        self._note(unit_id, pdu[0], address, count)
        return 0 if 1 <= count <= MOST_REGISTERS else ILLEGAL_VALUE

    def rounds(self) -> dict[int, _Round]:
        """Return what a new connection keeps of its fetching."""
        return {unit_id: _Round(unit, self.log) for unit_id, unit in self.units.items()}

    def _note(self, *request: int) -> None:
        unit_id, function, address, count = request
        self.requests.append((unit_id, function, address, count))
        del self.requests[:-1000]


class _Connection(asyncio.Protocol):
    """One client; requests are answered in order."""

    def __init__(self, server: InverterServer) -> None:
        self._server = server
        self._rounds = server.rounds()
        self._transport: asyncio.Transport | None = None
        self._line = Line(
            server.framing,
            lambda unit_id, pdu: server.answer(unit_id, pdu, self._rounds),
            self._write,
            self.hang_up,
            server.troubles,
            server.dice,
        )

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if isinstance(transport, asyncio.Transport):
            self._transport = transport
        self._server.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self._leave()

    def data_received(self, data: bytes) -> None:
        self._line.feed(data)

    def _write(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)

    def hang_up(self) -> None:
        """Close the connection at once."""
        if self._transport is not None:
            self._transport.abort()
            self._transport = None
        self._leave()

    def _leave(self) -> None:
        self._line.end()
        self._server.connections.discard(self)
        for one in self._rounds.values():
            one.cut()


def units_of(options: Sequence[str] = ("huawei", "sunspec")) -> dict[int, Unit]:
    """Return the units of a line, numbered from 1."""
    kinds = {"huawei": huawei, "sunspec": sunspec}
    return {number: kinds[option]() for number, option in enumerate(options, start=1)}


async def serve(
    house: House,
    clock: SimulatedClock,
    *,
    host: str = "127.0.0.1",
    port: int = 15_020,
    log: ServedLog | None = None,
    ready: asyncio.Event | None = None,
    units: Mapping[int, Unit] | None = None,
) -> None:
    """Serve the house's inverters until cancelled; sets `ready` once it listens."""
    server = InverterServer(units or units_of(), lambda: house.at(clock.unix_ms()), log)
    server.let_command(huawei_control(clock.unix_ms))
    await server.start(host, port)
    try:
        if ready is not None:
            ready.set()
        await asyncio.Event().wait()
    finally:
        await server.close()


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of `edge-sim inverter`."""
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1)")
    parser.add_argument("--port", type=whole(0, LAST_PORT), default=15_020, help="port to listen on (default 15020)")
    parser.add_argument(
        "--units",
        nargs="+",
        choices=("huawei", "sunspec"),
        default=["huawei", "sunspec"],
        help="the devices at units 1, 2, … (default: huawei sunspec)",
    )
    parser.add_argument("--map", metavar="NAME", help="play the device that a register map describes instead")
    parser.add_argument("--maps", metavar="FOLDER", help="look for maps of your own here first")
    parser.add_argument("--image", type=Path, metavar="FILE", help="play a captured device instead")
    parser.add_argument(
        "--chain", nargs="+", type=whole(1, 0xFFFE), metavar="ID", help="play a chain of SunSpec models instead"
    )
    parser.add_argument(
        "--unit", type=whole(0, 255), metavar="N", help="the unit of --map, --image or --chain (default 1)"
    )
    add_transport_options(parser)
    add_control_options(parser)
    add_house_options(parser)
    add_time_options(parser)
    add_log_option(parser)


def played(args: argparse.Namespace) -> dict[int, Unit]:
    """Return the units that the options ask for; raises ValueError that says which option is wrong."""
    units = _asked(args)
    is_commanded = any(map(_is_sun2000, units.values())) if args.map is None else find(args.map, args.maps).writable
    if (args.refuse_write or args.second_master is not None) and not is_commanded:
        raise ValueError("--refuse-write and --second-master: nothing of this can be written")
    return units


def commanded(args: argparse.Namespace, units: Mapping[int, Unit], now_ms: Callable[[], int]) -> ControlRegisters:
    """Return what can be written of what is played, with the options' troubles; raises ValueError."""
    control = huawei_control(now_ms)
    if args.map is not None:
        register_map = find(args.map, args.maps)
        control = control_of(register_map, now_ms, models_of(units[min(units)]) if register_map.is_sunspec else None)
    trouble(control, args)
    return control


def _asked(args: argparse.Namespace) -> dict[int, Unit]:
    if sum(option is not None for option in (args.map, args.image, args.chain)) > 1:
        raise ValueError("--map, --image and --chain exclude each other")
    try:
        if args.map is not None:
            return {args.unit or 1: mapped(find(args.map, args.maps))}
        if args.image is not None:
            number, unit = image_of(args.image)
            return {args.unit or number: unit}
        if args.chain is not None:
            return {args.unit or 1: chain_of(args.chain)}
    except ConfigError as error:
        raise ValueError(str(error)) from error
    return units_of(args.units)


def mapped(register_map: RegisterMap) -> Unit:
    """Return the unit of a map; one that adds to SunSpec is an inverter of its maker, with the models it writes."""
    if register_map.is_sunspec:
        written = sorted({one.model for one in register_map.writable.values() if one.model is not None})
        return chain_of((1, 103, 120, 123, *written, 160), maker=register_map.maker)
    return unit_of(register_map)


async def run(args: argparse.Namespace) -> int:
    """Serve until told to stop."""
    clock = clock_from(args)
    house = house_from(args, house_start_ms(args, clock))
    units = played(args)
    log = ServedLog(args.log, clock)
    server = InverterServer(units, lambda: house.at(clock.unix_ms()), log)
    control = commanded(args, units, clock.unix_ms)
    server.let_command(control, min(units) if args.map is not None else None)
    server.framing, server.troubles = args.framing, args.trouble
    if args.serial:
        server.start_serial(Path(args.serial))
    else:
        await server.start(args.host, args.port)
    place = args.serial or f"{args.host}:{server.port}"
    told = ", ".join(args.units) if units.keys() == {1, 2} else str(min(units))
    print(f"inverter at {place}, units: {told}", flush=True)  # noqa: T201  (a command line)
    try:
        await fight(control, args.second_master)
    finally:
        await server.close()
        log.close()
        if server.writes:
            counts = ", ".join(f"{control.writes[kind]} {kind}" for kind in ("stored", "ram"))
            print(f"writes carried out: {counts}", flush=True)  # noqa: T201  (a command line)
    return 0
