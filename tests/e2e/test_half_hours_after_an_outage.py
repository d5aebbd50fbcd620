"""An agent was away for two days: from the meter's memory the series becomes complete, equal to the house's."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from datetime import datetime, timedelta
from decimal import Decimal

import pytest
import yaml
from harness import HOUSE, JST, Simulation, Town, online

from simulators.house import House
from simulators.programs import running, until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

BEGIN = datetime(2025, 6, 2, tzinfo=JST)
SPEED = 14_400.0
HALF_HOUR = timedelta(minutes=30)
QUANTITIES = {"import_energy_at_30min_kwh": "import_ws", "export_energy_at_30min_kwh": "export_ws"}


def unix_ms(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)


def ask(town: Town, statement: str) -> list:
    with contextlib.closing(sqlite3.connect(f"file:{town.database}?mode=ro", uri=True)) as connection:
        return connection.execute(statement).fetchall()


def stored(town: Town) -> dict[tuple[int, str], Decimal]:
    """Return the series of half hours: (unix ms, quantity) → kWh."""
    found = ask(town, "SELECT utc_ms, quantity, value FROM device_values WHERE device = 'meter'")
    return {(at, name): Decimal(steps) / 10_000 for at, name, steps in found}


def expected(begin: datetime, first: datetime, last: datetime) -> dict[tuple[int, str], Decimal]:
    house = House(1, unix_ms(begin))
    moments = [unix_ms(first + n * HALF_HOUR) for n in range((last - first) // HALF_HOUR + 1)]
    balances = [(at, house.half_hour(at)) for at in moments]
    return {
        (at, name): Decimal(getattr(said, field) // 360_000) / 10
        for at, said in balances
        for name, field in QUANTITIES.items()
    }


async def test_two_days_without_an_agent_are_read_from_the_meters_memory(home) -> None:
    simulation = Simulation(BEGIN, SPEED)
    town = Town(home, simulation)
    table = yaml.safe_load((home / "aggregator.yaml").read_text())
    table["half_hours"] = {"check_s": 3, "after_return_s": 1}
    (home / "aggregator.yaml").write_text(yaml.safe_dump(table))
    meter = town.python(
        "meter", "simulators", "meter", "--link", str(home / "meter"), *simulation.options(), "--seed", "1"
    )
    town.house_agent(poll_s=600, write_after=1, sine=False)
    path = home / f"{HOUSE}.yaml"
    table = yaml.safe_load(path.read_text())
    del table["drivers"]["inverter"]
    table["roles"] = {"grid": "meter"}
    path.write_text(yaml.safe_dump(table))
    agent = town.python("agent", "edge_agent", "run", path)
    watched = (town.broker, town.aggregator, meter)

    async with running(town.broker, town.aggregator, meter, agent):
        await online(town, HOUSE)
        await until(lambda: len(stored(town)) >= 4, 60, "the first half hours are stored", *watched, agent)
        await agent.stop()
        gone = simulation.unix_ms()
        back = gone + int(timedelta(days=2, hours=14).total_seconds() * 1000)
        await until(lambda: simulation.unix_ms() >= back, 90, "two days and more are over", *watched)
        before = stored(town)
        await agent.start()
        last = datetime.fromtimestamp(back / 1000, JST).replace(minute=0, second=0, microsecond=0)
        first = datetime.fromtimestamp(min(at for at, _ in before) / 1000, JST)
        wanted = expected(BEGIN, first, last)
        assert len(wanted.keys() - before.keys()) >= 2 * 2 * 48
        await until(
            lambda: wanted.keys() <= stored(town).keys(), 90, "the series is complete", *watched, agent, poll_s=0.5
        )
        await agent.stop()
        await until(lambda: wanted.keys() <= stored(town).keys(), 5, "it stays so", *watched)
    told = stored(town)
    assert {key: told[key] for key in wanted} == wanted
    assert ask(town, "SELECT count(*) FROM conflict") == [(0,)]
    tallies = [json.loads(data) for (data,) in ask(town, "SELECT data FROM event WHERE kind = 'half_hours'")]
    assert "its meter is asked" in town.aggregator.log.read_text()  # today and yesterday the driver reads unasked
    whole = {data["date"] for data in tallies if data["have"] == 48 and data["repaired"] >= 40}
    assert {"2025-06-03", "2025-06-04"} & whole
