"""The simulated inverter on every line, read by a peer's client, and the troubles it was told to have."""

import asyncio
import logging
from contextlib import asynccontextmanager

import pytest
from pymodbus import FramerType
from pymodbus.client import AsyncModbusSerialClient, AsyncModbusTcpClient
from pymodbus.exceptions import ModbusException

from simulators.house import House
from simulators.inverter import InverterServer, huawei, sunspec
from simulators.modbus_transport import Trouble, parse

NOON = House(seed=1).at(1_780_239_600_000 + 12 * 3_600_000)


@asynccontextmanager
async def peer(place, folder, *troubles):
    """A server and pymodbus' client on it."""
    logging.getLogger("pymodbus.logging").setLevel(logging.CRITICAL)
    server = InverterServer({1: huawei(), 2: sunspec()}, lambda: NOON)
    server.framing, server.troubles = "rtu" if place == "rtu" else "tcp", [parse(text) for text in troubles]
    if place == "serial":
        server.start_serial(folder / "tty")
        client = AsyncModbusSerialClient(
            str(folder / "tty"), baudrate=115200, timeout=0.3, retries=0, reconnect_delay=0
        )
    else:
        await server.start()
        framer = FramerType.RTU if place == "rtu" else FramerType.SOCKET
        client = AsyncModbusTcpClient(
            "127.0.0.1", port=server.port, framer=framer, timeout=0.3, retries=0, reconnect_delay=0
        )
    assert await client.connect()
    try:
        yield client, server
    finally:
        client.close()
        await asyncio.sleep(0.01)
        await server.close()


PLACES = ("tcp", "rtu", "serial")


@pytest.mark.parametrize("place", PLACES)
async def test_a_peers_client_reads_the_inverter_on_every_line(place, tmp_path):
    async with peer(place, tmp_path) as (client, server):
        for _ in range(3):
            answer = await client.read_holding_registers(32064, count=2, device_id=1)
            assert client.convert_from_registers(answer.registers, client.DATATYPE.INT32) == NOON.pv_w
        assert (await client.read_holding_registers(40000, count=2, device_id=2)).registers == [0x5375, 0x6E53]
        assert (await client.read_holding_registers(1, count=2, device_id=1)).exception_code == 2
        assert server.writes == 0


@pytest.mark.parametrize("place", ["rtu", "serial"])
async def test_a_unit_that_is_not_there_says_nothing_on_a_serial_line(place, tmp_path):
    async with peer(place, tmp_path) as (client, _):
        with pytest.raises(ModbusException):
            await client.read_holding_registers(1, count=1, device_id=9)


async def test_troubles_do_what_they_are_called(tmp_path):
    async with peer("tcp", tmp_path) as (client, server):
        loop = asyncio.get_running_loop()

        async def ask(*troubles, address=32064, count=4):
            server.troubles[:] = [parse(text) for text in troubles]
            return await client.read_holding_registers(address, count=count, device_id=1)

        assert len((await ask("short")).registers) == 2
        assert len((await ask("short:keep=3")).registers) == 3
        assert (await ask("busy")).exception_code == 6
        assert (await ask("busy:unit=2")).registers
        assert (await ask("wrong_function")).function_code == 4
        began = loop.time()
        assert (await ask("slow:seconds=0.1")).registers
        assert loop.time() - began >= 0.1
        assert (await ask("twice")).registers
        assert (await ask("hang_up:register=32068")).registers  # just outside
        for trouble in ("dead:unit=1", "wrong_unit", "hang_up:register=32067"):
            with pytest.raises(ModbusException):
                await ask(trouble)
        for _ in range(50):
            if not client.connected:
                break
            await asyncio.sleep(0.01)
        assert not client.connected


@pytest.mark.parametrize("junk", [b"", b"\xff" * 300, bytes(range(256)), b"\x01\x10\x00\x00\x00\x01\xff", b"\0" * 7])
@pytest.mark.parametrize("framing", ["tcp", "rtu"])
async def test_no_bytes_of_a_client_hurt_the_server(framing, junk, tmp_path):
    async with peer(framing, tmp_path) as (client, server):
        _, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(junk)
        await writer.drain()
        assert (await client.read_holding_registers(32064, count=2, device_id=1)).registers
        writer.close()
        await writer.wait_closed()


def test_troubles_are_read_from_words():
    assert parse("late:rate=0.1,seconds=2,unit=1") == Trouble("late", rate=0.1, seconds=2.0, unit=1)
    assert parse("hang_up:register=32085") == Trouble("hang_up", register=32085)


@pytest.mark.parametrize(
    "text", ["", "broken", "late:rate=x", "late:speed=1", "late:rate=nan", "hang_up", "short:keep=-1"]
)
def test_what_is_no_trouble_is_said(text):
    with pytest.raises(ValueError, match=r"trouble|could not|needs|not 0 or more"):
        parse(text)
