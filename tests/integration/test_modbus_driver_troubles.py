"""The Modbus driver on bad lines: devices that hang up, answer in part, late or not at all; what is learnt is kept."""

import asyncio
import json
from contextlib import asynccontextmanager, suppress
from dataclasses import replace

import pytest

from drivers.api import Context, Event, LinkError, Sample
from drivers.contract import DictMemory, FastClock
from drivers.modbus import driver as driver_module
from drivers.modbus.driver import create
from drivers.modbus.endpoints import SerialEndpoint, TcpEndpoint
from drivers.modbus.planner import MOST_REGISTERS
from simulators.house import House
from simulators.inverter import InverterServer, units_of
from simulators.modbus_transport import parse

NOON_MS = 1_780_239_600_000 + 12 * 3_600_000
NOON = House(seed=1).at(NOON_MS)
MAP = """
maker: T
points:
  pv_power_w: {address: 32064, type: s32}
  ac_voltage_v: {address: 32066, type: u16, scale: 0.1}
  ac_power_w: {address: 32080, type: s32}
  ac_frequency_hz: {address: 32085, type: u16, scale: 0.01}
  inverter_temperature_c: {address: 32087, type: s16, scale: 0.1}
  pv_energy_kwh: {address: 32106, type: u32, scale: 0.01}
  battery_soc_percent: {address: 37760, type: u16, scale: 0.1}
"""


class Bench:
    """A line with troubles, a driver on it that is restarted when it fails, and what came of it."""

    def __init__(self, server, folder, clock=None):
        self.server, self.folder = server, folder
        self.clock, self.memory, self.items = clock or FastClock(), DictMemory(), []
        self.opened, self.moved = 0, asyncio.Event()
        (folder / "small.yaml").write_text(MAP)

    async def emit(self, item, remember=None):
        if remember is not None:
            self.memory.take(remember)
        self.items.append(item)
        self.moved.set()

    def build(self, devices=None, **table):
        line = {"poll_s": 0.05, "timeout_s": 0.2, "gap_ms": 0, "connect_delay_ms": 0, "maps": str(self.folder)}
        if "serial" not in table:
            line |= {"host": "127.0.0.1", "port": self.server.port}
        return create(
            Context("modbus", self.clock, str), line | {"devices": devices or {"inv": {"map": "small"}}} | table
        )

    @asynccontextmanager
    async def running(self, driver):
        async def live():
            while True:
                self.opened += 1
                with suppress(LinkError):
                    await driver.run(self.emit, self.memory)
                await asyncio.sleep(0.02)

        task = asyncio.ensure_future(live())
        try:
            yield driver
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    def samples(self, device="inv"):
        return [one for one in self.items if isinstance(one, Sample) and one.device == device]

    def events(self, device="inv"):
        return [one.kind for one in self.items if isinstance(one, Event) and one.device == device]

    async def until(self, condition, within_s=10):
        async with asyncio.timeout(within_s):
            while not condition():
                self.moved.clear()
                with suppress(TimeoutError):  # a condition may also concern what is no item
                    await asyncio.wait_for(self.moved.wait(), 0.05)


@asynccontextmanager
async def bench(folder, *troubles, framing="tcp", serial=False):
    server = InverterServer(units_of(("huawei", "huawei")), lambda: NOON)
    server.framing, server.troubles = framing, [parse(text) for text in troubles]
    if serial:
        server.start_serial(folder / "tty")
    else:
        await server.start()
    try:
        yield Bench(server, folder)
    finally:
        await server.close()


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch, request):
    """A device that misses a round is asked again soon, because these lines are bad all the time."""
    if "back_off" not in request.node.name:
        monkeypatch.setattr(driver_module, "FIRST_WAIT_S", 0.05)
        monkeypatch.setattr(driver_module, "LONGEST_WAIT_S", 0.05)


LINES = {
    "tcp": {},
    "rtu_over_tcp": {"transport": "rtu_over_tcp"},
    "serial": {"serial": {"port": "tty", "baudrate": 115200}},
}


@asynccontextmanager
async def lined(line, folder, *troubles):
    framing = "rtu" if line == "rtu_over_tcp" else "tcp"
    async with bench(folder, *troubles, framing=framing, serial=line == "serial") as one:
        table = dict(LINES[line])
        if line == "serial":
            table["serial"] = {**table["serial"], "port": str(folder / "tty")}
        yield one, table


@pytest.mark.parametrize("line", LINES)
async def test_the_same_device_reads_the_same_on_every_line(line, tmp_path):
    async with lined(line, tmp_path) as (one, table), one.running(one.build(**table)):
        await one.until(one.samples)
    values = one.samples()[0].values
    assert len(values) == 7
    assert (values["pv_power_w"], values["ac_power_w"]) == (NOON.pv_w, NOON.pv_w + NOON.battery_w)
    assert one.server.writes == 0


@pytest.mark.parametrize("line", LINES)
async def test_a_dead_unit_costs_its_neighbour_one_time_out_in_each_back_off_period(line, tmp_path):
    devices = {"dead": {"map": "small", "unit": 2}, "inv": {"map": "small"}}
    async with (
        lined(line, tmp_path, "dead:unit=2") as (one, table),
        one.running(one.build(devices, **table)) as driver,
    ):
        await one.until(lambda: one.events("dead") == ["device_lost"])
        before = driver.status()["link"]["timeouts"]
        seen = len(one.samples())
        began = asyncio.get_running_loop().time()
        await one.until(lambda: len(one.samples()) >= seen + 12)
        took_s = asyncio.get_running_loop().time() - began
        spent = driver.status()["link"]["timeouts"] - before
    assert spent <= 1 + took_s / 0.8  # the first back-off period is 0.8 … 1 s
    assert one.events() == []
    assert one.opened == 1


async def test_a_register_that_makes_the_device_hang_up_is_cornered_and_the_rest_is_served(tmp_path):
    async with bench(tmp_path, "hang_up:register=32085") as one:
        async with one.running(one.build()) as driver:
            await one.until(lambda: any(len(sample.values) == 6 for sample in one.samples()))
            await one.until(lambda: '"refused": {"ac' in json.dumps(one.memory.content))
            cuts = driver.status()["devices"]["inv"]["cuts"]
            seen = len(one.samples())
            await one.until(lambda: len(one.samples()) >= seen + 5)
            assert driver.status()["devices"]["inv"]["cuts"] == cuts <= 16
            assert driver.status()["devices"]["inv"]["refused"] == {"ac_frequency_hz": 0}
            assert driver.quality("inv")["ac_frequency_hz"] == "bad"
            assert driver.quality("inv")["pv_power_w"] == "good"
        blocks = {request[2:] for request in one.server.requests[-8:]}
        assert blocks == {(32064, 18), (32087, 1), (32106, 2), (37760, 1)}
    assert "device_lost" not in one.events()[2:]


@pytest.mark.slow
@pytest.mark.parametrize("line", ["rtu_over_tcp", "serial"])
async def test_a_register_that_leaves_a_unit_silent_is_cornered_too(line, tmp_path):
    """On a serial line no device can hang up; it may just not answer a read over what it does not have."""
    async with (
        lined(line, tmp_path, "dead:register=32085") as (one, table),
        one.running(one.build(timeout_s=0.15, **table)) as driver,
    ):
        await one.until(lambda: '"refused": {"ac' in json.dumps(one.memory.content), within_s=20)
        seen, silences = len(one.samples()), driver.status()["devices"]["inv"]["silences"]
        await one.until(lambda: len(one.samples()) >= seen + 5)
        assert driver.status()["devices"]["inv"]["refused"] == {"ac_frequency_hz": 0}
        assert driver.status()["devices"]["inv"]["silences"] == silences
    assert len(one.samples()[-1].values) == 6
    assert "device_lost" not in one.events()[1:]


@pytest.mark.slow
async def test_a_unit_that_is_off_for_a_while_is_convicted_of_nothing(tmp_path):
    async with bench(tmp_path) as one, one.running(one.build(timeout_s=0.05)) as driver:
        await one.until(one.samples)
        for _ in range(6):
            one.server.silent.add(1)
            lost = driver.status()["devices"]["inv"].get("silences", 0) + 3
            await one.until(lambda lost=lost: driver.status()["devices"]["inv"].get("silences", 0) >= lost)
            one.server.silent.clear()
            seen = len(one.samples())
            await one.until(lambda seen=seen: len(one.samples()) > seen)
        await one.until(lambda: len(one.samples()[-1].values) == 7)
        assert driver.status()["devices"]["inv"]["refused"] == {}
    assert "learnt" not in one.memory.content


async def test_what_was_learnt_outlives_a_restart(tmp_path):
    async with bench(tmp_path, "hang_up:register=32085") as one:
        async with one.running(one.build()):
            await one.until(lambda: '"refused": {"ac' in json.dumps(one.memory.content))
        one.items.clear()
        one.opened = 0
        async with one.running(one.build()) as driver:
            await one.until(lambda: len(one.samples()) >= 5)
        assert one.opened == 1
        assert "cuts" not in driver.status()["devices"]["inv"]
    assert all(len(sample.values) == 6 for sample in one.samples())


async def test_an_energy_that_is_zero_at_night_has_no_value_over_a_restart_of_the_agent(tmp_path):
    async with bench(tmp_path) as one:
        async with one.running(one.build()):
            await one.until(lambda: "counted" in one.memory.content)
        one.items.clear()
        one.server.balance = lambda: replace(NOON, pv_ws=0, discharge_ws=0)
        one.memory.content = json.loads(json.dumps(one.memory.content))
        async with one.running(one.build()):
            await one.until(one.samples)
        assert one.samples()[0].values["pv_energy_kwh"] is None
        one.memory.content["counted"] = {"inv": [5, None], "x": 1}
        async with one.running(one.build()):
            await one.until(lambda: one.samples()[-1].values["pv_energy_kwh"] == 0)


async def test_a_link_that_is_cut_at_random_convicts_no_register(tmp_path):
    async with bench(tmp_path, "hang_up:register=32064,rate=0.15") as one:
        async with one.running(one.build()) as driver:
            await one.until(lambda: len(one.samples()) >= 30, within_s=20)
        assert driver.status()["devices"]["inv"]["refused"] == {}


async def test_a_device_that_takes_no_request_at_all_is_convicted_of_nothing(tmp_path):
    """It has another client and hangs up on us, whatever we ask."""
    everywhere = [f"hang_up:register={address}" for address in (32064, 32106, 37760)]
    async with bench(tmp_path, *everywhere) as one, one.running(one.build()) as driver:
        await one.until(lambda: one.opened >= 12)
        assert driver.status()["devices"]["inv"]["refused"] == {}
        one.server.troubles.clear()
        await one.until(lambda: any(len(sample.values) == 7 for sample in one.samples()))


async def test_a_truncated_answer_serves_what_it_covers_and_the_rest_is_read_on_its_own(tmp_path):
    async with bench(tmp_path, "short:keep=18") as one:
        async with one.running(one.build()) as driver:
            await one.until(lambda: len(one.samples()) >= 4)
        assert driver.status()["devices"]["inv"]["truncated"] == 1
        assert {request[2:] for request in one.server.requests[-8:]} == {
            (32064, 18),
            (32085, 3),
            (32106, 2),
            (37760, 1),
        }
    assert [len(sample.values) for sample in one.samples()][:3] == [5, 7, 7]
    assert {sample.values["pv_power_w"] for sample in one.samples()} == {NOON.pv_w}


@pytest.mark.slow
@pytest.mark.parametrize("line", LINES)
@pytest.mark.parametrize(
    "trouble", ["late:rate=0.2,seconds=0.3", "wrong_unit:rate=0.2", "wrong_function:rate=0.2", "twice"]
)
async def test_no_trouble_brings_a_wrong_value(line, trouble, tmp_path):
    async with lined(line, tmp_path, trouble) as (one, table):
        async with one.running(one.build(timeout_s=0.15, **table)):
            await one.until(lambda: len(one.samples()) >= 5, within_s=25)
        told = {
            name: {sample.values[name] for sample in one.samples() if name in sample.values}
            for name in ("pv_power_w", "ac_voltage_v")
        }
    assert told["pv_power_w"] == {NOON.pv_w}
    assert len(told["ac_voltage_v"]) == 1


async def test_a_value_that_is_not_read_any_more_is_stale_and_one_that_never_was_is_not_implemented(tmp_path):
    async with bench(tmp_path) as one:
        (tmp_path / "odd.yaml").write_text(
            "maker: T\npoints:\n  pv_power_w: {address: 32064, type: s32}\n"
            "  battery_soc_percent: {address: 37761, type: u16, sentinels: [0]}\n"
        )
        async with one.running(one.build({"inv": {"map": "odd"}})) as driver:
            await one.until(one.samples)
            assert driver.quality("inv") == {"pv_power_w": "good", "battery_soc_percent": "not_implemented"}
            assert driver.status()["devices"]["inv"]["quality"] == {"battery_soc_percent": "not_implemented"}
            one.server.silent.add(1)
            await one.until(lambda: driver.quality("inv")["pv_power_w"] == "stale")


@pytest.mark.parametrize(
    ("endpoint", "registers", "gap"),
    [
        (TcpEndpoint("h"), MOST_REGISTERS, MOST_REGISTERS),
        (TcpEndpoint("h", framing="rtu"), MOST_REGISTERS, MOST_REGISTERS),
        (SerialEndpoint("p", 9600), MOST_REGISTERS, 16),
        (TcpEndpoint("h", framing="rtu", baudrate=9600), MOST_REGISTERS, 16),
        (SerialEndpoint("p", 19200), MOST_REGISTERS, 25),
        (SerialEndpoint("p", 2400), 48, 10),
        (SerialEndpoint("p", 115200), MOST_REGISTERS, 120),
    ],
)
def test_reads_are_merged_as_far_as_the_speed_of_the_line_makes_it_worth_it(endpoint, registers, gap):
    assert endpoint.limits.max_registers == pytest.approx(registers, abs=2)
    assert endpoint.limits.max_gap == pytest.approx(gap, abs=2)


async def test_a_slow_line_is_asked_for_smaller_blocks(tmp_path):
    async with lined("serial", tmp_path) as (one, table):
        table["serial"] = {**table["serial"], "baudrate": 2400}
        async with one.running(one.build(poll_s=10, timeout_s=1, **table)):
            await one.until(one.samples)
        blocks = {request[2:] for request in one.server.requests}
    assert blocks == {(32064, 3), (32080, 8), (32106, 2), (37760, 1)}
