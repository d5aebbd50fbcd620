"""A battery whose registers a SunSpec device has somewhere: found, scaled by the device, never written elsewhere."""

import struct
from dataclasses import replace
from decimal import Decimal

import pytest

from drivers.api import RefusedError
from drivers.battery.modes import Request, UnansweredError
from drivers.modbus.battery import ModbusBattery
from drivers.modbus.control_table import parse_control
from drivers.modbus.library import find
from drivers.modbus.link import ExceptionAnswerError, SilentError
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
