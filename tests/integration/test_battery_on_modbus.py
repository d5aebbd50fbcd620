"""A battery commanded over Modbus against the simulated hybrid: every mishap ends in normal, read-only never writes."""

import argparse
import asyncio
import contextlib
import json
from dataclasses import replace
from datetime import datetime

import pytest

from drivers import contract
from drivers.api import ConfigError, Context, Event, LinkError, RefusedError, Sample
from drivers.battery.modes import MODES
from drivers.battery.tariff import JST
from drivers.contract import DictMemory, FastClock
from drivers.modbus import commands
from drivers.modbus.driver import create
from edge_agent import config, doctor
from edge_agent.app import Agent
from edge_agent.supervisor import Supervisor
from simulators.house import House
from simulators.inverter import InverterServer, units_of
from simulators.inverter_control import FAILURE, huawei_control

NOON_MS = 1_780_239_600_000 + 12 * 3_600_000
HALF_FULL = replace(House(seed=1).at(NOON_MS), soc_permille=500)
SPEED = 60
POLL_S = 10
OURS = {"owned_by": "agent", "no_revert_timer": "accepted", "max_soc_percent": 95}


class Line:
    """A simulated hybrid at sixty times real speed, and drivers that come and go with one memory."""

    def __init__(self):
        self.clock = FastClock(SPEED)
        self.control = huawei_control(self.clock.unix_ms)
        self.server = InverterServer(units_of(), lambda: HALF_FULL)
        self.server.controls[1] = self.control
        self.memory = DictMemory()
        self.events = []
        self.port = 0

    async def open(self):
        await self.server.start(port=self.port)
        self.port = self.server.port

    def build(self, battery=OURS, **device):
        table = {"map": "huawei_sun2000", "unit": 1, **({"battery": battery} if battery else {}), **device}
        line = {"host": "127.0.0.1", "port": self.port or 502, "poll_s": POLL_S, "timeout_s": 0.2, "gap_ms": 0}
        return create(
            Context("modbus", self.clock, str),
            line | {"connect_delay_ms": 0, "devices": {"inverter": table, "sun": {"map": "sunspec", "unit": 2}}},
        )

    async def emit(self, item, remember=None):
        if remember is not None:
            self.memory.take(remember)
        if isinstance(item, Event):
            self.events.append((item.kind, dict(item.data)))

    @contextlib.asynccontextmanager
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
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def back_in_normal(self, within_s=60):
        """Wait in simulated time until the device is as it was."""
        began = self.clock.boot_ms()
        await self.until(lambda: self.control.is_normal)
        assert self.clock.boot_ms() - began <= within_s * 1000

    async def until(self, condition, within_s=8):
        async with asyncio.timeout(within_s):
            while not condition():  # noqa: ASYNC110  (the simulator's state has no event)
                await asyncio.sleep(0.01)

    async def told(self, driver, mode, **arguments):
        """Command once the driver has read a state of charge."""
        async with asyncio.timeout(8):
            while True:
                try:
                    return await driver.command("battery", {"mode": mode, **arguments})
                except RefusedError as error:
                    if "state of charge" not in str(error) and "not connected" not in str(error):
                        raise
                    await asyncio.sleep(0.02)


@pytest.fixture
async def line():
    line = Line()
    await line.open()
    yield line
    await line.server.close()


CHARGE = [("forced_charge_w", 1500), ("forced_period_min", 2), ("forced_command", 1)]


@pytest.mark.slow
async def test_a_charge_command_is_written_in_order_refreshed_and_undone_at_its_deadline(line):
    async with line.running(line.build()) as driver:
        answer = await line.told(driver, "charge", power_w=1500, for_s=290)
        assert answer["mode"] == "charge"
        assert line.control.order == CHARGE
        health = driver.status()["batteries"]["inverter"]
        assert (health["owner"], health["power_w"], health["no_revert_timer"]) == ("person", 1500, "accepted")
        assert health["writes"] == {"stored": 0, "ram": 3, "stored_today": 0, "stored_per_day": 24}
        await line.until(lambda: line.control.order.count(("forced_command", 1)) >= 5)
        assert line.control["forced_command"] == 1
        await line.until(lambda: driver.status()["batteries"]["inverter"]["mode"] == "normal")
        assert line.control.changed() == {}
        assert line.control.writes["stored"] == 0
    assert [data["mode"] for kind, data in line.events if kind == "battery_mode"] == ["charge", "normal"]


@pytest.mark.parametrize(
    ("mode", "arguments", "changed"),
    [
        ("hold", {}, {"max_discharge_w": 0}),
        ("discharge_to_load", {"power_w": 1200}, {"max_discharge_w": 1200, "working_mode": 2}),
        ("reserve", {"soc_percent": 80}, {"reserve_percent": 800}),
    ],
)
async def test_each_mode_changes_its_settings_and_stopping_the_agent_puts_them_back(line, mode, arguments, changed):
    async with line.running(line.build()) as driver:
        await line.told(driver, mode, **arguments)
        assert line.control.changed() == changed
        assert line.control.writes["stored"] == len(changed)
    assert line.control.changed() == {}
    assert line.memory.content.get("battery/at/unit 1") is None


@pytest.mark.parametrize(
    "battery", [None, {"owned_by": "third_party", "no_revert_timer": "accepted", "modes": ["charge", "hold"]}]
)
async def test_read_only_means_not_one_write_function_code_over_restarts_and_scans(line, battery, capsys):
    codes = set()
    answer = line.server.answer

    def watched(unit, pdu, rounds):
        codes.add(pdu[0])
        return answer(unit, pdu, rounds)

    line.server.answer = watched
    line.memory.content["battery/inverter"] = {"mode": "hold", "saved": {"max_discharge_w": 5000}, "ours": {}}
    for _ in range(6):
        driver = line.build(battery)
        async with line.running(driver):
            await line.until(lambda driver=driver: "rounds" in driver.status()["devices"]["sun"])
            for mode in MODES:
                with pytest.raises(RefusedError):
                    await driver.command("battery", {"mode": mode})
        shown = driver.status()
        left = shown["left_commanded"] if battery is None else shown["batteries"]["inverter"]["mode"]
        assert left == ["inverter"] or left.startswith("left as it was")
    where, asked = f"127.0.0.1:{line.port}", len(line.server.requests)
    for words in (
        ("scan", where, "--units", "1-3", "--timeout", "0.3"),
        ("dump", where, "--unit", "1", "--map", "huawei_sun2000"),
        ("watch", where, "--map", "huawei_sun2000", "--rounds", "2", "--every", "0.1"),
    ):
        assert await typed(*words, "--gap", "0") == 0
        assert len(line.server.requests) > asked
        asked = len(line.server.requests)
    assert line.server.writes == 0
    assert codes <= {3, 4}


@pytest.mark.parametrize(
    "remembered",
    [
        {"mode": "hold", "saved": {"max_discharge_w": 2**70}},
        {"mode": "hold", "saved": {"max_discharge_w": -1}},
        {"mode": "hold", "saved": ["?"], "ours": 5},
        {"mode": "charge", "saved": {"no_such_setting": 1}},
        {"mode": "dance"},
        17,
    ],
)
async def test_a_damaged_memory_of_a_debt_ends_nothing(line, remembered):
    line.memory.content["battery/inverter"] = remembered
    async with line.running(line.build()) as driver:
        await line.until(lambda: driver.status()["devices"]["inverter"].get("rounds", 0) >= 3)
    assert line.control.changed() == {}


async def test_a_battery_that_nobody_commands_is_not_written_either(line):
    for _ in range(3):
        async with line.running(line.build()) as driver:
            await line.until(lambda driver=driver: "rounds" in driver.status()["devices"]["inverter"])
    assert line.server.writes == 0


async def test_the_link_itself_writes_to_no_unit_it_was_not_given(line):
    driver = line.build(OURS)
    async with line.running(driver):
        await line.told(driver, "normal")
        for unit in (0, 2, 3):
            with pytest.raises(RefusedError, match="only read"):
                await driver._link.write(unit, _registers(47100), b"\0\1", 0.2)
    assert line.server.writes == 0


async def typed(*words):
    """Run `edge-agent modbus` as a person would."""
    parser = argparse.ArgumentParser()
    commands.command.configure(parser)
    return await asyncio.to_thread(commands.command.run, parser.parse_args(words))


def _registers(address):
    from drivers.modbus.planner import Request

    return Request("holding", address, 1)


async def test_after_a_cut_link_the_inverter_is_back_in_normal_within_a_minute(line):
    async with line.running(line.build()) as driver:
        await line.told(driver, "hold", for_s=36_000)
        await line.server.close()
        await line.until(lambda: not driver.status()["open"])
        assert not line.control.is_normal
        await line.open()
        await line.back_in_normal()
        await line.until(lambda: ("battery_mode", {"mode": "normal", "reason": "the link was lost"}) in line.events)


@pytest.mark.slow
async def test_normal_that_is_refused_with_exception_4_is_tried_until_it_is_done(line):
    async with line.running(line.build()) as driver:
        await line.told(driver, "hold", for_s=36_000)
        line.control.refusals["max_discharge_w"] = [FAILURE] * 5
        await driver.command("battery", {"mode": "normal"})
        assert not line.control.is_normal
        await line.until(lambda: line.control.is_normal)
        await line.until(lambda: driver.status()["batteries"]["inverter"]["mode"] == "normal")
    assert "battery_stuck" in [kind for kind, _ in line.events]


async def test_a_write_whose_answer_is_lost_is_read_back_and_never_sent_twice(line):
    async with line.running(line.build()) as driver:
        await line.told(driver, "normal")
        line.control.mute_after_write = True
        answer = await line.told(driver, "discharge_to_load", power_w=1000, for_s=36_000)
        line.control.mute_after_write = False
        assert answer["mode"] == "discharge_to_load"
        assert line.control.order == [("max_discharge_w", 1000), ("working_mode", 2)]


async def test_a_setting_that_does_not_take_its_value_is_found_by_its_read_back(line):
    async with line.running(line.build()) as driver:
        await line.told(driver, "normal")
        line.control.deaf.add("forced_command")
        with pytest.raises(RefusedError, match="forced_command did not take 1"):
            await line.told(driver, "charge", power_w=1000)
        assert line.control.changed() == {}


async def test_somebody_who_commands_already_is_not_interrupted(line):
    async with line.running(line.build()) as driver:
        await line.told(driver, "normal")
        line.control.foreign("forced_period_min", 60)
        line.control.foreign("forced_command", 2)
        with pytest.raises(RefusedError, match="somebody else commands the battery"):
            await line.told(driver, "charge", power_w=1000)
        assert line.control.order == []


async def _nothing():
    return None


async def test_power_is_clamped_to_the_table_and_to_the_device(line):
    async with line.running(line.build(OURS | {"max_charge_w": 9000})) as driver:
        await line.told(driver, "charge", power_w=8000)
        assert line.control["forced_charge_w"] == 5000
        await line.told(driver, "normal")
    async with line.running(line.build(OURS | {"max_charge_w": 700})) as driver:
        await line.told(driver, "charge", power_w=8000)
        assert line.control["forced_charge_w"] == 700


@pytest.mark.slow
@pytest.mark.timeout(60)
async def test_a_driver_with_a_battery_keeps_the_seams_contract():
    @contextlib.asynccontextmanager
    async def bench():
        server = InverterServer(units_of(["huawei"]), lambda: HALF_FULL)
        server.let_command(huawei_control(FastClock().unix_ms))
        await server.start()
        table = {"map": "huawei_sun2000", "battery": OURS | {"tariff": cheap_now()}}
        line = {"host": "127.0.0.1", "port": server.port, "poll_s": 0.1, "timeout_s": 0.2, "gap_ms": 0}
        try:
            yield contract.Rig(
                line | {"connect_delay_ms": 0, "devices": {"inverter": table}},
                silence=lambda: server.silent.add(1),
                mend=server.silent.clear,
            )
            assert server.writes > 0
        finally:
            await server.close()

    await contract.check(create, bench)


def cheap_now():
    """Cheap hours around now that do not last long enough, so that charging begins at once."""
    hour = datetime.now(JST).hour
    window = {"from": f"{(hour - 1) % 24:02}:00", "to": f"{(hour + 3) % 24:02}:00"}
    return {"cheap": [window], "capacity_kwh": 1000, "expected_load_kwh": 900, "learn": False, "margin_min": 0}


@pytest.mark.parametrize(
    ("battery", "key"),
    [
        ({}, "owned_by"),
        ({"owned_by": "agent", "modes": ["hold"]}, "battery.modes"),
        ({"owned_by": "agent", "min_soc_percent": 95}, "battery.min_soc_percent"),
        ({"owned_by": "agent", "alert": {}}, "battery.alert"),
        (
            {"owned_by": "agent", "tariff": {"cheap": [{"from": "25:00", "to": "07:00"}], "capacity_kwh": 5}},
            "cheap.0.from",
        ),
        ({"owned_by": "agent", "tariff": {"cheap": [], "capacity_kwh": 5}}, "cheap"),
    ],
)
def test_a_table_that_cannot_be_right_is_refused_with_its_key(battery, key):
    with pytest.raises(ConfigError) as caught:
        Line().build(battery or {"max_charge_w": 5})
    assert key in caught.value.key
    assert caught.value.remedy


def test_two_batteries_of_a_line_do_not_both_learn_what_the_house_takes():
    night = {"cheap": [{"from": "23:00", "to": "07:00"}], "capacity_kwh": 5}
    one = {"map": "huawei_sun2000", "battery": {"owned_by": "agent", "tariff": night}}
    other = one | {"unit": 2, "battery": {"owned_by": "agent", "tariff": night | {"learn": False}}}
    context = Context("modbus", FastClock(), str)
    with pytest.raises(ConfigError, match="learnt for one battery") as caught:
        create(context, {"host": "h", "devices": {"one": one, "other": one | {"unit": 2}}})
    assert caught.value.key == "devices.other.battery.tariff.learn"
    assert create(context, {"host": "h", "devices": {"one": one, "other": other}}).roles == {"grid", "pv"}
    assert Line().build(OURS).roles == frozenset()


async def test_the_houses_meter_goes_before_the_meter_of_the_inverter(line):
    async with line.running(line.build(OURS | {"tariff": cheap_now() | {"contract_w": 6000}})) as driver:

        def plan():
            return driver.status()["batteries"]["inverter"]["plan"]

        def metered():
            driver.overhear("grid", Sample("meter", line.clock.boot_ms(), {"grid_power_w": 5970}))
            return plan().get("house_from") == "house_meter"

        await line.until(lambda: "house_w" in plan())
        assert (plan()["house_w"], plan()["house_from"]) == (HALF_FULL.load_w - HALF_FULL.pv_w, "own_meter")
        await line.until(metered)
        await line.until(lambda: metered() and line.control["forced_charge_w"] == 0)


def test_slow_polling_unit_zero_and_a_map_without_modes_take_no_battery():
    table = {"host": "h", "devices": {"inverter": {"map": "huawei_sun2000", "battery": {"owned_by": "agent"}}}}
    context = Context("modbus", FastClock(), str)
    with pytest.raises(ConfigError, match="too slow"):
        create(context, table | {"poll_s": 30})
    for device, said in (({"map": "huawei_sun2000", "unit": 0}, "every unit"), ({"map": "sunspec"}, "tells no mode")):
        with pytest.raises(ConfigError, match=said):
            create(context, {"host": "h", "devices": {"inverter": device | {"battery": {"owned_by": "agent"}}}})


def test_what_stays_on_when_the_box_dies_is_said_by_check():
    (warning,) = Line().build(OURS).warnings()
    assert warning.key == "devices.inverter.battery.no_revert_timer"
    assert "hold" in warning.remedy
    assert Line().build({"owned_by": "agent"}).warnings() == []


@pytest.mark.parametrize("battery", [OURS, {"owned_by": "agent"}])
def test_what_stays_on_when_the_box_dies_is_said_by_doctor_and_by_the_health_that_is_published(tmp_path, battery):
    path, device = tmp_path / "house.yaml", {"map": "huawei_sun2000", "unit": 1, "battery": battery}
    table = {"driver": "modbus", "host": "127.0.0.1", "devices": {"inverter": device}}
    broker, folder = {"host": "127.0.0.1", "port": 9}, str(tmp_path / "state")
    whole = {"gateway": {"id": "house-001"}, "state_directory": folder, "mqtt": broker, "drivers": {"line": table}}
    path.write_text(json.dumps(whole))
    configuration, is_said = config.load(path), "no_revert_timer" in battery
    warned = [check for check in doctor._configuration(configuration) if "no_revert_timer" in check.found]
    assert [check.verdict for check in warned] == (["warning"] if is_said else [])
    agent = Agent(configuration)
    agent.supervisors["line"] = Supervisor("line", lambda: Line().build(battery))
    shown = agent.health()["drivers"]["line"]["detail"]["batteries"]["inverter"]
    assert shown.get("no_revert_timer") == ("accepted" if is_said else None)


HYBRID = {"map": "huawei_sun2000", "unit": 1}


def renamed(line, devices):
    """Build the driver of the line with other devices."""
    table = {"host": "127.0.0.1", "port": line.port, "poll_s": POLL_S, "timeout_s": 0.2, "gap_ms": 0}
    return create(Context("modbus", line.clock, str), table | {"connect_delay_ms": 0, "devices": devices})


async def killed_while_holding(line):
    """Hold, which the device never ends, and go without a word: what the memory holds is all that is left."""
    driver = renamed(line, {"inverter": HYBRID | {"battery": OURS}})
    async with line.running(driver):
        await line.told(driver, "hold")
        driver._leave = _nothing
    assert not line.control.is_normal


async def test_a_device_that_got_another_name_after_a_kill_is_put_back(line):
    await killed_while_holding(line)
    driver = renamed(line, {"garage": HYBRID | {"battery": OURS}})
    async with line.running(driver):
        await line.back_in_normal()
        await line.until(lambda: driver.status()["batteries"]["garage"]["mode"] == "normal")
        assert driver.status()["batteries"]["garage"]["last_ended"] == "the agent was started again"
    assert [key for key in line.memory.content if key.startswith("battery/") and line.memory.get(key)] == [
        "battery/at/unit 1/writes"
    ]


async def test_what_a_former_version_owes_by_name_is_put_back_too(line):
    await killed_while_holding(line)
    line.memory.content["battery/inverter"] = line.memory.content.pop("battery/at/unit 1")
    async with line.running(renamed(line, {"inverter": HYBRID | {"battery": OURS}})):
        await line.back_in_normal()
        await line.until(lambda: line.memory.get("battery/inverter") is None)


async def test_a_unit_that_left_the_configuration_with_a_debt_is_named_in_log_health_and_doctor(line, caplog):
    await killed_while_holding(line)
    driver = renamed(line, {"sun": {"map": "sunspec", "unit": 2}})
    async with line.running(driver):
        await line.until(lambda: "left_commanded" in driver.status())
        assert driver.status()["left_commanded"] == ["inverter (unit 1)"]
        (check,) = doctor._left_commanded({"detail": driver.status()})
    assert (check.verdict, "inverter (unit 1)" in check.found) == ("warning", True)
    assert "inverter (unit 1): a former command was not undone" in caplog.text
    assert not line.control.is_normal
    only_read = renamed(line, {"garage": HYBRID})
    async with line.running(only_read):
        await line.until(lambda: only_read.status().get("left_commanded") == ["garage"])


def test_two_tables_for_one_unit_are_refused():
    one = {"map": "huawei_sun2000", "battery": {"owned_by": "agent"}}
    with pytest.raises(ConfigError, match="commands unit 1 already"):
        create(Context("modbus", FastClock(), str), {"host": "h", "devices": {"one": one, "other": one}})
