"""The words of SKSTACK-IP commands as a dongle reads them: registers, error codes, numbers. Pure: keeps no state."""

from __future__ import annotations

import re

ECHO, CHANNEL_NUMBER, PAN, PAIR, RSSI = 0xFE, 0x02, 0x03, 0x0A, 0xA2
LIMITED, SENT = 0xFB, 0xFD

REGISTERS = {
    0x01: "00000000",
    CHANNEL_NUMBER: "21",
    PAN: "FFFF",
    0x07: "00000000",
    PAIR: "CCDDEEFF",
    0x15: "0",
    0x16: "00000384",
    0x17: "1",
    0xA0: "1",
    0xA1: "1",
    RSSI: "0",  # A1 takes it and adds no word: clients set it without asking which module they have
    0xF0: "0",
    LIMITED: "0",
    SENT: "00000000",
    ECHO: "1",
    0xFF: "0",
}
ADDRESS = re.compile(r"[0-9A-Fa-f]{4}(:[0-9A-Fa-f]{4}){7}")


class CommandError(Exception):
    """A command that the dongle answers with FAIL ERnn."""


UNKNOWN, BAD_COUNT, BAD_VALUE, BAD_BYTES, FAILED = "ER04", "ER05", "ER06", "ER09", "ER10"

MOST_DATA_BYTES = 0x4D0


def exactly(words: list[str], count: int) -> list[str]:
    """Return so many words; raises the dongle's ER05."""
    if len(words) != count:
        raise CommandError(BAD_COUNT)
    return words


def hex_number(text: str, most: int) -> int:
    """Return the number of at most so many hexadecimal digits; raises the dongle's ER06."""
    if not re.fullmatch(rf"[0-9A-Fa-f]{{1,{most}}}", text):
        raise CommandError(BAD_VALUE)
    return int(text, 16)


def read_head(words: list[str]) -> tuple[str, int]:
    """Return address and data length of an SKSENDTO without its first word; raises the dongle's ER06."""
    handle, address, port, security, *side, length = words
    if not ADDRESS.fullmatch(address) or len(port) != 4 or len(length) != 4 or handle not in set("123456"):
        raise CommandError(BAD_VALUE)
    if security not in {"0", "1", "2"} or side not in ([], ["0"]) or not 1 <= hex_number(length, 4) <= MOST_DATA_BYTES:
        raise CommandError(BAD_VALUE)
    hex_number(port, 4)
    return address.upper(), hex_number(length, 4)
