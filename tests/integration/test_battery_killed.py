"""The agent as a program, killed while it commands a battery; and `edge-agent battery` as a person types it."""

import asyncio
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from simulators.house import House
from simulators.inverter import InverterServer, units_of
from simulators.inverter_control import huawei_control
from simulators.programs import until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(90)]

HALF_FULL = replace(House(seed=1).at(1_780_239_600_000 + 12 * 3_600_000), soc_permille=500)
BATTERY = {"owned_by": "agent", "no_revert_timer": "accepted"}


class Home:
    """A simulated hybrid in this process and an agent in another."""

    def __init__(self, folder):
        self.folder = folder
        self.path = folder / "house.yaml"
        self.control = huawei_control(lambda: time.time_ns() // 1_000_000)
        self.server = InverterServer(units_of(["huawei"]), lambda: HALF_FULL)
        self.server.controls[1] = self.control
        self.agent = None

    async def open(self, **battery):
        await self.server.start()
        devices = {"inverter": {"map": "huawei_sun2000", "unit": 1, "battery": BATTERY | battery}}
        line = {"host": "127.0.0.1", "port": self.server.port, "poll_s": 0.2, "gap_ms": 0, "connect_delay_ms": 0}
        self.path.write_text(
            yaml.safe_dump(
                {
                    "gateway": {"id": "house-001"},
                    "state_directory": str(self.folder / "state"),
                    "clock": {"trust": "system"},
                    "mqtt": {"host": "127.0.0.1", "port": 9, "reconnect_max": 5},
                    "roles": {"battery": "inverter"},
                    "drivers": {"line": {"driver": "modbus", **line, "devices": devices}},
                }
            )
        )

    async def start(self):
        with (self.folder / "agent.log").open("ab") as log:
            self.agent = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "edge_agent", "run", str(self.path)),
                stdout=log,
                stderr=log,
                env={key: value for key, value in os.environ.items() if key != "NOTIFY_SOCKET"},
            )

    async def kill(self):
        self.agent.kill()
        await self.agent.wait()

    async def close(self):
        if self.agent is not None and self.agent.returncode is None:
            await self.kill()
        await self.server.close()

    async def typed(self, *words):
        """Run `edge-agent battery` and return its exit code, standard output and standard error."""
        program = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "edge_agent", "battery", str(self.path), *words),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await program.communicate()
        return program.returncode, out.decode(), err.decode()

    async def holds(self):
        """Command a hold and tell whether the agent took it."""
        code, _, _ = await self.typed("hold", "--for", "2h")
        return code == 0

    async def charged(self):
        """Command a charge as soon as the agent takes it; None when the agent died of it."""
        async with asyncio.timeout(30):
            while self.agent.returncode is None:
                code, out, err = await self.typed("charge", "--power-w", "1500", "--for", "30m", "--json")
                if code == 0:
                    return json.loads(out)
                assert code == 1, err
                await asyncio.sleep(0.2)
        return None

    async def until(self, condition, within_s=30):
        async with asyncio.timeout(within_s):
            while not condition():  # noqa: ASYNC110  (the simulator's state has no event)
                await asyncio.sleep(0.02)


@pytest.fixture
async def home():
    folder = Path(tempfile.mkdtemp(prefix="home-"))
    home = Home(folder)
    yield home
    await home.close()
    shutil.rmtree(folder, ignore_errors=True)


async def test_after_kill_9_during_a_charge_command_the_returning_agent_restores_normal_within_a_minute(home):
    await home.open()
    await home.start()
    answer = await home.charged()
    assert (answer["device"], answer["mode"], answer["power_w"]) == ("inverter", "charge", 1500)
    assert home.control["forced_command"] == 1
    await home.kill()
    assert not home.control.is_normal
    returned = time.monotonic()
    await home.start()
    await home.until(lambda: home.control.changed() == {})
    assert time.monotonic() - returned < 60
    code, out, _ = await home.typed()
    assert code == 0
    assert out.startswith("inverter: normal")
    assert "the agent was started again" in out


@pytest.mark.parametrize("writes", [1, 2])
async def test_after_kill_9_between_two_writes_of_a_sequence_nothing_is_left_behind(home, writes):
    await home.open()
    await home.start()
    await home.until(lambda: len(home.server.requests) > 6)
    order = home.control.order

    def die(name):
        if len(order) == writes:
            os.kill(home.agent.pid, signal.SIGKILL)

    home.control.on_write = die
    assert await home.charged() is None
    assert home.control.changed()
    home.control.on_write = None
    await home.start()
    await home.until(lambda: home.control.changed() == {})


async def test_a_person_sees_commands_and_ends_a_mode_and_stopping_the_agent_ends_it_too(home):
    await home.open()
    code, _, err = await home.typed()
    assert code == 1
    assert "no agent runs" in err
    await home.start()
    await home.charged()
    code, out, _ = await home.typed("status")
    assert code == 0
    assert "owner            person" in out
    code, _, err = await home.typed("charge", "--power-w", "5")
    assert (code, "5 W is less" in err) == (1, True)
    code, out, _ = await home.typed("normal")
    assert out.startswith("inverter: normal")
    assert home.control.changed() == {}
    # A battery is not told twice within 5 s: who types faster is asked to wait.
    await until(home.holds, 30, "the battery is told to hold", poll_s=0.5)
    assert home.control["max_discharge_w"] == 0
    home.agent.terminate()
    assert await home.agent.wait() == 0
    assert home.control.changed() == {}
    check = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "edge_agent", "check", str(home.path)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said = (await check.communicate())[0].decode()
    assert check.returncode == 0
    assert "stays on when this box dies" in said
