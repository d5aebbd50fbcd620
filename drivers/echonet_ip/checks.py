"""What an installer wants to know of home devices, each failure with its remedy. Opens nothing, asks nothing.

`check` reads what the driver says of itself (`status`), so that it says the same through a running agent.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

from drivers.api import Context

Step: TypeAlias = tuple[str, str, str, str]
"""Name, verdict (ok, warning or error), what was found, what to do."""

SLOW_S = 10.0
_MANY_SILENT = 0.2
_LEAST_REQUESTS = 20

_PORT_REMEDY = (
    "address をこの箱自身のアドレスに。UDP 3610 を使う他のプログラムを止める / "
    "name this box's own address as address, and stop other programs that use UDP port 3610"
)
_ABSENT_REMEDY = (
    "機器の ECHONET Lite を有効に、同じネットワークに。見えているものは / "
    "switch ECHONET Lite on in the device and put it into the same network; what is there: edge-agent echonet scan"
)
_SILENT_REMEDY = "Wi-Fi が弱い。ルーターに近づけるか有線で / the Wi-Fi is too weak; nearer to the router, or by cable"


def check(context: Context, table: Mapping[str, Any], health: Mapping[str, Any]) -> Iterator[Step]:
    """Yield the port, each device of the table, and how many requests stayed without answer."""
    detail = health.get("detail")
    said: Mapping[str, Any] = detail if isinstance(detail, Mapping) else {}
    devices = said.get("devices") if isinstance(said.get("devices"), Mapping) else {}
    if not devices or (health.get("error") and not said.get("open")):
        found = str(health.get("error") or "未確認 / not looked at yet")
        yield f"{context.name}: port", "error", found, _PORT_REMEDY
        return
    yield f"{context.name}: port", "ok", "UDP 3610", ""
    for name in table.get("devices", {}):
        one = devices.get(name)
        yield _of_device(name, one if isinstance(one, Mapping) else {})
    yield from _losses(context.name, said)


def _of_device(name: str, one: Mapping[str, Any]) -> Step:
    where = f"device {name}"
    if not one.get("address"):
        reason = str(one.get("reason") or "まだ読んでいない / not read yet")
        return where, "error" if one.get("missed") else "warning", reason, _ABSENT_REMEDY
    shown = f"{one['address']}"
    if float(one.get("timeout_s") or 0) >= SLOW_S:
        shown += f", 応答が遅い / answers slowly (up to {one['timeout_s']:g} s)"
    if one.get("refused"):
        shown += f", 拒否 / refuses {' '.join(one['refused'])}"
    return where, "ok", shown, ""


def _losses(name: str, said: Mapping[str, Any]) -> Iterator[Step]:
    requests, silent = int(said.get("requests") or 0), int(said.get("silent") or 0)
    if requests >= _LEAST_REQUESTS:
        weak = silent > requests * _MANY_SILENT
        found = f"{silent} / {requests} 応答なし / without answer"
        yield f"{name}: network", "warning" if weak else "ok", found, _SILENT_REMEDY if weak else ""
