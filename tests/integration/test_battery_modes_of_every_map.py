"""Every mode that a map offers: done by the device, kept alive, left, undone after a kill and after a refusal."""

import contextlib
import json
import random
import re
import struct
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from playing import Commanded, doomed

from drivers.api import RefusedError
from drivers.battery.policy import REFRESHES_PER_TIMER
from drivers.modbus import library
from simulators.clock import SimulatedClock
from simulators.house import House
from simulators.inverter import mapped
from simulators.inverter_control import FAILURE, ControlRegisters, huawei_description
from simulators.log import ServedLog
from simulators.modbus_chains import models_of
from simulators.modbus_control import control_of, description_of

DISCHARGE_W, TOLD_W, RESERVE_PERCENT = 800, 500, 60
_NOON = House(seed=1).at(1_780_239_600_000 + 12 * 3_600_000)
EVENING = replace(
    _NOON, soc_permille=500, pv_w=0, battery_w=DISCHARGE_W, load_w=1_000, grid_w=1_000 - DISCHARGE_W, battery_wh=4_900
)
CONTROLLED = [name for name in library.known() if library.find(name).control]
MODES = [(name, mode) for name in CONTROLLED for mode in library.find(name).control["modes"]]
TIMED = [(name, mode) for name, mode in MODES if "revert_s" in library.find(name).control["modes"][mode]]
EVERY_MODE = {"charge", "hold", "discharge_to_load", "reserve"}
CHARGING = [name for name, mode in MODES if mode == "charge"]
DOCS = Path(__file__).parents[2] / "docs"
EXAMPLES = [
    text
    for page in ("modbus.md", "battery.md")
    for text in re.findall(r"```yaml\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), re.DOTALL)
]
OURS = {"owned_by": "agent", "no_revert_timer": "accepted", "stored_writes_per_day": 200}
ARGUMENTS = {
    "charge": {"power_w": TOLD_W},
    "discharge_to_load": {"power_w": TOLD_W},
    "reserve": {"soc_percent": RESERVE_PERCENT},
}
DOES = {
    "charge": lambda watts: -TOLD_W - 10 < watts <= -TOLD_W + 10,
    "hold": lambda watts: watts == 0,
    "discharge_to_load": lambda watts: watts == TOLD_W,
    "reserve": lambda watts: watts == 0,
}


def table_of(name, mode):
    return library.find(name).control["modes"][mode]


def timer_s(name, mode):
    return table_of(name, mode).get("revert_s")


@pytest.fixture
async def devices():
    opened = []

    async def play(name, poll_s=5, **line):
        device = Commanded(library.find(name, line.get("maps")), EVENING, poll_s=poll_s, **line)
        await device.server.start()
        opened.append(device)
        return device

    yield play
    for device in opened:
        await device.server.close()


def told(driver, mode):
    return driver.command("battery", {"mode": mode, "for_s": 36_000, **ARGUMENTS.get(mode, {})})


@pytest.mark.parametrize(("name", "mode"), MODES)
async def test_a_mode_is_what_the_battery_does_until_it_is_left(devices, name, mode):
    device = await devices(name)
    async with device.running(device.build(OURS)) as driver:
        assert device.server.balance().battery_w == DISCHARGE_W
        before = device.control.bits
        assert (await told(driver, mode))["mode"] == mode
        assert DOES[mode](device.server.balance().battery_w)
        keys = {one.name: one.key for one in device.control.description.registers}
        touched = {keys[step["set"]] for step in table_of(name, mode)["do"]}
        assert {keys[changed] for changed in device.control.changed()} <= touched
        await device.rounds(1)
        shown = device.receiver.samples("inverter")[-1].values.get("battery_power_w")
        assert shown is None or DOES[mode](shown)
        writes = driver.status()["batteries"]["inverter"]["writes"]
        assert {"stored": writes["stored"], "ram": writes["ram"]} == {
            kind: device.control.writes[kind] for kind in ("stored", "ram")
        }
        await driver.command("battery", {"mode": "normal"})
        assert device.control.changed() == {}
        counting = {device.control.description.timer.setting} if device.control.description.timer.counts_down else set()
        assert {key: bits for key, bits in device.control.bits.items() if key not in counting} == {
            key: bits for key, bits in before.items() if key not in counting
        }
        assert device.server.balance().battery_w == DISCHARGE_W
    assert device.receiver.memory.content.get("battery/at/unit 1") is None


@pytest.mark.parametrize(("name", "mode"), TIMED)
async def test_a_timer_is_set_anew_before_a_third_of_it_is_over(devices, name, mode):
    least_s = min(timer_s(*one) for one in TIMED if one[0] == name)
    device = await devices(name, poll_s=min(least_s / 6, 600))
    signs = []
    async with device.running(device.build(OURS)) as driver:
        await told(driver, mode)
        starts = device.control.description.timer.starts
        device.control.on_write = lambda name: signs.append(device.clock.ms) if name in starts else None
        began = device.clock.ms
        while device.clock.ms < began + 1000 * timer_s(name, mode):
            await device.rounds(1)
            assert DOES[mode](device.server.balance().battery_w)
        third_ms = 1000 * timer_s(name, mode) // REFRESHES_PER_TIMER
        assert len(set(signs)) >= REFRESHES_PER_TIMER
        assert max(later - former for former, later in pairwise([began, *signs])) <= third_ms
        assert driver.status()["batteries"]["inverter"]["mode"] == mode
        assert driver.status()["batteries"]["inverter"]["writes"]["stored_today"] <= 24


@pytest.mark.parametrize(("name", "mode"), MODES)
async def test_after_a_kill_the_device_ends_a_timed_mode_and_the_next_start_undoes_any(devices, name, mode):
    device = await devices(name)
    async with device.dying(device.build(OURS)) as driver:
        await told(driver, mode)
    assert DOES[mode](device.server.balance().battery_w)
    if timer_s(name, mode):
        assert mode in device.control.in_force
        device.clock.ms += 1000 * timer_s(name, mode)
        assert device.control.in_force == []
        assert device.server.balance().battery_w == DISCHARGE_W
    else:
        assert device.control.changed()
    count = len(device.server.requests)
    async with device.running(device.build(OURS)) as driver:
        assert device.control.changed() == {}
        reads_before_undoing = device.server.requests[count:]
        assert all(one[1] in {3, 4} for one in reads_before_undoing)
        assert driver.status()["batteries"]["inverter"]["mode"] == "normal"


@pytest.mark.parametrize(("name", "mode"), MODES)
async def test_a_write_refused_anywhere_in_the_sequence_leaves_nothing_behind(devices, name, mode):
    device = await devices(name)
    async with device.running(device.build(OURS)) as driver:
        await told(driver, mode)
        written = list(dict.fromkeys(name for name, _ in device.control.order if name in device.control.changed()))
        await driver.command("battery", {"mode": "normal"})
        for refused in written:
            await device.rounds(2)
            device.control.refusals[refused] = [FAILURE]
            with pytest.raises(RefusedError, match="exception 4"):
                await told(driver, mode)
            assert device.control.changed() == {}
            assert device.server.balance().battery_w == DISCHARGE_W
    assert device.receiver.kinds().count("battery_refused") == len(written)


@pytest.mark.parametrize("name", CHARGING)
async def test_a_device_that_was_started_again_and_dropped_its_link_is_normal_within_a_minute(devices, name):
    device = await devices(name)
    async with device.running(device.build(OURS)) as driver:
        await told(driver, "charge")
        began = device.clock.ms
        device.control.restart()
        device.hang_up()
        while not device.receiver.errors:
            await device.clock.step()
        await device.receiver.until(lambda: device.control.changed() == {})
        assert device.clock.ms - began <= 60_000
        assert device.server.balance().battery_w == DISCHARGE_W


async def test_a_start_that_only_a_witness_tells_ends_the_mode_within_a_minute(devices, tmp_path):
    """The device of the manual: its link stays, but it says since when it runs."""
    control = next(text for text in EXAMPLES if text.startswith("writable:\n  charge_w"))
    points = next(text for text in EXAMPLES if text.startswith("maker: Acme"))
    (tmp_path / "acme_h5.yaml").write_text(points[: points.index("writable:")] + control)
    device = await devices("acme_h5", maps=str(tmp_path))
    async with device.running(device.build(OURS)) as driver:
        await told(driver, "charge")
        assert device.server.balance().battery_w == -TOLD_W
        began = device.clock.ms
        device.control.restart()
        while driver.status()["batteries"]["inverter"]["mode"] != "normal":
            await device.rounds(1)
        assert device.clock.ms - began <= 60_000
        assert device.control.changed() == {}
        assert driver.status()["batteries"]["inverter"]["last_ended"] == "the device was started again"


@pytest.mark.parametrize("name", CONTROLLED)
async def test_after_any_mishaps_and_a_return_the_device_is_as_it_was_within_a_minute(devices, name):
    """Commands, kills, cut links, restarts and refusals in an order that dice with a seed draw."""
    device, dice = await devices(name), random.Random(name)
    modes = [mode for one, mode in MODES if one == name]
    driver = doomed(device.build(OURS))
    device.receiver.start(driver)
    for _ in range(20):
        happens = dice.choice(["command", "command", "rounds", "kill", "cut", "restart", "refuse"])
        if happens == "command":
            with contextlib.suppress(RefusedError):
                await told(driver, dice.choice(modes))
        elif happens == "kill":
            await device.receiver.stop()
            driver = doomed(device.build(OURS))
            device.receiver.start(driver)
        elif happens == "restart":
            device.control.restart()
        elif happens == "refuse":
            device.control.refusals[dice.choice(list(device.control.bits))] = [FAILURE] * dice.randint(1, 3)
        if happens in {"cut", "restart"}:
            device.hang_up()
        await device.rounds(dice.randint(1, 4))
    await device.receiver.stop()
    device.control.refusals.clear()
    returned = device.clock.ms
    async with device.running(device.build(OURS)):
        while device.control.changed():
            await device.rounds(1)
            assert device.clock.ms - returned <= 60_000
    assert device.receiver.memory.content.get("battery/at/unit 1") is None
    assert device.control.writes.total() > 0


@pytest.mark.parametrize("name", CHARGING)
async def test_a_second_master_that_fights_gets_the_battery_and_keeps_what_he_set(devices, name):
    device = await devices(name)
    async with device.running(device.build(OURS)) as driver:
        await told(driver, "charge")
        fights = 0
        while not driver.status()["batteries"]["inverter"].get("given_up"):
            if device.server.balance().battery_w < 0:
                device.control.interfere()
                fights += 1
            await device.rounds(1)
            assert fights <= 4
        assert fights == 4
        assert "battery_given_up" in device.receiver.kinds()
        await device.rounds(2)
        assert device.control.changed() == {}
        count = len(device.control.order)
        await device.rounds(20)
        assert len(device.control.order) == count


@pytest.mark.parametrize("name", library.known())
async def test_a_device_that_is_only_read_gets_not_one_write(devices, name):
    device = await devices(name)
    for battery in (None, {"owned_by": "third_party", "no_revert_timer": "accepted"}):
        if battery and name not in CONTROLLED:
            continue
        driver = device.build(battery)
        async with device.running(driver):
            await device.rounds(3)
            for mode in ("charge", "hold", "normal"):
                with pytest.raises(RefusedError):
                    await driver.command("battery", {"mode": mode})
    assert device.server.writes == 0


@pytest.mark.parametrize("name", [name for name in CONTROLLED if any(one == name for one, _ in TIMED)])
async def test_without_the_word_only_modes_that_end_by_themselves_are_allowed(devices, name):
    device = await devices(name)
    allowed = device.build({"owned_by": "agent"}).status()["batteries"]["inverter"]["allowed"]
    assert allowed == ["normal", *(mode for one, mode in TIMED if one == name)]


def test_the_map_and_the_hand_written_hybrid_agree_on_what_can_be_written():
    """Written twice from the maker's document: registers, flash, and what the timer counts and ends."""
    mapped, by_hand = description_of(library.find("huawei_sun2000"), {}), huawei_description()
    facts = {one.name: (one.key, one.stored) for one in by_hand.registers}
    assert {one.name: (one.key, one.stored) for one in mapped.registers}.items() <= facts.items()
    assert (mapped.timer.setting, mapped.timer.unit_s, mapped.timer.ends) == (
        by_hand.timer.setting,
        by_hand.timer.unit_s,
        by_hand.timer.ends,
    )
    assert (mapped.witness, mapped.command) == (by_hand.witness, by_hand.command)
    assert next(act for act in mapped.acts if act.kind == "charge").when["forced_command"] == 1


def write(address, *words):
    return struct.pack(f">BHHB{len(words)}H", 16, address, len(words), 2 * len(words), *words)


def still():
    return 0


def test_a_played_map_keeps_its_limits_and_counts_its_writes():
    storedge = control_of(library.find("solaredge_storedge"), still)
    half = struct.unpack(">2H", struct.pack(">f", 50.0))
    assert storedge.written(write(0xE008, *half[::-1])) == struct.pack(">BHH", 16, 0xE008, 2)
    assert [storedge.words("holding")[address] for address in (0xE008, 0xE009)] == [*half[::-1]]
    assert storedge.changed().keys() == {"reserve_percent"}
    assert storedge.writes == {"reserve_percent": 1, "stored": 1}
    over = struct.unpack(">2H", struct.pack(">f", 101.0))
    assert storedge.written(write(0xE008, *over[::-1])) == b"\x90\x03"
    assert storedge.written(write(0xE004, 9)) == b"\x90\x03"
    assert storedge.written(write(0x0001, 9)) == b"\x90\x02"
    assert storedge.written(struct.pack(">BHH", 6, 0xE004, 4)) == struct.pack(">BHH", 6, 0xE004, 4)
    for broken in (b"\x10", b"\x10\x00\x00\x00\x01\x04\x00", b"\x06\x00"):
        assert storedge.written(broken) == bytes((broken[0] | 0x80, 3))


def test_a_setpoint_may_be_negative():
    victron = control_of(library.find("victron_gx"), still)
    assert victron.written(write(2700, 0x10000 - 500)) == struct.pack(">BHH", 16, 2700, 1)
    assert victron.bits["grid_setpoint_w"] == 0x10000 - 500
    assert victron.written(write(2700, 0x10000 - 20_000)) == b"\x90\x03"


def test_a_charging_battery_fills_and_its_energies_never_run_backwards():
    clock = {"ms": 0}
    control = ControlRegisters(huawei_description(), lambda: clock["ms"])
    house = House(seed=1)
    start_ms = 1_780_239_600_000 + 19 * 3_600_000
    last = None
    for minute in range(600):
        clock["ms"] = start_ms + minute * 60_000
        if minute == 30:
            control.foreign("forced_charge_w", 3_000)
            control.foreign("forced_period_min", 300)
            control.foreign("forced_command", 1)
        now = control.overlay(house.at(clock["ms"]))
        assert now.load_w == now.grid_w + now.pv_w + now.battery_w
        assert 0 <= now.soc_permille <= 1000
        if last is not None:
            for energy in ("charge_ws", "discharge_ws", "import_ws", "export_ws", "pv_ws"):
                assert getattr(now, energy) >= getattr(last, energy), energy
        if minute == 31:
            assert now.battery_w == -3_000
        last = now
    assert control.in_force == []
    assert last.soc_permille > 900


def test_the_manual_tells_each_maps_modes_and_why_the_others_are_not_offered():
    page = (DOCS / "battery.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1:-1] for line in page.splitlines() if line.startswith("| `")]
    named = [
        [set(re.findall(r"`(\w+)`", cell)) for cell in row[:4]] for row in rows if len(row) == 5 and row[0] != " `map` "
    ]
    told = {name.pop(): (ends, lasts, lacks & EVERY_MODE) for name, ends, lasts, lacks in named}
    assert told.keys() == {*library.known(), "sunspec"}
    for name, (ends, lasts, lacks) in told.items():
        offered = {mode for one, mode in MODES if one == name}
        assert ends == {mode for one, mode in TIMED if one == name}, name
        assert lasts == offered - ends, name
        assert lacks == EVERY_MODE - offered, name


def test_a_battery_that_nobody_commands_is_the_houses_own():
    house, start_ms = House(seed=1), 1_780_239_600_000
    day = [house.at(start_ms + minute * 60_000) for minute in range(0, 1_440, 15)]
    descriptions = {"by hand": huawei_description()}
    for name in CONTROLLED:
        register_map = library.find(name)
        models = models_of(mapped(register_map)) if register_map.is_sunspec else {}
        descriptions[name] = description_of(register_map, models)
    for name, description in descriptions.items():
        control = ControlRegisters(description, lambda: day[0].unix_ms)
        assert [control.overlay(now) for now in day] == day, name


async def test_each_write_is_logged_with_the_counts_so_far(devices, tmp_path):
    device = await devices("solaredge_storedge")
    device.server.log = ServedLog(tmp_path / "log", SimulatedClock())
    async with device.running(device.build(OURS)) as driver:
        await told(driver, "reserve")
    device.server.log.close()
    lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    written = [(line["written"], line["writes"]) for line in lines if "written" in line]
    assert written == [
        ("reserve_percent", {"stored": 1, "ram": 0}),
        ("reserve_percent", {"stored": 2, "ram": 0}),
    ]


@pytest.mark.parametrize("name", ["deye_single_phase", "deye_three_phase"])
async def test_a_discharge_is_refused_where_the_owners_work_mode_may_feed_the_grid(devices, name):
    device = await devices(name)
    device.control.foreign("load_limit", 0)
    async with device.running(device.build(OURS)) as driver:
        with pytest.raises(RefusedError, match="load_limit"):
            await told(driver, "discharge_to_load")
        assert device.control.order == []
        assert (await told(driver, "hold"))["mode"] == "hold"
