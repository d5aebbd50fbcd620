"""Which answers of a line without transaction ids may still come late. Pure: sends nothing and asks no clock.

A unit handles one request after the other, so its answers come in the order of the requests, and an answer says which
unit and which function it is of. That is enough: a request is only sent while no missing answer could be taken for its
own, and an answer to a later request settles all earlier ones.
"""

from __future__ import annotations

from drivers.modbus.frames import READ_HOLDING, READ_INPUT, Answer

LATEST_S = 30.0
"""No unit answers later than this, or than ten time-outs."""


class Missing:
    """The unanswered requests of each unit, oldest first, as (function, when it is too late for an answer)."""

    def __init__(self) -> None:
        self._owed: dict[int, list[tuple[int, float]]] = {}

    def add(self, unit: int, function: int, now_s: float, timeout_s: float) -> None:
        """Note a request whose answer did not come, or was none."""
        self._forget(unit, now_s)
        self._owed.setdefault(unit, []).append((function, now_s + max(LATEST_S, 10 * timeout_s)))

    def may_come(self, unit: int, function: int, now_s: float) -> bool:
        """Say whether a late answer of the unit could be taken for one to a new request of this function."""
        self._forget(unit, now_s)
        return any(owed == function for owed, _ in self._owed.get(unit, ()))

    def takes(self, answer: Answer, now_s: float) -> bool:
        """Say whether an answer is a late one, and settle it together with everything that was asked before it."""
        self._forget(answer.unit, now_s)
        owed = self._owed.get(answer.unit, [])
        index = next((n for n, (function, _) in enumerate(owed) if function == answer.asked_function), None)
        if index is None:
            return False
        del owed[: index + 1]
        return True

    def settle(self, unit: int) -> None:
        """Note that the unit has answered a request that was sent after all of these."""
        self._owed.pop(unit, None)

    def probe(self, unit: int, function: int, now_s: float) -> int:
        """Return a function to read with, whose answer shows that earlier answers of `function` have passed."""
        others = [other for other in (READ_INPUT, READ_HOLDING) if other != function]
        return next((other for other in others if not self.may_come(unit, other, now_s)), others[0])

    def _forget(self, unit: int, now_s: float) -> None:
        if (owed := self._owed.get(unit)) is not None:
            owed[:] = [entry for entry in owed if entry[1] > now_s]
            if not owed:
                del self._owed[unit]
