"""Every map whose battery is commanded: while its device says that the grid is gone nothing at all is written to it."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
from playing import Commanded, saying

from drivers.api import RefusedError
from drivers.modbus import library
from drivers.modbus.sunspec_points import table
from simulators.house import House
from simulators.modbus_chains import chain_of, models_of

EVENING = replace(
    House(seed=1).at(1_780_239_600_000 + 12 * 3_600_000),
    soc_permille=500,
    pv_w=0,
    battery_w=800,
    load_w=1_000,
    grid_w=200,
)
PAGE = (Path(__file__).parents[2] / "docs" / "battery.md").read_text(encoding="utf-8")
CONTROLLED = [name for name in library.known() if library.find(name).control]
OURS = {"owned_by": "agent", "no_revert_timer": "accepted", "stored_writes_per_day": 200}
ARGUMENTS = {"charge": {"power_w": 500}, "discharge_to_load": {"power_w": 500}, "reserve": {"soc_percent": 60}}
METER = 203
LONGEST_SIGN_S = 100
"""A sign of life for a timer of five minutes is due so often."""


def voltages(name):
    return [point.quantity for point in library.find(name).points if point.quantity.startswith("grid_voltage_")]


def tellings(name):
    """Every way in which a map's device says that the grid is gone, as what its points then hold."""
    outage = library.find(name).control.get("outage")
    if outage is not None:
        return [{outage["quantity"]: value} for value in outage["values"]]
    return [dict.fromkeys(voltages(name), 0)] if voltages(name) else []


OUTAGES = [(name, told) for name in CONTROLLED for told in tellings(name)]


def row_of(name):
    return next(line.split("|")[1:-1] for line in PAGE.splitlines() if line.startswith(f"| `{name}` |"))


@pytest.fixture
async def devices():
    opened = []

    async def play(name):
        device = Commanded(library.find(name), EVENING, poll_s=5)
        await device.server.start()
        opened.append(device)
        return device

    yield play
    for device in opened:
        await device.server.close()


async def nothing_is_written_until_the_grid_is_back(device, said, outage):
    modes = list(device.map.control["modes"])
    async with device.running(device.build(OURS)) as driver:

        async def ask(mode):
            await driver.command("battery", {"mode": mode, "for_s": 36_000, **ARGUMENTS.get(mode, {})})

        await ask(modes[0])
        said |= outage
        await device.rounds(1)
        assert driver.status()["batteries"]["inverter"]["outage"] is True
        count, began = len(device.control.order), device.clock.ms
        while device.clock.ms < began + 1000 * LONGEST_SIGN_S:
            await device.rounds(1)
        with pytest.raises(RefusedError, match="grid"):
            await ask(modes[-1])
        assert len(device.control.order) == count
        said.clear()
        await device.rounds(2)
        assert "outage" not in driver.status()["batteries"]["inverter"]
        assert [kind for kind in device.receiver.kinds() if kind.startswith("grid_")] == ["grid_lost", "grid_back"]
        await ask("normal")
        assert device.control.changed() == {}
        await ask(modes[-1])
        assert len(device.control.order) > count


@pytest.mark.parametrize(
    ("name", "outage"), OUTAGES, ids=lambda one: one if isinstance(one, str) else "-".join(map(str, one.values()))
)
async def test_an_outage_that_the_device_tells_freezes_everything(devices, name, outage):
    device, said = await devices(name), {}
    device.server.units[1] = saying(device.server.units[1], device.map, said)
    await nothing_is_written_until_the_grid_is_back(device, said, outage)


async def test_an_outage_that_a_sunspec_meter_tells_freezes_everything(devices):
    device, said = await devices("sunspec_storage"), {}
    chain = chain_of((1, 103, 120, 123, 124, 160, METER))
    assert models_of(device.server.units[1]).items() <= models_of(chain).items()
    meter, rows = models_of(chain)[METER], table(METER).points.values()
    volts = {meter + row.at for row in rows if row.name.startswith(("PhV", "PPV", "LNV"))}
    cells = [
        replace(cell, raw=lambda now, cell=cell: 0 if said else cell.raw(now)) if cell.address in volts else cell
        for cell in chain.cells
    ]
    device.server.units[1] = replace(chain, cells=tuple(cells))
    await nothing_is_written_until_the_grid_is_back(device, said, {"grid": "gone"})


@pytest.mark.parametrize("name", CONTROLLED)
def test_the_manual_says_which_maps_do_not_tell_an_outage(name):
    told_by = row_of(name)[4].strip()
    assert told_by
    if name == "sunspec_storage":
        assert "has a meter" in told_by
    else:
        assert told_by.startswith("not told") == (tellings(name) == []), told_by
        assert ("voltages" in re.sub("not told.*", "", told_by)) == (
            "outage" not in library.find(name).control and bool(voltages(name))
        )
