"""A conversation with one SKSTACK dongle: dialect, scan, join, sending, what it reports. Opens no port, asks no meter.

`run` reads all that arrives; the other coroutines ask the dongle. A failure says what to do: `LinkError` the dongle is
gone or silent (open the port again), `SessionLostError` join again, `NoAnswerError` ask later, `RefusedError` the
credentials are wrong.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from drivers.api import Clock, ConfigError, Json, LinkError, Memory, RefusedError
from drivers.route_b import skstack
from drivers.route_b.airtime import AirTime
from drivers.route_b.echonet import Frame
from drivers.route_b.joining import Joining
from drivers.route_b.requests import Limits, NoAnswerError, Question, Requests, SessionLostError
from drivers.route_b.skstack import Datagram, Dialect, Incoming, Line, Noise, Pan, PanaFrame, SkEvent, SkReader

__all__ = ["Credentials", "NoAnswerError", "Port", "Session", "SessionLostError", "Timeouts"]

log = logging.getLogger(__name__)

SCAN_DURATIONS = range(4, 9)
MAX_PANS = 32
MAX_LINES = 32


class Port(Protocol):
    """Bytes in both directions; raises LinkError when they stop."""

    async def read(self) -> bytes:
        """Return the next bytes, at least one."""

    async def write(self, data: bytes) -> None:
        """Send bytes."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """What the power company hands out for Route B; never shown."""

    route_b_id: str = field(repr=False)
    password: str = field(repr=False)

    @property
    def pair_id(self) -> str:
        """Return what a meter shows of the ID in its beacons."""
        return self.route_b_id[-8:].upper()


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long to wait for the dongle, in real seconds."""

    command_s: float = 5.0
    wake_s: float = 1.0
    join_s: float = 60.0
    late_beacon_s: float = 0.5  # some descriptions come after the end of the scan
    stalled_bytes_s: float = 2.0
    watch_s: float = 60.0  # between two looks at a dongle that says nothing by itself


@dataclass(slots=True)
class Counters:
    """What happened on the link since it was opened."""

    malformed: int = 0
    strangers: int = 0  # datagrams of others, to other ports, or not encrypted
    foreign_pans: int = 0  # networks of other route-B IDs in the last scan
    resets: int = 0


@dataclass(slots=True)
class _Answer:
    """The dongle's answer to the command in flight; `expects` begins the line that must come before OK counts."""

    done: asyncio.Future[str]
    expects: str = ""
    lines: list[str] = field(default_factory=list)


class Session:
    """The state of one dongle; `hear` gets the meter's notifications as they come."""

    def __init__(
        self,
        port: Port,
        credentials: Credentials,
        hear: Callable[[Frame], None],
        timeouts: Timeouts | None = None,
        *,
        limits: Limits | None = None,
        clock: Clock | None = None,
        joining: Joining | None = None,
    ) -> None:
        self._port = port
        self._credentials = credentials
        self._timeouts = timeouts or Timeouts()
        self._joining_policy = joining or Joining(credentials.route_b_id, clock)
        self._reader = SkReader()
        self._commanding = asyncio.Lock()
        self._open_gate = asyncio.Event()  # clear while the dongle must not send
        self._open_gate.set()
        self._answer: _Answer | None = None
        self._scanned: asyncio.Future[None] | None = None
        self._joining: asyncio.Future[bool] | None = None
        self._pans: list[Pan] = []
        self._beacons = 0
        self._pana_frames = 0
        self._mac = ""
        self._address = ""
        self._prepared = False
        self._watching = False  # an echo would tell that the dongle has started anew
        self._reauthenticating_since: float | None = None
        self.requests = Requests(self.send, hear, limits, clock)
        self.air_time = AirTime()
        self.dialect: Dialect = "A1"
        self.version = ""
        self.joined = False
        self.limited = False
        self.lost_because = "not joined yet"
        self.lqi: int | None = None
        self.counters = Counters()

    def status(self) -> dict[str, Json]:
        """Return what the dongle is and how the radio does."""
        return {
            "limited": self.limited,
            "rssi_dbm": None if self.lqi is None else skstack.dbm(self.lqi),
            "dialect": self.dialect,
            "firmware": self.version,
            "malformed": self.counters.malformed + self.requests.tally.malformed,
            "strangers": self.counters.strangers,
            "foreign_networks": self.counters.foreign_pans,
            "dongle_resets": self.counters.resets,
            **self.requests.status(),
            "transmit_s_last_hour": self.air_time.last_hour_s,
        }

    async def run(self) -> None:
        """Take in all that arrives until cancelled; raises LinkError when the port is gone."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._read(), name="route_b read")
            group.create_task(self.requests.run(), name="route_b infc")
            group.create_task(self._watch(), name="route_b watch")

    # The meter.

    async def connect(self, memory: Memory) -> None:
        """Bring the dongle into the meter's network; raises as `prepare`, `scan` and `join` do."""
        await self._joining_policy.connect(self, memory)

    async def get(self, epcs: Sequence[int]) -> Frame:
        """Return the meter's answer to one question for some properties; as `Requests.get`."""
        return await self.requests.get(epcs)

    async def ask(self, *questions: Question) -> list[Frame]:
        """Return the answers to some questions that nothing comes between; as `Requests.ask`."""
        return await self.requests.ask(*questions)

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
        """Bring any supported dongle into a known state; raises LinkError, or ConfigError for unusable credentials."""
        self._prepared = self._watching = False
        await self._wake()
        await self._command(skstack.command("SKRESET"))
        await self._command(skstack.command("SKSREG", "SFE", "0"))  # no echo; in RAM only
        self._watching = True
        await self._choose_data_form()
        info = await self._command(skstack.command("SKINFO"), expects="EINFO")
        self.dialect = "A1" if info.lines[-1].split()[-1] == "FFFE" else "C2"
        if self.dialect == "C2":
            await self._command(skstack.command("SKSREG", "SA2", "1"))  # signal strength of each datagram
        for line in (
            skstack.set_password(self._credentials.password),
            skstack.set_route_b_id(self._credentials.route_b_id),
        ):
            if _failed(await self._command(line)):
                raise ConfigError("credentials", "the dongle refuses their form", "check the ID and the password")
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

    async def join(self, pan: Pan) -> None:
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
        if not await self._authenticate():
            if self._pana_frames:
                raise RefusedError("the meter refuses the route-B ID or the password")
            raise NoAnswerError("the meter does not answer the join")
        self.joined, self.lqi = True, self.lqi or pan.lqi or None

    async def _authenticate(self) -> bool:
        """Return whether the meter lets us in; raises NoAnswerError when the dongle does not say."""
        joining = self._joining = asyncio.get_running_loop().create_future()
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
            self._joining = None

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

    async def _watch(self) -> None:
        """Ask the dongle now and then how long it has sent, which also shows that it lives; raises LinkError."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(self._timeouts.watch_s)
            if not self.joined:
                continue
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

    async def _read(self) -> None:
        while True:
            try:
                async with asyncio.timeout(self._timeouts.stalled_bytes_s if self._reader.waiting else None):
                    chunk = await self._port.read()
            except TimeoutError:
                incoming = self._reader.give_up()
            else:
                incoming = self._reader.feed(chunk)
            for item in incoming:
                self._take(item)

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
            case Noise(reason):
                self._take_noise(reason)

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

    def _take_noise(self, reason: str) -> None:
        self.counters.malformed += 1
        log.debug("dropped: %s", reason)

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
        if self._joining is not None:
            if not self._joining.done():
                self.joined = joined
                self._joining.set_result(joined)
        elif not joined and self.joined:
            self._lose(_LOSSES[0x24])
        self._reauthenticating_since = None
        self._turn_gate()

    def _lose(self, reason: str) -> None:
        self.joined, self._reauthenticating_since = False, None
        self.lost_because = reason
        self.requests.lose(reason)
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
