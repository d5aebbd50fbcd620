"""`edge-agent echonet scan|dump|watch`: what is on the network, for a person at a terminal. Sets nothing, ever."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from drivers.api import DriverError, Json, LinkError, MalformedError
from drivers.arguments import LAST_PORT, real, whole
from drivers.echonet_ip import identity
from drivers.echonet_ip.devices import CLASSES, LABELS
from drivers.echonet_ip.link import PORT, Link, check_address, is_taken
from drivers.echonet_ip.session import Learnt, Session
from drivers.route_b.echonet import NODE_PROFILE, Frame

IMAGE_VERSION = 1
MAX_WATCH_S = 1e9


class EchonetCommand:
    """The command that the driver brings to `edge-agent`."""

    help = "devices of ECHONET Lite on the network: scan, dump, watch"

    def configure(self, parser: argparse.ArgumentParser) -> None:
        """Add the actions and their options."""
        actions = parser.add_subparsers(required=True, metavar="ACTION", dest="action")
        scan = actions.add_parser("scan", help="find all nodes and say who they are")
        scan.add_argument(
            "--listen", type=real(0, 600), default=3.0, metavar="S", help="wait so long for nodes (default 3)"
        )
        dump = actions.add_parser("dump", help="write an image of a node, without its serial and identification")
        dump.add_argument("host", metavar="HOST", help="the node's address")
        dump.add_argument("--out", type=Path, metavar="FILE", help="where to (default: standard output)")
        watch = actions.add_parser("watch", help="show what devices announce by themselves, until Ctrl-C")
        watch.add_argument("--for", dest="watch_s", type=real(0, MAX_WATCH_S), metavar="S", help="end after S seconds")
        for action in (scan, dump, watch):
            action.add_argument("--address", default="", help="this box's own address on the devices' network")
            action.add_argument("--port", type=whole(1, LAST_PORT), default=PORT, help=argparse.SUPPRESS)
            action.add_argument(
                "--timeout", type=real(0.05, 600), default=5.0, metavar="S", help="wait so long for an answer"
            )
        for action in (scan, watch):
            action.add_argument("--json", action="store_true", help="print one JSON object a line")

    def run(self, args: argparse.Namespace) -> int:
        """Carry the action out; raises a DriverError with a sentence for a person."""
        if args.address:
            check_address("--address", args.address)
        if is_taken(args.address, args.port):
            raise LinkError(
                f"UDP port {args.port} is in use, perhaps by the agent: stop it first; "
                "on a box with several addresses name one with --address"
            )
        return asyncio.run({"scan": _scan, "dump": _dump, "watch": _watch}[args.action](args))


command = EchonetCommand()


async def _scan(args: argparse.Namespace) -> int:
    link = Link(args.address, args.port)
    await link.open()
    found = 0
    try:
        nodes = await link.search(args.listen)
        for host in sorted(nodes, key=lambda one: tuple(map(int, one.split(".")))):
            for eoj in _listed(nodes[host]):
                found += 1
                _say(await _who(link, host, eoj, args.timeout), as_json=args.json)
    finally:
        link.close()
    if not found:
        _complain(
            "no device answered: same network? ECHONET Lite switched on in the device? "
            "several networks: name this box's address with --address"
        )
    return 0 if found else 1


def _listed(frame: Frame) -> tuple[bytes, ...]:
    try:
        return identity.instances(frame.properties[identity.INSTANCES_GET])
    except MalformedError:
        return ()


async def _who(link: Link, host: str, eoj: bytes, timeout_s: float) -> dict[str, Json]:
    """Return what one object says of itself, or why it does not."""
    code = eoj[:2].hex().upper()
    said: dict[str, Json] = {
        "address": host,
        "eoj": eoj.hex().upper(),
        "class": LABELS.get(code, "unknown class"),
        "readable": code in CLASSES,
    }
    session = Session(link, host, eoj, Learnt.from_json(None, timeout_s))
    try:
        await session.refresh()
    except DriverError as error:
        return {**said, "error": str(error)}
    who = session.who
    return {
        **said,
        "maker": who.get(identity.MAKER, b"").hex().upper() or None,
        "product": identity.text(who.get(identity.PRODUCT, b"")) or None,
        "identification": session.identification,
        "properties": [f"{epc:02X}" for epc in sorted(session.readable or ())],
        "settable": [f"{epc:02X}" for epc in sorted(session.settable)],
    }


def _say(said: Mapping[str, Json], *, as_json: bool) -> None:
    if as_json:
        _line(json.dumps(said, ensure_ascii=False))
        return
    mark = "" if said["readable"] else "  (not read by this driver)"
    _line(f"{said['address']:15}  {said['eoj']}  {said['class']}{mark}")
    if "error" in said:
        _line(f"{'':15}  {said['error']}")
        return
    _line(f"{'':15}  maker {said['maker'] or '?'}  product {said['product'] or '?'}")
    _line(f"{'':15}  identification {said['identification'] or '(none: allow it by address)'}")


async def _dump(args: argparse.Namespace) -> int:
    check_address("HOST", args.host)
    link = Link(args.address, args.port)
    await link.open()
    try:
        objects = await _objects(link, args.host, args.timeout)
    finally:
        link.close()
    written = json.dumps({"v": IMAGE_VERSION, "objects": objects}, indent=1) + "\n"
    if args.out is None:
        sys.stdout.write(written)
    else:
        args.out.write_text(written, encoding="utf-8")
        _complain(f"{args.out}: {len(objects)} objects")
    return 0


async def _objects(link: Link, host: str, timeout_s: float) -> dict[str, dict[str, str]]:
    """Return every readable property of every object of a node, without what names the house."""
    first = Session(link, host, NODE_PROFILE, Learnt.from_json(None, timeout_s))
    listed = (await first.read((identity.INSTANCES_GET,))).get(identity.INSTANCES_GET)
    if listed is None:
        raise MalformedError(f"{host} gives no list of its objects")
    objects: dict[bytes, Mapping[int, bytes]] = {}
    for eoj in (NODE_PROFILE, *identity.instances(listed)):
        session = Session(link, host, eoj, Learnt.from_json(None, timeout_s))
        await session.refresh()
        objects[eoj] = await session.read(sorted(session.readable or ()))
    return {
        eoj.hex().upper(): {f"{epc:02X}": edt.hex().upper() for epc, edt in sorted(properties.items())}
        for eoj, properties in identity.anonymised(objects).items()
    }


async def _watch(args: argparse.Namespace) -> int:
    link = Link(args.address, args.port)
    heard: asyncio.Queue[tuple[str, Frame]] = asyncio.Queue(1000)

    def take(host: str, frame: Frame) -> None:
        if not heard.full():
            heard.put_nowait((host, frame))

    link.heard = take
    await link.open()
    try:
        async with asyncio.timeout(args.watch_s):
            while True:
                for line in _heard_lines(*await heard.get(), as_json=args.json):
                    _line(line)
    except TimeoutError:
        return 0
    finally:
        link.close()


def _heard_lines(host: str, frame: Frame, *, as_json: bool) -> Iterator[str]:
    """Yield an announcement for a person, or as JSON."""
    known = CLASSES.get(frame.seoj[:2].hex().upper())
    values = known.decode(frame.properties) if known else {}
    raw = {f"{epc:02X}": edt.hex().upper() for epc, edt in frame.properties.items()}
    if as_json:
        said: dict[str, Any] = {
            "address": host,
            "eoj": frame.seoj.hex().upper(),
            "service": frame.service,
            "properties": raw,
            "values": {
                name: value if isinstance(value, int | float | None) else str(value) for name, value in values.items()
            },
        }
        yield json.dumps(said, ensure_ascii=False)
        return
    label = LABELS.get(frame.seoj[:2].hex().upper(), "unknown class")
    yield f"{host:15}  {frame.seoj.hex().upper()}  {label}  {frame.service}"
    for code, edt in raw.items():
        yield f"{'':15}  {code}  {edt or '(no data)'}"
    for name, value in values.items():
        yield f"{'':15}  {name}  {'no value' if value is None else value}"


def _line(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _complain(text: str) -> None:
    sys.stderr.write(text + "\n")
