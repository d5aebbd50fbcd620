"""The driver on a simulated home: found, followed, read with patience, listened to, and never written unasked."""

import asyncio
import json
import random
import socket
from contextlib import asynccontextmanager
from dataclasses import replace
from decimal import Decimal

import pytest

from drivers import contract
from drivers.api import ConfigError, LinkError, RefusedError, Sample
from drivers.contract import DictMemory, Limits, Rig
from drivers.echonet_ip.driver import create
from drivers.echonet_ip.session import MOST_PROPERTIES
from drivers.quantities import QUANTITIES
from drivers.route_b import echonet
from drivers.route_b.echonet import Frame
from simulators.echonet import KINDS, Manners, Node, things, things_of_image
from simulators.house import WS_PER_KWH

BATTERY_NUMBER = "FEFFFFFE000053494D3030303142415454"


def judge(balance):
    """Say whether a sample is what the house has at its one moment."""
    energies = {
        "pv_energy_kwh": balance.pv_ws,
        "battery_charge_energy_kwh": balance.charge_ws,
        "battery_discharge_energy_kwh": balance.discharge_ws,
    }

    def wrong(sample):
        for name, found in sample.values.items():
            expected = {"pv_power_w": balance.pv_w, "battery_power_w": balance.battery_w}.get(name, found)
            if name in energies:
                expected = Decimal(energies[name] // 3_600) / 1000
            if found != expected:
                return f"{name} is {expected}"
        return None

    return wrong


def two(home):
    return {
        "pv": {"eoj": "027901", "address": home.address(11)},
        "battery": {"eoj": "027D01", "identification": BATTERY_NUMBER},
    }


async def test_pv_and_battery_of_two_hosts_are_read_with_our_signs(home, listener):
    await home.node(11, ["pv"])
    await home.node(12, ["battery"])
    async with listener(home.table(two(home))).running() as agent:
        await agent.until(lambda: agent.samples("pv") and agent.samples("battery"))
    balance = home.balance
    pv, battery = agent.samples("pv")[0].values, agent.samples("battery")[0].values
    assert pv["pv_power_w"] == balance.pv_w > 0
    assert pv["pv_energy_kwh"] == Decimal(balance.pv_ws // 3_600) / 1000
    assert battery["battery_power_w"] == balance.battery_w < 0  # it charges
    assert battery["battery_state"] == "charge"
    assert battery["battery_charge_energy_kwh"] == Decimal(balance.charge_ws // 3_600) / 1000
    assert battery["battery_discharge_energy_kwh"] == Decimal(balance.discharge_ws // 3_600) / 1000
    assert battery["battery_soc_percent"] == balance.soc_permille // 10
    assert agent.driver.describe()["battery"]["identification"] == f"{BATTERY_NUMBER}/027D01"


async def test_water_heater_air_conditioner_and_pcs_of_one_host_are_read(home, listener):
    await home.node(11, ["ecocute", "aircon", "pcs"])
    devices = {
        name: {"eoj": eoj, "address": home.address(11)}
        for name, eoj in (("bath", "026B01"), ("living", "013001"), ("pcs", "02A501"))
    }
    devices["pcs"]["replaces"] = "pv"
    async with listener(home.table(devices)).running() as agent:
        await agent.until(lambda: all(agent.samples(name) for name in devices))
    bath, living, pcs = (agent.samples(name)[0].values for name in devices)
    assert (bath["water_heater_state"], bath["tank_capacity_l"]) == ("not_heating", 370)
    assert 150 <= bath["tank_remaining_l"] <= 370
    assert (living["operation_status"], living["room_temperature_c"]) == ("on", 26)
    net_w = home.balance.pv_w + home.balance.battery_w
    assert pcs["ac_power_w"] == pcs["pv_power_w"] == net_w


async def test_vehicle_and_distribution_board_are_read_as_the_house_has_them(home, listener):
    node = await home.node(11, ["ev", "panel"])
    devices = {
        name: {"eoj": eoj, "address": home.address(11)} for name, eoj in (("car", "027E01"), ("board", "028701"))
    }
    async with listener(home.table(devices)).running() as agent:
        await agent.until(lambda: all(agent.samples(name) for name in devices))
    for name, thing in (
        ("car", node.node.things[bytes.fromhex("027E01")]),
        ("board", node.node.things[bytes.fromhex("028701")]),
    ):
        meant = thing.meaning(thing.readers, home.balance)
        assert meant.items() <= agent.samples(name)[0].values.items()
    assert agent.samples("car")[0].values["ev_soc_percent"] is None  # at nine it is away


def counted(*values):
    return bytes([1, len(values)]) + b"".join(value.to_bytes(4, "big") for value in values)


async def test_the_circuits_of_a_board_are_read_described_and_understood_when_announced(home, listener):
    node = await home.node(11, ["panel"])
    table = home.table({"board": {"eoj": "028701", "address": home.address(11)}}, poll_s=3600)
    async with listener(table).running() as agent:
        await agent.until(lambda: agent.samples("board"))
        home.balance = replace(home.balance, import_ws=home.balance.import_ws + 100 * WS_PER_KWH)
        node.announce_again({0xB3})
        await agent.until(lambda: len(agent.samples("board")) == 2)
        told = agent.driver.describe()["board"]["quantities"]
    first, announced = (sample.values for sample in agent.samples("board"))
    taken_w = [first[f"circuit{number}_consumption_power_w"] for number in range(1, 6)]
    assert sum(taken_w) == home.balance.load_w > 0
    both_ways_w = first["duplex1_power_w"] + first["duplex2_power_w"]
    assert first["grid_power_w"] + both_ways_w == sum(taken_w)
    more = [announced[name] - first[name] for name in sorted(announced)]
    assert more == [38, 27, 19, 11, 5]  # without the unit beside them, which was read before
    assert told.keys() == {name for name in first if name.startswith(("circuit", "duplex"))}
    assert told["circuit2_consumption_power_w"]["label_ja"] == "回路2 消費電力"


async def test_what_a_large_board_says_of_its_circuits_leaves_room_in_meta(home, listener):
    (board,) = things(["panel"])
    many = counted(*range(60))
    board.readers |= {0xB1: lambda _: b"\x3c", 0xB3: lambda _: many, 0xB5: lambda _: many, 0xB7: lambda _: many}
    await home.serve(11, Node([board.with_maps()]))
    async with listener(home.table({"board": {"eoj": "028701", "address": home.address(11)}})).running() as agent:
        await agent.until(lambda: agent.samples("board"))
    told = agent.driver.describe()["board"]["quantities"]
    assert len(agent.samples("board")[0].values) > 240
    assert told.keys() == {f"circuit{n}_consumption_{what}" for n in range(1, 61) for what in ("power_w", "energy_kwh")}
    assert len(json.dumps(told)) < 24 * 1024  # twice in 64 KiB: by device, and by quantity


async def test_a_battery_that_counts_on_its_ac_side_alone_has_its_energies(home, listener):
    (battery,) = things(["battery"])
    charged, discharged = battery.readers.pop(0xD8), battery.readers.pop(0xD6)
    battery.readers |= {0xA8: charged, 0xA9: discharged}
    await home.serve(12, Node([battery.with_maps()]))
    devices = {"battery": {"eoj": "027D01", "identification": BATTERY_NUMBER}}
    async with listener(home.table(devices)).running() as agent:
        await agent.until(lambda: agent.samples("battery"))
    assert judge(home.balance)(agent.samples("battery")[0]) is None
    assert {"battery_charge_energy_kwh", "battery_discharge_energy_kwh"} <= agent.samples("battery")[0].values.keys()


@pytest.mark.slow
async def test_it_keeps_the_contract(another_home):
    @asynccontextmanager
    async def healthy():
        async with another_home() as home:
            nodes = [await home.node(11, ["pv"]), await home.node(12, ["battery"])]
            yield Rig(
                home.table(two(home)),
                silence=lambda: mute(nodes),
                mend=lambda: unmute(nodes),
                judge=judge(home.balance),
            )

    @asynccontextmanager
    async def nobody_there():
        async with another_home() as home:
            nodes = [await home.node(11, ["pv"], Manners(mute=True))]
            table = home.table({"pv": {"eoj": "027901", "address": home.address(11)}})
            yield Rig(table, mend=lambda: unmute(nodes), judge=judge(home.balance))

    await contract.check(create, healthy, {"nobody there": nobody_there}, limits=Limits(silence_s=1.0))


def mute(nodes):
    for server in nodes:
        server.node.manners.mute = True


def unmute(nodes):
    for server in nodes:
        server.node.manners.mute = False


@pytest.mark.slow
async def test_a_device_is_found_again_at_another_address(home, listener):
    before = await home.node(12, ["battery"])
    devices = {"battery": {"eoj": "027D01", "identification": BATTERY_NUMBER}}
    async with listener(home.table(devices)).running() as agent:
        await agent.until(lambda: agent.samples("battery"))
        before.close()
        await agent.until(lambda: agent.events("device_lost"))
        agent.driver._nodes_at = float("-inf")  # as if the ten seconds between two searches were over
        await home.node(57, ["battery"])  # the router gave it another address; it announces itself
        await agent.until(lambda: agent.events("device_back"), within_s=20)
    moved = agent.events("device_moved")[0]
    assert moved.data == {"was": home.address(12), "now": home.address(57)}
    assert agent.memory.get("place:battery")["address"] == home.address(57)
    assert agent.samples("battery")[-1].at > agent.events("device_lost")[0].at


async def test_a_device_is_found_at_once_where_it_was_last(home, listener):
    await home.node(12, ["battery"])
    memory = DictMemory()
    devices = {"battery": {"eoj": "027D01", "identification": BATTERY_NUMBER}}
    memory.take({"place:battery": {"address": home.address(12), "identification": f"{BATTERY_NUMBER}/027D01"}})
    async with listener(home.table(devices, search_s=30), memory).running() as agent:
        await agent.until(lambda: agent.samples("battery"), within_s=5)
    assert agent.events("device_moved") == []


async def test_another_device_at_the_address_is_not_taken_for_the_one_allowed_and_said_once(home, listener, caplog):
    await home.node(12, ["battery"], seed=2)
    devices = {"battery": {"eoj": "027D01", "identification": BATTERY_NUMBER, "address": home.address(12)}}
    async with listener(home.table(devices)).running() as agent:
        await agent.until(lambda: agent.events("device_lost"))
    assert agent.samples("battery") == []
    assert sum("there is another device" in one.message for one in caplog.records if one.levelname == "WARNING") == 1


async def test_a_device_allowed_by_address_that_was_exchanged_is_said(home, listener):
    await home.node(12, ["battery"], seed=2)
    memory = DictMemory()
    memory.take({"place:battery": {"address": home.address(12), "identification": f"{BATTERY_NUMBER}/027D01"}})
    devices = {"battery": {"eoj": "027D01", "address": home.address(12)}}
    async with listener(home.table(devices), memory).running() as agent:
        await agent.until(lambda: agent.samples("battery"))
    assert agent.events("device_replaced")[0].data == {
        "was": f"{BATTERY_NUMBER}/027D01",
        "now": "FEFFFFFE000053494D3030303242415454/027D01",
    }


async def test_a_device_that_keeps_its_number_back_is_not_said_to_be_another(home, listener):
    await home.node(12, ["battery"], Manners(refused=frozenset({0x83})))
    memory = DictMemory()
    memory.take({"place:battery": {"address": home.address(12), "identification": f"{BATTERY_NUMBER}/027D01"}})
    devices = {"battery": {"eoj": "027D01", "address": home.address(12)}}
    async with listener(home.table(devices), memory).running() as agent:
        await agent.until(lambda: agent.samples("battery"))
    assert agent.events("device_replaced") == []


async def test_a_device_that_answers_fewer_properties_is_asked_fewer(home, listener):
    node = await home.node(12, ["battery"], Manners(most=3))
    devices = {"battery": {"eoj": "027D01", "address": home.address(12)}}
    async with listener(home.table(devices)).running() as agent:
        await agent.until(lambda: len(agent.samples("battery")) >= 3)
        status = agent.driver.status()["devices"]["battery"]
    assert {"battery_power_w", "battery_soc_percent", "battery_state", "device_fault"} <= set(
        agent.samples("battery")[0].values
    )
    assert agent.samples("battery")[0].values.keys() == agent.samples("battery")[2].values.keys()
    assert status["most"] == 3
    assert max(len(request.properties) for request in node.requests[-8:]) == 3
    assert agent.memory.get("learnt:battery")["most"] == 3


async def test_what_was_learnt_is_not_learnt_again_after_a_restart(home, listener):
    node = await home.node(12, ["battery"], Manners(most=3))
    memory = DictMemory()
    memory.take({"learnt:battery": {"most": 3, "timeout_s": 8.0, "refused": ["E4"]}})
    devices = {"battery": {"eoj": "027D01", "address": home.address(12)}}
    async with listener(home.table(devices), memory).running() as agent:
        await agent.until(lambda: agent.samples("battery"))
    assert max(len(request.properties) for request in node.requests) == 3
    assert "battery_soc_percent" not in agent.samples("battery")[0].values  # left out once, then asked again


@pytest.mark.parametrize("stored", [None, 3, {"most": 0}, {"most": 99, "timeout_s": "x", "refused": [1, "ZZ", None]}])
async def test_a_memory_without_sense_is_a_beginning(home, listener, stored):
    await home.node(12, ["battery"])
    memory = DictMemory()
    memory.take({"learnt:battery": stored, "place:battery": stored, "lost": stored})
    devices = {"battery": {"eoj": "027D01", "identification": BATTERY_NUMBER}}
    async with listener(home.table(devices), memory).running() as agent:
        await agent.until(lambda: agent.samples("battery"))
        assert agent.driver.status()["devices"]["battery"]["most"] == MOST_PROPERTIES


async def test_a_refused_property_is_asked_alone_and_then_ever_more_seldom(home, listener):
    node = await home.node(12, ["battery"], Manners(refused=frozenset({0xE4})))
    devices = {"battery": {"eoj": "027D01", "address": home.address(12)}}
    async with listener(home.table(devices)).running() as agent:
        await agent.until(lambda: len(agent.samples("battery")) >= 8)
    asked = [request for request in node.requests if any(code == 0xE4 for code, _ in request.properties)]
    assert len(asked) <= 8  # together and alone, in polls 1, 3, 6, …
    assert all("battery_soc_percent" not in sample.values for sample in agent.samples("battery"))
    assert agent.samples("battery")[0].values["battery_power_w"] == home.balance.battery_w
    assert agent.driver.status()["devices"]["battery"]["most"] == MOST_PROPERTIES


@pytest.mark.slow
async def test_a_slow_device_is_waited_for_and_its_neighbours_are_not_held_up(home, listener):
    await home.node(11, ["pv"])
    await home.node(12, ["battery"], Manners(delay_s=0.5))
    devices = {**two(home), "battery": {"eoj": "027D01", "address": home.address(12)}}
    async with listener(home.table(devices, timeout_s=0.3)).running() as agent:
        await agent.until(lambda: agent.samples("battery"), within_s=25)
        learnt = agent.driver.status()["devices"]["battery"]
    assert learnt["timeout_s"] >= 0.5
    assert len(agent.samples("pv")) > 3 * len(agent.samples("battery"))


async def test_instance_numbers_other_than_one_are_devices_like_any(home, listener):
    await home.node(12, ["battery"], instance=0x1F)
    devices = {"battery": {"eoj": "027D1F", "identification": BATTERY_NUMBER}}
    async with listener(home.table(devices)).running() as agent:
        await agent.until(lambda: agent.samples("battery"))


async def test_what_a_device_announces_arrives_between_two_polls(home, listener):
    node = await home.node(11, ["aircon"])
    devices = {"living": {"eoj": "013001", "address": home.address(11)}}
    async with listener(home.table(devices, poll_s=3600)).running() as agent:
        await agent.until(lambda: agent.samples("living"))
        node.announce_changes()
        node.node.things[bytes.fromhex("013001")].setters[0x80](b"\x31")  # somebody uses the remote control
        node.announce_changes()
        await agent.until(lambda: len(agent.samples("living")) == 2)
    assert agent.samples("living")[1].values == {"operation_status": "off"}


async def test_an_infc_is_answered_to_allowed_devices_alone(home, listener):
    await home.node(11, ["aircon"])
    devices = {"living": {"eoj": "013001", "address": home.address(11)}}
    async with listener(home.table(devices, poll_s=3600)).running() as agent:
        await agent.until(lambda: agent.samples("living"))
        answers = [await infc(home, last) for last in (11, 66)]
        await agent.becomes(lambda: agent.driver.status()["strangers"] == 1)
    assert answers[0].esv == echonet.INFC_RES
    assert (answers[0].tid, answers[0].properties) == (0x029F, {0x80: b""})
    assert answers[1] is None
    assert len(agent.samples("living")) == 2


async def infc(home, last):
    """Send an INFC from an address and return its answer; None when there is none."""
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.setblocking(False)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.bind((home.address(last), home.port))  # beside the simulated node, and later than it: this one gets the answer
    loop = asyncio.get_running_loop()
    frame = Frame(0x029F, bytes.fromhex("013001"), echonet.CONTROLLER, echonet.INFC, {0x80: b"\x30"})
    with made:
        made.sendto(echonet.encode(frame), (home.box, home.port))
        try:
            async with asyncio.timeout(1.0):
                while (answer := echonet.decode(await loop.sock_recv(made, 2000))).esv == echonet.GET:
                    pass  # a poll that fell into this second
                return answer
        except TimeoutError:
            return None


async def test_strangers_leave_a_counter_and_no_item(home, listener):
    await home.node(11, ["pv"])
    stranger = await home.node(13, ["aircon"])
    devices = {"pv": {"eoj": "027901", "address": home.address(11)}}
    async with listener(home.table(devices, poll_s=3600)).running() as agent:
        await agent.until(lambda: agent.samples("pv"))
        for status in (b"\x31", b"\x30", b"\x31"):
            stranger.announce_changes()
            stranger.node.things[bytes.fromhex("013001")].setters[0x80](status)
        stranger.announce_changes()
        await agent.becomes(lambda: agent.driver.status()["strangers"] == 3)
    assert {item.device for item in agent.items} == {"pv"}


async def test_nothing_is_ever_set_unless_the_configuration_names_it(home, listener):
    node = await home.node(11, ["aircon"])
    devices = {"living": {"eoj": "013001", "address": home.address(11)}}
    async with listener(home.table(devices)).running() as agent:
        await agent.until(lambda: len(agent.samples("living")) >= 3)
        with pytest.raises(RefusedError, match="`sets`"):
            await agent.driver.command("set", {"device": "living", "quantity": "operation_status", "value": "off"})
        with pytest.raises(RefusedError, match="no command"):
            await agent.driver.command("reboot", {})
    assert {request.service for request in node.requests} == {0x62}


async def test_a_named_set_is_carried_out_and_checked(home, listener):
    await home.node(11, ["aircon"])
    devices = {"living": {"eoj": "013001", "address": home.address(11), "sets": ["target_temperature_c"]}}
    async with listener(home.table(devices)).running() as agent:
        await agent.until(lambda: agent.samples("living"))
        wanted = {"device": "living", "quantity": "target_temperature_c"}
        assert await agent.driver.command("set", {**wanted, "value": 20}) == {
            "device": "living",
            "target_temperature_c": 20,
        }
        await agent.until(lambda: agent.samples("living")[-1].values["target_temperature_c"] == 20)
        with pytest.raises(RefusedError, match="refuses B3 = 32"):
            await agent.driver.command("set", {**wanted, "value": 50})
        with pytest.raises(RefusedError, match="whole number"):
            await agent.driver.command("set", {**wanted, "value": "warm"})


async def test_what_the_device_does_not_list_as_settable_is_not_sent_to_it(home, listener):
    node = await home.node(12, ["battery"])
    node.node.things[bytes.fromhex("027D01")].readers[0x9E] = lambda _: b"\x00"
    devices = {"battery": {"eoj": "027D01", "address": home.address(12), "sets": ["battery_mode"]}}
    async with listener(home.table(devices)).running() as agent:
        await agent.until(lambda: agent.samples("battery"))
        with pytest.raises(RefusedError, match="does not list DA"):
            await agent.driver.command("set", {"device": "battery", "quantity": "battery_mode", "value": "charge"})
    assert {request.service for request in node.requests} == {0x62}


async def test_a_search_shows_what_is_there(home, listener):
    await home.node(11, ["pv", "battery"])
    async with listener(home.table({"pv": {"eoj": "027901", "address": home.address(11)}})).running() as agent:
        await agent.until(lambda: agent.samples("pv"))
        assert await agent.driver.command("search", {}) == [
            {"address": home.address(11), "objects": ["027901", "027D01"]}
        ]


async def test_a_quirk_of_the_maker_is_understood(home, listener):
    pcs = things(["pcs"])[0]
    image = {f"{code:02X}": reader(home.balance).hex() for code, reader in pcs.readers.items()}
    image |= {"8A": "00006C", "F5": "000002BC00000000" + "FF" * 8}
    image["9F"] = echonet.encode_property_map(int(code, 16) for code in image).hex()
    await home.serve(11, Node(things_of_image(json.dumps({"objects": {"02A501": image}}))))
    async with listener(home.table({"pcs": {"eoj": "02A501", "address": home.address(11)}})).running() as agent:
        await agent.until(lambda: agent.samples("pcs"))
    assert agent.samples("pcs")[0].values["load_power_w"] == 700


async def test_a_device_without_number_and_serial_is_named_by_its_node(home, listener):
    (nameless,) = things(["battery"], identified=False)
    del nameless.readers[0x8D]
    await home.serve(12, Node([nameless.with_maps()]))
    number = "FEFFFFFE0000000000000000004E4F4445"
    devices = {"battery": {"eoj": "027D01", "identification": number}}
    async with listener(home.table(devices)).running() as agent:
        await agent.until(lambda: agent.samples("battery"))
    assert agent.driver.describe()["battery"]["identification"] == f"{number}/027D01"


async def test_a_property_map_without_sense_does_not_hide_the_device(home, listener):
    node = await home.node(12, ["battery"])
    for code in (0x9E, 0x9F):
        node.node.things[bytes.fromhex("027D01")].readers[code] = lambda _: b"\x20\x01"
    devices = {"battery": {"eoj": "027D01", "identification": BATTERY_NUMBER}}
    async with listener(home.table(devices)).running() as agent:
        await agent.until(lambda: agent.samples("battery"))
    assert agent.samples("battery")[0].values["battery_power_w"] == home.balance.battery_w


async def test_a_device_that_says_anything_gives_values_or_nothing(home, listener):
    draw = random.Random(20261121)
    node = await home.node(11, list(KINDS))
    for thing in node.node.things.values():
        for code in thing.readers:
            thing.readers[code] = lambda _: draw.randbytes(draw.randrange(60))
    names = {"pv": "027901", "battery": "027D01", "pcs": "02A501", "bath": "026B01", "living": "013001"}
    devices = {name: {"eoj": eoj, "address": home.address(11)} for name, eoj in names.items()}
    async with listener(home.table(devices, poll_s=0.05)).running() as agent:
        await agent.until(lambda: len(agent.items) > 150, within_s=20)
        known = dict(agent.memory.content)
    for item in agent.items:
        assert not isinstance(item, Sample) or (item.values and set(item.values) <= set(QUANTITIES))
    assert len(json.dumps(known)) < 5_000


@pytest.mark.slow
async def test_a_bad_radio_costs_readings_and_nothing_else(home, listener):
    await home.node(12, ["battery"], Manners(loss=0.17))
    devices = {"battery": {"eoj": "027D01", "address": home.address(12)}}
    async with listener(home.table(devices, timeout_s=0.1)).running() as agent:
        await agent.until(lambda: len(agent.samples("battery")) >= 20, within_s=30)
    assert agent.driver.status()["silent"] > 3
    for sample in agent.samples("battery"):
        assert sample.values.get("battery_power_w") == home.balance.battery_w
    assert len({sample.at for sample in agent.samples("battery")}) == len(agent.samples("battery"))


async def test_a_lost_port_leaves_run_as_a_link_error(home, listener):
    await home.node(11, ["pv"])
    agent = listener(home.table({"pv": {"eoj": "027901", "address": home.address(11)}}))
    task = asyncio.ensure_future(agent.driver.run(agent.emit, agent.memory))
    await agent.until(lambda: agent.samples("pv"))
    agent.driver._link._connection_lost(OSError("network is down"))
    with pytest.raises(LinkError, match="network is down"):
        await task
    assert not agent.driver.status()["open"]


@pytest.mark.parametrize(
    ("devices", "more", "key"),
    [
        ({}, {}, "devices"),
        ({"pv": {"eoj": "0279"}}, {}, "devices.pv.eoj"),
        ({"pv": {"eoj": "027900", "address": "192.0.2.1"}}, {}, "devices.pv.eoj"),
        ({"pv": {"eoj": "028801", "address": "192.0.2.1"}}, {}, "devices.pv.eoj"),
        ({"pv": {"eoj": "027901"}}, {}, "devices.pv"),
        ({"pv": {"eoj": "027901", "address": "pv.local"}}, {}, "devices.pv.address"),
        ({"pv": {"eoj": "027901", "address": "192.0.2.1", "sets": ["pv_power_w"]}}, {}, "devices.pv.sets"),
        ({"pv": {"eoj": "027901", "address": "192.0.2.1", "replaces": "pv"}}, {}, "devices.pv.replaces"),
        ({"pv": {"eoj": "027901", "identification": ""}}, {}, "devices.pv.identification"),
        ({"pv": {"eoj": "027901", "address": "192.0.2.1", "identification": " "}}, {}, "devices.pv.identification"),
        ({"pv": {"eoj": "027901", "address": "192.0.2.1"}}, {"address": "eth0"}, "address"),
        ({"pv": {"eoj": "027901", "address": "192.0.2.1"}}, {"poll_s": 0}, "poll_s"),
    ],
)
def test_a_wrong_table_says_which_key(listener, devices, more, key):
    with pytest.raises(ConfigError) as caught:
        listener({"devices": devices, **more})
    assert caught.value.key == key
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("roof", "key"),
    [
        ({"eoj": "027901", "address": "192.0.2.1"}, "address"),
        ({"eoj": " 027901", "address": "192.0.2.1", "identification": "FE0002"}, "address"),
        ({"eoj": "027901", "identification": "fe 00 01 / 027901"}, "identification"),
    ],
)
def test_one_device_under_two_names_is_refused_with_both(listener, roof, key):
    pv = {"eoj": "027901", "address": "192.0.2.1", "identification": "FE0001"}
    with pytest.raises(ConfigError, match="the same object as of pv") as caught:
        listener({"devices": {"pv": pv, "roof": roof}})
    assert caught.value.key == f"devices.roof.{key}"


def test_two_objects_of_one_host_are_two_devices(listener):
    one, other = ({"eoj": eoj, "address": "192.0.2.1", "identification": "FE0001"} for eoj in ("027901", "027902"))
    assert listener({"devices": {"one": one, "other": other}}).driver.devices == ("one", "other")
