"""The agent as systemd runs it: a process that says it is ready, publishes to a real Mosquitto, and leaves in time."""

import asyncio
import json
import os
import re
import signal
import socket
import sys
import time
from pathlib import Path

import pytest
import yaml

from drivers.sine import value_at
from edge_agent import control, wire
from edge_agent.config import load

pytestmark = pytest.mark.slow

RSS_LIMIT_MIB = 45


class AgentProcess:
    """`edge-agent run` with a notification socket of its own."""

    def __init__(self, home, drivers, broker, **more):
        self.home = home
        self.path = home / "house.yaml"
        self.log = home / "agent.log"
        self.write(drivers, broker, **more)
        self.notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.notify.bind(str(home / "notify"))
        self.notify.setblocking(False)
        self.process = None
        self.heard = []

    def write(self, drivers, broker, **more):
        table = {
            "gateway": {"id": "house-001", "site": "test", "area": "0720400"},
            "state_directory": str(self.home / "state"),
            "clock": {"trust": "system"},
            "mqtt": {"socket": str(broker.socket), "reconnect_max": 0.5},
            "drivers": drivers,
            **more,
        }
        self.path.write_text(yaml.safe_dump(table, sort_keys=False))

    async def start(self, **environment):
        with self.log.open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "edge_agent", "run", str(self.path)),
                stdout=log,
                stderr=log,
                env={**os.environ, "NOTIFY_SOCKET": str(self.home / "notify"), **environment},
            )
        await self.says("READY=1")

    async def says(self, word):
        async with asyncio.timeout(20):
            while not any(word in message for message in self.heard):
                try:
                    self.heard.append(self.notify.recv(4096).decode())
                except BlockingIOError:
                    assert self.process.returncode in {None, 0}, self.log.read_text()
                    await asyncio.sleep(0.02)

    async def stop(self, number=signal.SIGTERM):
        began = time.monotonic()
        self.process.send_signal(number)
        async with asyncio.timeout(15):
            code = await self.process.wait()
        return code, time.monotonic() - began

    def rss_mib(self):
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024


@pytest.fixture
async def agent(tmp_path, broker):
    """An agent with two sines, not started."""
    home = tmp_path / "agent"
    home.mkdir()
    log = str(home / "served.jsonl")
    agent = AgentProcess(
        home, {"wave": {"driver": "sine", "poll_s": 0.1, "log": log}, "other": {"driver": "sine"}}, broker
    )
    yield agent
    if agent.process and agent.process.returncode is None:
        agent.process.kill()
        await agent.process.wait()
    agent.notify.close()


async def until(true, within_s=15):
    async with asyncio.timeout(within_s):
        while not true():  # noqa: ASYNC110  (whatever the test asks for has no event)
            await asyncio.sleep(0.02)


async def test_what_was_served_is_published_and_a_stop_is_clean_and_in_time(agent, town):
    await agent.start()
    await until(lambda: len(town.rows()) > 20)
    assert agent.rss_mib() <= RSS_LIMIT_MIB
    code, took_s = await agent.stop()
    assert (code, took_s < 5) == (0, True), agent.log.read_text()
    await until(lambda: json.loads(town.payloads("state")[-1])["state"] == "offline")
    await agent.says("STOPPING=1")
    served = [json.loads(line) for line in (agent.home / "served.jsonl").read_text().splitlines()]
    waves = {(at, float(value)) for device, at, value in town.rows() if device == "wave"}
    assert waves
    assert all(value == value_at(at, 60) for at, value in waves)
    assert waves <= {(line["boot_ms"], line["values"]["sine_value"]) for line in served}


async def test_the_retained_topics_tell_who_is_there_and_what_is_measured(agent, town):
    await agent.start()
    await until(lambda: town.payloads("meta") and wire.decode(town.payloads("meta")[-1], wire.Meta).quantities)
    meta = wire.decode(town.payloads("meta")[-1], wire.Meta)
    assert set(meta.devices) == {"wave", "other"}
    assert set(meta.quantities) == {"sine_value"}
    await until(lambda: town.payloads("now", "wave"))
    now = json.loads(town.payloads("now", "wave")[-1])
    assert set(now) == {"time", "valid_until", "sine_value"}
    await until(lambda: town.payloads("health"))
    health = json.loads(town.payloads("health")[-1])
    assert health["drivers"]["wave"]["state"] == "running"
    assert set(health) >= {"time", "valid_until", "outbox", "drivers", "clock", "cpu_temperature_c", "disk", "memory"}


async def test_the_town_asks_and_is_answered_once(agent, town):
    await agent.start()
    await until(lambda: town.payloads("now", "wave"))
    command = {"id": "c-1", "sent": int(time.time() * 1000), "expires_s": 60, "arguments": {"devices": ["wave"]}}
    town.say("command", "read", json.dumps(command).encode())
    town.say("command", "read", json.dumps({**command, "id": "c-2", "sent": 1}).encode())
    town.say("command", "read", b"\xff garbage")
    await until(lambda: town.payloads("response", "c-1") and town.payloads("response", "c-2"))
    answer = json.loads(town.payloads("response", "c-1")[0])
    assert answer["ok"]
    assert [one["device"] for one in answer["result"]] == ["wave"]
    assert "expired" in json.loads(town.payloads("response", "c-2")[0])["error"]


async def test_the_watchdog_is_fed(agent):
    await agent.start(WATCHDOG_USEC="400000")
    await agent.says("WATCHDOG=1")


async def test_hangup_reloads_and_a_device_that_left_is_cleared(agent, town, broker):
    await agent.start()
    await until(lambda: town.payloads("now", "other"))
    agent.write({"wave": {"driver": "sine", "poll_s": 0.1}, "new": {"driver": "sine", "poll_s": 0.1}}, broker)
    agent.process.send_signal(signal.SIGHUP)
    await until(lambda: town.payloads("now", "new") and town.payloads("now", "other")[-1] == b"")
    assert agent.process.returncode is None


async def test_the_command_line_asks_the_running_agent_and_never_opens_the_device_itself(agent):
    await agent.start()
    for words in (["read"], ["outbox", "stat"]):
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "edge_agent", *words, str(agent.path), "--json"), stdout=asyncio.subprocess.PIPE
        )
        out, _ = await process.communicate()
        assert process.returncode == 0
        assert all(json.loads(line).get("agent", "running") == "running" for line in out.splitlines())
    served = (agent.home / "served.jsonl").read_text().splitlines()
    boots = [json.loads(line)["boot_ms"] for line in served]
    assert boots == sorted(boots)  # one writer alone: a second reader would have leapt ahead


async def test_a_second_agent_of_the_same_configuration_is_refused(agent):
    await agent.start()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "edge_agent", "run", str(agent.path)), stderr=asyncio.subprocess.PIPE
    )
    _, said = await process.communicate()
    assert process.returncode == 1
    assert b"another agent already runs" in said
    assert b"Traceback" not in said
    assert await control.ask(load(agent.path).sockets, "read", {"devices": ["wave"]})


async def test_a_killed_agent_starts_again_over_its_own_leftovers(agent, town):
    await agent.start()
    await until(town.rows)
    await agent.stop(signal.SIGKILL)
    await until(lambda: json.loads(town.payloads("state")[-1])["state"] == "lost")
    agent.heard.clear()
    await agent.start()
    await until(lambda: json.loads(town.payloads("state")[-1])["state"] == "online")
