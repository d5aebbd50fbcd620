"""A home network in memory: nodes and the driver's port exchange datagrams on the event loop's own time."""

import asyncio

from meter_air import VirtualClock

from drivers.echonet_ip.link import Link
from simulators.echonet_devices import things
from simulators.echonet_node import GROUP, Manners, Node, NodeServer
from simulators.house import House

AIR_S = 0.002
MORNING_MS = 1_780_272_000_000  # 2026-06-01 09:00 in Japan: the battery charges


class Network:
    """UDP in memory: what is sent to an address, or to the group, arrives there a little later."""

    def __init__(self):
        self._hosts = {}

    def joined(self, address, take):
        self._hosts[address] = take
        return Socket(self, address)

    def left(self, address):
        self._hosts.pop(address, None)

    def carry(self, data, sender, to):
        hosts = list(self._hosts) if to == GROUP else [to]
        for host in hosts:
            asyncio.get_running_loop().call_later(AIR_S, self._arrive, data, sender, host)

    def _arrive(self, data, sender, host):
        if (take := self._hosts.get(host)) is not None:
            take(data, sender)


class Socket:
    """What a node or the driver sends with."""

    def __init__(self, network, address):
        self._network, self._address = network, address

    def sendto(self, data, to):
        self._network.carry(data, self._address, to[0])

    def close(self):
        self._network.left(self._address)


class MemoryServer(NodeServer):
    """A node on the network in memory."""

    network = None

    async def _listen(self):
        return [self.network.joined(self.address, lambda data, host: self.datagram_received(data, (host, 3610)))]


class MemoryLink(Link):
    """The driver's port on it."""

    def __init__(self, network, address):
        super().__init__(address)
        self._network = network

    async def open(self):
        self._lost = asyncio.get_running_loop().create_future()
        self._transports.append(self._network.joined(self._address, self._take))


class AirHome:
    """Nodes of one house at one moment on a network in memory, and the driver among them."""

    prefix = "127.9.9"

    def __init__(self, listener):
        self._listener = listener
        self.network = Network()
        self.balance = House(1, MORNING_MS - 9 * 3_600_000).at(MORNING_MS)

    def address(self, last):
        return f"{self.prefix}.{last}"

    async def node(self, last, kinds, manners=None, **options):
        server = MemoryServer(Node(things(kinds, **options), manners or Manners()), lambda: self.balance)
        server.network = self.network
        await server.start(self.address(last))
        return server

    def agent(self, devices, memory=None, **more):
        """Return the driver's listener, in virtual time."""
        agent = self._listener({"address": self.address(1), "devices": devices, **more}, memory, VirtualClock())
        agent.driver._link = MemoryLink(self.network, self.address(1))
        agent.driver._link.heard = agent.driver._hear
        return agent
