"""docs/modbus.md: its worked example is a map that loads, is played and reads back, and its message is what is said."""

import re
from decimal import Decimal
from pathlib import Path

import pytest
from playing import first_sample

from drivers.api import ConfigError, Context
from drivers.contract import FastClock
from drivers.modbus import library
from drivers.modbus.driver import create
from drivers.modbus.register_map import parse
from edge_agent.__main__ import main
from simulators.house import House
from simulators.modbus_maps import unit_of

PAGE = (Path(__file__).parents[2] / "docs" / "modbus.md").read_text(encoding="utf-8")
EXAMPLE = next(text for text in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL) if text.startswith("maker: Acme"))
NOON = House(seed=1).at(1_780_239_600_000 + 12 * 3_600_000)


async def test_the_worked_example_is_played_and_reads_back(tmp_path):
    (tmp_path / "acme_h5.yaml").write_text(EXAMPLE)
    unit = unit_of(library.find("acme_h5", str(tmp_path)))
    values, _ = await first_sample(unit, "acme_h5", NOON, maps=str(tmp_path))
    assert values == {
        "inverter_state": "running",
        "ac_voltage_v": 202,
        "pv1_power_w": NOON.pv_w,
        "pv2_power_w": 0,
        "pv_power_w": NOON.pv_w,
        "battery_power_w": NOON.battery_w,
        "battery_soc_percent": NOON.soc_permille // 10,
        "pv_energy_kwh": Decimal(NOON.pv_ws // 360_000) / 10,
        "grid_power_w": NOON.grid_w,
    }


def test_the_worked_example_follows_its_table():
    """Every register of the table in the page is in the map, counted from 0 instead of 1."""
    rows = re.findall(r"^\| (\d+)(?:–\d+)? \| [US]\d", PAGE, re.MULTILINE)
    register_map = parse("acme_h5", EXAMPLE)
    mapped = [point.address for point in register_map.points] + [one.address for one in register_map.writable.values()]
    assert [int(row) - 1 for row in rows] == mapped


def test_the_message_in_the_page_is_the_one_that_is_said(tmp_path):
    (said,) = re.findall(r"```text\nacme_h5\.yaml: (.*?)\n```", PAGE)
    with pytest.raises(ConfigError) as caught:
        parse("acme_h5", EXAMPLE.replace("  pv1_power_w:", "  pv_power:"))
    assert str(caught.value).startswith(said)


@pytest.mark.parametrize(
    ("old", "new", "code"), [("U16", "U16", 0), ("  ac_voltage_v: {", "  ac_voltage_v: {adress: 1, ", 1)]
)
def test_check_reads_the_maps_that_a_configuration_names(tmp_path, capsys, old, new, code):
    (tmp_path / "acme_h5.yaml").write_text(EXAMPLE.replace(old, new))
    (tmp_path / "house.yaml").write_text(
        f"gateway: {{id: house-9}}\nstate_directory: {tmp_path}\nmqtt: {{host: 127.0.0.1, port: 9}}\n"
        f"drivers:\n  solar:\n    driver: modbus\n    host: 127.0.0.1\n    maps: {tmp_path}\n"
        "    devices: {inverter: {map: acme_h5}}\n"
    )
    assert main(["check", str(tmp_path / "house.yaml")]) == code
    out = capsys.readouterr()
    if code:
        assert "acme_h5.yaml: points.ac_voltage_v" in out.out + out.err
        assert "did you mean 'address'?" in out.out + out.err


def test_check_reads_how_a_map_commands_also_where_the_device_is_only_read(tmp_path):
    control = (
        "control: {modes: {reserve: {do: [{set: reserve, to: soc_percent}], undo: [{set: reserve, to: saved}]}}}\n"
    )
    (tmp_path / "acme_h5.yaml").write_text(EXAMPLE + control)
    line = {"host": "h", "maps": str(tmp_path), "devices": {"inverter": {"map": "acme_h5"}}}
    with pytest.raises(ConfigError, match=r"acme_h5.yaml: control.modes.reserve.do.0.set.*no such entry") as caught:
        create(Context("solar", FastClock(), str), line)
    assert caught.value.key == "devices.inverter.map"


@pytest.mark.parametrize("name", library.known())
def test_every_shipped_map_is_named_in_the_page(name):
    assert f"`{name}`" in PAGE
