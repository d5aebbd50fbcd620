"""How the box is: temperature, disk, memory, gathered from the kernel. Publishes nothing and raises nothing."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path

from drivers.api import Json

PERIOD_S = 60.0

_TEMPERATURE = Path("/sys/class/thermal/thermal_zone0/temp")
_STATM = Path("/proc/self/statm")
_MEMINFO = Path("/proc/meminfo")
_MIB = 1024 * 1024


def box(state_directory: Path) -> dict[str, Json]:
    """Return what the kernel says of the machine; None where it does not say."""
    return {
        "cpu_temperature_c": cpu_temperature_c(),
        "disk": disk(state_directory),
        "memory": {"rss_mib": rss_mib(), "available_mib": available_mib()},
        "load_1min": round(os.getloadavg()[0], 2),
        "uptime_s": int(time.clock_gettime(time.CLOCK_BOOTTIME)),
    }


def cpu_temperature_c(source: Path = _TEMPERATURE) -> float | None:
    """Return the processor's temperature; None on a machine without a sensor, or for a value no processor has."""
    text = _read(source)
    try:
        celsius = int(text) / 1000
    except ValueError:
        return None
    return round(celsius, 1) if -60 < celsius < 150 else None


def disk(folder: Path) -> dict[str, Json]:
    """Return free and total MiB of the file system that holds the outbox."""
    try:
        found = os.statvfs(folder)
    except OSError:
        return {"free_mib": None, "total_mib": None}
    block = found.f_frsize
    return {"free_mib": found.f_bavail * block // _MIB, "total_mib": found.f_blocks * block // _MIB}


def rss_mib(source: Path = _STATM) -> float | None:
    """Return the memory this process holds."""
    fields = _read(source).split()
    if len(fields) < 2 or not fields[1].isdecimal():
        return None
    return round(int(fields[1]) * os.sysconf("SC_PAGE_SIZE") / _MIB, 1)


def available_mib(source: Path = _MEMINFO) -> int | None:
    """Return the memory the machine has left."""
    for line in _read(source).splitlines():
        name, _, rest = line.partition(":")
        amount = rest.split()[:1]
        if name == "MemAvailable" and amount and amount[0].isdecimal():
            return int(amount[0]) // 1024
    return None


def summary(health: Mapping[str, Json]) -> str:
    """Return one line for systemd's STATUS=."""
    drivers = health.get("drivers")
    states = (
        [one.get("state") for one in drivers.values() if isinstance(one, dict)] if isinstance(drivers, dict) else []
    )
    running = states.count("running")
    return f"{running} of {len(states)} drivers run"


def _read(source: Path) -> str:
    try:
        return source.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
