"""The published contract: golden payloads, and whatever else may come."""

from __future__ import annotations

import json
import random
import zlib
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent import wire

GOLDEN = Path(__file__).parents[2] / "data" / "wire" / "v1"
KINDS = {
    "ack.json": wire.Ack,
    "state.online.json": wire.State,
    "state.lost.json": wire.State,
    "state.offline.json": wire.State,
    "meta.json": wire.Meta,
    "command.json": wire.Command,
    "response.json": wire.Response,
}
BATCHES = ["telemetry.json", "events.json", "passages.json"]


def golden(name):
    return (GOLDEN / name).read_bytes()


def test_every_golden_payload_is_checked():
    checked = {*KINDS, *BATCHES, "backfill.plain.json", "backfill.zlib", "now.json"}
    assert {path.name for path in GOLDEN.iterdir()} == checked


@pytest.mark.parametrize("name", KINDS)
def test_a_golden_message_is_read_and_written_as_it_was(name):
    assert json.loads(wire.encode(wire.decode(golden(name), KINDS[name]))) == json.loads(golden(name))


@pytest.mark.parametrize("name", BATCHES)
def test_a_golden_batch_is_read_and_written_byte_for_byte(name):
    assert wire.encode(wire.decode_batch(golden(name))) == golden(name)


def test_a_golden_batch_says_what_it_says():
    batch = wire.decode_batch(golden("telemetry.json"))
    assert (batch.epoch, batch.seq, batch.b0, batch.t0) == ("9f31c2aa04b7d1e5", 17, 2031556, 1795301418159)
    assert batch.blocks[0].rows[1] == [10000, -41, Decimal("0.2"), Decimal("0.1")]
    assert batch.blocks[1].rows[0][2] == Decimal("10482.37")
    assert batch.blocks[2].utc == 1795300200000
    [lost, offset] = wire.decode_batch(golden("events.json")).events
    assert (lost.kind, lost.dt, offset.dt, offset.data["offset_ms"]) == ("device_lost", 0, 1500, 1795299386603)


@pytest.mark.parametrize("name", ["backfill.plain.json", "backfill.zlib"])
def test_backfill_holds_its_batches_unchanged(name):
    assert wire.decode_backfill(golden(name)) == [golden("telemetry.json"), golden("events.json")]


def test_backfill_is_compressed_where_that_is_shorter():
    batch = golden("telemetry.json")
    assert wire.encode_backfill([batch, golden("events.json")])[:1] == b"\x78"
    assert wire.encode_backfill([])[:1] == b"{"
    assert wire.decode_backfill(wire.encode_backfill([batch] * 50)) == [batch] * 50


def test_an_inflate_bomb_is_refused_without_being_unpacked():
    bomb = zlib.compress(b" " * (64 * wire.MAX_INFLATED_BYTES), 9)
    assert len(bomb) < 100_000
    with pytest.raises(wire.WireError, match="longer than"):
        wire.decode_backfill(bomb)


@pytest.mark.parametrize("damage", ["cut", "tail", "two"])
def test_a_compressed_message_that_is_not_whole_is_refused(damage):
    whole = golden("backfill.zlib")
    with pytest.raises(wire.WireError):
        wire.decode_backfill({"cut": whole[:-1], "tail": whole + b"\0", "two": whole + whole}[damage])


def test_another_version_is_told_from_noise():
    with pytest.raises(wire.VersionError):
        wire.decode_batch(b'{"v":2,"anything":true}')
    with pytest.raises(wire.VersionError):
        wire.decode_backfill(b'{"v":2}')


def test_unknown_keys_are_ignored():
    more = golden("telemetry.json")[:-1] + b',"later":{"x":1}}'
    assert wire.decode_batch(more).seq == 17


@pytest.mark.parametrize(
    "change",
    [
        (b'"epoch":"9f31c2aa04b7d1e5"', b'"epoch":"9F31"'),
        (b'"seq":17', b'"seq":-1'),
        (b'"seq":17', b'"seq":1.5'),
        (b'"boot":"a1b2c3d4"', b'"boot":""'),
        (b'"clock":"synced"', b'"clock":"perfect"'),
        (b"[0,2534,13.1,null]", b"[0,2534,13.1]"),
        (b"[0,2534,13.1,null]", b"[0.5,2534,13.1,null]"),
        (b"[0,2534,13.1,null]", b"[0,2534,true,null]"),
        (b"[0,2534,13.1,null]", b"[0,2534,1e99,null]"),
        (b"[0,2534,13.1,null]", b"[0,2534,[1],null]"),
        (b"[0,2534,13.1,null]", b"[0,99999999999999999999,1,null]"),
        (b'"current_r_a","current_t_a"', b'"current_r_a","current_r_a"'),
        (b'"b0":2031556', b'"b0":null'),
    ],
)
def test_a_batch_out_of_form_is_refused(change):
    payload = golden("telemetry.json").replace(*change)
    assert payload != golden("telemetry.json")
    with pytest.raises(wire.WireError):
        wire.decode_batch(payload)


@pytest.mark.parametrize("name", [*BATCHES, "backfill.plain.json", "backfill.zlib"])
def test_every_change_of_one_byte_gives_a_value_or_a_wire_error(name):
    whole = golden(name)
    read = wire.decode_backfill if name.startswith("backfill") else wire.decode_batch
    source = random.Random(1)
    for place in range(len(whole)):
        for byte in (0, 0x22, 0x5D, 0xFF, source.randrange(256)):
            try:
                found = read(whole[:place] + bytes([byte]) + whole[place + 1 :])
            except wire.WireError:
                continue
            if read is wire.decode_batch:
                wire.encode(found)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300) | st.text(max_size=300).map(lambda text: text.encode("utf-8", "replace")))
def test_noise_gives_a_wire_error(payload):
    for read in (wire.decode_batch, wire.decode_backfill, lambda raw: wire.decode(raw, wire.Ack)):
        try:
            read(payload)
        except wire.WireError:
            continue
        assert payload.lstrip()[:1] in b"{"


def test_deep_nesting_is_refused():
    with pytest.raises(wire.WireError):
        wire.decode_batch(b'{"v":1,"blocks":' + b"[" * 100_000)


values = (
    st.none()
    | st.integers(-(2**63), 2**63 - 1)
    | st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**9), max_value=10**9, places=4)
    | st.text(st.characters(codec="utf-8"), max_size=20)
)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(-(10**12), 10**12), values), max_size=20))
def test_a_batch_comes_back_as_it_went(rows):
    block = wire.Block("meter", ["q"], [list(row) for row in rows])
    batch = wire.Batch(epoch="0" * 16, seq=1, boot="b", b0=0, t0=None, clock="unknown", blocks=[block] if rows else [])
    assert all(wire.is_value(value) for _, value in rows)
    assert wire.decode_batch(wire.encode(batch)) == batch


@pytest.mark.parametrize(
    "topic",
    [
        "",
        "gw/v1",
        "gw/v1/all/state",
        "gw/v2/house-001/state",
        "gw/v1/House/state",
        "gw/v1/house-001",
        "gw/v1/house-001/",
        "gwc/v1/house-001/ack",
    ],
)
def test_a_topic_that_is_no_gateways_is_refused(topic):
    with pytest.raises(wire.WireError):
        wire.split_up_topic(topic)


def test_a_topic_is_split_into_gateway_and_rest():
    assert wire.split_up_topic(wire.up_topic("house-001", "now", "meter")) == ("house-001", ["now", "meter"])


@pytest.mark.parametrize("text", ["all", "ab", "House", "-house", "a" * 33, "house_1", "house-001\n", "ハウス"])
def test_a_text_that_may_not_name_a_gateway(text):
    assert not wire.is_gateway_id(text)
