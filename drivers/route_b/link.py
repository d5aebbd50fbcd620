"""The serial port of a Wi-SUN dongle: opened exclusively, its library's errors translated once. Knows no protocol."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import select
import termios
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import serial
import serial_asyncio_fast

from drivers.api import LinkError

BAUD = 115_200
READ_BYTES = 4096
WRITE_S = 5.0
"""How long a port may take no byte at all; a dongle that stops its flow for longer is stuck."""
CLOSE_S = 1.0
BY_ID = Path("/dev/serial/by-id")
"""Where the system names each port by its maker, product and serial number, whatever its tty is called today."""


class SerialPort:
    """An open port, as a session wants it."""

    def __init__(self, name: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._name = name
        self._reader = reader
        self._writer = writer

    async def read(self) -> bytes:
        """Return the next bytes; raises LinkError once the port is gone."""
        try:
            data = await self._reader.read(READ_BYTES)
        except (OSError, serial.SerialException) as error:
            raise LinkError(f"{self._name}: {_why(error)}") from error
        if not data:
            raise LinkError(f"{self._name}: the port has closed")
        return data

    async def write(self, data: bytes) -> None:
        """Hand bytes to the port; raises LinkError when it is gone or takes nothing."""
        # pyserial's non-blocking write spins while the port is full, which would stop the whole agent: ask first.
        try:
            async with asyncio.timeout(WRITE_S):
                while not self._takes_bytes():  # noqa: ASYNC110  (no event tells it without a second poller)
                    await asyncio.sleep(0.01)
        except TimeoutError:
            raise LinkError(f"{self._name}: the port takes no bytes") from None
        self._writer.write(data)

    async def close(self) -> None:
        """Release the port without waiting for what it has not sent; the next may open it at once."""
        transport = self._writer.transport
        if not transport.is_closing():
            with contextlib.suppress(OSError, serial.SerialException):
                opened = transport.get_extra_info("serial")
                # The system closes it in another thread, which nobody waits for who is cancelled again meanwhile.
                fcntl.flock(opened.fileno(), fcntl.LOCK_UN)
                opened.reset_output_buffer()
            transport.abort()
        with contextlib.suppress(OSError, serial.SerialException, TimeoutError):
            async with asyncio.timeout(CLOSE_S):
                await self._writer.wait_closed()

    def _takes_bytes(self) -> bool:
        transport = self._writer.transport
        if transport.is_closing():
            raise LinkError(f"{self._name}: the port has closed")
        try:
            descriptor = transport.get_extra_info("serial").fileno()
            poll = select.poll()
            poll.register(descriptor, select.POLLOUT)
            return bool(poll.poll(0))
        except (OSError, ValueError, serial.SerialException) as error:
            raise LinkError(f"{self._name}: {_why(error)}") from error


@contextlib.asynccontextmanager
async def open_port(name: str) -> AsyncIterator[SerialPort]:
    """Open a port for this process alone and close it in the end; raises LinkError."""
    try:
        reader, writer = await _streams(await _opened(name))
    except (OSError, ValueError, serial.SerialException) as error:
        raise LinkError(f"{name}: {_why(error)}") from error
    port = SerialPort(name, reader, writer)
    try:
        yield port
    finally:
        await port.close()


async def _opened(name: str) -> serial.Serial:
    """Open a port in a thread, which a slow one may block; closed again when the caller is cancelled meanwhile."""
    make = partial(serial.serial_for_url, name, baudrate=BAUD, exclusive=True)
    opening = asyncio.get_running_loop().run_in_executor(None, make)
    try:
        return await asyncio.shield(opening)
    except asyncio.CancelledError:
        await _over(opening)
        if opening.done():
            _close_unused(opening)
        else:  # a port that takes long to open
            opening.add_done_callback(_close_unused)
        raise


async def _over(opening: asyncio.Future[serial.Serial]) -> None:
    """Wait some time for what cannot be cancelled, however often the caller is."""
    loop = asyncio.get_running_loop()
    until_s = loop.time() + CLOSE_S
    while not opening.done() and (left_s := until_s - loop.time()) > 0:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait([opening], timeout=left_s)


def _close_unused(opening: asyncio.Future[serial.Serial]) -> None:
    if opening.exception() is None:
        opening.result().close()


async def _streams(opened: serial.Serial) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(loop=loop)
    protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
    transport, _ = await serial_asyncio_fast.connection_for_serial(loop, lambda: protocol, opened)
    return reader, asyncio.StreamWriter(transport, protocol, reader, loop)


def stable_name(port: str) -> str | None:
    """Return the name that stays with what is plugged in at a port, or None where the system has none for it."""
    real = os.path.realpath(port)
    with contextlib.suppress(OSError):
        return next((path.name for path in sorted(BY_ID.iterdir()) if os.path.realpath(path) == real), None)
    return None


def locate(port: str, known_as: str | None) -> str:
    """Return where the dongle is now that was once found at `port`: by its own name while that is there."""
    if known_as and "/" not in known_as and (BY_ID / known_as).exists():
        return str(BY_ID / known_as)
    return port


_REASONS = {
    errno.ENOENT: "there is no such port; is the dongle plugged in?",
    errno.EACCES: "no permission; the user must be in the group of serial ports (dialout)",
    errno.EAGAIN: "another program has it locked",
    errno.EBUSY: "another program has it open",
    errno.ENOTTY: "not a serial port",
    errno.EISDIR: "not a serial port",
    errno.EIO: "the port has closed",
}


def _why(error: Exception) -> str:
    """Return what a person can do something about, in one line."""
    number = _number(error)
    if number in _REASONS:
        return _REASONS[number]
    return (str(error) or type(error).__name__).splitlines()[0]


def _number(error: Exception) -> int | None:
    """Return the system's number for an error, also where the serial library has words of its own instead."""
    if "device disconnected" in str(error):  # a port that ends without an error
        return errno.EIO
    if isinstance(wrapped := error.__context__, termios.error):
        return int(wrapped.args[0])
    return getattr(error, "errno", None)
