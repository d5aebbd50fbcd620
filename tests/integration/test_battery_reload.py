"""A reload while a battery is commanded: whatever takes the authority away puts the battery back first."""

import asyncio
import json
import time
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from drivers.api import RefusedError
from edge_agent import config
from edge_agent.app import Agent
from simulators.house import House
from simulators.inverter import InverterServer, units_of
from simulators.inverter_control import huawei_control
from simulators.programs import until

HALF_FULL = replace(House(seed=1).at(1_780_239_600_000 + 12 * 3_600_000), soc_permille=500)
OURS = {"owned_by": "agent", "no_revert_timer": "accepted"}


class Home:
    """A simulated hybrid, and a whole agent in this process that reads its configuration anew when asked."""

    def __init__(self, folder):
        self.path = folder / "house.yaml"
        self.control = huawei_control(lambda: time.time_ns() // 1_000_000)
        self.server = InverterServer(units_of(["huawei"]), lambda: HALF_FULL)
        self.server.let_command(self.control)

    def write(self, battery=None, name="inverter", *, is_there=True, **others):
        device = {"map": "huawei_sun2000", "unit": 1, **({} if battery is None else {"battery": battery})}
        line = {"driver": "modbus", "host": "127.0.0.1", "port": self.server.port, "poll_s": 0.2, "gap_ms": 0}
        line |= {"connect_delay_ms": 0, "devices": {name: device}}
        table = {
            "gateway": {"id": "house-001"},
            "state_directory": str(self.path.parent / "state"),
            "clock": {"trust": "system"},
            "mqtt": {"host": "127.0.0.1", "port": 9},
            "drivers": ({"line": line} if is_there else {}) | others,
        }
        self.path.write_text(json.dumps(table))

    @asynccontextmanager
    async def serving(self):
        """The agent, holding: a mode that the device never ends by itself."""
        await self.server.start()
        self.write(OURS)
        agent = Agent(config.load(self.path))
        task = asyncio.ensure_future(agent.run())
        try:
            await until(lambda: _holds(agent), 20, "the battery holds", poll_s=0.05)
            assert self.control.changed() == {"max_discharge_w": 0}
            yield agent
        finally:
            agent.stop()
            await task
            await self.server.close()


async def _holds(agent):
    if "line" not in agent.supervisors:
        return False
    try:
        return (await agent.supervisors["line"].command("battery", {"mode": "hold", "for_s": 7200}))["mode"] == "hold"
    except RefusedError:
        return False


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.delenv("RUNTIME_DIRECTORY", raising=False)
    return Home(tmp_path)


@pytest.mark.parametrize(
    ("changed", "stands"),
    [
        ({"battery": OURS | {"modes": ["charge"]}}, {"inverter": "normal"}),
        ({"battery": OURS | {"owned_by": "third_party"}}, {"inverter": "normal"}),
        ({"battery": None}, {}),
        ({"battery": OURS, "name": "garage"}, {"garage": "normal"}),
        ({"battery": OURS | {"min_soc_percent": 95}}, None),
        ({"is_there": False}, None),
    ],
    ids=["mode not allowed", "third party", "no table", "renamed", "table refused", "driver gone"],
)
async def test_a_reload_that_takes_the_authority_away_puts_the_battery_back_first(home, changed, stands):
    async with home.serving() as agent:
        former = agent.supervisors["line"]
        home.write(**changed)
        agent.reload()
        await until(lambda: agent.supervisors.get("line") is not former, 15, "the driver is another")
        await until(lambda: home.control.changed() == {}, 15, "the battery is in normal")
        writes = home.server.writes
        if stands is not None:
            await until(lambda: "line" in agent.supervisors and agent.supervisors["line"].ok > 2, 15, "it reads")
            status = agent.supervisors["line"].status()
            assert {name: one["mode"] for name, one in status.get("batteries", {}).items()} == stands
            assert "left_commanded" not in status
        assert home.server.writes == writes == 2
        kept = agent.outbox.memory("line")
        assert kept.get("battery/at/unit 1") is None


async def test_a_reload_that_changes_something_else_leaves_the_battery_in_its_mode(home):
    async with home.serving() as agent:
        home.write(OURS, wave={"driver": "sine"})
        agent.reload()
        await until(lambda: "wave" in agent.supervisors, 15, "the new driver is there")
        assert agent.supervisors["line"].status()["batteries"]["inverter"]["mode"] == "hold"
        assert home.control.changed() == {"max_discharge_w": 0}
