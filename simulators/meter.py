"""`edge-sim meter`: a dongle and the smart meter behind it, on a pseudo-terminal. Wires parts; holds no protocol."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Literal

from simulators import faults, scenario
from simulators.clock import DAY_MS, SimulatedClock, add_time_options, clock_from, house_start_ms
from simulators.dongle import Dialect, Dongle, Neighbour, Radio
from simulators.house import HALF_HOUR_S, House, add_house_options, house_from
from simulators.j11 import J11Dongle
from simulators.log import Served, ServedLog, add_log_option
from simulators.metering import UNITS, Answer, Meter, Nameplate
from simulators.terminal import Terminal

DEVICE = "meter"
_NOTICE_AFTER_MS = 3_000
"""A notice of the half hour comes this long after it in simulated time; the norm allows five minutes."""
_GREETING_AFTER_S = 3.0
_REPLUG_AFTER_S = 1.0


@dataclass(frozen=True, slots=True)
class MeterSettings:
    """What a simulated meter can be told apart from its house."""

    dialect: Dialect | Literal["j11"] = "c2"
    radio: Radio = field(default_factory=Radio)
    nameplate: Nameplate = field(default_factory=Nameplate)
    binary: bool = False
    notify: Literal["inf", "infc", "no"] = "inf"
    faults: tuple[faults.Fault, ...] = ()
    scenario: tuple[scenario.Step, ...] = ()
    seed: int = 1


class MeterInRange:
    """The meter as the dongle's peer: answers after the air's latency, greets a new session, tells each half hour."""

    def __init__(
        self,
        meter: Meter,
        dongle: Dongle | J11Dongle,
        clock: SimulatedClock,
        log: ServedLog,
        settings: MeterSettings,
        group: asyncio.TaskGroup,
    ) -> None:
        self._meter = meter
        self._dongle = dongle
        self._clock = clock
        self._log = log
        self._settings = settings
        self._group = group

    def joined(self) -> None:
        """Announce the instance list a little after a session stands."""
        self._group.create_task(self._greet(), name="greeting")

    def heard(self, data: bytes) -> None:
        """Answer a request, unless the air loses the answer."""
        if self._settings.radio.latency_s:
            self._group.create_task(self._answer_late(data), name="answer")
        else:
            self._answer(data)

    async def tell_half_hours(self) -> None:
        """Notify the registers of each :00 and :30, until cancelled."""
        service = 0x74 if self._settings.notify == "infc" else 0x73
        period_ms = HALF_HOUR_S * 1000
        while True:
            boundary = self._clock.unix_ms() // period_ms * period_ms + period_ms
            await self._clock.sleep_until(boundary + _NOTICE_AFTER_MS)
            if self._dongle.session and not self._dongle.lost():
                self._send(self._meter.half_hour_notice(service))

    async def _greet(self) -> None:
        await asyncio.sleep(_GREETING_AFTER_S * self._settings.radio.radio_time)
        self._dongle.deliver(self._meter.instance_list().frame.encode(), to_everyone=True)

    async def _answer_late(self, data: bytes) -> None:
        await asyncio.sleep(self._settings.radio.latency_s)
        self._answer(data)

    def _answer(self, data: bytes) -> None:
        answer = self._meter.answer(data)
        if answer is not None and self._dongle.session and not self._dongle.lost():
            self._send(answer)

    def _send(self, answer: Answer) -> None:
        if answer.values:
            self._log.served(DEVICE, answer.values)
        for at, values in answer.half_hours.items():
            self._log_half_hour(at, values)
        self._dongle.deliver(answer.frame.encode())

    def _log_half_hour(self, at: datetime, values: dict[str, Served]) -> None:
        self._log.served(DEVICE, values, at=at.isoformat())


async def serve(
    house: House,
    clock: SimulatedClock,
    *,
    link: Path,
    dialect: Dialect = "c2",
    log: ServedLog | None = None,
    ready: asyncio.Event | None = None,
    settings: MeterSettings | None = None,
) -> None:
    """Serve one meter at `link` until cancelled; `ready` is set once a client can open it.

    A `cut` fault unplugs the dongle; it comes back powered up afresh, and undamaged from then on.
    """
    chosen = settings or MeterSettings(dialect=dialect)
    meter = Meter(house, clock.unix_ms, chosen.nameplate)
    served = log or ServedLog(None, clock)
    damage: Sequence[faults.Fault] = chosen.faults
    stage = _Stage(clock, chosen.radio)
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(scenario.play(chosen.scenario, clock, stage.act), name="scenario")
            while True:
                settings = replace(chosen, radio=stage.radio)
                await _plugged_in(meter, clock, link, served, ready, settings, damage, stage)
                damage = ()
                await stage.replugged()
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from None


class _Stage:
    """The dongle that is plugged in now, and what a scenario does to it."""

    def __init__(self, clock: SimulatedClock, radio: Radio) -> None:
        self._clock = clock
        self.radio = radio
        self.dongle: Dongle | J11Dongle | None = None
        self.pulled = asyncio.Event()
        self._away_until_ms = 0
        self._mute_until_ms = 0

    @property
    def mute(self) -> bool:
        """Tell whether the dongle neither hears nor says anything."""
        return self._clock.unix_ms() < self._mute_until_ms

    def act(self, step: scenario.Step) -> None:
        """Do what a step says; with no dongle plugged in, only what lasts."""
        until_ms = self._clock.unix_ms() + round(step.for_s * 1000)
        dongle = self.dongle
        if step.do == "loss":
            self.radio = replace(self.radio, loss=step.share)
            if dongle is not None:
                dongle.retune(self.radio)
        elif step.do == "mute":
            self._mute_until_ms = until_ms
        elif step.do == "unplug":
            self._away_until_ms = until_ms
            self.pulled.set()
        elif dongle is not None and step.do == "restart":
            dongle.restart()
        elif dongle is not None and step.do == "end_session":
            dongle.end_session(step.number)
        elif isinstance(dongle, Dongle):
            dongle.announce(step.number)

    async def replugged(self) -> None:
        """Wait until the dongle is plugged in again."""
        self.dongle = None
        if self._away_until_ms > self._clock.unix_ms():
            await self._clock.sleep_until(self._away_until_ms)
        else:
            await asyncio.sleep(_REPLUG_AFTER_S)


async def _plugged_in(
    meter: Meter,
    clock: SimulatedClock,
    link: Path,
    log: ServedLog,
    ready: asyncio.Event | None,
    settings: MeterSettings,
    damage: Sequence[faults.Fault],
    stage: _Stage,
) -> None:
    """Run the dongle from plugging in to being pulled out."""
    pulled = stage.pulled = asyncio.Event()
    terminal = Terminal(link)
    try:
        async with asyncio.TaskGroup() as group:
            to_client = faults.Pipe(faults.lane(damage, "out", settings.seed), terminal.write, pulled.set)
            dongle = stage.dongle = _dongle(settings, _unless(stage, to_client.feed), group)
            heard = _unless(stage, dongle.receive)
            to_dongle = faults.Pipe(faults.lane(damage, "in", settings.seed), heard, pulled.set)
            terminal.listen(to_dongle.feed)
            peer = MeterInRange(meter, dongle, clock, log, settings, group)
            dongle.peer = peer
            pipes = [group.create_task(pipe.run(), name="pipe") for pipe in (to_client, to_dongle)]
            if settings.notify != "no":
                pipes.append(group.create_task(peer.tell_half_hours(), name="half hours"))
            if ready is not None:
                ready.set()
            await pulled.wait()
            dongle.power_off()
            for task in pipes:
                task.cancel()
    finally:
        terminal.close()


def _unless(stage: _Stage, carry: Callable[[bytes], None]) -> Callable[[bytes], None]:
    """Return the same way for bytes, closed while the dongle is mute."""
    return lambda data: None if stage.mute else carry(data)


def _dongle(settings: MeterSettings, write: Callable[[bytes], None], group: asyncio.TaskGroup) -> Dongle | J11Dongle:
    if settings.dialect == "j11":
        return J11Dongle(settings.radio, write, group, seed=settings.seed)
    return Dongle(settings.dialect, settings.radio, write, group, binary=settings.binary, seed=settings.seed)


def add_meter_options(parser: argparse.ArgumentParser) -> None:
    """Add what a meter can be told, apart from house, time and log."""
    radio, plate = Radio(), Nameplate()
    parser.add_argument("--link", type=Path, required=True, help="path of the serial port to make (a link to a pty)")
    parser.add_argument(
        "--dialect",
        choices=("a1", "c2", "j11"),
        default="c2",
        help="a1: BP35A1; c2: BP35C2, RS-WSUHA-P; j11: RS-WSUHA-J11",
    )
    parser.add_argument("--binary", action="store_true", help="start in binary data mode (ROPT 00), as many are sold")
    parser.add_argument("--id", default=radio.route_b_id, help=f"route-B ID, 32 digits (default {radio.route_b_id})")
    parser.add_argument("--password", default=radio.password, help=f"route-B password (default {radio.password})")
    parser.add_argument(
        "--radio-time", type=_share, default=0.0, metavar="0..1", help="share of the real scan and join times"
    )
    parser.add_argument("--latency-ms", type=float, default=0.0, help="time from a request to its answer")
    parser.add_argument("--loss", type=_share, default=0.0, metavar="0..1", help="share of datagrams lost in the air")
    parser.add_argument("--expires-s", type=float, metavar="S", help="lifetime of a session (EVENT 29)")
    parser.add_argument("--no-renewal", action="store_true", help="an expired session is not renewed (EVENT 24)")
    parser.add_argument(
        "--transmit-ms", type=int, default=radio.transmit_ms, help="transmit time in an hour before EVENT 32"
    )
    parser.add_argument("--rest-s", type=float, default=radio.rest_s, help="seconds from EVENT 32 to EVENT 33")
    parser.add_argument("--neighbour", action="store_true", help="another house's meter is in range")
    parser.add_argument("--unit", choices=tuple(UNITS), default=plate.unit, help="unit of the registers in kWh (E1)")
    parser.add_argument("--digits", type=int, choices=range(1, 9), default=plate.digits, help="digits shown (D7)")
    parser.add_argument(
        "--coefficient", type=_coefficient, default=plate.coefficient, help="coefficient of the registers (D3)"
    )
    parser.add_argument("--serial", default=plate.serial, help="manufacturing number (8D)")
    parser.add_argument("--two-wire", action="store_true", help="single-phase two-wire: no current of phase T")
    parser.add_argument(
        "--without", type=_codes, default=frozenset(), metavar="EPC,…", help="properties it refuses, as in D3,E3"
    )
    parser.add_argument("--pairs", action="store_true", help="it has EC and ED: half hours back from any moment")
    parser.add_argument("--meter-fault", action="store_true", help="it says that it is faulty (88)")
    parser.add_argument(
        "--clock-error-s", type=int, default=0, metavar="S", help="its clock (97, 98) is so many seconds ahead"
    )
    parser.add_argument(
        "--exchange-at",
        type=_half_hour_ms,
        metavar="TIME",
        help="half hour from which on another meter hangs there, as in 2026-06-01T12:00:00+09:00",
    )
    parser.add_argument("--next-serial", default=plate.next_serial, help="manufacturing number of that other meter")
    parser.add_argument("--notify", choices=("inf", "infc", "no"), default="inf", help="how it tells each half hour")
    parser.add_argument(
        "--scenario", type=_steps, default=(), metavar="FILE", help="YAML of what happens when (simulators/scenario.py)"
    )
    faults.add_fault_option(parser)


def settings_from(args: argparse.Namespace) -> MeterSettings:
    """Return the settings of a simulator's options."""
    return MeterSettings(
        dialect=args.dialect,
        radio=Radio(
            args.id,
            args.password,
            args.radio_time,
            args.loss,
            args.latency_ms / 1000,
            expires_s=args.expires_s,
            renews=not args.no_renewal,
            transmit_ms=args.transmit_ms,
            rest_s=args.rest_s,
            neighbour=Neighbour() if args.neighbour else None,
        ),
        nameplate=Nameplate(
            serial=args.serial,
            unit=args.unit,
            coefficient=args.coefficient,
            digits=args.digits,
            two_wire=args.two_wire,
            pairs=args.pairs,
            fault=args.meter_fault,
            clock_error_s=args.clock_error_s,
            exchanged_ms=args.exchange_at,
            next_serial=args.next_serial,
            without=args.without,
        ),
        binary=args.binary,
        notify=args.notify,
        faults=tuple(args.fault),
        scenario=args.scenario,
        seed=args.seed,
    )


def configure(parser: argparse.ArgumentParser) -> None:
    """Add all options of `edge-sim meter`."""
    add_meter_options(parser)
    parser.add_argument(
        "--history-days", type=_days, default=0, metavar="N", help="days before the start that it remembers, 0 to 99"
    )
    add_house_options(parser)
    add_time_options(parser)
    add_log_option(parser)


async def run(args: argparse.Namespace) -> int:
    """Serve a meter until told to stop."""
    clock = clock_from(args)
    house = house_from(args, house_start_ms(args, clock) - args.history_days * DAY_MS)
    print(f"meter ({args.dialect}) at {args.link}", flush=True)  # noqa: T201  (a command line)
    await serve(house, clock, link=args.link, log=ServedLog(args.log, clock), settings=settings_from(args))
    return 0


def _steps(text: str) -> tuple[scenario.Step, ...]:
    try:
        return scenario.read(Path(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _share(text: str) -> float:
    share = float(text)
    if not 0 <= share <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return share


def _coefficient(text: str) -> int:
    number = int(text)
    if not 1 <= number <= 999_999:
        raise argparse.ArgumentTypeError(f"{text} is not between 1 and 999999")
    return number


def _days(text: str) -> int:
    days = int(text)
    if not 0 <= days <= 99:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 99")
    return days


def _half_hour_ms(text: str) -> int:
    moment = datetime.fromisoformat(text)
    unix_ms = round(moment.timestamp() * 1000)
    if moment.tzinfo is None or unix_ms % (HALF_HOUR_S * 1000):
        raise argparse.ArgumentTypeError(f"{text} is no half hour with an offset, as in 2026-06-01T12:00:00+09:00")
    return unix_ms


def _codes(text: str) -> frozenset[int]:
    codes = bytes.fromhex(text.replace(",", " "))
    return frozenset(codes)
