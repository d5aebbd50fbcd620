"""The whole Route-B driver on the simulated meter in virtual time; latency is all between them. Plays no dongle."""

from __future__ import annotations

import asyncio
import contextlib
import json
from datetime import datetime

from drivers.api import Context, Event, LinkError, Sample
from drivers.contract import DictMemory
from drivers.route_b.driver import RouteB, create
from drivers.route_b.meter import JST
from drivers.route_b.requests import Requests
from simulators.house import House
from simulators.metering import Meter, Nameplate

START = datetime(2026, 6, 1, tzinfo=JST)
START_MS = round(START.timestamp() * 1000)
LATENCY_S = 0.6
CREDENTIALS = json.dumps({"id": "00112233445566778899AABBCCDDEEFF", "password": "0123456789AB"})


class VirtualClock:
    """The event loop's own time; `ahead_ms` None: the gateway does not know UTC. The truth is kept in `true_ms`."""

    def __init__(self, start_ms=START_MS):
        self.start_ms = start_ms
        self.ahead_ms = start_ms

    def boot_ms(self):
        return round(asyncio.get_running_loop().time() * 1000)

    def true_ms(self):
        return self.start_ms + self.boot_ms()

    def unix_ms(self):
        return None if self.ahead_ms is None else self.ahead_ms + self.boot_ms()

    async def sleep_until(self, boot_ms):
        await asyncio.sleep(max(0, boot_ms - self.boot_ms()) / 1000)


class AirLink:
    """All that a driver needs of a link: each datagram reaches the meter, and its answer comes after the latency."""

    limited = False

    def __init__(self, opening, home):
        self._home = home
        self.requests = Requests(self.send, opening.hear, opening.limits, opening.clock)
        self.get, self.ask = self.requests.get, self.requests.ask

    async def send(self, data):
        self._home.asked.append(data)
        if self._home.silent:
            return
        await asyncio.sleep(LATENCY_S / 2)
        if (answer := self._home.meter.answer(data)) is not None:
            await asyncio.sleep(LATENCY_S / 2)
            for said in self._home.spoil(data, answer.frame.encode()):
                self.requests.take(said)

    async def run(self):
        await self.requests.run()

    async def connect(self, memory):
        """There is no session."""

    def status(self):
        return {}


class Home:
    """A meter, the driver that reads it, and what the driver emitted."""

    def __init__(self, start_ms=START_MS, known_days=0, clock=None, poll_s=30, **plate):
        self.clock = clock or VirtualClock(start_ms)
        self.house = House(start_ms=start_ms - known_days * 86_400_000)
        self.meter = Meter(self.house, self.clock.true_ms, Nameplate(**plate))
        self.items, self.asked, self.memory = [], [], DictMemory()
        self.silent = False
        self.spoil = lambda request, answer: [answer]
        self.link = None
        context = Context("meter", self.clock, {"route-b": CREDENTIALS}.__getitem__)
        built = create(context, {"port": "air", "credentials": "route-b", "poll_s": poll_s})
        self.driver = RouteB(context, built._settings, built._credentials, self._open)

    @contextlib.asynccontextmanager
    async def _open(self, opening):
        self.link = AirLink(opening, self)
        yield self.link

    async def emit(self, item, remember=None):
        self.items.append(item)
        await self.memory.update(remember or {})

    async def _supervise(self):
        while True:
            with contextlib.suppress(LinkError):
                await self.driver.run(self.emit, self.memory)
            await asyncio.sleep(5)

    @contextlib.asynccontextmanager
    async def at_work(self):
        async with asyncio.TaskGroup() as group:
            task = group.create_task(self._supervise())
            yield self
            task.cancel()

    def told(self, suffix):
        """Return (moment in Japan, quantity, value) of what was timed by the meter, in the order it was passed on."""
        timed = [item for item in self.items if isinstance(item, Sample) and not isinstance(item.at, int)]
        found = [(item.at.astimezone(JST), name, value) for item in timed for name, value in item.values.items()]
        return [entry for entry in found if suffix in entry[1]]

    def events(self, kind):
        return [item.data for item in self.items if isinstance(item, Event) and item.kind == kind]

    def asked_for(self, text):
        """Return how many requests begin so, from the service code on, in hex."""
        return sum(data[10:].hex().upper().startswith(text) for data in self.asked)

    def asked_epcs(self):
        """Return every property that was asked for or set."""
        epcs = set()
        for data in self.asked:
            at = 12
            for _ in range(data[11]):
                epcs.add(data[at])
                at += 2 + data[at + 1]
        return epcs
