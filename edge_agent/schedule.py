"""What may be sent when: window, patience, pace and suspicion. Pure: sends nothing, and time is an argument."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from edge_agent.backoff import spread
from edge_agent.batches import Key

WINDOW = 8
LIVE_SLOTS = 2
"""Slots that a backlog never takes from the newest batches."""
PATIENCE_S = 20.0
MAX_PATIENCE_S = 300.0
REFUSED_S = 2.0
"""What the broker says it did not deliver need not be waited for as long; doubling like the rest."""
RATE_PER_S = 5.0
BURST = 5.0
MAX_TRACKED = 10_000
MIN_PAYLOAD_BYTES = 1024
GROW_S = 600.0
"""How long a payload size that ended connections is avoided before a larger one is tried."""
STRIKES_HALVE = 2
STRIKES_ASIDE = 4
STRIKE_WITHIN_S = 10.0
"""A connection that ends later than this after a publish did not end because of it."""


@dataclass(slots=True, eq=False)
class Flight:
    """One message on its way: `keys` the aggregator has not acknowledged, `confirmed` once the broker's PUBACK came."""

    keys: set[Key]
    size: int
    backfill: bool
    sent_s: float
    due_s: float
    confirmed: bool = False

    def is_over(self, now_s: float) -> bool:
        """Tell whether nothing more is expected of it."""
        return self.confirmed and (not self.keys or now_s >= self.due_s)


@dataclass(slots=True)
class _Tracked:
    attempts: int
    due_s: float


class Schedule:
    """Which batches are on their way, how patiently each is waited for, and how many may fly at once."""

    def __init__(self) -> None:
        self.flights: list[Flight] = []
        self._tracked: dict[Key, _Tracked] = {}
        self._window = WINDOW
        self._tokens = BURST
        self._tokens_s = 0.0
        self._probes = 0
        self._probe_s = 0.0
        self._answer_s = float("-inf")
        self.answering = False
        """Whether the aggregator's word can be expected: True from an acknowledgement until patience ends."""

    def __contains__(self, key: object) -> bool:
        return key in self._tracked

    def connected(self, now_s: float, receive_maximum: int, backfill_after_s: float) -> None:
        """Start a connection; the backlog waits a little, so that a fleet does not speak all at once."""
        self._window = max(1, min(WINDOW, receive_maximum))
        self._probes = 0
        self._probe_s = now_s + backfill_after_s

    def disconnected(self, now_s: float) -> list[Flight]:
        """End a connection; what the broker did not confirm is due at once. Returns those flights."""
        lost = [flight for flight in self.flights if not flight.confirmed]
        for flight in lost:
            for key in flight.keys:
                self._tracked[key] = _Tracked(self._attempts(key), now_s)
        self.flights = []
        self.answering = False
        return lost

    def queued(self, key: Key) -> None:
        """Count a batch as on its way although it only stands in line."""
        self._track(key, _Tracked(0, float("inf")))

    def forget(self, key: Key) -> None:
        """Stop counting a batch as on its way."""
        self._tracked.pop(key, None)

    def sent(self, keys: Iterable[Key], size: int, now_s: float, *, backfill: bool) -> Flight:
        """Note a message; each batch in it will be due again after 20 s, doubling to 5 min, with jitter."""
        flight = Flight(set(keys), size, backfill, now_s, float("inf"))
        for key in flight.keys:
            attempts = self._attempts(key)
            due_s = now_s + spread(min(PATIENCE_S * 2**attempts, MAX_PATIENCE_S))
            self._track(key, _Tracked(min(attempts + 1, 10), due_s))
            flight.due_s = min(flight.due_s, due_s)
        self.flights.append(flight)
        if backfill:
            self._tokens -= 1
        if backfill and not self.answering:
            self._probe_s = now_s + spread(min(PATIENCE_S * 2**self._probes, MAX_PATIENCE_S))
            self._probes = min(self._probes + 1, 10)
        return flight

    def answered(self, keys: Iterable[Key], now_s: float) -> None:
        """Note acknowledgements; after a silence everything that waits for its turn is due now."""
        gone = set(keys)
        for key in gone:
            self._tracked.pop(key, None)
        for flight in self.flights:
            flight.keys -= gone
        self._answer_s = now_s
        self._probes = 0
        if not self.answering:
            self.answering = True
            self._probe_s = now_s
            flying = {key for flight in self.flights for key in flight.keys}
            for key, tracked in self._tracked.items():
                if key not in flying and tracked.due_s != float("inf"):
                    tracked.due_s = now_s

    def refused(self, flight: Flight, now_s: float) -> None:
        """Note that the broker delivered a message to nobody (an aggregator that is not back yet, a denied topic)."""
        for key in flight.keys:
            if tracked := self._tracked.get(key):
                tracked.due_s = now_s + spread(min(REFUSED_S * 2 ** (tracked.attempts - 1), MAX_PATIENCE_S))
        flight.keys.clear()
        if flight.backfill and not self.answering:
            self._probe_s = now_s + spread(min(REFUSED_S * 2 ** (self._probes - 1), MAX_PATIENCE_S))

    def look(self, now_s: float) -> None:
        """Drop flights that are over, and notice silence."""
        for flight in self.flights:
            if flight.keys and now_s >= flight.due_s and self._answer_s < flight.sent_s:
                self.answering = False
        self.flights = [flight for flight in self.flights if not flight.is_over(now_s)]

    def may_send_live(self) -> bool:
        """Tell whether the newest batch may go."""
        return self._unconfirmed() < self._window

    def may_send_backfill(self, now_s: float) -> bool:
        """Tell whether stored batches may go: room, pace, and someone who answers or else a probe that is due."""
        slots = max(1, self._window - LIVE_SLOTS)
        flying = sum(flight.backfill for flight in self.flights)
        if self._unconfirmed() >= self._window or flying >= (slots if self.answering else 1):
            return False
        self._tokens = min(BURST, self._tokens + (now_s - self._tokens_s) * RATE_PER_S)
        self._tokens_s = now_s
        return self._tokens >= 1 and (self.answering or now_s >= self._probe_s)

    def due(self, now_s: float, most: int) -> list[Key]:
        """Return batches whose patience is over, oldest first."""
        flying = {key for flight in self.flights for key in flight.keys if not flight.confirmed}
        due = [key for key, tracked in self._tracked.items() if tracked.due_s <= now_s and key not in flying]
        return due[:most]

    def unconfirmed(self) -> list[Flight]:
        """Return the messages whose PUBACK is awaited."""
        return [flight for flight in self.flights if not flight.confirmed]

    def oldest_unconfirmed_s(self) -> float | None:
        """Return when the longest unconfirmed message was sent."""
        return min((flight.sent_s for flight in self.flights if not flight.confirmed), default=None)

    def _unconfirmed(self) -> int:
        return sum(not flight.confirmed for flight in self.flights)

    def _attempts(self, key: Key) -> int:
        tracked = self._tracked.get(key)
        return tracked.attempts if tracked else 0

    def _track(self, key: Key, tracked: _Tracked) -> None:
        self._tracked.pop(key, None)
        self._tracked[key] = tracked
        while len(self._tracked) > MAX_TRACKED:  # the outbox's next pass finds it again
            del self._tracked[next(iter(self._tracked))]


class Suspicion:
    """Which payloads seem to end connections: they get smaller, go alone, and in the end are set aside."""

    def __init__(self) -> None:
        self._strikes: dict[Key, int] = {}
        self._confirmed_then: dict[Key, int] = {}
        self._confirmed = 0
        self._ceiling: float = float("inf")
        self._ceiling_s = 0.0

    def limit(self, limit: int, now_s: float) -> int:
        """Return the largest payload to try, at most `limit`."""
        if self._ceiling < limit and now_s - self._ceiling_s > GROW_S:
            self._ceiling, self._ceiling_s = self._ceiling * 2, now_s
        return int(min(limit, self._ceiling))

    def confirmed(self, keys: Iterable[Key]) -> None:
        """Note that a message passed."""
        self._confirmed += 1
        for key in keys:
            self._strikes.pop(key, None)
            self._confirmed_then.pop(key, None)

    def is_suspect(self, key: Key) -> bool:
        """Tell whether a batch should fly alone."""
        return self._strikes.get(key, 0) >= STRIKES_HALVE

    def is_struck(self, key: Key) -> bool:
        """Tell whether a connection ended under a batch."""
        return key in self._strikes

    def struck(self, flights: list[Flight], now_s: float) -> list[Key]:
        """Note that a connection ended under these; returns batches that can never pass.

        A dead network also ends connections. So a batch is given up only when it flew alone, the end came soon
        after it, that happened several times, and other payloads passed in between.
        """
        hopeless: list[Key] = []
        for flight in flights:
            if now_s - flight.sent_s > STRIKE_WITHIN_S:
                continue
            worst = 0
            for key in flight.keys:
                worst = max(worst, self._strike(key))
            if worst >= STRIKES_HALVE and len(flight.keys) > 1:
                self._ceiling, self._ceiling_s = max(MIN_PAYLOAD_BYTES, flight.size // 2), now_s
            alone = len(flights) == 1 and len(flight.keys) == 1
            hopeless += [key for key in flight.keys if alone and worst >= STRIKES_ASIDE and self._others_passed(key)]
        return hopeless

    def _strike(self, key: Key) -> int:
        if len(self._strikes) >= MAX_TRACKED:
            self._strikes.clear()
            self._confirmed_then.clear()
        self._strikes[key] = self._strikes.get(key, 0) + 1
        self._confirmed_then.setdefault(key, self._confirmed)
        return self._strikes[key]

    def _others_passed(self, key: Key) -> bool:
        return self._confirmed > self._confirmed_then[key]
