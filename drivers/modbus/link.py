"""The one way to a Modbus endpoint: a TCP socket or a serial port shared by its units. Knows no map and no policy.

The only file of the driver that imports pymodbus. What pymodbus leaves to its caller is done here (each point has a
test of its name): one request at a time with the pause the line wants, no silent re-send and no background
reconnection, an answer checked against its request, a late answer kept from the next request, a cut noticed at once,
and errors translated once. Time-outs are real time; the pauses a device wants are the clock's, so that they shrink
with simulated time.
"""

from __future__ import annotations

import asyncio
import logging
import math
import struct
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias

from pymodbus import FramerType, ModbusException
from pymodbus.client import AsyncModbusSerialClient, AsyncModbusTcpClient

from drivers.api import Clock, LinkError, MalformedError, RefusedError
from drivers.modbus.planner import Request

if TYPE_CHECKING:
    from pymodbus.client.base import ModbusBaseClient
    from pymodbus.pdu import ModbusPDU

Framing: TypeAlias = Literal["tcp", "rtu"]

FUNCTION_CODES = {"holding": 3, "input": 4}
"""The function codes of reads; a link sends no other unless it was told which units may be written."""
WRITE_REGISTERS = 16
"""The one function code of writes, also for a single register: some inverters refuse 6."""
BROADCAST = 0

NOT_SUPPORTED = frozenset({1, 2, 3})
"""Illegal function, address or value: asking again will not help."""
NO_PATH = frozenset({10, 11})
"""A gateway says that the unit behind it does not answer."""

SILENCES_BEFORE_REOPEN = 3
"""Time-outs of one unit, with no answer of any unit between them, after which the endpoint is closed.

A link that is open but mute recovers that way, and an answer later than two time-outs dies with its connection. Several
dead units beside one that answers do not count together.
"""

LONGER_THAN_ANY_TIMEOUT_S = 60
"""pymodbus' own time-out never strikes; ours does, per unit."""

BITS_PER_CHARACTER = 11
QUIET_CHARACTERS = 3.5
FASTEST_QUIET_MS = 1.75
"""Between RTU frames: 3.5 characters, above 19200 baud 1.75 ms (Modbus over Serial Line 1.02, 2.5.1.1)."""
CONVERTER_QUIET_MS = 20


class SilentError(LinkError):
    """This unit did not answer in time; the endpoint itself may be well."""


class ExceptionAnswerError(RefusedError):
    """The unit answered with a Modbus exception; `code` tells whether asking again can help."""

    def __init__(self, code: int, request: Request) -> None:
        super().__init__(f"exception {code} for {request.space} {request.address}+{request.count}")
        self.code = code

    @property
    def final(self) -> bool:
        """Whether these registers will never be served (1, 2, 3), rather than later (4 failure, 5, 6 busy)."""
        return self.code in NOT_SUPPORTED


@dataclass(frozen=True, slots=True)
class TcpEndpoint:
    """`framing: rtu` is RTU over TCP, for a transparent serial converter."""

    host: str
    port: int = 502
    framing: Framing = "tcp"

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"

    @property
    def quiet_ms(self) -> float:
        """The pause between requests; a converter needs one to end its frames, whatever the speed behind it."""
        return CONVERTER_QUIET_MS if self.framing == "rtu" else 0


@dataclass(frozen=True, slots=True)
class SerialEndpoint:
    """A serial port that speaks RTU; `local_echo` for adapters that hear themselves."""

    device: str
    baudrate: int = 9600
    parity: Literal["N", "E", "O"] = "N"
    stopbits: Literal[1, 2] = 1
    local_echo: bool = False
    framing: Framing = "rtu"

    def __str__(self) -> str:
        return self.device

    @property
    def quiet_ms(self) -> float:
        """The silence that ends a frame on this line."""
        return max(FASTEST_QUIET_MS, 1000 * QUIET_CHARACTERS * BITS_PER_CHARACTER / self.baudrate)


Endpoint: TypeAlias = TcpEndpoint | SerialEndpoint


class Reads(Protocol):
    """What a device needs of a link."""

    async def read(self, unit: int, request: Request, timeout_s: float) -> bytes: ...


class Writes(Reads, Protocol):
    """What a device that is commanded needs of a link."""

    async def write(self, unit: int, request: Request, data: bytes, timeout_s: float) -> None: ...


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
        self._writable = writable - {BROADCAST}
        self._clock = clock
        quiet_ms = max(gap_ms, endpoint.quiet_ms)
        self._gap_ms = math.ceil(quiet_ms) + 1 if quiet_ms else 0  # + 1, because the clock cuts to whole ms
        self._connect_delay_ms = connect_delay_ms
        self._lock = asyncio.Lock()
        self._client: ModbusBaseClient | None = None
        self._deadline: asyncio.Timeout | None = None
        self._free_at_ms = 0
        self._drained_at = 0.0
        self._silences: Counter[int] = Counter()
        self._answer_missing = False

    @property
    def is_open(self) -> bool:
        """Whether requests can be sent."""
        return self._client is not None and self._client.connected

    async def open(self, timeout_s: float) -> None:
        """Connect, then wait as long as the device wants; raises LinkError."""
        self.close()
        _quieten_pymodbus()
        self._client = client = _client(self.endpoint, self._on_connection)
        try:
            async with asyncio.timeout(timeout_s):
                connected = await client.connect()
        except (
            OSError,
            ValueError,
        ) as error:  # ValueError is pyserial's for wrong settings
            raise LinkError(f"{self.endpoint} cannot be opened: {error or 'no answer'}") from error
        finally:
            if not client.connected:
                self.close()
        if not connected:
            raise LinkError(f"{self.endpoint} accepts no connection")
        self._free_at_ms = self._clock.boot_ms() + math.ceil(self._connect_delay_ms)

    def close(self) -> None:
        """Close the endpoint; safe at any time."""
        client, self._client = self._client, None
        self._silences.clear()
        self._drained_at, self._answer_missing = 0.0, False
        if client is not None:
            client.close()

    async def read(self, unit: int, request: Request, timeout_s: float) -> bytes:
        """Return the register bytes of one read.

        Raises SilentError (this unit), ExceptionAnswerError, MalformedError (an answer that is not one to this
        request), or LinkError when the endpoint is gone and must be opened again.
        """
        return await self._exchange(unit, request, timeout_s)

    async def write(self, unit: int, request: Request, data: bytes, timeout_s: float) -> None:
        """Write registers once; raises as `read`, and RefusedError for a unit that is not ours to write.

        After SilentError or MalformedError nobody knows whether the write was carried out: read it back.
        """
        if unit not in self._writable:
            raise RefusedError(f"unit {unit} at {self.endpoint} is only read")
        if request.space != "holding" or len(data) != 2 * request.count:
            raise RefusedError(f"{len(data)} bytes do not fit {request.space} {request.address}+{request.count}")
        await self._exchange(unit, request, timeout_s, data)

    async def _exchange(self, unit: int, request: Request, timeout_s: float, written: bytes | None = None) -> bytes:
        """Send one request alone on the line and return what its checked answer carries."""
        async with self._lock:
            await self._wait_until_free()
            client = self._client
            if client is None or not client.connected:
                raise LinkError(f"{self.endpoint} is not open")
            clean = False
            try:
                answer = await self._ask(client, unit, request, timeout_s, written)
                registers = self._checked(answer, unit, request, written)
                clean = True
            except ExceptionAnswerError:
                clean = True
                raise
            finally:
                self._free_at_ms = self._clock.boot_ms() + self._gap_ms
                if not clean:
                    self._expect_late_answer(timeout_s)
            return registers

    async def _ask(
        self, client: ModbusBaseClient, unit: int, request: Request, timeout_s: float, written: bytes | None
    ) -> ModbusPDU:
        """Send one request once and return its answer; raises SilentError, or LinkError as soon as the link drops."""
        try:
            async with asyncio.timeout(timeout_s) as self._deadline:
                answer = await _sent(client, unit, request, written)
        except TimeoutError:
            if not client.connected:
                raise LinkError(f"{self.endpoint} hung up") from None
            raise self._silence(unit, timeout_s) from None
        except ModbusException as error:
            raise LinkError(f"{self.endpoint}: {error}") from error
        finally:
            self._deadline = None
        self._silences.clear()
        return answer

    def _checked(self, answer: ModbusPDU, unit: int, request: Request, written: bytes | None) -> bytes:
        """Return the registers of an answer that belongs to the request; those written where it was a write."""
        code = FUNCTION_CODES[request.space] if written is None else WRITE_REGISTERS
        if answer.transaction_id == 0 and self._answer_missing and self.endpoint.framing == "tcp":
            self.close()  # the unit leaves out transaction ids, so nothing tells this answer from the missing one
            raise LinkError(f"{self.endpoint} sent an answer that may belong to an earlier request")
        if answer.dev_id != unit or answer.function_code & 0x7F != code:
            raise MalformedError(
                f"unit {answer.dev_id} answered function {answer.function_code}, but unit {unit} was asked for {code}"
            )
        if answer.isError():
            if answer.exception_code in NO_PATH:
                raise SilentError(f"the gateway at {self.endpoint} does not reach unit {unit}")
            raise ExceptionAnswerError(answer.exception_code, request)
        if written is not None:
            if (answer.address, answer.count) != (request.address, request.count):
                raise MalformedError(
                    f"{answer.address}+{answer.count} where {request.address}+{request.count} was written"
                )
            return written
        if len(answer.registers) != request.count:
            raise MalformedError(f"{len(answer.registers)} registers where {request.count} were asked")
        return struct.pack(f">{request.count}H", *answer.registers)

    async def _wait_until_free(self) -> None:
        """Wait for the pause between requests and, on a line without transaction ids, for a late answer to pass."""
        loop = asyncio.get_running_loop()
        if self._drained_at > loop.time():
            await asyncio.sleep(self._drained_at - loop.time())
        if self._free_at_ms > self._clock.boot_ms():
            await self._clock.sleep_until(self._free_at_ms)

    def _expect_late_answer(self, timeout_s: float) -> None:
        self._answer_missing = True
        if self.endpoint.framing == "rtu":
            self._drained_at = asyncio.get_running_loop().time() + timeout_s

    def _silence(self, unit: int, timeout_s: float) -> LinkError:
        """Return the error for an unanswered request; the third closes a link that is open but mute."""
        self._silences[unit] += 1
        if self._silences[unit] < SILENCES_BEFORE_REOPEN:
            return SilentError(f"unit {unit} at {self.endpoint} is silent for {timeout_s:g} s")
        self.close()
        return LinkError(f"{self.endpoint} is open but mute")

    def _on_connection(self, connected: bool) -> None:  # noqa: FBT001  (pymodbus calls it so)
        """End a waiting request at once when the link drops, instead of at its time-out."""
        if not connected and self._deadline is not None:
            self._deadline.reschedule(asyncio.get_running_loop().time())


def _sent(client: ModbusBaseClient, unit: int, request: Request, written: bytes | None) -> Awaitable[ModbusPDU]:
    """Return the answer to a read, or to a write of the registers given."""
    if written is not None:
        values = list(struct.unpack(f">{request.count}H", written))
        return client.write_registers(request.address, values, device_id=unit)
    call = client.read_holding_registers if request.space == "holding" else client.read_input_registers
    return call(request.address, count=request.count, device_id=unit)


def _client(endpoint: Endpoint, on_connection: Callable[[bool], None]) -> ModbusBaseClient:
    """Return an unopened pymodbus client that neither re-sends nor reconnects; needs a running loop."""
    if isinstance(endpoint, TcpEndpoint):
        return AsyncModbusTcpClient(
            endpoint.host,
            port=endpoint.port,
            framer=FramerType.SOCKET if endpoint.framing == "tcp" else FramerType.RTU,
            timeout=LONGER_THAN_ANY_TIMEOUT_S,
            retries=0,
            reconnect_delay=0,
            trace_connect=on_connection,
        )
    return AsyncModbusSerialClient(
        endpoint.device,
        framer=FramerType.RTU,
        baudrate=endpoint.baudrate,
        parity=endpoint.parity,
        stopbits=endpoint.stopbits,
        handle_local_echo=endpoint.local_echo,
        timeout=LONGER_THAN_ANY_TIMEOUT_S,
        retries=0,
        reconnect_delay=0,
        trace_connect=on_connection,
    )


def _not_undecodable(record: logging.LogRecord) -> bool:
    """Drop asyncio's traceback of a frame that pymodbus could not decode; the cut it causes is reported by the link."""
    shown = record.getMessage()
    return "data_received() call failed" not in shown or "TransactionManager" not in shown


def _quieten_pymodbus() -> None:
    """Keep frame dumps of every failed request out of the log; failures reach it through our errors, once."""
    logging.getLogger("pymodbus.logging").setLevel(logging.CRITICAL)
    logging.getLogger("asyncio").addFilter(_not_undecodable)  # adding it again changes nothing
