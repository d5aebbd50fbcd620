"""Half hours complete: the driver on a dongle behind which the simulated meter answers, judged by its house."""

import contextlib
from datetime import datetime, timedelta
from decimal import Decimal

import pytest

from drivers.api import RefusedError
from drivers.route_b import driver as driver_module
from drivers.route_b.meter import JST
from simulators.house import House
from simulators.metering import Meter, Nameplate

MIDNIGHT = datetime(2026, 6, 1, tzinfo=JST)
HALF_HOUR = timedelta(minutes=30)
IMPORT, EXPORT = "import_energy_at_30min_kwh", "export_energy_at_30min_kwh"


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(driver_module, "FIRST_WAIT_S", 0.02)
    monkeypatch.setattr(driver_module, "LONGEST_WAIT_S", 0.1)


class Bench:
    """A driver and the simulated meter it reads; `spoil` may change or swallow an answer's bytes."""

    def __init__(self, dongle, bench, days, plate):
        self.dongle, self.bench = dongle, bench
        self.begin = MIDNIGHT - timedelta(days=days)
        self.meter = Meter(House(start_ms=ms(self.begin)), bench.clock.unix_ms, Nameplate(**plate))
        self.spoil = lambda request, answer: answer
        dongle.answers["SKSENDTO"] = self._reply

    def _reply(self, request):
        self.dongle.event(21, "00")
        self.dongle.say("OK\r\n")
        answer = self.meter.answer(request)
        if answer is not None and (data := self.spoil(request, answer.frame.encode())):
            self.dongle.datagram(data.hex().upper(), lqi="5A")

    @property
    def told(self):
        """What was passed on, in the order it was, as (moment, quantity, value)."""
        return [(s.at.astimezone(JST), name, value) for s in self.bench.half_hours for name, value in s.values.items()]

    @property
    def told_of_old(self):
        """The same up to the midnight at which the driver was started."""
        return {entry for entry in self.told if entry[0] <= MIDNIGHT}

    def expected(self, first, last):
        oracle = House(start_ms=ms(self.begin))
        moments = [first + n * HALF_HOUR for n in range((last - first) // HALF_HOUR + 1)]
        balances = [(at, oracle.half_hour(ms(at))) for at in moments]
        return {
            (at, name, Decimal(ws // 360_000) / 10)
            for at, said in balances
            for name, ws in ((IMPORT, said.import_ws), (EXPORT, said.export_ws))
        }

    def asked(self, text):
        return sum(data[10:].hex().upper().startswith(text) for data in self.dongle.requests)

    async def until_told(self, moments):
        await self.bench.until(lambda: len({at for at, _, _ in self.told}) >= moments)

    def events(self, kind):
        return [event.data for event in self.bench.events if event.kind == kind]

    async def until_event(self, kind, number=1):
        await self.bench.until(lambda: len(self.events(kind)) >= number)
        return self.events(kind)[-1]


def ms(moment):
    return int(moment.timestamp() * 1000)


@pytest.fixture
def reading(working):
    @contextlib.asynccontextmanager
    async def start(dongle, days=1, memory=None, speed=600.0, settings=None, **plate):
        async with working(dongle, memory, speed, **(settings or {})) as bench:
            yield Bench(dongle, bench, days, plate)

    return start


async def test_at_the_start_today_and_yesterday_are_read_from_the_meters_memory_exactly_and_once(dongle, reading):
    async with reading(dongle, days=2) as home:
        await home.until_told(49)
        polls = len(home.bench.samples)
        await home.bench.until(lambda: len(home.bench.samples) > polls + 3)
    assert home.told_of_old == home.expected(MIDNIGHT - timedelta(days=1), MIDNIGHT)
    assert len(home.told) == len(set(home.told))
    assert home.asked("6101E50101") == 1
    assert all(isinstance(value, Decimal) for _, _, value in home.told)


async def test_a_restarted_driver_tells_only_what_it_did_not_tell_before(dongle, reading):
    async with reading(dongle) as home:
        await home.until_told(49)
    memory = home.bench.memory
    async with reading(dongle, memory=memory) as again:
        await again.bench.until(lambda: len(again.bench.samples) > 5)
        assert again.asked("6101E501") == 1  # by the first driver: nothing is missing now
    assert again.told_of_old == set()
    for day in memory.kept["half_hours"]["days"].values():
        day[0] = f"{int(day[0], 16) & ~(1 << 10):x}"  # the import of one half hour is lost
    async with reading(dongle, memory=memory) as mended:
        await mended.until_told(1)
        await mended.bench.until(lambda: len(mended.bench.samples) > 3)
    assert {(at.hour, name) for at, name, _ in mended.told_of_old} == {(5, IMPORT)}


async def test_a_short_gap_is_read_by_pairs_where_the_meter_has_them(dongle, reading):
    async with reading(dongle, pairs=True) as home:
        await home.until_told(49)
    memory = home.bench.memory
    memory.kept["half_hours"]["days"]["2026-05-31"][:2] = [f"{(1 << 48) - 1 & ~0b1111100000:x}"] * 2
    async with reading(dongle, memory=memory, pairs=True) as mended:
        await mended.until_told(5)
        await mended.bench.until(lambda: len(mended.bench.samples) > 3)
    gap = MIDNIGHT - timedelta(days=1) + 5 * HALF_HOUR
    assert mended.told_of_old == mended.expected(gap, gap + 4 * HALF_HOUR)
    assert mended.asked("6101ED0707EA051F041E05") == 1


async def test_a_command_reads_days_again_one_between_two_polls(dongle, reading):
    async with reading(dongle, days=5) as home:
        with pytest.raises(RefusedError):
            await home.bench.driver.command("dance", {})
        await home.until_told(49)
        polls = home.bench.driver.status()["polls"]
        answer = await home.bench.driver.command("history", {"days": ["2026-05-28", 4, "2020-01-01"]})
        assert answer == {"planned": ["2026-05-28"], "not_remembered": ["2020-01-01"]}
        await home.bench.driver.command("history", {"days": [3, 2]})
        await home.until_told(49 + 3 * 48)
        data = await home.until_event("half_hours", 3)
        assert home.bench.driver.status()["polls"] >= polls + 2
        for nonsense in ({}, {"days": []}, {"days": ["x"]}, {"days": [[]]}):
            with pytest.raises(RefusedError):
                await home.bench.driver.command("history", nonsense)
    first = MIDNIGHT - timedelta(days=4)
    assert home.told_of_old == home.expected(first, MIDNIGHT)
    assert (data["have"], data["missing"]) == (48, {})


async def test_each_day_a_tally_tells_what_is_there_repaired_and_missing(dongle, reading):
    async with reading(dongle, speed=3600, days=0) as home:
        # The house begins at midnight: yesterday is unknown to it.
        first = await home.until_event("half_hours")
        assert (first["date"], first["have"], first["repaired"]) == ("2026-05-31", 0, 0)
        assert len(first["missing"]["no_data"]) == 48
        assert first["repairable_until"] == "2026-09-07"


async def test_a_day_over_is_told_once_with_its_numbers(dongle, reading):
    async with reading(dongle, days=1, speed=10_000, settings={"poll_s": 100}) as home:
        home.bench.clock.start_ms += 22 * 3_600_000 + 600_000
        await home.bench.until(lambda: len(home.events("half_hours")) >= 2)
        today = home.bench.clock.unix_ms()
    told = [data["date"] for data in home.events("half_hours")]
    assert told == sorted(set(told))
    assert told[:2] == ["2026-05-31", "2026-06-01"]
    assert home.events("half_hours")[1]["have"] == 48
    assert home.events("half_hours")[1]["missing"] == {}
    assert today >= ms(MIDNIGHT + timedelta(days=1))
    assert len(home.told) == len(set(home.told))


async def test_a_memory_that_the_meter_does_not_open_is_told_as_the_cause(dongle, reading):
    async with reading(dongle, speed=3600, without=frozenset({0xE2, 0xE4})) as home:
        data = await home.until_event("half_hours")
        assert home.bench.driver.status()["polls"] >= 1
    assert len(data["missing"]["not_read"]) == 48
    assert home.asked("6101E5") == 0


async def test_a_refused_choice_of_the_day_is_told_as_refused(dongle, reading):
    async with reading(dongle, speed=3600) as home:
        home.meter._take_value = lambda code, data: False
        data = await home.until_event("half_hours")
        await home.bench.until(lambda: len(home.bench.samples) > 5)
        with pytest.raises(RefusedError, match="does not let"):
            await home.bench.driver.command("history", {"days": [1]})
    assert len(data["missing"]["refused"]) == 48
    assert home.asked("6101E5") == 2  # a single refusal may be a spoilt digit


async def test_a_spoilt_digit_of_the_memory_is_read_again_and_never_passed_on(dongle, reading):
    spoilt = []

    async with reading(dongle) as home:

        def spoil(request, answer):
            if request[10:14].hex() == "6201e200" and not spoilt:
                spoilt.append(answer)
                return answer[:60] + bytes([answer[60] ^ 0x01]) + answer[61:]
            return answer

        home.spoil = spoil
        await home.until_told(49)
    assert spoilt
    assert home.told_of_old == home.expected(MIDNIGHT - timedelta(days=1), MIDNIGHT)


async def test_an_answer_about_another_day_is_not_taken(dongle, reading):
    spoilt = []

    async with reading(dongle) as home:

        def spoil(request, answer):
            if request[10:14].hex() == "6201e200" and len(spoilt) < 2:
                spoilt.append(answer)
                return answer[:15] + bytes([answer[15] ^ 0x02]) + answer[16:]
            return answer

        home.spoil = spoil
        await home.until_told(49)
    assert len(spoilt) == 2
    assert home.told_of_old == home.expected(MIDNIGHT - timedelta(days=1), MIDNIGHT)


async def test_a_spoilt_digit_never_scales_a_session_wrongly(dongle, reading):
    spoilt = []

    async with reading(dongle) as home:

        def spoil(request, answer):
            if request[12] == 0xE1 and not spoilt:
                spoilt.append(answer)
                return answer.replace(bytes.fromhex("E10101"), bytes.fromhex("E10102"))
            return answer

        home.spoil = spoil
        await home.bench.until(lambda: home.bench.samples)
        assert home.bench.driver.describe()["meter"]["unit_kwh"] == 0.1
    assert spoilt
    assert home.asked("6203E1") == 3


async def test_the_property_map_comes_first_and_what_it_does_not_list_is_not_asked_for(dongle, reading):
    async with reading(dongle, without=frozenset({0xE3, 0xEB, 0xE4, 0xD3})) as home:
        await home.until_told(49)
    assert home.dongle.requests[0][10:].hex().upper() == "62019F00"
    assert all(home.asked(text) == 0 for text in ("6204E700E800E000E300", "6203E1", "6202EA"))
    assert {name for _, name, _ in home.told} == {IMPORT}
    assert home.bench.driver.status()["refused"] == []


async def test_a_map_remembered_needs_one_question_and_a_refusal_learnt_is_kept(dongle, reading):
    async with reading(dongle) as home:
        del home.meter._readers[0xE8]  # listed, and yet refused
        home.meter._readers[0x9F] = Meter(House(), lambda: 0)._readers[0x9F]
        await home.bench.until(lambda: home.bench.driver.status()["refused"] == ["E8"])
        assert home.asked("62019F00") == 2
    async with reading(dongle, memory=home.bench.memory) as again:
        again.meter._readers[0x9F] = home.meter._readers[0x9F]
        await again.bench.until(lambda: len(again.bench.samples) > 3)
        assert again.asked("62019F00") == 3
        assert again.bench.driver.status()["refused"] == ["E8"]
    assert all("current_r_a" not in sample.values for sample in again.bench.samples)


async def test_another_meter_is_told_with_last_and_first_registers_and_starts_a_series(dongle, reading):
    async with reading(dongle) as home:
        await home.until_told(49)
        assert home.bench.driver.describe()["meter"]["series"] == 1
        last = home.bench.samples[-1].values["import_energy_kwh"]
    exchanged = ms(MIDNIGHT + timedelta(hours=2))
    async with reading(dongle, memory=home.bench.memory, exchanged_ms=exchanged, next_serial="NEXT") as again:
        again.bench.clock.start_ms = exchanged + 5 * 3_600_000
        data = await again.until_event("meter_replaced")
        await again.until_told(8)
        await again.bench.until(lambda: len(again.bench.samples) > 3)
        assert (
            again.bench.driver.describe()["meter"] | {"series": 2, "serial": "NEXT"}
            == again.bench.driver.describe()["meter"]
        )
    assert data["last"]["serial"] == "SIM0000001"
    assert data["first"]["serial"] == "NEXT"
    assert Decimal(data["last"]["import_energy_at_30min_kwh"]) <= last
    assert Decimal(data["first"]["import_energy_kwh"]) < 20
    assert data["series"] == 2
    oldest = min(at for at, _, _ in again.told)
    assert oldest >= MIDNIGHT + timedelta(hours=2)
    assert len(again.events("meter_replaced")) == 1


async def test_a_clock_that_is_off_is_told_once_and_ours_is_left_alone(dongle, reading):
    async with reading(dongle, clock_error_s=900) as home:
        data = await home.until_event("clock_check")
        await home.until_told(49)
        assert abs(data["offset_s"] - 900) < 90
        assert home.bench.driver.status()["meter_clock_off_s"] is not None
    assert len(home.events("clock_check")) == 1


async def test_a_fault_is_told_when_it_begins_and_when_it_ends(dongle, reading):
    async with reading(dongle, fault=True) as home:
        assert (await home.until_event("meter_fault")) == {"fault": True}
        home.dongle.datagram("1081000102880105FF01730188" + "0142")
        assert (await home.until_event("meter_fault", 2)) == {"fault": False}
        home.dongle.datagram("1081000202880105FF01730188" + "0155")
        await home.bench.until(lambda: len(home.bench.samples) > 3)
    assert len(home.events("meter_fault")) == 2
