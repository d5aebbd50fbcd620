"""Every shipped map, played in each state that falsifies values: they are withheld, never told as 0."""

from dataclasses import replace

import pytest
from playing import first_sample, saying

from drivers.modbus import library
from drivers.modbus.sunspec_points import table
from simulators.house import House
from simulators.modbus_chains import chain_of, models_of
from simulators.modbus_maps import unit_of

NOON = House(seed=1).at(1_780_239_600_000 + 12 * 3_600_000)
MAPS = [name for name in library.known() if not library.find(name).is_sunspec]
STATES = sorted(
    {(name, rule.state, said) for name in MAPS for rule in library.find(name).derived.withheld for said in rule.states}
)


def gated(name, state, said):
    """What a state withholds: always, and only when it is 0."""
    rules = [rule for rule in library.find(name).derived.withheld if rule.state == state and said in rule.states]
    always = set().union(*(rule.values for rule in rules if not rule.zeros))
    return always, set().union(*(rule.values for rule in rules if rule.zeros)) - always


async def read(name, said):
    register_map = library.find(name)
    values, _ = await first_sample(saying(unit_of(register_map), register_map, said), name, NOON)
    return values


@pytest.mark.parametrize(("name", "state", "said"), STATES)
async def test_what_a_state_falsifies_is_withheld_and_never_0(name, state, said):
    always, of_zeros = gated(name, state, said)
    values = await read(name, {state: said})
    assert {quantity: values[quantity] for quantity in always} == dict.fromkeys(always)
    running = await read(name, {})
    kept = [quantity for quantity in of_zeros if running[quantity]]
    assert {quantity: values[quantity] for quantity in kept} == {quantity: running[quantity] for quantity in kept}
    every = always | of_zeros
    values = await read(name, {state: said, **dict.fromkeys(every, 0)})
    assert {quantity: values[quantity] for quantity in every} == dict.fromkeys(every)


@pytest.mark.parametrize("name", MAPS)
async def test_what_is_withheld_is_told_while_the_device_runs(name):
    values = await read(name, {})
    every = set().union(*(rule.values for rule in library.find(name).derived.withheld))
    assert {quantity for quantity in every if values[quantity] is None} == set()


@pytest.mark.parametrize(
    ("name", "state", "said", "soc"),
    [
        ("goodwe_et", "battery_mode", "no_battery", "battery_soc_percent"),
        ("growatt_tl_xh", "battery_mode", "disconnected", "battery_soc_percent"),
        ("huawei_sun2000", "battery_mode", "offline", "battery_soc_percent"),
        ("solaredge_storedge", "battery_mode", "initialising", "battery_soc_percent"),
        ("solaredge_storedge", "battery2_mode", "off", "battery2_soc_percent"),
    ],
)
async def test_a_battery_that_is_away_or_starting_is_not_at_0_percent(name, state, said, soc):
    assert (await read(name, {state: said, soc: 0}))[soc] is None


@pytest.mark.parametrize("name", [name for name in MAPS if name != "victron_gx"])
def test_pv_is_withheld_in_a_state_in_which_the_inverter_does_not_run(name):
    """A GX tells of no inverter."""
    assert any("pv_power_w" in rule.values and not rule.zeros for rule in library.find(name).derived.withheld)


@pytest.mark.parametrize("name", ["kaco", "sunspec_storage"])
@pytest.mark.parametrize(("number", "is_told"), [(1, False), (2, True), (4, True), (7, False)])
async def test_pv_of_a_sunspec_inverter_is_withheld_while_it_is_off_or_has_a_fault(name, number, is_told):
    chain = chain_of((1, 103, 124, 160))
    state = models_of(chain)[103] + table(103).points["St"].at
    cells = [replace(cell, raw=lambda _: number) if cell.address == state else cell for cell in chain.cells]
    values, _ = await first_sample(replace(chain, cells=tuple(cells)), name, NOON)
    assert values["inverter_state"] == {1: "off", 2: "sleeping", 4: "running", 7: "fault"}[number]
    assert values["pv_power_w"] == (NOON.pv_w if is_told else None)
