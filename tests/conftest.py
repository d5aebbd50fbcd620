"""Fixtures for every test. Whatever belongs to one part of the product stands in that part's own conftest."""

from __future__ import annotations

import asyncio
import importlib
import logging
import os
import shutil
from pathlib import Path
from types import ModuleType
from typing import NoReturn

import pytest

ROOT = Path(__file__).resolve().parents[1]
SEARCH_PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])


def pytest_configure() -> None:
    """Say that there is no event loop yet: else looptime makes one in the first plain test, and nobody closes it."""
    asyncio.set_event_loop(None)


def in_ci() -> bool:
    """Tell whether a test that cannot run counts as failed."""
    return os.environ.get("CI", "").lower() in {"1", "true", "yes"}


@pytest.fixture(autouse=True)
def logging_stays_as_it_was():
    """A test that runs a command in this process changes the root logger; the next test does not see that."""
    root_logger = logging.getLogger()
    level, handlers = root_logger.level, set(root_logger.handlers)
    yield
    root_logger.setLevel(level)
    for handler in set(root_logger.handlers) - handlers:
        if not type(handler).__module__.startswith("_pytest."):  # pytest hangs in new ones for every phase
            root_logger.removeHandler(handler)


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return ROOT


@pytest.fixture(scope="session")
def missing():
    """`missing(reason)` ends the test that asks: skipped at a desk, failed in CI, where nothing may be missing."""

    def end(reason: str) -> NoReturn:
        if in_ci():
            pytest.fail(f"{reason}; CI runs every test", pytrace=False)
        pytest.skip(reason)

    return end


@pytest.fixture(scope="session")
def require(missing):
    """`require("mosquitto")` returns the program's path, or ends the test as `missing` does."""

    def find(program: str) -> str:
        path = shutil.which(program, path=SEARCH_PATH)
        if path is None:
            missing(f"{program} is not installed (make test adds it where it may)")
        return path

    return find


@pytest.fixture(scope="session")
def imported(missing):
    """`imported("playwright.async_api")` returns that module, or ends the test as `missing` does."""

    def find(module: str) -> ModuleType:
        try:
            return importlib.import_module(module)
        except ImportError as error:
            missing(f"{error} (make setup installs it)")

    return find


@pytest.fixture(scope="session")
def shared(root: Path):
    """`shared("golden/route_b/frames.json")` returns that file of the folder beside the checkout, or skips the test."""

    def find(name: str) -> Path:
        path = root.parent / "shared" / name
        if not path.exists():
            pytest.skip(f"{name} is not beside this checkout")
        return path

    return find


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start the longest first, each on a worker of its own: an outage of five minutes must hold up no other test.

    A worker begins with the part of the list that its number names; what is left of it is stolen from its end. So the
    list is dealt like cards, to and fro: behind the longest stands the shortest of its round.
    """

    def allowed_s(item: pytest.Item) -> float:
        mark = item.get_closest_marker("timeout")
        return -mark.args[0] if mark and mark.args else 0.0

    items.sort(key=allowed_s)
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    hands: list[list[pytest.Item]] = [[] for _ in range(workers)]
    for start in range(0, len(items), workers):
        hands.reverse()
        for hand, item in zip(hands, items[start : start + workers], strict=False):
            hand.append(item)
    items[:] = [item for hand in hands for item in hand]
