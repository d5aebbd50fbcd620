"""The lamp driver against our lamp over real TCP: what is shown, what is reported, and how it comes back."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import pytest
from running import Receiver

from drivers import contract
from drivers.api import ConfigError, Context, RefusedError, Sample
from drivers.lamp import link
from drivers.lamp.driver import create
from drivers.lamp.programme import LOOKS, NORMAL_LIGHT
from edge_agent.clock import ClockSettings, SystemClock
from simulators.lamp import LampServer


@pytest.fixture
async def lamp():
    server = LampServer()
    await server.start()
    yield server
    await server.close()


class Agent(Receiver):
    """Runs the lamp driver and speaks as the town."""

    def __init__(self, port, memory=None, **table) -> None:
        super().__init__(memory)
        settings = {"host": "127.0.0.1", "port": port, "refresh_s": 0.1} | table
        clock = SystemClock(ClockSettings(trust="system"))
        self.driver = create(Context("lamp", clock, lambda name: name), settings)
        self._said = 0

    async def __aenter__(self):
        self.start(self.driver)
        return self

    async def __aexit__(self, *_) -> None:
        await self.stop()

    def say(self, level, **more) -> None:
        self._said += 1
        checked = datetime.now(UTC) + timedelta(milliseconds=self._said)
        alert = {"level": level, "telegram": f"x{self._said}", "checked_at": checked.isoformat()} | more
        self.driver.hear("alert", json.dumps(alert).encode())

    def changes(self) -> list[dict]:
        return [dict(event.data) for event in self.events("lamp_changed")]


async def test_the_lamp_follows_the_level_and_the_driver_tells_what_it_shows(lamp) -> None:
    async with Agent(lamp.port) as agent:
        for level in (2, 5, 3, 4):
            agent.say(level)
            await agent.until(lambda level=level: lamp.look == LOOKS[level])
            await agent.until(lambda level=level: agent.changes()[-1]["programme"] == f"level_{level}")
        agent.say(0)
        await agent.until(lambda: lamp.look == NORMAL_LIGHT)
        await agent.until(lambda: agent.changes()[-1]["programme"] == "normal")
        samples = [item.values for item in agent.items if isinstance(item, Sample)]
    assert {"alert_level": "5", "lamp_programme": "level_5"} in samples
    assert agent.changes()[-2] == {
        "level": 4,
        "programme": "level_4",
        "wanted": "level_4",
        "reason": "telegram",
        "telegram": "x4",
    }


async def test_a_level_is_shown_at_once_not_at_the_next_refresh(lamp) -> None:
    async with Agent(lamp.port, refresh_s=60) as agent:
        await agent.until(lambda: agent.items)
        agent.say(5)
        await agent.until(lambda: lamp.look == LOOKS[5], within_s=2)


async def test_before_the_first_word_the_light_is_normal_and_the_level_unknown(lamp) -> None:
    async with Agent(lamp.port) as agent:
        await agent.until(lambda: any(isinstance(item, Sample) for item in agent.items))
    assert lamp.look == NORMAL_LIGHT
    assert agent.changes()[0]["programme"] == "unknown"
    assert next(item for item in agent.items if isinstance(item, Sample)).values["alert_level"] is None


async def test_a_lamp_changed_by_another_hand_is_set_again(lamp) -> None:
    async with Agent(lamp.port) as agent:
        agent.say(5)
        await agent.until(lambda: lamp.look == LOOKS[5])
        lamp._held = [0] * 8
        await agent.until(lambda: lamp.look == LOOKS[5])


async def test_a_light_that_does_not_follow_is_noticed_and_told_once(lamp) -> None:
    async with Agent(lamp.port) as agent:
        agent.say(5)
        await agent.until(lambda: lamp.look == LOOKS[5])
        lamp.broken = frozenset({3, 4, 5})
        await agent.until(lambda: agent.changes() and agent.changes()[-1]["reason"] == "mismatch")
        seen = agent.driver.status()["mismatches"]
        await agent.until(lambda: agent.driver.status()["mismatches"] > seen + 3)
        assert agent.changes()[-1]["wanted"] == "level_5"
        assert [change["reason"] for change in agent.changes()].count("mismatch") == 1
        shown = [item.values["lamp_programme"] for item in agent.items if isinstance(item, Sample)]
        assert shown[-1] == "other"
        lamp.broken = frozenset()
        await agent.until(lambda: agent.changes()[-1]["programme"] == "level_5")


async def test_a_cut_link_recovers_and_is_told_once(lamp) -> None:
    async with Agent(lamp.port) as agent:
        agent.say(4)
        await agent.until(lambda: agent.changes() and agent.changes()[-1]["programme"] == "level_4")
        port = lamp.port
        await lamp.close()
        await agent.until(lambda: len(agent.errors) > 3)
        agent.say(5)
        assert agent.kinds().count("device_lost") == 1
        samples = sum(isinstance(item, Sample) for item in agent.items)
        await agent.until(lambda: len(agent.errors) > 6)
        assert sum(isinstance(item, Sample) for item in agent.items) == samples
        await lamp.start(port=port)
        await agent.until(lambda: lamp.look == LOOKS[5])
        await agent.until(lambda: agent.changes()[-1]["programme"] == "level_5")
    assert agent.kinds().count("device_lost") == agent.kinds().count("device_back") == 1


async def test_a_lamp_that_hangs_up_in_the_middle_is_asked_again(lamp) -> None:
    async with Agent(lamp.port) as agent:
        agent.say(5)
        await agent.until(lambda: lamp.look == LOOKS[5])
        for _ in range(3):
            lamp.hang_up()
            writes = lamp.writes
            await agent.until(lambda writes=writes: lamp.writes > writes + 1)
    assert lamp.look == LOOKS[5]


async def test_a_lamp_that_answers_nothing_is_lost_in_time(lamp, monkeypatch) -> None:
    monkeypatch.setattr(link, "ANSWER_WITHIN_S", 0.1)
    lamp.mute = True
    async with Agent(lamp.port) as agent:
        await agent.until(lambda: len(agent.errors) > 1)
        assert agent.kinds() == ["device_lost"]
        lamp.mute = False
        await agent.until(lambda: "device_back" in agent.kinds())


async def test_another_unit_says_no(lamp) -> None:
    async with Agent(lamp.port, unit=9) as agent:
        await agent.until(lambda: agent.errors)
    assert isinstance(agent.errors[0], RefusedError)


async def test_after_a_power_cut_the_lamp_shows_the_last_level_again(lamp) -> None:
    async with Agent(lamp.port) as first:
        first.say(5)
        await first.until(lambda: first.changes() and first.changes()[-1]["programme"] == "level_5")
    lamp._held = list(NORMAL_LIGHT.registers)
    async with Agent(lamp.port, memory=first.memory) as second:
        await second.until(lambda: lamp.look == LOOKS[5])
        second.say(0)
        await second.until(lambda: lamp.look == NORMAL_LIGHT)


async def test_bad_messages_change_nothing(lamp) -> None:
    async with Agent(lamp.port) as agent:
        agent.say(5)
        await agent.until(lambda: agent.changes() and agent.changes()[-1]["programme"] == "level_5")
        for payload in (b"", b"\xff" * 100, b'{"level":0}', b" " * 10**6, b'{"level":9,"checked_at":"now"}'):
            agent.driver.hear("alert", payload)
        agent.driver.hear("tags", b'{"level":0}')
        agent.say(0, checked_at="2020-01-01T00:00:00Z")
        agent.say(0, checked_at="2120-01-01T00:00:00Z")
        writes = lamp.writes
        await agent.until(lambda: lamp.writes > writes + 2)
        assert lamp.look == LOOKS[5]
        assert agent.driver.status()["refused"] == 7


@pytest.mark.parametrize(
    ("table", "key"),
    [
        ({}, "host"),
        ({"host": ""}, "host"),
        ({"host": "a b"}, "host"),
        ({"host": "a", "port": 0}, "port"),
        ({"host": "a", "unit": 0}, "unit"),
        ({"host": "a", "refresh_s": 0}, "refresh_s"),
        ({"host": "a", "colour": 1}, "colour"),
    ],
)
def test_a_wrong_table_is_named(table, key) -> None:
    with pytest.raises(ConfigError) as refused:
        create(Context("lamp", SystemClock(), lambda name: name), table)
    assert refused.value.key == key


@pytest.mark.slow
async def test_the_lamp_driver_keeps_the_contract(monkeypatch) -> None:
    monkeypatch.setattr(link, "ANSWER_WITHIN_S", 0.3)

    def bench(begin=lambda _: None):
        @asynccontextmanager
        async def opened():
            server = LampServer()
            await server.start()
            begin(server)
            try:
                yield contract.Rig(
                    {"host": "127.0.0.1", "port": server.port, "refresh_s": 0.1},
                    silence=lambda: setattr(server, "mute", True),
                    mend=lambda: setattr(server, "mute", False),
                )
            finally:
                await server.close()

        return opened

    faults = {"mute from the start": bench(lambda server: setattr(server, "mute", True))}
    await contract.check(create, bench(), faults, speed=600)
