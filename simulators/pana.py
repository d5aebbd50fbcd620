"""The four PANA datagrams that a dongle shows of the meter's side of an authentication. Proves and checks nothing."""

from __future__ import annotations

import random

PORT = 0x02CC


def authentication(route_b_id: str, chance: random.Random) -> tuple[bytes, ...]:
    """Return the datagrams in their order; the second holds the route-B ID in clear, as real ones do."""
    session, first = chance.randbytes(4), chance.randrange(1, 1 << 31)
    nonce = chance.randbytes(16)
    greeting = b"\0" + nonce + b"SM" + route_b_id.encode("ascii")
    proof = b"\x80" + nonce + chance.randbytes(38)
    parts: tuple[tuple[int, tuple[tuple[int, bytes], ...]], ...] = (
        (0xC000, ((6, (5).to_bytes(4)), (3, (12).to_bytes(4)))),
        (0x8000, ((5, chance.randbytes(16)), _eap(1, greeting))),
        (0x8000, (_eap(2, proof),)),
        (
            0xA000,
            (
                (7, bytes(4)),
                (2, bytes.fromhex("03E40004")),
                (4, (22).to_bytes(4)),
                (8, (86_400).to_bytes(4)),
                (1, chance.randbytes(16)),
            ),
        ),
    )
    return tuple(_frame(session, first + number, flags, attributes) for number, (flags, attributes) in enumerate(parts))


def _frame(session: bytes, sequence: int, flags: int, attributes: tuple[tuple[int, bytes], ...]) -> bytes:
    body = b"".join(
        code.to_bytes(2) + b"\0\0" + len(value).to_bytes(2) + b"\0\0" + value + b"\0" * (-len(value) % 4)
        for code, value in attributes
    )
    head = (16 + len(body)).to_bytes(2) + flags.to_bytes(2) + b"\0\x02"
    return b"\0\0" + head + session + sequence.to_bytes(4) + body


def _eap(number: int, payload: bytes) -> tuple[int, bytes]:
    return 2, bytes([1, number]) + (5 + len(payload)).to_bytes(2) + b"\x2f" + payload
