"""`edge-agent modbus scan|dump|watch` on a simulated line: what a person sees, and what is never sent or told."""

import argparse
import asyncio
import json
import re
from contextlib import asynccontextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivers.api import Context
from drivers.contract import DictMemory, FastClock
from drivers.modbus import commands, survey
from drivers.modbus.commands import command, endpoint_of, units_of
from drivers.modbus.driver import create
from drivers.modbus.endpoints import SerialEndpoint, TcpEndpoint
from edge_agent import control
from simulators.house import House
from simulators.inverter import InverterServer, huawei, sunspec
from simulators.modbus_images import image_of
from simulators.modbus_transport import parse
from simulators.modbus_units import Unit

NOON = House(seed=1).at(1_780_239_600_000 + 12 * 3_600_000)


@asynccontextmanager
async def line(*troubles, framing="tcp", serial=None):
    server = InverterServer({1: huawei(), 2: sunspec()}, lambda: NOON)
    server.framing, server.troubles = framing, [parse(text) for text in troubles]
    if serial is not None:
        server.start_serial(serial)
    else:
        await server.start()
    try:
        yield server
    finally:
        await server.close()


async def run(*words):
    parser = argparse.ArgumentParser()
    command.configure(parser)
    return await asyncio.to_thread(command.run, parser.parse_args(words))


@pytest.mark.parametrize("place", ["tcp", "rtu", "serial"])
async def test_a_scan_names_the_units_that_answer_and_writes_nothing(place, capsys, tmp_path):
    serial = tmp_path / "tty" if place == "serial" else None
    async with line(framing="rtu" if place == "rtu" else "tcp", serial=serial) as server:
        where = str(serial) if serial else f"127.0.0.1:{server.port}"
        options = ["--rtu"] if place == "rtu" else []
        code = await run("scan", where, "--units", "1-3", "--timeout", "0.3", "--gap", "0", "--json", *options)
        assert server.writes == 0
    told = [json.loads(row) for row in capsys.readouterr().out.splitlines()]
    assert code == 0
    assert [(one["unit"], one["sunspec"]) for one in told] == [(1, False), (2, True)]
    assert told[0]["maps"]["huawei_sun2000"] == "SUN2000-5KTL-SIM"
    assert told[1]["model"] == "Simulated inverter"
    assert [one.split("@")[0] for one in told[1]["models"]][:2] == ["1", "101"]
    assert "SIM000000000" not in json.dumps(told)


async def test_a_scan_in_words_and_of_nobody(capsys):
    async with line("dead:unit=1") as server:
        where = f"127.0.0.1:{server.port}"
        assert await run("scan", where, "--units", "2", "--gap", "0") == 0
        assert "SunSpec  edge-gateway Simulated inverter" in capsys.readouterr().out
        assert await run("scan", where, "--units", "1", "--timeout", "0.1", "--gap", "0") == 1
        assert "no unit of 1 answers" in capsys.readouterr().err


@pytest.mark.parametrize(("unit", "options"), [(1, ["--map", "huawei_sun2000"]), (2, [])])
async def test_a_dump_is_played_again_by_the_simulator_and_holds_no_serial_number(unit, options, capsys, tmp_path):
    async with line() as server:
        assert await run("dump", f"127.0.0.1:{server.port}", "--unit", str(unit), "--gap", "0", *options) == 0
        written = capsys.readouterr().out
        assert server.writes == 0
        live = server.units[unit]
        (tmp_path / "dumped.json").write_text(written)
        number, played = image_of(tmp_path / "dumped.json")
        assert number == unit
        for first, words in json.loads(written)["blocks"]:
            count = min(len(words) // 4, 100)
            assert played.read(first, count, NOON)[0] == live.read(first, count, NOON)[0]
    assert b"SIM0000".hex() not in written


async def test_a_dump_leaves_out_what_the_device_refuses(capsys):
    async with line() as server:
        assert await run("dump", f"127.0.0.1:{server.port}", "--range", "31990-32010", "32100", "--gap", "0") == 0
    told = capsys.readouterr()
    assert [block[0] for block in json.loads(told.out)["blocks"]] == [32000, 32100]
    assert "serial number" in told.err


def words_of(text, *, spread=False):
    data = "".join(f"\0{letter}" if spread else letter for letter in text).encode()
    data += b"\0" * (len(data) % 2)
    return [data[at] << 8 | data[at + 1] for at in range(0, len(data), 2)]


def chain_with(*models):
    """A unit that shows a common model and these others: number and registers."""
    common = [*words_of("Maker"), *[0] * 45, *words_of("SECRET-0001"), *[0] * 12]
    words = words_of("SunS")
    for number, body in [(1, common[:66]), *models, (0xFFFF, [])]:
        words += [number, len(body), *body]
    return Unit("inverter", ((40_000, 40_000 + len(words)),), (), dict(enumerate(words, 40_000)))


async def dumped(unit, capsys):
    server = InverterServer({1: unit}, lambda: NOON)
    await server.start()
    try:
        assert await run("dump", f"127.0.0.1:{server.port}", "--gap", "0") == 0
    finally:
        await server.close()
    told = capsys.readouterr()
    blocks = json.loads(told.out)["blocks"]
    return {
        first + at // 4: int(words[at : at + 4], 16) for first, words in blocks for at in range(0, len(words), 4)
    }, told


async def test_a_makers_own_model_is_dumped_without_its_texts(capsys):
    serial, spread = words_of("7E0F8A12B"), words_of("X99-0042", spread=True)
    own = [2300, 0x8000, *serial, 501, 5000, *spread, 0, 0xFFFF]
    unit = chain_with((64_110, own), (103, [1000 + at for at in range(50)]))
    held, told = await dumped(unit, capsys)
    at = 40_002 + 68 + 2
    shown = [held.get(at + index) for index in range(len(own))]
    assert shown == [2300, 0x8000, *[None] * len(serial), 501, 5000, *[None] * len(spread), 0, 0xFFFF]
    assert (held[at - 2], held[at - 1]) == (64_110, len(own))
    assert [held[at + len(own) + 2 + index] for index in range(50)] == [1000 + index for index in range(50)]
    assert "texts are left out" in told.err


async def test_of_a_model_about_the_network_only_the_header_is_dumped(capsys):
    held, _ = await dumped(chain_with((11, [0x0200, 0x5E10, 0x2030]), (64_000, [7])), capsys)
    assert held[40_070] == 11
    assert not held.keys() & set(range(40_072, 40_075))
    assert held[40_077] == 7
    assert "SECRET" not in bytes.fromhex("".join(f"{word:04x}" for word in held.values())).decode("latin-1")


@given(
    serial=st.text("ABCDEFGHIJKLMNOPQRSTUVWXYZabcxyz0123456789-/. ", min_size=4, max_size=32),
    before=st.lists(st.integers(0, 0xFFFF), max_size=60),
    after=st.lists(st.integers(0, 0xFFFF), max_size=60),
)
def test_no_text_of_an_unknown_model_survives_wherever_it_stands(serial, before, after):
    body = [*before, *words_of(serial), *after]
    blocks = [(100, "".join(f"{word:04x}" for word in body))]
    held = survey._without_texts(blocks, set(range(100, 100 + len(body))))
    addresses = {first + at // 4 for first, words in held for at in range(0, len(words), 4)}
    assert not addresses & set(range(100 + len(before), 100 + len(before) + len(words_of(serial))))
    assert survey._without_texts(blocks, set()) == blocks


async def test_watching_shows_values_with_units_and_their_quality(capsys):
    async with line() as server:
        where = f"127.0.0.1:{server.port}"
        assert (
            await run("watch", where, "--map", "huawei_sun2000", "--rounds", "2", "--every", "0.1", "--gap", "0") == 0
        )
    shown = capsys.readouterr().out
    assert len(re.findall(rf"pv_power_w +{NOON.pv_w} W", shown)) == 2
    assert "SIM0000" not in shown


async def test_watching_a_device_that_does_not_answer_says_so_and_goes_on(capsys):
    async with line("dead") as server:
        where = f"127.0.0.1:{server.port}"
        assert await run("watch", where, "--rounds", "2", "--every", "0.1", "--timeout", "0.1", "--gap", "0") == 0
    assert capsys.readouterr().out.count("is silent") == 2


@pytest.mark.parametrize(
    "words",
    [
        ("scan", "127.0.0.1:1", "--units", "1"),
        ("scan", "127.0.0.1:x"),
        ("scan", "127.0.0.1:502", "--units", "1-300"),
        ("dump", "127.0.0.1:1", "--range", "5-2"),
        ("scan", "127.0.0.1:502", "--units", "256"),
        ("scan", "127.0.0.1:99999"),
        ("dump", "127.0.0.1:1", "--range", "0-65536"),
        ("watch", "/dev/there-is-no-such-port", "--rounds", "1"),
    ],
)
async def test_what_makes_no_sense_is_one_line_and_a_failure(words, capsys):
    assert await run(*words) == 1
    told = capsys.readouterr()
    assert told.out == ""
    assert len(told.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("verb", "option", "value", "said"),
    [
        ("dump", "--unit", "300", "300 is not between 0 and 255"),
        ("watch", "--unit", "-1", "-1 is not between 0 and 255"),
        ("dump", "--unit", "x", "x is no whole number"),
        ("watch", "--every", "nan", "nan is not between 0.1 and 86400"),
        ("watch", "--every", "1e308", "1e308 is not between"),
        ("watch", "--rounds", "0", "0 is not between 1 and"),
        ("scan", "--timeout", "0", "0 is not between 0.05 and 30"),
        ("dump", "--timeout", "inf", "inf is not between 0.05 and 30"),
        ("scan", "--gap", "nan", "nan is not between 0 and 5000"),
        ("watch", "--baudrate", "0", "0 is not between 300 and 4000000"),
    ],
)
async def test_an_option_out_of_its_range_is_refused_in_plain_words(verb, option, value, said, capsys):
    with pytest.raises(SystemExit) as caught:
        await run(verb, "127.0.0.1:1", f"{option}={value}")
    assert caught.value.code == 2
    assert said in capsys.readouterr().err.splitlines()[-1]


def test_endpoints_and_units_are_read_from_words():
    def parsed(*words):
        parser = argparse.ArgumentParser()
        command.configure(parser)
        return endpoint_of(parser.parse_args(["scan", *words]))

    assert parsed("inverter.local") == TcpEndpoint("inverter.local", 502)
    assert parsed("10.0.0.5:8899", "--rtu") == TcpEndpoint("10.0.0.5", 8899, "rtu")
    assert parsed("/dev/ttyUSB0", "--baudrate", "19200", "--parity", "E") == SerialEndpoint("/dev/ttyUSB0", 19200, "E")
    assert units_of("1-3,247,2") == [1, 2, 3, 247]


def test_a_dump_is_bounded():
    with pytest.raises(ValueError, match="at most"):
        asyncio.run(survey.dump(None, 1, [survey.Span("holding", 0, 20_000)], 1))
    assert commands.command.help


@asynccontextmanager
async def agent(server, folder):
    """An agent's control socket in front of a driver that holds the line."""
    driver = create(
        Context("roof", FastClock(), str),
        {"host": "127.0.0.1", "port": server.port, "gap_ms": 0, "devices": {"inv": {"map": "sunspec", "unit": 2}}},
    )

    async def emit(item, remember=None):
        del item, remember

    async def carry_out(name, arguments):
        owner, _, name = name.partition(".")
        assert owner == "roof"
        return await driver.command(name, arguments)

    task = asyncio.ensure_future(driver.run(emit, DictMemory()))
    async with control.listening(folder / "house.sock", control.Desk({}, carry_out, lambda: 0)):
        for _ in range(300):
            if driver.status()["devices"]["inv"].get("rounds"):
                break
            await asyncio.sleep(0.01)
        yield str(folder / "house.sock")
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_line_that_the_agent_holds_is_read_through_it(capsys, tmp_path):
    async with line("dead:unit=1") as server, agent(server, tmp_path) as socket:
        through = ["roof", "--through", socket]
        assert await run("scan", *through, "--units", "1-2", "--timeout", "0.1", "--json") == 0
        told = [json.loads(row) for row in capsys.readouterr().out.splitlines()]
        assert [(one["unit"], one["sunspec"]) for one in told] == [(2, True)]
        assert await run("dump", *through, "--unit", "2") == 0
        assert json.loads(capsys.readouterr().out)["blocks"][0][0] == 40000
        assert await run("watch", *through, "--unit", "2", "--rounds", "1") == 0
        assert "pv_power_w" in capsys.readouterr().out
        assert len(server.connections) == 1
        assert server.writes == 0


async def test_an_agent_that_is_not_there_is_said(capsys, tmp_path):
    assert await run("scan", "roof", "--through", str(tmp_path / "none.sock")) == 1
    assert "no agent answers" in capsys.readouterr().err
