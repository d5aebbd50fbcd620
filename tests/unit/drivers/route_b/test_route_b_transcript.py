"""What a transcript shows: lines in time, bounded, and no piece of a secret, whatever was cut or garbled."""

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from drivers.contract import FastClock
from drivers.route_b import skstack
from drivers.route_b.session import Credentials
from drivers.route_b.transcript import RING_BYTES, SHOWN_BYTES, Transcript

ID = "00112233445566778899AABBCCDDEEFF"
PASSWORD = "Q7W3E9R1T5Z8"
GIVEN = Credentials(ID, PASSWORD)
METER = "FE80:0000:0000:0000:0211:2233:4455:6677"
ME = "FE80:0000:0000:0000:021D:1291:0004:E578"


def told(given, *parts):
    transcript = Transcript(FastClock())
    for way, data in parts:
        transcript.note(way, data)
    return [(way, text) for _, way, text in transcript.shown(given)]


def erxudp(data, *, port="0E1A", binary=False):
    head = f"ERXUDP {METER} {ME} {port} {port} 0011223344556677 0 0 {len(data):04X} ".encode()
    return head + (data if binary else data.hex().upper().encode()) + b"\r\n"


def join_of(route_b_id, password, *, binary):
    """Everything of a join that holds secrets, as it goes over the line."""
    pana = b"\0\0\0\x68\x80\0\0\2" + b"\x2f\r\nSM" + route_b_id.encode() + b"\r\n" + bytes(30)
    beacon = f"EPANDESC\r\n  Channel:31\r\n  LQI:DD\r\n  PairID:{route_b_id[-8:]}\r\n".encode()
    return [
        (">", skstack.set_password(password)),
        ("<", skstack.set_password(password) + b"OK\r\n"),  # its echo
        (">", skstack.set_route_b_id(route_b_id)),
        ("<", skstack.set_route_b_id(route_b_id) + b"OK\r\nESREG " + route_b_id[-8:].encode() + b"\r\nOK\r\n"),
        ("<", beacon),
        ("<", erxudp(pana, port="02CC", binary=binary)),
        ("<", f"EVENT 25 {METER} 0\r\n".encode()),
    ]


def pieces(given):
    return [given.password[at : at + 4] for at in range(9)] + [
        piece for at in range(29) if len(set(piece := given.route_b_id[at : at + 4])) > 2
    ]


def survivors(given, text):
    return [
        piece
        for piece in pieces(given)
        if re.search(re.escape(piece), text, re.IGNORECASE) or piece.encode().hex() in text.lower()
    ]


def test_a_conversation_is_shown_line_by_line_whatever_its_chunks():
    shown = told(GIVEN, (">", b"SKVER\r\n"), ("<", b"EVER 1."), ("<", b"5.2\r\nO"), ("<", b"K\r\n"), (">", b"ROPT\r"))
    assert shown == [(">", "SKVER"), ("<", "EVER 1.5.2"), ("<", "OK"), (">", "ROPT")]


@pytest.mark.parametrize("binary", [False, True])
def test_a_join_is_shown_without_its_secrets(binary):
    lines = [text for _, text in told(GIVEN, *join_of(ID, PASSWORD, binary=binary))]
    assert lines[0] == "SKSETPWD ****"
    assert any(line.startswith("EVENT 25") for line in lines)
    assert "PairID: ****" in "".join(lines)
    assert any("02CC (PANA)" in line for line in lines)
    assert not any("SM" in line for line in lines)


ids = st.text("0123456789ABCDEF", min_size=32, max_size=32)
passwords = st.text("ABCDEFGHJKLMNPQRSTUVWXYZ0123456789", min_size=12, max_size=12)


@given(ids, passwords, st.booleans(), st.data())
@example("534D534D00112233445566778899AABB", "02CC02CC02CC", True, None)
def test_no_piece_of_a_secret_survives_whatever_is_lost(route_b_id, password, binary, data):
    given_ = Credentials(route_b_id, password)
    parts = join_of(route_b_id, password, binary=binary)
    if data is not None:
        stream = b"".join(raw for way, raw in parts if way == "<")
        begin = data.draw(st.integers(0, len(stream)), "begin")  # the ring has lost what was before
        gap = data.draw(st.integers(begin, len(stream)), "gap")  # the line has lost some bytes
        width = data.draw(st.integers(0, 8), "width")
        stream = stream[begin:gap] + stream[gap + width :]
        cut = data.draw(st.integers(0, len(stream)), "cut")
        parts = [("<", stream[:cut]), (">", b"SKINFO\r\n"), ("<", stream[cut:]), *parts[:1]]
    assert [survivors(given_, text) for _, text in told(given_, *parts) if survivors(given_, text)] == []


@given(st.lists(st.tuples(st.sampled_from("<>"), st.binary(max_size=300)), max_size=20))
def test_any_bytes_can_be_shown(parts):
    assert all(text.isprintable() and text.isascii() for _, text in told(GIVEN, *parts))


def test_the_ring_keeps_the_newest_and_stays_bounded():
    transcript = Transcript(FastClock())
    for number in range(20_000):
        transcript.note("<", b"EVENT 02 %08d\r\n" % number)
    transcript.note("<", bytes(10 * RING_BYTES))
    assert transcript._bytes <= 2 * RING_BYTES
    transcript.note(">", b"SKVER\r\n")
    shown = transcript.shown(GIVEN)
    assert shown[-1][1:] == [">", "SKVER"]
    assert sum(len(text) for _, _, text in shown) <= SHOWN_BYTES


def test_frames_without_line_ends_are_told_apart_and_hold_no_secret_either():
    version = bytes.fromhex("D0F9EE5D6019000400000000")
    set_id = bytes.fromhex("D0EA83FC0054003000000000") + ID.encode() + PASSWORD.encode()
    shown = told(GIVEN, (">", set_id), *[("<", version)] * 100)
    assert [way for way, _ in shown] == [">"] + ["<"] * 100
    assert not any(survivors(GIVEN, text) for _, text in shown)


def test_a_flood_without_any_line_end_is_shown_in_part():
    assert sum(len(text) for _, text in told(GIVEN, ("<", bytes(40 * 1024)))) > SHOWN_BYTES // 2
