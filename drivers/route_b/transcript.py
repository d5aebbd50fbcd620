"""The last bytes on a dongle's serial line, kept in a bounded ring, and shown with everything secret removed.

What is removed: SKSETPWD, SKSETRBID, pairing IDs, PANA frames (port 02CC, which carry the ID in clear), and wherever
they stand, in plain or as hexadecimal digits, all pieces of four characters of the ID and the password.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING

from drivers.api import Clock, Json
from drivers.route_b.conversation import Credentials

if TYPE_CHECKING:
    from drivers.route_b.conversation import Port

RING_BYTES = 48 * 1024
ENTRY_BYTES = 32
"""What an entry costs beside its bytes."""
SHOWN_BYTES = 40 * 1024
"""What an answer holds at most: it must fit one message of the agent's."""
PIECE = 4
ROW_LETTERS = 2800
"""The longest line of an SK dongle fits."""
WITHHELD = "(PANA)"

_LINE_END = re.compile(rb"[\r\n]+")
_PANA_HEAD = re.compile(rb"ERXUDP (?:\S+ ){2}(?:\S+ 02CC|02CC \S+) .*? ([0-9A-F]{4}) ", re.IGNORECASE | re.DOTALL)
_PANA = re.compile(r"(?<![:\w])02CC(?![:\w]).*", re.IGNORECASE | re.DOTALL)
_SECRETS = re.compile(r"(SKSETPWD|SKSETRBID|PairID:|S0A)\s*.*", re.IGNORECASE | re.DOTALL)
_HEX = re.compile(rb"[0-9A-Fa-f]*")
_J11_FRAME = re.compile(r"(?=\\xd0\\xf9\\xee\])")  # escaped: D0 F9 EE 5D begins what a J11 dongle says
_UNREADABLE = re.compile(r"[^\x20-\x7e]")


class Transcript:
    """A ring of what went over one port, oldest out."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._entries: deque[tuple[int, str, bytes]] = deque()
        self._bytes = 0

    def note(self, direction: str, data: bytes) -> None:
        """Keep bytes that were read (`<`) or written (`>`)."""
        data = data[-RING_BYTES:]
        self._entries.append((self._clock.boot_ms(), direction, data))
        self._bytes += len(data) + ENTRY_BYTES
        while self._bytes > RING_BYTES and len(self._entries) > 1:
            self._bytes -= len(self._entries.popleft()[2]) + ENTRY_BYTES

    def tapped(self, port: Port) -> Port:
        """Return the same port, listened in on."""
        return _Tap(port, self)

    def shown(self, credentials: Credentials) -> list[Json]:
        """Return the newest lines, oldest first, as `[seconds before now, direction, text]` without any secret."""
        mask = Mask(credentials)
        now_ms, entries = self._clock.boot_ms(), list(self._entries)
        written = [(number, _readable(data.strip())) for number, (_, way, data) in enumerate(entries) if way == ">"]
        lines = sorted([*self._received(), *written], key=lambda line: line[0])
        shown: list[Json] = []
        size = 0
        for number, text in reversed(lines):
            at_ms, way, _ = entries[number]
            for row in reversed(_rows(mask(text))):
                size += len(row) + ENTRY_BYTES
                if size > SHOWN_BYTES:
                    return shown[::-1]
                shown.append([round((at_ms - now_ms) / 1000, 3), way, row])
        return shown[::-1]

    def _received(self) -> Iterator[tuple[int, str]]:
        """Yield the lines that arrived, however they were chunked, with the number of the entry they begin in."""
        entries = [(number, data) for number, (_, way, data) in enumerate(self._entries) if way == "<"]
        ends, total = [], 0
        for _, data in entries:
            total += len(data)
            ends.append(total)
        for offset, line in _lines(b"".join(data for _, data in entries)):
            yield entries[bisect_right(ends, offset)][0], line


class _Tap:
    """A port whose bytes are noted."""

    def __init__(self, port: Port, transcript: Transcript) -> None:
        self._port = port
        self._transcript = transcript

    async def read(self) -> bytes:
        data = await self._port.read()
        self._transcript.note("<", data)
        return data

    async def write(self, data: bytes) -> None:
        self._transcript.note(">", data)
        await self._port.write(data)


class Mask:
    """Takes the secrets of one meter out of lines."""

    def __init__(self, credentials: Credentials) -> None:
        pieces = {piece for piece in _pieces(credentials.route_b_id) if len(set(piece)) > 2}  # 0000 gives nothing away
        pieces |= set(_pieces(credentials.password))
        spelled = {piece.encode().hex() for piece in pieces}
        words = sorted(map(re.escape, pieces | spelled), key=len, reverse=True)
        self._piece = re.compile(f"(?=({'|'.join(words)}))", re.IGNORECASE) if words else None

    def __call__(self, text: str) -> str:
        """Return a line fit for strangers."""
        text = _SECRETS.sub(r"\1 ****", text)
        text = _PANA.sub(f"02CC {WITHHELD}", text)
        if self._piece is None:
            return text
        letters = list(text)
        for found in self._piece.finditer(text):
            letters[found.start(1) : found.end(1)] = "*" * len(found[1])
        return "".join(letters)


def _rows(text: str) -> list[str]:
    """Cut a text that has no line ends: before each frame of a J11 dongle, and where it gets too long to be read."""
    return [part[at : at + ROW_LETTERS] for part in _J11_FRAME.split(text) for at in range(0, len(part), ROW_LETTERS)]


def _pieces(secret: str) -> Iterator[str]:
    return (secret[at : at + PIECE] for at in range(len(secret) - PIECE + 1))


def _lines(stream: bytes) -> Iterator[tuple[int, str]]:
    """Yield lines with their offset; the data of a PANA frame end by their length, for they may hold line ends."""
    at = 0
    while at < len(stream):
        end = _LINE_END.search(stream, at)
        behind = end.start() if end else len(stream)
        head = _PANA_HEAD.search(stream, at, behind)
        if head is not None:
            yield at, _readable(stream[at : head.end()])
            at = _behind_data(stream, head.end(), int(head[1], 16))
            continue
        if behind > at:
            yield at, _readable(stream[at:behind])
        at = end.end() if end else len(stream)


def _behind_data(stream: bytes, begin: int, size: int) -> int:
    """Return where the data of a datagram end, be they raw bytes or twice as many hexadecimal digits."""
    digits = _HEX.match(stream, begin, begin + 2 * size)
    as_digits = digits is not None and len(digits[0]) == 2 * size
    return min(len(stream), begin + (2 * size if as_digits else size))


def _readable(data: bytes) -> str:
    return _UNREADABLE.sub(lambda found: f"\\x{ord(found[0]):02x}", data.decode("latin-1"))
