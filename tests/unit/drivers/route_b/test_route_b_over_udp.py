"""The same driver over plain UDP, the way of second-generation meters: nothing above the link knows a dongle."""

import asyncio
import contextlib
import ipaddress
import socket
from pathlib import Path

import pytest

from drivers.api import Context, LinkError, Sample
from drivers.contract import DictMemory, FastClock
from drivers.route_b.driver import RouteB, create
from drivers.route_b.requests import Limits, Question, Requests
from simulators.clock import SimulatedClock
from simulators.house import House
from simulators.metering import Meter, Nameplate

PORT = 3610
SPEED = 600
CREDENTIALS = '{"id": "00112233445566778899AABBCCDDEEFF", "password": "0123456789AB"}'


def own_addresses():
    """Return this machine's IPv6 addresses as sockets want them, by scope: `link`, or `host` for the loopback."""
    table = Path("/proc/net/if_inet6")
    found = {}
    for line in table.read_text().splitlines() if table.exists() else ():
        digits, index, _, scope, _, _ = line.split()
        address = str(ipaddress.IPv6Address(bytes.fromhex(digits)))
        found.setdefault({"20": "link", "10": "host"}.get(scope), (address, PORT, 0, int(index, 16)))
    return found


@contextlib.asynccontextmanager
async def bound(make, address):
    """Run a protocol on a UDP socket at an address with its interface."""
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        sock.bind(address)
        transport, protocol = await asyncio.get_running_loop().create_datagram_endpoint(make, sock=sock)
        try:
            yield protocol
        finally:
            transport.close()


class UdpLink(asyncio.DatagramProtocol):
    """All that a link needs: send a datagram, take those of the meter's address, and say how it does."""

    limited = False

    def __init__(self, opening, meter):
        self._meter = meter
        self._gone = asyncio.get_running_loop().create_future()
        self.requests = Requests(self.send, opening.hear, opening.limits, opening.clock)
        self.get, self.ask = self.requests.get, self.requests.ask

    def connection_made(self, transport):
        self._transport = transport

    def datagram_received(self, data, address):
        if (address[0].partition("%")[0], address[1]) == self._meter[:2]:
            self.requests.take(data)

    async def send(self, data):
        if self._transport.is_closing():
            raise LinkError("the socket has closed")
        self._transport.sendto(data, self._meter)

    async def run(self):
        await self.requests.run()

    async def connect(self, memory):
        """A datagram needs no session."""

    def status(self):
        return {"limited": False, "resent": self.requests.tally.resent}


class WifiMeter(asyncio.DatagramProtocol):
    """The simulated meter as a UDP node; loses the requests whose number is in `deaf`."""

    def __init__(self, meter):
        self.meter = meter
        self.heard = []
        self.deaf = set()
        self.client = None
        self.confirmed = asyncio.Event()

    def connection_made(self, transport):
        self.transport = transport

    def datagram_received(self, data, address):
        self.client = address
        self.heard.append(data)
        if data[10] == 0x7A:
            self.confirmed.set()
        if len(self.heard) not in self.deaf and (answer := self.meter.answer(data)) is not None:
            self.transport.sendto(answer.frame.encode(), address)

    def notify(self):
        self.transport.sendto(self.meter.half_hour_notice(0x74).frame.encode(), self.client)


@pytest.fixture(
    params=[
        pytest.param("link", id="link-local"),  # what a meter with Wi-Fi has
        pytest.param("host", id="loopback"),  # all there is on a machine whose interfaces speak no IPv6
    ]
)
async def over_udp(request):
    """Give a meter that listens, and a driver that will ask it."""
    address = own_addresses().get(request.param)
    if address is None:
        pytest.skip(f"no interface of this machine has an IPv6 address of scope {request.param}")
    clock = SimulatedClock()
    begin = clock.unix_ms() // 1_800_000 * 1_800_000
    meter = Meter(House(start_ms=begin), clock.unix_ms, Nameplate())
    async with bound(lambda: WifiMeter(meter), address) as node:

        def open_link(opening):
            return bound(lambda: UdpLink(opening, address), (address[0], 0, *address[2:]))

        context = Context("meter", FastClock(SPEED), {"route-b": CREDENTIALS}.__getitem__)
        built = create(context, {"port": "udp", "credentials": "route-b", "poll_s": 10})
        driver = RouteB(context, built._settings, built._credentials, open_link)
        driver._limits = Limits(first_attempt_s=1, shortest_attempt_s=0.3)
        yield node, driver


async def test_the_driver_reads_a_meter_over_udp(over_udp):
    node, driver = over_udp
    samples, news = [], asyncio.Event()

    async def emit(item, remember=None):
        samples.append(item)
        news.set()

    async def until(condition):
        async with asyncio.timeout(10):
            while not condition():
                news.clear()
                await news.wait()

    node.deaf = {3}  # the first poll, after the scaling was read twice
    async with asyncio.TaskGroup() as group:
        task = group.create_task(driver.run(emit, DictMemory()))
        await until(lambda: len([item for item in samples if isinstance(item, Sample)]) >= 5)
        node.notify()
        await asyncio.wait_for(node.confirmed.wait(), 10)
        status = driver.status()
        task.cancel()
    polled = [item for item in samples if isinstance(item, Sample) and isinstance(item.at, int)]
    assert {"grid_power_w", "import_energy_kwh"} <= set(polled[0].values)
    assert any(not isinstance(item.at, int) for item in samples if isinstance(item, Sample))
    assert (status["state"], status["resent"], status["failures"]) == ("joined", 1, 0)


async def test_a_demand_and_a_question_stay_together(over_udp):
    node, driver = over_udp
    async with driver._open_link(driver._opening(DictMemory())) as link:
        demand, question = Question.set({0xE5: b"\x01"}), Question.get([0xE5])
        first, second = await asyncio.gather(link.ask(demand, question), link.ask(demand, question))
    assert [frame.service for frame in (*first, *second)] == ["Set_Res", "Get_Res"] * 2
    assert [data[10] for data in node.heard] == [0x61, 0x62] * 2
    assert first[1].properties == {0xE5: b"\x01"}
