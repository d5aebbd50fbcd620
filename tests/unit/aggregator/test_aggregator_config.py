"""The aggregator's configuration: every message names file, key, value and remedy."""

from __future__ import annotations

from pathlib import Path

import pytest

from aggregator.broker import read_password
from aggregator.config import Mqtt, load
from drivers.api import ConfigError

HOUSE = Path(__file__).parents[3]


@pytest.mark.parametrize("name", ["aggregator.yaml", "demo-aggregator.yaml"])
def test_the_configurations_we_ship_are_good(name):
    assert load(HOUSE / "configs" / name).http.host == "127.0.0.1"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("store: {path: a.db}\nhttp: {prot: 8080}", ["http.prot", "no such key", "did you mean 'port'?"]),
        ("store: {path: a.db}\nhttp: {port: 0}", ["http.port = 0", ">= 1"]),
        ("http: {port: 80}", ["store", "missing", "add it"]),
        ("store: {path: a.db}\nmqtt: {version: 5}", ["mqtt.version = 5", "str"]),
        ("store: {path: a.db}\nmqtt: {version: '4'}", ["mqtt.version = '4'"]),
        ("store: {path: a.db}\nmqtt: {password_file: x}", ["mqtt.username", "missing"]),
        ("store: {path: a.db}\nmqtt: {tls: {key: x}}", ["mqtt.tls", "go together"]),
        ("store: {path: a.db}\nmqtt: {socket: x, tls: {}}", ["mqtt.tls", "Unix socket"]),
        ("- 1", ["not a table"]),
        ("a: [", ["not YAML"]),
    ],
)
def test_a_mistake_is_named_with_its_remedy(tmp_path, text, words):
    file = tmp_path / "aggregator.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError) as error:
        load(file)
    for word in [str(file), *words]:
        assert word in str(error.value)


def test_a_file_that_is_not_there_is_named():
    with pytest.raises(ConfigError, match="cannot be read"):
        load(Path("/nonexistent/aggregator.yaml"))


def test_the_password_comes_from_a_file_or_from_systemd(tmp_path, monkeypatch):
    (tmp_path / "mqtt-password").write_text("secret\n")
    assert read_password(Mqtt()) is None
    assert read_password(Mqtt(password_file=str(tmp_path / "mqtt-password"))) == "secret"
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert read_password(Mqtt()) == "secret"
    with pytest.raises(ConfigError, match=r"mqtt\.password_file"):
        read_password(Mqtt(password_file="/nonexistent"))
