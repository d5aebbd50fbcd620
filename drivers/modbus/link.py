"""The one way to a Modbus endpoint: a TCP socket or a serial port shared by its units. Knows no map and no policy.

One request at a time with the pause the line wants, sent once, and nothing opened behind its caller's back. No answer
is taken for that of another request: on TCP its transaction tells, on a line without transactions the order in which a
unit answers (`missing`). A cut is noticed at once. Time-outs and the silence between RTU frames are real time; the
pauses a device wants are the clock's, so that they shrink with simulated time.
"""

from __future__ import annotations

import asyncio
import math
import struct
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from drivers.api import Clock, LinkError, MalformedError, RefusedError
from drivers.modbus import frames
from drivers.modbus.connection import Connection
from drivers.modbus.endpoints import Endpoint, Framing, SerialEndpoint, TcpEndpoint
from drivers.modbus.frames import Answer
from drivers.modbus.missing import Missing
from drivers.modbus.planner import Request

__all__ = [
    "Endpoint",
    "ExceptionAnswerError",
    "Framing",
    "HungUpError",
    "Link",
    "Reads",
    "SerialEndpoint",
    "ShortAnswerError",
    "SilentError",
    "TcpEndpoint",
    "Writes",
]

BROADCAST = 0

NOT_SUPPORTED = frozenset({1, 2, 3})
"""Illegal function, address or value: asking again will not help."""
NO_PATH = frozenset({10, 11})
"""A gateway says that the unit behind it does not answer."""

SILENCES_BEFORE_REOPEN = 3
"""Time-outs of one unit, with no answer of any unit between them, after which the endpoint is closed.

A link that is open but mute recovers that way. Several dead units beside one that answers do not count together.
"""
MOST_PROBES = 3
CLOCK_STEP_S = 0.001
"""Slept beyond the silence, because an event loop wakes up to one step of its clock early."""
LONGEST_NOISE_S = 5.0
"""A line that is not silent for one pause in so long is broken."""


class SilentError(LinkError):
    """This unit did not answer in time; the endpoint itself may be well."""


class UnreachedError(SilentError):
    """A gateway says that it does not reach the unit (exception 10 or 11); some devices mean a register by it."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


class HungUpError(LinkError):
    """The endpoint cut the connection while this request waited for its answer."""


class ShortAnswerError(MalformedError):
    """An answer that surely belongs to the request, with fewer registers than asked; `data` holds those that came."""

    def __init__(self, data: bytes, request: Request) -> None:
        super().__init__(f"{len(data) // 2} registers where {request.count} were asked")
        self.data = data


class ExceptionAnswerError(RefusedError):
    """The unit answered with a Modbus exception; `code` tells whether asking again can help."""

    def __init__(self, code: int, request: Request) -> None:
        super().__init__(f"exception {code} for {request.space} {request.address}+{request.count}")
        self.code = code

    @property
    def final(self) -> bool:
        """Whether these registers will never be served (1, 2, 3), rather than later (4 failure, 5, 6 busy)."""
        return self.code in NOT_SUPPORTED


class Reads(Protocol):
    """What a device needs of a link."""

    async def read(self, unit: int, request: Request, timeout_s: float) -> bytes: ...


class Writes(Reads, Protocol):
    """What a device that is commanded needs of a link."""

    async def write(self, unit: int, request: Request, data: bytes, timeout_s: float) -> None: ...


@dataclass(frozen=True, slots=True)
class _Asked:
    """The request that waits for its answer."""

    unit: int
    function: int
    transaction: int
    answer: asyncio.Future[Answer]


class Link:
    """An endpoint that is opened, read and closed; opens nothing by itself, writes only to units in `writable`."""

    def __init__(
        self,
        endpoint: Endpoint,
        clock: Clock,
        *,
        gap_ms: float = 0,
        connect_delay_ms: float = 0,
        writable: frozenset[int] = frozenset(),
    ) -> None:
        self.endpoint = endpoint
        self.counts: Counter[str] = Counter()
        """Requests, time-outs, late and stray answers since the start."""
        self._writable = writable - {BROADCAST}
        self._clock = clock
        self._gap_ms = math.ceil(gap_ms) + 1 if gap_ms else 0  # + 1, because the clock cuts to whole ms
        self._quiet_s = endpoint.quiet_ms / 1000
        self._connect_delay_ms = connect_delay_ms
        self._lock = asyncio.Lock()
        self._connection: Connection | None = None
        self._asked: _Asked | None = None
        self._transaction = 0
        self._free_at_ms = 0
        self._quiet_since = 0.0
        self._silences: Counter[int] = Counter()
        self._missing = Missing()
        self._last_heard: tuple[Answer | None, float] = (None, 0.0)
        self._sent_at = 0.0
        self._answer_missing = False

    @property
    def is_open(self) -> bool:
        """Whether requests can be sent."""
        return self._connection is not None and self._connection.is_open

    async def open(self, timeout_s: float) -> None:
        """Connect, then wait as long as the device wants; raises LinkError."""
        self.close()
        connection = Connection(self.endpoint, self._heard, self._ended)
        try:
            async with asyncio.timeout(timeout_s):
                await connection.open()
            self._connection = connection
        except TimeoutError:
            raise LinkError(f"{self.endpoint} cannot be opened: no answer within {timeout_s:g} s") from None
        finally:
            if self._connection is None:
                connection.close()
        self._free_at_ms = self._clock.boot_ms() + math.ceil(self._connect_delay_ms)

    def close(self) -> None:
        """Close the endpoint; safe at any time."""
        connection, self._connection = self._connection, None
        self._silences.clear()
        self._answer_missing = False
        if connection is not None:
            connection.close()

    async def read(self, unit: int, request: Request, timeout_s: float) -> bytes:
        """Return the register bytes of one read.

        Raises SilentError (this unit), ExceptionAnswerError, MalformedError (an answer that is not one to this
        request; ShortAnswerError when a part of it is), HungUpError, or LinkError when the endpoint is gone and must
        be opened again.
        """
        pdu = frames.read_pdu(frames.READ_FUNCTIONS[request.space], request.address, request.count)
        return await self._exchange(unit, request, pdu, timeout_s, lambda answer: self._registers(answer, request))

    async def write(self, unit: int, request: Request, data: bytes, timeout_s: float) -> None:
        """Write registers once; raises as `read`, and RefusedError for a unit that is not ours to write.

        After any error but ExceptionAnswerError nobody knows whether the write was carried out: read it back.
        """
        if unit not in self._writable:
            raise RefusedError(f"unit {unit} at {self.endpoint} is only read")
        if request.space != "holding" or len(data) != 2 * request.count or not request.count <= frames.MOST_WRITTEN:
            raise RefusedError(f"{len(data)} bytes do not fit {request.space} {request.address}+{request.count}")
        pdu = frames.write_pdu(request.address, data)
        await self._exchange(unit, request, pdu, timeout_s, lambda answer: _written(answer, request))

    async def _exchange(
        self, unit: int, request: Request, pdu: bytes, timeout_s: float, check: Callable[[Answer], bytes]
    ) -> bytes:
        """Send one request alone on the line and return what its checked answer carries."""
        async with self._lock:
            if self.endpoint.framing == "rtu":
                await self._get_in_step(unit, pdu[0], request.address, timeout_s)

            def checked(answer: Answer) -> bytes:
                self._refuse_foreign(answer, unit, pdu[0])
                if answer.exception is not None and answer.exception in NO_PATH:
                    reason = f"the gateway at {self.endpoint} does not reach unit {unit}"
                    raise UnreachedError(reason, answer.exception)
                if answer.exception is not None:
                    raise ExceptionAnswerError(answer.exception, request)
                return check(answer)

            return await self._ask(unit, pdu, timeout_s + self.endpoint.wire_s(request.count), checked)

    async def _get_in_step(self, unit: int, function: int, address: int, timeout_s: float) -> None:
        """Make sure that no late answer of the unit can be taken for the next one.

        While one may come, the unit is asked with another function: whatever it answers to that, also an exception,
        it answers after all that it was asked before. Raises SilentError at the first probe without an answer.
        """
        loop = asyncio.get_running_loop()
        for _ in range(MOST_PROBES):
            if not self._missing.may_come(unit, function, loop.time()):
                return
            self.counts["probes"] += 1
            asked = self._missing.probe(unit, function, loop.time())

            def checked(answer: Answer, asked: int = asked) -> bytes:
                self._refuse_foreign(answer, unit, asked)
                return answer.body

            probe = frames.read_pdu(asked, address, 1)
            await self._ask(unit, probe, timeout_s + self.endpoint.wire_s(1), checked)
        if self._missing.may_come(unit, function, loop.time()):
            raise SilentError(f"unit {unit} at {self.endpoint} still answers to earlier requests")

    async def _ask(self, unit: int, pdu: bytes, timeout_s: float, check: Callable[[Answer], bytes]) -> bytes:
        """Send one request once and return its checked answer; raises SilentError, or as soon as the link drops."""
        await self._wait_until_free()
        if self._connection is None or not self._connection.is_open:
            raise LinkError(f"{self.endpoint} is not open")
        loop = asyncio.get_running_loop()
        self._transaction = self._transaction % 0xFFFF + 1  # never 0, which units send that know no transactions
        self._asked = asked = _Asked(unit, pdu[0], self._transaction, loop.create_future())
        self.counts["requests"] += 1
        is_answered = False
        try:
            self._sent_at = loop.time()
            self._connection.send(self._frame(asked, pdu))
            async with asyncio.timeout(timeout_s):
                answer = await asked.answer
            self._silences.clear()
            is_answered = answer.exception is not None
            registers = check(answer)
            is_answered = True
        except TimeoutError:
            raise self._silence(unit, timeout_s) from None
        else:
            return registers
        finally:
            self._asked = None
            self._free_at_ms = self._clock.boot_ms() + self._gap_ms
            self._quiet_since = loop.time()
            if not is_answered:
                self._answer_missing = True
                self._missing.add(unit, pdu[0], loop.time(), timeout_s)

    def _frame(self, asked: _Asked, pdu: bytes) -> bytes:
        if self.endpoint.framing == "tcp":
            return frames.tcp_frame(asked.transaction, asked.unit, pdu)
        return frames.rtu_frame(asked.unit, pdu)

    async def _wait_until_free(self) -> None:
        """Wait for the pause that the device wants and, on a line, for silence."""
        if self._free_at_ms > self._clock.boot_ms():
            await self._clock.sleep_until(self._free_at_ms)
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + LONGEST_NOISE_S
        while self._quiet_s and self._connection is not None:
            quiet_at = max(self._quiet_since, self._connection.heard_at) + self._quiet_s
            if quiet_at <= loop.time():
                return
            if loop.time() > give_up_at:
                self.close()
                raise LinkError(f"{self.endpoint} is never silent; does another master ask on this line?")
            await asyncio.sleep(quiet_at - loop.time() + CLOCK_STEP_S)

    def _heard(self, answer: Answer) -> None:
        """Hand an answer to the request that waits for it, and to no other."""
        asked, now_s = self._asked, asyncio.get_running_loop().time()
        if answer.transaction is None:
            if self._is_double(answer, now_s):
                self.counts["stray"] += 1
                return
            if self._missing.takes(answer, now_s):
                self.counts["late"] += 1
                return
            if asked is not None and (answer.unit, answer.asked_function) == (asked.unit, asked.function):
                self._missing.settle(answer.unit)
        elif answer.transaction == 0 and self._answer_missing and asked is not None:
            # The unit leaves out transaction ids, so nothing tells this answer from the missing one.
            self.close()
            self._ended("sent an answer that may belong to an earlier request")
            return
        elif asked is not None and answer.transaction not in {asked.transaction, 0}:
            asked = None
        if asked is None or asked.answer.done() or (answer.transaction is None and answer.unit != asked.unit):
            self.counts["stray"] += 1
            return
        asked.answer.set_result(answer)

    def _is_double(self, answer: Answer, now_s: float) -> bool:
        """Say whether a frame follows an equal one at once, with no request in between that it could answer."""
        before, before_s = self._last_heard
        self._last_heard = answer, now_s
        soon_s = self._quiet_s + self.endpoint.wire_s(len(answer.body) // 2)
        return answer == before and self._sent_at <= before_s and now_s - before_s <= soon_s

    def _ended(self, why: str) -> None:
        """End a waiting request at once when the link drops, instead of at its time-out."""
        self._connection = None
        if self._asked is not None and not self._asked.answer.done():
            self._asked.answer.set_exception(HungUpError(f"{self.endpoint} {why}"))

    def _silence(self, unit: int, timeout_s: float) -> LinkError:
        """Return the error for an unanswered request; the third closes a link that is open but mute."""
        self.counts["timeouts"] += 1
        self._silences[unit] += 1
        if self._silences[unit] < SILENCES_BEFORE_REOPEN:
            return SilentError(f"unit {unit} at {self.endpoint} is silent for {timeout_s:.3g} s")
        self.close()
        return LinkError(f"{self.endpoint} is open but mute")

    def _registers(self, answer: Answer, request: Request) -> bytes:
        """Return the registers of a read; one that is cut short is told apart where it surely answers this request."""
        data = answer.registers()
        if len(data) == 2 * request.count:
            return data
        if answer.transaction and len(data) < 2 * request.count:
            raise ShortAnswerError(data, request)
        raise MalformedError(f"{len(data) // 2} registers where {request.count} were asked")

    @staticmethod
    def _refuse_foreign(answer: Answer, unit: int, function: int) -> None:
        if answer.unit != unit or answer.asked_function != function:
            raise MalformedError(
                f"unit {answer.unit} answered function {answer.function}, but unit {unit} was asked for {function}"
            )


def _written(answer: Answer, request: Request) -> bytes:
    """Check that a write's answer names the registers that were written."""
    if answer.body != struct.pack(">HH", request.address, request.count):
        raise MalformedError(f"{answer.body.hex()} where {request.address}+{request.count} was written")
    return answer.body
