"""Every configuration that ships passes its own check."""

import re
from importlib import import_module, metadata
from pathlib import Path

import msgspec
import pytest

from edge_agent import config, registry
from edge_agent.clock import SystemClock

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
AGENTS = sorted(path for path in CONFIGS.glob("*.yaml") if "drivers:" in path.read_text(encoding="utf-8"))


def test_the_agents_configurations_are_found():
    assert {path.name for path in AGENTS} >= {"demo.yaml", "demo-pole.yaml", "house.yaml", "pole.yaml"}


@pytest.mark.parametrize("path", AGENTS, ids=lambda path: path.name)
def test_every_shipped_configuration_passes_check(path):
    findings = config.check(config.load(path), SystemClock())
    assert [str(finding.error) for finding in findings if not finding.warning] == []


@pytest.mark.parametrize("path", AGENTS, ids=lambda path: path.name)
def test_no_shipped_configuration_holds_a_secret(path):
    text = path.read_text(encoding="utf-8")
    assert "password:" not in text.replace("password: mqtt-password", "")


def keys_of(kind):
    """Yield every key below a struct, nested tables included."""
    for field in msgspec.structs.fields(kind):
        inner = [part for part in _parts(field.type) if isinstance(part, type) and issubclass(part, msgspec.Struct)]
        for part in inner:
            yield from keys_of(part)
        if not inner:
            yield field.encode_name


def _parts(kind):
    return [kind] if isinstance(kind, type) else [part for one in getattr(kind, "__args__", ()) for part in _parts(one)]


def documented():
    """Return the words in back quotes of the page, a dotted key giving its last part too."""
    page = (CONFIGS.parent / "docs" / "configuration.md").read_text(encoding="utf-8")
    quoted = re.findall(r"`([^`\n]+)`", re.sub(r"(?s)```.*?```", "", page))
    return {part for word in quoted for part in (word, word.rpartition(".")[2])}


def test_every_key_of_the_agent_is_documented():
    assert set(keys_of(config.Document)) - {"drivers"} - documented() == set()


@pytest.mark.parametrize("name", registry.names(registry.DRIVERS))
def test_every_key_of_a_shipped_driver_is_documented(name):
    (point,) = [point for point in metadata.entry_points(group=registry.DRIVERS) if point.name == name]
    if point.dist.name == "edge-gateway":
        assert set(keys_of(import_module(point.module).Settings)) - documented() == set()
