"""What goes wrong with a byte stream: drop, delay, duplicate, corrupt, insert, split, cut, stall. Knows no protocol.

The same faults, seed and bytes give the same damage, however the bytes were cut into chunks.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Literal, TypeAlias, get_args

Kind: TypeAlias = Literal["drop", "delay", "duplicate", "corrupt", "insert", "split", "cut", "stall"]
Way: TypeAlias = Literal["both", "in", "out"]

_CHUNK = 4096
_QUEUE_LIMIT = 1 << 20


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault in a window of bytes and of seconds since the stream began.

    drop, duplicate, corrupt, insert: each byte with probability `rate`; insert puts noise behind it. delay: each chunk
    comes `seconds` late, with probability `rate`. split: likewise each chunk comes byte by byte, `seconds` apart.
    stall: once, at the window's start, everything waits `seconds`. cut: at the window's start the stream ends.
    """

    kind: Kind
    rate: float = 1.0
    seconds: float = 0.0
    after_bytes: int = 0
    for_bytes: int | None = None
    after_s: float = 0.0
    for_s: float | None = None
    way: Way = "both"

    def holds(self, index: int, age_s: float) -> bool:
        """Say whether byte number `index` at that age of the stream lies in the window."""
        in_bytes = index >= self.after_bytes and (self.for_bytes is None or index < self.after_bytes + self.for_bytes)
        in_time = age_s >= self.after_s and (self.for_s is None or age_s < self.after_s + self.for_s)
        return in_bytes and in_time


@dataclass(frozen=True, slots=True)
class Passed:
    """What came through: wait so long, write `data`, then end the stream if `cut`.

    With `apart_s` its bytes are written one by one, so many seconds between them.
    """

    data: bytes
    wait_s: float = 0.0
    cut: bool = False
    apart_s: float | None = None

    def pieces(self) -> list[Passed]:
        """Return what to write at once, in order."""
        if self.apart_s is None or len(self.data) < 2:
            return [self]
        waits = [self.wait_s] + [self.apart_s] * (len(self.data) - 1)
        pieces = [Passed(bytes((byte,)), wait_s) for byte, wait_s in zip(self.data, waits, strict=True)]
        pieces[-1] = replace(pieces[-1], cut=self.cut)
        return pieces


class Lane:
    """One direction of a stream with its faults; asks no clock, so the caller says how old the stream is."""

    def __init__(self, faults: Sequence[Fault], seed: int = 1) -> None:
        self._faults = [(fault, random.Random(f"{seed} {number}")) for number, fault in enumerate(faults)]
        self._index = 0
        self._stalled: set[int] = set()
        self._cut = False
        self.struck = 0
        """How often a fault has struck: bytes, or chunks where the fault is one of chunks."""

    def feed(self, chunk: bytes, age_s: float = 0.0) -> Passed:
        """Return what comes through of a chunk."""
        if not self._faults:
            return Passed(chunk)
        data = bytearray()
        strikes = bool(chunk) and not self._cut
        wait_s = sum(self._chunk_waits("delay", age_s)) if strikes else 0.0
        apart_s = max(self._chunk_waits("split", age_s), default=None) if strikes else None
        for byte in chunk:
            if self._cut:
                break
            wait_s += self._stall(age_s)
            data += self._damage(byte, age_s)
            self._index += 1
        return Passed(bytes(data), wait_s, self._cut, apart_s)

    def _chunk_waits(self, kind: Kind, age_s: float) -> list[float]:
        """Return the seconds of those faults of a kind that strike a whole chunk."""
        struck = [
            fault.seconds
            for fault, chance in self._faults
            if fault.kind == kind and fault.holds(self._index, age_s) and chance.random() < fault.rate
        ]
        self.struck += len(struck)
        return struck

    def _stall(self, age_s: float) -> float:
        wait_s = 0.0
        for number, (fault, _) in enumerate(self._faults):
            if fault.kind == "stall" and number not in self._stalled and fault.holds(self._index, age_s):
                self._stalled.add(number)
                self.struck += 1
                wait_s += fault.seconds
        return wait_s

    def _damage(self, byte: int, age_s: float) -> bytes:
        out = bytes([byte])
        for fault, chance in self._faults:
            if fault.kind in {"delay", "split", "stall"} or not fault.holds(self._index, age_s):
                continue
            if fault.kind == "cut":
                self._cut = True
                self.struck += 1
                return b""
            if chance.random() < fault.rate:
                self.struck += 1
                out = _damaged(out, fault.kind, chance)
        return out


def _damaged(out: bytes, kind: Kind, chance: random.Random) -> bytes:
    if kind == "drop":
        return b""
    if kind == "duplicate":
        return out + out
    if kind == "insert":
        return out + chance.randbytes(1)
    return bytes(byte ^ chance.randrange(1, 256) for byte in out)


class Pipe:
    """Carry bytes through a lane from a plain call to a plain call, in order and late where a fault says so."""

    def __init__(self, lane: Lane, sink: Callable[[bytes], None], on_cut: Callable[[], None]) -> None:
        self._lane = lane
        self._spoilt: Lane | None = None
        self._sink = sink
        self._on_cut = on_cut
        self._began = time.monotonic()
        self._waiting: deque[Passed] = deque()
        self._bytes = 0
        self._wake = asyncio.Event()

    def spoil(self, lane: Lane | None) -> None:
        """Let what comes from now on pass another lane too; None ends that."""
        self._spoilt = lane

    def feed(self, data: bytes) -> None:
        """Take bytes in; what needs no wait goes straight through."""
        passed = self._lane.feed(data, time.monotonic() - self._began)
        if self._spoilt is not None:
            spoilt = self._spoilt.feed(passed.data)
            passed = replace(spoilt, wait_s=passed.wait_s + spoilt.wait_s, cut=passed.cut or spoilt.cut)
        for piece in passed.pieces():
            self._pass_on(piece)

    def _pass_on(self, passed: Passed) -> None:
        if not self._waiting and not passed.wait_s:
            self._deliver(passed)
        elif self._bytes + len(passed.data) <= _QUEUE_LIMIT:
            self._bytes += len(passed.data)
            self._waiting.append(passed)
            self._wake.set()

    async def run(self) -> None:
        """Deliver what has to wait, until cancelled."""
        while True:
            await self._wake.wait()
            while self._waiting:
                await asyncio.sleep(self._waiting[0].wait_s)
                passed = self._waiting.popleft()
                self._bytes -= len(passed.data)
                self._deliver(passed)
            self._wake.clear()

    def _deliver(self, passed: Passed) -> None:
        if passed.data:
            self._sink(passed.data)
        if passed.cut:
            self._on_cut()


async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, lane: Lane) -> None:
    """Copy a stream through a lane until it ends or is cut; closes the writer."""
    began = time.monotonic()
    try:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(_CHUNK):
                passed = lane.feed(data, time.monotonic() - began)
                for piece in passed.pieces():
                    await asyncio.sleep(piece.wait_s)
                    writer.write(piece.data)
                    await writer.drain()
                if passed.cut:
                    break
    finally:
        writer.close()


@contextlib.asynccontextmanager
async def proxy(host: str, port: int, faults: Sequence[Fault], seed: int = 1) -> AsyncIterator[int]:
    """Yield a local TCP port that leads to another through the faults; "out" is what the far side answers."""

    serving: set[asyncio.Task[None]] = set()

    async def serve(near_reader: asyncio.StreamReader, near_writer: asyncio.StreamWriter) -> None:
        if task := asyncio.current_task():
            serving.add(task)
            task.add_done_callback(serving.discard)
        try:
            far_reader, far_writer = await asyncio.open_connection(host, port)
        except OSError:
            near_writer.close()
            return
        lanes = lane(faults, "in", seed), lane(faults, "out", seed)
        async with asyncio.TaskGroup() as group:
            group.create_task(carry(near_reader, far_writer, lanes[0]), name="in")
            group.create_task(carry(far_reader, near_writer, lanes[1]), name="out")

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)


def lane(faults: Sequence[Fault], way: Way, seed: int = 1) -> Lane:
    """Return the lane of one direction with the faults that concern it."""
    return Lane([fault for fault in faults if fault.way in {"both", way}], seed)


def parse(text: str) -> Fault:
    """Return the fault of a text like `corrupt:rate=0.01,after_bytes=200,way=out`; raises ValueError."""
    kind, _, rest = text.partition(":")
    if kind not in get_args(Kind):
        raise ValueError(f"{kind!r} is no fault; one of {', '.join(get_args(Kind))}")
    settings: dict[str, str | int | float] = {}
    for part in filter(None, rest.split(",")):
        key, _, value = part.partition("=")
        settings[key] = _setting(key, value)
    return Fault(kind, **settings)  # type: ignore[arg-type]  # each key was converted to its field's type


def _setting(key: str, value: str) -> str | int | float:
    if key == "way":
        if value not in get_args(Way):
            raise ValueError(f"way={value}: one of {', '.join(get_args(Way))}")
        return value
    if key not in {field.name for field in fields(Fault)} - {"kind"}:
        raise ValueError(f"{key!r} is no setting of a fault")
    number = int(value) if key.endswith("bytes") else float(value)
    if not number >= 0:  # nor is it no number
        raise ValueError(f"{key}={value} is not 0 or more")
    return number


def add_fault_option(parser: argparse.ArgumentParser) -> None:
    """Add --fault, which may be given several times."""

    def fault(text: str) -> Fault:
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    parser.add_argument(
        "--fault",
        type=fault,
        action="append",
        default=[],
        metavar="KIND[:KEY=VALUE,…]",
        help="damage the bytes: drop, delay, duplicate, corrupt, insert, split, cut or stall; keys rate, seconds, "
        "after_bytes, for_bytes, after_s, for_s, way=in|out (as seen from the device). "
        "Example: corrupt:rate=0.001,after_s=60",
    )
