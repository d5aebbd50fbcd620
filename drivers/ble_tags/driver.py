"""Passages of enrolled watch-over tags past this pole. Knows no D-Bus and keeps nothing of anybody else."""

from __future__ import annotations

import asyncio
import base64
import binascii
import logging
import zlib
from collections import deque
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import msgspec

from drivers.api import ConfigError, Context, Driver, Emit, Event, Json, LinkError, MalformedError, Memory, Sample
from drivers.ble_tags import saved
from drivers.ble_tags.adverts import keys_of
from drivers.ble_tags.identity import MAX_LIST_BYTES, AllowList, decode_list
from drivers.ble_tags.link import Scanner, check_adapter
from drivers.ble_tags.passage import Arrived, Left, Passage, Passages, Rules
from drivers.polling import Ticks
from drivers.settings import Table, convert

SUMMARY = "Bluetooth watch-over tags that pass this pole; only enrolled ones are told"

log = logging.getLogger(__name__)

LOOK_S = 1.0
"""How often packets become passages; an arrival is told at most this much late."""
GAUGE_S = 60
"""How often the number of tags here is told, and how old the remembered passages may get."""
MAX_QUEUE = 20_000
"""Packets between two looks: 1,000 tags at 10 packets a second, and as much again."""
LATE_MS = 1_000
"""A look later than this means that the program stood still and heard nothing meanwhile."""
RESUME_WITHIN_MS = 600_000
"""After a longer stop a remembered passage is over; the tag may have come back many times."""
MAX_KEPT_LIST = 24_000
"""Characters of a packed list that the driver's memory has room for beside the open passages."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Settings(Table, frozen=True):
    """The driver's own table."""

    adapter: str = "hci0"
    arrive_packets: Annotated[int, msgspec.Meta(ge=1, le=20)] = 2
    arrive_window_s: Annotated[float, msgspec.Meta(gt=0, le=3600)] = 10
    leave_after_s: Annotated[float, msgspec.Meta(ge=1, le=7200)] = 20
    tags_file: str | None = None


class BleTags:
    """One adapter; the device is named like the driver."""

    backoff_ceiling_s = 60.0
    subjects = frozenset({"tags"})

    def __init__(self, context: Context, settings: Settings) -> None:
        self.devices = (context.name,)
        self._device = context.name
        self._clock = context.clock
        self._settings = settings
        self._scanner = Scanner(check_adapter(settings.adapter), self._heard, self._deaf)
        self._list = AllowList()
        self._told: bytes | None = None
        self._queue: deque[tuple[str, int, int | None]] = deque()
        self._passages = Passages(_rules(settings))
        self._resumed = False
        self._packets = self._strangers = self._overrun = self._restarts = self._refused_lists = 0
        self._hearing = False
        self._utc_ms: int | None = None

    def status(self) -> Mapping[str, Json]:
        """Return counters; nothing in them tells one tag from another."""
        return {
            "hearing": self._hearing,
            "packets": self._packets,
            "strangers": self._strangers,
            "enrolled": len(self._list.tags),
            "list_version": self._list.version,
            "refused_lists": self._refused_lists,
            "present": self._passages.present,
            "restarts": self._restarts,
            "overrun": self._overrun,
            "crowded": self._passages.crowded,
        }

    def hear(self, subject: str, payload: bytes) -> None:
        """Take an enrolment list in; it is read at the next look, off the event loop."""
        if subject not in self.subjects:
            return
        if len(payload) > MAX_LIST_BYTES:
            self._refuse_list(MalformedError(f"{len(payload)} bytes; at most {MAX_LIST_BYTES}"))
            return
        self._told = bytes(payload)

    async def run(self, emit: Emit, memory: Memory) -> None:
        """Serve the adapter until cancelled; raises LinkError when it is gone, ConfigError for what a person broke."""
        await self._prepare(emit, memory)
        try:
            await self._listen(emit, memory)
            await self._look_again_and_again(emit, memory)
        except LinkError as error:
            if memory.get(saved.LOST) is None:
                await emit(Event(self._device, "device_lost", self._now(), {"reason": str(error)}), {saved.LOST: True})
            raise
        finally:
            self._deaf()
            self._hearing = False
            await self._scanner.stop()
            await self._remember(memory)

    async def _prepare(self, emit: Emit, memory: Memory) -> None:
        """Read the lists that need no broker, then take up the passages that an earlier run left open."""
        if self._list.version < 0:
            await self._adopt(_unpack(memory.get(saved.LIST)), memory)
            if self._settings.tags_file is not None:
                self._take(await asyncio.to_thread(_read_file, self._settings.tags_file))
        await self._take_told(memory)
        if not self._resumed:
            now_ms = self._now()
            stays = saved.restore(memory.get, now_ms, self._clock.unix_ms())
            self._passages.resume([stay for stay in stays if now_ms - stay.last_ms <= RESUME_WITHIN_MS], now_ms)
            self._resumed = True
            over = [stay for stay in stays if now_ms - stay.last_ms > RESUME_WITHIN_MS]
            for number, stay in enumerate(over, 1):
                await self._tell_left(stay, "restart", emit, over[number:])
        self._passages.deaf(self._now())

    async def _listen(self, emit: Emit, memory: Memory) -> None:
        await self._scanner.start()
        self._hearing = True
        self._passages.hearing(self._now())
        if memory.get(saved.LOST) is not None:
            await emit(Event(self._device, "device_back", self._now()), {saved.LOST: None})

    async def _look_again_and_again(self, emit: Emit, memory: Memory) -> None:
        ticks = Ticks(self._clock, LOOK_S)
        minute: int | None = None
        while True:
            await self._look(await ticks.next(), emit)
            await self._take_told(memory)
            now_ms = self._now()
            if now_ms // (GAUGE_S * 1000) != minute:
                minute = now_ms // (GAUGE_S * 1000)
                await emit(Sample(self._device, now_ms, {"tags_present": self._passages.present}))
                await self._remember(memory)
            if (trouble := self._scanner.trouble()) is not None:
                await self._restart(trouble)

    async def _look(self, tick_ms: int, emit: Emit) -> None:
        """Turn the packets of the last second into passages, and silence into their ends."""
        self._utc_ms = self._clock.unix_ms()
        packets, late_ms = self._drain(), self._now() - tick_ms
        waiting = [packet for packet in packets if packet[1] <= tick_ms or late_ms <= LATE_MS]
        for tag, at_ms, rssi in waiting:
            await self._tell(self._passages.heard(tag, at_ms, rssi), emit)
        if late_ms > LATE_MS:
            self._passages.missed(late_ms)
            for tag, at_ms, rssi in packets[len(waiting) :]:
                await self._tell(self._passages.heard(tag, at_ms, rssi), emit)
        await self._tell(self._passages.silent(self._now() if late_ms > LATE_MS else tick_ms), emit)

    async def _restart(self, trouble: str) -> None:
        """Start the scanner anew; what is not heard meanwhile ends no passage. Raises LinkError."""
        if trouble == "silence":
            log.debug("%s: long silence, the scanner is restarted", self._device)
        else:
            log.warning("%s: %s; the scanner is restarted", self._device, trouble)
        self._deaf()
        self._hearing = False
        self._restarts += 1
        await self._scanner.stop()
        await self._scanner.start()
        self._hearing = True
        self._passages.hearing(self._now())

    def _heard(
        self, manufacturer_data: Mapping[int, bytes], service_data: Mapping[str, bytes], rssi: int | None
    ) -> None:
        """Take a packet; who is not enrolled is gone when this returns, and only the count has changed."""
        self._packets += 1
        tag = self._list.find(keys_of(manufacturer_data, service_data), self._utc_ms)
        if tag is None:
            self._strangers += 1
        elif len(self._queue) >= MAX_QUEUE:
            self._overrun += 1
        else:
            self._queue.append((tag, self._clock.boot_ms(), rssi))

    def _deaf(self) -> None:
        self._passages.deaf(self._now())

    def _drain(self) -> list[tuple[str, int, int | None]]:
        packets, self._queue = list(self._queue), deque()
        return packets

    async def _tell(self, outcomes: list[Arrived | Left] | list[Left], emit: Emit) -> None:
        for number, outcome in enumerate(outcomes, 1):
            if isinstance(outcome, Arrived):
                data: dict[str, Json] = {"tag": outcome.tag, "rssi": outcome.rssi}
                event = Event(self._device, "tag_arrived", outcome.at_ms, data, personal=True)
                await emit(event, self._shard(outcome.tag))
            else:
                untold = [later for later in outcomes[number:] if isinstance(later, Left)]
                await self._tell_left(outcome, "silence", emit, untold)

    async def _tell_left(self, passage: Passage, reason: str, emit: Emit, untold: Sequence[Passage] = ()) -> None:
        """Emit the end of a passage, stamped with its last packet; its times are unix ms, None while UTC is unknown."""
        unix_ms = self._clock.unix_ms()
        offset_ms = None if unix_ms is None else unix_ms - self._now()

        def utc(boot_ms: int | None) -> int | None:
            return None if boot_ms is None or offset_ms is None else boot_ms + offset_ms

        data: dict[str, Json] = {
            "tag": passage.tag,
            "first": utc(passage.first_ms),
            "last": utc(passage.last_ms),
            "closest": utc(passage.closest_ms),
            "packets": passage.packets,
            "peak_rssi": passage.peak_rssi,
            "stay_ms": passage.last_ms - passage.first_ms,
            "deaf_ms": passage.deaf_ms,
            "reason": reason,
        }
        at: int | datetime = passage.last_ms
        if passage.last_ms < 0:  # it ended before this boot
            last_ms = utc(passage.last_ms)
            at = 0 if last_ms is None else _EPOCH + timedelta(milliseconds=last_ms)
        await emit(Event(self._device, "tag_left", at, data, personal=True), self._shard(passage.tag, untold))

    def _shard(self, tag: str, untold: Sequence[Passage] = ()) -> dict[str, Json]:
        """Return what to remember after one tag's change; passages whose end is still untold stay remembered."""
        key = saved.key_for(tag)
        stays = self._passages.stays(lambda other: saved.key_for(other) == key)
        return saved.shard_of(tag, [*untold, *stays], self._now(), self._clock.unix_ms())

    async def _remember(self, memory: Memory) -> None:
        """Write the open passages down where they differ from what is remembered."""
        shards = saved.shards(self._passages.stays(), self._now(), self._clock.unix_ms())
        changed = {key: shard for key, shard in shards.items() if not saved.same(shard, memory.get(key))}
        if changed:
            await memory.update(changed)

    async def _take_told(self, memory: Memory) -> None:
        if (payload := self._told) is None:
            return
        self._told = None
        if await self._adopt(payload, memory):
            packed = await asyncio.to_thread(_pack, payload)
            await memory.update({saved.LIST: packed if len(packed) <= MAX_KEPT_LIST else None})

    async def _adopt(self, payload: bytes | None, memory: Memory) -> bool:
        """Take a list if it is well-formed and newer; who is no longer on it is forgotten. Returns whether it was."""
        if payload is None:
            return False
        try:
            offered = await asyncio.to_thread(decode_list, payload)
        except MalformedError as error:
            self._refuse_list(error)
            return False
        if not self._take(offered):
            return False
        gone = self._passages.forget(self._list.pseudonyms())
        self._queue = deque(packet for packet in self._queue if packet[0] not in gone)
        if gone:
            await self._remember(memory)
        return True

    def _take(self, offered: AllowList) -> bool:
        former, self._list = self._list, self._list.replaced_by(offered)
        if former is self._list:
            return False
        log.info("%s: enrolment list version %d, %d tags", self._device, self._list.version, len(self._list.tags))
        return True

    def _refuse_list(self, error: MalformedError) -> None:
        self._refused_lists += 1
        level = logging.WARNING if self._refused_lists == 1 else logging.DEBUG
        log.log(level, "%s: an enrolment list was refused: %s", self._device, error)

    def _now(self) -> int:
        return self._clock.boot_ms()


def create(context: Context, table: Mapping[str, Any]) -> Driver:
    """Build the driver from its table; opens nothing; raises ConfigError."""
    settings = convert(table, Settings)
    if settings.arrive_window_s > settings.leave_after_s:
        raise ConfigError(
            "arrive_window_s",
            f"longer than leave_after_s ({settings.leave_after_s:g})",
            "make it shorter: a tag that fell silent has left",
            settings.arrive_window_s,
        )
    return BleTags(context, settings)


def _rules(settings: Settings) -> Rules:
    return Rules(settings.arrive_packets, round(settings.arrive_window_s * 1000), round(settings.leave_after_s * 1000))


def _read_file(path: str) -> AllowList:
    try:
        with Path(path).open("rb") as file:
            return decode_list(file.read(MAX_LIST_BYTES + 1))
    except OSError as error:
        raise ConfigError("tags_file", f"cannot be read ({error.strerror})", "name a readable file", path) from error
    except MalformedError as error:
        raise ConfigError("tags_file", str(error), "write it as docs/wire.md shows for `tags`", path) from error


def _pack(payload: bytes) -> str:
    return base64.b85encode(zlib.compress(payload, 6)).decode()


def _unpack(packed: Json) -> bytes | None:
    """Return a list kept in memory, or None when there is none or it no longer reads."""
    if not isinstance(packed, str):
        return None
    try:
        return zlib.decompressobj().decompress(base64.b85decode(packed), MAX_LIST_BYTES)
    except (ValueError, zlib.error, binascii.Error):
        return None
