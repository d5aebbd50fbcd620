"""The command edge-sim: helpful when asked, and only the named simulator is imported."""

import re
import subprocess
import sys

import pytest

from simulators import __main__ as command
from simulators.clock import SimulatedClock
from simulators.house import House
from simulators.household import balance_line


def test_help_names_every_simulator(capsys):
    assert command.main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in ("meter", "inverter", "house", "tags", "lamp", "demo"))


@pytest.mark.parametrize("arguments", [[], ["toaster"], ["--what"]])
def test_an_unknown_name_is_answered_with_the_names(arguments, capsys):
    assert command.main(arguments) == 2
    assert "edge-sim NAME" in capsys.readouterr().err


def test_a_wrong_time_is_one_sentence_and_exit_code_1(tmp_path, capsys):
    assert command.main(["meter", "--link", str(tmp_path / "m"), "--start", "2026-06-01T00:00:00"]) == 1
    assert capsys.readouterr().err.startswith("edge-sim meter: --start 2026-06-01T00:00:00: add the offset")


def test_a_taken_link_is_one_sentence_and_exit_code_1(tmp_path, capsys):
    (tmp_path / "m").write_text("")
    assert command.main(["meter", "--link", str(tmp_path / "m")]) == 1
    assert "choose another --link" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        "meter --without XYZ",
        "meter --fault burn",
        "meter --fault stall:after_s=nan",
        "meter --loss 2",
        "meter --unit 5",
        "meter --coefficient 0",
        "meter --latency-ms -5",
        "meter --expires-s nan",
        "meter --rest-s inf",
        "meter --transmit-ms -1",
        "meter --id 0123",
        "meter --id 0011223344556677889900112233445Z",
        "meter --password geheim",
        "meter --serial 検定済",
        "meter --clock-error-s 99999999",
        "meter --since inf",
        "meter --speed nan",
        "meter --seed 9999999",
        "house --port 99999",
        "house --pv-peak-w -1",
        "inverter --port 99999",
        "inverter --unit 300",
        "inverter --chain 70000",
        "inverter --second-master nan",
        "inverter --trouble late:seconds=nan",
        "lamp --port 99999",
        "lamp --port modbus",
        "tags --strangers inf",
        "tags --pace 0",
        "tags --tags 0",
        "demo --http-port 99999",
        "demo --speed 0",
        "echonet --port 99999",
        "echonet --loss 3",
        "echonet --delay -1",
        "echonet --most 0",
        "echonet --instance 128",
    ],
)
def test_a_wrong_option_is_refused_with_its_name(words, tmp_path, capsys):
    name, option, value = words.split()
    needed = {"meter": "--link", "house": "--link", "tags": "--bus"}
    here = [needed[name], str(tmp_path / "m")] if name in needed else []
    with pytest.raises(SystemExit, match="2"):
        command.main([name, *here, option, value])
    complaint = capsys.readouterr().err.splitlines()[-1]
    assert f"error: argument {option}" in complaint
    assert not re.search(r"invalid \w+ value: ", complaint) or option in {"--without", "--unit"}
    assert value not in complaint or option not in {"--id", "--password"}


def test_only_the_named_simulator_is_imported():
    code = "import sys, simulators.__main__ as m; m.main(['--help']); print('pymodbus' in sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == "False\n"


def test_the_balance_line_adds_up():
    clock = SimulatedClock(None, lambda: 1_780_239_600_000 + 12 * 3_600_000)
    line = balance_line(House(), clock)
    words = line.replace("=", " ").split()
    watts = [int(words[words.index(name) + 1]) for name in ("load", "grid", "PV", "battery")]
    assert watts[0] == sum(watts[1:])
    assert line.startswith("06-01 12:00:00")
