"""The inverter simulator: a peer reads it, its registers are as documented, its log is what it served."""

import asyncio
import json
import os
import struct
import sys
from dataclasses import replace
from decimal import Decimal

import pytest

from simulators.clock import SimulatedClock
from simulators.house import House
from simulators.inverter import InverterServer, serve, units_of
from simulators.log import ServedLog

NOON_MS = 1_780_239_600_000 + 12 * 3_600_000
NIGHT_MS = NOON_MS + 14 * 3_600_000


def balance_at(unix_ms):
    return House(seed=1).at(unix_ms)


async def ask(port, unit, *reads, function=3):
    """Read with bare sockets: one answer PDU per (address, count)."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    answers = []
    for tid, (address, count) in enumerate(reads, start=1):
        writer.write(struct.pack(">HHHBBHH", tid, 0, 6, unit, function, address, count))
        head = await reader.readexactly(7)
        assert struct.unpack(">HHHB", head)[:2] == (tid, 0)
        answers.append(await reader.readexactly(struct.unpack(">HHHB", head)[2] - 1))
    writer.close()
    await writer.wait_closed()
    return answers


async def registers(port, unit, address, count):
    (pdu,) = await ask(port, unit, (address, count))
    assert pdu[:2] == bytes((3, 2 * count))
    return pdu[2:]


@pytest.fixture
async def noon():
    balance = balance_at(NOON_MS)
    server = InverterServer(units_of(), lambda: balance)
    await server.start()
    yield server, balance
    await server.close()


async def test_a_peers_client_walks_and_reads_the_sunspec_unit(noon):
    from sunspec2.modbus import client

    server, balance = noon

    def read():
        device = client.SunSpecModbusClientDeviceTCP(slave_id=2, ipaddr="127.0.0.1", ipport=server.port, timeout=2)
        try:
            device.scan(delay=0)
            inverter, battery, common = device.models[101][0], device.models[802][0], device.common[0]
            shown = (inverter.W.cvalue, inverter.WH.cvalue, inverter.Hz.cvalue, inverter.St.cvalue, battery.SoC.cvalue)
            models = [key for key in device.models if isinstance(key, int)]
            return models, shown, common.SN.cvalue, (inverter.DCW.cvalue, inverter.PF.cvalue, battery.SoH.cvalue)
        finally:
            device.close()

    models, (watts, watt_hours, hertz, state, charge), serial, absent = await asyncio.to_thread(read)
    assert models == [1, 101, 160, 802]
    assert serial == "SIM0000000002"
    assert absent == (None, None, None)
    assert watts == balance.pv_w + balance.battery_w > 0
    assert watt_hours == (balance.pv_ws + balance.discharge_ws) // 3600
    assert 49.9 < hertz < 50.1
    assert state == 4
    assert charge == pytest.approx(balance.soc_permille / 10)


async def test_the_hybrids_registers_are_those_of_the_makers_document(noon):
    server, balance = noon
    pv = await registers(server.port, 1, 32064, 44)
    battery = await registers(server.port, 1, 37760, 24)
    assert struct.unpack_from(">i", pv, 0) == (balance.pv_w,)
    assert struct.unpack_from(">i", pv, 32) == (balance.pv_w + balance.battery_w,)
    assert struct.unpack_from(">H", pv, 50) == (0x0200,)
    assert struct.unpack_from(">I", pv, 84) == (balance.pv_ws // 36_000,)
    assert struct.unpack_from(">H", battery, 0) == (balance.soc_permille,)
    assert struct.unpack_from(">i", battery, 10) == (-balance.battery_w,)  # charging counts +
    assert struct.unpack_from(">II", battery, 40) == (balance.charge_ws // 36_000, balance.discharge_ws // 36_000)
    assert (await registers(server.port, 1, 30000, 15)).rstrip(b"\0") == b"SUN2000-5KTL-SIM"


async def test_at_night_the_sun_is_gone_and_says_so():
    balance = balance_at(NIGHT_MS)
    server = InverterServer(units_of(), lambda: balance)
    await server.start()
    try:
        assert await registers(server.port, 2, 40070 + 38, 1) == b"\x00\x02"
        assert await registers(server.port, 1, 32064, 2) == bytes(4)
    finally:
        await server.close()


async def test_small_power_is_shown_with_another_scale_factor():
    balance = balance_at(NOON_MS)
    for pv_w, raw, factor in ((412, 4120, 0xFFFF), (4120, 4120, 0), (0, 0, 0)):
        data, served = units_of()[2].read(40070 + 14, 2, replace(balance, pv_w=pv_w, battery_w=0))
        assert struct.unpack(">2H", data) == (raw, factor)
        assert served == {"ac_power_w": pv_w}


@pytest.mark.parametrize(
    ("unit", "function", "read", "code"),
    [(1, 3, (100, 1), 2), (1, 3, (32100, 50), 2), (1, 3, (32064, 0), 3), (1, 3, (32064, 126), 3), (9, 3, (0, 1), 11),
     (1, 4, (32064, 2), 1), (1, 6, (47086, 1), 1), (2, 16, (40000, 1), 1)],
)  # fmt: skip
async def test_what_it_does_not_serve_is_answered_with_an_exception(noon, unit, function, read, code):
    server, _ = noon
    assert await ask(server.port, unit, read, function=function) == [bytes((function | 0x80, code))]
    assert server.writes == (1 if function in {6, 16} else 0)


@pytest.mark.parametrize(
    "noise", [b"\xff" * 64, struct.pack(">HHHB", 1, 0, 1, 1), struct.pack(">HHH", 1, 0, 255) + bytes(300)]
)
async def test_a_client_that_talks_nonsense_is_hung_up_on_and_others_go_on(noon, noise):
    server, _ = noon
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(noise)
    with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
        await reader.readexactly(1)
    writer.close()
    assert len(await registers(server.port, 1, 32064, 2)) == 4


def clock_at(unix_ms):
    return SimulatedClock(real_ms=lambda: unix_ms)


async def test_a_complete_set_is_one_line_and_a_broken_one_is_no_served_line(tmp_path):
    clock, balance = clock_at(NOON_MS), balance_at(NOON_MS)
    log = ServedLog(tmp_path / "log", clock)
    server = InverterServer(units_of(), lambda: balance, log)
    await server.start()
    pv, meter, battery = (32064, 44), (37113, 10), (37760, 24)
    await ask(server.port, 1, pv, meter, battery, pv, meter, battery, pv, pv, battery, (30000, 25), meter, pv)
    await server.close()
    log.close()
    lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert ["values" in line for line in lines] == [True, True, False, True, False]
    first = lines[0]
    assert (first["t"], first["sim"], first["device"]) == (NOON_MS, NOON_MS, "inverter")
    values = first["values"]
    assert values.keys() == units_of()[1].quantities
    assert (values["pv_power_w"], values["battery_power_w"]) == (balance.pv_w, balance.battery_w)
    assert Decimal(values["pv_energy_kwh"]) == Decimal(balance.pv_ws // 36_000) / 100
    assert lines[2]["partial"].keys() < values.keys()


async def test_a_line_is_written_before_its_answer_leaves(tmp_path):
    clock, balance = clock_at(NOON_MS), balance_at(NOON_MS)
    log = ServedLog(tmp_path / "log", clock)
    server = InverterServer(units_of(), lambda: balance, log)
    await server.start()
    await ask(server.port, 1, (32064, 44), (37113, 10), (37760, 24))
    assert len((tmp_path / "log").read_text().splitlines()) == 1
    await server.close()
    log.close()


async def test_serving_ends_when_cancelled_and_frees_its_port():
    clock = SimulatedClock()
    house, ready = House(start_ms=clock.unix_ms()), asyncio.Event()
    probe = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    port = probe.sockets[0].getsockname()[1]
    probe.close()
    await probe.wait_closed()
    for _ in range(2):
        ready.clear()
        serving = asyncio.ensure_future(serve(house, clock, port=port, ready=ready))
        await ready.wait()
        assert len(await registers(port, 1, 32064, 2)) == 4
        serving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await serving


@pytest.mark.slow
async def test_the_command_serves_anyones_client(tmp_path):
    log = tmp_path / "served.jsonl"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "simulators", "inverter", "--port", "0", "--speed", "60",
        "--start", "2026-06-01T12:00:00+09:00", "--log", str(log),
        stdout=asyncio.subprocess.PIPE, env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    try:
        said = (await process.stdout.readline()).decode()
        port = int(said.split("127.0.0.1:")[1].split(",")[0])
        await ask(port, 1, (32064, 44), (37113, 10), (37760, 24))
        (line,) = [json.loads(text) for text in log.read_text().splitlines()]
        assert line["values"]["pv_power_w"] > 0
        process.terminate()
        assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
