"""An open socket or serial port: bytes out, answers in, its end told once. Knows no request and no time-out."""

from __future__ import annotations

import asyncio
import errno
import select
from collections.abc import Callable

import serial
import serial_asyncio_fast

from drivers.api import LinkError, MalformedError
from drivers.modbus.endpoints import Endpoint, TcpEndpoint
from drivers.modbus.frames import Answer

_REASONS = {
    errno.ENOENT: "there is no such port; is the adapter plugged in?",
    errno.EACCES: "no permission; the user must be in the group of serial ports (dialout)",
    errno.EAGAIN: "another program has it locked",
    errno.EBUSY: "another program has it open",
    errno.ENOTTY: "not a serial port",
}


class Connection(asyncio.Protocol):
    """One connection of an endpoint; `on_answer` hears each frame, `on_end` hears once why it is over."""

    def __init__(self, endpoint: Endpoint, on_answer: Callable[[Answer], None], on_end: Callable[[str], None]) -> None:
        self._endpoint = endpoint
        self._on_answer, self._on_end = on_answer, on_end
        self._reader = endpoint.reader()
        self._transport: asyncio.WriteTransport | None = None
        self._hears_itself = not isinstance(endpoint, TcpEndpoint) and endpoint.local_echo
        self._echo = b""
        self._loop = asyncio.get_running_loop()
        self.heard_at = 0.0
        """When the last byte came, in the event loop's time."""

    @property
    def is_open(self) -> bool:
        """Whether bytes can be sent."""
        return self._transport is not None and not self._transport.is_closing()

    async def open(self) -> None:
        """Connect, a serial port for this process alone; raises LinkError."""
        try:
            if isinstance(self._endpoint, TcpEndpoint):
                await self._loop.create_connection(lambda: self, self._endpoint.host, self._endpoint.port)
                return
            transport, _ = await serial_asyncio_fast.create_serial_connection(
                self._loop,
                lambda: self,
                self._endpoint.port,
                baudrate=self._endpoint.baudrate,
                parity=self._endpoint.parity,
                stopbits=self._endpoint.stopbits,
                exclusive=True,
            )
            self._transport = transport
        except (OSError, ValueError) as error:  # pyserial's errors are both
            raise LinkError(f"{self._endpoint} cannot be opened: {_why(error)}") from error

    def send(self, frame: bytes) -> None:
        """Send a request; what was left of an unfinished answer before it is forgotten. Raises LinkError."""
        if self._transport is None or not self.is_open:
            raise LinkError(f"{self._endpoint} is not open")
        self._reader.reset()
        if self._hears_itself:
            self._echo = frame
        if not isinstance(self._endpoint, TcpEndpoint) and not self._takes_bytes():
            raise LinkError(f"{self._endpoint} takes no bytes")
        self._transport.write(frame)

    def close(self) -> None:
        """Let go of the port at once; `on_end` is not called any more."""
        self._on_end = _nobody
        if self._transport is not None:
            self._transport.abort()
            self._transport = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport (asyncio calls it)."""
        if isinstance(transport, asyncio.WriteTransport):
            self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the end (asyncio calls it)."""
        del exc
        self._transport = None
        self._on_end("hung up")

    def data_received(self, data: bytes) -> None:
        """Hand on the answers that became whole (asyncio calls it)."""
        self.heard_at = self._loop.time()
        if self._echo:
            data = self._without_echo(data)
        try:
            for answer in self._reader.feed(data):
                self._on_answer(answer)
        except MalformedError as error:
            on_end = self._on_end
            self.close()
            on_end(f"does not speak Modbus: {error}")

    def _without_echo(self, data: bytes) -> bytes:
        """Return what is left of the bytes when what the adapter heard of ourselves is taken away."""
        count = 0
        while count < min(len(data), len(self._echo)) and data[count] == self._echo[count]:
            count += 1
        differs = count < len(data) and count < len(self._echo)
        self._echo = b"" if differs else self._echo[count:]
        return data[count:]

    def _takes_bytes(self) -> bool:
        """Ask the port whether it is full, because pyserial's write would then spin and stop the whole agent."""
        try:
            poll = select.poll()
            poll.register(self._transport.get_extra_info("serial").fileno(), select.POLLOUT)  # type: ignore[union-attr]  # open, see send
            return bool(poll.poll(0))
        except (OSError, ValueError) as error:
            raise LinkError(f"{self._endpoint}: {_why(error)}") from error


def _nobody(reason: str) -> None:
    del reason


def _why(error: Exception) -> str:
    """Return what a person can do something about, in one line."""
    number = getattr(error, "errno", None)
    if isinstance(error, serial.SerialException) and number in _REASONS:
        return _REASONS[number]
    return (str(error) or type(error).__name__).splitlines()[0]
