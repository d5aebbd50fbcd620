"""A simulated day, fast: what the aggregator holds is what the house says it used and produced."""

from __future__ import annotations

from datetime import datetime, timedelta
from decimal import Decimal

import pytest
from harness import HOUSE, JST, Simulation, Town, drained, online, rows, served
from judge import Row, Served, judge

from simulators.house import House
from simulators.programs import running, until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(420)]

DAY = datetime(2025, 6, 2, tzinfo=JST)
SPEED = 720.0
POLL_S = 60.0
HALF_HOUR = timedelta(minutes=30)
METER_STEP_WS = 360_000
"""The simulated meter shows 0.1 kWh."""
PV_STEP_WS = 36_000
"""The simulated inverter shows 0.01 kWh."""
STEP_WS = 360
"""The aggregator stores 0.0001 kWh."""


def unix_ms(moment: datetime) -> int:
    """Return a moment in unix ms."""
    return int(moment.timestamp() * 1000)


def shown_by_meter(watt_seconds: int) -> int:
    """Return a register as the meter shows it, in steps of 0.0001 kWh."""
    return watt_seconds // METER_STEP_WS * METER_STEP_WS // STEP_WS


async def test_the_energies_of_a_simulated_day_arrive_exactly(home) -> None:
    simulation = Simulation(DAY - timedelta(hours=3), SPEED)
    town = Town(home, simulation)
    house = town.house_simulators("--radio-time", "0")
    agent = town.house_agent(poll_s=POLL_S, write_after=2, sine=False)
    end = DAY + timedelta(days=1, minutes=20)
    async with running(town.broker, town.aggregator, house, agent):
        await online(town, HOUSE)
        watched = (town.broker, town.aggregator, house, agent)
        await until(lambda: simulation.unix_ms() >= unix_ms(end), 240, "the day is over", *watched, poll_s=0.5)
        await house.stop()
        await drained(town, home / f"{HOUSE}.yaml")
    stored = rows(town.database, HOUSE)

    registers = {
        (row.at, name): value for row in stored if row.device == "meter/30min" for name, value in row.values.items()
    }
    oracle = House(town.seed, unix_ms(simulation.start))
    moments = [DAY + i * HALF_HOUR for i in range(49)]
    for moment in moments:
        said = oracle.at(unix_ms(moment))
        for name, watt_seconds in (("import", said.import_ws), ("export", said.export_ws)):
            register = registers[unix_ms(moment), f"{name}_energy_at_30min_kwh"]
            assert int(register * 10_000) == shown_by_meter(watt_seconds), f"{name} at {moment}"

    said = served(town.log("house"))
    verdict = judge(stored, said, [], slack_ms=5 * 60_000)
    assert not verdict.invented, verdict
    polled = [row for row in stored if row.device == "inverter" and unix_ms(DAY) <= row.at <= unix_ms(moments[-1])]
    assert len(polled) > 1000
    first, last = (line_of(row, said) for row in (polled[0], polled[-1]))
    oracle = House(town.seed, unix_ms(simulation.start))
    for row, line in ((polled[0], first), (polled[-1], last)):
        house_said = oracle.at(int(line.at)).pv_ws // PV_STEP_WS * PV_STEP_WS // STEP_WS
        assert int(row.values["pv_energy_kwh"] * 10_000) == house_said
    assert polled[-1].values["pv_energy_kwh"] - polled[0].values["pv_energy_kwh"] > 5


def line_of(row: Row, said: list[Served]) -> Served:
    """Return the served line behind a row: the last one of its device with its PV register, at or before its stamp."""
    register = row.values["pv_energy_kwh"]
    return max(
        (
            line
            for line in said
            if line.device == row.device and line.at <= row.at and Decimal(line.values["pv_energy_kwh"]) == register
        ),
        key=lambda line: line.at,
    )
