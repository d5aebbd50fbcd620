"""An alert lamp over Modbus TCP: holds the look that was written, shows it, reports what it shows. Knows no levels.

Registers as in drivers/lamp/programme.py: eight holding registers from 0 (FC 3, 6, 16) take the look, eight input
registers from 0 (FC 4) tell what the lamp shows. The two differ when a channel is broken (`broken`). A lamp that
was without power shows normal light.
"""

from __future__ import annotations

import argparse
import asyncio
import struct
import sys

from drivers.api import MalformedError
from drivers.arguments import LAST_PORT, whole
from drivers.lamp.programme import COUNT, NORMAL_LIGHT, Look, Pattern, Programme, Rgb, decode_look, name_of
from simulators.clock import SimulatedClock, add_time_options, clock_from
from simulators.log import ServedLog, add_log_option

HEADER = struct.Struct(">HHHB")
MOST_FRAME_BYTES = 260
_READ_HOLDING, _READ_INPUT, _WRITE_ONE, _WRITE_MANY = 3, 4, 6, 16
_ILLEGAL_FUNCTION, _ILLEGAL_ADDRESS, _ILLEGAL_VALUE, _NO_UNIT = 1, 2, 3, 11
_FRAME_S = 0.1


class LampServer:
    """The lamp and its Modbus TCP server; any number of clients."""

    def __init__(self, log: ServedLog | None = None, unit: int = 1) -> None:
        self.unit = unit
        self.broken: frozenset[int] = frozenset()
        """Registers whose value does not reach the light: it shows 0 there."""
        self.mute = False
        """Takes requests and answers none."""
        self.writes = 0
        self.connections: set[_Connection] = set()
        self._log = log
        self._held = list(NORMAL_LIGHT.registers)
        self._server: asyncio.Server | None = None

    @property
    def port(self) -> int:
        """The port it listens on."""
        if self._server is None:
            raise RuntimeError("the server is not started")
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    @property
    def look(self) -> Look:
        """What it shows."""
        return decode_look(self._shown())

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> None:
        """Listen; port 0 takes a free one."""
        self._server = await asyncio.get_running_loop().create_server(lambda: _Connection(self), host, port)

    async def close(self) -> None:
        """Stop listening and hang up on every client."""
        if self._server is not None:
            self._server.close()
            self.hang_up()
            await self._server.wait_closed()
            self._server = None

    def hang_up(self) -> None:
        """Cut every connection."""
        for connection in list(self.connections):
            connection.hang_up()

    def answer(self, unit: int, pdu: bytes) -> bytes | None:
        """Return the answer to a request; None while mute."""
        if self.mute:
            return None
        function = pdu[0]
        if unit != self.unit:
            return bytes((function | 0x80, _NO_UNIT))
        handlers = {_READ_HOLDING: self._read, _READ_INPUT: self._read, _WRITE_ONE: self._one, _WRITE_MANY: self._many}
        handler = handlers.get(function)
        return bytes((function | 0x80, _ILLEGAL_FUNCTION)) if handler is None else handler(function, pdu)

    def _one(self, function: int, pdu: bytes) -> bytes:
        if len(pdu) != 5:
            return bytes((function | 0x80, _ILLEGAL_VALUE))
        address, value = struct.unpack(">HH", pdu[1:])
        return self._write(function, address, [value], pdu)

    def _many(self, function: int, pdu: bytes) -> bytes:
        if len(pdu) < 6:
            return bytes((function | 0x80, _ILLEGAL_VALUE))
        address, count, size = struct.unpack(">HHB", pdu[1:6])
        if size != 2 * count or len(pdu) != 6 + size:
            return bytes((function | 0x80, _ILLEGAL_VALUE))
        return self._write(function, address, list(struct.unpack(f">{count}H", pdu[6:])), pdu[:5])

    def _read(self, function: int, pdu: bytes) -> bytes:
        if len(pdu) != 5:
            return bytes((function | 0x80, _ILLEGAL_VALUE))
        address, count = struct.unpack(">HH", pdu[1:])
        if not 1 <= count <= COUNT or address + count > COUNT:
            return bytes((function | 0x80, _ILLEGAL_ADDRESS))
        registers = self._held if function == _READ_HOLDING else self._shown()
        if function == _READ_INPUT and self._log is not None:
            name = name_of(self.look, Programme("normal", NORMAL_LIGHT))
            self._log.served("lamp", {"lamp_programme": name})
        return bytes((function, 2 * count)) + struct.pack(f">{count}H", *registers[address : address + count])

    def _write(self, function: int, address: int, values: list[int], echo: bytes) -> bytes:
        if not values or address + len(values) > COUNT:
            return bytes((function | 0x80, _ILLEGAL_ADDRESS))
        held = [*self._held[:address], *values, *self._held[address + len(values) :]]
        try:
            decode_look(held)
        except MalformedError:
            return bytes((function | 0x80, _ILLEGAL_VALUE))
        self._held = held
        self.writes += 1
        return echo

    def _shown(self) -> list[int]:
        return [0 if number in self.broken else value for number, value in enumerate(self._held)]


class _Connection(asyncio.Protocol):
    """One client; requests are answered in order."""

    def __init__(self, server: LampServer) -> None:
        self._server = server
        self._buffer = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if isinstance(transport, asyncio.Transport):
            self._transport = transport
        self._server.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self._server.connections.discard(self)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while self._transport is not None and len(self._buffer) >= HEADER.size:
            transaction, protocol, length, unit = HEADER.unpack_from(self._buffer)
            if protocol != 0 or not 2 <= length <= MOST_FRAME_BYTES - 6:
                self.hang_up()
                return
            if len(self._buffer) < 6 + length:
                return
            pdu, self._buffer = self._buffer[HEADER.size : 6 + length], self._buffer[6 + length :]
            answer = self._server.answer(unit, pdu)
            if answer is not None:
                self._transport.write(HEADER.pack(transaction, 0, len(answer) + 1, unit) + answer)

    def hang_up(self) -> None:
        """Close the connection at once."""
        if self._transport is not None:
            self._transport.abort()
            self._transport = None


def colour_at(look: Look, elapsed_ms: int) -> Rgb:
    """Return the colour that an eye sees at a moment."""
    if look.pattern is Pattern.STEADY or look.period_ms <= 0:
        return look.colour
    phase = elapsed_ms % look.period_ms / look.period_ms
    if look.pattern is Pattern.BREATHING:
        share = abs(2 * phase - 1)
        red, green, blue = (round(a * share + b * (1 - share)) for a, b in zip(look.colour, look.second, strict=True))
        return red, green, blue
    return look.colour if phase < 0.5 else look.second


async def serve(
    clock: SimulatedClock,
    *,
    host: str = "127.0.0.1",
    port: int = 15_021,
    log: ServedLog | None = None,
    ready: asyncio.Event | None = None,
) -> None:
    """Serve one lamp until cancelled; sets `ready` once it listens; shows it in the terminal when there is one."""
    server = LampServer(log)
    await server.start(host, port)
    if ready is not None:
        ready.set()
    try:
        await _show(server, clock)
    finally:
        await server.close()


async def _show(server: LampServer, clock: SimulatedClock) -> None:
    """Blink in one line of the terminal, or print each change where there is none."""
    former: Look | None = None
    terminal = sys.stdout.isatty()
    while True:
        look = server.look
        if terminal:
            red, green, blue = colour_at(look, clock.real_ms())
            print(f"\r\x1b[48;2;{red};{green};{blue}m      \x1b[0m {_words(look)}\x1b[K", end="", flush=True)  # noqa: T201  (a terminal)
        elif look != former:
            print(f"{clock.local():%m-%d %H:%M:%S}  {_words(look)}", flush=True)  # noqa: T201  (a command line)
        former = look
        await asyncio.sleep(_FRAME_S)


def _words(look: Look) -> str:
    return f"{name_of(look, Programme('normal', NORMAL_LIGHT))} ({look.pattern.name.lower()})"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the simulator's options."""
    parser.add_argument("--host", default="127.0.0.1", help="address of the Modbus TCP server")
    parser.add_argument("--port", type=whole(0, LAST_PORT), default=15_021, help="its port")
    add_time_options(parser)
    add_log_option(parser)


async def run(args: argparse.Namespace) -> int:
    """Serve until cancelled."""
    clock = clock_from(args)
    log = ServedLog(args.log, clock)
    print(f"lamp at {args.host}:{args.port}", flush=True)  # noqa: T201  (a command line)
    try:
        await serve(clock, host=args.host, port=args.port, log=log)
    finally:
        log.close()
    return 0
