"""Where a line of Modbus units is: a TCP socket or a serial port, and how fast its wire is. Opens nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from drivers.modbus.frames import Reader, RtuReader, TcpReader
from drivers.modbus.planner import MOST_REGISTERS, Limits

Framing: TypeAlias = Literal["tcp", "rtu"]
Parity: TypeAlias = Literal["N", "E", "O"]

BITS_PER_CHARACTER = 11
QUIET_CHARACTERS = 3.5
FASTEST_QUIET_MS = 1.75
"""Between RTU frames: 3.5 characters, above 19200 baud 1.75 ms (Modbus over Serial Line 1.02, 2.5.1.1)."""
CONVERTER_QUIET_MS = 20
READ_OVERHEAD_BYTES = 13
"""Of a read in RTU: 8 bytes of request, 5 of answer around the registers."""
TURNAROUND_S = 0.02
"""What a unit thinks before it answers, as a rule."""
LONGEST_READ_S = 0.5
"""No read keeps the neighbours on a line waiting for longer."""
UNLIMITED = Limits(MOST_REGISTERS, MOST_REGISTERS)


@dataclass(frozen=True, slots=True)
class TcpEndpoint:
    """`framing: rtu` is RTU over TCP, for a transparent serial converter; `baudrate` is the speed behind it."""

    host: str
    port: int = 502
    framing: Framing = "tcp"
    baudrate: int | None = None

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"

    @property
    def quiet_ms(self) -> float:
        """The pause between requests; a converter needs one to end its frames, whatever the speed behind it."""
        return max(CONVERTER_QUIET_MS, _quiet_ms(self.baudrate)) if self.framing == "rtu" else 0

    def wire_s(self, registers: int) -> float:
        """Return how long a read of so many registers occupies the wire."""
        return _wire_s(self.baudrate, registers)

    @property
    def limits(self) -> Limits:
        """How far reads are worth merging on this wire."""
        return _limits(self.baudrate)

    def reader(self) -> Reader:
        """Return what finds answers in this endpoint's bytes."""
        return TcpReader() if self.framing == "tcp" else RtuReader()


@dataclass(frozen=True, slots=True)
class SerialEndpoint:
    """A serial port that speaks RTU; `local_echo` for adapters that hear themselves."""

    port: str
    baudrate: int = 9600
    parity: Parity = "N"
    stopbits: Literal[1, 2] = 1
    local_echo: bool = False
    framing: Framing = "rtu"

    def __str__(self) -> str:
        return self.port

    @property
    def quiet_ms(self) -> float:
        """The silence that ends a frame on this line."""
        return _quiet_ms(self.baudrate)

    def wire_s(self, registers: int) -> float:
        """Return how long a read of so many registers occupies the wire."""
        return _wire_s(self.baudrate, registers)

    @property
    def limits(self) -> Limits:
        """How far reads are worth merging on this wire."""
        return _limits(self.baudrate)

    def reader(self) -> Reader:
        """Return what finds answers in this endpoint's bytes."""
        return RtuReader()


Endpoint: TypeAlias = TcpEndpoint | SerialEndpoint


def _quiet_ms(baudrate: int | None) -> float:
    return max(FASTEST_QUIET_MS, 1000 * QUIET_CHARACTERS * BITS_PER_CHARACTER / baudrate) if baudrate else 0


def _wire_s(baudrate: int | None, registers: int) -> float:
    return BITS_PER_CHARACTER * (READ_OVERHEAD_BYTES + 2 * registers) / baudrate if baudrate else 0


def _limits(baudrate: int | None) -> Limits:
    """Merge over as many registers as cost no more than a read of their own would; keep a read short."""
    if not baudrate:
        return UNLIMITED
    register_s = 2 * BITS_PER_CHARACTER / baudrate
    own_read_s = _wire_s(baudrate, 0) + TURNAROUND_S + _quiet_ms(baudrate) / 1000
    longest = int((LONGEST_READ_S - _wire_s(baudrate, 0)) / register_s)
    return Limits(max(1, min(MOST_REGISTERS, longest)), min(MOST_REGISTERS, int(own_read_s / register_s)))
