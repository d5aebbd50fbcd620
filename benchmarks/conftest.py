"""What every benchmark needs; the tests' conftest does not reach here."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def pytest_addoption(parser: pytest.Parser) -> None:
    """Offer `--hour`."""
    parser.addoption("--hour", action="store_true", help="also watch the whole agent for an hour of real time")


def pytest_configure() -> None:
    """Say that there is no event loop yet: else looptime makes one in the first plain test, and nobody closes it."""
    asyncio.set_event_loop(None)
    sys.path.insert(0, str(HERE))


@pytest.fixture(scope="session")
def units_port():
    """The port of a server in another process that plays any unit."""
    with subprocess.Popen([sys.executable, HERE / "units.py"], stdout=subprocess.PIPE, text=True) as server:
        yield int(server.stdout.readline())
        server.terminate()


@pytest.fixture
def home():
    """An empty folder, its name short enough for Unix sockets; Mosquitto is there."""
    if shutil.which("mosquitto", path="/usr/sbin:/usr/bin:/sbin:/bin") is None:
        pytest.skip("mosquitto is not installed (make test adds it where it may)")
    path = Path(tempfile.mkdtemp(prefix="bench-"))
    yield path
    shutil.rmtree(path, ignore_errors=True)
