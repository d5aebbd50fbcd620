"""Bodies of the interface's answers, from stored and live values. Knows no HTTP."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from aggregator import rollup
from aggregator.live import Live
from aggregator.store import GatewayRecord, Point, Store, Track
from drivers.quantities import QUANTITIES

LOAD = "load_power_w"
BASELINE_MS = 15 * 60_000
"""A day's first register reading may be this much older than midnight."""
_LOAD_TOLD = {"unit": "W", "kind": "gauge", "label": {"ja": "消費電力", "en": "Load"}}


@dataclass(frozen=True, slots=True)
class Span:
    """A span of time, unix ms, its end not included."""

    from_ms: int
    to_ms: int


def summary(record: GatewayRecord, live: Live) -> dict[str, Any]:
    """Return what a list of gateways shows."""
    meta = record.meta or {}
    return {
        "id": record.id,
        "site": meta.get("site") or "",
        "area": meta.get("area") or "",
        "roles": roles_of(record),
        "state": state_of(record, live),
        "clock": clock_of(record, live),
        "last_seen": record.last_seen_ms,
        "newest": record.newest_utc_ms,
        "retired": record.retired_ms is not None,
        "counts": record.counts,
    }


def detail(record: GatewayRecord, live: Live, now_ms: int) -> dict[str, Any]:
    """Return everything about one gateway but its history."""
    date, from_ms, to_ms = rollup.day_of(now_of(record, live, now_ms))
    return summary(record, live) | {
        "time": now_ms,
        "first_seen": record.first_seen_ms,
        "meta": record.meta,
        "agent": record.state,
        "health": live.house(record.id).health,
        "status": live.status(record.id),
        "devices": live.devices(record.id),
        "flow": live.flow(record.id),
        "today": {"date": date, "from": from_ms, "to": to_ms},
    }


def roles_of(record: GatewayRecord) -> dict[str, str]:
    """Return which device has which role, as the gateway's meta says."""
    roles = (record.meta or {}).get("roles")
    return {str(role): str(device) for role, device in roles.items()} if isinstance(roles, dict) else {}


def state_of(record: GatewayRecord, live: Live) -> str:
    """Return online, offline, lost or unknown; what the broker says now counts before what was stored."""
    now = live.house(record.id).state
    if now is not None:
        return now.state
    return "unknown"


def clock_of(record: GatewayRecord, live: Live) -> str | None:
    """Return how good the gateway says its clock is."""
    return live.house(record.id).clock or record.clock


def now_of(record: GatewayRecord, live: Live, now_ms: int) -> int:
    """Return what time it is for a gateway: ours, or under simulation that of its newest row."""
    simulated = clock_of(record, live) == "simulated" and record.newest_utc_ms is not None
    return record.newest_utc_ms if simulated and record.newest_utc_ms is not None else now_ms


async def series(
    store: Store, record: GatewayRecord, quantities: Sequence[str], span: Span, device: str | None, limit: int
) -> dict[str, Any]:
    """Return one curve per quantity and device that has readings in the span."""
    stored = [name for name in quantities if name != LOAD]
    tracks = await store.tracks(record.id, stored, span.from_ms, span.to_ms, device) if stored else []
    told = [_told(track, _meaning(record, track.quantity), span, limit) for track in tracks]
    if LOAD in quantities and device is None:
        points = await _load(store, record, span)
        if points:
            told.append(_told(Track("", LOAD, points), _LOAD_TOLD, span, limit))
    return {"gateway": record.id, "from": span.from_ms, "to": span.to_ms, "series": told}


async def _load(store: Store, record: GatewayRecord, span: Span) -> list[Point]:
    parts = rollup.power_parts(roles_of(record))
    if parts is None:
        return []
    found = await store.tracks(record.id, [quantity for _, quantity in parts], span.from_ms, span.to_ms)
    by_name = {(track.device, track.quantity): track.points for track in found}
    return rollup.load_points([by_name.get(part, []) for part in parts])


def _told(track: Track, meaning: dict[str, Any], span: Span, limit: int) -> dict[str, Any]:
    curve = rollup.curve(track.points, meaning["kind"] or "gauge", span.from_ms, span.to_ms, limit)
    return {
        "quantity": track.quantity,
        "device": track.device or None,
        **meaning,
        "columns": curve.columns,
        "bucket_s": curve.bucket_ms // 1000 if curve.bucket_ms else None,
        "points": curve.points,
    }


def _meaning(record: GatewayRecord, quantity: str) -> dict[str, Any]:
    """Return unit, kind and labels: of our vocabulary, else as the gateway's meta says, else unknown."""
    known = QUANTITIES.get(quantity)
    if known is not None:
        return {"unit": known.unit, "kind": known.kind, "label": {"ja": known.label_ja, "en": known.label_en}}
    told = _told_by_meta(record, quantity)
    kind = told.get("kind") if told.get("kind") in ("gauge", "counter", "state") else None
    labels = {lang: told.get(f"label_{lang}") or quantity for lang in ("ja", "en")}
    return {"unit": told.get("unit"), "kind": kind, "label": labels}


def _told_by_meta(record: GatewayRecord, quantity: str) -> dict[str, Any]:
    """Return what a gateway says of a quantity that we do not know: for all its devices, or in one of them."""
    meta = record.meta or {}
    tables = [meta.get("quantities"), *(device.get("quantities") for device in _devices(record).values())]
    for table in tables:
        told = table.get(quantity) if isinstance(table, dict) else None
        if isinstance(told, dict):
            return told
    return {}


def _devices(record: GatewayRecord) -> dict[str, dict[str, Any]]:
    devices = (record.meta or {}).get("devices")
    told = devices.items() if isinstance(devices, dict) else ()
    return {name: device for name, device in told if isinstance(device, dict)}


async def energy(store: Store, record: GatewayRecord, at_ms: int) -> dict[str, Any]:
    """Return the energies of the local day of a moment, from differences of registers, exact; unknown ones None."""
    date, from_ms, to_ms = rollup.day_of(at_ms)
    roles = roles_of(record)
    found: dict[str, Decimal | None] = {}
    since: list[int] = []
    exchanges = await store.events(
        record.id, personal=False, from_ms=from_ms - BASELINE_MS, to_ms=to_ms, kinds=["meter_replaced"], limit=100
    )
    for name, (role, quantity) in rollup.ENERGY_ROLES.items():
        points = await _register(store, record.id, roles.get(role), quantity, from_ms, to_ms)
        cuts = [event["time"] for event in exchanges if event["device"] == roles.get(role)]
        found[name] = rollup.gained(points, _modulus(record, roles.get(role), quantity), cuts)
        since += [points[0][0]] if points else []
    home = rollup.home_kwh(found, roles)
    return {
        "gateway": record.id,
        "date": date,
        "from": from_ms,
        "to": to_ms,
        "since": max(since, default=None),
        **{f"{name}_kwh": value for name, value in found.items()},
        "home_kwh": home,
    }


async def _register(
    store: Store, gateway: str, device: str | None, quantity: str, from_ms: int, to_ms: int
) -> list[Point]:
    if device is None:
        return []
    first = await store.before(gateway, device, quantity, from_ms, from_ms - BASELINE_MS)
    tracks = await store.tracks(gateway, [quantity], from_ms, to_ms, device)
    points = [point for track in tracks for point in track.points]
    return [first, *points] if first is not None else points


def _modulus(record: GatewayRecord, device: str | None, quantity: str) -> Decimal | None:
    """Return at how many kWh a register rolls over, where the device described it."""
    described = _devices(record).get(device or "", {})
    registers = described.get("registers")
    register = registers.get(quantity) if isinstance(registers, dict) else None
    modulus = register.get("modulus") if isinstance(register, dict) else described.get("modulus_kwh")
    try:
        number = Decimal(modulus) if isinstance(modulus, int | str | Decimal) else Decimal(0)
    except ArithmeticError:
        return None
    return number if number.is_finite() and number > 0 else None
