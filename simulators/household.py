"""`edge-sim house`: meter and inverter of one house in one process, sharing its balance. Plays no device itself."""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path

from drivers.arguments import LAST_PORT, whole
from simulators import inverter, meter
from simulators.clock import SimulatedClock, add_time_options, clock_from, house_start_ms
from simulators.house import WS_PER_KWH, House, add_house_options, house_from
from simulators.log import ServedLog, add_log_option

_SHOW_EVERY_S = 10.0


def configure(parser: argparse.ArgumentParser) -> None:
    """Add all options of `edge-sim house`."""
    meter.add_meter_options(parser)
    parser.add_argument("--host", default="127.0.0.1", help="address of the inverter's Modbus TCP server")
    parser.add_argument(
        "--port", type=whole(0, LAST_PORT), default=15_020, help="port of the inverter's Modbus TCP server"
    )
    add_house_options(parser)
    add_time_options(parser)
    add_log_option(parser)


async def run(args: argparse.Namespace) -> int:
    """Serve both devices until told to stop."""
    clock = clock_from(args)
    house = house_from(args, house_start_ms(args, clock))
    log = ServedLog(args.log, clock)
    async with asyncio.TaskGroup() as group:
        group.create_task(_serve_meter(house, clock, args.link, log, meter.settings_from(args)), name="meter")
        group.create_task(
            inverter.serve(house, clock, host=args.host, port=args.port, log=log, ready=None), name="inverter"
        )
        print(f"meter ({args.dialect}) at {args.link}, inverter at {args.host}:{args.port}", flush=True)  # noqa: T201  (a command line)
        if sys.stdout.isatty():
            group.create_task(_show(house, clock), name="balance")
    return 0


async def _serve_meter(
    house: House, clock: SimulatedClock, link: Path, log: ServedLog, settings: meter.MeterSettings
) -> None:
    await meter.serve(house, clock, link=link, log=log, settings=settings)


async def _show(house: House, clock: SimulatedClock) -> None:
    """Print the balance every ten seconds."""
    while True:
        print(balance_line(house, clock), flush=True)  # noqa: T201  (a command line)
        await asyncio.sleep(_SHOW_EVERY_S)


def balance_line(house: House, clock: SimulatedClock) -> str:
    """Return one line for people: what flows now, and what the registers say."""
    now = house.at(clock.unix_ms())
    return (
        f"{clock.local():%m-%d %H:%M:%S}  load {now.load_w:5d} W = grid {now.grid_w:+6d} + PV {now.pv_w:5d}"
        f" + battery {now.battery_w:+6d} ({now.soc_permille / 10:5.1f} %)"
        f"  imported {now.import_ws / WS_PER_KWH:.1f} kWh  exported {now.export_ws / WS_PER_KWH:.1f} kWh"
    )
