"""What happens to a simulated dongle and when, from a YAML file: unplugged, restarted, mute, lossy, out of session.

    - {at_s: 600, do: unplug, for_s: 20}
    - {at_s: 1800, do: end_session, event: "29"}

Times are simulated seconds since the simulator began. Plays the steps; knows no protocol.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import yaml

from simulators.clock import SimulatedClock

MAX_BYTES = 256 * 1024


class Step(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One thing that happens. `event` is its number as SKSTACK prints it, hexadecimal.

    restart: the module starts anew by itself. unplug, mute: gone, or silent and deaf, for `for_s` simulated seconds.
    end_session: the session ends with `event`. announce: `event` is said, such as 32 and 33. loss: the share of
    datagrams that the air loses from now on.
    """

    at_s: Annotated[float, msgspec.Meta(ge=0)]
    do: Literal["restart", "unplug", "mute", "end_session", "announce", "loss"]
    for_s: Annotated[float, msgspec.Meta(gt=0)] = 10.0
    event: Annotated[str, msgspec.Meta(pattern="^[0-9A-Fa-f]{2}$")] = "27"
    share: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.0

    @property
    def number(self) -> int:
        """Return the event's number."""
        return int(self.event, 16)


def read(path: Path) -> tuple[Step, ...]:
    """Return the steps of a file in the order of their times; raises ValueError that names file and fault."""
    try:
        with path.open("rb") as file:
            content = yaml.safe_load(file.read(MAX_BYTES))
        steps = msgspec.convert(content, list[Step])
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError, msgspec.ValidationError) as error:
        raise ValueError(f"{path}: {error}") from None
    return tuple(sorted(steps, key=lambda step: step.at_s))


async def play(steps: Sequence[Step], clock: SimulatedClock, act: Callable[[Step], None]) -> None:
    """Call `act` with each step at its time."""
    began_ms = clock.unix_ms()
    for step in steps:
        await clock.sleep_until(began_ms + round(step.at_s * 1000))
        act(step)
