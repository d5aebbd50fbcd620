"""Asks gateways for the half hours that the series lacks, as far back as a meter remembers. Reads no meter itself.

Only the aggregator knows the gaps: what was lost with a card, a box or a town's database. A gateway that is online is
looked at each hour and soon after it came back; a day asked for in vain is asked for ever more seldom.
"""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any

from aggregator import answers, rollup
from aggregator.config import HalfHours
from aggregator.live import Live
from aggregator.store import GatewayRecord, Store, StoreError
from edge_agent import wire

log = logging.getLogger(__name__)

IMPORT, EXPORT = "import_energy_at_30min_kwh", "export_energy_at_30min_kwh"
HALF_HOUR_MS = 30 * 60_000
SETTLED_MS = 40 * 60_000
"""A younger half hour may still be notified or wait in an outbox."""
LOOK_S = 5.0
EXPIRES_S = 300.0
LONGEST_BACKOFF = 24
"""In checks: a day that stays missing is asked for at least this often, once a day with the usual hour."""
_PREFIX = "half-hours-"


@dataclass(slots=True)
class _Asked:
    """How often a day was asked for, and when it may be asked for again (monotonic s)."""

    times: int = 0
    again_s: float = 0.0


@dataclass(slots=True)
class _House:
    """What is remembered of one gateway that is online."""

    look_s: float
    days: dict[date, _Asked] = field(default_factory=dict)
    command: str = ""


class HalfHourService:
    """Finds gaps and publishes `history` commands; `publish` sends a payload to a topic, or drops it."""

    def __init__(
        self,
        store: Store,
        live: Live,
        publish: Callable[[str, bytes], None],
        settings: HalfHours,
        unix_ms: Callable[[], int],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._live = live
        self._publish = publish
        self._settings = settings
        self._unix_ms = unix_ms
        self._monotonic = monotonic
        self._houses: dict[str, _House] = {}
        self._refusing: set[str] = set()

    async def run(self) -> None:
        """Look after every gateway that is online until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(min(LOOK_S, self._settings.after_return_s))

    async def look(self) -> None:
        """Look once at the gateways that are due."""
        online, now_s = self._live.online(), self._monotonic()
        for gateway in self._houses.keys() - set(online):
            del self._houses[gateway]
        for gateway in online:
            # A fleet that comes back with its broker does not ask as one.
            wait_s = self._settings.after_return_s * random.uniform(1.0, 1.5)
            house = self._houses.setdefault(gateway, _House(now_s + wait_s))
            if now_s >= house.look_s:
                house.look_s = now_s + self._settings.check_s
                await self._look_at(gateway, house)

    def hear(self, topic: str, payload: bytes) -> None:
        """Take a gateway's answer to a command; any bytes may come."""
        try:
            gateway, rest = wire.split_up_topic(topic)
            response = wire.decode(payload, wire.Response)
        except wire.WireError:
            return
        house = self._houses.get(gateway)
        if house is None or rest[1:] != [response.id] or response.id != house.command:
            return
        house.command = ""
        if response.ok:
            self._refusing.discard(gateway)
            self._give_up(house, response.result)
            return
        level = logging.DEBUG if gateway in self._refusing else logging.WARNING
        log.log(level, "%s does not read its meter's memory: %.200s", gateway, response.error)
        self._refusing.add(gateway)

    @staticmethod
    def _give_up(house: _House, result: Any) -> None:
        """Ask no more for days that the meter does not remember."""
        lost = result.get("not_remembered") if isinstance(result, dict) else None
        for text in lost if isinstance(lost, list) else ():
            for day, asked in house.days.items():
                if day.isoformat() == text:
                    asked.again_s = float("inf")

    async def _look_at(self, gateway: str, house: _House) -> None:
        try:
            record = await self._store.gateway(gateway)
            device = answers.roles_of(record).get("grid") if record else None
            if record is None or device is None or record.retired_ms is not None:
                return
            missing = await self._missing(record, device)
        except StoreError as error:
            log.warning("%s: gaps are looked for at the next check: %s", gateway, error)
            return
        house.days = {day: house.days.get(day, _Asked()) for day in missing}
        now_s = self._monotonic()
        due = [day for day, asked in house.days.items() if now_s >= asked.again_s]
        if due:
            self._ask(gateway, house, device, due)

    async def _missing(self, record: GatewayRecord, device: str) -> list[date]:
        now_ms = answers.now_of(record, self._live, self._unix_ms())
        oldest = await self._store.oldest(record.id, device, IMPORT)
        if oldest is None:
            return []  # the gateway itself reads today and yesterday first
        from_ms = max(oldest, rollup.day_of(now_ms)[1] - self._settings.days * rollup.DAY_MS)
        tracks = await self._store.tracks(record.id, [IMPORT, EXPORT], from_ms, now_ms + 1, device)
        known = {track.quantity: {t for t, _ in track.points} for track in tracks}
        told = await self._store.events(
            record.id, personal=False, from_ms=from_ms, to_ms=now_ms + rollup.DAY_MS, kinds=["half_hours"], limit=1000
        )
        absent = absent_times(event["data"] for event in reversed(told) if event["device"] == device)
        return missing_days(known.get(IMPORT, set()), known.get(EXPORT, set()), absent, from_ms, now_ms)

    def _ask(self, gateway: str, house: _House, device: str, days: list[date]) -> None:
        for day in days:
            asked = house.days[day]
            asked.times += 1
            checks = min(2 ** (asked.times - 1), LONGEST_BACKOFF)
            asked.again_s = self._monotonic() + self._settings.check_s * (checks - 0.5)
        house.command = _PREFIX + secrets.token_hex(8)
        arguments = {"device": device, "days": [day.isoformat() for day in days]}
        command = wire.Command(house.command, self._unix_ms(), EXPIRES_S, arguments)
        log.info("%s lacks half hours of %d days; its meter is asked, from %s on", gateway, len(days), days[0])
        self._publish(wire.down_topic(gateway, "command", "history"), wire.encode(command))


def missing_days(
    imports: Collection[int], exports: Collection[int], absent: Collection[int], from_ms: int, now_ms: int
) -> list[date]:
    """Return the local days that lack a half hour from `from_ms` on, the eldest first; exports from their first on."""
    first_export = min(exports, default=now_ms)
    found: dict[date, None] = {}
    for at in range(-(-from_ms // HALF_HOUR_MS) * HALF_HOUR_MS, now_ms - SETTLED_MS + 1, HALF_HOUR_MS):
        lacks = at not in imports or (at >= first_export and at not in exports)
        if lacks and at not in absent:
            found[datetime.fromtimestamp(at / 1000, rollup.JST).date()] = None
    return list(found)


def absent_times(told: Iterable[Mapping[str, Any]]) -> set[int]:
    """Return the half hours (unix ms) that a meter said it does not have; the last word on a day counts."""
    days: dict[date, set[int]] = {}
    for data in told:
        try:
            day = date.fromisoformat(str(data.get("date")))
            missing = data.get("missing")
            times = missing.get("no_data", []) if isinstance(missing, dict) else []
            days[day] = {_unix_ms(day, str(text)) for text in times} if isinstance(times, list) else set()
        except ValueError:
            continue
    return {at for times in days.values() for at in times}


def _unix_ms(day: date, text: str) -> int:
    moment = datetime.strptime(f"{day.isoformat()} {text}", "%Y-%m-%d %H:%M")  # noqa: DTZ007  (given its zone below)
    return int(moment.replace(tzinfo=rollup.JST).timestamp() * 1000)
