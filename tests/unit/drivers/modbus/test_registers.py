"""Registers become values: types, word order, "no value" patterns, exact scale."""

import struct
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drivers.api import MalformedError
from drivers.modbus.registers import TYPES, WORDS, Encoding, Layout, Span, decode, scale_exponent, text


@pytest.mark.parametrize(
    ("kind", "bits", "value"),
    [
        ("u16", 0xFFFE, 65534),
        ("s16", 0xFFFE, -2),
        ("u32", 0xFFFFFFFE, 4294967294),
        ("s32", 0xFFFFFFFE, -2),
        ("u64", 1 << 63, 1 << 63),
        ("s64", 1 << 63, -(1 << 63)),
        ("f32", 0x43660000, Decimal("230.0")),
        ("f32", 0x42480A3D, Decimal("50.01")),
        ("enum", 7, "unknown_7"),
        ("bits", 0b101, "bit_0,bit_2"),
        ("bits", 0, "none"),
    ],
)
def test_each_type_means_what_it_says(kind, bits, value):
    assert decode(bits, Encoding(kind, WORDS[kind])) == value


def test_a_kaco_frequency_is_unsigned():
    """49944 at 0.001 Hz; read as signed it would be -15.592 Hz."""
    assert decode(0xC318, Encoding("u16", 1, scale=Decimal("0.001"))) == Decimal("49.944")


@pytest.mark.parametrize("kind", sorted(TYPES - {"string"}))
def test_a_no_value_pattern_is_none_and_never_a_number(kind):
    pattern = (1 << 16 * WORDS[kind]) - 1
    assert decode(pattern, Encoding(kind, WORDS[kind], negate=True, sentinels=frozenset({pattern}))) is None


def test_a_pattern_is_compared_as_it_lies_on_the_wire_before_words_are_swapped():
    encoding = Encoding("u32", 2, order="little", sentinels=frozenset({0x0001_0000}))
    assert decode(0x0001_0000, encoding) is None
    assert decode(0x0000_0001, encoding) == 0x1_0000


@pytest.mark.parametrize("bits", [0x7FC00000, 0x7F800000, 0xFF800000, 0xFFFFFFFF])
def test_a_float_that_is_no_number_is_none(bits):
    assert decode(bits, Encoding("f32", 2)) is None


def test_minus_zero_is_zero():
    assert str(decode(0x80000000, Encoding("f32", 2))) == "0"


def test_a_device_that_counts_the_other_way_is_turned():
    assert decode(0xFFFFFB2E, Encoding("s32", 2, negate=True)) == 1234
    assert decode(1234, Encoding("s32", 2, negate=True)) == -1234


def test_an_unscaled_number_stays_whole():
    assert type(decode(5, Encoding("u16", 1))) is int


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(-10, 10))
def test_a_scale_factor_is_exact(bits, exponent):
    value = decode(bits, Encoding("u32", 2), exponent & 0xFFFF)
    assert Decimal(value) * Decimal(10) ** -exponent == bits


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**64 - 1))
def test_an_energy_never_loses_a_digit(bits):
    assert decode(bits, Encoding("u64", 4, scale=Decimal("0.01"))) * 100 == bits


@pytest.mark.parametrize("raw", [0x8000, 11, 0xFFF5, 0x7FFF, 0xFFFF - 10])
def test_a_scale_factor_outside_its_range_is_no_value(raw):
    assert scale_exponent(raw) is None
    assert decode(5, Encoding("u16", 1), raw) is None
    assert decode(0x43660000, Encoding("f32", 2), raw) is None


def test_texts_lose_padding_and_what_cannot_be_shown():
    assert text(b"SUN2000\0\xff\xff") == "SUN2000"
    assert text(b"  padded   ") == "padded"
    assert text(b"\xff\xfe\x01ok") == "ok"
    assert text(bytes(8)) is None


def test_a_split_32_bit_value_with_the_low_word_first():
    assert decode(0x1395_0002, Encoding("u32", 2, order="little")) == 0x0002_1395


@settings(max_examples=50, deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes_give_a_block_or_malformed(data):
    layout = Layout(4, [Span(0, 1), Span(2, 2)])
    if len(data) == 8:
        assert layout.split(data) == (
            int.from_bytes(data[:2]),
            int.from_bytes(data[4:8]),
        )
    else:
        with pytest.raises(MalformedError):
            layout.split(data)


@settings(max_examples=50, deadline=None)
@given(st.sampled_from(sorted(TYPES - {"string"})), st.data())
def test_any_bits_give_a_value(kind, data):
    words = WORDS[kind]
    bits = data.draw(st.integers(0, (1 << 16 * words) - 1))
    order = data.draw(st.sampled_from(["big", "little"]))
    factor = data.draw(st.none() | st.integers(0, 0xFFFF))
    value = decode(bits, Encoding(kind, words, order=order, scale=Decimal("0.1")), factor)
    assert value is None or isinstance(value, int | Decimal | str)
    assert not isinstance(value, Decimal) or value.is_finite()


@settings(max_examples=50, deadline=None)
@given(st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_a_float_is_the_shortest_text_that_is_still_this_float(number):
    bits = int.from_bytes(struct.pack(">f", number))
    value = decode(bits, Encoding("f32", 2))
    assert struct.pack(">f", float(value)) == struct.pack(">f", number + 0.0)
    assert len(value.as_tuple().digits) <= 9


def test_spans_that_overlap_are_refused():
    with pytest.raises(ValueError, match="overlaps"):
        Layout(4, [Span(0, 2), Span(1, 1)])
