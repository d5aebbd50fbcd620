"""The command line of `edge-agent`: finds the command, says what came of it, and gives the exit code. Does no work.

Exit codes: 0 all is well, 1 something is not (said on standard error), 2 the command line was wrong.
"""

# ruff: noqa: PLC0415  (each command imports only what it needs: `drivers` must not load paho, `decode` no database)

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from drivers.api import ConfigError, DriverError

if TYPE_CHECKING:
    from edge_agent.box import AgentBox
    from edge_agent.config import Configuration

READ_WITHIN_S = 90.0
"""Joining a meter for the first time scans all channels; after that a reading takes a second or two."""


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit code."""
    words = sys.argv[1:] if arguments is None else arguments
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a terminal that lacks Japanese letters must not end the command
    try:
        parsed = _parsed(words)
        code: int = parsed.run(parsed)
        sys.stdout.flush()
    except ConfigError as error:
        _complain(f"設定エラー / configuration error: {error}")
        return 1
    except DriverError as error:
        _complain(f"エラー / error: {error}")
        return 1
    except BrokenPipeError:  # the reader of a pipe has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        _complain(f"エラー / error: {error}")
        return 1
    except KeyboardInterrupt:
        return 130
    return code


def _parsed(words: list[str]) -> argparse.Namespace:
    """Parse a command line; devices may also stand after the options, which argparse alone refuses."""
    parser = _parser(words)
    parsed, rest = parser.parse_known_args(words)
    if rest and (parsed.run is not _read or any(word.startswith("-") for word in rest)):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        parsed.devices += rest
    return parsed


def _parser(words: list[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="edge-agent", description="The agent of one house or pole.", epilog="Each command explains itself: --help."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, help_text, run in (
        ("run", "serve the devices of CONFIG until stopped", _run),
        ("check", "check CONFIG without opening anything", _check),
        ("read", "read each device once and show its values", _read),
        ("doctor", "look at the box and its devices and say what to do", _doctor),
    ):
        command = commands.add_parser(name, help=help_text)
        command.add_argument("config", metavar="CONFIG", type=Path, help="a YAML file such as configs/house.yaml")
        command.set_defaults(run=run)
        if name != "run":
            _add_json(command)
        if name == "read":
            command.add_argument("devices", metavar="DEVICE", nargs="*", help="only these devices")
        if name in {"read", "doctor"}:
            command.add_argument(
                "--timeout", type=float, default=READ_WITHIN_S, metavar="S", help="wait at most S seconds"
            )
    _add_outbox(commands)
    transcript = commands.add_parser("transcript", help="print the last lines between drivers and devices, no secrets")
    transcript.add_argument("config", metavar="CONFIG", type=Path)
    transcript.add_argument("drivers", metavar="DRIVER", nargs="*", help="only these drivers")
    transcript.set_defaults(run=_transcript)
    _add_json(transcript)
    drivers = commands.add_parser("drivers", help="list the drivers that are installed")
    drivers.set_defaults(run=_drivers)
    _add_json(drivers)
    _add_foreign(commands, words)
    return parser


def _add_json(command: argparse.ArgumentParser) -> None:
    command.add_argument("--json", action="store_true", help="print one JSON object a line")


def _add_outbox(commands: Any) -> None:
    outbox = commands.add_parser("outbox", help="show what waits for the aggregator")
    actions = outbox.add_subparsers(required=True, metavar="ACTION")
    for name, help_text, run in (
        ("stat", "how much waits, and for how long", _outbox_stat),
        ("export", "print all that waits on disk, one batch a line", _outbox_export),
    ):
        action = actions.add_parser(name, help=help_text)
        action.add_argument("config", metavar="CONFIG", type=Path)
        action.set_defaults(run=run)
        if name == "stat":
            _add_json(action)


def _add_foreign(commands: Any, words: list[str]) -> None:
    """Add the commands that drivers bring; only the one that was named is imported."""
    from edge_agent import registry

    for name in registry.names(registry.COMMANDS):
        if words[:1] == [name]:
            command = registry.load(registry.COMMANDS, name)
            parser = commands.add_parser(name, help=command.help, description=command.help)
            command.configure(parser)
            parser.set_defaults(run=command.run, box=_box)
        else:
            commands.add_parser(name, help=registry.command_help(name).replace("%", "%%"), add_help=False)


def _load(path: Path) -> Configuration:
    from edge_agent import config

    try:
        return config.load(path)
    except ConfigError as error:
        raise _in_file(path, error) from error


def _box(path: Path) -> AgentBox:
    """Return the box of a configuration, for a command that a driver brings."""
    from edge_agent import box, logs

    configuration = _load(path)
    logs.set_up(logs.LogSettings(level="error"))
    return box.AgentBox(configuration)


def _in_file(path: Path, error: ConfigError) -> ConfigError:
    where = f"{path}: {error.key}" if error.key else str(path)
    return ConfigError(where, error.problem, error.remedy, error.value)


def _run(parsed: argparse.Namespace) -> int:
    configuration = _load(parsed.config)
    from edge_agent import app, logs

    logs.set_up(configuration.document.log)
    try:
        asyncio.run(app.serve(configuration))
    except* ConfigError as group:
        raise _in_file(parsed.config, _first(group)) from group
    return 0


def _first(group: BaseExceptionGroup[ConfigError]) -> ConfigError:
    inner = group.exceptions[0]
    return inner if isinstance(inner, ConfigError) else _first(inner)


def _check(parsed: argparse.Namespace) -> int:
    from edge_agent import config
    from edge_agent.clock import SystemClock

    try:
        findings = config.check_file(parsed.config, SystemClock())
    except ConfigError as error:
        error = ConfigError(
            error.key.removeprefix(f"{parsed.config}").removeprefix(": "), error.problem, error.remedy, error.value
        )
        findings = [config.Finding(error)]
    wrong = any(not finding.warning for finding in findings)
    if parsed.json:
        _print_json(
            [_finding(parsed.config, finding) for finding in findings] or [{"ok": True, "file": str(parsed.config)}]
        )
        return int(wrong)
    for finding in findings:
        kind = "注意 / warning" if finding.warning else "誤り / error"
        _complain(f"{kind}: {_in_file(parsed.config, finding.error)}")
    if not wrong:
        print(f"問題ありません / OK: {parsed.config}")
    return int(wrong)


def _finding(path: Path, finding: Any) -> dict[str, Any]:
    error = finding.error
    value = error.value if isinstance(error.value, bool | int | float | str | None) else str(error.value)
    return {
        "ok": False,
        "severity": "warning" if finding.warning else "error",
        "file": str(path),
        "key": error.key,
        "value": value,
        "problem": error.problem,
        "remedy": error.remedy,
    }


def _read(parsed: argparse.Namespace) -> int:
    configuration = _load(parsed.config)
    from edge_agent import logs, readout, registry

    logs.set_up(logs.LogSettings(level="error"))
    answers = asyncio.run(_answers(configuration, parsed))
    if parsed.json:
        _print_json(answers)
    else:
        kinds = [table.get("driver", "") for table in configuration.document.drivers.values()]
        print("\n".join(readout.table(answers, registry.vocabulary(kinds))))
    silent = [answer["device"] for answer in answers if "error" in answer]
    if silent:
        _complain(f"応答なし / no answer from: {', '.join(silent)}")
    return int(bool(silent))


async def _answers(configuration: Configuration, parsed: argparse.Namespace) -> list[dict[str, Any]]:
    """Ask the running agent; only where none runs open the devices."""
    from edge_agent import control, readout

    try:
        answers: list[dict[str, Any]] = await control.ask(configuration.sockets, "read", {"devices": parsed.devices})
    except control.NoAgentError:
        return await readout.read_directly(configuration, parsed.devices, parsed.timeout, _complain)
    return answers


def _doctor(parsed: argparse.Namespace) -> int:
    configuration = _load(parsed.config)
    from dataclasses import asdict

    from edge_agent import doctor, logs

    logs.set_up(logs.LogSettings(level="error"))
    checks = asyncio.run(doctor.examine(configuration, parsed.timeout, _complain))
    if parsed.json:
        _print_json([asdict(check) for check in checks])
    else:
        marks = {"ok": "✓", "warning": "!", "error": "✗"}
        for check in checks:
            print(
                f"{marks[check.verdict]} {check.name}: {check.found}" + (f" → {check.remedy}" if check.remedy else "")
            )
    return int(any(check.verdict == "error" for check in checks))


def _transcript(parsed: argparse.Namespace) -> int:
    configuration = _load(parsed.config)
    found = asyncio.run(_transcripts(configuration, parsed.drivers))
    for name, lines in found.items():
        if parsed.json:
            _print_json([{"driver": name, "ago_s": -at, "way": way, "text": text} for at, way, text in lines])
            continue
        print(f"# {name}")
        for at, way, text in lines:
            print(f"{at:10.3f} {way} {text}")
    if not found:
        _complain("記録を持つドライバなし / no driver keeps a transcript")
    return int(not found)


async def _transcripts(configuration: Configuration, wanted: list[str]) -> dict[str, list[Any]]:
    """Ask the running agent's drivers for what they keep; one that keeps none is left out."""
    from drivers.api import RefusedError
    from edge_agent import control

    found: dict[str, list[Any]] = {}
    for name in wanted or configuration.document.drivers:
        try:
            answer = await control.ask(configuration.sockets, f"{name}.transcript", {})
        except control.NoAgentError:
            problem, remedy = "no agent runs; it is the agent that keeps transcripts", "start the agent"
            raise ConfigError("transcript", problem, remedy) from None
        except RefusedError:
            if wanted:
                raise
        else:
            found[name] = answer["lines"]
    return found


def _drivers(parsed: argparse.Namespace) -> int:
    from edge_agent import registry

    found = [registry.summary(name) for name in registry.names(registry.DRIVERS)]
    if parsed.json:
        _print_json(found)
        return 0
    for one in found:
        print(f"{one['driver']:12} {one['says']}  ({one['from']})")
    return 0


def _outbox_stat(parsed: argparse.Namespace) -> int:
    import sqlite3

    configuration = _load(parsed.config)
    try:
        statistics = asyncio.run(_outbox_statistics(configuration))
    except sqlite3.Error as error:
        raise _damaged(configuration, error) from error
    if parsed.json:
        _print_json([statistics])
        return 0
    for key, value in statistics.items():
        print(f"{key:20} {value}")
    return 0


async def _outbox_statistics(configuration: Configuration) -> dict[str, Any]:
    from edge_agent import control, outbox

    try:
        statistics: dict[str, Any] = await control.ask(configuration.sockets, "outbox", {})
    except control.NoAgentError:
        try:
            return {"agent": "not running", **outbox.stat(configuration.outbox_path)}
        except FileNotFoundError:
            return {"agent": "not running", "batches": 0}
    return {"agent": "running", **statistics}


def _damaged(configuration: Configuration, error: Exception) -> ConfigError:
    remedy = "start the agent: it sets a damaged file aside and begins afresh"
    return ConfigError(str(configuration.outbox_path), f"cannot be read as an outbox ({error})", remedy)


def _outbox_export(parsed: argparse.Namespace) -> int:
    configuration = _load(parsed.config)
    import sqlite3

    from edge_agent import outbox

    if not configuration.outbox_path.exists():
        _complain(f"まだ何もありません / nothing yet: {configuration.outbox_path}")
        return 0
    try:
        for line in outbox.export(configuration.outbox_path):
            print(line.decode().rstrip("\n"))
    except sqlite3.Error as error:
        raise _damaged(configuration, error) from error
    return 0


def _print_json(objects: list[Any]) -> None:
    from edge_agent import wire

    for one in objects:
        print(wire.encode(one).decode())


def _complain(text: str) -> None:
    print(text, file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
