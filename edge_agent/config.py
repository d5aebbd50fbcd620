"""The agent's configuration: one YAML file into strict tables, secrets by name. Opens no device and no network."""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from drivers.api import Awaits, Clock, ConfigError, Context, CredentialsError, Driver, Warns
from drivers.settings import MAX_TEXT_BYTES, Table, convert, load_yaml
from edge_agent import registry, wire
from edge_agent.clock import ClockSettings, SimulationSettings
from edge_agent.logs import SECRETS, LogSettings
from edge_agent.mqtt import MqttSettings
from edge_agent.outbox import OutboxSettings

MAX_SECRET_BYTES = 64 * 1024
AGENT = "gateway"
"""The agent's own name where drivers have theirs: in events, in the outbox and in the drivers' memory."""
SYSTEM_RUNTIME_DIRECTORY = "/run/edge-agent"
"""Where the shipped unit's agent listens; a command typed by a person looks there too."""

SYSTEM_CREDENTIALS = Path("/etc/credstore")
"""Where systemd finds what the shipped unit loads (`LoadCredential=NAME:edge-gateway.NAME`)."""
_SECRET_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}")
_DRIVER_NAME = re.compile(r"[a-z][a-z0-9_-]{0,31}")
_DEVICE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class Gateway(Table, frozen=True):
    """`gateway:` which place this box serves; the id outlives the box."""

    id: str
    site: str = ""
    area: str = ""


class Roles(Table, frozen=True):
    """`roles:` which device measures the grid, the PV and the battery."""

    grid: str | None = None
    pv: str | None = None
    battery: str | None = None

    def named(self) -> dict[str, str]:
        """Return role → device for the roles that are given."""
        return {role: device for role in self.__struct_fields__ if (device := getattr(self, role)) is not None}


class Document(Table, frozen=True):
    """The whole file; each driver's table stays untyped here, its driver checks it."""

    gateway: Gateway
    state_directory: str
    mqtt: MqttSettings
    runtime_directory: str | None = None
    secrets_directory: str | None = None
    clock: ClockSettings = ClockSettings()
    simulation: SimulationSettings | None = None
    outbox: OutboxSettings = OutboxSettings()
    roles: Roles = Roles()
    drivers: dict[str, dict[str, Any]] = msgspec.field(default_factory=dict)
    log: LogSettings = LogSettings()


_FIELDS = msgspec.structs.fields(Document)
_ANY_KEY = msgspec.defstruct(
    "_AnyKey", [(field.name, field.type, None) for field in _FIELDS], bases=(Table,), frozen=True
)
"""A file of which any part may be missing, to convert one key after the other."""
_STAND_INS: dict[str, Any] = {"gateway": Gateway("stand-in"), "state_directory": ".", "mqtt": MqttSettings()}


class MissingSecretError(CredentialsError):
    """A secret is not on this machine; a configuration can be right without it, a running driver cannot."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something `check` has to say; a warning leaves the configuration usable."""

    error: ConfigError
    warning: bool = False


@dataclass(frozen=True, slots=True)
class Configuration:
    """A file that was read: its document and a fingerprint of its content."""

    path: Path
    document: Document
    hash: str

    @property
    def state_directory(self) -> Path:
        """Where the outbox lives."""
        return Path(self.document.state_directory)

    @property
    def runtime_directory(self) -> Path:
        """Where this process would put its control socket."""
        from_systemd = os.environ.get("RUNTIME_DIRECTORY", "").partition(":")[0]
        return Path(self.document.runtime_directory or from_systemd or self.document.state_directory)

    @property
    def sockets(self) -> list[Path]:
        """Where an agent of this configuration may listen, the likeliest first."""
        folders = [self.runtime_directory, Path(SYSTEM_RUNTIME_DIRECTORY), self.state_directory]
        return [folder / f"{self.document.gateway.id}.sock" for folder in dict.fromkeys(folders)]

    @property
    def outbox_path(self) -> Path:
        """Where rows wait for the aggregator."""
        return self.state_directory / "outbox.db"

    def secret(self, name: str) -> str:
        """Return a secret's text from $CREDENTIALS_DIRECTORY or `secrets_directory`; raises MissingSecretError.

        A command that a person types has nothing from systemd: it looks where systemd would.
        """
        try:
            return read_secret(name, secret_folders(self.document.secrets_directory))
        except MissingSecretError:
            if "CREDENTIALS_DIRECTORY" in os.environ:
                raise
            if (text := _secret_of_the_unit(name)) is None:
                raise
            return text

    def build(self, name: str, clock: Clock, secret: Callable[[str], str] | None = None) -> Driver:
        """Build one driver and check the names of its devices; opens nothing; raises ConfigError below its table."""
        driver = registry.build(self.document.drivers[name], Context(name, clock, secret or self.secret))
        for device in driver.devices:
            if not _DEVICE_NAME.fullmatch(device):
                raise ConfigError("devices", "not a name a topic can carry", "use letters, digits, - _ .", device)
        return driver


def load(path: Path) -> Configuration:
    """Read a file; raises ConfigError for the first mistake that concerns more than one driver."""
    configuration, errors = _inspect(path)
    if errors:
        raise errors[0]
    return configuration


def _inspect(path: Path) -> tuple[Configuration, list[ConfigError]]:
    """Read a file as far as it is right: a table with a mistake gives an error and is replaced by its default."""
    table = _read(path)
    sound, errors = _tables(table)
    errors += [error for error in map(_mistake, _examinations(sound)) if error is not None]
    if errors:  # fit to look at the drivers, not to run: no role can be judged when a driver may be missing
        whole = "drivers" in sound or "drivers" not in table
        sound = {**_STAND_INS, **sound} if whole else {**_STAND_INS, **sound, "roles": Roles()}
        return Configuration(path, Document(**sound), ""), errors
    canonical = msgspec.json.encode(msgspec.to_builtins(table, str_keys=True), order="sorted")
    return Configuration(path, Document(**sound), hashlib.sha256(canonical).hexdigest()[:16]), []


def _read(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_TEXT_BYTES + 1)
    except OSError as error:
        raise ConfigError("", f"cannot be read ({error.strerror})", "check the file's name and its rights") from error
    try:
        return load_yaml(raw.decode())
    except UnicodeDecodeError as error:
        raise ConfigError("", f"not UTF-8 text at byte {error.start}", "save the file as UTF-8") from error


def _tables(table: Mapping[str, Any]) -> tuple[dict[str, Any], list[ConfigError]]:
    """Convert each key of the file by itself; returns those that are right, and an error for each other."""
    sound: dict[str, Any] = {}
    errors = []
    for key, value in table.items():
        try:
            sound[key] = getattr(convert({key: value}, _ANY_KEY), key)
        except ConfigError as error:
            errors.append(error)
    missing = [field.name for field in _FIELDS if field.required and field.name not in table]
    return sound, errors + [ConfigError(name, "missing", "add it") for name in missing]


def _examinations(sound: Mapping[str, Any]) -> Iterator[Callable[[], object]]:
    """Yield what is to be asked of the tables that could be converted; each may raise ConfigError."""
    if "gateway" in sound:
        yield partial(_check_gateway, sound["gateway"])
    for key in ("state_directory", "runtime_directory", "secrets_directory"):
        yield partial(_check_folder, key, sound.get(key))
    for key in ("mqtt", "outbox"):
        if key in sound:
            yield partial(_below, key, sound[key].check)
    if sound.get("simulation") is not None:
        yield partial(_below, "simulation", sound["simulation"].timescale)
    for name in sound.get("drivers", ()):
        yield partial(_check_driver_name, name)


def _mistake(examine: Callable[[], object]) -> ConfigError | None:
    try:
        examine()
    except ConfigError as error:
        return error
    return None


def _below(section: str, examine: Callable[[], object]) -> None:
    """Let a section check itself and place its error."""
    try:
        examine()
    except ConfigError as error:
        raise error.under(section) from error


def _check_gateway(gateway: Gateway) -> None:
    if not wire.is_gateway_id(gateway.id):
        raise ConfigError(
            "gateway.id",
            "not a gateway id" if gateway.id != "all" else "reserved, it addresses every gateway",
            "use 3 to 32 small letters, digits and -, beginning with a letter or digit, such as house-001",
            gateway.id,
        )
    if gateway.area and not re.fullmatch(r"[0-9A-Za-z-]{1,32}", gateway.area):
        remedy = 'use the municipality\'s seven-digit code, in quotes, such as "0720400"'
        raise ConfigError("gateway.area", "not an area code", remedy, gateway.area)


def _check_folder(key: str, folder: str | None) -> None:
    if key == "state_directory" and folder is not None and not folder.strip():
        raise ConfigError(key, "empty", "name a folder, such as /var/lib/edge-agent")
    if "\0" in (folder or ""):
        raise ConfigError(key, "holds a NUL character", "name a folder")


def _check_driver_name(name: str) -> None:
    if not _DRIVER_NAME.fullmatch(name) or name == AGENT:
        remedy = f"use small letters, digits, - and _, not {AGENT!r}"
        raise ConfigError(f"drivers.{name}", "not a name for a driver", remedy)


def check_file(path: Path, clock: Clock) -> list[Finding]:
    """Return what is wrong with a file, one mistake of each table; raises ConfigError when it is no YAML at all."""
    configuration, errors = _inspect(path)
    return [Finding(error) for error in errors] + check(configuration, clock)


def check(configuration: Configuration, clock: Clock) -> list[Finding]:
    """Return all that is wrong with drivers and roles, by building every driver; opens nothing."""
    findings: list[Finding] = []
    owners: dict[str, str] = {}
    whole = True
    for name in configuration.document.drivers:
        try:
            driver = configuration.build(name, clock)
        except MissingSecretError as error:
            findings.append(Finding(error.under(f"drivers.{name}"), warning=True))
            whole = False
            continue
        except ConfigError as error:
            findings.append(Finding(error.under(f"drivers.{name}")))
            whole = False
            continue
        if isinstance(driver, Awaits) and (awaited := driver.awaits()) is not None:
            findings.append(Finding(_waiting(awaited).under(f"drivers.{name}"), warning=True))
        if isinstance(driver, Warns):
            findings += [Finding(error.under(f"drivers.{name}"), warning=True) for error in driver.warnings()]
        findings += [Finding(error.under(f"drivers.{name}")) for error in claim(name, driver.devices, owners)]
    if whole:
        findings += [Finding(error) for error in role_errors(configuration.document.roles, owners)]
    return findings


def _waiting(awaited: CredentialsError) -> CredentialsError:
    problem = f"認証情報待ち / waiting for credentials: {awaited.problem}"
    return type(awaited)(awaited.key, problem, awaited.remedy, awaited.value)


def claim(name: str, devices: tuple[str, ...], owners: dict[str, str]) -> list[ConfigError]:
    """Enter a driver's devices into `owners`; returns an error for each name that is already taken."""
    errors = []
    for device in devices:
        if device in owners:
            problem = f"the device name is taken by drivers.{owners[device]}"
            errors.append(ConfigError("", problem, "give one of the two another name", device))
        else:
            owners[device] = name
    return errors


def role_errors(roles: Roles, owners: Mapping[str, str]) -> list[ConfigError]:
    """Return an error for each role that names no device of this configuration."""
    known = ", ".join(sorted(owners)) or "none is configured"
    return [
        ConfigError(f"roles.{role}", "no such device", f"name one of: {known}", device)
        for role, device in roles.named().items()
        if device not in owners
    ]


def secret_folders(secrets_directory: str | None, environment: Mapping[str, str] = os.environ) -> list[Path]:
    """Return where secrets are looked for: what systemd hands over first, then the configuration's folder."""
    return [Path(folder) for folder in (environment.get("CREDENTIALS_DIRECTORY"), secrets_directory) if folder]


def read_secret(name: str, folders: list[Path]) -> str:
    """Return a secret's text without its last line end, and hide it from all logs; raises MissingSecretError."""
    if not _SECRET_NAME.fullmatch(name):
        raise ConfigError("", "not the name of a secret", "use a file's name without a folder", name)
    for folder in folders:
        try:
            with (folder / name).open("rb") as file:
                raw = file.read(MAX_SECRET_BYTES + 1)
        except FileNotFoundError:
            continue
        except OSError as error:
            problem = f"the secret cannot be read from {folder} ({error.strerror})"
            raise MissingSecretError("", problem, "check the file's owner and rights", name) from error
        return _secret_text(name, raw)
    if not folders:
        raise MissingSecretError("", "the secret has no folder to be in", "set secrets_directory", name)
    places = " or ".join(map(str, folders))
    raise MissingSecretError("", f"the secret is not in {places}", "put it into a file of that name there", name)


def _secret_of_the_unit(name: str) -> str | None:
    """Return what the shipped unit would get, None where there is nothing; raises MissingSecretError without rights."""
    try:
        return read_secret(f"edge-gateway.{name}", [SYSTEM_CREDENTIALS])
    except MissingSecretError as error:
        if isinstance(error.__cause__, PermissionError):
            raise MissingSecretError("", error.problem, "run the same command with sudo", name) from error
        return None


def store_secret(name: str, text: str, secrets_directory: str | None) -> Path:
    """Write a secret for the agent's next start, whole or not at all, for its owner alone; raises OSError."""
    if not _SECRET_NAME.fullmatch(name):
        raise ConfigError("", "not the name of a secret", "use a file's name without a folder", name)
    if secrets_directory is None:
        folder, file = SYSTEM_CREDENTIALS, f"edge-gateway.{name}"
    else:
        folder, file = Path(secrets_directory), name
    if not folder.exists():
        folder.mkdir(parents=True, mode=0o700)
    unfinished = folder / f".{file}.{os.getpid()}"
    try:
        descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as written:
            if os.geteuid() == 0:  # typed with sudo; the agent must still be able to read its own folder
                owner = folder.stat()
                os.fchown(written.fileno(), owner.st_uid, owner.st_gid)
            written.write(text + "\n")
            written.flush()
            os.fsync(written.fileno())
        unfinished.replace(folder / file)
    except OSError:
        unfinished.unlink(missing_ok=True)
        raise
    _sync(folder)
    return folder / file


def _sync(folder: Path) -> None:
    """Make a new name in a folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _secret_text(name: str, raw: bytes) -> str:
    try:
        text = raw.decode().rstrip("\r\n")
    except UnicodeDecodeError:
        text = ""
    if not text or len(raw) > MAX_SECRET_BYTES:
        raise MissingSecretError("", "the file is empty, too long or not text", "write the secret alone into it", name)
    SECRETS.add(text)
    return text


def exposed_secrets(secrets_directory: str | None) -> list[Path]:
    """Return the files of the secrets folder that others than their owner can read."""
    if secrets_directory is None:
        return []
    exposed = []
    try:
        for path in sorted(Path(secrets_directory).iterdir()):
            mode = path.stat().st_mode
            if stat.S_ISREG(mode) and mode & 0o077:
                exposed.append(path)
    except OSError:
        pass  # a folder that is not there is reported by the driver that needs a secret from it
    return exposed
