"""The shape of the project: whose names the packages bear, what pure modules load, how requirements are pinned."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

PACKAGES = {"edge_agent", "drivers", "simulators", "aggregator"}
PURE = [
    "drivers.api",
    "drivers.quantities",
    "drivers.timescale",
    "drivers.route_b.skstack",
    "drivers.route_b.echonet",
    "drivers.route_b.meter",
    "drivers.modbus.registers",
    "drivers.modbus.planner",
    "drivers.ble_tags.adverts",
    "drivers.ble_tags.passage",
    "drivers.echonet_ip.devices",
    "drivers.echonet_ip.identity",
    "drivers.echonet_ip.properties",
]
PURE_ON_TABLES = [
    "drivers.settings",
    "drivers.modbus.register_map",
    "drivers.modbus.sunspec",
    "drivers.ble_tags.identity",
    "drivers.lamp.alert",
    "drivers.lamp.programme",
    "edge_agent.wire",
]
"""Pure too, and built on msgspec's and YAML's tables."""
TABLES = {"msgspec", "typing_extensions", "yaml", "_yaml", "cython_runtime"}
WORLDLY = {"asyncio", "socket", "select", "selectors", "threading", "subprocess", "logging", "sqlite3", "ssl"}
"""What no pure module loads, directly or through another module."""
REQUIREMENTS = sorted((Path(__file__).parents[1] / "requirements").glob("*.txt"))


def loaded_by(module: str) -> set[str]:
    """Return the top-level names of all modules that a fresh interpreter has loaded after importing `module`."""
    code = f"import sys; import {module}; print(*sys.modules)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=25, check=True).stdout
    return {name.partition(".")[0] for name in said.split()}


def foreign(names: set[str]) -> set[str]:
    """Return the names that neither the standard library nor this project nor the interpreter's start-up brings."""
    unknown = names - PACKAGES - loaded_at_start() - sys.stdlib_module_names
    return {name for name in unknown if not name.startswith("_cython_")}


def loaded_at_start() -> set[str]:
    return loaded_by("sys")


@pytest.mark.parametrize("module", PURE)
def test_a_pure_module_needs_the_standard_library_alone(root, module):
    _skip_unwritten(root, module)
    names = loaded_by(module)
    assert foreign(names) == set()
    assert not (names - loaded_at_start()) & WORLDLY


@pytest.mark.parametrize("module", PURE_ON_TABLES)
def test_a_pure_module_on_tables_loads_no_event_loop_and_no_port(root, module):
    _skip_unwritten(root, module)
    names = loaded_by(module)
    assert foreign(names) <= TABLES
    assert not (names - loaded_at_start()) & WORLDLY


def test_a_module_that_opens_ports_would_be_noticed():
    assert loaded_by("asyncio") & WORLDLY


def _skip_unwritten(root: Path, module: str) -> None:
    assert (root / module.replace(".", "/")).with_suffix(".py").exists(), f"{module} is named here and does not exist"


def test_only_this_distribution_provides_the_four_packages():
    owners = metadata.packages_distributions()
    assert {package: set(owners[package]) for package in PACKAGES} == {
        package: {"edge-gateway"} for package in PACKAGES
    }


def test_every_package_folder_is_installed(root):
    listed = set(project(root)["tool"]["setuptools"]["packages"])
    folders = {
        ".".join(path.parent.relative_to(root).parts)
        for package in PACKAGES
        for path in (root / package).rglob("__init__.py")
    }
    assert folders == listed


def test_every_entry_point_names_something_that_exists(root):
    declared = project(root)["project"]
    tables = [declared["scripts"], *declared["entry-points"].values()]
    for target in [value for table in tables for value in table.values()]:
        module, _, name = target.partition(":")
        text = (root / module.replace(".", "/")).with_suffix(".py").read_text()
        assert re.search(rf"(?m)^((async )?def|class) {name}\b|^{name}\b", text), target


def test_the_contracts_of_who_imports_whom_meet_code(root):
    """A star that matches nothing is silently kept, so every name in it must exist in at least one driver folder."""
    for contract in project(root)["tool"]["importlinter"]["contracts"]:
        for expression in contract.get("source_modules", []) + contract.get("forbidden_modules", []):
            if expression.startswith("drivers.*."):
                name = expression.removeprefix("drivers.*.")
                assert list((root / "drivers").glob(f"*/{name}.py")), f"{contract['name']}: {expression}"


@pytest.mark.parametrize("file", REQUIREMENTS, ids=lambda path: path.name)
def test_requirements_are_pinned_hashed_and_name_no_index(file):
    text = file.read_text()
    assert not re.search(r"://|--(extra-)?index|--find-links|--trusted|^-[if] ", text, re.MULTILINE)
    assert not re.search(r"(^|[ =])/\w", text, re.MULTILINE), "names a folder of some machine"
    lines = re.sub(r"\\\n\s*", "", re.sub(r"(?m)^\s*#.*\n?", "", text)).splitlines()
    assert lines
    for line in lines:
        assert re.fullmatch(r"[a-z0-9.-]+==[^\s;]+( ; [^#]+?)?\s*(--hash=sha256:[0-9a-f]{64}\s*)+", line), line[:80]


def test_every_direct_dependency_is_pinned_where_it_is_needed(root):
    declared = project(root)["project"]
    pins = {path.stem: set(re.findall(r"(?m)^([a-z0-9.-]+)==", path.read_text())) for path in REQUIREMENTS}
    needed = {
        "gateway-house": ["agent", "route-b", "modbus"],
        "gateway-pole": ["agent", "ble"],
        "aggregator": ["aggregator"],
        "package": ["agent", "route-b", "modbus", "ble", "aggregator"],
        "demo": ["agent", "route-b", "modbus", "ble", "aggregator", "simulators", "demo"],
    }
    for name, extras in needed.items():
        wanted = declared["dependencies"] + [
            one for extra in extras for one in declared["optional-dependencies"][extra]
        ]
        assert {_canonical(one) for one in wanted} <= pins[name]
        assert pins[name] <= pins["test"] | pins["aggregator"]


def test_no_dependency_is_declared_that_no_code_imports(root):
    code = "\n".join(path.read_text() for package in sorted(PACKAGES) for path in (root / package).rglob("*.py"))
    imported = {name.partition(".")[0] for name in re.findall(r"(?m)^\s*(?:import|from) ([\w.]+)", code)}
    brings = {
        _canonical(one)
        for name, found in metadata.packages_distributions().items()
        if name in imported
        for one in found
    }
    declared = project(root)["project"]
    extras = [one for extra in declared["optional-dependencies"].values() for one in extra]
    assert {_canonical(one) for one in [*declared["dependencies"], *extras]} <= brings


def test_a_house_installs_no_bluetooth_and_a_pole_no_meter(root):
    house, pole = ((root / f"requirements/gateway-{kind}.txt").read_text() for kind in ("house", "pole"))
    assert "bleak" not in house
    assert "pyserial-asyncio-fast" not in pole


def project(root: Path) -> dict:
    return tomllib.loads((root / "pyproject.toml").read_text())


def _canonical(requirement: str) -> str:
    return re.sub(r"[-_.]+", "-", re.match(r"[A-Za-z0-9._-]+", requirement)[0]).lower()
