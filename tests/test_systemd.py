"""The units as systemd itself judges them: correct, confined, and in agreement with the code."""

from __future__ import annotations

import re
import subprocess
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

UNITS = ["edge-agent.service", "edge-aggregator.service"]
MOST_EXPOSED = 2.0


@pytest.fixture(params=UNITS)
def unit(request, root: Path) -> Path:
    return root / "systemd" / request.param


@pytest.fixture
def analyze(require):
    program = require("systemd-analyze")

    def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run([program, *map(str, arguments)], capture_output=True, text=True, timeout=25, check=False)

    return run


def settings(unit: Path, name: str) -> list[str]:
    return [line.partition("=")[2] for line in unit.read_text().splitlines() if line.startswith(f"{name}=")]


def exposure(analyze, unit: Path) -> float:
    said = analyze("security", "--offline=true", "--no-pager", unit).stdout
    return float(re.findall(r"exposure level for \S+: ([\d.]+)", said)[0])


def with_programs(unit: Path, folder: Path) -> Path:
    """Copy a unit into `folder`, its programs taken from there too, as if the package were installed."""
    for program in ("edge-agent", "edge-aggregator"):
        (folder / program).write_text("#!/bin/sh\n")
        (folder / program).chmod(0o755)
    copy = folder / unit.name
    copy.write_text(unit.read_text().replace("/opt/edge-gateway/bin", str(folder)))
    return copy


def test_systemd_finds_nothing_wrong_with_a_unit(unit, analyze, tmp_path):
    judged = analyze("verify", "--man=no", with_programs(unit, tmp_path))
    assert (judged.returncode, judged.stdout + judged.stderr) == (0, "")


def test_systemd_would_find_a_misspelt_setting(unit, analyze, tmp_path):
    copy = with_programs(unit, tmp_path)
    copy.write_text(copy.read_text().replace("ProtectHome=", "ProtectHouse="))
    assert "ProtectHouse" in analyze("verify", "--man=no", copy).stderr


def test_a_unit_is_confined(unit, analyze):
    assert exposure(analyze, unit) <= MOST_EXPOSED


def test_a_unit_without_its_system_call_filter_is_not_confined_enough(unit, analyze, tmp_path):
    copy = tmp_path / unit.name
    loose = ("SystemCall", "Protect", "Private", "Capability", "Restrict", "NoNew")
    copy.write_text("".join(line for line in unit.read_text().splitlines(keepends=True) if not line.startswith(loose)))
    assert exposure(analyze, copy) > MOST_EXPOSED


def test_a_missing_secret_does_not_keep_a_unit_from_starting(unit):
    """A relative name is searched in the credential stores and left out when absent; an absolute path is fatal."""
    sources = [value.partition(":")[2] for value in settings(unit, "LoadCredential")]
    assert sources
    assert all(source and not source.startswith("/") for source in sources)


def test_the_agent_may_ask_for_the_state_of_the_clock(root, analyze):
    """Later filter lines win: taking @privileged away must not take adjtimex, which only reads here."""
    allowed: set[str] = set()
    for value in settings(root / "systemd/edge-agent.service", "SystemCallFilter"):
        names = _system_calls(value.removeprefix("~").split(), analyze)
        allowed = allowed - names if value.startswith("~") else allowed | names
    assert {"adjtimex", "clock_adjtime", "openat", "connect"} <= allowed
    assert not {"clock_settime", "settimeofday", "reboot", "mount", "setuid"} & allowed


def _system_calls(names: list[str], analyze) -> set[str]:
    calls: set[str] = set()
    for name in names:
        if name.startswith("@"):
            listed = [line.strip() for line in analyze("syscall-filter", name).stdout.splitlines()[1:]]
            calls |= _system_calls([line for line in listed if line and not line.startswith("#")], analyze)
        else:
            calls.add(name)
    return calls


def test_the_agent_reaches_serial_ports_and_no_other_device(root):
    unit = root / "systemd/edge-agent.service"
    assert settings(unit, "DevicePolicy") == ["closed"]
    assert {value.split()[0] for value in settings(unit, "DeviceAllow")} <= {
        "char-ttyUSB",
        "char-ttyACM",
        "char-ttyAMA",
        "char-ttyS",
    }
    assert "dialout" in settings(unit, "SupplementaryGroups")


def test_unit_and_code_name_the_same_runtime_directory(root):
    from edge_agent.config import SYSTEM_RUNTIME_DIRECTORY

    assert f"/run/{settings(root / 'systemd/edge-agent.service', 'RuntimeDirectory')[0]}" == SYSTEM_RUNTIME_DIRECTORY


def test_reloading_sends_the_agent_the_signal_it_rereads_its_file_at(root):
    """`kill` is no shell built-in here: the package has to depend on what brings the program."""
    assert settings(root / "systemd/edge-agent.service", "ExecReload") == ["/bin/kill -HUP $MAINPID"]
    assert "signal.SIGHUP" in (root / "edge_agent/app.py").read_text()
    assert "procps" in (root / "packaging/debian/control").read_text()


def test_shipped_configurations_keep_their_state_where_the_unit_may_write(root):
    shipped = [path for path in (root / "configs").glob("*.yaml") if not path.name.startswith("demo")]
    kept = {path.name: re.findall(r"(?m)^state_directory: (\S+)", path.read_text()) for path in shipped}
    assert {tuple(folders) for folders in kept.values()} <= {(), ("/var/lib/edge-agent",)}, kept


def test_the_aggregator_keeps_its_database_where_the_unit_may_write(root):
    assert "/var/lib/edge-aggregator/" in (root / "configs/aggregator.yaml").read_text()


def test_every_user_of_a_unit_is_declared(unit, root):
    declared = re.findall(r"(?m)^u (\S+)", (root / "systemd/edge-gateway.sysusers.conf").read_text())
    assert set(settings(unit, "User")) <= set(declared)


def test_systemd_understands_the_users_file(root, require, tmp_path):
    program = require("systemd-sysusers")
    (tmp_path / "etc").mkdir()
    file = root / "systemd/edge-gateway.sysusers.conf"
    made = subprocess.run(
        [program, "--root", str(tmp_path), str(file)], capture_output=True, text=True, timeout=20, check=False
    )
    assert made.returncode == 0, made.stderr
    assert "edge-gateway" in (tmp_path / "etc/passwd").read_text()


def test_the_bluetooth_policy_lets_the_agents_user_speak_to_bluez_and_nothing_else(root):
    policy = ET.parse(root / "systemd/edge-gateway.dbus.conf").getroot().findall("policy")
    assert [one.attrib for one in policy] == [{"user": "edge-gateway"}]
    assert [rule.attrib for rule in policy[0]] == [{"send_destination": "org.bluez"}]
