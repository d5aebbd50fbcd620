"""What the lamp shows: level 5 never dark, nothing that harms, and registers that lead back to the look."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivers.api import MalformedError
from drivers.lamp.alert import Level
from drivers.lamp.programme import (
    LOOKS,
    NORMAL_LIGHT,
    OTHER,
    Look,
    Pattern,
    decode_look,
    name_of,
    programme_for,
)
from simulators.lamp import colour_at

LEVELS = [Level(level, stale) for level in (None, 0, 1, 2, 3, 4, 5) for stale in (False, True)]


@pytest.mark.parametrize("level", LEVELS)
def test_only_level_four_has_dark_moments(level) -> None:
    look = programme_for(level).look
    dark = any(not any(colour_at(look, at_ms)) for at_ms in range(0, 8_000, 10))
    assert dark == look.goes_dark == (level.level == 4)


@pytest.mark.parametrize("level", LEVELS)
def test_nothing_flashes_between_three_and_thirty_hertz(level) -> None:
    look = programme_for(level).look
    assert look.pattern is Pattern.STEADY or look.period_ms >= 334


def test_every_level_from_two_up_has_a_look_of_its_own() -> None:
    assert len({*LOOKS.values(), NORMAL_LIGHT}) == 5
    assert [programme_for(Level(level)).name for level in range(6)] == [
        "normal",
        "normal",
        "level_2",
        "level_3",
        "level_4",
        "level_5",
    ]
    assert programme_for(Level(None)).name == "unknown"
    assert programme_for(Level(5, stale=True)).name == "level_5_stale"


@pytest.mark.parametrize("level", LEVELS)
def test_registers_lead_back_to_the_look(level) -> None:
    programme = programme_for(level)
    assert decode_look(programme.look.registers) == programme.look
    assert name_of(decode_look(programme.look.registers), programme) == programme.name


def test_a_lamp_that_shows_something_else_is_named_for_what_it_shows() -> None:
    wanted = programme_for(Level(5))
    assert name_of(LOOKS[2], wanted) == "level_2"
    assert name_of(NORMAL_LIGHT, wanted) == "normal"
    for place in range(8):
        registers = [value ^ (1 if number == place else 0) for number, value in enumerate(wanted.look.registers)]
        assert name_of(decode_look(registers), wanted) == OTHER


@given(st.lists(st.integers(0, 65535), max_size=10))
def test_any_registers_are_a_look_or_refused(registers) -> None:
    try:
        assert decode_look(registers).registers == registers
    except MalformedError:
        return


def test_breathing_goes_there_and_back() -> None:
    look = Look((100, 0, 0), (0, 0, 0), Pattern.BREATHING, 1000)
    assert [colour_at(look, at_ms)[0] for at_ms in (0, 250, 500, 750, 1000)] == [100, 50, 0, 50, 100]
