"""What the gateways say right now, held in memory and handed to whoever listens. Stores nothing.

A value is shown for as long as its gateway vouches for it (`valid_until`), counted from here, so that neither a
wrong clock in the house nor one in the browser makes an old value look fresh.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import msgspec

from aggregator.ingest import STREAMS
from aggregator.rollup import POWER_ROLES, total
from aggregator.store import NewEvent, Point
from drivers.api import MalformedError
from edge_agent import wire

MAX_GATEWAYS = 20_000
MAX_DEVICES = 256
MAX_NOW_BYTES = 16 * 1024
MAX_LISTENERS = 200
MAX_WAITING = 256
"""A listener that is this many messages behind is dropped; its browser connects again."""
LEAST_FRESH_MS = 15_000
"""Under simulation a value's validity passes in a blink: it is shown this long at least."""
MOST_FRESH_MS = 24 * 3_600_000

_NAME = re.compile(r"[^\x00-\x1f\x7f/+#]{1,64}\Z")
_encode = msgspec.json.Encoder(decimal_format="number").encode


class TooManyListenersError(Exception):
    """There is no room for another listener now."""


@dataclass(slots=True)
class Now:
    """The last values of one device; believed until `until` of the monotonic clock, in seconds."""

    time_ms: int
    until: float
    values: dict[str, Any]
    lost_since: str | None = None


@dataclass(slots=True)
class House:
    """One gateway at this moment."""

    devices: dict[str, Now] = field(default_factory=dict)
    state: wire.State | None = None
    roles: dict[str, str] = field(default_factory=dict)
    together: dict[str, Now] = field(default_factory=dict)
    """What every role's device said when they last were close enough in time to make up the load."""
    health: dict[str, Any] | None = None
    health_received_ms: int | None = None
    clock: str | None = None


class Listener:
    """One open stream; `closed` says that it fell behind or that we are stopping."""

    def __init__(self) -> None:
        self.closed = False
        self._waiting: asyncio.Queue[tuple[str, bytes] | None] = asyncio.Queue(MAX_WAITING)

    def offer(self, name: str, data: bytes) -> None:
        """Add a message; a listener that does not keep up is closed instead."""
        if self.closed:
            return
        try:
            self._waiting.put_nowait((name, data))
        except asyncio.QueueFull:
            self.close()

    def close(self) -> None:
        """End the stream; what waits is dropped."""
        self.closed = True
        while not self._waiting.empty():
            self._waiting.get_nowait()
        self._waiting.put_nowait(None)

    async def next(self, within_s: float) -> tuple[str, bytes] | None:
        """Return the next message, a heartbeat when none comes in time, or None at the end."""
        try:
            async with asyncio.timeout(within_s):
                return await self._waiting.get()
        except TimeoutError:
            return "heartbeat", b"{}"


class Live:
    """All gateways at this moment."""

    def __init__(self, unix_ms: Callable[[], int], monotonic: Callable[[], float] = time.monotonic) -> None:
        self._unix_ms = unix_ms
        self._monotonic = monotonic
        self._houses: dict[str, House] = {}
        self._listeners: dict[str, set[Listener]] = {}
        self.refused = 0
        """Messages that were no values."""

    def hear(self, topic: str, payload: bytes, *, retained: bool) -> bool:
        """Take a message in; tells whether it must also reach the database (data, or what makes no sense)."""
        try:
            gateway, rest = wire.split_up_topic(topic)
            if rest[0] in STREAMS:
                return True
            self._hear(gateway, rest, payload, retained=retained)
        except MalformedError:
            self.refused += 1
            return True
        return rest[0] in ("state", "meta")

    def house(self, gateway: str) -> House:
        """Return what is known of a gateway now."""
        return self._houses.get(gateway) or House()

    def online(self) -> list[str]:
        """Return the gateways that say they are online."""
        return [name for name, house in self._houses.items() if house.state and house.state.state == "online"]

    def tell(self, event: NewEvent) -> None:
        """Hand an event on that has just been stored; passages under a name of their own."""
        name = "passage" if event.personal else "event"
        what = {"id": event.id, "device": event.device, "kind": event.kind, "time": event.utc_ms}
        data = _encode(what | {"gateway": event.gateway, "data": msgspec.Raw(event.data.encode())})
        keys = {event.gateway, ""} if event.personal else {event.gateway}
        for listener in {one for key in keys for one in self._listeners.get(key, ())}:
            listener.offer(name, data)

    def note_clock(self, gateway: str, clock: str) -> None:
        """Remember how good a gateway says its clock is."""
        house = self._house(gateway)
        if house.clock != clock:
            house.clock = clock
            self._offer(gateway, "status", _encode(self.status(gateway)))

    def listen(self, gateway: str, *, town: bool = False) -> Listener:
        """Open a stream of one gateway, with the whole town's passages when `town`; raises TooManyListenersError."""
        if len({one for group in self._listeners.values() for one in group}) >= MAX_LISTENERS:
            raise TooManyListenersError
        listener = Listener()
        for key in {gateway, ""} if town else {gateway}:
            self._listeners.setdefault(key, set()).add(listener)
        return listener

    def leave(self, listener: Listener) -> None:
        """Forget a stream."""
        for key in [key for key, group in self._listeners.items() if listener in group]:
            self._listeners[key].discard(listener)
            if not self._listeners[key]:
                del self._listeners[key]

    def close(self) -> None:
        """End every stream."""
        for listener in {one for group in self._listeners.values() for one in group}:
            listener.close()

    # What is shown

    def flow(self, gateway: str) -> dict[str, Any]:
        """Return the powers now, + into the house; what is lost, stale or without a role is None."""
        house = self.house(gateway)
        now = self._shown(house)
        parts = {role: _point(now[role], role) for role in now}
        load = total(list(parts.values())) if "grid" in house.roles else None
        known = [point[0] for point in parts.values() if point is not None]
        battery = now.get("battery")
        shown = {f"{role}_power_w": point[1] if point else None for role, point in parts.items()}
        return {
            "time": max(known, default=None),
            "fresh_ms": self._fresh_ms(now),
            "roles": sorted(parts),
            **shown,
            "battery_soc_percent": battery.values.get("battery_soc_percent") if battery else None,
            "load_power_w": load,
        }

    def devices(self, gateway: str) -> dict[str, dict[str, Any]]:
        """Return each device's last values; none of a lost device, none that nobody vouches for any more."""
        house = self.house(gateway)
        told = {}
        for name, now in house.devices.items():
            fresh = self._fresh(house, name) is not None
            told[name] = {"time": now.time_ms, "lost_since": now.lost_since, "values": now.values if fresh else {}}
        return told

    def status(self, gateway: str) -> dict[str, Any]:
        """Return state, clock and health as last heard."""
        house = self.house(gateway)
        health = house.health or {}
        outbox = health.get("outbox")
        return {
            "state": house.state.state if house.state else None,
            "clock": house.clock,
            "outbox": outbox if isinstance(outbox, dict) else None,
            "health_received": house.health_received_ms,
        }

    # What is heard

    def _hear(self, gateway: str, rest: list[str], payload: bytes, *, retained: bool) -> None:
        if rest[0] == "now" and len(rest) == 2:
            self._hear_now(gateway, rest[1], payload, retained=retained)
        elif rest == ["health"]:
            self._hear_health(gateway, payload)
        elif rest == ["state"]:
            self._house(gateway).state = _read(payload, wire.State) if payload else None
            self._offer(gateway, "status", _encode(self.status(gateway)))
        elif rest == ["meta"]:
            meta = _read(payload, wire.Meta) if payload else None
            if meta is None or meta.gateway == gateway:
                house = self._house(gateway)
                house.roles, house.together = meta.roles if meta else {}, {}
                self._keep_together(house)
                self._offer(gateway, "flow", _encode(self.flow(gateway)))
        else:
            raise wire.WireError("no such topic")

    def _hear_now(self, gateway: str, device: str, payload: bytes, *, retained: bool) -> None:
        house = self._house(gateway)
        if not payload:
            house.devices.pop(device, None)
        elif not _NAME.match(device) or (device not in house.devices and len(house.devices) >= MAX_DEVICES):
            raise wire.WireError("no such device")
        else:
            house.devices[device] = self._now(house, _object(payload), retained=retained)
        self._keep_together(house)
        told = self.devices(gateway).get(device)
        self._offer(gateway, "now", _encode({"device": device} | (told or {"gone": True})))
        self._offer(gateway, "flow", _encode(self.flow(gateway)))

    def _now(self, house: House, message: Mapping[str, Any], *, retained: bool) -> Now:
        received_ms = self._unix_ms()
        time_ms, valid_ms = _unix(message.get("time")), _unix(message.get("valid_until"))
        values = {name: value for name, value in message.items() if name not in ("time", "valid_until", "lost_since")}
        if not all(value is None or _is_plain(value) for value in values.values()):
            raise wire.WireError("a value is neither number, text nor null")
        span_ms = LEAST_FRESH_MS if time_ms is None or valid_ms is None else max(0, valid_ms - time_ms)
        if house.clock == "simulated" or time_ms is None:
            fresh_ms = max(span_ms, LEAST_FRESH_MS)
        else:
            # A gateway's clock may be a little off; a message it sends now was not made before now. A retained one was.
            age_ms = received_ms - time_ms if retained else 0
            fresh_ms = span_ms - max(0, age_ms)
        lost = message.get("lost_since")
        until = self._monotonic() + min(max(fresh_ms, 0), MOST_FRESH_MS) / 1000
        return Now(received_ms if time_ms is None else time_ms, until, values, str(lost)[:40] if lost else None)

    def _hear_health(self, gateway: str, payload: bytes) -> None:
        health = _object(payload) if payload else None
        house = self._house(gateway)
        house.health, house.health_received_ms = health, self._unix_ms()
        if health and isinstance(health.get("clock"), str):
            house.clock = health["clock"][:20]
        self._offer(gateway, "status", _encode(self.status(gateway)))

    def _fresh(self, house: House, device: str | None) -> Now | None:
        now = house.devices.get(device) if device else None
        return now if now and now.lost_since is None and now.until > self._monotonic() else None

    def _newest(self, house: House) -> dict[str, Now | None]:
        return {role: self._fresh(house, house.roles[role]) for role in POWER_ROLES if role in house.roles}

    def _shown(self, house: House) -> dict[str, Now | None]:
        """Return what each role's device says now.

        In fast simulated time two messages that arrive a moment apart are minutes apart in the house. Then the last
        ones that belong together are shown, all of them and with their own time, while each is still vouched for.
        """
        newest = self._newest(house)
        if house.clock != "simulated" or _load(newest) is not None:
            return newest
        held = house.together
        whole = all(_point(now, role) is not None for role, now in newest.items())
        if whole and held.keys() == newest.keys() and all(now.until > self._monotonic() for now in held.values()):
            return dict(held)
        return newest

    def _keep_together(self, house: House) -> None:
        newest = self._newest(house)
        if _load(newest) is not None:
            house.together = {role: now for role, now in newest.items() if now is not None}

    def _fresh_ms(self, shown: Mapping[str, Now | None]) -> int:
        """Return how long the powers shown may be believed from now on."""
        left = [now.until - self._monotonic() for now in shown.values() if now is not None]
        return int(min(left) * 1000) if left else 0

    def _house(self, gateway: str) -> House:
        if gateway not in self._houses and len(self._houses) >= MAX_GATEWAYS:
            raise wire.WireError(f"more than {MAX_GATEWAYS} gateways")
        return self._houses.setdefault(gateway, House())

    def _offer(self, gateway: str, name: str, data: bytes) -> None:
        for listener in self._listeners.get(gateway, ()):
            listener.offer(name, data)


def _point(now: Now | None, role: str) -> Point | None:
    value = now.values.get(POWER_ROLES[role]) if now else None
    return (now.time_ms, value) if now and isinstance(value, int | Decimal) else None


def _load(shown: Mapping[str, Now | None]) -> Any:
    return total([_point(now, role) for role, now in shown.items()])


def _read(payload: bytes, kind: type[Any]) -> Any:
    if len(payload) > wire.MAX_PAYLOAD_BYTES:
        raise wire.WireError("too long")
    return wire.decode(payload, kind)


def _object(payload: bytes) -> dict[str, Any]:
    if len(payload) > MAX_NOW_BYTES * 4:
        raise wire.WireError("too long")
    return wire.decode(payload, dict[str, Any])


def _is_plain(value: object) -> bool:
    if isinstance(value, Decimal):
        return value.is_finite() and abs(value.adjusted()) < 30
    return isinstance(value, int | str) and not isinstance(value, bool)


def _unix(text: object) -> int | None:
    """Return ISO 8601 text with an offset, or a number of unix ms, as unix ms."""
    if isinstance(text, int) and not isinstance(text, bool):
        return text if abs(text) < 2**53 else None
    if not isinstance(text, str):
        return None
    try:
        moment = datetime.fromisoformat(text[:40])
        return int(moment.astimezone(UTC).timestamp() * 1000) if moment.tzinfo else None
    except (ValueError, OverflowError):
        return None
