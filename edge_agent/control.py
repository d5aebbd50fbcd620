"""Commands to a running agent: from a person over a Unix socket, from the town over MQTT. Knows no command itself.

One JSON object a line: `{"command": "status", "arguments": {}}` is answered by `{"ok": true, "result": …}` or
`{"ok": false, "error": "…"}`.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeAlias

import msgspec

from drivers.api import ConfigError, DriverError, Json, LinkError, MalformedError, RefusedError
from edge_agent import wire

log = logging.getLogger(__name__)

MAX_REQUEST_BYTES = 64 * 1024
MAX_RESULT_BYTES = 60 * 1024
"""A result fits one message of the wire contract, with room for its frame."""
MAX_ANSWER_BYTES = 256 * 1024
MAX_CONNECTIONS = 8
IDLE_S = 60.0
"""A connection that says nothing for so long is closed; there are few of them to hold."""
CARRY_OUT_S = 60.0
REMEMBERED_S = 600.0
"""A command's id that comes again within this is answered again, not run again."""
REMEMBERED = 1000
MAX_EXPIRES_S = 3600.0
MAX_AHEAD_MS = 60_000
"""A sender's clock may be this much ahead; a command from further in the future would never expire."""

Handler: TypeAlias = Callable[[Mapping[str, Json]], Awaitable[Any]]
Fallback: TypeAlias = Callable[[str, Mapping[str, Json]], Awaitable[Any]]
"""Carries out a command by name that is none of the agent's own."""


class NoAgentError(Exception):
    """Nobody listens on any of the sockets."""


class _Request(msgspec.Struct):
    command: str
    arguments: dict[str, Any] = msgspec.field(default_factory=dict)


_requests = msgspec.json.Decoder(_Request)
_answers = msgspec.json.Decoder(dict[str, Any], float_hook=Decimal)


class Desk:
    """Carries out commands, the same way whoever sent them; `now_ms` is real unix time, None while unknown.

    `local` ones are for a person at the box alone.
    """

    def __init__(
        self,
        handlers: Mapping[str, Handler],
        fallback: Fallback,
        now_ms: Callable[[], int | None],
        local: Mapping[str, Handler] | None = None,
    ) -> None:
        self._handlers = handlers
        self._local = local or {}
        self._fallback = fallback
        self._now_ms = now_ms
        self._answered: dict[str, tuple[float, asyncio.Future[wire.Response]]] = {}

    async def carry_out(self, name: str, arguments: Mapping[str, Json], *, at_the_box: bool = False) -> Any:
        """Return a command's result; raises DriverError when it was not carried out."""
        try:
            async with asyncio.timeout(CARRY_OUT_S):
                handler = (self._local.get(name) if at_the_box else None) or self._handlers.get(name)
                result = await (handler(arguments) if handler else self._fallback(name, arguments))
        except TimeoutError as error:
            raise LinkError(f"{name} was not done within {CARRY_OUT_S:.0f} s") from error
        try:
            size = len(wire.encode({"result": result}))
        except (TypeError, ValueError, RecursionError) as error:
            raise MalformedError(f"{name} gave what JSON cannot hold: {error}") from error
        if size > MAX_RESULT_BYTES:
            raise MalformedError(f"the result of {name} takes {size} bytes; at most {MAX_RESULT_BYTES} can be sent")
        return result

    async def answer(self, name: str, command: wire.Command) -> wire.Response:
        """Carry out a command from the town once, if it is still valid, and say how it went."""
        loop = asyncio.get_running_loop()
        self._forget(loop.time())
        if (known := self._answered.get(command.id)) is not None:
            return await asyncio.shield(known[1])
        if (objection := self._objection(command)) is not None:
            return wire.Response(command.id, ok=False, error=objection)
        done: asyncio.Future[wire.Response] = loop.create_future()
        self._answered[command.id] = (loop.time(), done)
        response = wire.Response(command.id, ok=False, error="the agent stopped meanwhile")
        try:
            response = await self._response(name, command)
        finally:
            done.set_result(response)
        return response

    async def _response(self, name: str, command: wire.Command) -> wire.Response:
        try:
            result = await self.carry_out(name, command.arguments)
        except DriverError as error:
            return wire.Response(command.id, ok=False, error=str(error))
        return wire.Response(command.id, ok=True, result=result)

    def _objection(self, command: wire.Command) -> str | None:
        """Say why a command must not be carried out; an old 'discharge' is worse than none."""
        now_ms = self._now_ms()
        if len(self._answered) >= REMEMBERED:
            return f"more than {REMEMBERED} commands in {REMEMBERED_S / 60:.0f} min"
        if now_ms is None:
            return "the gateway's clock is not set, so it cannot tell whether the command is still valid"
        if not 0 < command.expires_s <= MAX_EXPIRES_S:
            return f"expires_s is not above 0 and at most {MAX_EXPIRES_S:.0f}"
        if command.sent > now_ms + MAX_AHEAD_MS:
            return "sent in the future; check the sender's clock"
        late_s = (now_ms - command.sent) / 1000 - float(command.expires_s)
        return f"expired {late_s:.0f} s ago" if late_s > 0 else None

    def _forget(self, now: float) -> None:
        old = [name for name, (when, _) in self._answered.items() if now - when > REMEMBERED_S]
        for name in old:
            del self._answered[name]


@asynccontextmanager
async def listening(path: Path, desk: Desk) -> AsyncIterator[None]:
    """Answer on a Unix socket for the time of the block; raises ConfigError where that is not possible."""
    connections: set[asyncio.StreamWriter] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(connections) >= MAX_CONNECTIONS:
            writer.close()
            return
        connections.add(writer)
        try:
            await _converse(reader, writer, desk)
        except (OSError, TimeoutError, ValueError, asyncio.CancelledError) as error:
            log.debug("a control connection ended: %r", error)
        finally:
            connections.discard(writer)
            writer.close()

    listener = _bind(path)
    try:
        server = await asyncio.start_unix_server(serve, sock=listener, limit=MAX_REQUEST_BYTES)
        async with server:
            try:
                yield
            finally:
                for writer in connections:
                    writer.transport.abort()
    finally:
        _unbind(listener, path)


def _bind(path: Path) -> socket.socket:
    """Return a listening socket that the agent's user and group may use; takes the place of a dead agent's."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if _is_answered(path):
            problem = f"another agent already runs with this gateway id and listens on {path}"
            raise ConfigError("gateway.id", problem, "stop it first, or give one of the two another id")
        path.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        former = os.umask(0o117)
        try:
            with _short(path) as short:
                listener.bind(short)
        finally:
            os.umask(former)
    except OSError as error:
        remedy = "name a folder that the agent's user may write, such as /run/edge-agent"
        raise ConfigError("runtime_directory", f"no socket at {path} ({error})", remedy) from error
    return listener


def _unbind(listener: socket.socket, path: Path) -> None:
    listener.close()
    path.unlink(missing_ok=True)


class _short:  # noqa: N801  (reads as a function)
    """A path to a socket that fits the 107 bytes of sockaddr_un, however deep its folder is."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._folder: int | None = None

    def __enter__(self) -> str:
        if len(os.fsencode(self._path)) <= 107:
            return str(self._path)
        self._folder = os.open(self._path.parent, os.O_PATH | os.O_DIRECTORY)
        return f"/proc/self/fd/{self._folder}/{self._path.name}"

    def __exit__(self, *_: object) -> None:
        if self._folder is not None:
            os.close(self._folder)


def _is_answered(path: Path) -> bool:
    """Tell whether somebody listens at a path."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        try:
            with _short(path) as short:
                probe.connect(short)
        except (FileNotFoundError, ConnectionRefusedError):
            return False
        except TimeoutError:
            return True
    return True


async def _converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, desk: Desk) -> None:
    while True:
        try:
            async with asyncio.timeout(IDLE_S):
                line = await reader.readline()
        except ValueError:  # the line is longer than the limit: what follows cannot be told from it
            writer.write(_refusal(f"a request is longer than {MAX_REQUEST_BYTES} bytes"))
            await writer.drain()
            return
        if not line:
            return
        writer.write(await _answer(line, desk))
        async with asyncio.timeout(IDLE_S):
            await writer.drain()


async def _answer(line: bytes, desk: Desk) -> bytes:
    try:
        request = _requests.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return _refusal(f"not a request: {error}")
    try:
        result = await desk.carry_out(request.command, request.arguments, at_the_box=True)
    except DriverError as error:
        return _refusal(str(error))
    return wire.encode({"ok": True, "result": result}) + b"\n"


def _refusal(text: str) -> bytes:
    return wire.encode({"ok": False, "error": text}) + b"\n"


async def ask(paths: Iterable[Path], name: str, arguments: Mapping[str, Json], within_s: float = 30.0) -> Any:
    """Return what a running agent answers; raises NoAgentError, or DriverError with the agent's reason."""
    for path in paths:
        try:
            with _short(path) as short:
                reader, writer = await asyncio.open_unix_connection(short, limit=MAX_ANSWER_BYTES)
        except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError):
            continue
        except PermissionError as error:
            remedy = "use sudo, or join the group that owns the socket"
            raise ConfigError("runtime_directory", f"an agent runs, but {path} may not be opened", remedy) from error
        try:
            async with asyncio.timeout(within_s):
                writer.write(wire.encode({"command": name, "arguments": dict(arguments)}) + b"\n")
                return _result(await reader.readline())
        except (OSError, TimeoutError, ValueError) as error:
            raise LinkError(f"the agent behind {path} does not answer ({error!r})") from error
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()
    raise NoAgentError


def _result(line: bytes) -> Any:
    try:
        answer = _answers.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedError(f"the agent's answer makes no sense: {error}") from error
    if answer.get("ok") is not True:
        raise RefusedError(str(answer.get("error", "no reason given")))
    return answer.get("result")
