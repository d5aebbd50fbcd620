"""A pseudo-terminal that looks like a serial port to its client. Knows no protocol."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pty
import tty
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

_CHUNK = 4096
_BACKLOG_BYTES = 64 * 1024


class Line(Protocol):
    """The device's end of a serial line, from plugging in to pulling out."""

    def listen(self, on_data: Callable[[bytes], None]) -> None:
        """Hand what the client writes to a call."""

    def write(self, data: bytes) -> None:
        """Send bytes to the client."""

    def close(self) -> None:
        """Hang up."""


class Terminal:
    """The device's end of a serial line; what the client does not read in time is lost, as on a real UART."""

    def __init__(self, link: Path) -> None:
        self._link = link
        self._on_data: Callable[[bytes], None] | None = None
        self._backlog = bytearray()
        self.lost_bytes = 0
        self._master, self._slave = pty.openpty()
        # The client's end stays open here too: without it the terminal hangs up whenever no client is there.
        tty.setraw(self._slave)
        os.set_blocking(self._master, False)
        self.path = os.ttyname(self._slave)
        try:
            self._place_link()
        except BaseException:
            self._close_ends()
            raise

    def listen(self, on_data: Callable[[bytes], None]) -> None:
        """Hand what the client writes to a call."""
        self._on_data = on_data
        asyncio.get_running_loop().add_reader(self._master, self._readable)

    def write(self, data: bytes) -> None:
        """Send bytes to the client; drops them when it has left 64 KiB unread."""
        if len(self._backlog) + len(data) > _BACKLOG_BYTES:
            self.lost_bytes += len(data)
            return
        self._backlog += data
        self._drain()

    def close(self) -> None:
        """Hang up and remove the link."""
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._master)
        loop.remove_writer(self._master)
        with contextlib.suppress(OSError):
            if self._link.readlink() == Path(self.path):
                self._link.unlink()
        self._close_ends()

    def _place_link(self) -> None:
        if self._link.exists() and not self._link.is_symlink():
            raise FileExistsError(f"{self._link} exists and is not a link: choose another --link")
        self._link.parent.mkdir(parents=True, exist_ok=True)
        fresh = self._link.with_name(f".{self._link.name}.{os.getpid()}")
        fresh.unlink(missing_ok=True)
        fresh.symlink_to(self.path)
        fresh.replace(self._link)

    def _close_ends(self) -> None:
        os.close(self._master)
        os.close(self._slave)

    def _readable(self) -> None:
        with contextlib.suppress(BlockingIOError):
            if (data := os.read(self._master, _CHUNK)) and self._on_data is not None:
                self._on_data(data)

    def _drain(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while self._backlog:
                del self._backlog[: os.write(self._master, self._backlog)]
        except BlockingIOError:
            loop.add_writer(self._master, self._drain)
            return
        loop.remove_writer(self._master)
