"""Find register maps by name in folders. Reads map files and nothing else; checks no register."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from drivers.api import ConfigError
from drivers.modbus.control_table import parse_control
from drivers.modbus.register_map import RegisterMap, parse

LOCAL = Path("/etc/edge-gateway/modbus")
"""For a new device without a new release; its maps hide those that came with the release."""
BESIDE = Path(__file__).resolve().parents[2] / "configs" / "modbus"
"""A checkout keeps its maps here."""
INSTALLED = Path(sys.prefix) / "share" / "edge-gateway" / "modbus"
"""The wheel puts them here."""
SYSTEM = Path("/usr/share/edge-gateway/modbus")
"""The Debian package puts them here, too, where people look for them."""

MAX_MAP_BYTES = 256 * 1024
NAME = re.compile(r"^[a-z0-9][a-z0-9_]{0,63}$")


def folders(own: str | None = None) -> tuple[Path, ...]:
    """Return where maps are looked for, first match wins: the configured folder, local, checkout, wheel, system."""
    return (*((Path(own),) if own else ()), LOCAL, BESIDE, INSTALLED, SYSTEM)


def known(own: str | None = None) -> tuple[str, ...]:
    """Return the names of all maps that can be found."""
    return tuple(sorted({path.stem for folder in folders(own) for path in folder.glob("*.yaml")}))


def find(name: str, own: str | None = None) -> RegisterMap:
    """Return a map by its name; raises ConfigError, without a key, when there is none or it is wrong."""
    path = next((path for folder in folders(own) if (path := folder / f"{name}.yaml").is_file()), None)
    if not NAME.match(name) or path is None:
        raise ConfigError("", "no such register map", f"known maps: sunspec, {', '.join(known(own))}", name)
    try:
        if path.stat().st_size > MAX_MAP_BYTES:
            raise ConfigError("", f"{path} is longer than {MAX_MAP_BYTES} bytes", "check that this is a register map")
        found = parse(name, path.read_text(encoding="utf-8"))
        parse_control(found)  # also where nothing commands the device: a map is right as a whole or not at all
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError("", f"{path} cannot be read: {error}", "check the file") from error
    except ConfigError as error:
        raise ConfigError("", f"{path}: {error}", "mend the map", name) from error
    return found
