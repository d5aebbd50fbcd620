"""SunSpec: bases, the chain of models with the device's own lengths, scale factors, bad chains."""

import json
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drivers.api import MalformedError
from drivers.modbus.planner import MovedError, plan
from drivers.modbus.sunspec import MAX_MODELS, Model, NotSunSpecError, discover

DATA = Path(__file__).parents[3] / "data" / "modbus"
SHARED = Path(__file__).parents[5] / "shared" / "golden" / "modbus"


def image(name, folder=DATA):
    """Registers of a captured device; a night lies over its day."""
    path = folder / f"{name}.json"
    if not path.exists():
        pytest.skip(f"{path} is not here")
    captured = json.loads(path.read_text())
    words = image(captured["overlay_on"], folder)[0] if "overlay_on" in captured else {}
    for first, text in captured["blocks"]:
        words |= {first + n: int(text[4 * n : 4 * n + 4], 16) for n in range(len(text) // 4)}
    return words, captured["expect"]


def answer(words, request):
    asked = range(request.address, request.address + request.count)
    return b"".join(words[at].to_bytes(2) for at in asked) if all(at in words for at in asked) else None


def walk(words):
    asking, asked = discover(), []
    request = next(asking)
    try:
        while True:
            asked.append(request)
            assert len(asked) < 1000
            request = asking.send(answer(words, request))
    except StopIteration as end:
        return end.value


def read(words, register_map):
    values = {}
    for block in plan(register_map.points, register_map.limits):
        values |= block.decode(answer(words, block.request))
    return values


def chain(*models, base=40000, end=True):
    """Registers of a chain of (id, words after the header)."""
    words = [0x5375, 0x6E53]
    for model, body in models:
        words += [model, len(body), *body]
    words += [0xFFFF, 0] * end
    return {base + n: word for n, word in enumerate(words)}


def inverter(**at):
    body = [0xFFFF] * 50
    for signed in (29, 31, 32, 33, 34):  # DCW and the temperatures
        body[signed] = 0x8000
    for name, word in {"W": 1000, "W_SF": 0, "WH_SF": 0, "V_SF": 0, "Hz_SF": 0, "Tmp_SF": 0, "St": 4, **at}.items():
        place = {"W": 14, "W_SF": 15, "V_SF": 13, "Hz_SF": 17, "WH_SF": 26, "Tmp_SF": 37, "St": 38}
        body[place[name] - 2] = word
    return 103, body


def test_a_captured_kaco_is_walked_over_unknown_and_long_models():
    words, expect = image("kaco_day")
    found = walk(words)
    ids = [model.id for model in found.models]
    assert ids == [1, 103, 113, 120, 121, 122, 123, 126, 129, 130, 132, 135, 136, 160, 64204]
    assert found.identity["maker"] == "KACO new energy"
    assert found.identity["serial"].startswith("8.6TL0")
    values = read(words, found.register_map())
    assert len(values) > 25
    told = {
        "ac_power_w": expect["103.W"],
        "pv_power_w": expect["103.W"],
        "pv_energy_kwh": Decimal(expect["103.WH"]) / 1000,
        "ac_voltage_v": Decimal(str(expect["103.PhVphA"])),
        "ac_frequency_hz": Decimal(str(expect["103.Hz"])),
        "inverter_temperature_c": Decimal(str(expect["103.TmpCab"])),
        "inverter_state": "running",
        "pv1_power_w": expect["160.module[0].DCW"],
        "pv2_voltage_v": Decimal(str(expect["160.module[1].DCV"])),
    }
    assert {name: values[name] for name in told} == told


def test_a_captured_kaco_asleep_says_so():
    words, expect = image("kaco_night")
    values = read(words, walk(words).register_map())
    assert values["inverter_state"] == "sleeping"
    finished = walk(words).register_map().derived.finish(values)
    assert (finished["ac_voltage_v"], finished["ac_frequency_hz"], finished["pv_power_w"]) == (None, None, 0)
    assert values["pv_power_w"] == expect["103.W"] == 0
    assert values["pv_energy_kwh"] == Decimal(expect["103.WH"]) / 1000


@pytest.mark.parametrize("name", ["ha_se10000h", "se17k", "se_issue768_u125", "se_issue755_u1"])
def test_captured_solaredges_read_as_their_publishers_say(name):
    words, expect = image(name, SHARED)
    model = next(int(key[3:6]) for key in expect if key.startswith("inv10"))
    headers = {40000: 0x5375, 40001: 0x6E53, 40002: 1, 40003: 65, 40069: model, 40070: 50, 40121: 0xFFFF, 40122: 0}
    words = dict.fromkeys(range(40000, 40200), 0xFFFF) | headers | words
    found = walk(words)
    assert found.models[:2] == (Model(1, 40002, 65), Model(model, 40069, 50))
    values = read(words, found.register_map())
    told = {"pv_power_w": "W", "ac_frequency_hz": "Hz", "ac_voltage_v": "PhVphA"}
    for quantity, key in told.items():
        assert float(values[quantity]) == pytest.approx(expect[f"inv{model}.{key}"])
    if f"inv{model}.WH" in expect:
        assert values["pv_energy_kwh"] * 1000 == expect[f"inv{model}.WH"]


@pytest.mark.parametrize("base", [40000, 0, 50000])
def test_each_base_is_tried(base):
    assert [m.id for m in walk(chain(inverter(), base=base)).models] == [103]


def test_the_devices_own_length_is_followed():
    words = chain((1, [0x4141] * 65), inverter())
    assert [(m.id, m.address) for m in walk(words).models] == [(1, 40002), (103, 40069)]


def test_a_missing_end_model_is_the_end():
    assert [m.id for m in walk(chain(inverter(), end=False)).models] == [103]


def test_a_scale_factor_is_taken_from_the_same_answer_every_time():
    words = chain(inverter(W=1234))
    register_map = walk(words).register_map()
    scale = next(p.scale_address for p in register_map.points if p.quantity == "pv_power_w")
    for factor, watts in ((0, 1234), (0xFFFF, Decimal("123.4")), (0xFFFE, Decimal("12.34")), (1, 12340)):
        assert read(words | {scale: factor}, register_map)["pv_power_w"] == watts
    for factor in (0x8000, 11, 0xFFF5):
        assert read(words | {scale: factor}, register_map)["pv_power_w"] is None


def test_not_implemented_is_none():
    words = chain(inverter(W=0x8000, St=0xFFFF))
    values = read(words, walk(words).register_map())
    assert set(values.values()) == {None}


def test_a_negative_power_stays_negative():
    words = chain(inverter(W=0xFFF6))
    assert read(words, walk(words).register_map())["pv_power_w"] == -10


def test_a_model_that_changed_its_length_is_noticed():
    words = chain(inverter())
    register_map = walk(words).register_map()
    with pytest.raises(MovedError):
        read(words | {40003: 60}, register_map)


def test_a_device_without_the_marker_is_no_sunspec_device():
    with pytest.raises(NotSunSpecError):
        walk({})
    with pytest.raises(NotSunSpecError):
        walk({40000: 0x5375, 40001: 0x6E54})


def test_a_chain_without_end_is_refused():
    with pytest.raises(MalformedError, match="does not end"):
        walk(chain(*[(64000, [0])] * (MAX_MODELS + 1)))


def test_a_model_of_no_length_or_beyond_the_last_register_is_refused():
    with pytest.raises(MalformedError, match="claims"):
        walk(chain((103, [])))
    with pytest.raises(MalformedError, match="claims"):
        walk(chain(inverter()) | {40003: 0xFFF0})


def test_a_chain_of_strangers_has_no_points():
    with pytest.raises(MalformedError, match="64204"):
        walk(chain((64204, [0] * 8))).register_map()


@settings(max_examples=50, deadline=None)
@given(st.lists(st.binary(max_size=300) | st.none(), max_size=100))
def test_any_answers_give_a_chain_or_malformed_within_a_bounded_number_of_reads(answers):
    asking, waiting = discover(), iter([b"SunS", *answers])
    next(asking)
    for _ in range(MAX_MODELS + 10):
        try:
            asking.send(next(waiting, b"\x00\x67\x00\x02"))
        except (StopIteration, MalformedError):
            return
    pytest.fail("the walk goes on")
