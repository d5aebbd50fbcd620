"""A Wi-SUN dongle of the J11 family (binary UART), with one meter in radio range. Knows no ECHONET Lite.

Experimental, as the driver's side is: made from what open drivers for the family send and expect, never compared with
a device. It has a codec of its own, so that it can disagree with the driver that speaks to it.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine

from simulators.dongle import CHANNEL, METER_MAC, PAN_ID, Peer, Radio

_ASKS, _SAYS = bytes.fromhex("D0EA83FC"), bytes.fromhex("D0F9EE5D")
_ECHONET_PORT = (3610).to_bytes(2)
_MOST_BYTES = 1361
_DWELL_S, _CHANNELS = 0.00964, range(4, 18)
_JOIN_S, _JOIN_FAILS_S = 4.0, 38.0
_RSSI = bytes((256 - 55,))  # dBm, signed
_OK, _BAD_VALUE, _NO_BEACON, _NOT_NOW = b"\x01", b"\x03", b"\x0e", b"\x05"
_OWN_CHANNEL = (CHANNEL - 33) // 2 + 4
_METER = bytes.fromhex(METER_MAC)
_METER_ADDRESS = bytes.fromhex("FE80000000000000") + bytes((_METER[0] ^ 2,)) + _METER[1:]


class J11Dongle:
    """The dongle from power-up on; `receive` takes the client's bytes, `write` gets what it says."""

    def __init__(
        self, radio: Radio, write: Callable[[bytes], None], group: asyncio.TaskGroup, *, seed: int = 1
    ) -> None:
        self.peer: Peer | None = None
        self.session = False
        self._radio = radio
        self._write = write
        self._group = group
        self._chance = random.Random(f"j11 {seed}")
        self._buffer = bytearray()
        self._activity: asyncio.Task[None] | None = None
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
            if len(self._buffer) < 12 or len(self._buffer) < (size := 8 + int.from_bytes(self._buffer[6:8])):
                break
            message = bytes(self._buffer[:size])
            del self._buffer[:size]
            self._obey(message)
        del self._buffer[: max(0, len(self._buffer) - _MOST_BYTES)]

    def deliver(self, payload: bytes, *, to_everyone: bool = False) -> bool:
        """Hand the client a datagram from the meter; returns whether a session carried it."""
        if self.session:
            head = _METER_ADDRESS + _ECHONET_PORT * 2 + PAN_ID.to_bytes(2) + bytes((to_everyone, 2)) + _RSSI
            self._say(0x6018, head + len(payload).to_bytes(2) + payload)
        return self.session

    def end_session(self, event: int) -> None:
        """Lose the session; the number, SKSTACK's, is not told."""
        del event
        self.session = False
        self._say(0x601A, b"\x04" + _METER + _RSSI)

    def retune(self, radio: Radio) -> None:
        """Go on in other air."""
        self._radio = radio

    def lost(self) -> bool:
        """Say whether a datagram is lost in the air, by the seed."""
        return self._chance.random() < self._radio.loss

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
        self._started = self._open = False
        if self._activity is not None:
            self._activity.cancel()
            self._activity = None

    def _obey(self, message: bytes) -> None:
        head_sum, data_sum = int.from_bytes(message[8:10]), int.from_bytes(message[10:12])
        command = self._commands.get(int.from_bytes(message[4:6]))
        if sum(message[:8]) & 0xFFFF != head_sum or sum(message[12:]) & 0xFFFF != data_sum:
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
                beacon = _METER + PAN_ID.to_bytes(2) + _RSSI
                self._say(0x4051, bytes((0, channel, 1)) + beacon)
            else:
                self._say(0x4051, bytes((1, channel)))
        self._answer(0x0051, _OK)

    async def _starting(self) -> None:
        await asyncio.sleep(self._radio.radio_time)
        self._started = self._channel == _OWN_CHANNEL
        if self._started:
            self._answer(0x0053, _OK + bytes((self._channel,)) + PAN_ID.to_bytes(2) + _METER + _RSSI)
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
        await asyncio.sleep(_JOIN_S * self._radio.radio_time)
        self.session = self._known
        self._say(0x6028, (b"\x01" if self._known else b"\x02") + _METER)
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
        reached = self.session and self._open and data[:16] == _METER_ADDRESS
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
