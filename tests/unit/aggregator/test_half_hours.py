"""Gaps in half hours are found and asked for: on a real store, with a clock in the test's hand."""

from __future__ import annotations

import json
from datetime import date, datetime, timedelta

import pytest

from aggregator import rollup
from aggregator.app import _hear
from aggregator.broker import Message
from aggregator.config import HalfHours
from aggregator.ingest import Rules, read
from aggregator.live import Live
from aggregator.services.half_hours import HalfHourService, absent_times, missing_days
from aggregator.sqlite import SqliteStore
from edge_agent import wire

DAY = datetime(2026, 6, 1, tzinfo=rollup.JST)
NOW = DAY + timedelta(days=10, hours=12)
HALF_HOUR = timedelta(minutes=30)
QUANTITIES = ("import_energy_at_30min_kwh", "export_energy_at_30min_kwh")


def ms(moment):
    return int(moment.timestamp() * 1000)


class Town:
    """The service beside a store, one gateway, and what was published."""

    def __init__(self, path, **settings):
        self.store = SqliteStore(path)
        self.now_s = 0.0
        self.live = Live(lambda: ms(NOW))
        self.sent = []
        self.seq = 0
        self.service = HalfHourService(
            self.store,
            self.live,
            lambda topic, payload: self.sent.append((topic, wire.decode(payload, wire.Command))),
            HalfHours(**({"check_s": 3600, "after_return_s": 60} | settings)),
            lambda: ms(NOW),
            lambda: self.now_s,
        )

    async def up(self, kind, body):
        topic, payload = f"gw/v1/house-001/{kind}", json.dumps(body).encode()
        if kind in ("state", "meta"):
            self.live.hear(topic, payload, retained=False)
        await self.store.commit([read(topic, payload, ms(NOW), Rules())])

    async def batch(self, **changes):
        self.seq += 1
        head = {
            "v": 1,
            "epoch": "9f31c2aa04b7d1e5",
            "seq": self.seq,
            "boot": "a1",
            "b0": 0,
            "t0": ms(NOW),
            "clock": "synced",
        }
        await self.up("telemetry" if "blocks" in changes else "events", head | changes)

    async def readings(self, moments, columns=QUANTITIES):
        rows = [[ms(at) - ms(DAY), *[1] * len(columns)] for at in moments]
        for start in range(0, len(rows), 100):
            block = {"device": "meter", "columns": list(columns), "rows": rows[start : start + 100], "utc": ms(DAY)}
            await self.batch(blocks=[block])

    async def online(self, *, there=True):
        await self.up("meta", {"v": 1, "gateway": "house-001", "roles": {"grid": "meter"}})
        await self.up("state", {"state": "online" if there else "lost"})

    async def after(self, seconds):
        self.now_s += seconds
        await self.service.look()

    @property
    def days(self):
        return [command.arguments["days"] for _, command in self.sent]

    def answer(self, **fields):
        command = self.sent[-1][1]
        payload = wire.encode(wire.Response(**({"id": command.id, "ok": True} | fields)))
        self.service.hear(wire.up_topic("house-001", "response", command.id), payload)


@pytest.fixture
async def town(tmp_path):
    made = Town(tmp_path / "aggregator.db")
    yield made
    await made.store.close()


def moments(first, last):
    return [first + n * HALF_HOUR for n in range((last - first) // HALF_HOUR + 1)]


async def test_a_gateway_that_came_back_is_asked_for_the_days_it_was_away(town):
    await town.readings(moments(DAY, DAY + timedelta(days=3, hours=5)))
    await town.readings(moments(NOW - timedelta(hours=12), NOW))
    await town.online()
    await town.after(0)
    assert town.sent == []
    await town.after(91)
    ((topic, command),) = town.sent
    assert topic == "gwc/v1/house-001/command/history"
    assert command.arguments == {"device": "meter", "days": [f"2026-06-{n:02}" for n in range(4, 11)]}
    assert command.sent == ms(NOW)
    await town.readings(moments(DAY, NOW))
    await town.after(3601)
    assert len(town.sent) == 1


async def test_a_complete_series_is_left_alone_and_so_is_a_house_that_never_told_one(town):
    await town.online()
    await town.after(0)
    await town.after(91)
    await town.readings(moments(DAY, NOW))
    await town.after(3601)
    assert town.sent == []


async def test_a_day_that_stays_missing_is_asked_for_ever_more_seldom(town):
    await town.readings([DAY, *moments(DAY + HALF_HOUR * 2, NOW)])
    await town.online()
    await town.after(0)
    await town.after(91)
    hours = []
    for hour in range(100):
        before = len(town.sent)
        await town.after(3600)
        hours += [hour] * (len(town.sent) - before)
    assert hours[:4] == [0, 2, 6, 14]
    assert hours[5] - hours[4] == 24


async def test_what_the_meter_does_not_have_or_remember_is_not_asked_for_again(town):
    await town.readings([DAY, *moments(DAY + HALF_HOUR * 2, NOW)])
    await town.online()
    event = {"date": "2026-06-01", "have": 47, "missing": {"no_data": ["00:30"]}}
    await town.batch(events=[{"id": "a", "device": "meter", "kind": "half_hours", "data": event}])
    await town.after(0)
    await town.after(91)
    assert town.sent == []
    event = {"date": "2026-06-01", "have": 47, "missing": {"not_read": ["00:30"]}}
    await town.batch(events=[{"id": "b", "device": "meter", "kind": "half_hours", "data": event}], t0=ms(NOW) + 1)
    await town.after(3601)
    assert town.days == [["2026-06-01"]]
    town.answer(result={"planned": [], "not_remembered": ["2026-06-01"]})
    await town.after(3600 * 30)
    assert len(town.sent) == 1


async def test_exports_are_missed_from_their_first_on_only(town):
    await town.readings(moments(DAY, NOW), QUANTITIES[:1])
    await town.readings(moments(NOW - timedelta(days=2), NOW - timedelta(days=1)), QUANTITIES[1:])
    await town.online()
    await town.after(0)
    await town.after(91)
    assert town.days == [["2026-06-10", "2026-06-11"]]


async def test_a_gateway_that_is_away_is_not_asked_and_one_that_refuses_is_told_once(town, caplog):
    await town.readings([DAY, NOW])
    await town.online()
    await town.after(0)
    await town.online(there=False)
    await town.after(3600)
    assert town.sent == []
    await town.online()
    await town.after(0)
    await town.after(91)
    for _ in range(2):
        town.answer(ok=False, error="the meter does not let its memory be read")
        town.service._houses["house-001"].command = town.sent[-1][1].id
    town.answer(ok=False, error="x")
    assert caplog.text.count("does not read its meter's memory") == 1


async def test_answers_to_others_and_nonsense_change_nothing(town):
    await town.readings([DAY, NOW])
    await town.online()
    await town.after(0)
    await town.after(91)
    for topic, payload in (
        ("gw/v1/house-001/response/x", b"{}"),
        ("gw/v1/house-001/response/x", wire.encode(wire.Response("x", ok=True))),
        ("gw/v1/house-002/response/x", wire.encode(wire.Response("x", ok=True))),
        ("gw", b""),
        (f"gw/v1/house-001/response/{town.sent[0][1].id}", b"\xff"),
    ):
        town.service.hear(topic, payload)
    town.answer(result=[1, {"not_remembered": 7}])
    town.answer(result={"not_remembered": [None, 7, "x"]})


async def test_all_days_that_a_meter_can_remember_are_asked_for_at_once(town):
    await town.readings([DAY - timedelta(days=300), NOW])
    await town.online()
    await town.after(0)
    await town.after(91)
    (days,) = town.days
    assert len(days) == 100
    assert (days[0], days[-1]) == ("2026-03-04", "2026-06-11")


def test_the_newest_half_hours_are_not_missing_yet():
    times = {ms(at) for at in moments(DAY, DAY + timedelta(hours=5))}
    assert missing_days(times, set(), set(), ms(DAY), ms(DAY + timedelta(hours=6))) == []
    assert missing_days(times, set(), set(), ms(DAY), ms(DAY + timedelta(hours=6, minutes=10))) == [date(2026, 6, 1)]


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"date": 1},
        {"date": "2026-06-01", "missing": 7},
        {"date": "2026-06-01", "missing": {"no_data": ["25:00", 3]}},
    ],
)
def test_a_tally_that_makes_no_sense_is_no_tally(data):
    assert absent_times([data]) == set()


async def test_an_answer_to_a_command_never_reaches_the_database(town):
    refused = town.live.refused
    for topic, payload, kept in (
        ("gw/v1/house-001/response/x", b"\xff", False),
        ("gw/v1/house-001/response", b"", False),
        ("gw/v1/house-001/telemetry", b"{}", True),
        ("gw/v1/house-001/nonsense", b"{}", True),
    ):
        message = Message(topic, payload, retained=False, received_ms=0, mid=1, qos=1, connection=None)
        assert _hear(message, town.live, town.service) is kept
    assert town.live.refused == refused + 1
