"""The table of SunSpec models: as the official files have it, and decoded as another library decodes it."""

import json
import struct
import subprocess
import sys
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drivers.api import MalformedError
from drivers.modbus.planner import Request, plan
from drivers.modbus.registers import decode
from drivers.modbus.sunspec import discover
from drivers.modbus.sunspec_models import MODELS
from drivers.modbus.sunspec_points import LIMITS, Model, encoding_of, port_types, table
from drivers.quantities import QUANTITIES

ROOT = Path(__file__).parents[4]
KNOWN = sorted(number for ids in MODELS for number in ids)


@pytest.mark.parametrize("number", KNOWN)
def test_a_model_lies_as_the_official_file_says(number):
    from sunspec2 import device

    group = device.get_model_def(number)["group"]
    at, rows = 0, table(number)
    for point in group["points"]:
        row = rows.points[point["name"]]
        assert (row.at, row.type, row.words) == (at, point["type"], point["size"])
        assert row.scale == (None if point.get("sf") is None else str(point["sf"]))
        assert row.at + row.words <= 230
        at += point["size"]
    for point in (part for g in group.get("groups", []) if g.get("count", 1) != 1 for part in g["points"]):
        assert rows.group[point["name"]].type == point["type"]


def test_the_generator_writes_the_table_that_is_here(tmp_path):
    script = (ROOT / "packaging/sunspec_table.py").read_text()
    target = tmp_path / "again.py"
    changed = script.replace('TARGET = Path(__file__).resolve().parents[1] / "drivers/modbus/sunspec_models.py"',
                             f"TARGET = Path({str(target)!r})")  # fmt: skip
    assert changed != script
    subprocess.run([sys.executable, "-c", changed], check=True, timeout=60, cwd=tmp_path)
    assert "Apache" in target.read_text()
    namespace = {}
    exec(compile(target.read_text(), "again", "exec"), namespace)
    assert namespace["MODELS"] == MODELS


def kaco():
    image = json.loads((ROOT / "tests/data/modbus/kaco_day.json").read_text())
    return {
        first + at: int(text[4 * at : 4 * at + 4], 16)
        for first, text in image["blocks"]
        for at in range(len(text) // 4)
    }


def answer(words, request):
    asked = range(request.address, request.address + request.count)
    return b"".join(words[at].to_bytes(2) for at in asked) if all(at in words for at in asked) else None


def walk(words):
    asking = discover()
    request = next(asking)
    try:
        while True:
            request = asking.send(answer(words, request))
    except StopIteration as end:
        return end.value


def values(words, register_map):
    read = {}
    for block in plan(register_map.points, register_map.limits):
        assert block.request.count <= 125
        read |= block.decode(answer(words, block.request))
    return register_map.derived.finish(read)


def test_a_captured_kaco_decodes_as_pysunspec2_decodes_it():
    """Every point of every home model of the capture: the same number, or "not implemented" in both."""
    from sunspec2.modbus import client

    words = kaco()
    compared = 0
    for model in walk(words).models:
        if model.id not in KNOWN or model.id == 1:
            continue
        data = answer(words, Request("holding", model.address, model.length + 2))
        peer = client.SunSpecModbusClientModel(model_id=model.id, data=data, mb_device=None)
        rows = table(model.id)
        ours = _decoded(model, rows.points, model.address, words)
        theirs = {name: getattr(peer, name) for name in rows.points if hasattr(peer, name)}
        for name, point in theirs.items():
            if name not in ours or name in {"ID", "L"}:
                continue
            compared += 1
            peers = _peer(point)
            assert (ours[name] is None) == (peers is None), (model.id, name)
            assert peers is None or float(ours[name]) == pytest.approx(peers), (model.id, name)
    assert compared > 150


def _decoded(model, rows, address, words):
    shown = {}
    for name, row in rows.items():
        if row.type in {"string", "pad"} or address + row.at + row.words > model.end:
            continue
        raw = int.from_bytes(answer(words, Request("holding", address + row.at, row.words)))
        encoding = encoding_of(row, name)
        scale = None if row.scale is None else words[model.address + rows[row.scale].at]
        if encoding.type in {"enum", "bits"}:
            shown[name] = None if raw in encoding.sentinels else raw
        else:
            shown[name] = decode(raw, encoding, scale)
    return shown


def _peer(point):
    value = point.value
    if value is None or (point.pdef["type"].startswith("acc") and value == 0):
        return None
    return float(point.cvalue)


def strings_chain(count):
    """An inverter with storage and so many PV inputs, of which number i makes 100 i W."""
    module = [
        word for i in range(1, count + 1) for word in [i, *[0] * 8, 50 + i, 3000, 100 * i, 0, 7, 0, 0, 0, 4, 0, 0]
    ]
    body = [0xFFFE, 0xFFFF, 0, 0, 0, 0, count, 0, *module]
    storage = [0x8000] * 24
    words = [0x5375, 0x6E53, 160, len(body), *body, 124, 24, *storage, 0xFFFF, 0]
    return {40000 + at: word for at, word in enumerate(words)}


@pytest.mark.parametrize("count", [1, 5, 6, 9])
def test_a_model_longer_than_one_read_is_read_in_parts(count):
    words = strings_chain(count)
    register_map = walk(words).register_map()
    shown = values(words, register_map)
    known = min(count, 6)
    assert [shown[f"pv{i}_power_w"] for i in range(1, known + 1)] == [100 * i for i in range(1, known + 1)]
    assert [shown[f"pv{i}_current_a"] for i in range(1, known + 1)] == [
        Decimal(50 + i) / 100 for i in range(1, known + 1)
    ]
    assert shown["pv_power_w"] == sum(100 * i for i in range(1, known + 1))
    assert not [name for name in shown if name.startswith("exponent")]


def test_a_froniuses_third_and_fourth_modules_are_its_battery():
    words = strings_chain(4)
    common = [1, 66, *int.from_bytes(b"Fronius".ljust(32, b"\0")).to_bytes(32)]
    texts = [common[2 + at] << 8 | common[3 + at] for at in range(0, 32, 2)] + [0] * 50
    body = [words[at] for at in sorted(words)][2:]
    words = {40000 + at: word for at, word in enumerate([0x5375, 0x6E53, 1, 66, *texts, *body])}
    shown = values(words, walk(words).register_map())
    assert shown["battery_power_w"] == 400 - 300  # discharging 400, charging 300
    assert shown["pv_power_w"] == 100 + 200
    assert "pv3_power_w" not in shown


def test_the_types_of_ports_are_those_the_device_wrote():
    rows = table(714)
    words = [714, 18 + 25 * 3, *[0] * 18, *[0, *[0] * 24], *[1, *[0] * 24], *[4, *[0] * 24]]
    data = b"".join(word.to_bytes(2) for word in words)
    assert list(port_types(Model(714, 40002, len(words) - 2), data)) == [0, 1, 4]
    assert list(port_types(Model(714, 40002, len(words) - 2), data[:100])) == [0, 1]
    assert list(port_types(Model(713, 40002, 7), data)) == []
    assert rows.stride == 25
    assert LIMITS.max_registers == 125


@pytest.mark.parametrize(("der_type", "is_hybrid"), [(4, False), (82, True), (0xFFFF, True)])
def test_an_inverter_for_pv_only_may_show_storage_models(der_type, is_hybrid):
    words = [0x5375, 0x6E53, 120, 26, der_type, *[0] * 25, 101, 50, *[0] * 50, 124, 24, *[0x8000] * 24, 0xFFFF, 0]
    quantities = {
        point.quantity for point in walk({40000 + at: word for at, word in enumerate(words)}).register_map().points
    }
    assert ("pv_power_w" in quantities, "ac_energy_kwh" in quantities) == (not is_hybrid, is_hybrid)


@settings(max_examples=15, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from([*KNOWN, 126, 64204]), st.integers(1, 300)), min_size=1, max_size=12),
    st.sampled_from([b"", b"Fronius", b"SolarEdge"]),
    st.randoms(use_true_random=False),
)
def test_any_chain_gives_reads_within_the_limits_and_values_of_any_registers(models, maker, random):
    words = [0x5375, 0x6E53, 1, 66, *struct.unpack(">66H", maker.ljust(132, b"\0"))]
    for number, length in models:
        body = [random.choice((0, 1, 0x8000, 0xFFFF, random.randrange(65536))) for _ in range(length)]
        words += [number, length, *body]
    chain = {40000 + at: word for at, word in enumerate([*words, 0xFFFF, 0])}
    found = walk(chain)
    assert [(model.id, model.length) for model in found.models[1:]] == models
    try:
        register_map = found.register_map()
    except MalformedError:
        return
    assert len({point.quantity for point in register_map.points}) == len(register_map.points)
    last = found.models[-1].end
    assert all(point.first >= 40000 and point.end <= last for point in register_map.points)
    shown = values(chain, register_map)
    assert all(value is None or isinstance(value, int | str | Decimal) for value in shown.values())
    for quantity in shown:
        assert quantity in QUANTITIES or quantity in register_map.quantities
