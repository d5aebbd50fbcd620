"""Shapes of the answers, for the OpenAPI description. Validates nothing at run time: `answers` builds them exact."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel

Number = int | float | None


class Problem(BaseModel):
    """What is wrong and what to do about it."""

    code: str
    message: str
    key: str | None
    remedy: str | None


class Error(BaseModel):
    """Every error has this shape."""

    error: Problem


class GatewaySummary(BaseModel):
    """One gateway in a list; times are unix ms."""

    id: str
    site: str
    area: str
    roles: dict[str, str]
    state: Literal["online", "offline", "lost", "unknown"]
    clock: str | None
    last_seen: int
    newest: int | None
    retired: bool
    counts: dict[str, int]


class GatewayList(BaseModel):
    """Every gateway."""

    gateways: list[GatewaySummary]
    time: int


class Flow(BaseModel):
    """Powers now in W, + into the house; None is unknown, and the load is told only from parts within 15 s."""

    time: int | None
    fresh_ms: int
    roles: list[str]
    grid_power_w: Number = None
    pv_power_w: Number = None
    battery_power_w: Number = None
    battery_soc_percent: Number
    load_power_w: Number


class Today(BaseModel):
    """The gateway's local day."""

    date: str
    # `from` and `to` are unix ms; the first is a word of the language and stands in the description only.


class GatewayDetail(GatewaySummary):
    """One gateway with what it says now."""

    time: int
    first_seen: int
    meta: dict[str, Any] | None
    agent: dict[str, Any] | None
    health: dict[str, Any] | None
    status: dict[str, Any]
    devices: dict[str, dict[str, Any]]
    flow: Flow
    today: Today


class Curve(BaseModel):
    """One quantity of one device; `columns` names what each point holds, `t` is unix ms."""

    quantity: str
    device: str | None
    unit: str | None
    kind: Literal["gauge", "counter", "state"] | None
    label: dict[str, str]
    columns: list[str]
    bucket_s: int | None
    points: list[list[Any]]


class SeriesAnswer(BaseModel):
    """Curves of a span."""

    gateway: str
    series: list[Curve]


class Energy(BaseModel):
    """A local day's energies in kWh; None is unknown."""

    gateway: str
    date: str
    since: int | None
    import_kwh: Number
    export_kwh: Number
    pv_kwh: Number
    charge_kwh: Number
    discharge_kwh: Number
    home_kwh: Number


class EventItem(BaseModel):
    """Something that happened; `time` is None while the gateway's clock is not known."""

    gateway: str
    id: str
    device: str
    kind: str
    time: int | None
    received: int
    data: dict[str, Any]


class EventList(BaseModel):
    """Events, newest first."""

    events: list[EventItem]


class RowItem(BaseModel):
    """A stored row as it came."""

    time: int
    device: str
    boot: str
    boot_ms: int
    clock: str
    values: dict[str, Any]


class RowList(BaseModel):
    """Rows, oldest first; `next` continues."""

    gateway: str
    rows: list[RowItem]
    next: str | None


class Health(BaseModel):
    """How the aggregator is."""

    status: Literal["ok", "degraded"]
    broker: bool
    store: bool
    waiting: int
    messages: int
    commits: int
    refused: int
