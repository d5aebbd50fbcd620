"""The vocabulary: every quantity a device may report, with its unit, sign and names elsewhere. Pure data.

Power is positive when it flows into the house's bus (import +, PV +, battery discharge +): load = grid + PV + battery.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

Kind: TypeAlias = Literal["gauge", "counter", "state"]

ENERGY_STEPS_PER_KWH = 10_000
"""Energies are stored as INTEGER in steps of 0.0001 kWh, the finest unit of a meter (EPC E1 = 04)."""


@dataclass(frozen=True, slots=True)
class Quantity:
    """One entry of the vocabulary; `echonet` is class/EPC, `web_api` the ECHONET Lite Web API property."""

    name: str
    unit: str
    kind: Kind
    label_ja: str
    label_en: str
    echonet: str | None = None
    web_api: str | None = None
    device_class: str | None = None
    state_class: str | None = None


def _gauge(
    name: str,
    unit: str,
    label_ja: str,
    label_en: str,
    echonet: str | None = None,
    web_api: str | None = None,
    device_class: str | None = None,
) -> Quantity:
    return Quantity(name, unit, "gauge", label_ja, label_en, echonet, web_api, device_class, "measurement")


def _energy(
    name: str, label_ja: str, label_en: str, echonet: str | None = None, web_api: str | None = None
) -> Quantity:
    return Quantity(name, "kWh", "counter", label_ja, label_en, echonet, web_api, "energy", "total_increasing")


def _state(name: str, label_ja: str, label_en: str, echonet: str | None = None, web_api: str | None = None) -> Quantity:
    return Quantity(name, "", "state", label_ja, label_en, echonet, web_api, "enum")


QUANTITIES = {
    quantity.name: quantity
    for quantity in (
        _gauge(
            "grid_power_w",
            "W",
            "系統電力（買電＋）",
            "Grid power (import +)",
            "0288/E7",
            "instantaneousElectricPower",
            "power",
        ),
        _gauge("current_r_a", "A", "電流 R相", "Current, R phase", "0288/E8", "instantaneousCurrent.rPhase", "current"),
        _gauge("current_t_a", "A", "電流 T相", "Current, T phase", "0288/E8", "instantaneousCurrent.tPhase", "current"),
        _energy("import_energy_kwh", "買電量", "Imported energy", "0288/E0", "normalDirectionCumulativeElectricEnergy"),
        _energy(
            "export_energy_kwh", "売電量", "Exported energy", "0288/E3", "reverseDirectionCumulativeElectricEnergy"
        ),
        _energy(
            "import_energy_at_30min_kwh",
            "買電量（30分値）",
            "Imported energy at the half hour",
            "0288/EA",
            "normalDirectionCumulativeElectricEnergyAtEvery30Min",
        ),
        _energy(
            "export_energy_at_30min_kwh",
            "売電量（30分値）",
            "Exported energy at the half hour",
            "0288/EB",
            "reverseDirectionCumulativeElectricEnergyAtEvery30Min",
        ),
        _gauge(
            "pv_power_w", "W", "太陽光発電電力", "PV power", "0279/E0", "instantaneousElectricPowerGeneration", "power"
        ),
        _energy("pv_energy_kwh", "太陽光発電量", "PV energy", "0279/E1", "cumulativeElectricEnergyOfGeneration"),
        _gauge(
            "battery_power_w",
            "W",
            "蓄電池電力（放電＋）",
            "Battery power (discharge +)",
            "027D/D3",
            "instantaneousChargingAndDischargingElectricPower",
            "power",
        ),
        _gauge(
            "battery_soc_percent",
            "%",
            "蓄電池残量",
            "Battery state of charge",
            "027D/E4",
            "remainingCapacity3",
            "battery",
        ),
        _gauge(
            "battery_soh_percent", "%", "蓄電池健全度", "Battery state of health", "027D/E5", "batteryStateOfHealth"
        ),
        _energy(
            "battery_charge_energy_kwh", "蓄電池充電量", "Energy charged", "027D/D8", "cumulativeChargingElectricEnergy"
        ),
        _energy(
            "battery_discharge_energy_kwh",
            "蓄電池放電量",
            "Energy discharged",
            "027D/D6",
            "cumulativeDischargingElectricEnergy",
        ),
        _state("battery_mode", "蓄電池運転モード", "Battery mode", "027D/DA", "operationMode"),
        _state("inverter_state", "パワコン状態", "Inverter state"),
        _gauge("ac_voltage_v", "V", "交流電圧", "AC voltage", device_class="voltage"),
        _gauge("ac_frequency_hz", "Hz", "周波数", "AC frequency", device_class="frequency"),
        _gauge("inverter_temperature_c", "°C", "パワコン温度", "Inverter temperature", device_class="temperature"),
        _state("meter_fault", "メーター異常", "Meter fault", "0288/88", "faultStatus"),
        _state("alert_level", "警戒レベル", "Alert level"),
        _state("lamp_programme", "表示灯", "Lamp programme"),
        _gauge("tags_present", "", "検知中の見守りタグ", "Watch-over tags present"),
        _gauge("sine_value", "", "正弦波", "Sine wave"),
    )
}
