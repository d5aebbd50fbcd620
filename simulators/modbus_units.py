"""A simulated Modbus device's registers: constants, and cells that show a house's values. Serves and logs nothing."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from simulators.house import Balance
from simulators.log import Served


@dataclass(frozen=True, slots=True)
class Cell:
    """One value in registers: `raw` computes its bits' number; `shown` is that number as the gateway should say it."""

    address: int
    words: int
    raw: Callable[[Balance], int]
    quantity: str = ""
    shown: Callable[[int, Balance], Served] = lambda raw, _: raw


@dataclass(frozen=True, slots=True)
class Unit:
    """One device: readable ranges (first, end) of constant words, 0 where none is given, and cells.

    `inputs` are its input registers, which function 4 reads; without them it knows holding registers only.
    """

    device: str
    ranges: tuple[tuple[int, int], ...]
    cells: tuple[Cell, ...]
    constants: Mapping[int, int] = field(default_factory=dict)
    inputs: Unit | None = None

    @property
    def quantities(self) -> frozenset[str]:
        """Everything the unit measures."""
        own = frozenset(cell.quantity for cell in self.cells if cell.quantity)
        return own if self.inputs is None else own | self.inputs.quantities

    def read(self, first: int, count: int, balance: Balance) -> tuple[bytes, dict[str, Served]] | None:
        """Return register bytes and the quantities wholly inside them; None outside the unit's registers."""
        if not any(low <= first and first + count <= end for low, end in self.ranges):
            return None
        words = [self.constants.get(address, 0) for address in range(first, first + count)]
        served: dict[str, Served] = {}
        for cell in self.cells:
            if cell.address >= first + count or cell.address + cell.words <= first:
                continue
            raw = cell.raw(balance)
            for index, word in enumerate(_words(raw, cell.words)):
                if 0 <= cell.address + index - first < count:
                    words[cell.address + index - first] = word
            if cell.quantity and first <= cell.address and cell.address + cell.words <= first + count:
                served[cell.quantity] = cell.shown(raw, balance)
        return struct.pack(f">{count}H", *words), served


def _words(raw: int, count: int) -> list[int]:
    bits = raw & (1 << 16 * count) - 1
    return [bits >> 16 * (count - 1 - index) & 0xFFFF for index in range(count)]
