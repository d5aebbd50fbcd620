"""The SQLite store on a real file: each datum once, exact, and nothing overwritten."""

from __future__ import annotations

import json
import sqlite3
from decimal import Decimal

import pytest

from aggregator import operate, queries, schema
from aggregator.ingest import Rules, read
from aggregator.sqlite import open_reader, open_writer
from aggregator.store import StoreError
from aggregator.writing import QUARANTINE_ENTRIES, Writing

NOW = 1_795_000_000_000
BOOT, EPOCH = "a1b2c3d4", "9f31c2aa04b7d1e5"
ALL = (0, 2**53)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "aggregator.db"


@pytest.fixture
def writing(path):
    made = Writing(open_writer(path))
    yield made
    made.connection.close()


def message(
    seq=1, rows=((0, 512),), columns=("grid_power_w",), kind="telemetry", gateway="house-001", now=NOW, **changes
):
    block = {"device": "meter", "columns": list(columns), "rows": [list(row) for row in rows]}
    body = {
        "v": 1,
        "epoch": EPOCH,
        "seq": seq,
        "boot": BOOT,
        "b0": 0,
        "t0": NOW - 600_000,
        "clock": "synced",
        "blocks": [block],
    }
    return read(f"gw/v1/{gateway}/{kind}", json.dumps(body | changes).encode(), now, Rules(accept_simulated=True))


def rows(writing, gateway="house-001"):
    return queries.rows(writing.connection, gateway, *ALL, 1000, None)


def counts(writing, gateway="house-001"):
    return queries.gateways(writing.connection, gateway)[0].counts


def test_a_resent_batch_is_acknowledged_again_and_stored_once(writing):
    first = writing.commit([message()])
    again = writing.commit([message(), message()])
    assert first.acks == [("house-001", EPOCH, 1)]
    assert again.acks == [("house-001", EPOCH, 1)] * 2
    assert len(rows(writing)) == 1
    assert counts(writing)["batches_repeated"] == 2


def test_the_same_row_in_another_batch_is_one_row(writing):
    writing.commit([message(1), message(2)])
    assert len(rows(writing)) == 1
    assert "conflicts" not in counts(writing)


def test_a_conflict_fills_what_is_null_and_never_overwrites(writing):
    columns = ("grid_power_w", "current_r_a")
    writing.commit([message(1, [[0, 512, None]], columns), message(2, [[0, 999, 13.1]], columns)])
    (row,) = rows(writing)
    assert row["values"] == {"grid_power_w": 512, "current_r_a": pytest.approx(13.1)}
    assert counts(writing)["conflicts"] == 1
    kept = writing.connection.execute("SELECT name, stored, offered, n FROM conflict").fetchall()
    assert kept == [("grid_power_w", "512", "999", 1)]


def test_energies_are_exact_whole_steps(writing):
    writing.commit([message(1, [[0, 12345.6789], [1000, 0.1]], ["import_energy_kwh"])])
    cells = writing.connection.execute("SELECT import_energy_kwh, typeof(import_energy_kwh) FROM telemetry").fetchall()
    assert cells == [(123456789, "integer"), (1000, "integer")]
    assert [row["values"]["import_energy_kwh"] for row in rows(writing)] == [Decimal("12345.6789"), Decimal("0.1")]


def test_a_finer_energy_is_kept_and_not_rounded(writing):
    writing.commit([message(1, [[0, 1.00005]], ["import_energy_kwh"])])
    assert writing.connection.execute("SELECT import_energy_kwh FROM telemetry").fetchone() == (None,)
    assert rows(writing)[0]["values"] == {"import_energy_kwh": Decimal("1.00005")}
    (track,) = queries.tracks(writing.connection, "house-001", ["import_energy_kwh"], *ALL, None)
    assert track.points[0][1] == Decimal("1.00005")


def test_an_unknown_quantity_is_stored_and_served(writing):
    writing.commit([message(1, [[0, 21.125]], ["room_temperature_c"])])
    (track,) = queries.tracks(writing.connection, "house-001", ["room_temperature_c"], *ALL, None)
    assert track.points == [(NOW - 600_000, Decimal("21.125"))]


def test_device_timed_values_have_their_own_identity(writing):
    half = {"device": "meter", "columns": ["import_energy_at_30min_kwh"], "rows": [[0, 5.5]], "utc": NOW - 3_600_000}
    changed = half | {"rows": [[0, 5.6]]}
    writing.commit([message(1, blocks=[half]), message(2, blocks=[half]), message(3, blocks=[changed])])
    (track,) = queries.tracks(writing.connection, "house-001", ["import_energy_at_30min_kwh"], *ALL, None)
    assert track.points == [(NOW - 3_600_000, Decimal("5.5"))]
    assert counts(writing)["conflicts"] == 1
    assert counts(writing)["values_repeated"] == 2


def test_an_event_is_its_id(writing):
    event = {"id": "e1", "device": "lamp", "kind": "lamp_changed", "data": {"level": 3}}
    other = event | {"data": {"level": 4}}
    first = writing.commit([message(1, blocks=[], events=[event], kind="events")])
    again = writing.commit([message(2, blocks=[], events=[other], kind="events")])
    assert [new.id for new in first.events] == ["e1"]
    assert again.events == []
    (stored,) = queries.events(writing.connection, "house-001", False, *ALL, (), 10)
    assert stored["data"] == {"level": 3}
    assert counts(writing)["conflicts"] == 1


def test_two_gateways_never_meet(writing):
    writing.commit([message(1), message(1, [[0, 7]], gateway="house-002")])
    assert rows(writing)[0]["values"] == {"grid_power_w": 512}
    assert rows(writing, "house-002")[0]["values"] == {"grid_power_w": 7}


def test_rows_of_an_unsynced_boot_wait_for_its_offset(writing):
    writing.commit([message(1, t0=None, clock="unknown")])
    assert rows(writing) == []
    assert counts(writing)["held_clock"] == 1
    offset = {"id": "e1", "device": "", "kind": "clock_offset", "data": {"boot": BOOT, "offset_ms": NOW - 10_000}}
    writing.commit([message(2, blocks=[], events=[offset], kind="events")])
    assert [row["time"] for row in rows(writing)] == [NOW - 10_000]
    assert counts(writing)["held_clock"] == 0
    writing.commit([message(3, [[5, 1]], t0=None, clock="unknown")])
    assert [row["time"] for row in rows(writing)] == [NOW - 10_000, NOW - 9_995]


def test_the_sweep_places_what_was_still_in_the_future(writing):
    offset = {"id": "e1", "device": "", "kind": "clock_offset", "data": {"boot": BOOT, "offset_ms": NOW + 3_600_000}}
    writing.commit([message(1, t0=None), message(2, blocks=[], events=[offset], kind="events")])
    assert rows(writing) == []
    assert writing.sweep(NOW) == 0
    assert writing.sweep(NOW + 3_600_000) == 1
    assert [row["time"] for row in rows(writing)] == [NOW + 3_600_000]


def test_an_operator_sees_why_and_offers_again(writing):
    writing.commit([message(1, v=9)])
    (entry,) = operate.quarantine(writing.connection, None)
    assert "version 9" in entry["reason"]
    assert operate.replay(writing, [entry["id"]], NOW, Rules()) == (0, 1)
    # As if this code had learnt version 9.
    known = (operate.payload(writing.connection, entry["id"]) or b"").replace(b'"v": 9', b'"v": 1')
    writing.connection.execute("UPDATE quarantine SET payload = ?", (known,))
    assert operate.replay(writing, [entry["id"]], NOW, Rules()) == (1, 0)
    assert len(rows(writing)) == 1
    assert list(operate.quarantine(writing.connection, None)) == []


def test_a_future_row_enters_when_its_time_has_come(writing):
    writing.commit([message(1, t0=NOW + 3_600_000)])
    (entry,) = operate.quarantine(writing.connection, "house-001")
    assert rows(writing) == []
    assert operate.replay(writing, [entry["id"]], NOW + 3_600_000, Rules()) == (1, 0)
    assert [row["time"] for row in rows(writing)] == [NOW + 3_600_000]


def test_the_same_poison_is_kept_once_and_counted(writing):
    writing.commit([read("gw/v1/house-001/telemetry", b"poison", NOW, Rules()) for _ in range(5)])
    (entry,) = operate.quarantine(writing.connection, None)
    assert entry["n"] == 5


def test_the_quarantine_is_bounded_and_forgets_the_oldest(writing):
    many = [
        read("gw/v1/house-001/telemetry", b"poison %d" % n, NOW + n, Rules()) for n in range(QUARANTINE_ENTRIES + 10)
    ]
    writing.commit(many)
    entries = list(operate.quarantine(writing.connection, None))
    assert len(entries) == QUARANTINE_ENTRIES
    assert operate.payload(writing.connection, entries[0]["id"]) == b"poison 10"


def test_ten_megabytes_leave_their_head_only(writing):
    writing.commit([read("gw/v1/house-001/telemetry", b"x" * 10_000_000, NOW, Rules())])
    (entry,) = operate.quarantine(writing.connection, None)
    assert entry["size"] == 10_000_000
    assert not entry["whole"]
    assert len(operate.payload(writing.connection, entry["id"]) or b"") == 4096
    assert operate.replay(writing, [entry["id"]], NOW, Rules()) == (0, 1)


def test_what_trips_the_store_is_put_aside_and_its_neighbours_go_on(writing):
    bad = message(2, [[1, 5], [4, 5]])
    bad.contents[0].rows[1].values["grid_power_w"] = object()  # nothing a payload can say
    outcome = writing.commit([message(1), bad, message(3, [[2, 6]])])
    assert [row["boot_ms"] for row in rows(writing)] == [0, 2]
    assert len(outcome.acks) == 3
    (entry,) = operate.quarantine(writing.connection, None)
    assert "could not take it" in entry["reason"]
    assert operate.replay(writing, [entry["id"]], NOW, Rules()) == (1, 0)
    assert len(rows(writing)) == 4


def test_a_failed_commit_leaves_nothing_and_can_be_tried_again(writing):
    writing.commit([message(1)])
    writing.connection.execute("PRAGMA max_page_count = 1")
    many = [message(n, [[n * 1000 + k, k] for k in range(99)]) for n in range(2, 30)]
    with pytest.raises(sqlite3.OperationalError):
        writing.commit(many)
    assert len(rows(writing)) == 1
    writing.connection.execute("PRAGMA max_page_count = 100000")
    assert len(writing.commit(many).acks) == 28


def test_a_retired_gateway_is_put_aside_until_it_is_restored(writing):
    writing.commit([message(1)])
    assert operate.retire(writing.connection, "house-001", NOW)
    outcome = writing.commit([message(2, [[7, 7]])])
    assert outcome.acks == [("house-001", EPOCH, 2)]
    (entry,) = operate.quarantine(writing.connection, None)
    assert operate.replay(writing, [entry["id"]], NOW, Rules()) == (0, 1)
    operate.retire(writing.connection, "house-001", None)
    assert operate.replay(writing, [entry["id"]], NOW, Rules()) == (1, 0)
    assert len(rows(writing)) == 2
    assert not operate.retire(writing.connection, "house-009", NOW)


def two_boxes(writing):
    """Boot a1b2c3d4 runs; a second box with boot ffff joins; the first goes on."""
    writing.commit([message(1, t0=NOW - 600_000)])
    second = message(1, [[0, 1]], boot="ffff", epoch="f" * 16, t0=NOW - 500_000)
    return writing.commit([second, message(2, [[300_000, 3]], t0=NOW - 600_000)])


def test_interleaving_boots_hold_the_later_one_and_raise_an_event(writing):
    outcome = two_boxes(writing)
    assert [event.kind for event in outcome.events] == ["identity_conflict"]
    assert [row["boot"] for row in rows(writing)] == [BOOT, BOOT]
    assert counts(writing)["held_identity"] == 1
    writing.commit([message(2, [[9, 1]], boot="ffff", epoch="f" * 16, t0=NOW - 400_000)])
    assert counts(writing)["held_identity"] == 2


def test_an_operator_admits_the_held_boot_for_good(writing):
    two_boxes(writing)
    assert operate.admit(writing, "house-001", "ffff") == 1
    assert operate.admit(writing, "house-001", "0000") is None
    writing.sweep(NOW)
    writing.commit([message(3, [[8, 2]], boot="ffff", epoch="f" * 16), message(4, [[400_000, 4]])])
    assert counts(writing)["held_identity"] == 0
    assert len(rows(writing)) == 5


def test_a_restarted_box_is_no_second_box(writing):
    writing.commit([message(1, t0=NOW - 600_000)])
    writing.commit([message(1, [[0, 1]], boot="ffff", epoch="f" * 16, t0=NOW - 500_000)])
    # What the first boot had stored comes late, over either topic.
    writing.commit(
        [message(2, [[50_000, 3]], t0=NOW - 600_000), message(3, [[60_000, 3]], t0=NOW - 600_000, kind="telemetry")]
    )
    assert counts(writing)["held_identity"] == 0


def test_a_simulated_day_played_again_is_the_newest(writing):
    late, early = NOW - 1_000, NOW - 90_000_000
    writing.commit([message(1, t0=late, clock="simulated"), message(2, [[5, 5]], t0=early, clock="simulated")])
    assert queries.gateways(writing.connection)[0].newest_utc_ms == early + 5


def test_a_newer_database_is_refused_by_name(path, writing):
    writing.connection.execute("PRAGMA user_version = 99")
    with pytest.raises(StoreError, match="newer version"):
        open_writer(path)


def test_a_vocabulary_that_has_grown_gets_its_column(path, writing):
    writing.connection.execute("DROP VIEW telemetry_rows")
    writing.connection.execute('ALTER TABLE telemetry DROP COLUMN "sine_value"')
    writing.connection.execute(
        "CREATE VIEW telemetry_rows AS SELECT source.gateway, source.device, boot.boot AS boot_id, telemetry.*"
        " FROM telemetry JOIN source ON source.id = telemetry.source JOIN boot ON boot.id = telemetry.boot"
    )
    writing.connection.close()
    grown = Writing(open_writer(path))
    grown.commit([message(1, [[0, 0.5]], ["sine_value"])])
    assert rows(grown)[0]["values"] == {"sine_value": 0.5}
    grown.connection.close()


def test_a_reader_cannot_write(path, writing):
    reader = open_reader(path)
    with pytest.raises(sqlite3.OperationalError):
        reader.execute("DELETE FROM gateway")
    reader.close()


@pytest.mark.parametrize(
    ("name", "value", "cell"),
    [
        ("import_energy_kwh", Decimal("0.0001"), 1),
        ("import_energy_kwh", 7, 70_000),
        ("grid_power_w", -3000, -3000.0),
        ("alert_level", 3, 3),
        ("alert_level", "3", "3"),
    ],
)
def test_a_value_comes_back_as_it_was(name, value, cell):
    assert schema.to_cell(name, value) == (cell, True)
    assert schema.from_cell(name, cell) == value


@pytest.mark.parametrize(
    ("name", "value"),
    [("grid_power_w", "much"), ("pv_power_w", 2**60 + 1), ("import_energy_kwh", 10**20), ("nothing_known", 1)],
)
def test_what_no_column_holds_exactly_goes_beside(name, value):
    assert schema.split({name: value})[1] == {name: value}
