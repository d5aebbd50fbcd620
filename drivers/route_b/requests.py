"""Questions to one meter, asked again until their deadline, and what the meter says unasked. Knows no dongle, no port.

Whatever carries ECHONET Lite datagrams to a meter (a Wi-SUN dongle, UDP) gives `send` and calls `take` with what
arrives. A failure says what to do: `SessionLostError` join again, `NoAnswerError` ask later.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from drivers.api import Clock, Json, LinkError
from drivers.route_b import echonet
from drivers.route_b.echonet import Frame, FrameError

log = logging.getLogger(__name__)

MAX_UNANSWERED_INFC = 8
INSTANT_S = 1e-6
"""A rest of a wait that rounding leaves; no clock could wait for it."""
MAX_ATTEMPTS = 32
"""More fit into no deadline; bounds what is remembered of one question."""

_ANSWERS = {
    echonet.GET: (echonet.GET_RES, echonet.GET_SNA),
    echonet.SET_C: (echonet.SET_RES, echonet.SET_C_SNA),
}
_NOTICES = (echonet.INF, echonet.INFC)


class SessionLostError(LinkError):
    """The meter's session has ended or never began: join again on the same port."""


class NoAnswerError(LinkError):
    """The meter did not answer in time, or could not be reached."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How long to wait, in real seconds. The deadlines are the AIF specification's response timers 1 and 2."""

    one_property_s: float = 20.0
    several_properties_s: float = 60.0
    first_attempt_s: float = 5.0  # before anything was learnt; most meters answer within 4 s
    shortest_attempt_s: float = 2.0
    longest_attempt_s: float = 15.0
    growth: float = 1.5  # of the wait after each attempt that brought no answer
    resend_s: float = 5.0  # after the link could not send: channel busy, no acknowledgement, time limit of the band
    spacing_s: float = 2.0  # between a question and the last one sent, on the driver's clock


@dataclass(frozen=True, slots=True)
class Question:
    """A Get of some properties (at most 6, without data) or a SetC of some."""

    esv: int
    properties: Mapping[int, bytes]

    @classmethod
    def get(cls, epcs: Sequence[int]) -> Question:
        """Return the question for the values of some properties."""
        return cls(echonet.GET, dict.fromkeys(epcs, b""))

    @classmethod
    def set(cls, properties: Mapping[int, bytes]) -> Question:
        """Return the demand to set some properties, which the meter confirms or refuses."""
        return cls(echonet.SET_C, properties)


class Patience:
    """How long to wait for an answer before asking again: the mean of what was measured and 4 times its deviation."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self.mean_s: float | None = None
        self._deviation_s = 0.0

    @property
    def wait_s(self) -> float:
        """Return the wait of a first attempt."""
        limits = self._limits
        if self.mean_s is None:
            return limits.first_attempt_s
        wait_s = self.mean_s + 4 * self._deviation_s
        return min(max(wait_s, limits.shortest_attempt_s), limits.longest_attempt_s)

    def longer_s(self, wait_s: float) -> float:
        """Return the wait of the attempt after one that waited so long for nothing."""
        return min(wait_s * self._limits.growth, self._limits.longest_attempt_s)

    def learn(self, latency_s: float) -> None:
        """Take in how long an answer took; as RFC 6298, section 2, has it."""
        if self.mean_s is None:
            self.mean_s, self._deviation_s = latency_s, latency_s / 2
            return
        self._deviation_s += (abs(latency_s - self.mean_s) - self._deviation_s) / 4
        self.mean_s += (latency_s - self.mean_s) / 8


@dataclass(slots=True)
class Tally:
    """What became of the questions since the link was opened."""

    asked: int = 0
    answered: int = 0
    attempts: int = 0
    resent: int = 0
    late: int = 0  # answers that nobody waits for any more, or to somebody else
    malformed: int = 0
    notifications: int = 0

    @property
    def loss(self) -> float | None:
        """Return the share of attempts without an answer, 0 to 1."""
        return None if not self.attempts else round(1 - self.answered / self.attempts, 3)


class _Flight:
    """The question in flight: the TIDs of its attempts with the times they left at, and its outcome."""

    def __init__(self, question: Question) -> None:
        self.question = question
        self.sent: dict[int, float | None] = {}
        self.outcome: asyncio.Future[Frame | SessionLostError] = asyncio.get_running_loop().create_future()
        self.not_before = 0.0
        self.problem = ""

    def answered_by(self, frame: Frame) -> bool:
        return (
            frame.tid in self.sent
            and (frame.seoj, frame.deoj) == (echonet.METER, echonet.CONTROLLER)
            and frame.esv in _ANSWERS[self.question.esv]
            and frame.properties.keys() == self.question.properties.keys()  # each once: the decoder sees to that
        )

    def settle(self, outcome: Frame | SessionLostError) -> None:
        if not self.outcome.done():
            self.outcome.set_result(outcome)


class Requests:
    """One question at a time to one meter; `hear` gets the meter's notifications as they come.

    `send` hands one datagram to the link. It may wait while the link must not send, raises NoAnswerError when the
    link could not send this once, SessionLostError without a session, LinkError when the link itself is gone.
    """

    def __init__(
        self,
        send: Callable[[bytes], Awaitable[None]],
        hear: Callable[[Frame], None],
        limits: Limits | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._send = send
        self._hear = hear
        self._limits = limits or Limits()
        self._clock = clock
        self._turn = asyncio.Lock()
        self._flight: _Flight | None = None
        self._free_at_ms = 0
        self._tid = 0
        self._infcs: asyncio.Queue[Frame] = asyncio.Queue(MAX_UNANSWERED_INFC)
        self.patience = Patience(self._limits)
        self.tally = Tally()

    def status(self) -> dict[str, Json]:
        """Return what became of the questions, and how long an answer takes."""
        tally, latency_s = self.tally, self.patience.mean_s
        return {
            "late": tally.late,
            "notifications": tally.notifications,
            "asked": tally.asked,
            "answered": tally.answered,
            "resent": tally.resent,
            "loss": tally.loss,
            "latency_s": None if latency_s is None else round(latency_s, 2),
        }

    async def run(self) -> None:
        """Confirm what the meter wants confirmed (INFC), until cancelled; raises LinkError when the link is gone."""
        while True:
            frame = await self._infcs.get()
            try:
                await self._send(echonet.infc_response(frame))
            except (NoAnswerError, SessionLostError) as error:  # the meter will say it again
                log.debug("a notification stays unconfirmed: %s", error)

    async def get(self, epcs: Sequence[int]) -> Frame:
        """Return the meter's answer (Get_Res or Get_SNA) to one question for some properties, at most 6.

        Raises NoAnswerError when none came in time, SessionLostError, or LinkError when the link itself is gone.
        """
        return (await self.ask(Question.get(epcs)))[0]

    async def ask(self, *questions: Question) -> list[Frame]:
        """Return the answers to some questions that nothing of ours comes between; each has its own deadline."""
        async with self._turn:
            return [await self._ask(question) for question in questions]

    def take(self, data: bytes) -> None:
        """Take in a datagram of the meter; never raises."""
        try:
            frame = echonet.decode(data)
        except FrameError as error:
            self.tally.malformed += 1
            log.debug("dropped: %s", error)
            return
        if frame.esv in _NOTICES:
            self._take_notice(frame)
        elif (flight := self._flight) is not None and flight.answered_by(frame):
            self._learn(flight.sent[frame.tid])
            flight.settle(frame)
        else:
            self.tally.late += 1

    def lose(self, reason: str) -> None:
        """End the question in flight: the session it was asked in is gone."""
        if self._flight is not None:
            self._flight.settle(SessionLostError(reason))

    def unsent(self) -> None:
        """Hear that the link could not send after all: the next attempt comes in `resend_s`."""
        if (flight := self._flight) is not None:
            flight.not_before = asyncio.get_running_loop().time() + self._limits.resend_s

    async def _ask(self, question: Question) -> Frame:
        await self._keep_distance()
        limits = self._limits
        limit_s = limits.one_property_s if len(question.properties) == 1 else limits.several_properties_s
        flight = self._flight = _Flight(question)
        self.tally.asked += 1
        try:
            async with asyncio.timeout(limit_s):
                frame = await self._ask_until_answered(flight)
        except TimeoutError:
            raise NoAnswerError(f"no answer within {limit_s:g} s{flight.problem and f': {flight.problem}'}") from None
        finally:
            self._flight = None
        self.tally.answered += 1
        return frame

    async def _keep_distance(self) -> None:
        if self._clock is not None and self._clock.boot_ms() < self._free_at_ms:
            await self._clock.sleep_until(self._free_at_ms)

    async def _ask_until_answered(self, flight: _Flight) -> Frame:
        wait_s = self.patience.wait_s
        while True:
            sent = await self._attempt(flight)
            if (frame := await self._answer(flight, wait_s if sent else 0.0)) is not None:
                return frame
            wait_s = self.patience.longer_s(wait_s)
            self.tally.resent += 1

    async def _attempt(self, flight: _Flight) -> bool:
        """Send the question once more, if the link can; an answer to any attempt's TID counts."""
        self._tid = self._tid % 0xFFFF + 1
        if len(flight.sent) < MAX_ATTEMPTS:
            flight.sent[self._tid] = None
        data = echonet.encode(
            Frame(self._tid, echonet.CONTROLLER, echonet.METER, flight.question.esv, dict(flight.question.properties))
        )
        flight.problem = "the link did not send it"
        try:
            await self._send(data)
        except NoAnswerError as error:
            flight.problem = str(error)
            self.unsent()
            return False
        flight.problem = ""
        if self._clock is not None:
            self._free_at_ms = self._clock.boot_ms() + round(self._limits.spacing_s * 1000)
        self.tally.attempts += 1
        if self._tid in flight.sent:
            flight.sent[self._tid] = asyncio.get_running_loop().time()
        return True

    async def _answer(self, flight: _Flight, wait_s: float) -> Frame | None:
        """Return the answer, or None when it is time to ask again; raises SessionLostError."""
        loop = asyncio.get_running_loop()
        ask_again = loop.time() + wait_s
        while not flight.outcome.done():
            left_s = max(ask_again, flight.not_before) - loop.time()
            if left_s < INSTANT_S:
                return None
            await asyncio.wait([flight.outcome], timeout=left_s)
        outcome = flight.outcome.result()
        if isinstance(outcome, SessionLostError):
            raise outcome
        return outcome

    def _learn(self, sent_at: float | None) -> None:
        if sent_at is not None:
            self.patience.learn(asyncio.get_running_loop().time() - sent_at)

    def _take_notice(self, frame: Frame) -> None:
        self.tally.notifications += 1
        if frame.esv == echonet.INFC and not self._infcs.full():
            self._infcs.put_nowait(frame)
        if frame.seoj == echonet.METER:
            self._hear(frame)
