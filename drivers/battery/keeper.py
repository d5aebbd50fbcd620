"""One battery kept as its policy wants it: saved, written, read back, refreshed, restored. Knows no protocol.

Whoever owns the link calls `arrive` once it is open, `serve` after each round of readings, `away` when the device is
lost and `leave` before the link is closed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from datetime import datetime
from typing import TypeVar

from drivers.api import Clock, Emit, Event, Json, Kept, LinkError, MalformedError, Memory, RefusedError, Sample, Value
from drivers.battery.alert import AlertWatch
from drivers.battery.debt import Owed, key_at, key_of, owed_from
from drivers.battery.learnt import WEEKDAYS
from drivers.battery.ledger import Ledger
from drivers.battery.modes import Controls, Mode, Owner, Request, UnansweredError, Write
from drivers.battery.orders import request_of
from drivers.battery.outage import hours_left, is_grid_gone
from drivers.battery.policy import Policy
from drivers.battery.scheduler import Now, Scheduler
from drivers.battery.settings import AlertSettings, BatterySettings
from drivers.battery.tariff import JST, QUARTER_MS

log = logging.getLogger(__name__)

T = TypeVar("T")

MOST_STEPS = 6
"""More steps than these in one go are none: undo, do, and one failure of each."""
MOST_ASKED = 2
"""A read that stays without an answer is tried again so often in all."""
MOST_SENDS = 3
"""A write whose read-back shows the former value is sent again at most so often."""
MOST_FAREWELLS = 2
"""One lost answer must not leave a mode on for as long as the agent is stopped."""
LEARNT = "house/learnt"
"""Where what was learnt is remembered: the house stays the same when a device gets another name."""
STUCK_AFTER = 3
"""Failed attempts to restore after which a person is told."""


class Keeper:
    """The command of one battery behind a link; `place` is where on the line: it stays when the device is renamed."""

    def __init__(
        self, device: str, place: str, controls: Controls, settings: BatterySettings, clock: Clock, poll_s: float
    ) -> None:
        self.device = device
        self._key, self._former_key = key_at(place), key_of(device)
        self.settings = settings
        self.policy = Policy(settings, controls.modes, poll_s)
        self.ledger = Ledger(settings.stored_writes_per_day)
        self._controls = controls
        self._clock = clock
        self._lock = asyncio.Lock()
        self._emit: Emit | None = None
        self._memory: Memory | None = None
        self._owed: Owed | None = None
        self._alert = AlertWatch(settings.alert)
        tariff = settings.tariff if settings.owned_by == "agent" else None
        self._schedule = None if tariff is None else Scheduler(settings, tariff)
        self._has_recalled = False
        self._seen: dict[str, Value] = {}
        self._leaving = self._may_begin = self._was_out = False
        self._noted = ""
        self._fault: str | None = None

    @property
    def may_write(self) -> bool:
        """Whether this battery is ours to command at all."""
        return self.settings.owned_by == "agent"

    async def arrive(self, emit: Emit, memory: Memory) -> None:
        """The link is open: restore first what an earlier life or connection owes."""
        self._emit, self._memory, self._leaving = emit, memory, False
        self._may_begin = isinstance(memory, Kept)  # a single reading must begin nothing that nobody undoes
        self._recall_learnt(memory)
        for key in (self._key, self._former_key):
            self.ledger.recall(memory.get(f"{key}/writes"))
        if (owed := owed_from(memory.get(self._key)) or owed_from(memory.get(self._former_key))) is not None:
            self._owed, self.policy.owes = owed, True
            self.policy.away("the link is new")
            self.policy.reason = self.policy.reason or "the agent was started again"
        if self.may_write and self.policy.owes:
            async with self._lock:
                await self._step()

    async def serve(self, values: Mapping[str, Value], at_ms: int) -> None:
        """Take in a round's values and do what is due; raises LinkError when the link is gone."""
        self._seen.update(values)
        if "battery_soc_percent" in values:
            self.policy.observe_soc(self._number("battery_soc_percent"), at_ms)
        is_out = is_grid_gone(values, told=self._controls.is_outage(values))
        if is_out is not None:
            await self._observe_outage(at_ms, is_out=is_out)
        await self._observe_faults(values, at_ms)
        if self._schedule is not None and not self.policy.is_frozen(at_ms):
            self._schedule.observe(values, at_ms, self._clock.unix_ms())
            await self._save_learnt()
        if self.may_write:
            async with self._lock:
                self._automatic()
                await self._work()

    def overhear(self, role: str, sample: Sample) -> None:
        """Take in what the device with a role in the house read; one that tells its own time is no reading."""
        if self._schedule is not None and isinstance(sample.at, int) and sample.device != self.device:
            self._schedule.overhear(role, sample.values, sample.at, self._clock.unix_ms())

    def away(self, reason: str) -> None:
        """The device or the link is lost; what it was told is in doubt."""
        self._seen.clear()
        if self._schedule is not None:
            self._schedule.house.forget_own()
        self.policy.away(reason)

    def disconnected(self, reason: str) -> None:
        """The link is closed: nothing can be told until `arrive`."""
        self.away(reason)
        self._emit = self._memory = None

    async def leave(self) -> None:
        """The agent stops: normal again, if the device lets us; what fails is tried once more at once."""
        self._leaving = True
        for _ in range(MOST_FAREWELLS):
            self.policy.away("the agent stopped")
            if self.may_write and self.policy.owes:
                async with self._lock:
                    await self._step()

    def hear(self, payload: bytes) -> None:
        """Take in the town's alert level."""
        self._alert.hear(payload)

    async def command(self, arguments: Mapping[str, Json], owner: Owner = "person") -> Json:
        """Carry out `battery`: a mode for a time, or only say how it stands; raises RefusedError."""
        if arguments.get("mode") is None:
            return self.status()
        request = request_of(arguments, owner, self._clock.boot_ms(), self._clock.unix_ms())
        if request.mode != "normal" and self._emit is None:
            raise RefusedError(f"{self.device} is not connected now")
        request = self.policy.ask(request, self._clock.boot_ms())
        async with self._lock:
            if self._emit is not None:
                await self._work_for_a_person()
        if request.mode != "normal" and not request.orders(self.policy.held):
            raise RefusedError(self.policy.reason if self.policy.request is None else "not done yet; asked too often")
        return self.status()

    async def _work_for_a_person(self) -> None:
        try:
            await self._work()
        except LinkError as error:
            self.policy.failed(f"broken off: {error}", self._clock.boot_ms())
            raise RefusedError(f"the link was lost: {error}; restored as soon as it is back") from error
        except asyncio.CancelledError:
            self.policy.failed("broken off: it took too long", self._clock.boot_ms())
            raise

    def status(self) -> dict[str, Json]:
        """Return mode, owner, deadline, writes and whatever is not as it should be."""
        now_ms, policy = self._clock.boot_ms(), self.policy
        request = policy.request
        shown: dict[str, Json] = {
            "mode": policy.held.mode if policy.held is not None else ("restoring" if policy.owes else "normal"),
            "allowed": ["normal", *policy.modes] if self.may_write else [],
            "writes": self.ledger.status(self._clock.unix_ms()),
        }
        if request is not None:
            shown |= {"wanted": request.mode, "owner": request.owner, "until": self._time(request.deadline_ms)}
            shown |= {
                key: value
                for key, value in (("power_w", request.power_w), ("soc_percent", request.soc_percent))
                if value is not None
            }
        if policy.reason:
            shown["last_ended"] = policy.reason
        if self._schedule is not None:
            plan = self._schedule.plan
            shown |= {"schedule": f"{plan.mode}: {plan.why}", "plan": plan.status()}
        if not self.may_write:
            shown["owned_by"] = "third_party"
            if policy.owes:
                shown["mode"] = "left as it was: a former command was not undone"
        if self.settings.no_revert_timer == "accepted":
            shown["no_revert_timer"] = "accepted"
        return shown | self._troubles(now_ms)

    def _troubles(self, now_ms: int) -> dict[str, Json]:
        """Return what keeps the battery from being commanded or put back."""
        policy = self.policy
        shown: dict[str, Json] = {}
        if policy.failures:
            shown["restore_failures"] = policy.failures
        if policy.has_given_up(now_ms):
            shown["given_up"] = True
        if (fault := policy.fault(now_ms)) is not None:
            shown["fault"] = fault
        if policy.is_frozen(now_ms):
            shown |= {"outage": True, "hours_left": self._hours_left(now_ms)}
        return shown

    # What is wanted

    def _automatic(self) -> None:
        """Let the alert and the schedule ask for what they want, and end what they no longer want."""
        now_ms, unix_ms = self._clock.boot_ms(), self._clock.unix_ms()
        if self._leaving or not self._may_begin:
            return
        alarm = self.settings.alert
        alarm = alarm if alarm is not None and self._alert.is_raised(unix_ms) else None
        wanted = None if self._schedule is None else self._planned(self._schedule, now_ms, unix_ms, alarm)
        if alarm is not None:
            is_charge = wanted is not None and wanted.mode == "charge" and alarm.charge != "never"
            reserve = Request("reserve", "alert", now_ms + QUARTER_MS, None, alarm.soc_percent)
            self._want(replace(wanted, owner="alert") if wanted is not None and is_charge else reserve, now_ms)
            return
        if self._owner() == "alert":
            self.policy.end("the alert is over")
        if wanted is not None:
            self._want(wanted, now_ms)
        elif self._schedule is not None and self._owner() == "schedule":
            self.policy.end(self._schedule.plan.why)

    def _planned(
        self, schedule: Scheduler, now_ms: int, unix_ms: int | None, alarm: AlertSettings | None
    ) -> Request | None:
        """Return what the schedule wants, None for normal."""
        held = self.policy.held if self._owner() in {"schedule", "alert"} else None
        held_w = held.power_w if held is not None and held.mode == "charge" else None
        facts = self.policy.modes.get("charge")
        now = Now(
            now_ms,
            unix_ms,
            self.policy.soc_percent(now_ms),
            held_w,
            facts is not None and facts.keeps_power,
            None if alarm is None or alarm.charge == "never" else alarm.soc_percent,
            alarm is not None and alarm.charge == "at_once",
        )
        plan = schedule.decide(now)
        if plan.mode == "normal" or unix_ms is None or plan.need is None:
            return None
        goal = plan.need.goal_percent if plan.mode == "charge" else None
        return Request(plan.mode, "schedule", now_ms + plan.until_ms - unix_ms, plan.power_w, goal)

    def _want(self, request: Request, now_ms: int) -> None:
        """Ask on behalf of nobody in person; a refusal is no error, only noted once."""
        try:
            self.policy.ask(request, now_ms)
        except RefusedError as error:
            if str(error) != self._noted:
                self._noted = str(error)
                log.info("%s: the %s wanted %s: %s", self.device, request.owner, request.mode, error)

    def _owner(self) -> Owner | None:
        return None if self.policy.request is None else self.policy.request.owner

    def _number(self, quantity: str) -> float | None:
        value = self._seen.get(quantity)
        return None if value is None or isinstance(value, str) else float(value)

    def _hours_left(self, now_ms: int) -> float | None:
        """Return for how long the battery lasts at the present discharge."""
        tariff, soc = self.settings.tariff, self.policy.soc_percent(now_ms)
        return None if tariff is None else hours_left(tariff.capacity_kwh, soc, self._number("battery_power_w"))

    async def _observe_outage(self, at_ms: int, *, is_out: bool) -> None:
        """Take in whether the grid is gone, and tell when that changes."""
        self.policy.observe_outage(at_ms, is_out=is_out)
        if is_out != self._was_out:
            self._was_out = is_out
            hours = self._hours_left(at_ms) if is_out else None
            await self._tell("grid_lost" if is_out else "grid_back", {} if hours is None else {"hours_left": hours})

    async def _observe_faults(self, values: Mapping[str, Value], at_ms: int) -> None:
        """Take in what the device says is wrong with it, and tell when that changes."""
        for quantity, state in self._controls.faults_in(values).items():
            self.policy.observe_fault(quantity, state, at_ms)
        fault = self.policy.fault(at_ms)
        if fault != self._fault:
            self._fault = fault
            kind = "battery_fault_over" if fault is None else "battery_fault"
            await self._tell(kind, {} if fault is None else {"state": fault})

    def _time(self, boot_ms: int) -> str | None:
        unix_ms = self._clock.unix_ms()
        if unix_ms is None:
            return None
        moment = datetime.fromtimestamp((unix_ms + boot_ms - self._clock.boot_ms()) / 1000, JST)
        return moment.isoformat(timespec="seconds")

    # What is done

    async def _work(self) -> None:
        """Do what is due until nothing is."""
        for _ in range(MOST_STEPS):
            if self._leaving or not await self._step():
                return

    async def _step(self) -> bool:
        """Carry out one step; False when there was none."""
        step = self.policy.step(self._clock.boot_ms())
        if step == "restore":
            await self._restore()
        elif step == "apply" and self.policy.request is not None:
            await self._try(self._apply(self.policy.request))
        elif step == "refresh":
            await self._try(self._refresh())
        return step != "wait"

    async def _try(self, doing: Awaitable[None]) -> None:
        """Run a sequence; a refusal in its middle ends the request, and what was done is undone next."""
        try:
            await doing
        except (RefusedError, UnansweredError, MalformedError) as error:
            now_ms = self._clock.boot_ms()
            mode = self.policy.request.mode if self.policy.request is not None else "?"
            self.policy.failed(f"{mode} was broken off: {error}", now_ms)
            log.warning("%s: %s", self.device, self.policy.reason)
            await self._tell("battery_refused", {"mode": mode, "reason": str(error)[:300]})

    async def _apply(self, request: Request) -> None:
        """Save, remember, write in order, read back."""
        writes = self._controls.sequence(request, await self._asked(self._controls.limits))
        owed = self._owed if self.policy.owes and self._owed is not None else await self._saved(request.mode)
        now = {write.setting: await self._get(write.setting) for write in writes}
        needed = [write for write in writes if write.always or now[write.setting] != write.value]
        stored = sum(write.stored for write in needed)
        self.ledger.afford(stored + self._stored_to_undo(owed, request.mode), self._clock.unix_ms())
        owed.ours = owed.ours | {write.setting: write.value for write in writes if write.compared}
        self._owed = owed
        await self._remember(
            {**self._former_keys(), self._key: owed.as_json(), f"{self._key}/writes": self.ledger.reserve(stored)}
        )
        self.policy.begun(self._clock.boot_ms())
        for write in needed:
            if self._leaving:
                return
            await self._write(write)
        self.policy.applied(request, self._clock.boot_ms())
        data: dict[str, Json] = {"mode": request.mode, "owner": request.owner, "until": self._time(request.deadline_ms)}
        data |= {"power_w": request.power_w, "soc_percent": request.soc_percent}
        await self._tell("battery_mode", {key: value for key, value in data.items() if value is not None})

    def _stored_to_undo(self, owed: Owed, mode: Mode) -> int:
        return sum(write.stored for write in self._controls.undoing(mode, owed.saved))

    async def _saved(self, mode: Mode) -> Owed:
        """Read all that the mode will change; raises RefusedError where somebody commands the device already."""
        saved = {name: await self._get(name) for name in self._controls.touched(mode)}
        for name, idle in self._controls.idle(mode).items():
            if saved.get(name, idle) != idle:
                raise RefusedError(f"somebody else commands the battery: {name} is {saved[name]}, not {idle}")
        return Owed(mode, saved, {}, await self._witnesses(), self.device)

    def _former_keys(self) -> dict[str, Json]:
        """Return what forgets the keys of former versions."""
        return {self._former_key: None, f"{self._former_key}/writes": None}

    async def _witnesses(self) -> dict[str, int]:
        return {name: await self._get(name) for name in self._controls.witnesses}

    async def _refresh(self) -> None:
        """See whether the device still does what it was told, then give the sign of life that its timer wants."""
        request, owed = self.policy.request, self._owed
        if request is None or owed is None:
            return
        if await self._witnesses() != owed.witnesses:
            self.policy.away("the device was started again")
            return
        found = {name: await self._get(name) for name in owed.ours}
        changed = sorted(name for name, bits in owed.ours.items() if found[name] != bits)
        if changed:
            log.warning("%s: somebody else changed %s", self.device, ", ".join(changed))
            if self.policy.foreign(self._clock.boot_ms()):
                await self._tell("battery_given_up", {"changed": ", ".join(changed)})
            return
        if not self.policy.is_sign_due(self._clock.boot_ms()):
            self.policy.looked(self._clock.boot_ms())
            return
        signs = [
            one for one in self._controls.sequence(request, await self._asked(self._controls.limits)) if one.always
        ]
        if stored := sum(write.stored for write in signs):
            self.ledger.afford(stored, self._clock.unix_ms())
            await self._remember({f"{self._key}/writes": self.ledger.reserve(stored)})
        ours = owed.ours | {write.setting: write.value for write in signs if write.compared}
        if ours != owed.ours:  # the device's own limit has moved, and with it what the request comes to
            owed.ours = ours
            await self._remember({self._key: owed.as_json()})
        for write in signs:
            if not self._leaving:
                await self._write(write)
        self.policy.refreshed(self._clock.boot_ms())

    async def _restore(self) -> None:
        """Undo all that can be undone; one refusal does not keep the rest from being tried."""
        owed, now_ms = self._owed, self._clock.boot_ms()
        failures: list[str] = []
        for write in self._undoing(owed, failures):
            try:
                await self._undo(write, owed)
            except (RefusedError, MalformedError) as error:
                failures.append(f"{write.setting}: {error}")
            except UnansweredError as error:
                failures.append(str(error))
                break  # each further time-out would be paid by the neighbours on the line
        if failures:
            self.policy.restore_failed(now_ms)
            level = logging.WARNING if self.policy.failures == 1 else logging.DEBUG
            log.log(level, "%s is not in normal yet: %s", self.device, "; ".join(failures))
            if self.policy.failures == STUCK_AFTER:
                await self._tell("battery_stuck", {"reason": "; ".join(failures)[:300]})
            return
        self.policy.restored()
        self._owed = None
        done = {**self._former_keys(), self._key: None, f"{self._key}/writes": self.ledger.as_json()}
        await self._tell("battery_mode", {"mode": "normal", "reason": self.policy.reason}, done)

    def _undoing(self, owed: Owed | None, failures: list[str]) -> tuple[Write, ...]:
        if owed is None:
            return ()
        try:
            return self._controls.undoing(owed.mode, owed.saved)
        except RefusedError as error:
            failures.append(str(error))
            return ()

    async def _undo(self, write: Write, owed: Owed | None) -> None:
        """Write back one setting if it differs; from another master only what is still ours."""
        bits = await self._get(write.setting)
        if bits == write.value:
            return
        is_his = owed is not None and bits != owed.ours.get(write.setting, bits)
        if not (self.policy.has_given_up(self._clock.boot_ms()) and is_his):
            await self._write(write)

    async def _get(self, setting: str) -> int:
        return await self._asked(lambda: self._controls.get(setting))

    async def _asked(self, read: Callable[[], Awaitable[T]]) -> T:
        """Return what a read gives: one lost answer breaks nothing off, unless there is no time left for another."""
        for _ in range(0 if self._leaving else MOST_ASKED - 1):
            try:
                return await read()
            except UnansweredError as error:
                log.debug("%s: asked again: %s", self.device, error)
        return await read()

    async def _write(self, write: Write) -> None:
        """Write one setting until it reads back; sent again only after the read-back showed another value."""
        refused: RefusedError | None = None
        for _ in range(MOST_SENDS):
            self.ledger.count(write, self._clock.unix_ms())
            is_answered = True
            try:
                await self._controls.put(write)
            except UnansweredError:
                is_answered = False
                log.debug("%s: no answer to a write of %s; read back", self.device, write.setting)
            except RefusedError as error:
                refused = error
            if not write.compared and refused is None:
                if is_answered or await self._runs(write):
                    return
                continue
            if await self._reads_back(write):
                return
            if refused is not None:
                raise refused
        raise RefusedError(f"{write.setting} did not take {write.value}")

    async def _runs(self, write: Write) -> bool:
        """Tell whether what a device counts down was set: it is not at rest, unless rest was written."""
        return bool(await self._get(write.setting)) == bool(write.value)

    async def _reads_back(self, write: Write) -> bool:
        """Tell whether the device shows what was written, at once or after its settle time."""
        if await self._get(write.setting) == write.value:
            return True
        if self._controls.settle_s:
            await self._clock.sleep_until(self._clock.boot_ms() + round(self._controls.settle_s * 1000))
            return await self._get(write.setting) == write.value
        return False

    async def _remember(self, changes: Mapping[str, Json]) -> None:
        if self._memory is None:
            raise RefusedError(f"{self.device} is not connected now")
        await self._memory.update(changes)
        if not (isinstance(self._memory, Kept) and self._memory.is_kept):
            raise RefusedError("what to undo cannot be kept on disk, so a crash would leave the mode on")

    def _recall_learnt(self, memory: Memory) -> None:
        """Take in what an earlier life learnt of the house, once; what makes no sense is forgotten with a message."""
        if self._schedule is None or self._has_recalled:
            return
        self._has_recalled = True
        taken = [self._schedule.learnt.recall(day, memory.get(f"{LEARNT}/{day}")) for day in range(WEEKDAYS)]
        if not all(taken):
            log.warning("%s: what was learnt of the house makes no sense and is forgotten in part", self.device)

    async def _save_learnt(self) -> None:
        """Remember each half hour that was learnt; without room it is known until the agent ends."""
        if self._schedule is None or self._memory is None:
            return
        changes = self._schedule.learnt.take_changes()
        if not changes or not self._may_begin:
            return
        try:
            await self._memory.update({f"{LEARNT}/{weekday}": saved for weekday, saved in changes.items()})
        except MalformedError as error:
            log.warning("%s: what is learnt of the house is not kept: %s", self.device, error)

    async def _tell(self, kind: str, data: Mapping[str, Json], remember: Mapping[str, Json] | None = None) -> None:
        if self._emit is not None:
            await self._emit(Event(self.device, kind, self._clock.boot_ms(), data), remember=remember)
