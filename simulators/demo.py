"""The town on one machine: house, pole, broker, aggregator and agents as programs of their own. Nothing is mocked."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import shutil
import signal
import socket
import sys
import time
import urllib.request
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import yaml
from iotcore import Broker, IotCore

from drivers.arguments import LAST_PORT, real, whole
from simulators.clock import SPEED
from simulators.house import SEED
from simulators.programs import Program, ProgramError, raise_if_dead, running, until
from simulators.scenario import MAX_S

HOME = Path(".demo")
CONFIGS = Path(__file__).resolve().parent.parent / "configs"
BROKER_PORT = 18830
INVERTER_PORT = 15020
LAMP_PORT = 15021
MAX_PAYLOAD_BYTES = 256 * 1024
JST = timezone(timedelta(hours=9))
FIRST_MOMENT = timedelta(hours=5, minutes=30)
"""The simulated day starts shortly before the sun."""
READY_WITHIN_S = 60.0
ALERT_EVERY_S = 300.0
"""Simulated: as often as a town repeats itself."""
ALERT_LEVELS = (0, 0, 1, 2, 3, 4, 5, 0)
"""What the town says through a simulated day, three hours each; a drill, and called one."""
WATCH_EVERY_S = 0.5
CREDENTIALS = {"id": "00112233445566778899AABBCCDDEEFF", "password": "0123456789AB"}
"""Those of the simulated meter; a real pair comes from the grid company."""
NO_DBUS = (
    "柱（見守りタグ・表示灯）は省きます: dbus-daemon がありません。 sudo apt install dbus\n"
    "Going on without the pole: there is no dbus-daemon. sudo apt install dbus"
)


@dataclass(frozen=True, slots=True)
class Plan:
    """One run of the demo: its simulated time, its seed, its page's port, and whether it has a pole."""

    start: datetime
    since_s: float
    speed: float
    seed: int
    http_port: int
    pole: bool

    @property
    def simulator_options(self) -> list[str]:
        """The options that put a simulator on this clock and seed."""
        clock = ["--start", self.start.isoformat(), "--speed", str(self.speed), "--since", str(self.since_s)]
        return [*clock, "--seed", str(self.seed)]

    @property
    def page(self) -> str:
        """The address of the aggregator."""
        return f"http://127.0.0.1:{self.http_port}"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the demo's options."""
    parser.add_argument("--speed", type=SPEED, default=60.0, help="simulated seconds in a second (default 60)")
    parser.add_argument("--seed", type=SEED, default=1, help="another number is another house with other walks")
    parser.add_argument("--http-port", type=whole(1, LAST_PORT), default=8080, help="port of the page (default 8080)")
    parser.add_argument("--seconds", type=real(0, MAX_S), help="stop after so many seconds (default: at Ctrl-C)")


async def run(args: argparse.Namespace) -> int:
    """Run the demo until Ctrl-C; returns 1 after saying what is wrong."""
    plan = Plan(
        _yesterday(), time.time(), args.speed, args.seed, args.http_port, shutil.which("dbus-daemon") is not None
    )
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    try:
        _refuse_taken_ports(plan)
        _lay_out(plan)
        with Broker(port=BROKER_PORT, listen="127.0.0.1", max_payload_size=MAX_PAYLOAD_BYTES):
            await _serve(plan, stop, args.seconds)
    except (ProgramError, OSError, RuntimeError) as error:
        print(f"\n{error}", file=sys.stderr)  # noqa: T201  (a command line)
        return 1
    _say("止めました / stopped")
    return 0


async def _serve(plan: Plan, stop: asyncio.Event, seconds: float | None) -> None:
    programs = _programs(plan)
    async with running(*programs):
        _say("始めています… / starting…")
        await until(lambda: _all_online(plan), READY_WITHIN_S, "every gateway is online", *programs)
        _say(_welcome(plan))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await _play_the_town(plan, stop, programs)


async def _play_the_town(plan: Plan, stop: asyncio.Event, programs: list[Program]) -> None:
    """Say now and then what a town says: which tags are enrolled, and which alert level holds."""
    town = IotCore(host="127.0.0.1", port=BROKER_PORT, start_broker=False)
    told_at = float("-inf")
    try:
        while not stop.is_set():
            if plan.pole and time.monotonic() - told_at >= ALERT_EVERY_S / plan.speed:
                _tell_the_pole(town, plan)
                told_at = time.monotonic()
            raise_if_dead(*programs)
            await asyncio.sleep(WATCH_EVERY_S)
    finally:
        town.stop()


def _tell_the_pole(town: IotCore, plan: Plan) -> None:
    pole = _load("demo-pole.yaml")["gateway"]
    now = datetime.now(UTC)
    simulated = plan.start + (now - datetime.fromtimestamp(plan.since_s, UTC)) * plan.speed
    level = ALERT_LEVELS[simulated.astimezone(JST).hour * len(ALERT_LEVELS) // 24]
    alert = {
        "level": level,
        "telegram": f"demo-{simulated:%Y%m%d%H}",
        "issued": simulated.isoformat(),
        "valid_until": None,
        "checked_at": simulated.isoformat(),
        "headline": {"ja": f"訓練：警戒レベル{level}", "en": f"Drill: alert level {level}"},
    }
    town.publish(f"gwc/v1/all/alert/{pole['area']}", json.dumps(alert, ensure_ascii=False), qos=1, retain=True)
    if (tags := HOME / "tags.json").exists():
        town.publish(f"gwc/v1/{pole['id']}/tags", tags.read_text(), qos=1, retain=True)


def _programs(plan: Plan) -> list[Program]:
    """Return the programs in the order in which they start: devices, aggregator, agents."""

    def program(name: str, module: str, *words: str, env: dict[str, str] | None = None) -> Program:
        return Program(name, [sys.executable, "-m", module, *words], HOME / "logs" / f"{name}.log", env)

    clock = plan.simulator_options
    house = ["--link", str(HOME / "meter"), "--port", str(INVERTER_PORT)]
    programs = [
        program("house", "simulators", "house", *house, *clock),
        program("aggregator", "aggregator", "run", str(HOME / "aggregator.yaml")),
        program("house-agent", "edge_agent", "run", str(HOME / "demo.yaml")),
    ]
    if plan.pole:
        bus = HOME.resolve() / "bus"
        tags = ["--bus", str(bus), "--tags-file", str(HOME / "tags.json")]
        programs[1:1] = [
            program("tags", "simulators", "tags", *tags, *clock),
            program("lamp", "simulators", "lamp", "--port", str(LAMP_PORT)),
        ]
        on_bus = {"DBUS_SYSTEM_BUS_ADDRESS": f"unix:path={bus}"}
        programs.append(program("pole-agent", "edge_agent", "run", str(HOME / "demo-pole.yaml"), env=on_bus))
    return programs


def _lay_out(plan: Plan) -> None:
    """Make the demo's folder afresh: configurations on simulated time, and the simulated meter's credentials."""
    shutil.rmtree(HOME, ignore_errors=True)
    (HOME / "secrets").mkdir(parents=True)
    HOME.chmod(0o700)
    credentials = HOME / "secrets" / "route-b"
    credentials.touch(mode=0o600)
    credentials.write_text(json.dumps(CREDENTIALS))
    simulation = {"start": plan.start.isoformat(), "speed": plan.speed, "since": plan.since_s}
    for name in ("demo.yaml", "demo-pole.yaml"):
        _save(name, _load(name) | {"simulation": simulation})
    aggregator = _load("demo-aggregator.yaml")
    aggregator["http"]["port"] = plan.http_port
    _save("aggregator.yaml", aggregator)


def _load(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((CONFIGS / name).read_text())
    return loaded


def _save(name: str, table: dict[str, Any]) -> None:
    (HOME / name).write_text(yaml.safe_dump(table, allow_unicode=True, sort_keys=False))


def _refuse_taken_ports(plan: Plan) -> None:
    for port, what in ((BROKER_PORT, "MQTT"), (INVERTER_PORT, "Modbus"), (LAMP_PORT, "lamp"), (plan.http_port, "HTTP")):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                raise ProgramError(
                    f"ポート {port}（{what}）は使用中です。ほかのデモが動いていませんか。\n"
                    f"Port {port} ({what}) is taken. Is another demo running? The page's port: --http-port"
                )


async def _all_online(plan: Plan) -> bool:
    expected = {_load(name)["gateway"]["id"] for name in ("demo.yaml", *(["demo-pole.yaml"] if plan.pole else []))}
    return await asyncio.to_thread(_online, plan) >= expected


def _online(plan: Plan) -> set[str]:
    try:
        with urllib.request.urlopen(f"{plan.page}/api/v1/gateways", timeout=5) as answer:  # noqa: S310  (our own address)
            gateways = json.load(answer)["gateways"]
    except (OSError, ValueError):
        return set()
    return {gateway["id"] for gateway in gateways if gateway["state"] == "online"}


def _yesterday() -> datetime:
    now = datetime.now(JST)
    return datetime(now.year, now.month, now.day, tzinfo=JST) - timedelta(days=1) + FIRST_MOMENT


def _welcome(plan: Plan) -> str:
    lines = [
        f"\n  {plan.page}/\n",
        f"  シミュレーション時刻 {plan.start:%Y-%m-%d %H:%M} から {plan.speed:g} 倍速。Ctrl-C で終了。",
        f"  Simulated time from {plan.start:%Y-%m-%d %H:%M}, {plan.speed:g} times as fast. Ctrl-C ends it.",
        "  edge-agent read configs/demo.yaml    いまの値 / the values now",
        f"  mosquitto_sub -p {BROKER_PORT} -t 'gw/#' -v    電文 / the messages",
        f"  {HOME}/logs/",
    ]
    if not plan.pole:
        lines.append(f"\n  {NO_DBUS}")
    return "\n".join(lines)


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201  (a command line)
