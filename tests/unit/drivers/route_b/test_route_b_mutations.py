"""Mutated frames and lines of meters, dongles and home devices: a value or our one error, nothing else, no growth."""

import os
import random
from collections import Counter
from datetime import datetime
from decimal import Decimal
from pathlib import Path

import pytest

from drivers.api import MalformedError
from drivers.echonet_ip import identity
from drivers.echonet_ip.devices import CLASSES
from drivers.echonet_ip.session import MOST_PROPERTIES
from drivers.route_b import decode, echonet, j11, meter
from drivers.route_b.j11 import J11Reader, Message
from drivers.route_b.meter import Scaling
from drivers.route_b.skstack import (
    MAX_BUFFER_BYTES,
    Datagram,
    Line,
    Noise,
    Pan,
    PanaFrame,
    SkEvent,
    SkReader,
    parse_binary_erxudp,
    parse_erxudp,
)
from simulators.echonet import KINDS, things
from simulators.house import House
from simulators.metering import Meter, Nameplate

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
NOON_MS = round(datetime(2026, 6, 2, 12, tzinfo=meter.JST).timestamp() * 1000)
TIME, DATE = b"\x0c\x00", b"\x07\xea\x06\x02"
DECODERS = {
    meter.POWER: [meter.power_w],
    meter.CURRENTS: [meter.currents_a],
    meter.IMPORT: [meter.count],
    meter.EXPORT: [meter.count],
    meter.UNIT: [meter.unit_kwh],
    meter.COEFFICIENT: [meter.coefficient],
    meter.DIGITS: [meter.digits],
    meter.IMPORT_AT_30MIN: [meter.at_half_hour],
    meter.EXPORT_AT_30MIN: [meter.at_half_hour],
    meter.HISTORY_IMPORT: [meter.history],
    meter.HISTORY_EXPORT: [meter.history],
    meter.HISTORY_PAIRS: [meter.history_pairs],
    meter.ONE_MINUTE: [meter.at_minute],
    meter.MINUTE_PAIRS: [lambda edt: meter.history_pairs(edt, meter.MOST_MINUTES)],
    meter.TIME: [lambda edt: meter.clock(edt, DATE)],
    meter.DATE: [lambda edt: meter.clock(TIME, edt)],
    meter.FAULT: [meter.fault],
    meter.SERIAL: [meter.text],
    meter.GETTABLE: [echonet.property_map],
    0x9D: [echonet.property_map],
    0x9E: [echonet.property_map],
}
"""The decoders of the driver, by the property that it uses each for."""
NEVER_REFUSE = {"8D"}
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


def said_by_the_meter():
    """Return an answer of the simulated meter for each property it has: more of them than was ever recorded."""
    said = Meter(House(start_ms=NOON_MS - 3_600_000), lambda: NOON_MS, Nameplate(release="R", pairs=True))
    frames = []
    for epc in range(0x80, 0x100):
        request = echonet.Frame(1, echonet.CONTROLLER, echonet.METER, echonet.GET, {epc: b""})
        answer = said.answer(echonet.encode(request)).frame.encode()
        frames += [answer] if echonet.decode(answer).properties[epc] else []
    return frames


PAIRS = bytes.fromhex("07EA06020B1E")  # 11:30 on 2 June 2026
ONE_PAIR = b"\x01" + bytes.fromhex("000012340000FFFF")
PROPERTIES = [
    *((epc, edt) for frame in said_by_the_meter() for epc, edt in echonet.decode(frame).properties.items()),
    (0xEC, PAIRS + ONE_PAIR),
    (0xED, PAIRS + b"\x0c"),
    (0xEE, PAIRS + ONE_PAIR),
    (0xEF, PAIRS + b"\x0a"),
    (0xD0, PAIRS + b"\0" + ONE_PAIR[1:]),
]


def said_by_a_home():
    """Return (object, property, data) of all that home devices say: the simulated ones, and lists of circuits."""
    house = House(start_ms=NOON_MS - 3_600_000).at(NOON_MS)
    said = [
        (thing.eoj, epc, edt)
        for thing in things(KINDS)
        for epc, read in thing.readers.items()
        if (edt := read(house)) and epc in {*CLASSES[thing.eoj[:2].hex().upper()].epcs, *identity.WHO}
    ]
    lists = {epc: 8 if epc == 0xBA else 4 for epc in (0xB3, 0xB5, 0xB7, 0xBA, 0xBC, 0xBE)}
    said += [(BOARD, epc, b"\x01\x03" + bytes(range(size)) * 3) for epc, size in lists.items()]
    return said + [(echonet.NODE_PROFILE, 0xD6, b"\x02\x02\x7d\x01\x02\x79\x01")] * 15


BOARD = bytes.fromhex("028701")
HOME = said_by_a_home()
HOME_FRAMES = [
    echonet.encode(echonet.Frame(7, eoj, echonet.CONTROLLER, echonet.GET_RES, dict(said[at : at + MOST_PROPERTIES])))
    for eoj in dict.fromkeys(one[0] for one in HOME)
    for said in [[(epc, edt) for of, epc, edt in HOME if of == eoj]]
    for at in range(0, len(said), MOST_PROPERTIES)
]
KEYS = {0xB1: b"\x20", 0xB8: b"\x20", 0xC2: b"\x03"}
HOME_NAMES = {f"class {code}" for code in CLASSES} | {"home frame", "instances"}


class Readers:
    """Every decoder that bytes of the air reach, each with the state it would have after all that came before."""

    def __init__(self):
        self.text, self.binary, self.j11 = SkReader(), SkReader(binary=True), J11Reader()
        self.values = self.errors = self.lines = 0
        self.returned, self.refused = Counter(), Counter()

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
        for epc, edt in frame.properties.items():
            self.property(epc, edt)

    def tried(self, name, read, *given):
        try:
            read(*given)
        except MalformedError:
            self.refused[name] += 1
        else:
            self.returned[name] += 1

    def property(self, epc, edt):
        for read in DECODERS.get(epc, ()):
            self.tried(f"{epc:02X}", read, edt)

    def explained(self, epc, edt, scaling):
        fields = meter.explain(epc, edt, scaling)
        tally = self.refused if "error" in fields else self.returned
        tally[f"explain {epc:02X}"] += 1

    def answered(self, name, answer):
        """Take an answer of `decode`, as JSON and as lines for a person."""
        decode._encoder.encode(answer)
        assert list(decode._lines(answer))
        (self.returned if answer["ok"] else self.refused)[name] += 1

    def home_frame(self, data):
        try:
            frame = echonet.decode(data)
        except MalformedError:
            self.refused["home frame"] += 1
        else:
            self.returned["home frame"] += 1
            self.home(frame.seoj, frame.properties)

    def home(self, eoj, properties):
        code = eoj[:2].hex().upper()
        if (known := CLASSES.get(code)) is not None:
            for value in known.decode(properties, KEYS).values():
                (self.refused if value is None else self.returned)[f"class {code}"] += 1
        if identity.INSTANCES_GET in properties:
            self.tried("instances", identity.instances, properties[identity.INSTANCES_GET])
        named = identity.identify(eoj, properties)
        assert named is None or named.isprintable()
        assert identity.anonymised({eoj: properties}).keys() == {eoj}

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
        read = {j11.RECEIVED: j11.datagram, j11.SCANNED: lambda data: j11.pans(data, "CCDDEEFF")}.get(message.command)
        if read is not None:
            self.tried(f"j11 {message.command:04X}", read, message.data)


MOST_J11_BYTES = j11.MAX_MESSAGE_BYTES - 12
J11_SCANNED = j11.SCANNED, bytes.fromhex("001101001C640003CD76A476A4C9")


def j11_received(frame):
    """Return command and data of the message in which a J11 dongle hands a datagram over."""
    head = bytes.fromhex("FE80000000000000021C640003CD76A40E1A0E1A76A40002C9")
    return j11.RECEIVED, head + len(frame).to_bytes(2) + frame


def feed(count, seed):
    """Feed so many mutations to all readers and return them with the growth of the process since the first tenth."""
    chance, readers, before = random.Random(seed), Readers(), 0
    for number in range(count):
        if number == count // 10:
            before = resident_bytes()
        frame = chance.choice(FRAMES)
        if number % 4 == 0:
            one_property(readers, chance, number)
        match number % 8:
            case 0 | 1 | 2:
                readers.frame(mutated(chance, frame))
            case 3:
                one_of_the_home(readers, chance, number // 8)
            case 4:
                line = f"{HEAD} 1 0 {len(frame):04X} {frame.hex().upper()}\r\n".encode()
                readers.stream(readers.text, spoilt := mutated(chance, line))
                text = spoilt.decode("latin-1").strip()
                readers.tried("erxudp", parse_erxudp, text)
                readers.answered("decode of a text", decode.decode_text(text, SCALING))
            case 5:
                line = f"{HEAD} B2 1 0 {len(frame):04X} ".encode() + frame + b"\r\n"
                readers.stream(readers.binary, spoilt := mutated(chance, line))
                readers.tried("binary erxudp", parse_binary_erxudp, spoilt.rstrip(b"\r\n"))
                readers.answered("decode of a line", decode.decode_binary(spoilt, SCALING))
            case 6:
                readers.stream(readers.text, mutated(chance, chance.choice((PAN, EVENT))))
            case _:
                one_message(readers, chance, j11_received(frame))
    # After all that, what is whole is read: nothing sticks in a state.
    whole = f"{HEAD} 1 0 {len(FRAMES[0]):04X} {FRAMES[0].hex().upper()}\r\n".encode()
    for reader in (readers.text, readers.binary):
        reader.give_up()
        reader.feed(b"\r\n" * 2 * 0x4D0)  # what a spoilt length in binary form may still wait for
    assert any(isinstance(item, Datagram) for item in readers.stream(readers.text, b"\r\n" + whole))
    return readers, resident_bytes() - before


def one_of_the_home(readers, chance, number):
    """Spoil a frame of a home device, or the data of one of its properties."""
    if number % 2:
        readers.home_frame(mutated(chance, chance.choice(HOME_FRAMES)))
    else:
        eoj, epc, edt = HOME[number // 2 % len(HOME)]
        readers.home(eoj, {epc: mutated(chance, edt)})


def one_message(readers, chance, received):
    """Spoil a message of a J11 dongle, or its data under sums that are right."""
    command, data = chance.choice((J11_SCANNED, received))
    if chance.randrange(2):
        readers.messages(mutated(chance, j11.says(command, data)))
    else:
        readers.messages(j11.says(command, mutated(chance, data)[:MOST_J11_BYTES]))


def one_property(readers, chance, number):
    """Spoil the data of one property alone, which a spoilt frame seldom lets through."""
    epc, edt = PROPERTIES[number // 4 % len(PROPERTIES)]
    spoilt = mutated(chance, edt) if chance.randrange(4) else edt
    readers.property(epc, spoilt)
    readers.explained(epc, spoilt, chance.choice((SCALING, None)))


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
    decoders = {f"{epc:02X}" for epc in DECODERS}
    explained = {f"explain {epc:02X}" for epc, _ in PROPERTIES}
    lines = {"erxudp", "binary erxudp", "decode of a text", "decode of a line", "j11 6018", "j11 4051"} | HOME_NAMES
    least = count // 1000
    assert {
        name: readers.returned[name] for name in decoders | explained | lines if readers.returned[name] < least
    } == {}
    strict = (decoders | explained | lines) - NEVER_REFUSE
    assert {name: readers.refused[name] for name in strict if readers.refused[name] < least} == {}
    assert grown < GROWTH_BYTES
