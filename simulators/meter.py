"""`edge-sim meter`: a dongle and the smart meter behind it, on a pseudo-terminal. Wires parts; holds no protocol."""

from __future__ import annotations

import argparse
import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Literal

from drivers.arguments import characters, hexadecimal, real, whole
from simulators import air, faults, scenario
from simulators.air import Neighbour, Radio
from simulators.clock import DAY_MS, SimulatedClock, add_time_options, clock_from, house_start_ms
from simulators.dongle import Dialect, Dongle
from simulators.house import HALF_HOUR_S, House, add_house_options, house_from
from simulators.j11 import J11Dongle
from simulators.log import Served, ServedLog, add_log_option
from simulators.meter_steps import KINDS, MAX_CLOCK_ERROR_S, unfit_for_j11
from simulators.metering import UNITS, Answer, Meter, Nameplate
from simulators.scenario import MAX_S
from simulators.stage import Stage
from simulators.terminal import Line, Terminal

DEVICE = "meter"
_NOTICE_AFTER_MS = 3_000
"""A notice of the half hour comes this long after it in simulated time; the norm allows five minutes."""
_GREETING_AFTER_S = 3.0


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
        self._before_answer: list[Callable[[bytes], None]] = []

    def joined(self) -> None:
        """Announce the instance list a little after a session stands."""
        self._group.create_task(self._greet(), name="greeting")

    def heard(self, data: bytes) -> None:
        """Answer a request, unless the air loses the answer."""
        before, self._before_answer = self._before_answer, []
        for say in before:
            say(data)
        latency_s = self._dongle.answering_s(data[11] if len(data) > 11 else 1)
        if latency_s:
            self._group.create_task(self._answer_late(data, latency_s), name="answer")
        else:
            self._answer(data)

    def notify(self, service: int, properties: Sequence[int], *, own_tid: bool) -> None:
        """Tell properties unasked (73 INF, 74 INFC): now, or before the next answer and with that request's TID."""
        if own_tid:
            self._send_if_heard(self._meter.notice(service, properties))
        else:
            self._before_answer.append(
                lambda data: self._send_if_heard(self._meter.notice(service, properties, data[2:4]))
            )

    def stray(self, tid: int) -> None:
        """Before the next answer, send one that answers the same question of somebody else."""
        self._before_answer.append(lambda data: self._send_if_heard(self._meter.stray(data, tid.to_bytes(2))))

    async def tell_half_hours(self) -> None:
        """Notify the registers of each :00 and :30, until cancelled."""
        service = 0x74 if self._settings.notify == "infc" else 0x73
        period_ms = HALF_HOUR_S * 1000
        while True:
            boundary = self._clock.unix_ms() // period_ms * period_ms + period_ms
            await self._clock.sleep_until(boundary + _NOTICE_AFTER_MS)
            self._send_if_heard(self._meter.half_hour_notice(service))

    async def _greet(self) -> None:
        await asyncio.sleep(_GREETING_AFTER_S * self._settings.radio.radio_time)
        self._dongle.deliver(self._meter.instance_list().frame.encode(), to_everyone=True)

    async def _answer_late(self, data: bytes, latency_s: float) -> None:
        await asyncio.sleep(latency_s)
        self._answer(data)

    def _answer(self, data: bytes) -> None:
        self._send_if_heard(self._meter.answer(data))

    def _send_if_heard(self, answer: Answer | None) -> None:
        if answer is not None and self._dongle.in_touch and not self._dongle.lost():
            self._dongle.tally[f"sent_{answer.frame.service:02X}"] += 1
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
    plug_in: Callable[[], Line] | None = None,
    tally: Counter[str] | None = None,
) -> None:
    """Serve one meter at `link` until cancelled; `ready` is set once a client can open it.

    A `cut` fault unplugs the dongle; it comes back powered up afresh, and undamaged from then on. `plug_in` makes
    another line than the pseudo-terminal at `link`; `tally` counts what came of the scenario.
    """
    chosen = settings or MeterSettings(dialect=dialect)
    meter = Meter(house, clock.unix_ms, chosen.nameplate)
    served = log or ServedLog(None, clock)
    damage: Sequence[faults.Fault] = chosen.faults
    stage = Stage(clock, chosen.radio, meter, served, chosen.seed, tally)
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(scenario.play(chosen.scenario, clock, stage.act, stage.end), name="scenario")
            while True:
                settings = replace(chosen, radio=stage.radio)
                line = Terminal(link) if plug_in is None else plug_in()
                await _plugged_in(meter, clock, line, served, ready, settings, damage, stage)
                damage = ()
                await stage.replugged()
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from None


async def _plugged_in(
    meter: Meter,
    clock: SimulatedClock,
    line: Line,
    log: ServedLog,
    ready: asyncio.Event | None,
    settings: MeterSettings,
    damage: Sequence[faults.Fault],
    stage: Stage,
) -> None:
    """Run the dongle from plugging in to being pulled out."""
    pulled = stage.pulled = asyncio.Event()
    try:
        async with asyncio.TaskGroup() as group:
            to_client = faults.Pipe(faults.lane(damage, "out", settings.seed), line.write, pulled.set)
            dongle = _dongle(settings, stage.unless_mute("out", to_client.feed), group, stage.tally)
            heard = stage.unless_mute("in", dongle.receive)
            to_dongle = faults.Pipe(faults.lane(damage, "in", settings.seed), heard, pulled.set)
            line.listen(to_dongle.feed)
            dongle.peer = peer = MeterInRange(meter, dongle, clock, log, settings, group)
            stage.plugged(dongle, peer, {"out": to_client, "in": to_dongle})
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
        line.close()


def _dongle(
    settings: MeterSettings, write: Callable[[bytes], None], group: asyncio.TaskGroup, tally: Counter[str]
) -> Dongle | J11Dongle:
    if settings.dialect == "j11":
        return J11Dongle(settings.radio, write, group, seed=settings.seed, tally=tally)
    radio, binary = settings.radio, settings.binary
    return Dongle(settings.dialect, radio, write, group, binary=binary, seed=settings.seed, tally=tally)


def add_meter_options(parser: argparse.ArgumentParser) -> None:
    """Add what a meter can be told, apart from house, time and log."""
    _add_dongle_options(parser)
    _add_radio_options(parser)
    _add_nameplate_options(parser)
    _add_event_options(parser)
    faults.add_fault_option(parser)


def _add_dongle_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--link", type=Path, required=True, help="path of the serial port to make (a link to a pty)")
    parser.add_argument(
        "--dialect",
        choices=("a1", "c2", "dss", "j11"),
        default="c2",
        help="a1: BP35A1; c2: BP35C2, RS-WSUHA-P; dss: RL7023 Stick-D/DSS, c2 that refuses ROPT; j11: RS-WSUHA-J11",
    )
    parser.add_argument("--binary", action="store_true", help="start in binary data mode (ROPT 00), as many are sold")


def _add_radio_options(parser: argparse.ArgumentParser) -> None:
    radio = Radio()
    parser.add_argument(
        "--id",
        type=hexadecimal(32),
        default=radio.route_b_id,
        help=f"route-B ID, 32 digits (default {radio.route_b_id})",
    )
    parser.add_argument(
        "--password",
        type=characters(12, 12),
        default=radio.password,
        help=f"route-B password (default {radio.password})",
    )
    parser.add_argument(
        "--air",
        choices=("measured", "ideal"),
        default="ideal",
        help="measured: losses, times of answers, scans and joins as on real ones (docs/route_b.md); ideal: none",
    )
    parser.add_argument(
        "--radio-time",
        type=real(0, 1),
        metavar="0..1",
        help="share of the real scan and join times, else as --air has it",
    )
    parser.add_argument(
        "--latency-ms", type=real(0, 600_000), help="time from a request to its answer, else as --air has it"
    )
    parser.add_argument(
        "--loss", type=real(0, 1), metavar="0..1", help="share of datagrams lost in the air, else as --air has it"
    )
    parser.add_argument("--expires-s", type=real(0.1, MAX_S), metavar="S", help="lifetime of a session (EVENT 29)")
    parser.add_argument("--no-renewal", action="store_true", help="an expired session is not renewed (EVENT 24)")
    parser.add_argument(
        "--transmit-ms",
        type=whole(0, 3_600_000),
        default=radio.transmit_ms,
        help="transmit time in an hour before EVENT 32",
    )
    parser.add_argument("--rest-s", type=real(0, MAX_S), default=radio.rest_s, help="seconds from EVENT 32 to EVENT 33")
    parser.add_argument("--neighbour", action="store_true", help="another house's meter is in range")


def _add_nameplate_options(parser: argparse.ArgumentParser) -> None:
    plate = Nameplate()
    parser.add_argument("--unit", choices=tuple(UNITS), default=plate.unit, help="unit of the registers in kWh (E1)")
    parser.add_argument("--digits", type=int, choices=range(1, 9), default=plate.digits, help="digits shown (D7)")
    parser.add_argument(
        "--coefficient", type=whole(1, 999_999), default=plate.coefficient, help="coefficient of the registers (D3)"
    )
    parser.add_argument("--serial", type=characters(1, 12), default=plate.serial, help="manufacturing number (8D)")
    parser.add_argument("--two-wire", action="store_true", help="single-phase two-wire: no current of phase T")
    parser.add_argument(
        "--without", type=_codes, default=frozenset(), metavar="EPC,…", help="properties it refuses, as in D3,E3"
    )
    parser.add_argument(
        "--release",
        choices=tuple("CDEFGHIJKLMNOPQR"),
        default=plate.release,
        help="Appendix release (82); R: second generation, with one-minute registers (C0, D0, EE, EF)",
    )
    parser.add_argument("--pairs", action="store_true", help="it has EC and ED: half hours back from any moment")


def _add_event_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--meter-fault", action="store_true", help="it says that it is faulty (88)")
    parser.add_argument(
        "--clock-error-s",
        type=whole(-MAX_CLOCK_ERROR_S, MAX_CLOCK_ERROR_S),
        default=0,
        metavar="S",
        help="its clock (97, 98) is so many seconds ahead",
    )
    parser.add_argument(
        "--exchange-at",
        type=_half_hour_ms,
        metavar="TIME",
        help="half hour from which on another meter hangs there, as in 2026-06-01T12:00:00+09:00",
    )
    parser.add_argument(
        "--next-serial",
        type=characters(1, 12),
        default=Nameplate().next_serial,
        help="manufacturing number of that other meter",
    )
    parser.add_argument("--notify", choices=("inf", "infc", "no"), default="inf", help="how it tells each half hour")
    parser.add_argument(
        "--scenario", type=Path, metavar="FILE", help="YAML of what happens when (docs/route_b.md, faults from a file)"
    )


def settings_from(args: argparse.Namespace) -> MeterSettings:
    """Return the settings of a simulator's options; raises ValueError for what the chosen dongle cannot play."""
    _refuse_unfit(args)
    return MeterSettings(
        dialect=args.dialect,
        radio=_radio(args),
        nameplate=Nameplate(
            serial=args.serial,
            release=args.release,
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
        scenario=_steps(args.scenario, args.dialect),
        seed=args.seed,
    )


def configure(parser: argparse.ArgumentParser) -> None:
    """Add all options of `edge-sim meter`."""
    add_meter_options(parser)
    parser.add_argument(
        "--history-days",
        type=whole(0, 99),
        default=0,
        metavar="N",
        help="days before the start that it remembers, 0 to 99",
    )
    add_house_options(parser)
    add_time_options(parser)
    add_log_option(parser)


async def run(args: argparse.Namespace) -> int:
    """Serve a meter until told to stop."""
    clock = clock_from(args)
    house = house_from(args, house_start_ms(args, clock) - args.history_days * DAY_MS)
    settings = settings_from(args)
    print(f"meter ({args.dialect}) at {args.link}", flush=True)  # noqa: T201  (a command line)
    await serve(house, clock, link=args.link, log=ServedLog(args.log, clock), settings=settings)
    return 0


def _radio(args: argparse.Namespace) -> Radio:
    radio = Radio(
        args.id,
        args.password,
        expires_s=args.expires_s,
        renews=not args.no_renewal,
        transmit_ms=args.transmit_ms,
        rest_s=args.rest_s,
        neighbour=Neighbour() if args.neighbour else None,
    )
    if args.air == "measured":
        radio = replace(air.measured(radio), radio_time=1.0)
    if args.radio_time is not None:
        radio = replace(radio, radio_time=args.radio_time)
    if args.loss is not None:
        radio = replace(radio, loss=args.loss)
    if args.latency_ms is not None:
        radio = replace(radio, latency_s=args.latency_ms / 1000, one_property=None, several_properties=None)
    return radio


def _refuse_unfit(args: argparse.Namespace) -> None:
    radio = Radio()
    given = {
        "--binary": args.binary,
        "--expires-s": args.expires_s is not None,
        "--no-renewal": args.no_renewal,
        "--neighbour": args.neighbour,
        "--transmit-ms": args.transmit_ms != radio.transmit_ms,
        "--rest-s": args.rest_s != radio.rest_s,
    }
    unfit = {"j11": given, "dss": {"--binary": args.binary}}.get(args.dialect, {})
    if wrong := [option for option, is_given in unfit.items() if is_given]:
        raise ValueError(f"{', '.join(wrong)}: no meaning with --dialect {args.dialect}; leave it out")


def _steps(path: Path | None, dialect: str) -> tuple[scenario.Step, ...]:
    """Return the steps of a file; raises ValueError for one that this dongle cannot play."""
    if path is None:
        return ()
    return scenario.read(path, KINDS, unfit_for_j11) if dialect == "j11" else scenario.read(path, KINDS)


def _half_hour_ms(text: str) -> int:
    moment = datetime.fromisoformat(text)
    unix_ms = round(moment.timestamp() * 1000)
    if moment.tzinfo is None or unix_ms % (HALF_HOUR_S * 1000):
        raise argparse.ArgumentTypeError(f"{text} is no half hour with an offset, as in 2026-06-01T12:00:00+09:00")
    return unix_ms


def _codes(text: str) -> frozenset[int]:
    codes = bytes.fromhex(text.replace(",", " "))
    return frozenset(codes)
