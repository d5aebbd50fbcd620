"""The shipped broker configuration: who may say and hear what, asked of a real Mosquitto."""

from __future__ import annotations

import subprocess
import threading

import paho.mqtt.client as paho
import pytest

PASSWORD = "word"
USERS = ("house-001", "house-002", "edge-aggregator", "operator")


CERTIFICATES = ("cafile", "certfile", "keyfile", "require_certificate", "use_identity_as_username")


@pytest.fixture
def settings(require, root, tmp_path) -> str:
    """The shipped configuration with another place to listen, and passwords in place of certificates."""
    passwords = tmp_path / "passwords"
    passwords.touch(mode=0o600)
    for user in USERS:
        subprocess.run([require("mosquitto_passwd"), "-b", passwords, user, PASSWORD], check=True, capture_output=True)
    acl = tmp_path / "acl"
    acl.write_text((root / "configs/mosquitto/edge-gateway.acl").read_text())
    acl.chmod(0o600)
    shipped = (root / "configs/mosquitto/mosquitto.conf").read_text().splitlines()
    elsewhere = ("listener", "acl_file", "persistence", "per_listener_settings", *CERTIFICATES)
    kept = [line for line in shipped if line and not line.startswith(("#", *elsewhere))]
    assert len(kept) == 7
    return "\n".join([*kept, f"password_file {passwords}", f"acl_file {acl}"]) + "\n"


@pytest.fixture
async def broker(make_broker, settings):
    """A broker with the shipped rights."""
    return await make_broker(settings)


class Client:
    """One user at the broker: what it was told about its publishing, and what it heard."""

    def __init__(self, broker, user: str, listens_to: str = "#") -> None:
        self.heard: list[str] = []
        self._ready = threading.Event()
        self._client = paho.Client(
            paho.CallbackAPIVersion.VERSION2, client_id=user, protocol=paho.MQTTv5, transport="unix"
        )
        self._codes: dict[int, int] = {}
        self._told = threading.Condition()
        self._client.username_pw_set(user, PASSWORD)
        self._client.on_connect = lambda client, *_: client.subscribe(listens_to, 1)
        self._client.on_subscribe = lambda *_: self._ready.set()
        self._client.on_message = lambda _client, _data, message: self.heard.append(message.topic)
        self._client.on_publish = self._published
        self._client.connect(str(broker.socket), 1)
        self._client.loop_start()
        assert self._ready.wait(10)

    def say(self, topic: str) -> int:
        """Publish and return the broker's reason code."""
        number = self._client.publish(topic, b"{}", qos=1).mid
        with self._told:
            assert self._told.wait_for(lambda: number in self._codes, 10)
            return self._codes[number]

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def _published(self, _client, _data, number, reason, _properties) -> None:
        with self._told:
            self._codes[number] = reason.value
            self._told.notify_all()


NOT_AUTHORIZED = 0x87


async def test_a_gateway_speaks_for_itself_alone(broker) -> None:
    gateway = Client(broker, "house-001")
    try:
        assert gateway.say("gw/v1/house-001/telemetry") != NOT_AUTHORIZED
        for topic in ("gw/v1/house-002/telemetry", "gwc/v1/house-001/ack", "gwc/v1/all/alert/0720400", "anything"):
            assert gateway.say(topic) == NOT_AUTHORIZED, topic
    finally:
        gateway.close()


async def test_an_operator_sees_everything_but_passages_and_tags(broker, until) -> None:
    operator, aggregator, gateway = (Client(broker, user) for user in ("operator", "edge-aggregator", "house-001"))
    ordered = ["gwc/v1/house-001/ack", "gwc/v1/house-001/command/read", "gwc/v1/all/alert/0720400"]
    said = [f"gw/v1/house-001/{name}" for name in ("passages", "backfill", "telemetry", "now/meter", "health")]
    try:
        for topic in said:
            gateway.say(topic)
        for topic in ("gwc/v1/house-001/tags", *ordered):
            assert aggregator.say(topic) != NOT_AUTHORIZED, topic
        assert operator.say("gwc/v1/house-001/command/read") == NOT_AUTHORIZED
        await until(lambda: "gwc/v1/house-001/tags" in gateway.heard, within_s=20)
        await until(lambda: {*said} <= {*aggregator.heard} and {*ordered} <= {*operator.heard}, within_s=20)
    finally:
        for client in (operator, aggregator, gateway):
            client.close()
    assert {*operator.heard} == {*said[2:], *ordered}


async def test_a_neighbours_acknowledgements_are_not_heard(broker, until) -> None:
    aggregator, gateway, neighbour = (Client(broker, user) for user in ("edge-aggregator", "house-001", "house-002"))
    try:
        aggregator.say("gwc/v1/house-001/ack")
        aggregator.say("gwc/v1/all/alert/0720400")
        await until(lambda: len(gateway.heard) == 2 and neighbour.heard, within_s=20)
    finally:
        for client in (aggregator, gateway, neighbour):
            client.close()
    assert neighbour.heard == ["gwc/v1/all/alert/0720400"]
