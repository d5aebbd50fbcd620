"""Show the town's alert level on a lamp, and report what the lamp really shows. Fetches no telegram by itself."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Annotated, Any

import msgspec

from drivers.api import ConfigError, Context, Driver, Emit, Event, Json, LinkError, MalformedError, Memory, Sample
from drivers.lamp.alert import Level, Standing, decode_alert
from drivers.lamp.link import LampLink
from drivers.lamp.programme import ADDRESS, COUNT, OTHER, Programme, decode_look, name_of, programme_for
from drivers.settings import Table, convert

SUMMARY = "the lamp that shows the town's alert level, over Modbus TCP"

log = logging.getLogger(__name__)

SAMPLE_MS = 60_000
"""How often an unchanged state is told."""
ALERT = "alert"
SHOWN = "shown"
LOST = "lost"


class Settings(Table, frozen=True):
    """The driver's own table: where the lamp is, and how often its state is written and checked again."""

    host: Annotated[str, msgspec.Meta(min_length=1, max_length=253)]
    port: Annotated[int, msgspec.Meta(ge=1, le=65_535)] = 502
    unit: Annotated[int, msgspec.Meta(ge=1, le=247)] = 1
    refresh_s: Annotated[float, msgspec.Meta(ge=0.1, le=60)] = 5.0


class Lamp:
    """One lamp, named like the driver."""

    backoff_ceiling_s = 10.0
    """A warning light is worth asking often."""
    subjects = frozenset({"alert"})

    def __init__(self, context: Context, settings: Settings) -> None:
        self.devices = (context.name,)
        self._device = context.name
        self._clock = context.clock
        self._refresh_s = settings.refresh_s
        self._link = LampLink(settings.host, settings.port, settings.unit)
        self._standing = Standing()
        self._news = asyncio.Event()
        self._shown: str | None = None
        self._sampled: tuple[tuple[str | None, str], int] | None = None
        self._heard = self._refused = self._mismatches = 0

    def status(self) -> Mapping[str, Json]:
        """Return what is shown, what is in force, and counters."""
        level = self._level()
        return {
            "level": level.level,
            "stale": level.stale,
            "telegram": level.telegram,
            "shown": self._shown,
            "heard": self._heard,
            "refused": self._refused,
            "mismatches": self._mismatches,
        }

    def hear(self, subject: str, payload: bytes) -> None:
        """Take an alert message in; the lamp is set within one round trip."""
        if subject not in self.subjects:
            return
        try:
            alert = decode_alert(payload)
        except MalformedError as error:
            self._refuse(str(error))
            return
        self._heard += 1
        if self._standing.take(alert, self._clock.boot_ms(), self._clock.unix_ms()):
            self._news.set()
        else:
            self._refuse("older than what is known, or from the future")

    async def run(self, emit: Emit, memory: Memory) -> None:
        """Serve the lamp until cancelled; raises LinkError when it does not answer, RefusedError when it says no."""
        self._standing.resume(memory.get(ALERT))
        shown = memory.get(SHOWN)
        self._shown = shown if isinstance(shown, str) else None
        try:
            while True:
                self._news.clear()
                await self._show(emit, memory)
                await self._wait()
        except LinkError as error:
            if memory.get(LOST) is None:
                reason: dict[str, Json] = {"reason": str(error)}
                await emit(Event(self._device, "device_lost", self._clock.boot_ms(), reason), {LOST: True})
            raise
        finally:
            self._sampled = None
            self._link.close()

    async def _wait(self) -> None:
        """Wait for news, or until the lamp's state is due to be written and checked again (real time)."""
        try:
            async with asyncio.timeout(self._refresh_s):
                await self._news.wait()
        except TimeoutError:
            return

    async def _show(self, emit: Emit, memory: Memory) -> None:
        """Write what is in force, read back what the lamp shows, and tell both."""
        level = self._level()
        wanted = programme_for(level)
        await self._link.write(ADDRESS, wanted.look.registers)
        shown = self._named(await self._link.read(ADDRESS, COUNT), wanted)
        if memory.get(LOST) is not None:
            await emit(Event(self._device, "device_back", self._clock.boot_ms()), {LOST: None})
        if shown != wanted.name:
            self._mismatches += 1
        if shown != self._shown or self._is_new(memory):
            await self._tell_change(level, wanted, shown, emit)
        await self._tell_state(level, shown, emit)

    def _is_new(self, memory: Memory) -> bool:
        """Tell whether the level or its telegram differ from what is remembered; a mere new check does not."""
        known, now = memory.get(ALERT), self._standing.remember()
        if isinstance(known, list) and isinstance(now, list):
            return known[:2] != now[:2]
        return known != now

    async def _tell_change(self, level: Level, wanted: Programme, shown: str, emit: Emit) -> None:
        reason = "mismatch" if shown != wanted.name else "stale" if level.stale else "telegram"
        if reason == "mismatch":
            log.warning("%s: told to show %s, shows %s", self._device, wanted.name, shown)
        data: dict[str, Json] = {
            "level": level.level,
            "programme": shown,
            "wanted": wanted.name,
            "reason": reason,
            "telegram": level.telegram,
        }
        self._shown = shown
        event = Event(self._device, "lamp_changed", self._clock.boot_ms(), data)
        await emit(event, {SHOWN: shown, ALERT: self._standing.remember()})

    async def _tell_state(self, level: Level, shown: str, emit: Emit) -> None:
        """Emit a sample when something changed, and each minute."""
        state = (None if level.level is None else str(level.level), shown)
        now_ms = self._clock.boot_ms()
        if self._sampled is None or self._sampled[0] != state or now_ms - self._sampled[1] >= SAMPLE_MS:
            self._sampled = (state, now_ms)
            await emit(Sample(self._device, now_ms, {"alert_level": state[0], "lamp_programme": state[1]}))

    def _named(self, registers: list[int], wanted: Programme) -> str:
        try:
            return name_of(decode_look(registers), wanted)
        except MalformedError:
            return OTHER

    def _level(self) -> Level:
        return self._standing.level(self._clock.boot_ms(), self._clock.unix_ms())

    def _refuse(self, why: str) -> None:
        self._refused += 1
        log.log(
            logging.WARNING if self._refused == 1 else logging.DEBUG, "%s: an alert was refused: %s", self._device, why
        )


def create(context: Context, table: Mapping[str, Any]) -> Driver:
    """Build the driver from its table; opens nothing; raises ConfigError."""
    settings = convert(table, Settings)
    if any(sign.isspace() or not sign.isprintable() for sign in settings.host):
        raise ConfigError("host", "has blanks or control characters", "write a name or an address", settings.host)
    return Lamp(context, settings)
