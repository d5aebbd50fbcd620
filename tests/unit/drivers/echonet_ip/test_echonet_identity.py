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


NODE, CHARGER, METER, CONTROLLER = (bytes.fromhex(one) for one in ("0EF001", "027E01", "028801", "05FF01"))


def test_an_image_names_no_house():
    assert identity.anonymous(EOJ, 0x83, NUMBER) == bytes.fromhex("FE000008") + bytes(12) + b"\x01"
    assert identity.anonymous(EOJ, 0x8D, b"F24G366505\x00\x00") == b"000000000000"
    assert identity.anonymous(EOJ, 0x8E, b"\x07\xe6\x01\x02") == bytes(4)
    assert identity.anonymous(NODE, 0xBF, b"\x12\x34") == bytes(2)
    assert identity.anonymous(CHARGER, 0xE6, b"\x03ABC") == bytes(4)
    assert identity.anonymous(METER, 0xC0, bytes(range(16))) == bytes(16)
    assert identity.anonymous(CONTROLLER, 0xC5, b"kitchen") == bytes(7)
    assert identity.anonymous(EOJ, 0x81, b"\x01" + bytes(range(16))) == b"\x01" + bytes(16)
    assert identity.anonymous(EOJ, 0x81, b"\x41") == b"\x41"
    assert identity.anonymous(EOJ, 0xE0, b"\x12\x34") == b"\x12\x34"
    assert identity.anonymous(EOJ, 0xC0, b"\x12\x34") == b"\x12\x34"


def test_a_serial_that_a_maker_repeats_in_a_property_of_its_own_is_no_part_of_an_image():
    serial, number = b"F24G366505\x00\x00", bytes.fromhex("FE000008") + b"\x00" * 6 + b"\xa0\xb1\xc2\xd3\xe4\xf5\x16"
    objects = {
        NODE: {0x83: number, 0x9F: bytes.fromhex("10A0B1C2D3E4F516") + bytes(9)},
        EOJ: {0x8D: serial, 0xF0: b"sn=F24G366505;", 0xF1: b"\x01\xa0\xb1\xc2\xd3\xe4\xf5\x02", 0xE0: bytes(12)},
    }
    image = identity.anonymised(objects)
    assert image[EOJ] == {
        0x8D: b"0" * 12,
        0xF0: b"sn=" + bytes(10) + b";",
        0xF1: b"\x01" + bytes(6) + b"\x02",
        0xE0: bytes(12),
    }
    assert image[NODE][0x9F] == objects[NODE][0x9F]
    assert identity.anonymised(image) == image


@given(
    st.dictionaries(
        st.sampled_from([NODE, EOJ, METER]), st.dictionaries(st.integers(0x80, 0xFF), st.binary(max_size=40))
    )
)
def test_an_image_keeps_every_property_and_its_length(objects):
    image = identity.anonymised(objects)
    lengths = {eoj: {epc: len(edt) for epc, edt in properties.items()} for eoj, properties in objects.items()}
    assert {eoj: {epc: len(edt) for epc, edt in properties.items()} for eoj, properties in image.items()} == lengths


@given(st.dictionaries(st.sampled_from([0x82, 0x83, 0x8A, 0x8C, 0x8D]), st.binary(max_size=20)))
def test_any_bytes_give_a_printable_name_or_none(who):
    found = identity.identify(EOJ, who)
    assert found is None or found.isprintable()
    assert identity.text(who.get(0x8C, b"")).isprintable()
