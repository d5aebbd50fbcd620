"""A cheap Modbus TCP server that plays any unit: `python units.py` prints its port. It runs in a process of its own.

From register 40000 on stands a SunSpec chain of models 1 and 103. All others count up with each answer.
"""

from __future__ import annotations

import asyncio
import struct

CHAIN = {40000: 0x5375, 40001: 0x6E53, 40002: 1, 40003: 66, 40070: 103, 40071: 50, 40122: 0xFFFF, 40123: 0}
REQUEST = struct.Struct(">HHHBBHH")


class Line(asyncio.Protocol):
    """One connection; every read is answered, whatever unit it is for."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._data = b""
        self._answers = 0

    def data_received(self, data: bytes) -> None:
        self._data += data
        while len(self._data) >= REQUEST.size:
            transaction, _, _, unit, function, first, count = REQUEST.unpack(self._data[: REQUEST.size])
            self._data = self._data[REQUEST.size :]
            self._answers = (self._answers + 1) & 0x3FFF
            words = (CHAIN.get(at, (at + self._answers) & 0x7FFF) for at in range(first, first + count))
            body = struct.pack(f">{count}H", *words)
            head = struct.pack(">HHHBBB", transaction, 0, len(body) + 3, unit, function, len(body))
            self._transport.write(head + body)


async def main() -> None:
    """Serve for ever."""
    server = await asyncio.get_running_loop().create_server(Line, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
