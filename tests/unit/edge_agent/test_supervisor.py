"""The error policy, in virtual time: what happens after each class of error, and when."""

import asyncio
import itertools
import logging
from contextlib import asynccontextmanager

import pytest

from drivers.api import (
    ConfigError,
    CredentialsError,
    Event,
    LinkError,
    MalformedError,
    RefusedCredentialsError,
    RefusedError,
    Sample,
    TimeHint,
)
from drivers.contract import DictMemory
from edge_agent.supervisor import MISSING_CREDENTIALS_S, REFUSED_S, STEADY_S, Supervisor

pytestmark = pytest.mark.looptime


class Scripted:
    """Each run does the next thing of its script, the last one for ever."""

    backoff_ceiling_s = 60.0
    devices = ("meter",)

    def __init__(self, *script):
        self.script = list(script)
        self.began = []

    async def run(self, emit, memory):
        self.began.append(asyncio.get_running_loop().time())
        step = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        await step(emit)


def fails(make, after_s=0.0):
    async def step(emit):
        await asyncio.sleep(after_s)
        raise make()

    return step


async def serves(emit):
    while True:
        await emit(Sample("meter", 1000, {"grid_power_w": 1}))
        await asyncio.sleep(10)


def serves_for(seconds, make):
    async def step(emit):
        await emit(Sample("meter", 1000, {"grid_power_w": 1}))
        await asyncio.sleep(seconds)
        raise make()

    return step


@asynccontextmanager
async def supervised(driver, lost=None):
    supervisor = Supervisor("meter", lambda: driver)
    taken, reasons = [], []

    async def emit(item, remember=None):
        taken.append(item)

    async def note(reason):
        reasons.append(reason)

    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(supervisor.run(emit, DictMemory(), note))
        supervisor.taken, supervisor.reasons, supervisor.task = taken, reasons, task
        yield supervisor
        task.cancel()


def gaps(moments):
    return [later - earlier for earlier, later in itertools.pairwise(moments)]


async def test_a_lost_link_is_tried_again_within_bounds_that_double_to_the_ceiling():
    driver = Scripted(fails(lambda: LinkError("no answer")))
    async with supervised(driver):
        await asyncio.sleep(3600)
    bounds = [1, 2, 4, 8, 16, 32, *[60] * len(driver.began)]
    assert all(0.05 <= gap <= bound + 0.001 for gap, bound in zip(gaps(driver.began), bounds, strict=False))
    assert 60 <= len(driver.began) <= 1200  # full jitter below 60 s: some 120 in an hour
    assert max(gaps(driver.began)) > 32


async def test_a_run_that_lasted_makes_the_next_wait_short_again():
    failing = [fails(lambda: LinkError("no answer"))] * 10
    driver = Scripted(*failing, serves_for(STEADY_S + 1, lambda: LinkError("gone")), serves)
    async with supervised(driver):
        await asyncio.sleep(3600)
    assert driver.began[11] - driver.began[10] <= STEADY_S + 2.001


async def test_a_run_that_did_not_last_does_not():
    driver = Scripted(serves_for(1, lambda: LinkError("gone")))
    async with supervised(driver):
        await asyncio.sleep(3600)
    assert max(gaps(driver.began)) > 32


async def test_a_refusal_is_retried_seldom():
    driver = Scripted(fails(lambda: RefusedError("wrong password")))
    async with supervised(driver):
        await asyncio.sleep(3600)
    assert all(0.9 * REFUSED_S <= gap <= 1.1 * REFUSED_S for gap in gaps(driver.began))
    assert 11 <= len(driver.began) <= 14


async def test_a_refusal_stays_visible_until_the_device_serves():
    driver = Scripted(fails(lambda: RefusedError("wrong password")), fails(lambda: LinkError("busy"), 60), serves)
    async with supervised(driver) as supervisor:
        await asyncio.sleep(1)
        assert supervisor.health()["state"] == "refused"
        await asyncio.sleep(1.1 * REFUSED_S)
        assert supervisor.health()["refused"] == "wrong password"
        await asyncio.sleep(120)
        assert supervisor.health()["state"] == "running"
        assert "refused" not in supervisor.health()
        assert "error" not in supervisor.health()


async def test_a_configuration_error_waits_for_a_person(caplog):
    driver = Scripted(fails(lambda: ConfigError("port", "no such port", "plug the dongle in", "/dev/ttyUSB9")))
    async with supervised(driver) as supervisor:
        await asyncio.sleep(86_400)
        assert supervisor.health()["state"] == "off"
        assert not supervisor.task.done()
    assert len(driver.began) == 1
    assert "drivers.meter.port = '/dev/ttyUSB9': no such port; plug the dongle in" in caplog.text


async def test_missing_credentials_are_awaited_without_a_word_more_than_one(caplog):
    missing = fails(lambda: CredentialsError("credentials", "not there", "type them in", "route-b"))
    driver = Scripted(missing, missing, missing, serves)
    async with supervised(driver) as supervisor:
        await asyncio.sleep(1)
        assert supervisor.health()["state"] == "waiting_for_credentials"
        assert "type them in" in supervisor.health()["error"]
        await asyncio.sleep(3.5 * MISSING_CREDENTIALS_S)
        assert supervisor.health()["state"] == "running"
    assert [record.levelname for record in caplog.records if "credentials" in record.getMessage()].count("WARNING") == 1


async def test_refused_credentials_are_tried_again_very_seldom():
    driver = Scripted(fails(lambda: RefusedCredentialsError("credentials", "refused", "type others in")))
    async with supervised(driver) as supervisor:
        await asyncio.sleep(86_400)
        assert supervisor.health()["state"] == "waiting_for_credentials"
    assert 20 <= len(driver.began) <= 28


async def test_a_driver_that_cannot_be_built_waits_for_a_person():
    def build():
        raise ConfigError("poll_s", "not a number", "write a number", "often")

    supervisor = Supervisor("meter", build)
    assert supervisor.health()["state"] == "off"
    assert supervisor.devices == ()


async def test_a_bug_while_building_costs_only_this_driver(caplog):
    supervisor = Supervisor("meter", lambda: 1 / 0)
    assert supervisor.health()["state"] == "off"
    assert "ZeroDivisionError" in caplog.text


@pytest.mark.parametrize("make", [lambda: KeyError("power"), lambda: SystemExit(3), asyncio.CancelledError])
async def test_a_bug_leaves_a_traceback_and_is_retried_like_a_lost_link(make, caplog):
    driver = Scripted(fails(make))
    async with supervised(driver) as supervisor:
        await asyncio.sleep(600)
        assert supervisor.health()["state"] == "waiting"
    assert len(driver.began) > 5
    assert caplog.text.count("Traceback") == 1


async def test_a_driver_that_returns_is_a_bug_and_runs_again():
    async def returns(emit):
        pass

    driver = Scripted(returns)
    async with supervised(driver) as supervisor:
        await asyncio.sleep(600)
        assert "run() returned" in supervisor.health()["error"]
    assert len(driver.began) > 5


async def test_the_first_failure_is_a_warning_the_repetitions_are_debug_and_recovery_is_info(caplog):
    caplog.set_level(logging.DEBUG, "edge_agent")
    driver = Scripted(*[fails(lambda: LinkError("no answer"))] * 4, serves)
    async with supervised(driver):
        await asyncio.sleep(600)
    said = [(record.levelname, record.getMessage()) for record in caplog.records]
    assert said == [
        ("WARNING", "driver meter failed: no answer"),
        *[("DEBUG", "driver meter failed again: no answer")] * 3,
        ("INFO", "driver meter is back"),
    ]


async def test_an_event_is_no_sign_of_recovery():
    async def only_events(emit):
        while True:
            await emit(Event("meter", "device_lost", 5, {}))
            await asyncio.sleep(10)

    async with supervised(Scripted(fails(lambda: LinkError("no answer")), only_events)) as supervisor:
        await asyncio.sleep(100)
        assert supervisor.health()["error"] == "no answer"


async def test_each_loss_is_told_with_its_reason():
    async with supervised(Scripted(fails(lambda: LinkError("no answer")), serves)) as supervisor:
        await asyncio.sleep(60)
        assert supervisor.reasons == ["no answer"]
        assert {item.values["grid_power_w"] for item in supervisor.taken} == {1}
        assert supervisor.health()["ok"] == len(supervisor.taken)


@pytest.mark.parametrize(
    ("errors", "state"),
    [
        ([LinkError("gone"), RefusedError("no")], "refused"),
        ([LinkError("gone"), ConfigError("port", "missing", "add it")], "off"),
        ([LinkError("gone"), KeyError("bug")], "waiting"),
        ([MalformedError("noise")], "waiting"),
    ],
)
async def test_a_group_of_errors_is_judged_by_its_worst(errors, state):
    async with supervised(Scripted(fails(lambda: BaseExceptionGroup("tasks", errors)))) as supervisor:
        await asyncio.sleep(0.01)
        assert supervisor.health()["state"] == state


async def test_an_item_nobody_can_carry_is_dropped_and_the_driver_goes_on(caplog):
    supervisor = Supervisor("meter", lambda: Scripted(serves))

    async def refusing(item, remember=None):
        raise MalformedError("too long a name")

    async def nobody(reason):
        raise AssertionError(reason)

    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(supervisor.run(refusing, DictMemory(), nobody))
        await asyncio.sleep(95)
        task.cancel()
    assert (supervisor.ok, supervisor.errors, supervisor.state) == (0, 10, "running")
    assert caplog.text.count("cannot be carried") == 1


async def test_cancelling_the_supervisor_ends_the_driver():
    ended = []

    async def noting(emit):
        try:
            await asyncio.sleep(1e6)
        finally:
            ended.append(True)

    async with supervised(Scripted(noting)) as supervisor:
        await asyncio.sleep(5)
    assert supervisor.task.cancelled()
    assert ended == [True]


class Offering(Scripted):
    """Offers everything a driver may, and every offer is a bug."""

    subjects = frozenset({"alert"})

    def describe(self):
        raise KeyError("describe")

    def status(self):
        raise KeyError("status")

    roles = frozenset({"grid"})

    def hear(self, subject, payload):
        raise KeyError("hear")

    def overhear(self, role, sample):
        raise KeyError("overhear")

    async def command(self, name, arguments):
        raise KeyError("command")


async def test_a_bug_in_what_a_driver_offers_costs_only_the_answer():
    supervisor = Supervisor("meter", lambda: Offering(serves))
    assert supervisor.describe() == {}
    assert supervisor.status() == {}
    supervisor.hear("alert", b"{")
    supervisor.overhear("grid", None)
    with pytest.raises(RefusedError, match="a bug in driver meter"):
        await supervisor.command("test", {})


async def test_a_driver_without_commands_refuses_them():
    with pytest.raises(RefusedError, match="takes no commands"):
        await Supervisor("meter", lambda: Scripted(serves)).command("test", {})


@pytest.mark.parametrize("said", [None, TimeHint(1, 2, 3), "noon", RuntimeError()])
async def test_a_drivers_hint_of_the_time_is_handed_on_and_nonsense_is_none(said, caplog):
    class Telling(Scripted):
        def time_hint(self):
            if isinstance(said, Exception):
                raise said
            return said

    assert Supervisor("meter", Telling).time_hint() == (said if isinstance(said, TimeHint) else None)
    assert ("has a bug in time_hint()" in caplog.text) is isinstance(said, str | Exception)
    assert Supervisor("meter", Scripted).time_hint() is None
