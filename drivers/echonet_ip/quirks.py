"""What makers do beside the Appendix, as data: configs/echonet/*.yaml to quirks. Reads those files and nothing else."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal, InvalidOperation
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated

from msgspec import Meta, field

from drivers.api import ConfigError
from drivers.echonet_ip.devices import CLASSES
from drivers.echonet_ip.properties import DeviceClass, Property, Type, extended
from drivers.settings import Table, convert, load_yaml

LOCAL = Path("/etc/edge-gateway/echonet")
"""For a new device without a new release; its files hide those of the same name that came with the release."""
BESIDE = Path(__file__).resolve().parents[2] / "configs" / "echonet"
"""A checkout keeps its quirks here."""
INSTALLED = Path(sys.prefix) / "share" / "edge-gateway" / "echonet"
"""The wheel puts them here."""
SYSTEM = Path("/usr/share/edge-gateway/echonet")
"""The Debian package puts them here."""

MAX_FILE_BYTES = 256 * 1024
MAX_FILES = 200

_EPC = re.compile(r"^[89A-F][0-9A-F]$")

Hex6 = Annotated[str, Meta(pattern="^[0-9A-F]{6}$")]
Count = Annotated[int, Meta(ge=1, le=60)]


class _PropertyTable(Table, frozen=True, forbid_unknown_fields=True):
    epc: str
    name: str
    type: Type = "u8"
    factor: str = "1"
    at: Annotated[int, Meta(ge=0, le=250)] = 0
    size: Annotated[int, Meta(ge=1, le=255)] | None = None
    lowest: int | None = None
    highest: int | None = None
    states: dict[str, str] = field(default_factory=dict)


class _QuirkTable(Table, frozen=True, forbid_unknown_fields=True):
    device_class: str
    products: list[str] = field(default_factory=lambda: ["*"])
    properties: list[_PropertyTable] = field(default_factory=list)
    ignore: list[str] = field(default_factory=list)
    most_properties: Count | None = None
    timeout_s: Annotated[float, Meta(ge=0.5, le=60)] | None = None


class _FileTable(Table, frozen=True, forbid_unknown_fields=True):
    maker: Hex6
    maker_name: str
    source: str
    quirks: list[_QuirkTable]


@dataclass(frozen=True, slots=True)
class Quirk:
    """What is special about one class of one maker's products; `products` are patterns for the product code (8C)."""

    maker: str
    maker_name: str
    device_class: str
    products: tuple[str, ...]
    properties: tuple[Property, ...] = ()
    ignored: frozenset[int] = frozenset()
    most_properties: int | None = None
    timeout_s: float | None = None

    def fits(self, device_class: str, maker: str, product: str) -> bool:
        """Say whether a device is one of those meant."""
        return (
            (self.device_class, self.maker) == (device_class, maker)
            and any(fnmatchcase(product, pattern) for pattern in self.products)
        )  # fmt: skip

    def applied(self, device_class: DeviceClass) -> DeviceClass:
        """Return the class as this maker understands it."""
        return replace(
            device_class,
            properties=extended(device_class.properties, self.properties, self.ignored),
            lists=tuple(one for one in device_class.lists if one.epc not in self.ignored),
        )


def parse(content: str) -> tuple[Quirk, ...]:
    """Return the quirks that a YAML text describes; raises ConfigError."""
    table = convert(load_yaml(content), _FileTable)
    return tuple(_quirk(table, one, f"quirks.{index}") for index, one in enumerate(table.quirks))


def _quirk(table: _FileTable, one: _QuirkTable, where: str) -> Quirk:
    if one.device_class not in CLASSES:
        known = ", ".join(CLASSES)
        raise ConfigError(f"{where}.device_class", "no class we read", f"one of {known}", one.device_class)
    return Quirk(
        table.maker,
        table.maker_name,
        one.device_class,
        tuple(one.products),
        tuple(_property(each, f"{where}.properties.{index}") for index, each in enumerate(one.properties)),
        frozenset(_epc(each, f"{where}.ignore") for each in one.ignore),
        one.most_properties,
        one.timeout_s,
    )


def _property(one: _PropertyTable, where: str) -> Property:
    try:
        factor = Decimal(one.factor)
        states = {int(code, 16): word for code, word in one.states.items()}
    except (InvalidOperation, ValueError) as error:
        raise ConfigError(where, "no number", "write factors as '0.001' and states as hexadecimal: word") from error
    if not factor.is_finite() or not factor:
        raise ConfigError(f"{where}.factor", "no number to multiply by", "a finite number other than 0", one.factor)
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,63}", one.name):
        raise ConfigError(f"{where}.name", "no quantity's name", "snake case with its unit", one.name)
    made = Property(
        _epc(one.epc, f"{where}.epc"),
        one.name,
        one.type,
        factor,
        one.at,
        one.size or 0,
        one.lowest,
        one.highest,
        states,
    )
    if made.bytes < Property(made.epc, made.name, made.type, at=made.at).bytes:
        raise ConfigError(f"{where}.size", "the value does not fit", "bytes of the whole property", one.size)
    return made


def _epc(text: str, where: str) -> int:
    if not _EPC.match(text):
        raise ConfigError(where, "no property", "two hexadecimal digits from 80 to FF, quoted", text)
    return int(text, 16)


def folders(own: str | None = None) -> tuple[Path, ...]:
    """Return where quirks are looked for: the configured folder, local, checkout, wheel, system."""
    return (*((Path(own),) if own else ()), LOCAL, BESIDE, INSTALLED, SYSTEM)


def load(own: str | None = None) -> tuple[Quirk, ...]:
    """Return all quirks that can be found; a file hides those of its name further on; raises ConfigError."""
    files: dict[str, Path] = {}
    for folder in folders(own):
        for path in sorted(folder.glob("*.yaml"))[:MAX_FILES]:
            files.setdefault(path.name, path)
    return tuple(quirk for path in files.values() for quirk in _read(path))


def _read(path: Path) -> tuple[Quirk, ...]:
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise ConfigError("", f"longer than {MAX_FILE_BYTES} bytes", "check that this is a file of quirks")
        return parse(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError("quirks", f"{path} cannot be read: {error}", "check the file") from error
    except ConfigError as error:
        raise ConfigError("quirks", f"{path}: {error}", "mend the file") from error


def understood(device_class: DeviceClass, quirk: Quirk | None) -> DeviceClass:
    """Return a class as a device means it."""
    return device_class if quirk is None else quirk.applied(device_class)


def fitting(quirks: Iterable[Quirk], device_class: str, who: Mapping[str, str]) -> Quirk | None:
    """Return the first quirk that fits a device's maker (8A) and product code (8C), or None."""
    return next((one for one in quirks if one.fits(device_class, who.get("maker", ""), who.get("product", ""))), None)
