"""The account of transmit time: exact over any readings of the last hour, also when the dongle starts counting anew."""

from hypothesis import given, settings
from hypothesis import strategies as st

from drivers.route_b.airtime import HOUR_S, MAX_READINGS, AirTime


def test_two_readings_make_the_first_figure():
    account = AirTime()
    assert account.last_hour_s is None
    account.measure(0, 5_000)
    assert account.last_hour_s is None  # what was sent before is nobody's to tell
    account.measure(60, 5_250)
    assert account.last_hour_s == 0.25


def test_what_is_older_than_an_hour_is_forgotten():
    account = AirTime()
    for minute in range(121):
        account.measure(minute * 60, minute * 1000)
    assert account.last_hour_s == 60


def test_a_counter_that_went_back_has_started_anew():
    account = AirTime()
    for at, counter in ((0, 1000), (60, 4000), (120, 0), (180, 500)):
        account.measure(at, counter)
    assert account.last_hour_s == 3.5


@settings(max_examples=30)
@given(st.lists(st.tuples(st.floats(0, 7200), st.integers(0, 2**32)), max_size=400))
def test_any_readings_give_a_figure_that_is_not_negative_and_fill_no_memory(steps):
    account, now_s = AirTime(), 0.0
    for later_s, counter in steps:
        now_s += later_s
        account.measure(now_s, counter)
        assert account.last_hour_s is None or account.last_hour_s >= 0
    assert len(account._readings) <= MAX_READINGS
    assert not steps or account._readings[-1][0] - account._readings[0][0] <= HOUR_S
