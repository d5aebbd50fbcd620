"""A conversation with one SKSTACK dongle: dialect, scan, join, sending, what it reports. Opens no port, asks no meter.

`run` reads all that arrives; the other coroutines ask the dongle. A failure says what to do: `LinkError` the dongle is
gone or silent (open the port again), `SessionLostError` join again, `NoAnswerError` ask later, `RefusedError` the
credentials are wrong.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Unpack

from drivers.api import Json, LinkError, RefusedError
from drivers.route_b import skstack
from drivers.route_b.airtime import AirTime
from drivers.route_b.conversation import (
    MAX_PANS,
    SCAN_DURATIONS,
    Conversation,
    Credentials,
    Means,
    Port,
    Timeouts,
    at_once,
)
from drivers.route_b.echonet import Frame
from drivers.route_b.joining import Begin
from drivers.route_b.requests import NoAnswerError, SessionLostError
from drivers.route_b.skstack import Datagram, Dialect, Incoming, Line, Pan, PanaFrame, SkEvent, SkReader

__all__ = ["Credentials", "NoAnswerError", "Port", "Session", "SessionLostError", "Timeouts"]

log = logging.getLogger(__name__)

MAX_LINES = 32


@dataclass(slots=True)
class _Answer:
    """The dongle's answer to the command in flight; `expects` begins the line that must come before OK counts."""

    done: asyncio.Future[str]
    expects: str = ""
    lines: list[str] = field(default_factory=list)


class Session(Conversation[Incoming]):
    """The state of one dongle; `hear` gets the meter's notifications as they come."""

    def __init__(
        self,
        port: Port,
        credentials: Credentials,
        hear: Callable[[Frame], None],
        timeouts: Timeouts | None = None,
        **means: Unpack[Means],
    ) -> None:
        self._reader = SkReader()
        super().__init__(self._reader, port, credentials, hear, timeouts, **means)
        self._open_gate = asyncio.Event()  # clear while the dongle must not send
        self._open_gate.set()
        self._answer: _Answer | None = None
        self._scanned: asyncio.Future[None] | None = None
        self._let_in: asyncio.Future[bool] | None = None
        self._beacons = 0
        self._pana_frames = 0
        self._address = ""
        self._watching = False  # an echo would tell that the dongle has started anew
        self._reauthenticating_since: float | None = None
        self.air_time = AirTime()
        self.dialect: Dialect = "A1"
        self.lqi: int | None = None

    def _told(self) -> dict[str, Json]:
        return {
            "rssi_dbm": None if self.lqi is None else skstack.dbm(self.lqi),
            "dialect": self.dialect,
            "transmit_s_last_hour": self.air_time.last_hour_s,
        }

    async def send(self, data: bytes) -> None:
        """Hand one datagram to the dongle, once it may send; as `Requests` wants it."""
        await self._open_gate.wait()
        if not self.joined:
            raise SessionLostError(self.lost_because)
        try:
            answer = await self._command(skstack.send_to(self.dialect, self._address, data))
        except LinkError as silent:
            await self._free()
            raise NoAnswerError(str(silent)) from None
        if _failed(answer):
            raise NoAnswerError(f"the dongle refuses to send: {answer.done.result()}")

    async def _free(self) -> None:
        """Free a dongle that waits for bytes which were lost on the way; raises LinkError when it stays silent."""
        await self._port.write(bytes(skstack.MAX_DATA_BYTES) + b"\r\n")
        await self._command(skstack.command("SKVER"), expects="EVER")
        await asyncio.sleep(self._timeouts.late_beacon_s)  # let what it says about the filling pass

    # Commands to the dongle.

    async def prepare(self) -> None:
        """Bring any supported dongle into a known state; raises LinkError."""
        self._prepared = self._watching = False
        await self._wake()
        await self._command(skstack.command("SKRESET"))
        await self._command(skstack.command("SKSREG", "SFE", "0"))  # no echo; in RAM only
        self._watching = True
        await self._choose_data_form()
        info = await self._command(skstack.command("SKINFO"), expects="EINFO")
        self.dialect = "A1" if info.lines[-1].split()[-1] == "FFFE" else "C2"
        if self.dialect == "C2":
            if await self._register("SF0"):  # a module for two networks that was left in the other one
                await self._command(skstack.command("SKSREG", "SF0", "0"))
            await self._command(skstack.command("SKSREG", "SA2", "1"))  # signal strength of each datagram
        for line in (
            skstack.set_password(self._credentials.password),
            skstack.set_route_b_id(self._credentials.route_b_id),
        ):
            if _failed(await self._command(line)):
                raise LinkError("the dongle refuses the form of the credentials")  # checked before: spoilt on the way
        self._prepared = True
        log.info("dongle %s, dialect %s", self.version, self.dialect)

    async def _wake(self) -> None:
        """Find out that a dongle listens, whatever state it was left in."""
        # An unfinished SKSENDTO swallows what follows until its announced length is reached: fill it up.
        for attempt, opening in enumerate((b"\r\n", b"\r\n", bytes(skstack.MAX_DATA_BYTES) + b"\r\n")):
            await self._port.write(opening)
            try:
                answer = await self._command(skstack.command("SKVER"), expects="EVER", limit_s=self._timeouts.wake_s)
            except LinkError:
                continue
            if attempt:
                await asyncio.sleep(self._timeouts.late_beacon_s)  # let answers to earlier attempts pass
            self.version = answer.lines[-1].removeprefix("EVER").strip()
            return
        raise LinkError("no dongle with SK commands answers; check the port, and that nothing else uses it")

    async def _choose_data_form(self) -> None:
        answer = await self._command(skstack.command("ROPT"))
        self._reader.binary = False
        if answer.done.result() == "OK 00":
            # The setting lives in flash (10 000 writes at most): written only where it differs.
            self._reader.binary = _failed(await self._command(skstack.command("WOPT", "01")))

    async def scan(self) -> Pan | None:
        """Return the strongest of the meter's networks, scanning longer each time; None when it does not show."""
        for duration in SCAN_DURATIONS:
            pans = await self._scan_once(duration)
            ours = [pan for pan in pans if pan.pair_id == self._credentials.pair_id]
            self.counters.foreign_pans = len(pans) - len(ours)
            if ours:
                return max(ours, key=lambda pan: pan.lqi)
        return None

    async def _scan_once(self, duration: int) -> list[Pan]:
        self._pans, self._beacons = [], 0
        scanned = self._scanned = asyncio.get_running_loop().create_future()
        answer = await self._command(skstack.scan(self.dialect, duration))
        if _failed(answer):
            raise LinkError(f"the dongle refuses to scan: {answer.done.result()}")
        try:
            async with asyncio.timeout(skstack.scan_s(duration) * 1.5 + 10):
                await scanned
        except TimeoutError:
            raise LinkError("the dongle does not end its scan") from None
        finally:
            self._scanned = None
        if len(self._pans) < max(1, self._beacons):
            await asyncio.sleep(self._timeouts.late_beacon_s)
        return self._pans

    async def join(self, pan: Pan, begin: Begin = at_once) -> None:
        """Join the meter's network; raises NoAnswerError, or RefusedError when it answered and declined."""
        self._mac, self._address = pan.mac, skstack.link_local(pan.mac)
        self._lose("joining")
        if not self._prepared:  # a dongle that lost its session may have lost all else: its keys live in RAM
            await self.prepare()
        self._pana_frames = 0
        await self._command(skstack.command("SKSREG", "S2", f"{pan.channel:X}"))
        await self._command(skstack.command("SKSREG", "S3", f"{pan.pan_id:04X}"))
        await self._command(skstack.command("SKADDNBR", self._address, pan.mac))  # saves asking for the neighbour
        self._prepared = False
        await begin()
        if not await self._authenticate():
            if self._pana_frames:
                raise RefusedError("the meter refuses the route-B ID or the password")
            raise NoAnswerError("the meter does not answer the join")
        self.joined, self.lqi = True, self.lqi or pan.lqi or None

    async def _authenticate(self) -> bool:
        """Return whether the meter lets us in; raises NoAnswerError when the dongle does not say."""
        joining = self._let_in = asyncio.get_running_loop().create_future()
        try:
            answer = await self._command(join := skstack.command("SKJOIN", self._address))
            if _failed(answer):  # ER05: a session is still open
                await self._command(skstack.command("SKTERM"))
                answer = await self._command(join)
            if _failed(answer):
                raise NoAnswerError(f"the dongle refuses to join: {answer.done.result()}")
            async with asyncio.timeout(self._timeouts.join_s):
                return bool(await joining)
        except TimeoutError:
            raise NoAnswerError(f"the meter has not let us join within {self._timeouts.join_s:g} s") from None
        finally:
            self._let_in = None

    async def _command(self, line: bytes, *, expects: str = "", limit_s: float | None = None) -> _Answer:
        """Return the dongle's answer to a command, OK or FAIL; raises LinkError when it keeps silent."""
        try:
            async with asyncio.timeout(limit_s or self._timeouts.command_s):
                return await self._exchange(line, expects)
        except TimeoutError:
            raise LinkError(f"the dongle does not answer {_verb(line)}") from None

    async def _exchange(self, line: bytes, expects: str = "") -> _Answer:
        async with self._commanding:
            answer = self._answer = _Answer(asyncio.get_running_loop().create_future(), expects)
            try:
                log.debug("> %s", _verb(line))  # never its words: they may be secrets
                await self._port.write(line)
                await answer.done
            finally:
                self._answer = None
        return answer

    # Watching over a dongle that has nothing to say.

    async def _look(self) -> None:
        """Ask the dongle how long it has sent, which also shows that it lives; raises LinkError."""
        loop = asyncio.get_running_loop()
        sent = await self._register("SFD")
        if sent is not None:
            self.air_time.measure(loop.time(), sent)
        if self.limited and await self._register("SFB") == 0:  # the end of the limit was missed
            self._limit(on=False)
        since = self._reauthenticating_since
        if since is not None and loop.time() - since > self._timeouts.join_s:
            self._lose("the session was not renewed in time")

    async def _register(self, name: str) -> int | None:
        """Return the value of a register, or None where the dongle does not have it."""
        answer = await self._command(skstack.command("SKSREG", name))
        words = answer.lines[-1].split() if answer.lines else []
        try:
            return int(words[1], 16) if words[0] == "ESREG" else None
        except (IndexError, ValueError):
            return None

    # What arrives.

    def _take(self, item: Incoming) -> None:
        match item:
            case Datagram():
                self._take_datagram(item)
            case Line(text):
                self._take_line(text)
            case SkEvent():
                log.debug("< EVENT %02X %s", item.number, item.parameter)
                self._take_event(item)
            case PanaFrame():
                self._pana_frames += item.mac == self._mac  # a neighbour's say nothing of our credentials
            case Pan():
                if len(self._pans) < MAX_PANS:
                    self._pans.append(item)

    def _take_line(self, text: str) -> None:
        log.debug("< %s", skstack.masked(text))
        if self._watching and text.startswith("SK"):
            self._take_echo()
        answer = self._answer
        if answer is None or answer.done.done():
            return
        if text == "OK" or text.startswith(("OK ", "FAIL")):
            if not answer.expects or any(line.startswith(answer.expects) for line in answer.lines):
                answer.done.set_result(text)
        elif len(answer.lines) < MAX_LINES and (not answer.expects or text.startswith(answer.expects)):
            answer.lines.append(text)

    def _take_echo(self) -> None:
        """Hear an echo: either the dongle cannot leave it, or it has started anew and forgotten what it was told."""
        self._watching = False
        if self.joined:
            self.counters.resets += 1
            self._lose("the dongle has started anew")

    def _take_event(self, event: SkEvent) -> None:
        match event.number:
            case 0x20:
                self._beacons += 1
            case 0x21:
                self._settle_command()
                if event.parameter == 1:
                    self.requests.unsent()
            case 0x22:
                if self._scanned is not None and not self._scanned.done():
                    self._scanned.set_result(None)
            case _:
                self._take_session_event(event.number)

    def _take_session_event(self, number: int) -> None:
        match number:
            case 0x24:
                self._settle_join(joined=False)
            case 0x25:
                self._settle_join(joined=True)
            case 0x26 | 0x27 | 0x28 if self.joined:
                self._lose(_LOSSES[number])
            case 0x29 if self.joined:
                self._reauthenticating_since = (
                    asyncio.get_running_loop().time()
                )  # it does so by itself: 25 or 24 follows
                self._turn_gate()
            case 0x32 | 0x33:
                self._limit(on=number == 0x32)

    def _settle_join(self, *, joined: bool) -> None:
        if self._let_in is not None:
            if not self._let_in.done():
                self.joined = joined
                self._let_in.set_result(joined)
        elif not joined and self.joined:
            self._lose(_LOSSES[0x24])
        self._reauthenticating_since = None
        self._turn_gate()

    def _lose(self, reason: str) -> None:
        self._reauthenticating_since = None
        super()._lose(reason)
        self._turn_gate()

    def _limit(self, *, on: bool) -> None:
        """Obey the radio law's limit (ARIB STD-T108): while it is on, the dongle drops what it is told to send."""
        self.limited = on
        self._turn_gate()

    def _turn_gate(self) -> None:
        if self.joined and (self.limited or self._reauthenticating_since is not None):
            self._open_gate.clear()
        else:
            self._open_gate.set()

    def _settle_command(self) -> None:
        """Take for an OK what proves that the dongle carries the command out, should the OK itself not come."""
        if self._answer is not None and not self._answer.done.done() and not self._answer.expects:
            self._answer.done.set_result("OK")

    def _take_datagram(self, datagram: Datagram) -> None:
        ports = (datagram.remote_port, datagram.local_port)
        if ports != (skstack.ECHONET_PORT,) * 2 or not datagram.secured or datagram.mac != self._mac:
            self.counters.strangers += 1
            return
        if datagram.lqi is not None:
            self.lqi = datagram.lqi
        self._settle_command()
        self.requests.take(datagram.data)


_LOSSES = {
    0x24: "the meter did not renew the session",
    0x26: "the meter ended the session",
    0x27: "the session has ended",
    0x28: "the session has ended without the meter's answer",
}


def _failed(answer: _Answer) -> bool:
    return answer.done.result().startswith("FAIL")


def _verb(line: bytes) -> str:
    """Return the first word of a command: what a log may show of it."""
    return line.split(maxsplit=1)[0].decode("ascii", "replace")
