"""The simulated home devices as nodes of the specification: what they answer, refuse, announce, and log."""

import itertools
import json
import re
from decimal import Decimal

import pytest

from simulators import __main__ as command
from simulators.echonet_devices import KINDS, MAKER, ev_percent, tank_l, things, things_of_image
from simulators.echonet_node import Manners, Node
from simulators.house import House
from simulators.metering import CONTROLLER, NODE, Frame

START_MS = 1_780_239_600_000  # 2026-06-01 00:00 in Japan
PV, AIRCON = bytes.fromhex("027901"), bytes.fromhex("013001")


@pytest.fixture
def balance():
    return House(1, START_MS).at(START_MS + 9 * 3_600_000)


def ask(node, balance, service, properties, eoj=PV):
    answers = node.answers(Frame(b"\x00\x07", CONTROLLER, eoj, service, tuple(properties)), balance)
    return [frame for _, frame in answers]


def test_a_get_is_answered_in_the_order_asked_with_objects_swapped(balance):
    (frame,) = ask(Node(things(["pv"])), balance, 0x62, [(0xE8, b""), (0xE0, b"")])
    assert (frame.tid, frame.source, frame.destination, frame.service) == (b"\x00\x07", PV, CONTROLLER, 0x72)
    assert frame.properties == ((0xE8, b"\x15\x7c"), (0xE0, balance.pv_w.to_bytes(2, "big")))


def test_what_it_does_not_have_comes_empty_and_makes_the_answer_a_refusal(balance):
    (frame,) = ask(Node(things(["pv"])), balance, 0x62, [(0xE9, b""), (0x80, b"")])
    assert (frame.service, frame.properties) == (0x52, ((0xE9, b""), (0x80, b"\x30")))


def test_an_object_it_does_not_have_is_not_answered(balance):
    assert ask(Node(things(["pv"])), balance, 0x62, [(0x80, b"")], AIRCON) == []


def test_instance_zero_means_every_instance(balance):
    frames = ask(Node(things(["aircon"], instance=1) + things(["aircon"], instance=2)), balance, 0x62, [(0x80, b"")],
                 bytes.fromhex("013000"))  # fmt: skip
    assert [frame.source.hex() for frame in frames] == ["013001", "013002"]


def test_a_set_is_checked_and_a_seti_that_succeeds_has_no_answer(balance):
    node = Node(things(["aircon"]))
    (done,) = ask(node, balance, 0x61, [(0xB3, b"\x14")], AIRCON)
    assert (done.service, done.properties) == (0x71, ((0xB3, b""),))
    assert ask(node, balance, 0x60, [(0xB3, b"\x15")], AIRCON) == []
    (refused,) = ask(node, balance, 0x61, [(0xB3, b"\x63"), (0xE0, b"\x01")], AIRCON)
    assert (refused.service, refused.properties) == (0x51, ((0xB3, b"\x63"), (0xE0, b"\x01")))
    (frame,) = ask(node, balance, 0x62, [(0xB3, b"")], AIRCON)
    assert frame.properties == ((0xB3, b"\x15"),)


def test_what_changed_is_announced_once(balance):
    node = Node(things(["aircon"]))
    assert node.changes(balance) == []
    node.things[AIRCON].setters[0x80](b"\x31")
    ((thing, frame),) = node.changes(balance)
    assert (thing.name, frame.service, frame.properties) == ("aircon", 0x73, ((0x80, b"\x31"),))
    assert node.changes(balance) == []


def test_a_curt_node_leaves_properties_out_without_a_word(balance):
    (frame,) = ask(Node(things(["pv"]), Manners(most=1)), balance, 0x62, [(0xE0, b""), (0xE1, b"")])
    assert (frame.service, [code for code, _ in frame.properties]) == (0x72, [0xE0])


def test_the_node_lists_its_objects(balance):
    node = Node(things(["pv", "battery"]))
    (frame,) = ask(node, balance, 0x62, [(0xD6, b""), (0x8A, b"")], NODE)
    assert frame.properties == ((0xD6, bytes.fromhex("02027901027D01")), (0x8A, MAKER))
    assert node.instance_list().properties == ((0xD5, bytes.fromhex("02027901027D01")),)


def test_every_readable_property_is_in_the_map_and_answered(balance):
    for thing in things(KINDS):
        for code, reader in thing.readers.items():
            assert reader(balance), f"{thing.name} {code:02X}"


def test_the_tank_is_full_at_five_and_lowest_at_two():
    house = House(1, START_MS)
    litres = [tank_l(house.at(START_MS + minute * 60_000)) for minute in range(0, 24 * 60, 5)]
    assert max(litres) == litres[5 * 12] == 370
    assert min(litres) == litres[2 * 12] == 150
    assert all(abs(after - before) < 10 for before, after in itertools.pairwise(litres))


def test_a_vehicle_is_charged_by_night_and_away_by_day():
    house, (car,) = House(1, START_MS), things(["ev"])
    said = {}
    for hour in range(24):
        balance = house.at(START_MS + hour * 3_600_000)
        said[hour] = car.meaning((0xC7, 0xD3, 0xD8, 0xE4), balance)
        assert ev_percent(balance) in range(60, 81)
    assert (said[0]["ev_soc_percent"], said[3]["ev_soc_percent"], said[6]["ev_soc_percent"]) == (60, 70, 80)
    assert (said[3]["ev_power_w"], said[6]["ev_power_w"]) == (-2000, 0)
    assert said[6]["ev_charge_energy_kwh"] - said[0]["ev_charge_energy_kwh"] == 8
    assert (said[12]["ev_connection"], said[12]["ev_soc_percent"]) == ("none", None)


def test_the_circuits_of_a_panel_share_the_load_to_the_watt_and_their_counters_never_fall():
    house, (board,) = House(1, START_MS), things(["panel"])
    before = house.at(START_MS)
    for minute in range(1, 24 * 60, 7):
        now = house.at(START_MS + minute * 60_000)
        said = board.meaning((0xB7, 0xBE), now)
        both_ways_w = said["duplex1_power_w"] + said["duplex2_power_w"]
        taken_w = sum(value for name, value in said.items() if name.startswith("circuit"))
        assert taken_w == now.load_w == now.grid_w + both_ways_w
        earlier, later = (board.meaning((0xB3, 0xBA), balance) for balance in (before, now))
        assert all(earlier[name] <= later[name] for name in earlier)
        before = now


@pytest.mark.parametrize(("begin_hour", "battery"), [(9, "charges"), (18, "discharges")])
def test_the_circuits_of_a_panel_count_the_houses_load(begin_hour, battery):
    house, (board,) = House(1, START_MS), things(["panel"])
    begin_ms = START_MS + begin_hour * 3_600_000
    hour = [house.at(begin_ms + second * 1000) for second in range(3601)]
    assert (hour[-1].battery_wh > hour[0].battery_wh) is (battery == "charges")
    first, last = (board.meaning((0xB3,), balance) for balance in (hour[0], hour[-1]))
    taken_kwh = sum(last.values()) - sum(first.values())
    assert abs(taken_kwh - Decimal(sum(balance.load_w for balance in hour[:-1])) / 3_600_000) <= Decimal("0.010")


def test_two_processes_agree_on_the_home():
    one, two = (House(3, START_MS).at(START_MS + 40_000_000) for _ in range(2))
    for left, right in zip(things(["battery", "pcs"], seed=3), things(["battery", "pcs"], seed=3), strict=True):
        assert {c: r(one) for c, r in left.readers.items()} == {c: r(two) for c, r in right.readers.items()}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[]", "no image of a node: it has no table `objects`"),
        ('{"v": 1}', "no image of a node: it has no table `objects`"),
        ('{"objects": 3}', "no image of a node: it has no table `objects`"),
        ("{", "no image of a node: Expecting property name"),
        ("[" * 100_000, "no image of a node: maximum recursion"),
        (json.dumps({"objects": {f"0279{n:02X}": {} for n in range(1, 86)}}), "no image of a node: .*84 at most"),
        ('{"objects": {"027D01": {"9F": null}}}', "objects.027D01.9F = None: no bytes; pairs"),
        ('{"objects": {"027D01": {"9F": 12}}}', "objects.027D01.9F = 12: no bytes; pairs"),
        ('{"objects": {"027D01": {"9F": "123"}}}', "objects.027D01.9F = '123': no bytes; pairs"),
        (json.dumps({"objects": {"027D01": {"9F": "00" * 256}}}), "objects.027D01.9F = '000.*: no bytes; pairs"),
        ('{"objects": {"027D01": {"Z1": "00"}}}', "objects.027D01.Z1: no property; two hexadecimal digits"),
        ('{"objects": {"027D01": {"7F": "00"}}}', "objects.027D01.7F: no property; two hexadecimal digits"),
        ('{"objects": {"027D01": ["00"]}}', "objects.027D01: no table of properties"),
        ('{"objects": {"battery": {}}}', "objects.battery: no object; six hexadecimal digits"),
        ('{"objects": {"027D": {}}}', "objects.027D: no object; six hexadecimal digits"),
    ],
)
def test_a_file_that_is_no_image_is_refused_with_file_and_key(content, said, tmp_path, capsys):
    path = tmp_path / "node.json"
    path.write_text(content)
    assert command.main(["echonet", "--image", str(path)]) == 1
    assert re.search(rf"edge-sim echonet: .*node\.json: {said}", capsys.readouterr().err)


def test_an_image_that_is_no_text_is_named(tmp_path, capsys):
    (tmp_path / "node.json").write_bytes(b"\xff\xfe")
    assert command.main(["echonet", "--image", str(tmp_path / "node.json")]) == 1
    assert "node.json: no image of a node: 'utf-8'" in capsys.readouterr().err


def test_an_image_is_played_as_it_is(balance):
    node = Node(things_of_image(json.dumps({"objects": {"027901": {"E0": "0123", "9F": "00"}}})))
    (frame,) = ask(node, balance, 0x62, [(0xE0, b"")])
    assert frame.properties == ((0xE0, b"\x01\x23"),)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{at_s: 1, do: silent, device: fridge}", "device = 'fridge': no such device here; one of 013001, .*battery"),
        ("{at_s: 1, do: move, to: 127.0.0.40}", "device: missing; say which node moves"),
        ("{at_s: 1, do: move, device: pv, to: 300.1.1.1}", "to = '300.1.1.1': no IPv4 address"),
        ("{at_s: 1, do: move, device: pv, to: 192.0.2.7}", "to = '192.0.2.7': not an address of this computer"),
        ("{at_s: 1, do: slow, seconds: [9, 3]}", "seconds = .*rising"),
        ("{at_s: 1, do: curt}", "most: missing"),
        ("{at_s: .inf, do: restart}", "at_s = inf: "),
        ("{at_s: 1, do: silent, for_s: .inf}", "for_s = inf: "),
        ("{at_s: 1, do: slow, seconds: [3, .inf]}", "seconds = .*rising"),
        ("{at_s: 1, do: unplug}", "do = 'unplug': .*one of silent, slow"),
    ],
)
def test_a_scenario_that_makes_no_sense_here_is_refused_before_a_port_is_opened(text, said, tmp_path, capsys):
    path = tmp_path / "home.yaml"
    path.write_text(f"- {{at_s: 1, do: restart}}\n- {text}\n")
    assert command.main(["echonet", "--apart", "--scenario", str(path)]) == 1
    assert re.search(rf"home\.yaml: step 2: {said}", capsys.readouterr().err)


def test_an_exchanged_device_has_another_name_and_the_same_counters(balance):
    node = Node(things(["pv"]))
    (before,) = ask(node, balance, 0x62, [(0x83, b""), (0x8D, b""), (0xE1, b"")])
    node.exchange("NEXT")
    (after,) = ask(node, balance, 0x62, [(0x83, b""), (0x8D, b""), (0xE1, b"")])
    assert after.properties[1] == (0x8D, b"NEXT".ljust(12, b"\x00"))
    assert before.properties[0] != after.properties[0]
    assert before.properties[2] == after.properties[2]


def test_unchanged_properties_are_announced_again_by_the_devices_that_have_them(balance):
    frames = [frame for _, frame in Node(things(["pv", "battery"])).again({0x80, 0xCF}, balance)]
    assert [(frame.source.hex(), [code for code, _ in frame.properties]) for frame in frames] == [
        ("027901", [0x80]),
        ("027d01", [0x80, 0xCF]),
    ]
