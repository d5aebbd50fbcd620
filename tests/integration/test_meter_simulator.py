"""The simulated dongle and meter through their pseudo-terminal, byte by byte, as any client sees them."""

import argparse
import asyncio
import contextlib
import json
import os
import re
import subprocess
import sys
import time
from datetime import datetime

import pytest
from momonga import Momonga

from simulators import faults, meter
from simulators.air import Radio
from simulators.clock import SimulatedClock, add_time_options, clock_from
from simulators.house import House
from simulators.log import ServedLog
from simulators.metering import Nameplate
from simulators.terminal import Terminal

PEER = "FE80:0000:0000:0000:021C:6400:03CD:76A4"
OWN = "FE80:0000:0000:0000:021D:1291:0000:0574"
MAC = "001C640003CD76A4"
ID = "00112233445566778899AABBCCDDEEFF"
START_MS = 1_780_239_600_000 + 12 * 3_600_000  # 2026-06-01T12:00:00+09:00
DAY_MS = 86_400_000
GET_POWER = bytes.fromhex("1081525305FF010288016201E700")


class Line:
    """A client of the serial port that keeps all it heard."""

    def __init__(self, path, dialect):
        self.a1 = dialect == "a1"
        self.side = "" if self.a1 else " 0"
        self.heard = bytearray()
        self._more = asyncio.Event()
        self._fd = os.open(path, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
        asyncio.get_running_loop().add_reader(self._fd, self._read)

    def _read(self):
        with contextlib.suppress(OSError):
            self.heard += os.read(self._fd, 4096)
        self._more.set()

    def close(self):
        asyncio.get_running_loop().remove_reader(self._fd)
        os.close(self._fd)

    def write(self, data):
        os.write(self._fd, data)

    async def until(self, end):
        """Return what was heard up to and including `end`, and forget it."""
        async with asyncio.timeout(5):
            while (place := self.heard.find(end)) < 0:
                self._more.clear()
                await self._more.wait()
        text = bytes(self.heard[: place + len(end)])
        del self.heard[: place + len(end)]
        return text

    async def ask(self, command, end="OK\r\n"):
        """Send a command line; return the answer's lines without the echo."""
        self.write(command.encode() + b"\r\n")
        text = (await self.until(end.encode())).decode()
        assert text.startswith(command + "\r\n")
        return text.removeprefix(command + "\r\n").split("\r\n")[:-1]

    async def fails(self, command):
        self.write(command.encode() + b"\r\n")
        await self.until(b"FAIL ")
        return (await self.until(b"\r\n")).decode().strip()

    async def join(self, password="0123456789AB", route_b_id=ID):
        await self.ask(f"SKSETPWD {len(password):X} {password}")
        await self.ask(f"SKSETRBID {route_b_id}")
        await self.ask("SKSREG S2 3B")
        await self.ask("SKSREG S3 76A4")
        self.write(f"SKJOIN {PEER}\r\n".encode())
        return (await self.until(b"EVENT 2" + (b"5" if password == "0123456789AB" else b"4"))).decode("latin-1")

    def send(self, data, security=1):
        self.write(f"SKSENDTO 1 {PEER} 0E1A {security}{self.side} {len(data):04X} ".encode() + data)

    async def get(self, data):
        """Send a request and return the meter's answer."""
        self.send(data)
        await self.until(b"OK\r\n")
        await self.until(b"0E1A 0E1A " + MAC.encode() + b" 1" + self.side.encode() + b" ")
        length = int(await self.until(b" "), 16)
        return bytes.fromhex((await self.until(b"\r\n")).decode().strip())[:length]


@contextlib.asynccontextmanager
async def plugged(tmp_path, dialect="c2", *, clock=None, log=None, **settings):
    """A meter of house 1 at noon, its clock standing still, and a client on its port."""
    clock = clock or SimulatedClock(None, lambda: START_MS)
    ready, link = asyncio.Event(), tmp_path / "meter"
    chosen = meter.MeterSettings(dialect=dialect, **settings)
    async with asyncio.TaskGroup() as group:
        serving = group.create_task(
            meter.serve(House(), clock, link=link, dialect=dialect, log=log, ready=ready, settings=chosen)
        )
        await ready.wait()
        line = Line(link, dialect)
        try:
            yield line
        finally:
            line.close()
            serving.cancel()
    assert not link.is_symlink()


both = pytest.mark.parametrize("dialect", ["a1", "c2"])


@both
async def test_the_dongle_says_what_it_is(tmp_path, dialect):
    async with plugged(tmp_path, dialect) as line:
        version, side = ("1.2.10", "FFFE") if dialect == "a1" else ("1.5.2", "0")
        assert await line.ask("SKVER") == [f"EVER {version}", "OK"]
        assert await line.ask("SKINFO") == [f"EINFO {OWN} 001D129100000574 21 FFFF {side}", "OK"]
        assert (await line.ask("SKAPPVER"))[0].startswith("EAPPVER ")
        assert await line.ask(f"SKLL64 {MAC}", end="\r\n" + PEER + "\r\n") == [PEER]


async def test_options_of_the_serial_side_answer_with_cr_alone(tmp_path):
    async with plugged(tmp_path) as line:
        line.write(b"ROPT\r")
        assert await line.until(b"OK 01\r") == b"ROPT\r\nOK 01\r"
        line.write(b"WOPT 00\r")
        assert await line.until(b"OK\r") == b"WOPT 00\r\nOK\r"
        line.write(b"ROPT\r")
        assert await line.until(b"OK 00\r") == b"ROPT\r\nOK 00\r"
        line.write(b"SKVER\r\n")
        assert (await line.until(b"OK\r\n")).startswith(b"SKVER\r\n")


@both
async def test_a_scan_finds_the_meter_in_the_words_of_the_dialect(tmp_path, dialect):
    async with plugged(tmp_path, dialect) as line:
        scan, other = "SKSCAN 2 FFFFFFFF 6", "SKSCAN 2 FFFFFFFF 6 0"
        if dialect == "c2":
            scan, other = other, scan
        await line.ask(f"SKSETRBID {ID}")
        assert await line.fails(other) == "ER05"
        side = [] if line.a1 else ["  Side:0"]
        assert (await line.ask(scan, end=f"EVENT 22 {OWN}{line.side}\r\n")) == [
            "OK",
            f"EVENT 20 {OWN}{line.side}",
            "EPANDESC",
            "  Channel:3B",
            "  Channel Page:09",
            "  Pan ID:76A4",
            f"  Addr:{MAC}",
            "  LQI:B2",
            *side,
            "  PairID:CCDDEEFF",
            f"EVENT 22 {OWN}{line.side}",
        ]


async def test_a_scan_with_another_id_finds_nothing(tmp_path):
    async with plugged(tmp_path) as line:
        await line.ask(f"SKSETRBID {'0' * 32}")
        heard = await line.ask("SKSCAN 2 FFFFFFFF 4 0", end=f"EVENT 22 {OWN} 0\r\n")
        assert heard == ["OK", f"EVENT 22 {OWN} 0"]


@both
async def test_joining_shows_events_and_pana_frames_as_real_modules_do(tmp_path, dialect):
    async with plugged(tmp_path, dialect) as line:
        text = await line.join()
        assert f"EVENT 21 {PEER}{line.side} 02\r\nEVENT 02 {PEER}{line.side}\r\n" in text
        frames = re.findall(rf"ERXUDP {PEER} {OWN} 02CC 02CC {MAC} 0{line.side} (\w+) (\w+)\r\n", text)
        assert [length for length, _ in frames] == ["0028", "0068", "0054", "0058"]
        raw = [bytes.fromhex(data) for _, data in frames]
        assert [frame[2:4].hex().upper() for frame in raw] == [length for length, _ in frames]
        assert [frame[4:8].hex() for frame in raw] == ["c0000002", "80000002", "80000002", "a0000002"]
        assert b"SM" + ID.encode() in raw[1]
        assert bytes.fromhex("000800000004000000015180") in raw[3]
        await line.until(
            f"FF02:0000:0000:0000:0000:0000:0000:0001 0E1A 0E1A {MAC} 1{line.side} 0012 ".encode()
            + b"108100010EF0010EF0017301D50401028801\r\n"
        )


async def test_a_wrong_password_ends_in_event_24_after_the_first_pana_frames(tmp_path):
    async with plugged(tmp_path) as line:
        text = await line.join(password="ABCDEFGHIJKL")
        assert text.count(" 02CC 02CC ") == 2
        assert await line.fails("SKTERM") == "ER10"


async def test_a_wrong_id_ends_in_event_24(tmp_path):
    async with plugged(tmp_path, radio=Radio(route_b_id="F" * 24 + ID[24:])) as line:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await line.join()
        assert f"EVENT 24 {PEER} 0".encode() in line.heard


async def test_joining_on_the_wrong_channel_reaches_nobody(tmp_path):
    async with plugged(tmp_path) as line:
        await line.ask("SKSREG S2 21")
        line.write(f"SKJOIN {PEER}\r\n".encode())
        text = (await line.until(f"EVENT 24 {PEER} 0\r\n".encode())).decode()
        assert "02CC" not in text


@both
async def test_a_request_is_answered_after_event_21_and_ok_and_its_data_is_not_echoed(tmp_path, dialect):
    async with plugged(tmp_path, dialect) as line:
        await line.join()
        await line.until(b"01028801\r\n")
        line.send(GET_POWER)
        watts = House().at(START_MS).grid_w.to_bytes(4, signed=True).hex().upper()
        answer = f"1081525302880105FF017201E704{watts}"
        expected = (
            f"SKSENDTO 1 {PEER} 0E1A 1{line.side} 000E \r\n"
            f"EVENT 21 {PEER}{line.side} 00\r\n"
            "OK\r\n"
            f"ERXUDP {PEER} {OWN} 0E1A 0E1A {MAC} 1{line.side} 0012 {answer}\r\n"
        )
        assert (await line.until(answer.encode() + b"\r\n")).decode() == expected


async def test_data_may_hold_line_ends_and_words_of_the_protocol(tmp_path):
    async with plugged(tmp_path) as line:
        await line.join()
        data = bytes.fromhex("10810D0A05FF010288016201E700")
        assert (await line.get(data))[2:4] == b"\r\n"
        data = b"\x10\x81EV" + bytes.fromhex("05FF01028801610281114F4B0D0A534B5645520D0A202020202020E50101")
        assert (await line.get(data)).hex().upper() == "1081455602880105FF01710281 00E500".replace(" ", "")


async def test_a_request_may_come_byte_by_byte(tmp_path):
    async with plugged(tmp_path) as line:
        await line.join()
        for byte in f"SKSENDTO 1 {PEER} 0E1A 1 0 000E ".encode() + GET_POWER:
            line.write(bytes([byte]))
            await asyncio.sleep(0)
        await line.until(b"1081525302880105FF017201E704")


async def test_binary_mode_sends_raw_bytes(tmp_path):
    async with plugged(tmp_path, binary=True) as line:
        await line.join()
        line.send(GET_POWER)
        await line.until(b" 1 0 0012 " + bytes.fromhex("1081525302880105FF017201E704"))
        assert (await line.until(b"\r\n"))[:-2] == House().at(START_MS).grid_w.to_bytes(4, signed=True)


async def test_the_rssi_register_adds_a_word_in_c2_and_nothing_in_a1(tmp_path):
    async with plugged(tmp_path) as line:
        await line.ask("SKSREG SA2 1")
        await line.join()
        line.send(GET_POWER)
        await line.until(f"0E1A 0E1A {MAC} B2 1 0 0012 ".encode())
    async with plugged(tmp_path, "a1") as line:
        await line.ask("SKSREG SA2 1")
        await line.join()
        line.send(GET_POWER)
        await line.until(f"0E1A 0E1A {MAC} 1 0012 ".encode())


async def test_the_echo_can_be_turned_off_until_the_next_reset(tmp_path):
    async with plugged(tmp_path) as line:
        line.write(b"SKSREG SFE 0\r\n")
        await line.until(b"OK\r\n")
        line.write(b"SKVER\r\n")
        assert await line.until(b"OK\r\n") == b"EVER 1.5.2\r\nOK\r\n"
        line.write(b"SKRESET\r\n")
        await line.until(b"OK\r\n")
        assert await line.ask("SKVER") == ["EVER 1.5.2", "OK"]


async def test_registers_are_kept_read_and_checked(tmp_path):
    async with plugged(tmp_path) as line:
        await line.ask("SKSREG S02 39")
        assert await line.ask("SKSREG S2") == ["ESREG 39", "OK"]
        for wrong in ("SKSREG S2 20", "SKSREG S2 3D", "SKSREG S3 XYZ", "SKSREG S77 1", "SKSREG Q2 21"):
            assert await line.fails(wrong) == "ER06"
        assert await line.fails("SKSREG") == "ER05"


@pytest.mark.parametrize(
    ("command", "error"),
    [
        ("SKNONSENSE", "ER04"),
        ("SKSETPWD 9 0123456789AB", "ER06"),
        ("SKSETPWD C", "ER05"),
        ("SKSETRBID 0011", "ER06"),
        ("SKSCAN 2 FFFFFFFF F 0", "ER06"),
        ("SKSCAN 2 FFFFFFFF 6 1", "ER06"),
        ("SKLL64 0011", "ER06"),
        ("SKLL64", "ER05"),
        ("SKJOIN FE80::1", "ER06"),
        ("SKADDNBR FE80", "ER05"),
        (f"SKADDNBR {PEER} XX1C640003CD76A4", "ER06"),
        ("SKREJOIN", "ER10"),
        ("SKTERM", "ER10"),
        ("WOPT 7", "ER06"),
        (f"SKSENDTO 1 {PEER} 0E1A 1", "ER05"),
        (f"SKSENDTO 1 {PEER} 0E1A 1 0 0XYZ ", "ER06"),
        (f"SKSENDTO 1 {PEER} 0E1A 1 0 04D1 ", "ER06"),
        (f"SKSENDTO 1 {PEER} 0E1A 1 000E", "ER05"),
        (f"SKSENDTO 1 {PEER} 0E1A 1 000E 0010 ", "ER06"),
        (f"SKSENDTO 9 {PEER} 0E1A 1 0 000E ", "ER06"),
        ("SKSENDTO 1 FE80::1 0E1A 1 0 000E ", "ER06"),
    ],
)
async def test_a_wrong_command_gets_its_error_and_the_next_one_is_heard(tmp_path, command, error):
    async with plugged(tmp_path) as line:
        assert await line.fails(command) == error
        line.write(b"\r\nSKVER\r\n")
        await line.until(b"EVER 1.5.2\r\nOK\r\n")


async def test_a_neighbour_may_be_added(tmp_path):
    async with plugged(tmp_path) as line:
        assert await line.ask(f"SKADDNBR {PEER} {MAC}") == ["OK"]


async def test_an_endless_line_is_dropped_and_bounded(tmp_path):
    async with plugged(tmp_path) as line:
        for _ in range(9):
            line.write(b"x" * 1000)
            await asyncio.sleep(0.01)
        await line.until(b"FAIL ER09\r\n")
        assert (await line.ask("SKVER"))[-1] == "OK"


async def test_without_a_session_nothing_is_sent(tmp_path):
    async with plugged(tmp_path) as line:
        line.send(GET_POWER)
        assert f"EVENT 21 {PEER} 0 01\r\nOK\r\n".encode() in await line.until(b"OK\r\n")
        assert b"ERXUDP" not in line.heard


async def test_a_session_ends_by_skterm_renews_by_skrejoin_and_is_not_joined_twice(tmp_path):
    async with plugged(tmp_path) as line:
        await line.join()
        assert await line.fails(f"SKJOIN {PEER}") == "ER05"
        line.write(b"SKREJOIN\r\n")
        await line.until(f"EVENT 25 {PEER} 0\r\n".encode())
        line.write(b"SKTERM\r\n")
        await line.until(f"OK\r\nEVENT 27 {PEER} 0\r\n".encode())
        assert await line.fails("SKREJOIN") == "ER10"


async def test_a_second_job_of_the_radio_waits_for_the_first(tmp_path):
    async with plugged(tmp_path, radio=Radio(radio_time=1.0)) as line:
        await line.ask("SKSCAN 2 FFFFFFFF E 0")
        assert await line.fails(f"SKJOIN {PEER}") == "ER10"
        assert await line.ask("SKRESET") == ["OK"]
        assert await line.ask("SKSCAN 2 FFFFFFFF E 0") == ["OK"]


async def test_the_scan_takes_the_time_of_the_formula_scaled(tmp_path):
    async with plugged(tmp_path, radio=Radio(radio_time=0.05)) as line:
        began = asyncio.get_running_loop().time()
        await line.ask("SKSCAN 2 FFFFFFFF 4 0", end="EVENT 22")
        took = asyncio.get_running_loop().time() - began
        assert 0.228 <= took < 0.6  # 0.0096 × 17 × 28 × 0.05


async def test_an_answer_comes_after_the_latency_and_the_log_has_it_before_it_leaves(tmp_path):
    clock = SimulatedClock(None, lambda: START_MS)
    log = ServedLog(tmp_path / "served", clock)
    async with plugged(tmp_path, log=log, radio=Radio(latency_s=0.2)) as line:
        await line.join()
        began = asyncio.get_running_loop().time()
        await line.get(GET_POWER)
        assert asyncio.get_running_loop().time() - began >= 0.2
        (said,) = [json.loads(text) for text in (tmp_path / "served").read_text().splitlines()]
        assert said == {
            "t": START_MS,
            "sim": START_MS,
            "device": "meter",
            "values": {"grid_power_w": House().at(START_MS).grid_w},
        }
    log.close()


async def test_what_the_air_loses_is_neither_answered_nor_logged(tmp_path):
    log = ServedLog(tmp_path / "served", SimulatedClock(None, lambda: START_MS))
    async with plugged(tmp_path, log=log, radio=Radio(loss=1.0)) as line:
        await line.join()
        line.send(GET_POWER)
        assert f"EVENT 21 {PEER} 0 00\r\nOK\r\n".encode() in await line.until(b"OK\r\n")
        assert (await line.ask("SKVER"))[-1] == "OK"
        assert b"E704" not in line.heard
    assert (tmp_path / "served").read_text() == ""
    log.close()


async def test_an_answer_that_comes_after_the_session_is_neither_delivered_nor_logged(tmp_path):
    log = ServedLog(tmp_path / "served", SimulatedClock(None, lambda: START_MS))
    async with plugged(tmp_path, log=log, radio=Radio(latency_s=0.1)) as line:
        await line.join()
        line.send(GET_POWER)
        await line.until(b"OK\r\n")
        await line.ask("SKRESET")
        await asyncio.sleep(0.15)
        assert (await line.ask("SKVER"))[-1] == "OK"
        assert b"E704" not in line.heard
    assert (tmp_path / "served").read_text() == ""
    log.close()


@pytest.mark.parametrize(("notify", "service"), [("inf", "73"), ("infc", "74")])
async def test_each_half_hour_is_notified_within_seconds(tmp_path, notify, service):
    parser = argparse.ArgumentParser()
    add_time_options(parser)
    clock = clock_from(parser.parse_args(["--start", "2026-06-01T12:29:30+09:00", "--speed", "120"]))
    log = ServedLog(tmp_path / "served", clock)
    async with plugged(tmp_path, clock=clock, log=log, notify=notify) as line:
        await line.join()
        house = House().half_hour(clock.unix_ms() + 60_000)
        expected = (
            f"02880105FF01{service}02EA0B07EA06010C1E00{house.import_ws // 360_000:08X}"
            f"EB0B07EA06010C1E00{house.export_ws // 360_000:08X}\r\n"
        )
        await line.until(expected.encode())
        (said,) = [json.loads(text) for text in (tmp_path / "served").read_text().splitlines()]
        assert said["at"] == "2026-06-01T12:30:00+09:00"
        assert said["values"]["import_energy_at_30min_kwh"] == f"{house.import_ws // 360_000 / 10:.1f}"
        assert said["sim"] < clock.unix_ms() + 1
    log.close()


async def test_a_refused_property_and_another_plate(tmp_path):
    plate = Nameplate(serial="ABC", unit="0.01", without=frozenset({0xD3}))
    async with plugged(tmp_path, nameplate=plate) as line:
        await line.join()
        answer = await line.get(bytes.fromhex("1081000105FF010288016203D300E1008D00"))
        assert answer.hex().upper() == "1081000102880105FF015203D300E101028D0C" + b"ABC".ljust(12, b"\0").hex()


async def test_a_client_that_does_not_read_loses_bytes_and_harms_nobody(tmp_path):
    async with plugged(tmp_path) as line:
        asyncio.get_running_loop().remove_reader(line._fd)
        for _ in range(3000):
            with contextlib.suppress(BlockingIOError):
                line.write(b"SKINFO\r\n")
            await asyncio.sleep(0)
        asyncio.get_running_loop().add_reader(line._fd, line._read)
        async with asyncio.timeout(5):
            while b"FE80:0000:0000:0000:0211:2233:4455:6677" not in line.heard:
                with contextlib.suppress(BlockingIOError):
                    line.write(b"\r\nSKLL64 0011223344556677\r\n")
                await asyncio.sleep(0.02)


async def test_faults_damage_the_line_and_a_cut_unplugs_the_dongle(tmp_path):
    damage = (faults.Fault("drop", after_bytes=0, for_bytes=1, way="out"), faults.Fault("cut", after_bytes=40))
    async with plugged(tmp_path, faults=damage) as line:
        line.write(b"SKVER\r\n")
        assert await line.until(b"OK\r\n") == b"KVER\r\nEVER 1.5.2\r\nOK\r\n"
        with contextlib.suppress(OSError):
            line.write(b"SKVER\r\n" * 10)
        link = tmp_path / "meter"
        async with asyncio.timeout(5):
            while link.is_symlink():  # noqa: ASYNC110  (a link in the file system sends no event)
                await asyncio.sleep(0.01)
            while not link.is_symlink():  # noqa: ASYNC110  (likewise)
                await asyncio.sleep(0.01)
        again = Line(link, "c2")
        assert await again.ask("SKVER") == ["EVER 1.5.2", "OK"]
        again.close()


async def test_a_file_in_the_links_place_is_left_alone(tmp_path):
    (tmp_path / "meter").write_text("mine")
    with pytest.raises(FileExistsError, match="choose another"):
        await meter.serve(House(), SimulatedClock(), link=tmp_path / "meter")
    assert (tmp_path / "meter").read_text() == "mine"


async def test_a_second_meter_takes_the_link_over(tmp_path):
    async with plugged(tmp_path) as first, plugged(tmp_path, "a1") as second:
        assert await second.ask("SKVER") == ["EVER 1.2.10", "OK"]
        assert await first.ask("SKVER") == ["EVER 1.5.2", "OK"]


async def test_a_terminal_leaves_a_link_that_is_no_longer_its_own(tmp_path):
    terminal = Terminal(tmp_path / "port")
    (tmp_path / "port").unlink()
    (tmp_path / "port").symlink_to("/dev/null")
    terminal.close()
    assert (tmp_path / "port").is_symlink()


@pytest.fixture
def simulator(tmp_path):
    """`simulator("a1", "--seed", "3")` starts `edge-sim meter` as a program of its own; it must end well when told."""
    started = []

    def start(dialect, *words):
        command = [sys.executable, "-m", "simulators", "meter", "--link", str(tmp_path / "meter"), "--dialect", dialect]
        started.append(subprocess.Popen([*command, *words], stdout=subprocess.PIPE, text=True))
        assert started[-1].stdout.readline() == f"meter ({dialect}) at {tmp_path / 'meter'}\n"
        deadline = time.monotonic() + 10
        while not (tmp_path / "meter").is_symlink():
            assert time.monotonic() < deadline
            time.sleep(0.02)

    yield start
    for program in started:
        with program:
            program.terminate()
        assert program.returncode == 0
    assert not (tmp_path / "meter").is_symlink()


ALMOST_STILL = ("--start", "2026-06-01T12:10:00+09:00", "--speed", "0.001")


@contextlib.contextmanager
def momonga_at(port):
    """momonga, a library of other people, joined; without the pauses by which it spares a radio that is not here."""
    peer = Momonga(ID, "0123456789AB", str(port))
    peer.internal_xmit_interval = 0
    with peer:
        yield peer


@pytest.mark.slow
@pytest.mark.timeout(90)
@both
def test_the_peer_momonga_our_driver_and_the_served_log_agree(tmp_path, dialect, simulator):
    log = tmp_path / "served"
    simulator(dialect, "--log", str(log), "--seed", "3", *ALMOST_STILL)
    with momonga_at(tmp_path / "meter") as peer:
        power = peer.get_instantaneous_power()
        current = peer.get_instantaneous_current()
        imported = peer.get_measured_cumulative_energy()
        exported = peer.get_measured_cumulative_energy(reverse=True)
        assert peer.get_serial_number() == "SIM0000001\0\0"
    said = {}
    for text in log.read_text().splitlines():
        said |= json.loads(text)["values"]
    assert power == said["grid_power_w"]
    assert round(current["r phase current"], 1) == said["current_r_a"]
    assert round(current["t phase current"], 1) == said["current_t_a"]
    assert f"{imported:.1f}" == said["import_energy_kwh"]
    assert f"{exported:.1f}" == said["export_energy_kwh"]
    ours = read_with_our_driver(tmp_path)
    assert ours["grid_power_w"] == power
    assert ours["current_r_a"] == said["current_r_a"]
    assert ours["current_t_a"] == said["current_t_a"]
    assert ours["import_energy_kwh"] == round(imported, 1)
    assert ours["export_energy_kwh"] == round(exported, 1)


@pytest.mark.slow
@pytest.mark.timeout(90)
def test_the_peer_momonga_reads_the_memory_of_a_second_generation_meter(tmp_path, simulator):
    house = ("--seed", "3", "--history-days", "2", "--unit", "0.0001", "--digits", "8")
    simulator("c2", "--release", "R", "--pairs", *house, *ALMOST_STILL)
    midnight_ms = START_MS - 12 * 3_600_000
    noon, now = (datetime.fromisoformat(f"2026-06-01T12:{minute}:00") for minute in ("00", "10"))

    def register(moment_ms, of_house):
        """Return what the meter showed then, in kWh: bought and sold."""
        balance = of_house.at(moment_ms)
        return balance.import_ws // 360, balance.export_ws // 360

    def read(entry, directions=("normal direction", "reverse direction")):
        return tuple(round(entry["cumulative energy"][name] * 10_000) for name in directions)

    with momonga_at(tmp_path / "meter") as peer:
        minute = peer.get_one_minute_measured_cumulative_energy()
        minutes = peer.get_historical_cumulative_energy_3(now)
        pairs = peer.get_historical_cumulative_energy_2(noon)
        sold = peer.get_historical_cumulative_energy_1(day=1, reverse=True)
        at_noon = peer.get_cumulative_energy_measured_at_fixed_time()
        assert {0xD0, 0xEE, 0xEF} <= {int(code) for code in peer.get_properties_to_get_values()}
    fresh = House(3, START_MS + 10 * 60_000 - 2 * DAY_MS)
    assert [round(slot["cumulative energy"] * 10_000) for slot in sold] == [
        register(midnight_ms - DAY_MS + slot * 1_800_000, fresh)[1] for slot in range(48)
    ]
    assert [read(pair) for pair in reversed(pairs)] == [
        register(START_MS - back * 1_800_000, fresh) for back in reversed(range(12))
    ]
    assert round(at_noon["cumulative energy"] * 10_000) == register(START_MS, fresh)[0]
    assert [read(one) for one in reversed(minutes)] == [
        register(START_MS + number * 60_000, fresh) for number in range(1, 11)
    ]
    assert (minute["timestamp"], read(minute)) == (now, read(minutes[0]))


def read_with_our_driver(folder):
    """Return what `edge-agent read --json` says of the meter."""
    (folder / "route-b").write_text(json.dumps({"id": ID, "password": "0123456789AB"}))
    (folder / "route-b").chmod(0o600)
    config = folder / "house.yaml"
    config.write_text(
        "gateway: {id: house-001}\nclock: {trust: system}\nmqtt: {host: 127.0.0.1}\n"
        f"state_directory: {folder}/state\nsecrets_directory: {folder}\n"
        f"drivers: {{meter: {{driver: route_b, port: {folder}/meter, credentials: route-b}}}}\n"
    )
    words = [sys.executable, "-m", "edge_agent", "read", "--json", str(config)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout.splitlines()[0])["values"]
