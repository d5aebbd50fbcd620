"""UDP port 3610 and the multicast group: requests matched to answers, announcements handed on. Knows no class.

There is no authentication on this network. An answer counts only from the host that was asked, for the object that was
asked, with our TID and no property that was not asked for. Everything else is counted and dropped.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import logging
import secrets
import socket
import struct
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import TypeAlias

from drivers.api import ConfigError, Json, LinkError
from drivers.route_b import echonet
from drivers.route_b.echonet import CONTROLLER, NODE_PROFILE, Frame, FrameError

log = logging.getLogger(__name__)

PORT = 3610
GROUP = "224.0.23.0"
MAX_HOSTS = 256
"""Hosts remembered for one request at a time; a home has a few dozen."""
MAX_FOUND = 128
"""Answers taken from one search; a flood of invented hosts ends here."""
MAX_CONFIRMED_A_SECOND = 10
"""Announcements that want an answer (INFC); a sender's address is easily forged, and nobody shall make us shout."""
_LATE_TIDS = 64
_IP_MULTICAST_ALL = 49  # Linux: a socket gets the groups it joined itself, not those of other programs

Heard: TypeAlias = Callable[[str, Frame], None]


class SilentError(LinkError):
    """A device did not answer in time; the network itself is well."""


@dataclass(slots=True)
class Counts:
    """What came and went since the start."""

    requests: int = 0
    answers: int = 0
    silent: int = 0
    late: int = 0
    announcements: int = 0
    unconfirmed: int = 0
    malformed: int = 0
    foreign: int = 0

    def json(self) -> dict[str, Json]:
        """Return the counters by name."""
        return dict(asdict(self))


@dataclass(slots=True)
class _Asked:
    """One request under way."""

    host: str
    eoj: bytes
    services: frozenset[int]
    epcs: frozenset[int]
    answer: asyncio.Future[Frame]


class _Receiver(asyncio.DatagramProtocol):
    def __init__(self, taken: Callable[[bytes, str], None], lost: Callable[[Exception | None], None]) -> None:
        self._taken, self._lost = taken, lost

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self._taken(data, addr[0])

    def error_received(self, exc: Exception) -> None:
        if isinstance(exc, OSError) and exc.errno in _NO_NETWORK:
            self._lost(exc)
        else:
            log.debug("ECHONET Lite: %s", exc)  # a host that refuses the port; its requests end by time

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost(exc)


class Link:
    """Port 3610 of one network interface, named by its own address; an empty address means the system's choice."""

    def __init__(self, address: str, port: int = PORT) -> None:
        self._address, self._port = address, port
        self._transports: list[asyncio.DatagramTransport] = []
        self._tid = secrets.randbelow(0xFFFF)
        self._asked: dict[int, _Asked] = {}
        self._expired: OrderedDict[int, str] = OrderedDict()
        self._busy: OrderedDict[str, asyncio.Lock] = OrderedDict()
        self._late: dict[str, int] = {}
        self._confirmed_at: deque[float] = deque(maxlen=MAX_CONFIRMED_A_SECOND)
        self._found: dict[str, Frame] | None = None
        self._search_tid = 0
        self._lost: asyncio.Future[None] | None = None
        self.counts = Counts()
        self.heard: Heard | None = None
        """Gets announcements (INF, INFC), also those of strangers: whoever listens knows whom it allows."""

    @property
    def is_open(self) -> bool:
        """Say whether the port is open."""
        return bool(self._transports)

    async def open(self) -> None:
        """Bind the port and join the group; raises LinkError, or ConfigError for an address that is not ours."""
        loop = asyncio.get_running_loop()
        self._lost = loop.create_future()
        try:
            for made in self._sockets():
                transport, _ = await loop.create_datagram_endpoint(
                    lambda: _Receiver(self._take, self._connection_lost), sock=made
                )
                self._transports.append(transport)
        except OSError as error:
            self.close()
            raise LinkError(f"UDP port {self._port} of {self._address or 'this box'}: {error.strerror}") from error

    def _sockets(self) -> Iterable[socket.socket]:
        """Yield the socket that sends and gets answers, then the one of the group.

        Two, so that several nodes on one box (and a simulator beside the agent) each get what is sent to their address.
        """
        own = socket.inet_aton(self._address or "0.0.0.0")  # noqa: S104  (the system's choice was asked for)
        unicast = _reusable()
        with _closing_on_error(unicast):
            unicast.bind((self._address, self._port))
            unicast.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, own)
            unicast.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 1)
        yield unicast
        group = _reusable()
        with _closing_on_error(group):
            group.bind((GROUP, self._port))
            group.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, struct.pack("4s4s", _GROUP, own))
        yield group

    def close(self) -> None:
        """Leave the group and free the port; requests under way end."""
        for transport in self._transports:
            transport.close()
        self._transports.clear()
        for asked in self._asked.values():
            if not asked.answer.done():
                asked.answer.set_exception(LinkError("the port was closed"))
        self._asked.clear()
        self._busy.clear()
        self._found = None

    async def lost(self) -> None:
        """Return never; raises LinkError when the port is lost."""
        if self._lost is not None:
            await asyncio.shield(self._lost)

    def _connection_lost(self, error: Exception | None) -> None:
        if error is not None and self._lost is not None and not self._lost.done():
            hint = "" if self._address else "; name this box's address on the devices' network as `address`"
            self._lost.set_exception(LinkError(f"UDP port {self._port}: {error}{hint}"))
            self._lost.exception()  # whoever waits gets it; nobody waiting is no mistake

    async def get(self, host: str, eoj: bytes, epcs: Iterable[int], timeout_s: float) -> Frame:
        """Return the answer (Get_Res or Get_SNA) to one Get; raises SilentError. One request at a time per host."""
        wanted = dict.fromkeys(epcs, b"")
        return await self._request(host, eoj, echonet.GET, wanted, _GET_ANSWERS, timeout_s)

    async def set(self, host: str, eoj: bytes, properties: Mapping[int, bytes], timeout_s: float) -> Frame:
        """Return the answer (Set_Res or SetC_SNA) to one SetC; raises SilentError."""
        return await self._request(host, eoj, echonet.SET_C, properties, _SET_ANSWERS, timeout_s)

    async def _request(
        self,
        host: str,
        eoj: bytes,
        service: int,
        properties: Mapping[int, bytes],
        services: frozenset[int],
        timeout_s: float,
    ) -> Frame:
        async with self._turn(host):
            tid = self._next_tid()
            frame = echonet.encode(Frame(tid, CONTROLLER, eoj, service, properties))
            answer: asyncio.Future[Frame] = asyncio.get_running_loop().create_future()
            self._asked[tid] = _Asked(host, eoj, services, frozenset(properties), answer)
            try:
                async with asyncio.timeout(timeout_s):
                    self._send(frame, host)
                    return await answer
            except TimeoutError:
                self.counts.silent += 1
                self._expired[tid] = host
                while len(self._expired) > _LATE_TIDS:
                    self._expired.popitem(last=False)
                raise SilentError(f"{host} did not answer for {eoj.hex().upper()} within {timeout_s:g} s") from None
            finally:
                self._asked.pop(tid, None)

    def _turn(self, host: str) -> asyncio.Lock:
        """Return the lock that keeps requests to a host apart; forgets the host longest unused."""
        if host not in self._busy and len(self._busy) >= MAX_HOSTS:
            unused = next((name for name, one in self._busy.items() if not one.locked()), None)
            self._busy.pop(unused or "", None)
        lock = self._busy.setdefault(host, asyncio.Lock())
        self._busy.move_to_end(host)
        return lock

    def _next_tid(self) -> int:
        """Return a TID that no request under way has; never 0, which devices use for announcements."""
        while True:
            self._tid = self._tid % 0xFFFF + 1
            if self._tid not in self._asked and self._tid != self._search_tid:
                return self._tid

    def _send(self, frame: bytes, host: str) -> None:
        if not self._transports:
            raise LinkError(f"UDP port {self._port} is closed")
        self.counts.requests += 1
        self._transports[0].sendto(frame, (host, self._port))

    async def search(self, listen_s: float) -> dict[str, Frame]:
        """Ask all nodes for their instance lists (D6); the answers (host → frame) are returned after the time.

        Those of slow nodes are added to the same dictionary later, until the next search.
        """
        found: dict[str, Frame] = {}
        self._found = found
        self._search_tid = self._next_tid()
        self._send(echonet.get(self._search_tid, (0xD6,), NODE_PROFILE), GROUP)
        await asyncio.sleep(listen_s)
        return found

    def late(self, host: str) -> int:
        """Return how many answers of a host came after their time: what tells a slow device from a dead one."""
        return self._late.get(host, 0)

    def answer_infc(self, host: str, frame: Frame) -> None:
        """Send the answer that an INFC of an allowed device must get; those that come too thick are only counted."""
        now_s, sent_at = asyncio.get_running_loop().time(), self._confirmed_at
        if len(sent_at) == MAX_CONFIRMED_A_SECOND and now_s - sent_at[0] < 1.0:
            self.counts.unconfirmed += 1
            return
        sent_at.append(now_s)
        self._send(echonet.infc_response(frame), host)

    def _take(self, data: bytes, host: str) -> None:
        """Take any datagram of any host in."""
        try:
            frame = echonet.decode(data)
        except FrameError as error:
            self.counts.malformed += 1
            log.debug("%s: %s", host, error)
            return
        if frame.esv in _ANNOUNCEMENTS:
            self.counts.announcements += 1
            if self.heard is not None:
                self.heard(host, frame)
        elif not (self._is_answer(frame, host) or self._is_found(frame, host)):
            if self._expired.get(frame.tid) == host:
                del self._expired[frame.tid]
                self.counts.late += 1
                self._late[host] = self._late.pop(host, 0) + 1
                while len(self._late) > MAX_HOSTS:
                    del self._late[next(iter(self._late))]
            elif host != self._address:  # our own question to the group comes back to us
                self.counts.foreign += 1

    def _is_answer(self, frame: Frame, host: str) -> bool:
        asked = self._asked.get(frame.tid)
        if asked is None or asked.answer.done() or asked.host != host or frame.esv not in asked.services:
            return False
        if frame.seoj != asked.eoj or frame.deoj != CONTROLLER or not asked.epcs.issuperset(frame.properties):
            return False
        self.counts.answers += 1
        asked.answer.set_result(frame)
        return True

    def _is_found(self, frame: Frame, host: str) -> bool:
        found = self._found
        if found is None or frame.tid != self._search_tid or frame.esv != echonet.GET_RES:
            return False
        if frame.seoj[:2] != NODE_PROFILE[:2] or set(frame.properties) != {0xD6} or len(found) >= MAX_FOUND:
            return False
        found.setdefault(host, frame)
        return True


_GROUP = socket.inet_aton(GROUP)
_NO_NETWORK = frozenset((errno.ENETUNREACH, errno.ENETDOWN, errno.EADDRNOTAVAIL, errno.ENODEV))
"""The network or our address on it is gone: the port is opened again, after a wait."""
_ANNOUNCEMENTS = frozenset((echonet.INF, echonet.INFC))
_GET_ANSWERS = frozenset((echonet.GET_RES, echonet.GET_SNA))
_SET_ANSWERS = frozenset((echonet.SET_RES, echonet.SET_C_SNA))


@contextlib.contextmanager
def _closing_on_error(made: socket.socket) -> Iterator[None]:
    try:
        yield
    except OSError:
        made.close()
        raise


def _reusable() -> socket.socket:
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.setblocking(False)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.setsockopt(socket.IPPROTO_IP, _IP_MULTICAST_ALL, 0)
    return made


def check_address(key: str, text: str) -> str:
    """Return an IPv4 address as written; raises ConfigError. ECHONET Lite products at home speak IPv4."""
    try:
        address = ipaddress.IPv4Address(text)
    except ValueError as error:
        raise ConfigError(key, "no IPv4 address", "write it as 192.168.1.20", text) from error
    if address.is_multicast or address.is_unspecified:
        raise ConfigError(key, "not the address of one device", "write it as 192.168.1.20", text)
    return str(address)


def is_taken(address: str, port: int = PORT) -> bool:
    """Say whether another program on this box already listens on the port."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((address, port))
        except OSError as error:
            return error.errno == errno.EADDRINUSE  # an address that is not ours is told when the port is opened
    return False
