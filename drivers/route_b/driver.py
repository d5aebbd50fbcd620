"""The smart meter as a driver: join, poll on aligned ticks, pass on half-hourly readings. Knows no bytes, no port."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import random
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, TypeVar

import msgspec

from drivers.api import (
    Context,
    CredentialsError,
    DriverError,
    Emit,
    Event,
    Json,
    Memory,
    RefusedCredentialsError,
    RefusedError,
    Sample,
    TimeHint,
)
from drivers.polling import Ticks
from drivers.route_b import echonet, meter, skstack
from drivers.route_b.asking import Asking
from drivers.route_b.awaiting import AwaitingCredentials
from drivers.route_b.credentials import REFUSALS, REMEDY, read_credentials
from drivers.route_b.dongles import MeterLink, Opening, open_dongle
from drivers.route_b.echonet import Frame, FrameError
from drivers.route_b.joining import Joining
from drivers.route_b.known import Known
from drivers.route_b.meter import AtHalfHour
from drivers.route_b.meter_time import MeterTime
from drivers.route_b.minutes import Minutes
from drivers.route_b.radio import Gauge
from drivers.route_b.repair import Repair
from drivers.route_b.requests import Limits, NoAnswerError, SessionLostError
from drivers.route_b.session import Credentials, Timeouts
from drivers.route_b.transcript import Transcript
from drivers.settings import Table, convert

SUMMARY = "the smart meter over Route B with a Wi-SUN dongle: power, current, energies, half hours"

log = logging.getLogger(__name__)

T = TypeVar("T")

HALF_HOURLY = (meter.IMPORT_AT_30MIN, meter.EXPORT_AT_30MIN)

FIRST_WAIT_S, LONGEST_WAIT_S = 5.0, 300.0
SILENT_POLLS = 3
"""Polls without an answer after which the session is taken for dead although nobody said so."""
HALF_HOUR_MS = 30 * 60_000
NOTIFIED_WITHIN_MS = 5 * 60_000
"""A meter notifies its half-hourly reading within 5 minutes (AIF specification 3.2.1); later it must be asked."""
MAX_NOTIFICATIONS = 64

_ANSWERS = (echonet.GET_RES, echonet.GET_SNA)

_Seconds = Annotated[float, msgspec.Meta(gt=0, le=600)]


class Settings(Table, frozen=True):
    """The driver's table in the configuration."""

    port: Annotated[str, msgspec.Meta(min_length=1)]
    credentials: Annotated[str, msgspec.Meta(min_length=1)]  # the name of a secret, never the secret
    device: str | None = None
    poll_s: Annotated[float, msgspec.Meta(ge=10, le=3600)] = 30.0  # the norm checked one poll a minute for air time
    command_timeout_s: _Seconds = 5.0
    join_timeout_s: _Seconds = 60.0
    answer_timeout_s: _Seconds = 60.0


def create(context: Context, settings: Mapping[str, Any]) -> RouteB | AwaitingCredentials:
    """Build the driver from its table; opens nothing; raises ConfigError. Without credentials it waits for them."""
    table = convert(settings, Settings)

    def build() -> RouteB:
        return RouteB(context, table, read_credentials(context.secret, table.credentials))

    try:
        return build()
    except CredentialsError as missing:
        return AwaitingCredentials(table.device or context.name, missing, build)


class RouteB:
    """One dongle and the one meter behind it."""

    backoff_ceiling_s = 300.0

    def __init__(
        self,
        context: Context,
        settings: Settings,
        credentials: Credentials,
        open_link: Callable[[Opening], AbstractAsyncContextManager[MeterLink]] = open_dongle,
    ) -> None:
        self._clock = context.clock
        self._settings = settings
        self._credentials = credentials
        self._open_link = open_link
        self._device = settings.device or context.name
        self._timeouts = Timeouts(command_s=settings.command_timeout_s, join_s=settings.join_timeout_s)
        self._limits = Limits(
            one_property_s=min(settings.answer_timeout_s, Limits().one_property_s),
            several_properties_s=settings.answer_timeout_s,
        )
        self._joining = Joining(credentials.route_b_id, context.clock)
        self._session: MeterLink | None = None
        self._state = "closed"
        self._reachable = True  # until proven otherwise, so that a first failure is told
        self._known = Known(self._device, self._clock)
        self._repair: Repair | None = None
        self._minutes = Minutes(self._device, self._known.offers)
        self._meter_time = MeterTime()
        self._asking = Asking(self._known, self._meter_time, self._clock)
        self._newest_half_hour: int | None = None  # unix ms, as the meter names it
        self._asked_half_hour: int | None = None
        self._notifications: asyncio.Queue[Frame] = asyncio.Queue(MAX_NOTIFICATIONS)
        self._transcript = Transcript(context.clock)
        self._gauge = Gauge()
        self._trouble: str | None = None
        self._firmware: Json = ""  # of the dongle, as it last said
        self._refusals = 0  # of these credentials, one after another
        self._counts = dict.fromkeys(("polls", "failures", "malformed_values", "overflows"), 0)

    @property
    def devices(self) -> tuple[str, ...]:
        """Return the name of the meter."""
        return (self._device,)

    def describe(self) -> Mapping[str, Mapping[str, Json]]:
        """Return maker, serial, and how the registers count, as far as the meter has told."""
        told: dict[str, Json] = dict(self._known.identity)
        if (scaling := self._known.scaling) is not None:
            told |= {
                "unit_kwh": _number(scaling.unit_kwh),
                "coefficient": scaling.coefficient,
                "modulus_kwh": _number(scaling.modulus_kwh),
            }
        return {self._device: told} if told else {}

    def status(self) -> Mapping[str, Json]:
        """Return the state of the link, counters, and the strength of the meter's signal."""
        state = self._joining.state if self._state == "connecting" else self._state
        report: dict[str, Json] = {"state": state, **self._counts, "rssi_dbm": None}
        report |= {"joins": self._joining.joins, "join_attempts": self._joining.attempts, "scans": self._joining.scans}
        report |= self._way_there()
        report["firmware"] = self._firmware
        if (session := self._session) is not None:
            told = session.status()
            # A session that has just begun knows less than the one before it.
            report |= {key: value for key, value in told.items() if value not in (None, "") or key not in report}
            self._firmware = report["firmware"]
            if session.limited:
                report["state"] = "limited"
        report["refused"] = [*self._known.refused]
        report["meter_fault"] = self._known.fault
        if self._known.lists(meter.ONE_MINUTE):
            report |= {"minutes": self._minutes.told, "minutes_repaired": self._minutes.repaired}
        report["malformed_values"] = self._counts["malformed_values"] + self._minutes.malformed
        if self._repair is not None:
            report |= {"repaired": self._repair.repaired, "days_to_read": self._repair.waiting}
            report["meter_clock_off_s"] = self._repair.offset_s
        return report

    def _way_there(self) -> dict[str, Json]:
        """Return what an installer asks about: the network, the join, what stands in the way."""
        pan, joining = self._joining.pan, self._joining
        return {
            "rssi_dbm": None if pan is None or not pan.lqi else skstack.dbm(pan.lqi),
            "channel": None if pan is None else pan.channel,
            "pan_id": None if pan is None else f"{pan.pan_id:04X}",
            "nothing_found": joining.nothing_found,
            "join_s": joining.join_s,
            "refusals": self._refusals,
            "history": self._known.offers(meter.HISTORY_IMPORT) if self._known.scaled else None,
            "trouble": self._trouble,
        }

    def time_hint(self) -> TimeHint | None:
        """Return what the meter's clock says of UTC; it is asked only where the gateway does not know."""
        return self._meter_time.hint()

    async def command(self, name: str, arguments: Mapping[str, Json]) -> Json:
        """Carry out `history {"days": […]}` (read days of the meter's memory again), `signal` or `transcript`."""
        match name:
            case "history":
                if self._repair is None:
                    raise RefusedError("the meter was not reached yet; ask again later")
                return self._repair.ask_for(arguments.get("days"))
            case "signal":
                return {"state": self.status()["state"], **(await self._signal())}
            case "transcript":
                return {"lines": self._transcript.shown(self._credentials)}
        raise RefusedError(f"no command {name!r}; known: history, signal, transcript")

    async def _signal(self) -> dict[str, Json]:
        """Return what a person who moves the dongle wants to see."""
        if self._session is None or self._state != "joined":
            return {"rssi_dbm": None, "answered_s": None, "trouble": self._trouble}
        return await self._gauge.measure(self._session)

    async def run(self, emit: Emit, memory: Memory) -> None:
        """Serve the port until cancelled; raises LinkError, RefusedError or ConfigError."""
        if self._repair is None:
            self._repair = Repair(self._device, self._clock, emit, memory, self._known.offers)
        self._repair.resume(emit, memory)
        try:
            self._state = "opening"
            async with self._open_link(self._opening(memory)) as session:
                self._session = session
                async with asyncio.TaskGroup() as group:
                    group.create_task(session.run(), name=f"{self._device} link")
                    group.create_task(self._pass_on_notifications(emit), name=f"{self._device} notifications")
                    group.create_task(self._serve(session, emit, memory), name=f"{self._device} poll")
        except BaseExceptionGroup as failures:
            error = _first_cause(failures)
            said = str(error) if isinstance(error, DriverError) else "a fault of the driver"
            await self._lose(emit, said, logging.DEBUG)  # whoever runs us says why aloud
            raise error from None
        except DriverError as error:
            await self._lose(emit, str(error), logging.DEBUG)
            raise
        finally:
            self._state = "closed"

    def _opening(self, memory: Memory) -> Opening:
        return Opening(
            port=self._settings.port,
            credentials=self._credentials,
            hear=self._hear,
            timeouts=self._timeouts,
            limits=self._limits,
            clock=self._clock,
            joining=self._joining,
            memory=memory,
            tap=self._transcript.tapped,
        )

    # The life of the meter's session.

    async def _serve(self, session: MeterLink, emit: Emit, memory: Memory) -> None:
        waits = _Waits()
        while True:
            try:
                await self._join(session, memory)
                await self._poll_until_lost(session, emit, memory, waits)
            except (NoAnswerError, SessionLostError) as error:
                await self._lose(emit, str(error))
            except RefusedError as error:
                await self._lose(emit, str(error))
                self._judge_refusal(memory)
            self._state = "waiting"
            await asyncio.sleep(waits.next_s())

    def _judge_refusal(self, memory: Memory) -> None:
        """Raise RefusedCredentialsError where the credentials must be wrong.

        A bad radio can spoil a handshake so that it looks like a refusal: one alone proves nothing, and nothing does
        against credentials that have let us in before.
        """
        self._refusals += 1
        if self._refusals >= REFUSALS and memory.get("proven") != self._fingerprint():
            problem = "the meter has answered and refuses the route-B ID or the password"
            remedy = (
                "パスワードとIDの先頭24文字を確認 / check the password and the first 24 characters of the ID; " + REMEDY
            )
            raise RefusedCredentialsError("credentials", problem, remedy, self._settings.credentials)

    def _fingerprint(self) -> str:
        """Tell one pair of credentials from another without giving it away."""
        words = f"{self._credentials.route_b_id} {self._credentials.password}"
        return hashlib.sha256(words.encode()).hexdigest()[:8]

    async def _join(self, session: MeterLink, memory: Memory) -> None:
        """Reach the meter, and forget what the one before said of itself."""
        self._state = "connecting"
        await session.connect(memory)
        self._state = "joined"
        self._refusals = 0
        if memory.get("proven") != (proof := self._fingerprint()):
            await memory.update({"proven": proof})
        self._known.start(memory)
        self._minutes.joined()
        if self._repair is not None:
            self._repair.joined()

    async def _poll_until_lost(self, session: MeterLink, emit: Emit, memory: Memory, waits: _Waits) -> None:
        """Poll at once, then on every tick that can be met; raises SessionLostError or NoAnswerError."""
        ticks, silent = Ticks(self._clock, self._settings.poll_s), 0
        while True:
            try:
                await self._known.learn(session, memory)
                await self._poll(session, emit, memory)
                await self._learn_name(session, emit, memory)
                await self._fetch_half_hour(session, memory)
            except NoAnswerError as error:
                self._counts["failures"] += 1
                self._asking.unanswered()
                silent += not session.limited  # a dongle that must not send is no reason to join again
                await self._lose(emit, str(error))
                if silent >= SILENT_POLLS:
                    raise
            else:
                silent = 0
                waits.start_over()
                await self._repair_between_polls(session, emit)
            await ticks.next()

    async def _lose(self, emit: Emit, reason: str, level: int = logging.WARNING) -> None:
        self._trouble = reason
        if self._reachable:
            self._reachable = False
            log.log(level, "%s: %s", self._device, reason)
            await emit(Event(self._device, "device_lost", self._clock.boot_ms(), {"reason": reason}))
        else:
            log.debug("%s: %s", self._device, reason)

    # What the meter says.

    async def _learn_name(self, session: MeterLink, emit: Emit, memory: Memory) -> None:
        """Ask once a session who the meter is; when it is another one, its registers begin a new series."""
        if self._known.needs_name and await self._known.name(session, emit, memory) and self._repair is not None:
            last = self._repair.replaced()
            self._minutes.replaced()
            await self._known.tell_replaced(emit, memory, last, self._repair.to_remember())

    async def _poll(self, session: MeterLink, emit: Emit, memory: Memory) -> None:
        asked = self._clock.boot_ms()
        frame = await session.get(self._asking.wanted())
        at = self._clock.boot_ms()
        self._asking.answered()
        self._meter_time.take(frame.properties, asked, at)
        values, problems = meter.readings(frame.properties, self._known.scaling)
        if not any(frame.properties.values()):
            raise NoAnswerError("the meter refuses every value asked for")
        await self._known.note_refusals(frame, memory)
        self._counts["polls"] += 1
        self._trouble = None
        self._counts["malformed_values"] += len(problems)
        stranger = self._known.is_stranger(memory)  # before its registers are noted for the former one
        self._known.note_registers(values, at)
        if stranger:
            await self._learn_name(session, emit, memory)
        if not self._reachable:
            self._reachable = True
            log.info("%s: answers again", self._device)
            await emit(Event(self._device, "device_back", at))
        if values:
            await emit(Sample(self._device, at, values))
        if self._repair is not None and not self._known.needs_name:  # until then they may be another meter's
            await self._minutes.pass_on(frame.properties, self._known.scaling, self._repair.best_now(), emit)

    async def _repair_between_polls(self, session: MeterLink, emit: Emit) -> None:
        """Read at most ten minutes and one day of the meter's memory; live values matter more."""
        if self._repair is not None and not self._known.needs_name and not session.limited:
            await self._minutes.step(session, self._known.scaling, emit)
            await self._repair.step(session, self._known.scaling)

    def _hear(self, frame: Frame) -> None:
        """Take a notification in, as it comes."""
        try:
            self._notifications.put_nowait(frame)
        except asyncio.QueueFull:
            self._counts["overflows"] += 1

    async def _pass_on_notifications(self, emit: Emit) -> None:
        while True:
            frame = await self._notifications.get()
            await self._known.ready.wait()  # before that, counts are not energies, or another meter's
            await self._known.hear_fault(frame, emit)
            await self._pass_on_half_hour(frame)

    async def _pass_on_half_hour(self, frame: Frame) -> None:
        """Pass on the readings of each moment that a frame names, unless that was done before."""
        moments: dict[datetime, dict[int, Decimal | None]] = {}
        for epc in HALF_HOURLY:
            reading = self._half_hour(epc, frame.properties.get(epc))
            if reading is None or reading.at is None or self._known.scaling is None:
                continue
            at_ms = round(reading.at.timestamp() * 1000)
            if reading.count is not None and at_ms % HALF_HOUR_MS == 0:
                moments.setdefault(reading.at, {})[epc] = self._known.scaling.kwh(reading.count)
        if moments and self._repair is not None:
            await self._pass_on_what_can_be(self._repair, moments, answered=frame.esv in _ANSWERS)

    async def _pass_on_what_can_be(
        self, repair: Repair, moments: Mapping[datetime, Mapping[int, Decimal | None]], *, answered: bool
    ) -> None:
        """Pass on the moments that can be; a spoilt digit must not make a half hour of another year."""
        taken = repair.taken(moments, answered=answered)
        for at, readings in moments.items():
            if at in taken:
                self._newest_half_hour = round(at.timestamp() * 1000)
                await repair.pass_on(at, readings)
            else:
                self._counts["malformed_values"] += 1
                log.debug("%s: a half hour of %s is not taken", self._device, at)
        if repair.doubtful:
            self._asked_half_hour = None  # asked for with the next poll

    def _half_hour(self, epc: int, edt: bytes | None) -> AtHalfHour | None:
        if not edt or not self._known.lists(epc):  # a spoilt digit of an EPC must not give an export to a meter without
            return None
        try:
            return meter.at_half_hour(edt)
        except FrameError as error:
            self._counts["malformed_values"] += 1
            log.debug("%s: EPC %02X: %s", self._device, epc, error)
            return None

    async def _fetch_half_hour(self, session: MeterLink, memory: Memory) -> None:
        """Ask for the half-hourly readings at the start, and when a notification is overdue."""
        now = self._clock.unix_ms()
        half_hour = None if now is None else now - now % HALF_HOUR_MS
        newest = self._newest_half_hour
        if self._asked_half_hour is not None and not _overdue(now, half_hour, newest, self._asked_half_hour):
            return
        self._asked_half_hour = half_hour or 0
        wanted = self._known.offered(HALF_HOURLY)
        if not wanted:
            return
        try:
            frame = await session.get(wanted)
        except NoAnswerError as error:  # the next half hour is asked for again
            log.debug("%s: no half-hourly reading: %s", self._device, error)
            return
        await self._known.note_refusals(frame, memory)
        self._hear(frame)


class _Waits:
    """How long to wait before the next join: doubling, with jitter, so that a street does not join as one."""

    def __init__(self) -> None:
        self._next_s = FIRST_WAIT_S

    def next_s(self) -> float:
        """Return the next wait in seconds, anything up to the step (full jitter)."""
        wait_s = random.uniform(0.0, self._next_s)
        self._next_s = min(self._next_s * 2, LONGEST_WAIT_S)
        return wait_s

    def start_over(self) -> None:
        """Begin again with the shortest wait."""
        self._next_s = FIRST_WAIT_S


def _overdue(now: int | None, half_hour: int | None, newest: int | None, asked: int) -> bool:
    """Tell whether the reading of this half hour should have come by now and was not asked for yet."""
    if now is None or half_hour is None or asked == half_hour:
        return False
    return now - half_hour >= NOTIFIED_WITHIN_MS and (newest is None or newest < half_hour)


def _number(energy: Decimal | None) -> int | float | None:
    """Return a plain JSON number; a float only where its text is the decimal's (powers of ten times an integer)."""
    if energy is None:
        return None
    return int(energy) if energy == energy.to_integral_value() else float(energy)


def _first_cause(failures: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the error that says most: a fault of the driver before what a device or a port did."""
    causes = [
        _first_cause(failure) if isinstance(failure, BaseExceptionGroup) else failure for failure in failures.exceptions
    ]
    return next((cause for cause in causes if not isinstance(cause, DriverError)), causes[0])
