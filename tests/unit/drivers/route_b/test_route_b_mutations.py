"""Mutated frames and lines of real meters and dongles: a value or our one error, nothing else, and no growth."""

import os
import random
from decimal import Decimal
from pathlib import Path

import pytest

from drivers.api import MalformedError
from drivers.route_b import echonet, j11, meter
from drivers.route_b.j11 import J11Reader, Message
from drivers.route_b.meter import Scaling
from drivers.route_b.skstack import MAX_BUFFER_BYTES, Datagram, Line, Noise, Pan, PanaFrame, SkEvent, SkReader

FRAMES = [
    bytes.fromhex(path.read_text()) for path in sorted(Path(__file__).parents[3].glob("data/echonet/*/frame.hex"))
]
HEAD = (
    "ERXUDP FE80:0000:0000:0000:021C:6400:03CD:76A4 FE80:0000:0000:0000:021D:1291:0000:0574 0E1A 0E1A 001C640003CD76A4"
)
PAN = (
    b"EPANDESC\r\n  Channel:3B\r\n  Channel Page:09\r\n  Pan ID:76A4\r\n  Addr:001C640003CD76A4\r\n  LQI:B2\r\n"
    b"  Side:0\r\n  PairID:CCDDEEFF\r\n"
)
EVENT = b"EVENT 21 FE80:0000:0000:0000:021C:6400:03CD:76A4 0 00\r\n"
SCALING = Scaling(Decimal("0.1"), 1, 6)
INCOMING = (Line, SkEvent, Pan, Datagram, PanaFrame, Noise)
GROWTH_BYTES = 16 * 1024 * 1024


def mutated(chance, data):
    """Return bytes with one to four changes: another byte, a byte more or less, a cut, a doubled piece, a swap."""
    out = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        place = chance.randrange(len(out) + 1)
        match chance.randrange(6):
            case 0 if place < len(out):
                out[place] = chance.randrange(256)
            case 1:
                out.insert(place, chance.randrange(256))
            case 2:
                del out[place : place + chance.randint(1, 3)]
            case 3:
                del out[place:]
            case 4:
                out[place:place] = out[place : place + chance.randint(1, 20)]
            case _ if place < len(out):
                out[place] ^= 1 << chance.randrange(8)
    return bytes(out)


def resident_bytes():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Readers:
    """Every decoder that bytes of the air reach, each with the state it would have after all that came before."""

    def __init__(self):
        self.text, self.binary, self.j11 = SkReader(), SkReader(binary=True), J11Reader()
        self.values = self.errors = self.lines = 0

    def frame(self, data):
        try:
            frame = echonet.decode(data)
        except MalformedError:
            self.errors += 1
            return
        values, problems = meter.readings(frame.properties, SCALING)
        assert all(value is None or isinstance(value, int | float | Decimal) for value in values.values())
        self.values += len(values)
        self.errors += len(problems)
        for edt in frame.properties.values():
            try:
                meter.at_half_hour(edt)
                echonet.property_map(edt)
            except MalformedError:
                self.errors += 1

    def stream(self, reader, data):
        found = reader.feed(data)
        for item in found:
            assert isinstance(item, INCOMING)
            if isinstance(item, Datagram):
                self.frame(item.data)
        self.lines += len(found)
        assert len(reader._buffer) <= MAX_BUFFER_BYTES
        return found

    def messages(self, data):
        for item in self.j11.feed(data):
            assert isinstance(item, Message | Noise)
            if isinstance(item, Message):
                self.message(item)
        assert len(self.j11._buffer) <= j11.MAX_MESSAGE_BYTES

    def message(self, message):
        for parse in (j11.datagram, lambda data: j11.pans(data, "CCDDEEFF")):
            try:
                parse(message.data)
            except MalformedError:
                self.errors += 1


def feed(count, seed):
    """Feed so many mutations to all readers and return them with the growth of the process since the first tenth."""
    chance, readers, before = random.Random(seed), Readers(), 0
    for number in range(count):
        if number == count // 10:
            before = resident_bytes()
        frame = chance.choice(FRAMES)
        match number % 8:
            case 0 | 1 | 2 | 3:
                readers.frame(mutated(chance, frame))
            case 4:
                line = f"{HEAD} 1 0 {len(frame):04X} {frame.hex().upper()}\r\n".encode()
                readers.stream(readers.text, mutated(chance, line))
            case 5:
                line = f"{HEAD} B2 1 0 {len(frame):04X} ".encode() + frame + b"\r\n"
                readers.stream(readers.binary, mutated(chance, line))
            case 6:
                readers.stream(readers.text, mutated(chance, chance.choice((PAN, EVENT))))
            case _:
                head = bytes.fromhex("FE80000000000000021C640003CD76A40E1A0E1A76A40002C9") + len(frame).to_bytes(2)
                readers.messages(mutated(chance, j11.says(j11.RECEIVED, head + frame)))
    # After all that, what is whole is read: nothing sticks in a state.
    whole = f"{HEAD} 1 0 {len(FRAMES[0]):04X} {FRAMES[0].hex().upper()}\r\n".encode()
    for reader in (readers.text, readers.binary):
        reader.give_up()
        reader.feed(b"\r\n" * 2 * 0x4D0)  # what a spoilt length in binary form may still wait for
    assert any(isinstance(item, Datagram) for item in readers.stream(readers.text, b"\r\n" + whole))
    return readers, resident_bytes() - before


@pytest.mark.parametrize(
    ("count", "seed"),
    [
        pytest.param(50_000, 1),
        pytest.param(1_000_000, 2, marks=[pytest.mark.slow, pytest.mark.timeout(180)]),
    ],
)
def test_a_million_mutations_give_values_or_our_error_and_no_growth(count, seed):
    readers, grown = feed(count, seed)
    assert readers.values > count / 40  # the mutations are no mere noise: many still say something
    assert readers.errors > count / 20
    assert readers.lines > count / 20
    assert grown < GROWTH_BYTES
