"""A battery behind a Modbus unit: carries out single reads and writes of a control table. Decides nothing."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from decimal import Decimal

from drivers.api import MalformedError, RefusedError
from drivers.battery.modes import Mode, ModeFacts, Request, UnansweredError, Write
from drivers.modbus.control import Control, number
from drivers.modbus.link import ExceptionAnswerError, SilentError, Writes
from drivers.modbus.planner import MOST_REGISTERS
from drivers.modbus.planner import Request as Registers
from drivers.modbus.sunspec_points import Model


async def _no_models() -> tuple[Model, ...]:
    return ()


class ModbusBattery:
    """The control table of one unit on its link (drivers.battery.modes.Controls).

    `models` tells where a SunSpec device has its models; a new tuple means that it was asked again.
    """

    def __init__(
        self,
        link: Writes,
        unit: int,
        timeout_s: float,
        control: Control,
        models: Callable[[], Awaitable[tuple[Model, ...]]] = _no_models,
    ) -> None:
        self._link = link
        self._unit = unit
        self._timeout_s = timeout_s
        self._control = self._described = control
        self._models = models
        self._placed_for: tuple[Model, ...] | None = None
        self._readings: dict[str, Decimal] = {}
        self.modes: Mapping[Mode, ModeFacts] = control.facts()
        self.settle_s = control.settle_s
        self.witnesses = control.witnesses

    def is_outage(self, values: Mapping[str, object]) -> bool | None:
        """Tell from a sample whether the grid is gone."""
        return self._control.is_outage(values)

    def faults_in(self, values: Mapping[str, object]) -> Mapping[str, str | None]:
        """Return what a sample says of faults."""
        return self._control.faults_in(values)

    def sequence(self, request: Request, limits: Mapping[str, int]) -> tuple[Write, ...]:
        """Return what to write for a request, by the scale factors and readings of the last `limits`."""
        return self._control.sequence(request, limits, self._readings)

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
        await self._place(await self._found())
        self._readings = {}
        for name in sorted(self._control.readings):
            if (reading := await self._told(name)) is not None:
                self._readings[name] = reading
        told = {key: await self._told(name) for key, name in self._control.limits.items()}
        return {key: int(value) for key, value in told.items() if value is not None and value > 0}

    async def get(self, setting: str) -> int:
        """Read a setting's bits."""
        return int.from_bytes(await self._read(setting, await self._registers(setting)), "big")

    async def put(self, write: Write) -> None:
        """Write a setting once."""
        registers = await self._registers(write.setting)
        if not 0 <= write.value < 1 << 16 * registers.count:
            raise RefusedError(f"{write.setting}: {write.value} does not fit {registers.count} registers")
        data = write.value.to_bytes(2 * registers.count, "big")
        try:
            await self._link.write(self._unit, registers, data, self._timeout_s)
        except (SilentError, MalformedError) as error:
            raise UnansweredError(f"{write.setting}: {error}") from error

    async def _told(self, name: str) -> Decimal | None:
        try:
            value = number(self._control.settings[name], await self.get(name))
        except ExceptionAnswerError:
            return None
        return Decimal(value) if isinstance(value, int | Decimal) else None

    async def _read(self, what: str, registers: Registers) -> bytes:
        try:
            return await self._link.read(self._unit, registers, self._timeout_s)
        except (SilentError, MalformedError) as error:
            raise UnansweredError(f"{what}: {error}") from error
        except ExceptionAnswerError as error:
            if error.final:
                raise
            raise UnansweredError(f"{what}: {error}") from error  # busy now: no word about the register

    async def _registers(self, setting: str) -> Registers:
        if self._described.settings[setting].place is not None:
            models = await self._found()
            if models is not self._placed_for:
                await self._place(models)
        return self._control.settings[setting].registers

    async def _found(self) -> tuple[Model, ...]:
        if not self._described.models:
            return ()
        try:
            return await self._models()
        except (SilentError, MalformedError) as error:
            raise UnansweredError(f"its models: {error}") from error

    async def _place(self, models: tuple[Model, ...]) -> None:
        """Find the settings in the device's models, by the headers and scale factors that they have now."""
        if not self._described.models:
            return
        found: dict[int, tuple[int, bytes]] = {}
        for wanted in sorted(self._described.models):
            model = next((one for one in models if one.id == wanted), None)
            if model is None:
                raise RefusedError(f"this device has no model {wanted}")
            count = min(model.length + 2, MOST_REGISTERS)
            data = await self._read(f"model {wanted}", Registers("holding", model.address, count))
            if data[:4] != model.id.to_bytes(2, "big") + model.length.to_bytes(2, "big"):
                raise RefusedError(f"model {wanted} is not where it was")
            found[wanted] = (model.address, data)
        self._control, self._placed_for = self._described.placed(found), models
