"""How a simulated Modbus device is reached, and how badly: TCP, RTU over TCP, a pseudo-terminal. Knows no register.

A device handles one request after the other. Its troubles are drawn from dice with a seed, so that the same requests
meet the same ones.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from drivers.modbus.frames import crc
from simulators.terminal import Terminal

Framing: TypeAlias = Literal["tcp", "rtu"]
Kind: TypeAlias = Literal["slow", "late", "short", "wrong_function", "wrong_unit", "twice", "busy", "hang_up", "dead"]
Answer: TypeAlias = Callable[[int, bytes], bytes | None]
"""(unit, request PDU) → answer PDU, None from a unit that stays silent."""

HEADER = struct.Struct(">HHHB")
MOST_TCP_LENGTH = 254
NO_UNIT, BUSY = 11, 6
_RTU_REQUESTS = {1: 8, 2: 8, 3: 8, 4: 8, 5: 8, 6: 8, 22: 10}
_RTU_COUNTED = {15: 7, 16: 7, 23: 11}
"""Function → how many bytes stand before the byte count's own bytes, with unit and count, without check sum."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """What goes wrong with a share `rate` of the answers, of one unit or all.

    slow, late: the answer comes `seconds` later. short: it holds half of its registers, or at most `keep`.
    wrong_function, wrong_unit: it names another one. twice: it comes twice. busy: exception 6 instead. hang_up: a read
    that touches `register` ends the connection. dead: no answer.
    """

    kind: Kind
    rate: float = 1.0
    unit: int | None = None
    seconds: float = 0.5
    register: int | None = None
    keep: int | None = None

    def strikes(self, unit: int, pdu: bytes, dice: random.Random) -> bool:
        """Say whether it happens to this request."""
        if self.unit is not None and unit != self.unit:
            return False
        if self.register is not None:
            if len(pdu) < 5:
                return False
            first, count = struct.unpack(">HH", pdu[1:5])
            if not first <= self.register < first + (count if pdu[0] in {3, 4, 16} else 1):
                return False
        return self.rate >= 1 or dice.random() < self.rate


class Line:
    """One connection of a device: bytes in, answers out through `send`, the end through `hang_up`."""

    def __init__(
        self,
        framing: Framing,
        answer: Answer,
        send: Callable[[bytes], None],
        hang_up: Callable[[], None],
        troubles: Sequence[Trouble],
        dice: random.Random,
    ) -> None:
        self._framing, self._answer, self._send, self._hang_up = framing, answer, send, hang_up
        self._troubles, self._dice = troubles, dice
        self._buffer = b""
        self._free_at = 0.0
        self._is_over = False

    def feed(self, data: bytes) -> None:
        """Take bytes of a client in."""
        self._buffer += data
        for transaction, unit, pdu in self._tcp_requests() if self._framing == "tcp" else self._rtu_requests():
            self._serve(transaction, unit, pdu)

    def end(self) -> None:
        """Answer nothing any more."""
        self._is_over = True

    def _tcp_requests(self) -> Iterator[tuple[int, int, bytes]]:
        while not self._is_over and len(self._buffer) >= HEADER.size:
            transaction, protocol, length, unit = HEADER.unpack_from(self._buffer)
            if protocol != 0 or not 2 <= length <= MOST_TCP_LENGTH:
                self._hang_up()
                return
            if len(self._buffer) < 6 + length:
                return
            pdu, self._buffer = self._buffer[HEADER.size : 6 + length], self._buffer[6 + length :]
            yield transaction, unit, pdu

    def _rtu_requests(self) -> Iterator[tuple[int, int, bytes]]:
        while not self._is_over and len(self._buffer) >= 4:
            size = _rtu_size(self._buffer)
            if size and len(self._buffer) < size:
                return
            if not size or crc(self._buffer[: size - 2]) != int.from_bytes(self._buffer[size - 2 : size], "little"):
                self._buffer = self._buffer[1:]
                continue
            frame, self._buffer = self._buffer[: size - 2], self._buffer[size:]
            yield 0, frame[0], frame[1:]

    def _serve(self, transaction: int, unit: int, pdu: bytes) -> None:
        struck = {trouble.kind: trouble for trouble in self._troubles if trouble.strikes(unit, pdu, self._dice)}
        if "hang_up" in struck:
            self._hang_up()
            return
        answer = self._answer(unit, pdu)
        if answer is None or "dead" in struck or (self._framing == "rtu" and answer[1:] == bytes((NO_UNIT,))):
            return  # on a serial line a unit that is not there says nothing
        unit, answer = _spoilt(unit, answer, struck)
        frame = self._frame(transaction, unit, answer)
        self._send_after(sum(struck[kind].seconds for kind in ("slow", "late") if kind in struck), frame)
        if "twice" in struck:
            self._send_after(0, frame)

    def _frame(self, transaction: int, unit: int, pdu: bytes) -> bytes:
        if self._framing == "tcp":
            return HEADER.pack(transaction, 0, len(pdu) + 1, unit) + pdu
        body = bytes((unit,)) + pdu
        return body + crc(body).to_bytes(2, "little")

    def _send_after(self, seconds: float, frame: bytes) -> None:
        loop = asyncio.get_running_loop()
        self._free_at = max(self._free_at, loop.time()) + seconds
        if self._free_at <= loop.time():
            self._send_now(frame)
        else:
            loop.call_at(self._free_at, self._send_now, frame)

    def _send_now(self, frame: bytes) -> None:
        if not self._is_over:
            self._send(frame)


def _spoilt(unit: int, answer: bytes, struck: dict[Kind, Trouble]) -> tuple[int, bytes]:
    if "busy" in struck:
        return unit, bytes((answer[0] | 0x80, BUSY))
    if "short" in struck and answer[0] in {3, 4}:
        registers, keep = (len(answer) - 2) // 2, struck["short"].keep
        kept = 2 * (registers // 2 if keep is None else min(registers, keep))
        answer = bytes((answer[0], kept)) + answer[2 : 2 + kept]
    if "wrong_function" in struck:
        answer = bytes((7 - answer[0] & 0x7F,)) + answer[1:]
    return (unit + 1) % 248 if "wrong_unit" in struck else unit, answer


def _rtu_size(buffer: bytes) -> int | None:
    """Return how long the request at the start is, 0 … while that is not known; None when none starts there."""
    function = buffer[1]
    if function in _RTU_COUNTED:
        before = _RTU_COUNTED[function]
        return before + buffer[before - 1] + 2 if len(buffer) >= before else before + 2
    return _RTU_REQUESTS.get(function)


def on_terminal(terminal: Terminal, answer: Answer, troubles: Sequence[Trouble], dice: random.Random) -> Line:
    """Serve a pseudo-terminal; a device on a serial line cannot hang up, so it stays silent instead."""
    line = Line("rtu", answer, terminal.write, lambda: None, troubles, dice)
    terminal.listen(line.feed)
    return line


def parse(text: str) -> Trouble:
    """Return the trouble of a text like `late:rate=0.1,seconds=2,unit=1`; raises ValueError."""
    kind, _, rest = text.partition(":")
    if kind not in get_args(Kind):
        raise ValueError(f"{kind!r} is no trouble; one of {', '.join(get_args(Kind))}")
    settings: dict[str, float] = {}
    for part in filter(None, rest.split(",")):
        key, _, value = part.partition("=")
        if key not in {"rate", "unit", "seconds", "register", "keep"}:
            raise ValueError(f"{key!r} is no setting of a trouble")
        settings[key] = float(value) if key in {"rate", "seconds"} else int(value)
        if not settings[key] >= 0:  # nor is it no number
            raise ValueError(f"{key}={value} is not 0 or more")
    if kind == "hang_up" and "register" not in settings:
        raise ValueError("hang_up needs register=N")
    return Trouble(kind, **settings)  # type: ignore[arg-type]  # each key was converted to its field's type


def add_transport_options(parser: argparse.ArgumentParser) -> None:
    """Add --serial, --framing and --trouble."""

    def trouble(text: str) -> Trouble:
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    parser.add_argument("--serial", metavar="LINK", help="play a serial port instead: a link to a pseudo-terminal")
    parser.add_argument("--framing", choices=("tcp", "rtu"), default="tcp", help="rtu: RTU over TCP (default tcp)")
    parser.add_argument(
        "--trouble",
        type=trouble,
        action="append",
        default=[],
        metavar="KIND[:KEY=VALUE,…]",
        help="answer badly: slow, late, short, wrong_function, wrong_unit, twice, busy, hang_up or dead; keys rate, "
        "unit, seconds, register, keep. Example: hang_up:register=32085",
    )
