"""Walks are passages by construction: the same from every process, and exactly what the driver's rules find."""

from __future__ import annotations

import json

import pytest

from drivers.ble_tags.adverts import decode_eddystone, decode_ibeacon
from drivers.ble_tags.identity import decode_list
from drivers.ble_tags.passage import Left, Passages, Rules
from simulators.bluez import pace_for
from simulators.walks import enrolment, first_walks, make_tags, rssi_at

START_MS = 1_780_000_000_000


def passages_of(walks, rules) -> list[Left]:
    """Return what the driver's rules make of the packets of many walks, asked once a second."""
    packets = sorted((packet.at_ms, walk.tag.pseudonym, packet.rssi) for walk in walks for packet in walk.packets)
    machine, left, second = Passages(rules), [], START_MS
    for at_ms, tag, rssi in packets:
        while second < at_ms:
            left += machine.silent(second)
            second += 1_000
        left += [each for each in machine.heard(tag, at_ms, rssi) if isinstance(each, Left)]
    return left + machine.silent(packets[-1][0] + 10**9)


@pytest.mark.parametrize("seed", range(5))
def test_each_walk_is_exactly_one_passage(seed) -> None:
    walks = first_walks(make_tags(20), 200, seed=seed, start_ms=START_MS)
    found = sorted(passages_of(walks, Rules()), key=lambda left: (left.first_ms, left.tag))
    assert [(left.tag, left.first_ms, left.last_ms, left.packets) for left in found] == sorted(
        [(walk.tag.pseudonym, walk.enters_ms, walk.leaves_ms, len(walk.packets)) for walk in walks],
        key=lambda each: (each[1], each[0]),
    )


def test_a_slower_pace_needs_rules_as_much_slower() -> None:
    pace = pace_for(600)
    assert pace == 10
    walks = first_walks(make_tags(5), 40, seed=1, start_ms=START_MS, pace=pace)
    rules = Rules(2, round(10_000 * pace), round(20_000 * pace))
    assert len(passages_of(walks, rules)) == 40


def test_walks_depend_on_seed_and_start_alone() -> None:
    one, again = (first_walks(make_tags(6), 30, seed=4, start_ms=START_MS) for _ in range(2))
    assert one == again
    assert one != first_walks(make_tags(6), 30, seed=5, start_ms=START_MS)
    later = first_walks(make_tags(6), 30, seed=4, start_ms=START_MS + 1_000)
    assert [walk.enters_ms - 1_000 for walk in later] == pytest.approx([walk.enters_ms for walk in one], abs=1)


def test_walks_come_in_the_order_of_their_beginning() -> None:
    begins = [walk.enters_ms for walk in first_walks(make_tags(10), 100, seed=2, start_ms=START_MS)]
    assert begins == sorted(begins)


def test_the_enrolment_enrols_every_tag_by_the_frame_it_sends() -> None:
    tags = make_tags(30)
    known = decode_list(json.dumps(enrolment(tags, 7)).encode())
    assert known.version == 7
    for tag in tags:
        frame = decode_ibeacon(tag.ibeacon) if tag.ibeacon else decode_eddystone(tag.eddystone)
        assert frame is not None
        assert frame.id == tag.id
        assert known.find([frame.key], None) == tag.pseudonym
    assert {bool(tag.ibeacon) for tag in tags} == {True, False}


def test_strength_falls_with_distance() -> None:
    strengths = [rssi_at(metres, 0) for metres in (1, 2, 5, 10, 25)]
    assert strengths == sorted(strengths, reverse=True)
    assert strengths[0] == -59
    assert rssi_at(0, 100) == -20
    assert rssi_at(10**9, 0) == -99
