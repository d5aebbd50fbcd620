"""The gateway's side of the wire: what is published when, and what comes back. Stores nothing itself."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from drivers.api import ConfigError, DriverError, LinkError, RefusedError, Value
from edge_agent import wire
from edge_agent.backoff import Backoff
from edge_agent.batches import Key, Numbered
from edge_agent.board import Board
from edge_agent.clock import SystemClock, iso_time
from edge_agent.downlink import Downlink, OnCommand, OnTown
from edge_agent.mqtt import SUCCESS, Connection, MqttSettings, Will
from edge_agent.outbox import Outbox
from edge_agent.schedule import Flight, Schedule, Suspicion

log = logging.getLogger(__name__)

STEADY_S = 60.0
"""A connection that stood this long counts as stable: the next wait starts small again."""
TAKEN_OVER_WITHIN_S = 600.0
TAKEN_OVER_TIMES = 3
DROPPED_TIMES = 6
"""Mosquitto 2.0 and MQTT 3.1.1 do not say "taken over": idle connections dropped so often mean the same, as long as
the next attempt always succeeds at once; a broker that is restarted is away for a moment."""
SLOW_S = (300.0, 900.0)
"""How long to stay away when another client keeps taking our name."""
PUBACK_S = 60.0
"""A broker that confirms nothing for so long is gone, whatever TCP says."""
REWIND_S = 20.0
"""How often the backlog is looked through from the start once its end was reached."""
BACKFILL_AFTER_S = (0.2, 2.0)
"""A fleet that comes back together does not begin its backlogs together."""
LIVE_QUEUE = 32
GREET_S = 20.0
GOODBYE_S = 2.0
BEAT_S = 60.0
"""Nothing the uplink does without a sign of life takes longer, be it a connection attempt or a full window."""
OVERHEAD_BYTES = 256
"""Topic and headers of a publish, at most."""
ENVELOPE_BYTES = 32
"""What `backfill` adds around its batches."""
MAX_COMMANDS = 8
PACK = 64
"""How many batches that are due again are looked up at once."""


class Uplink:
    """Publishes a gateway's output and hears the town; `run` lives as long as the agent.

    MQTT time is real time: a simulated clock hurries no resend.
    """

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
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._gateway = gateway
        self._settings = settings
        self._outbox = outbox
        self._clock = clock
        self._downlink = Downlink(gateway, area, self._let_go, on_town)
        self._downlink.on_command = self._start_command
        self._version = version
        self._secret = secret or _no_secret
        self._on_command = on_command
        self._now_s = now_s
        self._board = Board(gateway, clock, now_s)
        self._schedule = Schedule()
        self._suspicion = Suspicion()
        self._live: deque[Numbered] = deque()
        self._newest: Numbered | None = None
        self._place: int | None = 0
        self._rewind_s = 0.0
        self._connection: Connection | None = None
        self._commands: asyncio.TaskGroup | None = None
        self._running_commands = 0
        self._wake = asyncio.Event()
        self._stopping = asyncio.Event()
        self._stopped = asyncio.Event()
        self._reason = "stopped"
        self._taken_over: deque[float] = deque(maxlen=TAKEN_OVER_TIMES)
        self._dropped: deque[float] = deque(maxlen=DROPPED_TIMES)
        self._failing = False
        self._refusing = False
        self._counts = dict.fromkeys(("connects", "published", "backfilled", "acknowledged", "refused"), 0)
        self._error = ""
        self.on_beat: Callable[[str, float], None] = lambda _name, _within_s: None
        outbox.on_closed = self._closed

    async def run(self) -> None:
        """Keep the outbox and drain it over one connection after another, until cancelled or stopped."""
        try:
            async with asyncio.TaskGroup() as tasks:
                self._commands = tasks
                keeper = tasks.create_task(self._outbox.keep(), name="outbox")
                await self._connect_for_ever()
                keeper.cancel()
        finally:
            self._commands = None
            self._stopped.set()

    async def stop(self, reason: str) -> None:
        """Say `offline` with a reason and leave; `run` returns."""
        self._reason = reason
        self._stopping.set()
        self._wake.set()
        await self._stopped.wait()

    # What others publish through the uplink.

    async def publish_meta(self, meta: wire.Meta) -> None:
        """Publish `meta` retained, now if connected and after every connect."""
        self._board.put_meta(meta)
        self._wake.set()

    def publish_now(self, device: str, values: Mapping[str, Value], valid_s: float = 60.0) -> None:
        """Show a device's last values (retained, at most one message a second and device); returns at once."""
        self._board.put_values(device, values, valid_s)
        self._wake.set()

    def publish_lost(self, device: str, lost_since_ms: int | None = None) -> None:
        """Overwrite a device's values with `lost_since` (unix ms; now when None)."""
        self._board.put_lost(device, lost_since_ms)
        self._wake.set()

    def clear_now(self, device: str) -> None:
        """Remove a device that left the configuration."""
        self._board.clear(device)
        self._wake.set()

    def publish_health(self, health: Mapping[str, Any], valid_s: float = 180.0) -> None:
        """Publish `health` with `time` and `valid_until`, when connected."""
        self._board.put_health(health, valid_s)
        self._wake.set()

    def statistics(self) -> dict[str, Any]:
        """Return connected, answering, counts since the start, and the last error."""
        return {
            "connected": self._connection is not None,
            "answering": self._schedule.answering,
            **self._counts,
            "malformed": self._downlink.malformed,
            "retained_commands": self._downlink.retained_commands,
            "error": self._error or None,
        }

    # One connection after another.

    async def _connect_for_ever(self) -> None:
        backoff = Backoff(1.0, self._settings.reconnect_max)
        waits = backoff.waits()
        while not self._stopping.is_set():
            started_s = self._now_s()
            self.on_beat("uplink", BEAT_S)
            try:
                await self._serve()
            except DriverError as error:
                self._report(error)
            if self._now_s() - started_s > STEADY_S:
                waits = backoff.waits()
            wait_s = random.uniform(*SLOW_S) if self._is_contested() else next(waits)
            self.on_beat("uplink", wait_s + BEAT_S)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._stopping.wait()

    async def _serve(self) -> None:
        """Live through one connection; raises DriverError that says why it ended."""
        will = Will(self._topic("state"), wire.encode(wire.State("lost")))
        connection = Connection(self._gateway, self._settings, self._secret, will)
        connection.on_message = self._downlink.hear
        connection.on_end = self._wake.set
        try:
            try:
                await connection.connect()
            except LinkError:
                self._dropped.clear()
                raise
            await self._greet(connection)
            await self._drain(connection)
        except asyncio.CancelledError:
            # A clean DISCONNECT takes the will with it, so the last word must be ours, and confirmed: a socket
            # closed before the broker's PUBACK was read looks to the broker like a cut line.
            if connection.is_alive and not self._stopping.is_set():
                self._reason = "ended"
                await self._say_goodbye(connection)
            raise
        finally:
            self._part(connection)
        if not self._stopping.is_set():
            raise LinkError(connection.error)

    async def _greet(self, connection: Connection) -> None:
        connection.subscribe(self._downlink.subscriptions())
        since = iso_time(self._clock.unix_ms())
        state = wire.State("online", boot=self._clock.boot, since=since, version=self._version or None)
        try:
            async with asyncio.timeout(GREET_S):
                await connection.publish(self._topic("state"), wire.encode(state), retain=True)
        except TimeoutError:
            raise LinkError(f"the broker does not confirm our state within {GREET_S:.0f} s") from None
        self._counts["connects"] += 1
        if self._failing:
            log.info("connected to the broker again")
        self._failing = False
        self._connection = connection
        limit = self._limit(connection)
        self._outbox.intake.max_bytes = max(1024, min(wire.MAX_BATCH_BYTES, limit - OVERHEAD_BYTES))
        self._schedule.connected(self._now_s(), connection.receive_maximum, random.uniform(*BACKFILL_AFTER_S))
        self._board.rewrite()
        self._place = 0
        if self._newest is not None and not self._suspicion.is_struck(self._newest.key):
            self._closed(self._newest)

    async def _drain(self, connection: Connection) -> None:
        """Send whatever may be sent, until the connection ends or the agent stops."""
        while connection.is_alive and not self._stopping.is_set():
            self._wake.clear()
            self.on_beat("uplink", BEAT_S)
            self._schedule.look(self._now_s())
            self._outbox.answering = self._schedule.answering
            await self._send_board(connection)
            await self._send_live(connection)
            more = await self._send_backfill(connection)
            self._check_pulse(connection)
            if not more:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._board.wait_s(0.25 if self._is_busy() else 1.0)):
                        await self._wake.wait()
        if self._stopping.is_set() and connection.is_alive:
            await self._say_goodbye(connection)

    async def _say_goodbye(self, connection: Connection) -> None:
        state = wire.State("offline", reason=self._reason)
        with contextlib.suppress(TimeoutError, LinkError):
            async with asyncio.timeout(GOODBYE_S):
                await connection.room()
                await connection.publish(self._topic("state"), wire.encode(state), retain=True)

    def _part(self, connection: Connection) -> None:
        now_s = self._now_s()
        self._connection = None
        ended_by_itself = not connection.is_alive
        lost = self._schedule.disconnected(now_s)
        for batch in self._live:
            self._schedule.forget(batch.key)
        self._live.clear()
        self._outbox.answering = False
        connection.close()
        if connection.taken_over:
            self._taken_over.append(now_s)
        elif ended_by_itself:
            if connection.dropped and not lost:
                self._dropped.append(now_s)
            for key in self._suspicion.struck(lost, now_s):
                self._spawn(self._outbox.set_aside(key, "the broker ends the connection whenever it is sent"))

    def _is_contested(self) -> bool:
        """Tell whether another client keeps taking our name; then two boxes have one id."""
        contested = any(
            len(times) == times.maxlen and self._now_s() - times[0] < TAKEN_OVER_WITHIN_S
            for times in (self._taken_over, self._dropped)
        )
        if contested:
            log.error("another client uses the id %s: storing, and trying again seldom", self._gateway)
        return contested

    def _report(self, error: DriverError) -> None:
        self._error = str(error)
        level = logging.DEBUG if self._failing else logging.WARNING
        log.log(level, "%s%s", error, "" if isinstance(error, RefusedError) else "; trying again")
        self._failing = True

    def _check_pulse(self, connection: Connection) -> None:
        oldest_s = self._schedule.oldest_unconfirmed_s()
        if oldest_s is not None and self._now_s() - oldest_s > PUBACK_S:
            connection.close(f"the broker confirms nothing for {PUBACK_S:.0f} s")

    # What goes up.

    def _closed(self, batch: Numbered) -> None:
        """Take a new batch; while there is no connection the outbox keeps it for the backlog."""
        if batch.topic == "telemetry":
            self._newest = batch
        if self._connection is None or batch.key in self._schedule:
            return
        self._live.append(batch)
        self._schedule.queued(batch.key)
        if len(self._live) > LIVE_QUEUE:
            self._schedule.forget(self._live.popleft().key)
        self._wake.set()

    async def _send_live(self, connection: Connection) -> None:
        """Send the newest first: what is old already can wait for its turn in the backlog."""
        while self._live and self._schedule.may_send_live() and connection.is_alive and not self._tries_a_suspect():
            await connection.room()
            batch = self._live.pop()
            self._send(connection, batch.topic, batch.payload, [batch], backfill=False)

    async def _send_backfill(self, connection: Connection) -> bool:
        """Send one message of stored batches; True when another may follow at once."""
        if not connection.is_alive or not self._schedule.may_send_backfill(self._now_s()):
            return False
        limit = self._limit(connection)
        chosen = await self._choose(self._suspicion.limit(limit, self._now_s()) - ENVELOPE_BYTES)
        if suspects := [batch for batch in chosen if self._suspicion.is_suspect(batch.key)]:
            if self._schedule.unconfirmed():
                return False
            chosen = suspects[:1]  # alone, so that its innocence or guilt shows
        if not chosen or not connection.is_alive:
            return False
        payload = wire.encode_backfill([batch.payload for batch in chosen])
        if len(payload) > limit:
            await self._outbox.set_aside(chosen[0].key, f"{len(payload)} bytes; the broker takes {limit}")
            self._schedule.forget(chosen[0].key)
            return True
        await connection.room()
        self._counts["backfilled"] += len(chosen)
        self._send(connection, "backfill", payload, chosen, backfill=True)
        return True

    def _tries_a_suspect(self) -> bool:
        flying = self._schedule.unconfirmed()
        return any(self._suspicion.is_suspect(key) for flight in flying for key in flight.keys)

    def _limit(self, connection: Connection) -> int:
        return min(self._settings.max_payload, connection.max_packet_bytes - OVERHEAD_BYTES)

    async def _choose(self, limit: int) -> list[Numbered]:
        """Return the batches to send again next: those whose patience is over, then those never sent."""
        if due := self._schedule.due(self._now_s(), PACK):
            found = await self._outbox.find(due)
            for key in {*due} - {batch.key for batch in found}:
                self._schedule.forget(key)
            return _fitting(found, limit)
        if self._place is None and self._now_s() >= self._rewind_s:
            self._place = 0
        while self._place is not None:
            found, self._place = await self._outbox.backlog(self._place, limit, self._schedule)
            if self._place is None:
                self._rewind_s = self._now_s() + REWIND_S
            if found:
                return found
        return []

    def _send(
        self, connection: Connection, topic: str, payload: bytes, chosen: list[Numbered], *, backfill: bool
    ) -> None:
        keys = [batch.key for batch in chosen]
        flight = self._schedule.sent(keys, len(payload), self._now_s(), backfill=backfill)
        self._counts["published"] += 1
        future = connection.publish(self._topic(topic), payload)
        future.add_done_callback(partial(self._confirmed, flight, keys))

    def _confirmed(self, flight: Flight, keys: list[Key], future: asyncio.Future[int]) -> None:
        """Take the broker's word: it is flow control, and durability only where the settings say so."""
        self._wake.set()
        if future.cancelled() or future.exception() is not None:
            return
        flight.confirmed = True
        self._suspicion.confirmed(keys)
        code = future.result()
        if code != SUCCESS:
            self._counts["refused"] += 1
            log.log(logging.DEBUG if self._refusing else logging.WARNING, "the broker refuses batches: 0x%02X", code)
            self._refusing = True
            self._schedule.refused(flight, self._now_s())
            return
        self._refusing = False
        if self._settings.acknowledged_by == "broker":
            self._let_go(keys)

    def _let_go(self, keys: list[Key]) -> None:
        for epoch, seq in keys:
            self._counts["acknowledged"] += self._outbox.acknowledge(epoch, [seq])
            if self._newest is not None and self._newest.key == (epoch, seq):
                self._newest = None
        self._schedule.answered(keys, self._now_s())
        self._outbox.answering = True
        self._wake.set()

    async def _send_board(self, connection: Connection) -> None:
        for topic, payload, qos in self._board.take():
            if qos:
                await connection.room()
            connection.publish(topic, payload, qos=qos, retain=True)

    def _is_busy(self) -> bool:
        return bool(self._schedule.flights)

    def _topic(self, *rest: str) -> str:
        return wire.up_topic(self._gateway, *rest)

    # What comes down.

    def _start_command(self, name: str, command: wire.Command) -> None:
        if self._on_command is not None and self._running_commands < MAX_COMMANDS:
            self._spawn(self._carry_out(self._on_command, name, command))
        else:
            log.warning("the command %.40s is dropped: %d are being carried out", name, self._running_commands)

    async def _carry_out(self, on_command: OnCommand, name: str, command: wire.Command) -> None:
        self._running_commands += 1
        try:
            response = await on_command(name, command)
        except Exception:
            log.exception("the command %.40s failed", name)
            response = wire.Response(command.id, ok=False, error="it failed; see the agent's log")
        finally:
            self._running_commands -= 1
        if self._connection is not None:
            with contextlib.suppress(LinkError):
                await self._connection.room()
                self._connection.publish(self._topic("response", command.id), wire.encode(response))

    def _spawn(self, work: Any) -> None:
        if self._commands is None:
            work.close()
        else:
            self._commands.create_task(work)


def _fitting(batches: list[Numbered], limit: int) -> list[Numbered]:
    """Return the first batches that fit together; one at least."""
    size = 0
    for count, batch in enumerate(batches):
        size += len(batch.payload) + 1
        if count and size > limit:
            return batches[:count]
    return batches


def _no_secret(name: str) -> str:
    raise ConfigError("mqtt", f"needs the secret {name!r}", "give the uplink a way to read secrets")
