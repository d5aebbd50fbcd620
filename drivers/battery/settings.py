"""The tables of a configuration that let a battery be commanded. Pure: reads no file, asks no clock."""

from __future__ import annotations

from datetime import date, time
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from drivers.api import ConfigError
from drivers.battery.modes import Mode
from drivers.settings import Table

Percent = Annotated[int, Meta(ge=0, le=100)]
Watts = Annotated[int, Meta(ge=1, le=100_000)]
KilowattHours = Annotated[float, Meta(ge=0, le=1_000)]


class WindowSettings(Table, frozen=True, forbid_unknown_fields=True, rename={"begin": "from"}):
    """Cheap hours in Japanese time; a window that ends before it begins ends on the next day."""

    begin: str
    to: str
    days: Literal["all", "workdays", "holidays"] = "all"


class TariffSettings(Table, frozen=True, forbid_unknown_fields=True):
    """When energy is cheap and what is worth storing; without prices it always pays.

    What to expect is learnt from what the gateway reads; `expected_…` count until then, for good with `learn: false`.
    """

    cheap: Annotated[list[WindowSettings], Meta(min_length=1, max_length=24)]
    capacity_kwh: Annotated[float, Meta(gt=0, le=1_000)]
    holidays: Annotated[list[str], Meta(max_length=400)] = msgspec.field(default_factory=list)
    cheap_price: Annotated[float, Meta(ge=0)] | None = None
    usual_price: Annotated[float, Meta(ge=0)] | None = None
    efficiency: Annotated[float, Meta(gt=0, le=1)] = 0.9
    reserve_percent: Percent | None = None
    learn: bool = True
    expected_load_kwh: KilowattHours | None = None
    expected_pv_kwh: KilowattHours = 0.0
    contract_w: Watts | None = None
    margin_min: Annotated[int, Meta(ge=0, le=240)] = 15
    hold: bool = False


class AlertSettings(Table, frozen=True, forbid_unknown_fields=True):
    """Keep a reserve for an outage while the town's alert level is at least `level`; with a tariff charge for it."""

    level: Annotated[int, Meta(ge=1, le=5)] = 3
    soc_percent: Percent = 100
    charge: Literal["cheap_hours", "at_once", "never"] = "cheap_hours"


class BatterySettings(Table, frozen=True, forbid_unknown_fields=True):
    """Permission to command one battery; a device without this table is only read."""

    owned_by: Literal["agent", "third_party"]
    modes: list[Mode] | None = None
    no_revert_timer: Literal["refused", "accepted"] = "refused"
    max_charge_w: Watts = 2_000
    max_discharge_w: Watts = 2_000
    min_soc_percent: Percent = 10
    max_soc_percent: Percent = 95
    stored_writes_per_day: Annotated[int, Meta(ge=0, le=1_000)] = 24
    longest_hours: Annotated[float, Meta(gt=0, le=168)] = 24.0
    tariff: TariffSettings | None = None
    alert: AlertSettings | None = None

    def check(self) -> None:
        """Raise ConfigError, below this table, for what no type tells."""
        if self.min_soc_percent >= self.max_soc_percent:
            raise ConfigError(
                "min_soc_percent", "not below max_soc_percent", "leave room between the two", self.min_soc_percent
            )
        if self.tariff is not None:
            if (reserve := self.tariff.reserve_percent) is not None and reserve > self.max_soc_percent:
                raise ConfigError("tariff.reserve_percent", "above max_soc_percent", "raise that, or lower it", reserve)
            for number, window in enumerate(self.tariff.cheap):
                for key, text in (("from", window.begin), ("to", window.to)):
                    _check_time(f"tariff.cheap.{number}.{key}", text)
            for number, text in enumerate(self.tariff.holidays):
                _check_date(f"tariff.holidays.{number}", text)


def minutes_of(text: str) -> int:
    """Return the minute of the day of a checked time such as 23:00 (24:00 is 1440)."""
    return 1440 if text == "24:00" else time.fromisoformat(text).hour * 60 + time.fromisoformat(text).minute


def _check_time(key: str, text: str) -> None:
    try:
        minutes_of(text)
    except ValueError:
        raise ConfigError(key, "not a time of day", 'write it in quotes, such as "23:00"', text) from None
    if len(text) != 5:
        raise ConfigError(key, "not hours and minutes", 'write it in quotes, such as "23:00"', text)


def _check_date(key: str, text: str) -> None:
    try:
        date.fromisoformat(text)
    except ValueError:
        raise ConfigError(key, "not a date", 'write it in quotes, such as "2027-01-01"', text) from None
