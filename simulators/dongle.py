"""A Wi-SUN dongle that speaks SKSTACK-IP on its serial side, with one meter in radio range. Knows no ECHONET Lite.

Both dialects of the product family: A1 (BP35A1) and C2 (BP35C2, RS-WSUHA-P), in ASCII or binary data mode.
"""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

Dialect: TypeAlias = Literal["a1", "c2"]

METER_MAC = "001C640003CD76A4"
METER_ADDRESS = "FE80:0000:0000:0000:021C:6400:03CD:76A4"
DONGLE_MAC = "001D129100000574"
DONGLE_ADDRESS = "FE80:0000:0000:0000:021D:1291:0000:0574"
EVERYONE = "FF02:0000:0000:0000:0000:0000:0000:0001"
CHANNEL = 0x3B
PAN_ID = 0x76A4
LQI = 0xB2

ECHONET_PORT = 0x0E1A
_LINE_LIMIT = 8192
_MOST_DATA = 0x4D0
_CHANNELS = 28
_JOIN_S = 4.0
_JOIN_FAILS_S = 38.0
_ECHO_REGISTER, _CHANNEL_REGISTER, _PAN_REGISTER, _PAIR_REGISTER, _RSSI_REGISTER = 0xFE, 0x02, 0x03, 0x0A, 0xA2
_LIMIT_REGISTER, _SENT_REGISTER = 0xFB, 0xFD

_VERSIONS = {"a1": "1.2.10", "c2": "1.5.2"}
_DEFAULTS = {
    0x01: "00000000",
    _CHANNEL_REGISTER: "21",
    _PAN_REGISTER: "FFFF",
    0x07: "00000000",
    _PAIR_REGISTER: "CCDDEEFF",
    0x15: "0",
    0x16: "00000384",
    0x17: "1",
    0xA0: "1",
    0xA1: "1",
    _RSSI_REGISTER: "0",  # A1 takes it and adds no word: clients set it without asking which module they have
    0xF0: "0",
    _LIMIT_REGISTER: "0",
    _SENT_REGISTER: "00000000",
    _ECHO_REGISTER: "1",
    0xFF: "0",
}
_ADDRESS = re.compile(r"[0-9A-Fa-f]{4}(:[0-9A-Fa-f]{4}){7}")


class Peer(Protocol):
    """The meter on the other side of the radio."""

    def joined(self) -> None:
        """Hear that a session stands."""

    def heard(self, data: bytes) -> None:
        """Hear a datagram on the ECHONET Lite port."""


@dataclass(frozen=True, slots=True)
class Neighbour:
    """The meter of another house in range: its beacons are heard, and it lets nobody of ours in."""

    mac: str = "001C640003CDFFFE"
    lqi: int = 0xF0
    pair_id: str = "01234567"


@dataclass(frozen=True, slots=True)
class Radio:
    """How the air behaves, and what the meter's owner wrote on the credentials' letter."""

    route_b_id: str = "00112233445566778899AABBCCDDEEFF"
    password: str = "0123456789AB"  # noqa: S105  (an invented meter's)
    radio_time: float = 0.0
    loss: float = 0.0
    latency_s: float = 0.0
    expires_s: float | None = None  # a session's lifetime, after which the dongle authenticates again by itself
    renews: bool = True  # whether that succeeds
    transmit_ms: int = 360_000  # in an hour, by ARIB STD-T108; then the dongle drops what it is told to send
    rest_s: float = 600.0  # until it may send again
    neighbour: Neighbour | None = None


class CommandError(Exception):
    """A command that the dongle answers with FAIL ERnn."""


_UNKNOWN, _BAD_COUNT, _BAD_VALUE, _UART, _FAILED = "ER04", "ER05", "ER06", "ER09", "ER10"


class Dongle:
    """The dongle from power-up on; `receive` takes the client's bytes, `write` gets what it says."""

    def __init__(
        self,
        dialect: Dialect,
        radio: Radio,
        write: Callable[[bytes], None],
        group: asyncio.TaskGroup,
        *,
        binary: bool = False,
        seed: int = 1,
    ) -> None:
        self.peer: Peer | None = None
        self.session = False
        self._a1 = dialect == "a1"
        self._version = _VERSIONS[dialect]
        self._radio = radio
        self._write = write
        self._group = group
        self._chance = random.Random(f"dongle {seed}")
        self._binary = binary
        self._buffer = bytearray()
        self._activity: asyncio.Task[None] | None = None
        self._lifetime: asyncio.Task[None] | None = None
        self._resting: asyncio.Task[None] | None = None
        self._power_up()
        self._commands: dict[str, Callable[[list[str]], None]] = {
            "SKVER": lambda _: self._ok(f"EVER {self._version}"),
            "SKAPPVER": lambda _: self._ok("EAPPVER rev26e"),
            "SKINFO": lambda _: self._info(),
            "SKRESET": lambda _: self._reset(),
            "SKSETPWD": self._set_password,
            "SKSETRBID": self._set_id,
            "SKSREG": self._register,
            "SKSCAN": self._scan,
            "SKLL64": self._link_local,
            "SKADDNBR": self._add_neighbour,
            "SKJOIN": self._join,
            "SKREJOIN": lambda _: self._rejoin(),
            "SKTERM": lambda _: self._terminate(),
            "SKSAVE": lambda _: self._ok(),
            "SKLOAD": lambda _: self._ok(),
            "SKERASE": lambda _: self._ok(),
        }

    def receive(self, data: bytes) -> None:
        """Take bytes from the serial side: command lines, and SKSENDTO with its raw data."""
        self._buffer += data
        while self._buffer and self._next_command():
            pass
        if len(self._buffer) > _LINE_LIMIT:
            self._buffer.clear()
            self._fail(_UART)

    def deliver(self, payload: bytes, *, to_everyone: bool = False) -> bool:
        """Hand the client a datagram from the meter; returns whether a session carried it."""
        if self.session:
            self._datagram(payload, ECHONET_PORT, secured=True, to_everyone=to_everyone)
        return self.session

    def end_session(self, event: int) -> None:
        """Lose the session as the air or the meter may: 26 asked by the peer, 27 or 28 ended, 29 expired."""
        self.session = False
        self._event(event, METER_ADDRESS)

    def announce(self, event: int, parameter: int | None = None) -> None:
        """Say an event of the radio, such as 32 and 33 (transmit limit on, off)."""
        self._event(event, METER_ADDRESS, parameter)

    def retune(self, radio: Radio) -> None:
        """Go on in other air."""
        self._radio = radio

    def lost(self) -> bool:
        """Say whether a datagram is lost in the air, by the seed."""
        return self._chance.random() < self._radio.loss

    def restart(self) -> None:
        """Start anew by itself, as a module does on a dip of its supply: silently, and with nothing kept in RAM."""
        self._buffer.clear()
        self._power_up()

    def power_off(self) -> None:
        """Stop what runs on the air; nothing is said any more."""
        self._power_up()
        self.peer = None

    def _power_up(self) -> None:
        self.session = False
        self._id = ""
        self._password = ""
        self._registers = dict(_DEFAULTS)
        self._sent_ms = 0.0
        for task in (self._activity, self._lifetime, self._resting):
            if task is not None:
                task.cancel()
        self._activity = self._lifetime = self._resting = None

    def _next_command(self) -> bool:
        """Take one command off the buffer; False when it is not complete yet."""
        if self._buffer[0] in b"\r\n":
            del self._buffer[:1]
            return True
        if self._buffer.upper().startswith(b"SKSENDTO "):
            return self._send_to()
        ends = [place for place in (self._buffer.find(b"\r"), self._buffer.find(b"\n")) if place >= 0]
        if not ends:
            return False
        line = bytes(self._buffer[: min(ends)])
        del self._buffer[: min(ends) + 1]
        self._obey(line)
        return True

    def _obey(self, line: bytes) -> None:
        words = line.decode("ascii", "replace").split()
        self._echo(line)
        if not words:
            return
        try:
            if words[0] in {"ROPT", "WOPT", "RUART"}:
                self._option(words)
            elif (command := self._commands.get(words[0].upper())) is not None:
                command(words[1:])
            else:
                raise CommandError(_UNKNOWN)
        except CommandError as error:
            self._fail(str(error))

    def _option(self, words: list[str]) -> None:
        """Answer the options of the serial side, whose lines end with CR alone."""
        if words[0] == "ROPT":
            self._write(b"OK 00\r" if self._binary else b"OK 01\r")
        elif words[0] == "RUART":
            self._write(b"OK 80\r")
        elif words[1:] in (["00"], ["01"], ["0"], ["1"]):
            self._binary = int(words[1]) == 0
            self._write(b"OK\r")
        else:
            raise CommandError(_BAD_VALUE)

    def _info(self) -> None:
        channel, pan = self._registers[_CHANNEL_REGISTER], self._registers[_PAN_REGISTER]
        side = "FFFE" if self._a1 else "0"
        self._ok(f"EINFO {DONGLE_ADDRESS} {DONGLE_MAC} {channel} {pan} {side}")

    def _reset(self) -> None:
        self._power_up()
        self._ok()

    def _set_password(self, words: list[str]) -> None:
        length, password = _exactly(words, 2)
        if not 1 <= _hex(length, 2) <= 32 or len(password) != _hex(length, 2):
            raise CommandError(_BAD_VALUE)
        self._password = password
        self._ok()

    def _set_id(self, words: list[str]) -> None:
        (route_b_id,) = _exactly(words, 1)
        if len(route_b_id) != 32:
            raise CommandError(_BAD_VALUE)
        self._id = route_b_id
        self._registers[_PAIR_REGISTER] = route_b_id[-8:]
        self._ok()

    def _register(self, words: list[str]) -> None:
        if len(words) not in {1, 2}:
            raise CommandError(_BAD_COUNT)
        number = _hex(words[0][1:], 2)
        if not words[0].upper().startswith("S") or number not in self._registers:
            raise CommandError(_BAD_VALUE)
        if len(words) == 1:
            self._ok(f"ESREG {self._registers[number]}")
            return
        if number != _PAIR_REGISTER:
            _hex(words[1], 8)
        if number == _CHANNEL_REGISTER and not 0x21 <= int(words[1], 16) <= 0x3C:
            raise CommandError(_BAD_VALUE)
        self._registers[number] = words[1].upper()
        self._ok()

    def _scan(self, words: list[str]) -> None:
        words = _exactly(words, 3 if self._a1 else 4)
        mode, _, duration = _hex(words[0], 1), _hex(words[1], 8), _hex(words[2], 1)
        if mode not in {0, 2, 3} or duration > 14 or (not self._a1 and words[3] != "0"):
            raise CommandError(_BAD_VALUE)
        dwell_s = 0.0096 * (2**duration + 1) * _CHANNELS * self._radio.radio_time
        self._begin(self._scanning(mode, dwell_s))
        self._ok()

    async def _scanning(self, mode: int, dwell_s: float) -> None:
        heard_at = self._chance.uniform(0.2, 0.8)
        await asyncio.sleep(dwell_s * heard_at)
        if mode == 2 and self._registers[_PAIR_REGISTER] == self._radio.route_b_id[-8:] and not self.lost():
            self._event(0x20, DONGLE_ADDRESS)
            self._beacon(METER_MAC, PAN_ID, LQI, self._radio.route_b_id[-8:])
        if (other := self._radio.neighbour) is not None:  # as a module without the filter for pairing IDs hears it
            self._event(0x20, DONGLE_ADDRESS)
            self._beacon(other.mac, int(other.mac[-4:], 16), other.lqi, other.pair_id)
        await asyncio.sleep(dwell_s * (1 - heard_at))
        self._event(0x22, DONGLE_ADDRESS)

    def _beacon(self, mac: str, pan_id: int, lqi: int, pair_id: str) -> None:
        side = [] if self._a1 else ["  Side:0"]
        self._line(
            "EPANDESC",
            f"  Channel:{CHANNEL:02X}",
            "  Channel Page:09",
            f"  Pan ID:{pan_id:04X}",
            f"  Addr:{mac}",
            f"  LQI:{lqi:02X}",
            *side,
            f"  PairID:{pair_id}",
        )

    def _link_local(self, words: list[str]) -> None:
        (mac,) = _exactly(words, 1)
        if len(mac) != 16:
            raise CommandError(_BAD_VALUE)
        interface = f"{_hex(mac, 16) ^ (0x02 << 56):016X}"
        groups = ":".join(interface[place : place + 4] for place in range(0, 16, 4))
        self._line(f"FE80:0000:0000:0000:{groups}")

    def _add_neighbour(self, words: list[str]) -> None:
        address, mac = _exactly(words, 2)
        if not _ADDRESS.fullmatch(address) or len(mac) != 16:
            raise CommandError(_BAD_VALUE)
        _hex(mac, 16)
        self._ok()

    def _join(self, words: list[str]) -> None:
        (address,) = _exactly(words, 1)
        if not _ADDRESS.fullmatch(address):
            raise CommandError(_BAD_VALUE)
        if self.session:
            raise CommandError(_BAD_COUNT)  # real ones answer ER05 while a session is open
        self._begin(self._joining(address.upper()))
        self._ok()

    def _rejoin(self) -> None:
        if not self.session:
            raise CommandError(_FAILED)
        self._begin(self._joining(METER_ADDRESS))
        self._ok()

    def _terminate(self) -> None:
        if not self.session:
            raise CommandError(_FAILED)
        self._ok()
        self.end_session(0x27)

    async def _joining(self, address: str) -> None:
        """Authenticate over PANA: what the client sees of it are four datagrams and the outcome."""
        step_s = _JOIN_S / 5 * self._radio.radio_time
        self._event(0x21, address, 0x02)
        if not self._in_range(address):
            await asyncio.sleep(_JOIN_FAILS_S * self._radio.radio_time)
            self.end_session(0x24)
            return
        self._event(0x02, address)
        known = (self._id, self._password) == (self._radio.route_b_id, self._radio.password)
        for frame in self._pana()[: None if known else 2]:
            await asyncio.sleep(step_s)
            self._datagram(frame, 0x02CC, secured=False)
            self._event(0x21, address, 0x00)
        await asyncio.sleep(step_s)
        if not known:
            self.end_session(0x24)
            return
        self._begin_session()
        self._event(0x25, address)
        if self.peer is not None:
            self.peer.joined()

    def _begin_session(self) -> None:
        self.session = True
        if self._radio.expires_s is not None:
            if self._lifetime is not None:
                self._lifetime.cancel()
            self._lifetime = self._group.create_task(self._expire(self._radio.expires_s), name="lifetime")

    async def _expire(self, lifetime_s: float) -> None:
        """Say each time the session expires, then authenticate again as register S17 has it."""
        while self.session:
            await asyncio.sleep(lifetime_s)
            self.session = False
            self._event(0x29, METER_ADDRESS)
            for frame in self._pana():
                await asyncio.sleep(_JOIN_S / 5 * self._radio.radio_time)
                self._datagram(frame, 0x02CC, secured=False)
            self.session = self._radio.renews
            self._event(0x25 if self._radio.renews else 0x24, METER_ADDRESS)

    def _in_range(self, address: str) -> bool:
        registers = self._registers
        here = int(registers[_CHANNEL_REGISTER], 16), int(registers[_PAN_REGISTER], 16)
        return address == METER_ADDRESS and here == (CHANNEL, PAN_ID)

    def _pana(self) -> tuple[bytes, ...]:
        """Return the four datagrams of an authentication; the second holds the route-B ID in clear, as real ones do."""
        session, first = self._chance.randbytes(4), self._chance.randrange(1, 1 << 31)

        def frame(number: int, flags: int, *attributes: tuple[int, bytes]) -> bytes:
            body = b"".join(
                code.to_bytes(2) + b"\0\0" + len(value).to_bytes(2) + b"\0\0" + value + b"\0" * (-len(value) % 4)
                for code, value in attributes
            )
            head = (16 + len(body)).to_bytes(2) + flags.to_bytes(2) + b"\0\x02"
            return b"\0\0" + head + session + (first + number).to_bytes(4) + body

        def eap(number: int, payload: bytes) -> tuple[int, bytes]:
            return 2, bytes([1, number]) + (5 + len(payload)).to_bytes(2) + b"\x2f" + payload

        nonce = self._chance.randbytes(16)
        greeting = b"\0" + nonce + b"SM" + self._radio.route_b_id.encode("ascii")
        proof = b"\x80" + nonce + self._chance.randbytes(38)
        return (
            frame(0, 0xC000, (6, (5).to_bytes(4)), (3, (12).to_bytes(4))),
            frame(1, 0x8000, (5, self._chance.randbytes(16)), eap(1, greeting)),
            frame(2, 0x8000, eap(2, proof)),
            frame(
                3,
                0xA000,
                (7, bytes(4)),
                (2, bytes.fromhex("03E40004")),
                (4, (22).to_bytes(4)),
                (8, (86_400).to_bytes(4)),
                (1, self._chance.randbytes(16)),
            ),
        )

    def _send_to(self) -> bool:
        """Take SKSENDTO: a head of words, each ended by one space, then as many raw bytes as it says."""
        words = 6 if self._a1 else 7
        parts = bytes(self._buffer).split(b" ", words)
        head = b" ".join(parts[:words])
        if (broken := re.search(rb"[\r\n]", head)) is not None:
            return self._drop_head(head[: broken.start()], broken.end())
        if len(parts) <= words:
            return False
        try:
            address, length = self._read_head([part.decode("ascii", "replace") for part in parts[1:words]])
        except CommandError as error:
            del self._buffer[: len(head) + 1]
            self._echo(head + b" ")
            self._fail(str(error))
            return True
        if len(parts[words]) < length:
            return False
        del self._buffer[: len(head) + 1 + length]
        self._echo(head + b" ")
        self._transmit(address, parts[words][:length])
        return True

    def _drop_head(self, line: bytes, taken: int) -> bool:
        del self._buffer[:taken]
        self._echo(line)
        self._fail(_BAD_COUNT)
        return True

    def _read_head(self, words: list[str]) -> tuple[str, int]:
        handle, address, port, security, *side, length = words
        if not _ADDRESS.fullmatch(address) or len(port) != 4 or len(length) != 4 or handle not in set("123456"):
            raise CommandError(_BAD_VALUE)
        if security not in {"0", "1", "2"} or side not in ([], ["0"]) or not 1 <= _hex(length, 4) <= _MOST_DATA:
            raise CommandError(_BAD_VALUE)
        _hex(port, 4)
        return address.upper(), _hex(length, 4)

    def _transmit(self, address: str, data: bytes) -> None:
        reached = self.session and address == METER_ADDRESS and self._resting is None
        self._event(0x21, address, 0x00 if reached else 0x01)
        self._ok()
        self._account(len(data))
        if reached and self.peer is not None and not self.lost():
            self.peer.heard(data)

    def _account(self, size: int) -> None:
        """Add a datagram to the transmit time (100 kbit/s, 60 bytes of heads); say when the hour's time is used up."""
        if self._resting is not None:
            return
        self._sent_ms += (size + 60) * 8 / 100
        self._registers[_SENT_REGISTER] = f"{int(self._sent_ms):08X}"
        if self._sent_ms >= self._radio.transmit_ms:
            self._registers[_LIMIT_REGISTER] = "1"
            self._event(0x32, METER_ADDRESS)
            self._resting = self._group.create_task(self._rest(), name="rest")

    async def _rest(self) -> None:
        await asyncio.sleep(self._radio.rest_s)
        self._sent_ms, self._resting = 0.0, None
        self._registers |= {_SENT_REGISTER: "00000000", _LIMIT_REGISTER: "0"}
        self._event(0x33, METER_ADDRESS)

    def _begin(self, work: Coroutine[None, None, None]) -> None:
        if self._activity is not None and not self._activity.done():
            work.close()
            raise CommandError(_FAILED)
        self._activity = self._group.create_task(work, name="radio")

    def _datagram(self, payload: bytes, port: int, *, secured: bool, to_everyone: bool = False) -> None:
        destination = EVERYONE if to_everyone else DONGLE_ADDRESS
        head = f"ERXUDP {METER_ADDRESS} {destination} {port:04X} {port:04X} {METER_MAC}"
        if not self._a1 and int(self._registers[_RSSI_REGISTER], 16):
            head += f" {LQI:02X}"
        head += f" {int(secured)} " + ("" if self._a1 else "0 ") + f"{len(payload):04X} "
        data = payload if self._binary else payload.hex().upper().encode()
        self._write(head.encode() + data + b"\r\n")

    def _event(self, number: int, address: str, parameter: int | None = None) -> None:
        side = "" if self._a1 else " 0"
        self._line(f"EVENT {number:02X} {address}{side}" + ("" if parameter is None else f" {parameter:02X}"))

    def _echo(self, line: bytes) -> None:
        if int(self._registers[_ECHO_REGISTER], 16):
            self._write(line + b"\r\n")

    def _ok(self, *lines: str) -> None:
        self._line(*lines, "OK")

    def _fail(self, error: str) -> None:
        self._line(f"FAIL {error}")

    def _line(self, *lines: str) -> None:
        self._write("".join(f"{line}\r\n" for line in lines).encode("ascii"))


def _exactly(words: list[str], count: int) -> list[str]:
    if len(words) != count:
        raise CommandError(_BAD_COUNT)
    return words


def _hex(text: str, most: int) -> int:
    """Return the number of at most so many hexadecimal digits; raises the dongle's ER06."""
    if not re.fullmatch(rf"[0-9A-Fa-f]{{1,{most}}}", text):
        raise CommandError(_BAD_VALUE)
    return int(text, 16)
