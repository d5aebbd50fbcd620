"""`edge-agent route-b`: store the credentials, and aim the dongle. Knows no agent: it works on the box it is given."""

from __future__ import annotations

import argparse
import asyncio
import getpass
import json
import shutil
import sys
import unicodedata
from collections.abc import Callable, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any, TextIO

from drivers.api import Ask, Box, ConfigError, DriverError, Json
from drivers.route_b import credentials, radio
from drivers.route_b.conversation import Credentials
from drivers.route_b.credentials import CredentialsFormError

KIND = "route_b"
MOST_TRIES = 5
AIM_EVERY_S = 2.0
AIM_MINUTES = 10.0
BAR_CELLS = 24
BAR_FROM_DBM, BAR_TO_DBM = -105.0, -45.0


class RouteBCommand:
    """The subcommand, as the agent's command line wants it."""

    help = "store the credentials of the smart meter; aim its dongle"

    def configure(self, parser: argparse.ArgumentParser) -> None:
        """Declare the arguments."""
        actions = parser.add_subparsers(required=True, metavar="ACTION")
        for name, help_text, run in (
            (
                "credentials",
                "type in the Route-B ID and password, or give them as JSON on standard input",
                _credentials,
            ),
            ("aim", "show the strength of the meter's signal while the dongle is moved", _aim),
        ):
            action = actions.add_parser(name, help=help_text, description=help_text)
            action.add_argument("config", metavar="CONFIG", type=Path)
            action.add_argument("--driver", metavar="NAME", help="which driver, where there are several meters")
            action.set_defaults(action=run)
            if name == "aim":
                action.add_argument(
                    "--minutes", type=float, default=AIM_MINUTES, metavar="N", help="how long, default %(default)g"
                )
                action.add_argument("--json", action="store_true", help="print one JSON object a line")

    def run(self, arguments: argparse.Namespace) -> int:
        """Carry the action out."""
        code: int = arguments.action(arguments, arguments.box(arguments.config))
        return code


command = RouteBCommand()


def _driver(box: Box, named: str | None) -> tuple[str, Mapping[str, Any]]:
    """Return the one driver that is meant; raises ConfigError."""
    tables = box.tables(KIND)
    if named is None and len(tables) == 1:
        ((name, table),) = tables.items()
        return name, table
    if named is None or named not in tables:
        known = ", ".join(tables) or "none of this file is a smart meter"
        raise ConfigError("--driver", "which smart meter?", f"name one of: {known}", named)
    return named, tables[named]


# Credentials.


def _credentials(arguments: argparse.Namespace, box: Box) -> int:
    name, table = _driver(box, arguments.driver)
    given = _typed() if sys.stdin.isatty() else _piped(sys.stdin)
    secret = str(table.get("credentials") or "")
    if not secret:
        raise ConfigError(f"drivers.{name}.credentials", "missing", "name a secret, such as route-b")
    text = credentials.as_secret(given)
    stored, problem = "", None
    try:
        stored = str(box.store_secret(secret, text))
    except OSError as error:
        problem = error
    taken = asyncio.run(box.hand_over(secret, text))
    _tell(stored, taken)
    if problem is not None:
        remedy = "run the same command with sudo, so that they outlive a restart"
        raise ConfigError("credentials", f"cannot be stored ({problem})", remedy) from problem
    return 0


def _tell(stored: str, taken: list[str] | None) -> None:
    if stored:
        _say(f"保存しました / stored: {stored}")
    if taken is None:
        _say("エージェントは停止中。次の起動から使います / no agent runs; its next start uses them")
    elif taken:
        _say(f"稼働中のエージェントが使用開始 / in use now, without a restart: {', '.join(taken)}")
    else:
        _say("稼働中のエージェントに該当ドライバなし / the running agent has no driver that uses them")


def _piped(stream: TextIO) -> Credentials:
    """Return credentials given as JSON; an error tells lengths and places, for the text may come from anywhere."""
    try:
        return credentials.parse_credentials(stream.read(credentials.MAX_TYPED + 1))
    except (CredentialsFormError, UnicodeDecodeError) as error:
        said = str(error) if isinstance(error, CredentialsFormError) else "not UTF-8 text"
        raise ConfigError(
            "standard input", said, 'give {"id": "32 hexadecimal digits", "password": "12 characters"}'
        ) from None


def _typed() -> Credentials:
    """Ask a person, without an echo."""
    _say("Bルートの認証ID・パスワードを入力(表示されません) / type the Route-B ID and password (not shown)")
    route_b_id = _asked("認証ID / ID (32): ", credentials.id_problem)
    password = _asked("パスワード / password (12): ", credentials.password_problem)
    return Credentials(route_b_id.upper(), password)


def _asked(prompt: str, problem_of: Callable[[str], str | None]) -> str:
    """Return what was typed once it has the right form; what was wrong is shown to the one who typed it."""
    problem: str | None = None
    for _ in range(MOST_TRIES):
        typed = credentials.plain(getpass.getpass(prompt)[: credentials.MAX_TYPED])
        if (problem := problem_of(typed)) is None:
            return typed
        _say(f"  {credentials.in_groups(typed)}\n  違います / not right: {problem}")
    raise ConfigError("credentials", str(problem), "check the letter of the power company, and begin again")


# Aiming.


def _aim(arguments: argparse.Namespace, box: Box) -> int:
    name, _ = _driver(box, arguments.driver)
    try:
        return asyncio.run(_aim_live(box, name, arguments.minutes * 60, as_json=arguments.json))
    except KeyboardInterrupt:
        _say("")
        return 0


async def _aim_live(box: Box, name: str, seconds: float, *, as_json: bool) -> int:
    """Show the signal until the time is over; returns 1 when the meter was never heard."""
    _say("ドングルをゆっくり動かす。終了は Ctrl+C / move the dongle slowly; Ctrl+C ends", sys.stderr)
    best: float | None = None
    loop = asyncio.get_running_loop()
    until = loop.time() + seconds
    async with box.conversing(name) as ask:
        while (began := loop.time()) < until:
            told = await _signal(ask)
            dbm = told.get("rssi_dbm")
            if isinstance(dbm, int | float) and told.get("answered_s") is not None:
                best = max(float(dbm), -200.0 if best is None else best)
            _show(told, best, as_json=as_json)
            await asyncio.sleep(max(0.0, min(until, began + AIM_EVERY_S) - loop.time()))
    if sys.stdout.isatty() and not as_json:
        _say("")
    return int(best is None)


async def _signal(ask: Ask) -> dict[str, Json]:
    try:
        told = await ask("signal", {})
    except DriverError as error:  # the port is gone, or the driver waits: that, too, is to be seen
        return {"state": "waiting", "rssi_dbm": None, "answered_s": None, "trouble": str(error)}
    return {key: float(value) if isinstance(value, Decimal) else value for key, value in dict(told).items()}


def _show(told: Mapping[str, Json], best: float | None, *, as_json: bool) -> None:
    if as_json:
        _say(json.dumps(told, ensure_ascii=False))
        return
    if sys.stdout.isatty():
        line = aim_line(told, best, shutil.get_terminal_size().columns - 1)
        sys.stdout.write(f"\r\x1b[2K{line}")
        sys.stdout.flush()
    else:
        _say(aim_line(told, best))


def aim_line(told: Mapping[str, Json], best: float | None, columns: int = 200) -> str:
    """Return one line: a bar from -105 to -45 dBm, the power, the verdict, whether it answers, the best so far.

    What does not fit into the columns of the terminal is left out: a line that wraps cannot be written over.
    """
    dbm, answered = told.get("rssi_dbm"), told.get("answered_s")
    if not isinstance(dbm, int | float):
        why = str(told.get("trouble") or "").partition("; ")[0]
        return _fitting([f"[{' ' * BAR_CELLS}] メーター待ち / no meter yet ({told.get('state')})", why], columns)
    share = (float(dbm) - BAR_FROM_DBM) / (BAR_TO_DBM - BAR_FROM_DBM)
    cells = round(BAR_CELLS * min(1.0, max(0.0, share)))
    bar = "█" * cells + "·" * (BAR_CELLS - cells)
    words = [f"[{bar}] {dbm:6.1f} dBm  {radio.WORDS[radio.strength(float(dbm))]}"]
    words.append("応答なし / no answer" if answered is None else "応答 / answers")
    if told.get("follows") is False:
        words.append("スキャン時の値 / as of the scan")
    elif best is not None:
        words.append(f"最良 / best {best:.1f}")
    return _fitting(words, columns)


def _fitting(words: list[str], columns: int) -> str:
    """Join words as long as they fit; Japanese letters take two columns."""
    line = ""
    for word in filter(None, words):
        longer = f"{line}  {word}" if line else word
        if line and sum(1 + (unicodedata.east_asian_width(letter) in "WF") for letter in longer) > columns:
            break
        line = longer
    return line


def _say(text: str, stream: TextIO | None = None) -> None:
    print(text, file=stream or sys.stdout)
