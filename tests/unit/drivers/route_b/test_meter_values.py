"""What a smart meter's bytes mean: exact energies, signs, and nothing where there is no value."""

from datetime import datetime
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivers.quantities import QUANTITIES
from drivers.route_b import meter
from drivers.route_b.echonet import UNITS_KWH, FrameError
from drivers.route_b.meter import AtHalfHour, Scaling


def edt(text):
    return bytes.fromhex(text)


def test_power_has_a_sign_and_export_is_negative():
    assert meter.power_w(edt("000003A1")) == 929
    assert meter.power_w(edt("FFFFFCB8")) == -840
    assert meter.power_w(edt("80000001")) == -2147483647
    assert meter.power_w(edt("7FFFFFFD")) == 2147483645


@pytest.mark.parametrize("text", ["7FFFFFFE", "7FFFFFFF", "80000000"])
def test_power_that_the_meter_does_not_have_is_none(text):
    assert meter.power_w(edt(text)) is None


def test_currents_have_a_sign_and_a_missing_phase_is_none():
    assert meter.currents_a(edt("00460028")) == (7.0, 4.0)
    assert meter.currents_a(edt("80017FFD")) == (-3276.7, 3276.5)
    assert meter.currents_a(edt("001E7FFE")) == (3.0, None)
    assert meter.currents_a(edt("7FFF8000")) == (None, None)


def test_a_register_is_a_count_and_a_missing_one_is_none():
    assert meter.count(edt("0000B9D7")) == 47575
    assert meter.count(edt("05F5E0FF")) == 99_999_999
    assert meter.count(edt("FFFFFFFE")) is None
    assert meter.count(edt("FFFFFFFF")) is None
    with pytest.raises(FrameError, match="99999999 is the most"):
        meter.count(edt("05F5E100"))


@pytest.mark.parametrize(
    ("code", "kwh"),
    [
        ("00", "1"),
        ("01", "0.1"),
        ("02", "0.01"),
        ("03", "0.001"),
        ("04", "0.0001"),
        ("0A", "10"),
        ("0B", "100"),
        ("0C", "1000"),
        ("0D", "10000"),
    ],
)
def test_every_unit_of_the_specification_scales_exactly(code, kwh):
    scaling = Scaling(meter.unit_kwh(edt(code)), 3, 6)
    assert scaling.kwh(12345) == 12345 * 3 * Decimal(kwh)
    assert scaling.modulus_kwh == 3_000_000 * Decimal(kwh)
    assert scaling.kwh(None) is None


def test_the_largest_energy_loses_no_digit():
    assert Scaling(Decimal("0.0001"), 999_999).kwh(99_999_999) == Decimal("9999989900.0001")


@pytest.mark.parametrize("code", [code for code in range(256) if code not in UNITS_KWH])
def test_an_unknown_unit_is_no_unit(code):
    with pytest.raises(FrameError, match="no unit"):
        meter.unit_kwh(bytes((code,)))


def test_coefficient_and_digits_have_bounds():
    assert meter.coefficient(edt("000F423F")) == 999_999
    assert (meter.digits(b"\x01"), meter.digits(b"\x08")) == (1, 8)
    for read, text in ((meter.coefficient, "000F4240"), (meter.digits, "00"), (meter.digits, "09")):
        with pytest.raises(FrameError):
            read(edt(text))


def test_a_half_hourly_reading_is_in_japan_standard_time():
    reading = meter.at_half_hour(edt("07E70C13001E000000458E"))
    assert reading == AtHalfHour(datetime.fromisoformat("2023-12-18T15:30:00+00:00"), 17806)
    assert reading.at.isoformat() == "2023-12-19T00:30:00+09:00"
    assert meter.at_half_hour(edt("FFFFFFFFFFFFFFFFFFFFFE")) == AtHalfHour(None, None)


@pytest.mark.parametrize(
    "text", ["07E60D0114000000012CC7", "07E6021E14000000012CC7", "07E6080118000000012CC7", "0000010100000000000000"]
)
def test_a_moment_that_no_calendar_has_is_refused(text):
    with pytest.raises(FrameError, match="no date and time"):
        meter.at_half_hour(edt(text))


def test_a_history_has_a_day_and_48_slots():
    day, slots = meter.history(edt("0002" + "00000A95" * 47 + "FFFFFFFE"))
    assert (day, slots[0], slots[47], len(slots)) == (2, 2709, None, 48)
    assert meter.history(edt("00FF" + "00000000" * 48))[0] is None
    for text in ("", "0002" + "00" * 191, "0064" + "00" * 192, "0002" + "00" * 193):
        with pytest.raises(FrameError):
            meter.history(edt(text))


@pytest.mark.parametrize("read", [meter.power_w, meter.currents_a, meter.count, meter.coefficient])
@pytest.mark.parametrize("size", [0, 1, 2, 3, 5, 6, 255])
def test_four_bytes_are_four_bytes(read, size):
    with pytest.raises(FrameError, match=f"{size} bytes where 4 belong"):
        read(bytes(size))


def test_texts_lose_their_padding_and_all_that_could_harm_a_log():
    assert meter.text(edt("463234473336363530350000")) == "F24G366505"
    assert meter.text(b"  AB 12   \0\0") == "AB 12"
    assert meter.text(b"A\x1b[2J\xff\n") == "A\N{REPLACEMENT CHARACTER}[2J" + 2 * "\N{REPLACEMENT CHARACTER}"


TENTHS = Scaling(Decimal("0.1"))


def test_a_poll_becomes_quantities_of_the_vocabulary():
    answer = {0xE7: edt("FFFFFCB8"), 0xE8: edt("00467FFE"), 0xE0: edt("0000B9D7"), 0xE3: edt("0000000B")}
    values, problems = meter.readings(answer, TENTHS)
    assert values == {
        "grid_power_w": -840,
        "current_r_a": 7.0,
        "current_t_a": None,
        "import_energy_kwh": Decimal("4757.5"),
        "export_energy_kwh": Decimal("1.1"),
    }
    assert problems == []
    assert set(values) <= set(QUANTITIES)


def test_what_is_refused_is_left_out_and_what_is_broken_is_none():
    values, problems = meter.readings({0xE7: b"", 0xE8: edt("0046"), 0xE0: edt("000000000B")}, TENTHS)
    assert values == {"current_r_a": None, "current_t_a": None, "import_energy_kwh": None}
    assert problems == ["EPC E8: 2 bytes where 4 belong (at byte 2)", "EPC E0: 5 bytes where 4 belong (at byte 4)"]


def test_energies_without_a_known_unit_are_left_out():
    assert meter.readings({0xE0: edt("0000B9D7"), 0xE7: edt("00000001")}, None)[0] == {"grid_power_w": 1}


@given(st.integers(0, 255), st.binary(max_size=255), st.sampled_from([None, TENTHS]))
def test_any_property_is_explained_without_an_error(epc, data, scaling):
    fields = meter.explain(epc, data, scaling)
    assert not data or not fields or {"value", "values", "slots", "pairs"} & set(fields)


@pytest.mark.parametrize(
    ("epc", "text", "fields"),
    [
        (0x80, "31", {"name": "operation_status", "value": "off"}),
        (0x80, "32", {"name": "operation_status", "value": None, "error": "32 is no value of this property"}),
        (0x88, "41", {"name": "meter_fault", "value": "fault"}),
        (0x81, "08", {"name": "installation_location", "value": "living room"}),
        (0x81, "80", {"name": "installation_location", "value": "80"}),
        (0x97, "FFFF", {"name": "time_of_day", "value": None, "error": "255:255 is no time of day"}),
        (0x98, "07EA0B15", {"name": "date", "value": "2026-11-21"}),
        (0xE5, "FF", {"name": "history_day", "value": None}),
        (0xE9, "0064", {}),
        (
            0xEC,
            "07EA0B15001E02000000010000000200000003FFFFFFFE",
            {"at": "2026-11-21T00:30:00+09:00", "pairs": [[1, 2], [3, None]], "unit": "count"},
        ),
        (0xED, "07EA0B15001E0C", {"name": "history_request", "value": 12, "at": "2026-11-21T00:30:00+09:00"}),
    ],
)
def test_properties_are_explained(epc, text, fields):
    assert meter.explain(epc, edt(text)) == fields
