"""What one meter says of itself: the properties it has, how it counts, who it is, whether it is faulty. Knows no port.

What spoils every value when it is misread (property map, scaling, serial) counts once two answers in a row agree, or
one agrees with what is remembered of the same meter.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Protocol, TypeVar

from drivers.api import Clock, Emit, Event, Json, Memory, Value
from drivers.route_b import echonet, meter
from drivers.route_b.echonet import Frame, FrameError
from drivers.route_b.meter import Scaling
from drivers.route_b.requests import NoAnswerError

log = logging.getLogger(__name__)

T = TypeVar("T")

SCALING = (meter.UNIT, meter.COEFFICIENT, meter.DIGITS)
IDENTITY = (meter.MAKER, meter.SERIAL, meter.FAULT, meter.RELEASE)
MOST_PROPERTIES = 6
"""A meter must take six properties in a request, and need not take more (AIF specification)."""
REFUSALS = 2
"""So many in a row are learnt; a single one may be a busy meter."""
REFUSED_FOR_MS = 24 * 3600 * 1000
"""A refusal that was learnt is tried again once a day: a meter may get new firmware, or an export its contract."""
MOST_READINGS = 6
IDENTITY_TRIES = 3

_REGISTERS = ("import_energy_kwh", "export_energy_kwh")
_ONLY_WHEN_LISTED = frozenset(
    (meter.HISTORY_PAIRS, meter.PAIRS_FROM, meter.ONE_MINUTE, meter.MINUTE_PAIRS, meter.MINUTES_FROM)
)


class Asks(Protocol):
    """A meter that can be asked; raises NoAnswerError."""

    async def get(self, epcs: Sequence[int]) -> Frame:
        """Return the meter's answer."""


class Known:
    """What is known of the meter behind a link; `ready` is set once a session knows whose values it gets."""

    def __init__(self, device: str, clock: Clock) -> None:
        self._device = device
        self._clock = clock
        self._listed: frozenset[int] | None = None
        self._learnt: dict[int, int] = {}  # refused property → boot ms at which it is tried again
        self._refusals: dict[int, int] = {}
        self._tried = 0
        self._mac = ""
        self.scaling: Scaling | None = None
        self.identity: dict[str, Json] = {}
        self.fault: bool | None = None
        self.scaled = False
        self.ready = asyncio.Event()
        self._registers: dict[str, Json] = {}
        self._first_at_ms = 0
        self._former: dict[str, Json] = {}
        self._keep: dict[str, Json] = {}

    @property
    def refused(self) -> list[str]:
        """Return the properties that are not asked for any more, in hex."""
        return [f"{epc:02X}" for epc in sorted(self._learnt) if self._is_refused(epc)]

    def _is_refused(self, epc: int) -> bool:
        return self._clock.boot_ms() < self._learnt.get(epc, 0)

    def lists(self, epc: int) -> bool:
        """Tell whether the meter has a property, as far as its map says."""
        return epc not in _ONLY_WHEN_LISTED if self._listed is None else epc in self._listed

    def offers(self, epc: int) -> bool:
        """Tell whether it makes sense to ask for a property."""
        return self.lists(epc) and not self._is_refused(epc)

    def offered(self, epcs: Iterable[int]) -> list[int]:
        """Return those of some properties that it makes sense to ask for, at most six."""
        return [epc for epc in epcs if self.offers(epc)][:MOST_PROPERTIES]

    def start(self, memory: Memory) -> None:
        """Begin a session: another meter may answer now."""
        self.scaled = False
        self._tried = 0
        self.ready.clear()
        pan = memory.get("pan")
        self._mac = str(pan.get("mac") or "") if isinstance(pan, dict) else ""
        kept = _table(memory.get("properties"))
        self._learnt = self._restored(kept.get("refused")) if kept.get("of") == self._mac else {}
        self._refusals.clear()
        self._former, self._registers = self._registers or self._former, {}

    def _restored(self, kept: Json) -> dict[int, int]:
        """Return when each remembered refusal is tried again by the boot clock; without UTC in a day."""
        now, boot = self._clock.unix_ms(), self._clock.boot_ms()
        untils = {epc: until for epc, until in _epcs(kept).items() if now is None or until > now}
        return {
            epc: boot + (REFUSED_FOR_MS if now is None else min(until - now, REFUSED_FOR_MS))
            for epc, until in untils.items()
        }

    @property
    def needs_name(self) -> bool:
        """Tell whether the meter is still to be asked who it is."""
        return not self.ready.is_set()

    def is_stranger(self, memory: Memory) -> bool:
        """Tell whether its address is not that of the meter that is remembered."""
        kept = _table(memory.get("meter"))
        return bool(kept) and bool(self._mac) and kept.get("mac") != self._mac

    async def learn(self, asks: Asks, memory: Memory) -> None:
        """Ask once a session which properties there are, and what the counts stand for."""
        if self.scaled:
            return
        kept = _table(memory.get("properties"))
        same = kept if kept.get("of") == self._mac else {}
        frame = await _confirmed(asks, [meter.GETTABLE], same.get("map"))
        edt = frame.properties.get(meter.GETTABLE)
        self._listed = _optional(lambda raw: frozenset(echonet.property_map(raw)), edt)
        told = [epc for epc in SCALING if self._listed is None or epc in self._listed] or [meter.UNIT]
        scaling = await _confirmed(asks, told, same.get("scaling"))
        self.scaling = _scaling(scaling)
        if self.scaling is None:
            log.warning("%s: the meter names no valid unit; its energies stay unknown", self._device)
        self.scaled = True
        now: dict[str, Json] = {"of": self._mac, "map": _hex(frame), "scaling": _hex(scaling)}
        kept_refusals: dict[str, Json] = {key: same[key] for key in ("refused",) if key in same}
        if now | kept_refusals != kept:
            await memory.update({"properties": now | kept_refusals})

    async def note_refusals(self, frame: Frame, memory: Memory) -> None:
        """Learn what a meter refuses again and again, from an answer that served something."""
        if not any(frame.properties.values()):
            return
        news = False
        for epc, edt in frame.properties.items():
            self._refusals[epc] = 0 if edt else self._refusals.get(epc, 0) + 1
            if self._refusals[epc] >= REFUSALS and not self._is_refused(epc):
                self._learnt[epc] = self._clock.boot_ms() + REFUSED_FOR_MS
                self._refusals[epc] = 0  # tried again, it must be refused as often to count
                news = True
        if news:
            ahead_ms = (self._clock.unix_ms() or 0) - self._clock.boot_ms()
            refused: dict[str, Json] = {
                f"{epc:02X}": until + ahead_ms for epc, until in self._learnt.items() if self._is_refused(epc)
            }
            await memory.update({"properties": _table(memory.get("properties")) | {"refused": refused}})

    def note_registers(self, values: Mapping[str, Value], at_ms: int) -> None:
        """Remember the registers just read: the first of this meter, and the last should it be exchanged."""
        self._first_at_ms = at_ms if not self._registers else self._first_at_ms
        self._registers = {name: str(values[name]) for name in _REGISTERS if values.get(name) is not None}

    async def name(self, asks: Asks, emit: Emit, memory: Memory) -> bool:
        """Ask who the meter is; returns whether it is another one than before. Silence costs some tries, no poll."""
        self._tried += 1
        try:
            told = await self._told(asks, emit, _table(memory.get("meter")))
        except NoAnswerError as error:
            log.debug("%s: does not say who it is: %s", self._device, error)
            if self._tried < IDENTITY_TRIES:
                return False
            told = {}
        kept = _table(memory.get("meter"))
        replaced = _is_another(kept, told.get("serial"), self._mac)
        former = kept.get("series")
        series = (former if isinstance(former, int) else 1) + replaced
        self.identity = {**told, "series": series}
        serial = told.get("serial") or (None if replaced else kept.get("serial"))
        self._keep = {"meter": {"serial": serial, "mac": self._mac, "series": series}}
        if not replaced:
            if self._keep["meter"] != kept:
                await memory.update(self._keep)
            self.ready.set()
        return replaced

    async def tell_replaced(
        self, emit: Emit, memory: Memory, last: datetime | None, remember: Mapping[str, Json]
    ) -> None:
        """Emit `meter_replaced` with the last registers of the former meter and the first of this one.

        The event has the time of that first reading: what is older belongs to the former series.
        """
        kept = _table(memory.get("meter"))
        registers = self._former or _table(memory.get("last_half_hour"))
        data: dict[str, Json] = {
            "last": {"serial": kept.get("serial"), **registers},
            "first": {"serial": self.identity.get("serial"), **self._registers},
            "last_half_hour": last.isoformat() if last else None,
            "series": self.identity.get("series"),
        }
        log.warning("%s: another meter answers: %s", self._device, self.identity.get("serial") or "without a serial")
        await emit(Event(self._device, "meter_replaced", self._first_at_ms, data), {**self._keep, **remember})
        self.ready.set()

    async def hear_fault(self, frame: Frame, emit: Emit) -> None:
        """Emit `meter_fault` when the meter begins or ends to call itself faulty (88)."""
        fault = _optional(meter.fault, frame.properties.get(meter.FAULT))
        if fault is None or fault == self.fault:
            return
        known, self.fault = self.fault is not None, fault
        if fault or known:
            log.warning("%s: %s", self._device, "says that it is faulty" if fault else "is no longer faulty")
            await emit(Event(self._device, "meter_fault", self._clock.boot_ms(), {"fault": fault}))

    async def _told(self, asks: Asks, emit: Emit, kept: Mapping[str, Json]) -> dict[str, Json]:
        wanted = self.offered(IDENTITY)
        if not wanted:
            return {}
        frame = await asks.get(wanted)
        told = _identity(frame)
        if kept.get("serial") and told.get("serial") not in (None, kept["serial"]):
            frame = await _confirmed(asks, wanted, None)
            told = _identity(frame)
        await self.hear_fault(frame, emit)
        return told


async def _confirmed(asks: Asks, epcs: Sequence[int], remembered: Json) -> Frame:
    """Return an answer that is as remembered, or that came twice in a row; raises NoAnswerError."""
    frame = await asks.get(epcs)
    if _hex(frame) == remembered:
        return frame
    for _ in range(MOST_READINGS):
        again = await asks.get(epcs)
        if again.properties == frame.properties:
            return again
        frame = again
    raise NoAnswerError("the meter says something else each time")


def _hex(frame: Frame) -> dict[str, Json]:
    return {f"{epc:02X}": edt.hex().upper() for epc, edt in frame.properties.items()}


def _table(kept: Json) -> dict[str, Json]:
    return kept if isinstance(kept, dict) else {}


def _epcs(kept: Json) -> dict[int, int]:
    """Return property → UTC in ms of what is remembered; whatever makes no sense is left out."""
    return {
        int(text, 16): until
        for text, until in _table(kept).items()
        if len(text) == 2 and all(digit in "0123456789ABCDEF" for digit in text) and isinstance(until, int)
    }


def _is_another(kept: Mapping[str, Json], serial: Json, mac: str) -> bool:
    """Tell whether a meter is not the one remembered: by its serial, else by its address."""
    if not kept:
        return False
    if serial and kept.get("serial"):
        return serial != kept["serial"]
    return bool(mac) and bool(kept.get("mac")) and mac != kept["mac"]


def _scaling(frame: Frame) -> Scaling | None:
    """Return the scaling that an answer to E1, D3, D7 gives; None without a valid unit."""
    unit = _optional(meter.unit_kwh, frame.properties.get(meter.UNIT))
    given = frame.properties.get(meter.COEFFICIENT)
    factor = _optional(meter.coefficient, given) if given else 1  # refused or not there means 1
    if unit is None or not factor:
        return None
    return Scaling(unit, factor, _optional(meter.digits, frame.properties.get(meter.DIGITS)))


def _optional(read: Callable[[bytes], T], edt: bytes | None) -> T | None:
    try:
        return read(edt) if edt else None
    except FrameError:
        return None


def _identity(frame: Frame) -> dict[str, Json]:
    maker, serial = (frame.properties.get(epc) or b"" for epc in (meter.MAKER, meter.SERIAL))
    told: dict[str, Json] = {}
    if len(maker) == 3:
        told["maker"] = meter.MAKERS.get(maker.hex().upper(), maker.hex().upper())
    if serial:
        told["serial"] = meter.text(serial)
    if (release := _optional(meter.release, frame.properties.get(meter.RELEASE))) is not None:
        told["release"] = release
    return told
