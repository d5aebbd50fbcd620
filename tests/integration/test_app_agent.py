"""The whole agent in one process, without a broker: real outbox, real socket, drivers from a package of their own."""

import asyncio
import textwrap
from contextlib import asynccontextmanager

import pytest
import yaml

from drivers.sine import value_at
from edge_agent import config, control
from edge_agent.app import Agent
from simulators.house import DEFAULT_START_MS, House
from simulators.inverter import InverterServer, units_of

OUTSIDE = """
import asyncio
from drivers.api import ConfigError, LinkError, RefusedCredentialsError, RefusedError, Sample
from drivers.polling import Ticks
from drivers.quantities import Quantity

EXTRA = (Quantity("rain_mm", "mm", "gauge", "雨量", "Rain"),)


class Outside:
    backoff_ceiling_s = 0.2
    heard = []
    overheard = []
    roles = frozenset({"grid"})

    def __init__(self, context, table):
        self.devices = (context.name,)
        self.clock, self.how, self.runs, self.secret = context.clock, table["how"], 0, context.secret
        self.subjects = frozenset({"alert"})

    async def run(self, emit, memory):
        self.runs += 1
        if self.how == "bug":
            raise ZeroDivisionError("a bug")
        if self.how == "person":
            raise ConfigError("how", "wrong", "mend it", self.how)
        if self.how == "secretive" and self.secret("pin") != "1234":
            raise RefusedCredentialsError("pin", "refused", "hand over another")
        if self.how == "stubborn":
            while True:
                try:
                    await asyncio.sleep(3600)
                except asyncio.CancelledError:
                    if self.runs > 20:
                        raise
                    self.runs += 1
        if self.how == "returns late" and self.runs < 4:
            raise LinkError("nobody there")
        while True:
            values = {"rain_mm": 1, "grid_power_w": 4321 if self.how == "metered" else None, "tank_l": 7}
            await emit(Sample(self.devices[0], self.clock.boot_ms(), values))
            await asyncio.sleep(0.05)

    def describe(self):
        tank = {"unit": "L", "kind": "gauge", "label_ja": "タンク", "label_en": "Tank"}
        return {self.devices[0]: {"maker": "outside", "quantities": {"tank_l": tank}}}

    def status(self):
        return {"runs": self.runs}

    def hear(self, subject, payload):
        self.heard.append((self.devices[0], subject, payload))

    def overhear(self, role, sample):
        self.overheard.append((self.devices[0], role, sample.device, sample.at))

    async def command(self, name, arguments):
        if name == "dance":
            raise RefusedError("not today")
        return {"did": name}


def create(context, table):
    return Outside(context, table)
"""


@pytest.fixture
def outside(tmp_path, monkeypatch):
    """A driver that another distribution offers by entry points."""
    site = tmp_path / "site"
    (site / "outside-1.0.dist-info").mkdir(parents=True)
    (site / "outside_driver.py").write_text(OUTSIDE)
    (site / "outside-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: outside\nVersion: 1.0\n")
    (site / "outside-1.0.dist-info" / "entry_points.txt").write_text(
        textwrap.dedent("""
        [edge_agent.drivers]
        outside = outside_driver:create
        [edge_agent.quantities]
        outside = outside_driver:EXTRA
        """)
    )
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.delitem(__import__("sys").modules, "outside_driver", raising=False)


@pytest.fixture
def written(tmp_path, monkeypatch):
    """`written(drivers)` writes the configuration and returns its path."""
    monkeypatch.delenv("RUNTIME_DIRECTORY", raising=False)

    def write(drivers, **more):
        table = {
            "gateway": {"id": "house-001", "area": "0720400"},
            "state_directory": str(tmp_path / "state"),
            "clock": {"trust": "system"},
            "mqtt": {"socket": str(tmp_path / "no-broker.sock"), "reconnect_max": 0.5},
            "drivers": drivers,
            **more,
        }
        path = tmp_path / "house.yaml"
        path.write_text(yaml.safe_dump(table, sort_keys=False))
        return path

    return write


@asynccontextmanager
async def serving(path):
    agent = Agent(config.load(path))
    async with asyncio.timeout(20), asyncio.TaskGroup() as tasks:
        running = tasks.create_task(agent.run())
        await until(lambda: agent.supervisors)
        yield agent
        agent.stop()
        async with asyncio.timeout(5):
            await running


async def until(condition, within_s=10):
    async with asyncio.timeout(within_s):
        while not condition():  # noqa: ASYNC110  (whatever the test asks for has no event)
            await asyncio.sleep(0.01)


async def ask(agent, name, **arguments):
    return await control.ask(agent.configuration.sockets, name, arguments)


def sine(poll_s=0.05):
    return {"driver": "sine", "poll_s": poll_s}


async def test_each_device_is_read_over_the_socket_with_the_values_of_its_stamp(written):
    async with serving(written({"wave": sine(), "other": sine()})) as agent:
        told = {answer["device"]: answer for answer in await ask(agent, "read")}
        assert set(told) == {"wave", "other"}
        assert all(-1 <= float(answer["values"]["sine_value"]) <= 1 for answer in told.values())
        assert told["wave"]["quality"]["clock"] == "synced"
        assert [answer["device"] for answer in await ask(agent, "read", devices=["other"])] == ["other"]
        with pytest.raises(control.RefusedError, match="no device 'nobody'"):
            await ask(agent, "read", devices=["nobody"])
        with pytest.raises(control.RefusedError, match="not a list of names"):
            await ask(agent, "read", devices=7)


async def test_what_was_emitted_is_in_the_outbox_when_the_agent_has_left(written):
    path = written({"wave": sine()})
    async with serving(path) as agent:
        await until(lambda: agent.supervisors["wave"].ok >= 10)
    from edge_agent import outbox, wire

    batches = [wire.decode(line, dict)["batch"] for line in outbox.export(agent.configuration.outbox_path)]
    rows = [
        (batch["b0"] + row[0], float(row[1]))
        for batch in batches
        for block in batch.get("blocks", [])
        for row in block["rows"]
    ]
    assert len(rows) == agent.supervisors["wave"].ok
    assert all(value == value_at(at, 60) for at, value in rows)


@pytest.mark.parametrize("how", ["bug", "person"])
async def test_a_driver_that_fails_never_stops_its_neighbours(outside, written, how, caplog):
    drivers = {"bad": {"driver": "outside", "how": how}, "none": {"driver": "nobodys"}, "wave": sine()}
    async with serving(written(drivers)) as agent:
        await until(lambda: agent.supervisors["wave"].ok >= 3 and "bad" in agent.last.lost)
        status = (await ask(agent, "status"))["drivers"]
        assert status["wave"]["state"] == "running"
        assert status["bad"]["state"] == {"bug": "waiting", "person": "off"}[how]
        assert status["none"]["state"] == "off"
        assert "known:" in status["none"]["error"]
        answers = {answer["device"]: answer for answer in await ask(agent, "read")}
        assert "values" in answers["wave"]
        assert "error" in answers["bad"]
        assert "error" in answers["none"]


async def test_a_driver_overhears_the_device_with_a_role_it_wants_to_know(outside, written):
    drivers = {"rain": {"driver": "outside", "how": "well"}, "wave": sine(), "other": sine()}
    async with serving(written(drivers, roles={"grid": "wave", "pv": "other"})) as agent:
        overheard = agent.supervisors["rain"].driver.overheard
        await until(lambda: len(overheard) >= 3 and agent.supervisors["other"].ok >= 3)
        assert {entry[:3] for entry in overheard} == {("rain", "grid", "wave")}
        assert agent.clock.boot_ms() - overheard[-1][3] < 10_000


async def test_a_battery_keeps_the_contract_by_the_meter_that_another_driver_reads(outside, written):
    server = InverterServer(units_of(["huawei"]), lambda: House(seed=1).at(DEFAULT_START_MS))
    await server.start()
    tariff = {"cheap": [{"from": "23:00", "to": "07:00"}], "capacity_kwh": 9.8, "contract_w": 6000}
    device = {"map": "huawei_sun2000", "battery": {"owned_by": "agent", "max_soc_percent": 11, "tariff": tariff}}
    line = {"host": "127.0.0.1", "port": server.port, "poll_s": 0.2, "gap_ms": 0, "connect_delay_ms": 0}
    drivers = {
        "meter": {"driver": "outside", "how": "metered"},
        "line": {"driver": "modbus", **line, "devices": {"inverter": device}},
    }
    try:
        async with serving(written(drivers, roles={"grid": "meter"})) as agent:

            def plan():
                detail = agent.supervisors["line"].status()
                return detail["batteries"]["inverter"].get("plan", {})

            await until(lambda: plan().get("house_from") == "house_meter")
            battery_w = House(seed=1).at(DEFAULT_START_MS).battery_w
            assert plan()["house_w"] == 4321 + battery_w
            told = (await ask(agent, "status"))["drivers"]["line"]["detail"]["batteries"]["inverter"]["plan"]
            assert told["house_from"] == "house_meter"
    finally:
        await server.close()


async def test_a_lost_device_is_told_once_and_once_when_it_is_back(outside, written):
    path = written({"rain": {"driver": "outside", "how": "returns late"}})
    async with serving(path) as agent:
        await until(lambda: agent.supervisors["rain"].ok >= 3)
        assert agent.last.lost == {}
    from edge_agent import outbox, wire

    lines = [wire.decode(line, dict) for line in outbox.export(agent.configuration.outbox_path)]
    kinds = [event["kind"] for line in lines for event in line["batch"].get("events", []) if event["device"] == "rain"]
    assert kinds == ["device_lost", "device_back"]


async def test_a_device_lost_before_a_restart_is_back_after_it(outside, written):
    async with serving(written({"rain": {"driver": "outside", "how": "bug"}})) as agent:
        await until(lambda: "rain" in agent.last.lost)
    async with serving(written({"rain": {"driver": "outside", "how": "well"}})) as agent:
        await until(lambda: agent.supervisors["rain"].ok >= 1)
    from edge_agent import outbox, wire

    lines = [wire.decode(line, dict) for line in outbox.export(agent.configuration.outbox_path)]
    kinds = [event["kind"] for line in lines for event in line["batch"].get("events", []) if event["device"] == "rain"]
    assert kinds == ["device_lost", "device_back"]


async def test_meta_says_what_the_drivers_know_and_what_their_quantities_mean(outside, written):
    path = written({"rain": {"driver": "outside", "how": "well"}, "wave": sine()}, roles={"grid": "rain"})
    async with serving(path) as agent:
        await until(lambda: agent.supervisors["rain"].ok >= 1 and agent.supervisors["wave"].ok >= 1)
        meta = agent.meta()
    tank = {"unit": "L", "kind": "gauge", "label_ja": "タンク", "label_en": "Tank"}
    rain = {"driver": "outside", "maker": "outside", "quantities": {"tank_l": tank}}
    assert meta.devices == {"rain": rain, "wave": {"driver": "sine"}}
    assert meta.quantities["tank_l"] == tank
    assert meta.quantities["rain_mm"] == {"unit": "mm", "kind": "gauge", "label_ja": "雨量", "label_en": "Rain"}
    assert meta.quantities["grid_power_w"]["echonet"] == "0288/E7"
    assert set(meta.quantities) == {"rain_mm", "grid_power_w", "tank_l", "sine_value"}
    assert meta.roles == {"grid": "rain"}
    assert meta.config == agent.configuration.hash


async def test_a_drivers_commands_are_carried_out_under_its_name(outside, written):
    async with serving(written({"rain": {"driver": "outside", "how": "well"}, "wave": sine()})) as agent:
        assert (await ask(agent, "status"))["drivers"]["rain"]["detail"] == {"runs": 1}
        assert await ask(agent, "rain.measure") == {"did": "measure"}
        assert await ask(agent, "measure", device="rain") == {"did": "measure"}
        for name, says in (
            ("rain.dance", "not today"),
            ("wave.dance", "takes no commands"),
            ("nobody.dance", "no command"),
            ("dance", "no command"),
            ("rain.", "no command"),
        ):
            with pytest.raises(control.RefusedError, match=says):
                await ask(agent, name)


async def test_the_town_is_heard_by_those_who_listen_also_by_one_that_starts_later(outside, written):
    path = written({"rain": {"driver": "outside", "how": "well"}})
    async with serving(path) as agent:
        heard = agent.supervisors["rain"].driver.heard
        agent._hear("alert", b"\xff not json")
        agent._hear("tags", b"not for it")
        assert heard == [("rain", "alert", b"\xff not json")]
        written({"rain": {"driver": "outside", "how": "well"}, "later": {"driver": "outside", "how": "well"}})
        agent.reload()
        await until(lambda: "later" in agent.supervisors)
        assert heard == [("rain", "alert", b"\xff not json"), ("later", "alert", b"\xff not json")]


async def test_a_reload_mends_changes_adds_and_removes_drivers_and_leaves_the_others_alone(outside, written, caplog):
    path = written(
        {"same": sine(), "wrong": sine(-1), "gone": sine(), "slow": {**sine(), "period_s": 5}}, roles={"grid": "same"}
    )
    async with serving(path) as agent:
        same = agent.supervisors["same"]
        assert agent.supervisors["wrong"].state == "off"
        written({"same": sine(), "wrong": sine(), "slow": {**sine(), "period_s": 7}, "new": sine()})
        agent.reload()
        await until(lambda: "new" in agent.supervisors and all(one.ok for one in agent.supervisors.values()))
        assert agent.supervisors["same"] is same
        assert set(agent.supervisors) == {"same", "wrong", "slow", "new"}
        assert {answer["device"] for answer in await ask(agent, "read")} == {"same", "wrong", "slow", "new"}
        assert set(agent.meta().devices) == {"same", "wrong", "slow", "new"}


async def test_a_reload_of_a_broken_file_changes_nothing(written, caplog):
    path = written({"wave": sine()})
    async with serving(path) as agent:
        wave = agent.supervisors["wave"]
        path.write_text("gateway: [")
        agent.reload()
        await until(lambda: "the former configuration stays" in caplog.text)
        served = wave.ok
        await until(lambda: wave.ok > served)


async def test_two_drivers_of_one_device_name_leave_the_second_off(outside, written):
    inverter = {"driver": "modbus", "host": "127.0.0.1", "port": 1, "devices": {"wave": {"map": "huawei_sun2000"}}}
    async with serving(written({"wave": sine(), "second": inverter})) as agent:
        assert agent.supervisors["second"].state == "off"
        assert "taken by drivers.wave" in agent.supervisors["second"].error
        await until(lambda: agent.supervisors["wave"].ok)


async def test_a_missing_secret_keeps_its_driver_alone_waiting(written, tmp_path):
    meter = {"driver": "route_b", "port": str(tmp_path / "tty"), "credentials": "route-b"}
    async with serving(written({"meter": meter, "wave": sine()})) as agent:
        await until(lambda: agent.supervisors["wave"].ok and agent.supervisors["meter"].error)
        assert agent.supervisors["meter"].state == "waiting_for_credentials"
        assert "secrets_directory" in agent.supervisors["meter"].error


async def test_a_driver_waits_for_its_secret_while_the_others_run_and_takes_it_without_a_restart(
    outside, written, tmp_path, caplog
):
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "pin").write_text("0000")
    drivers = {"safe": {"driver": "outside", "how": "secretive"}, "wave": sine()}
    async with serving(written(drivers, secrets_directory=str(tmp_path / "secrets"))) as agent:
        await until(lambda: agent.supervisors["safe"].state == "waiting_for_credentials")
        assert (await ask(agent, "status"))["drivers"]["safe"]["state"] == "waiting_for_credentials"
        (told,) = await ask(agent, "read", devices=["safe"])
        assert told["state"] == "waiting_for_credentials"
        assert "hand over another" in told["error"]
        wave = agent.supervisors["wave"]
        assert await ask(agent, "hand_over", secret="pin", text="1234") == ["safe"]
        await until(lambda: agent.supervisors["safe"].ok >= 2)
        assert agent.supervisors["wave"] is wave
        assert "1234" not in caplog.text
        with pytest.raises(control.RefusedError):
            await ask(agent, "hand_over", secret="pin")
        agent.reload()  # what was handed over stays in use until the file says the same
        assert await ask(agent, "hand_over", secret="pin", text="0000") == ["safe"]
        await until(lambda: agent.supervisors["safe"].state == "waiting_for_credentials")
        assert agent._handed == {}


async def test_every_vital_loop_promises_signs_of_life(written):
    async with serving(written({"wave": sine()})) as agent:
        await until(lambda: {"clock", "uplink", "outbox keeper", "health", "meta"} <= agent.pulse._due.keys())
        assert agent.pulse.stuck() == []


@pytest.mark.parametrize(
    ("name", "patience", "stuck_in"),
    [
        ("uplink", "edge_agent.uplink.BEAT_S", "edge_agent.uplink.Uplink._serve"),
        ("outbox keeper", "edge_agent.outbox.KEEPER_S", "edge_agent.outbox.Outbox.upkeep"),
        ("clock", "edge_agent.clock.BEAT_S", "edge_agent.clock.SystemClock.change"),
    ],
)
async def test_a_loop_that_hangs_starves_the_watchdog(written, monkeypatch, name, patience, stuck_in):
    async def hang(*_):
        await asyncio.Event().wait()

    monkeypatch.setattr(patience, 0.2)
    if name == "clock":
        monkeypatch.setattr("edge_agent.app.Agent._accept", hang)
        monkeypatch.setattr(stuck_in, lambda _: object())  # handed over again and again
    else:
        monkeypatch.setattr(stuck_in, hang)
    async with serving(written({"wave": sine()})) as agent:
        await until(lambda: agent.pulse.stuck() == [name])


async def test_a_driver_that_will_not_leave_does_not_cost_what_the_others_said(outside, written, caplog, monkeypatch):
    monkeypatch.setattr("edge_agent.app.DRIVERS_STOP_S", 1.0)
    path = written({"bad": {"driver": "outside", "how": "stubborn"}, "wave": sine()})
    agent = Agent(config.load(path))
    running = asyncio.ensure_future(agent.run())
    await until(lambda: agent.supervisors and agent.supervisors["wave"].ok >= 3)
    agent.stop()
    await until(lambda: "driver bad does not leave" in caplog.text, 6)
    from edge_agent import outbox

    await until(lambda: outbox.stat(agent.configuration.outbox_path)["by_topic"]["telemetry"], 4)
    while not running.done():  # the kernel's timer would end a real process here
        agent._running.clear()
        for task in asyncio.all_tasks():
            if task.get_name() == "driver bad":
                task.cancel()
        await asyncio.sleep(0)
    await running
