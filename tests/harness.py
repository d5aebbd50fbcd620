"""A town in a temporary folder: broker, aggregator, simulators, agents as programs. Waits on states, never on luck."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import sqlite3
import sys
import time
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import yaml
from judge import Row, Served

from drivers.quantities import ENERGY_STEPS_PER_KWH, QUANTITIES
from simulators.programs import Program, until

JST = timezone(timedelta(hours=9))
CREDENTIALS = {"id": "00112233445566778899AABBCCDDEEFF", "password": "0123456789AB"}
HOUSE = "house-001"
POLE = "pole-001"
AREA = "0720400"
START_WITHIN_S = 30.0
METER_POLL_S = 10.0
"""A meter is not asked more often."""


@dataclass(frozen=True)
class Simulation:
    """Simulated time that every program of a town shares."""

    start: datetime
    speed: float
    since: float = field(default_factory=time.time)

    def options(self) -> list[str]:
        """Return the simulators' options."""
        return ["--start", self.start.isoformat(), "--speed", str(self.speed), "--since", str(self.since)]

    def table(self) -> dict[str, Any]:
        """Return the agent's `simulation` table."""
        return {"start": self.start.isoformat(), "speed": self.speed, "since": self.since}

    def unix_ms(self) -> int:
        """Return the simulated time now."""
        return int(self.start.timestamp() * 1000 + (time.time() - self.since) * 1000 * self.speed)


class Town:
    """The programs of one test and where they keep their things."""

    def __init__(self, home: Path, simulation: Simulation | None = None, seed: int = 1) -> None:
        self.home = home
        self.simulation = simulation
        self.seed = seed
        self.broker_socket = home / "broker.sock"
        self.http_port = free_port()
        self.inverter_port = free_port()
        self.lamp_port = free_port()
        self._write_broker()
        self._write_aggregator()
        (home / "secrets").mkdir(mode=0o700)
        (home / "secrets" / "route-b").write_text(json.dumps(CREDENTIALS))
        (home / "secrets" / "route-b").chmod(0o600)
        self.broker = self.program("broker", "mosquitto", "-c", home / "mosquitto.conf")
        self.aggregator = self.python("aggregator", "aggregator", "run", home / "aggregator.yaml")

    def program(self, name: str, *argv: str | Path, env: Mapping[str, str] | None = None) -> Program:
        """Return a program that logs into the town's folder."""
        return Program(name, argv, self.home / "logs" / f"{name}.log", env)

    def python(self, name: str, module: str, *words: str | Path, env: Mapping[str, str] | None = None) -> Program:
        """Return a program of ours."""
        return self.program(name, sys.executable, "-m", module, *words, env=env)

    @property
    def database(self) -> Path:
        """The aggregator's database."""
        return self.home / "aggregator.db"

    @property
    def page(self) -> str:
        """The aggregator's address."""
        return f"http://127.0.0.1:{self.http_port}"

    def log(self, name: str) -> Path:
        """Return the served log of a simulator."""
        return self.home / f"{name}.jsonl"

    def house_simulators(self, *words: str) -> Program:
        """Return meter and inverter of one house."""
        where = ["--link", str(self.home / "meter"), "--port", str(self.inverter_port), "--log", str(self.log("house"))]
        return self.python("house", "simulators", "house", *where, *self._clock(), *words)

    def house_agent(self, poll_s: float = 1, write_after: float = 1, *, sine: bool = True) -> Program:
        """Return the agent of the house, its configuration written."""
        drivers: dict[str, Any] = {
            "meter": {
                "driver": "route_b",
                "port": str(self.home / "meter"),
                "credentials": "route-b",
                "poll_s": max(poll_s, METER_POLL_S),
            },
            "inverter": {
                "driver": "modbus",
                "host": "127.0.0.1",
                "port": self.inverter_port,
                "poll_s": poll_s,
                "devices": {"inverter": {"map": "huawei_sun2000", "unit": 1}},
            },
        }
        if sine:
            drivers["sine"] = {"driver": "sine", "poll_s": poll_s, "events": True, "log": str(self.log("sine"))}
        roles = {"grid": "meter", "pv": "inverter", "battery": "inverter"}
        path = self._write_agent(HOUSE, drivers, {"roles": roles, "outbox": {"write_after": write_after}})
        return self.python("house-agent", "edge_agent", "run", path)

    def pole_programs(self, *words: str) -> tuple[Program, Program, Program]:
        """Return tags, lamp and agent of the pole."""
        bus = self.home / "bus"
        tags = ["--bus", str(bus), "--tags-file", str(self.home / "tags.json"), "--log", str(self.log("tags"))]
        drivers = {
            "tags": {"driver": "ble_tags", "adapter": "hci0"},
            "lamp": {"driver": "lamp", "host": "127.0.0.1", "port": self.lamp_port, "unit": 1},
        }
        path = self._write_agent(POLE, drivers, {})
        return (
            self.python("tags", "simulators", "tags", *tags, *self._clock(), *words),
            self.python("lamp", "simulators", "lamp", "--port", str(self.lamp_port), "--log", str(self.log("lamp"))),
            self.python("pole-agent", "edge_agent", "run", path, env={"DBUS_SYSTEM_BUS_ADDRESS": f"unix:path={bus}"}),
        )

    def _clock(self) -> list[str]:
        return [*(self.simulation.options() if self.simulation else []), "--seed", str(self.seed)]

    def _write_agent(self, gateway: str, drivers: Mapping[str, Any], more: Mapping[str, Any]) -> Path:
        table = {
            "gateway": {"id": gateway, "site": "test", "area": AREA},
            "state_directory": str(self.home / gateway),
            "secrets_directory": str(self.home / "secrets"),
            "clock": {"trust": "system"},
            "mqtt": {"socket": str(self.broker_socket), "reconnect_max": 2},
            "drivers": drivers,
            **more,
        }
        if self.simulation:
            table["simulation"] = self.simulation.table()
        path = self.home / f"{gateway}.yaml"
        path.write_text(yaml.safe_dump(table))
        return path

    def _write_broker(self) -> None:
        lines = [
            f"listener 0 {self.broker_socket}",
            "allow_anonymous true",
            "user root",
            "persistence true",
            f"persistence_location {self.home}/",
            "autosave_interval 1",
            "autosave_on_changes true",
            "max_queued_messages 0",
        ]
        (self.home / "mosquitto.conf").write_text("\n".join(lines) + "\n")

    def _write_aggregator(self) -> None:
        table = {
            "mqtt": {"socket": str(self.broker_socket), "reconnect_max": 2},
            "store": {"path": str(self.database)},
            "http": {"host": "127.0.0.1", "port": self.http_port},
            "accept_simulated": True,
        }
        (self.home / "aggregator.yaml").write_text(yaml.safe_dump(table))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def read_log(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a served log; the last may be cut by a kill."""
    lines = path.read_text().splitlines() if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("}")]


def served(*logs: Path) -> list[Served]:
    """Return what the simulators served, one entry per moment and device; half hours under `device/30min`."""
    found: dict[tuple[str, float, str], Served] = {}
    polled: list[Served] = []
    for line in (line for log in logs for line in read_log(log)):
        if not line.get("values"):
            continue
        if "at" in line:
            at = datetime.fromisoformat(line["at"]).timestamp() * 1000
            for name, value in line["values"].items():
                entry = Served(f"{line['device']}/30min", line["t"], at, {name: value}, exact=True)
                found.setdefault((entry.device, at, name), entry)
        elif "boot_ms" in line:
            polled.append(Served(line["device"], line["t"], line["boot_ms"], line["values"], exact=True))
        else:
            polled.append(Served(line["device"], line["t"], line["sim"], line["values"]))
    return polled + list(found.values())


def rows(database: Path, gateway: str, by_boot_clock: tuple[str, ...] = ("sine",)) -> list[Row]:
    """Return the aggregator's rows of a gateway, energies as kWh; the devices named are placed by the boot clock."""
    with contextlib.closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        connection.row_factory = sqlite3.Row
        telemetry = connection.execute("SELECT * FROM telemetry_rows WHERE gateway = ?", (gateway,)).fetchall()
        timed = connection.execute("SELECT * FROM device_values WHERE gateway = ?", (gateway,)).fetchall()
    found = [
        Row(
            row["device"],
            row["boot_ms"] if row["device"] in by_boot_clock else row["utc_ms"],
            _values({name: row[name] for name in QUANTITIES}, row["other"]),
        )
        for row in telemetry
    ]
    return found + [
        Row(f"{row['device']}/30min", row["utc_ms"], _values({row["quantity"]: row["value"]}, row["other"]))
        for row in timed
    ]


def _values(cells: Mapping[str, Any], other: str | None) -> dict[str, Any]:
    values = {
        name: Decimal(cell) / ENERGY_STEPS_PER_KWH if QUANTITIES[name].unit == "kWh" else cell
        for name, cell in cells.items()
        if cell is not None
    }
    return values | (json.loads(other, parse_float=Decimal) if other else {})


def passages(database: Path, gateway: str) -> list[dict[str, Any]]:
    """Return the personal events of a gateway, oldest first: kind, time and data."""
    with contextlib.closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        found = connection.execute(
            "SELECT kind, utc_ms, data FROM event WHERE gateway = ? AND personal <> 0 ORDER BY utc_ms", (gateway,)
        ).fetchall()
    return [{"kind": kind, "utc_ms": utc_ms, **json.loads(data)} for kind, utc_ms, data in found]


def event_ids(database: Path, gateway: str, kind: str) -> list[str]:
    """Return the ids of a kind of event that the aggregator holds."""
    with contextlib.closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        found = connection.execute("SELECT id FROM event WHERE gateway = ? AND kind = ?", (gateway, kind)).fetchall()
    return [id_ for (id_,) in found]


async def get(url: str) -> Any:
    """Return what the aggregator answers to a GET."""

    def fetch() -> Any:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return json.load(answer)

    return await asyncio.to_thread(fetch)


async def online(town: Town, *gateways: str) -> None:
    """Wait until the aggregator sees gateways online."""

    async def seen() -> bool:
        try:
            found = await get(f"{town.page}/api/v1/gateways")
        except OSError:
            return False
        return {entry["id"] for entry in found["gateways"] if entry["state"] == "online"} >= set(gateways)

    await until(seen, START_WITHIN_S, f"{', '.join(gateways)} online", town.aggregator)


async def drained(town: Town, config: Path, within_s: float = 60) -> None:
    """Wait until the agent of a configuration owes nothing that is older than a moment."""

    async def empty() -> bool:
        stat = town.python("stat", "edge_agent", "outbox", "stat", "--json", config)
        stat.log.unlink(missing_ok=True)
        await stat.start()
        await stat.wait()
        lines = [line for line in stat.log.read_text().splitlines() if line.startswith("{")]
        return bool(lines) and json.loads(lines[-1])["depth"] <= 2

    await until(empty, within_s, f"the outbox of {config.name} is empty", poll_s=0.5)
