"""A low-voltage smart meter as an ECHONET Lite node: requests in, answers out. Knows no dongle, no radio and no driver.

Written from the ECHONET Lite specification and Appendix class 0288, with a small codec of its own, so that it can
disagree with the driver that reads it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from decimal import Decimal

from simulators.clock import JST
from simulators.house import HALF_HOUR_S, WS_PER_KWH, Balance, House, UnknownTimeError
from simulators.log import Served

METER = bytes.fromhex("028801")
NODE = bytes.fromhex("0EF001")
CONTROLLER = bytes.fromhex("05FF01")

MOST_PROPERTIES = 6
"""The interface specification asks a meter to take six properties in a request; this one takes no more."""

NOBODYS_POWER_W = 99_999
"""More than any house's main breaker lets through."""
NO_COUNT = bytes.fromhex("FFFFFFFE")
NO_CURRENT = bytes.fromhex("7FFE")
_DAY_UNSET = 0xFF
_PAIRS_UNSET = bytes.fromhex("FFFFFFFFFFFF01")
_MOST_PAIRS, _MOST_MINUTES = 12, 10
_OLDEST_DAY = 99

UNITS = {
    "1": (0x00, Decimal(1)),
    "0.1": (0x01, Decimal("0.1")),
    "0.01": (0x02, Decimal("0.01")),
    "0.001": (0x03, Decimal("0.001")),
    "0.0001": (0x04, Decimal("0.0001")),
}
"""Text of --unit to the code of E1 and the unit in kWh."""

Property = tuple[int, bytes]


@dataclass(frozen=True, slots=True)
class Frame:
    """One ECHONET Lite frame of format 1; `second` is the Get half of a SetGet."""

    tid: bytes
    source: bytes
    destination: bytes
    service: int
    properties: tuple[Property, ...]
    second: tuple[Property, ...] = ()

    def encode(self) -> bytes:
        """Return the frame's bytes."""
        lists = [self.properties, self.second] if self.service in {0x6E, 0x7E, 0x5E} else [self.properties]
        body = b"".join(bytes([len(part)]) + b"".join(bytes([c, len(d)]) + d for c, d in part) for part in lists)
        return b"\x10\x81" + self.tid + self.source + self.destination + bytes([self.service]) + body


def parse(data: bytes) -> Frame | None:
    """Return the frame, or None for bytes that a node ignores: another format, a wrong length, a cut property."""
    if len(data) < 12 or data[:2] != b"\x10\x81":
        return None
    lists, offset = [], 11
    for _ in range(2 if data[10] == 0x6E else 1):
        taken = _take(data, offset)
        if taken is None:
            return None
        properties, offset = taken
        lists.append(properties)
    if offset != len(data):
        return None
    return Frame(data[2:4], data[4:7], data[7:10], data[10], lists[0], lists[1] if len(lists) > 1 else ())


def _take(data: bytes, offset: int) -> tuple[tuple[Property, ...], int] | None:
    if offset >= len(data):
        return None
    count, offset, properties = data[offset], offset + 1, []
    for _ in range(count):
        if offset + 2 > len(data) or offset + 2 + data[offset + 1] > len(data):
            return None
        end = offset + 2 + data[offset + 1]
        properties.append((data[offset], data[offset + 2 : end]))
        offset = end
    return tuple(properties), offset


def property_map(codes: set[int]) -> bytes:
    """Return a property map: a list below sixteen entries, a bitmap from sixteen on."""
    if len(codes) < 16:
        return bytes([len(codes), *sorted(codes)])
    rows = bytearray(16)
    for code in codes:
        rows[code & 0x0F] |= 1 << ((code >> 4) - 8)
    return bytes([len(codes)]) + bytes(rows)


@dataclass(frozen=True, slots=True)
class Nameplate:
    """What is printed on this meter and how it is wired; what ails it.

    `release`: of the Appendix, a letter; from R on it is of the second generation and has C0, D0, EE and EF.
    `pairs`: it has EC and ED. `exchanged_ms`: from this half hour on another meter hangs there, which counts from zero.
    """

    serial: str = "SIM0000001"
    maker: bytes = bytes.fromhex("000016")
    release: str = "F"
    unit: str = "0.1"
    coefficient: int = 1
    digits: int = 6
    two_wire: bool = False
    pairs: bool = False
    fault: bool = False
    clock_error_s: int = 0
    exchanged_ms: int | None = None
    next_serial: str = "SIM0000002"
    without: frozenset[int] = frozenset()

    @property
    def counts_minutes(self) -> bool:
        """Whether it is a meter of the second generation."""
        return self.release >= "R"


@dataclass(slots=True)
class Answer:
    """A frame to send, and what it says in the vocabulary: one dict for now, one per half hour or minute it names."""

    frame: Frame
    values: dict[str, Served] = field(default_factory=dict)
    half_hours: dict[datetime, dict[str, Served]] = field(default_factory=dict)


class Meter:
    """The meter's memory and its rules; asks the house what flows, and `now_ms` (simulated UTC) what time it is."""

    def __init__(self, house: House, now_ms: Callable[[], int], nameplate: Nameplate | None = None) -> None:
        self.nameplate = nameplate or Nameplate()
        self._house = house
        self._now_ms = now_ms
        self._moment_ms = 0  # one answer speaks of one moment
        self._unit_code, self._unit_kwh = UNITS[self.nameplate.unit]
        self._location = b"\x61"
        self._day = _DAY_UNSET
        self._pairs_from = self._minutes_from = _PAIRS_UNSET
        self._tid = 0
        self.refused: frozenset[int] = frozenset()
        """Properties that it lists and yet answers without data."""
        self._hangs_since: Balance | None = None
        readers: dict[int, Callable[[Answer], bytes]] = {
            0x80: lambda _: b"\x30",
            0x81: lambda _: self._location,
            0x82: lambda _: b"\x00\x00" + self.nameplate.release.encode("ascii") + b"\x00",
            0x88: lambda _: b"\x41" if self.nameplate.fault else b"\x42",
            0x8A: lambda _: self.nameplate.maker,
            0x8D: lambda _: self._serial().encode("ascii")[:12].ljust(12, b"\x00"),
            0x97: lambda _: bytes([self._shown().hour, self._shown().minute]),
            0x98: lambda _: _date(self._shown()),
            0x9D: lambda _: property_map({0x80, 0x81, 0x88}),
            0x9E: lambda _: property_map({0x81, 0xE5} | ({0xED, 0xEF} & self._readers.keys())),
            0x9F: lambda _: property_map(set(self._readers)),
            0xD3: lambda _: self.nameplate.coefficient.to_bytes(4),
            0xD7: lambda _: bytes([self.nameplate.digits]),
            0xE0: lambda answer: self._count_now(answer, "import"),
            0xE1: lambda _: bytes([self._unit_code]),
            0xE2: lambda answer: self._history(answer, "import"),
            0xE3: lambda answer: self._count_now(answer, "export"),
            0xE4: lambda answer: self._history(answer, "export"),
            0xE5: lambda _: bytes([self._day]),
            0xE7: self._power,
            0xE8: self._currents,
            0xEA: lambda answer: self._at_half_hour(answer, "import"),
            0xEB: lambda answer: self._at_half_hour(answer, "export"),
        }
        if self.nameplate.pairs:
            readers |= {0xEC: self._pairs, 0xED: lambda _: self._pairs_from}
        if self.nameplate.counts_minutes:
            readers |= {
                0xC0: lambda _: b"\x00" + self.nameplate.maker + self._serial().encode("ascii")[:12].ljust(12, b"\x00"),
                0xD0: self._at_minute,
                0xEE: self._minutes,
                0xEF: lambda _: self._minutes_from,
            }
        self._readers = {code: reader for code, reader in readers.items() if code not in self.nameplate.without}
        self._node: Mapping[int, Callable[[Answer], bytes]] = {
            0x80: lambda _: b"\x30",
            0x82: lambda _: bytes.fromhex("010C0100"),
            0x8A: lambda _: self.nameplate.maker,
            0x9D: lambda _: property_map({0x80, 0xD5}),
            0x9E: lambda _: property_map(set()),
            0x9F: lambda _: property_map(set(self._node)),
            0xD3: lambda _: (1).to_bytes(3),
            0xD4: lambda _: (2).to_bytes(2),
            0xD5: lambda _: b"\x01" + METER,
            0xD6: lambda _: b"\x01" + METER,
            0xD7: lambda _: b"\x01" + METER[:2],
        }

    def answer(self, data: bytes) -> Answer | None:
        """Return what the meter says to a frame, or None when it says nothing."""
        frame = parse(data)
        if frame is None:
            return None
        self._moment_ms = self._now_ms()
        for name, readers in ((METER, self._readers), (NODE, self._node)):
            if frame.destination in {name, name[:2] + b"\x00"}:
                return self._serve(frame, name, readers)
        return None

    def instance_list(self) -> Answer:
        """Return the INF D5 that a meter multicasts after it was joined."""
        self._moment_ms = self._now_ms()
        answer = Answer(Frame(self._next_tid(), NODE, NODE, 0x73, ()))
        return self._filled(answer, self._node, (0xD5,))

    def half_hour_notice(self, service: int) -> Answer:
        """Return the notification (73 INF or 74 INFC) of the registers at the last :00 or :30."""
        return self.notice(service, (0xEA, 0xEB))

    def notice(self, service: int, codes: Iterable[int], tid: bytes | None = None) -> Answer:
        """Return a notification (73 INF or 74 INFC) of those properties that it has, with a TID of its own or `tid`."""
        self._moment_ms = self._now_ms()
        answer = Answer(Frame(tid or self._next_tid(), METER, CONTROLLER, service, ()))
        return self._filled(answer, self._readers, tuple(code for code in codes if code in self._readers))

    def stray(self, data: bytes, tid: bytes) -> Answer | None:
        """Return the answer to the same question under another TID, with a power that no house has."""
        answer = self.answer(data)
        if answer is None:
            return None
        told = ((c, NOBODYS_POWER_W.to_bytes(4) if c == 0xE7 else edt) for c, edt in answer.frame.properties)
        return Answer(replace(answer.frame, tid=tid, properties=tuple(told)))

    def exchange(self, serial: str) -> None:
        """Hang another meter there, which counts from zero and remembers nothing."""
        self._moment_ms = self._now_ms()
        self._hangs_since = self._balance()
        self._day, self._pairs_from, self._minutes_from = _DAY_UNSET, _PAIRS_UNSET, _PAIRS_UNSET
        self.nameplate = replace(self.nameplate, serial=serial, exchanged_ms=None)

    def _serve(self, frame: Frame, name: bytes, readers: Mapping[int, Callable[[Answer], bytes]]) -> Answer | None:
        match frame.service:
            case 0x62:
                return self._get(frame, name, readers, 0x72, 0x52)
            case 0x63:
                return self._get(frame, name, readers, 0x73, 0x53)
            case 0x60 | 0x61:
                return self._set(frame, name)
            case 0x6E:
                return self._set_get(frame, name, readers)
            case 0x74:
                return Answer(Frame(frame.tid, name, frame.source, 0x7A, tuple((c, b"") for c, _ in frame.properties)))
            case _:
                return None

    def _get(
        self, frame: Frame, name: bytes, readers: Mapping[int, Callable[[Answer], bytes]], done: int, refused: int
    ) -> Answer:
        """Serve the first six properties; more, or an unknown one, make it the refusal that still carries the rest."""
        answer = Answer(Frame(frame.tid, name, frame.source, done, ()))
        properties = self._read(answer, readers, [code for code, _ in frame.properties])
        refusal = any(data is None for _, data in properties)
        answer.frame = Frame(
            frame.tid,
            name,
            frame.source,
            refused if refusal else done,
            tuple((code, data or b"") for code, data in properties),
        )
        return answer

    def _set(self, frame: Frame, name: bytes) -> Answer | None:
        properties, refused = self._write(name, frame.properties)
        if frame.service == 0x60:
            return Answer(Frame(frame.tid, name, frame.source, 0x50, properties)) if refused else None
        return Answer(Frame(frame.tid, name, frame.source, 0x51 if refused else 0x71, properties))

    def _set_get(self, frame: Frame, name: bytes, readers: Mapping[int, Callable[[Answer], bytes]]) -> Answer:
        written, refused = self._write(name, frame.properties)
        answer = Answer(Frame(frame.tid, name, frame.source, 0x7E, ()))
        read = self._read(answer, readers, [code for code, _ in frame.second])
        refused = refused or any(data is None for _, data in read)
        answer.frame = Frame(
            frame.tid,
            name,
            frame.source,
            0x5E if refused else 0x7E,
            written,
            tuple((code, data or b"") for code, data in read),
        )
        return answer

    def _write(self, name: bytes, properties: tuple[Property, ...]) -> tuple[tuple[Property, ...], bool]:
        """Return each code, with no data when it was taken and its own when it was refused, and whether any was."""
        taken = [
            number < MOST_PROPERTIES and name == METER and self._take_value(code, data)
            for number, (code, data) in enumerate(properties)
        ]
        returned = tuple((code, b"" if ok else data) for (code, data), ok in zip(properties, taken, strict=True))
        return returned, not all(taken)

    def _take_value(self, code: int, data: bytes) -> bool:
        if code == 0xE5 and len(data) == 1 and (data[0] <= _OLDEST_DAY or data[0] == _DAY_UNSET):
            self._day = data[0]
            return True
        if code == 0xED and code in self._readers and _is_pairs_request(data, _MOST_PAIRS, 30):
            self._pairs_from = data
            return True
        if code == 0xEF and code in self._readers and _is_pairs_request(data, _MOST_MINUTES, 1):
            self._minutes_from = data
            return True
        if code == 0x81 and len(data) in {1, 17}:
            self._location = data
            return True
        return False

    def _read(
        self, answer: Answer, readers: Mapping[int, Callable[[Answer], bytes]], codes: list[int]
    ) -> list[tuple[int, bytes | None]]:
        return [
            (code, readers[code](answer) if self._serves(code, readers) and number < MOST_PROPERTIES else None)
            for number, code in enumerate(codes)
        ]

    def _serves(self, code: int, readers: Mapping[int, Callable[[Answer], bytes]]) -> bool:
        return code in readers and not (code in self.refused and readers is self._readers)

    def _filled(
        self, answer: Answer, readers: Mapping[int, Callable[[Answer], bytes]], codes: tuple[int, ...]
    ) -> Answer:
        frame = answer.frame
        properties = tuple((code, readers[code](answer)) for code in codes)
        answer.frame = Frame(frame.tid, frame.source, frame.destination, frame.service, properties)
        return answer

    def _next_tid(self) -> bytes:
        self._tid = self._tid % 0xFFFF + 1
        return self._tid.to_bytes(2)

    def _local(self) -> datetime:
        return datetime.fromtimestamp(self._moment_ms / 1000, JST)

    def _shown(self) -> datetime:
        return self._local() + timedelta(seconds=self.nameplate.clock_error_s)

    def _exchanged(self, at_ms: int) -> bool:
        return self.nameplate.exchanged_ms is not None and at_ms >= self.nameplate.exchanged_ms

    def _began(self, at_ms: int) -> Balance | None:
        """Return what the house had counted when the meter of that time was hung up; None for the first."""
        if self.nameplate.exchanged_ms is not None and self._exchanged(at_ms):
            return self._house.half_hour(self.nameplate.exchanged_ms)
        return self._hangs_since

    def _remembers(self, at_ms: int) -> bool:
        if at_ms > self._moment_ms or self._exchanged(self._moment_ms) != self._exchanged(at_ms):
            return False
        return self._hangs_since is None or at_ms >= self._hangs_since.unix_ms

    def _serial(self) -> str:
        return self.nameplate.next_serial if self._exchanged(self._moment_ms) else self.nameplate.serial

    def _balance(self) -> Balance:
        return self._house.at(self._moment_ms)

    def _power(self, answer: Answer) -> bytes:
        watts = self._balance().grid_w
        answer.values["grid_power_w"] = watts
        return watts.to_bytes(4, signed=True)

    def _currents(self, answer: Answer) -> bytes:
        balance = self._balance()
        if self.nameplate.two_wire:
            total = balance.grid_w // 10
            answer.values |= {"current_r_a": total / 10, "current_t_a": None}
            return total.to_bytes(2, signed=True) + NO_CURRENT
        r, t = self._house.currents_da(balance)
        answer.values |= {"current_r_a": r / 10, "current_t_a": t / 10}
        return r.to_bytes(2, signed=True) + t.to_bytes(2, signed=True)

    def _count(self, balance: Balance, way: str) -> int:
        return self._shown_count(_register_ws(balance, way), balance.unix_ms, way)

    def _shown_count(self, watt_seconds: int, at_ms: int, way: str) -> int:
        """Return the register as the display counts it: whole units, rolling over at its digits."""
        if (began := self._began(at_ms)) is not None:
            watt_seconds -= _register_ws(began, way)
        step_ws = int(self._unit_kwh * WS_PER_KWH) * self.nameplate.coefficient
        return int(watt_seconds // step_ws % 10**self.nameplate.digits)

    def _kwh(self, count: int) -> Decimal:
        return count * self._unit_kwh * self.nameplate.coefficient

    def _count_now(self, answer: Answer, way: str) -> bytes:
        count = self._count(self._balance(), way)
        answer.values[f"{way}_energy_kwh"] = self._kwh(count)
        return count.to_bytes(4)

    def _at_half_hour(self, answer: Answer, way: str) -> bytes:
        boundary_s = self._moment_ms // 1000 // HALF_HOUR_S * HALF_HOUR_S
        at = datetime.fromtimestamp(boundary_s, JST)
        return _date(at) + bytes([at.hour, at.minute, at.second]) + self._slot(answer, at, way)

    def _history(self, answer: Answer, way: str) -> bytes:
        """Return day number and 48 slots of the chosen day; E5 unset or a slot not known yet gives "no data"."""
        if self._day == _DAY_UNSET:
            return _DAY_UNSET.to_bytes(2) + NO_COUNT * 48
        midnight = self._shown().replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=self._day)
        slots = (self._slot(answer, midnight + timedelta(minutes=30 * number), way) for number in range(48))
        return self._day.to_bytes(2) + b"".join(slots)

    def _pairs(self, answer: Answer) -> bytes:
        """Return the half hours back from the one that ED names."""
        if self._pairs_from == _PAIRS_UNSET:
            return _PAIRS_UNSET + NO_COUNT * 2
        newest = _moment_of(self._pairs_from)
        moments = (newest - timedelta(minutes=30 * back) for back in range(self._pairs_from[6]))
        slots = (self._slot(answer, at, way) for at in moments for way in ("import", "export"))
        return self._pairs_from + b"".join(slots)

    def _at_minute(self, answer: Answer) -> bytes:
        named = self._shown().replace(second=0, microsecond=0)
        return _date(named) + bytes([named.hour, named.minute, 0]) + self._both_at(answer, named)

    def _minutes(self, answer: Answer) -> bytes:
        """Return the minutes back from the one that EF names."""
        if self._minutes_from == _PAIRS_UNSET:
            return _PAIRS_UNSET + NO_COUNT * 2
        newest = _moment_of(self._minutes_from)
        moments = (newest - timedelta(minutes=back) for back in range(self._minutes_from[6]))
        return self._minutes_from + b"".join(self._both_at(answer, at) for at in moments)

    def _both_at(self, answer: Answer, named: datetime) -> bytes:
        """Return both registers at what was a minute by the meter's own clock."""
        at_ms = (round(named.timestamp()) - self.nameplate.clock_error_s) // 60 * 60_000
        if not self._remembers(at_ms):
            return NO_COUNT * 2
        try:
            registers = self._house.registers_at_minute(at_ms)
        except UnknownTimeError:
            return NO_COUNT * 2
        counts = b""
        for way, register, watt_seconds in zip(("import", "export"), (0xE0, 0xE3), registers, strict=True):
            if register not in self._readers:
                counts += NO_COUNT
                continue
            count = self._shown_count(watt_seconds, at_ms, way)
            answer.half_hours.setdefault(named, {})[f"{way}_energy_at_1min_kwh"] = self._kwh(count)
            counts += count.to_bytes(4)
        return counts

    def _slot(self, answer: Answer, at: datetime, way: str) -> bytes:
        at_ms = round(at.timestamp() * 1000)
        if not self._remembers(at_ms):
            return NO_COUNT
        try:
            count = self._count(self._house.half_hour(at_ms), way)
        except UnknownTimeError:
            return NO_COUNT
        answer.half_hours.setdefault(at, {})[f"{way}_energy_at_30min_kwh"] = self._kwh(count)
        return count.to_bytes(4)


def _register_ws(balance: Balance, way: str) -> int:
    return balance.import_ws if way == "import" else balance.export_ws


def _is_pairs_request(data: bytes, most: int, step_min: int) -> bool:
    """Tell whether data are a moment that exists and has a reading, and a number of them."""
    if len(data) != 7 or not 1 <= data[6] <= most or data[5] % step_min:
        return False
    try:
        _moment_of(data)
    except ValueError:
        return False
    return True


def _moment_of(request: bytes) -> datetime:
    """Return the moment that ED or EF names; raises ValueError."""
    month, day, hour, minute = request[2:6]
    return datetime(int.from_bytes(request[:2]), month, day, hour, minute, tzinfo=JST)


def _date(moment: datetime) -> bytes:
    return moment.year.to_bytes(2) + bytes([moment.month, moment.day])
