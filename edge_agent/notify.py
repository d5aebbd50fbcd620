"""Tell systemd how the agent is: ready, alive, stopping. Without systemd every message is silently dropped."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Callable, Mapping

log = logging.getLogger(__name__)

STALE_FACTOR = 3
"""A vital loop is stuck when it has not ticked for this many of its own periods."""


class Pulse:
    """When each vital loop last ticked, and by when it must tick again."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._due: dict[str, float] = {}

    def tick(self, name: str, within_s: float) -> None:
        """Note that a loop lives; it promises to tick again within `within_s`, with room for a busy machine."""
        self._due[name] = self._now() + within_s * STALE_FACTOR

    def forget(self, name: str) -> None:
        """Take a loop that ended on purpose out of the watch."""
        self._due.pop(name, None)

    def stuck(self) -> list[str]:
        """Return the loops that broke their promise."""
        now = self._now()
        return sorted(name for name, due in self._due.items() if due < now)


def notify(message: str, environment: Mapping[str, str] = os.environ) -> bool:
    """Send one sd_notify message; tells whether somebody took it."""
    address = environment.get("NOTIFY_SOCKET", "")
    if address[:1] not in {"/", "@"}:
        return False
    target = "\0" + address[1:] if address.startswith("@") else address
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as connection:
            connection.setblocking(False)
            connection.sendto(message.encode(), target)
    except OSError as error:
        log.debug("systemd does not take %r: %s", message, error)
        return False
    return True


def watchdog_s(environment: Mapping[str, str] = os.environ) -> float | None:
    """Return how often systemd wants a sign of life, or None where it wants none of this process."""
    text, owner = environment.get("WATCHDOG_USEC", ""), environment.get("WATCHDOG_PID", "")
    if not text.isdecimal() or int(text) == 0 or (owner and owner != str(os.getpid())):
        return None
    return int(text) / 1_000_000


async def keep_alive(pulse: Pulse, environment: Mapping[str, str] = os.environ) -> None:
    """Pet the watchdog at half its period for as long as no vital loop is stuck; without a watchdog just wait."""
    period_s = watchdog_s(environment)
    silent = False
    while True:
        await asyncio.sleep(period_s / 2 if period_s else 10)
        stuck = pulse.stuck()
        if stuck and not silent:
            log.error("stuck: %s; the watchdog is no longer fed", ", ".join(stuck))
        elif silent and not stuck:
            log.info("nothing is stuck any more")
        silent = bool(stuck)
        if period_s and not stuck:
            notify("WATCHDOG=1", environment)
