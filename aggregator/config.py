"""The aggregator's configuration as strict structs. Reads its one file; opens neither broker nor database."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta

from drivers.api import ConfigError
from drivers.settings import Table, convert, load_yaml

Port = Annotated[int, Meta(ge=1, le=65535)]
Text = Annotated[str, Meta(min_length=1)]
Seconds = Annotated[float, Meta(gt=0, le=86400)]


class Tls(Table, frozen=True):
    """`mqtt.tls`: the authority that signed the broker's certificate, and our own pair where the broker asks for it."""

    ca: Text | None = None
    certificate: Text | None = None
    key: Text | None = None


class Mqtt(Table, frozen=True):
    """`mqtt`: the broker, by host and port or by the path of its Unix socket."""

    host: Text = "127.0.0.1"
    port: Port = 1883
    socket: Text | None = None
    version: Literal["5", "3.1.1"] = "5"
    client_id: Annotated[str, Meta(pattern="^[A-Za-z0-9_-]{1,64}$")] = "edge-aggregator"
    username: Text | None = None
    password_file: Text | None = None
    tls: Tls | None = None
    keepalive_s: Annotated[int, Meta(ge=5, le=3600)] = 60
    reconnect_max: Seconds = 60.0


class StoreSettings(Table, frozen=True):
    """`store`: where the database is; its folder is made when it is missing."""

    path: Text


class Http(Table, frozen=True):
    """`http`: where the page and the interface listen; 127.0.0.1 keeps both on this machine."""

    host: Text = "127.0.0.1"
    port: Port = 8080


class HalfHours(Table, frozen=True):
    """`half_hours`: how far back and how often half hours that are missing are asked for; `days: 0` never."""

    days: Annotated[int, Meta(ge=0, le=99)] = 99
    check_s: Annotated[float, Meta(ge=1, le=86400)] = 3600.0
    after_return_s: Annotated[float, Meta(ge=0.1, le=3600)] = 120.0


class Settings(Table, frozen=True):
    """The whole file."""

    store: StoreSettings
    mqtt: Mqtt = Mqtt()
    http: Http = Http()
    half_hours: HalfHours = HalfHours()
    accept_simulated: bool = False
    log: Literal["debug", "info", "warning", "error"] = "info"


def load(path: Path) -> Settings:
    """Return the checked configuration; raises ConfigError, whose key begins with the file."""
    try:
        settings = convert(load_yaml(path.read_text("utf-8")), Settings)
        _check(settings)
    except OSError as error:
        raise ConfigError(str(path), f"cannot be read: {error.strerror}", "name a file that is there") from error
    except UnicodeDecodeError as error:
        raise ConfigError(str(path), f"not UTF-8 at byte {error.start}", "save it as UTF-8") from error
    except ConfigError as error:
        raise ConfigError(f"{path}: {error.key}", error.problem, error.remedy, error.value) from error
    return settings


def _check(settings: Settings) -> None:
    mqtt = settings.mqtt
    if mqtt.password_file is not None and mqtt.username is None:
        raise ConfigError("mqtt.username", "missing, though password_file is given", "add it or drop password_file")
    if mqtt.tls is not None and (mqtt.tls.certificate is None) != (mqtt.tls.key is None):
        raise ConfigError("mqtt.tls", "certificate and key go together", "give both or neither")
    if mqtt.socket is not None and mqtt.tls is not None:
        raise ConfigError("mqtt.tls", "not possible over a Unix socket", "drop tls or socket")
