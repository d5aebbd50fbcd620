"""The page in a real Chromium on a phone's screen: live values arrive, languages change, the console stays silent."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from datetime import UTC, datetime

import pytest
import uvicorn

from aggregator.api import create_api
from aggregator.app import _Server
from aggregator.ingest import Rules, read
from aggregator.live import Live
from aggregator.sqlite import SqliteStore

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
ROLES = {"grid": "meter", "pv": "inverter", "battery": "inverter"}


class Town:
    """A store, its live values and its page, fed by hand."""

    def __init__(self, store):
        self.store = store
        self.live = Live(now_ms)

    async def hear(self, topic, body, *, retained=False):
        payload = json.dumps(body).encode()
        if self.live.hear(f"gw/v1/{topic}", payload, retained=retained):
            outcome = await self.store.commit([read(f"gw/v1/{topic}", payload, now_ms(), Rules(accept_simulated=True))])
            for event in outcome.events:
                self.live.tell(event)

    async def now(self, device, **values):
        at = now_ms()
        await self.hear(f"house-001/now/{device}", {"time": iso(at), "valid_until": iso(at + 60_000)} | values)

    async def settle(self):
        """A house with an hour behind it and a pole beside it."""
        for id_, roles in (("house-001", ROLES), ("pole-001", {})):
            meta = {"v": 1, "gateway": id_, "site": f"{id_} の家 / site of {id_}", "roles": roles}
            await self.hear(f"{id_}/meta", meta)
            await self.hear(f"{id_}/state", {"state": "online"})
        columns = {
            "meter": ["grid_power_w", "import_energy_kwh", "export_energy_kwh"],
            "inverter": ["pv_power_w", "battery_power_w", "pv_energy_kwh"],
        }
        rows = {
            "meter": [[m * 1000, 512, 1 + m / 1000, 0] for m in range(60)],
            "inverter": [[m * 1000, 1500, -700, m / 500] for m in range(60)],
        }
        blocks = [{"device": device, "columns": columns[device], "rows": rows[device]} for device in columns]
        await self.hear("house-001/telemetry", batch(1, blocks=blocks))


def now_ms():
    return time.time_ns() // 1_000_000


def iso(unix_ms):
    return datetime.fromtimestamp(unix_ms / 1000, UTC).isoformat()


def batch(seq, **changes):
    return {
        "v": 1,
        "epoch": "9f31c2aa04b7d1e5",
        "seq": seq,
        "boot": "a1",
        "b0": 0,
        "t0": now_ms() - 60_000,
        "clock": "synced",
    } | changes


@pytest.fixture
async def town(tmp_path):
    store = SqliteStore(tmp_path / "a.db")
    made = Town(store)
    api = create_api(store, made.live, now_ms, lambda: {"status": "ok"})
    listener = socket.create_server(("127.0.0.1", 0))
    made.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    server = _Server(uvicorn.Config(api, log_config=None, lifespan="off", timeout_graceful_shutdown=1))
    serving = asyncio.ensure_future(server.serve([listener]))
    yield made
    made.live.close()
    server.should_exit = True
    await serving
    await store.close()


@pytest.fixture
async def page(require, imported, tmp_path):
    """A phone; fails the test for whatever the console says."""
    complaints = []
    async with imported("playwright.async_api").async_playwright() as engine:
        context = await engine.chromium.launch_persistent_context(
            tmp_path / "profile",
            executable_path=require("chromium"),
            args=FLAGS,
            viewport={"width": 390, "height": 844},
            locale="ja-JP",
            timezone_id="Europe/Berlin",
        )
        page = context.pages[0]
        page.on(
            "console", lambda message: complaints.append(message.text) if message.type in ("error", "warning") else None
        )
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: complaints.append(request.url) if "127.0.0.1" not in request.url else None)
        yield page
        await context.close()
    assert complaints == []


async def shows(page, selector, text):
    """Wait until an element's text holds `text`."""
    await page.wait_for_function(
        "([selector, text]) => (document.querySelector(selector)?.textContent ?? '').includes(text)",
        arg=[selector, text],
    )


async def test_live_values_arrive_and_the_language_changes(town, page):
    await town.settle()
    await page.goto(town.url)
    await page.wait_for_selector("body[data-ready=house-001]")
    await shows(page, "#value-load", "–")
    await town.now("meter", grid_power_w=512)
    await shows(page, "#value-grid", "512 W")
    await shows(page, "#value-load", "–")  # unknown while a part is missing, and not 0
    await town.now("inverter", pv_power_w=1500, battery_power_w=-700, battery_soc_percent=55)
    await shows(page, "#value-load", "1.31 kW")
    await shows(page, ".place.battery", "充電中")
    await shows(page, "#site", "house-001 の家")
    assert await page.locator("#curve canvas").count() == 1
    await shows(page, "#energies", "0.06 kWh")

    await page.click("#language")
    await shows(page, "#flow-card h2", "Power now")
    await shows(page, ".place.battery", "charging")
    await shows(page, "#site", "site of house-001")
    assert await page.evaluate("document.documentElement.lang") == "en"

    await town.now("meter", grid_power_w=-250)
    await shows(page, ".place.grid", "exporting")
    await town.hear("house-001/now/inverter", {"time": iso(now_ms()), "lost_since": iso(now_ms())})
    await shows(page, "#value-pv", "–")
    await shows(page, "#health", "inverter")
    await page.reload()
    await shows(page, "#flow-card h2", "Power now")


async def test_a_passage_appears_without_a_reload(town, page):
    await town.settle()
    await page.goto(f"{town.url}/?gateway=pole-001")
    await page.wait_for_selector("body[data-ready=pole-001]")
    await shows(page, "#passages-note", "まだありません")
    arrived = {"id": "e1", "device": "tags", "kind": "tag_arrived", "data": {"tag": "t-01", "rssi": -70}}
    await town.hear("pole-001/passages", batch(1, events=[arrived]))
    await shows(page, "#passages", "近くにいます")
    left = {"id": "e2", "device": "tags", "kind": "tag_left", "dt": 50_000, "data": {"tag": "t-01"}}
    await town.hear("pole-001/passages", batch(2, events=[left]))
    await shows(page, "#passages", "秒")
    assert await page.locator("#passages li").count() == 1
    await page.get_by_role("button", name="house-001").click()
    await page.wait_for_selector("body[data-ready=house-001]")
    await shows(page, "#passages", "pole-001 の家")
    await town.hear("house-001/state", {"state": "lost"})
    await shows(page, "#state", "途絶")


async def test_a_town_without_gateways_says_so_and_wakes_up_by_itself(town, page):
    await page.goto(town.url)
    await shows(page, "#notice", "待っています")
    assert await page.locator("#main").is_hidden()
    await town.settle()
    await page.wait_for_selector("body[data-ready=house-001]", timeout=20_000)
    assert await page.locator("#notice").is_hidden()


async def test_simulated_time_and_an_unset_clock_are_marked(town, page):
    await town.settle()
    town.live.note_clock("house-001", "simulated")
    await page.goto(town.url)
    await shows(page, "#clock-badge", "シミュレーション")
    town.live.note_clock("house-001", "unknown")
    await shows(page, "#clock-badge", "時計が未設定")


async def test_a_hostile_name_stays_text(town, page):
    await town.settle()
    evil = "<img src=x onerror=alert(1)>"
    await town.hear("pole-001/meta", {"v": 1, "gateway": "pole-001", "site": evil})
    event = {"id": "e1", "device": "tags", "kind": "tag_arrived", "data": {"tag": evil}}
    await town.hear("pole-001/passages", batch(1, events=[event]))
    await page.goto(f"{town.url}/?gateway=pole-001&lang=en")
    await shows(page, "#passages", "onerror")
    await shows(page, "#site", "onerror")
    assert await page.locator("img").count() == 0


async def test_nothing_is_wider_than_the_phone(town, page):
    await town.settle()
    await page.set_viewport_size({"width": 320, "height": 640})
    await page.goto(town.url)
    await page.wait_for_selector("body[data-ready=house-001]")
    for language in ("ja", "en"):
        assert await page.evaluate("document.documentElement.scrollWidth") <= 320, language
        await page.click("#language")
