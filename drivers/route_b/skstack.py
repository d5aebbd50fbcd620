"""SKSTACK-IP, the command language of Wi-SUN dongles: bytes to events, commands to bytes. Pure: no port, no clock.

Two dialects (A1: BP35A1 and kin; C2: BP35C2, RS-WSUHA-P and kin) and two data forms (hex digits, raw bytes).
PANA frames carry the route-B ID in clear (EAP-PSK), so their content never leaves this module.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from drivers.api import MalformedError

Dialect: TypeAlias = Literal["A1", "C2"]

MAX_LINE_BYTES = 1024
"""No line of text is longer; the longest known (ERXUDP without its data) has 126."""
MAX_DATA_BYTES = 0x4D0
"""The most an ERXUDP or SKSENDTO carries (the dongle's MTU)."""
MAX_BUFFER_BYTES = 8 * 1024
ECHONET_PORT = 0x0E1A
PANA_PORT = 0x02CC


@dataclass(frozen=True, slots=True)
class Line:
    """A line of text: an answer (`OK`, `FAIL ER04`, `EINFO …`) or the echo of a command."""

    text: str


@dataclass(frozen=True, slots=True)
class SkEvent:
    """`EVENT`: its number, the address it is about ("" where the dongle gives none), and its parameter."""

    number: int
    address: str
    parameter: int | None = None


@dataclass(frozen=True, slots=True)
class Pan:
    """A network found by a scan (EPANDESC): channel 33-60, PAN ID, the meter's MAC as 16 hex digits."""

    channel: int
    pan_id: int
    mac: str
    lqi: int
    pair_id: str = field(default="", repr=False)  # the end of the route-B ID


@dataclass(frozen=True, slots=True)
class Datagram:
    """A UDP datagram from the air; `lqi` where the dongle reports it."""

    sender: str
    destination: str
    remote_port: int
    local_port: int
    mac: str
    secured: bool
    data: bytes
    lqi: int | None = None


@dataclass(frozen=True, slots=True)
class PanaFrame:
    """An authentication frame arrived; its content is withheld."""

    mac: str
    size: int


@dataclass(frozen=True, slots=True)
class Noise:
    """Bytes that make no sense were dropped."""

    reason: str


Incoming: TypeAlias = Line | SkEvent | Pan | Datagram | PanaFrame | Noise

_HEX = rb"[0-9A-Fa-f]"
_IP6 = rb"(?:" + _HEX + rb"{4}:){7}" + _HEX + rb"{4}"
# The widths of the fields tell the dialects apart: LQI has two digits, SECURED and SIDE one, DATALEN four.
_ERXUDP = re.compile(
    rb"ERXUDP (%b) (%b) (%b{4}) (%b{4}) (%b{16}) (?:(%b{2}) )?([01])(?: %b)? (%b{4}) "
    % (_IP6, _IP6, _HEX, _HEX, _HEX, _HEX, _HEX, _HEX)
)
_ERXUDP_WORD = b"ERXUDP "
_MAX_ERXUDP_HEAD = 126
_EVENT = re.compile(rb"EVENT (%b{2})(?: (%b))?(?: %b)?(?: (%b{2}))?\s*$" % (_HEX, _IP6, _HEX, _HEX))
_LINE_END = re.compile(rb"[\r\n]")
_NOT_HEX = re.compile(rb"[^0-9A-Fa-f]")
_PAN_FIELD = re.compile(rb"\s*(Channel Page|Channel|Pan ID|Addr|LQI|Side|PairID):(%b+)\s*$" % _HEX)
_PAN_WIDTHS = {"Channel": 2, "Channel Page": 2, "Pan ID": 4, "Addr": 16, "LQI": 2, "Side": 1, "PairID": 8}


class SkReader:
    """Cut a byte stream into events, however it was chunked; `binary` when the dongle passes data as raw bytes."""

    def __init__(self, *, binary: bool = False) -> None:
        self.binary = binary
        self._buffer = bytearray()
        self._skipping = False  # up to the next line end, after bytes that made no sense
        self._pan: dict[str, int | str] | None = None

    @property
    def waiting(self) -> bool:
        """Tell whether bytes are kept that wait for more."""
        return bool(self._buffer)

    def feed(self, chunk: bytes) -> list[Incoming]:
        """Take bytes in and return what is complete now; never raises."""
        events: list[Incoming] = []
        for at in range(0, len(chunk), MAX_BUFFER_BYTES // 2):  # keeps the buffer bounded whatever a read returned
            self._buffer += chunk[at : at + MAX_BUFFER_BYTES // 2]
            while self._step(events):
                pass
        return events

    def give_up(self) -> list[Incoming]:
        """Drop the first word of what waits for more (a byte was lost) and return what the rest holds."""
        if not self._buffer:
            return []
        events: list[Incoming] = [Noise(f"{len(self._buffer)} bytes waited for more")]
        del self._buffer[:1]
        self._skipping = True
        while self._step(events):
            pass
        return events

    def _step(self, events: list[Incoming]) -> bool:
        """Consume one piece from the front of the buffer; False when it needs more bytes."""
        buffer = self._buffer
        found = _LINE_END.search(buffer)
        end = found.start() if found else -1
        if self._skipping:
            return self._skip(end)
        if end == 0:
            del buffer[:1]
            return True
        start = buffer.find(_ERXUDP_WORD, 0, end if end >= 0 else len(buffer))
        if start > MAX_LINE_BYTES or (start < 0 and (end if end >= 0 else len(buffer)) > self._line_limit(end)):
            events.append(Noise(f"no line end within {MAX_LINE_BYTES} bytes"))
            self._skipping = True
            return True
        if start >= 0:
            return self._take_datagram(events, start, end)
        if end < 0:
            return False
        line = bytes(buffer[:end])
        del buffer[: end + 1]
        self._take_line(events, line)
        return True

    @staticmethod
    def _line_limit(end: int) -> int:
        # While the end is not in sight, the last bytes may still be the beginning of ERXUDP.
        return MAX_LINE_BYTES if end >= 0 else MAX_LINE_BYTES + len(_ERXUDP_WORD)

    def _skip(self, end: int) -> bool:
        if end < 0:
            self._buffer.clear()
            return False
        del self._buffer[: end + 1]
        self._skipping = False
        return True

    def _take_datagram(self, events: list[Incoming], start: int, end: int) -> bool:
        """Consume the ERXUDP at `start`, with the echo of a command that may be glued in front of it."""
        buffer = self._buffer
        head = _ERXUDP.match(buffer, start)
        if head is None:
            if end < 0 and len(buffer) - start <= _MAX_ERXUDP_HEAD:
                return False
            return self._drop(events, start, "an ERXUDP line out of form")
        size = int(head[8], 16)
        behind = head.end() + (size if self.binary else 2 * size)
        if fault := self._fault(head.end(), behind, size):
            return self._drop(events, start, fault)
        if len(buffer) <= behind:
            return False
        raw = bytes(buffer[head.end() : behind])
        data = raw if self.binary else bytes.fromhex(raw.decode("ascii"))
        if start:
            self._take_line(events, bytes(buffer[:start]))
        events.append(_datagram(head, data))
        del buffer[: behind + 1]
        return True

    def _fault(self, begin: int, behind: int, size: int) -> str:
        """Return what is wrong with the data from `begin` to `behind`, as far as they have arrived."""
        if size > MAX_DATA_BYTES:
            return f"an ERXUDP of {size} bytes"
        if not self.binary and (other := _NOT_HEX.search(self._buffer, begin, behind)):
            return f"an ERXUDP whose data end or stop being hexadecimal after {other.start() - begin} digits"
        if len(self._buffer) > behind and self._buffer[behind] not in b"\r\n":
            return "an ERXUDP longer than it claims"
        return ""

    def _drop(self, events: list[Incoming], start: int, reason: str) -> bool:
        events.append(Noise(reason))
        del self._buffer[: start + len(_ERXUDP_WORD)]
        self._skipping = True
        return True

    def _take_line(self, events: list[Incoming], line: bytes) -> None:
        if (at := line.find(b"EVENT ")) >= 0:
            if at:
                events.append(_line(line[:at]))
            events.append(_event(line[at:]))
        elif b"EPANDESC" in line:
            self._pan = {}
        elif self._pan is not None and (found := _PAN_FIELD.match(line)):
            self._take_pan_field(events, found[1].decode(), found[2].decode().upper())
        else:
            events.append(_line(line))

    def _take_pan_field(self, events: list[Incoming], name: str, digits: str) -> None:
        assert self._pan is not None  # noqa: S101  (the caller has looked)
        if len(digits) != _PAN_WIDTHS[name]:
            events.append(Noise(f"an EPANDESC with {len(digits)} digits of {name}"))
            self._pan = None
            return
        self._pan[name] = digits if name in {"Addr", "PairID"} else int(digits, 16)
        if name == "PairID":  # the last line of either dialect
            events.append(_pan(self._pan))
            self._pan = None


def _line(raw: bytes) -> Line:
    return Line(raw.decode("ascii", "replace").strip())


def _event(raw: bytes) -> SkEvent | Noise:
    found = _EVENT.match(raw)
    if found is None:
        return Noise("an EVENT line out of form")
    number, address, parameter = found.groups()
    return SkEvent(
        int(number, 16),
        address.decode().upper() if address else "",
        int(parameter, 16) if parameter else None,
    )


def _pan(fields: dict[str, int | str]) -> Pan | Noise:
    channel, pan_id, mac, lqi = (fields.get(name) for name in ("Channel", "Pan ID", "Addr", "LQI"))
    if not (isinstance(channel, int) and isinstance(pan_id, int) and isinstance(mac, str) and isinstance(lqi, int)):
        return Noise("an EPANDESC with lines missing")
    return Pan(channel, pan_id, mac, lqi, str(fields["PairID"]))


def _datagram(head: re.Match[bytes], data: bytes) -> Datagram | PanaFrame:
    sender, destination, remote, local, mac, lqi, secured, _ = head.groups()
    address = mac.decode().upper()
    if PANA_PORT in (remote_port := int(remote, 16), local_port := int(local, 16)):
        return PanaFrame(address, len(data))
    return Datagram(
        sender=sender.decode().upper(),
        destination=destination.decode().upper(),
        remote_port=remote_port,
        local_port=local_port,
        mac=address,
        secured=secured == b"1",
        data=data,
        lqi=int(lqi, 16) if lqi else None,
    )


def parse_erxudp(text: str) -> Datagram | PanaFrame:
    """Return the one ERXUDP line (hex data, either dialect) that a text is; raises MalformedError."""
    return _only_datagram(SkReader().feed(text.encode("ascii", "replace") + b"\r\n"))


def parse_binary_erxudp(line: bytes) -> Datagram | PanaFrame:
    """Return the one ERXUDP line (raw data, either dialect) that some bytes are; raises MalformedError."""
    return _only_datagram(SkReader(binary=True).feed(line + b"\r\n"))


def _only_datagram(events: list[Incoming]) -> Datagram | PanaFrame:
    found = [event for event in events if isinstance(event, Datagram | PanaFrame)]
    if len(found) == 1:
        return found[0]
    reasons = [event.reason for event in events if isinstance(event, Noise)]
    raise MalformedError(reasons[0] if reasons else "no ERXUDP line")


def end_of_binary_erxudp(line: bytes) -> int | None:
    """Return where the raw data end of the ERXUDP that begins in `line`, perhaps behind it; None when it has no such.

    Raw data are told from hex digits by their first byte: 10 of ECHONET Lite, 00 of PANA.
    """
    head = _ERXUDP.search(line)
    if head is None or line[head.end() : head.end() + 1] not in {b"\x10", b"\x00"}:
        return None
    size = int(head[8], 16)
    return head.end() + size if size <= MAX_DATA_BYTES else None


def dbm(lqi: int) -> float:
    """Return the received power for a link quality (dongle manuals: 0.275 x LQI - 104.27)."""
    return round(0.275 * lqi - 104.27, 1)


def link_local(mac: str) -> str:
    """Return the IPv6 address of a MAC (what SKLL64 answers), in the full form that SKSENDTO wants."""
    digits = f"{int(mac[:2], 16) ^ 0x02:02X}{mac[2:].upper()}"
    return "FE80:0000:0000:0000:" + ":".join(digits[at : at + 4] for at in range(0, 16, 4))


def command(*words: str) -> bytes:
    """Return a command line; raises ValueError for words that would break out of it."""
    line = " ".join(words)
    if not line.isascii() or not line.isprintable():
        raise ValueError("a command holds printable ASCII only")
    # ROPT and WOPT end with CR alone: with CRLF some firmware takes the LF as an empty command.
    return line.encode("ascii") + (b"\r" if words[0] in {"ROPT", "WOPT"} else b"\r\n")


def set_password(password: str) -> bytes:
    """Return SKSETPWD (its length is hexadecimal); the dongle forgets it with its power."""
    return command("SKSETPWD", f"{len(password):X}", password)


def set_route_b_id(route_b_id: str) -> bytes:
    """Return SKSETRBID, which also makes a scan look for this ID alone."""
    return command("SKSETRBID", route_b_id)


def scan(dialect: Dialect, duration: int) -> bytes:
    """Return an active scan of all channels with the pairing element; C2 dongles want a side."""
    return command("SKSCAN", "2", "FFFFFFFF", f"{duration:X}", *_side(dialect))


def scan_s(duration: int) -> float:
    """Return how long a scan takes: 28 channels of 9.6 ms x (2^d + 1) each."""
    return 0.2688 * (float(1 << duration) + 1)


def send_to(dialect: Dialect, address: str, data: bytes) -> bytes:
    """Return SKSENDTO with `data` for the ECHONET port, encrypted or not sent; nothing follows the data."""
    if not 0 < len(data) <= MAX_DATA_BYTES:
        raise ValueError(f"a datagram of {len(data)} bytes")
    words = ("SKSENDTO", "1", address, f"{ECHONET_PORT:04X}", "1", *_side(dialect), f"{len(data):04X}")
    return " ".join(words).encode("ascii") + b" " + data


def _side(dialect: Dialect) -> tuple[str, ...]:
    return ("0",) if dialect == "C2" else ()


_SHOWN = re.compile(r"(?:OK|FAIL|EVER|EINFO|ESREG|EVENT|SKVER|SKINFO|SKRESET|SKSCAN|SKJOIN|SKTERM|SKREJOIN|SKSREG)\b")
_SHOWN_DATAGRAM = re.compile(r"ERXUDP \S+ \S+ (?!02CC)\S{4} (?!02CC)\S{4} ", re.IGNORECASE)


def masked(text: str) -> str:
    """Return a line fit for a log: only what is known to hold no secret is shown, the rest by its length.

    SKSETPWD and SKSETRBID hold the credentials, PANA frames (port 02CC) and pairing IDs parts of them, and so may
    any line that noise has cut.
    """
    if _SHOWN.match(text) or _SHOWN_DATAGRAM.match(text):
        return text
    return f"({len(text)} characters)"
