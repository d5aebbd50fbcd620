"""The agent asks its drivers for the time while it knows none, and judges commands by the latest that it can be."""

import pytest

from drivers.api import TimeHint
from edge_agent import clock as clock_module
from edge_agent import config
from edge_agent.app import Agent
from edge_agent.device_time import WAIT_MS, WITHIN_MS
from edge_agent.supervisor import Supervisor

NOW_MS = 1_798_729_200_000  # 2027-01-01T00:00:00+09:00


class MeterDriver:
    backoff_ceiling_s = 60.0
    devices = ("meter",)

    def __init__(self, hint):
        self.hint = hint

    async def run(self, emit, memory):
        raise AssertionError

    def time_hint(self):
        return self.hint


@pytest.fixture
def agent(tmp_path, monkeypatch):
    monkeypatch.setattr(clock_module, "is_synchronized", lambda: False)
    path = tmp_path / "gateway.yaml"
    path.write_text(
        f"gateway: {{id: house-001}}\nstate_directory: {tmp_path}\nmqtt: {{}}\ndrivers: {{sine: {{driver: sine}}}}\n"
    )
    made = Agent(config.load(path))
    monkeypatch.setattr(made.clock, "boot_ms", lambda: WAIT_MS)
    return made


def test_a_meter_behind_any_driver_gives_the_time_that_batches_and_commands_use(agent):
    agent.supervisors["sine"] = Supervisor("sine", lambda: MeterDriver(None))
    agent.supervisors["meter"] = Supervisor("meter", lambda: MeterDriver(TimeHint(WAIT_MS, NOW_MS, 20_000)))
    assert agent.health()["clock"] == "unknown"
    assert agent._real_unix_ms() is None
    agent.clock.look()
    assert agent.health()["clock"] == "meter"
    assert agent._real_unix_ms() == NOW_MS + WITHIN_MS
    stamp = agent.outbox.intake._stamp()
    assert (stamp.quality, stamp.boot_ms + stamp.offset_ms) == ("meter", NOW_MS)
