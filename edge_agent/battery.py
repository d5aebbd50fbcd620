"""`edge-agent battery`: see and command a house's battery through the running agent. Opens no device itself.

A command outlives the person's terminal, so somebody must be there to end it: without an agent nothing is commanded.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from drivers.api import ConfigError, Json
from edge_agent import config, control, wire
from edge_agent.config import Configuration

ACTIONS = ("status", "normal", "hold", "charge", "discharge_to_load", "reserve")
LEFT = (
    "元に戻せていない。batteryの設定がない / "
    "left as it was: a former command was not undone, and there is no `battery` table for it"
)
_SPAN = re.compile(r"^(\d+(?:\.\d+)?)(s|m|min|h)?$")
_METERS = {
    "house_meter": "家のメーター / the house's meter",
    "own_meter": "蓄電池機器のメーター / the device's own meter",
}
_BASES = {
    "weekday": "同じ曜日{days}日 / {days} same weekdays",
    "kind": "平日・休日の別で{days}日 / {days} days of the same kind",
    "days": "最近の{days}日 / the last {days} days",
    "configured": "設定値 / as configured",
    "nothing": "まだ不明のため満充電まで / not known yet, so it is filled",
}
_SECONDS = {"s": 1, "m": 60, "min": 60, "h": 3600, None: 60}


class BatteryCommand:
    """The subcommand, as the agent's command line wants it."""

    help = "show or command the battery: normal, hold, charge, discharge_to_load, reserve"

    def configure(self, parser: argparse.ArgumentParser) -> None:
        """Declare the arguments."""
        parser.add_argument("config", metavar="CONFIG", type=Path, help="a YAML file such as configs/house.yaml")
        parser.add_argument(
            "action", nargs="?", choices=ACTIONS, default="status", metavar="ACTION", help=", ".join(ACTIONS)
        )
        parser.add_argument("--device", help="which battery, where there are several (default: the role's)")
        parser.add_argument("--power-w", type=int, metavar="W", help="charge or discharge with at most so many watts")
        parser.add_argument("--soc-percent", type=int, metavar="P", help="charge to, or keep, so many percent")
        span = parser.add_mutually_exclusive_group()
        span.add_argument("--for", dest="for_s", type=_seconds, metavar="TIME", help="such as 90m or 2h (default 1h)")
        span.add_argument("--until", metavar="TIME", help="such as 2026-12-01T07:00, in Japanese time")
        parser.add_argument("--json", action="store_true", help="print one JSON object a line")

    def run(self, arguments: argparse.Namespace) -> int:
        """Ask the agent and print what it says; returns 1 when no agent runs."""
        configuration = config.load(arguments.config)
        try:
            answers = asyncio.run(_ask(configuration, arguments))
        except control.NoAgentError:
            raise ConfigError(
                str(arguments.config), "no agent runs with it, and a mode needs somebody to end it", "start the agent"
            ) from None
        for device, answer in answers.items():
            if arguments.json:
                sys.stdout.write(wire.encode({"device": device, **answer}).decode() + "\n")
            else:
                sys.stdout.write("\n".join(_lines(device, answer)) + "\n")
        return 0


command = BatteryCommand()


async def _ask(configuration: Configuration, arguments: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Return the status of each battery, or of the one that was commanded."""
    is_asked = arguments.action == "status"
    owners, known = await _batteries(configuration)
    if not (known if is_asked else owners):
        raise ConfigError(
            "drivers", "no device has a `battery` table", "see docs/battery.md; all batteries are only read"
        )
    if is_asked:
        wanted = known if arguments.device is None else {_one(configuration, arguments.device, known): {}}
        return {device: known[device] for device in wanted}
    device = _one(configuration, arguments.device, {device: known[device] for device in owners})
    asked: dict[str, Json] = {
        "device": device,
        "mode": arguments.action,
        "power_w": arguments.power_w,
        "soc_percent": arguments.soc_percent,
        "for_s": arguments.for_s,
        "until": arguments.until,
    }
    given = {key: value for key, value in asked.items() if value is not None}
    answer = await control.ask(configuration.sockets, f"{owners[device]}.battery", given, within_s=control.CARRY_OUT_S)
    return {device: answer}


async def _batteries(configuration: Configuration) -> tuple[dict[str, str], dict[str, dict[str, Any]]]:
    """Return which driver commands a battery, and the status of each, also of those left with a former command."""
    status = await control.ask(configuration.sockets, "status", {})
    owners, known = dict[str, str](), dict[str, dict[str, Any]]()
    for name, driver in status.get("drivers", {}).items():
        for device, one in driver.get("detail", {}).get("batteries", {}).items():
            owners[device], known[device] = name, one
        for device in driver.get("detail", {}).get("left_commanded", []):
            known.setdefault(device, {"mode": LEFT})
    return owners, known


def _one(configuration: Configuration, named: str | None, known: dict[str, dict[str, Any]]) -> str:
    """Return the battery that is meant: the one named, the role's, or the only one."""
    if named is None:
        role = configuration.document.roles.battery
        named = role if role in known else next(iter(known)) if len(known) == 1 else None
    if named not in known:
        raise ConfigError("--device", "not a battery that can be commanded", f"name one of: {', '.join(known)}", named)
    return named


def _seconds(text: str) -> float:
    match = _SPAN.match(text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time like 90m or 2h")
    return float(match[1]) * _SECONDS[match[2]]


def _lines(device: str, answer: dict[str, Any]) -> list[str]:
    """Return what a person wants to know of a battery, the mode first."""
    writes = answer.get("writes", {})
    plan = answer.get("plan")
    told = {"mode", "writes", "allowed"} | ({"plan", "schedule"} if isinstance(plan, dict) else set())
    shown = {key: value for key, value in answer.items() if key not in told}
    counted = (
        f"{writes.get('ram')} to RAM, {writes.get('stored')} to flash "
        f"({writes.get('stored_today')} of {writes.get('stored_per_day')} today)"
    )
    return [
        f"{device}: {answer.get('mode')}",
        *(f"  {line}" for line in (_planned(plan) if isinstance(plan, dict) else ())),
        *(f"  {key.replace('_', ' '):16} {_plain(value)}" for key, value in shown.items()),
        *([f"  {'writes':16} {counted}"] if writes else ()),
        f"  {'allowed':16} {', '.join(answer.get('allowed', [])) or 'none'}",
    ]


def _planned(plan: dict[str, Any]) -> Iterator[str]:
    """Say what the schedule wants, and what that rests on."""
    why = plan.get("why", {})
    yield f"計画 / plan: {plan.get('mode')}: {why.get('ja')} / {why.get('en')}"
    if "cheap_from" in plan:
        yield f"安い時間帯 / cheap hours: {_moment(plan['cheap_from'])} - {_moment(plan.get('cheap_to'))}"
    if "goal_percent" in plan:
        missing = "" if "missing_kwh" not in plan else f", 不足 / missing {plan['missing_kwh']} kWh"
        yield f"終わりの目標 / goal at their end: {plan['goal_percent']} %{missing}"
        if "expected_load_kwh" in plan:
            flows = f"消費 / load {plan['expected_load_kwh']} kWh, 太陽光 / PV {plan.get('expected_pv_kwh')} kWh"
            yield f"その後の見込み / expected then: {flows}, まで / until {_moment(plan.get('expected_until'))}"
        basis = str(plan.get("expected_from"))
        yield f"見込みの元 / from: {_BASES.get(basis, basis).format(days=plan.get('learnt_days', 0))}"
    if "not_learnt_yet" in plan:
        yield f"まだ2日分ない時刻 / not learnt on two days yet: {_moment(plan['not_learnt_yet'], '%H:%M')}"
    if "charging_begins" in plan:
        yield f"充電開始 / charging from: {_moment(plan['charging_begins'])}"
    if "power_w" in plan:
        cut = " (契約により抑制 / cut by the contract)" if plan.get("cut_by_contract") else ""
        yield f"充電電力 / power: {plan['power_w']} W{cut}"
    if "house_w" in plan:
        meter = _METERS.get(plan.get("house_from", ""), plan.get("house_from"))
        yield f"家の消費 - 太陽光 / house less PV: {plan['house_w']} W ({meter})"
    if "next_decision" in plan:
        yield f"次の判断 / next decision: {_moment(plan['next_decision'])}"


def _moment(told: object, shown: str = "%m-%d %H:%M") -> str:
    """Return a time without its year and zone."""
    try:
        return datetime.fromisoformat(str(told)).strftime(shown)
    except ValueError:
        return str(told)


def _plain(value: object) -> str:
    return "yes" if value is True else str(value)
