"""A conversation with one J11 dongle, under the same seam as `session`. Opens no port, asks no meter. Experimental."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Unpack

from drivers.api import Json, LinkError, MalformedError, RefusedError
from drivers.route_b import j11, skstack
from drivers.route_b.conversation import (
    MAX_PANS,
    SCAN_DURATIONS,
    Conversation,
    Credentials,
    Means,
    Port,
    Timeouts,
    at_once,
)
from drivers.route_b.echonet import Frame
from drivers.route_b.j11 import J11Reader, Message
from drivers.route_b.joining import Begin
from drivers.route_b.requests import NoAnswerError, SessionLostError
from drivers.route_b.skstack import Pan

log = logging.getLogger(__name__)

_LOST = "the session has ended"
_FIRST_CHANNEL = 33


class J11Session(Conversation[Message]):
    """The state of one J11 dongle; `hear` gets the meter's notifications as they come.

    The family shows no networks of others, and tells a limit of the radio law by each sending that fails.
    """

    def __init__(
        self,
        port: Port,
        credentials: Credentials,
        hear: Callable[[Frame], None],
        timeouts: Timeouts | None = None,
        **means: Unpack[Means],
    ) -> None:
        super().__init__(J11Reader(), port, credentials, hear, timeouts, **means)
        self._awaited: dict[int, asyncio.Future[Message]] = {}
        self.rssi_dbm: int | None = None

    def _told(self) -> dict[str, Json]:
        return {"rssi_dbm": self.rssi_dbm, "dialect": "J11"}

    async def send(self, data: bytes) -> None:
        """Hand one datagram to the dongle; as `Requests` wants it."""
        if not self.joined:
            raise SessionLostError(self.lost_because)
        answer = await self._command(j11.send_to(self._mac, data), j11.SEND)
        if answer.data[:2] != bytes((j11.DONE, 0)):
            raise NoAnswerError(f"the dongle did not send: {answer.data[:2].hex().upper()}")

    # Commands to the dongle.

    async def prepare(self) -> None:
        """Start the dongle anew and hand it the credentials; raises LinkError."""
        self._prepared = False
        await self._command(j11.request(j11.RESET), j11.RESET, j11.STARTED)
        version = await self._command(j11.request(j11.VERSION), j11.VERSION)
        self.version = version.data[1:].hex().upper()
        await self._demand(j11.set_up(_FIRST_CHANNEL), j11.SET_UP)
        secret = j11.credentials(self._credentials.route_b_id, self._credentials.password)
        if (await self._command(secret, j11.CREDENTIALS)).result != j11.DONE:
            raise LinkError("the dongle refuses the form of the credentials")  # checked before: spoilt on the way
        self._prepared = True
        log.info("J11 dongle, firmware %s", self.version)

    async def scan(self) -> Pan | None:
        """Return the strongest of the meter's networks, scanning longer each time; None when it does not show."""
        for duration in SCAN_DURATIONS:
            self._pans = []
            limit_s = j11.scan_s(duration) * 1.5 + 10
            await self._command(j11.scan(duration, self._credentials.pair_id), j11.SCAN, limit_s=limit_s)
            if self._pans:
                return max(self._pans, key=lambda pan: pan.lqi)
        return None

    async def join(self, pan: Pan, begin: Begin = at_once) -> None:
        """Join the meter's network; raises NoAnswerError, or RefusedError when it answered and declined."""
        self._mac = pan.mac
        self._lose("joining")
        if not self._prepared:
            await self.prepare()
        self._prepared = False
        await self._demand(j11.set_up(pan.channel), j11.SET_UP)
        started = await self._command(j11.request(j11.START), j11.START, limit_s=self._timeouts.join_s)
        if started.result != j11.DONE:
            raise NoAnswerError("the meter does not answer the join")
        # The answer names the network: where a remembered one (no strength) is not in it, the meter was exchanged.
        if not pan.lqi and len(started.data) > 8 and bytes.fromhex(pan.mac) not in started.data:
            raise NoAnswerError("another meter is where the remembered one was")
        opened = await self._command(j11.request(j11.OPEN_PORT, j11.ECHONET_PORT.to_bytes(2)), j11.OPEN_PORT)
        if opened.result not in {j11.DONE, j11.ALREADY}:
            raise LinkError("the dongle does not open the ECHONET port")
        await begin()
        outcome = await self._authenticate()
        if outcome == j11.REFUSED:
            raise RefusedError("the meter refuses the route-B ID or the password")
        if outcome != j11.LET_IN:
            raise NoAnswerError("the meter does not answer the join")
        self.joined, self.rssi_dbm = True, self.rssi_dbm or (round(skstack.dbm(pan.lqi)) if pan.lqi else None)

    async def _authenticate(self) -> int | None:
        try:
            request = j11.request(j11.START_PANA)
            answer = await self._command(request, j11.START_PANA, j11.AUTHENTICATED, limit_s=self._timeouts.join_s)
        except LinkError:
            raise NoAnswerError(f"the meter has not let us join within {self._timeouts.join_s:g} s") from None
        return answer.result

    async def _demand(self, request: bytes, command: int) -> None:
        answer = await self._command(request, command)
        if answer.result != j11.DONE:
            raise LinkError(f"the dongle refuses command {command:04X}")

    async def _command(
        self, request: bytes, command: int, awaited: int | None = None, limit_s: float | None = None
    ) -> Message:
        """Return the answer to a request, or the notification `awaited` of it; raises LinkError when none comes."""
        awaited = command | j11.ANSWER if awaited is None else awaited
        async with self._commanding:
            future: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
            self._awaited[awaited] = future
            try:
                async with asyncio.timeout(limit_s or self._timeouts.command_s):
                    log.debug("> %04X", command)
                    await self._port.write(request)
                    return await future
            except TimeoutError:
                raise LinkError(f"the dongle does not answer {command:04X}") from None
            finally:
                del self._awaited[awaited]

    async def _look(self) -> None:
        await self._command(j11.request(j11.VERSION), j11.VERSION)

    # What arrives.

    def _take(self, item: Message) -> None:
        log.debug("< %04X", item.command)
        future = self._awaited.get(item.command)
        try:
            self._take_notification(item, awaited=future is not None)
        except MalformedError as error:
            self._take_noise(str(error))
        if future is not None and not future.done():
            future.set_result(item)

    def _take_notification(self, message: Message, *, awaited: bool) -> None:
        match message.command:
            case j11.RECEIVED:
                self._take_datagram(j11.datagram(message.data))
            case j11.SCANNED:
                self._pans = (self._pans + j11.pans(message.data, self._credentials.pair_id))[:MAX_PANS]
            case j11.CONNECTION if message.result in j11.LOST and self.joined:
                self._lose(_LOST)
            case j11.STARTED if not awaited:
                self.counters.resets += 1
                self._lose("the dongle has started anew")

    def _take_datagram(self, datagram: j11.Datagram) -> None:
        ports = (datagram.remote_port, datagram.local_port)
        if not self.joined or ports != (j11.ECHONET_PORT,) * 2 or datagram.sender != j11.address(self._mac):
            self.counters.strangers += 1
            return
        self.rssi_dbm = datagram.rssi_dbm
        self.requests.take(datagram.data)
