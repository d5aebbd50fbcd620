"""A captured device played again: registers from a JSON file, as they were read. Knows no house and no meaning.

The file holds `blocks`, a list of [first address, words in hex], and may hold `unit`, `fc` and `overlay_on`, the name
of a capture beside it that lies under this one.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from simulators.modbus_units import Unit

MOST_BYTES = 4 * 1024 * 1024
BRIDGED = 32
"""Up to so many registers between captured ones were there and not written down: they are served as 0xFFFF."""


class ImageError(ValueError):
    """The file is not a capture."""


def image_of(path: Path, device: str = "inverter") -> tuple[int, Unit]:
    """Return a capture's unit number and its registers; raises ImageError that names the file."""
    try:
        captured = _load(path)
        words = _words(path, captured)
        unit_id, function = int(captured.get("unit", 1)), int(captured.get("fc", 3))
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ImageError(f"{path} is not a capture: {error}") from error
    if not 0 <= unit_id <= 255 or function not in {3, 4} or not words:
        raise ImageError(f"{path} is not a capture: unit {unit_id}, function {function}, {len(words)} registers")
    unit = _unit(device, words)
    return unit_id, unit if function == 3 else Unit(device, (), (), inputs=unit)


def _load(path: Path) -> Any:
    if path.stat().st_size > MOST_BYTES:
        raise ValueError(f"longer than {MOST_BYTES} bytes")
    return json.loads(path.read_text(encoding="utf-8"))


def _words(path: Path, captured: Any) -> dict[int, int]:
    words: dict[int, int] = {}
    if under := captured.get("overlay_on"):
        below = _load(path.with_name(f"{Path(under).name}.json"))
        if "overlay_on" in below:
            raise ValueError("one capture may lie over another, not a third")
        words = _words(path, below)
    for first, text in captured["blocks"]:
        block = bytes.fromhex(text)
        words |= {first + at // 2: block[at] << 8 | block[at + 1] for at in range(0, len(block), 2)}
    if words and not 0 <= min(words) <= max(words) <= 0xFFFF:
        raise ValueError("addresses outside 0…65535")
    return words


def _unit(device: str, words: dict[int, int]) -> Unit:
    ranges: list[tuple[int, int]] = []
    for address in sorted(words):
        if ranges and address - ranges[-1][1] <= BRIDGED:
            ranges[-1] = (ranges[-1][0], address + 1)
        else:
            ranges.append((address, address + 1))
    bridges = {at: 0xFFFF for first, end in ranges for at in range(first, end)}
    return Unit(device, tuple(ranges), (), bridges | words)
