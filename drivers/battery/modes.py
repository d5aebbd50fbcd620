"""What a battery can be told, and what a device that takes modes offers. Pure: no port, no clock, no event loop."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias, get_args

from drivers.api import LinkError

Mode: TypeAlias = Literal["normal", "hold", "charge", "discharge_to_load", "reserve"]
"""normal: the device decides, as its owner set it up · hold: no discharge · charge: from the grid, with a power ·
discharge_to_load: no more than the house takes · reserve: keep a state of charge for an outage."""

Owner: TypeAlias = Literal["schedule", "alert", "town", "person"]
"""Whose command it is; a later one in this list goes before an earlier one."""

MODES: tuple[Mode, ...] = get_args(Mode)
OWNERS: tuple[Owner, ...] = get_args(Owner)


class UnansweredError(LinkError):
    """A setting was asked for or written and no sensible answer came; the link itself may be well."""


@dataclass(frozen=True, slots=True)
class Request:
    """A mode that somebody wants until `deadline_ms` (boot clock), with what the mode takes."""

    mode: Mode
    owner: Owner
    deadline_ms: int
    power_w: int | None = None
    soc_percent: int | None = None

    def orders(self, other: Request | None) -> bool:
        """Tell whether the device is to do the same for both, whoever asks and for how long."""
        return other is not None and (self.mode, self.power_w, self.soc_percent) == (
            other.mode,
            other.power_w,
            other.soc_percent,
        )


@dataclass(frozen=True, slots=True)
class Write:
    """One setting and the bits it gets: `stored` if kept in flash, `always` if a sign of life."""

    setting: str
    value: int
    stored: bool = False
    always: bool = False
    compared: bool = True


@dataclass(frozen=True, slots=True)
class ModeFacts:
    """One mode of a device: the seconds after which it falls back by itself (None: never), and what it takes.

    `keeps_power` says that the power it is told lies in its flash.
    """

    revert_s: int | None = None
    takes_power: bool = False
    takes_soc: bool = False
    keeps_power: bool = False


class Controls(Protocol):
    """A device that offers modes: its sequences as data, and one setting at a time, read or written once."""

    @property
    def modes(self) -> Mapping[Mode, ModeFacts]:
        """The modes it offers, without `normal`."""

    @property
    def settle_s(self) -> float:
        """How long after a write the device still shows the former value."""

    @property
    def witnesses(self) -> tuple[str, ...]:
        """Settings that are only read; another value than before means that the device was restarted."""

    def is_outage(self, values: Mapping[str, object]) -> bool | None:
        """Tell from a sample whether the grid is gone; None where it does not say."""

    def faults_in(self, values: Mapping[str, object]) -> Mapping[str, str | None]:
        """Return what a sample says of faults: quantity → the fault's name, None where it tells another state."""

    def sequence(self, request: Request, limits: Mapping[str, int]) -> tuple[Write, ...]:
        """Return what to write for a request, in order; raises RefusedError where the request does not fit."""

    def undoing(self, mode: Mode, saved: Mapping[str, int]) -> tuple[Write, ...]:
        """Return what to write so that the mode is over, in order; raises RefusedError for a mode it does not know."""

    def touched(self, mode: Mode) -> tuple[str, ...]:
        """Return the settings whose bits are saved before the mode's first write."""

    def idle(self, mode: Mode) -> Mapping[str, int]:
        """Return the bits that settings have while nobody commands the device."""

    async def limits(self) -> Mapping[str, int]:
        """Return the device's own limits now: charge_w, discharge_w, as far as it tells."""

    async def get(self, setting: str) -> int:
        """Return a setting's bits; raises RefusedError, UnansweredError, or LinkError when the link is gone."""

    async def put(self, write: Write) -> None:
        """Write a setting once, never again by itself; raises as `get`."""
