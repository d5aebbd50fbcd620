"""The uplink against a real broker: live, outage, resend, refusal."""

from __future__ import annotations

import asyncio
import contextlib
import json

import pytest

from drivers.api import Event, Sample
from edge_agent import outbox as outbox_module
from edge_agent import schedule, wire
from edge_agent import uplink as uplink_module
from edge_agent.clock import ClockSettings, SystemClock
from edge_agent.outbox import Outbox, OutboxSettings
from edge_agent.uplink import Uplink

CLOCK = SystemClock(ClockSettings(trust="system"))


@pytest.fixture(autouse=True)
def quick_batches(monkeypatch):
    """Tests wait for batches; the time they take to close is none of these tests' business."""
    monkeypatch.setattr(outbox_module, "CLOSE_S", 0.05)
    monkeypatch.setattr(uplink_module, "BACKFILL_AFTER_S", (0, 0.1))


@contextlib.asynccontextmanager
async def gateway(path, settings, outbox_settings=None, **uplink_settings):
    async with Outbox.open(path / "outbox.db", "house-001", CLOCK, outbox_settings) as outbox:
        uplink = Uplink("house-001", settings, outbox, CLOCK, version="1.2.3", **uplink_settings)
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(uplink.run())
            yield outbox, uplink
            await uplink.stop("test")
            await running


async def measure(outbox, count, start=0):
    """Accept rows whose value names them; returns what the town must hear."""
    owed = set()
    for number in range(start, start + count):
        at = CLOCK.boot_ms()
        await outbox.accept("meter", Sample("meter", at, {"grid_power_w": number}))
        owed.add(("meter", at, number))
    return owed


async def test_a_row_is_heard_acknowledged_and_let_go(tmp_path, broker, town, until):
    async with gateway(tmp_path, broker.settings()) as (outbox, uplink):
        owed = await measure(outbox, 3)
        await until(lambda: town.rows() == owed)
        await until(lambda: outbox.statistics()["depth"] == 0)
        assert uplink.statistics()["acknowledged"] == 1
        assert uplink.statistics()["connected"]
    assert json.loads(town.payloads("state")[0])["state"] == "online"
    await until(lambda: json.loads(town.payloads("state")[-1]) == {"state": "offline", "reason": "test"})


async def test_the_broker_says_lost_when_the_gateway_is_cut_off(tmp_path, broker, town, until):
    async with gateway(tmp_path, broker.settings()) as (_, uplink):
        await until(lambda: town.payloads("state"))
        await until(lambda: uplink.statistics()["connected"])
        uplink._connection._client._sock.shutdown(2)
        await until(lambda: b'{"state":"lost"}' in town.payloads("state"))
        await until(lambda: json.loads(town.payloads("state")[-1])["state"] == "online")


async def test_a_gateway_that_is_cancelled_does_not_stay_online(tmp_path, broker, town, until):
    async with Outbox.open(tmp_path / "outbox.db", "house-001", CLOCK) as outbox:
        uplink = Uplink("house-001", broker.settings(), outbox, CLOCK)
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(uplink.run())
            await until(lambda: town.payloads("state"))
            await until(lambda: uplink.statistics()["connected"])
            running.cancel()
    await until(lambda: json.loads(town.payloads("state")[-1])["state"] == "offline")


@pytest.mark.parametrize("version", ["5", "3.1.1"])
async def test_an_outage_loses_and_doubles_nothing(tmp_path, broker, make_town, version, monkeypatch, until):
    monkeypatch.setattr(schedule, "PATIENCE_S", 1.0)  # with 3.1.1 the broker does not say that nobody listens yet
    async with gateway(tmp_path, broker.settings(version=version)) as (outbox, uplink):
        await until(lambda: uplink.statistics()["connected"])
        await broker.kill()
        await until(lambda: not uplink.statistics()["connected"])
        owed = set()
        for part in range(5):
            owed |= await measure(outbox, 5, part * 5)
            await asyncio.sleep(0.1)
        await outbox.accept("meter", Event("meter", "device_lost", CLOCK.boot_ms()))
        await broker.start()
        town = await make_town(broker, version=version)
        await until(lambda: town.rows() == owed and town.events())
        await until(lambda: outbox.statistics()["depth"] == 0)
        payloads = town.batches()
        assert len(set(payloads)) == len({wire.decode_batch(payload).seq for payload in payloads})
        assert len({event.id for event in town.events()}) == 1


async def test_a_batch_is_sent_again_byte_for_byte_until_it_is_acknowledged(tmp_path, broker, town, monkeypatch, until):
    monkeypatch.setattr(schedule, "PATIENCE_S", 0.3)
    town.acknowledges = False
    async with gateway(tmp_path, broker.settings()) as (outbox, _):
        await measure(outbox, 2)
        await until(lambda: len(town.batches()) >= 3)
        assert len(set(town.batches())) == 1
        assert len(town.payloads("telemetry")) == 1
        assert len(town.payloads("backfill")) >= 2
        assert outbox.statistics()["depth"] == 1
        town.acknowledge(town.batches()[:1])
        await until(lambda: outbox.statistics()["depth"] == 0)


async def test_batches_kept_over_a_restart_keep_their_numbers(tmp_path, broker, make_town, until):
    await broker.kill()
    async with gateway(tmp_path, broker.settings()) as (outbox, _):
        owed = await measure(outbox, 4)
        first = outbox.intake.epoch
    await broker.start()
    town = await make_town(broker)
    async with gateway(tmp_path, broker.settings()) as (outbox, _):
        owed |= await measure(outbox, 1, 9)
        await until(lambda: town.rows() == owed)
        await until(lambda: outbox.statistics()["depth"] == 0)
        assert {wire.decode_batch(payload).epoch for payload in town.batches()} == {first, outbox.intake.epoch}


async def test_the_newest_batch_goes_first_and_the_backlog_follows(tmp_path, broker, make_town, until):
    await broker.kill()
    async with gateway(tmp_path, broker.settings()) as (outbox, _):
        for part in range(20):
            await measure(outbox, 100, part * 100)
        kept = outbox.intake.seq
    await broker.start()
    town = await make_town(broker)
    async with gateway(tmp_path, broker.settings()) as (outbox, uplink):
        await until(lambda: uplink.statistics()["connected"])
        newest = await measure(outbox, 1, 9999)
        await until(lambda: outbox.statistics()["depth"] == 0)
    first, *rest = town.batches()
    assert [row[1] for row in wire.decode_batch(first).blocks[0].rows] == [9999]
    assert [wire.decode_batch(payload).seq for payload in rest] == list(range(1, kept + 1))
    assert all(len(payload) <= 65536 for payload in town.payloads("backfill"))
    assert newest <= town.rows()


ACL = """
allow_anonymous true
acl_file {path}
"""


async def test_a_refused_publish_loses_nothing_in_mqtt_5(tmp_path, make_broker, make_town, until):
    acl = tmp_path / "acl"
    acl.write_text("topic read gwc/v1/house-001/#\ntopic write gw/v1/house-001/state\n")
    broker = await make_broker(ACL.format(path=acl))
    settings = broker.settings(acknowledged_by="broker")
    async with gateway(tmp_path, settings) as (outbox, uplink):
        await measure(outbox, 2)
        await until(lambda: uplink.statistics()["refused"] >= 1)
        assert outbox.statistics()["depth"] == 1
        assert uplink.statistics()["acknowledged"] == 0


async def test_a_broker_that_is_trusted_acknowledges(tmp_path, broker, town, until):
    town.acknowledges = False
    async with gateway(tmp_path, broker.settings(acknowledged_by="broker")) as (outbox, _):
        owed = await measure(outbox, 2)
        await until(lambda: outbox.statistics()["depth"] == 0)
        await until(lambda: town.rows() == owed)


async def test_a_broker_without_listeners_is_not_taken_for_an_acknowledgement(tmp_path, broker, until):
    async with gateway(tmp_path, broker.settings(acknowledged_by="broker")) as (outbox, uplink):
        await measure(outbox, 2)
        await until(lambda: uplink.statistics()["refused"] >= 1)
        assert outbox.statistics()["depth"] == 1


async def test_a_silent_aggregator_gets_probes_and_not_the_whole_backlog(tmp_path, broker, make_town, until):
    await broker.kill()
    async with gateway(tmp_path, broker.settings()) as (outbox, uplink):
        for part in range(60):
            await measure(outbox, 100, part * 100)
        await broker.start()
        town = await make_town(broker)
        town.acknowledges = False
        await until(lambda: town.payloads("backfill"))
        await asyncio.sleep(1.0)
        assert len(town.payloads("backfill")) == 1
        depth = outbox.statistics()["depth"]
        town.acknowledges = True
        town.acknowledge(town.batches())
        await until(lambda: outbox.statistics()["depth"] == 0)
        assert depth > 10
        assert uplink.statistics()["answering"]


async def test_values_for_people_are_retained_replaced_and_cleared(tmp_path, broker, town, make_town, until):
    async with gateway(tmp_path, broker.settings()) as (_, uplink):
        uplink.publish_now("meter", {"grid_power_w": 512, "bad": float("inf")}, 60)
        await until(lambda: town.payloads("now", "meter"))
        shown = json.loads(town.payloads("now", "meter")[0])
        assert shown["grid_power_w"] == 512
        assert shown["bad"] is None
        assert shown["time"] < shown["valid_until"]
        uplink.publish_now("meter", {"grid_power_w": 513})
        uplink.publish_lost("meter", 1_794_979_600_000)
        await until(lambda: len(town.payloads("now", "meter")) == 2, 0.9)
        assert json.loads(town.payloads("now", "meter")[1])["lost_since"] == "2026-11-18T14:26:40+09:00"
        later = await make_town(broker)
        await until(lambda: len(later.payloads("now", "meter")) == 1)
        uplink.clear_now("meter")
        await until(lambda: town.payloads("now", "meter")[-1] == b"")
        await until(lambda: uplink._connection.in_flight == 0)
        last = await make_town(broker)
        await until(lambda: last.payloads("state"))
        assert last.payloads("now", "meter") == []


async def test_meta_and_values_are_told_again_to_a_broker_that_forgot(tmp_path, broker, make_town, until):
    async with gateway(tmp_path, broker.settings()) as (_, uplink):
        await uplink.publish_meta(wire.Meta("house-001", roles={"grid": "meter"}))
        uplink.publish_now("meter", {"grid_power_w": 1})
        uplink.publish_health({"ok": True})
        await until(lambda: uplink.statistics()["connected"])
        await broker.kill()
        await broker.start()
        town = await make_town(broker)
        await until(lambda: town.payloads("meta") and town.payloads("now", "meter") and town.payloads("health"))
        assert json.loads(town.payloads("meta")[0])["roles"] == {"grid": "meter"}


async def test_a_command_is_answered_and_a_retained_one_is_not_heard(tmp_path, broker, town, until):
    heard = []

    async def on_command(name, command):
        heard.append((name, command.arguments))
        if name == "burn":
            raise ValueError("a bug")
        return wire.Response(command.id, ok=True, result={"done": True})

    town.say("command", "old", b'{"id":"c0","sent":1,"expires_s":60}', retain=True)
    async with gateway(tmp_path, broker.settings(), on_command=on_command) as (_, uplink):
        await until(lambda: uplink.statistics()["retained_commands"] == 1)
        town.say("command", "read", b'{"id":"c1","sent":1,"expires_s":60,"arguments":{"device":"meter"}}')
        await until(lambda: town.payloads("response", "c1"))
        assert json.loads(town.payloads("response", "c1")[0]) == {"id": "c1", "ok": True, "result": {"done": True}}
        town.say("command", "burn", b'{"id":"c2","sent":1,"expires_s":60}')
        await until(lambda: town.payloads("response", "c2"))
        assert not json.loads(town.payloads("response", "c2")[0])["ok"]
        town.say("command", "read", b'{"id":"../state","sent":1,"expires_s":60}')
        town.say("ack", b"noise")
        town.say("ack", b'{"epoch":"x","seqs":[-1,99999999999999999999]}')
        await until(lambda: uplink.statistics()["malformed"] >= 2)
        assert heard == [("read", {"device": "meter"}), ("burn", {})]
        assert uplink.statistics()["connected"]


async def test_alerts_of_the_area_and_tags_reach_the_drivers(tmp_path, broker, town, until):
    heard = []
    async with gateway(
        tmp_path, broker.settings(), area="0720400", on_town=lambda subject, payload: heard.append((subject, payload))
    ) as (_, uplink):
        await until(lambda: uplink.statistics()["connected"])
        town.connection.publish("gwc/v1/all/alert/0720400", b"4", retain=True)
        town.connection.publish("gwc/v1/all/alert/0720500", b"5", retain=True)
        town.say("tags", b"t")
        await until(lambda: len(heard) == 2)
        assert sorted(heard) == [("alert", b"4"), ("tags", b"t")]


async def test_steady_state_writes_nothing_to_the_disk(tmp_path, broker, town, until):
    async with gateway(tmp_path, broker.settings(), OutboxSettings(write_after=5)) as (outbox, uplink):
        await measure(outbox, 1)
        await until(lambda: uplink.statistics()["answering"] and outbox.statistics()["depth"] == 0)
        statements = []
        await outbox._store._db.set_trace_callback(statements.append)
        owed = set()
        for part in range(10):
            owed |= await measure(outbox, 3, 10 + part * 3)
            await asyncio.sleep(0.1)
        await until(lambda: owed <= town.rows())
        await until(lambda: outbox.statistics()["depth"] == 0)
        await outbox._store._db.set_trace_callback(None)
        assert [text for text in statements if not text.startswith(("SELECT", "--"))] == []


async def test_while_nobody_answers_rows_reach_the_disk_in_two_seconds(tmp_path, broker, monkeypatch, until):
    monkeypatch.setattr(outbox_module, "WRITE_AFTER_SILENT_S", 0.2)
    await broker.kill()
    async with gateway(tmp_path, broker.settings(), OutboxSettings(write_after=60)) as (outbox, _):
        await measure(outbox, 1)
        await until(lambda: outbox._store.batches == 1, 1.0)
