"""Configurations, right and wrong: every message names file, key, value and remedy, whatever the file holds."""

import os
import textwrap
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from drivers.api import ConfigError
from edge_agent import config
from edge_agent.clock import SystemClock
from edge_agent.logs import SECRETS

SOUND = """
gateway:
  id: house-001
state_directory: state
mqtt:
  host: 127.0.0.1
drivers:
  wave:
    driver: sine
    poll_s: 1
roles:
  grid: wave
"""


@pytest.fixture
def load(tmp_path):
    def from_text(text):
        path = tmp_path / "house.yaml"
        path.write_text(textwrap.dedent(text))
        return config.load(path)

    return from_text


def problems(configuration):
    return config.check(configuration, SystemClock())


def test_a_sound_file_has_nothing_to_complain_about(load):
    configuration = load(SOUND)
    assert problems(configuration) == []
    assert configuration.document.roles.named() == {"grid": "wave"}


@pytest.mark.parametrize(
    ("change", "key", "says"),
    [
        (("id: house-001", "id: House_1"), "gateway.id", "3 to 32 small letters"),
        (("id: house-001", "id: all"), "gateway.id", "reserved"),
        (("id: house-001", "id: h"), "gateway.id", "not a gateway id"),
        (("id: house-001", "id: 7"), "gateway.id", "expected `str`"),
        (("  id: house-001", "  identity: house-001"), "gateway.identity", "no such key"),
        (("  id: house-001", "  id: house-001\n  area: 0720400 "), "gateway.area", "expected `str`"),
        (("  id: house-001", "  id: house-001\n  area: a/b"), "gateway.area", "not an area code"),
        (("state_directory: state", "state_directory: ''"), "state_directory", "name a folder"),
        (("state_directory: state", ""), "state_directory", "missing"),
        (("mqtt:", "mqttt:"), "mqttt", "did you mean 'mqtt'"),
        (("host: 127.0.0.1", "port: 99999"), "mqtt.port", "not within"),
        (("host: 127.0.0.1", "version: 3.1.1\n  acknowledged_by: broker"), "mqtt.acknowledged_by", "refused publish"),
        (("  wave:", "  Wave 1:"), "drivers.Wave 1", "not a name for a driver"),
        (("  wave:", "  gateway:"), "drivers.gateway", "not a name for a driver"),
        (("drivers:", "simulation: {start: yesterday}\ndrivers:"), "simulation.start", "write it as"),
        (("drivers:", "log: {level: loud}\ndrivers:"), "log.level", "loud"),
        (("drivers:", "drivers: {}\ndrivers:"), "", "twice"),
    ],
)
def test_what_concerns_the_whole_box_says_key_and_remedy(load, change, key, says):
    with pytest.raises(ConfigError) as caught:
        load(SOUND.replace(*change))
    assert caught.value.key == key
    assert says in str(caught.value)
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("change", "key", "says"),
    [
        (("driver: sine", "driver: sin"), "drivers.wave.driver", "did you mean 'sine'"),
        (("driver: sine", ""), "drivers.wave.driver", "name one of"),
        (("driver: sine", "driver: [sine]"), "drivers.wave.driver", "name one of"),
        (("poll_s: 1", "poll_s: often"), "drivers.wave.poll_s", "'often'"),
        (("poll_s: 1", "polls: 1"), "drivers.wave.polls", "did you mean 'poll_s'"),
        (("grid: wave", "grid: meter"), "roles.grid", "name one of: wave"),
    ],
)
def test_what_concerns_one_driver_is_found_by_check(load, change, key, says):
    (finding,) = problems(load(SOUND.replace(*change)))
    assert not finding.warning
    assert finding.error.key == key
    assert says in str(finding.error)


def test_every_wrong_driver_is_named_at_once(load):
    text = SOUND.replace(
        "  wave:", "  first:\n    driver: nonsense\n  second:\n    driver: sine\n    poll_s: 0\n  wave:"
    )
    assert [finding.error.key for finding in problems(load(text))] == ["drivers.first.driver", "drivers.second.poll_s"]


FOUR_MISTAKES = """
gateway:
  id: house-001
  side: north
state_directory: state
mqtt:
  port: 99999
log: {level: loud}
drivers:
  wave: {driver: sine, poll_s: often}
  other: {driver: sine}
roles: {grid: other}
"""


def mistakes(tmp_path, text):
    path = tmp_path / "house.yaml"
    path.write_text(text)
    return [finding.error.key for finding in config.check_file(path, SystemClock())]


def test_one_look_names_a_mistake_of_every_table(tmp_path):
    found = mistakes(tmp_path, FOUR_MISTAKES)
    assert found == ["gateway.side", "log.level", "mqtt.port", "drivers.wave.poll_s"]


@pytest.mark.parametrize(
    ("change", "keys"),
    [
        (("poll_s: 1\n", "poll_s: 1\nx: 1\ny: 1\n"), ["x", "y"]),
        (("mqtt:\n  host: 127.0.0.1\ndrivers:", "drivers: 7\nother:"), ["drivers", "other", "mqtt"]),
        (("id: house-001\nstate_directory: state\n", "id: H\nsecrets_directory: 7\n"),
         ["secrets_directory", "state_directory", "gateway.id"]),
        (("roles:\n  grid: wave", "outbox: {x: 2}\nroles:\n  grid: meter"), ["outbox.x", "roles.grid"]),
    ],
)  # fmt: skip
def test_a_table_with_a_mistake_hides_no_other(tmp_path, change, keys):
    assert mistakes(tmp_path, SOUND.replace(*change)) == keys


def test_two_drivers_may_not_claim_one_device():
    owners = {}
    assert config.claim("a", ("meter", "pv"), owners) == []
    (error,) = config.claim("b", ("pv", "battery"), owners)
    assert (error.value, error.problem) == ("pv", "the device name is taken by drivers.a")
    assert owners == {"meter": "a", "pv": "a", "battery": "b"}


def test_a_missing_file_is_a_configuration_error(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        config.load(tmp_path / "no.yaml")


def test_the_hash_follows_the_content_and_not_the_comments(load):
    assert load(SOUND).hash == load("# a comment\n" + SOUND).hash
    assert load(SOUND).hash != load(SOUND.replace("poll_s: 1", "poll_s: 2")).hash


trees = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.dates(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=20,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
@given(st.binary(max_size=300) | st.text(max_size=300).map(str.encode))
def test_any_bytes_are_a_configuration_or_a_named_error(tmp_path, raw):
    path = tmp_path / "any.yaml"
    path.write_bytes(raw)
    with pytest.raises(ConfigError):
        config.load(path)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200, deadline=None)
@given(
    st.sampled_from(["gateway", "mqtt", "drivers", "roles", "log", "clock", "outbox", "simulation", "state_directory"]),
    trees,
)
def test_any_tree_below_any_key_is_a_configuration_or_a_named_error(tmp_path, key, tree):
    import yaml

    path = tmp_path / "tree.yaml"
    path.write_text(yaml.safe_dump({**yaml.safe_load(SOUND), key: tree}), encoding="utf-8")
    try:
        findings = config.check_file(path, SystemClock())
    except ConfigError as error:  # YAML of a kind that is refused whole
        findings = [config.Finding(error)]
    try:
        assert len(problems(config.load(path))) == len(findings)
    except ConfigError as error:
        assert findings[0].error.key == error.key  # noqa: PT017  (either outcome is right)
    assert all(finding.error.remedy for finding in findings)


def test_a_secret_comes_from_systemd_first(tmp_path):
    for folder, text in (("systemd", "from systemd\n"), ("own", "from the folder\n")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "route-b").write_text(text)
    folders = config.secret_folders(str(tmp_path / "own"), {"CREDENTIALS_DIRECTORY": str(tmp_path / "systemd")})
    assert config.read_secret("route-b", folders) == "from systemd"
    assert config.read_secret("route-b", folders[1:]) == "from the folder"


def test_a_secret_that_was_read_is_hidden_from_the_logs(tmp_path):
    (tmp_path / "mqtt").write_text("correct-horse-7\n")
    config.read_secret("mqtt", [tmp_path])
    assert SECRETS.masked("password correct-horse-7 refused") == "password *** refused"


def test_a_stored_secret_is_the_owners_alone_and_takes_the_place_of_the_former_one(tmp_path):
    folder = tmp_path / "secrets"
    path = config.store_secret("route-b", "first", str(folder))
    assert config.store_secret("route-b", "second", str(folder)) == path
    assert config.read_secret("route-b", [folder]) == "second"
    assert path.stat().st_mode & 0o777 == 0o600
    assert [found.name for found in folder.iterdir()] == ["route-b"]


def test_without_a_folder_of_its_own_a_secret_lies_where_systemd_looks(tmp_path, monkeypatch):
    monkeypatch.setattr(config, "SYSTEM_CREDENTIALS", tmp_path)
    assert config.store_secret("route-b", "text", None) == tmp_path / "edge-gateway.route-b"


def test_a_command_typed_by_hand_finds_the_secrets_of_the_unit(tmp_path, monkeypatch, load):
    monkeypatch.setattr(config, "SYSTEM_CREDENTIALS", tmp_path)
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    configuration = load(SOUND)
    with pytest.raises(config.MissingSecretError):
        configuration.secret("route-b")
    config.store_secret("route-b", "text", configuration.document.secrets_directory)
    assert configuration.secret("route-b") == "text"
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path / "elsewhere"))  # systemd has the last word
    with pytest.raises(config.MissingSecretError):
        configuration.secret("route-b")


def test_a_secret_that_cannot_be_written_leaves_the_former_one(tmp_path, monkeypatch):
    config.store_secret("route-b", "first", str(tmp_path))
    monkeypatch.setattr(config.os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space"):
        config.store_secret("route-b", "second", str(tmp_path))
    assert config.read_secret("route-b", [tmp_path]) == "first"
    assert [found.name for found in tmp_path.iterdir()] == ["route-b"]


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("outbox", "limit_mib", 0),
        ("outbox", "write_after", -1),
        ("outbox", "write_after", 601),
        ("mqtt", "port", 0),
        ("mqtt", "keepalive_s", 4),
        ("mqtt", "reconnect_max", 0),
        ("mqtt", "max_payload", 100),
        ("simulation", "speed", 0),
        ("simulation", "start", "yesterday"),
    ],
)
def test_a_number_out_of_range_is_named_before_anything_runs(load, section, key, value):
    import yaml

    table = yaml.safe_load(SOUND)
    start = {"start": "2026-06-01T00:00:00+09:00"} if section == "simulation" else {}
    table[section] = {**start, **(table.get(section) or {}), key: value}
    with pytest.raises(ConfigError) as caught:
        load(yaml.safe_dump(table))
    assert (caught.value.key, caught.value.value) == (f"{section}.{key}", value)


@pytest.mark.parametrize("name", ["../shadow", "/etc/shadow", "", ".", "a/b", "x" * 65, "a\0b"])
def test_a_secrets_name_cannot_leave_its_folder(tmp_path, name):
    with pytest.raises(ConfigError, match="not the name of a secret"):
        config.read_secret(name, [tmp_path])


@pytest.mark.parametrize("raw", [b"", b"\n", b"\xff\xfe", b"x" * (config.MAX_SECRET_BYTES + 1)])
def test_a_secret_file_that_holds_no_secret_is_an_error_that_does_not_show_it(tmp_path, raw):
    (tmp_path / "key").write_bytes(raw)
    with pytest.raises(ConfigError, match="empty, too long or not text"):
        config.read_secret("key", [tmp_path])


def test_a_missing_secret_says_where_it_was_looked_for(tmp_path):
    with pytest.raises(config.MissingSecretError, match=str(tmp_path)):
        config.read_secret("route-b", [tmp_path])
    with pytest.raises(config.MissingSecretError, match="set secrets_directory"):
        config.read_secret("route-b", [])


def test_a_missing_secret_is_a_warning_of_check(load):
    text = SOUND.replace(
        "driver: sine\n    poll_s: 1", "driver: route_b\n    port: /dev/ttyUSB0\n    credentials: route-b"
    )
    findings = problems(load(text))
    assert all(finding.warning for finding in findings)


def test_secrets_that_others_can_read_are_named(tmp_path):
    for name, mode in (("mine", 0o600), ("everybodys", 0o644)):
        (tmp_path / name).write_text("secret")
        (tmp_path / name).chmod(mode)
    assert config.exposed_secrets(str(tmp_path)) == [tmp_path / "everybodys"]
    assert config.exposed_secrets(str(tmp_path / "none")) == []
    assert config.exposed_secrets(None) == []


def test_the_socket_is_looked_for_where_a_service_and_where_a_person_would_put_it(load, monkeypatch):
    monkeypatch.delenv("RUNTIME_DIRECTORY", raising=False)
    assert load(SOUND).sockets == [Path("state/house-001.sock"), Path("/run/edge-agent/house-001.sock")]
    monkeypatch.setenv("RUNTIME_DIRECTORY", f"/run/mine{os.pathsep}/run/other")
    assert load(SOUND).sockets[0] == Path("/run/mine/house-001.sock")
    assert load("runtime_directory: /run/set\n" + SOUND).sockets[0] == Path("/run/set/house-001.sock")
