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
        await agent.until(lambda: len(agent.samples("battery")) == 110, within_s=300)  # more than 500 portions
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


async def test_a_lost_device_is_asked_at_once_when_anybody_on_the_network_is_switched_on(air):
    node = await air.node(12, ["battery"])
    stranger = await air.node(13, ["aircon"])
    agent, loop = air.agent(battery(air), poll_s=1), asyncio.get_running_loop()
    async with agent.running():
        await agent.until(lambda: agent.samples("battery"))
        node.node.manners.mute = True
        (watch,) = agent.driver._watches
        await agent.becomes(lambda: watch.lost and watch.ask_at - loop.time() > 30, within_s=900)
        node.node.manners.mute = False
        stranger.announce(stranger.node.instance_list())
        announced_at = loop.time()
        await agent.until(lambda: agent.events("device_back"), within_s=300)
    assert loop.time() - announced_at < 3
    assert agent.driver.status()["strangers"] == 0  # a node that says it is there


async def test_a_device_that_is_not_lost_is_not_asked_more_often_for_that(air):
    node = await air.node(12, ["battery"])
    stranger = await air.node(13, ["aircon"])
    agent = air.agent(battery(air), poll_s=60)
    async with agent.running():
        await agent.until(lambda: len(agent.samples("battery")) == 2, within_s=120)
        node.requests.clear()
        for _ in range(20):
            stranger.announce(stranger.node.instance_list())
            await asyncio.sleep(1)
        assert node.requests == []
        await agent.until(lambda: len(agent.samples("battery")) == 3, within_s=120)
    assert 0x9F not in {code for request in node.requests for code, _ in request.properties}  # nor looked for anew


async def test_a_device_that_was_curt_for_a_while_is_asked_more_again(air):
    node = await air.node(12, ["battery"])
    memory = DictMemory()
    memory.take({"learnt:battery": {"most": 4, "timeout_s": 5.0, "refused": []}})
    agent = air.agent(battery(air), memory, poll_s=1)
    async with agent.running():
        await agent.until(lambda: agent.samples("battery"))
        assert learnt(agent)["most"] == 4
        await agent.until(lambda: learnt(agent)["most"] > 4, within_s=600)
        assert 450 < len(node.requests) < 550  # not sooner: on a bad radio a device seems to be curt
        await agent.until(lambda: learnt(agent)["most"] == MOST_PROPERTIES, within_s=600)
        read = len(agent.samples("battery"))
        await agent.until(lambda: len(agent.samples("battery")) == read + 2, within_s=10)
    assert max(sizes(node)[-8:]) == MOST_PROPERTIES


async def test_what_was_announced_before_a_poll_is_not_told_after_it(air):
    node = await air.node(12, ["aircon"])
    agent = air.agent({"living": {"eoj": "013001", "address": air.address(12)}}, poll_s=10)
    told, go_on, emit = asyncio.Event(), asyncio.Event(), agent.emit

    async def busy(item, remember=None):
        if getattr(item, "values", None) == {"operation_status": "off"}:
            told.set()
            await go_on.wait()
        await emit(item, remember)

    def switched(edt):
        node.node.things[bytes.fromhex("013001")].setters[0x80](edt)
        node.announce_changes()

    agent.emit = busy
    async with agent.running():
        await agent.until(lambda: len(agent.samples("living")) == 2, within_s=30)
        node.announce_changes()
        switched(b"\x31")
        await told.wait()  # the outbox takes its time
        switched(b"\x30")
        await asyncio.sleep(1)
        node.node.things[bytes.fromhex("013001")].setters[0x80](b"\x31")
        await agent.until(lambda: len(agent.samples("living")) == 3, within_s=30)  # the next poll
        go_on.set()
        await agent.until(lambda: len(agent.samples("living")) == 5, within_s=30)
    said = [sample.values["operation_status"] for sample in agent.samples("living")]
    assert said == ["on", "on", "off", "off", "off"]
