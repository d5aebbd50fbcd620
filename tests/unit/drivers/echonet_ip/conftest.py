"""A home network on loopback: simulated nodes on addresses and a port that no other test has, and a place for items."""

import asyncio
import contextlib
import random
import socket

import pytest
from echonet_air import AirHome

from drivers.api import Context, Event, Sample
from drivers.contract import DictMemory, FastClock
from drivers.echonet_ip.driver import create
from simulators.echonet import Manners, Node, NodeServer, things
from simulators.house import House

MORNING_MS = 1_780_272_000_000  # 2026-06-01 09:00 in Japan: the battery charges


def a_free_port(address):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind((address, 0))
        return probe.getsockname()[1]


class Home:
    """Nodes of one house at one moment, and the box among them."""

    def __init__(self):
        draw = random.SystemRandom()
        self.prefix = f"127.{draw.randint(1, 250)}.{draw.randint(1, 250)}"
        self.box = f"{self.prefix}.1"
        self.port = a_free_port(self.box)
        house = House(1, MORNING_MS - 9 * 3_600_000)
        self.balance = house.at(MORNING_MS)
        self.servers = []

    def address(self, last):
        return f"{self.prefix}.{last}"

    async def node(self, last, kinds, manners=None, **options):
        return await self.serve(last, Node(things(kinds, **options), manners or Manners()))

    async def serve(self, last, node):
        server = NodeServer(node, lambda: self.balance)
        await server.start(self.address(last), self.port)
        self.servers.append(server)
        return server

    def table(self, devices, **more):
        return {
            "address": self.box,
            "port": self.port,
            "poll_s": 0.1,
            "timeout_s": 0.3,
            "search_s": 0.2,
            "devices": devices,
            **more,
        }

    def close(self):
        for server in self.servers:
            server.close()


class Listener:
    """The agent's side of a driver: what it emitted, and waiting for it."""

    def __init__(self, table, memory=None, clock=None):
        self.clock = clock or FastClock()
        self.memory = memory or DictMemory()
        self.driver = create(Context("home", self.clock, lambda name: name), table)
        self.items = []
        self._more = asyncio.Event()

    async def emit(self, item, remember=None):
        self.memory.take(remember or {})
        self.items.append(item)
        self._more.set()

    def samples(self, device):
        return [item for item in self.items if isinstance(item, Sample) and item.device == device]

    def events(self, kind):
        return [item for item in self.items if isinstance(item, Event) and item.kind == kind]

    async def until(self, state, within_s=10.0):
        """Return what `state()` gives once it is true."""
        async with asyncio.timeout(within_s):
            while not (found := state()):
                self._more.clear()
                await self._more.wait()
        return found

    async def becomes(self, state, within_s=10.0):
        """Return once `state()` is true, also when nothing is emitted meanwhile."""
        async with asyncio.timeout(within_s):
            while not state():  # noqa: ASYNC110  (counters have no event)
                await asyncio.sleep(0.02)

    @contextlib.asynccontextmanager
    async def running(self):
        task = asyncio.ensure_future(self.driver.run(self.emit, self.memory))
        try:
            yield self
            if task.done():
                task.result()
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


@pytest.fixture
async def home():
    made = Home()
    yield made
    made.close()


@pytest.fixture
def air(listener):
    """The same in memory and in virtual time."""
    return AirHome(listener)


@pytest.fixture
def another_home():
    """`async with another_home() as home:` for a bench, which is opened more than once."""

    @contextlib.asynccontextmanager
    async def opened():
        made = Home()
        try:
            yield made
        finally:
            made.close()

    return opened


@pytest.fixture
def listener():
    """`listener(table)` builds the driver and keeps what it emits."""
    return Listener
