"""`edge-agent modbus scan|dump|watch`: look at a line of Modbus devices from a terminal. Writes no register.

The tool opens the line itself. Where a running agent holds it, `--through` asks the agent instead: a serial port is
locked, and most inverters take one connection.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime

import msgspec

from drivers.api import ConfigError, DriverError, LinkError, Value
from drivers.arguments import LAST_PORT, real, whole
from drivers.modbus import survey
from drivers.modbus.device import Device
from drivers.modbus.endpoints import Endpoint, SerialEndpoint, TcpEndpoint
from drivers.modbus.library import find
from drivers.modbus.link import Link
from drivers.modbus.planner import Space
from drivers.modbus.quality import Quality
from drivers.modbus.register_map import RegisterMap
from drivers.modbus.through_agent import AgentLine
from drivers.quantities import QUANTITIES

SUNSPEC = "sunspec"
USUAL_UNITS = "1-10,100,126,247"
OPEN_S = 5.0
LAST_UNIT = 255
LONGEST_S = 86_400.0
MOST_ROUNDS = 1_000_000_000
_encoder = msgspec.json.Encoder(decimal_format="number")


class _WallClock:
    """Real time, as a link wants it."""

    def boot_ms(self) -> int:
        return int(time.monotonic() * 1000)

    def unix_ms(self) -> int | None:
        return int(time.time() * 1000)

    async def sleep_until(self, boot_ms: int) -> None:
        await asyncio.sleep(max(0.0, (boot_ms - self.boot_ms()) / 1000))


class ModbusCommand:
    """The subcommand, as the agent's command line wants it."""

    help = "find, dump and watch Modbus devices; reads only"

    def configure(self, parser: argparse.ArgumentParser) -> None:
        """Declare the arguments."""
        verbs = parser.add_subparsers(dest="verb", required=True, metavar="scan|dump|watch")
        scan = verbs.add_parser("scan", help="which units answer, and what they say they are")
        scan.add_argument("--units", default=USUAL_UNITS, metavar="1-10,247", help=f"default {USUAL_UNITS}")
        scan.add_argument("--json", action="store_true", help="print one JSON object a line")
        dump = verbs.add_parser(
            "dump", help="registers as a file that edge-sim inverter --image plays; no serial number"
        )
        dump.add_argument("--range", nargs="+", metavar="FIRST-LAST", help="addresses; else what the map knows of")
        dump.add_argument("--input", action="store_true", help="with --range: input registers")
        dump.add_argument("--name", default="device", help="the capture's name (default: device)")
        watch = verbs.add_parser("watch", help="values live in the terminal, until Ctrl-C")
        watch.add_argument(
            "--every", type=real(0.1, LONGEST_S), default=2.0, metavar="SECONDS", help="default 2, 0.1 or more"
        )
        watch.add_argument("--rounds", type=whole(1, MOST_ROUNDS), metavar="N", help="stop after so many")
        for verb in (scan, dump, watch):
            _add_line(verb)
        for verb in (dump, watch):
            verb.add_argument("--unit", type=whole(0, LAST_UNIT), default=1, metavar="0-255", help="default 1")
            verb.add_argument("--map", default=SUNSPEC, help="a register map, default sunspec")

    def run(self, arguments: argparse.Namespace) -> int:
        """Carry it out; returns 1 when the device did not answer or an argument makes no sense."""
        verbs = {"scan": _scan, "dump": _dump, "watch": _watch}
        try:
            return asyncio.run(verbs[arguments.verb](arguments))
        except KeyboardInterrupt:
            return 0
        except (DriverError, ValueError) as error:
            sys.stderr.write(f"edge-agent modbus {arguments.verb}: {error}\n")
            return 1


command = ModbusCommand()


def _add_line(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "line", metavar="HOST[:PORT]|/dev/PORT|DRIVER", help="the endpoint; with --through a driver's name"
    )
    parser.add_argument(
        "--through", metavar="SOCKET", help="ask the agent that holds the line, /run/edge-agent/ID.sock"
    )
    parser.add_argument("--rtu", action="store_true", help="RTU over TCP: a transparent serial converter")
    parser.add_argument(
        "--baudrate", type=whole(300, 4_000_000), default=9600, metavar="N", help="of a serial port, default 9600"
    )
    parser.add_argument("--parity", choices=("N", "E", "O"), default="N", help="default N")
    parser.add_argument("--stopbits", type=int, choices=(1, 2), default=1, help="default 1")
    parser.add_argument(
        "--timeout", type=real(0.05, 30), default=1.0, metavar="SECONDS", help="for one answer, default 1"
    )
    parser.add_argument(
        "--gap", type=real(0, 5_000), default=50.0, metavar="MS", help="pause between requests, default 50"
    )
    parser.add_argument("--maps", metavar="FOLDER", help="look for maps of your own here first")


def endpoint_of(arguments: argparse.Namespace) -> Endpoint:
    """Return where the line is; raises ValueError."""
    if arguments.line.startswith("/"):
        return SerialEndpoint(arguments.line, arguments.baudrate, arguments.parity, arguments.stopbits)
    host, _, port = arguments.line.rpartition(":") if ":" in arguments.line else (arguments.line, "", "502")
    if not host or not port.isdecimal() or not 1 <= int(port) <= LAST_PORT:
        raise ValueError(f"{arguments.line!r} is neither HOST:PORT nor /dev/PORT")
    return TcpEndpoint(host, int(port), "rtu" if arguments.rtu else "tcp")


def units_of(text: str) -> list[int]:
    """Return the units of a text like `1-10,247`; raises ValueError."""
    units: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"(\d{1,3})(?:-(\d{1,3}))?", part.strip())
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (-1, -1)
        if not 0 <= first <= last <= LAST_UNIT:
            raise ValueError(f"--units {part!r}: give numbers from 0 to {LAST_UNIT}, such as 1-10,247")
        units += range(first, last + 1)
    return list(dict.fromkeys(units))


async def _opened(arguments: argparse.Namespace) -> survey.Line:
    if arguments.through:
        return AgentLine(arguments.through, arguments.line)
    link = Link(endpoint_of(arguments), _WallClock(), gap_ms=arguments.gap)
    await link.open(OPEN_S)
    return link


async def _scan(arguments: argparse.Namespace) -> int:
    units = units_of(arguments.units)
    link = await _opened(arguments)
    found = 0
    try:
        async for one in survey.scan(link, units, arguments.timeout, arguments.maps):
            found += 1
            told = one.told()
            _say(_encoder.encode(told).decode() if arguments.json else _scan_line(told))
    finally:
        link.close()
    if not found:
        sys.stderr.write(f"no unit of {arguments.units} answers at {arguments.line}\n")
    return 0 if found else 1


def _scan_line(told: Mapping[str, object]) -> str:
    name = " ".join(str(told[key]) for key in ("maker", "model", "version") if told.get(key))
    if told["sunspec"]:
        models = told["models"]
        shown = ", ".join(str(one).split("@")[0] for one in models) if isinstance(models, list) else ""
        return f"unit {told['unit']:>3}  SunSpec  {name or '?'}  models {shown}"
    maps = told.get("maps")
    guesses = "; ".join(f"{key}: {value}" for key, value in maps.items()) if isinstance(maps, dict) else ""
    return f"unit {told['unit']:>3}  answers  {guesses or told.get('trouble') or 'no map knows it'}"


async def _dump(arguments: argparse.Namespace) -> int:
    link = await _opened(arguments)
    try:
        spans = await _spans(arguments, link)
        blocks = await survey.dump(link, arguments.unit, spans, arguments.timeout)
    finally:
        link.close()
    if not blocks:
        raise LinkError(f"unit {arguments.unit} serves none of these registers")
    source = "given addresses" if arguments.range else f"map {arguments.map}"
    described = f"Registers of unit {arguments.unit}, {source}, {datetime.now(UTC):%Y-%m-%d}."
    captured = survey.image(blocks, arguments.unit, spans[0].space, arguments.name, described)
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(captured), indent=1).decode() + "\n")
    if arguments.range:
        sys.stderr.write("look through it before you send it: with --range a serial number cannot be told apart\n")
    elif not all(span.is_known for span in spans):
        sys.stderr.write(
            "models of the maker's own: texts are left out; a serial number that is a number may be there\n"
        )
    return 0


async def _spans(arguments: argparse.Namespace, link: survey.Line) -> list[survey.Span]:
    if arguments.range:
        return [_span(part, "input" if arguments.input else "holding") for part in arguments.range]
    if arguments.map != SUNSPEC and not (known := _map(arguments)).is_sunspec:
        return survey.spans_of(known)
    chain = await survey.chain_of(link, arguments.unit, arguments.timeout)
    if chain is None:
        raise LinkError(f"unit {arguments.unit} has no SunSpec models; give --map or --range")
    return survey.spans_of_chain(chain)


def _span(text: str, space: Space) -> survey.Span:
    match = re.fullmatch(r"(\d{1,5})(?:-(\d{1,5}))?", text)
    first, last = (int(match[1]), int(match[2] or match[1])) if match else (-1, -1)
    if not 0 <= first <= last <= 65535:
        raise ValueError(f"--range {text!r}: give FIRST-LAST, from 0 to 65535")
    return survey.Span(space, first, last + 1)


def _map(arguments: argparse.Namespace) -> RegisterMap:
    try:
        return find(arguments.map, arguments.maps)
    except ConfigError as error:
        raise error.under("--map") from error


async def _watch(arguments: argparse.Namespace) -> int:
    link = await _opened(arguments)
    register_map = None if arguments.map == SUNSPEC else _map(arguments)
    limits = None if arguments.through else endpoint_of(arguments).limits
    device = Device("device", arguments.unit, arguments.timeout, register_map, limits)
    every_ms, clock, rounds = round(arguments.every * 1000), _WallClock(), 0
    last: dict[str, Value] = {}
    try:
        while arguments.rounds is None or rounds < arguments.rounds:
            rounds += 1
            began_ms, error = clock.boot_ms(), ""
            try:
                if not link.is_open:
                    await link.open(OPEN_S)
                    device.connected()
                last |= await device.read(link, began_ms, every_ms)
            except DriverError as problem:
                error = str(problem)
            took_ms = clock.boot_ms() - began_ms
            _draw(screen(arguments, device, last, device.quality(clock.boot_ms(), every_ms, every_ms), took_ms, error))
            await clock.sleep_until(began_ms + every_ms)
    finally:
        link.close()
    return 0


def screen(
    arguments: argparse.Namespace,
    device: Device,
    values: Mapping[str, Value],
    qualities: Mapping[str, Quality],
    took_ms: int,
    error: str,
) -> list[str]:
    """Return the lines of one look at a device: what it is, each value with unit and quality, what went wrong."""
    about = device.describe()
    name = " ".join(str(about[key]) for key in ("maker", "model") if about.get(key))
    lines = [f"{arguments.line} unit {device.unit}  {name}", f"{datetime.now():%H:%M:%S}  read in {took_ms} ms", ""]  # noqa: DTZ005  (the wall clock of whoever watches)
    width = max((len(one) for one in qualities), default=0)
    for quantity, quality in sorted(qualities.items()):
        value = values.get(quantity)
        shown = "-" if value is None else f"{value}"
        unit = QUANTITIES[quantity].unit if quantity in QUANTITIES else ""
        lines.append(f"{quantity:<{width}}  {shown:>14} {unit:<5}{'' if quality == 'good' else ' ' + quality}".rstrip())
    refused = device.refused
    lines += ["", f"refused: {', '.join(sorted(refused))}"] if refused else []
    return lines + (["", error] if error else [])


def _draw(lines: list[str]) -> None:
    """Draw over the last look on a terminal; below it elsewhere."""
    if sys.stdout.isatty():
        sys.stdout.write("\x1b[H" + "".join(f"{line}\x1b[K\n" for line in lines) + "\x1b[J")
    else:
        sys.stdout.write("\n".join(lines) + "\n\n")
    sys.stdout.flush()


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
