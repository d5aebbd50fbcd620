"""The interface on a real store: shapes, errors in one form, bad questions answered, OpenAPI that holds."""

from __future__ import annotations

import json
import re
from decimal import Decimal

import httpx
import jsonschema
import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from openapi_spec_validator import validate

from aggregator import answers
from aggregator.api import create_api
from aggregator.ingest import Rules, read
from aggregator.live import Live
from aggregator.page import preferred_language
from aggregator.sqlite import SqliteStore
from aggregator.store import GatewayRecord

MIDNIGHT = 1_795_186_800_000  # 2026-11-21T00:00+09:00
NOW = MIDNIGHT + 7_200_000
ROLES = {"grid": "meter", "pv": "inverter", "battery": "inverter"}

DEVICES = {
    "meter": {"modulus_kwh": 100_000},
    "inverter": {
        "registers": {"pv_energy_kwh": {"modulus": "42949672.96"}},
        "quantities": {"oddity_w": {"unit": "W", "kind": "gauge", "label_ja": "交流"}},
    },
}


def batch(seq, columns, rows, device="meter", t0=MIDNIGHT, kind="telemetry", **more):
    block = {"device": device, "columns": columns, "rows": rows}
    body = {"v": 1, "epoch": "9f31c2aa04b7d1e5", "seq": seq, "boot": "a1", "b0": 0, "t0": t0, "clock": "synced"}
    return read(f"gw/v1/house-001/{kind}", json.dumps(body | {"blocks": [block]} | more).encode(), NOW, Rules())


def readings():
    """Return two hours of a house, a reading each minute, and two events."""
    meta = {
        "v": 1,
        "gateway": "house-001",
        "site": "家 / house",
        "roles": ROLES,
        "quantities": {"odd_thing": {"unit": "mm"}},
    }
    yield read("gw/v1/house-001/meta", json.dumps(meta).encode(), NOW, Rules())
    minutes = range(-5, 120)
    yield batch(
        1,
        ["grid_power_w", "import_energy_kwh", "odd_thing"],
        [[m * 60_000, 500 + m, 100 + m / 1000, 1.25] for m in minutes],
    )
    inverter = [[m * 60_000 + 3000, 1000, -200, 50 + m / 100, 1, 1] for m in minutes if m != 60]
    names = [
        "pv_power_w",
        "battery_power_w",
        "pv_energy_kwh",
        "battery_charge_energy_kwh",
        "battery_discharge_energy_kwh",
    ]
    yield batch(2, names, inverter, "inverter")
    yield batch(3, ["export_energy_kwh"], [[m * 60_000 + 1, 7] for m in minutes])
    lamp = {"id": "e1", "device": "lamp", "kind": "lamp_changed", "dt": 5000, "data": {"level": 3}}
    left = {"id": "e2", "device": "tags", "kind": "tag_left", "dt": 6000, "data": {"tag": "t-01"}}
    yield batch(4, [], [], events=[lamp, left], kind="events")


class Asked:
    """Answers of the interface, read exactly."""

    def __init__(self, api):
        self._client = httpx.AsyncClient(
            transport=httpx.ASGITransport(api, raise_app_exceptions=False), base_url="http://test"
        )

    async def __call__(self, path, status=200):
        response = await self._client.get(path)
        assert response.status_code == status, response.text
        return msgspec.json.Decoder(float_hook=Decimal).decode(response.content)

    async def raw(self, path, **headers):
        return await self._client.get(path, headers=headers)


@pytest.fixture
async def ask(tmp_path):
    store = SqliteStore(tmp_path / "a.db")
    await store.commit(list(readings()))
    api = create_api(store, Live(lambda: NOW), lambda: NOW, lambda: {"status": "ok"})
    yield Asked(api)
    await store.close()


HOUSE = "/api/v1/gateways/house-001"
SPAN = f"from={MIDNIGHT}&to={NOW}"


async def test_gateways_are_listed_and_described(ask):
    (gateway,) = (await ask("/api/v1/gateways"))["gateways"]
    assert (gateway["id"], gateway["site"], gateway["state"]) == ("house-001", "家 / house", "unknown")
    detail = await ask(HOUSE)
    assert detail["today"] == {"date": "2026-11-21", "from": MIDNIGHT, "to": MIDNIGHT + 86_400_000}
    assert detail["flow"]["load_power_w"] is None


async def test_several_quantities_come_in_one_answer_with_units(ask):
    answer = await ask(f"{HOUSE}/series?quantity=grid_power_w,pv_power_w&quantity=odd_thing&{SPAN}")
    told = {one["quantity"]: one for one in answer["series"]}
    assert told["grid_power_w"]["unit"] == "W"
    assert told["grid_power_w"]["points"][0] == [MIDNIGHT, 500]
    assert told["odd_thing"]["unit"] == "mm"
    assert told["odd_thing"]["points"][0] == [MIDNIGHT, Decimal("1.25")]


async def test_load_is_computed_when_read_and_null_where_a_part_is_missing(ask):
    (load,) = (await ask(f"{HOUSE}/series?quantity=load_power_w&{SPAN}"))["series"]
    points = dict(map(tuple, load["points"]))
    assert points[MIDNIGHT] == 500 + 1000 - 200
    assert points[MIDNIGHT + 60 * 60_000] is None
    assert len(points) == 120


async def test_a_long_span_comes_in_honest_buckets(ask):
    (grid,) = (await ask(f"{HOUSE}/series?quantity=grid_power_w&{SPAN}&points=10"))["series"]
    assert grid["columns"] == ["t", "mean", "min", "max", "n"]
    assert grid["bucket_s"] == 900
    assert grid["points"][0] == [MIDNIGHT, 507, 500, 514, 15]


async def test_energies_are_exact_plain_numbers(ask):
    response = await ask.raw(f"{HOUSE}/series?quantity=import_energy_kwh&{SPAN}")
    assert f"[{MIDNIGHT},100]" in response.text
    assert f"[{MIDNIGHT + 60_000},100.001]" in response.text
    energy = await ask(f"{HOUSE}/energy")
    assert energy["date"] == "2026-11-21"
    assert energy["import_kwh"] == Decimal("0.12")  # from the reading before midnight
    assert energy["pv_kwh"] == Decimal("1.2")
    assert energy["home_kwh"] == Decimal("1.32")
    assert (await ask(f"{HOUSE}/energy?date=2026-11-19"))["import_kwh"] is None


async def test_events_and_passages_are_kept_apart(ask):
    assert [event["kind"] for event in (await ask(f"{HOUSE}/events"))["events"]] == ["lamp_changed"]
    assert [event["kind"] for event in (await ask(f"{HOUSE}/passages"))["events"]] == ["tag_left"]
    assert [event["gateway"] for event in (await ask("/api/v1/passages"))["events"]] == ["house-001"]
    assert (await ask(f"{HOUSE}/events?kind=other"))["events"] == []
    assert (await ask.raw("/api/v1/passages")).headers["cache-control"] == "no-store"


async def test_rows_come_page_by_page_and_none_twice(ask):
    found, after = [], ""
    while True:
        page = await ask(f"{HOUSE}/rows?from={MIDNIGHT - 10**6}&to={NOW}&limit=100{after}")
        found += page["rows"]
        if page["next"] is None:
            break
        after = f"&after={page['next']}"
    keys = [(row["device"], row["boot"], row["boot_ms"]) for row in found]
    assert len(keys) == len(set(keys)) == 125 + 124 + 125


async def test_a_plus_that_became_a_space_is_understood(ask):
    answer = await ask(
        f"{HOUSE}/series?quantity=grid_power_w&from=2026-11-21T00:00:00+09:00&to=2026-11-21T00:01:00%2B09:00"
    )
    assert answer["from"] == MIDNIGHT


@pytest.mark.parametrize(
    ("path", "status", "key"),
    [
        ("/api/v1/gateways/house-009", 404, "gateway"),
        ("/api/v1/gateways/NO%00/series?quantity=a", 404, "gateway"),
        (f"{HOUSE}/series", 400, "quantity"),
        (f"{HOUSE}/series?quantity=DROP", 400, "quantity"),
        (f"{HOUSE}/series?quantity=a&from=yesterday", 400, "from"),
        (f"{HOUSE}/series?quantity=a&from=2026-11-21T00:00:00", 400, "from"),
        (f"{HOUSE}/series?quantity=a&from=5&to=4", 400, "from"),
        (f"{HOUSE}/series?quantity=a&from=0&to={NOW}", 400, "from"),
        (f"{HOUSE}/series?quantity=a&points=1", 400, "points"),
        (f"{HOUSE}/series?quantity={','.join(f'q{n}' for n in range(17))}", 400, "quantity"),
        (f"{HOUSE}/events?limit=100000", 400, "limit"),
        (f"{HOUSE}/rows?after=abc", 400, "after"),
        (f"{HOUSE}/energy?date=tomorrow", 400, "date"),
        ("/nothing", 404, None),
    ],
)
async def test_a_bad_question_is_told_what_is_wrong(ask, path, status, key):
    error = (await ask(path, status))["error"]
    assert error["key"] == key
    assert error["message"]
    assert error["remedy"]


async def test_openapi_is_valid_and_answers_keep_to_it(ask):
    described = json.loads((await ask.raw("/api/v1/openapi.json")).text)
    validate(described)
    for path in (
        "/api/v1/gateways",
        HOUSE,
        f"{HOUSE}/series?quantity=load_power_w,grid_power_w&{SPAN}",
        f"{HOUSE}/energy",
        f"{HOUSE}/events",
        f"{HOUSE}/passages",
        f"{HOUSE}/rows",
    ):
        body = json.loads((await ask.raw(path)).text)
        name = re.sub("house-001", "{gateway}", path.split("?")[0])
        schema = described["paths"][name]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
        jsonschema.validate(body, schema | {"components": described["components"]})


noise = st.one_of(
    st.text(max_size=12),
    st.integers().map(str),
    st.sampled_from(["", "0", "-1", "1e9", "nan", "inf", "%00", "'", "grid_power_w", "2026-11-21T00:00:00Z"]),
)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    where=st.sampled_from(["series", "events", "passages", "rows", "energy"]),
    words=st.dictionaries(
        st.sampled_from(["quantity", "from", "to", "points", "limit", "kind", "after", "date", "device"]), noise
    ),
)
async def test_noise_in_a_question_gets_an_answer_or_a_clear_error(ask, where, words):
    response = await ask.raw(str(httpx.URL(f"{HOUSE}/{where}", params=words)))
    assert response.status_code in (200, 400)
    if response.status_code == 400:
        assert response.json()["error"]["code"] == "bad_request"


async def test_the_page_is_strict_and_speaks_the_browsers_language(ask):
    english = await ask.raw("/", **{"accept-language": "en-GB,en;q=0.9,ja;q=0.2"})
    assert 'lang="en"' in english.text
    assert "default-src 'none'" in english.headers["content-security-policy"]
    assert 'lang="ja"' in (await ask.raw("/", **{"accept-language": "ja"})).text
    assert 'lang="ja"' in (await ask.raw("/?lang=ja", **{"accept-language": "en"})).text
    assert not re.search(r"(src|href)=\"(https?:)?//", english.text)
    for file in re.findall(r"(?:src|href)=\"(/[a-z]+/[^\"?]+)", english.text):
        assert (await ask.raw(file)).status_code == 200, file


@pytest.mark.parametrize(
    ("accept", "language"), [("", "ja"), ("fr", "ja"), ("en", "en"), ("en;q=0.1,ja;q=x", "en"), (";;q=,,", "ja")]
)
def test_languages_are_weighed(accept, language):
    assert preferred_language(accept) == language


def test_a_gateway_tells_moduli_and_units_of_its_devices():
    record = GatewayRecord("house-001", 0, 0, None, None, None, {"devices": DEVICES}, None, {})
    assert answers._modulus(record, "meter", "import_energy_kwh") == 100_000
    assert answers._modulus(record, "inverter", "pv_energy_kwh") == Decimal("42949672.96")
    assert answers._modulus(record, "inverter", "battery_charge_energy_kwh") is None
    assert answers._modulus(record, None, "pv_energy_kwh") is None
    assert answers._meaning(record, "oddity_w") == {
        "unit": "W",
        "kind": "gauge",
        "label": {"ja": "交流", "en": "oddity_w"},
    }
    for odd in ({"devices": []}, {"devices": {"meter": 5}}, {"quantities": 7, "devices": {"meter": {"registers": 1}}}):
        record = GatewayRecord("house-001", 0, 0, None, None, None, odd, None, {})
        assert answers._modulus(record, "meter", "import_energy_kwh") is None
        assert answers._meaning(record, "oddity_w")["unit"] is None
