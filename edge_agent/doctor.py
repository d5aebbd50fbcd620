"""Look at a box and its devices and say what is wrong and what to do about it. Changes nothing.

Devices are looked at through the agent; only where none runs they are opened, as `read` does.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

from drivers.api import ConfigError, Context, CredentialsError, Driver, DriverError, Reports
from edge_agent import config, control, health, readout, registry
from edge_agent.clock import SystemClock, is_synchronized
from edge_agent.config import Configuration
from edge_agent.readout import Say

Verdict: TypeAlias = Literal["ok", "warning", "error"]

BROKER_S = 3.0
LEAST_FREE_MIB = 64
GRACE_S = 5.0
"""How long a driver with checks of its own may go on after its first values: it learns more of its device then."""


@dataclass(frozen=True, slots=True)
class Check:
    """One thing looked at: its name, the verdict, what was found, and what to do where it is not well."""

    name: str
    verdict: Verdict
    found: str
    remedy: str = ""


@dataclass(slots=True)
class _Devices:
    """What is known of drivers and devices, from the agent or by opening them."""

    drivers: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    """As in `health`: state, error, and the driver's own `detail`."""
    answers: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    """As `read` gives them, by device."""
    owners: dict[str, str] = field(default_factory=dict)


async def examine(configuration: Configuration, within_s: float = 90.0, say: Say = lambda _: None) -> list[Check]:
    """Return all checks of a box, in the order a person would make them."""
    agent, devices = await _agent(configuration)
    if devices is None:
        devices = await _opened(configuration, within_s, say)
    return [
        *_configuration(configuration),
        *_secrets(configuration),
        _disk(configuration),
        _clock(configuration),
        await _broker(configuration),
        agent,
        *_of_drivers(configuration, devices),
    ]


def _configuration(configuration: Configuration) -> Iterator[Check]:
    findings = config.check(configuration, SystemClock())
    for finding in findings:
        error = finding.error
        yield Check(
            "configuration", "warning" if finding.warning else "error", f"{error.key}: {error.problem}", error.remedy
        )
    if not findings:
        number = len(configuration.document.drivers)
        yield Check(
            "configuration", "ok", f"ドライバ{number}個、問題なし / {number} drivers, nothing to complain about"
        )


def _secrets(configuration: Configuration) -> Iterator[Check]:
    for path in config.exposed_secrets(configuration.document.secrets_directory):
        found = f"{path} を他のユーザーが読めます / {path} can be read by others"
        yield Check("secrets", "warning", found, f"chmod 600 {path}")


def _disk(configuration: Configuration) -> Check:
    folder = configuration.state_directory
    there = next((path for path in (folder, *folder.absolute().parents) if path.exists()), Path("/"))
    if not os.access(there, os.W_OK | os.X_OK):
        remedy = (
            "エージェントのユーザーで実行するか、所有者を直す / run as the agent's user, or correct the folder's owner"
        )
        return Check("disk", "error", f"{there} に書き込めません / {there} cannot be written", remedy)
    free = health.disk(there)["free_mib"]
    found = f"{there} の空き {free} MiB / {free} MiB free below {there}"
    if isinstance(free, int) and free < LEAST_FREE_MIB:
        return Check("disk", "error", found, "空きを作る / make room; telemetry waits in memory only")
    return Check("disk", "ok", found)


def _clock(configuration: Configuration) -> Check:
    if configuration.document.simulation is not None:
        remedy = "実機では simulation: を消す / remove `simulation:` on a real box"
        return Check("clock", "warning", "時刻は模擬 / time is simulated", remedy)
    if is_synchronized():
        return Check("clock", "ok", "同期済み / synchronized")
    if configuration.document.clock.trust == "system":
        found = "同期は不明だが信用する設定 / not known to be synchronized, but trusted (clock.trust: system)"
        return Check("clock", "warning", found, "実機では trust: auto / use trust: auto on a real box")
    found = "未同期。値は時刻を待つ / not synchronized; values wait for their time"
    return Check("clock", "warning", found, "NTPを確認 / check NTP: timedatectl timesync-status")


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
        remedy = (
            "mqtt.host・mqtt.port・ネットワーク・ブローカーを確認 / "
            "check mqtt.host and mqtt.port, the network and the broker"
        )
        return Check("broker", "error", f"{where}: {said}", remedy)
    writer.close()
    return Check("broker", "ok", f"{where} に接続できます / {where} takes connections")


async def _agent(configuration: Configuration) -> tuple[Check, _Devices | None]:
    """Return how the agent is, and what it knows of its devices; None where none runs or none can be asked."""
    try:
        status = await control.ask(configuration.sockets, "status", {})
        answers = await control.ask(configuration.sockets, "read", {})
    except control.NoAgentError:
        return Check(
            "agent", "warning", "停止中 / not running", "起動する / start it: systemctl start edge-agent"
        ), None
    except DriverError as error:
        return Check("agent", "error", str(error), "ログを見る / look at its log: journalctl -u edge-agent"), _Devices()
    devices = _Devices(status.get("drivers", {}), {answer["device"]: answer for answer in answers})
    devices.owners = _owners(configuration)
    name = status.get("gateway")
    return Check("agent", "ok", f"{name} として稼働中 / running as {name}"), devices


def _owners(configuration: Configuration) -> dict[str, str]:
    owners: dict[str, str] = {}
    for name in configuration.document.drivers:
        try:
            owners |= dict.fromkeys(configuration.build(name, SystemClock()).devices, name)
        except ConfigError:
            owners[name] = name
    return owners


async def _opened(configuration: Configuration, within_s: float, say: Say) -> _Devices:
    """Open the devices for a moment and return what they and their drivers say."""
    offered = registry.names(registry.CHECKS)
    drivers = configuration.document.drivers
    patient = [name for name, table in drivers.items() if table.get("driver") in offered]
    readings, answers = await readout.read_drivers(configuration, [], within_s, say, dict.fromkeys(patient, GRACE_S))
    found = _Devices(answers=dict(answers))
    for name in drivers:
        found.owners[name] = name
        found.drivers[name] = {"state": "off", "error": str(answers.get(name, {}).get("error", ""))}
    for one in readings:
        state = "waiting_for_credentials" if isinstance(one.error, CredentialsError) else "running"
        found.drivers[one.name] = {
            "state": "waiting" if one.error and state == "running" else state,
            "error": str(one.error or ""),
            "detail": one.status or _status(one.driver),
        }
        found.answers |= {device: one.answer(device) for device in one.values}
        found.owners |= dict.fromkeys(one.values, one.name)
    return found


def _status(driver: Driver) -> Mapping[str, Any]:
    return driver.status() if isinstance(driver, Reports) else {}


def _of_drivers(configuration: Configuration, devices: _Devices) -> Iterator[Check]:
    """Yield what each driver's own check says; for the others whether their devices answer."""
    offered = registry.names(registry.CHECKS)
    for name, table in configuration.document.drivers.items():
        known = devices.drivers.get(name)
        if known is None:  # an agent that cannot be asked was told of already
            continue
        yield from _left_commanded(known)
        kind = table.get("driver")
        if kind not in offered or known.get("state") == "off":
            yield from _of_devices(name, devices)
            continue
        own = {key: value for key, value in table.items() if key != "driver"}
        context = Context(name, SystemClock(), configuration.secret)
        try:
            yield from (Check(*found) for found in registry.load(registry.CHECKS, kind)(context, own, known))
        except ConfigError as error:
            yield Check(f"driver {name}", "error", error.problem, error.remedy)


def _left_commanded(driver: Mapping[str, Any]) -> Iterator[Check]:
    """Yield the batteries that were told something and that nobody may undo any more."""
    detail = driver.get("detail")
    for device in detail.get("left_commanded", []) if isinstance(detail, Mapping) else ():
        found = f"{device}: 以前の指令が残っています / a former command was not undone"
        remedy = (
            "機器のアプリで戻すか、battery: を一度設定して再起動 / "
            "set it back by hand, or give the unit its `battery` table for one start"
        )
        yield Check("battery", "warning", found, remedy)


def _of_devices(name: str, devices: _Devices) -> Iterator[Check]:
    driver = devices.drivers.get(name, {})
    error = str(driver.get("error") or "")
    if driver.get("state") == "off":
        yield Check(f"driver {name}", "error", f"停止 / off: {error}", "設定を直して再読み込み / correct it and reload")
        return
    for device, owner in devices.owners.items():
        if owner != name or device not in devices.answers:
            continue
        answer = devices.answers[device]
        if "error" in answer:
            remedy = "電源・配線・アドレスを確認 / check its power, its wiring and its address"
            yield Check(f"device {device}", "error", f"応答なし / no answer: {answer['error']}", remedy)
        else:
            values = len(answer.get("values", {}))
            yield Check(f"device {device}", "ok", f"{values}個の値 / {values} values, {answer.get('time') or '-'}")
