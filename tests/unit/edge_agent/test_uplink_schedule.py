"""What may be sent when: window, patience, pace, suspicion. Time is a number here."""

from __future__ import annotations

import pytest

from edge_agent.schedule import MIN_PAYLOAD_BYTES, Schedule, Suspicion


def key(seq):
    return ("e" * 16, seq)


@pytest.fixture
def schedule():
    schedule = Schedule()
    schedule.connected(0, 20, 0)
    return schedule


def confirmed(flight):
    flight.confirmed = True
    return flight


def test_the_newest_may_always_use_two_slots(schedule):
    schedule.answered([], 1)
    sent = 0
    while schedule.may_send_backfill(1 + sent):
        schedule.sent([key(sent)], 100, 1 + sent, backfill=True)
        sent += 1
    assert sent == 6
    assert schedule.may_send_live()
    for seq in (100, 101):
        assert schedule.may_send_live()
        schedule.sent([key(seq)], 100, 10, backfill=False)
    assert not schedule.may_send_live()


def test_a_broker_that_takes_less_is_given_less():
    schedule = Schedule()
    schedule.connected(0, 1, 0)
    schedule.sent([key(1)], 100, 0, backfill=False)
    assert not schedule.may_send_live()
    assert not schedule.may_send_backfill(1)


def test_patience_doubles_from_20_s_to_5_min(schedule):
    now, waits = 0.0, []
    for _ in range(8):
        confirmed(schedule.sent([key(1)], 100, now, backfill=True))
        began = now
        while not schedule.due(now, 10):
            now += 0.1
        schedule.look(now)
        waits.append(now - began)
    for wait, expected in zip(waits, [20, 40, 80, 160, 300, 300, 300, 300], strict=True):
        assert expected * 0.74 < wait < expected * 1.26


def test_silence_is_noticed_and_the_next_word_makes_everything_due(schedule):
    schedule.answered([], 1)
    confirmed(schedule.sent([key(1), key(2)], 100, 2, backfill=True))
    confirmed(schedule.sent([key(3)], 100, 2, backfill=False))
    schedule.look(10)
    assert schedule.answering
    schedule.look(28)
    assert not schedule.answering
    assert schedule.flights == []
    confirmed(schedule.sent([key(1)], 100, 28, backfill=True))
    assert not schedule.may_send_backfill(30)
    schedule.answered([key(9)], 31)
    assert schedule.answering
    assert set(schedule.due(31, 10)) == {key(2), key(3)}


def test_without_an_answer_only_one_message_at_a_time_probes(schedule):
    times = []
    for tenth in range(12_000):
        now = tenth / 10
        schedule.look(now)
        if schedule.may_send_backfill(now):
            confirmed(schedule.sent([key(len(times))], 60_000, now, backfill=True))
            times.append(now)
    assert 5 <= len(times) <= 11


def test_the_pace_is_five_a_second(schedule):
    sent = 0
    for tenth in range(100):
        schedule.answered([key(n) for n in range(sent)], tenth / 10)
        schedule.look(tenth / 10)
        while schedule.may_send_backfill(tenth / 10):
            confirmed(schedule.sent([key(sent)], 100, tenth / 10, backfill=True)).keys.clear()
            schedule.look(tenth / 10)
            sent += 1
    assert 50 <= sent <= 56


def test_what_the_broker_did_not_confirm_is_due_when_the_connection_ends(schedule):
    schedule.sent([key(1)], 100, 0, backfill=False)
    confirmed(schedule.sent([key(2)], 100, 0, backfill=False))
    lost = schedule.disconnected(1)
    assert [flight.keys for flight in lost] == [{key(1)}]
    assert schedule.due(1, 10) == [key(1)]
    assert key(2) in schedule


def test_a_payload_that_ends_the_connection_twice_is_halved():
    suspicion, schedule = Suspicion(), Schedule()
    keys = [key(n) for n in range(8)]
    for _ in range(2):
        assert suspicion.limit(65536, 0) == 65536
        suspicion.struck([schedule.sent(keys, 40_000, 0, backfill=True)], 1)
    assert suspicion.limit(65536, 1) == 20_000
    assert suspicion.limit(65536, 700) == 40_000
    for _ in range(20):
        suspicion.struck([schedule.sent(keys, 1500, 0, backfill=True)], 1)
    assert suspicion.limit(65536, 1) == MIN_PAYLOAD_BYTES


def test_a_batch_that_never_passes_is_given_up_only_when_others_pass():
    suspicion, schedule = Suspicion(), Schedule()
    alone = [schedule.sent([key(1)], 100, 0, backfill=True)]
    for _ in range(20):
        assert suspicion.struck(alone, 1) == []
    suspicion.confirmed([key(2)])
    assert suspicion.struck(alone, 60) == []
    assert suspicion.struck([*alone, schedule.sent([key(3)], 100, 0, backfill=True)], 1) == []
    assert suspicion.struck(alone, 1) == [key(1)]


def test_a_batch_that_passes_is_free_of_suspicion():
    suspicion, schedule = Suspicion(), Schedule()
    for _ in range(2):
        suspicion.struck([schedule.sent([key(1)], 100, 0, backfill=True)], 1)
    assert suspicion.is_suspect(key(1))
    suspicion.confirmed([key(1)])
    assert not suspicion.is_suspect(key(1))
    assert not suspicion.is_struck(key(1))


def test_what_the_broker_delivered_to_nobody_is_tried_sooner_and_ever_more_seldom(schedule):
    now, waits = 0.0, []
    for _ in range(8):
        flight = confirmed(schedule.sent([key(1)], 100, now, backfill=True))
        schedule.refused(flight, now)
        schedule.look(now)
        began = now
        while not (schedule.due(now, 10) and schedule.may_send_backfill(now)):
            now += 0.1
        waits.append(now - began)
    for wait, expected in zip(waits, [2, 4, 8, 16, 32, 64, 128, 256], strict=True):
        assert expected * 0.74 < wait < expected * 1.3
