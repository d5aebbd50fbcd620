"""A scenario read from YAML and played on the simulated dongle at its pseudo-terminal."""

import asyncio
import os

import pytest

from simulators import scenario
from simulators.clock import SimulatedClock
from simulators.dongle import Radio
from simulators.house import House
from simulators.meter import MeterSettings, serve
from simulators.scenario import Step


def written(tmp_path, text):
    path = tmp_path / "scenario.yaml"
    path.write_text(text)
    return path


def test_steps_are_read_in_the_order_of_their_times(tmp_path):
    path = written(tmp_path, "- {at_s: 60, do: loss, share: 0.17}\n- {at_s: 5, do: end_session, event: '29'}\n")
    assert scenario.read(path) == (Step(5, "end_session", event="29"), Step(60, "loss", share=0.17))
    assert scenario.read(path)[0].number == 0x29


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "- 1",
        "- {do: restart}",
        "- {at_s: -1, do: restart}",
        "- {at_s: 1, do: burn}",
        "- {at_s: 1, x: 1}",
        "[1",
    ],
)
def test_what_makes_no_sense_is_refused_with_the_name_of_its_file(text, tmp_path):
    with pytest.raises(ValueError, match=r"scenario\.yaml"):
        scenario.read(written(tmp_path, text))
    with pytest.raises(ValueError, match="missing"):
        scenario.read(tmp_path / "missing")


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
    client = Client(await played(Step(0.1, "announce", event="32"), Step(0.2, "end_session", event="26")))
    await client.until(b"EVENT 26")
    assert client.said.index(b"EVENT 32") < client.said.index(b"EVENT 26")
    client.close()


async def test_a_mute_dongle_says_nothing_and_a_restarted_one_echoes_again(played):
    client = Client(await played(Step(0.1, "mute", for_s=0.5), Step(0.8, "restart")))
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
    port = await played(Step(0.2, "unplug", for_s=0.5), Step(0.1, "loss", share=1.0))
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
