"""How the driver spares devices over hours, in virtual time: limits of quirks, what is learnt, when it asks again."""

import asyncio

import pytest

from drivers.contract import DictMemory
from drivers.echonet_ip.session import MOST_PROPERTIES
from simulators.echonet_devices import fixed
from simulators.echonet_node import Manners

pytestmark = pytest.mark.looptime(noop_cycles=0)  # all is in memory: nothing comes from outside

BATTERY = bytes.fromhex("027D01")
QUIRK = """
maker: FFFFFE
maker_name: Simulator
source: a test
quirks:
  - {{device_class: "027D", {limit}}}
"""


@pytest.fixture
def quirks(tmp_path):
    """`quirks(limit)` writes a folder with one file of quirks and returns what names it in a table."""

    def written(limit):
        (tmp_path / "simulator.yaml").write_text(QUIRK.format(limit=limit))
        return {"quirks": str(tmp_path)}

    return written


def battery(air):
    return {"battery": {"eoj": "027D01", "address": air.address(12)}}


def learnt(agent):
    return agent.driver.status()["devices"]["battery"]


def sizes(server):
    return [len(request.properties) for request in server.requests]


@pytest.mark.parametrize("most", [2, None])
async def test_a_quirk_limits_how_much_is_ever_asked_at_once(air, quirks, most):
    node = await air.node(12, ["battery"], Manners(most=most))
    agent = air.agent(battery(air), poll_s=1, **quirks("most_properties: 2"))
    async with agent.running():
        await agent.until(lambda: len(agent.samples("battery")) == 65, within_s=300)  # more than 500 portions
        status = agent.driver.status()
    known = next(number for number, size in enumerate(sizes(node)) if size > 2)  # who it is, asked before that is known
    assert known == 2  # after its two maps
    assert max(sizes(node)[known + 1 :]) == 2
    assert (status["devices"]["battery"]["most"], status["silent"], status["late"]) == (2, 0, 0)


async def test_a_quirk_grants_a_device_time_from_the_first_reading_on(air, quirks):
    node = await air.node(12, ["battery"], Manners(delay_s=7.0))
    memory = DictMemory()
    memory.take({"learnt:battery": {"most": 10, "timeout_s": 7.5, "refused": []}})
    agent = air.agent(battery(air), memory, **quirks("timeout_s: 30"))
    async with agent.running():
        await agent.until(lambda: agent.samples("battery"), within_s=300)
        assert learnt(agent)["timeout_s"] == 30
        node.node.manners.delay_s = 25.0
        await agent.until(lambda: len(agent.samples("battery")) == 4, within_s=900)
        status = agent.driver.status()
    assert (status["silent"], status["late"], learnt(agent)["timeout_s"]) == (0, 0, 30)


async def test_another_makers_device_at_the_address_is_asked_without_the_limits_of_the_former(air, quirks):
    node = await air.node(12, ["battery"], Manners(refused=frozenset({0xE4})))
    agent = air.agent(battery(air), poll_s=10, **quirks("most_properties: 2, timeout_s: 30"))
    async with agent.running():
        await agent.until(lambda: agent.samples("battery"))
        former = learnt(agent)
        node.node.manners.mute = True
        await agent.until(lambda: agent.events("device_lost"), within_s=300)
        node.node.exchange("NEXT")
        node.node.things[BATTERY].readers[0x8A] = fixed(bytes.fromhex("00000B"))
        node.node.manners.refused = frozenset()
        node.node.manners.mute = False
        node.requests.clear()
        await agent.until(lambda: agent.events("device_back"), within_s=300)
        await agent.until(lambda: "battery_soc_percent" in agent.samples("battery")[-1].values, within_s=60)
        now = learnt(agent)
    assert (former["most"], former["timeout_s"], former["refused"]) == (2, 30, ["E4"])
    assert (now["most"], now["timeout_s"], now["refused"]) == (MOST_PROPERTIES, 5, [])
    assert max(sizes(node)) == MOST_PROPERTIES
    assert len(agent.events("device_replaced")) == 1
