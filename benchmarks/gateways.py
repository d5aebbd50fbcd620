"""Whole gateways as programs: what feeds them, what they publish, what they cost. Measures, and judges nothing."""

from __future__ import annotations

import asyncio
import json
import os
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from harness import Town, free_port
from paho.mqtt import client as paho
from paho.mqtt.enums import CallbackAPIVersion

from drivers.api import MalformedError
from edge_agent import wire

BASE = 1000
THINGSBOARD = Path(__file__).resolve().parents[1] / ".venv" / "thingsboard"
"""Where `make bench` puts the ThingsBoard gateway; it wants another pymodbus than this project."""
NOT_THERE = "not measured, its environment could not be made (the beginning of `make bench` says why)"
NO_LIMITS = {"rateLimits": {"messages": "", "telemetryMessages": "", "telemetryDataPoints": ""}}


@dataclass(frozen=True, slots=True)
class Load:
    """So many devices with so many points each, all read every second."""

    devices: int
    points: int


@dataclass(frozen=True, slots=True)
class Cost:
    """What a program used while it delivered so many points in so many seconds."""

    seconds: float
    points: int
    cpu_s: float
    resident_kib: tuple[int, ...]
    """At the beginning, then from time to time, and at the end."""

    @property
    def us_per_point(self) -> float:
        """CPU time of all threads, in µs for each point that was delivered."""
        return 1e6 * self.cpu_s / max(1, self.points)

    @property
    def grown_kib(self) -> int:
        """By how much its resident memory is larger at the end than at the beginning."""
        return self.resident_kib[-1] - self.resident_kib[0]


class Listener:
    """Counts the points that gateways publish; says to ThingsBoard's what its platform would say."""

    def __init__(self, port: int) -> None:
        self.points = 0
        """Points received so far, ours and theirs."""
        self.answered = threading.Event()
        """Whether a gateway of ThingsBoard asked for its limits; before that it publishes nothing."""
        self._client = paho.Client(CallbackAPIVersion.VERSION2)
        self._client.on_message = self._hear
        self._client.connect("127.0.0.1", port)
        self._client.subscribe([("gw/v1/+/telemetry", 1), ("gw/v1/+/backfill", 1), ("v1/#", 1)])
        self._client.loop_start()

    def close(self) -> None:
        """Hang up."""
        self._client.disconnect()
        self._client.loop_stop()

    def _hear(self, _client: paho.Client, _data: object, message: paho.MQTTMessage) -> None:
        topic = message.topic
        if topic.startswith("gw/v1/"):
            is_pack = topic.endswith("/backfill")
            self.points += sum(map(_points, wire.decode_backfill(message.payload) if is_pack else [message.payload]))
        elif topic.startswith("v1/devices/me/rpc/request/"):
            limits = {"maxPayloadSize": 65536, "maxInflightMessages": 100, **NO_LIMITS, "gatewayRateLimits": NO_LIMITS}
            self._client.publish(topic.replace("/request/", "/response/"), json.dumps(limits), 1)
            self.answered.set()
        elif topic.startswith("v1/devices/me/attributes/request/"):
            self._client.publish(topic.replace("/request/", "/response/"), "{}", 1)
        elif topic == "v1/gateway/telemetry":
            readings = [one for of_device in json.loads(message.payload).values() for one in of_device]
            self.points += sum(len(one.get("values", one)) for one in readings)


def _points(payload: bytes) -> int:
    try:
        blocks = wire.decode_batch(payload).blocks
    except MalformedError:
        return 0
    return sum(len(block.rows) * len(block.columns) for block in blocks)


def cpu_s(pid: int) -> float:
    """Return the processor time of all threads of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_kib(pid: int) -> int:
    """Return the resident memory of a process in KiB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1])


async def watch(pid: int, listener: Listener, seconds: float, every_s: float = 10.0) -> Cost:
    """Look at a running gateway for a while, which it need not notice."""
    began, used, points, resident = time.monotonic(), cpu_s(pid), listener.points, [resident_kib(pid)]
    while (left_s := began + seconds - time.monotonic()) > 0:
        await asyncio.sleep(min(every_s, left_s))
        resident.append(resident_kib(pid))
    took = time.monotonic() - began
    return Cost(took, listener.points - points, cpu_s(pid) - used, tuple(resident))


def town_with_tcp(home: Path) -> tuple[Town, int]:
    """Return a town whose broker also listens on a TCP port, and the port."""
    town, port = Town(home), free_port()
    with (home / "mosquitto.conf").open("a") as conf:
        conf.write(f"listener {port} 127.0.0.1\n")
    return town, port


def register_map(points: int, base: int = BASE) -> str:
    """Return a map of so many scaled registers from `base` on, each a quantity."""
    names = [f"q{n:03d}" for n in range(points)]
    lines = ["maker: T", "limits: {max_registers: 125}", "points:"]
    lines += [f"  {name}: {{address: {base + n}, type: u16, scale: 0.1}}" for n, name in enumerate(names)]
    return "\n".join([*lines, "quantities:", *(f"  {name}: {{kind: gauge, unit: W}}" for name in names), ""])


def agent_configuration(town: Town, units_port: int, load: Load) -> Path:
    """Write what `edge-agent run` needs to read all devices of a load each second."""
    maps = town.home / "maps"
    maps.mkdir()
    (maps / "bench.yaml").write_text(register_map(load.points))
    line = {"driver": "modbus", "host": "127.0.0.1", "port": units_port, "poll_s": 1, "maps": str(maps)}
    devices = {f"d{unit}": {"map": "bench", "unit": unit} for unit in range(1, load.devices + 1)}
    table: dict[str, Any] = {
        "gateway": {"id": "bench-001"},
        "state_directory": str(town.home / "bench-001"),
        "clock": {"trust": "system"},
        "mqtt": {"socket": str(town.broker_socket)},
        "drivers": {"line": line | {"devices": devices}},
    }
    path = town.home / "bench.yaml"
    path.write_text(yaml.safe_dump(table))
    return path


def thingsboard_slaves(units_port: int, load: Load) -> dict[str, Any]:
    """Return the connector's configuration for the same registers, one tag for each, as its documentation shows."""

    tag = {"type": "16uint", "functionCode": 3, "objectsCount": 1, "multiplier": 0.1}
    tags = [{"tag": f"q{n:03d}", "address": BASE + n, **tag} for n in range(load.points)]
    line = {
        "host": "127.0.0.1",
        "port": units_port,
        "type": "tcp",
        "method": "socket",
        "timeout": 5,
        "retries": True,
        "pollPeriod": 1000,
        "byteOrder": "BIG",
        "wordOrder": "BIG",
        "connectAttemptTimeMs": 1000,
        "connectAttemptCount": 5,
        "waitAfterFailedAttemptsMs": 1000,
    }
    device = {"deviceType": "default", "timeseries": tags, "attributes": [], "attributeUpdates": [], "rpc": []}
    slaves = [line | device | {"unitId": unit, "deviceName": f"d{unit}"} for unit in range(1, load.devices + 1)]
    return {"name": "bench", "master": {"slaves": slaves}}


def thingsboard_configuration(home: Path, broker_port: int, slaves: Mapping[str, Any]) -> Path:
    """Write the gateway's folder: its own shipped configuration with broker, connector, and folders of ours."""
    (shipped,) = THINGSBOARD.glob("lib/python3*/site-packages/thingsboard_gateway/config")
    folder = home / "thingsboard"
    for part in ("data", "logs"):
        (folder / part).mkdir(parents=True)
    table = json.loads((shipped / "tb_gateway.json").read_text())
    table["thingsboard"] |= {
        "host": "127.0.0.1",
        "port": broker_port,
        "remoteConfiguration": False,
        "security": {"type": "accessToken", "accessToken": "T"},
    }
    table["thingsboard"]["statistics"]["enable"] = False
    table["storage"] |= {"data_folder_path": f"{folder}/data/", "data_file_path": f"{folder}/data/"}
    table["connectors"] = [{"name": "bench", "type": "modbus", "configuration": "modbus.json"}]
    (folder / "tb_gateway.json").write_text(json.dumps(table))
    (folder / "modbus.json").write_text(json.dumps(slaves))
    (folder / "logs.json").write_text((shipped / "logs.json").read_text().replace("./logs/", f"{folder}/logs/"))
    return folder
