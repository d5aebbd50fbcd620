"""A Wi-SUN dongle of the J11 family (binary UART), with one meter in radio range. Knows no ECHONET Lite.

Experimental, as the driver's side is: made from what open drivers for the family send and expect, never compared with
a device. It has a codec of its own, so that it can disagree with the driver that speaks to it.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Coroutine

from simulators.air import CHANNEL, Peer, Radio, Times

_ASKS, _SAYS = bytes.fromhex("D0EA83FC"), bytes.fromhex("D0F9EE5D")
_ECHONET_PORT = (3610).to_bytes(2)
_MOST_BYTES = 1361
_DWELL_S, _CHANNELS = 0.00964, range(4, 18)
_JOIN_S, _JOIN_FAILS_S = 4.0, 38.0
_RSSI = bytes((256 - 55,))  # dBm, signed
_OK, _BAD_VALUE, _NO_BEACON, _NOT_NOW = b"\x01", b"\x03", b"\x0e", b"\x05"
_OWN_CHANNEL = (CHANNEL - 33) // 2 + 4
_LET_IN, _REFUSED, _SILENT = b"\x01", b"\x02", b"\x03"
_SESSION_LOST = b"\x04"


class J11Dongle:
    """The dongle from power-up on; `receive` takes the client's bytes, `write` gets what it says."""

    def __init__(
        self,
        radio: Radio,
        write: Callable[[bytes], None],
        group: asyncio.TaskGroup,
        *,
        seed: int = 1,
        tally: Counter[str] | None = None,
    ) -> None:
        self.peer: Peer | None = None
        self.session = False
        self.tally: Counter[str] = Counter() if tally is None else tally
        """How often what happened to whom talks to it."""
        self._radio = radio
        self._write = write
        self._group = group
        self._chance = random.Random(f"j11 {seed}")
        self._times = Times(random.Random(f"times {seed}"))
        self._buffer = bytearray()
        self._activity: asyncio.Task[None] | None = None
        self._leaving: asyncio.Task[None] | None = None
        self._joined_with = ""
        self._power_up()
        self._commands: dict[int, Callable[[bytes], None]] = {
            0x00D9: lambda _: self._reset(),
            0x006B: lambda _: self._answer(0x006B, _OK + bytes.fromhex("0009000B0001")),
            0x005F: self._set_up,
            0x0054: self._set_credentials,
            0x0051: self._scan,
            0x0053: lambda _: self._begin(self._starting()),
            0x0005: self._open_port,
            0x0056: lambda _: self._start_pana(),
            0x0057: lambda _: self._stop_pana(),
            0x0008: self._send_to,
        }

    def receive(self, data: bytes) -> None:
        """Take bytes from the serial side."""
        self._buffer += data
        while (at := self._buffer.find(_ASKS)) >= 0:
            del self._buffer[:at]
            if len(self._buffer) < 12:
                break
            if sum(self._buffer[:8]) & 0xFFFF != int.from_bytes(self._buffer[8:10]):  # its length is not to be believed
                del self._buffer[: len(_ASKS)]
                self._say(0x2FFF)
                continue
            if len(self._buffer) < (size := 8 + int.from_bytes(self._buffer[6:8])):
                break
            message = bytes(self._buffer[:size])
            del self._buffer[:size]
            self._obey(message)
        del self._buffer[: max(0, len(self._buffer) - _MOST_BYTES)]

    @property
    def in_touch(self) -> bool:
        """Tell whether a session stands with the meter that hangs there now."""
        return self.session and self._joined_with == self._radio.mac

    def deliver(self, payload: bytes, *, to_everyone: bool = False) -> bool:
        """Hand the client a datagram from the meter; returns whether a session carried it."""
        if self.in_touch:
            head = self._address + _ECHONET_PORT * 2 + self._pan + bytes((to_everyone, 2)) + _RSSI
            self._say(0x6018, head + len(payload).to_bytes(2) + payload)
        return self.in_touch

    def end_session(self, event: int) -> None:
        """Lose the session; the number, SKSTACK's, is not told."""
        del event
        self.session = False
        self._say(0x601A, _SESSION_LOST + self._meter + _RSSI)

    def exhaust(self) -> None:
        """Use the hour's transmit time up: each sending fails until `rested`, and nothing else tells."""
        self._limited = True
        self.tally["limits"] += 1

    def rested(self) -> None:
        """Have transmit time again."""
        self._limited = False

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
        """Start anew by itself, as a module does on a dip of its supply, and say so."""
        self._power_up()
        self._say(0x6019)

    def power_off(self) -> None:
        """Stop what runs on the air; nothing is said any more."""
        self._power_up()
        self.peer = None

    def _power_up(self) -> None:
        self.session = False
        self._known = False
        self._channel = 0
        self._started = self._open = self._limited = False
        for task in (self._activity, self._leaving):
            if task is not None:
                task.cancel()
        self._activity = self._leaving = None

    @property
    def _meter(self) -> bytes:
        return bytes.fromhex(self._radio.mac)

    @property
    def _address(self) -> bytes:
        return bytes.fromhex(self._radio.address.replace(":", ""))

    @property
    def _pan(self) -> bytes:
        return self._radio.pan_id.to_bytes(2)

    def _obey(self, message: bytes) -> None:
        command = self._commands.get(int.from_bytes(message[4:6]))
        if sum(message[12:]) & 0xFFFF != int.from_bytes(message[10:12]):
            self._say(0x2FFF)
        elif command is None:
            self._say(0xFFFF)
        else:
            command(message[12:])

    def _reset(self) -> None:
        self._answer(0x00D9, _OK)
        self.restart()

    def _set_up(self, data: bytes) -> None:
        good = len(data) == 4 and data[0] == 5 and data[2] in _CHANNELS
        if good:
            self._channel = data[2]
        self._answer(0x005F, _OK if good else _BAD_VALUE)

    def _set_credentials(self, data: bytes) -> None:
        self._known = data == (self._radio.route_b_id + self._radio.password).encode()
        self._answer(0x0054, _OK if len(data) == 44 else _BAD_VALUE)

    def _scan(self, data: bytes) -> None:
        if len(data) != 14 or data[5] != 1:
            self._answer(0x0051, _BAD_VALUE)
            return
        self._begin(self._scanning(data[0], data[6:]))

    async def _scanning(self, duration: int, pair_id: bytes) -> None:
        ours = pair_id == self._radio.route_b_id[-8:].encode()
        for channel in _CHANNELS:
            await asyncio.sleep(_DWELL_S * 2**duration * self._radio.radio_time)
            if channel == _OWN_CHANNEL and ours and not self.lost():
                self._say(0x4051, bytes((0, channel, 1)) + self._meter + self._pan + _RSSI)
            else:
                self._say(0x4051, bytes((1, channel)))
        self._answer(0x0051, _OK)

    async def _starting(self) -> None:
        await asyncio.sleep(self._radio.radio_time)
        self._started = self._channel == _OWN_CHANNEL
        if self._started:
            self._answer(0x0053, _OK + bytes((self._channel,)) + self._pan + self._meter + _RSSI)
        else:
            self._answer(0x0053, _NO_BEACON)

    def _open_port(self, data: bytes) -> None:
        self._answer(0x0005, b"\x0a" if self._open else _OK)
        self._open = data == _ECHONET_PORT

    def _start_pana(self) -> None:
        self._answer(0x0056, _OK if self._started else _NOT_NOW)
        if self._started:
            self._begin(self._authenticating())

    async def _authenticating(self) -> None:
        if self._radio.joins == "unanswered":
            self.tally["joins_unanswered"] += 1
            await asyncio.sleep(_JOIN_FAILS_S * self._radio.radio_time)
            self._say(0x6028, _SILENT + self._meter)
            return
        await asyncio.sleep(_JOIN_S * self._radio.radio_time)
        self.session = self._known and self._radio.joins == "welcome"
        self._joined_with = self._radio.mac
        self.tally["joins_refused"] += not self.session
        self._say(0x6028, (_LET_IN if self.session else _REFUSED) + self._meter)
        if self.session and self.peer is not None:
            self.peer.joined()

    def _stop_pana(self) -> None:
        self._answer(0x0057, _OK if self.session else _NOT_NOW)
        self.session = False

    def _send_to(self, data: bytes) -> None:
        size = int.from_bytes(data[20:22])
        if len(data) < 23 or len(data) != 22 + size:
            self._answer(0x0008, _BAD_VALUE + b"\0")
            return
        if (wait_s := self._times.sending_s(self._radio)) > 0:
            self._leaving = self._group.create_task(self._leave_late(data, wait_s), name="sending")
        else:
            self._leave(data)

    async def _leave_late(self, data: bytes, wait_s: float) -> None:
        await asyncio.sleep(wait_s)
        self._leave(data)

    def _leave(self, data: bytes) -> None:
        reached = self.in_touch and self._open and data[:16] == self._address and not self._limited
        self.tally["sends_refused"] += self._limited
        self._answer(0x0008, _OK + (b"\0" if reached else b"\x01"))
        if reached and self.peer is not None and not self.lost():
            self.peer.heard(data[22:])

    def _begin(self, work: Coroutine[None, None, None]) -> None:
        if self._activity is not None and not self._activity.done():
            self._activity.cancel()
        self._activity = self._group.create_task(work, name="radio")

    def _answer(self, command: int, data: bytes) -> None:
        self._say(command | 0x2000, data)

    def _say(self, command: int, data: bytes = b"") -> None:
        head = _SAYS + command.to_bytes(2) + (len(data) + 4).to_bytes(2)
        self._write(head + (sum(head) & 0xFFFF).to_bytes(2) + (sum(data) & 0xFFFF).to_bytes(2) + data)
