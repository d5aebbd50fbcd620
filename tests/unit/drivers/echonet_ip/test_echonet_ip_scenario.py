"""The driver through one file of every fault of home devices, in virtual time on a network in memory."""

import asyncio
import json
import random
from collections import Counter, defaultdict
from decimal import Decimal

import pytest
from echonet_air import MemoryLink, MemoryServer, Network
from meter_air import VirtualClock

from drivers.api import Context, Event, Sample
from drivers.contract import DictMemory
from drivers.echonet_ip.driver import create
from simulators import clock, echonet, echonet_steps, scenario
from simulators.clock import SimulatedClock
from simulators.echonet_devices import things
from simulators.echonet_node import Node
from simulators.house import House
from simulators.log import ServedLog

START_MS = 1_780_272_000_000  # 2026-06-01 09:00 in Japan
NETWORK = "127.9.9."
POLL_S = 20
SECONDS = 3600
SEED = 1


@pytest.fixture
def steps(root, monkeypatch):
    monkeypatch.setattr(echonet, "_WATCH_S", 5.0)
    monkeypatch.setattr(clock, "_LONGEST_SLEEP_S", SECONDS)
    return scenario.read(root / "tests" / "data" / "echonet" / "every_fault.yaml", echonet_steps.KINDS)


class Played:
    """Four nodes, the driver that reads them, and what came of a scenario."""

    kinds = ("pv", "battery", "ecocute", "aircon")
    eojs = ("027901", "027D01", "026B01", "013001")

    def __init__(self, tmp_path):
        self.items, self.memory, self.tally = [], DictMemory(), Counter()
        self.network, self.clock = Network(), VirtualClock(START_MS)
        simulated = SimulatedClock(real_ms=self.clock.unix_ms)
        self._path = tmp_path / "served.log"
        self.simulated, self.log = simulated, ServedLog(self._path, simulated)
        house = House(1, START_MS - 9 * 3_600_000)
        self.servers = []
        for kind in self.kinds:
            server = MemoryServer(
                Node(things([kind])), lambda: house.at(simulated.unix_ms()), self.log, random.Random(kind)
            )
            server.network = self.network
            self.servers.append(server)
        devices = {
            kind: {"eoj": eoj, "identification": server.node.things[bytes.fromhex(eoj)].readers[0x83](None).hex()}
            for kind, eoj, server in zip(self.kinds, self.eojs, self.servers, strict=True)
        }
        devices["pv"] = {"eoj": "027901", "address": f"{NETWORK}10"}  # whoever is there: it will be another one
        table = {"address": f"{NETWORK}1", "poll_s": POLL_S, "devices": devices}
        self.driver = create(Context("home", self.clock, {}.__getitem__), table)
        self.driver._link = MemoryLink(self.network, f"{NETWORK}1")
        self.driver._link.heard = self.driver._hear

    async def emit(self, item, remember=None):
        self.items.append(item)
        await self.memory.update(remember or {})

    async def play(self, steps, seconds):
        random.seed(SEED)  # of the driver's waits
        for number, server in enumerate(self.servers):
            await server.start(f"{NETWORK}{10 + number}")
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(echonet.serve(self.servers, self.simulated, self.log, steps)),
                group.create_task(self.driver.run(self.emit, self.memory)),
            ]
            await asyncio.sleep(seconds)
            self.status = self.driver.status()
            for task in tasks:
                task.cancel()
        for server in self.servers:
            self.tally += server.tally
            server.close()
        self.log.close()
        return self

    def served(self):
        return [json.loads(line) for line in self._path.read_text().splitlines()]

    def events(self, kind):
        return [(item.device, item.data) for item in self.items if isinstance(item, Event) and item.kind == kind]

    def samples(self, device):
        return [item for item in self.items if isinstance(item, Sample) and item.device == device]


def not_served(played):
    """Return the values of samples that no simulated device has served in the two minutes before."""
    lines = defaultdict(list)
    known = set()
    for line in played.served():
        for name, value in line.get("values", {}).items():
            known.add((line["device"], name))
            lines[line["device"], name].append((line["sim"] - START_MS, Decimal(value) if "kwh" in name else value))
    return [
        (device, sample.at, name, value)
        for device in played.kinds
        for sample in played.samples(device)
        for name, value in sample.values.items()
        if (device, name) in known
        and not any(sample.at - 120_000 <= at <= sample.at and said == value for at, said in lines[device, name])
    ]


@pytest.mark.looptime(noop_cycles=0)  # all is in memory: nothing comes from outside
async def test_a_file_of_every_fault_of_home_devices_makes_no_value_up_and_loses_no_device(tmp_path, steps):
    played = await Played(tmp_path).play(steps, SECONDS)
    assert not_served(played) == []
    for device in played.kinds:
        times = [sample.at for sample in played.samples(device)]
        assert times == sorted(set(times))
        assert times[-1] > (SECONDS - 3 * POLL_S) * 1000
        assert len(times) > 0.7 * SECONDS / POLL_S
        assert played.status["devices"][device]["lost"] is False
    assert played.events("device_moved") == [("battery", {"was": f"{NETWORK}11", "now": f"{NETWORK}77"})]
    assert [device for device, _ in played.events("device_replaced")] == ["pv"]
    assert len(played.events("device_back")) == len(played.events("device_lost")) >= 5
    silent = [(item.at, item.device) for item in played.items if isinstance(item, Event) and item.kind == "device_lost"]
    assert "battery" not in {
        device for at, device in silent if at < 1_150_000
    }  # slow, curt, refusing: all the same there

    # Every kind of fault was there, and each did its harm.
    acted = [line["step"]["do"] for line in played.served() if "step" in line]
    assert acted == [type(step).__struct_config__.tag for step in steps]
    assert set(acted) == set(echonet_steps.KINDS)
    harm = {"late", "curt", "refused", "lost", "announced", "malformed", "unanswered", "moved"}
    assert {name for name in harm if not played.tally[name]} == set()
    assert played.status["malformed"] >= 50
    assert played.status["announcements"] >= 200
