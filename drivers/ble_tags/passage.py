"""Turn packets of one pole's tags into passages. Pure: time comes as an argument, in boot-clock milliseconds.

A tag arrives with `arrive_packets` packets within `arrive_window_ms` and has left after `leave_after_ms` of silence;
"present" means in radio range of this pole, because signal strength tells no metres. Silence counts only while
the scanner listens: deaf time moves every deadline. State exists for enrolled tags only and is bounded.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

MAX_PRESENT = 5_000
"""More tags than any street holds; an arrival beyond it is counted, not followed."""


@dataclass(frozen=True, slots=True)
class Rules:
    """When a tag has arrived and when it has left."""

    arrive_packets: int = 2
    arrive_window_ms: int = 10_000
    leave_after_ms: int = 20_000


@dataclass(frozen=True, slots=True)
class Arrived:
    """A tag is here since `at_ms`, the first packet that counted; `rssi` is the last one's, None when unknown."""

    tag: str
    at_ms: int
    rssi: int | None


@dataclass(frozen=True, slots=True)
class Passage:
    """What is known of a stay: first, last and strongest packet (ms), packets, strongest signal, deaf ms within."""

    tag: str
    first_ms: int
    last_ms: int
    closest_ms: int | None
    packets: int
    peak_rssi: int | None
    deaf_ms: int = 0


@dataclass(frozen=True, slots=True)
class Left(Passage):
    """A passage that is over."""


class _Stay:
    """A passage under way; `heard_ms` is its last packet on the clock of listened time."""

    __slots__ = ("closest_ms", "first_ms", "heard_ms", "heard_since_ms", "last_ms", "packets", "peak_rssi", "tag")

    def __init__(self, passage: Passage, heard_ms: int, heard_since_ms: int) -> None:
        self.tag = passage.tag
        self.first_ms = passage.first_ms
        self.last_ms = passage.last_ms
        self.closest_ms = passage.closest_ms
        self.packets = passage.packets
        self.peak_rssi = passage.peak_rssi
        self.heard_ms = heard_ms
        self.heard_since_ms = heard_since_ms

    def add(self, at_ms: int, heard_ms: int, rssi: int | None) -> None:
        self.last_ms, self.heard_ms = at_ms, heard_ms
        self.packets += 1
        if rssi is not None and (self.peak_rssi is None or rssi > self.peak_rssi):
            self.peak_rssi, self.closest_ms = rssi, at_ms

    def values(self) -> tuple[str, int, int, int | None, int, int | None, int]:
        deaf_ms = (self.last_ms - self.first_ms) - (self.heard_ms - self.heard_since_ms)
        return (self.tag, self.first_ms, self.last_ms, self.closest_ms, self.packets, self.peak_rssi, max(0, deaf_ms))


class Passages:
    """Who is in radio range. Feed it every packet of enrolled tags, and ask it now and then who fell silent."""

    def __init__(self, rules: Rules, max_present: int = MAX_PRESENT) -> None:
        self.rules = rules
        self.crowded = 0
        self._max_present = max_present
        self._stays: dict[str, _Stay] = {}
        self._waiting: dict[str, deque[tuple[int, int, int | None]]] = {}
        self._latest_ms: int | None = None
        self._deaf_since_ms: int | None = None
        self._deaf_ms = 0

    @property
    def present(self) -> int:
        """How many tags are here."""
        return len(self._stays)

    @property
    def waiting(self) -> int:
        """How many tags were heard too seldom to have arrived."""
        return len(self._waiting)

    def stays(self, wanted: Callable[[str], bool] | None = None) -> list[Passage]:
        """Return the passages under way, or those of the tags wanted."""
        return [Passage(*stay.values()) for tag, stay in self._stays.items() if wanted is None or wanted(tag)]

    def heard(self, tag: str, at_ms: int, rssi: int | None) -> list[Arrived | Left]:
        """Take a packet in; returns what it brought about (a stay that had ended in silence ends first)."""
        if self._deaf_since_ms is not None and at_ms > self._deaf_since_ms:
            self._listen(self._advance(at_ms))  # a packet proves that the scanner hears
        at_ms = self._advance(at_ms)
        heard_ms = at_ms - self._deaf_ms
        stay = self._stays.get(tag)
        if stay is not None and heard_ms - stay.heard_ms < self.rules.leave_after_ms:
            stay.add(at_ms, heard_ms, rssi)
            return []
        outcome: list[Arrived | Left] = []
        if stay is not None:
            outcome.append(self._end(stay))
        if arrived := self._count(tag, at_ms, heard_ms, rssi):
            outcome.append(arrived)
        return outcome

    def silent(self, now_ms: int) -> list[Left]:
        """Return the passages that silence has ended, longest silent first; none while the scanner is deaf."""
        now_ms = self._advance(now_ms)
        if self._deaf_since_ms is not None:
            return []
        quiet_before = now_ms - self._deaf_ms - self.rules.leave_after_ms
        for tag in [tag for tag, packets in self._waiting.items() if self._stale(packets, now_ms - self._deaf_ms)]:
            del self._waiting[tag]
        over = sorted(
            (stay for stay in self._stays.values() if stay.heard_ms <= quiet_before), key=lambda stay: stay.heard_ms
        )
        return [self._end(stay) for stay in over]

    def deaf(self, now_ms: int) -> None:
        """Say that the scanner hears nothing from now on: silence means nothing until `hearing`."""
        now_ms = self._advance(now_ms)
        if self._deaf_since_ms is None:
            self._deaf_since_ms = now_ms

    def hearing(self, now_ms: int) -> None:
        """Say that the scanner hears again."""
        self._listen(self._advance(now_ms))

    def missed(self, duration_ms: int) -> None:
        """Say that the last `duration_ms` went unheard, because this program did not run."""
        if self._deaf_since_ms is None:
            self._deaf_ms += max(0, duration_ms)

    def resume(self, passages: Iterable[Passage], now_ms: int) -> None:
        """Go on with passages of an earlier run; the time since their last packet counts as unheard."""
        now_ms = self._advance(now_ms)
        for passage in passages:
            if passage.tag not in self._stays and len(self._stays) < self._max_present:
                heard_ms = now_ms - self._deaf_ms
                listened_ms = passage.last_ms - passage.first_ms - passage.deaf_ms
                self._stays[passage.tag] = _Stay(passage, heard_ms, heard_ms - listened_ms)

    def forget(self, keep: frozenset[str]) -> list[str]:
        """Drop without a trace what is known of tags that are no longer enrolled; returns their names."""
        gone = [tag for tag in self._stays if tag not in keep]
        for tag in gone:
            del self._stays[tag]
        for tag in [tag for tag in self._waiting if tag not in keep]:
            del self._waiting[tag]
        return gone

    def _advance(self, now_ms: int) -> int:
        """Return the time, never before one seen earlier."""
        if self._latest_ms is None or now_ms > self._latest_ms:
            self._latest_ms = now_ms
        return self._latest_ms

    def _listen(self, now_ms: int) -> None:
        if self._deaf_since_ms is not None:
            self._deaf_ms += now_ms - self._deaf_since_ms
            self._deaf_since_ms = None

    def _stale(self, packets: deque[tuple[int, int, int | None]], heard_ms: int) -> bool:
        return heard_ms - packets[-1][1] > self.rules.arrive_window_ms

    def _count(self, tag: str, at_ms: int, heard_ms: int, rssi: int | None) -> Arrived | None:
        """Count a packet of a tag that is not here; returns its arrival when there are enough close together."""
        packets = self._waiting.setdefault(tag, deque(maxlen=self.rules.arrive_packets))
        packets.append((at_ms, heard_ms, rssi))
        first_ms, first_heard_ms, first_rssi = packets[0]
        if len(packets) < self.rules.arrive_packets or heard_ms - first_heard_ms > self.rules.arrive_window_ms:
            return None
        if len(self._stays) >= self._max_present:
            self.crowded += 1
            return None
        closest_ms = None if first_rssi is None else first_ms
        stay = _Stay(Passage(tag, first_ms, first_ms, closest_ms, 1, first_rssi), first_heard_ms, first_heard_ms)
        for packet in list(packets)[1:]:
            stay.add(*packet)
        del self._waiting[tag]
        self._stays[tag] = stay
        return Arrived(tag, first_ms, rssi)

    def _end(self, stay: _Stay) -> Left:
        del self._stays[stay.tag]
        return Left(*stay.values())
