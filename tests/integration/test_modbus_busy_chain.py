"""A battery behind a busy SunSpec device: a mode that was left on is undone, whatever the walk of its chain met."""

import random
from dataclasses import replace

import pytest
from playing import Commanded

from drivers.modbus import driver as driver_module
from drivers.modbus import library
from simulators.house import House
from simulators.modbus_transport import parse

EVENING = replace(House(seed=1).at(1_780_239_600_000 + 12 * 3_600_000), soc_permille=500)
OURS = {"owned_by": "agent", "no_revert_timer": "accepted", "stored_writes_per_day": 200}


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("trouble", ["busy:rate=0.2", "wrong_function:rate=0.1"])
async def test_a_battery_is_restored_through_a_busy_or_garbled_chain_on_one_connection(monkeypatch, trouble, seed):
    monkeypatch.setattr(driver_module, "FIRST_WAIT_S", 0.0)
    device = Commanded(library.find("sunspec_storage"), EVENING, poll_s=5)
    await device.server.start()
    try:
        async with device.dying(device.build(OURS)) as driver:
            await driver.command("battery", {"mode": "charge", "for_s": 36_000, "power_w": 500})
        assert device.control.changed()
        device.server.troubles, device.server.dice = [parse(trouble)], random.Random(seed)
        async with device.running(device.build(OURS)) as driver:
            for _ in range(40):
                if not device.control.changed():
                    break
                await device.rounds(1)
            assert device.control.changed() == {}
            assert driver.status()["link"].get("timeouts", 0) == 0
    finally:
        await device.server.close()
