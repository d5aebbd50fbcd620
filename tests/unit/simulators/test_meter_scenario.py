"""A scenario read from YAML, refused where it makes no sense, and played on the simulated dongle at its terminal."""

import argparse
import asyncio
import json
import os
import re

import pytest

from simulators import __main__ as command
from simulators import echonet_steps, meter, scenario
from simulators.air import Radio
from simulators.clock import SimulatedClock
from simulators.echonet_steps import Silent
from simulators.house import House
from simulators.log import ServedLog
from simulators.meter import MeterSettings, serve, settings_from
from simulators.meter_steps import (
    KINDS,
    Announce,
    EndSession,
    Expire,
    Loss,
    Mute,
    NeighbourStep,
    NoJoinAnswer,
    Notify,
    Restart,
    Unplug,
    WrongPassword,
    unfit_for_j11,
)
from simulators.metering import Meter
from simulators.stage import Stage


def written(tmp_path, text):
    path = tmp_path / "scenario.yaml"
    path.write_text(text)
    return path


def test_steps_are_read_in_the_order_of_their_times(tmp_path):
    path = written(tmp_path, "- {at_s: 60, do: loss, share: 0.17}\n- {at_s: 5, do: end_session, event: '29'}\n")
    assert scenario.read(path, KINDS) == (EndSession(at_s=5, event="29"), Loss(at_s=60, share=0.17))


def test_files_of_the_first_form_are_still_good(tmp_path):
    path = written(
        tmp_path,
        """
        - {at_s: 600, do: unplug, for_s: 20}
        - {at_s: 900, do: restart}
        - {at_s: 1200, do: mute, for_s: 90}
        - {at_s: 1800, do: end_session, event: "26"}
        - {at_s: 2400, do: announce, event: "32"}
        - {at_s: 3000, do: loss, share: 0.17}
        """,
    )
    assert [type(step) for step in scenario.read(path, KINDS)] == [Unplug, Restart, Mute, EndSession, Announce, Loss]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "not a list"),
        ("x", "not a list"),
        ("[1", ".*mend the line"),
        ("- 1", "step 1: .*not a table"),
        ("- {do: restart}", "step 1: at_s: missing; add it"),
        ("- {at_s: 1, do: restart}\n- {at_s: -1, do: restart}", "step 2: at_s = -1"),
        ("- {at_s: 1, do: burn}", "step 1: do = 'burn': .*one of restart, unplug"),
        ("- {at_s: 1, x: 1}", "step 1: do: .*one of"),
        ("- {at_s: 1, do: [restart]}", "step 1: do = .*one of"),
        ("- {at_s: 1, do: restart, for_s: 2}", "step 1: for_s: no such key; remove it; known keys: at_s"),
        ("- {at_s: 1, do: loss, sahre: 0.1}", "step 1: sahre: no such key; did you mean 'share'"),
        ("- {at_s: 1, do: loss, share: 17}", "step 1: share = 17"),
        ("- {at_s: 1, do: refuse, epcs: []}", "step 1: epcs"),
        ("- {at_s: 1, do: refuse, epcs: [80]}", "step 1: epcs.0 = 80: .*quotes"),
        ("- {at_s: 1, do: end_session, event: 29}", "step 1: event = 29: .*quotes"),
        ("- {at_s: 1, do: latency, percentiles_s: [1, 0.5, 2, 3]}", "step 1: percentiles_s = .*rising"),
        ("- {at_s: 1, do: latency, percentiles_s: [.1, .2, .3, .inf]}", "step 1: percentiles_s = .*from 0 to 600 s"),
        ("- {at_s: 1, do: latency, percentiles_s: [.1, .nan, .2, .3]}", "step 1: percentiles_s = .*rising"),
        ("- {at_s: .inf, do: restart}", "step 1: at_s = inf: .*1000000000"),
        ("- {at_s: .nan, do: restart}", "step 1: at_s = nan"),
        ("- {at_s: 1, do: unplug, for_s: .inf}", "step 1: for_s = inf"),
        ("- {at_s: 1, do: damage, kind: delay, seconds: .inf}", "step 1: seconds = inf"),
        ("- {at_s: 1, do: damage, kind: cut}", "step 1: kind = 'cut'"),
        ("- {at_s: 1, do: exchange, mac: xyz}", "step 1: mac = 'xyz'"),
    ],
)
def test_what_makes_no_sense_is_refused_with_file_step_key_and_remedy(text, said, tmp_path):
    with pytest.raises(ValueError, match=rf"scenario\.yaml: {said}"):
        scenario.read(written(tmp_path, text), KINDS)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ValueError, match="missing"):
        scenario.read(tmp_path / "missing", KINDS)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{at_s: 1, do: announce, event: '32'}", "do = 'announce': no meaning with --dialect j11"),
        ("{at_s: 1, do: expire}", "do = 'expire': .*use end_session"),
        ("{at_s: 1, do: neighbour}", "do = 'neighbour'"),
        ("{at_s: 1, do: end_session, event: '29'}", "event = '29': .*leave it out"),
    ],
)
def test_what_a_j11_dongle_cannot_play_is_refused_before_it_starts(text, said, tmp_path, capsys):
    path = written(tmp_path, f"- {{at_s: 1, do: restart}}\n- {text}\n")
    options = ["meter", "--link", str(tmp_path / "port"), "--scenario", str(path), "--dialect"]
    assert command.main([*options, "j11"]) == 1
    complaint = capsys.readouterr().err
    assert f"{path}: step 2: " in complaint
    assert re.search(said, complaint)
    parser = argparse.ArgumentParser()
    meter.configure(parser)
    assert len(settings_from(parser.parse_args([*options[1:], "c2"])).scenario) == 2


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["j11", "--expires-s", "60", "--neighbour"], "--expires-s, --neighbour: no meaning with --dialect j11"),
        (["dss", "--binary"], "--binary: no meaning with --dialect dss"),
    ],
)
def test_an_option_that_the_dongle_cannot_play_is_refused_too(options, said, tmp_path, capsys):
    assert command.main(["meter", "--link", str(tmp_path / "port"), "--dialect", *options]) == 1
    assert said in capsys.readouterr().err


def test_all_else_a_j11_dongle_can_play():
    needed = {"loss": {"share": 1}, "air": {"profile": "ideal"}, "refuse": {"epcs": ("E7",)},
              "damage": {"kind": "drop"}, "meter_clock": {"error_s": 1}}  # fmt: skip
    unfit = {word for word, kind in KINDS.items() if unfit_for_j11(kind(at_s=1, **needed.get(word, {}))) is not None}
    assert unfit == {"announce", "expire", "neighbour"}


async def test_of_two_ways_to_keep_us_out_the_later_one_says_for_how_long():
    clock, told = SteppedClock(), []
    steps = (WrongPassword(at_s=10, for_s=20), NoJoinAnswer(at_s=20, for_s=50))
    await scenario.play(steps, clock, lambda _: None, lambda step: told.append((clock.now // 1000, type(step))))
    assert told == [(70, NoJoinAnswer)]


async def test_what_lasts_at_one_device_is_not_ended_by_another_of_its_kind():
    clock, told = SteppedClock(), []
    steps = (Silent(at_s=1, device="pv", for_s=10), Silent(at_s=2, device="battery", for_s=20))
    await scenario.play(steps, clock, lambda _: None, lambda step: told.append((clock.now // 1000, step.device)))
    assert told == [(11, "pv"), (22, "battery")]


@pytest.mark.parametrize(("page", "kinds"), [("route_b", KINDS), ("echonet_ip", echonet_steps.KINDS)])
@pytest.mark.parametrize("language", ["", ".ja"])
def test_every_kind_of_step_stands_in_the_table_of_its_page(page, kinds, language, root):
    rows = [line for line in (root / "docs" / f"{page}{language}.md").read_text().splitlines() if line.startswith("|")]
    first = " ".join(row.split("|")[1] for row in rows)
    assert {word for word in kinds if f"`{word}`" not in first} == set()


class SteppedClock:
    """A clock that is told the time by whoever sleeps."""

    now = 0

    def unix_ms(self):
        return self.now

    async def sleep_until(self, unix_ms):
        self.now = max(self.now, unix_ms)


async def test_what_lasts_is_ended_by_the_last_of_its_kind_alone():
    clock, told = SteppedClock(), []
    steps = (
        WrongPassword(at_s=10, for_s=50),
        NeighbourStep(at_s=20, for_s=5),
        WrongPassword(at_s=30, for_s=100),
        Expire(at_s=40),
    )

    def note(what):
        return lambda step: told.append((what, clock.now // 1000, type(step).__name__))

    await scenario.play(steps, clock, note("begins"), note("ends"))
    assert told == [
        ("begins", 10, "WrongPassword"),
        ("begins", 20, "NeighbourStep"),
        ("ends", 25, "NeighbourStep"),
        ("begins", 30, "WrongPassword"),
        ("begins", 40, "Expire"),
        ("ends", 130, "WrongPassword"),
    ]


class Client:
    """What a program at the other end of the line sees."""

    def __init__(self, port):
        self._port, self.said = port, b""
        self._news = asyncio.Event()
        self.descriptor = os.open(port, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
        asyncio.get_running_loop().add_reader(self.descriptor, self._read)

    def _read(self):
        try:
            data = os.read(self.descriptor, 4096)
        except OSError:
            data = b""
        self.said += data
        if not data:
            asyncio.get_running_loop().remove_reader(self.descriptor)
            self.said += b"(gone)"
        self._news.set()

    async def until(self, word):
        async with asyncio.timeout(10):
            while word not in self.said:
                self._news.clear()
                await self._news.wait()

    def ask(self, command):
        self.said = b""
        os.write(self.descriptor, command + b"\r\n")

    def close(self):
        asyncio.get_running_loop().remove_reader(self.descriptor)
        os.close(self.descriptor)


@pytest.fixture
async def played(tmp_path):
    """Give a function that starts a meter with a scenario and returns its port."""
    async with asyncio.TaskGroup() as group:
        tasks = []

        async def start(*steps):
            clock, ready = SimulatedClock(), asyncio.Event()
            house = House(start_ms=clock.unix_ms() // 1_800_000 * 1_800_000)
            settings = MeterSettings(radio=Radio(), scenario=steps)
            tasks.append(group.create_task(serve(house, clock, link=tmp_path / "port", ready=ready, settings=settings)))
            await ready.wait()
            return tmp_path / "port"

        yield start
        for task in tasks:
            task.cancel()


async def test_events_are_said_at_their_times(played):
    client = Client(await played(Announce(at_s=0.1, event="32"), EndSession(at_s=0.2, event="26")))
    await client.until(b"EVENT 26")
    assert client.said.index(b"EVENT 32") < client.said.index(b"EVENT 26")
    client.close()


async def test_a_mute_dongle_says_nothing_and_a_restarted_one_echoes_again(played):
    client = Client(await played(Mute(at_s=0.1, for_s=0.5), Restart(at_s=0.8)))
    client.ask(b"SKSREG SFE 0")

    async def answered():
        client.ask(b"SKVER")
        try:
            await asyncio.wait_for(client.until(b"OK"), 0.3)
        except TimeoutError:
            return False
        return True

    async with asyncio.timeout(20):
        while await answered():
            pass
        while not await answered():
            pass
        while not client.said.startswith(b"SKVER\r\nEVER"):
            await answered()
    client.close()


async def test_an_unplugged_dongle_is_gone_as_long_as_the_scenario_says(played):
    port = await played(Unplug(at_s=0.2, for_s=0.5), Loss(at_s=0.1, share=1.0))
    client = Client(port)
    await client.until(b"(gone)")
    assert not port.exists()
    client.close()
    async with asyncio.timeout(10):
        while not port.exists():  # noqa: ASYNC110  (made by the simulator, which tells nobody)
            await asyncio.sleep(0.05)
    again = Client(port)
    again.ask(b"SKVER")
    await again.until(b"OK")
    again.close()


async def test_what_needs_a_dongle_is_logged_as_missed_while_none_is_plugged_in(tmp_path):
    clock = SimulatedClock()
    house = House(start_ms=clock.unix_ms() // 1_800_000 * 1_800_000)
    log = ServedLog(tmp_path / "log", clock)
    stage = Stage(clock, Radio(), Meter(house, clock.unix_ms), log)
    for step in (Restart(at_s=1), Loss(at_s=2, share=0.5), Notify(at_s=3)):
        stage.act(step)
    log.close()
    lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert [(line["step"]["do"], "missed" in line) for line in lines] == [
        ("restart", True),
        ("loss", False),
        ("notify", True),
    ]
    assert stage.radio.loss == 0.5
