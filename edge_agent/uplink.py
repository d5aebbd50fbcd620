"""The gateway's side of the wire: what is published when, and what comes back. Stores nothing itself."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from drivers.api import Value
from edge_agent import wire
from edge_agent.clock import SystemClock
from edge_agent.mqtt import MqttSettings
from edge_agent.outbox import Outbox

OnCommand = Callable[[str, wire.Command], Awaitable[wire.Response]]
OnTown = Callable[[str, bytes], None]


class Uplink:
    """Publishes a gateway's output and hears the town; `run` lives as long as the agent."""

    def __init__(
        self,
        gateway: str,
        settings: MqttSettings,
        outbox: Outbox,
        clock: SystemClock,
        *,
        area: str = "",
        version: str = "",
        secret: Callable[[str], str] | None = None,
        on_command: OnCommand | None = None,
        on_town: OnTown | None = None,
    ) -> None:
        raise NotImplementedError

    async def run(self) -> None:
        """Keep the outbox and drain it over one connection after another, until cancelled."""

    async def publish_meta(self, meta: wire.Meta) -> None:
        """Publish `meta` retained, now if connected and after every connect."""

    def publish_now(self, device: str, values: Mapping[str, Value], valid_s: float = 60.0) -> None:
        """Show a device's last values (retained, at most one message a second and device); returns at once."""

    def publish_lost(self, device: str, lost_since_ms: int | None = None) -> None:
        """Overwrite a device's values with `lost_since` (unix ms; now when None)."""

    def clear_now(self, device: str) -> None:
        """Remove a device that left the configuration."""

    def publish_health(self, health: Mapping[str, Any], valid_s: float = 180.0) -> None:
        """Publish `health` with `time` and `valid_until`, when connected."""

    async def stop(self, reason: str) -> None:
        """Say `offline` with a reason and leave; `run` returns."""

    def statistics(self) -> dict[str, Any]:
        """Return connected, connects, published, acknowledged, refused, resent, and the last error."""
        raise NotImplementedError
