"""`edge-sim echonet`: devices of one home, or a dumped image, on UDP. Wires parts; holds no protocol."""

from __future__ import annotations

import argparse
import asyncio
import ipaddress
import random
from collections.abc import Sequence
from pathlib import Path

from drivers.arguments import LAST_PORT, real, whole
from simulators import echonet_steps, scenario
from simulators.clock import SimulatedClock, add_time_options, clock_from, house_start_ms
from simulators.echonet_devices import KINDS, things, things_of_image
from simulators.echonet_node import PORT, Manners, Node, NodeServer
from simulators.echonet_steps import HomeStage
from simulators.house import House, add_house_options, house_from
from simulators.log import ServedLog, add_log_option
from simulators.metering import NODE
from simulators.scenario import Step

__all__ = ["KINDS", "Manners", "Node", "NodeServer", "things", "things_of_image"]

_WATCH_S = 0.5
_MAX_IMAGE_BYTES = 4 * 1024 * 1024


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of `edge-sim echonet`."""
    parser.add_argument("--address", default="127.0.0.11", help="address of the first node (default 127.0.0.11)")
    parser.add_argument(
        "--port", type=whole(1, LAST_PORT), default=PORT, help="UDP port (default 3610, which products always use)"
    )
    parser.add_argument("--devices", nargs="+", choices=KINDS, default=list(KINDS[:4]), help="which devices")
    parser.add_argument("--apart", action="store_true", help="each device on an address of its own, counted upwards")
    parser.add_argument(
        "--instance", type=whole(1, 0x7F), default=1, metavar="N", help="instance number of the objects"
    )
    parser.add_argument("--image", type=Path, metavar="FILE", help="play an image of `edge-agent echonet dump` instead")
    parser.add_argument("--most", type=whole(1, 255), metavar="N", help="answer at most N properties, silently")
    parser.add_argument("--delay", type=real(0, 600), default=0.0, metavar="S", help="seconds before each answer")
    parser.add_argument("--loss", type=real(0, 1), default=0.0, metavar="P", help="share of answers lost, 0 to 1")
    parser.add_argument(
        "--scenario",
        type=Path,
        metavar="FILE",
        help="YAML of what happens when (docs/echonet_ip.md, faults from a file)",
    )
    add_house_options(parser)
    add_time_options(parser)
    add_log_option(parser)


async def run(args: argparse.Namespace) -> int:
    """Serve until told to stop."""
    clock = clock_from(args)
    house = house_from(args, house_start_ms(args, clock))
    log = ServedLog(args.log, clock)
    servers = _servers(args, house, clock, log)
    steps = _steps(args.scenario, servers)
    try:
        for offset, server in enumerate(servers):
            address = str(ipaddress.IPv4Address(args.address) + offset)
            await server.start(address, args.port)
            shown = " ".join(eoj.hex().upper() for eoj in server.node.things if eoj != NODE)
            print(f"ECHONET Lite node at {address}:{args.port}: {shown}", flush=True)  # noqa: T201  (a command line)
        await serve(servers, clock, log, steps, args.seed)
    finally:
        for server in servers:
            server.close()
        log.close()
    return 0


async def serve(
    servers: Sequence[NodeServer], clock: SimulatedClock, log: ServedLog, steps: Sequence[Step] = (), seed: int = 1
) -> None:
    """Announce what changes in nodes that have started, and play a scenario on them, until cancelled."""
    async with asyncio.TaskGroup() as group:
        stage = HomeStage(servers, clock, log, group, seed)
        group.create_task(scenario.play(steps, clock, stage.act, stage.end), name="scenario")
        while True:
            for server in servers:
                server.announce_changes()
            await asyncio.sleep(_WATCH_S)


def _steps(path: Path | None, servers: Sequence[NodeServer]) -> tuple[Step, ...]:
    return () if path is None else scenario.read(path, echonet_steps.KINDS, echonet_steps.unfit_for(servers))


def _content(path: Path) -> str:
    """Return the text of an image; raises OSError, or ValueError that names the file."""
    if path.stat().st_size > _MAX_IMAGE_BYTES:
        raise ValueError(f"{path}: too long for an image of a node")
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: no image of a node: {error}") from None


def _servers(args: argparse.Namespace, house: House, clock: SimulatedClock, log: ServedLog) -> list[NodeServer]:
    if args.image is not None:
        groups = [things_of_image(_content(args.image), args.image)]
    else:
        kinds = [[kind] for kind in args.devices] if args.apart else [args.devices]
        groups = [things(some, capacity_wh=args.battery_wh, seed=args.seed, instance=args.instance) for some in kinds]
    return [
        NodeServer(
            Node(group, Manners(args.most, args.delay, args.loss)),
            lambda: house.at(clock.unix_ms()),
            log,
            random.Random(args.seed),
        )
        for group in groups
    ]
