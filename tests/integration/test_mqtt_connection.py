"""One connection to a real broker, and to peers that are none."""

from __future__ import annotations

import asyncio
import contextlib
import random
import subprocess

import pytest

from drivers.api import ConfigError, LinkError, RefusedError, Sample
from edge_agent import outbox as outbox_module
from edge_agent import uplink as uplink_module
from edge_agent import wire
from edge_agent.clock import ClockSettings, SystemClock
from edge_agent.mqtt import Connection, MqttSettings, TlsSettings, Will
from edge_agent.outbox import Outbox
from edge_agent.uplink import Uplink

WILL = Will("gw/v1/house-001/state", b'{"state":"lost"}')
CLOCK = SystemClock(ClockSettings(trust="system"))


def connection(settings, name="house-001", secret=str):
    return Connection(name, settings, secret, WILL)


async def test_a_publish_is_answered_with_the_brokers_reason(broker):
    linked = connection(broker.settings())
    await linked.connect()
    assert await linked.publish("nobody/listens", b"x") == 0x10
    linked.subscribe(["somebody/listens"])
    assert await linked.publish("somebody/listens", b"x") == 0
    assert await linked.publish("somebody/listens", b"x", qos=0) == 0
    assert linked.receive_maximum == 20
    linked.close()
    with pytest.raises(LinkError):
        await linked.publish("somebody/listens", b"x")


async def test_a_lower_receive_maximum_is_respected(make_broker):
    broker = await make_broker("max_inflight_messages 2\n")
    linked = connection(broker.settings())
    await linked.connect()
    most = 0
    for _ in range(50):
        await linked.room()
        linked.publish("a", b"x")
        most = max(most, linked.in_flight)
    assert linked.receive_maximum == 2
    assert most == 2
    linked.close()


async def test_wrong_words_are_a_refusal_and_a_silent_socket_is_a_lost_link(make_broker, tmp_path):
    passwords = tmp_path / "passwords"
    passwords.write_text("")
    broker = await make_broker(f"allow_anonymous false\npassword_file {passwords}\n")
    for version in ("5", "3.1.1"):
        settings = broker.settings(version=version, username="u", password="the-password")
        with pytest.raises(RefusedError, match="check mqtt"):
            await connection(settings, secret=lambda name: f"content of {name}").connect()
    with pytest.raises(LinkError):
        await connection(MqttSettings(socket=str(tmp_path / "nothing"))).connect()
    with pytest.raises(LinkError):
        await connection(MqttSettings(host="127.0.0.1", port=1)).connect()


async def test_a_peer_that_never_answers_or_talks_nonsense_is_a_lost_link(tmp_path, monkeypatch):
    monkeypatch.setattr("edge_agent.mqtt.CONNECT_S", 0.5)

    async def mute(reader, writer):
        await reader.read()
        writer.close()

    async def noise(reader, writer):
        with contextlib.suppress(OSError):
            writer.write(bytes(range(256)) * 20)
            await writer.drain()
            await reader.read()
        writer.close()

    for number, peer in enumerate((mute, noise)):
        path = tmp_path / f"peer-{number}"
        async with await asyncio.start_unix_server(peer, path):
            with pytest.raises(LinkError):
                await connection(MqttSettings(socket=str(path))).connect()


async def test_a_connection_taken_over_ends_and_the_new_one_stays(broker, until):
    first, second = connection(broker.settings()), connection(broker.settings())
    await first.connect()
    await second.connect()
    await until(lambda: not first.is_alive)
    assert first.taken_over or first.dropped  # Mosquitto 2.0 drops it without a word
    second.close()
    assert not second.taken_over
    assert not second.dropped


async def test_a_name_taken_over_again_and_again_is_left_alone_for_minutes(tmp_path, broker, until, monkeypatch):
    monkeypatch.setattr(
        uplink_module, "Backoff", lambda *_: type("Soon", (), {"waits": lambda self: iter([0.05] * 99)})()
    )
    async with Outbox.open(tmp_path / "outbox.db", "house-001", CLOCK) as outbox:
        uplink = Uplink("house-001", broker.settings(), outbox, CLOCK)
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(uplink.run())
            for number in range(6):
                await until(lambda: uplink.statistics()["connected"])
                rival = connection(broker.settings())
                await rival.connect()
                await until(lambda: not uplink.statistics()["connected"])
                rival.close()
                assert uplink.statistics()["connects"] == number + 1
            await asyncio.sleep(0.5)
            assert uplink.statistics()["connects"] == 6
            await outbox.accept("meter", Sample("meter", 1, {"grid_power_w": 1}))
            assert outbox.statistics()["oldest_age_s"] is not None
            await uplink.stop("test")
            await running


async def test_a_batch_the_broker_cannot_take_is_set_aside_and_the_rest_goes(
    tmp_path, make_broker, make_town, until, monkeypatch
):
    monkeypatch.setattr(outbox_module, "CLOSE_S", 0.02)
    monkeypatch.setattr(uplink_module, "BACKFILL_AFTER_S", (0, 0.1))
    broker = await make_broker()
    await broker.kill()
    async with Outbox.open(tmp_path / "outbox.db", "house-001", CLOCK) as outbox:
        for number in range(6):
            text = random.Random(1).randbytes(7000).hex() if number == 3 else "short"
            await outbox.accept("meter", Sample("meter", number, {"number": number, "text": text}), {"n": number})
    small = await make_broker("max_packet_size 4000\nmessage_size_limit 4000\n")
    town = await make_town(small)
    async with Outbox.open(tmp_path / "outbox.db", "house-001", CLOCK) as outbox:
        uplink = Uplink("house-001", small.settings(max_payload=4000), outbox, CLOCK)
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(uplink.run())
            await until(lambda: outbox.statistics()["set_aside"] == 1)
            await until(lambda: {row[2] for row in town.rows()} == {0, 1, 2, 4, 5})
            await until(lambda: any(event.kind == "batch_set_aside" for event in town.events()))
            assert uplink.statistics()["connects"] == 1
            await uplink.stop("test")
            await running


def certificates(folder):
    def openssl(*arguments):
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    new = ["req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    openssl(*new, "-x509", "-keyout", "ca.key", "-out", "ca.crt", "-subj", "/CN=test ca", "-days", "2")
    for name in ("localhost", "house-001"):
        (folder / f"{name}.ext").write_text(f"subjectAltName=DNS:{name}\n")
        openssl(*new, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        openssl(
            "x509",
            "-req",
            "-in",
            f"{name}.csr",
            "-CA",
            "ca.crt",
            "-CAkey",
            "ca.key",
            "-CAcreateserial",
            "-out",
            f"{name}.crt",
            "-days",
            "2",
            "-extfile",
            f"{name}.ext",
        )


@pytest.mark.slow
async def test_a_certificate_is_the_gateways_name(tmp_path, make_broker, require, unused_tcp_port):
    require("openssl")
    certificates(tmp_path)
    await make_broker(
        f"listener {unused_tcp_port} 127.0.0.1\nallow_anonymous true\ncafile {tmp_path}/ca.crt\n"
        f"certfile {tmp_path}/localhost.crt\nkeyfile {tmp_path}/localhost.key\nrequire_certificate true\n"
        "use_identity_as_username true\n"
    )
    tls = TlsSettings(ca=str(tmp_path / "ca.crt"), certificate=str(tmp_path / "house-001.crt"), key="mqtt-key")
    settings = MqttSettings(host="localhost", port=unused_tcp_port, tls=tls)

    def secret(name):
        assert name == "mqtt-key"
        return (tmp_path / "house-001.key").read_text()

    linked = connection(settings, secret=secret)
    await linked.connect()
    assert await linked.publish("a", b"x") == 0x10
    linked.close()
    with pytest.raises(ConfigError, match="key fits"):
        connection(settings, secret=lambda _: (tmp_path / "localhost.key").read_text())
    bare = MqttSettings(host="localhost", port=unused_tcp_port, tls=TlsSettings(ca=str(tmp_path / "ca.crt")))
    with pytest.raises(LinkError):
        await connection(bare).connect()


@pytest.mark.parametrize(
    ("key", "settings"),
    [
        ("acknowledged_by", {"acknowledged_by": "broker", "version": "3.1.1"}),
        ("port", {"port": 0}),
        ("max_payload", {"max_payload": 10}),
        ("reconnect_max", {"reconnect_max": 0}),
        ("reconnect_max", {"reconnect_max": float("nan")}),
        ("password", {"password": "x"}),
        ("tls", {"tls": TlsSettings(certificate="a")}),
    ],
)
def test_settings_that_cannot_work_are_refused_by_their_key(key, settings):
    with pytest.raises(ConfigError) as caught:
        MqttSettings(**settings).check()
    assert caught.value.key == key


def test_the_settings_as_they_come_are_fine():
    MqttSettings().check()
    assert MqttSettings().max_payload == wire.MAX_PAYLOAD_BYTES
