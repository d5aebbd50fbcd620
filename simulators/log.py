"""The served log: one JSON line for each answer a simulator gave, written before the answer leaves. Judges nothing."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeAlias

from simulators.clock import SimulatedClock

Served: TypeAlias = "int | float | Decimal | str | None"


class ServedLog:
    """Append lines to a file that several simulators may share; without a path nothing is written."""

    def __init__(self, path: Path | str | None, clock: SimulatedClock) -> None:
        self._clock = clock
        self._file = (
            None if path is None else os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        )

    def served(self, device: str, values: Mapping[str, Served], **more: Any) -> None:
        """Note an answer: quantity name to value in the vocabulary's unit and sign; energies as Decimal."""
        self._append(device, {"values": {name: _plain(value) for name, value in values.items()}, **more})

    def happened(self, device: str, **what: Any) -> None:
        """Note something that is not an answer, such as a tag's walk."""
        self._append(device, what)

    def _append(self, device: str, what: Mapping[str, Any]) -> None:
        if self._file is None:
            return
        line = {"t": self._clock.real_ms(), "sim": self._clock.unix_ms(), "device": device, **what}
        os.write(self._file, (json.dumps(line, ensure_ascii=False) + "\n").encode())

    def close(self) -> None:
        """Close the file; later lines are dropped."""
        if self._file is not None:
            os.close(self._file)
            self._file = None


def _plain(value: Served) -> int | float | str | None:
    return format(value, "f") if isinstance(value, Decimal) else value


def add_log_option(parser: argparse.ArgumentParser) -> None:
    """Add --log."""
    parser.add_argument("--log", type=Path, metavar="FILE", help="append one JSON line for each answer served")
