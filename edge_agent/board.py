"""The retained messages people look at: meta, now, health. Keeps the latest of each; publishes nothing itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from drivers.api import Value
from edge_agent import wire
from edge_agent.clock import SystemClock, iso_time

NOW_EVERY_S = 1.0
"""A device's values change at most this often for people; fast simulated time would flood them."""
GATHER_S = 0.1
"""Values wait this long for those of other devices: they were read on one tick and are only comparable together."""


class Board:
    """The latest message per topic, and which of them the broker has not got."""

    def __init__(self, gateway: str, clock: SystemClock, now_s: Callable[[], float]) -> None:
        self._gateway = gateway
        self._clock = clock
        self._now_s = now_s
        self._payloads: dict[str, tuple[bytes, float]] = {}
        """Topic → payload and when it stops being true (monotonic s)."""
        self._dirty: dict[str, float] = {}
        """Topic → when it may go at the earliest."""
        self._sent_s: dict[str, float] = {}
        self._gathered: set[str] = set()
        """Topics of values that wait for their common moment."""
        self._first_s = self._last_s = self._moment_s = float("-inf")
        """When the first and the last of them came, and the last common moment."""
        self._meta = wire.up_topic(gateway, "meta")

    def put_meta(self, meta: wire.Meta) -> None:
        """Describe the gateway."""
        self._put(self._meta, wire.encode(meta), float("inf"))

    def put_values(self, device: str, values: Mapping[str, Value], valid_s: float) -> None:
        """Show a device's last values, together with those of the other devices."""
        shown = {name: value if wire.is_value(value) else None for name, value in values.items()}
        topic, now_s = self._now_topic(device), self._now_s()
        self._payloads[topic] = (wire.encode(self._times(valid_s) | shown), now_s + valid_s)
        if not self._gathered:
            self._first_s = now_s
        self._last_s = now_s
        self._gathered.add(topic)

    def put_lost(self, device: str, lost_since_ms: int | None) -> None:
        """Say since when a device is lost, and no values."""
        unix_ms = self._clock.unix_ms()
        since = iso_time(unix_ms if lost_since_ms is None else lost_since_ms)
        topic = self._now_topic(device)
        self._sent_s.pop(topic, None)  # at once
        self._put(topic, wire.encode({"time": iso_time(unix_ms), "lost_since": since}), float("inf"))

    def clear(self, device: str) -> None:
        """Show a device no more."""
        topic = self._now_topic(device)
        self._sent_s.pop(topic, None)
        self._put(topic, b"", float("inf"))

    def put_health(self, health: Mapping[str, Any], valid_s: float) -> None:
        """Show how the gateway is."""
        self._put(wire.up_topic(self._gateway, "health"), wire.encode(self._times(valid_s) | dict(health)), valid_s)

    def rewrite(self) -> None:
        """Count everything that is still true as not sent: the broker may have forgotten it."""
        now_s = self._now_s()
        self._sent_s.clear()
        self._gathered.clear()
        self._dirty = {topic: 0.0 for topic, (_, until_s) in self._payloads.items() if until_s > now_s}

    def take(self) -> list[tuple[str, bytes, int]]:
        """Return topic, payload and QoS of what may go now, and count it as sent."""
        now_s = self._now_s()
        ready = {topic: None for topic, at_s in self._dirty.items() if at_s <= now_s}
        if self._due_s() <= now_s:
            ready |= dict.fromkeys(sorted(self._gathered))
            self._moment_s = now_s
        for topic in ready:
            self._dirty.pop(topic, None)
            self._gathered.discard(topic)
            self._sent_s[topic] = now_s
        taken = [(topic, self._payloads[topic][0], int(topic == self._meta)) for topic in ready]
        for topic, payload, _ in taken:
            if not payload:  # cleared once is cleared for good
                del self._payloads[topic], self._sent_s[topic]
        return taken

    def wait_s(self, most_s: float) -> float:
        """Return how long nothing is due, at most `most_s`."""
        now_s = self._now_s()
        return max(0.01, min([most_s, self._due_s() - now_s, *(at_s - now_s for at_s in self._dirty.values())]))

    def _due_s(self) -> float:
        """Return the next common moment: a second after the last, when a tick's values seem to be all there."""
        if not self._gathered:
            return float("inf")
        return max(self._moment_s + NOW_EVERY_S, min(self._last_s + GATHER_S, self._first_s + NOW_EVERY_S))

    def _put(self, topic: str, payload: bytes, valid_s: float) -> None:
        now_s = self._now_s()
        self._payloads[topic] = (payload, now_s + valid_s)
        self._gathered.discard(topic)
        self._dirty[topic] = max(now_s, self._sent_s.get(topic, float("-inf")) + NOW_EVERY_S)

    def _times(self, valid_s: float) -> dict[str, Any]:
        unix_ms = self._clock.unix_ms()
        until_ms = None if unix_ms is None else unix_ms + round(valid_s * 1000)
        return {"time": iso_time(unix_ms), "valid_until": iso_time(until_ms)}

    def _now_topic(self, device: str) -> str:
        return wire.up_topic(self._gateway, "now", device)
