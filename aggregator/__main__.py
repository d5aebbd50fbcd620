"""The command `edge-aggregator`. Parses words and prints; the work is done elsewhere."""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import sqlite3
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from aggregator import config, operate
from aggregator.ingest import Rules
from aggregator.sqlite import open_reader, open_writer
from aggregator.store import StoreError
from aggregator.writing import Writing
from drivers.api import ConfigError

DEFAULT_CONFIG = "/etc/edge-gateway/aggregator.yaml"


def main(words: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code: 0 done, 1 could not, 2 wrong words."""
    arguments = _parser().parse_args(words)
    code = 1
    try:
        code = int(arguments.act(arguments))
    except* (OSError, ConfigError, StoreError, sqlite3.Error) as group:
        for problem in _leaves(group):
            print(f"edge-aggregator: {problem}", file=sys.stderr)
    return code


def _leaves(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for part in error.exceptions for leaf in _leaves(part)]
    return [error]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="edge-aggregator", description="Stores, acknowledges and shows what gateways send."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    run = commands.add_parser("run", help="serve until stopped")
    run.add_argument("config", type=Path, metavar="CONFIG")
    run.set_defaults(act=_run)

    importing = _command(
        commands, "import", "store the export of a gateway's outbox (`edge-agent outbox export`)", _import
    )
    importing.add_argument("file", metavar="FILE", help="JSON lines; - reads standard input")

    quarantine = commands.add_parser("quarantine", help="what was put aside").add_subparsers(
        required=True, metavar="ACT"
    )
    listing = _command(quarantine, "list", "what is put aside, and why", _quarantine_list)
    listing.add_argument("--gateway", metavar="ID")
    show = _command(quarantine, "show", "one entry with its payload", _quarantine_show)
    show.add_argument("entry", type=int, metavar="NUMBER")
    replay = _command(quarantine, "replay", "offer entries again, all unless numbers are given", _quarantine_replay)
    replay.add_argument("entries", type=int, nargs="*", metavar="NUMBER")
    replay.add_argument("--gateway", metavar="ID")

    gateway = commands.add_parser("gateway", help="gateways known here").add_subparsers(required=True, metavar="ACT")
    _command(gateway, "list", "every gateway that was ever heard", _gateway_list)
    for name, text in (("retire", "put aside whatever it sends from now on"), ("restore", "take a retired one back")):
        act = _command(gateway, name, text, _gateway_retire)
        act.add_argument("gateway", metavar="ID")
        act.set_defaults(retire=name == "retire")
    admit = _command(gateway, "admit", "let a boot that was held as a second box into the series", _gateway_admit)
    admit.add_argument("gateway", metavar="ID")
    admit.add_argument("boot", metavar="BOOT")
    return parser


def _command(commands: Any, name: str, text: str, act: Any) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text)
    default = os.environ.get("EDGE_AGGREGATOR_CONFIG", DEFAULT_CONFIG)
    parser.add_argument("--config", type=Path, default=Path(default), metavar="CONFIG", help=f"default {default}")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.set_defaults(act=act)
    return parser


def _run(arguments: argparse.Namespace) -> int:
    settings = config.load(arguments.config)
    logging.basicConfig(level=settings.log.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    from aggregator.app import run  # noqa: PLC0415  (the web framework is for this command alone)

    asyncio.run(run(settings))
    return 0


@contextmanager
def _open(arguments: argparse.Namespace, *, new: bool = False) -> Iterator[tuple[Writing, Rules]]:
    """Hold the database open for changes; only with `new` one that is not there is made."""
    settings = config.load(arguments.config)
    path = Path(settings.store.path) if new else _existing(settings.store.path)
    with closing(open_writer(path)) as connection:
        yield Writing(connection), Rules(settings.accept_simulated)


def _look(arguments: argparse.Namespace) -> sqlite3.Connection:
    return open_reader(_existing(config.load(arguments.config).store.path))


def _existing(path: str) -> Path:
    """Return the path of a database that is there; one made here might be a file the service cannot open."""
    if not Path(path).is_file():
        raise StoreError(f"no database at {path}; start edge-aggregator once")
    return Path(path)


def _import(arguments: argparse.Namespace) -> int:
    with _open(arguments, new=True) as (writing, rules):
        if arguments.file == "-":
            done = operate.import_lines(writing, sys.stdin.buffer, _now_ms(), rules)
        else:
            with Path(arguments.file).open("rb") as lines:
                done = operate.import_lines(writing, lines, _now_ms(), rules)
    told = {"batches": done.batches, "put_aside": done.put_aside, "problems": list(done.problems)}
    _print(arguments, [told], lambda _: f"{done.batches} batches stored or known, {done.put_aside} put aside")
    for problem in () if arguments.json else done.problems:
        print(f"  {problem}", file=sys.stderr)
    return 1 if done.problems else 0


def _quarantine_list(arguments: argparse.Namespace) -> int:
    with closing(_look(arguments)) as connection:
        entries = list(operate.quarantine(connection, arguments.gateway))
    _print(
        arguments,
        entries,
        lambda one: (
            f"{one['id']:>6}  {_moment(one['last_ms'])}  {one['gateway'] or '?':<20} "
            f"{one['size']:>8} B  x{one['n']:<4} {one['reason']}"
        ),
    )
    return 0


def _quarantine_show(arguments: argparse.Namespace) -> int:
    with closing(_look(arguments)) as connection:
        found = next(operate.quarantine(connection, None, arguments.entry), None)
        payload = operate.payload(connection, arguments.entry)
    if found is None or payload is None:
        print(f"edge-aggregator: there is no entry {arguments.entry}; see quarantine list", file=sys.stderr)
        return 1
    text = payload.decode("utf-8", "backslashreplace")
    _print(
        arguments, [found | {"payload": text}], lambda one: "\n".join(f"{key}: {value}" for key, value in one.items())
    )
    return 0


def _quarantine_replay(arguments: argparse.Namespace) -> int:
    with _open(arguments) as (writing, rules):
        wanted = arguments.entries or [one["id"] for one in operate.quarantine(writing.connection, arguments.gateway)]
        accepted, refused = operate.replay(writing, wanted, _now_ms(), rules)
    told = {"accepted": accepted, "refused": refused}
    _print(arguments, [told], lambda _: f"{accepted} accepted, {refused} still put aside")
    return 0 if refused == 0 else 1


def _gateway_list(arguments: argparse.Namespace) -> int:
    with closing(_look(arguments)) as connection:
        _print(arguments, operate.gateways(connection), _gateway_line)
    return 0


def _gateway_line(one: dict[str, Any]) -> str:
    word = "retired" if one["retired"] else one["clock"] or "-"
    held = f"  held as a second box: {one['held_boots']}" if one["held_boots"] else ""
    return f"{one['id']:<32} {_moment(one['last_seen_ms'])}  {word}{held}"


def _gateway_retire(arguments: argparse.Namespace) -> int:
    with _open(arguments) as (writing, _):
        known = operate.retire(writing.connection, arguments.gateway, _now_ms() if arguments.retire else None)
    if not known:
        print(f"edge-aggregator: no gateway {arguments.gateway!r} was ever heard", file=sys.stderr)
        return 1
    word = "retired" if arguments.retire else "restored"
    _print(arguments, [{"gateway": arguments.gateway, "done": word}], lambda _: f"{arguments.gateway} is {word}")
    return 0


def _gateway_admit(arguments: argparse.Namespace) -> int:
    with _open(arguments) as (writing, _):
        rows = operate.admit(writing, arguments.gateway, arguments.boot)
    if rows is None:
        print(f"edge-aggregator: {arguments.gateway!r} never had a boot {arguments.boot!r}", file=sys.stderr)
        return 1
    _print(arguments, [{"gateway": arguments.gateway, "rows": rows}], lambda _: f"{rows} rows are in the series now")
    return 0


def _print(arguments: argparse.Namespace, lines: list[dict[str, Any]], human: Any) -> None:
    for line in lines:
        print(json.dumps(line, ensure_ascii=False) if arguments.json else human(line))


def _moment(unix_ms: int) -> str:
    return datetime.fromtimestamp(unix_ms / 1000, UTC).astimezone().isoformat(" ", "seconds")


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


if __name__ == "__main__":
    sys.exit(main())
