"""The simulated home read by pychonet, a library of other people, so that driver and simulator share no mistake."""

import argparse
import asyncio
import contextlib
import json
from decimal import Decimal

import pychonet.echonetapiclient
import pytest
from pychonet import (
    DistributionPanelMeter,
    ECHONETAPIClient,
    ElectricVehicleChargerDischarger,
    ElectricWaterHeater,
    HomeAirConditioner,
    HomeSolarPower,
    MultipleInputPCS,
    StorageBattery,
)
from pychonet.lib.udpserver import UDPServer

from simulators import echonet, echonet_devices


@pytest.fixture
async def peer(home, monkeypatch):
    """pychonet on the box's address of the simulated home."""
    monkeypatch.setattr(pychonet.echonetapiclient, "ENL_PORT", home.port)
    server = UDPServer(local_ip=home.box)
    server.run(home.box, home.port, loop=asyncio.get_running_loop())
    client = ECHONETAPIClient(server=server)
    client._logger = lambda *_: None
    yield client
    tasks = list(server._tasks)
    with contextlib.suppress(ValueError):
        asyncio.get_running_loop().remove_reader(server._sock.fileno())
    server.close()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_pychonet_finds_and_reads_pv_and_battery(home, peer):
    host = home.address(11)
    await home.node(11, ["pv", "battery"])
    assert await peer.discover(host)
    assert sorted(peer._state[host]["instances"][2]) == [0x79, 0x7D]
    for code in (0x79, 0x7D):
        assert await peer.getAllPropertyMaps(host, 2, code, 1)
    pv, battery = HomeSolarPower(host, peer, 1), StorageBattery(host, peer, 1)
    balance = home.balance
    assert (await pv.update(0xE0)) == balance.pv_w
    assert (await battery.update(0xD3)) == -balance.battery_w  # as the Appendix counts: charging is positive
    assert (await battery.update(0xE4)) == balance.soc_permille // 10
    assert (await battery.update(0xD6)) == balance.discharge_ws // 3_600
    assert (await battery.update(0xD8)) == balance.charge_ws // 3_600


async def test_pychonet_finds_and_reads_ecocute_and_air_conditioner(home, peer):
    host = home.address(12)
    await home.node(12, ["ecocute", "aircon"])
    assert await peer.discover(host)
    assert {group: [*classes] for group, classes in peer._state[host]["instances"].items() if group != 0x0E} == {
        0x02: [0x6B],
        0x01: [0x30],
    }
    for group, code in ((0x02, 0x6B), (0x01, 0x30)):
        assert await peer.getAllPropertyMaps(host, group, code, 1)
    heater, room = ElectricWaterHeater(host, peer, 1), HomeAirConditioner(host, peer, 1)
    assert await heater.update([0xB0, 0xB2, 0xC2, 0xC3, 0xEA]) == {
        0xB0: "Automatic",
        0xB2: "not heating",
        0xC2: {"Out of Hot Water": "Normal", "Water leaking": "Normal", "Water frozen": "Normal"},
        0xC3: "Stopped",
        0xEA: "Stopped",
    }
    assert await heater.update([0xC1, 0xE1, 0xE2]) == {0xC1: 78, 0xE1: echonet_devices.tank_l(home.balance), 0xE2: 370}
    assert await room.update([0x80, 0xA0, 0xB0]) == {0x80: "on", 0xA0: "auto", 0xB0: "auto"}
    assert await room.update([0x84, 0xB3, 0xBB, 0xBE]) == {0x84: 450, 0xB3: 25, 0xBB: 26, 0xBE: 17}


async def test_pychonet_reads_inverter_vehicle_charger_and_distribution_board(home, peer):
    host = home.address(14)
    await home.node(14, ["pcs", "ev", "panel"])
    assert await peer.discover(host)
    for code in (0xA5, 0x7E, 0x87):
        assert await peer.getAllPropertyMaps(host, 0x02, code, 1)
    balance = home.balance
    both = MultipleInputPCS(host, peer, 1)
    assert await both.update(0xE7) == balance.pv_w + balance.battery_w
    assert await both.update(0xE0) == (balance.pv_ws + balance.discharge_ws - balance.charge_ws) // 3_600
    charger = ElectricVehicleChargerDischarger(host, peer, 1)
    assert await charger.update([0xC7, 0xD3, 0xDA]) == {0xC7: "Not Connected", 0xD3: 0, 0xDA: "Standby"}
    board = DistributionPanelMeter(host, peer, 1)
    assert await board.update([0xC0, 0xC1, 0xC2, 0xC6]) == {
        0xC0: balance.import_ws // 3_600,
        0xC1: balance.export_ws // 3_600,
        0xC2: 0.001,
        0xC6: balance.grid_w,
    }


async def test_what_pychonet_sets_at_the_air_conditioner_is_there_to_be_read(home, peer):
    host = home.address(13)
    await home.node(13, ["aircon"])
    assert await peer.discover(host)
    assert await peer.getAllPropertyMaps(host, 0x01, 0x30, 1)
    room = HomeAirConditioner(host, peer, 1)
    assert await room.setMode("cool")
    assert await room.setOperationalTemperature(28)
    assert await room.update([0xB0, 0xB3, 0xBB]) == {0xB0: "cool", 0xB3: 28, 0xBB: 29}
    assert await room.off()
    assert await room.update(0x80) == "off"


@pytest.mark.slow
async def test_the_program_serves_a_home_and_logs_what_it_served(home, tmp_path, listener):
    parser = argparse.ArgumentParser()
    echonet.configure(parser)
    words = ["--address", home.address(11), "--port", str(home.port), "--devices", "pv", "battery", "--apart"]
    words += ["--start", "2026-06-01T09:00:00+09:00", "--log", str(tmp_path / "served")]
    program = asyncio.ensure_future(echonet.run(parser.parse_args(words)))
    devices = {
        "pv": {"eoj": "027901", "address": home.address(11)},
        "battery": {"eoj": "027D01", "address": home.address(12)},
    }
    try:
        async with listener(home.table(devices)).running() as agent:
            await agent.until(lambda: agent.samples("pv") and agent.samples("battery"))
    finally:
        program.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await program
    served = [json.loads(line) for line in (tmp_path / "served").read_text().splitlines()]
    for device, name in (("pv", "pv_power_w"), ("battery", "battery_power_w")):
        logged = [line["values"][name] for line in served if line["device"] == device and name in line["values"]]
        assert all(sample.values[name] in logged for sample in agent.samples(device))
    energy = next(sample.values["pv_energy_kwh"] for sample in agent.samples("pv"))
    assert energy in [Decimal(line["values"]["pv_energy_kwh"]) for line in served if "pv_energy_kwh" in line["values"]]
