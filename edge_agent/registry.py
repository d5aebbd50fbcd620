"""Find drivers, commands and checks by entry point, imported only when named. Holds no list of its own."""

from __future__ import annotations

import contextlib
import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module, metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from drivers.api import ConfigError, Context, Driver
from drivers.quantities import QUANTITIES, Quantity

DRIVERS = "edge_agent.drivers"
COMMANDS = "edge_agent.commands"
CHECKS = "edge_agent.checks"
QUANTITY_TABLES = "edge_agent.quantities"

_HELP = re.compile(r'(?m)^ *help = "(?P<text>[^"\\\n]+)"$')
_EXTRAS = {
    "serial": "route-b",
    "serial_asyncio_fast": "route-b",
    "pymodbus": "modbus",
    "bleak": "ble",
    "dbus_fast": "ble",
}
"""Which extra of this distribution brings a package that a driver of ours may miss."""


def names(group: str) -> list[str]:
    """Return the names offered in a group, imported or not."""
    return sorted({point.name for point in metadata.entry_points(group=group)})


def load(group: str, name: str) -> Any:
    """Import what an entry point names; raises ConfigError with the known names or with what to install."""
    points = {point.name: point for point in metadata.entry_points(group=group)}
    point = points.get(name)
    if point is None:
        near = difflib.get_close_matches(name, points, 1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ConfigError("driver", "no such driver is installed", f"{hint}known: {', '.join(sorted(points))}", name)
    try:
        return point.load()
    except ModuleNotFoundError as error:
        raise ConfigError("driver", f"needs the package {error.name!r}", _remedy(error.name, point), name) from error
    except (ImportError, AttributeError) as error:
        problem = f"cannot be imported: {error}"
        raise ConfigError("driver", problem, "install it again; it does not fit this Python", name) from error


def _remedy(missing: str | None, point: metadata.EntryPoint) -> str:
    distribution = point.dist.name if point.dist else "edge-gateway"
    extra = _EXTRAS.get((missing or "").partition(".")[0])
    if extra and distribution == "edge-gateway":
        return f"install it with: pip install 'edge-gateway[{extra}]'"
    return f"install it, or install {distribution} again with all it needs"


def summary(name: str) -> dict[str, str]:
    """Return a driver's name, what it is for (its module's SUMMARY), and the distribution it comes from."""
    point = next(point for point in metadata.entry_points(group=DRIVERS) if point.name == name)
    came_from = f"{point.dist.name} {point.dist.version}" if point.dist else "unknown"
    try:
        module = import_module(point.module)
        says = getattr(module, "SUMMARY", None) or (module.__doc__ or "").strip().partition("\n")[0]
    except ModuleNotFoundError as error:
        says = f"not usable here: {_remedy(error.name, point)}"
    except ImportError as error:
        says = f"not usable here: {error}"
    return {"driver": name, "says": says, "from": came_from}


def command_help(name: str) -> str:
    """Return the `help` that a command's source states, without importing it; the way to it where it states none."""
    point = next(point for point in metadata.entry_points(group=COMMANDS) if point.name == name)
    with contextlib.suppress(ImportError, OSError, ValueError):
        spec = find_spec(point.module)  # imports the packages above the module, which are empty here
        if spec and spec.origin and (stated := _HELP.search(Path(spec.origin).read_text("utf-8"))):
            return stated["text"]
    return f"see edge-agent {name} --help"


def build(table: Mapping[str, Any], context: Context) -> Driver:
    """Build the driver a configuration's table names, from the rest of the table; opens nothing; raises ConfigError."""
    named = table.get("driver")
    if not isinstance(named, str) or not named:
        raise ConfigError("driver", "missing", f"name one of: {', '.join(names(DRIVERS))}", named)
    create: Callable[[Context, Mapping[str, Any]], Driver] = load(DRIVERS, named)
    return create(context, {key: value for key, value in table.items() if key != "driver"})


def described(devices: Mapping[str, Mapping[str, Any]]) -> dict[str, Quantity]:
    """Return the quantities that drivers describe with their devices (`quantities`), as a register map may declare."""
    import msgspec  # noqa: PLC0415  (the general help needs this module, and must come at once)

    found: dict[str, Quantity] = {}
    for device in devices.values():
        own = device.get("quantities")
        for name, entry in own.items() if isinstance(own, Mapping) else ():
            with contextlib.suppress(msgspec.ValidationError, TypeError):
                found[name] = msgspec.convert({**entry, "name": name}, Quantity)
    return found


def vocabulary(drivers: Iterable[str]) -> dict[str, Quantity]:
    """Return our quantities and those that the named drivers bring along (entry points of the same name)."""
    known = dict(QUANTITIES)
    points = {point.name: point for point in metadata.entry_points(group=QUANTITY_TABLES)}
    for name in sorted(set(drivers) & set(points)):
        for quantity in points[name].load():
            known.setdefault(quantity.name, quantity)  # the shared vocabulary cannot be redefined from outside
    return known
