"""Standard logging with one formatter, for people or for machines, that never prints a secret. Keeps no files."""

from __future__ import annotations

import logging
import os
import re
import sys
import time
import unicodedata
from collections.abc import Mapping
from typing import Literal, TextIO

import msgspec

from drivers.settings import Table

MASK = "***"
MIN_SECRET = 4
"""Shorter words are no secrets, and masking them would make every log unreadable."""
LONG_WORD = 12
"""A shorter word of letters only is a key such as `password` rather than a secret."""
MAX_LINE = 8192

_SEVERITY = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}


class LogSettings(Table, frozen=True):
    """`log:` how much is said and in which form; `auto` is JSON under systemd, else for people."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "human", "json"] = "auto"


class Secrets:
    """The words that must not appear in any log line."""

    def __init__(self) -> None:
        self._words: set[str] = set()
        self._pattern: re.Pattern[str] | None = None

    def add(self, text: str) -> None:
        """Hide a secret file's text: the whole, each line, and each word long enough to matter."""
        whole = {text.strip(), *(line.strip() for line in text.splitlines())}
        parts = {part for part in re.split(r"[\s\"':,{}=]+", text) if len(part) >= LONG_WORD or not part.isalpha()}
        plain = unicodedata.normalize("NFKC", text)  # a driver may forgive spaces and full-width digits off a letter
        joined = ("".join(value.split()) for value in re.findall(r':\s*"([^"]*)"', plain))
        quoted = {value for value in joined if len(value) >= LONG_WORD}
        self._words |= {word for word in whole | parts | quoted if len(word) >= MIN_SECRET}
        longest_first = sorted(self._words, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, longest_first))) if longest_first else None

    def masked(self, text: str) -> str:
        """Return the text with every secret replaced."""
        return self._pattern.sub(MASK, text) if self._pattern else text


SECRETS = Secrets()
"""Shared by all formatters, because a secret read anywhere must be hidden everywhere."""


class HumanFormatter(logging.Formatter):
    """`12:30:05 warning supervisor: driver meter …`, one line or with a traceback below."""

    def __init__(self, secrets: Secrets) -> None:
        super().__init__()
        self._secrets = secrets

    def format(self, record: logging.LogRecord) -> str:
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        text = f"{clock} {record.levelname.lower():7} {_area(record)}: {_message(record)}"
        if record.exc_info:
            text += "\n" + self.formatException(record.exc_info)
        return self._secrets.masked(text)


class JsonFormatter(logging.Formatter):
    """One JSON object a line, with the level prefix that journald understands (sd-daemon(3))."""

    def __init__(self, secrets: Secrets) -> None:
        super().__init__()
        self._secrets = secrets

    def format(self, record: logging.LogRecord) -> str:
        fields = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03}Z",
            "level": record.levelname.lower(),
            "area": _area(record),
            "message": self._secrets.masked(_message(record)),
        }
        if record.exc_info:
            fields["traceback"] = self._secrets.masked(self.formatException(record.exc_info))
        return f"<{_SEVERITY.get(record.levelno, 6)}>" + msgspec.json.encode(fields).decode()


def _area(record: logging.LogRecord) -> str:
    return record.name.removeprefix("edge_agent.")


def _message(record: logging.LogRecord) -> str:
    try:
        text = record.getMessage()
    except (TypeError, ValueError):  # a library's own mistake must not hide what it wanted to say
        text = f"{record.msg!r} {record.args!r}"
    return text if len(text) <= MAX_LINE else text[:MAX_LINE] + " …"


def set_up(settings: LogSettings, stream: TextIO | None = None, environment: Mapping[str, str] = os.environ) -> None:
    """Send all logging to standard error in the form asked for; calling it again replaces the former set-up."""
    as_json = settings.format == "json" or (settings.format == "auto" and "JOURNAL_STREAM" in environment)
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter(SECRETS) if as_json else HumanFormatter(SECRETS))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(settings.level.upper())
    for noisy in ("asyncio", "pymodbus", "bleak", "aiosqlite", "dbus_fast"):
        logging.getLogger(noisy).setLevel(max(logging.WARNING, root.level))
