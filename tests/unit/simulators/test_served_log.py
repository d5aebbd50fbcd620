"""The served log: one whole line per answer, on disk before the answer leaves."""

import json
from decimal import Decimal

from simulators.clock import SimulatedClock
from simulators.log import ServedLog


def test_a_line_is_there_at_once_with_energies_as_text(tmp_path):
    log = ServedLog(tmp_path / "served", SimulatedClock(None, lambda: 1_000))
    log.served("meter", {"grid_power_w": -3, "import_energy_kwh": Decimal("12.30"), "current_t_a": None})
    log.served("meter", {"import_energy_at_30min_kwh": Decimal(5)}, at="2026-06-01T00:30:00+09:00")
    lines = [json.loads(line) for line in (tmp_path / "served").read_text().splitlines()]
    assert lines == [
        {
            "t": 1_000,
            "sim": 1_000,
            "device": "meter",
            "values": {"grid_power_w": -3, "import_energy_kwh": "12.30", "current_t_a": None},
        },
        {
            "t": 1_000,
            "sim": 1_000,
            "device": "meter",
            "values": {"import_energy_at_30min_kwh": "5"},
            "at": "2026-06-01T00:30:00+09:00",
        },
    ]
    log.close()


def test_two_simulators_share_a_file_and_a_restart_appends(tmp_path):
    clock = SimulatedClock(None, lambda: 0)
    first, second = ServedLog(tmp_path / "served", clock), ServedLog(tmp_path / "served", clock)
    first.served("meter", {"grid_power_w": 1})
    second.happened("tags", walk={"tag": "t", "enters": 1, "leaves": 2})
    first.served("meter", {"grid_power_w": 2})
    devices = [json.loads(line)["device"] for line in (tmp_path / "served").read_text().splitlines()]
    assert devices == ["meter", "tags", "meter"]
    first.close()
    second.close()


def test_without_a_file_nothing_happens_and_a_closed_log_is_silent(tmp_path):
    clock = SimulatedClock(None, lambda: 0)
    ServedLog(None, clock).served("meter", {"grid_power_w": 1})
    log = ServedLog(tmp_path / "served", clock)
    log.close()
    log.served("meter", {"grid_power_w": 1})
    assert (tmp_path / "served").read_text() == ""
