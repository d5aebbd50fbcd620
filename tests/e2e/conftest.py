"""A folder for a town, short enough for the names of Unix sockets, with what it needs installed."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pytest


@pytest.fixture
def home(require):
    """An empty folder; Mosquitto is there."""
    require("mosquitto")
    path = Path(tempfile.mkdtemp(prefix="town-"))
    yield path
    shutil.rmtree(path, ignore_errors=True)
