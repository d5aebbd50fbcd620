"""A conversation with one dongle and, through it, one meter: dialect, scan, join, requests. Opens no port.

`run` reads all that arrives; the other coroutines ask. A failure says what to do: `LinkError` the dongle is gone or
silent (open the port again), `SessionLostError` join again, `NoAnswerError` ask later, `RefusedError` the credentials
are wrong.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from drivers.api import ConfigError, LinkError, RefusedError
from drivers.route_b import echonet, skstack
from drivers.route_b.echonet import Frame, FrameError
from drivers.route_b.skstack import Datagram, Dialect, Incoming, Line, Noise, Pan, PanaFrame, SkEvent, SkReader

log = logging.getLogger(__name__)

SCAN_DURATIONS = range(4, 9)
MAX_PANS = 32
MAX_LINES = 32
MAX_UNANSWERED_INFC = 8


class SessionLostError(LinkError):
    """The meter's session has ended or never began: join again on the same port."""


class NoAnswerError(LinkError):
    """The meter did not answer in time, or the dongle could not reach it."""


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


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long to wait, in real seconds; requests as in the AIF specification (response timers 1 and 2)."""

    command_s: float = 5.0
    wake_s: float = 1.0
    join_s: float = 60.0
    one_property_s: float = 20.0
    several_properties_s: float = 60.0
    resend_s: float = 5.0  # after the dongle could not send (channel busy, no acknowledgement), or bytes were spoilt
    late_beacon_s: float = 0.5  # some descriptions come after the end of the scan
    stalled_bytes_s: float = 2.0


@dataclass(slots=True)
class Counters:
    """What happened on the link since it was opened."""

    malformed: int = 0
    strangers: int = 0  # datagrams of others, to other ports, or not encrypted
    late: int = 0  # answers that nobody waits for any more
    notifications: int = 0
    resent: int = 0


@dataclass(slots=True)
class _Answer:
    """The dongle's answer to the command in flight; `expects` begins the line that must come before OK counts."""

    done: asyncio.Future[str]
    expects: str = ""
    lines: list[str] = field(default_factory=list)


@dataclass(slots=True)
class _Request:
    """The question in flight; its outcome is None when it may have got lost, or why no answer can come."""

    tid: int
    epcs: tuple[int, ...]
    outcome: asyncio.Future[Frame | SessionLostError | None]
    data: bytes
    answers: tuple[int, int]  # the services that answer it: done, and refused in part
    taken: bool = False  # the dongle has answered the command


class Session:
    """The state of one dongle; `hear` gets the meter's notifications as they come."""

    def __init__(
        self, port: Port, credentials: Credentials, hear: Callable[[Frame], None], timeouts: Timeouts | None = None
    ) -> None:
        self._port = port
        self._credentials = credentials
        self._hear = hear
        self._timeouts = timeouts or Timeouts()
        self._reader = SkReader()
        self._commanding = asyncio.Lock()
        self._asking = asyncio.Lock()
        self._open_gate = asyncio.Event()  # clear while the dongle must not send
        self._open_gate.set()
        self._answer: _Answer | None = None
        self._request: _Request | None = None
        self._scanned: asyncio.Future[None] | None = None
        self._joining: asyncio.Future[bool] | None = None
        self._pans: list[Pan] = []
        self._beacons = 0
        self._pana_frames = 0
        self._mac = ""
        self._address = ""
        self._tid = 0
        self._infcs: asyncio.Queue[Frame] = asyncio.Queue(MAX_UNANSWERED_INFC)
        self._reauthenticating = False
        self.dialect: Dialect = "A1"
        self.version = ""
        self.joined = False
        self.limited = False
        self.lost_because = "not joined yet"
        self.lqi: int | None = None
        self.counters = Counters()

    async def run(self) -> None:
        """Take in all that arrives until cancelled; raises LinkError when the port is gone."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._read(), name="route_b read")
            group.create_task(self._answer_infcs(), name="route_b infc")

    # Commands to the dongle.

    async def prepare(self) -> None:
        """Bring any supported dongle into a known state; raises LinkError, or ConfigError for unusable credentials."""
        await self._wake()
        await self._command(skstack.command("SKRESET"))
        await self._command(skstack.command("SKSREG", "SFE", "0"))  # no echo; in RAM only
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
        """Return the meter's network, scanning longer each time; None when it does not show."""
        for duration in SCAN_DURATIONS:
            if pans := await self._scan_once(duration):
                pair_id = self._credentials.route_b_id[-8:].upper()
                return max(pans, key=lambda pan: (pan.pair_id == pair_id, pan.lqi))
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
        self._pana_frames = 0
        await self._command(skstack.command("SKSREG", "S2", f"{pan.channel:X}"))
        await self._command(skstack.command("SKSREG", "S3", f"{pan.pan_id:04X}"))
        joining = self._joining = asyncio.get_running_loop().create_future()
        try:
            answer = await self._command(join := skstack.command("SKJOIN", self._address))
            if _failed(answer):  # ER05: a session is still open
                await self._command(skstack.command("SKTERM"))
                answer = await self._command(join)
            if _failed(answer):
                raise NoAnswerError(f"the dongle refuses to join: {answer.done.result()}")
            async with asyncio.timeout(self._timeouts.join_s):
                joined = await joining
        except TimeoutError:
            raise NoAnswerError(f"the meter has not let us join within {self._timeouts.join_s:g} s") from None
        finally:
            self._joining = None
        if not joined and self._pana_frames:
            raise RefusedError("the meter refuses the route-B ID or the password")
        if not joined:
            raise NoAnswerError("the meter does not answer the join")
        self.joined, self.lqi = True, self.lqi or pan.lqi

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

    # Questions to the meter.

    async def get(self, epcs: Sequence[int]) -> Frame:
        """Return the meter's answer (Get_Res or Get_SNA) to one request for some properties, at most 6.

        Raises NoAnswerError when none came in time, SessionLostError, or LinkError when the dongle itself is silent.
        """
        timeouts = self._timeouts
        limit_s = timeouts.one_property_s if len(epcs) == 1 else timeouts.several_properties_s
        return await self._request_within(limit_s, tuple(epcs), (echonet.GET_RES, echonet.GET_SNA), echonet.get)

    async def set(self, epc: int, edt: bytes) -> bool:
        """Return whether the meter took a value (SetC); raises what `get` raises."""

        def encoded(tid: int, epcs: Sequence[int]) -> bytes:
            properties = dict.fromkeys(epcs, edt)
            return echonet.encode(Frame(tid, echonet.CONTROLLER, echonet.METER, echonet.SET_C, properties))

        answers = (echonet.SET_RES, echonet.SET_C_SNA)
        frame = await self._request_within(self._timeouts.one_property_s, (epc,), answers, encoded)
        return frame.esv == echonet.SET_RES

    async def _request_within(
        self,
        limit_s: float,
        epcs: tuple[int, ...],
        answers: tuple[int, int],
        encoded: Callable[[int, Sequence[int]], bytes],
    ) -> Frame:
        async with self._asking:
            self._tid = self._tid % 0xFFFF + 1
            outcome = asyncio.get_running_loop().create_future()
            request = _Request(self._tid, epcs, outcome, encoded(self._tid, epcs), answers)
            try:
                async with asyncio.timeout(limit_s):
                    return await self._ask(request)
            except TimeoutError:
                if self._request is not None and not request.taken:
                    raise LinkError("the dongle does not answer SKSENDTO") from None
                hold = " (the dongle must not send now)" if not self._open_gate.is_set() else ""
                raise NoAnswerError(f"no answer within {limit_s:g} s{hold}") from None
            finally:
                self._request = None

    async def _ask(self, request: _Request) -> Frame:
        while True:
            await self._open_gate.wait()
            if not self.joined:
                raise SessionLostError(self.lost_because)
            self._request = request
            answer = await self._exchange(skstack.send_to(self.dialect, self._address, request.data))
            request.taken = True
            if _failed(answer):
                raise NoAnswerError(f"the dongle refuses to send: {answer.done.result()}")
            outcome = await self._outcome(request)
            if isinstance(outcome, SessionLostError):
                raise outcome
            if outcome is not None:
                return outcome
            self.counters.resent += 1

    async def _outcome(self, request: _Request) -> Frame | SessionLostError | None:
        """Return what becomes of a request; None when it is to be sent again."""
        while True:
            current = request.outcome
            if (outcome := await current) is not None:
                return outcome
            if request.outcome is current:
                # What was spoilt may have been something else: the answer can still come.
                request.outcome = asyncio.get_running_loop().create_future()
                await asyncio.wait([request.outcome], timeout=self._timeouts.resend_s)
                if not request.outcome.done():
                    return None

    async def _answer_infcs(self) -> None:
        while True:
            frame = await self._infcs.get()
            data = skstack.send_to(self.dialect, self._address, echonet.infc_response(frame))
            await self._command(data)

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
                self._pana_frames += 1
            case Pan():
                if len(self._pans) < MAX_PANS:
                    self._pans.append(item)
            case Noise(reason):
                self._take_noise(reason)

    def _take_line(self, text: str) -> None:
        log.debug("< %s", skstack.masked(text))
        answer = self._answer
        if answer is None or answer.done.done():
            return
        if text == "OK" or text.startswith(("OK ", "FAIL")):
            if not answer.expects or any(line.startswith(answer.expects) for line in answer.lines):
                answer.done.set_result(text)
        elif len(answer.lines) < MAX_LINES and (not answer.expects or text.startswith(answer.expects)):
            answer.lines.append(text)

    def _take_noise(self, reason: str) -> None:
        self.counters.malformed += 1
        log.debug("dropped: %s", reason)
        self._settle_request(None)  # it may have been the answer, which nobody sends twice

    def _take_event(self, event: SkEvent) -> None:
        match event.number:
            case 0x20:
                self._beacons += 1
            case 0x21:
                self._settle_command()
                if event.parameter == 1:
                    self._settle_request(None)
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
                self._reauthenticating = True  # the dongle does it by itself; 25 or 24 follows
                self._turn_gate()
            case 0x32 | 0x33:
                self.limited = number == 0x32
                self._turn_gate()

    def _settle_join(self, *, joined: bool) -> None:
        if self._joining is not None:
            if not self._joining.done():
                self.joined = joined
                self._joining.set_result(joined)
        elif not joined and self.joined:
            self._lose(_LOSSES[0x24])
        self._reauthenticating = False
        self._turn_gate()

    def _lose(self, reason: str) -> None:
        self.joined = self._reauthenticating = False
        self.lost_because = reason
        self._settle_request(SessionLostError(reason))
        self._turn_gate()

    def _turn_gate(self) -> None:
        if self.joined and (self.limited or self._reauthenticating):
            self._open_gate.clear()
        else:
            self._open_gate.set()

    def _settle_request(self, outcome: Frame | SessionLostError | None) -> None:
        request = self._request
        if request is None:
            return
        if request.outcome.done():
            if outcome is None or request.outcome.result() is not None:
                return
            # It was taken for lost, and nobody has looked yet: this says more.
            request.outcome = asyncio.get_running_loop().create_future()
        request.outcome.set_result(outcome)
        if isinstance(outcome, Frame):
            self._settle_command()

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
        try:
            frame = echonet.decode(datagram.data)
        except FrameError as error:
            self._take_noise(str(error))
            return
        if frame.esv in (echonet.GET_RES, echonet.GET_SNA, echonet.SET_RES, echonet.SET_C_SNA):
            self._take_answer(frame)
        elif frame.esv in (echonet.INF, echonet.INFC):
            self._take_notification(frame)

    def _take_answer(self, frame: Frame) -> None:
        request = self._request
        if (
            request is not None
            and frame.esv in request.answers
            and (frame.tid, frame.seoj, frame.deoj) == (request.tid, echonet.METER, echonet.CONTROLLER)
            and tuple(frame.properties) == request.epcs
        ):
            self._settle_request(frame)
        else:
            self.counters.late += 1

    def _take_notification(self, frame: Frame) -> None:
        self.counters.notifications += 1
        if frame.esv == echonet.INFC and not self._infcs.full():
            self._infcs.put_nowait(frame)
        if frame.seoj == echonet.METER:
            self._hear(frame)


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
