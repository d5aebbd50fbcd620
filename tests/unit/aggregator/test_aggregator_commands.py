"""The command line: import, quarantine and gateways on a real file."""

from __future__ import annotations

import json
import time

import pytest

from aggregator.__main__ import main

EPOCH = "9f31c2aa04b7d1e5"


@pytest.fixture
def run(tmp_path, capsys):
    """`run("gateway", "list")` returns (exit code, objects printed)."""
    config = tmp_path / "aggregator.yaml"
    config.write_text(f"store: {{path: {tmp_path / 'a.db'}}}\n")

    def command(*words):
        code = main([*words, "--config", str(config), "--json"])
        return code, [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    return command


def export(path, *batches):
    path.write_text(
        "".join(json.dumps({"gateway": "house-001", "topic": "telemetry", "batch": one}) + "\n" for one in batches)
    )
    return str(path)


def batch(seq, **changes):
    block = {"device": "meter", "columns": ["grid_power_w"], "rows": [[seq, 1]]}
    t0 = int(time.time() * 1000) - 60_000
    return {
        "v": 1,
        "epoch": EPOCH,
        "seq": seq,
        "boot": "a1",
        "b0": 0,
        "t0": t0,
        "clock": "synced",
        "blocks": [block],
    } | changes


def test_an_export_is_imported_once(run, tmp_path):
    file = export(tmp_path / "outbox.jsonl", batch(1), batch(2, clock="simulated"))
    assert run("import", file) == (0, [{"batches": 1, "put_aside": 1, "problems": []}])
    assert run("import", file)[0] == 0
    ((entry,),) = [run("quarantine", "list")[1]]
    assert entry["n"] == 2
    code, (shown,) = run("quarantine", "show", str(entry["id"]))
    assert code == 0
    assert json.loads(shown["payload"])["seq"] == 2
    assert run("quarantine", "replay") == (1, [{"accepted": 0, "refused": 1}])


def test_lines_that_are_no_batches_are_named(run, tmp_path):
    file = tmp_path / "broken.jsonl"
    export(file, batch(1))
    file.write_bytes(b"nonsense\n\n" + file.read_bytes() + b'{"gateway":"house-001"}\n')
    code, (told,) = run("import", str(file))
    assert code == 1
    assert told["batches"] == 1
    assert [problem.split(":")[0] for problem in told["problems"]] == ["line 1", "line 4"]


def test_gateways_are_listed_retired_and_restored(run, tmp_path):
    run("import", export(tmp_path / "outbox.jsonl", batch(1)))
    assert run("gateway", "list")[1][0]["id"] == "house-001"
    assert run("gateway", "retire", "house-001")[0] == 0
    assert run("gateway", "list")[1][0]["retired"]
    assert run("gateway", "restore", "house-001")[0] == 0
    assert run("gateway", "retire", "house-009")[0] == 1
    assert run("gateway", "admit", "house-001", "ffff")[0] == 1
    assert run("quarantine", "show", "99")[0] == 1


def test_a_missing_configuration_is_one_line(capsys):
    assert main(["run", "/nonexistent.yaml"]) == 1
    error = capsys.readouterr().err
    assert "cannot be read" in error
    assert len(error.splitlines()) == 1


def test_people_get_words(tmp_path, capsys):
    config = tmp_path / "aggregator.yaml"
    config.write_text(f"store: {{path: {tmp_path / 'a.db'}}}\n")
    main(["import", export(tmp_path / "o.jsonl", batch(1), batch(2, v=3)), "--config", str(config)])
    main(["quarantine", "list", "--config", str(config)])
    main(["gateway", "list", "--config", str(config)])
    told = capsys.readouterr().out
    assert "1 batches stored or known, 1 put aside" in told
    assert "version 3" in told
    assert "house-001" in told


COMMANDS = (
    ("quarantine", "list"),
    ("quarantine", "show", "1"),
    ("quarantine", "replay"),
    ("gateway", "list"),
    ("gateway", "retire", "house-001"),
    ("gateway", "restore", "house-001"),
    ("gateway", "admit", "house-001", "a1"),
)


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_no_command_but_import_makes_a_database(tmp_path, capsys, words):
    config = tmp_path / "aggregator.yaml"
    config.write_text(f"store: {{path: {tmp_path / 'state' / 'a.db'}}}\n")
    assert main([*words, "--config", str(config)]) == 1
    assert "no database at" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["aggregator.yaml"]


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_a_file_that_is_no_database_is_named_not_a_traceback(tmp_path, capsys, words):
    config = tmp_path / "aggregator.yaml"
    config.write_text(f"store: {{path: {tmp_path / 'a.db'}}}\n")
    (tmp_path / "a.db").write_bytes(b"no database at all" * 1000)
    assert main([*words, "--config", str(config)]) == 1
    assert capsys.readouterr().err.startswith("edge-aggregator: ")


def test_looking_changes_nothing(run, tmp_path):
    run("import", export(tmp_path / "outbox.jsonl", batch(1)))
    before = (tmp_path / "a.db").read_bytes()
    (tmp_path / "a.db").chmod(0o440)
    assert run("quarantine", "list") == (0, [])
    assert run("gateway", "list")[1][0]["id"] == "house-001"
    assert (tmp_path / "a.db").read_bytes() == before
