"""Every map with a control table: each of its modes is written to a unit that plays the map, and undone."""

import asyncio
import contextlib
import struct
from dataclasses import replace

import pytest

from drivers.api import Context, RefusedError
from drivers.contract import DictMemory, FastClock
from drivers.modbus import library
from drivers.modbus.driver import create
from simulators.house import House
from simulators.inverter import InverterServer
from simulators.modbus_maps import unit_of
from simulators.modbus_written import WrittenRegisters

HALF_FULL = replace(House(seed=1).at(1_780_239_600_000 + 12 * 3_600_000), soc_permille=500)
CONTROLLED = [name for name in library.known() if library.find(name).control]
MODES = [(name, mode) for name in CONTROLLED for mode in library.find(name).control["modes"]]
OURS = {"owned_by": "agent", "no_revert_timer": "accepted", "max_soc_percent": 95}
ARGUMENTS = {"charge": {"power_w": 1200}, "discharge_to_load": {"power_w": 1200}, "reserve": {"soc_percent": 40}}


async def told(driver, mode):
    """Command a mode as soon as the driver has read the device."""
    async with asyncio.timeout(10):
        while True:
            try:
                return await driver.command("battery", {"mode": mode, **ARGUMENTS.get(mode, {})})
            except RefusedError as error:
                if "state of charge" not in str(error) and "not connected" not in str(error):
                    raise
                await asyncio.sleep(0.02)


@pytest.mark.parametrize(("name", "mode"), MODES)
async def test_a_mode_is_written_and_undone(name, mode):
    register_map = library.find(name)
    written = WrittenRegisters(register_map)
    server = InverterServer({1: unit_of(register_map)}, lambda: HALF_FULL)
    server.controls[1] = written
    await server.start()
    line = {"host": "127.0.0.1", "port": server.port, "poll_s": 10, "gap_ms": 0, "connect_delay_ms": 0}
    devices = {"inverter": {"map": name, "battery": OURS}}
    driver = create(Context("modbus", FastClock(60), str), line | {"devices": devices})

    async def emit(item, remember=None):
        del item, remember

    task = asyncio.ensure_future(driver.run(emit, DictMemory()))
    try:
        answer = await told(driver, mode)
        assert answer["mode"] == mode
        touched = {step["set"] for step in register_map.control["modes"][mode]["do"]}
        assert written.changed()
        assert written.changed().keys() <= touched
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        await server.close()
    assert written.changed() == {}


def write(address, *words):
    return struct.pack(f">BHHB{len(words)}H", 16, address, len(words), 2 * len(words), *words)


def test_a_played_map_keeps_its_limits_and_counts_its_writes():
    storedge = WrittenRegisters(library.find("solaredge_storedge"))
    half = struct.unpack(">2H", struct.pack(">f", 50.0))
    assert storedge.answer(write(0xE008, *half[::-1])) == struct.pack(">BHH", 16, 0xE008, 2)
    assert storedge.answer(struct.pack(">BHH", 3, 0xE008, 2)) == struct.pack(">BB2H", 3, 4, *half[::-1])
    assert storedge.changed().keys() == {"reserve_percent"}
    assert storedge.writes == {"reserve_percent": 1, "stored": 1}
    over = struct.unpack(">2H", struct.pack(">f", 101.0))
    assert storedge.answer(write(0xE008, *over[::-1])) == b"\x90\x03"
    assert storedge.answer(write(0xE004, 9)) == b"\x90\x03"
    assert storedge.answer(write(0x0001, 9)) == b"\x90\x02"
    assert storedge.answer(struct.pack(">BHH", 6, 0xE004, 4)) == struct.pack(">BHH", 6, 0xE004, 4)
    for broken in (b"\x10", b"\x10\x00\x00\x00\x01\x04\x00", b"\x06\x00"):
        assert storedge.answer(broken) == bytes((broken[0] | 0x80, 3))
    assert storedge.answer(struct.pack(">BHH", 3, 0, 1)) is None


def test_a_setpoint_may_be_negative():
    victron = WrittenRegisters(library.find("victron_gx"))
    assert victron.answer(write(2700, 0x10000 - 500)) == struct.pack(">BHH", 16, 2700, 1)
    assert victron.bits["grid_setpoint_w"] == 0x10000 - 500
    assert victron.answer(write(2700, 0x10000 - 20_000)) == b"\x90\x03"
