"""What an installer types and what comes back: exit codes, messages with file, key, value and remedy, `--json`."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from drivers.sine import value_at
from edge_agent.__main__ import main


@pytest.fixture
def house(tmp_path, monkeypatch):
    """`house(**changes)` writes a configuration with one sine and returns its path."""
    monkeypatch.delenv("RUNTIME_DIRECTORY", raising=False)

    def write(drivers=None, **more):
        table = {
            "gateway": {"id": "cli-001"},
            "state_directory": str(tmp_path / "state"),
            "clock": {"trust": "system"},
            "mqtt": {"socket": str(tmp_path / "no-broker.sock")},
            "drivers": {"wave": {"driver": "sine"}} if drivers is None else drivers,
            **more,
        }
        path = tmp_path / "house.yaml"
        path.write_text(yaml.safe_dump(table, sort_keys=False, allow_unicode=True))
        return str(path)

    return write


def objects(text):
    return [json.loads(line) for line in text.splitlines()]


def test_check_of_a_sound_file_says_so(house, capsys):
    assert main(["check", house()]) == 0
    assert "OK" in capsys.readouterr().out


def test_check_names_file_key_value_and_remedy(house, capsys):
    path = house({"wave": {"driver": "sine", "poll_s": 0}})
    assert main(["check", path]) == 1
    said = capsys.readouterr().err
    assert f"{path}: drivers.wave.poll_s = 0: " in said
    assert "correct the value" in said


def test_check_names_every_fault_for_programs_too(house, capsys):
    path = house({"a": {"driver": "sine", "polls": 1}, "b": {"driver": "sin"}}, roles={"grid": "a"})
    assert main(["check", "--json", path]) == 1
    found = objects(capsys.readouterr().out)
    assert [(one["key"], one["severity"]) for one in found] == [
        ("drivers.a.polls", "error"),
        ("drivers.b.driver", "error"),
    ]
    assert all(one["file"] == path and one["remedy"] for one in found)


def test_check_of_a_sound_file_is_one_object(house, capsys):
    path = house()
    assert main(["check", "--json", path]) == 0
    assert objects(capsys.readouterr().out) == [{"ok": True, "file": path}]


@pytest.mark.parametrize("command", ["run", "check", "read", "doctor"])
def test_a_file_that_is_not_there_is_named(command, capsys):
    assert main([command, "/nowhere/house.yaml"]) == 1
    assert "/nowhere/house.yaml: cannot be read" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [[], ["nonsense"], ["read"], ["read", "x", "--jsn"], ["run", "x", "y"], ["outbox"], ["outbox", "burn", "x"]],
)
def test_a_wrong_command_line_is_exit_code_2(words, capsys):
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 2


def test_read_shows_each_value_with_label_and_unit_before_a_poll_would_be_due(house, capsys):
    assert main(["read", house({"wave": {"driver": "sine", "poll_s": 600}}), "--timeout", "5"]) == 0
    assert "正弦波 / Sine wave" in capsys.readouterr().out


def test_read_gives_programs_one_object_a_device(house, capsys):
    path = house({"wave": {"driver": "sine"}, "other": {"driver": "sine"}})
    assert main(["read", "--json", path]) == 0
    found = objects(capsys.readouterr().out)
    assert [one["device"] for one in found] == ["wave", "other"]
    assert all(set(one) == {"device", "time", "values", "quality"} for one in found)
    assert all(-1 <= one["values"]["sine_value"] <= 1 for one in found)


def test_read_of_some_devices_leaves_the_others_alone(house, capsys):
    path = house({"wave": {"driver": "sine"}, "pv": {"driver": "nobodys"}})
    for words in (["--json", path, "wave"], [path, "--json", "wave"], [path, "wave", "--json"]):
        assert main(["read", *words]) == 0
        assert [one["device"] for one in objects(capsys.readouterr().out)] == ["wave"]


def test_read_of_an_unknown_device_names_the_known_ones(house, capsys):
    assert main(["read", house(), "meter"]) == 1
    assert "name some of: wave" in capsys.readouterr().err


def test_read_says_which_device_did_not_answer_and_shows_the_others(house, capsys):
    pv = {"driver": "modbus", "host": "127.0.0.1", "port": 1, "devices": {"pv": {"map": "huawei_sun2000", "unit": 1}}}
    assert main(["read", house({"wave": {"driver": "sine"}, "inverter": pv}), "--timeout", "5"]) == 1
    said = capsys.readouterr()
    assert "Sine wave" in said.out
    assert "no answer from: pv" in said.err


def test_the_installed_drivers_are_listed(capsys):
    assert main(["drivers", "--json"]) == 0
    found = {one["driver"]: one for one in objects(capsys.readouterr().out)}
    assert {"sine", "route_b", "modbus", "ble_tags", "lamp"} <= set(found)
    assert found["sine"]["says"].startswith("a sine wave")


def test_an_outbox_that_was_never_written_is_empty_and_no_error(house, capsys):
    path = house()
    assert main(["outbox", "stat", "--json", path]) == 0
    (found,) = objects(capsys.readouterr().out)
    assert found["agent"] == "not running"
    assert main(["outbox", "export", path]) == 0


def test_doctor_says_what_to_do(house, capsys):
    assert main(["doctor", "--json", house()]) == 1
    found = {one["name"]: one for one in objects(capsys.readouterr().out)}
    assert found["configuration"]["verdict"] == "ok"
    assert found["broker"]["verdict"] == "error"
    assert "check mqtt.host" in found["broker"]["remedy"]
    assert found["agent"]["verdict"] == "warning"


def test_doctor_looks_at_every_device_also_without_an_agent(house, capsys):
    dead = {"driver": "modbus", "host": "127.0.0.1", "port": 1, "devices": {"pv": {"map": "huawei_sun2000"}}}
    path = house({"wave": {"driver": "sine"}, "pv": dead, "odd": {"driver": "sin"}})
    assert main(["doctor", "--json", "--timeout", "20", path]) == 1
    found = {one["name"]: one for one in objects(capsys.readouterr().out)}
    assert found["device wave"]["verdict"] == "ok"
    assert found["device pv"]["verdict"] == "error"
    assert "127.0.0.1:1" in found["device pv"]["found"]
    assert "wiring" in found["device pv"]["remedy"]
    assert found["driver odd"]["verdict"] == "error"


async def test_a_reading_begins_with_what_the_drivers_remember_and_leaves_it_alone(house, tmp_path):
    from edge_agent import config
    from edge_agent.clock import SystemClock
    from edge_agent.outbox import Outbox
    from edge_agent.readout import Scratch

    configuration = config.load(Path(house()))
    assert Scratch.of(configuration, "wave").get("pan") is None
    configuration.state_directory.mkdir()
    async with Outbox.open(configuration.outbox_path, "cli-001", SystemClock()) as outbox:
        await outbox.memory("wave").update({"pan": {"channel": 49}})
    scratch = Scratch.of(configuration, "wave")
    assert scratch.get("pan") == {"channel": 49}
    await scratch.update({"pan": None})
    assert Scratch.of(configuration, "wave").get("pan") == {"channel": 49}
    assert Scratch.of(configuration, "other").get("pan") is None
    configuration.outbox_path.write_bytes(b"not a database at all" * 300)
    assert Scratch.of(configuration, "wave").get("pan") is None


def test_a_transcript_is_the_running_agents_and_says_so(house, capsys):
    assert main(["transcript", house()]) == 1
    assert "start the agent" in capsys.readouterr().err


def test_a_route_b_command_without_a_smart_meter_names_what_is_missing(house, capsys):
    assert main(["route-b", "aim", house()]) == 1
    assert "none of this file is a smart meter" in capsys.readouterr().err


def test_the_general_help_names_foreign_commands_without_importing_them():
    program = (
        "import sys; from edge_agent.__main__ import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "print({'paho', 'aiosqlite', 'drivers.route_b.decode', 'yaml', 'msgspec'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "explain ECHONET Lite frames" in done.stdout
    assert done.stdout.splitlines()[-1] == "set()"


def test_a_damaged_outbox_is_named_with_a_remedy(house, tmp_path, capsys):
    path = house()
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "outbox.db").write_bytes(b"no database" * 1000)
    for action in ("stat", "export"):
        assert main(["outbox", action, path]) == 1
        assert "outbox.db: cannot be read as an outbox" in capsys.readouterr().err


def test_a_reader_that_has_seen_enough_is_no_error_of_ours(house):
    done = subprocess.run(
        ["bash", "-c", f"{sys.executable} -m edge_agent drivers | head -0"], capture_output=True, text=True, check=False
    )
    assert "Traceback" not in done.stderr


def test_run_of_a_wrong_file_ends_at_once_with_the_reason(house):
    path = house(gateway={"id": "NO"})
    done = subprocess.run(
        [sys.executable, "-m", "edge_agent", "run", path], capture_output=True, text=True, check=False, timeout=20
    )
    assert done.returncode == 1
    assert "gateway.id = 'NO'" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_wave_read_is_the_wave_served(house, capsys, tmp_path):
    log = tmp_path / "served.jsonl"
    assert main(["read", "--json", house({"wave": {"driver": "sine", "log": str(log)}})]) == 0
    (found,) = objects(capsys.readouterr().out)
    served = [json.loads(line) for line in log.read_text().splitlines()]
    assert found["values"] in [line["values"] for line in served]
    assert all(line["values"]["sine_value"] == value_at(line["boot_ms"], 60) for line in served)
