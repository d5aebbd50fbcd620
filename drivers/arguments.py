"""What an option of a command line may be, and a plain sentence for what it may not. Knows no command."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from typing import TypeVar

LAST_PORT = 65_535

N = TypeVar("N", int, float)


def whole(lowest: int, highest: int) -> Callable[[str], int]:
    """Return a type of whole numbers between two, for `add_argument`."""
    return _between(int, "no whole number", lowest, highest)


def real(lowest: float, highest: float) -> Callable[[str], float]:
    """Return a type of numbers between two, for `add_argument`; what is no number or endless is refused."""
    return _between(float, "no number", lowest, highest)


def hexadecimal(digits: int) -> Callable[[str], str]:
    """Return a type of texts with so many hexadecimal digits."""
    return _text(f"[0-9A-Fa-f]{{{digits}}}", f"{digits} hexadecimal digits")


def characters(least: int, most: int) -> Callable[[str], str]:
    """Return a type of texts of printable ASCII characters, so many at least and at most."""
    said = f"{least} characters" if least == most else f"{least} to {most} characters"
    return _text(f"[ -~]{{{least},{most}}}", f"{said} of printable ASCII")


def _between(kind: type[N], otherwise: str, lowest: N, highest: N) -> Callable[[str], N]:
    def between(text: str) -> N:
        try:
            value = kind(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text} is {otherwise}") from None
        if not lowest <= value <= highest:
            raise argparse.ArgumentTypeError(f"{text} is not between {lowest:.10g} and {highest:.10g}")
        return value

    return between


def _text(pattern: str, said: str) -> Callable[[str], str]:
    def text(given: str) -> str:
        if not re.fullmatch(pattern, given):
            raise argparse.ArgumentTypeError(f"not {said}")  # not repeated: it may be a password
        return given

    return text
