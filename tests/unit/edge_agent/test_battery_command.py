"""What `edge-agent battery` says of a plan, in Japanese and English."""

import argparse
import contextlib
import json
import tempfile
from pathlib import Path

import pytest

from drivers.api import ConfigError
from edge_agent import battery, config, control

WRITES = {"ram": 3, "stored": 0, "stored_today": 0, "stored_per_day": 24}
PLAN = {
    "mode": "charge",
    "reason": "charge",
    "why": {"ja": "安い時間帯の終わりまでに充電する", "en": "charging before the cheap hours end"},
    "power_w": 1200,
    "cut_by_contract": True,
    "house_w": 2800,
    "house_from": "house_meter",
    "missing_kwh": 2.4,
    "charging_begins": "2026-06-04T03:15+09:00",
    "next_decision": "2026-06-04T03:30+09:00",
    "cheap_from": "2026-06-03T23:00+09:00",
    "cheap_to": "2026-06-04T07:00+09:00",
    "goal_percent": 74,
    "expected_until": "2026-06-04T23:00+09:00",
    "expected_load_kwh": 9.6,
    "expected_pv_kwh": 3.2,
    "expected_from": "weekday",
    "learnt_days": 4,
}


def told(**more):
    answer = {"mode": "charge", "allowed": ["normal", "charge"], "writes": WRITES, "schedule": "charge: words"}
    return battery._lines("inverter", answer | more)


def test_a_plan_is_told_with_its_window_its_need_its_power_and_what_it_rests_on():
    assert told(plan=PLAN) == [
        "inverter: charge",
        "  計画 / plan: charge: 安い時間帯の終わりまでに充電する / charging before the cheap hours end",
        "  安い時間帯 / cheap hours: 06-03 23:00 - 06-04 07:00",
        "  終わりの目標 / goal at their end: 74 %, 不足 / missing 2.4 kWh",
        "  その後の見込み / expected then: 消費 / load 9.6 kWh, 太陽光 / PV 3.2 kWh, まで / until 06-04 23:00",
        "  見込みの元 / from: 同じ曜日4日 / 4 same weekdays",
        "  充電開始 / charging from: 06-04 03:15",
        "  充電電力 / power: 1200 W (契約により抑制 / cut by the contract)",
        "  家の消費 - 太陽光 / house less PV: 2800 W (家のメーター / the house's meter)",
        "  次の判断 / next decision: 06-04 03:30",
        "  writes           3 to RAM, 0 to flash (0 of 24 today)",
        "  allowed          normal, charge",
    ]


@pytest.mark.parametrize("missing", sorted(PLAN))
def test_an_agent_that_knows_less_is_shown_as_far_as_it_does(missing):
    lines = told(plan={key: value for key, value in PLAN.items() if key != missing})
    assert lines[0] == "inverter: charge"
    assert not any("{" in line for line in lines)


def test_an_agent_without_a_plan_shows_its_words_and_one_that_still_learns_says_what_it_lacks():
    assert "  schedule         charge: words" in told()
    waits = {"goal_percent": 62, "expected_from": "configured", "not_learnt_yet": "2026-06-04T18:30+09:00"}
    lines = told(plan=PLAN | waits)
    assert "  見込みの元 / from: 設定値 / as configured" in lines
    assert "  まだ2日分ない時刻 / not learnt on two days yet: 18:30" in lines
    assert "  計画 / plan: None: None / None" in told(plan={"expected_from": "tomorrow", "goal_percent": 3})


@contextlib.asynccontextmanager
async def agent(detail):
    """A configuration, and the socket of an agent whose only driver says `detail`."""
    with tempfile.TemporaryDirectory(prefix="edge-") as folder:
        path = Path(folder) / "house.yaml"
        table = {"gateway": {"id": "house-001"}, "state_directory": folder, "mqtt": {"host": "h"}, "drivers": {}}
        path.write_text(json.dumps(table))
        configuration = config.load(path)

        async def status(arguments):
            return {"drivers": {"line": {"detail": detail}}}

        async with control.listening(
            configuration.sockets[0], control.Desk({"status": status}, lambda *_: None, lambda: 0)
        ):
            yield configuration


async def asked(configuration, action="status"):
    names = ("device", "power_w", "soc_percent", "for_s", "until")
    return await battery._ask(configuration, argparse.Namespace(action=action, **dict.fromkeys(names)))


async def test_a_battery_left_with_a_former_command_is_shown_but_not_commanded():
    async with agent({"left_commanded": ["inverter (unit 3)"]}) as configuration:
        answers = await asked(configuration)
        (line, allowed) = battery._lines("inverter (unit 3)", answers["inverter (unit 3)"])
        assert "a former command was not undone" in line
        assert allowed.endswith("none")
        with pytest.raises(ConfigError, match="no device has a `battery` table"):
            await asked(configuration, "hold")
    async with agent({}) as configuration:
        with pytest.raises(ConfigError, match="all batteries are only read"):
            await asked(configuration)
