"""What systemd hears, over a real datagram socket."""

import asyncio
import os
import socket

import pytest

from edge_agent.notify import Pulse, keep_alive, notify, watchdog_s


@pytest.fixture
def systemd(tmp_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.setblocking(False)
        yield listener


def heard(listener):
    messages = []
    while True:
        try:
            messages.append(listener.recv(4096).decode())
        except BlockingIOError:
            return messages


def test_a_message_reaches_the_socket_systemd_names(systemd):
    assert notify("READY=1", {"NOTIFY_SOCKET": systemd.getsockname()})
    assert heard(systemd) == ["READY=1"]


def test_an_abstract_socket_is_reached_too():
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind("\0edge-agent-notify-test")
        assert notify("READY=1", {"NOTIFY_SOCKET": "@edge-agent-notify-test"})
        assert listener.recv(100) == b"READY=1"


@pytest.mark.parametrize("address", ["", "nonsense", "/no/such/socket"])
def test_without_systemd_nothing_happens(address):
    assert not notify("READY=1", {"NOTIFY_SOCKET": address})


@pytest.mark.parametrize(
    ("environment", "period_s"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "60000000"}, 60.0),
        ({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": str(os.getpid())}, 60.0),
        ({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "-5"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_the_watchdog_is_only_fed_where_systemd_asks_this_process(environment, period_s):
    assert watchdog_s(environment) == period_s


def test_a_loop_is_stuck_when_it_breaks_its_promise():
    now = 0.0
    pulse = Pulse(lambda: now)
    pulse.tick("health", 10)
    pulse.tick("meta", 100)
    now = 29.0
    assert pulse.stuck() == []
    now = 31.0
    assert pulse.stuck() == ["health"]
    pulse.tick("health", 10)
    assert pulse.stuck() == []
    now = 500.0
    pulse.forget("meta")
    assert pulse.stuck() == ["health"]


@pytest.mark.looptime
async def test_the_watchdog_is_fed_at_half_its_period_and_starves_when_a_loop_is_stuck(systemd, caplog):
    environment = {"NOTIFY_SOCKET": systemd.getsockname(), "WATCHDOG_USEC": "60000000"}
    loop = asyncio.get_running_loop()
    pulse = Pulse(loop.time)
    async with asyncio.TaskGroup() as tasks:
        feeding = tasks.create_task(keep_alive(pulse, environment))
        await asyncio.sleep(121)
        assert heard(systemd) == ["WATCHDOG=1"] * 4
        pulse.tick("outbox", 1)
        await asyncio.sleep(120)
        assert heard(systemd) == []
        assert caplog.text.count("stuck: outbox") == 1
        pulse.forget("outbox")
        await asyncio.sleep(60)
        assert heard(systemd) == ["WATCHDOG=1"] * 2
        feeding.cancel()
