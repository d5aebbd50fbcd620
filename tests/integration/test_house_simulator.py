"""`edge-sim house`: one program, two devices, one balance; a line for people on a terminal only."""

import os
import pty
import re
import signal
import socket
import subprocess
import sys
import time

import pytest
import serial

OPTIONS = ("--start", "2026-06-01T12:00:00+09:00", "--speed", "60", "--seed", "2")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_meter_and_inverter_of_one_house_run_in_one_program(tmp_path, number):
    port, link = free_port(), tmp_path / "meter"
    near, far = pty.openpty()
    words = ["house", "--link", str(link), "--port", str(port), *OPTIONS]
    with subprocess.Popen([sys.executable, "-m", "simulators", *words], stdout=far) as program:
        os.close(far)
        shown = b""
        while b"imported" not in shown:
            shown += os.read(near, 1000)
        assert re.search(rb"06-01 12:\d\d:\d\d  load +\d+ W = grid", shown)
        with serial.Serial(str(link), timeout=5) as line:
            line.write(b"SKVER\r\n")
            assert line.read_until(b"OK\r\n") == b"SKVER\r\nEVER 1.5.2\r\nOK\r\n"
        deadline = time.monotonic() + 10
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=5).close()
                break
            except ConnectionRefusedError:
                assert time.monotonic() < deadline
                time.sleep(0.05)
        program.send_signal(number)
        assert program.wait(10) == 0
    os.close(near)
    assert not link.is_symlink()


@pytest.mark.slow
def test_a_taken_port_ends_the_house_with_one_sentence(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        words = ["house", "--link", str(tmp_path / "meter"), "--port", str(port)]
        done = subprocess.run(
            [sys.executable, "-m", "simulators", *words], capture_output=True, text=True, timeout=20, check=False
        )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert str(port) in done.stderr
    assert not (tmp_path / "meter").is_symlink()
