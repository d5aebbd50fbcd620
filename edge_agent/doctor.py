"""Look at a box and say what is wrong and what to do about it. Changes nothing and opens no device."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from drivers.api import ConfigError, Context, DriverError
from edge_agent import config, control, health, registry
from edge_agent.clock import SystemClock, is_synchronized
from edge_agent.config import Configuration

Verdict: TypeAlias = Literal["ok", "warning", "error"]

BROKER_S = 3.0
LEAST_FREE_MIB = 64


@dataclass(frozen=True, slots=True)
class Check:
    """One thing looked at: its name, the verdict, what was found, and what to do where it is not well."""

    name: str
    verdict: Verdict
    found: str
    remedy: str = ""


async def examine(configuration: Configuration) -> list[Check]:
    """Return all checks of a box, in the order a person would make them."""
    agent = await _agent(configuration)
    return [
        *_configuration(configuration),
        *_secrets(configuration),
        _disk(configuration),
        _clock(configuration),
        await _broker(configuration),
        *agent,
        *_of_drivers(configuration),
    ]


def _configuration(configuration: Configuration) -> Iterator[Check]:
    findings = config.check(configuration, SystemClock())
    for finding in findings:
        error = finding.error
        yield Check(
            "configuration", "warning" if finding.warning else "error", f"{error.key}: {error.problem}", error.remedy
        )
    if not findings:
        yield Check("configuration", "ok", f"{len(configuration.document.drivers)} drivers, nothing to complain about")


def _secrets(configuration: Configuration) -> Iterator[Check]:
    for path in config.exposed_secrets(configuration.document.secrets_directory):
        yield Check("secrets", "warning", f"{path} can be read by others", f"run: chmod 600 {path}")


def _disk(configuration: Configuration) -> Check:
    folder = configuration.state_directory
    there = next((path for path in (folder, *folder.absolute().parents) if path.exists()), Path("/"))
    if not os.access(there, os.W_OK | os.X_OK):
        return Check(
            "disk", "error", f"{there} cannot be written", "run as the agent's user, or correct the folder's owner"
        )
    free = health.disk(there)["free_mib"]
    if isinstance(free, int) and free < LEAST_FREE_MIB:
        return Check("disk", "error", f"{free} MiB free below {there}", "make room; telemetry waits in memory only")
    return Check("disk", "ok", f"{free} MiB free below {there}")


def _clock(configuration: Configuration) -> Check:
    if configuration.document.simulation is not None:
        return Check("clock", "warning", "time is simulated", "remove `simulation:` on a real box")
    if is_synchronized():
        return Check("clock", "ok", "synchronized")
    if configuration.document.clock.trust == "system":
        return Check(
            "clock",
            "warning",
            "not known to be synchronized, but trusted (clock.trust: system)",
            "use trust: auto on a real box",
        )
    return Check(
        "clock", "warning", "not synchronized; values wait for their time", "check NTP: timedatectl timesync-status"
    )


async def _broker(configuration: Configuration) -> Check:
    mqtt = configuration.document.mqtt
    where = mqtt.socket or f"{mqtt.host}:{mqtt.port}"
    try:
        async with asyncio.timeout(BROKER_S):
            if mqtt.socket:
                _, writer = await asyncio.open_unix_connection(mqtt.socket)
            else:
                _, writer = await asyncio.open_connection(mqtt.host, mqtt.port)
    except (OSError, TimeoutError) as error:
        said = str(error) or "no answer"
        return Check("broker", "error", f"{where}: {said}", "check mqtt.host and mqtt.port, the network and the broker")
    writer.close()
    return Check("broker", "ok", f"{where} takes connections")


async def _agent(configuration: Configuration) -> list[Check]:
    try:
        status = await control.ask(configuration.sockets, "status", {})
    except control.NoAgentError:
        return [Check("agent", "warning", "not running", "start it: systemctl start edge-agent")]
    except DriverError as error:
        return [Check("agent", "error", str(error), "look at its log: journalctl -u edge-agent")]
    checks = [Check("agent", "ok", f"running as {status.get('gateway')}")]
    for name, driver in status.get("drivers", {}).items():
        state, problem = driver.get("state"), driver.get("error", "")
        well = state == "running" and not problem
        said = f"{state}, {driver.get('ok')} items, last {driver.get('last')}" + (f": {problem}" if problem else "")
        checks.append(
            Check(f"driver {name}", "ok" if well else "error", said, "" if well else "see the driver's message")
        )
    return checks


def _of_drivers(configuration: Configuration) -> Iterator[Check]:
    """Yield what drivers check themselves: `check(context, table)` gives (name, verdict, found, remedy)."""
    offered = registry.names(registry.CHECKS)
    for name, table in configuration.document.drivers.items():
        kind = table.get("driver")
        if kind not in offered:
            continue
        own = {key: value for key, value in table.items() if key != "driver"}
        try:
            for found in registry.load(registry.CHECKS, kind)(Context(name, SystemClock(), configuration.secret), own):
                yield Check(*found)
        except ConfigError as error:
            yield Check(f"driver {name}", "error", error.problem, error.remedy)
