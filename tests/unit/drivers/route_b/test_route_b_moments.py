"""Which moments a meter can mean: a spoilt digit of a date makes no half hour, and stands before none."""

from datetime import UTC, datetime, timedelta

import pytest

from drivers.contract import DictMemory
from drivers.route_b import driver as driver_module
from drivers.route_b.history import Ledger, Moments
from drivers.route_b.meter import IMPORT_AT_30MIN, JST
from drivers.route_b.repair import Repair

NOON = datetime(2026, 6, 1, 12, tzinfo=JST)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
SPOILT = {
    "year 17E7": "17E7051F001E00",
    "a future day": "07EA0603001E00",
    "a day of 1990": "07C6051F001E00",
    "three days ago": "07EA051D001E00",
    "the last moment there is": "270F0C1F171E00",
    "the first moment there is": "00010101000000",
}
SOUND = "07EA0601001E00"


def notice(moment):
    return f"1081000102880105FF017301EA0B{moment}0000458E"


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(driver_module, "FIRST_WAIT_S", 0.02)


@pytest.mark.parametrize("moment", SPOILT.values(), ids=SPOILT)
@pytest.mark.parametrize("has_clock", [True, False])
async def test_a_spoilt_date_makes_no_half_hour_and_stands_before_none(dongle, working, moment, has_clock):
    async with working(dongle, speed=60) as bench:
        if not has_clock:
            bench.clock.unix_ms = lambda: None
        await bench.until(lambda: bench.half_hours)
        bench.clock._since -= 31  # 31 minutes pass
        dongle.datagram(notice(moment))
        dongle.datagram(notice(SOUND))
        await bench.until(lambda: len(bench.half_hours) >= 2)
        seen = len(bench.samples)
        await bench.until(lambda: len(bench.samples) > seen + 1)
        assert bench.driver.status()["malformed_values"] >= 1
        assert bench.driver._repair._ledger.newest() == datetime(2026, 6, 1, 0, 30, tzinfo=JST)
    assert {item.at.year for item in bench.half_hours} == {2026}
    assert [item.at for item in bench.half_hours] == [
        datetime(2026, 5, 31, 15, tzinfo=UTC),
        datetime(2026, 5, 31, 15, 30, tzinfo=UTC),
    ]


def test_by_a_clock_only_the_last_half_hour_is_taken_at_once():
    moments = Moments()
    for off, taken in (
        (timedelta(0), True),
        (-HOUR / 2 + timedelta(seconds=1), True),
        (-HOUR / 2, False),
        (-DAY, False),
        (timedelta(seconds=1), False),
        (2 * DAY, False),
    ):
        assert bool(moments.taken([NOON + off], NOON, answered=False)) is taken


def test_what_a_meter_whose_clock_is_off_says_twice_is_taken_and_what_nothing_explains_never():
    moments = Moments()
    for off in (HOUR, -HOUR, -2 * DAY):
        assert not moments.taken([NOON + off], NOON, answered=False)
        assert moments.doubtful
        assert not moments.taken([NOON + off], NOON, answered=False)  # a repeated notice proves nothing
        assert moments.taken([NOON + off], NOON, answered=True)
        assert not moments.doubtful
    for off in (2 * DAY, -3 * DAY):
        for _ in range(3):
            assert not moments.taken([NOON + off], NOON, answered=True)
            assert not moments.doubtful


def test_without_a_clock_each_moment_must_be_answered_again():
    moments = Moments()
    for off in (timedelta(0), HOUR, -2 * DAY):
        assert not moments.taken([NOON + off], None, answered=False)
        assert not moments.taken([NOON + off + HOUR], None, answered=True)
        assert not moments.taken([NOON + off], None, answered=True)
        assert moments.taken([NOON + off], None, answered=True)


def test_a_ledger_forgets_days_that_cannot_have_been():
    kept = {day: ["1", "0", "0", "0"] for day in ("1990-01-01", "2026-06-01", "2026-06-02", "2026-06-03", "6119-05-31")}
    ledger = Ledger({"days": kept, "since": 4_000_000_000})
    assert ledger.newest() == datetime(2026, 6, 3, tzinfo=JST)
    ledger.forget_after(NOON.date() + DAY)
    assert ledger.newest() == datetime(2026, 6, 2, tzinfo=JST)
    assert ledger.since is None
    assert set(ledger.as_json()["days"]) == {"2026-06-01", "2026-06-02"}


class Noon:
    def boot_ms(self):
        return 0

    def unix_ms(self):
        return round(NOON.timestamp() * 1000)


def test_a_memory_with_a_day_of_the_future_blocks_nothing():
    memory = DictMemory()
    memory.kept = {"half_hours": {"days": {"2031-05-31": ["1", "0", "0", "0"]}}}
    memory.get = memory.kept.get
    repair = Repair("meter", Noon(), None, memory, lambda _epc: True)
    assert repair.replaced() is None
    assert repair._ledger.lacks(IMPORT_AT_30MIN, NOON)
