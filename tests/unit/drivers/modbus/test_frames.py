"""Modbus frames: a peer agrees, any cut gives the same answers, any bytes give an answer or a named error."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pymodbus.framer.rtu import FramerRTU

from drivers.api import MalformedError
from drivers.modbus.frames import Answer, RtuReader, TcpReader, crc, read_pdu, rtu_frame, tcp_frame, write_pdu

REGISTERS = st.binary(min_size=2, max_size=250).map(lambda data: data[: len(data) // 2 * 2])
PDUS = st.one_of(
    st.tuples(st.sampled_from((3, 4)), REGISTERS).map(lambda one: bytes((one[0], len(one[1]))) + one[1]),
    st.tuples(st.sampled_from((0x83, 0x84, 0x90)), st.integers(0, 255)).map(bytes),
    st.binary(min_size=4, max_size=4).map(lambda data: b"\x10" + data),
)
UNITS = st.integers(0, 255)


def fed(reader, data, cuts):
    answers, before = [], 0
    for at in sorted({cut % (len(data) + 1) for cut in cuts} | {len(data)}):
        answers += reader.feed(data[before:at])
        before = at
    return answers


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=300))
def test_the_check_sum_is_the_one_of_a_peer(data):
    assert crc(data).to_bytes(2, "little") == FramerRTU.compute_CRC(data).to_bytes(2, "big")


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(UNITS, PDUS), max_size=5), st.lists(st.integers(0, 2000), max_size=12))
def test_answers_on_a_serial_line_are_found_however_they_are_cut(frames, cuts):
    data = b"".join(rtu_frame(unit, pdu) for unit, pdu in frames)
    assert fed(RtuReader(), data, cuts) == [Answer(unit, pdu[0], pdu[1:]) for unit, pdu in frames]


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 0xFFFF), UNITS, PDUS), max_size=5), st.lists(st.integers(0, 2000), max_size=12)
)
def test_answers_on_tcp_are_found_however_they_are_cut(frames, cuts):
    data = b"".join(tcp_frame(*one) for one in frames)
    assert fed(TcpReader(), data, cuts) == [Answer(unit, pdu[0], pdu[1:], tid) for tid, unit, pdu in frames]


@settings(max_examples=150, deadline=None)
@given(UNITS, PDUS, st.data())
def test_one_changed_byte_is_no_answer_on_a_serial_line(unit, pdu, data):
    frame = bytearray(rtu_frame(unit, pdu))
    frame[data.draw(st.integers(0, len(frame) - 1))] ^= data.draw(st.integers(1, 255))
    assert Answer(unit, pdu[0], pdu[1:]) not in list(RtuReader().feed(bytes(frame)))


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=600), UNITS, PDUS)
def test_noise_ends_with_the_next_request(noise, unit, pdu):
    reader = RtuReader()
    list(reader.feed(noise))
    assert len(reader._buffer) <= 256
    reader.reset()
    assert list(reader.feed(rtu_frame(unit, pdu))) == [Answer(unit, pdu[0], pdu[1:])]


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=600), st.lists(st.integers(0, 600), max_size=6))
def test_any_bytes_on_tcp_give_answers_or_a_named_error(noise, cuts):
    reader = TcpReader()
    try:
        for answer in fed(reader, noise, cuts):
            assert 0 <= answer.function <= 255
    except MalformedError:
        pass
    assert len(reader._buffer) <= 260


@pytest.mark.parametrize("body", [b"", b"\x02", b"\x04\x00\x01", b"\x03\x00\x01\x02", b"\x02\x00\x01\x02"])
def test_an_answer_whose_count_is_not_what_came_is_malformed(body):
    with pytest.raises(MalformedError):
        Answer(1, 3, body).registers()


def test_requests_are_as_the_specification_writes_them():
    assert read_pdu(3, 0x006B, 3) == bytes.fromhex("03006b0003")  # Modbus Application Protocol 1.1b3, 6.3
    assert write_pdu(1, bytes.fromhex("000a0102")) == bytes.fromhex("100001000204000a0102")  # the same, 6.12
    assert rtu_frame(1, read_pdu(3, 0, 1)).hex() == "010300000001840a"
