"""SunSpec: find the base, walk the chain of models, turn the known ones into points. Pure: sends nothing.

`discover` is a generator that asks for reads and is sent their answers, so the same walk serves a driver, a scan and a
test. The device's own lengths are followed, never the specification's: SolarEdge's common model has 65 registers where
the specification says 66.
"""

from __future__ import annotations

import struct
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass

from drivers.api import MalformedError
from drivers.modbus.planner import Request
from drivers.modbus.register_map import RegisterMap
from drivers.modbus.registers import text
from drivers.modbus.sunspec_points import LIMITS, NAMEPLATE, PORTS, Builder, Model, port_types

MARKER = b"SunS"
BASES = (40000, 0, 50000)
END_MODEL = 0xFFFF
MAX_MODELS = 64
"""Homes have about fifteen; a longer chain is a loop or noise."""


class NotSunSpecError(MalformedError):
    """No marker at any of the bases."""


_COMMON_TEXTS = {"maker": (2, 16), "model": (18, 16), "version": (42, 8), "serial": (50, 16)}

Walk = Generator[Request, bytes | None, "Chain"]


@dataclass(frozen=True, slots=True)
class Chain:
    """What a SunSpec device says it is: its models in order and the texts of its first common model."""

    models: tuple[Model, ...]
    identity: Mapping[str, str]
    port_types: tuple[int, ...] = ()
    der_type: int | None = None

    def register_map(self) -> RegisterMap:
        """Return the points of the models that homes have; raises MalformedError when there is none."""
        maker = self.identity.get("maker", "SunSpec")
        builder = Builder(self.models, maker, self.port_types, self.der_type)
        derived = builder.build()
        points = tuple(builder.points.values())
        if not points:
            known = ", ".join(str(model.id) for model in self.models) or "none"
            raise MalformedError(f"no model of this chain is understood (found: {known})")
        declared = builder.declared
        return RegisterMap("sunspec", maker, points, limits=LIMITS, quantities=declared, derived=derived)


def discover(bases: Sequence[int] = BASES) -> Walk:
    """Ask for reads of holding registers and be sent their bytes (None: refused or senseless); returns the chain.

    Raises NotSunSpecError, or MalformedError for a chain that loops or runs off the register space.
    """
    for base in bases:
        if (yield Request("holding", base, 2)) == MARKER:
            return (yield from _walk(base + 2))
    raise NotSunSpecError(f"no SunSpec marker at {', '.join(map(str, bases))}")


def _walk(address: int) -> Walk:
    models: list[Model] = []
    identity: dict[str, str] = {}
    ports: tuple[int, ...] = ()
    der_type: int | None = None
    while len(models) < MAX_MODELS and address + 2 <= 0x10000:
        header = yield Request("holding", address, 2)
        if header is None or len(header) != 4:
            break  # SMA ends its chain without an end model: the next header is simply refused
        model = Model(*_header(header, address))
        if model.id == END_MODEL:
            break
        if model.length == 0 or model.end > 0x10000:
            raise MalformedError(f"model {model.id} at {address} claims {model.length} registers")
        models.append(model)
        if model.id == 1 and not identity:
            identity = yield from _identify(model)
        if model.id == PORTS and not ports:
            data = yield Request("holding", model.address, min(model.length + 2, LIMITS.max_registers))
            ports = tuple(port_types(model, data or b""))
        if model.id == NAMEPLATE and der_type is None:
            data = yield Request("holding", model.address + 2, 1)
            der_type = int.from_bytes(data, "big") if data is not None and len(data) == 2 else None
        address = model.end
    else:
        raise MalformedError(f"the chain of models does not end within {MAX_MODELS} models")
    return Chain(tuple(models), identity, ports, der_type)


def _header(data: bytes, address: int) -> tuple[int, int, int]:
    model_id, length = struct.unpack(">2H", data)
    return model_id, address, length


def _identify(common: Model) -> Generator[Request, bytes | None, dict[str, str]]:
    """Read maker, model, version and serial number of a common model in one read."""
    data = yield Request("holding", common.address, min(common.length + 2, LIMITS.max_registers))
    if data is None:
        return {}
    texts = {name: text(data[2 * at : 2 * (at + words)]) for name, (at, words) in _COMMON_TEXTS.items()}
    return {name: shown for name, shown in texts.items() if shown}
