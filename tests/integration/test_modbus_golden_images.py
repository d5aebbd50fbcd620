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

from drivers.api import Context, Sample
from drivers.contract import DictMemory, FastClock
from drivers.modbus.driver import create
from drivers.quantities import QUANTITIES
from simulators.house import House
from simulators.inverter import InverterServer
from simulators.modbus_images import ImageError, image_of

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


@pytest.mark.slow  # two processes: the simulator and the command, as a person starts them
@pytest.mark.parametrize("name", VENDORED)
async def test_the_command_reads_a_played_image(name, tmp_path):
    expected = json.loads((DATA / "expected" / f"{name}.json").read_text())
    expect = json.loads((DATA / f"{name}.json").read_text())["expect"]
    simulator = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "simulators", "inverter", "--image", DATA / f"{name}.json", "--port", "0",
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        async with asyncio.timeout(30):
            line = (await simulator.stdout.readline()).decode()
        port = int(re.search(r":(\d+)", line)[1])
        (tmp_path / "house.yaml").write_text(
            f"gateway: {{id: golden-1}}\nstate_directory: {tmp_path}/state\nmqtt: {{host: 127.0.0.1, port: 9}}\n"
            f"drivers:\n  modbus:\n    driver: modbus\n    host: 127.0.0.1\n    port: {port}\n"
            f"    devices: {{inverter: {{map: {expected['map']}, unit: 1}}}}\n"
        )
        command = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "edge_agent", "read", str(tmp_path / "house.yaml"), "--json", "--timeout", "20",
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        async with asyncio.timeout(60):
            out, err = await command.communicate()
        assert command.returncode == 0, err.decode()
        (said,) = (json.loads(line) for line in out.splitlines())
        assert said["device"] == "inverter"
        assert not wrong_values(expected["keys"], expect, said["values"])
    finally:
        simulator.terminate()
        await simulator.wait()
