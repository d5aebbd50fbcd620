"""The gateway's time: boot clock, UTC when it is known, and how far to trust it. Sets no clock and stores nothing."""

from __future__ import annotations

import asyncio
import ctypes
import hashlib
import logging
import math
import time
from collections.abc import Awaitable, Callable, Iterable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Literal

from drivers.api import ConfigError, Event, Json, TimeHint
from drivers.settings import Table
from drivers.timescale import Timescale
from edge_agent.device_time import WITHIN_MS, DeviceTime
from edge_agent.wire import ClockQuality

log = logging.getLogger(__name__)

JAPAN = timezone(timedelta(hours=9))
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
TIMESYNC = Path("/run/systemd/timesync/synchronized")
"""systemd-timesyncd touches this file once it has set the clock in this boot."""
STEP_MS = 250
"""A change of the offset beyond this is a step; slewing and reading jitter stay far below."""
WATCH_S = 1.0
BEAT_S = 20.0
"""The watch over the clock promises a sign of life this often; writing down a step may take the outbox a while."""
STA_UNSYNC = 0x40
"""adjtimex(2): the kernel's own word that nobody steers the clock."""

OnChange = Callable[[Event], Awaitable[None]]


class ClockSettings(Table, frozen=True):
    """`clock:`; `auto` believes the kernel or timesyncd, else a meter; `system` the host's clock as it stands."""

    trust: Literal["auto", "system"] = "auto"


class SimulationSettings(Table, frozen=True):
    """`simulation:`; time starts at `start` and runs `speed` times as fast since unix second `since` (default: now)."""

    start: str
    speed: float = 1.0
    since: float | None = None

    def timescale(self) -> Timescale:
        """Return the same as arithmetic; raises ConfigError."""
        try:
            start = datetime.fromisoformat(self.start)
        except ValueError as error:
            raise ConfigError("start", "not a time", "write it as 2026-06-01T00:00:00+09:00", self.start) from error
        if start.tzinfo is None:
            raise ConfigError("start", "has no time zone", "add +09:00", self.start)
        if not (math.isfinite(self.speed) and 0 < self.speed <= 100_000):
            raise ConfigError("speed", "not above 0 and at most 100000", "1 is real time", self.speed)
        since = time.time() if self.since is None else self.since
        if not math.isfinite(since):
            raise ConfigError("since", "not a number of seconds", "write unix seconds or leave it out", self.since)
        return Timescale(round(start.timestamp() * 1000), round(since * 1000), self.speed)


def boottime_s() -> float:
    """Return real seconds since boot, suspend included: what ages and time-outs inside the gateway are counted by."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def kernel_boot() -> str:
    """Return 8 hex digits of the kernel's boot id: the same for every process until the machine starts again."""
    return BOOT_ID.read_text().replace("-", "")[:8]


def iso_time(unix_ms: int | None) -> str | None:
    """Return a time for people, in Japan's offset: `2026-11-21T21:30:05+09:00`."""
    if unix_ms is None:
        return None
    return datetime.fromtimestamp(unix_ms // 1000, JAPAN).isoformat()


class SystemClock:
    """The clock that drivers, outbox and uplink share."""

    def __init__(
        self,
        settings: ClockSettings | None = None,
        simulation: SimulationSettings | None = None,
        on_change: OnChange | None = None,
    ) -> None:
        self._settings = settings or ClockSettings()
        self._simulation = _Simulation(simulation.timescale()) if simulation else None
        self.on_change = on_change
        self.on_beat: Callable[[str, float], None] = lambda _name, _within_s: None
        self.boot = self._simulation.boot if self._simulation else kernel_boot()
        """Names the stretch of time in which `boot_ms` grows without a break."""
        self.hints: Callable[[], Iterable[TimeHint]] = tuple
        """What the devices' own clocks say; asked only while UTC is otherwise unknown."""
        self._device_time = DeviceTime()
        self._synced_once = False
        self._synced_now = False
        self._told_ms: int | None = None
        self.look()

    def boot_ms(self) -> int:
        """Return milliseconds since boot (CLOCK_BOOTTIME), or simulated ones since the simulation began."""
        return (
            self._simulation.boot_ms() if self._simulation else time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000
        )

    def offset_ms(self) -> int | None:
        """Return what turns boot ms into unix ms; None while UTC is unknown."""
        if self._simulation:
            return self._simulation.timescale.start_ms
        return _real_offset_ms() if self._is_known() else self._device_time.offset_ms

    def unix_ms(self) -> int | None:
        """Return UTC in milliseconds; None while it is unknown."""
        offset_ms = self.offset_ms()
        return None if offset_ms is None else self.boot_ms() + offset_ms

    def latest_unix_ms(self) -> int | None:
        """Return the latest that UTC can be: what must not happen too late is judged by it."""
        unix_ms = self.unix_ms()
        return unix_ms + WITHIN_MS if unix_ms is not None and self.quality() == "meter" else unix_ms

    def quality(self) -> ClockQuality:
        """Return how far UTC can be trusted; under trust `system` the host's clock counts as synced."""
        if self._simulation:
            return "simulated"
        if self._settings.trust == "system" or self._synced_now:
            return "synced"
        if self._synced_once:
            return "holdover"
        return "unknown" if self._device_time.offset_ms is None else "meter"

    async def sleep_until(self, boot_ms: int) -> None:
        """Return when the boot clock has reached `boot_ms`."""
        speed = self._simulation.timescale.speed if self._simulation else 1.0
        while (rest_ms := boot_ms - self.boot_ms()) > 0:  # noqa: ASYNC110  (time is waited for, not an event)
            await asyncio.sleep(rest_ms / 1000 / speed)

    async def run(self) -> None:
        """Watch the clock for ever; an offset found or stepped is told to `on_change` as a `clock_offset` event."""
        while True:
            self.on_beat("clock", BEAT_S)
            self.look()
            if (event := self.change()) is not None and self.on_change is not None:
                await self.on_change(event)
            await asyncio.sleep(WATCH_S)

    def look(self) -> None:
        """Ask the kernel and timesyncd whether the clock is set, and the devices while it is not."""
        self._synced_now = is_synchronized()
        self._synced_once = self._synced_once or self._synced_now
        if not (self._simulation or self._is_known()):
            for hint in self.hints():
                self._device_time.weigh(hint, self.boot_ms())

    def change(self) -> Event | None:
        """Return a `clock_offset` event when the offset was not told yet or has stepped since."""
        offset_ms = self.offset_ms()
        if offset_ms is None or (self._told_ms is not None and abs(offset_ms - self._told_ms) <= STEP_MS):
            return None
        stepped_ms = None if self._told_ms is None else offset_ms - self._told_ms
        if stepped_ms is not None:
            log.warning("the clock was stepped by %d ms", stepped_ms)
        self._told_ms = offset_ms
        data: dict[str, Json] = {
            "boot": self.boot,
            "offset_ms": offset_ms,
            "clock": self.quality(),
            "stepped_ms": stepped_ms,
        }
        if self.quality() == "meter":
            data["within_ms"] = self._device_time.within_ms
        return Event("gateway", "clock_offset", self.boot_ms(), data)

    def _is_known(self) -> bool:
        return self._settings.trust == "system" or self._synced_once


class _Simulation:
    """Simulated time since a moment all processes agree on."""

    def __init__(self, timescale: Timescale) -> None:
        self.timescale = timescale
        # Anchored once: a step of the host's clock must not move simulated time.
        self._since_s = time.monotonic() - (time.time() - timescale.since_ms / 1000)
        name = f"{timescale.start_ms} {timescale.since_ms} {timescale.speed}"
        self.boot = hashlib.sha256(name.encode()).hexdigest()[:8]

    def boot_ms(self) -> int:
        return int((time.monotonic() - self._since_s) * 1000 * self.timescale.speed)


def is_synchronized() -> bool:
    """Tell whether the kernel or timesyncd says that the clock is set; False when neither can be asked."""
    return _kernel_says_synced() or TIMESYNC.exists()


def _real_offset_ms() -> int:
    return (time.clock_gettime_ns(time.CLOCK_REALTIME) - time.clock_gettime_ns(time.CLOCK_BOOTTIME)) // 1_000_000


class _Timex(ctypes.Structure):
    """The head of `struct timex`; the kernel writes up to 208 bytes on 64-bit Linux."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("rest", ctypes.c_char * 256),
    )


_libc = ctypes.CDLL(None, use_errno=True)


def _kernel_says_synced() -> bool:
    timex = _Timex()
    state = _libc.adjtimex(ctypes.byref(timex))
    # -1 is EPERM in many containers and under ProtectClock=; TIME_ERROR (5) also says "not synchronised".
    return state >= 0 and not timex.status & STA_UNSYNC
