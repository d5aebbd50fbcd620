"""The REST interface and the live stream. Asks the store and the live values; decides nothing about data.

Times are unix milliseconds in answers; questions may use those or ISO 8601 with an offset. Energies are plain decimal
numbers in kWh, exact. Errors have one shape: `{"error": {"code", "message", "key", "remedy"}}`.
"""

from __future__ import annotations

import base64
import binascii
import logging
import re
from collections.abc import Callable
from datetime import date, datetime
from typing import Annotated, Any

import msgspec
from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from aggregator import answers
from aggregator.answers import Span
from aggregator.live import Live, TooManyListenersError
from aggregator.models import Energy, Error, EventList, GatewayDetail, GatewayList, Health, RowList, SeriesAnswer
from aggregator.page import add_page
from aggregator.rollup import DAY_MS, JST
from aggregator.store import GatewayRecord, Store, StoreError, TooLongError
from aggregator.stream import LiveResponse
from edge_agent import wire

log = logging.getLogger(__name__)

MAX_SPAN_MS = 31 * DAY_MS
MAX_QUANTITIES = 16
_QUANTITY = re.compile(r"[a-z][a-z0-9_]{0,63}\Z")
_LOST_PLUS = re.compile(r" (\d\d:?\d\d)$")

_encode = msgspec.json.Encoder(decimal_format="number").encode

Quantities = Annotated[list[str], Query(description="one or more names, repeated or separated by commas")]
From = Annotated[str | None, Query(alias="from", max_length=40, description="ISO 8601 with offset, or unix ms")]
To = Annotated[str | None, Query(max_length=40, description="ISO 8601 with offset, or unix ms; not included")]
Points = Annotated[int, Query(ge=2, le=20_000, description="more readings than this are put into buckets")]
Device = Annotated[str | None, Query(max_length=64)]
Kinds = Annotated[list[str] | None, Query(max_length=20)]
Limit = Annotated[int, Query(ge=1, le=1000)]
Rows = Annotated[int, Query(ge=1, le=5000)]
Cursor = Annotated[str | None, Query(max_length=400, description="`next` of the answer before")]
Day = Annotated[str | None, Query(alias="date", max_length=10, description="YYYY-MM-DD, in Japan's time")]


class ProblemError(Exception):
    """What is wrong with a request, and what to do about it."""

    def __init__(self, status: int, code: str, message: str, key: str | None = None, remedy: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.body = {"code": code, "message": message, "key": key, "remedy": remedy}


def answer(body: object, *, status: int = 200, personal: bool = False) -> Response:
    """Return JSON with decimals as plain numbers; nobody but the asker may keep it."""
    headers = {"Cache-Control": "no-store" if personal else "private, no-cache"}
    return Response(_encode(body), status, headers, "application/json")


def create_api(store: Store, live: Live, unix_ms: Callable[[], int], health: Callable[[], dict[str, Any]]) -> FastAPI:
    """Return the application: interface, live stream and page."""
    api = FastAPI(
        title="Edge gateway aggregator",
        version="1",
        description=__doc__,
        openapi_url="/api/v1/openapi.json",
        docs_url=None,
        redoc_url=None,
        responses={status: {"model": Error} for status in (400, 404, 503)},
    )
    _add_errors(api)
    _add_gateways(api, store, live, unix_ms)
    _add_data(api, store, live, unix_ms)
    _add_events(api, store)

    @api.get("/healthz", response_model=Health, summary="Whether broker and store work; 503 when one does not")
    async def healthz() -> Response:
        told = health()
        return answer(told, status=200 if told["status"] == "ok" else 503, personal=True)

    add_page(api, store, live, unix_ms)
    return api


def _add_gateways(api: FastAPI, store: Store, live: Live, unix_ms: Callable[[], int]) -> None:
    @api.get("/api/v1/gateways", response_model=GatewayList, summary="Every gateway and how it is")
    async def gateways(*, retired: bool = False) -> Response:
        records = await store.gateways()
        told = [answers.summary(record, live) for record in records if retired or record.retired_ms is None]
        return answer({"gateways": told, "time": unix_ms()})

    @api.get(
        "/api/v1/gateways/{gateway}", response_model=GatewayDetail, summary="One gateway: meta, health, values now"
    )
    async def gateway_detail(gateway: str) -> Response:
        record = await _known(store, gateway)
        return answer(answers.detail(record, live, unix_ms()))

    @api.get("/api/v1/gateways/{gateway}/live", summary="Server-sent events: flow, now, status, event, passage")
    async def gateway_live(gateway: str, *, town: bool = False) -> Response:
        await _known(store, gateway)
        try:
            listener = live.listen(gateway, town=town)
        except TooManyListenersError as error:
            raise ProblemError(503, "busy", "too many live streams are open", None, "try again later") from error
        listener.offer("flow", _encode(live.flow(gateway)))
        listener.offer("status", _encode(live.status(gateway)))
        return LiveResponse(live, listener)


def _add_data(api: FastAPI, store: Store, live: Live, unix_ms: Callable[[], int]) -> None:
    @api.get(
        "/api/v1/gateways/{gateway}/series", response_model=SeriesAnswer, summary="Curves of one or more quantities"
    )
    async def series(
        gateway: str,
        quantity: Quantities,
        from_: From = None,
        to: To = None,
        device: Device = None,
        points: Points = 2000,
    ) -> Response:
        record = await _known(store, gateway)
        span = _span(record, live, unix_ms(), from_, to)
        return answer(await answers.series(store, record, _quantities(quantity), span, device, points))

    @api.get("/api/v1/gateways/{gateway}/energy", response_model=Energy, summary="A day's energies in kWh, exact")
    async def energy(gateway: str, day: Day = None) -> Response:
        record = await _known(store, gateway)
        at_ms = answers.now_of(record, live, unix_ms()) if day is None else _day(day)
        return answer(await answers.energy(store, record, at_ms))

    @api.get(
        "/api/v1/gateways/{gateway}/rows", response_model=RowList, summary="Stored rows as they came, page by page"
    )
    async def rows(
        gateway: str, from_: From = None, to: To = None, limit: Rows = 1000, after: Cursor = None
    ) -> Response:
        record = await _known(store, gateway)
        span = _span(record, live, unix_ms(), from_, to)
        found = await store.rows(gateway, span.from_ms, span.to_ms, limit, _cursor(after))
        last = found[-1] if len(found) == limit else None
        return answer({"gateway": gateway, "rows": found, "next": _cursor_after(last) if last else None})


def _add_events(api: FastAPI, store: Store) -> None:
    async def listed(
        gateway: str | None, span: Span, kind: list[str] | None, limit: int, *, personal: bool
    ) -> Response:
        found = await store.events(
            gateway, personal=personal, from_ms=span.from_ms, to_ms=span.to_ms, kinds=kind or (), limit=limit
        )
        return answer({"events": found}, personal=personal)

    @api.get(
        "/api/v1/gateways/{gateway}/events",
        response_model=EventList,
        summary="Events that concern nobody, newest first",
    )
    async def events(
        gateway: str, from_: From = None, to: To = None, kind: Kinds = None, limit: Limit = 100
    ) -> Response:
        await _known(store, gateway)
        return await listed(gateway, _any_span(from_, to), kind, limit, personal=False)

    @api.get("/api/v1/gateways/{gateway}/passages", response_model=EventList, summary="Passages of tags, newest first")
    async def passages(
        gateway: str, from_: From = None, to: To = None, kind: Kinds = None, limit: Limit = 100
    ) -> Response:
        await _known(store, gateway)
        return await listed(gateway, _any_span(from_, to), kind, limit, personal=True)

    @api.get("/api/v1/passages", response_model=EventList, summary="The newest passages of the whole town")
    async def town_passages(kind: Kinds = None, limit: Limit = 50) -> Response:
        return await listed(None, Span(0, 2**53), kind, limit, personal=True)


def _add_errors(api: FastAPI) -> None:
    """Give every error the one shape."""

    @api.exception_handler(ProblemError)
    async def problem(_request: Request, error: ProblemError) -> Response:
        return answer({"error": error.body}, status=error.status)

    @api.exception_handler(RequestValidationError)
    async def invalid(_request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        key = str(first.get("loc", ("?",))[-1])
        body = {
            "code": "bad_request",
            "message": str(first.get("msg")),
            "key": key,
            "remedy": "see /api/v1/openapi.json",
        }
        return answer({"error": body}, status=400)

    @api.exception_handler(HTTPException)
    async def refused(_request: Request, error: HTTPException) -> Response:
        code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "error")
        body = {"code": code, "message": str(error.detail), "key": None, "remedy": "see /api/v1/openapi.json"}
        return answer({"error": body}, status=error.status_code)

    @api.exception_handler(StoreError)
    async def unable(_request: Request, error: StoreError) -> Response:
        too_long = isinstance(error, TooLongError)
        log.warning("a question failed: %s", error)
        message = str(error) if too_long else "the database does not answer now"
        body = {
            "code": "too_much" if too_long else "unavailable",
            "message": message,
            "key": None,
            "remedy": "try later",
        }
        return answer({"error": body}, status=503)

    @api.exception_handler(Exception)
    async def bug(_request: Request, _error: Exception) -> Response:
        body = {"code": "internal", "message": "our own fault; the log knows more", "key": None, "remedy": "report it"}
        return answer({"error": body}, status=500)


async def _known(store: Store, gateway: str) -> GatewayRecord:
    record = await store.gateway(gateway) if wire.is_gateway_id(gateway) else None
    if record is None:
        raise ProblemError(
            404, "not_found", f"no gateway {gateway[:40]!r} was ever heard", "gateway", "see /api/v1/gateways"
        )
    return record


def _any_span(from_: str | None, to: str | None) -> Span:
    """Return the span asked for, open where nothing is said: `limit` bounds the answer."""
    return Span(0 if from_ is None else _time("from", from_), 2**53 if to is None else _time("to", to))


def _span(record: GatewayRecord, live: Live, now_ms: int, from_: str | None, to: str | None) -> Span:
    """Return the span asked for; without one, the day up to now (a simulated gateway's now is its newest row)."""
    to_ms = _time("to", to) if to is not None else answers.now_of(record, live, now_ms) + 1
    from_ms = _time("from", from_) if from_ is not None else to_ms - DAY_MS
    if from_ms >= to_ms:
        raise ProblemError(400, "bad_request", "from is not before to", "from", "swap them")
    if to_ms - from_ms > MAX_SPAN_MS:
        raise ProblemError(400, "bad_request", "longer than 31 days", "from", "ask month by month")
    return Span(from_ms, to_ms)


def _time(key: str, text: str) -> int:
    try:
        if re.fullmatch(r"-?[0-9]{1,15}", text):
            return int(text)
        # An unescaped + in an address arrives as a space.
        moment = datetime.fromisoformat(_LOST_PLUS.sub(r"+\1", text))
        if moment.tzinfo is None:
            raise ValueError("without an offset")
        return int(moment.timestamp() * 1000)
    except (ValueError, OverflowError) as error:
        remedy = "write 2026-11-21T00:00:00+09:00, or unix ms"
        raise ProblemError(400, "bad_request", f"{text!r} is no time: {error}", key, remedy) from error


def _day(text: str) -> int:
    try:
        day = date.fromisoformat(text)
        return int(datetime(day.year, day.month, day.day, tzinfo=JST).timestamp() * 1000)
    except (ValueError, OverflowError) as error:
        raise ProblemError(400, "bad_request", f"{text!r} is no date", "date", "write 2026-11-21") from error


def _quantities(asked: list[str]) -> list[str]:
    names = list(dict.fromkeys(name for part in asked for name in part.split(",")))
    if len(names) > MAX_QUANTITIES:
        raise ProblemError(400, "bad_request", f"more than {MAX_QUANTITIES} quantities", "quantity", "ask in parts")
    for name in names:
        if not _QUANTITY.match(name):
            raise ProblemError(400, "bad_request", f"{name[:70]!r} is no quantity", "quantity", "such as grid_power_w")
    return names


def _cursor(text: str | None) -> tuple[int, str, str, int] | None:
    if text is None:
        return None
    try:
        return msgspec.json.decode(base64.urlsafe_b64decode(text), type=tuple[int, str, str, int])
    except (ValueError, binascii.Error, msgspec.MsgspecError) as error:
        raise ProblemError(400, "bad_request", "not a cursor of ours", "after", "use `next` as it came") from error


def _cursor_after(row: dict[str, Any]) -> str:
    key = (row["time"], row["device"], row["boot"], row["boot_ms"])
    return base64.urlsafe_b64encode(_encode(key)).decode()
