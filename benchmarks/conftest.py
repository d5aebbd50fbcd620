"""What every benchmark needs; the tests' conftest does not reach here."""

from __future__ import annotations

import asyncio


def pytest_configure() -> None:
    """Say that there is no event loop yet: else looptime makes one in the first plain test, and nobody closes it."""
    asyncio.set_event_loop(None)
