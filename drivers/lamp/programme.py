"""What the lamp shows for a level, and how that lies in its registers. Pure: no link, no clock.

Colours are the official five of the warning levels (Cabinet Office, 29 May 2020). Level 5 is officially black, which
no lamp can emit and which would look like "all is well": it alternates purple and white and is never dark. Nothing
here blinks between 3 and 30 Hz. Screen colours on an LED look different; a calibration belongs to the lamp.

Registers, eight in a row: R G B, second R G B, pattern, period in ms. Written to holding registers from 0 (FC 16);
input registers from 0 (FC 4) tell in the same form what the lamp shows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import TypeAlias

from drivers.api import MalformedError
from drivers.lamp.alert import Level

ADDRESS = 0
COUNT = 8

Rgb: TypeAlias = tuple[int, int, int]


class Pattern(IntEnum):
    """How the two colours follow each other."""

    STEADY = 0
    BREATHING = 1
    BLINK = 2
    ALTERNATING = 3


@dataclass(frozen=True, slots=True)
class Look:
    """What a lamp shows: BREATHING and BLINK go between `colour` and `second`, ALTERNATING changes between them."""

    colour: Rgb
    second: Rgb
    pattern: Pattern
    period_ms: int

    @property
    def goes_dark(self) -> bool:
        """Whether it is dark at any moment."""
        return not any(self.colour) or (self.pattern is not Pattern.STEADY and not any(self.second))

    @property
    def registers(self) -> list[int]:
        """The eight registers."""
        return [*self.colour, *self.second, self.pattern, self.period_ms]


@dataclass(frozen=True, slots=True)
class Programme:
    """A look by name; several names may look alike."""

    name: str
    look: Look


WHITE: Rgb = (255, 255, 255)
YELLOW: Rgb = (242, 231, 0)
RED: Rgb = (255, 40, 0)
PURPLE: Rgb = (170, 0, 170)
DARK: Rgb = (0, 0, 0)

NORMAL_LIGHT = Look(WHITE, WHITE, Pattern.STEADY, 0)
LOOKS = {
    2: Look(YELLOW, YELLOW, Pattern.STEADY, 0),
    3: Look(RED, (64, 10, 0), Pattern.BREATHING, 4000),
    4: Look(PURPLE, DARK, Pattern.BLINK, 1000),
    5: Look(PURPLE, WHITE, Pattern.ALTERNATING, 500),
}
OTHER = "other"
"""The name of what no programme of ours looks like: a broken or foreign-controlled lamp."""


def programme_for(level: Level) -> Programme:
    """Return what to show: names are normal, level_2 … level_5, the last two also with _stale, and unknown."""
    if level.level is None:
        return Programme("unknown", NORMAL_LIGHT)
    if level.level not in LOOKS:
        return Programme("normal", NORMAL_LIGHT)
    return Programme(f"level_{level.level}{'_stale' if level.stale else ''}", LOOKS[level.level])


def decode_look(registers: Sequence[int]) -> Look:
    """Return what a lamp's registers say; raises MalformedError."""
    if len(registers) != COUNT:
        raise MalformedError(f"{len(registers)} registers; a lamp has {COUNT}")
    red, green, blue, red2, green2, blue2, pattern, period_ms = registers
    if any(not 0 <= part <= 255 for part in registers[:6]) or pattern not in set(Pattern):
        raise MalformedError("a colour above 255 or an unknown pattern")
    return Look((red, green, blue), (red2, green2, blue2), Pattern(pattern), period_ms)


def name_of(shown: Look, wanted: Programme) -> str:
    """Return the name of what a lamp shows: the wanted one if it looks so, another of ours, or OTHER."""
    if shown == wanted.look:
        return wanted.name
    if shown == NORMAL_LIGHT:
        return "normal"
    return next((f"level_{level}" for level, look in LOOKS.items() if look == shown), OTHER)
