"""`edge-agent echonet` on a simulated home: what is there, an image without secrets, and what is announced."""

import argparse
import asyncio
import json

import pytest

from drivers.api import ConfigError, LinkError
from drivers.echonet_ip.commands import command
from simulators.echonet import Node, things_of_image


async def say(home, *words):
    """Run one action as the command line would, beside this event loop, and return its exit code."""
    parser = argparse.ArgumentParser()
    command.configure(parser)
    options = ["--address", home.box, "--port", str(home.port), "--timeout", "1"]
    return await asyncio.to_thread(command.run, parser.parse_args([words[0], *options, *words[1:]]))


async def test_a_scan_says_who_is_there(home, capsys):
    await home.node(11, ["pv"])
    await home.node(12, ["battery"], instance=2)
    assert await say(home, "scan", "--listen", "0.2") == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[0].split() == [home.address(11), "027901", "residential", "PV"]
    assert shown[1].split() == ["maker", "FFFFFE", "product", "SIMULATOR"]
    assert shown[3].split() == [home.address(12), "027D02", "storage", "battery"]
    assert shown[5].split() == ["identification", "FEFFFFFE000053494D3030303142415454/027D02"]


async def test_a_scan_for_programs_is_one_object_a_line(home, capsys):
    await home.node(11, ["pv"], identified=False)
    assert await say(home, "scan", "--listen", "0.2", "--json") == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["address"], said["eoj"], said["readable"]) == (home.address(11), "027901", True)
    assert said["identification"] == "FFFFFE-SIMULATOR-SIM0001PV/027901"
    assert {"E0", "E1"} <= set(said["properties"])
    assert said["settable"] == []


async def test_a_scan_of_nothing_says_what_to_look_at(home, capsys):
    assert await say(home, "scan", "--listen", "0.1") == 1
    assert "ECHONET Lite switched on" in capsys.readouterr().err


async def test_a_dump_is_an_image_that_the_simulator_plays_and_names_no_house(home, tmp_path, capsys):
    await home.node(12, ["battery", "aircon"])
    assert await say(home, "dump", home.address(12), "--out", str(tmp_path / "node.json")) == 0
    content = (tmp_path / "node.json").read_text()
    for secret in ("SIM0001BATT", "SIM0001AIRC"):
        assert secret.encode().hex().upper() not in content
    image = json.loads(content)
    assert sorted(image["objects"]) == ["013001", "027D01", "0EF001"]
    assert image["objects"]["027D01"]["D3"] == (-home.balance.battery_w).to_bytes(4, "big").hex().upper()
    await home.serve(30, Node(things_of_image(content)))
    assert await say(home, "dump", home.address(30)) == 0
    assert capsys.readouterr().out == content


async def test_watching_shows_what_is_announced(home, capsys):
    node = await home.node(11, ["pv"])
    watching = asyncio.ensure_future(say(home, "watch", "--for", "1.0", "--json"))
    while not watching.done():
        node.announce(node.node.instance_list())
        await asyncio.sleep(0.1)
    assert watching.result() == 0
    said = json.loads(capsys.readouterr().out.splitlines()[0])
    assert said["eoj"] == "0EF001"
    assert said["properties"] == {"D5": "01027901"}


async def test_a_port_that_the_agent_holds_is_left_alone(home, listener):
    async with listener(home.table({"pv": {"eoj": "027901", "address": home.address(11)}})).running() as agent:
        await agent.becomes(lambda: agent.driver.status()["open"])
        with pytest.raises(LinkError, match="stop it first"):
            await say(home, "scan")


@pytest.mark.parametrize(
    "words", ["scan --port 99999", "scan --timeout nan", "scan --listen -1", "watch --for inf", "dump HOST --port 0"]
)
def test_a_number_that_makes_no_sense_is_refused_in_plain_words(words, capsys):
    parser = argparse.ArgumentParser()
    command.configure(parser)
    with pytest.raises(SystemExit, match="2"):
        parser.parse_args(words.split())
    assert "is not between" in capsys.readouterr().err


async def test_an_address_of_no_box_is_refused(home):
    with pytest.raises(ConfigError, match="no IPv4 address"):
        await say(home, "dump", "living-room")
