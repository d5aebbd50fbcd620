"""Who a device is, wherever it is; and images that name no house."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivers.echonet_ip import identity

EOJ = bytes.fromhex("013001")
NUMBER = bytes.fromhex("FE00000860F189306DF500000000000000")


def test_a_device_is_named_by_its_identification_number_and_object():
    assert identity.identify(EOJ, {0x83: NUMBER}) == "FE00000860F189306DF500000000000000/013001"


def test_without_a_number_maker_product_and_serial_name_it():
    who = {0x8A: b"\x00\x00\x0b", 0x8C: b"CS-X40\x00\x00\x00\x00\x00\x00", 0x8D: b"123456\x00\x00\x00\x00\x00\x00"}
    assert identity.identify(EOJ, who) == "00000B-CS-X40-123456/013001"
    unset = {**who, 0x83: b"\xfe" + who[0x8A] + bytes(13)}
    assert identity.identify(EOJ, unset) == "00000B-CS-X40-123456/013001"


@pytest.mark.parametrize(
    "who", [{}, {0x83: bytes(17)}, {0x83: b"\xff" * 17}, {0x8A: b"\x00\x00\x0b"}, {0x8D: bytes(12)}]
)
def test_what_says_nothing_unique_has_no_name(who):
    assert identity.identify(EOJ, who) is None


def test_a_name_may_be_typed_with_or_without_the_object_in_any_case():
    found = identity.identify(EOJ, {0x83: NUMBER})
    assert identity.same("fe00000860f189306df500000000000000", found)
    assert identity.same("FE000008 60F189306DF500000000000000/013001", found)
    assert not identity.same("FE00000860F189306DF500000000000001", found)
    assert not identity.same("FE00000860F189306DF500000000000000/013002", found)
    assert not identity.same("", None)


def test_an_image_names_no_house():
    assert identity.anonymous(0x83, NUMBER) == bytes.fromhex("FE000008") + bytes(12) + b"\x01"
    assert identity.anonymous(0x8D, b"F24G366505\x00\x00") == b"000000000000"
    assert identity.anonymous(0xBF, b"\x12\x34") == bytes(2)
    assert identity.anonymous(0x81, b"\x01" + bytes(range(16))) == b"\x01" + bytes(16)
    assert identity.anonymous(0x81, b"\x41") == b"\x41"
    assert identity.anonymous(0xE0, b"\x12\x34") == b"\x12\x34"


@given(st.integers(0x80, 0xFF), st.binary(max_size=40))
def test_an_image_keeps_every_length(epc, edt):
    assert len(identity.anonymous(epc, edt)) == len(edt)


@given(st.dictionaries(st.sampled_from([0x82, 0x83, 0x8A, 0x8C, 0x8D]), st.binary(max_size=20)))
def test_any_bytes_give_a_printable_name_or_none(who):
    found = identity.identify(EOJ, who)
    assert found is None or found.isprintable()
    assert identity.text(who.get(0x8C, b"")).isprintable()
