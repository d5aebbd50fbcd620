"""What a unit was found to refuse, in a form that outlives a restart. Pure: reads nothing and asks no clock."""

from __future__ import annotations

from collections.abc import Mapping

from drivers.api import Json
from drivers.modbus.planner import Block, Break

HANGS_UP = 0
"""In place of an exception's code: asked for this register, the device cuts the connection or falls silent."""
ASK_AGAIN_MS = 3_600_000
ASK_AGAIN_AFTER_CUT_MS = 24 * 3_600_000
MOST_BREAKS = 200
"""More of them would mean that the unit refuses at random; memory is small."""


class Learnt:
    """Refused quantities and places where reads must end; `changes` counts up whenever there is something to save."""

    def __init__(self) -> None:
        self.refused: dict[str, int] = {}
        self.breaks: set[Break] = set()
        self.changes = 0
        self._ask_at_ms: dict[str, int] = {}
        self._provisional: list[Break] = []

    def refuse(self, block: Block, code: int, now_ms: int) -> None:
        """Leave a block's points out from now on, with a break on either side so that no read runs over them."""
        self.breaks -= set(self._provisional)  # they led to the bad register, and are not needed beside it
        self._provisional.clear()
        wait_ms = ASK_AGAIN_MS if code != HANGS_UP else ASK_AGAIN_AFTER_CUT_MS
        for point in block.points:
            self.changes += self.refused.get(point.quantity) != code
            self.refused[point.quantity] = code
            self._ask_at_ms[point.quantity] = now_ms + wait_ms
            self._break(Break(point.space, point.first))
            self._break(Break(point.space, point.end))

    def part(self, second: Block) -> None:
        """Never again read this block together with what lies before it, unless a refused register explains it all."""
        one = Break(second.request.space, second.request.address)
        if one not in self.breaks:
            self._provisional.append(one)
        self._break(one)

    def serve(self, quantity: str) -> None:
        """Read a quantity again that was refused."""
        self.refused.pop(quantity, None)
        self._ask_at_ms.pop(quantity, None)
        self.changes += 1

    def due(self, now_ms: int) -> set[str]:
        """Return the refused quantities that may be asked for again."""
        for quantity in self.refused:
            self._ask_at_ms.setdefault(quantity, now_ms + ASK_AGAIN_MS)
        return {quantity for quantity in self.refused if self._ask_at_ms[quantity] <= now_ms}

    def forget(self) -> None:
        """Drop everything: the device's registers have moved."""
        self.changes += bool(self.refused or self.breaks)
        self.refused.clear()
        self.breaks.clear()
        self._provisional.clear()
        self._ask_at_ms.clear()

    def saved(self) -> Json:
        """Return it as JSON; None when there is nothing to remember."""
        if not self.refused and not self.breaks:
            return None
        breaks: list[Json] = [[one.space, one.address] for one in sorted(self.breaks)]
        return {"refused": dict(self.refused), "breaks": breaks}

    def recall(self, saved: Json) -> None:
        """Take what was saved; what is no such thing is passed over."""
        if not isinstance(saved, Mapping):
            return
        refused, breaks = saved.get("refused"), saved.get("breaks")
        if isinstance(refused, Mapping):
            self.refused |= {name: code for name, code in refused.items() if isinstance(code, int)}
        for one in breaks if isinstance(breaks, list) else []:
            match one:
                case ["holding", int(address)]:
                    self.breaks.add(Break("holding", address))
                case ["input", int(address)]:
                    self.breaks.add(Break("input", address))

    def _break(self, one: Break) -> None:
        if one not in self.breaks and len(self.breaks) < MOST_BREAKS:
            self.breaks.add(one)
            self.changes += 1
