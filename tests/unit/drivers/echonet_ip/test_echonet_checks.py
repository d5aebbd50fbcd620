"""What the doctor says of home devices: true for a driver at work, and with a remedy for each failure."""

import pytest

from drivers.api import Context
from drivers.contract import FastClock
from drivers.echonet_ip.checks import check


def steps(table, health):
    return list(check(Context("home", FastClock(), lambda name: name), table, health))


async def test_a_home_that_answers_is_well_and_a_device_that_is_missing_has_a_remedy(home, listener):
    await home.node(11, ["pv"])
    table = home.table(
        {
            "pv": {"eoj": "027901", "address": home.address(11)},
            "battery": {"eoj": "027D01", "address": home.address(12)},
        },
        timeout_s=0.1,
    )
    async with listener(table).running() as agent:
        await agent.until(lambda: agent.samples("pv") and agent.events("device_lost"))
        port, pv, battery, *_ = steps(table, {"state": "running", "detail": agent.driver.status()})
    assert port[:2] == ("home: port", "ok")
    assert pv == ("device pv", "ok", home.address(11), "")
    assert battery[:2] == ("device battery", "error")
    assert "did not answer" in battery[2]
    assert "edge-agent echonet scan" in battery[3]


def test_a_port_that_cannot_be_opened_is_the_only_step():
    ((name, verdict, found, remedy),) = steps({"devices": {"pv": {}}}, {"error": "UDP port 3610: in use"})
    assert (name, verdict, found) == ("home: port", "error", "UDP port 3610: in use")
    assert "own address" in remedy


def test_a_slow_device_and_a_weak_network_are_said():
    detail = {
        "open": True,
        "requests": 100,
        "silent": 30,
        "devices": {"pv": {"address": "192.0.2.1", "timeout_s": 20.0, "refused": ["E3"]}, "bath": {"missed": 0}},
    }
    _, pv, bath, network = steps({"devices": {"pv": {}, "bath": {}}}, {"detail": detail})
    assert pv[1] == "ok"
    assert "20 s" in pv[2]
    assert "E3" in pv[2]
    assert bath[1] == "warning"
    assert network[:2] == ("home: network", "warning")
    assert "router" in network[3]


@pytest.mark.parametrize("health", [{}, {"detail": None}, {"detail": {"devices": 3}}])
def test_a_driver_that_says_nothing_was_not_looked_at(health):
    ((_, verdict, found, _),) = steps({"devices": {"pv": {}}}, health)
    assert (verdict, found) == ("error", "未確認 / not looked at yet")
