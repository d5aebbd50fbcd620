"""Frames of ECHONET Lite: every golden frame, every malformed one, and what no byte may do."""

import json
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivers.api import MalformedError
from drivers.route_b import echonet
from drivers.route_b.echonet import Frame, FrameError, decode, encode

VECTORS = sorted(path.parent for path in (Path(__file__).parents[3] / "data" / "echonet").glob("*/frame.hex"))
FRAMES = {folder.name: bytes.fromhex((folder / "frame.hex").read_text()) for folder in VECTORS}
POLL = FRAMES["E02"]


@pytest.mark.parametrize("name", FRAMES)
def test_an_encoded_frame_is_the_frame_that_was_decoded(name):
    assert encode(decode(FRAMES[name])) == FRAMES[name]


def test_there_are_all_63_golden_frames_and_each_vector_says_where_it_comes_from():
    golden = [folder for folder in VECTORS if not folder.name.startswith("S")]
    assert len(golden) == 63
    for folder in VECTORS:
        origin = (folder / "origin.md").read_text().strip()
        assert origin, f"{folder.name} has no origin"
        assert origin.startswith("Synthetic" if folder.name.startswith("S") else "Source: ")
        assert json.loads((folder / "expected.json").read_text())["ok"] is True


HEAD = "1081000102880105FF01"
MALFORMED = [
    ("", 0, "0 bytes"),
    ("10", 1, "1 bytes"),
    (HEAD + "72", 11, "11 bytes"),
    (HEAD + "7201", 12, "property 1 of 1 is missing"),
    (HEAD + "7201E7", 12, "property 1 of 1 is missing"),
    (HEAD + "7201E7040000", 13, "E7 claims 4 bytes, 2 are left"),
    (HEAD + "7201E7FF00", 13, "E7 claims 255 bytes, 1 are left"),
    (HEAD + "7202E70400000001", 18, "property 2 of 2 is missing"),
    (HEAD + "72FFE70400000001", 18, "property 2 of 255 is missing"),
    (HEAD + "7200", 11, "no properties"),
    (HEAD + "7201E70400000001DEAD", 18, "2 bytes follow"),
    ("1082000102880105FF017201E70400000001", 1, "free format"),
    ("1181000102880105FF017201E70400000001", 0, "EHD1 is 11"),
    ("1000000102880105FF017201E70400000001", 1, "EHD2 is 00"),
    (HEAD + "7202E70400000001E70400000002", 18, "E7 stands twice"),
    ("0100FFFF06062478230B995C888800FF00FF098305FF010EF001D662", 0, "EHD1 is 01"),
    ("108100010EF00105FF016E01E50102", 15, "second list is missing"),
    ("108100010EF00105FF016E01E5010200", 15, "no properties"),
    ("108100010EF00105FF016E01E5010201E200FF", 18, "1 bytes follow"),
    (HEAD + "72FF" + "00" * 1500, 1500, "no frame has more"),
]


@pytest.mark.parametrize(("text", "offset", "reason"), MALFORMED)
def test_a_malformed_frame_is_refused_with_the_place_of_its_fault(text, offset, reason):
    with pytest.raises(FrameError, match=reason) as caught:
        decode(bytes.fromhex(text))
    assert caught.value.offset == offset
    assert isinstance(caught.value, MalformedError)


@pytest.mark.parametrize("name", FRAMES)
def test_a_frame_cut_anywhere_is_refused(name):
    for end in range(len(FRAMES[name])):
        with pytest.raises(FrameError):
            decode(FRAMES[name][:end])


@pytest.mark.parametrize("name", FRAMES)
def test_a_frame_with_a_tail_is_refused(name):
    for tail in (b"\0", b"\r\n", FRAMES[name]):
        with pytest.raises(FrameError):
            decode(FRAMES[name] + tail)


def test_every_one_byte_change_is_seen_in_the_frame_or_refused():
    original = decode(POLL)
    for place in range(len(POLL)):
        for value in range(256):
            changed = POLL[:place] + bytes((value,)) + POLL[place + 1 :]
            try:
                frame = decode(changed)
            except FrameError:
                continue
            assert (frame == original) == (changed == POLL)
            assert encode(frame) == changed


def refused_or_understood(data):
    """Return True for a refusal that names a place inside the data; what is understood means these bytes alone."""
    try:
        frame = decode(data)
    except FrameError as error:
        offset = error.offset
    else:
        assert encode(frame) == data
        return False
    assert 0 <= offset <= len(data)
    return True


def test_fifty_thousand_mutated_frames_give_a_frame_or_frame_error():
    dice = random.Random(288)
    frames = list(FRAMES.values())
    refused = 0
    for _ in range(50_000):
        data = bytearray(dice.choice(frames))
        for _ in range(dice.randint(1, 4)):
            at = dice.randrange(len(data) or 1)
            match dice.randrange(4):
                case 0 if data:
                    data[at] = dice.randrange(256)
                case 1:
                    data[at:at] = dice.randbytes(dice.randint(1, 8))
                case 2:
                    del data[at : at + dice.randint(1, 8)]
                case _:
                    data += dice.choice(frames)[: dice.randint(0, 40)]
        refused += refused_or_understood(bytes(data))
    assert 10_000 < refused < 50_000


@given(st.binary(max_size=300))
def test_any_bytes_give_a_frame_or_frame_error(data):
    refused_or_understood(data)


lists = st.dictionaries(st.integers(0, 255), st.binary(max_size=40), min_size=1, max_size=20)


@given(st.integers(0, 0xFFFF), st.binary(min_size=3, max_size=3), st.sampled_from([0x62, 0x72, 0x00]), lists)
def test_what_is_encoded_is_decoded(tid, eoj, esv, properties):
    frame = Frame(tid, eoj, echonet.METER, esv, properties)
    assert decode(encode(frame)) == frame
    assert list(decode(encode(frame)).properties) == list(properties)


def test_an_unknown_service_is_kept_as_it_is():
    frame = decode(bytes.fromhex(HEAD + "0001E70400000001"))
    assert (frame.esv, frame.service) == (0, "ESV 00")
    assert decode(POLL).service == "Get_Res"


def test_a_get_is_the_one_that_was_seen_on_the_air():
    assert echonet.get(0x0200, (0xE7, 0xE8, 0xE0)) == FRAMES["E01"]


def test_an_infc_is_answered_as_the_specification_wants():
    assert echonet.infc_response(decode(FRAMES["H01"])) == FRAMES["H02"]


def test_an_infc_to_all_instances_is_answered_by_the_first():
    notification = decode(FRAMES["H01"])._replace(deoj=bytes.fromhex("05FF00"))
    assert echonet.infc_response(notification) == FRAMES["H02"]


def test_a_frame_speaks_of_the_object_asked_or_the_object_answering():
    assert decode(FRAMES["E01"]).subject == echonet.METER
    assert decode(FRAMES["E02"]).subject == echonet.METER
    assert decode(FRAMES["H02"]).subject == echonet.METER
    assert decode(FRAMES["G04"]).subject == echonet.NODE_PROFILE


def test_property_maps_of_both_forms_are_read():
    assert echonet.property_map(bytes.fromhex("03808188")) == (0x80, 0x81, 0x88)
    battery = echonet.property_map(bytes.fromhex("2005155545440440021714252400020212"))
    assert len(battery) == 32
    assert {0x80, 0x9F, 0xE4, 0xCF} <= set(battery)
    assert echonet.property_map(b"\0") == ()


@pytest.mark.parametrize(
    "text", ["", "14010203", "03E7", "0280", "2080", "2005155545440440021714252400020213", "028080", "1181" + "00" * 15]
)
def test_a_property_map_that_does_not_add_up_is_refused(text):
    with pytest.raises(FrameError):
        echonet.property_map(bytes.fromhex(text))


@given(st.sets(st.integers(0x80, 0xFF)))
def test_a_property_map_names_what_was_put_in(epcs):
    assert set(echonet.property_map(echonet.encode_property_map(epcs))) == epcs


def test_what_no_frame_can_hold_is_not_encoded():
    with pytest.raises(ValueError, match="without properties"):
        encode(Frame(1, echonet.METER, echonet.METER, 0x62, {}))
    with pytest.raises(ValueError, match="3 bytes"):
        encode(Frame(1, b"\x02", echonet.METER, 0x62, {0xE7: b""}))
