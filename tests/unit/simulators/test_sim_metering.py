"""The meter's rules, byte by byte as the specification has them."""

import random
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulators.house import House, UnknownTimeError
from simulators.metering import Frame, Meter, Nameplate, parse, property_map

NOON_MS = 1_780_239_600_000 + 12 * 3_600_000 + 17 * 60_000 + 5_000  # 2026-06-01T12:17:05+09:00
ALL = "80 81 82 88 8A 8D 97 98 9D 9E 9F D3 D7 E0 E1 E2 E3 E4 E5 E7 E8 EA EB"


def meter(now_ms=NOON_MS, seed=1, **plate):
    house = House(seed)
    made = Meter(house, lambda: now_ms, Nameplate(**plate))
    made.house = house
    return made


def ask(device, text, tid="1234", destination="028801", source="05FF01"):
    """Send service and properties in hex; return the answer's bytes from the service on, in hex."""
    answer = device.answer(bytes.fromhex(f"1081{tid}{source}{destination}{text}"))
    if answer is None:
        return None
    raw = answer.frame.encode().hex().upper()
    assert raw.startswith(f"1081{tid}{destination[:4]}01{source}")
    return raw[20:]


def get(device, code):
    answer = ask(device, f"6201{code}00")
    assert answer.startswith(f"7201{code}")
    return bytes.fromhex(answer[8:])


@pytest.mark.parametrize(
    ("code", "data"),
    [
        ("80", "30"),
        ("81", "61"),
        ("82", "00004600"),
        ("88", "42"),
        ("8A", "000016"),
        ("8D", "53494D303030303030310000"),
        ("97", "0C11"),
        ("98", "07EA0601"),
        ("9D", "03808188"),
        ("9E", "0281E5"),
        ("D3", "00000001"),
        ("D7", "06"),
        ("E1", "01"),
        ("E5", "FF"),
    ],
)
def test_a_property_reads_as_the_specification_has_it(code, data):
    assert get(meter(), code).hex().upper() == data


def test_the_get_map_lists_what_can_be_read_and_everything_listed_answers():
    raw = get(meter(), "9F")
    codes = {0x80 + 16 * bit + row for row in range(16) for bit in range(8) if raw[1 + row] >> bit & 1}
    assert raw[0] == len(codes)
    assert codes == set(bytes.fromhex(ALL))
    for code in codes:
        get(meter(), f"{code:02X}")


def test_a_map_is_a_list_below_sixteen_and_the_specifications_bitmap_from_there_on():
    assert property_map({0x88, 0x80, 0x81}) == bytes.fromhex("03808188")
    example = bytes.fromhex("2005155545440440021714252400020212")
    codes = {0x80 + 16 * bit + row for row in range(16) for bit in range(8) if example[1 + row] >> bit & 1}
    assert property_map(codes) == example


def test_values_are_the_houses_and_the_log_says_the_same():
    device = meter()
    answer = device.answer(bytes.fromhex("1081000105FF010288016204E700E800E000E300"))
    now = device.house.at(NOON_MS)
    r, t = device.house.currents_da(now)
    expected = (
        bytes.fromhex("1081000102880105FF017204E704")
        + now.grid_w.to_bytes(4, signed=True)
        + bytes.fromhex("E804")
        + r.to_bytes(2, signed=True)
        + t.to_bytes(2, signed=True)
        + bytes.fromhex("E004")
        + (now.import_ws // 360_000).to_bytes(4)
        + bytes.fromhex("E304")
        + (now.export_ws // 360_000).to_bytes(4)
    )
    assert answer.frame.encode() == expected
    assert answer.values == {
        "grid_power_w": now.grid_w,
        "current_r_a": r / 10,
        "current_t_a": t / 10,
        "import_energy_kwh": Decimal(now.import_ws // 360_000) / 10,
        "export_energy_kwh": Decimal(now.export_ws // 360_000) / 10,
    }
    assert now.grid_w < 0  # the example must hold an export


@pytest.mark.parametrize(
    ("unit", "code", "digits", "step_ws"),
    [("1", "00", 6, 3_600_000), ("0.01", "02", 7, 36_000), ("0.001", "03", 8, 3_600), ("0.0001", "04", 8, 360)],
)
def test_registers_count_whole_units_and_roll_over_at_their_digits(unit, code, digits, step_ws):
    device = meter(unit=unit, digits=digits)
    exact = device.house.at(NOON_MS).import_ws
    assert get(device, "E1").hex() == code
    assert int.from_bytes(get(device, "E0")) == exact // step_ws % 10**digits
    assert int.from_bytes(get(meter(unit=unit, digits=3), "E0")) == exact // step_ws % 1000


def test_a_coefficient_divides_the_register():
    device = meter(coefficient=20)
    assert int.from_bytes(get(device, "E0")) == device.house.at(NOON_MS).import_ws // 7_200_000
    answer = device.answer(bytes.fromhex("1081000105FF010288016201E000"))
    assert answer.values["import_energy_kwh"] == device.house.at(NOON_MS).import_ws // 7_200_000 * Decimal(2)


def test_a_two_wire_meter_has_no_current_on_t():
    device = meter(two_wire=True)
    assert get(device, "E8")[2:] == bytes.fromhex("7FFE")
    assert device.answer(bytes.fromhex("1081000105FF010288016201E800")).values["current_t_a"] is None


def test_the_half_hour_registers_carry_their_time_and_the_houses_register_then():
    device = meter()
    half_hour = device.house.half_hour(NOON_MS)
    assert get(device, "EA") == bytes.fromhex("07EA06010C0000") + (half_hour.import_ws // 360_000).to_bytes(4)
    assert get(device, "EB") == bytes.fromhex("07EA06010C0000") + (half_hour.export_ws // 360_000).to_bytes(4)


def test_a_notice_of_the_half_hour_is_addressed_to_the_controller_and_logged_with_its_time():
    device = meter()
    answer = device.half_hour_notice(0x74)
    assert answer.frame.encode().hex().upper().startswith("1081000102880105FF017402EA0B07EA06010C0000")
    ((at, values),) = answer.half_hours.items()
    assert at.isoformat() == "2026-06-01T12:00:00+09:00"
    assert set(values) == {"import_energy_at_30min_kwh", "export_energy_at_30min_kwh"}


def test_history_of_today_fills_up_to_now_and_yesterday_is_unknown_to_a_new_meter():
    device = meter()
    assert get(device, "E2") == bytes.fromhex("00FF") + bytes.fromhex("FFFFFFFE") * 48
    assert ask(device, "6101E50100") == "7101E500"
    raw = get(device, "E2")
    assert raw[:2] == b"\0\0"
    slots = [int.from_bytes(raw[2 + 4 * n : 6 + 4 * n]) for n in range(48)]
    assert len(raw) == 194
    assert slots[24] == device.house.half_hour(NOON_MS).import_ws // 360_000
    assert slots == sorted(slots)
    assert set(slots[25:]) == {0xFFFFFFFE}
    assert ask(device, "6101E50101") == "7101E500"
    assert set(get(device, "E4")[2:]) == set(bytes.fromhex("FFFFFFFE"))


def test_a_refusal_still_carries_what_can_be_served():
    assert ask(meter(), "6203E100C500D700") == "5203E10101C500D70106"
    assert ask(meter(without=frozenset({0xD3})), "6202D300E100") == "5202D300E10101"


def test_more_than_six_properties_are_served_up_to_six():
    assert ask(meter(), "6207" + "80008800E100D700D3008A00" + "8200") == (
        "5207" + "800130880142E10101D70106D304000000018A03000016" + "8200"
    )
    assert ask(meter(), "6206" + "80008800E100D700D3008A00").startswith("7206")


def test_settings_are_taken_or_returned_as_refused():
    device = meter()
    assert ask(device, "6102E50105810108") == "7102E5008100"
    assert get(device, "E5") == b"\x05"
    assert ask(device, "6101E50164") == "5101E50164"
    assert ask(device, "6102E50102E00400000000") == "5102E500E00400000000"
    assert ask(device, "6101E500") == "5101E500"
    assert ask(device, "6001E50103") is None
    assert get(device, "E5") == b"\x03"
    assert ask(device, "6001E50164") == "5001E50164"


def test_set_and_get_in_one_frame():
    assert ask(meter(), "6E01E5010002E500E100") == "7E01E50002E50100E10101"
    assert ask(meter(), "6E01E5016401C500") == "5E01E5016401C500"


def test_requests_for_a_notice_and_notices_that_want_an_answer():
    assert ask(meter(), "6301E100") == "7301E10101"
    assert ask(meter(), "6301C500") == "5301C500"
    assert ask(meter(), "7401D50401028801") == "7A01D500"


def test_the_node_profile_names_its_one_meter():
    assert ask(meter(), "6201D600", destination="0EF001") == "7201D60401028801"
    assert ask(meter(), "6201D500", destination="0EF000") == "7201D50401028801"
    assert ask(meter(), "6101D600", destination="0EF001") == "5101D600"
    assert ask(meter(), "6101E50101", destination="0EF001") == "5101E50101"
    assert meter().instance_list().frame.encode().hex().upper() == "108100010EF0010EF0017301D50401028801"


@pytest.mark.parametrize("destination", ["028802", "027901", "05FF01"])
def test_a_frame_for_someone_else_is_not_answered(destination):
    assert meter().answer(bytes.fromhex(f"1081123405FF01{destination}6201E700")) is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "10",
        "1081000105FF01028801",
        "1081000105FF0102880162",
        "1081000105FF010288016201",
        "1081000105FF010288016201E7",
        "1081000105FF010288016201E704",
        "1081000105FF010288016201E70000",
        "1081000105FF010288016202E700",
        "1082000105FF010288016201E700",
        "1181000105FF010288016201E700",
        "1081000105FF010288017201E700",
        "1081000105FF010288010001E700",
        "1081000105FF010288016E01E50100",
    ],
)
def test_a_frame_that_makes_no_sense_is_not_answered(text):
    assert meter().answer(bytes.fromhex(text)) is None


@given(st.binary(max_size=64))
def test_any_bytes_leave_the_meter_alive(data):
    meter().answer(data)
    meter().answer(bytes.fromhex("1081000105FF01028801") + data)


def test_what_is_encoded_parses_back():
    chance = random.Random(5)
    for _ in range(200):
        properties = tuple((chance.randrange(256), chance.randbytes(chance.randrange(20))) for _ in range(4))
        second = properties[:2] if (service := chance.choice([0x62, 0x6E, 0x73])) == 0x6E else ()
        frame = Frame(chance.randbytes(2), chance.randbytes(3), chance.randbytes(3), service, properties, second)
        assert parse(frame.encode()) == frame


def test_pairs_go_back_from_the_half_hour_that_was_set_and_are_the_houses():
    device = meter(pairs=True)
    assert get(device, "EC").hex().upper() == "FFFFFFFFFFFF01" + "FFFFFFFE" * 2
    assert ask(device, "6101ED0707EA06010C0003") == "7101ED00"
    raw = get(device, "EC")
    assert raw[:7].hex().upper() == "07EA06010C0003"
    counts = [int.from_bytes(raw[at : at + 4]) for at in range(7, len(raw), 4)]
    moments = [NOON_MS - 1_800_000 * back for back in range(3)]
    balances = [device.house.half_hour(moment) for moment in moments]
    assert counts == [ws // 360_000 for balance in balances for ws in (balance.import_ws, balance.export_ws)]
    for refused in ("07EA06010C0100", "07EA06010C0003FF", "07EA06010C0F03", "07EA0D010C0003", "07EA06010C000D"):
        assert ask(device, f"6101ED{len(refused) // 2:02X}{refused}").startswith("5101ED")


def test_another_meter_counts_from_zero_and_knows_nothing_of_the_former():
    exchanged = NOON_MS // 1_800_000 * 1_800_000 - 3_600_000
    device = meter(exchanged_ms=exchanged, next_serial="NEXT")
    assert get(device, "8D").startswith(b"NEXT\0")
    then, now = (device.house.half_hour(at) for at in (exchanged, NOON_MS))
    assert get(device, "EA")[7:] == ((now.import_ws - then.import_ws) // 360_000).to_bytes(4)
    ask(device, "6101E50100")
    slots = get(device, "E4")[2:]
    assert slots[: 22 * 4] == bytes.fromhex("FFFFFFFE") * 22
    assert slots[22 * 4 : 23 * 4] == bytes(4)


def test_a_clock_that_is_wrong_and_a_fault_show_in_their_properties_alone():
    device = meter(clock_error_s=3600, fault=True)
    assert (get(device, "97"), get(device, "88")) == (b"\x0d\x11", b"\x41")
    assert get(device, "EA")[:7] == bytes.fromhex("07EA06010C0000")


def test_a_meter_remembers_ninety_nine_days_of_its_house():
    day_ms = 86_400_000
    device = meter()
    device._house = House(1, start_ms=1_780_239_600_000 - 100 * day_ms, pv_peak_w=0, battery_wh=0)
    assert ask(device, "6101E50163") == "7101E500"
    raw = get(device, "E2")
    counts = [int.from_bytes(raw[2 + 4 * n : 6 + 4 * n]) for n in range(48)]
    first = 1_780_239_600_000 - 99 * day_ms
    assert counts == [device._house.half_hour(first + n * 1_800_000).import_ws // 360_000 for n in range(48)]


SECOND = "80 81 82 88 8A 8D 97 98 9D 9E 9F C0 D0 D3 D7 E0 E1 E2 E3 E4 E5 E7 E8 EA EB EE EF"


def listed(raw):
    return {0x80 + 16 * bit + row for row in range(16) for bit in range(8) if raw[1 + row] >> bit & 1}


def test_a_meter_of_the_second_generation_lists_what_it_has_more_and_an_older_one_does_not():
    device = meter(release="R")
    assert get(device, "82").hex() == "00005200"
    assert listed(get(device, "9F")) == set(bytes.fromhex(SECOND))
    assert get(device, "9E").hex().upper() == "0381E5EF"
    assert get(device, "C0") == b"\0\0\0\x16SIM0000001\0\0"
    older = meter(release="Q")
    assert listed(get(older, "9F")) == set(bytes.fromhex(ALL))
    assert ask(older, "6204C000D000EE00EF00") == "5204C000D000EE00EF00"


def test_the_minute_is_the_houses_register_at_the_full_minute_to_the_integer():
    device = meter(release="R", unit="0.001", digits=8)
    oracle = House(1)
    device.house.at(NOON_MS)  # the house has moved on beyond the minute, as with any power read before
    then = oracle.at(NOON_MS - 5_000)
    raw = get(device, "D0")
    assert raw[:7].hex().upper() == "07EA06010C1100"
    assert raw[7:] == (then.import_ws // 3_600).to_bytes(4) + (then.export_ws // 3_600).to_bytes(4)
    answer = device.answer(bytes.fromhex("1081000105FF010288016201D000"))
    assert {at.isoformat(): values for at, values in answer.half_hours.items()} == {
        "2026-06-01T12:17:00+09:00": {
            "import_energy_at_1min_kwh": Decimal(then.import_ws // 3_600) / 1000,
            "export_energy_at_1min_kwh": Decimal(then.export_ws // 3_600) / 1000,
        }
    }


def test_minutes_go_back_from_the_one_that_was_set_and_are_the_houses():
    device = meter(release="R")
    assert get(device, "EE").hex().upper() == "FFFFFFFFFFFF01" + "FFFFFFFE" * 2
    assert ask(device, "6101EF0707EA06010C110A") == "7101EF00"
    raw = get(device, "EE")
    assert raw[:7].hex().upper() == "07EA06010C110A"
    counts = [int.from_bytes(raw[at : at + 4]) for at in range(7, len(raw), 4)]
    oracle = House(1)
    balances = [oracle.at(NOON_MS - 5_000 - 60_000 * back) for back in reversed(range(10))]
    assert counts == [ws // 360_000 for said in reversed(balances) for ws in (said.import_ws, said.export_ws)]
    assert ask(device, "6101EF0707EA06010C1202") == "7101EF00"
    assert get(device, "EE")[7:15] == bytes.fromhex("FFFFFFFE" * 2)  # a minute to come
    for refused in ("07EA06010C110B", "07EA06010C1100", "07EA06010C3C01", "07EA0D010C0003", "07EA06010C11"):
        assert ask(device, f"6101EF{len(refused) // 2:02X}{refused}").startswith("5101EF")


def test_minutes_before_the_house_or_a_day_old_are_unknown():
    device = meter(release="R", without=frozenset({0xE3}))
    assert get(device, "D0")[11:] == bytes.fromhex("FFFFFFFE")
    assert ask(device, "6101EF0707EA051F173B01") == "7101EF00"
    assert get(device, "EE")[7:] == bytes.fromhex("FFFFFFFE" * 2)
    house = House(1)
    house.at(house.start_ms + 2 * 86_400_000)
    with pytest.raises(UnknownTimeError):
        house.registers_at_minute(house.start_ms + 86_400_000)
    assert house.registers_at_minute(house.start_ms + 86_460_000)


def test_a_meter_whose_clock_is_ahead_names_the_minute_by_its_own_clock():
    device = meter(release="R", clock_error_s=3_600)
    assert get(device, "D0")[:7].hex().upper() == "07EA06010D1100"
    assert get(device, "D0")[7:] == get(meter(release="R"), "D0")[7:]
