"""The serial port itself: what the system says becomes LinkError, and a full port blocks nobody."""

import asyncio
import random

import pytest

from drivers.api import Context, LinkError
from drivers.contract import DictMemory, FastClock
from drivers.route_b import link
from drivers.route_b.driver import create
from drivers.route_b.link import locate, open_port, stable_name
from drivers.route_b.session import Timeouts

CREDENTIALS = '{"id": "00112233445566778899AABBCCDDEEFF", "password": "0123456789AB"}'


async def test_bytes_pass_in_both_directions(dongle):
    async with open_port(dongle.path) as port:
        await port.write(b"SKVER\r\n")
        assert b"EVER 1.5.2" in await port.read()


async def test_a_port_serves_one_at_a_time(dongle):
    async with open_port(dongle.path):
        with pytest.raises(LinkError, match="another program has it locked"):
            async with open_port(dongle.path):
                pass
    async with open_port(dongle.path):
        pass


async def test_a_port_is_free_at_once_after_its_user_was_cancelled_at_any_moment_even_twice(dongle):
    dice = random.Random(4)

    async def use():
        async with open_port(dongle.path) as port:
            await port.write(b"SKVER\r\n")
            while True:
                await port.read()

    for _ in range(200):
        task = asyncio.create_task(use())
        for _ in range(dice.choice((1, 2))):
            for _ in range(dice.randrange(6)):
                await asyncio.sleep(0)
            task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        async with open_port(dongle.path):
            pass


async def test_a_driver_that_is_cancelled_and_run_again_at_once_always_gets_its_port(dongle):
    dice = random.Random(5)
    context = Context("meter", FastClock(600), {"route-b": CREDENTIALS}.__getitem__)
    driver = create(context, {"port": dongle.path, "credentials": "route-b", "poll_s": 10})

    async def emit(item, remember=None):
        pass

    for _ in range(200):
        task = asyncio.create_task(driver.run(emit, DictMemory()))
        await asyncio.sleep(dice.choice((0, 0.0005, 0.002, 0.005)))
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled(), task.exception()


async def test_a_missing_port_is_told_with_what_to_do():
    with pytest.raises(LinkError, match=r"^/dev/missing: there is no such port; is the dongle plugged in[?]$"):
        async with open_port("/dev/missing"):
            pass


async def test_a_file_and_a_folder_are_told_to_be_no_ports(tmp_path):
    (tmp_path / "file").touch()
    for name in (tmp_path / "file", tmp_path, "/dev/null"):
        with pytest.raises(LinkError, match=f"^{name}: not a serial port$"):
            async with open_port(str(name)):
                pass


async def test_reading_and_writing_after_the_port_has_gone_are_link_errors(dongle):
    async with open_port(dongle.path) as port:
        dongle.unplug()
        with pytest.raises(LinkError, match="the port has closed"):
            await port.read()
        with pytest.raises(LinkError, match="the port has closed"):
            await port.write(b"x")


async def test_a_port_that_takes_no_bytes_stops_neither_the_others_nor_the_end(dongle, monkeypatch):
    monkeypatch.setattr(link, "WRITE_S", 0.3)
    loop = asyncio.get_running_loop()
    loop.remove_reader(dongle.master)  # nobody takes the bytes out
    turns = 0

    async def neighbour():
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0.01)

    async def fill(port):
        for _ in range(100):
            await port.write(bytes(1000))

    async with asyncio.TaskGroup() as group:
        task = group.create_task(neighbour())
        async with open_port(dongle.path) as port:
            with pytest.raises(LinkError, match="takes no bytes"):
                await fill(port)
        task.cancel()
    assert turns > 10
    loop.add_reader(dongle.master, dongle._read)


@pytest.fixture
def by_id(tmp_path, monkeypatch):
    """The folder in which the system names ports by what is plugged in."""
    monkeypatch.setattr(link, "BY_ID", tmp_path / "by-id")
    (tmp_path / "by-id").mkdir()
    return tmp_path / "by-id"


def test_a_port_without_a_name_of_its_own_stays_where_it_was_configured(by_id):
    assert stable_name("/dev/ttyUSB0") is None
    assert locate("/dev/ttyUSB0", None) == "/dev/ttyUSB0"
    assert locate("/dev/ttyUSB0", "usb-gone") == "/dev/ttyUSB0"
    assert locate("/dev/ttyUSB0", "../../etc/passwd") == "/dev/ttyUSB0"
    by_id.rmdir()
    assert stable_name("/dev/ttyUSB0") is None


async def test_a_dongle_that_returns_under_another_tty_is_found_and_rejoined_without_a_scan(
    dongle, other_dongle, working, by_id
):
    name = by_id / "usb-ROHM_BP35C2_1234-if00-port0"
    name.symlink_to(dongle.path)
    async with working(dongle) as bench:
        await bench.until(lambda: bench.samples)
        dongle.unplug()
        name.unlink()
        await bench.until(lambda: bench.error)
    assert isinstance(bench.error, LinkError)
    name.symlink_to(other_dongle.path)
    async with working(dongle, bench.memory) as again:  # configured as before: the first tty
        await again.until(lambda: again.samples)
    assert (other_dongle.count("SKJOIN"), other_dongle.count("SKSCAN")) == (1, 0)


async def test_the_name_of_what_did_not_answer_as_a_dongle_is_not_remembered(dongle, working, by_id):
    (by_id / "usb-FTDI_Somebody_elses-if00-port0").symlink_to(dongle.path)
    dongle.answers["SKVER"] = None
    async with working(dongle, command_timeout_s=0.05) as bench:
        bench.driver._timeouts = Timeouts(wake_s=0.05, late_beacon_s=0.01)
        await bench.until(lambda: bench.error)
    assert "dongle" not in bench.memory.kept
    del dongle.answers["SKVER"]
    async with working(dongle, bench.memory) as again:
        await again.until(lambda: again.samples)
    assert again.memory.kept["dongle"]["name"] == "usb-FTDI_Somebody_elses-if00-port0"
