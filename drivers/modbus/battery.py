"""A battery behind a Modbus unit: carries out single reads and writes of a control table. Decides nothing."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal

from drivers.api import MalformedError, RefusedError
from drivers.battery.modes import Mode, ModeFacts, Request, UnansweredError, Write
from drivers.modbus.control import Control, number
from drivers.modbus.link import ExceptionAnswerError, SilentError, Writes


class ModbusBattery:
    """The control table of one unit on its link (drivers.battery.modes.Controls)."""

    def __init__(self, link: Writes, unit: int, timeout_s: float, control: Control) -> None:
        self._link = link
        self._unit = unit
        self._timeout_s = timeout_s
        self._control = control
        self.modes: Mapping[Mode, ModeFacts] = {mode: one.facts for mode, one in control.modes.items()}
        self.settle_s = control.settle_s
        self.witnesses = control.witnesses

    def is_outage(self, values: Mapping[str, object]) -> bool | None:
        """Tell from a sample whether the grid is gone."""
        return self._control.is_outage(values)

    def sequence(self, request: Request, limits: Mapping[str, int]) -> tuple[Write, ...]:
        """Return what to write for a request."""
        return self._control.sequence(request, limits)

    def undoing(self, mode: Mode, saved: Mapping[str, int]) -> tuple[Write, ...]:
        """Return what to write so that the mode is over."""
        return self._control.undoing(mode, saved)

    def touched(self, mode: Mode) -> tuple[str, ...]:
        """Return the settings to save before the mode."""
        return self._control.touched(mode)

    def idle(self, mode: Mode) -> Mapping[str, int]:
        """Return the bits of settings while nobody commands the device."""
        return self._control.idle(mode)

    async def limits(self) -> Mapping[str, int]:
        """Return the device's own limits; one that it does not tell now is left out."""
        found: dict[str, int] = {}
        for key, name in self._control.limits.items():
            try:
                value = number(self._control.settings[name], await self.get(name))
            except ExceptionAnswerError:
                continue
            if isinstance(value, int | Decimal) and value > 0:
                found[key] = int(value)
        return found

    async def get(self, setting: str) -> int:
        """Read a setting's bits."""
        registers = self._control.settings[setting].registers
        try:
            return int.from_bytes(await self._link.read(self._unit, registers, self._timeout_s), "big")
        except (SilentError, MalformedError) as error:
            raise UnansweredError(f"{setting}: {error}") from error

    async def put(self, write: Write) -> None:
        """Write a setting once."""
        registers = self._control.settings[write.setting].registers
        if not 0 <= write.value < 1 << 16 * registers.count:
            raise RefusedError(f"{write.setting}: {write.value} does not fit {registers.count} registers")
        data = write.value.to_bytes(2 * registers.count, "big")
        try:
            await self._link.write(self._unit, registers, data, self._timeout_s)
        except (SilentError, MalformedError) as error:
            raise UnansweredError(f"{write.setting}: {error}") from error
