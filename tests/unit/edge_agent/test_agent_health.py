"""What the kernel says, read from files that say it rightly, wrongly or not at all."""

import pytest

from edge_agent import health


def file(tmp_path, text):
    path = tmp_path / "kernel"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("text", "celsius"), [("48312\n", 48.3), ("0", 0.0), ("", None), ("hot", None), ("-2147483648", None)]
)
def test_the_processors_temperature_is_a_number_or_none(tmp_path, text, celsius):
    assert health.cpu_temperature_c(file(tmp_path, text)) == celsius


def test_a_machine_without_sensor_has_no_temperature(tmp_path):
    assert health.cpu_temperature_c(tmp_path / "none") is None


@pytest.mark.parametrize(
    ("text", "mib"), [("MemTotal: 9 kB\nMemAvailable:  2048 kB\n", 2), ("MemAvailable:", None), ("", None)]
)
def test_available_memory_is_a_number_or_none(tmp_path, text, mib):
    assert health.available_mib(file(tmp_path, text)) == mib


@pytest.mark.parametrize("text", ["", "1", "a b", "1 -"])
def test_odd_process_memory_is_none(tmp_path, text):
    assert health.rss_mib(file(tmp_path, text)) is None


def test_this_machine_answers(tmp_path):
    box = health.box(tmp_path)
    assert 1 < box["memory"]["rss_mib"] < 10_000
    assert 0 <= box["disk"]["free_mib"] <= box["disk"]["total_mib"]
    assert box["uptime_s"] > 0


def test_a_folder_that_is_not_there_has_no_disk(tmp_path):
    assert health.disk(tmp_path / "none") == {"free_mib": None, "total_mib": None}


def test_the_summary_counts_the_drivers_that_run():
    assert health.summary({"drivers": {"a": {"state": "running"}, "b": {"state": "off"}}}) == "1 of 2 drivers run"
