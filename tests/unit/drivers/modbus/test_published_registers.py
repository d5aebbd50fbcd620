"""What the shipped maps read and write, against tables typed from what others published. Reads no map's text.

A wrong address, code, word order or sign in a map is wrong in everything derived from it, the simulated devices too;
only a second table, typed apart, can tell. Sources, all of them for facts only: wlcrs/huawei-solar-lib registers.py
(Huawei); mkaiser/Sungrow-SHx-Inverter-Modbus-Home-Assistant modbus_sungrow.yaml (Sungrow); marcelblijleven/goodwe et.py
(GoodWe); evcc sma-hybrid.yaml (SMA); nmakel/solaredge_modbus (SolarEdge); victronenergy/dbus_modbustcp attributes.csv
(Victron); 0xAHA/Growatt_ModbusTCP protocol-vpp.md (Growatt); kellerza/sunsynk single_phase.py and three_phase_common.py
(Deye); the SunSpec Alliance's model 124, whose offsets count from the register with the model's number.
"""

import struct
from decimal import Decimal

import pytest

from drivers.battery.modes import Request
from drivers.modbus.control_table import parse_control
from drivers.modbus.library import BESIDE, find
from drivers.modbus.planner import plan
from drivers.modbus.registers import WORDS

MAPS = sorted(path.stem for path in BESIDE.glob("*.yaml"))

SETTINGS = """
huawei_sun2000 max_discharge_w           47077 u32   1
huawei_sun2000 forced_period_min         47083 u16   1
huawei_sun2000 working_mode              47086 u16   1    0=adaptive 1=fixed 2=self_use 4=full_feed_in 5=time_of_use
huawei_sun2000 charge_from_grid          47087 u16   1    0=off 1=on
huawei_sun2000 forced_command            47100 u16   1    0=stop 1=charge 2=discharge
huawei_sun2000 forced_target_soc_percent 47101 u16   0.1
huawei_sun2000 reserve_percent           47102 u16   0.1
huawei_sun2000 forced_goal               47246 u16   1    0=time 1=soc
huawei_sun2000 forced_charge_w           47247 u32   1
huawei_sun2000 forced_discharge_w        47249 u32   1
huawei_sun2000 most_charge_w             37046 u32   1
huawei_sun2000 most_discharge_w          37048 u32   1
huawei_sun2000 started_at                32091 u32   1

sungrow_sh ems_mode         13049 u16 1   0=self_use 2=forced 3=external_ems 4=vpp
sungrow_sh ems_command      13050 u16 1   170=charge 187=discharge 204=stop
sungrow_sh forced_power_w   13051 u16 1
sungrow_sh max_soc_percent  13057 u16 0.1
sungrow_sh min_soc_percent  13058 u16 0.1
sungrow_sh heartbeat_s      13079 u16 1
sungrow_sh reserve_percent  13099 u16 1
sungrow_sh max_discharge_w  33047 u16 10
sungrow_sh rated_w     input:5000 u16 100

goodwe_et ems_mode        47511 u16 1     1=auto 2=charge_pv 3=discharge_pv 4=import_ac 5=export_ac 6=conserve \
    7=off_grid 8=battery_standby 9=buy_power 10=sell_power 11=charge_battery 12=discharge_battery
goodwe_et ems_power_w     47512 u16 1
goodwe_et reserve_percent 45356 u16 100-1

sma_hybrid bms_mode                40236 u32 1  2424=default 2289=charge
sma_hybrid battery_charge_min_w    40793 u32 1
sma_hybrid battery_charge_max_w    40795 u32 1
sma_hybrid battery_discharge_min_w 40797 u32 1
sma_hybrid battery_discharge_max_w 40799 u32 1

solaredge_storedge storage_mode      0xE004 u16   1  0=off 1=self_use 2=time_of_use 3=backup 4=remote
solaredge_storedge ac_charge_policy  0xE005 u16   1  0=never 1=always 2=energy_limit 3=percent_limit
solaredge_storedge reserve_percent   0xE008 f32sw 1
solaredge_storedge default_command   0xE00A u16   1  0=off 1=clipped_pv 2=pv 3=pv_and_grid 4=discharge_to_export \
    5=discharge_to_load 7=self_use
solaredge_storedge command_timeout_s 0xE00B u32sw 1
solaredge_storedge command           0xE00D u16   1  0=off 1=clipped_pv 2=pv 3=pv_and_grid 4=discharge_to_export \
    5=discharge_to_load 7=self_use
solaredge_storedge charge_limit_w    0xE00E f32sw 1
solaredge_storedge discharge_limit_w 0xE010 f32sw 1
solaredge_storedge most_charge_w     0xE144 f32sw 1
solaredge_storedge most_discharge_w  0xE146 f32sw 1

victron_gx grid_setpoint_w       2700 s16 1
victron_gx max_charge_percent    2701 u16 1
victron_gx max_discharge_percent 2702 u16 1
victron_gx max_discharge_w       2704 s16 10
victron_gx min_soc_percent       2901 u16 0.1
victron_gx ess_mode              2902 u16 1  1=ess_with_phase_compensation 2=ess_each_phase 3=external

growatt_tl_xh authority         30100 u16 1     0=off 1=on
growatt_tl_xh reserve_percent   30405 u16 1
growatt_tl_xh control           30407 u16 1     0=off 1=on
growatt_tl_xh duration_min      30408 u16 1
growatt_tl_xh power_percent     30409 s16 1
growatt_tl_xh grid_charging     30410 u16 1     0=off 1=pv_first 2=grid_first
growatt_tl_xh battery_rated_w   30026 u32 0.1
growatt_tl_xh watts_per_percent 30026 u32 0.001

deye_single_phase max_discharge_a       211 u16 1
deye_single_phase grid_charge_current_a 230 u16 1
deye_single_phase grid_charge           232 u16 1   0=enabled
deye_single_phase load_limit            244 u16 1   0=allow_export 1=essentials 2=zero_export
deye_single_phase max_sell_w            245 u16 1
deye_single_phase slot1_soc_percent     268 u16 1
deye_single_phase battery_v             183 u16 0.01

deye_three_phase max_discharge_a       109 u16 1
deye_three_phase grid_charge_current_a 128 u16 1
deye_three_phase grid_charge           130 u16 1    0=off 1=on
deye_three_phase load_limit            142 u16 1    0=allow_export 1=essentials 2=zero_export
deye_three_phase time_of_use           146 u16 1
deye_three_phase slot1_soc_percent     166 u16 1
deye_three_phase slot2_soc_percent     167 u16 1
deye_three_phase slot3_soc_percent     168 u16 1
deye_three_phase slot4_soc_percent     169 u16 1
deye_three_phase slot5_soc_percent     170 u16 1
deye_three_phase slot6_soc_percent     171 u16 1
deye_three_phase battery_v             587 u16 0.01

deye_three_phase_hv max_discharge_a       109 u16 1
deye_three_phase_hv grid_charge_current_a 128 u16 1
deye_three_phase_hv grid_charge           130 u16 1    0=off 1=on
deye_three_phase_hv time_of_use           146 u16 1
deye_three_phase_hv slot1_soc_percent     166 u16 1
deye_three_phase_hv slot2_soc_percent     167 u16 1
deye_three_phase_hv slot3_soc_percent     168 u16 1
deye_three_phase_hv slot4_soc_percent     169 u16 1
deye_three_phase_hv slot5_soc_percent     170 u16 1
deye_three_phase_hv slot6_soc_percent     171 u16 1

sunspec_storage most_charge_w     124+2  u16 1
sunspec_storage watts_per_percent 124+2  u16 0.01
sunspec_storage storage_control   124+5  u16 1     0=charge 1=discharge
sunspec_storage reserve_percent   124+7  u16 1
sunspec_storage discharge_percent 124+12 s16 1
sunspec_storage charge_percent    124+12 s16 -1
sunspec_storage revert_timer_s    124+15 u16 1
sunspec_storage grid_charging     124+17 u16 1     0=pv 1=grid
"""

MODES = """
huawei_sun2000 charge            47246=0000 47247=0000_05dc 47083=0002 47100=0001 | 47100=0000
huawei_sun2000 hold              47077=0000_0000 |
huawei_sun2000 discharge_to_load 47077=0000_05dc 47086=0002 |
huawei_sun2000 reserve           47102=012c |
sungrow_sh charge            13051=05dc 13050=00aa 13049=0003 13079=003c | 13049=0000
sungrow_sh hold              13050=00cc 13049=0003 13079=003c | 13049=0000
sungrow_sh discharge_to_load 33047=0096 13049=0000 |
sungrow_sh reserve           13099=001e |
goodwe_et charge  47512=05dc 47511=000b |
goodwe_et hold    47511=0008 |
goodwe_et reserve 45356=0046 |
sma_hybrid charge            40793=0000_05dc 40795=0000_05dc 40797=0000_0000 40799=0000_0000 40236=0000_08f1 \
    | 40236=0000_0978
sma_hybrid hold              40793=0000_0000 40795=0000_1068 40797=0000_0000 40799=0000_0000 40236=0000_0978 \
    | 40236=0000_0978
sma_hybrid discharge_to_load 40793=0000_0000 40795=0000_1068 40797=0000_0000 40799=0000_05dc 40236=0000_0978 \
    | 40236=0000_0978
solaredge_storedge charge            0xE004=0004 0xE00A=0007 0xE005=0001 0xE00E=8000_44bb 0xE00B=3840_0000 0xE00D=0003 |
solaredge_storedge hold              0xE004=0004 0xE00A=0007 0xE00B=3840_0000 0xE00D=0001 |
solaredge_storedge discharge_to_load 0xE004=0004 0xE00A=0007 0xE010=8000_44bb 0xE00B=3840_0000 0xE00D=0005 |
solaredge_storedge reserve           0xE008=0000_41f0 |
victron_gx hold              2704=0000 |
victron_gx discharge_to_load 2704=0096 |
victron_gx reserve           2901=012c |
growatt_tl_xh charge  30100=0001 30410=0001 30409=001e 30408=0002 30407=0001 | 30407=0000
growatt_tl_xh hold    30100=0001 30409=0000 30408=0002 30407=0001 | 30407=0000
growatt_tl_xh reserve 30405=001e |
deye_single_phase hold              211=0000 |
deye_single_phase discharge_to_load 244=0002 211=001e | 244=0002
deye_three_phase hold              109=0000 |
deye_three_phase discharge_to_load 142=0002 109=001e | 142=0002
deye_three_phase reserve           166=001e 167=001e 168=001e 169=001e 170=001e 171=001e 146=00ff |
deye_three_phase_hv hold    109=0000 |
deye_three_phase_hv reserve 166=001e 167=001e 168=001e 169=001e 170=001e 171=001e 146=00ff |
sunspec_storage charge            40117=0001 40115=012c 40112=f448 40105=0002 | 40105=0000
sunspec_storage hold              40115=012c 40112=0000 40105=0002 | 40105=0000
sunspec_storage discharge_to_load 40115=012c 40112=0bb8 40105=0002 | 40105=0000
sunspec_storage reserve           40107=001e |
"""
"""For 1500 W, 30 % and 50 of whatever a power is divided by: what is written in order | what is undone to a number."""

LIMITS = {
    "huawei_sun2000": {"charge_w": 37046, "discharge_w": 37048},
    "sungrow_sh": {"charge_w": 5000},
    "solaredge_storedge": {"charge_w": 0xE144, "discharge_w": 0xE146},
    "growatt_tl_xh": {"charge_w": 30026},
    "sunspec_storage": {"charge_w": 40102, "discharge_w": 40102},
}

AWAKE = {
    "huawei_sun2000": "32089=0200 37100=0001 37762=0002",
    "goodwe_et": "35184=0003 35187=0001",
    "sma_hybrid": "30201=0000_0133",
    "solaredge_storedge": "40107=0004 0xE186=0003_0000 0xE286=0003_0000",
    "deye_single_phase": "59=0002",
    "deye_three_phase": "500=0002",
    "deye_three_phase_hv": "500=0002",
}
"""Registers that tell that the device runs, so that nothing is withheld."""

READINGS = """
huawei_sun2000 grid_power_w        37113=0001_1170 -70000
huawei_sun2000 battery_power_w     37765=0000_05dc -1500
huawei_sun2000 battery_soc_percent 37760=01f9      50.5
huawei_sun2000 pv_power_w          32064=0001_1170 70000
sungrow_sh grid_power_w        13009=1170_0001 -70000
sungrow_sh battery_power_w     5213=1170_0001  70000
sungrow_sh battery_soc_percent 13022=01f9      50.5
sungrow_sh pv_power_w          5016=1170_0001  70000
goodwe_et grid_power_w        35140=05dc      -1500
goodwe_et battery_power_w     35182=0001_1170 70000
goodwe_et battery_soc_percent 37007=0032      50
goodwe_et pv_power_w          35105=0001_1170,35109=0000_0001,35113=0000_0002 70003
sma_hybrid grid_power_w        30865=0001_1170 70000
sma_hybrid grid_power_w        30867=0001_1170 -70000
sma_hybrid battery_power_w     31393=0000_05dc -1500
sma_hybrid battery_power_w     31395=0000_05dc 1500
sma_hybrid battery_soc_percent 30845=0000_0032 50
sma_hybrid pv_power_w          35469=0001_1170 70000
sma_hybrid pv_power_w          35469=ffff_ffff,30773=0000_05dc,30961=0000_0001,30967=0000_0002 1503
solaredge_storedge grid_power_w        40206=05dc,40210=0001 -15000
solaredge_storedge battery_power_w     0xE174=8000_44bb      -1500
solaredge_storedge battery_soc_percent 0xE184=0000_4248      50
solaredge_storedge pv_power_w          40100=05dc,40101=0001 15000
solaredge_storedge pv_power_w          40100=01f4,40101=0000,0xE174=8000_44bb 2000
victron_gx grid_power_w        820=05dc,821=0001,822=0002 1503
victron_gx battery_power_w     842=05dc -1500
victron_gx battery_soc_percent 843=0032 50
victron_gx pv_power_w          808=0001,809=0002,810=0004,811=0008,812=0010,813=0020,850=05dc 1563
growatt_tl_xh grid_power_w        input:3041=0000_05dc 150
growatt_tl_xh grid_power_w        input:3043=0000_05dc -150
growatt_tl_xh battery_power_w     input:3178=0000_05dc 150
growatt_tl_xh battery_power_w     input:3180=0000_05dc -150
growatt_tl_xh battery_soc_percent input:3171=0032      50
growatt_tl_xh pv_power_w          input:3001=0001_1170 7000
deye_single_phase grid_power_w        172=05dc 1500
deye_single_phase battery_power_w     190=fa24 -1500
deye_single_phase battery_soc_percent 184=0032 50
deye_single_phase pv_power_w          186=05dc,187=0001 1501
deye_three_phase grid_power_w        625=05dc 1500
deye_three_phase battery_power_w     590=fa24 -1500
deye_three_phase battery_soc_percent 588=0032 50
deye_three_phase pv_power_w          672=05dc,673=0001,674=0002,675=0004 1507
deye_three_phase_hv grid_power_w        625=05dc 1500
deye_three_phase_hv battery_power_w     590=fa24 -15000
deye_three_phase_hv battery_soc_percent 588=0032 50
deye_three_phase_hv pv_power_w          672=05dc,673=0001,674=0002,675=0004 15070
"""

MODEL_124_AT = 40100
MODEL_124 = [124, 24, *[0] * 24]
MODEL_124[25] = 0xFFFE  # the rates count hundredths of a percent

SPACES = {"sungrow_sh": "input", "growatt_tl_xh": "input"}
"""Where a device's readings are, unless a row says so."""


def rows(table):
    return [line.split(maxsplit=2) for line in table.replace("\\\n", "").strip().splitlines() if line]


def control_of(name):
    control = parse_control(find(name))
    words = struct.pack(f">{len(MODEL_124)}H", *MODEL_124)
    return control.placed({124: (MODEL_124_AT, words)}) if control.models else control


def put(registers, space="holding"):
    """Return {(space, address): word} of `address=words` texts."""
    image = {}
    for one in registers:
        where, words = one.split("=")
        if where.startswith("input:"):
            where, space = where.removeprefix("input:"), "input"
        for at, word in enumerate(words.split("_")):
            image[space, int(where, 0) + at] = int(word, 16)
    return image


@pytest.mark.parametrize(("name", "setting", "published"), rows(SETTINGS))
def test_a_setting_is_the_register_that_was_published(name, setting, published):
    where, kind, scale, *codes = published.split()
    one = parse_control(find(name)).settings[setting]
    if one.place is not None:
        assert f"{one.place.model}+{one.place.at}" == where
    else:
        assert (one.registers.space, one.registers.address) == (
            ("input", int(where.removeprefix("input:"))) if "input:" in where else ("holding", int(where, 0))
        )
    plain = kind.removesuffix("sw")
    read_as = {"enum": "u16", "bits": "u16"}.get(one.encoding.type, one.encoding.type)
    assert one.registers.count == one.encoding.words == WORDS[plain]
    assert plain in (read_as, read_as.replace("16", str(16 * one.encoding.words)))
    if one.encoding.words > 1:
        assert one.encoding.order == ("little" if kind.endswith("sw") else "big")
    offset, sign, factor = scale.partition("-") if scale[0] != "-" else ("0", "-", scale[1:])
    expected = (offset, f"-{factor}") if sign else ("0", scale)
    assert (one.encoding.offset, one.encoding.scale) == tuple(map(Decimal, expected))
    assert {f"{number}={text}" for number, text in one.encoding.names.items()} == set(codes)


@pytest.mark.parametrize(("name", "mode", "published"), rows(MODES))
def test_a_mode_writes_what_was_published(name, mode, published):
    written, _, undone = published.partition("|")
    control = control_of(name)
    readings = dict.fromkeys(control.readings, Decimal(50))
    request = Request(mode, "person", 0, power_w=1_500, soc_percent=30)
    writes = [(one.setting, one.value) for one in control.sequence(request, {}, readings)]
    assert [image(control, *one) for one in writes] == [put([one]) for one in written.split()]
    assert [image(control, *one) for one in control.idle(mode).items()] == [put([one]) for one in undone.split()]


def image(control, setting, value):
    registers = control.settings[setting].registers
    words = struct.unpack(f">{registers.count}H", value.to_bytes(2 * registers.count, "big"))
    return {("holding", registers.address + at): word for at, word in enumerate(words)}


@pytest.mark.parametrize("name", [name for name in MAPS if find(name).control])
def test_a_devices_own_limit_is_the_register_that_was_published(name):
    control = control_of(name)
    told = {key: control.settings[one].registers.address for key, one in control.limits.items()}
    assert told == LIMITS.get(name, {})


@pytest.mark.parametrize(("name", "quantity", "published"), rows(READINGS))
def test_a_reading_has_the_value_and_the_sign_that_was_published(name, quantity, published):
    registers, value = published.split()
    words = put(AWAKE.get(name, "").split(), SPACES.get(name, "holding"))
    words |= put(registers.split(","), SPACES.get(name, "holding"))
    register_map, values = find(name), {}
    for block in plan(register_map.points, register_map.limits, register_map.holes):
        first, space = block.request.address, block.request.space
        data = b"".join(words.get((space, first + at), 0).to_bytes(2, "big") for at in range(block.request.count))
        values |= block.decode(data)
    assert register_map.derived.finish(values)[quantity] == Decimal(value)


@pytest.mark.parametrize("name", MAPS)
def test_no_setting_and_no_mode_of_a_map_is_left_out_here(name):
    control = parse_control(find(name))
    assert {setting for one, setting, _ in rows(SETTINGS) if one == name} == set(control.settings if control else ())
    assert {mode for one, mode, _ in rows(MODES) if one == name} == set(control.modes if control else ())
    main = {"grid_power_w", "battery_power_w", "battery_soc_percent", "pv_power_w"}
    assert {quantity for one, quantity, _ in rows(READINGS) if one == name} == (
        set() if find(name).is_sunspec else main
    )
