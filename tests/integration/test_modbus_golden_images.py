"""Captured devices, played by the simulator and read by the real driver, give the values their publishers decoded.

`tests/data/modbus/expected/ID.json` says for each of them, by hand, which quantity an expected key is: `times` turns
its unit or sign into ours, `means` stands for the value itself where it is a state, or where it means nothing.
"""

import asyncio
import json
import re
import sys
from decimal import Decimal
from pathlib import Path

import pytest
import yaml
from harness import free_port

from drivers.api import Context, Sample
from drivers.contract import DictMemory, FastClock
from drivers.modbus.driver import create
from drivers.quantities import QUANTITIES
from simulators.house import House
from simulators.inverter import InverterServer
from simulators.modbus_images import ImageError, image_of
from simulators.programs import Program, running, until

DATA = Path(__file__).parents[1] / "data" / "modbus"
SHARED = Path(__file__).parents[3] / "shared" / "golden" / "modbus"
EXPECTED = sorted(DATA.glob("expected/*.json"))
VENDORED = ("kaco_day", "kaco_night", "sunsynk_3k6")
NOON = House(seed=1).at(1_780_239_600_000 + 12 * 3_600_000)

NOT_MEASURED = re.compile(
    r"^(VA|Evt|St|Tmp|DERTyp|Conn|WMaxLim_|WMaxLimPct_)|[tT]emp|serial|state|status|mode|policy|timeout|cmd"
)
"""Expected keys in no W, Wh, %, V, A or Hz: reactive and apparent power, states, settings, texts, °C."""


def path_of(name):
    path = (DATA if name in VENDORED else SHARED) / f"{name}.json"
    if not path.exists():
        pytest.skip(f"{path} is not here")
    return path


async def read(name, device_map):
    """What the driver says of a played image."""
    number, unit = image_of(path_of(name))
    server = InverterServer({number: unit}, lambda: NOON)
    await server.start()
    line = {"host": "127.0.0.1", "port": server.port, "poll_s": 3600, "gap_ms": 0, "connect_delay_ms": 0}
    devices = {"inverter": {"map": device_map, "unit": number}}
    driver = create(Context("modbus", FastClock(), str), line | {"devices": devices})
    arrived = asyncio.get_running_loop().create_future()

    async def emit(item, remember=None):
        del remember
        if isinstance(item, Sample) and not arrived.done():
            arrived.set_result(item)

    task = asyncio.ensure_future(driver.run(emit, DictMemory()))
    try:
        async with asyncio.timeout(10):
            return (await arrived).values, driver
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await server.close()


def told(entry, value):
    """The quantity of an expected key and the value it should have."""
    if isinstance(entry, str):
        entry = {"quantity": entry}
    if "means" in entry:
        return entry["quantity"], entry["means"]
    return entry["quantity"], None if value is None else Decimal(str(value)) * Decimal(entry.get("times", "1"))


def is_mapped(entry):
    return not (isinstance(entry, str) and entry.startswith("not mapped: "))


def wrong_values(keys, expect, values):
    """Expected keys whose quantity has another value: key to quantity, expected and shown value."""
    wrong = {}
    for key, entry in keys.items():
        if not is_mapped(entry):
            continue
        quantity, value = told(entry, expect[key])
        assert quantity in QUANTITIES
        shown = values.get(quantity, "not read")
        if isinstance(value, Decimal) and not isinstance(shown, str | None):
            same = abs(Decimal(str(shown)) - value) <= max(Decimal("0.00005"), abs(value) / 100_000)
        else:
            same = shown == value
        if not same:
            wrong[key] = (quantity, value, shown)
    return wrong


@pytest.mark.parametrize("path", EXPECTED, ids=lambda path: path.stem)
async def test_a_captured_device_gives_the_expected_values(path):
    expected = json.loads(path.read_text())
    expect = json.loads(path_of(path.stem).read_text())["expect"]
    values, driver = await read(path.stem, expected["map"])
    assert expected["keys"].keys() == expect.keys()
    assert not wrong_values(expected["keys"], expect, values)
    if path.stem == "sunsynk_3k6":
        assert driver.describe()["inverter"]["serial"] == expect["serial"]


def is_measured(key):
    return not NOT_MEASURED.search(key.rpartition(".")[2])


@pytest.mark.parametrize("path", EXPECTED, ids=lambda path: path.stem)
def test_most_of_what_each_image_measures_is_mapped(path):
    keys = json.loads(path.read_text())["keys"]
    assert all(isinstance(entry, str) or "quantity" in entry for entry in keys.values())
    mapped = [is_mapped(entry) for key, entry in keys.items() if is_measured(key)]
    assert sum(mapped) >= 0.8 * len(mapped), f"{sum(mapped)} of {len(mapped)}"
    assert mapped or path.stem == "se_issue565_u3"  # its publisher told no measured value


def test_there_are_fourteen_images_and_they_measure_much():
    keys = [key for path in EXPECTED for key in json.loads(path.read_text())["keys"]]
    assert len(EXPECTED) == 14
    assert sum(map(is_measured, keys)) > 200


def test_the_folder_expects_what_the_shared_folder_holds():
    if not SHARED.exists():
        pytest.skip(f"{SHARED} is not here")
    assert {path.stem for path in EXPECTED} == {path.stem for path in SHARED.glob("*.json")}


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"blocks": []}', '{"blocks": [[1]]}', '{"blocks": [[1, "zz"]]}', '{"blocks": [[70000, "0001"]]}',
     '{"blocks": [[1, "0001"]], "unit": 999}', '{"blocks": [[1, "0001"]], "overlay_on": "../../etc/passwd"}',
     '{"blocks": [[1, "0001"]], "fc": 6}', '{"blocks": [[1, "000"]]}', "\ud800".encode("utf-8", "surrogatepass")],
)  # fmt: skip
def test_a_file_that_is_no_capture_is_named(tmp_path, text):
    path = tmp_path / "broken.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ImageError, match=r"broken\.json is not a capture"):
        image_of(path)


def configured(folder, drivers):
    """A configuration that reads images: driver's name to port, devices and their maps."""
    table = {
        "gateway": {"id": "golden-1"},
        "state_directory": str(folder / "state"),
        "mqtt": {"host": "127.0.0.1", "port": 9},
        "drivers": {
            name: {"driver": "modbus", "host": "127.0.0.1", "port": port, "gap_ms": 0, "connect_delay_ms": 0}
            | {"devices": {image: {"map": expectation(image)["map"], "unit": unit} for image, unit in devices.items()}}
            for name, (port, devices) in drivers.items()
        },
    }
    path = folder / "house.yaml"
    path.write_text(yaml.safe_dump(table))
    return path


def expectation(name):
    return json.loads((DATA / "expected" / f"{name}.json").read_text())


async def wrong_by_command(config, names):
    """What `edge-agent read --json` says wrongly of images, by image."""
    command = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "edge_agent", "read", str(config), "--json", "--timeout", "20",
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    async with asyncio.timeout(60):
        out, err = await command.communicate()
    assert command.returncode == 0, err.decode()
    said = {answer["device"]: answer["values"] for answer in map(json.loads, out.splitlines())}
    assert said.keys() == set(names)
    expect = {name: json.loads(path_of(name).read_text())["expect"] for name in names}
    found = {name: wrong_values(expectation(name)["keys"], expect[name], said[name]) for name in names}
    return {name: wrong for name, wrong in found.items() if wrong}


@pytest.mark.slow  # the simulators and the command as programs
async def test_the_command_reads_what_the_simulators_play(tmp_path):
    """All programs as a person starts them, for the images that are always here."""
    ports = {name: free_port() for name in VENDORED}
    simulators = [
        Program(
            name,
            [sys.executable, "-m", "simulators", "inverter", "--image", DATA / f"{name}.json", "--port", str(port)],
            tmp_path / f"{name}.log",
        )
        for name, port in ports.items()
    ]
    config = configured(tmp_path, {f"line_{name}": (port, {name: 1}) for name, port in ports.items()})
    async with running(*simulators):
        for simulator in simulators:
            await until(lambda log=simulator.log: b"inverter at" in log.read_bytes(), 30, "it listens", simulator)
        assert not await wrong_by_command(config, VENDORED)


@pytest.mark.slow  # the command as a program
async def test_the_command_reads_all_other_images(tmp_path):
    """Eleven units behind one address, and one reading of all of them."""
    names = [path.stem for path in EXPECTED if path.stem not in VENDORED]
    units = {unit: image_of(path_of(name))[1] for unit, name in enumerate(names, 1)}
    server = InverterServer(units, lambda: NOON)
    await server.start()
    try:
        devices = {name: unit for unit, name in enumerate(names, 1)}
        assert not await wrong_by_command(configured(tmp_path, {"line": (server.port, devices)}), names)
    finally:
        await server.close()
