"""The vocabulary: every quantity a device may report, with its unit, sign and names elsewhere. Pure data.

Power is positive when it flows into the house's bus (import +, PV +, battery discharge +): load = grid + PV + battery.
"""

from __future__ import annotations

from collections.abc import Iterator
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


_DEVICE_CLASSES = {
    "W": "power",
    "A": "current",
    "V": "voltage",
    "Hz": "frequency",
    "°C": "temperature",
    "Wh": "energy_storage",
}


def _measured(name: str, unit: str, label_ja: str, label_en: str) -> Quantity:
    return _gauge(name, unit, label_ja, label_en, device_class=_DEVICE_CLASSES.get(unit))


def _phases() -> Iterator[Quantity]:
    """One entry for each phase of an inverter's output and of the grid connection."""
    for side, ja, en in (("ac", "パワコン", "Inverter"), ("grid", "系統", "Grid")):
        for phase in (1, 2, 3):
            yield _measured(f"{side}_current_l{phase}_a", "A", f"{ja}電流 L{phase}", f"{en} current, L{phase}")
            if (side, phase) != ("ac", 1):  # ac_voltage_v
                yield _measured(f"{side}_voltage_l{phase}_v", "V", f"{ja}電圧 L{phase}", f"{en} voltage, L{phase}")
        for pair in ("12", "23", "31"):
            yield _measured(
                f"{side}_voltage_l{pair}_v", "V", f"{ja}線間電圧 L{pair}", f"{en} voltage between lines, L{pair}"
            )
    for phase in (1, 2, 3):
        yield _measured(
            f"grid_power_l{phase}_w", "W", f"系統電力 L{phase}（買電＋）", f"Grid power, L{phase} (import +)"
        )
        yield _energy(f"import_energy_l{phase}_kwh", f"買電量 L{phase}", f"Imported energy, L{phase}")
        yield _energy(f"export_energy_l{phase}_kwh", f"売電量 L{phase}", f"Exported energy, L{phase}")


def _strings() -> Iterator[Quantity]:
    """What an inverter says of each of its PV inputs."""
    for number in range(1, 7):
        yield _measured(f"pv{number}_power_w", "W", f"太陽光入力{number} 電力", f"PV input {number}, power")
        yield _measured(f"pv{number}_voltage_v", "V", f"太陽光入力{number} 電圧", f"PV input {number}, voltage")
        yield _measured(f"pv{number}_current_a", "A", f"太陽光入力{number} 電流", f"PV input {number}, current")


def _batteries() -> Iterator[Quantity]:
    """What is known of a battery beside the main entries; `battery_power_w` is always that of all batteries."""
    for battery, ja, en in (
        ("battery", "蓄電池", "Battery"),
        ("battery1", "蓄電池1", "Battery 1"),
        ("battery2", "蓄電池2", "Battery 2"),
    ):
        if battery != "battery":
            yield _measured(f"{battery}_power_w", "W", f"{ja}電力（放電＋）", f"{en} power (discharge +)")
            yield _energy(f"{battery}_charge_energy_kwh", f"{ja}充電量", f"{en}, energy charged")
            yield _energy(f"{battery}_discharge_energy_kwh", f"{ja}放電量", f"{en}, energy discharged")
        if battery == "battery2":
            yield _gauge("battery2_soc_percent", "%", f"{ja}残量", f"{en} state of charge", device_class="battery")
            yield _gauge("battery2_soh_percent", "%", f"{ja}健全度", f"{en} state of health")
            yield _state("battery2_mode", f"{ja}運転モード", f"{en} mode")
        if battery != "battery1":
            yield _measured(f"{battery}_voltage_v", "V", f"{ja}電圧", f"{en} voltage")
            yield _measured(f"{battery}_current_a", "A", f"{ja}電流（放電＋）", f"{en} current (discharge +)")
            yield _measured(f"{battery}_temperature_c", "°C", f"{ja}温度", f"{en} temperature")
            yield _measured(f"{battery}_capacity_wh", "Wh", f"{ja}容量", f"{en} capacity")
            yield _measured(f"{battery}_rated_wh", "Wh", f"{ja}定格容量", f"{en} rated capacity")
            yield _measured(f"{battery}_available_wh", "Wh", f"{ja}残存電力量", f"{en} stored energy")


def _home_devices() -> Iterator[Quantity]:
    """What ECHONET Lite devices at home say beside the main entries; class and property as in the Appendix."""
    yield _state("operation_status", "動作状態", "Operation status")
    yield _state("device_fault", "機器異常", "Device fault")
    yield _gauge("consumption_power_w", "W", "機器の消費電力", "Power the device takes", device_class="power")
    yield _energy("consumption_energy_kwh", "機器の消費電力量", "Energy the device took")
    yield _state("grid_connection", "系統連系状態", "Grid connection", "0279/D0")
    yield _state("pv_restraint", "出力抑制状態", "PV output restraint", "0279/D1")
    yield _energy("pv_sold_energy_kwh", "太陽光売電量", "PV energy sold", "0279/E3")
    yield _state("battery_state", "蓄電池運転状態", "Battery working state", "027D/CF")
    yield _energy("ac_reverse_energy_kwh", "パワコン入力電力量", "Inverter AC energy taken in", "02A5/E3")
    yield _gauge("ev_power_w", "W", "電気自動車電力（放電＋）", "EV power (discharge +)", "027E/D3", None, "power")
    yield _gauge("ev_soc_percent", "%", "電気自動車電池残量", "EV state of charge", "027E/E4", None, "battery")
    yield _measured("ev_available_wh", "Wh", "電気自動車残存電力量", "EV stored energy")
    yield _energy("ev_charge_energy_kwh", "電気自動車充電量", "Energy charged into the EV", "027E/D8")
    yield _energy("ev_discharge_energy_kwh", "電気自動車放電量", "Energy discharged from the EV", "027E/D6")
    yield _state("ev_connection", "車両接続状態", "EV connection", "027E/C7")
    yield _state("ev_mode", "充放電器運転モード", "EV charger mode", "027E/DA")
    yield _gauge("voltage_r_v", "V", "電圧 R相", "Voltage, R phase", "0287/C8", None, "voltage")
    yield _gauge("voltage_t_v", "V", "電圧 T相", "Voltage, T phase", "0287/C8", None, "voltage")
    yield _state("water_heater_mode", "給湯機沸き上げ設定", "Water heater mode", "026B/B0")
    yield _state("water_heater_state", "給湯機沸き上げ状態", "Water heater state", "026B/B2")
    yield _state("water_heater_alarm", "給湯機警報", "Water heater alarm", "026B/C2")
    yield _state("hot_water_supply", "給湯状態", "Hot water supply", "026B/C3")
    yield _state("bath_state", "ふろ状態", "Bath", "026B/EA")
    yield _gauge(
        "water_heater_target_c", "°C", "沸き上げ温度設定", "Water heater target", "026B/B3", None, "temperature"
    )
    yield _gauge("tank_temperature_c", "°C", "タンク湯温", "Tank temperature", "026B/C1", None, "temperature")
    yield _gauge("tank_remaining_l", "L", "残湯量", "Hot water left", "026B/E1", None, "volume_storage")
    yield _gauge("tank_capacity_l", "L", "タンク容量", "Tank capacity", "026B/E2", None, "volume_storage")
    yield _state("air_conditioner_mode", "エアコン運転モード", "Air conditioner mode", "0130/B0")
    yield _gauge("target_temperature_c", "°C", "設定温度", "Target temperature", "0130/B3", None, "temperature")
    yield _gauge("room_temperature_c", "°C", "室温", "Room temperature", "0130/BB", None, "temperature")
    yield _gauge("outdoor_temperature_c", "°C", "外気温", "Outdoor temperature", "0130/BE", None, "temperature")
    yield _gauge("room_humidity_percent", "%", "室内湿度", "Room humidity", "0130/BA", None, "humidity")
    yield _state("fan_level", "風量", "Fan level", "0130/A0")


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
        _energy("import_energy_at_1min_kwh", "買電量（1分値）", "Imported energy at the minute", "0288/D0"),
        _energy("export_energy_at_1min_kwh", "売電量（1分値）", "Exported energy at the minute", "0288/D0"),
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
        _measured("ac_power_w", "W", "パワコン交流電力", "Inverter AC power"),
        _measured("ac_current_a", "A", "パワコン交流電流", "Inverter AC current"),
        _energy("ac_energy_kwh", "パワコン出力電力量", "Inverter AC energy"),
        _measured("dc_power_w", "W", "直流電力", "DC power"),
        _measured("dc_voltage_v", "V", "直流電圧", "DC voltage"),
        _measured("dc_current_a", "A", "直流電流", "DC current"),
        _measured("inverter_rated_power_w", "W", "パワコン定格出力", "Inverter rated power"),
        _gauge("power_limit_percent", "%", "出力上限", "Power limit"),
        _measured("load_power_w", "W", "消費電力", "Load power"),
        _measured("backup_power_w", "W", "自立系統消費電力", "Backup load power"),
        _energy("load_energy_kwh", "消費電力量", "Load energy"),
        _measured("grid_current_a", "A", "系統電流", "Grid current"),
        _measured("grid_voltage_v", "V", "系統電圧", "Grid voltage"),
        _measured("grid_frequency_hz", "Hz", "系統周波数", "Grid frequency"),
        _gauge("battery_reserve_percent", "%", "蓄電池予備残量", "Battery reserve"),
        _measured("battery_charge_limit_w", "W", "蓄電池充電上限", "Battery charge limit"),
        _measured("battery_discharge_limit_w", "W", "蓄電池放電上限", "Battery discharge limit"),
        *_phases(),
        *_strings(),
        *_batteries(),
        *_home_devices(),
        _state("meter_fault", "メーター異常", "Meter fault", "0288/88", "faultStatus"),
        _state("alert_level", "警戒レベル", "Alert level"),
        _state("lamp_programme", "表示灯", "Lamp programme"),
        _gauge("tags_present", "", "検知中の見守りタグ", "Watch-over tags present"),
        _gauge("sine_value", "", "正弦波", "Sine wave"),
    )
}
