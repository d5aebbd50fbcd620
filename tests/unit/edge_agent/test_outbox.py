"""The outbox on real SQLite, with a clock of our own."""

from __future__ import annotations

import asyncio
import json
import resource
import sqlite3
from datetime import datetime, timedelta, timezone
from decimal import Decimal

import msgspec
import pytest

from drivers.api import MEMORY_LIMIT_BYTES, Event, MalformedError, Sample
from edge_agent import outbox as outbox_module
from edge_agent import wire
from edge_agent.outbox import Outbox, OutboxSettings, export, stat

JAPAN = timezone(timedelta(hours=9))


class FakeTime:
    """One time for everything: stamps and ages."""

    boot = "a1b2c3d4"

    def __init__(self):
        self.s = 1000.0
        self.offset = 1_795_000_000_000

    def boot_ms(self):
        return round(self.s * 1000)

    def offset_ms(self):
        return self.offset

    def quality(self):
        return "unknown" if self.offset is None else "synced"

    def now_s(self):
        return self.s


@pytest.fixture
def time():
    return FakeTime()


@pytest.fixture
def reopen(tmp_path, time):
    """`reopen(**settings)` opens the outbox of house-001 in this test's folder."""

    def open_(gateway="house-001", boot="a1b2c3d4", **settings):
        path = tmp_path / "outbox.db"
        return Outbox.open(path, gateway, time, OutboxSettings(**settings), now_s=time.now_s, boot=boot)

    return open_


def sample(time, value=1, device="meter", **more):
    return Sample(device, time.boot_ms(), {"grid_power_w": value, **more})


async def everything(outbox):
    """Every batch still owed and known to the uplink, decoded."""
    place, found = 0, []
    while place is not None:
        more, place = await outbox.backlog(place, 65536, ())
        found += more
    return [wire.decode_batch(batch.payload) for batch in found]


def rows_of(batches):
    return [
        (block.device, batch.b0 + offset, *values)
        for batch in batches
        for block in batch.blocks
        for offset, *values in block.rows
    ]


async def test_a_batch_closes_two_seconds_after_its_first_row(reopen, time):
    async with reopen() as outbox:
        closed = []
        outbox.on_closed = closed.append
        await outbox.accept("meter", sample(time, 1))
        time.s += 1.9
        await outbox.accept("meter", sample(time, 2))
        await outbox.upkeep()
        assert closed == []
        time.s += 0.1
        await outbox.upkeep()
        assert len(closed) == 1
        batch = wire.decode_batch(closed[0].payload)
        assert batch.blocks == [wire.Block("meter", ["grid_power_w"], [[0, 1], [1900, 2]])]
        assert (batch.b0, batch.t0, batch.boot, batch.clock) == (1_000_000, 1_795_001_000_000, "a1b2c3d4", "synced")


async def test_a_batch_closes_at_a_hundred_rows_and_within_16_kib(reopen, time):
    async with reopen() as outbox:
        closed = []
        outbox.on_closed = closed.append
        for number in range(100):
            await outbox.accept("meter", sample(time, number))
        assert len(closed) == 1
        for _ in range(100):
            await outbox.accept("meter", sample(time, 1, text="x" * 1000))
        assert len(closed) > 5
        assert all(len(batch.payload) <= 16 * 1024 for batch in closed)


async def test_telemetry_is_written_when_its_acknowledgement_stays_away(reopen, time):
    async with reopen() as outbox:
        outbox.answering = True
        await outbox.accept("meter", sample(time))
        time.s += 9.9
        await outbox.upkeep()
        assert outbox._store.batches == 0
        time.s += 0.1
        await outbox.upkeep()
        assert outbox._store.batches == 1
        outbox.answering = False
        await outbox.accept("meter", sample(time))
        time.s += 2
        await outbox.upkeep()
        assert outbox._store.batches == 2


async def test_with_write_after_0_a_sample_is_on_disk_when_accept_returns(reopen, time, tmp_path):
    async with reopen(write_after=0) as outbox:
        await outbox.accept("meter", sample(time))
        assert stat(tmp_path / "outbox.db")["by_topic"] == {"telemetry": 1, "events": 0, "passages": 0}


async def test_an_event_is_on_disk_with_its_memory_when_accept_returns(reopen, time, tmp_path):
    async with reopen() as outbox:
        await outbox.accept(
            "tags", Event("tags", "tag_left", time.boot_ms(), {"tag": "t-01"}, personal=True), {"open": []}
        )
        with sqlite3.connect(tmp_path / "outbox.db") as other:
            assert other.execute("SELECT topic FROM batch").fetchall() == [(2,)]
            assert other.execute("SELECT * FROM memory").fetchall() == [("tags", "open", "[]")]
        other.close()
        assert outbox.memory("tags").get("open") == []


async def test_an_event_is_not_sent_before_it_is_written(reopen, time, tmp_path):
    async with reopen() as outbox:
        written = []
        outbox.on_closed = lambda batch: written.append(stat(tmp_path / "outbox.db")["batches"])
        await outbox.accept("meter", Event("meter", "device_lost", time.boot_ms()))
        assert written == [1]


async def test_a_sample_with_a_memory_goes_to_disk_with_it(reopen, time, tmp_path):
    async with reopen() as outbox:
        await outbox.accept("meter", sample(time), {"repaired": "2026-11-20"})
        assert stat(tmp_path / "outbox.db")["batches"] == 1
    async with reopen() as outbox:
        assert outbox.memory("meter").get("repaired") == "2026-11-20"


async def test_events_that_come_together_go_together(reopen, time):
    async with reopen() as outbox:
        closed = []
        outbox.on_closed = closed.append
        events = [Event("tags", "tag_arrived", time.boot_ms() + n, {"n": n}) for n in range(10)]
        await asyncio.gather(*(outbox.accept("tags", event) for event in events))
        assert len(closed) < 10
        found = [event for batch in await everything(outbox) for event in batch.events]
        assert [event.data["n"] for event in found] == list(range(10))


async def test_a_driver_cancelled_while_it_hands_over_leaves_no_half_transaction(reopen, time):
    async with reopen() as outbox:
        for number in range(20):
            task = asyncio.ensure_future(
                outbox.accept("tags", Event("tags", "lamp_changed", time.boot_ms(), {"n": number}), {"n": number})
            )
            for _ in range(number):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        await outbox.accept("tags", Event("tags", "lamp_changed", time.boot_ms(), {"n": 20}))
        numbers = [event.data["n"] for batch in await everything(outbox) for event in batch.events]
        assert len(set(numbers)) == len(numbers)
        assert 20 in numbers


async def test_device_timed_samples_carry_their_own_base(reopen, time):
    async with reopen() as outbox:
        at = datetime(2026, 11, 21, 12, 0, tzinfo=JAPAN)
        for half_hour in range(2):
            when = at + timedelta(minutes=30 * half_hour)
            await outbox.accept("meter", Sample("meter", when, {"import_energy_at_30min_kwh": Decimal("12.3")}))
        await outbox.accept("meter", sample(time))
        time.s += 2
        await outbox.upkeep()
        [batch] = await everything(outbox)
        assert batch.blocks[0].utc == at.timestamp() * 1000
        assert [row[0] for row in batch.blocks[0].rows] == [0, 1_800_000]
        assert batch.blocks[1].utc is None
        assert batch.b0 == 1_000_000


async def test_rows_of_an_unset_clock_have_no_t0(reopen, time):
    async with reopen() as outbox:
        time.offset = None
        await outbox.accept("meter", sample(time))
        time.s += 2
        await outbox.upkeep()
        [batch] = await everything(outbox)
        assert batch.t0 is None
        assert batch.clock == "unknown"


async def test_a_value_no_batch_can_carry_becomes_null_and_is_counted(reopen, time):
    async with reopen() as outbox:
        bad = (float("nan"), Decimal("NaN"), Decimal("Infinity"), 2**64, True, 1e300, "a\ud800", [1])
        await outbox.accept(
            "meter", Sample("meter", 1, {f"q{n}": value for n, value in enumerate(bad)} | {"good": 1.5})
        )
        time.s += 2
        await outbox.upkeep()
        [batch] = await everything(outbox)
        assert batch.blocks[0].rows == [[0, *[None] * len(bad), Decimal("1.5")]]
        assert outbox.statistics()["uncarried_values"] == len(bad)


@pytest.mark.parametrize(
    "item",
    [
        Event("meter", "x", 1, {"text": "\ud800"}),
        Event("meter", "x", 1, {"number": Decimal("NaN")}),
        Event("meter", "x", 1, {"thing": object()}),
        Event("meter", "x", 1, {"text": "x" * 40_000}),
        Event("meter", "x", datetime(2026, 1, 1), {}),  # noqa: DTZ001  (that is the point)
        Sample("meter", 1, {"text": "x" * 40_000}),
        Sample("met\ud800er", 1, {"grid_power_w": 1}),
    ],
)
async def test_an_item_no_batch_can_carry_is_refused_and_leaves_nothing_behind(reopen, time, item):
    async with reopen() as outbox:
        with pytest.raises(MalformedError):
            await outbox.accept("meter", item, {"key": 1})
        assert outbox.memory("meter").get("key") is None
        time.s += 20
        await outbox.upkeep()
        assert await everything(outbox) == []


async def test_an_acknowledged_batch_is_deleted_with_the_next_write_or_after_a_minute(reopen, time, tmp_path):
    async with reopen() as outbox:
        for number in range(3):
            await outbox.accept("meter", Event("meter", "x", time.boot_ms(), {"n": number}))
        epoch = outbox.intake.epoch
        assert outbox.acknowledge(epoch, [1]) == 1
        assert outbox.statistics()["depth"] == 2
        assert stat(tmp_path / "outbox.db")["batches"] == 3
        await outbox.accept("meter", Event("meter", "x", time.boot_ms(), {"n": 3}))
        assert stat(tmp_path / "outbox.db")["batches"] == 3
        assert outbox.acknowledge(epoch, [2, 3, 4]) == 3
        time.s += 59
        await outbox.upkeep()
        assert stat(tmp_path / "outbox.db")["batches"] == 3
        time.s += 1
        await outbox.upkeep()
        assert stat(tmp_path / "outbox.db")["batches"] == 0
        assert outbox.statistics()["oldest_age_s"] is None


async def test_acknowledgements_of_numbers_never_given_out_change_nothing(reopen, time, tmp_path):
    async with reopen() as outbox:
        await outbox.accept("meter", Event("meter", "x", time.boot_ms()))
        assert outbox.acknowledge(outbox.intake.epoch, [0, 2, -1, 2**63, 10**30]) <= 2
        assert outbox.acknowledge("f" * 16, [1]) == 0
        time.s += 100
        before = (tmp_path / "outbox.db-wal").read_bytes()
        await outbox.upkeep()
        assert (tmp_path / "outbox.db-wal").read_bytes() == before
        assert len(await everything(outbox)) == 1


async def test_a_batch_acknowledged_while_it_is_being_written_goes(reopen, time):
    async with reopen() as outbox:
        closed = []
        outbox.on_closed = closed.append
        await outbox.accept("meter", sample(time))
        time.s += 2
        await outbox.upkeep()
        async with outbox._lock:
            pass
        await outbox.accept("meter", sample(time))
        time.s += 2
        outbox._close_telemetry()
        writing = asyncio.ensure_future(outbox.upkeep())
        await asyncio.sleep(0)
        outbox.acknowledge(*[(batch.epoch, [batch.seq]) for batch in closed][-1])
        await writing
        assert outbox.statistics()["depth"] == 1


async def test_the_file_of_another_gateway_is_set_aside_by_name(reopen, time, tmp_path):
    async with reopen() as outbox:
        await outbox.accept("meter", Event("meter", "x", 1), {"key": 1})
    async with reopen(gateway="house-002") as outbox:
        [batch] = await everything(outbox)
        assert [event.kind for event in batch.events] == ["outbox_set_aside"]
        assert outbox.memory("meter").get("key") is None
    assert stat(tmp_path / "outbox.db.of-house-001.1")["batches"] == 1
    async with reopen(gateway="house-001") as outbox:
        assert (tmp_path / "outbox.db.of-house-002.1").exists()


@pytest.mark.parametrize("damage", ["noise", "cut", "empty page", "another table"])
async def test_a_file_that_cannot_be_used_is_set_aside_and_the_agent_goes_on(reopen, time, tmp_path, damage):
    path = tmp_path / "outbox.db"
    async with reopen() as outbox:
        for number in range(50):
            await outbox.accept("meter", Event("meter", "x", number, {"text": "x" * 500}))
    whole = path.read_bytes()
    if damage == "another table":
        path.unlink()
        with sqlite3.connect(path) as other:
            other.execute("CREATE TABLE batch(x)")
        other.close()
    else:
        broken = {
            "noise": b"noise" * 999,
            "cut": whole[:9000],
            "empty page": whole[:8192] + bytes(4096) + whole[12288:],
        }
        path.write_bytes(broken[damage])
    before = path.read_bytes()
    async with reopen() as outbox:
        kinds = [event.kind for batch in await everything(outbox) for event in batch.events]
        assert kinds == ["outbox_set_aside"]
        await outbox.accept("meter", Event("meter", "y", 1))
        assert outbox.statistics()["durable"]
    [aside] = tmp_path.glob("outbox.db.*.1")
    assert aside.read_bytes() == before


async def test_a_file_damaged_at_run_time_is_replaced_and_nothing_in_hand_is_lost(reopen, time, tmp_path):
    async with reopen() as outbox:
        await outbox.accept("meter", Event("meter", "x", 1), {"key": "kept"})

        async def malformed(*_):
            error = sqlite3.DatabaseError("database disk image is malformed")
            error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
            raise error

        outbox._store.write = malformed
        await outbox.accept("meter", Event("meter", "y", 2))
        kinds = {event.kind for batch in await everything(outbox) for event in batch.events}
        assert "y" in kinds
    assert (tmp_path / "outbox.db.corrupt.1").exists()
    async with reopen() as outbox:
        assert outbox.memory("meter").get("key") == "kept"


@pytest.fixture
def full_disk(tmp_path):
    """`full_disk(True)` keeps files of this process from growing beyond 64 KiB, as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit(full):
        resource.setrlimit(resource.RLIMIT_FSIZE, (64 * 1024 if full else before[0], before[1]))

    yield limit
    limit(False)


async def test_a_full_disk_is_lived_through_in_memory_and_left_without_a_restart(reopen, time, full_disk, tmp_path):
    async with reopen() as outbox:
        await outbox.accept("meter", Event("meter", "first", 1))
        full_disk(True)
        for number in range(100):
            await outbox.accept("meter", Event("meter", "x", number, {"text": "x" * 2000}), {"n": number})
        assert not outbox.statistics()["durable"]
        assert outbox.memory("meter").get("n") == 99
        full_disk(False)
        assert len([event for batch in await everything(outbox) for event in batch.events]) == 101
        time.s += 5
        await outbox.upkeep()
        assert outbox.statistics()["durable"]
        assert stat(tmp_path / "outbox.db")["batches"] >= 100
    async with reopen() as outbox:
        assert outbox.memory("meter").get("n") == 99
        kinds = [event.kind for batch in await everything(outbox) for event in batch.events]
        assert sorted(kinds) == ["first"] + ["x"] * 100


async def test_while_the_disk_refuses_memory_is_bounded_and_events_last_out(reopen, time, monkeypatch):
    monkeypatch.setattr(outbox_module, "MAX_HELD_BYTES", 20_000)
    async with reopen() as outbox:

        async def refuse(*_):
            raise sqlite3.OperationalError("database or disk is full")

        real, outbox._store.write = outbox._store.write, refuse
        await outbox.accept("meter", Event("meter", "precious", 1))
        for number in range(100):
            await outbox.accept("meter", sample(time, number, text="x" * 1000))
            time.s += 2
            await outbox.upkeep()
        assert outbox._held_bytes <= 20_000
        dropped = outbox.statistics()["dropped"]
        assert dropped["telemetry"] > 70
        assert dropped["events"] == 0
        outbox._store.write = real
        time.s += 5
        await outbox.upkeep()
        kinds = [event.kind for batch in await everything(outbox) for event in batch.events]
        assert kinds[0] == "precious"
        assert "telemetry_dropped" in kinds


async def test_a_folder_that_cannot_be_written_is_lived_with(time, tmp_path):
    (tmp_path / "file").write_text("")
    path = tmp_path / "file" / "outbox.db"
    async with Outbox.open(path, "house-001", time, now_s=time.now_s, boot="a1b2c3d4") as outbox:
        await outbox.accept("meter", Event("meter", "x", 1))
        assert not outbox.statistics()["durable"]
        assert len(await everything(outbox)) == 1
        (tmp_path / "file").unlink()
        time.s += 5
        await outbox.upkeep()
        assert outbox.statistics()["durable"]
    assert stat(path)["batches"] == 1


async def fill(outbox, time, seconds, every=10, text="x" * 900):
    for _ in range(0, seconds, every):
        await outbox.accept("meter", Sample("meter", time.boot_ms(), {"grid_power_w": 1, "text": text}))
        time.s += every
        await outbox.upkeep()


async def make_room(outbox):
    while outbox._store.bytes > outbox._room.limit_bytes * 0.97:
        await outbox.upkeep()


async def test_a_full_outbox_keeps_the_first_row_of_each_minute_and_every_event(reopen, time):
    async with reopen() as outbox:
        outbox._room.limit_bytes = 200_000
        await outbox.accept("meter", Event("meter", "precious", time.boot_ms()))
        at = datetime(2026, 11, 21, tzinfo=JAPAN)
        for n in range(20):
            await outbox.accept("meter", Sample("meter", at + timedelta(seconds=n), {"import_energy_at_30min_kwh": n}))
        await fill(outbox, time, 2400)
        owed = rows_of(await everything(outbox))
        outbox._room.limit_bytes = 100_000
        await make_room(outbox)
        kept = rows_of(await everything(outbox))
        assert set(kept) <= set(owed)
        minutes = [row[1] // 60_000 for row in owed]
        assert {row[1] // 60_000 for row in kept} >= set(minutes)
        first = {}
        for row in owed:
            first.setdefault(row[1] // 60_000, row)
        assert set(first.values()) <= set(kept) | {row for row in owed if len(row) == 3}
        assert outbox.statistics()["thinned"] > 50
        assert outbox.statistics()["dropped"] == {"telemetry": 0, "events": 0, "passages": 0}
        batches = await everything(outbox)
        assert sum(len(block.rows) for batch in batches for block in batch.blocks if block.utc is not None) == 20
        assert any(event.kind == "precious" for batch in batches for event in batch.events)


async def test_when_thinning_is_not_enough_the_oldest_telemetry_goes_and_an_event_says_so(reopen, time):
    async with reopen() as outbox:
        outbox._room.limit_bytes = 100_000
        await outbox.accept("meter", Event("meter", "precious", 1))
        await fill(outbox, time, 60 * 150, every=60)
        await make_room(outbox)
        await outbox.upkeep()
        time.s += 600
        await outbox.upkeep()
        batches = await everything(outbox)
        kinds = [event.kind for batch in batches for event in batch.events]
        assert kinds[0] == "precious"
        assert "telemetry_dropped" in kinds
        rows = rows_of(batches)
        assert len(rows) + outbox.statistics()["dropped"]["telemetry"] == 150
        assert [row[1] for row in rows] == sorted(row[1] for row in rows)
        assert rows[-1][1] > time.boot_ms() - 700_000


async def test_thinning_goes_on_after_a_restart_where_it_was(reopen, time):
    async with reopen() as outbox:
        await fill(outbox, time, 1200)
    async with reopen() as outbox:
        store = outbox._store
        owed = rows_of(await everything(outbox))
        rows = await store.telemetry(0, 0, 47)
        thinner = await outbox._room._seed(store)
        await store.replace([(row.id, thinner.thin(row.batch.payload)[0]) for row in rows])
    async with reopen() as outbox:
        while await outbox._room._thin(outbox._store):
            pass
        kept = rows_of(await everything(outbox))
    first = {}
    for row in owed:
        first.setdefault(row[1] // 60_000, row)
    assert kept == list(first.values())


async def test_passages_expire_after_72_hours_of_running_and_events_do_not(reopen, time):
    async with reopen() as outbox:
        await outbox.accept("tags", Event("tags", "tag_left", 1, {"tag": "t-01"}, personal=True))
        await outbox.accept("tags", Event("tags", "lamp_changed", 1))
        time.s += 40 * 3600
        await outbox.accept("tags", Event("tags", "lamp_changed", 2))
    time.s = 5.0  # another boot: its clock starts again
    async with reopen(boot="b2b2b2b2") as outbox:
        time.s += 31 * 3600
        await outbox.upkeep()
        assert len(await everything(outbox)) == 3
        time.s += 2 * 3600
        await outbox.upkeep()
        kinds = [event.kind for batch in await everything(outbox) for event in batch.events]
        assert kinds == ["lamp_changed", "lamp_changed"]
        assert outbox.statistics()["expired"] == 1


async def test_a_batch_set_aside_is_kept_and_not_sent(reopen, time, tmp_path):
    async with reopen() as outbox:
        await outbox.accept("meter", Event("meter", "x", 1))
        key = (outbox.intake.epoch, 1)
        await outbox.set_aside(key, "too large")
        kinds = [event.kind for batch in await everything(outbox) for event in batch.events]
        assert kinds == ["batch_set_aside"]
    async with reopen() as outbox:
        assert len(await everything(outbox)) == 1
    assert stat(tmp_path / "outbox.db")["set_aside"] == 1


async def test_a_memory_is_bounded_and_survives(reopen, time):
    async with reopen() as outbox:
        memory = outbox.memory("meter")
        await memory.update({"a": [1, {"b": None}], "c": 1.5})
        with pytest.raises(MalformedError):
            await memory.update({"d": "x" * MEMORY_LIMIT_BYTES})
        with pytest.raises(MalformedError):
            await outbox.accept("meter", Event("meter", "x", 1), {"d": "x" * MEMORY_LIMIT_BYTES})
        memory.get("a").append("changed by the driver")
        await memory.update({"c": None})
        await outbox.memory("other").update({"a": 1})
    async with reopen() as outbox:
        assert outbox.memory("meter").get("a") == [1, {"b": None}]
        assert outbox.memory("meter").get("c") is None
        assert outbox.memory("meter").get("d") is None
        assert await everything(outbox) == []


async def test_what_is_remembered_again_unchanged_costs_no_write(reopen, time, tmp_path):
    async with reopen() as outbox:
        memory = outbox.memory("meter")
        await memory.update({"a": 1})
        before = (tmp_path / "outbox.db-wal").read_bytes()
        await memory.update({"a": 1})
        assert (tmp_path / "outbox.db-wal").read_bytes() == before


async def test_stat_and_export_read_beside_a_running_agent(reopen, time, tmp_path):
    async with reopen() as outbox:
        await outbox.accept("meter", Event("meter", "x", 1), {"a": 1})
        await outbox.accept("tags", Event("tags", "tag_left", 1, personal=True))
        found = stat(tmp_path / "outbox.db")
        assert (found["gateway"], found["batches"], found["memories"]) == ("house-001", 2, ["meter"])
        lines = [json.loads(line) for line in export(tmp_path / "outbox.db")]
        assert [line["topic"] for line in lines] == ["events", "passages"]
        assert {line["gateway"] for line in lines} == {"house-001"}
        assert wire.decode_batch(msgspec.json.encode(lines[0]["batch"])).seq == 1
        await outbox.accept("meter", Event("meter", "y", 1))
    with pytest.raises(FileNotFoundError):
        stat(tmp_path / "nothing.db")


async def test_two_starts_never_share_an_epoch(reopen, time):
    epochs = set()
    for _ in range(3):
        async with reopen() as outbox:
            epochs.add(outbox.intake.epoch)
            await outbox.accept("meter", Event("meter", "x", 1))
    async with reopen() as outbox:
        batches = await everything(outbox)
        assert {(batch.epoch, batch.seq) for batch in batches} == {(epoch, 1) for epoch in epochs}
