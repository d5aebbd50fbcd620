"""Open passages over a restart: placed on the new clock, bounded, and nothing that does not read gets in."""

from __future__ import annotations

import json

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from drivers.api import MEMORY_LIMIT_BYTES
from drivers.ble_tags import saved
from drivers.ble_tags.passage import Passage

STAY = Passage("t-01", 5_000, 9_000, 7_000, 12, -55, 100)


def test_in_the_same_boot_a_passage_keeps_its_times() -> None:
    kept = saved.shards([STAY], 10_000, 1_000_000)
    assert saved.restore(kept.get, 12_000, 1_002_000) == [STAY]
    assert saved.restore(kept.get, 12_000, None) == [STAY]


def test_after_a_new_boot_utc_places_a_passage() -> None:
    kept = saved.shards([STAY], 10_000, 1_000_000)
    [stay] = saved.restore(kept.get, 3_000, 1_060_000)
    assert (stay.first_ms, stay.last_ms, stay.closest_ms) == (-62_000, -58_000, -60_000)
    assert stay.last_ms - 3_000 == (9_000 - 10_000) - 60_000


def test_after_a_new_boot_without_utc_the_stop_counts_as_nothing() -> None:
    kept = saved.shards([STAY], 10_000, None)
    [stay] = saved.restore(kept.get, 3_000, 1_060_000)
    assert stay.last_ms == 2_000


def test_an_empty_record_is_forgotten() -> None:
    assert saved.shard_of("t-01", [], 0, None) == {saved.key_for("t-01"): None}
    assert set(saved.shards([], 0, None).values()) == {None}


def test_a_record_is_the_same_whenever_it_was_written() -> None:
    early, late = saved.shards([STAY], 10_000, None), saved.shards([STAY], 20_000, 5)
    key = saved.key_for("t-01")
    assert saved.same(early[key], late[key])
    assert not saved.same(early[key], None)


def test_a_crowd_stays_within_the_memory_of_a_driver() -> None:
    crowd = [Passage(f"{number:032d}", 10**13, 10**13, 10**13, 10**6, -100, 10**9) for number in range(5_000)]
    kept = saved.shards(crowd, 10**13, 2 * 10**13)
    assert len(json.dumps(kept)) < MEMORY_LIMIT_BYTES - 24_000 - 4_000
    assert len(saved.restore(kept.get, 10**13, 2 * 10**13)) == saved.SHARDS * saved.MAX_IN_SHARD


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=7) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=20,
)
RECORDS = JSON | st.fixed_dictionaries(
    {"boot_ms": JSON, "unix_ms": JSON, "stays": st.dictionaries(st.text(max_size=4), st.lists(JSON, max_size=7))}
)


@settings(max_examples=50, suppress_health_check=[HealthCheck.too_slow])
@given(RECORDS, st.integers(0, 10**12), st.none() | st.integers(0, 10**13))
def test_whatever_lies_in_memory_nothing_breaks(record, now_ms, unix_ms) -> None:
    for stay in saved.restore(lambda _: record, now_ms, unix_ms):
        assert isinstance(stay.first_ms, int)
