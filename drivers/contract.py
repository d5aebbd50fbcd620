"""Check any driver against the seam, also one from outside, in three lines of a test. Knows no device and no agent.

    async def test_my_driver_keeps_the_contract():
        await contract.check(create, contract.bench({"poll_s": 0.1}))

`bench` is any function that gives an async context manager around a `Rig`: the driver's table, and what the test can
do to the device behind it. With only a table the driver is run as it is; with `silence` and `mend` the device falls
silent and comes back; each fault is a bench of its own, whose fault is at work from the start until `mend`.
"""

from __future__ import annotations

import asyncio
import json
import math
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeAlias

from drivers.api import MEMORY_LIMIT_BYTES, ConfigError, Context, Driver, DriverError, Event, Factory, Json, Sample

_QUANTITY_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
_DEVICE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class ContractError(AssertionError):
    """The driver breaks the contract; says what it did and what the contract asks."""


@dataclass(frozen=True, slots=True)
class Rig:
    """A link to run the driver against: its table, and how the device behind it is silenced, mended and judged."""

    table: Mapping[str, Any]
    silence: Callable[[], None] | None = None
    mend: Callable[[], None] | None = None
    judge: Callable[[Sample], str | None] | None = None
    """Says what is wrong with a sample the device cannot have served, or None."""
    secrets: Mapping[str, str] = field(default_factory=dict)


Bench: TypeAlias = Callable[[], AbstractAsyncContextManager[Rig]]


@dataclass(frozen=True, slots=True)
class Limits:
    """How patient the check is; all in real seconds."""

    first_item_s: float = 10.0
    """A healthy device must have delivered within this."""
    cancel_s: float = 2.0
    """A cancelled driver must be gone within this: the agent stops within 5 s."""
    lag_s: float = 0.25
    """The event loop must never stand still for longer."""
    silence_s: float = 2.0
    """How long the device stays silent; long enough that the driver's own time-outs pass."""
    settle_s: float = 0.5
    """An answer already on its way may still be delivered this long after the device fell silent."""
    recover_s: float = 15.0
    """After a fault is mended, something must be delivered within this."""
    items: int = 3
    """How many items make a healthy run."""


def bench(table: Mapping[str, Any], **rig: Any) -> Bench:
    """Return a bench around a table alone, for a driver without a link of its own."""

    @asynccontextmanager
    async def opened() -> AsyncIterator[Rig]:
        yield Rig(table, **rig)

    return opened


async def check(
    create: Factory,
    healthy: Bench,
    faults: Mapping[str, Bench] | None = None,
    *,
    name: str = "device",
    speed: float = 1.0,
    limits: Limits = Limits(),
) -> None:
    """Put a driver through everything the seam asks; raises ContractError. `speed` is that of the driver's clock."""
    make = _Maker(create, name, speed)
    async with healthy() as rig:
        make.refuses_a_stranger_key(rig)
        await _serves(make, rig, limits)
        await _leaves(make, rig, limits)
        if rig.silence is not None:
            await _keeps_silence(make, rig, limits)
    for fault, faulty in (faults or {}).items():
        try:
            async with faulty() as rig:
                await _lives_through(make, rig, limits)
        except ContractError as error:
            raise ContractError(f"under the fault {fault!r}: {error}") from error


class FastClock:
    """A clock for drivers under test: the real boot clock, run `speed` times as fast."""

    def __init__(self, speed: float = 1.0) -> None:
        self._speed = speed
        self._since_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        self._unix_ms = time.time_ns() // 1_000_000

    def boot_ms(self) -> int:
        """Return ms since boot."""
        elapsed_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME) - self._since_ns
        return (self._since_ns + int(elapsed_ns * self._speed)) // 1_000_000

    def unix_ms(self) -> int:
        """Return UTC in ms."""
        return self._unix_ms + self.boot_ms() - self._since_ns // 1_000_000

    async def sleep_until(self, boot_ms: int) -> None:
        """Return when the clock shows `boot_ms`."""
        while (missing_ms := boot_ms - self.boot_ms()) > 0:  # noqa: ASYNC110  (waits for time, not for an event)
            await asyncio.sleep(missing_ms / 1000 / self._speed)


class DictMemory:
    """A driver's memory that lasts as long as the test, with the limits of the real one."""

    is_kept = True

    def __init__(self) -> None:
        self.content: dict[str, Json] = {}

    def get(self, key: str) -> Json:
        """Return what was remembered under a key, or None."""
        return self.content.get(key)

    async def update(self, changes: Mapping[str, Json]) -> None:
        """Remember; a key set to None is forgotten."""
        self.take(changes)

    def take(self, changes: Mapping[str, Json]) -> None:
        """Remember at once; raises ContractError for what the real memory would not hold."""
        merged: dict[str, Json] = {
            key: value for key, value in {**self.content, **changes}.items() if value is not None
        }
        try:
            size = len(json.dumps(merged, allow_nan=False).encode())
        except (TypeError, ValueError) as error:
            raise ContractError(f"remembers what JSON cannot hold ({error})") from error
        if size > MEMORY_LIMIT_BYTES:
            raise ContractError(f"remembers {size} bytes; the memory holds {MEMORY_LIMIT_BYTES}")
        self.content = merged


class _Maker:
    """Builds the driver again and again, as the agent would."""

    def __init__(self, create: Factory, name: str, speed: float) -> None:
        self._create, self._name, self.clock = create, name, FastClock(speed)

    def build(self, rig: Rig, extra: Mapping[str, Any] | None = None) -> Driver:
        def secret(name: str) -> str:
            if name not in rig.secrets:
                raise ConfigError("secret", "not given", "add it to the rig's secrets", name)
            return rig.secrets[name]

        driver = self._create(Context(self._name, self.clock, secret), {**rig.table, **(extra or {})})
        devices = tuple(driver.devices)
        if len(set(devices)) != len(devices) or not all(_DEVICE_NAME.fullmatch(device) for device in devices):
            raise ContractError(f"its devices {devices!r} are not distinct names of letters, digits, - _ and .")
        if not 0 < driver.backoff_ceiling_s <= 3600:
            raise ContractError(f"backoff_ceiling_s is {driver.backoff_ceiling_s!r}; give seconds, at most an hour")
        return driver

    def refuses_a_stranger_key(self, rig: Rig) -> None:
        try:
            self.build(rig, {"no_such_key": 1})
        except ConfigError as error:
            if not error.remedy:
                raise ContractError(f"its ConfigError names no remedy: {error}") from error
        except DriverError as error:
            raise ContractError(f"a wrong table must give ConfigError, not {error!r}") from error
        except Exception as error:
            raise ContractError(f"a wrong table must give ConfigError; {error!r} left the factory") from error
        else:
            raise ContractError("takes a key it does not know; a typing mistake must be a ConfigError")


class _Watch:
    """Takes a driver's items as the agent would and notes every breach."""

    def __init__(self, driver: Driver, clock: FastClock, rig: Rig) -> None:
        self.items: list[Sample | Event] = []
        self.breaches: list[str] = []
        self.arrived = asyncio.Event()
        self.memory = DictMemory()
        self._devices = set(driver.devices)
        self._clock, self._rig = clock, rig
        self._began_ms = clock.boot_ms()
        self._seen: set[tuple[str, int | datetime, frozenset[str]]] = set()

    async def emit(self, item: Sample | Event, remember: Mapping[str, Json] | None = None) -> None:
        await asyncio.sleep(0)  # the agent's emit may wait too
        self.breaches += _breaches(item, self._devices)
        if isinstance(item.at, int) and isinstance(item, Sample):
            self.breaches += self._stamp_breaches(item, item.at)
        if isinstance(item, Sample) and self._rig.judge is not None and (wrong := self._rig.judge(item)):
            self.breaches.append(f"{item!r} was never served: {wrong}")
        if remember is not None:
            try:
                self.memory.take(remember)
            except ContractError as error:
                self.breaches.append(str(error))
        self.items.append(item)
        self.arrived.set()

    def _stamp_breaches(self, sample: Sample, at: int) -> Iterator[str]:
        if at > self._clock.boot_ms():
            yield f"{sample!r} is stamped in the future"
        if at < self._began_ms:
            yield f"{sample!r} is stamped before the run began: an old value"
        key = (sample.device, at, frozenset(sample.values))
        if key in self._seen:
            yield f"{sample!r} came twice with one stamp"
        self._seen.add(key)

    def complain(self) -> None:
        """Raise what was noted."""
        if self.breaches:
            more = f" (and {len(self.breaches) - 1} more)" if len(self.breaches) > 1 else ""
            raise ContractError(self.breaches[0] + more)

    async def wait_for(self, count: int, within_s: float) -> bool:
        """Return whether `count` items are there in time."""
        try:
            async with asyncio.timeout(within_s):
                while len(self.items) < count:
                    self.arrived.clear()
                    await self.arrived.wait()
        except TimeoutError:
            return False
        return True


def _breaches(item: object, devices: set[str]) -> Iterator[str]:
    """Yield what is wrong with an item whenever it comes."""
    if not isinstance(item, Sample | Event):
        yield f"emits {item!r}; only Sample and Event pass the seam"
        return
    if item.device not in devices:
        yield f"{item!r} names a device that is not in `devices`"
    if isinstance(item.at, datetime):
        if item.at.tzinfo is None:
            yield f"{item!r} has a time without a zone"
    elif type(item.at) is not int:
        yield f"{item!r} is not stamped with an int of the boot clock or an aware time"
    yield from _event_breaches(item) if isinstance(item, Event) else _value_breaches(item)


def _event_breaches(event: Event) -> Iterator[str]:
    try:
        json.dumps(dict(event.data), allow_nan=False)
    except (TypeError, ValueError) as error:
        yield f"the data of {event!r} is not JSON: {error}"


def _value_breaches(sample: Sample) -> Iterator[str]:
    if not sample.values:
        yield f"{sample!r} holds no values; a device that does not answer yields no sample"
    for name, value in sample.values.items():
        if not isinstance(name, str) or not _QUANTITY_NAME.fullmatch(name):
            yield f"{name!r} is no quantity's name (snake case with its unit)"
        if not _is_value(value):
            yield f"{name} = {value!r} is neither a finite number, text nor None"


def _is_value(value: object) -> bool:
    if isinstance(value, bool):
        return False
    if isinstance(value, float):
        return math.isfinite(value)
    return value is None or isinstance(value, int | str) or (isinstance(value, Decimal) and value.is_finite())


@asynccontextmanager
async def _running(
    driver: Driver, watch: _Watch, limits: Limits, life: Callable[[], Awaitable[None]] | None = None
) -> AsyncIterator[asyncio.Task[None]]:
    """Run a driver and a lag meter beside it; afterwards cancel it and hold it to the limits."""
    lag = _LagMeter()
    meter = asyncio.ensure_future(lag.run())
    with _driver_tasks() as started:
        task = asyncio.ensure_future(life() if life is not None else driver.run(watch.emit, watch.memory))
        try:
            yield task
            await _cancelled_in_time(task, limits)
            if left := [one.get_name() for one in started if not one.done()]:
                raise ContractError(f"left tasks behind when cancelled: {', '.join(left)}; end them in `finally`")
        finally:
            for one in {task, meter, *started}:
                one.cancel()
            await asyncio.wait({task, meter, *started}, timeout=limits.cancel_s)
    if lag.worst_s > limits.lag_s:
        raise ContractError(
            f"blocks the event loop for {lag.worst_s * 1000:.0f} ms; all other drivers stand still meanwhile "
            f"(at most {limits.lag_s * 1000:.0f} ms): await instead, or use asyncio.to_thread"
        )
    watch.complain()


_IN_DRIVER: ContextVar[bool] = ContextVar("_IN_DRIVER", default=False)


@contextmanager
def _driver_tasks() -> Iterator[list[asyncio.Task[Any]]]:
    """Collect the tasks that a driver starts; the context tells them from those of a simulator in the same loop."""
    loop = asyncio.get_running_loop()
    former, started = loop.get_task_factory(), list[asyncio.Task[Any]]()

    def factory(loop: asyncio.AbstractEventLoop, coroutine: Any, **named: Any) -> Any:
        task = former(loop, coroutine, **named) if former else asyncio.Task(coroutine, loop=loop, **named)
        if _IN_DRIVER.get():
            started.append(task)  # type: ignore[arg-type]  # a factory may give any future; ours gives tasks
        return task

    loop.set_task_factory(factory)
    mark = _IN_DRIVER.set(True)
    try:
        yield started
    finally:
        _IN_DRIVER.reset(mark)
        loop.set_task_factory(former)


async def _cancelled_in_time(task: asyncio.Task[None], limits: Limits) -> None:
    if task.done():
        return
    task.cancel()
    await asyncio.wait([task], timeout=limits.cancel_s)
    if not task.done():
        raise ContractError(f"is not gone {limits.cancel_s} s after it was cancelled; bound the clean-up")
    if not task.cancelled():
        error = task.exception()
        what = f"answers a cancellation with {error!r}" if error else "swallows its cancellation and returns"
        raise ContractError(f"{what}; let CancelledError pass")


class _LagMeter:
    """Measures how long the event loop stands still, without the time the machine gave to other processes."""

    PERIOD_S = 0.01

    def __init__(self) -> None:
        self.worst_s = 0.0

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due, waited_s = loop.time() + self.PERIOD_S, _run_queue_s()
            await asyncio.sleep(self.PERIOD_S)
            late_s = loop.time() - due - (_run_queue_s() - waited_s)
            self.worst_s = max(self.worst_s, late_s)


def _run_queue_s() -> float:
    """Return how long this thread has waited for a processor so far (Linux; 0 elsewhere)."""
    try:
        return int(Path("/proc/thread-self/schedstat").read_text(encoding="ascii").split()[1]) / 1e9
    except (OSError, ValueError, IndexError):
        return 0.0


def _ended(task: asyncio.Task[None]) -> str:
    """Say how a run ended that should have gone on."""
    error = None if task.cancelled() else task.exception()
    return "its run was cancelled by itself" if task.cancelled() else f"its run ended with {error!r}"


async def _serves(make: _Maker, rig: Rig, limits: Limits) -> None:
    """A healthy link gives items, and the same driver runs again after it was cancelled."""
    driver = make.build(rig)
    for attempt in ("the first run", "a second run of the same driver"):
        watch = _Watch(driver, make.clock, rig)
        async with _running(driver, watch, limits) as task:
            got = await _while_running(task, watch.wait_for(limits.items, limits.first_item_s))
            watch.complain()
            if not got:
                how = _ended(task) if task.done() else f"{len(watch.items)} items came in {limits.first_item_s} s"
                raise ContractError(f"{attempt} did not serve a healthy link: {how}")


async def _while_running(task: asyncio.Task[None], wanted: Awaitable[bool]) -> bool:
    """Wait for something unless the task ends first."""
    waiting = asyncio.ensure_future(wanted)
    try:
        await asyncio.wait([task, waiting], return_when=asyncio.FIRST_COMPLETED)
        return waiting.done() and waiting.result()
    finally:
        waiting.cancel()
        await asyncio.wait([waiting])


async def _leaves(make: _Maker, rig: Rig, limits: Limits) -> None:
    """A driver can be cancelled at any moment: at once, while it opens, in the middle of its work, inside emit."""
    for moment_s in (0.0, 0.003, 0.03, 0.1, 0.3):
        driver = make.build(rig)
        watch = _Watch(driver, make.clock, rig)
        async with _running(driver, watch, limits) as task:
            await asyncio.wait([task], timeout=moment_s)
            if task.done():
                raise ContractError(f"did not serve a healthy link: {_ended(task)}")
    driver = make.build(rig)
    watch, full = _Watch(driver, make.clock, rig), asyncio.Event()

    async def never(item: Sample | Event, remember: Mapping[str, Json] | None = None) -> None:
        del item, remember
        full.set()
        await asyncio.Event().wait()

    async with _running(driver, watch, limits, lambda: driver.run(never, watch.memory)) as task:

        async def stuck() -> bool:
            return await full.wait()

        await asyncio.wait_for(_while_running(task, stuck()), limits.first_item_s)


async def _keeps_silence(make: _Maker, rig: Rig, limits: Limits) -> None:
    """A device that fell silent yields no sample; once it answers again, so does the driver."""
    driver = make.build(rig)
    watch = _Watch(driver, make.clock, rig)
    assert rig.silence is not None  # noqa: S101  (asked for by the caller)
    async with _running(driver, watch, limits, lambda: _supervised(driver, watch)) as task:
        await _while_running(task, watch.wait_for(limits.items, limits.first_item_s))
        rig.silence()
        await asyncio.wait([task], timeout=limits.settle_s)
        quiet_from = len(watch.items)
        await asyncio.wait([task], timeout=limits.silence_s)
        for item in watch.items[quiet_from:]:
            if isinstance(item, Sample) and isinstance(item.at, int):
                raise ContractError(f"{item!r} came from a device that answers nothing: an old value, stamped anew")
        await _recovers(task, watch, rig, limits)


async def _lives_through(make: _Maker, rig: Rig, limits: Limits) -> None:
    """Under a fault only the four errors leave `run`, and once the fault is mended there are items again."""
    driver = make.build(rig)
    watch = _Watch(driver, make.clock, rig)
    async with _running(driver, watch, limits, lambda: _supervised(driver, watch)) as task:
        await asyncio.wait([task], timeout=limits.silence_s)
        await _recovers(task, watch, rig, limits)


async def _recovers(task: asyncio.Task[None], watch: _Watch, rig: Rig, limits: Limits) -> None:
    if task.done():
        raise task.exception() or ContractError(_ended(task))
    if rig.mend is None:
        return
    rig.mend()
    count = len(watch.items) + 1
    while await _while_running(task, watch.wait_for(count, limits.recover_s)):
        if isinstance(watch.items[count - 1], Sample):
            return
        count += 1
    if task.done():
        raise task.exception() or ContractError(_ended(task))
    raise ContractError(f"serves nothing {limits.recover_s} s after the link was mended")


async def _supervised(driver: Driver, watch: _Watch) -> None:
    """Run a driver again whenever its link is lost, as the agent does; anything but the four errors is a breach."""
    while True:
        try:
            await driver.run(watch.emit, watch.memory)
        except DriverError:
            await asyncio.sleep(0.1)
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            raise ContractError(
                f"{error!r} left run(); translate it at the link into LinkError, RefusedError, MalformedError "
                "or ConfigError"
            ) from error
        else:
            raise ContractError("run() returned; it must serve until it is cancelled or its link is lost")
