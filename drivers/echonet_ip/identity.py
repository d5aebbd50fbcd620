"""Who a node is: instance lists, identification numbers, and the image of a node without its secrets. Pure."""

from __future__ import annotations

import re
from collections.abc import Container, Iterator, Mapping

from drivers.api import MalformedError

INSTANCES_INF, INSTANCES_GET = 0xD5, 0xD6
IDENTIFICATION, MAKER, PRODUCT, SERIAL, RELEASE = 0x83, 0x8A, 0x8C, 0x8D, 0x82
WHO = (IDENTIFICATION, MAKER, PRODUCT, SERIAL, RELEASE)
MAX_INSTANCES = 84
_IDENTIFICATION_BYTES = 17

MAPS = frozenset((0x9D, 0x9E, 0x9F))
_POSITION, _MADE_AT = 0x81, 0x8E
_NAMING: Mapping[bytes, Container[int]] = {
    bytes.fromhex("0EF0"): {0xBF},  # the node's unique number
    bytes.fromhex("027E"): {0xE6},  # the vehicle's number
    bytes.fromhex("0288"): {0xC0},  # the Route-B identification of a meter that speaks over the home network
    bytes.fromhex("05FF"): {0xC0, 0xC3, 0xC5},  # numbers and names that a controller gives to what it manages
}
_PIECE_BYTES = 6

_EOJ = re.compile(r"^[0-9A-F]{6}$")


def instances(edt: bytes) -> tuple[bytes, ...]:
    """Return the objects of an instance list (D5, D6); raises MalformedError."""
    if not edt or edt[0] > MAX_INSTANCES or len(edt) != 1 + 3 * edt[0]:
        raise MalformedError(f"an instance list of {len(edt)} bytes that begins with {edt[:1].hex() or 'nothing'}")
    return tuple(edt[1 + 3 * n : 4 + 3 * n] for n in range(edt[0]))


def eoj_from(text: str) -> bytes | None:
    """Return the object that six hexadecimal digits name, or None."""
    text = text.strip().upper()
    return bytes.fromhex(text) if _EOJ.match(text) else None


def normal(identification: str) -> str:
    """Return an identification as a person may have typed it in the form that `identify` gives."""
    return "".join(identification.split()).upper()


def identify(eoj: bytes, properties: Mapping[int, bytes]) -> str | None:
    """Return what names a device wherever it is: its identification number (83), else maker, product and serial.

    The object is part of it, since all objects of a node may share one number. None when it says nothing unique.
    """
    number = properties.get(IDENTIFICATION, b"")
    if len(number) == _IDENTIFICATION_BYTES and number[0] not in {0x00, 0xFF} and any(number[4:]):
        return f"{number.hex().upper()}/{eoj.hex().upper()}"
    serial = _bare(properties.get(SERIAL, b""))
    if not serial:
        return None
    parts = (properties.get(MAKER, b"").hex().upper(), _bare(properties.get(PRODUCT, b"")), serial)
    return f"{'-'.join(parts)}/{eoj.hex().upper()}".upper()


def same(wanted: str, found: str | None) -> bool:
    """Say whether an identification in the configuration, with or without its object, is that of a device."""
    if found is None:
        return False
    wanted = normal(wanted)
    return wanted in {normal(found), normal(found.rpartition("/")[0])}


def text(edt: bytes) -> str:
    """Return a device's text as printable ASCII, without padding."""
    shown = edt.decode("ascii", errors="replace").replace("�", "?").strip("\x00 \xff")
    return "".join(letter if letter.isprintable() else "?" for letter in shown)


def _bare(edt: bytes) -> str:
    return "".join(text(edt).split()).strip("?")


def anonymised(objects: Mapping[bytes, Mapping[int, bytes]]) -> dict[bytes, dict[int, bytes]]:
    """Return the properties of a node's objects without what names one house, wherever else a maker repeats it."""
    pieces = {
        piece
        for properties in objects.values()
        for told in (properties.get(IDENTIFICATION, b"")[4:], properties.get(SERIAL, b""))
        for piece in _pieces(told)
    }
    return {
        eoj: {epc: _without(pieces, epc, anonymous(eoj, epc, edt)) for epc, edt in properties.items()}
        for eoj, properties in objects.items()
    }


def _pieces(told: bytes) -> Iterator[bytes]:
    """Yield all pieces that tell something: padding does not."""
    for at in range(len(told) - _PIECE_BYTES + 1):
        piece = told[at : at + _PIECE_BYTES]
        if len(set(piece)) >= _PIECE_BYTES // 2:
            yield piece


def _without(pieces: set[bytes], epc: int, edt: bytes) -> bytes:
    if epc in MAPS:
        return edt
    kept = bytearray(edt)
    for at in range(len(edt) - _PIECE_BYTES + 1):
        if edt[at : at + _PIECE_BYTES] in pieces:
            kept[at : at + _PIECE_BYTES] = bytes(_PIECE_BYTES)
    return bytes(kept)


def anonymous(eoj: bytes, epc: int, edt: bytes) -> bytes:
    """Return a property without what names one house: identification, serial, unique number, position, vehicle."""
    if epc == IDENTIFICATION and len(edt) == _IDENTIFICATION_BYTES:
        return edt[:4] + bytes(12) + b"\x01"
    if epc == SERIAL:
        return b"0" * len(edt)
    if epc == _POSITION and len(edt) == _IDENTIFICATION_BYTES:  # latitude and longitude
        return b"\x01" + bytes(16)
    if epc == _MADE_AT or epc in _NAMING.get(eoj[:2], ()):
        return bytes(len(edt))
    return edt
