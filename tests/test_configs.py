"""Every configuration that ships passes its own check."""

from pathlib import Path

import pytest

from edge_agent import config
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
