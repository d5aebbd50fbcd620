"""The passage machine against a model that looks at the whole list of packets at once."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from drivers.ble_tags.passage import Arrived, Left, Passage, Passages, Rules

RULES = Rules()


def test_two_packets_within_ten_seconds_are_an_arrival() -> None:
    passages = Passages(RULES)
    assert passages.heard("a", 1_000, -70) == []
    assert passages.heard("a", 11_000, -65) == [Arrived("a", 1_000, -65)]


def test_one_packet_is_nothing() -> None:
    passages = Passages(RULES)
    passages.heard("a", 1_000, -70)
    assert passages.heard("a", 11_001, -70) == []
    assert passages.silent(60_000) == []
    assert (passages.present, passages.waiting) == (0, 0)


def test_twenty_seconds_of_silence_are_a_departure_at_the_last_packet() -> None:
    passages = Passages(RULES)
    for at_ms, rssi in ((0, -80), (1_000, -60), (2_000, -60), (3_000, None)):
        passages.heard("a", at_ms, rssi)
    assert passages.silent(22_999) == []
    assert passages.silent(23_000) == [Left("a", 0, 3_000, 1_000, 4, -60)]
    assert passages.silent(90_000) == []


def test_unknown_strength_leaves_the_closest_moment_unknown() -> None:
    passages = Passages(RULES)
    passages.heard("a", 0, None)
    passages.heard("a", 500, None)
    assert passages.silent(50_000) == [Left("a", 0, 500, None, 2, None)]


def test_a_packet_after_the_silence_ends_the_passage_first() -> None:
    passages = Passages(Rules(arrive_packets=1))
    passages.heard("a", 0, -60)
    assert passages.heard("a", 20_000, -61) == [Left("a", 0, 0, 0, 1, -60), Arrived("a", 20_000, -61)]


def test_deaf_time_is_no_silence() -> None:
    passages = Passages(RULES)
    passages.heard("a", 0, -60)
    passages.heard("a", 1_000, -60)
    passages.deaf(11_000)
    assert passages.silent(500_000) == []
    passages.hearing(500_000)
    assert passages.silent(509_999) == []
    assert passages.silent(510_000) == [Left("a", 0, 1_000, 0, 2, -60)]


def test_a_tag_heard_after_deaf_time_never_left() -> None:
    passages = Passages(RULES)
    passages.heard("a", 0, -60)
    passages.heard("a", 1_000, -60)
    passages.deaf(2_000)
    passages.hearing(92_000)
    assert passages.heard("a", 93_000, -70) == []
    assert passages.silent(113_000) == [Left("a", 0, 93_000, 0, 3, -60, deaf_ms=90_000)]


def test_a_packet_from_before_the_deafness_does_not_end_it() -> None:
    passages = Passages(RULES)
    passages.heard("a", 0, -60)
    passages.deaf(1_500)
    assert passages.heard("a", 1_000, -60) != []
    assert passages.silent(100_000) == []


def test_time_in_which_the_program_stood_still_is_no_silence() -> None:
    passages = Passages(RULES)
    passages.heard("a", 0, -60)
    passages.heard("a", 1_000, -60)
    passages.missed(60_000)
    assert passages.silent(62_000) == []
    assert passages.heard("a", 62_500, -60) == []
    assert passages.present == 1


def test_a_passage_of_an_earlier_run_goes_on() -> None:
    passages = Passages(RULES)
    passages.resume([Passage("a", 1_000, 5_000, 2_000, 7, -50)], 60_000)
    assert passages.silent(79_999) == []
    assert passages.heard("a", 79_999, -70) == []
    assert passages.silent(99_999) == [Left("a", 1_000, 79_999, 2_000, 8, -50, deaf_ms=55_000)]


def test_a_passage_of_an_earlier_run_ends_at_its_own_last_packet() -> None:
    passages = Passages(RULES)
    passages.resume([Passage("a", 1_000, 5_000, 2_000, 7, -50, 300)], 60_000)
    assert passages.silent(80_000) == [Left("a", 1_000, 5_000, 2_000, 7, -50, 300)]


def test_whoever_is_no_longer_enrolled_is_forgotten_without_a_word() -> None:
    passages = Passages(RULES)
    for at_ms in (0, 1_000):
        passages.heard("a", at_ms, -60)
        passages.heard("b", at_ms, -60)
    passages.heard("c", 0, -60)
    assert passages.forget(frozenset({"b"})) == ["a"]
    assert (passages.present, passages.waiting) == (1, 0)
    assert [left.tag for left in passages.silent(90_000)] == ["b"]


def test_the_number_of_passages_is_bounded() -> None:
    passages = Passages(Rules(arrive_packets=1), max_present=3)
    for tag in "abcde":
        passages.heard(tag, 0, -60)
    assert (passages.present, passages.crowded) == (3, 2)
    assert len(passages.silent(30_000)) == 3
    assert passages.waiting == 0


def test_time_that_steps_back_counts_as_standing_still() -> None:
    passages = Passages(RULES)
    passages.heard("a", 100_000, -60)
    assert passages.heard("a", 1_000, -60) == [Arrived("a", 100_000, -60)]
    assert passages.silent(0) == []


def model(packets, rules):
    """Return all passages of one tag: looks at the whole list of (ms, rssi) and knows the future."""
    found, place = [], 0
    while place + rules.arrive_packets <= len(packets):
        here = packets[place : place + rules.arrive_packets]
        if here[-1][0] - here[0][0] > rules.arrive_window_ms:
            place += 1
            continue
        end = place + rules.arrive_packets
        while end < len(packets) and packets[end][0] - packets[end - 1][0] < rules.leave_after_ms:
            end += 1
        stay = packets[place:end]
        known = [(rssi, -at_ms) for at_ms, rssi in stay if rssi is not None]
        peak, closest = max(known) if known else (None, None)
        found.append(Left("a", stay[0][0], stay[-1][0], None if closest is None else -closest, len(stay), peak))
        place = end
    return found


PACKETS = st.lists(
    st.tuples(
        st.one_of(st.integers(0, 3_000), st.sampled_from([9_999, 10_000, 10_001, 19_999, 20_000, 20_001, 60_000])),
        st.one_of(st.none(), st.integers(-99, -20)),
    ),
    max_size=40,
)
ALL_RULES = st.builds(Rules, st.integers(1, 4), st.just(10_000), st.just(20_000))


@settings(max_examples=300)
@given(PACKETS, ALL_RULES, st.lists(st.integers(0, 600_000), max_size=20))
def test_the_machine_finds_what_the_model_finds_whenever_it_is_asked(steps, rules, looks) -> None:
    at_ms, packets = 0, []
    for gap_ms, rssi in steps:
        at_ms += gap_ms
        packets.append((at_ms, rssi))
    passages, left, arrived = Passages(rules), [], []
    for moment, rssi in sorted([*packets, *((look, "look") for look in looks)], key=lambda each: each[0]):
        outcome = passages.silent(moment) if rssi == "look" else passages.heard("a", moment, rssi)
        left += [each for each in outcome if isinstance(each, Left)]
        arrived += [each for each in outcome if isinstance(each, Arrived)]
        assert passages.present + passages.waiting <= 1
    left += passages.silent(at_ms + 1_000_000)
    assert left == model(packets, rules)
    assert [each.at_ms for each in arrived] == [each.first_ms for each in left]
    assert (passages.present, passages.waiting) == (0, 0)


@given(PACKETS, st.lists(st.integers(0, 39), max_size=5), st.integers(20_000, 10**7))
def test_deaf_spans_between_packets_change_no_passage(steps, places, span_ms) -> None:
    plain, shifted = Passages(RULES), Passages(RULES)
    at_ms, later_ms, first, second = 0, 0, [], []
    for place, (gap_ms, rssi) in enumerate(steps):
        at_ms += gap_ms
        if place in places:
            shifted.deaf(later_ms)
            later_ms += span_ms
            shifted.hearing(later_ms)
        later_ms += gap_ms
        first += plain.heard("a", at_ms, rssi)
        second += shifted.heard("a", later_ms, rssi)
    first += plain.silent(at_ms + 10**6)
    second += shifted.silent(later_ms + 10**6)
    assert [(type(each), getattr(each, "packets", None)) for each in first] == [
        (type(each), getattr(each, "packets", None)) for each in second
    ]
