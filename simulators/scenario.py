"""What happens to a simulated device and when, read from a YAML file and played by its clock. Knows no device.

    - {at_s: 600, do: unplug, for_s: 20}
    - {at_s: 1800, do: end_session, event: "29"}

Times are simulated seconds since the simulator began. `do` is the kind of the step; each kind has its own keys.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec
import yaml

from drivers.api import ConfigError
from drivers.settings import convert
from simulators.clock import SimulatedClock

MAX_BYTES = 256 * 1024
MAX_STEPS = 10_000

MAX_S = 1e9
"""Some thirty years; a longer time is a slip of the pen, and an endless one has no milliseconds."""

Seconds = Annotated[float, msgspec.Meta(gt=0, le=MAX_S)]
Moment = Annotated[float, msgspec.Meta(ge=0, le=MAX_S)]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
Epc = Annotated[str, msgspec.Meta(pattern="^[0-9A-Fa-f]{2}$")]
Epcs = Annotated[tuple[Epc, ...], msgspec.Meta(min_length=1)]


class Step(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="do"):
    """One thing that happens at a time."""

    at_s: Moment


class LastingStep(Step, frozen=True, kw_only=True):
    """One thing that begins at a time and ends after `for_s`; without it, it lasts."""

    for_s: Seconds | None = None

    @property
    def what(self) -> object:
        """Return what it is that lasts: of steps with the same, the last one says when it ends."""
        return type(self)


Refuse = Callable[[Any], ConfigError | None]


def kinds_of(*kinds: type[Step]) -> dict[str, type[Step]]:
    """Return kinds by the word that names them in a file."""
    return {str(kind.__struct_config__.tag): kind for kind in kinds}


def codes(epcs: Sequence[str]) -> frozenset[int]:
    """Return property codes as numbers."""
    return frozenset(int(epc, 16) for epc in epcs)


def read(path: Path, kinds: Mapping[str, type[Step]], refuse: Refuse = lambda _: None) -> tuple[Step, ...]:
    """Return the steps of a file in the order of their times.

    `refuse` says what makes no sense here, of a step that is well written. Raises ValueError that names file, step,
    key and remedy.
    """
    try:
        with path.open("rb") as file:
            content = yaml.safe_load(file.read(MAX_BYTES))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError, ValueError) as error:
        raise ValueError(f"{path}: {' '.join(str(error).split())}; mend the line named") from None
    if not isinstance(content, list) or len(content) > MAX_STEPS:
        raise ValueError(
            f"{path}: not a list of at most {MAX_STEPS} steps; write lines like - {{at_s: 60, do: restart}}"
        )
    steps = []
    for number, item in enumerate(content, start=1):
        try:
            step = _step(item, kinds)
            if (unfit := refuse(step)) is not None:
                raise unfit
        except ConfigError as error:
            raise ValueError(f"{path}: step {number}: {error}") from None
        steps.append(step)
    return tuple(sorted(steps, key=lambda step: step.at_s))


def _step(item: object, kinds: Mapping[str, type[Step]]) -> Step:
    if not isinstance(item, dict) or not all(isinstance(key, str) for key in item):
        raise ConfigError("step", "not a table", "write it like {at_s: 60, do: restart}", item)
    word = item.get("do")
    if not isinstance(word, str) or word not in kinds:
        raise ConfigError("do", "no kind of step here", f"one of {', '.join(kinds)}", word)
    try:
        return convert(item, kinds[word])
    except ConfigError as error:
        if isinstance(error.value, int) and "`str" in error.problem:
            raise ConfigError(error.key, error.problem, "put it in quotes", error.value) from None
        if not error.key:  # what a kind says of its keys together begins with the one to mend
            key, _, problem = error.problem.partition(": ")
            raise ConfigError(key, problem, error.remedy, item.get(key)) from None
        raise


async def play(
    steps: Sequence[Step],
    clock: SimulatedClock,
    act: Callable[[Step], None],
    end: Callable[[Step], None] = lambda _: None,
) -> None:
    """Call `act` with each step at its time, and `end` when it is over, unless a later one of its kind lasts on."""
    began_ms = clock.unix_ms()
    last: dict[object, Step] = {}
    moments: list[tuple[float, bool, Step]] = [(step.at_s, True, step) for step in steps]
    moments += [
        (step.at_s + step.for_s, False, step)
        for step in steps
        if isinstance(step, LastingStep) and step.for_s is not None
    ]
    for at_s, begins, step in sorted(moments, key=lambda moment: (moment[0], moment[1])):
        await clock.sleep_until(began_ms + round(at_s * 1000))
        what = step.what if isinstance(step, LastingStep) else step
        if begins:
            last[what] = step
            act(step)
        elif last.get(what) is step:
            end(step)
