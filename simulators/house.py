"""One home's energy balance, second by second in whole watts: real load, real sun, a battery. Knows no device or clock.

load = grid + PV + battery in every second, and the registers are the exact sums of those watts. Losses of the battery
are left out: what it takes in at its AC side it gives back.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import hashlib
import io
import itertools
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from importlib import resources

from drivers.arguments import whole

SEED = whole(0, 999_999)
"""Which house it is, as an option: serial numbers have room for six digits."""
JST_S = 9 * 3600
DAY_S = 86_400
HALF_HOUR_S = 1_800
STEP_S = 10
"""Load and sun keep still this long; the battery's limits act on the second."""

WS_PER_WH = 3_600
WS_PER_KWH = 3_600_000

DEFAULT_START_MS = 1_780_239_600_000
"""2026-06-01T00:00:00+09:00."""

_KEPT_HALF_HOURS = 101 * 48
"""A meter remembers 99 days and today (EPC E5)."""

_KEPT_MINUTES = 24 * 60
"""What a meter of the second generation remembers here (EPC EE); the specification names no number."""

_DATA_PEAK_W = 5_000
_BATTERY_LIMIT_W = 2_500
_EVENING_HOURS = range(15, 24)
"""When the battery may serve the load; at night and in the morning it waits for the sun."""

_WINTER = frozenset({11, 12, 1, 2, 3, 4})
_RIPPLE_STEPS = 97
"""A prime, so that the ripple on the minutes' means does not keep step with minutes or hours."""


class UnknownTimeError(ValueError):
    """The house is past that second, or had not begun."""


@dataclass(frozen=True, slots=True)
class Balance:
    """Watts of the second that begins at `unix_ms`, and watt-seconds of everything before it; + flows into the bus."""

    unix_ms: int
    load_w: int
    pv_w: int
    battery_w: int
    grid_w: int
    soc_permille: int
    battery_wh: int
    import_ws: int
    export_ws: int
    pv_ws: int
    charge_ws: int
    discharge_ws: int


@dataclass(slots=True)
class _Registers:
    import_ws: int
    export_ws: int
    pv_ws: int
    charge_ws: int
    discharge_ws: int
    stored_ws: int


class House:
    """A house that depends on nothing but its arguments, so that several processes agree on it."""

    def __init__(
        self,
        seed: int = 1,
        start_ms: int = DEFAULT_START_MS,
        pv_peak_w: int = 5_000,
        battery_wh: int = 9_800,
    ) -> None:
        self.seed = seed
        self.start_ms = start_ms // 1000 * 1000
        self.pv_peak_w = pv_peak_w
        self.capacity_wh = battery_wh
        self.limit_w = _BATTERY_LIMIT_W if battery_wh else 0
        self._capacity_ws = battery_wh * WS_PER_WH
        self._reserve_ws = self._capacity_ws * draw(seed, "reserve", 150, 250) // 1000
        self._ripple_percent = tuple(draw(seed, f"ripple {n}", -6, 6) for n in range(_RIPPLE_STEPS))
        self._phase_min = draw(seed, "phase", -45, 45)
        self._second = start_ms // 1000
        self._registers = _Registers(
            import_ws=draw(seed, "import", 1_000 * WS_PER_KWH, 9_000 * WS_PER_KWH),
            export_ws=draw(seed, "export", 500 * WS_PER_KWH, 5_000 * WS_PER_KWH),
            pv_ws=draw(seed, "pv", 5_000 * WS_PER_KWH, 9_000 * WS_PER_KWH),
            charge_ws=(charged := draw(seed, "charge", 2_000 * WS_PER_KWH, 4_000 * WS_PER_KWH)),
            discharge_ws=charged - draw(seed, "discharge", 0, 200 * WS_PER_KWH),
            stored_ws=self._capacity_ws * draw(seed, "stored", 350, 650) // 1000,
        )
        self._half_hours: dict[int, Balance] = {}
        self._minutes: dict[int, tuple[int, int]] = {}
        self._day = -1
        self._day_load: tuple[int, ...] = ()
        self._day_pv: tuple[int, ...] = ()
        self._record_minute()
        self._record_half_hour()

    def at(self, unix_ms: int) -> Balance:
        """Return the balance of the second that holds `unix_ms`; raises UnknownTimeError before the last one asked."""
        second = unix_ms // 1000
        if second < self._second:
            raise UnknownTimeError(f"the house is already {self._second - second} s past that second")
        while self._second < second:
            self._advance(second)
        return self._balance()

    def half_hour(self, unix_ms: int) -> Balance:
        """Return the balance at the last :00 or :30 up to `unix_ms`; raises UnknownTimeError before the start."""
        boundary = unix_ms // 1000 // HALF_HOUR_S * HALF_HOUR_S
        if boundary > self._second:
            self.at(boundary * 1000)
        try:
            return self._half_hours[boundary]
        except KeyError:
            raise UnknownTimeError(f"the house does not know the half hour {boundary}") from None

    def registers_at_minute(self, unix_ms: int) -> tuple[int, int]:
        """Return import and export in watt-seconds at the last full minute up to `unix_ms`, a day back at most.

        Raises UnknownTimeError for a minute before that or before the start.
        """
        minute = unix_ms // 60_000 * 60
        if minute > self._second:
            self.at(minute * 1000)
        try:
            return self._minutes[minute]
        except KeyError:
            raise UnknownTimeError(f"the house does not know the minute {minute}") from None

    def currents_da(self, balance: Balance) -> tuple[int, int]:
        """Return the grid currents of phases R and T in 0.1 A at 100 V; PV and battery feed both alike, signed."""
        minute = balance.unix_ms // 60_000
        share = 500 + 15 * self._ripple_percent[minute % _RIPPLE_STEPS]
        r_w = balance.load_w * share // 1000 - (balance.pv_w + balance.battery_w) // 2
        r_da = r_w // 10
        return r_da, balance.grid_w // 10 - r_da

    def _advance(self, until: int) -> None:
        second = self._second
        run = min((second // STEP_S + 1) * STEP_S, until) - second
        load, pv = self._flows(second)
        while run > 0:
            battery, steady = self._battery(load, pv, self._second)
            span = run if steady == 0 else min(run, steady)
            self._integrate(load, pv, battery, span)
            run -= span
            self._second += span
        if self._second % 60 == 0:
            self._record_minute()
            self._record_half_hour()

    def _battery(self, load: int, pv: int, second: int) -> tuple[int, int]:
        """Return the battery's watts (+ discharge) and for how many seconds they can last; 0 = for ever."""
        surplus = pv - load
        wanted = min(surplus if surplus > 0 else self._evening_need(load, -surplus, second), self.limit_w)
        stored = self._registers.stored_ws
        room = self._capacity_ws - stored if surplus > 0 else max(stored - self._reserve_ws, 0)
        power = min(wanted, room)
        sign = -1 if surplus > 0 else 1
        return sign * power, room // power if power else 0

    @staticmethod
    def _evening_need(load: int, deficit: int, second: int) -> int:
        """Return what the battery should add; some import is left over, as a real one never exports what it stored."""
        if (second + JST_S) % DAY_S // 3600 not in _EVENING_HOURS:
            return 0
        return max(deficit - max(30, load // 16), 0)

    def _integrate(self, load: int, pv: int, battery: int, seconds: int) -> None:
        registers = self._registers
        grid = load - pv - battery
        registers.pv_ws += pv * seconds
        registers.stored_ws -= battery * seconds
        if grid > 0:
            registers.import_ws += grid * seconds
        else:
            registers.export_ws -= grid * seconds
        if battery > 0:
            registers.discharge_ws += battery * seconds
        else:
            registers.charge_ws -= battery * seconds

    def _balance(self) -> Balance:
        registers = self._registers
        load, pv = self._flows(self._second)
        battery, _ = self._battery(load, pv, self._second)
        return Balance(
            unix_ms=self._second * 1000,
            load_w=load,
            pv_w=pv,
            battery_w=battery,
            grid_w=load - pv - battery,
            soc_permille=registers.stored_ws * 1000 // self._capacity_ws if self._capacity_ws else 0,
            battery_wh=registers.stored_ws // WS_PER_WH,
            import_ws=registers.import_ws,
            export_ws=registers.export_ws,
            pv_ws=registers.pv_ws,
            charge_ws=registers.charge_ws,
            discharge_ws=registers.discharge_ws,
        )

    def _record_minute(self) -> None:
        if self._second % 60:
            return
        self._minutes[self._second] = self._registers.import_ws, self._registers.export_ws
        if len(self._minutes) > _KEPT_MINUTES:
            del self._minutes[next(iter(self._minutes))]

    def _record_half_hour(self) -> None:
        if self._second % HALF_HOUR_S:
            return
        self._half_hours[self._second] = self._balance()
        if len(self._half_hours) > _KEPT_HALF_HOURS:
            del self._half_hours[next(iter(self._half_hours))]

    def _flows(self, second: int) -> tuple[int, int]:
        """Return load and PV in W, the same for a whole step."""
        day, of_day = divmod(second + JST_S, DAY_S)
        if day != self._day:
            self._day, self._day_load, self._day_pv = day, *self._choose(day)
        minute = of_day // 60
        mean = self._day_load[minute]
        return mean + mean * self._ripple_percent[second // STEP_S % _RIPPLE_STEPS] // 100, self._day_pv[minute]

    def _choose(self, day: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return 1,440 minutes of load and of PV in W for a Japanese day, counted from 1970-01-01."""
        winter = (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(days=day)).month in _WINTER
        loads, suns = (_real_days("02"), _real_suns("03")) if winter else (_real_days("07"), _real_suns("07"))
        scale = draw(self.seed, "scale", 450, 700) if winter else draw(self.seed, "scale", 700, 1000)
        load = loads[draw(self.seed, f"load {day}", 0, len(loads) - 1)]
        sun = suns[draw(self.seed, f"sun {day}", 0, len(suns) - 1)]
        shifted = (load[(minute + self._phase_min) % 1440] for minute in range(1440))
        peak = self.pv_peak_w * (draw(self.seed, f"sky {day}", 300, 900) if winter else 1000) // 1000
        return tuple(watts * scale // 1000 for watts in shifted), tuple(watts * peak // _DATA_PEAK_W for watts in sun)


def draw(seed: int, what: str, low: int, high: int) -> int:
    """Return a whole number from `low` to `high` that the seed and a name decide, the same on every machine."""
    digest = hashlib.blake2b(f"{seed} {what}".encode(), digest_size=8).digest()
    return low + int.from_bytes(digest) % (high - low + 1)


@cache
def _real_days(month: str) -> tuple[tuple[int, ...], ...]:
    return _days(_rows("load_1min.csv.gz"), month, minutes=1)


@cache
def _real_suns(month: str) -> tuple[tuple[int, ...], ...]:
    if month == "03":
        return _days(_rows("pv_1min.csv.gz"), month, minutes=1)
    return _days(_rows("pv_15min.csv"), "07", minutes=15) + _days(_rows("pv_15min.csv"), "08", minutes=15)


@cache
def _rows(name: str) -> tuple[tuple[str, int], ...]:
    raw = resources.files("simulators").joinpath("data", name).read_bytes()
    text = gzip.decompress(raw) if name.endswith(".gz") else raw
    rows = csv.reader(io.StringIO(text.decode()))
    next(rows)
    return tuple((time, int(watts)) for time, watts in rows)


def _days(rows: tuple[tuple[str, int], ...], month: str, *, minutes: int) -> tuple[tuple[int, ...], ...]:
    """Return each day of a month as 1,440 minutes in W: missing ones 0, points further apart joined by lines."""
    points: dict[str, list[int]] = {}
    for time, watts in rows:
        if time[5:7] == month:
            day = points.setdefault(time[:10], [0] * (1440 // minutes + 1))
            day[(int(time[11:13]) * 60 + int(time[14:16])) // minutes] = watts
    return tuple(tuple(_joined(day, minutes)) for day in points.values())


def _joined(points: list[int], minutes: int) -> list[int]:
    return [
        left + (right - left) * step // minutes for left, right in itertools.pairwise(points) for step in range(minutes)
    ]


def add_house_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say which house it is; simulators with the same ones agree."""
    parser.add_argument(
        "--seed", type=SEED, default=1, help="which house: load, sun, battery and registers (default 1)"
    )
    parser.add_argument(
        "--pv-peak-w", type=whole(0, 1_000_000), default=5_000, help="peak power of the PV plant (default 5000)"
    )
    parser.add_argument(
        "--battery-wh", type=whole(0, 1_000_000), default=9_800, help="capacity of the battery (default 9800)"
    )


def house_from(args: argparse.Namespace, start_ms: int) -> House:
    """Return the house of a simulator's options."""
    return House(args.seed, start_ms, pv_peak_w=args.pv_peak_w, battery_wh=args.battery_wh)
