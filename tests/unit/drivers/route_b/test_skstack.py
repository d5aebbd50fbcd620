"""Lines of both dialects, however they are cut, glued or spoilt."""

import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drivers.api import MalformedError
from drivers.route_b import skstack
from drivers.route_b.skstack import Datagram, Line, Noise, Pan, PanaFrame, SkEvent, SkReader

FRAME = "1081525302880105FF017201E704000000E4"
METER = "FE80:0000:0000:0000:C2F9:4500:4058:B5FB"
ME = "FE80:0000:0000:0000:021D:1291:0004:E578"
MAC = "0011223344556677"
C2 = f"ERXUDP {METER} {ME} 0E1A 0E1A {MAC} 1 0 0012 {FRAME}\r\n".encode()
C2_LQI = f"ERXUDP {METER} {ME} 0E1A 0E1A {MAC} 5A 1 0 0012 {FRAME}\r\n".encode()
A1 = (
    b"ERXUDP FE80:0000:0000:0000:021C:6400:6014:21A3 FE80:0000:0000:0000:021D:1290:0005:747B 0E1A 0E1A "
    b"001C6400601421A3 1 0012 1081000102880105FF017201E70400000278\r\n"
)
A1_MULTI = (
    b"ERXUDP FE80:0000:0000:0000:021C:6400:03CD:76A4 FE80:0000:0000:0000:021D:1290:0004:263D 0E1A 0E1A "
    b"001C640003CD76A4 1 0018 1081100202880105FF017202E7040000029CE80400280028\r\n"
)
BINARY = (
    b"ERXUDP FE80:0000:0000:0000:021C:6400:030C:12A4 FE80:0000:0000:0000:021D:1291:0000:0574 0E1A 0E1A "
    b"001C6400030C12A4 1 0 0012 " + bytes.fromhex("1081000102880105FF017201E704000001F8") + b"\r\n"
)
PANA = (
    f"ERXUDP {METER} {ME} 02CC 02CC {MAC} 0 0 0028 00000028C0000002136F0BFE2FDA83DC"
    "00060000000400000000000500030000000400000000000C\r\n"
).encode()
MULTICAST = (
    f"ERXUDP {METER} FF02:0000:0000:0000:0000:0000:0000:0001 0E1A 0E1A {MAC} 1 0 0012 "
    "108100000EF0010EF0017301D50401028801\r\n"
).encode()
EPANDESC_C2 = (
    b"EPANDESC\r\n  Channel:31\r\n  Channel Page:09\r\n  Pan ID:B5FB\r\n  Addr:0011223344556677\r\n"
    b"  LQI:DD\r\n  Side:0\r\n  PairID:0194BFAD\r\n"
)
STREAM = (
    b"SKVER\r\nEVER 1.5.2\r\nOK\r\nROPT\r\nOK 01\r"
    b"SKSENDTO"
    + C2
    + EPANDESC_C2
    + f"EVENT 22 {ME} 0\r\n".encode()
    + PANA
    + C2_LQI
    + f"EVENT 21 {METER} 0 02\r\n".encode()
    + A1
)


def read(stream, **options):
    return SkReader(**options).feed(stream)


def test_a_line_of_the_a1_dialect():
    (datagram,) = read(A1)
    assert datagram == Datagram(
        sender="FE80:0000:0000:0000:021C:6400:6014:21A3",
        destination="FE80:0000:0000:0000:021D:1290:0005:747B",
        remote_port=0x0E1A,
        local_port=0x0E1A,
        mac="001C6400601421A3",
        secured=True,
        data=bytes.fromhex("1081000102880105FF017201E70400000278"),
        lqi=None,
    )
    assert read(A1_MULTI)[0].data == bytes.fromhex("1081100202880105FF017202E7040000029CE80400280028")


def test_a_line_of_the_c2_dialect_with_and_without_signal_strength():
    assert read(C2)[0].data == read(C2_LQI)[0].data == bytes.fromhex(FRAME)
    assert (read(C2)[0].lqi, read(C2_LQI)[0].lqi) == (None, 0x5A)
    assert read(C2_LQI.lower().replace(b"erxudp", b"ERXUDP"))[0] == read(C2_LQI)[0]


def test_a_line_with_raw_bytes_even_when_they_look_like_text():
    assert read(BINARY, binary=True)[0].data == bytes.fromhex("1081000102880105FF017201E704000001F8")
    head = f"ERXUDP {METER} {ME} 0E1A 0E1A {MAC} 1 0 0012 ".encode()
    for data in (b"\r\nEVENT 24 ERXUDP\r", b"\r\n" * 9, bytes(18)):
        assert [event.data for event in read(head + data + b"\r\n" + BINARY, binary=True)] == [
            data,
            bytes.fromhex("1081000102880105FF017201E704000001F8"),
        ]


def test_a_multicast_says_to_whom_it_went():
    assert read(MULTICAST)[0].destination.startswith("FF02:")


def test_a_pana_frame_is_counted_but_its_content_withheld():
    (frame,) = read(PANA)
    assert frame == PanaFrame(MAC, 0x28)
    assert "136F0BFE" not in repr(frame)


def test_an_echo_glued_to_a_line_is_told_apart():
    assert read(b"SKSENDTO" + C2) == [Line("SKSENDTO"), *read(C2)]
    assert read(f"SKSENDTOEVENT 21 {METER} 0 00\r\n".encode()) == [Line("SKSENDTO"), SkEvent(0x21, METER, 0)]


def test_events_of_both_dialects():
    assert read(f"EVENT 21 {METER} 00\r\n".encode()) == [SkEvent(0x21, METER, 0)]
    assert read(f"EVENT 21 {METER} 0 01\r\n".encode()) == [SkEvent(0x21, METER, 1)]
    assert read(f"EVENT 25 {METER}\r\n".encode()) == [SkEvent(0x25, METER)]
    assert read(f"EVENT 25 {METER} 0\r\n".encode()) == [SkEvent(0x25, METER)]
    assert read(b"EVENT C0\r\n") == [SkEvent(0xC0, "")]
    assert read(b"EVENT GG\r\n") == [Noise("an EVENT line out of form")]


def test_descriptions_of_both_dialects():
    assert read(EPANDESC_C2) == [Pan(0x31, 0xB5FB, MAC, 0xDD, "0194BFAD")]
    assert read(EPANDESC_C2.replace(b"  Side:0\r\n", b"")) == read(EPANDESC_C2)
    assert "0194BFAD" not in repr(read(EPANDESC_C2))


@pytest.mark.parametrize("place", [1, 3, 4, 5])  # nothing depends on the page, nor on the side
def test_a_description_with_a_line_missing_is_noise(place):
    lines = EPANDESC_C2.splitlines(keepends=True)
    assert [type(event) for event in read(b"".join(lines[:place] + lines[place + 1 :]))] == [Noise]


def test_lines_may_end_with_cr_alone():
    assert read(b"OK 01\rEVER 1.2.10\r\nOK\r\n") == [Line("OK 01"), Line("EVER 1.2.10"), Line("OK")]


def test_every_chunking_gives_the_same_events():
    whole = read(STREAM)
    assert len(whole) == 13
    for size in range(1, 40):
        reader, events = SkReader(), []
        for at in range(0, len(STREAM), size):
            events += reader.feed(STREAM[at : at + size])
        assert events == whole
        assert not reader.waiting


noisy = st.lists(
    st.one_of(
        st.sampled_from(
            [C2, A1, C2_LQI, PANA, EPANDESC_C2, b"OK\r\n", b"ERXUDP ", b"EVENT 25 ", C2[:100], b"x" * 1100]
        ),
        st.binary(max_size=60),
    ),
    max_size=12,
).map(b"".join)


@settings(max_examples=200)
@given(noisy, st.lists(st.integers(1, 2000), min_size=1, max_size=20), st.booleans())
def test_any_stream_gives_the_same_events_in_any_chunks_and_never_fails(stream, sizes, binary):
    reader, events, at, turn = SkReader(binary=binary), [], 0, 0
    while at < len(stream):
        size = sizes[turn % len(sizes)]
        events += reader.feed(stream[at : at + size])
        assert len(reader._buffer) <= skstack.MAX_BUFFER_BYTES
        at, turn = at + size, turn + 1
    assert events == read(stream, binary=binary)


def test_a_spoilt_line_never_swallows_the_next():
    for place in range(len(C2)):
        for value in (0, 0x0D, 0x20, 0x30, 0x47, 0xFF):
            spoilt = C2[:place] + bytes((value,)) + C2[place + 1 :]
            assert read(spoilt + b"\r\n" + A1)[-1] == read(A1)[0]


def test_a_cut_line_never_swallows_the_next():
    for end in range(len(C2)):
        assert read(C2[:end] + b"\r\n" + A1)[-1] == read(A1)[0]
        assert read(C2[end:] + A1)[-1] == read(A1)[0]


def test_a_datagram_that_lost_bytes_in_binary_is_given_up_and_the_next_one_read():
    reader = SkReader(binary=True)
    assert reader.feed(BINARY[:-5]) == []
    assert reader.waiting
    assert isinstance(reader.give_up()[0], Noise)
    assert reader.feed(b"\r\n" + BINARY)[-1].mac == "001C6400030C12A4"


def test_noise_without_end_fills_no_memory():
    reader, dice = SkReader(), random.Random(1)
    for _ in range(2000):
        reader.feed(dice.randbytes(512).replace(b"\r", b"").replace(b"\n", b""))
        assert len(reader._buffer) <= skstack.MAX_BUFFER_BYTES
    assert reader.feed(b"\r\nOK\r\n") == [Line("OK")]


@pytest.mark.parametrize(
    "line",
    [
        C2.replace(b"0012", b"0013"),
        C2.replace(b"0012", b"0011"),
        C2.replace(b"0012", b"FFFF"),
        C2.replace(FRAME.encode(), FRAME[:-1].encode() + b"G"),
        C2.replace(b" 0E1A 0E1A", b" 0E1A"),
        b"ERXUDP x",
    ],
)
def test_a_line_that_contradicts_itself_is_refused(line):
    with pytest.raises(MalformedError):
        skstack.parse_erxudp(line.decode().strip())
    assert all(isinstance(event, Noise) for event in read(line))


def test_commands_are_those_of_the_manual():
    assert skstack.scan("A1", 6) == b"SKSCAN 2 FFFFFFFF 6\r\n"
    assert skstack.scan("C2", 6) == b"SKSCAN 2 FFFFFFFF 6 0\r\n"
    assert skstack.set_password("0123456789AB") == b"SKSETPWD C 0123456789AB\r\n"
    assert skstack.set_route_b_id("0" * 32) == b"SKSETRBID " + b"0" * 32 + b"\r\n"
    assert skstack.command("ROPT") == b"ROPT\r"
    assert skstack.command("WOPT", "01") == b"WOPT 01\r"
    assert skstack.send_to("A1", METER, b"\r\n") == f"SKSENDTO 1 {METER} 0E1A 1 0002 \r\n".encode()
    assert skstack.send_to("C2", METER, bytes(14)) == f"SKSENDTO 1 {METER} 0E1A 1 0 000E ".encode() + bytes(14)


def test_nothing_breaks_out_of_a_command():
    for word in ("x\r\nSKRESET", "\0", "é"):
        with pytest.raises(ValueError, match="printable"):
            skstack.set_password(word)
    for data in (b"", bytes(0x4D1)):
        with pytest.raises(ValueError, match="datagram"):
            skstack.send_to("A1", METER, data)


def test_a_mac_gives_the_address_that_the_dongle_computes():
    assert skstack.link_local("001C6400601421A3") == "FE80:0000:0000:0000:021C:6400:6014:21A3"


def test_link_quality_becomes_dbm():
    assert skstack.dbm(0xDD) == pytest.approx(-43.5)
    assert skstack.dbm(0) == pytest.approx(-104.3)


def test_scans_take_the_time_of_the_manual():
    assert [round(skstack.scan_s(duration), 1) for duration in range(4, 9)] == [4.6, 8.9, 17.5, 34.7, 69.1]


SECRET = "00112233445566778899AABBCCDDEEFF"


@pytest.mark.parametrize(
    "text",
    [
        f"SKSETRBID {SECRET}",
        f"ETRBID {SECRET}",
        "SKSETPWD C 0123456789AB",
        "  PairID:CCDDEEFF",
        f"ERXUDP {METER} {ME} 02CC 02CC {MAC} 0 0 0068 00{SECRET}",
        f"XUDP {METER} {ME} 02CC 02CC {MAC} 0 0 0068 00{SECRET}",
        f"ERXUDP {METER} {ME} 0E1A 02cc {MAC} 0 0068 00{SECRET}",
    ],
)
def test_what_may_hold_a_secret_is_not_shown(text):
    shown = skstack.masked(text)
    assert shown == f"({len(text)} characters)"


def test_what_holds_no_secret_is_shown():
    for text in ("OK", "FAIL ER04", "EVER 1.5.2", f"EVENT 25 {METER}", C2.decode().strip()):
        assert skstack.masked(text) == text


def test_the_origin_of_the_lines_is_public():
    assert (Path(__file__).parents[3] / "data" / "echonet" / "C03" / "frame.hex").read_text().strip() == FRAME
