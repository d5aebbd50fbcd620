"""What a payload turns into: rows, values, events, or a reason to put it aside. No payload raises."""

from __future__ import annotations

import json
import zlib
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.ingest import FUTURE_MS, Rules, read, read_exported
from edge_agent import wire

NOW = 1_795_000_000_000
EPOCH = "9f31c2aa04b7d1e5"


def batch(**changes):
    """Return a batch of two meter rows as a dictionary, with changes."""
    rows = [[0, 2534, 13.1], [10_000, 2541, None]]
    block = {"device": "meter", "columns": ["grid_power_w", "current_r_a"], "rows": rows}
    made = {"v": 1, "epoch": EPOCH, "seq": 17, "boot": "a1b2c3d4", "b0": 5000, "t0": NOW - 60_000, "clock": "synced"}
    return made | {"blocks": [block]} | changes


def taken(payload, topic="gw/v1/house-001/telemetry", **rules):
    body = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    return read(topic, body, NOW, Rules(**rules))


def test_a_row_has_boot_time_and_utc():
    (content,) = taken(batch()).contents
    assert [(row.boot_ms, row.utc_ms) for row in content.rows] == [(5000, NOW - 60_000), (15_000, NOW - 50_000)]
    assert content.rows[0].values == {"grid_power_w": 2534, "current_r_a": Decimal("13.1")}


def test_rows_of_an_unset_clock_have_no_utc_yet():
    for unset in ({"t0": None}, {"clock": "unknown"}):
        (content,) = taken(batch(**unset)).contents
        assert [row.utc_ms for row in content.rows] == [None, None]


def test_rows_of_a_clock_that_a_meter_has_set_enter_the_series_and_say_so():
    (content,) = taken(batch(clock="meter")).contents
    assert [row.utc_ms for row in content.rows] == [NOW - 60_000, NOW - 50_000]
    assert content.clock == "meter"


def test_a_future_row_is_put_aside_and_its_neighbours_go_on():
    reading = taken(batch(t0=NOW + FUTURE_MS - 5000))
    assert [row.boot_ms for row in reading.contents[0].rows] == [5000]
    (aside,) = reading.set_aside
    assert "clock" in aside.reason
    kept = wire.decode_batch(aside.payload)
    assert kept.blocks[0].rows == [[10_000, 2541, None]]
    assert reading.acks == [(EPOCH, 17)]


def test_what_was_put_aside_for_its_time_is_welcome_later():
    (aside,) = taken(batch(t0=NOW + FUTURE_MS - 5000)).set_aside
    later = read(aside.topic, aside.payload, NOW + 60_000, Rules(), force=True)
    assert [row.boot_ms for row in later.contents[0].rows] == [15_000]
    assert not later.set_aside


def test_a_row_of_1970_is_put_aside():
    reading = taken(batch(t0=0))
    assert reading.contents[0].rows == []
    assert len(reading.set_aside) == 1


def test_simulated_time_enters_only_where_it_is_allowed():
    ahead = batch(clock="simulated", t0=NOW + 10**9)
    refused = taken(ahead)
    assert not refused.contents
    assert "accept_simulated" in refused.set_aside[0].reason
    assert refused.acks == [(EPOCH, 17)]
    assert len(taken(ahead, accept_simulated=True).contents[0].rows) == 2


def test_another_version_is_put_aside_and_acknowledged():
    reading = taken(batch(v=2, blocks="something new"))
    assert "version 2" in reading.set_aside[0].reason
    assert reading.acks == [(EPOCH, 17)]


def test_a_device_timed_block_gives_values_without_nulls():
    half_hours = {"device": "meter", "columns": ["import_energy_at_30min_kwh"], "utc": NOW - 3_600_000}
    (content,) = taken(batch(blocks=[half_hours | {"rows": [[0, 1.5], [1_800_000, None]]}])).contents
    assert [(value.utc_ms, value.value) for value in content.values] == [(NOW - 3_600_000, Decimal("1.5"))]
    assert content.rows == []


def test_a_passage_stays_personal_in_a_backfill():
    event = {"id": "e1", "device": "tags", "kind": "tag_left", "dt": 0, "data": {"tag": "t-01"}}
    other = {"id": "e2", "device": "lamp", "kind": "lamp_changed", "dt": 0}
    packed = wire.encode_backfill([json.dumps(batch(blocks=[], events=[event, other])).encode()])
    (content,) = taken(packed, "gw/v1/pole-001/backfill").contents
    assert [happening.personal for happening in content.events] == [True, False]
    assert not content.live


def test_one_bad_batch_in_a_backfill_leaves_the_others():
    good, bad = json.dumps(batch()).encode(), json.dumps(batch(seq=18, boot="")).encode()
    reading = taken(wire.encode_backfill([bad, good]), "gw/v1/house-001/backfill")
    assert [content.seq for content in reading.contents] == [17]
    assert len(reading.set_aside) == 1
    assert sorted(reading.acks) == [(EPOCH, 17), (EPOCH, 18)]


def test_the_offset_of_a_boot_is_learnt_from_its_event():
    event = {"id": "e1", "device": "", "kind": "clock_offset", "data": {"boot": "a1b2c3d4", "offset_ms": NOW}}
    assert taken(batch(blocks=[], events=[event])).contents[0].offsets == {"a1b2c3d4": NOW}
    event["data"] = {"boot": "a1b2c3d4", "offset_ms": "soon"}
    assert taken(batch(blocks=[], events=[event])).contents[0].offsets == {}


def test_meta_of_another_gateway_is_put_aside():
    reading = taken({"v": 1, "gateway": "house-002"}, "gw/v1/house-001/meta")
    assert reading.meta is None
    assert "house-002" in reading.set_aside[0].reason


HOSTILE = {
    "no JSON": b"\xff\x00",
    "not a number": json.dumps(batch()).encode().replace(b"2534", b"NaN"),
    "deep": b"[" * 50_000,
    "a list": b"[]",
    "a huge number": json.dumps(batch()).encode().replace(b"2534", b"9" * 400),
    "a huge seq": json.dumps(batch(seq=2**63)).encode(),
    "a boot of 1 kB": json.dumps(batch(boot="a" * 1000)).encode(),
    "b0 beyond time": json.dumps(batch(b0=2**62)).encode(),
    "a device with a slash": json.dumps(batch(blocks=[{"device": "a/b", "columns": [], "rows": []}])).encode(),
    "a column with a quote": json.dumps(batch(blocks=[{"device": "m", "columns": ['a"b'], "rows": []}])).encode(),
    "half a character": json.dumps(batch()).encode().replace(b'"meter"', rb'"\ud800"'),
    "a long text": json.dumps(batch(blocks=[{"device": "m", "columns": ["a"], "rows": [[0, "x" * 2000]]}])).encode(),
    "an event of 20 kB": json.dumps(
        batch(events=[{"id": "e", "device": "", "kind": "k", "data": {"x": "y" * 20_000}}])
    ).encode(),
    "10 MB": b"{" + b" " * 10_000_000 + b"}",
    "an object in a row": json.dumps(batch()).encode().replace(b"2534", b"{}"),
    "true in a row": json.dumps(batch()).encode().replace(b"2534", b"true"),
}


@pytest.mark.parametrize("payload", HOSTILE.values(), ids=HOSTILE)
def test_hostile_payloads_are_put_aside_with_a_reason(payload):
    reading = taken(payload)
    assert not reading.contents
    assert reading.set_aside[0].reason


def test_an_inflate_bomb_is_put_aside():
    reading = taken(zlib.compress(b" " * 50_000_000, 9)[:60_000], "gw/v1/house-001/backfill")
    assert not reading.contents
    assert reading.set_aside


def test_a_topic_of_nobody_is_put_aside():
    for topic in ("gw/v1/All CAPS/telemetry", "gw/v1/all/telemetry", "x", "", "gw/v1/house-001/unheard"):
        assert taken(batch(), topic).set_aside


@given(
    st.binary(max_size=400),
    st.sampled_from(["telemetry", "backfill", "events", "passages", "state", "meta", "now/x", ""]),
)
def test_any_bytes_give_a_reading(payload, kind):
    reading = read(f"gw/v1/house-001/{kind}", payload, NOW, Rules())
    assert reading.gateway in ("house-001", "")


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)


@given(st.fixed_dictionaries({key: st.just(value) | _json for key, value in batch().items()}))
def test_any_shape_gives_rows_or_a_reason(body):
    reading = taken(json.dumps(body).encode())
    assert reading.contents or reading.set_aside


@given(st.integers(0, 300), st.integers(0, 255))
def test_every_one_byte_change_gives_a_reading(at, byte):
    payload = bytearray(json.dumps(batch()).encode())
    payload[at % len(payload)] = byte
    reading = taken(bytes(payload))
    assert reading.contents or reading.set_aside


def test_a_line_of_an_export_is_a_batch():
    line = json.dumps({"gateway": "house-001", "topic": "passages", "batch": batch()}).encode()
    reading = read_exported(line, NOW, Rules())
    assert reading.contents[0].seq == 17
    for wrong in (b"{}", b'{"gateway":"X","topic":"events","batch":{}}', b"nonsense"):
        with pytest.raises(wire.WireError):
            read_exported(wrong, NOW, Rules())
