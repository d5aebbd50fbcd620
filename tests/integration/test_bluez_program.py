"""`edge-sim tags` as a program: it starts its own bus, any BLE client hears it, and it leaves nothing behind."""

from __future__ import annotations

import json
import sys

import pytest
from bleak import BleakScanner

from simulators.programs import Program, running, until

pytestmark = pytest.mark.slow


async def test_any_client_hears_the_tags_that_the_program_enrols(tmp_path, monkeypatch, require, closed_bleak) -> None:
    require("dbus-daemon")
    bus, tags, log = tmp_path / "bus", tmp_path / "tags.json", tmp_path / "served"
    words = ["--bus", bus, "--tags-file", tags, "--log", log, "--tags", "4", "--walks", "2", "--strangers", "50"]
    fast = ["--start", "2026-06-01T15:00:00+09:00", "--speed", "60"]
    program = Program("tags", [sys.executable, "-m", "simulators", "tags", *words, *fast], tmp_path / "out")
    heard: set[bytes] = set()
    async with running(program):
        await until(lambda: "DBUS_SYSTEM_BUS_ADDRESS=unix:path=" in program.tail(), 20, "it serves", program)
        monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", f"unix:path={bus}")
        async with BleakScanner(lambda _, advert: heard.update(advert.manufacturer_data.values())):
            await until(lambda: log.exists() and len(log.read_text().splitlines()) == 2, 60, "two walks", program)
    walks = [json.loads(line)["walk"] for line in log.read_text().splitlines()]
    assert {walk["tag"] for walk in walks} <= {entry["pseudonym"] for entry in json.loads(tags.read_text())["tags"]}
    assert all(walk["leaves"] > walk["enters"] for walk in walks)
    assert len(heard) > 5, "strangers are in the air"
    assert program.exit_code == 0
    assert len(walks) == 2
    assert not bus.exists()


async def test_a_path_too_long_for_a_socket_is_said(tmp_path) -> None:
    program = Program("tags", [sys.executable, "-m", "simulators", "tags", "--bus", "x" * 120], tmp_path / "out")
    await program.start()
    assert await program.wait() == 1
    assert "at most 107 bytes" in program.tail()


@pytest.fixture
async def closed_bleak():
    """Close the connection that bleak keeps for as long as its event loop."""
    yield
    import asyncio

    from bleak.backends.bluezdbus import manager

    kept = manager._global_instances.pop(asyncio.get_running_loop(), None)
    if kept is not None and kept._bus is not None:
        kept._bus.disconnect()
        await asyncio.wait([kept._bus_watcher_task], timeout=2)
