"""A battery whose registers a SunSpec device has somewhere: found, scaled by the device, never written elsewhere."""

import struct
from dataclasses import replace
from decimal import Decimal

import pytest

from drivers.api import ConfigError, RefusedError
from drivers.battery.modes import Request, UnansweredError
from drivers.modbus.battery import ModbusBattery
from drivers.modbus.control_table import parse_control
from drivers.modbus.library import find
from drivers.modbus.link import ExceptionAnswerError, SilentError
from drivers.modbus.register_map import parse
from drivers.modbus.sunspec_points import Model

CONTROL = parse_control(find("sunspec_storage"))
STORAGE, LENGTH = 124, 24
CHARGE = Request("charge", "person", 0, power_w=1_234)


class Device:
    """One unit whose model 124 lies somewhere: a link and a chain of models at once."""

    def __init__(self, address=40_100, most_w=5_000, exponent=-2):
        self.words, self.sent, self.chain, self.error = {}, [], (), None
        self.lies_at(address, most_w, exponent)

    def lies_at(self, address, most_w=5_000, exponent=-2, length=LENGTH):
        words = [STORAGE, length, most_w, *[0] * (length - 1)]
        if length == LENGTH:
            words[25], words[12], words[15] = exponent & 0xFFFF, 10_000, 3_600
        self.words |= {address + index: word for index, word in enumerate(words)}
        self.chain = (Model(1, 40_002, 66), Model(STORAGE, address, length))

    async def models(self):
        if self.error is not None:
            raise self.error
        return self.chain

    async def read(self, unit, request, timeout_s):
        del unit, timeout_s
        if request.address not in self.words:
            raise ExceptionAnswerError(2, request)
        return b"".join(self.words[request.address + at].to_bytes(2, "big") for at in range(request.count))

    async def write(self, unit, request, data, timeout_s):
        del unit, timeout_s
        words = struct.unpack(f">{request.count}H", data)
        self.sent.append((request.address, *words))
        self.words |= {request.address + at: word for at, word in enumerate(words)}

    def battery(self, control=CONTROL):
        return ModbusBattery(self, 1, 0.1, control, self.models)


async def sequence(battery, request=CHARGE):
    return battery.sequence(request, await battery.limits())


async def test_a_power_becomes_the_percentage_that_the_device_counts_never_more_than_asked_for():
    device = Device()
    writes = {write.setting: write.value for write in await sequence(device.battery())}
    assert writes["charge_percent"] == 0x10000 - 2_468  # 1,234 W of 5,000 W are 24.68 %, to 0.01 %
    coarse = Device(exponent=0)
    writes = {write.setting: write.value for write in await sequence(coarse.battery())}
    assert writes["charge_percent"] == 0x10000 - 24


async def test_the_devices_own_limit_bounds_the_power():
    writes = {write.setting: write.value for write in await sequence(Device(most_w=1_000).battery())}
    assert writes["charge_percent"] == 0x10000 - 10_000


@pytest.mark.parametrize("code", [4, 5, 6])
async def test_a_limit_that_a_busy_device_does_not_tell_is_not_taken_for_none(code, monkeypatch):
    device = Device()
    battery = device.battery(parse_control(find("huawei_sun2000")))
    assert await battery.limits() == {}  # it answers that it has no such registers

    async def busy(unit, request, timeout_s):
        raise ExceptionAnswerError(code, request)

    monkeypatch.setattr(device, "read", busy)
    with pytest.raises(UnansweredError, match=f"exception {code}"):
        await battery.limits()


BOUNDED = """
maker: Nobody
points:
  most_w: {address: 30, type: u16, scale: 0.1, hidden: true, sentinels: [0xFFFF]}
writable:
  watts: {address: 20, type: u16, scale: 10, min: 0, max: 5000, at_most: most_w}
  depth_percent: {address: 21, type: u16, scale: -3, offset: 100, min: 0, max: 100, at_most: most_w}
  free_w: {address: 22, type: u16, min: 0, max: 5000}
control:
  modes:
    charge:
      do: [{set: watts, to: power_w}]
      undo: [{set: watts, to: saved}]
    hold:
      do: [{set: watts, to: 5000}]
      undo: [{set: watts, to: 3000}]
    reserve:
      do: [{set: depth_percent, to: 90}, {set: free_w, to: 5000}]
      undo: [{set: depth_percent, to: saved}, {set: free_w, to: saved}]
"""


async def test_what_a_mode_writes_is_cut_to_what_its_bound_reads_at_that_moment():
    device = Device()
    battery = device.battery(parse_control(parse("bounded", BOUNDED)))

    async def written(mode, most):
        device.words[30] = most
        writes = await sequence(battery, Request(mode, "person", 0, power_w=1_234))
        return {write.setting: write.value for write in writes}

    assert await written("charge", 20_000) == {"watts": 123}
    assert await written("charge", 10_199) == {"watts": 101}  # 1,019.9 W are 1,010 W in steps of ten, not 1,020 W
    assert await written("hold", 10_199) == {"watts": 101}  # a number of the map, too
    assert await written("charge", 0) == {"watts": 0}
    assert await written("reserve", 850) == {"depth_percent": 5, "free_w": 5000}  # 100 - 3 * 5 = 85
    assert [write.value for write in battery.undoing("hold", {})] == [300]  # undoing is never cut
    assert [write.value for write in battery.undoing("charge", {"watts": 400})] == [400]


@pytest.mark.parametrize("most", [0xFFFF, None])
async def test_while_a_bound_is_not_told_nothing_is_begun(most):
    device = Device()
    device.words[30] = 20_000
    battery = device.battery(parse_control(parse("bounded", BOUNDED)))
    assert await sequence(battery)
    if most is None:
        del device.words[30]
    else:
        device.words[30] = most
    with pytest.raises(RefusedError, match=r"does not tell points\.most_w now, which bounds watts"):
        await sequence(battery)


def test_a_bound_that_is_scaled_by_another_register_is_refused():
    text = BOUNDED.replace("scale: 0.1, hidden", "scale_address: 31, hidden")
    with pytest.raises(ConfigError, match=r"writable\.watts\.at_most = 'most_w': is scaled by another register"):
        parse("bounded", text)


async def test_settings_are_written_where_the_model_lies_also_after_it_has_moved():
    device = Device()
    battery = device.battery()
    for write in await sequence(battery):
        await battery.put(write)
    assert [address - 40_100 for address, _ in device.sent] == [17, 15, 12, 5]
    device.sent.clear()
    device.lies_at(40_300)
    assert await battery.get("storage_control") == 0
    await battery.put(replace((await sequence(battery))[-1], value=2))
    assert device.sent == [(40_305, 2)]


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda device: device.words.update({40_100: 125}), "not where it was"),
        (lambda device: device.words.update({40_101: 26}), "not where it was"),
        (lambda device: setattr(device, "chain", device.chain[:1]), "no model 124"),
        (lambda device: device.words.update({40_125: 0x8000}), "no scale factor"),
        (lambda device: device.lies_at(40_100, length=16), "ends before register"),
        (lambda device: device.words.update({40_102: 0}), "does not tell watts_per_percent"),
    ],
)
async def test_a_device_that_is_not_as_it_was_found_is_not_written(spoil, said):
    device = Device()
    battery = device.battery()
    spoil(device)
    with pytest.raises(RefusedError, match=said):
        await sequence(battery)
    assert device.sent == []


async def test_a_chain_that_cannot_be_walked_now_is_no_answer_yet():
    device = Device()
    device.error = SilentError("silent")
    with pytest.raises(UnansweredError, match="its models"):
        await device.battery().get("storage_control")


async def test_less_than_one_step_of_a_setting_is_refused():
    coarse = Device(exponent=0)
    with pytest.raises(RefusedError, match="49 W is less than one step"):
        await sequence(coarse.battery(), replace(CHARGE, power_w=49))


def test_what_had_no_value_cannot_be_put_back_and_is_not_begun():
    sma = parse_control(find("sma_hybrid"))
    saved = dict.fromkeys(sma.touched("hold"), 0)
    assert sma.undoing("hold", saved)
    with pytest.raises(RefusedError, match="nobody knows what to put back"):
        sma.undoing("hold", saved | {"battery_discharge_max_w": 0xFFFFFFFF})


def test_a_depth_of_discharge_is_a_reserve_counted_from_the_other_end():
    goodwe = parse_control(find("goodwe_et"))
    (write,) = goodwe.sequence(Request("reserve", "person", 0, soc_percent=30), {})
    assert (write.setting, write.value) == ("reserve_percent", 70)


def test_a_divided_power_needs_what_it_is_divided_by():
    growatt = parse_control(find("growatt_tl_xh"))
    told = {"watts_per_percent": Decimal(60)}
    writes = {write.setting: write.value for write in growatt.sequence(CHARGE, {}, told)}
    assert writes["power_percent"] == 20
    with pytest.raises(RefusedError, match="does not tell watts_per_percent"):
        growatt.sequence(CHARGE, {}, {})
