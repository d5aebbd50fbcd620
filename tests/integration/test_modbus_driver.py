"""The Modbus driver against the inverter simulator: values, losses, neighbours, refusals, the seam's contract."""

import asyncio
import json
import logging
from contextlib import asynccontextmanager
from dataclasses import replace
from decimal import Decimal

import pytest

from drivers import contract
from drivers.api import ConfigError, Context, Event, LinkError, Sample
from drivers.contract import DictMemory, FastClock, Rig
from drivers.modbus import driver as driver_module
from drivers.modbus.driver import create
from simulators.clock import SimulatedClock
from simulators.house import House
from simulators.inverter import ILLEGAL_ADDRESS, InverterServer, Unit, huawei, sunspec, units_of
from simulators.log import ServedLog

NOON_MS = 1_780_239_600_000 + 12 * 3_600_000
NOON = House(seed=1).at(NOON_MS)


class Town:
    """A simulated line, a driver on it, and what it emitted."""

    def __init__(self, server, clock):
        self.server, self.clock, self.memory = server, clock, DictMemory()
        self.items, self.arrived = [], asyncio.Event()

    def build(self, devices=None, **table):
        devices = devices or {"inverter": {"map": "huawei_sun2000", "unit": 1}}
        line = {"host": "127.0.0.1", "port": self.server.port, "poll_s": 0.05, "timeout_s": 0.1, "gap_ms": 0}
        pauses = {"connect_delay_ms": 0}
        return create(Context("modbus", self.clock, str), line | pauses | {"devices": devices} | table)

    async def emit(self, item, remember=None):
        if remember is not None:
            self.memory.take(remember)
        self.items.append(item)
        self.arrived.set()

    def samples(self, device="inverter"):
        return [item for item in self.items if isinstance(item, Sample) and item.device == device]

    def events(self, device="inverter"):
        return [item.kind for item in self.items if isinstance(item, Event) and item.device == device]

    async def until(self, condition, within_s=5):
        async with asyncio.timeout(within_s):
            while not condition():
                self.arrived.clear()
                await self.arrived.wait()

    @asynccontextmanager
    async def running(self, driver):
        async def live():
            while True:
                try:
                    await driver.run(self.emit, self.memory)
                except LinkError:
                    await asyncio.sleep(0.02)

        task = asyncio.ensure_future(live())
        try:
            yield driver
        finally:
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task


@pytest.fixture
async def town():
    server = InverterServer(units_of(), lambda: NOON)
    await server.start()
    yield Town(server, FastClock())
    await server.close()


async def test_the_hybrids_values_have_our_names_units_and_signs(town):
    before = town.clock.boot_ms()
    async with town.running(town.build()) as driver:
        await town.until(town.samples)
    (sample, *_) = town.samples()
    assert before <= sample.at <= town.clock.boot_ms()
    assert sample.values == {
        "pv_power_w": NOON.pv_w,
        "ac_voltage_v": Decimal(2020 - NOON.load_w // 200) / 10,
        "ac_power_w": NOON.pv_w + NOON.battery_w,
        "ac_frequency_hz": sample.values["ac_frequency_hz"],
        "inverter_temperature_c": Decimal(250 + NOON.pv_w // 40) / 10,
        "inverter_state": "running",
        "pv_energy_kwh": Decimal(NOON.pv_ws // 36_000) / 100,
        "grid_power_w": NOON.grid_w,
        "export_energy_kwh": Decimal(NOON.export_ws // 36_000) / 100,
        "import_energy_kwh": Decimal(NOON.import_ws // 36_000) / 100,
        "battery_soc_percent": Decimal(NOON.soc_permille) / 10,
        "battery_mode": "running" if NOON.battery_w else "standby",
        "battery_power_w": NOON.battery_w,
        "battery_charge_energy_kwh": Decimal(NOON.charge_ws // 36_000) / 100,
        "battery_discharge_energy_kwh": Decimal(NOON.discharge_ws // 36_000) / 100,
    }
    about = driver.describe()["inverter"]
    assert (about["maker"], about["model"], about["serial"]) == ("Huawei", "SUN2000-5KTL-SIM", "SIM0000000001")
    assert about["registers"]["pv_energy_kwh"] == {"step": "0.01", "modulus": "42949672.96"}
    json.dumps(driver.describe())
    json.dumps(driver.status())


async def test_a_sunspec_inverter_says_itself_where_its_registers_are(town):
    async with town.running(town.build({"sun": {"map": "sunspec", "unit": 2}})) as driver:
        await town.until(lambda: town.samples("sun"))
    (sample, *_) = town.samples("sun")
    assert sample.values["pv_power_w"] == NOON.pv_w
    assert sample.values["pv_energy_kwh"] == Decimal(NOON.pv_ws // 3600) / 1000
    assert sample.values["battery_soc_percent"] == Decimal(NOON.soc_permille) / 10
    assert sample.values["battery_soh_percent"] is None
    assert sample.values["inverter_state"] == "running"
    assert driver.describe()["sun"]["serial"] == "SIM0000000002"


async def test_every_read_is_a_read_and_registers_are_merged(town):
    async with town.running(town.build()):
        await town.until(lambda: len(town.samples()) >= 3)
    assert town.server.writes == 0
    assert {function for _, function, _, _ in town.server.requests} == {3}
    assert {(address, count) for _, _, address, count in town.server.requests} == {
        (30000, 25), (32064, 44), (37100, 23), (37760, 24),
    }  # fmt: skip


async def test_a_device_that_falls_silent_gives_no_sample_one_event_and_comes_back(town):
    async with town.running(town.build()):
        await town.until(town.samples)
        town.server.silent.add(1)
        await town.until(lambda: town.events() == ["device_lost"])
        count = len(town.samples())
        lost = town.items[-1]
        assert "silent" in lost.data["reason"] or "mute" in lost.data["reason"]
        assert town.memory.get("lost") == ["inverter"]
        await asyncio.sleep(0.5)
        assert (len(town.samples()), town.events()) == (count, ["device_lost"])
        town.server.silent.clear()
        await town.until(lambda: len(town.samples()) > count)
    assert town.events() == ["device_lost", "device_back"]
    assert town.memory.get("lost") is None


async def test_one_lost_answer_is_no_event(town):
    async with town.running(town.build()):
        await town.until(town.samples)
        town.server.silent.add(1)
        asked = len(town.server.requests)
        await asyncio.sleep(0.08)
        town.server.silent.clear()
        count = len(town.samples())
        await town.until(lambda: len(town.samples()) > count)
    assert town.events() == []
    assert len(town.server.requests) > asked


async def test_a_loss_is_remembered_over_a_restart_of_the_agent(town):
    town.memory.take({"lost": ["inverter"]})
    async with town.running(town.build()):
        await town.until(town.samples)
    assert town.events() == ["device_back"]


async def test_a_dead_unit_costs_its_neighbours_one_time_out_in_each_back_off_period(town):
    town.server.silent.add(2)
    devices = {
        "dead": {"map": "huawei_sun2000", "unit": 2},
        "inverter": {"map": "huawei_sun2000", "unit": 1},
    }
    async with town.running(town.build(devices)):
        await town.until(lambda: town.events("dead") == ["device_lost"])
        loop = asyncio.get_running_loop()
        began, seen = loop.time(), len(town.samples())
        await town.until(lambda: len(town.samples()) >= seen + 12)
        took = loop.time() - began
    assert took < 12 * 0.05 + 2 * 0.1 + 0.15  # twelve ticks, at most one time-out in the second of back-off
    assert town.events() == []
    assert town.events("dead") == ["device_lost"]


async def test_many_dead_units_do_not_take_the_link_from_the_one_that_answers(town):
    dead = {f"dead{unit}": {"map": "huawei_sun2000", "unit": unit} for unit in range(3, 8)}
    town.server.silent |= {device["unit"] for device in dead.values()}
    opened = []
    town.server.rounds, rounds = lambda: opened.append(1) or rounds(), town.server.rounds
    async with town.running(town.build(dead | {"inverter": {"map": "huawei_sun2000", "unit": 1}}, timeout_s=0.05)):
        await town.until(lambda: len(town.samples()) >= 5)
        await town.until(lambda: all(town.events(name) == ["device_lost"] for name in dead))
    assert town.events() == []
    assert len(opened) == 1


async def test_a_link_that_is_cut_is_left_and_opened_again(town):
    async with town.running(town.build()):
        await town.until(town.samples)
        for _ in range(3):
            count = len(town.samples())
            for connection in list(town.server.connections):
                connection.hang_up()
            await town.until(lambda count=count: len(town.samples()) > count)
    assert town.events() == []


async def test_an_endpoint_that_is_not_there_is_one_loss_for_each_device(town):
    driver = town.build({"a": {"map": "sunspec", "unit": 1}, "b": {"map": "sunspec", "unit": 2}}, port=town.server.port)
    await town.server.close()
    async with town.running(driver):
        await town.until(lambda: town.events("a") and town.events("b"))
        await asyncio.sleep(0.1)
    assert town.events("a") == town.events("b") == ["device_lost"]
    assert town.samples("a") == []


class Refusing(Unit):
    """A hybrid that refuses every read over one register."""

    bad = 32085

    def read(self, first, count, balance):
        return None if first <= self.bad < first + count else super().read(first, count, balance)


async def test_a_refused_register_is_cornered_and_the_rest_is_served(town):
    whole = huawei()
    town.server.units[1] = Refusing(whole.device, whole.ranges, whole.cells, whole.constants)
    async with town.running(town.build()) as driver:
        await town.until(lambda: len(town.samples()) >= 3)
        asked_early = len(town.server.requests)
        await town.until(lambda: len(town.samples()) >= 6)
    for sample in town.samples():
        assert "ac_frequency_hz" not in sample.values
        assert len(sample.values) == 14
    assert driver.status()["devices"]["inverter"]["refused"] == {"ac_frequency_hz": ILLEGAL_ADDRESS}
    refused = [request for request in town.server.requests if request[2] <= 32085 < request[2] + request[3]]
    assert len(refused) <= 4
    assert len(town.server.requests) - asked_early < 3 * 8


async def test_a_unit_that_refuses_everything_is_lost_and_not_hammered(town):
    empty = Unit("nothing", (), ())
    town.server.units[1] = empty
    async with town.running(town.build()):
        await town.until(lambda: town.events() == ["device_lost"])
        asked = len(town.server.requests)
        await asyncio.sleep(0.4)
        assert len(town.server.requests) - asked <= 40
    assert town.samples() == []


async def test_a_unit_without_the_sunspec_marker_is_lost_with_the_reason(town):
    async with town.running(town.build({"sun": {"map": "sunspec", "unit": 1}})):
        await town.until(lambda: town.events("sun") == ["device_lost"])
    assert "no SunSpec marker" in town.items[-1].data["reason"]


async def test_a_sunspec_map_that_moves_is_found_again(town):
    async with town.running(town.build({"sun": {"map": "sunspec", "unit": 2}})):
        await town.until(lambda: town.samples("sun"))
        moved = sunspec()
        shift = 10
        constants = {address + shift if address > 40069 else address: w for address, w in moved.constants.items()}
        constants |= {40003: 76} | dict.fromkeys(range(40070, 40080), 0)
        cells = tuple(replace(cell, address=cell.address + shift) for cell in moved.cells)
        town.server.units[2] = Unit("sunspec", ((40000, 40300),), cells, constants)
        count = len(town.samples("sun"))
        await town.until(lambda: len(town.samples("sun")) >= count + 2)
    assert town.samples("sun")[-1].values["pv_power_w"] == NOON.pv_w


async def test_a_device_that_is_busy_is_asked_again_and_not_given_up(town):
    class Busy(InverterServer):
        left = 3

        def answer(self, unit_id, pdu, rounds):
            if pdu[1:3] == (37760).to_bytes(2) and self.left:
                self.left -= 1
                return bytes((0x83, 6))
            return super().answer(unit_id, pdu, rounds)

    server = Busy(units_of(), lambda: NOON)
    await server.start()
    try:
        busy = Town(server, FastClock())
        async with busy.running(busy.build()) as driver:
            await busy.until(lambda: any("battery_power_w" in sample.values for sample in busy.samples()))
        assert busy.events() == []
        assert [len(sample.values) for sample in busy.samples()][:4] == [10, 10, 10, 15]
        assert driver.status()["devices"]["inverter"]["later"] == 3
    finally:
        await server.close()


async def test_the_first_failure_is_a_warning_repeats_are_quiet_and_recovery_is_told(town, caplog):
    caplog.set_level(logging.INFO, logger=driver_module.__name__)
    async with town.running(town.build()):
        await town.until(town.samples)
        town.server.silent.add(1)
        await town.until(lambda: town.events() == ["device_lost"])
        town.server.silent.clear()
        await town.until(lambda: town.events()[-1:] == ["device_back"])
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]


async def test_slow_points_are_read_seldom(town, tmp_path):
    (tmp_path / "two.yaml").write_text(
        "maker: T\npoints:\n  pv_power_w: {address: 32064, type: s32}\n"
        "  battery_soc_percent: {address: 37760, type: u16, scale: 0.1, poll: slow}\n"
        "  ac_frequency_hz: {address: 32085, type: u16, scale: 0.01, poll: once}\n"
    )
    async with town.running(town.build({"inverter": {"map": "two"}}, maps=str(tmp_path), slow_s=0.3)):
        await town.until(lambda: len(town.samples()) >= 12)
    keys = [sorted(sample.values) for sample in town.samples()]
    assert keys[0] == ["ac_frequency_hz", "battery_soc_percent", "pv_power_w"]
    slow = sum("battery_soc_percent" in one for one in keys)
    assert 2 <= slow <= 4
    assert sum("ac_frequency_hz" in one for one in keys) == 1


async def test_each_sample_is_one_line_of_the_simulators_log_and_not_older(tmp_path):
    real = SimulatedClock()
    house, log = House(start_ms=real.unix_ms()), ServedLog(tmp_path / "log", real)
    server = InverterServer(units_of(), lambda: house.at(real.unix_ms()), log)
    await server.start()
    try:
        judged = Town(server, FastClock())
        async with judged.running(judged.build(timeout_s=2)):  # a loaded machine loses no answer
            await judged.until(lambda: len(judged.samples()) >= 8)
    finally:
        await server.close()
        log.close()
    lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    lines = [line for line in lines if "values" in line]
    offset_ms = judged.clock.unix_ms() - judged.clock.boot_ms()
    for sample, line in zip(judged.samples(), lines, strict=False):
        told = {name: str(value) for name, value in line["values"].items()}
        assert {name: str(value) for name, value in sample.values.items()} == told
        assert -2 <= sample.at + offset_ms - line["sim"] < 1000
    assert len(lines) - len(judged.samples()) in {0, 1}


async def test_it_keeps_up_with_six_hundredfold_time(town):
    house, clock = House(start_ms=NOON_MS), FastClock(600)
    begun = clock.boot_ms()
    server = InverterServer(units_of(), lambda: house.at(NOON_MS + clock.boot_ms() - begun))
    await server.start()
    try:
        fast = Town(server, clock)
        devices = {"inverter": {"map": "huawei_sun2000"}, "sun": {"map": "sunspec", "unit": 2}}
        started = clock.boot_ms()
        async with fast.running(fast.build(devices, poll_s=10, gap_ms=50)):
            await fast.until(lambda: len(fast.samples()) >= 60, within_s=20)
        simulated_s = (fast.samples()[59].at - started) / 1000
        assert simulated_s < 1.5 * 60 * 10
        assert fast.events() == []
    finally:
        await server.close()


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({}, "devices: missing"),
        ({"devices": {}}, "devices: no device"),
        ({"devices": {"a": {"map": "sunspec"}}}, "host: missing"),
        ({"devices": {"a": {"map": "sunspec"}}, "host": "h", "serial": {"port": "/dev/x"}}, "serial"),
        ({"devices": {"a": {"map": "nothing"}}, "host": "h"}, "devices.a.map = 'nothing': no such register map"),
        ({"devices": {"a": {"map": "sunspec", "unit": 300}}, "host": "h"}, "unit"),
        ({"devices": {"a": {"map": "sunspec"}}, "host": "h", "poll": 5}, "did you mean 'poll_s'?"),
        ({"devices": {"a": {"map": "sunspec"}}, "host": "h", "transport": "ascii"}, "transport = 'ascii'"),
        ({"devices": {"a": {"map": "sunspec"}}, "host": "h", "transport": "serial"}, "serial: missing"),
        ({"devices": {"a": {"map": "sunspec"}}, "serial": {"port": "/dev/x"}, "transport": "tcp"}, "transport = 'tcp'"),
        ({"devices": {"a": {"map": "sunspec"}}, "host": "h", "baudrate": 9600}, "baudrate = 9600"),
        ({"devices": {"a": {"map": "sunspec"}}, "host": "h", "poll_s": 0}, "poll_s = 0"),
    ],
)
async def test_a_wrong_table_says_what_to_do(table, said):
    with pytest.raises(ConfigError) as caught:
        create(Context("modbus", FastClock(), str), table)
    assert said in str(caught.value)
    assert caught.value.remedy


async def test_a_serial_line_may_be_configured_without_being_there():
    table = {"serial": {"port": "/dev/none", "baudrate": 19200, "parity": "E"}, "devices": {"a": {"map": "sunspec"}}}
    assert create(Context("modbus", FastClock(), str), table).devices == ("a",)


class SilentFault:
    """Servers for the contract: healthy, or with a fault until it is mended."""

    @staticmethod
    @asynccontextmanager
    async def bench(fault=None):
        server = InverterServer(units_of(), lambda: NOON)
        if fault == "silent":
            server.silent.add(1)
        if fault == "stranger":
            server.units.pop(1)
        if fault == "noise":
            honest = server.answer
            server.answer = lambda unit, pdu, rounds: b"\x64" + bytes(40)
        await server.start()

        def mend():
            server.silent.clear()
            server.units.update(units_of())
            if fault == "noise":
                server.answer = honest

        def judge(sample):
            return None if sample.values.get("pv_power_w") == NOON.pv_w else "another power"

        table = {
            "host": "127.0.0.1",
            "port": server.port,
            "poll_s": 0.1,
            "timeout_s": 0.2,
            "connect_delay_ms": 0,
            "devices": {"inverter": {"map": "huawei_sun2000", "unit": 1}},
        }
        yield Rig(table, silence=lambda: server.silent.add(1), mend=mend, judge=judge)
        await server.close()


@pytest.mark.slow
async def test_it_keeps_the_contract_of_the_seam():
    faults = {fault: lambda fault=fault: SilentFault.bench(fault) for fault in ("silent", "stranger", "noise")}
    await contract.check(create, SilentFault.bench, faults)
