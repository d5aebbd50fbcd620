"""The simulators' clock: the same arithmetic as the agent's, and it never steps back."""

import argparse

import pytest

from drivers.timescale import Timescale
from simulators.clock import SimulatedClock, add_time_options, clock_from, house_start_ms

START_MS = 1_780_239_600_000  # 2026-06-01T00:00:00+09:00


def options(*words):
    parser = argparse.ArgumentParser()
    add_time_options(parser)
    return parser.parse_args(words)


def test_without_options_it_shows_the_hosts_time():
    clock = clock_from(options())
    assert abs(clock.unix_ms() - clock.real_ms()) < 1000


def test_start_since_and_speed_mean_what_the_timescale_says():
    real = 1_000_000_000_000
    clock = SimulatedClock(Timescale(START_MS, real, 600), lambda: real + 1500)
    assert clock.unix_ms() == START_MS + 900_000
    assert clock.local().isoformat() == "2026-06-01T00:15:00+09:00"


def test_two_processes_with_the_same_options_agree():
    words = ("--start", "2026-06-01T00:00:00+09:00", "--speed", "60", "--since", "1795300000")
    first, second = clock_from(options(*words)), clock_from(options(*words))
    assert abs(first.unix_ms() - second.unix_ms()) < 60 * 100


def test_it_never_steps_back():
    real = [5_000]
    clock = SimulatedClock(None, lambda: real[0])
    assert clock.unix_ms() == 5_000
    real[0] = 4_000
    assert clock.unix_ms() == 5_000
    real[0] = 6_000
    assert clock.unix_ms() == 6_000


async def test_sleeping_ends_when_the_simulated_time_has_come():
    clock = clock_from(options("--start", "2026-06-01T00:00:00+09:00", "--speed", "36000"))
    await clock.sleep_until(START_MS + 3_600_000)
    assert START_MS + 3_600_000 <= clock.unix_ms() < START_MS + 3 * 3_600_000
    await clock.sleep_until(START_MS)


def test_a_start_without_offset_is_refused_with_a_remedy():
    with pytest.raises(ValueError, match=r"add the offset"):
        clock_from(options("--start", "2026-06-01T00:00:00"))


@pytest.mark.parametrize("speed", ["0", "-1", "nan", "1e9"])
def test_a_speed_that_makes_no_sense_is_refused(speed, capsys):
    with pytest.raises(SystemExit):
        options(f"--speed={speed}")
    assert "not between" in capsys.readouterr().err


def test_a_house_begins_at_the_start_or_at_yesterdays_japanese_midnight():
    args = options("--start", "2026-06-01T05:30:00+09:00")
    assert house_start_ms(args, clock_from(args)) == START_MS + 5 * 3_600_000 + 1_800_000
    args = options()
    real = START_MS + 26 * 3_600_000
    assert house_start_ms(args, SimulatedClock(None, lambda: real)) == START_MS
