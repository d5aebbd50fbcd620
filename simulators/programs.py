"""Run other programs side by side: start, wait for a state, stop, and show the log of the one that died."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from pathlib import Path

POLL_S = 0.05
STOP_WITHIN_S = 10.0
TAIL_LINES = 25


class ProgramError(Exception):
    """A program died or a state was not reached; the text holds the end of the log."""


class Program:
    """One program with its log file; may be started again after it was stopped or killed."""

    def __init__(
        self,
        name: str,
        argv: Sequence[str | Path],
        log: Path,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> None:
        self.name = name
        self.log = log
        self._argv = [str(word) for word in argv]
        self._env = {**os.environ, "PYTHONUNBUFFERED": "1", **(env or {})}
        self._cwd = cwd
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int:
        """The process id; raises ProgramError when it does not run."""
        if self._process is None or self._process.returncode is not None:
            raise ProgramError(f"{self.name} does not run\n{self.tail()}")
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """The exit code, or None while it runs or before it was started."""
        return None if self._process is None else self._process.returncode

    async def start(self) -> None:
        """Start it; standard output and error go to the end of the log."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *self._argv, stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log, env=self._env, cwd=self._cwd
            )

    async def stop(self) -> None:
        """Ask it to end; kill it when it does not."""
        await self._end(signal.SIGTERM)

    async def kill(self) -> None:
        """End it as a power cut would: no clean-up."""
        await self._end(signal.SIGKILL)

    async def wait(self) -> int:
        """Return its exit code once it has ended."""
        if self._process is None:
            raise ProgramError(f"{self.name} was not started")
        return await self._process.wait()

    async def _end(self, number: signal.Signals) -> None:
        if self._process is None or self._process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)
        try:
            async with asyncio.timeout(STOP_WITHIN_S):
                await self._process.wait()
        except TimeoutError:
            self._process.kill()
            await self._process.wait()

    def tail(self) -> str:
        """Return the last lines of its log."""
        if not self.log.exists():
            return f"(no log of {self.name})"
        lines = self.log.read_text(errors="replace").splitlines()[-TAIL_LINES:]
        return "\n".join([f"--- {self.name}: end of {self.log}", *lines])


@contextlib.asynccontextmanager
async def running(*programs: Program) -> AsyncIterator[None]:
    """Start programs in order and stop those still running in reverse order at the end."""
    try:
        for program in programs:
            await program.start()
        yield
    finally:
        for program in reversed(programs):
            await program.stop()


def raise_if_dead(*programs: Program) -> None:
    """Raise ProgramError, with the end of its log, for a program that has ended."""
    for program in programs:
        if program.exit_code is not None:
            raise ProgramError(f"{program.name} ended with {program.exit_code}\n{program.tail()}")


async def until(
    state: Callable[[], bool | Awaitable[bool]], within_s: float, what: str, *watched: Program, poll_s: float = POLL_S
) -> None:
    """Return once `state()` holds; raises ProgramError when a watched program dies or the time is up."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + within_s
    while True:
        answer = state()
        if await answer if inspect.isawaitable(answer) else answer:
            return
        raise_if_dead(*watched)
        if loop.time() > deadline:
            logs = "\n".join(program.tail() for program in watched)
            raise ProgramError(f"not within {within_s:g} s: {what}\n{logs}")
        await asyncio.sleep(poll_s)
