"""The level in force: raised at once, lowered only by a newer word, and never by silence."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drivers.api import MalformedError
from drivers.lamp.alert import FUTURE_MS, STALE_AFTER_MS, Alert, Level, Standing, decode_alert
from drivers.lamp.programme import programme_for

NOW = 1_795_230_000_000
"""2026-11-21T12:00:00+09:00."""


def message(**changes) -> bytes:
    whole = {
        "level": 3,
        "telegram": "VPWW55-1",
        "issued": "2026-11-21T11:50:00+09:00",
        "valid_until": None,
        "checked_at": "2026-11-21T12:00:00+09:00",
        "headline": {"ja": "大雨警報", "en": "Heavy rain warning"},
    }
    return json.dumps(whole | changes).encode()


def test_a_message_is_read() -> None:
    assert decode_alert(message()) == Alert(3, "VPWW55-1", NOW)
    assert decode_alert(message(valid_until="2026-11-21T03:00:00Z")).valid_until_ms == NOW


@pytest.mark.parametrize(
    "bad",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b"\xff",
        b"[" * 10_000,
        b" " * 20_000,
        message(level=6),
        message(level=-1),
        message(level=True),
        message(level="5"),
        message(level=2.5),
        message(level=10**30),
        message(checked_at=None),
        message(checked_at="now"),
        message(checked_at="2026-11-21T12:00:00"),
        message(valid_until="2026-11-21"),
        message(telegram=5),
    ],
)
def test_a_malformed_message_is_refused(bad) -> None:
    with pytest.raises(MalformedError):
        decode_alert(bad)


@given(st.binary(max_size=300))
def test_any_bytes_are_an_alert_or_refused(data) -> None:
    try:
        assert 0 <= decode_alert(data).level <= 5
    except MalformedError:
        return


@given(st.integers(0, 400), st.integers(0, 255))
def test_any_changed_byte_is_an_alert_or_refused(place, byte) -> None:
    data = bytearray(message(valid_until="2026-11-21T13:00:00+09:00"))
    data[place % len(data)] = byte
    try:
        assert 0 <= decode_alert(bytes(data)).level <= 5
    except MalformedError:
        return


def standing(level, at_ms=NOW, **more) -> Standing:
    one = Standing()
    assert one.take(Alert(level, "x", at_ms, **more), 0, NOW)
    return one


def test_nothing_heard_is_an_unknown_level() -> None:
    assert Standing().level(0, NOW) == Level(None)


@pytest.mark.parametrize("level", range(6))
def test_a_confirmed_level_is_in_force(level) -> None:
    assert standing(level).level(STALE_AFTER_MS, NOW + STALE_AFTER_MS) == Level(level, telegram="x")


@pytest.mark.parametrize(("level", "held"), [(0, None), (1, None), (2, None), (3, None), (4, 4), (5, 5)])
def test_silence_holds_four_and_five_and_makes_the_rest_unknown(level, held) -> None:
    later = STALE_AFTER_MS + 1
    for boot_ms, unix_ms in ((later, None), (0, NOW + later), (later, NOW), (10 * later, NOW + 10 * later)):
        assert standing(level).level(boot_ms, unix_ms) == Level(held, stale=True, telegram="x")


def test_the_end_of_validity_is_like_silence() -> None:
    one = standing(2, valid_until_ms=NOW + 1000)
    assert one.level(0, NOW + 999) == Level(2, telegram="x")
    assert one.level(0, NOW + 1000) == Level(None, stale=True, telegram="x")
    assert standing(5, valid_until_ms=NOW + 1000).level(0, NOW + 5000).level == 5


def test_a_repetition_confirms_and_the_same_message_again_does_not() -> None:
    one = standing(3)
    assert one.take(Alert(3, "x", NOW), 800_000, None)
    assert one.level(STALE_AFTER_MS + 1, None).stale
    assert one.take(Alert(3, "x", NOW + 1), 900_000, None)
    assert not one.level(STALE_AFTER_MS + 1, None).stale


def test_an_older_message_changes_nothing() -> None:
    one = standing(5)
    assert not one.take(Alert(0, "old", NOW - 1), 0, NOW)
    assert not one.take(Alert(0, "same moment", NOW), 0, NOW)
    assert one.level(0, NOW).level == 5


def test_a_message_from_the_future_is_refused() -> None:
    one = standing(2)
    assert not one.take(Alert(0, "x", NOW + FUTURE_MS + 1), 0, NOW)
    assert one.take(Alert(5, "x", NOW + 1), 0, NOW)


def test_a_future_message_taken_without_a_clock_blocks_nothing_later() -> None:
    one = Standing()
    assert one.take(Alert(0, "wrong", NOW + 10**10), 0, None)
    assert one.take(Alert(5, "right", NOW), 0, NOW)
    assert one.level(0, NOW).level == 5


def test_a_level_outlives_a_power_cut() -> None:
    before, after = standing(5), Standing()
    after.resume(before.remember())
    assert after.level(0, NOW + 60_000) == Level(5, telegram="x")
    assert after.level(0, None) == Level(5, stale=True, telegram="x")
    assert after.level(0, NOW + 10**9) == Level(5, stale=True, telegram="x")
    after.resume([0, "y", NOW + 5, None])
    assert after.level(0, NOW).level == 5, "what is known is not replaced from memory"


@settings(max_examples=50)
@given(st.recursive(st.none() | st.integers() | st.text(max_size=3), lambda inner: st.lists(inner, max_size=5)))
def test_whatever_lies_in_memory_nothing_breaks(saved) -> None:
    one = Standing()
    one.resume(saved)
    assert one.level(0, NOW).level in {None, 0, 1, 2, 3, 4, 5}


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("say"), st.integers(0, 5), st.integers(-3_600_000, 3_600_000)),
        st.tuples(st.just("wait"), st.integers(0, 4 * STALE_AFTER_MS), st.booleans()),
        st.tuples(st.just("restart"), st.just(0), st.just(0)),
    ),
    max_size=30,
)


@given(STEPS)
def test_level_five_goes_only_by_a_newer_word_in_whatever_order_messages_come(steps) -> None:
    one, now_ms, clock_known = Standing(), 0, True
    five_since = None
    for what, number, extra in steps:
        unix_ms = NOW + now_ms if clock_known else None
        if what == "wait":
            now_ms += number
            clock_known = extra or clock_known
        elif what == "restart":
            fresh = Standing()
            fresh.resume(one.remember())
            one = fresh
        else:
            checked_ms = NOW + now_ms + min(extra, FUTURE_MS)
            one.take(Alert(number, "x", checked_ms), now_ms, unix_ms)
            if (
                number == 5
                and (five_since is None or checked_ms >= five_since)
                and one.level(now_ms, unix_ms).level == 5
            ):
                five_since = checked_ms
            elif five_since is not None and checked_ms > five_since:
                five_since = None
        if five_since is not None:
            shown = programme_for(one.level(now_ms, NOW + now_ms if clock_known else None))
            assert shown.name.startswith("level_5")
            assert not shown.look.goes_dark
