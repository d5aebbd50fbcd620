"""An installer's day on the simulated meter: credentials late and wrong, then right, doctor, aim, transcript."""

import asyncio
import contextlib
import json
import os
import sys
import time

import pytest
import yaml

from edge_agent import config, control
from edge_agent.app import Agent

ID, PASSWORD = "00112233445566778899AABBCCDDEEFF", "0123456789AB"
SPEED = 30
"""The pauses between questions to the meter are kept by the simulated clock."""


@contextlib.asynccontextmanager
async def simulated_meter(port, timescale):
    words = [word for key, value in timescale.items() for word in (f"--{key}", str(value))]
    command = ["-m", "simulators", "meter", "--link", str(port), *words]
    process = await asyncio.create_subprocess_exec(sys.executable, *command, stdout=asyncio.subprocess.DEVNULL)
    try:
        async with asyncio.timeout(20):
            while not port.exists():  # another process makes it
                assert process.returncode is None
                await asyncio.sleep(0.02)
        yield
    finally:
        process.terminate()
        await process.wait()


@pytest.fixture
def timescale():
    """The time that agent and meter have in common."""
    return {"start": "2026-06-01T09:00:00+09:00", "speed": SPEED, "since": int(time.time())}


@pytest.fixture
def house(tmp_path, monkeypatch, timescale):
    monkeypatch.delenv("RUNTIME_DIRECTORY", raising=False)
    monkeypatch.setattr("drivers.route_b.joining.JOIN_SPACING_S", 0.5)
    monkeypatch.setattr("drivers.route_b.driver.FIRST_WAIT_S", 0.5)
    table = {
        "gateway": {"id": "installer-001"},
        "state_directory": str(tmp_path / "state"),
        "secrets_directory": str(tmp_path / "secrets"),
        "clock": {"trust": "system"},
        "simulation": timescale,
        "mqtt": {"socket": str(tmp_path / "no-broker.sock")},
        "drivers": {
            "meter": {"driver": "route_b", "port": str(tmp_path / "tty"), "credentials": "route-b", "poll_s": 10},
            "wave": {"driver": "sine"},
        },
    }
    path = tmp_path / "house.yaml"
    path.write_text(yaml.safe_dump(table))
    return path


async def typed(*words, stdin=b""):
    """Run `edge-agent` with words as a person would, and return its exit code and what it printed."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "edge_agent", *map(str, words), stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    said, _ = await process.communicate(stdin)
    return process.returncode, said.decode()


async def state(path, name="meter"):
    return (await control.ask(config.load(path).sockets, "status", {}))["drivers"][name]


async def until_state(path, wanted):
    async with asyncio.timeout(60):
        while (await state(path))["state"] != wanted:  # noqa: ASYNC110  (asked over a socket, as doctor does)
            await asyncio.sleep(0.1)


def letter(password=PASSWORD, route_b_id=ID):
    return json.dumps({"id": route_b_id, "password": password}).encode()


@pytest.mark.slow
@pytest.mark.timeout(180)
async def test_credentials_come_late_and_wrong_and_right_and_the_agent_never_starts_again(
    house, tmp_path, timescale, until
):
    async with simulated_meter(tmp_path / "tty", timescale), asyncio.TaskGroup() as tasks:
        agent = Agent(config.load(house))
        running = tasks.create_task(agent.run())
        await until(lambda: agent.supervisors and agent.supervisors["wave"].ok)
        assert (await state(house))["state"] == "waiting_for_credentials"
        code, said = await typed("read", house)
        assert (code, "waiting for credentials" in said, "正弦波" in said) == (1, True, True)
        code, said = await typed("route-b", "credentials", house, stdin=letter(route_b_id=ID[:-1]))
        assert (code, "31 characters" in said, ID[:8] in said) == (1, True, False)
        code, said = await typed("route-b", "credentials", house, stdin=letter("0123456789AC"))
        assert (code, "in use now" in said) == (0, True)
        await until_state(house, "waiting_for_credentials")
        code, said = await typed("doctor", "--json", house)
        steps = {one["name"]: one for one in map(json.loads, said.splitlines())}
        assert steps["meter: join"]["verdict"] == "error"
        assert "first 24 characters" in steps["meter: join"]["remedy"]
        assert steps["device wave"]["verdict"] == "ok"
        code, said = await typed("route-b", "credentials", house, stdin=letter("０１２３ 4567 89AB"))
        assert code == 0
        await until(lambda: agent.supervisors["meter"].ok, 60)
        code, said = await typed("doctor", "--json", house)
        steps = {one["name"]: one["verdict"] for one in map(json.loads, said.splitlines())}
        assert {verdict for name, verdict in steps.items() if name.startswith("meter: ")} <= {"ok"}, said
        assert {"meter: signal", "meter: reading"} <= steps.keys()
        code, said = await typed("route-b", "aim", house, "--json", "--minutes", "0.01")
        told = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
        assert code == 0, said
        assert all(-105 < one["rssi_dbm"] < -20 for one in told)
        code, said = await typed("transcript", house)
        assert code == 0
        assert "SKSETPWD ****" in said
        assert "02CC (PANA)" in said
        assert not any(PASSWORD[at : at + 4] in said for at in range(9))
        assert (tmp_path / "secrets" / "route-b").stat().st_mode & 0o777 == 0o600
        agent.stop()
        await running


@pytest.mark.slow
async def test_at_a_terminal_nothing_is_echoed_and_a_wrong_length_is_shown_in_groups_of_four(house, tmp_path):
    master, slave = os.openpty()
    process = await asyncio.create_subprocess_exec(
        "setsid", "--ctty", "--wait", sys.executable, "-m", "edge_agent", "route-b", "credentials", str(house),
        stdin=slave, stdout=slave, stderr=slave,
    )  # fmt: skip
    os.close(slave)
    heard, seen = asyncio.Event(), b""

    def read():
        nonlocal seen
        try:
            seen += os.read(master, 4096)
        except OSError:  # the other end is closed
            asyncio.get_running_loop().remove_reader(master)
        heard.set()

    async def answer(prompt, text):
        async with asyncio.timeout(20):
            while not seen.decode(errors="replace").endswith(prompt):
                heard.clear()
                await heard.wait()
        os.write(master, text.encode() + b"\n")
        await asyncio.sleep(0)

    asyncio.get_running_loop().add_reader(master, read)
    try:
        await answer("ID (32): ", "0011 2233 4455 6677 8899 AABB CCDD E")
        groups = "0011 2233 4455 6677 8899 AABB CCDD E (29)"
        wrong = "違います / not right: the id has 29 characters, not 32"
        await answer(f"  {groups}\r\n  {wrong}\r\n認証ID / ID (32): ", ID)
        await answer("password (12): ", PASSWORD)
        assert await asyncio.wait_for(process.wait(), 20) == 0
    finally:
        asyncio.get_running_loop().remove_reader(master)
        os.close(master)
    text = seen.decode()
    assert PASSWORD not in text
    assert ID not in text
    assert json.loads((tmp_path / "secrets" / "route-b").read_text()) == {"id": ID, "password": PASSWORD}
