"""What `make demo` starts, in a folder of its own: both gateways online, values in seconds, nothing left behind."""

from __future__ import annotations

import asyncio
import json
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
from harness import free_port

from simulators.programs import Program, running, until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(150)]

READY_WITHIN_S = 60
READ_WITHIN_S = 5
LIVE_WITHIN_S = 30
STAYS_S = 15


def fetch(url: str) -> bytes:
    """Return a page, or nothing while there is none."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.read()
    except OSError:
        return b""


def gateway(page: str, name: str) -> dict:
    """Return what the aggregator says of a gateway."""
    return json.loads(fetch(f"{page}/api/v1/gateways/{name}") or b"{}")


async def test_the_demo_runs_a_house_and_a_pole(home: Path, require, root: Path) -> None:
    require("dbus-daemon")
    port = free_port()
    page = f"http://127.0.0.1:{port}"
    words = [sys.executable, "-m", "simulators", "demo", "--http-port", str(port)]
    demo = Program("demo", words, home / "demo.log", cwd=home)
    words = [sys.executable, "-m", "edge_agent", "read", root / "configs/demo.yaml"]
    read = Program("read", words, home / "read.log", cwd=home)
    async with running(demo):
        await until(lambda: b"house-001" in fetch(f"{page}/api/v1/gateways"), READY_WITHIN_S, "a house", demo)
        await until(lambda: load(page) is not None, LIVE_WITHIN_S, "the house's load is known", demo, poll_s=0.5)
        shown = await polled(lambda: load(page), STAYS_S)
        assert shown.count(None) <= 1, shown
        await until(lambda: gateway(page, "pole-001").get("state") == "online", LIVE_WITHIN_S, "a pole", demo)
        assert b"<html" in fetch(page)
        began = time.monotonic()
        await read.start()
        assert await read.wait() == 0, read.tail()
        took = time.monotonic() - began
    assert demo.exit_code == 0, demo.tail()
    for shown in ("Grid power", "PV power", "Battery state of charge", " W", " kWh", " %"):
        assert shown in read.log.read_text()
    assert took < READ_WITHIN_S, f"{took:.1f} s"
    assert not left_behind(home)


async def polled(ask: Callable[[], float | None], seconds: float) -> list[float | None]:
    """Return what two questions a second are answered."""
    answers = []
    for _ in range(round(seconds / 0.5)):
        answers.append(ask())
        await asyncio.sleep(0.5)
    return answers


def load(page: str) -> float | None:
    """Return what the house uses now, None while unknown."""
    return (gateway(page, "house-001").get("flow") or {}).get("load_power_w")


def left_behind(folder: Path) -> list[str]:
    """Return programs that still run in a folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "cwd").readlink() == folder.resolve():
                found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            continue
    return found
