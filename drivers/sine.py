"""A driver without a device: one sine wave, the smallest whole driver and the one to copy. Opens no link.

docs/drivers.md walks through this file.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec

from drivers.api import ConfigError, Context, Driver, Emit, Event, Memory, Sample
from drivers.polling import Ticks
from drivers.settings import Table, convert

SUMMARY = "a sine wave in place of a device, to try the agent out and to copy for a driver of your own"
DECIMALS = 3

_Seconds = Annotated[float, msgspec.Meta(ge=0.01, le=86_400)]


class Settings(Table, frozen=True):
    """The driver's own table: how often to sample, how long one wave takes, whether each wave's beginning is an event,
    and where to note what was served."""

    poll_s: _Seconds = 10.0
    period_s: _Seconds = 60.0
    events: bool = False
    log: str | None = None


def value_at(boot_ms: int, period_s: float) -> float:
    """Return the wave at a boot-clock time, -1 to 1 in steps of 0.001: a stored row can be checked by its stamp."""
    return round(math.sin(math.tau * boot_ms / (1000 * period_s)), DECIMALS) + 0.0  # never -0.0


class Sine:
    """One device named like the driver; each tick gives one sample."""

    backoff_ceiling_s = 60.0

    def __init__(self, context: Context, settings: Settings) -> None:
        self.devices = (context.name,)
        self._clock = context.clock
        self._settings = settings

    async def run(self, emit: Emit, memory: Memory) -> None:
        """Emit the wave at every tick until cancelled; raises ConfigError when the log cannot be written."""
        del memory  # a wave has nothing to remember
        ticks = Ticks(self._clock, self._settings.poll_s)
        last_wave = None
        while True:
            await ticks.next()
            at = self._clock.boot_ms()
            values = {"sine_value": value_at(at, self._settings.period_s)}
            self._note(at, values=values)
            await emit(Sample(self.devices[0], at, values))
            wave = at // round(1000 * self._settings.period_s)
            if self._settings.events and wave != last_wave:
                await self._tell_wave(at, wave, emit)
            last_wave = wave

    async def _tell_wave(self, at: int, wave: int, emit: Emit) -> None:
        event = Event(self.devices[0], "wave_began", at, {"wave": wave})
        self._note(at, begun=event.id)
        await emit(event)  # returns once the event cannot be lost any more
        self._note(at, kept=event.id)

    def _note(self, boot_ms: int, **what: Any) -> None:
        """Append what is about to be served to the log, as the simulators do, so that a test can judge the rest."""
        if self._settings.log is None:
            return
        real_ms = time.time_ns() // 1_000_000
        line = {"t": real_ms, "sim": self._clock.unix_ms(), "device": self.devices[0], "boot_ms": boot_ms}
        try:
            with Path(self._settings.log).open("ab") as file:
                file.write(msgspec.json.encode({**line, **what}) + b"\n")
        except OSError as error:
            raise ConfigError(
                "log",
                f"cannot be written ({error.strerror})",
                "name a file in a folder that exists",
                self._settings.log,
            ) from error


def create(context: Context, table: Mapping[str, Any]) -> Driver:
    """Build the driver from its table; opens nothing; raises ConfigError."""
    return Sine(context, convert(table, Settings))
