"""One MQTT connection for asyncio, on paho. Decides nothing about what is sent, kept or sent again."""

from __future__ import annotations

from typing import Literal

from drivers.api import ConfigError
from drivers.settings import Table


class TlsSettings(Table, frozen=True):
    """`mqtt.tls:`; files by path, the private key as the name of a secret that holds PEM text."""

    ca: str | None = None
    certificate: str | None = None
    key: str | None = None


class MqttSettings(Table, frozen=True):
    """`mqtt:`; a broker at `host`:`port` or behind the Unix socket `socket`."""

    host: str = "127.0.0.1"
    port: int = 1883
    socket: str | None = None
    version: Literal["5", "3.1.1"] = "5"
    username: str | None = None
    password: str | None = None
    tls: TlsSettings | None = None
    keepalive_s: int = 30
    reconnect_max: float = 60.0
    max_payload: int = 65536
    acknowledged_by: Literal["aggregator", "broker"] = "aggregator"

    def check(self) -> None:
        """Raise ConfigError for values that are possible one by one and wrong together, or out of range."""
        if self.acknowledged_by == "broker" and self.version == "3.1.1":
            raise ConfigError(
                "acknowledged_by",
                "MQTT 3.1.1 reports a refused publish as success, so a broker's word would lose data",
                "set version: '5', or acknowledged_by: aggregator",
                self.acknowledged_by,
            )
        for key, least, most in (
            ("port", 1, 65535),
            ("keepalive_s", 5, 3600),
            ("reconnect_max", 0.1, 3600),
            ("max_payload", 1024, 1024 * 1024),
        ):
            value = getattr(self, key)
            if not least <= value <= most:
                raise ConfigError(key, f"not within {least} to {most}", "correct the value", value)
        if self.password is not None and self.username is None:
            raise ConfigError("password", "given without username", "add username", self.password)
        if self.tls and (self.tls.certificate is None) != (self.tls.key is None):
            raise ConfigError("tls", "certificate and key go together", "give both, or neither")
