"""A Wi-SUN dongle that speaks SKSTACK-IP on its serial side, with one meter in radio range. Knows no ECHONET Lite.

Both dialects of the product family: A1 (BP35A1) and C2 (BP35C2, RS-WSUHA-P), in ASCII or binary data mode, and the
RL7023 Stick-D/DSS: C2, always ASCII, without the commands that ask for the data mode and set it.
"""

from __future__ import annotations

import asyncio
import random
import re
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Literal, TypeAlias

from simulators import pana
from simulators.air import CHANNEL, LQI, Peer, Radio, Times, link_local
from simulators.sk_words import (
    ADDRESS,
    BAD_BYTES,
    BAD_COUNT,
    BAD_VALUE,
    CHANNEL_NUMBER,
    ECHO,
    FAILED,
    LIMITED,
    PAIR,
    PAN,
    REGISTERS,
    RSSI,
    SENT,
    UNKNOWN,
    CommandError,
    exactly,
    hex_number,
    read_head,
)

Dialect: TypeAlias = Literal["a1", "c2", "dss"]

DONGLE_MAC = "001D129100000574"
DONGLE_ADDRESS = "FE80:0000:0000:0000:021D:1291:0000:0574"
EVERYONE = "FF02:0000:0000:0000:0000:0000:0000:0001"
ECHONET_PORT = 0x0E1A
_LINE_LIMIT = 8192
_CHANNELS = 28
_JOIN_S = 4.0
_JOIN_FAILS_S = 38.0
_VERSIONS = {"a1": "1.2.10", "c2": "1.5.2", "dss": "1.5.2"}


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
        tally: Counter[str] | None = None,
    ) -> None:
        self.peer: Peer | None = None
        self.session = False
        self.tally: Counter[str] = Counter() if tally is None else tally
        """How often what happened to whom talks to it."""
        self._a1 = dialect == "a1"
        self._has_options = dialect != "dss"
        self._version = _VERSIONS[dialect]
        self._radio = radio
        self._write = write
        self._group = group
        self._chance = random.Random(f"dongle {seed}")
        self._times = Times(random.Random(f"times {seed}"))
        self._binary = binary and self._has_options
        self._buffer = bytearray()
        self._activity: asyncio.Task[None] | None = None
        self._lifetime: asyncio.Task[None] | None = None
        self._resting: asyncio.Task[None] | None = None
        self._leaving: asyncio.Task[None] | None = None
        self._joined_with = ""
        self._power_up()
        self._commands: dict[str, Callable[[list[str]], None]] = {
            "SKVER": lambda _: self._ok(f"EVER {self._version}"),
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
        if self._has_options:
            self._commands["SKAPPVER"] = lambda _: self._ok("EAPPVER rev26e")

    def receive(self, data: bytes) -> None:
        """Take bytes from the serial side: command lines, and SKSENDTO with its raw data."""
        self._buffer += data
        while self._buffer and self._next_command():
            pass
        if len(self._buffer) > _LINE_LIMIT:
            self._buffer.clear()
            self._fail(BAD_BYTES)

    @property
    def in_touch(self) -> bool:
        """Tell whether a session stands with the meter that hangs there now."""
        return self.session and self._joined_with == self._radio.mac

    def deliver(self, payload: bytes, *, to_everyone: bool = False) -> bool:
        """Hand the client a datagram from the meter; returns whether a session carried it."""
        if self.in_touch:
            self._datagram(payload, ECHONET_PORT, secured=True, to_everyone=to_everyone)
        return self.in_touch

    def end_session(self, event: int) -> None:
        """Lose the session as the air or the meter may: 26 asked by the peer, 27 or 28 ended, 29 expired."""
        self.session = False
        self._event(event, self._radio.address)

    def expire(self, *, renews: bool) -> None:
        """Let the session's lifetime end now; the dongle then authenticates again by itself, as register S17 has it."""
        if self.session:
            self._keep_lifetime(self._expire_now(renews=renews))

    def exhaust(self) -> None:
        """Use the hour's transmit time up; nothing leaves until `rested`."""
        self._sent_ms = float(self._radio.transmit_ms)
        self._limit(on=True)

    def rested(self) -> None:
        """Have transmit time again."""
        if self._limited:
            self._sent_ms = 0.0
            self._limit(on=False)

    def announce(self, event: int, parameter: int | None = None) -> None:
        """Say an event of the radio, such as 32 and 33 (transmit limit on, off)."""
        self._event(event, self._radio.address, parameter)

    def retune(self, radio: Radio) -> None:
        """Go on in other air."""
        self._radio = radio

    def lost(self) -> bool:
        """Say whether a datagram is lost in the air, by the seed."""
        lost = self._chance.random() < self._radio.loss
        self.tally["lost"] += lost
        return lost

    def answering_s(self, properties: int) -> float:
        """Return how long the meter takes to answer the request that left last."""
        return self._times.answering_s(self._radio, properties)

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
        self._registers = dict(REGISTERS)
        self._sent_ms = 0.0
        self._limited = False
        for task in (self._activity, self._lifetime, self._resting, self._leaving):
            if task is not None:
                task.cancel()
        self._activity = self._lifetime = self._resting = self._leaving = None

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
            if words[0] in {"ROPT", "WOPT", "RUART"} and (self._has_options or words[0] == "RUART"):
                self._option(words)
            elif (command := self._commands.get(words[0].upper())) is not None:
                command(words[1:])
            else:
                raise CommandError(UNKNOWN)
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
            raise CommandError(BAD_VALUE)

    def _info(self) -> None:
        channel, pan = self._registers[CHANNEL_NUMBER], self._registers[PAN]
        side = "FFFE" if self._a1 else "0"
        self._ok(f"EINFO {DONGLE_ADDRESS} {DONGLE_MAC} {channel} {pan} {side}")

    def _reset(self) -> None:
        self._power_up()
        self._ok()

    def _set_password(self, words: list[str]) -> None:
        length, password = exactly(words, 2)
        if not 1 <= hex_number(length, 2) <= 32 or len(password) != hex_number(length, 2):
            raise CommandError(BAD_VALUE)
        self._password = password
        self._ok()

    def _set_id(self, words: list[str]) -> None:
        (route_b_id,) = exactly(words, 1)
        if len(route_b_id) != 32:
            raise CommandError(BAD_VALUE)
        self._id = route_b_id
        self._registers[PAIR] = route_b_id[-8:]
        self._ok()

    def _register(self, words: list[str]) -> None:
        if len(words) not in {1, 2}:
            raise CommandError(BAD_COUNT)
        number = hex_number(words[0][1:], 2)
        if not words[0].upper().startswith("S") or number not in self._registers:
            raise CommandError(BAD_VALUE)
        if len(words) == 1:
            self._ok(f"ESREG {self._registers[number]}")
            return
        if number != PAIR:
            hex_number(words[1], 8)
        if number == CHANNEL_NUMBER and not 0x21 <= int(words[1], 16) <= 0x3C:
            raise CommandError(BAD_VALUE)
        self._registers[number] = words[1].upper()
        self._ok()

    def _scan(self, words: list[str]) -> None:
        words = exactly(words, 3 if self._a1 else 4)
        mode, _, duration = hex_number(words[0], 1), hex_number(words[1], 8), hex_number(words[2], 1)
        if mode not in {0, 2, 3} or duration > 14 or (not self._a1 and words[3] != "0"):
            raise CommandError(BAD_VALUE)
        dwell_s = 0.0096 * (2**duration + 1) * _CHANNELS * self._radio.radio_time
        self._begin(self._scanning(mode, dwell_s))
        self._ok()

    async def _scanning(self, mode: int, dwell_s: float) -> None:
        heard_at = self._chance.uniform(0.2, 0.8)
        await asyncio.sleep(dwell_s * heard_at)
        radio = self._radio
        if mode == 2 and self._registers[PAIR] == radio.route_b_id[-8:] and not self.lost():
            self._event(0x20, DONGLE_ADDRESS)
            self._beacon(radio.mac, LQI, radio.route_b_id[-8:])
        if (other := radio.neighbour) is not None:  # as a module without the filter for pairing IDs hears it
            self.tally["neighbour_beacons"] += 1
            self._event(0x20, DONGLE_ADDRESS)
            self._beacon(other.mac, other.lqi, other.pair_id)
        await asyncio.sleep(dwell_s * (1 - heard_at))
        self._event(0x22, DONGLE_ADDRESS)

    def _beacon(self, mac: str, lqi: int, pair_id: str) -> None:
        side = [] if self._a1 else ["  Side:0"]
        self._line(
            "EPANDESC",
            f"  Channel:{CHANNEL:02X}",
            "  Channel Page:09",
            f"  Pan ID:{mac[-4:]}",
            f"  Addr:{mac}",
            f"  LQI:{lqi:02X}",
            *side,
            f"  PairID:{pair_id}",
        )

    def _link_local(self, words: list[str]) -> None:
        (mac,) = exactly(words, 1)
        if len(mac) != 16:
            raise CommandError(BAD_VALUE)
        hex_number(mac, 16)
        self._line(link_local(mac))

    def _add_neighbour(self, words: list[str]) -> None:
        address, mac = exactly(words, 2)
        if not ADDRESS.fullmatch(address) or len(mac) != 16:
            raise CommandError(BAD_VALUE)
        hex_number(mac, 16)
        self._ok()

    def _join(self, words: list[str]) -> None:
        (address,) = exactly(words, 1)
        if not ADDRESS.fullmatch(address):
            raise CommandError(BAD_VALUE)
        if self.session:
            raise CommandError(BAD_COUNT)  # real ones answer ER05 while a session is open
        self._begin(self._joining(address.upper()))
        self._ok()

    def _rejoin(self) -> None:
        if not self.session:
            raise CommandError(FAILED)
        self._begin(self._joining(self._radio.address))
        self._ok()

    def _terminate(self) -> None:
        if not self.session:
            raise CommandError(FAILED)
        self._ok()
        self.end_session(0x27)

    async def _joining(self, address: str) -> None:
        """Authenticate over PANA: what the client sees of it are four datagrams and the outcome."""
        self._event(0x21, address, 0x02)
        if not self._in_range(address) or self._radio.joins == "unanswered" or self._limited:
            self.tally["joins_unanswered"] += 1
            await asyncio.sleep(_JOIN_FAILS_S * self._radio.radio_time)
            self.end_session(0x24)
            return
        self._event(0x02, address)
        known = (self._id, self._password) == (self._radio.route_b_id, self._radio.password)
        if not await self._authenticate(known=known and self._radio.joins == "welcome"):
            self.tally["joins_refused"] += 1
            self.end_session(0x24)
            return
        self.session, self._joined_with = True, self._radio.mac
        if self._radio.expires_s is not None:
            self._keep_lifetime(self._lasting(self._radio.expires_s))
        self._event(0x25, address)
        if self.peer is not None:
            self.peer.joined()

    async def _authenticate(self, *, known: bool) -> bool:
        """Show what arrives of an authentication, which ends early for whom the meter does not know."""
        step_s = _JOIN_S / 5 * self._radio.radio_time
        for frame in pana.authentication(self._radio.route_b_id, self._chance)[: None if known else 2]:
            await asyncio.sleep(step_s)
            self._datagram(frame, pana.PORT, secured=False)
            self._event(0x21, self._radio.address, 0x00)
        await asyncio.sleep(step_s)
        return known

    def _keep_lifetime(self, work: Coroutine[None, None, None]) -> None:
        if self._lifetime is not None:
            self._lifetime.cancel()
        self._lifetime = self._group.create_task(work, name="lifetime")

    async def _lasting(self, lifetime_s: float) -> None:
        await asyncio.sleep(lifetime_s)
        while self.session:
            await self._expiring(renews=self._radio.renews)
            await asyncio.sleep(lifetime_s)

    async def _expire_now(self, *, renews: bool) -> None:
        await self._expiring(renews=renews)
        if self.session and self._radio.expires_s is not None:
            await self._lasting(self._radio.expires_s)

    async def _expiring(self, *, renews: bool) -> None:
        """Say that the session has expired, authenticate again, and say how that ended."""
        self.session = False
        self.tally["expired"] += 1
        self._event(0x29, self._radio.address)
        self.session = await self._authenticate(known=renews)
        self.tally["renewals_refused"] += not renews
        self._event(0x25 if renews else 0x24, self._radio.address)

    def _in_range(self, address: str) -> bool:
        registers = self._registers
        here = int(registers[CHANNEL_NUMBER], 16), int(registers[PAN], 16)
        return address == self._radio.address and here == (CHANNEL, self._radio.pan_id)

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
            address, length = read_head([part.decode("ascii", "replace") for part in parts[1:words]])
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
        self._fail(BAD_COUNT)
        return True

    def _transmit(self, address: str, data: bytes) -> None:
        if (wait_s := self._times.sending_s(self._radio)) > 0:
            self._leaving = self._group.create_task(self._transmit_late(address, data, wait_s), name="sending")
        else:
            self._leave(address, data)

    async def _transmit_late(self, address: str, data: bytes, wait_s: float) -> None:
        await asyncio.sleep(wait_s)
        self._leave(address, data)

    def _leave(self, address: str, data: bytes) -> None:
        """Let a datagram leave, or say that it could not: no session, or no transmit time left."""
        reached = self.in_touch and address == self._radio.address and not self._limited
        self.tally["sends_refused"] += self._limited
        self._event(0x21, address, 0x00 if reached else 0x01)
        self._ok()
        self._account(len(data))
        if reached and self.peer is not None and not self.lost():
            self.peer.heard(data)

    def _account(self, size: int) -> None:
        """Add a datagram to the transmit time (100 kbit/s, 60 bytes of heads); say when the hour's time is used up."""
        if self._limited:
            return
        self._sent_ms += (size + 60) * 8 / 100
        self._registers[SENT] = f"{int(self._sent_ms):08X}"
        if self._sent_ms >= self._radio.transmit_ms:
            self._limit(on=True)
            self._resting = self._group.create_task(self._rest(), name="rest")

    async def _rest(self) -> None:
        await asyncio.sleep(self._radio.rest_s)
        self.rested()

    def _limit(self, *, on: bool) -> None:
        self._limited = on
        self.tally["limits"] += on
        self._registers |= {SENT: f"{int(self._sent_ms):08X}", LIMITED: str(int(on))}
        self._event(0x32 if on else 0x33, self._radio.address)

    def _begin(self, work: Coroutine[None, None, None]) -> None:
        if self._activity is not None and not self._activity.done():
            work.close()
            raise CommandError(FAILED)
        self._activity = self._group.create_task(work, name="radio")

    def _datagram(self, payload: bytes, port: int, *, secured: bool, to_everyone: bool = False) -> None:
        destination = EVERYONE if to_everyone else DONGLE_ADDRESS
        radio = self._radio
        head = f"ERXUDP {radio.address} {destination} {port:04X} {port:04X} {radio.mac}"
        if not self._a1 and int(self._registers[RSSI], 16):
            head += f" {LQI:02X}"
        head += f" {int(secured)} " + ("" if self._a1 else "0 ") + f"{len(payload):04X} "
        data = payload if self._binary else payload.hex().upper().encode()
        self._write(head.encode() + data + b"\r\n")

    def _event(self, number: int, address: str, parameter: int | None = None) -> None:
        side = "" if self._a1 else " 0"
        self._line(f"EVENT {number:02X} {address}{side}" + ("" if parameter is None else f" {parameter:02X}"))

    def _echo(self, line: bytes) -> None:
        if int(self._registers[ECHO], 16):
            self._write(line + b"\r\n")

    def _ok(self, *lines: str) -> None:
        self._line(*lines, "OK")

    def _fail(self, error: str) -> None:
        self._line(f"FAIL {error}")

    def _line(self, *lines: str) -> None:
        self._write("".join(f"{line}\r\n" for line in lines).encode("ascii"))
