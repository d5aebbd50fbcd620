"""`edge-agent decode`: every golden frame, whole lines, every malformed case, and its two forms of output."""

import argparse
import io
import json
import sys
from pathlib import Path

import pytest

from drivers.route_b.decode import MAX_INPUT_BYTES, command

VECTORS = sorted(path.parent for path in (Path(__file__).parents[3] / "data" / "echonet").glob("*/frame.hex"))
H = "1081000102880105FF01"
E02 = "1081020002880105FF017203E704000003A1E80400460028E0040000B9D7"


def run(capsys, *arguments):
    parser = argparse.ArgumentParser()
    command.configure(parser)
    code = command.run(parser.parse_args(arguments))
    return code, capsys.readouterr().out.splitlines()


def answer(capsys, *arguments):
    code, lines = run(capsys, "--json", *arguments)
    (line,) = lines
    found = json.loads(line)
    assert code == (0 if found["ok"] else 1)
    return found


def test_every_golden_and_synthetic_frame_is_explained_as_written_by_hand(capsys):
    for folder in VECTORS:
        found = answer(capsys, (folder / "frame.hex").read_text().strip())
        assert found == json.loads((folder / "expected.json").read_text()), folder.name


def test_energies_are_scaled_when_unit_and_coefficient_are_given(capsys):
    code, lines = run(capsys, "--json", "--unit", "0.1", "--coefficient", "10", E02)
    assert code == 0
    assert '"name":"import_energy_kwh","value":47575.0,"unit":"kWh"' in lines[0]
    assert answer(capsys, "--unit", "0.1", E02)["properties"][2]["value"] == 4757.5
    assert '"value":4757.5,' in run(capsys, "--json", "--unit", ".1".zfill(3), E02)[1][0]


@pytest.mark.parametrize(("option", "value"), [("--unit", "0.2"), ("--unit", "x"), ("--coefficient", "-1")])
def test_an_impossible_scaling_is_refused_with_what_is_possible(capsys, option, value):
    with pytest.raises(SystemExit):
        run(capsys, option, value, E02)
    assert value in capsys.readouterr().err


def erxudp(tail):
    head = "ERXUDP FE80:0000:0000:0000:021C:6400:030C:12A4 FE80:0000:0000:0000:021D:1291:0000:0574"
    return f"{head} 0E1A 0E1A 001C6400030C12A4 {tail}"


@pytest.mark.parametrize("tail", ["1 001E ", "1 0 001E ", "5A 1 0 001E "])
def test_whole_lines_of_both_dialects_are_explained(capsys, tail):
    line = erxudp(tail + E02)
    assert answer(capsys, line) == answer(capsys, E02)
    assert answer(capsys, *line.split()) == answer(capsys, E02)  # not quoted
    assert answer(capsys, "SKSENDTO" + line + " ") == answer(capsys, E02)
    assert answer(capsys, line.replace(E02, E02.lower())) == answer(capsys, E02)


@pytest.mark.parametrize(
    "line",
    [
        erxudp("1 0 001D " + E02),
        erxudp("1 0 001F " + E02),
        erxudp("1 0 001E " + E02[:-1] + "G"),
        erxudp("1 0 001E " + E02).replace("02A4", "02A4 02A4").replace(" 0E1A 0E1A", " 0E1A"),
        erxudp("0 0 0028 " + "00" * 40).replace("0E1A", "02CC"),
        "ERXUDP",
        "EVENT 25",
    ],
)
def test_a_line_that_holds_no_frame_is_refused(capsys, line):
    found = answer(capsys, line)
    assert set(found) == {"ok", "error", "offset"}
    assert found["ok"] is False


def test_hex_digits_may_be_spaced_and_of_either_case(capsys):
    spaced = " ".join(E02[at : at + 2] for at in range(0, len(E02), 2)).lower()
    assert answer(capsys, spaced) == answer(capsys, E02)


REFUSED = [
    "", "10", H + "72", H + "7201", H + "7201E7", H + "7201E7040000", H + "7201E7FF00", H + "7202E70400000001",
    H + "72FFE70400000001", H + "7200", H + "7201E70400000001DEAD", "1082000102880105FF017201E70400000001",
    "1181000102880105FF017201E70400000001", H + "7202E70400000001E70400000002",
    "0100FFFF06062478230B995C888800FF00FF098305FF010EF001D662", "108", "10 8G",
]  # fmt: skip
NO_VALUE = [
    H + "7201E7020001", H + "7201E7050000000001", H + "7201E8020001", H + "7201E10105",
    H + "7201EA0B07E60D0114000000012CC7", H + "7201EA0BFFFFFFFFFFFFFFFFFFFFFE", H + "7201EB0507E6080114",
    H + "72019702FFFF", H + "7201980400000000", H + "7201EC0F07E6080114000C0000000100000002",
    H + "7201E20A00000000000000000000", H + "72019F0414010203", H + "72019F0203E7",
]  # fmt: skip


@pytest.mark.parametrize("text", REFUSED)
def test_a_malformed_frame_is_refused_and_says_where(capsys, text):
    found = answer(capsys, text)
    assert found["ok"] is False
    assert found["error"]
    assert isinstance(found["offset"], int)


@pytest.mark.parametrize("text", NO_VALUE)
def test_a_property_without_sense_has_no_value_but_spoils_no_other(capsys, text):
    found = answer(capsys, text)
    assert found["properties"][0]["value"] is None
    count = int(text[:24] == H + "7202")
    whole = text[:22] + "02" + text[24:] + "800130"
    assert answer(capsys, whole)["properties"][1 + count]["value"] == "on"


@pytest.mark.parametrize("text", [H + "7201E700", H + "7201E200", H + "72019F00"])
def test_a_property_without_data_has_neither_value_nor_error(capsys, text):
    assert set(answer(capsys, text)["properties"][0]) == {"epc", "edt", "name"}


def test_a_default_history_has_pairs_without_values(capsys):
    assert answer(capsys, H + "7201EC0FFFFFFFFFFFFF01FFFFFFFEFFFFFFFE")["properties"][0]["pairs"] == [[None, None]]


def test_text_that_is_no_ascii_is_replaced(capsys):
    found = answer(capsys, H + "72018D0CFFFEFFFFFFFFFFFFFFFFFFFF")
    assert found["properties"][0]["value"] == "\N{REPLACEMENT CHARACTER}" * 12


def test_an_unknown_service_is_shown_as_it_is(capsys):
    assert answer(capsys, H + "0001E70400000001")["esv"] == "00"


@pytest.fixture
def stdin(capsys, monkeypatch):
    """`stdin(bytes)` returns what `decode --json` answers to them, an object a line."""

    def answered(raw):
        monkeypatch.setattr(sys, "stdin", type("Stdin", (), {"buffer": io.BytesIO(raw)}))
        code, answers = run(capsys, "--json")
        found = [json.loads(line) for line in answers]
        assert code == (0 if all(one["ok"] for one in found) else 1)
        return found

    return answered


def test_lines_of_stdin_are_answered_one_by_one(stdin):
    lines = [E02.encode(), b"", b"\xff\xfe", b"0" * (3 * MAX_INPUT_BYTES), E02.encode()]
    assert [one["ok"] for one in stdin(b"\r\n".join(lines))] == [True, False, False, False, True]


CAPTURED = "1081000102880105FF017201E704000001F8"
WITH_LINE_ENDS = H + "7203E704000D0A0AE80400280D0AE0040D0A0D0A"


def raw_line(frame, size=None):
    """An ERXUDP of a dongle that passes raw bytes on; with CAPTURED it is a line such a dongle really sent."""
    data = bytes.fromhex(frame)
    return erxudp(f"1 0 {len(data) if size is None else size:04X} ").encode() + data


@pytest.mark.parametrize("frame", [CAPTURED, WITH_LINE_ENDS])
@pytest.mark.parametrize("end", [b"\r\n", b"\n", b""])
def test_a_line_with_raw_data_is_explained_as_the_same_frame_in_digits(stdin, capsys, frame, end):
    assert stdin(raw_line(frame) + end) == [answer(capsys, frame)]
    assert stdin(b"SKSENDTO" + raw_line(frame) + end) == [answer(capsys, frame)]


def test_lines_with_raw_data_stay_in_step_with_all_others(stdin):
    text = erxudp("1 0 0012 " + CAPTURED).encode()
    lines = [E02.encode(), raw_line(WITH_LINE_ENDS), b"", text, raw_line(CAPTURED), b"EVENT 25", raw_line(CAPTURED)]
    assert [one["ok"] for one in stdin(b"\r\n".join(lines))] == [True, True, False, True, True, False, True]


@pytest.mark.parametrize("size", [0x11, 0x13, 0x20, 0x4D0, 0x4D1, 0xFFFF])
def test_a_line_whose_raw_data_have_another_length_spoils_no_other(stdin, size):
    lines = [raw_line(CAPTURED, size), E02.encode(), raw_line(CAPTURED), b""]
    assert [one["ok"] for one in stdin(b"\r\n".join(lines))] == [False, True, True]


def test_an_authentication_frame_in_raw_bytes_is_refused_as_such(stdin):
    (found,) = stdin(raw_line("0000000A" + "0D0A" * 18).replace(b"0E1A", b"02CC") + b"\r\n")
    assert "PANA" in found["error"]


def test_a_person_reads_names_values_and_units(capsys):
    code, lines = run(capsys, "--unit", "0.1", E02)
    assert code == 0
    assert lines == [
        "Get_Res  TID 0200  028801 (smart meter) → 05FF01 (controller)",
        "  E7  grid_power_w  929 W",
        "  E8  current_r_a 7.0 A  current_t_a 4.0 A",
        "  E0  import_energy_kwh  4757.5 kWh",
    ]
    code, lines = run(capsys, H + "7201E7")
    assert (code, lines) == (1, ["not understood: property 1 of 1 is missing (at 12)"])


def test_a_person_gets_every_vector_without_an_error(capsys):
    for folder in VECTORS:
        code, lines = run(capsys, (folder / "frame.hex").read_text())
        assert code == 0
        assert len(lines) > 1
        assert all(line.strip()[2:].strip() for line in lines[1:]), lines
