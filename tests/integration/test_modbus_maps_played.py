"""Every shipped map is played by the simulator and read back by the real driver: the house's values, names, signs."""

import argparse
import asyncio
import json
from decimal import Decimal

import pytest
from playing import first_sample

from drivers.modbus import library
from edge_agent import registry
from simulators.house import House
from simulators.inverter import InverterServer, commanded, configure, played
from simulators.modbus_chains import chain_of
from simulators.modbus_maps import unit_of

NOON_MS = 1_780_239_600_000 + 12 * 3_600_000
EVENING_MS = NOON_MS + 8 * 3_600_000
MAPS = [name for name in library.known() if not library.find(name).is_sunspec]
HYBRID_CHAINS = [(1, 101, 160, 124), (1, 113, 160, 203, 802), (1, 701, 714, 713, 213), (1, 102, 160, 802, 201, 204)]


def near(value, watt_seconds, step="0.1"):
    return abs(value - Decimal(watt_seconds) / 3_600_000) <= Decimal(step)


@pytest.mark.parametrize("at_ms", [NOON_MS, EVENING_MS], ids=["noon", "evening"])
@pytest.mark.parametrize("name", MAPS)
async def test_a_played_map_reads_back_as_the_house(name, at_ms):
    now = House(seed=1).at(at_ms)
    register_map = library.find(name)
    values, driver = await first_sample(unit_of(register_map), name, now)
    points = {point.quantity for point in register_map.points} - register_map.derived.hidden
    assert values.keys() == points | {total.quantity for total in register_map.derived.sums}
    assert driver.status()["devices"]["inverter"]["refused"] == {}
    told = {
        "pv_power_w": now.pv_w,
        "battery_power_w": now.battery_w,
        "grid_power_w": now.grid_w,
        "load_power_w": now.load_w,
        "ac_power_w": now.pv_w + now.battery_w,
        "battery_soc_percent": Decimal(now.soc_permille) / 10,
    }
    resolution = 10 if name.endswith("_hv") else 1
    for quantity in told.keys() & values.keys():
        assert abs(Decimal(str(values[quantity])) - told[quantity]) < resolution, quantity
    energies = {
        "pv_energy_kwh": now.pv_ws,
        "import_energy_kwh": now.import_ws,
        "export_energy_kwh": now.export_ws,
        "battery_charge_energy_kwh": now.charge_ws,
        "battery_discharge_energy_kwh": now.discharge_ws,
    }
    for quantity in energies.keys() & values.keys():
        assert near(values[quantity], energies[quantity]), quantity
    assert {"battery_power_w", "battery_soc_percent", "pv_power_w"} <= values.keys()


@pytest.mark.parametrize("chain", HYBRID_CHAINS, ids=lambda chain: "-".join(map(str, chain)))
async def test_a_played_chain_of_models_reads_back_as_the_house(chain):
    now = House(seed=1).at(NOON_MS)
    values, driver = await first_sample(chain_of(chain), "sunspec", now)
    assert values["ac_power_w"] == now.pv_w + now.battery_w
    assert values["pv_power_w"] == now.pv_w == values["pv1_power_w"]
    assert values["battery_soc_percent"] == Decimal(now.soc_permille) / 10
    assert (values["ac_frequency_hz"], values["ac_voltage_v"], values["inverter_state"]) == (50, 202, "running")
    assert near(values["pv_energy_kwh"], now.pv_ws, "0.001")
    if {201, 203, 213} & set(chain):
        assert values["grid_power_w"] == now.grid_w
        assert near(values["import_energy_kwh"], now.import_ws, "0.01" if 213 in chain else "0.001")
    if 204 in chain:
        assert values["meter2_power_w"] == now.grid_w
        told = registry.described(driver.describe())["meter2_power_w"]
        assert (told.unit, told.kind) == ("W", "gauge")
        assert told.label_ja
        assert told.label_en


async def test_an_inverter_without_storage_calls_its_output_pv():
    now = House(seed=1).at(NOON_MS)
    values, _ = await first_sample(chain_of((1, 103)), "sunspec", now)
    assert values["pv_power_w"] == values["ac_power_w"] == now.pv_w + now.battery_w


@pytest.mark.parametrize("chain", [(1, 101, 120, 121, 122, 123, 124, 160, 203), (1, 701, 702, 703, 704, 713, 714)])
async def test_a_peers_client_reads_a_played_chain(chain):
    from sunspec2.modbus import client

    now = House(seed=1).at(NOON_MS)
    server = InverterServer({1: chain_of(chain)}, lambda: now)
    await server.start()

    def read():
        device = client.SunSpecModbusClientDeviceTCP(slave_id=1, ipaddr="127.0.0.1", ipport=server.port, timeout=2)
        try:
            device.scan(delay=0)
            return [key for key in device.models if isinstance(key, int)], device.models[chain[1]][0].W.cvalue
        finally:
            device.close()

    try:
        assert await asyncio.to_thread(read) == (list(chain), now.pv_w + now.battery_w)
    finally:
        await server.close()


def options(*words):
    parser = argparse.ArgumentParser()
    configure(parser)
    return parser.parse_args(words)


@pytest.mark.parametrize("name", library.known())
async def test_the_command_plays_every_map(name):
    ((number, unit),) = played(options("--map", name)).items()
    now = House(seed=1).at(NOON_MS)
    values, driver = await first_sample(unit, name, now)
    assert number == 1
    assert values["pv_power_w"] in {now.pv_w, now.pv_w // 10 * 10, now.pv_w + now.battery_w}
    assert driver.describe()["inverter"]["map"] == name


def test_the_command_plays_an_image_a_chain_and_a_map_of_ones_own(tmp_path):
    (tmp_path / "seven.json").write_text(json.dumps({"unit": 7, "blocks": [[10, "00FF"]]}))
    (tmp_path / "mine.yaml").write_text("maker: M\npoints:\n  pv_power_w: {address: 5, type: u16}\n")
    assert played(options("--image", str(tmp_path / "seven.json"))).keys() == {7}
    assert played(options("--image", str(tmp_path / "seven.json"), "--unit", "9")).keys() == {9}
    assert played(options("--map", "mine", "--maps", str(tmp_path)))[1].ranges == ((5, 6),)
    assert played(options("--chain", "1", "103"))[1].constants[40070] == 103
    assert played(options()).keys() == {1, 2}
    assert played(options("--map", "huawei_sun2000", "--second-master", "30", "--refuse-write", "forced_command"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--map", "goodwe_et", "--chain", "1"), "exclude each other"),
        (("--map", "nothing"), "no such register map"),
        (("--image", "/nowhere.json"), "is not a capture"),
        (("--chain", "64204"), "model 64204 is not known"),
        (("--map", "kaco", "--second-master", "30"), "nothing of this can be written"),
        (("--map", "goodwe_et", "--refuse-write", "forced_command"), "one of ems_mode, ems_power_w, reserve_percent"),
        (("--chain", "1", "103", "--refuse-write", "forced_command"), "nothing of this can be written"),
        (("--units", "sunspec", "--second-master", "30"), "nothing of this can be written"),
    ],
)
def test_an_option_that_cannot_be_played_says_why(words, said):
    asked = options(*words)
    with pytest.raises(ValueError, match=said):
        commanded(asked, played(asked), lambda: 0)


@pytest.mark.parametrize("code", [2, 10, 11])
async def test_a_gx_without_solar_at_its_output_is_read_without_it(code):
    """Victron answers registers of services that are not there with exception 2, 10 or 11."""

    class Sparse(InverterServer):
        def answer(self, unit_id, pdu, rounds):
            first, count = int.from_bytes(pdu[1:3]), int.from_bytes(pdu[3:5])
            if first <= 810 and first + count > 808:
                return bytes((0x83, code))
            return super().answer(unit_id, pdu, rounds)

    now = House(seed=1).at(NOON_MS)
    values, _ = await first_sample(unit_of(library.find("victron_gx")), "victron_gx", now, server=Sparse)
    assert (values["pv_power_w"], values["battery_power_w"]) == (now.pv_w, now.battery_w)
