"""What a scenario does to the meter's dongle that is plugged in now, to its line and to the meter. Knows no byte."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

import msgspec

from simulators import air, faults
from simulators import meter_steps as steps
from simulators.air import Joins, Neighbour, Radio
from simulators.clock import SimulatedClock
from simulators.dongle import Dongle
from simulators.j11 import J11Dongle
from simulators.log import ServedLog
from simulators.metering import Meter
from simulators.scenario import Step, codes

_REPLUG_AFTER_S = 1.0


class Teller(Protocol):
    """The meter as it speaks unasked, through the dongle that is plugged in."""

    def notify(self, service: int, properties: Sequence[int], *, own_tid: bool) -> None:
        """Tell properties, with a TID of its own or that of the next request."""

    def stray(self, tid: int) -> None:
        """Send an answer that nobody here asked for."""


class Stage:
    """One meter in range, the dongle plugged in now, and what happens to them; `tally` counts what came of it."""

    def __init__(
        self,
        clock: SimulatedClock,
        radio: Radio,
        meter: Meter,
        log: ServedLog,
        seed: int = 1,
        tally: Counter[str] | None = None,
    ) -> None:
        self._clock = clock
        self._meter = meter
        self._log = log
        self._seed = seed
        self.radio = radio
        self.tally: Counter[str] = Counter() if tally is None else tally
        self.dongle: Dongle | J11Dongle | None = None
        self.teller: Teller | None = None
        self.pulled = asyncio.Event()
        self._away_until_ms = 0
        self._mute_until_ms = 0
        self._pipes: dict[faults.Way, faults.Pipe] = {}
        self._damage: faults.Fault | None = None
        self._damages = 0

    @property
    def is_mute(self) -> bool:
        """Tell whether the dongle neither hears nor says anything."""
        return self._clock.unix_ms() < self._mute_until_ms

    def plugged(self, dongle: Dongle | J11Dongle, teller: Teller, pipes: dict[faults.Way, faults.Pipe]) -> None:
        """Go on with a dongle that was just plugged in."""
        self.dongle, self.teller, self._pipes = dongle, teller, pipes
        self._spoil()

    async def replugged(self) -> None:
        """Wait until the dongle is plugged in again."""
        self.dongle = self.teller = None
        self._pipes = {}
        if self._away_until_ms > self._clock.unix_ms():
            await self._clock.sleep_until(self._away_until_ms)
        else:
            await asyncio.sleep(_REPLUG_AFTER_S)

    def unless_mute(self, way: str, carry: Callable[[bytes], None]) -> Callable[[bytes], None]:
        """Return the same way for bytes, closed while the dongle is mute."""

        def carried(data: bytes) -> None:
            if self.is_mute:
                self.tally[f"muted_{way}"] += 1
            else:
                carry(data)

        return carried

    def act(self, step: Step) -> None:
        """Do what a step says, and log it; what needs a dongle is missed while none is plugged in, and logged so."""
        is_done = (
            self._of_the_air(step) or self._of_the_meter(step) or self._of_the_line(step) or self._of_the_dongle(step)
        )
        missed = {} if is_done else {"missed": "no dongle is plugged in"}
        self._log.happened("meter", step=msgspec.to_builtins(step), **missed)

    def end(self, step: Step) -> None:
        """End what a step began, and log it."""
        self._log.happened("meter", ended=msgspec.to_builtins(step))
        match step:
            case steps.WrongPassword() | steps.NoJoinAnswer():
                self._let_in("welcome")
            case steps.NeighbourStep():
                self._retune(replace(self.radio, neighbour=None))
            case steps.RefuseStep():
                self._meter.refused = frozenset()
            case steps.MeterFault():
                self._set_fault(is_faulty=False)
            case steps.Damage():
                self._damage = None
                self._spoil()
            case steps.DutyLimit() if self.dongle is not None:
                self.dongle.rested()

    def _of_the_air(self, step: Step) -> bool:
        match step:
            case steps.Loss():
                self._retune(replace(self.radio, loss=step.share))
            case steps.Latency():
                shares = (0.0, 0.5, 0.95, 1.0)
                spread = tuple(zip(shares, step.percentiles_s, strict=True))
                self._retune(replace(self.radio, one_property=spread, several_properties=spread))
            case steps.AirStep():
                self._retune((air.measured if step.profile == "measured" else air.ideal)(self.radio))
            case steps.WrongPassword():
                self._let_in("refused")
            case steps.NoJoinAnswer():
                self._let_in("unanswered")
            case steps.NeighbourStep():
                self._retune(replace(self.radio, neighbour=Neighbour(step.mac, step.lqi, step.pair_id)))
            case _:
                return False
        return True

    def _of_the_meter(self, step: Step) -> bool:
        match step:
            case steps.RefuseStep():
                self._meter.refused = codes(step.epcs)
            case steps.MeterFault():
                self._set_fault(is_faulty=True)
            case steps.MeterClock():
                self._meter.nameplate = replace(self._meter.nameplate, clock_error_s=step.error_s)
            case steps.Exchange():
                self._meter.exchange(step.serial)
                self._retune(replace(self.radio, mac=step.mac))
            case steps.Notify() if self.teller is not None:
                epcs = [int(epc, 16) for epc in step.epcs]
                self.teller.notify(0x74 if step.service == "infc" else 0x73, epcs, own_tid=step.own_tid)
            case steps.Stray() if self.teller is not None:
                self.teller.stray(int(step.tid, 16))
            case _:
                return False
        return True

    def _of_the_line(self, step: Step) -> bool:
        match step:
            case steps.Unplug():
                self._away_until_ms = self._after(step.for_s)
                self.pulled.set()
            case steps.Mute():
                self._mute_until_ms = self._after(step.for_s)
            case steps.Damage():
                self._damage = faults.Fault(step.kind, step.rate, step.seconds, way=step.way)
                self._damages += 1
                self._spoil()
            case _:
                return False
        return True

    def _of_the_dongle(self, step: Step) -> bool:
        dongle = self.dongle
        if dongle is None:
            return False
        match step:
            case steps.Restart():
                dongle.restart()
            case steps.EndSession():
                dongle.end_session(int(step.event or "27", 16))
            case steps.DutyLimit():
                dongle.exhaust()
            case steps.Announce() if isinstance(dongle, Dongle):
                dongle.announce(int(step.event, 16))
            case steps.Expire() if isinstance(dongle, Dongle):
                dongle.expire(renews=step.renews)
            case _:
                return False
        return True

    def _after(self, seconds: float) -> int:
        return self._clock.unix_ms() + round(seconds * 1000)

    def _retune(self, radio: Radio) -> None:
        self.radio = radio
        if self.dongle is not None:
            self.dongle.retune(radio)

    def _let_in(self, joins: Joins) -> None:
        self._retune(replace(self.radio, joins=joins))

    def _set_fault(self, *, is_faulty: bool) -> None:
        self._meter.nameplate = replace(self._meter.nameplate, fault=is_faulty)
        if self.teller is not None:
            self.teller.notify(0x73, [0x88], own_tid=True)

    def _spoil(self) -> None:
        """Put the damage that is due now into the line, or take it out."""
        for way, pipe in self._pipes.items():
            lane = None
            if self._damage is not None and self._damage.way in {"both", way}:
                lane = _CountedLane(self._damage, self._seed + self._damages, self.tally)
            pipe.spoil(lane)


class _CountedLane(faults.Lane):
    """A lane that counts in the stage's tally how often its fault struck."""

    def __init__(self, fault: faults.Fault, seed: int, tally: Counter[str]) -> None:
        super().__init__([fault], seed)
        self._tally = tally
        self._name = f"damage_{fault.kind}"

    def feed(self, chunk: bytes, age_s: float = 0.0) -> faults.Passed:
        """Return what comes through of a chunk."""
        before = self.struck
        passed = super().feed(chunk, age_s)
        self._tally[self._name] += self.struck - before
        return passed
