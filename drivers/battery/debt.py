"""What is owed back to a battery, and under which key it is remembered. Pure: writes nothing and undoes nothing."""

from __future__ import annotations

from dataclasses import dataclass, field

from drivers.api import Json
from drivers.battery.modes import MODES, Mode


@dataclass(slots=True)
class Owed:
    """What is changed on the device: the mode begun, the bits saved before it, the bits we set, and its witnesses."""

    mode: Mode
    saved: dict[str, int]
    ours: dict[str, int] = field(default_factory=dict)
    witnesses: dict[str, int] = field(default_factory=dict)
    device: str = ""
    """What the device was called then; a person knows it by that."""

    def as_json(self) -> Json:
        """Return what is remembered."""
        return {
            "mode": self.mode,
            "saved": {**self.saved},
            "ours": {**self.ours},
            "witnesses": {**self.witnesses},
            "device": self.device,
        }


def key_at(place: str) -> str:
    """Return the key under which the debt to a place of the line is remembered: names change, places stay."""
    return f"battery/at/{place}"


def key_of(device: str) -> str:
    """Return the key that was in use before `key_at`; what stands there is still owed."""
    return f"battery/{device}"


def owed_from(remembered: Json) -> Owed | None:
    """Return what an earlier life owes; None when nothing that makes sense was remembered."""
    if not isinstance(remembered, dict):
        return None
    mode = next((mode for mode in MODES if mode == remembered.get("mode")), None)
    if mode is None:
        return None
    device = remembered.get("device")
    saved, ours, witnesses = (_bits(remembered.get(key)) for key in ("saved", "ours", "witnesses"))
    return Owed(mode, saved, ours, witnesses, device if isinstance(device, str) else "")


def _bits(table: Json) -> dict[str, int]:
    return {key: value for key, value in table.items() if type(value) is int} if isinstance(table, dict) else {}
