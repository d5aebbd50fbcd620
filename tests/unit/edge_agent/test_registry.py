"""Entry points, imported only when a configuration names them."""

import subprocess
import sys

import pytest

from drivers.api import ConfigError, Context
from drivers.contract import FastClock
from drivers.quantities import QUANTITIES
from edge_agent import registry

CONTEXT = Context("wave", FastClock(), str)


def test_every_shipped_driver_is_offered():
    assert {"sine", "route_b", "modbus", "ble_tags", "lamp"} <= set(registry.names(registry.DRIVERS))


def test_a_driver_is_built_from_its_own_table():
    assert registry.build({"driver": "sine", "poll_s": 2}, CONTEXT).devices == ("wave",)


@pytest.mark.parametrize("named", ["sines", "", None, 7, ["sine"], "os.system"])
def test_a_driver_that_is_not_installed_says_which_are(named):
    with pytest.raises(ConfigError) as caught:
        registry.build({"driver": named}, CONTEXT)
    assert caught.value.key == "driver"
    assert "sine" in caught.value.remedy


@pytest.mark.parametrize(
    ("package", "remedy"), [("serial", "edge-gateway[route-b]"), ("bleak.backends", "edge-gateway[ble]")]
)
def test_a_missing_package_names_the_extra_that_brings_it(package, remedy):
    point = next(point for point in registry.metadata.entry_points(group=registry.DRIVERS) if point.name == "sine")
    assert remedy in registry._remedy(package, point)


def test_a_driver_without_its_packages_is_a_configuration_error(monkeypatch):
    monkeypatch.setitem(sys.modules, "drivers.sine", None)  # what import does for a module that is not there
    with pytest.raises(ConfigError) as caught:
        registry.load(registry.DRIVERS, "sine")
    assert "install it" in caught.value.remedy


def test_only_the_driver_that_is_named_is_imported():
    program = (
        "import sys; from edge_agent import registry; from drivers.api import Context\n"
        "registry.names(registry.DRIVERS); registry.build({'driver': 'sine'}, Context('wave', None, str))\n"
        "print(sorted(m for m in sys.modules if m in {'serial', 'pymodbus', 'bleak', 'drivers.route_b.driver'}))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_shared_vocabulary_is_always_known():
    assert registry.vocabulary(["sine", "nobody's"]) == QUANTITIES


def test_a_summary_says_what_a_driver_is_and_where_it_comes_from():
    summary = registry.summary("sine")
    assert summary["says"].startswith("a sine wave")
    assert summary["from"].startswith("edge-gateway ")


def lines_for_installers():
    drivers = [registry.summary(name)["says"] for name in registry.names(registry.DRIVERS)]
    return drivers + [registry.command_help(name) for name in registry.names(registry.COMMANDS)]


def test_every_driver_and_command_has_one_whole_line_for_an_installer():
    for line in lines_for_installers():
        assert 20 < len(line) < 100, line
        assert line[-1] not in ",;:.", line
        assert "--help" not in line, "states no help of its own"


def test_a_commands_help_in_the_list_is_the_one_it_shows_itself():
    for name in registry.names(registry.COMMANDS):
        assert registry.command_help(name) == registry.load(registry.COMMANDS, name).help


def test_a_command_whose_source_states_no_help_sends_the_reader_to_it(monkeypatch):
    points = [
        registry.metadata.EntryPoint(name, value, registry.COMMANDS)
        for name, value in (("gone", "no_such_package.commands:command"), ("mute", "drivers.timescale:command"))
    ]
    monkeypatch.setattr(registry.metadata, "entry_points", lambda group: points)
    assert registry.command_help("gone") == "see edge-agent gone --help"
    assert registry.command_help("mute") == "see edge-agent mute --help"


def test_quantities_that_a_device_declares_are_known_with_label_and_unit():
    entry = {"unit": "°C", "kind": "gauge", "label_ja": "筐体温度", "label_en": "Case temperature"}
    found = registry.described({"pv": {"maker": "x", "quantities": {"case_c": entry, "bad": {"unit": 7}, "worse": 3}}})
    assert {name: (one.unit, one.label_en) for name, one in found.items()} == {"case_c": ("°C", "Case temperature")}
