"""An open socket or serial port: bytes out, answers in, its end told once. Knows no request and no time-out."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import termios
from collections.abc import Callable
from typing import Protocol

import serial

from drivers.api import LinkError, MalformedError
from drivers.modbus.endpoints import Endpoint, SerialEndpoint, TcpEndpoint
from drivers.modbus.frames import Answer

_REASONS = {
    errno.ENOENT: "there is no such port; is the adapter plugged in?",
    errno.EACCES: "no permission; the user must be in the group of serial ports (dialout)",
    errno.EAGAIN: "another program has it locked",
    errno.EBUSY: "another program has it open",
    errno.ENOTTY: "not a serial port",
}
_CHUNK = 4096


class _Transport(Protocol):
    """What is used of asyncio's transports."""

    def write(self, data: bytes) -> None: ...

    def abort(self) -> None: ...

    def is_closing(self) -> bool: ...


class Connection(asyncio.Protocol):
    """One connection of an endpoint; `on_answer` hears each frame, `on_end` hears once why it is over."""

    def __init__(self, endpoint: Endpoint, on_answer: Callable[[Answer], None], on_end: Callable[[str], None]) -> None:
        self._endpoint = endpoint
        self._on_answer, self._on_end = on_answer, on_end
        self._reader = endpoint.reader()
        self._transport: _Transport | None = None
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
            else:
                self._transport = _SerialPort(self._endpoint, self)
        except (OSError, ValueError, termios.error) as error:  # pyserial's own are OSError and ValueError
            raise LinkError(f"{self._endpoint} cannot be opened: {_why(error)}") from error

    def send(self, frame: bytes) -> None:
        """Send a request; what was left of an unfinished answer before it is forgotten. Raises LinkError."""
        if self._transport is None or not self.is_open:
            raise LinkError(f"{self._endpoint} is not open")
        self._reader.reset()
        self._echo = frame if self._hears_itself else b""
        try:
            self._transport.write(frame)
        except OSError as error:
            raise LinkError(f"{self._endpoint} takes no bytes: {_why(error)}") from error

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
        pairs = enumerate(zip(data, self._echo, strict=False))
        same = next((n for n, (heard, sent) in pairs if heard != sent), min(len(data), len(self._echo)))
        differs = same < len(data) and same < len(self._echo)
        self._echo = b"" if differs else self._echo[same:]
        return data[same:]


class _SerialPort:
    """A serial port that is read by the event loop and closed at once, without waiting for what it has not sent."""

    def __init__(self, endpoint: SerialEndpoint, connection: Connection) -> None:
        """Open the port; raises OSError or ValueError."""
        self._port = serial.Serial(
            endpoint.port,
            baudrate=endpoint.baudrate,
            parity=endpoint.parity,
            stopbits=endpoint.stopbits,
            timeout=0,
            exclusive=True,
        )
        self._file: int = self._port.fileno()
        os.set_blocking(self._file, False)
        self._connection = connection
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._file, self._readable)

    def write(self, data: bytes) -> None:
        """Send a request, which any port takes as a whole; raises OSError when this one is stuck."""
        if os.write(self._file, data) != len(data):
            raise BlockingIOError(errno.EAGAIN, "the port is full")

    def is_closing(self) -> bool:
        """Whether the port was closed."""
        return not self._port.is_open

    def abort(self) -> None:
        """Close the port at once."""
        if self._port.is_open:
            self._loop.remove_reader(self._file)
            with contextlib.suppress(OSError, termios.error):
                self._port.reset_output_buffer()  # else closing waits until it is sent
            self._port.close()

    def _readable(self) -> None:
        try:
            data = os.read(self._file, _CHUNK)
        except BlockingIOError:
            return
        except OSError:  # the adapter was pulled out
            data = b""
        if data:
            self._connection.data_received(data)
        else:
            self.abort()
            self._connection.connection_lost(None)


def _nobody(reason: str) -> None:
    del reason


def _why(error: Exception) -> str:
    """Return what a person can do something about, in one line."""
    number = getattr(error, "errno", None)
    if isinstance(error, serial.SerialException) and number in _REASONS:
        return _REASONS[number]
    return (str(error) or type(error).__name__).splitlines()[0]
