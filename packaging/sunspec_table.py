"""Write drivers/modbus/sunspec_models.py from the SunSpec Alliance's model files. Run by hand when they change.

    python packaging/sunspec_table.py [FOLDER WITH model_*.json]

Without a folder the files that pysunspec2 ships are taken (github.com/sunspec/models, Apache License 2.0).
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

MODELS = (1, 101, 102, 103, 111, 112, 113, 120, 121, 122, 123, 124, 160, 201, 202, 203, 204, 211, 212, 213, 214)
DER_MODELS = (701, 702, 703, 704, 713, 714, 802)
TARGET = Path(__file__).resolve().parents[1] / "drivers/modbus/sunspec_models.py"
HEAD = '''"""SunSpec's home models as one table, written by packaging/sunspec_table.py: do not edit. Reads nothing.

Derived from the model definitions of the SunSpec Alliance (github.com/sunspec/models), licensed under the Apache
License, Version 2.0; changed here: reduced to names, places, types, scale factors, units, access and symbols.

A line is `offset name type registers scale unit access`, then the symbols of an enumeration; `+` goes on with the line
before. Offsets count from the model's header. `group NAME offset` begins the points of a part that repeats; their
offsets count from the repetition.
"""

from __future__ import annotations

MODELS: dict[tuple[int, ...], str] = {
'''


def main(arguments: list[str]) -> int:
    """Write the table; returns the exit code."""
    folder = Path(arguments[0]) if arguments else _shipped()
    alike: dict[str, list[int]] = {}
    for number in (*MODELS, *DER_MODELS):
        model = json.loads((folder / f"model_{number}.json").read_text(encoding="utf-8"))
        alike.setdefault("\n".join(_lines(model["group"])), []).append(number)
    parts = [
        f'    ({"".join(f"{one}, " for one in same).strip()}): """\n{lines}\n""",\n' for lines, same in alike.items()
    ]
    TARGET.write_text(HEAD + "".join(parts) + "}\n", encoding="utf-8")
    subprocess.run([sys.executable, "-m", "ruff", "format", "-q", TARGET], check=True)
    return 0


def _shipped() -> Path:
    spec = importlib.util.find_spec("sunspec2")
    if spec is None or spec.origin is None:
        raise SystemExit("give the folder of model files, or install pysunspec2")
    return Path(spec.origin).parent / "models" / "json"


def _lines(group: dict[str, Any]) -> Iterator[str]:
    at = 0
    for line, size in _points(group, "", 0):
        yield line
        at += size
    for part in group.get("groups", []):
        if part.get("count", 1) == 1:
            for line, size in _points(part, f"{part['name']}.", at):
                yield line
                at += size
        else:
            yield f"group {part['name']} {at}"
            yield from (line for line, _ in _points(part, "", 0))


def _points(group: dict[str, Any], prefix: str, at: int) -> Iterator[tuple[str, int]]:
    for point in group["points"]:
        size = int(point["size"])
        scale, unit = point.get("sf", "-"), str(point.get("units", "-")).replace(" ", "_")
        access = "RW" if point.get("access") == "RW" else "R"
        words = [str(at), prefix + point["name"], point["type"], str(size), str(scale), unit, access]
        if point["type"].startswith("enum"):
            words += [f"{symbol['value']}={symbol['name'].replace(' ', '_')}" for symbol in point.get("symbols", [])]
        yield textwrap.fill(" ".join(words), 118, subsequent_indent="+ ", break_long_words=False), size
        at += size


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
