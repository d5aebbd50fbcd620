"""The one page and its files. Draws nothing itself: the browser asks the interface like anybody else."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import jinja2
from fastapi import FastAPI, Request, Response
from starlette.staticfiles import StaticFiles

from aggregator import answers
from aggregator.live import Live
from aggregator.store import Store

WEB = Path(__file__).parent / "web"
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; "
        "manifest-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}


def add_page(api: FastAPI, store: Store, live: Live, unix_ms: Callable[[], int]) -> None:
    """Serve the page at `/` and its files below `/static/`."""
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(WEB), autoescape=True)
    version = _version()
    api.mount("/static", StaticFiles(directory=WEB / "static"), name="static")
    api.mount("/vendor", StaticFiles(directory=WEB / "vendor"), name="vendor")

    @api.api_route("/", methods=["GET", "HEAD"], include_in_schema=False)
    async def page(request: Request, lang: str | None = None) -> Response:
        language = lang if lang in ("ja", "en") else preferred_language(request.headers.get("accept-language", ""))
        records = [record for record in await store.gateways() if record.retired_ms is None]
        gateways = [answers.summary(record, live) for record in records]
        text = environment.get_template("page.html").render(
            lang=language, gateways=gateways, version=version, time=unix_ms()
        )
        return Response(text, headers=HEADERS, media_type="text/html; charset=utf-8")

    @api.get("/favicon.ico", include_in_schema=False)
    async def icon() -> Response:
        return Response((WEB / "static" / "icon.svg").read_bytes(), media_type="image/svg+xml")


def preferred_language(accept: str) -> Literal["ja", "en"]:
    """Return Japanese or English, whichever Accept-Language wants more; Japanese when it wants neither."""
    wishes: list[tuple[float, str]] = []
    for part in accept[:500].split(","):
        tag, _, options = part.strip().partition(";")
        try:
            weight = float(options.strip().removeprefix("q=")) if options else 1.0
        except ValueError:
            weight = 0.0
        wishes.append((weight, tag.strip().lower().split("-")[0]))
    japanese = max((weight for weight, tag in wishes if tag == "ja"), default=0.0)
    english = max((weight for weight, tag in wishes if tag == "en"), default=0.0)
    return "en" if english > japanese else "ja"


def _version() -> str:
    """Return a short digest of the page's files, so that a new version is fetched anew."""
    digest = hashlib.sha256()
    for file in sorted(WEB.rglob("*")):
        if file.is_file():
            digest.update(file.read_bytes())
    return digest.hexdigest()[:10]
