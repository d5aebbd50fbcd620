"""Every one-byte change of what tells half hours: a value or our error, and never a half hour of another time."""

import asyncio
import itertools
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from meter_air import Home

from drivers.api import Sample
from drivers.contract import DictMemory
from drivers.route_b import echonet
from drivers.route_b.echonet import FrameError
from drivers.route_b.history import Ledger, Moments
from drivers.route_b.meter import JST, Scaling
from drivers.route_b.repair import Repair
from drivers.route_b.requests import NoAnswerError
from simulators.house import House
from simulators.metering import Meter, Nameplate

MIDNIGHT = datetime(2026, 6, 2, tzinfo=JST)
NOON = MIDNIGHT + timedelta(hours=12, seconds=20)
HALF_HOUR = timedelta(minutes=30)
IMPORT, EXPORT = "import_energy_at_30min_kwh", "export_energy_at_30min_kwh"
SCALING = Scaling(Decimal("0.01"), 1, 8)
PLATE = Nameplate(unit="0.01", digits=8, pairs=True)


def ms(moment):
    return round(moment.timestamp() * 1000)


HOUSE = House(start_ms=ms(MIDNIGHT - timedelta(days=3)))


def truth():
    """What the house's registers showed at each half hour up to noon, as the meter counts."""
    told = {}
    for number in range(4 * 48 - 23):
        at = MIDNIGHT - timedelta(days=3) + number * HALF_HOUR
        balance = HOUSE.half_hour(ms(at))
        told[at, IMPORT] = Decimal(balance.import_ws // 36_000) / 100
        told[at, EXPORT] = Decimal(balance.export_ws // 36_000) / 100
    return told


TRUE = truth()


def timed(items):
    """Return what was passed on as (moment, quantity) → value, having seen that nothing came twice."""
    samples = [item for item in items if isinstance(item, Sample) and not isinstance(item.at, int)]
    told = [((item.at.astimezone(JST), name), value) for item in samples for name, value in item.values.items()]
    assert len(told) == len(dict(told))
    return dict(told)


# The meter's memory, read by the repair alone.


class Clock:
    def boot_ms(self):
        return 1_000_000

    def unix_ms(self):
        return ms(NOON)


class Memory:
    """A meter that answers at once; bytes may change on the way there and back, and no answer is one to another."""

    def __init__(self, back, there):
        self.meter = Meter(HOUSE, lambda: ms(NOON), PLATE)
        self.items, self.back, self.there = [], back, there

    async def emit(self, item, remember=None):
        self.items.append(item)

    async def get(self, epcs):
        return (await self.ask(echonet.Frame(1, b"", b"", echonet.GET, dict.fromkeys(epcs, b""))))[0]

    async def ask(self, *questions):
        return [self._ask(question) for question in questions]

    def _ask(self, question):
        asked = echonet.Frame(1, echonet.CONTROLLER, echonet.METER, question.esv, dict(question.properties))
        said = self.meter.answer(self.there(asked, echonet.encode(asked)))
        try:
            frame = echonet.decode(self.back(asked, said.frame.encode() if said else b""))
        except FrameError as error:
            raise NoAnswerError("dropped") from error
        answers = (echonet.SET_RES, echonet.SET_C_SNA) if question.esv == echonet.SET_C else (0x72, 0x52)
        whole = (frame.tid, frame.seoj, frame.deoj) == (1, echonet.METER, echonet.CONTROLLER)
        if not whole or frame.esv not in answers or tuple(frame.properties) != tuple(question.properties):
            raise NoAnswerError("answers something else")
        return frame


def as_it_is(asked, data):
    return data


async def repaired(back=as_it_is, ledger=None, there=as_it_is):
    """Let a driver that knows nothing read today and yesterday; return what it passed on."""
    memory = Memory(back, there)
    kept = DictMemory()
    if ledger is not None:
        await kept.update({"half_hours": ledger})
    repair = Repair("meter", Clock(), memory.emit, kept, lambda epc: ledger is not None or epc not in (0xEC, 0xED))
    for _ in range(12):
        await repair.step(memory, SCALING)
    return timed(memory.items)


def one_change(kind, occurrence, place, flip):
    """Return what spoils one byte of one answer: the so-many-th to a question that begins with this property."""
    seen = itertools.count(1)

    def spoil(asked, answer):
        if next(iter(asked.properties)) != kind or next(seen) != occurrence:
            return answer
        return answer[:place] + bytes([answer[place] ^ flip]) + answer[place + 1 :]

    return spoil


CLOCK, DAY, IMPORTS, EXPORTS, PAIRS_FROM, PAIRS = 0x97, 0xE5, 0xE2, 0xE4, 0xED, 0xEC
FLIPS = [0x01, 0x02, 0x10, 0x20, 0x80]


async def test_without_a_change_today_and_yesterday_are_told():
    told = await repaired()
    assert set(told) == {key for key in TRUE if key[0] >= MIDNIGHT - timedelta(days=1)}
    assert told.items() <= TRUE.items()


@pytest.mark.parametrize("occurrence", [1, 2, 3])
@pytest.mark.parametrize("kind", [CLOCK, DAY])
async def test_a_spoilt_date_or_day_moves_no_half_hour_and_loses_none(kind, occurrence):
    whole = await repaired()
    for place, flip in itertools.product(range({CLOCK: 22, DAY: 14}[kind]), FLIPS):
        told = await repaired(one_change(kind, occurrence, place, flip))
        assert told.items() <= TRUE.items(), (place, flip)
        assert told == whole, (place, flip)


@pytest.mark.parametrize("kind", [IMPORTS, EXPORTS])
async def test_a_spoilt_day_of_the_memory_moves_no_half_hour(kind):
    whole = await repaired()
    places = [*range(16), *range(16, 208, 29)]
    for place, flip in itertools.product(places, FLIPS):
        told = await repaired(one_change(kind, 1, place, flip))
        wrong = {key for key in told if told[key] != TRUE.get(key)}
        assert set(told) <= set(TRUE), (place, flip)
        if place < 16:
            assert told == whole, (place, flip)
        else:  # a digit of one register may be spoilt, never by more than a house can use in half an hour
            at = MIDNIGHT + (place - 16) // 4 * HALF_HOUR
            assert wrong <= {(at, IMPORT if kind == IMPORTS else EXPORT)}, (place, flip)
            assert all(abs(told[key] - TRUE[key]) <= 30 for key in wrong)


YESTERDAYS_GAP = {
    "days": {
        (MIDNIGHT - timedelta(days=1)).date().isoformat(): [f"{(1 << 48) - 1 & ~0b1111000000:x}"] * 2 + ["0", "0"],
        MIDNIGHT.date().isoformat(): [f"{(1 << 25) - 1:x}"] * 2 + ["0", "0"],
    }
}
"""All was passed on but the half hours from 03:00 to 04:30 of yesterday."""


@pytest.mark.parametrize("kind", [PAIRS_FROM, PAIRS])
async def test_a_spoilt_gap_by_moment_moves_no_half_hour(kind):
    whole = await repaired(ledger=YESTERDAYS_GAP)
    assert {at for at, _ in whole} == {MIDNIGHT - timedelta(days=1) + n * HALF_HOUR for n in range(6, 10)}
    for place, flip in itertools.product(range(14 if kind == PAIRS_FROM else 53), FLIPS):
        told = await repaired(one_change(kind, 1, place, flip), YESTERDAYS_GAP)
        assert set(told) <= set(whole), (place, flip)
        if place < 21:
            assert told.items() <= TRUE.items(), (place, flip)


@pytest.mark.parametrize("ledger", [None, YESTERDAYS_GAP])
async def test_a_question_that_reaches_the_meter_spoilt_moves_no_half_hour(ledger):
    """The meter confirms another day, or another moment, than was meant; only its answer tells."""
    whole = await repaired(ledger=ledger)
    kind, size = (DAY, 15) if ledger is None else (PAIRS_FROM, 21)
    for place, flip in itertools.product(range(size), [*FLIPS, 0x04, 0x08]):
        told = await repaired(ledger=ledger, there=one_change(kind, 1, place, flip))
        assert told.items() <= whole.items(), (place, flip)


# The last half hour, as EA and EB tell it.


@pytest.mark.looptime(noop_cycles=0)
@pytest.mark.parametrize(("esv", "step"), [(0x73, 1), (0x74, 7), (0x72, 7)])
async def test_every_change_of_one_byte_of_the_last_half_hour_gives_it_or_nothing(esv, step):
    home = Home(start_ms=ms(MIDNIGHT), without=frozenset({0xE2, 0xE4}), unit="0.01", digits=8)
    home.spoil = lambda request, answer: [] if request[12] == 0xEA else [answer]
    async with home.at_work():
        await asyncio.sleep(2 * 3600 + 200)
        frame = home.meter.half_hour_notice(esv).frame.encode()
        assert len(frame) == 38
        at = MIDNIGHT + timedelta(hours=2)
        told_right = 0
        for place, flip in itertools.product(range(len(frame)), range(1, 256, step)):
            home.driver._repair._ledger, home.driver._repair._moments = Ledger(), Moments()
            home.items.clear()
            spoilt = frame[:place] + bytes([frame[place] ^ flip]) + frame[place + 1 :]
            try:
                home.driver._hear(echonet.decode(spoilt))
            except FrameError:
                continue
            for _ in range(2):
                await asyncio.sleep(0)
            told = timed(home.items)
            assert {moment for moment, _ in told} <= {at}, (place, flip)
            wrong = [key for key, value in told.items() if value != house_at(home, *key)]
            assert not wrong or place in range(21, 25) or place in range(34, 38), (place, flip)
            told_right += bool(told)
    assert told_right > 1000 / step


def house_at(home, at, name):
    balance = home.house.half_hour(ms(at))
    return Decimal((balance.import_ws if name == IMPORT else balance.export_ws) // 36_000) / 100


@pytest.mark.looptime(noop_cycles=0)
async def test_a_meter_without_an_export_is_given_none_by_a_spoilt_property_code():
    home = Home(start_ms=ms(MIDNIGHT), without=frozenset({0xE3, 0xE4, 0xEB}))
    async with home.at_work():
        await asyncio.sleep(2 * 3600 + 200)
        home.items.clear()
        frame = home.meter.half_hour_notice(0x73).frame.encode()
        assert frame[12] == 0xEA
        home.link.requests.take(frame[:12] + b"\xeb" + frame[13:])
        await asyncio.sleep(300)
    assert EXPORT not in {name for _, name in timed(home.items)}
    assert all(at.astimezone(UTC).minute % 30 == 0 for at, _ in timed(home.items))
