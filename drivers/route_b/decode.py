"""`edge-agent decode`: explain ECHONET Lite frames and ERXUDP lines to a person or a script. Opens no port."""

from __future__ import annotations

import argparse
import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
from typing import Any, BinaryIO, TypeVar

import msgspec

from drivers.api import MalformedError
from drivers.route_b import echonet, meter
from drivers.route_b.echonet import Frame, FrameError
from drivers.route_b.meter import Scaling
from drivers.route_b.skstack import Datagram, PanaFrame, end_of_binary_erxudp, parse_binary_erxudp, parse_erxudp

T = TypeVar("T")

MAX_INPUT_BYTES = 16 * 1024
"""Longer lines are refused; the longest ERXUDP line has 2.6 KB."""

_METER_CLASS = echonet.METER[:2]
_CLASS_NAMES = {"0288": "smart meter", "05FF": "controller", "0EF0": "node profile", "0279": "PV", "027D": "battery"}
_encoder = msgspec.json.Encoder(decimal_format="number")


class DecodeCommand:
    """The subcommand, as the agent's command line wants it."""

    help = "explain ECHONET Lite frames (hex) and whole ERXUDP lines"

    def configure(self, parser: argparse.ArgumentParser) -> None:
        """Declare the arguments."""
        parser.add_argument(
            "text", nargs="*", metavar="TEXT", help="a frame or a line; without any, lines of stdin, raw bytes too"
        )
        parser.add_argument("--json", action="store_true", help="print one JSON object a line")
        parser.add_argument("--unit", type=_unit, metavar="KWH", help="kWh per count (EPC E1), such as 0.1")
        parser.add_argument("--coefficient", type=_coefficient, metavar="N", help="coefficient (EPC D3), default 1")

    def run(self, arguments: argparse.Namespace) -> int:
        """Print what each input means; returns 1 when one of them made no sense."""
        scaling = _scaling(arguments.unit, arguments.coefficient)
        all_good = True
        for text in _inputs(arguments.text):
            answer = decode_text(text, scaling) if isinstance(text, str) else decode_binary(text, scaling)
            all_good = all_good and answer["ok"]
            shown = _encoder.encode(answer).decode() if arguments.json else "\n".join(_lines(answer))
            sys.stdout.write(shown + "\n")
            sys.stdout.flush()
        return 0 if all_good else 1


command = DecodeCommand()


def decode_text(text: str, scaling: Scaling | None = None) -> dict[str, Any]:
    """Return the answer of `decode --json` to one input, as an object; never raises."""
    try:
        return explain(echonet.decode(_frame_bytes(text)), scaling)
    except FrameError as error:
        return {"ok": False, "error": error.reason, "offset": error.offset}


def decode_binary(line: bytes, scaling: Scaling | None = None) -> dict[str, Any]:
    """Return the same answer to an ERXUDP line with raw bytes for data; never raises."""
    try:
        return explain(echonet.decode(_datagram_bytes(parse_binary_erxudp, line, line.find(b"ERXUDP"))), scaling)
    except FrameError as error:
        return {"ok": False, "error": error.reason, "offset": error.offset}


def explain(frame: Frame, scaling: Scaling | None = None) -> dict[str, Any]:
    """Return a frame as a JSON-able object; properties of the smart meter with name, value and unit."""
    answer: dict[str, Any] = {
        "ok": True,
        "tid": f"{frame.tid:04X}",
        "seoj": frame.seoj.hex().upper(),
        "deoj": frame.deoj.hex().upper(),
        "esv": f"{frame.esv:02X}",
        "properties": _properties(frame, frame.properties, scaling),
    }
    if frame.gets:
        answer["get_properties"] = _properties(frame, frame.gets, scaling)
    return answer


def _properties(frame: Frame, properties: Mapping[int, bytes], scaling: Scaling | None) -> list[dict[str, Any]]:
    explained = frame.subject[:2] == _METER_CLASS
    return [
        {"epc": f"{epc:02X}", "edt": edt.hex().upper()} | (meter.explain(epc, edt, scaling) if explained else {})
        for epc, edt in properties.items()
    ]


def _frame_bytes(text: str) -> bytes:
    """Return the frame inside a line or a string of hex digits; raises FrameError with the place in the text."""
    if len(text) > MAX_INPUT_BYTES:
        raise FrameError(f"longer than {MAX_INPUT_BYTES} characters", MAX_INPUT_BYTES)
    if (at := text.find("ERXUDP")) >= 0:
        return _datagram_bytes(parse_erxudp, text.strip(), at)
    digits = "".join(text.split())
    for place, digit in enumerate(text):
        if not digit.isspace() and digit not in "0123456789abcdefABCDEF":
            raise FrameError(f"{digit!r} is no hexadecimal digit", place)
    if len(digits) % 2:
        raise FrameError("an odd number of hexadecimal digits", len(text))
    return bytes.fromhex(digits)


def _datagram_bytes(parse: Callable[[T], Datagram | PanaFrame], line: T, at: int) -> bytes:
    try:
        found = parse(line)
    except MalformedError as error:
        raise FrameError(str(error), at) from error
    if isinstance(found, PanaFrame):
        raise FrameError("an authentication frame (PANA, port 02CC), not ECHONET Lite", at)
    return found.data


def _inputs(arguments: list[str]) -> Iterator[str | bytes]:
    """Yield the inputs: the arguments, or the lines of stdin, blank ones included so that answers stay in step."""
    if arguments[:1] == ["ERXUDP"]:  # an unquoted line
        yield " ".join(arguments)
    elif arguments:
        yield from arguments
    else:
        yield from _stdin_lines(sys.stdin.buffer)


def _stdin_lines(stream: BinaryIO) -> Iterator[str | bytes]:
    """Yield lines as text; an ERXUDP with raw data as bytes, over line ends inside the data."""
    ahead: deque[bytes] = deque()
    while line := ahead.popleft() if ahead else _stdin_line(stream):
        if (end := end_of_binary_erxudp(line)) is not None:
            taken = [line]
            while sum(map(len, taken)) <= end and (more := ahead.popleft() if ahead else _stdin_line(stream)):
                taken.append(more)
            whole = b"".join(taken)
            if len(whole) >= end and not whole[end:].strip(b"\r\n"):
                yield whole[:end]
                continue
            ahead.extendleft(reversed(taken[1:]))  # it was cut short: what follows are lines of their own
        yield line.decode("ascii", "replace").rstrip("\r\n")


def _stdin_line(stream: BinaryIO) -> bytes:
    line = stream.readline(MAX_INPUT_BYTES + 1)
    while line and not line.endswith(b"\n") and (rest := stream.readline(MAX_INPUT_BYTES)):
        line = line[: MAX_INPUT_BYTES + 1] + rest[-1:]  # too long: keep enough to be refused, read on to its end
    return line


def _scaling(unit_kwh: Decimal | None, coefficient: int | None) -> Scaling | None:
    if unit_kwh is None and coefficient is None:
        return None
    return Scaling(unit_kwh or Decimal(1), 1 if coefficient is None else coefficient)


def _unit(text: str) -> Decimal:
    units = sorted(echonet.UNITS_KWH.values())
    found = next((unit for unit in units if text.strip() in (f"{unit:f}", f"{float(unit):g}")), None)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no unit; one of {', '.join(f'{unit:f}' for unit in units)}")
    return found


def _coefficient(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 6):
        raise argparse.ArgumentTypeError(f"{text!r} is no coefficient; 0 to 999999")
    return int(text)


def _lines(answer: Mapping[str, Any]) -> Iterator[str]:
    """Yield an answer as lines for a person."""
    if not answer["ok"]:
        yield f"not understood: {answer['error']} (at {answer['offset']})"
        return
    service = echonet.SERVICE_NAMES.get(int(answer["esv"], 16), f"unknown service {answer['esv']}")
    yield f"{service}  TID {answer['tid']}  {_object_name(answer['seoj'])} → {_object_name(answer['deoj'])}"
    for part in ("properties", "get_properties"):
        for fields in answer.get(part, ()):
            yield f"  {fields['epc']}  {_property_line(fields)}"


def _object_name(eoj: str) -> str:
    name = _CLASS_NAMES.get(eoj[:4])
    return f"{eoj} ({name})" if name else eoj


def _property_line(fields: Mapping[str, Any]) -> str:
    unit = fields.get("unit", "")
    parts = [str(fields["name"])] if "name" in fields else []
    if "error" in fields:
        parts.append(f"not understood: {fields['error']} [{fields['edt']}]")
    elif "value" in fields:
        parts.append(_shown(fields["value"], unit))
    parts += [f"{name} {_shown(value, unit)}" for name, value in fields.get("values", {}).items()]
    if "slots" in fields:
        day = "of a day not set" if fields["day"] is None else f"{fields['day']} days ago"
        parts.append(f"{day}, each half hour from 00:00: {' '.join(map(_bare, fields['slots']))} {unit}")
    if "pairs" in fields:
        parts.append(f"{'; '.join(' '.join(map(_bare, pair)) for pair in fields['pairs'])} {unit}")
    if "at" in fields:
        parts.append(f"at {fields['at'] or 'no time set'}")
    if len(parts) == ("name" in fields):  # nothing but perhaps a name
        parts.append(fields["edt"] or "(no data)")
    if fields.get("name") == "maker" and fields.get("value") in meter.MAKERS:
        parts.append(meter.MAKERS[fields["value"]])
    return "  ".join(parts)


def _shown(value: object, unit: str) -> str:
    return _bare(value) + (f" {unit}" if unit and value is not None else "")


def _bare(value: object) -> str:
    if value is None:
        return "no value"
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)
