"""The contract itself, held against drivers that each break it in one way."""

import asyncio
import time
from contextlib import asynccontextmanager
from datetime import datetime

import pytest

from drivers import contract
from drivers.api import ConfigError, LinkError, MalformedError, RefusedError, Sample
from drivers.contract import ContractError, Limits, Rig
from drivers.settings import Table, convert

QUICK = Limits(first_item_s=1.0, cancel_s=0.3, lag_s=0.2, silence_s=0.25, settle_s=0.05, recover_s=0.6, items=3)
PERIOD_S = 0.01


class Device:
    """A device in the test's hand: it answers, is silent, or hangs up."""

    def __init__(self):
        self.silent = False
        self.cut = False
        self.value = 0

    def mend(self):
        self.silent = self.cut = False

    def silence(self):
        self.silent = True

    async def ask(self):
        await asyncio.sleep(PERIOD_S)
        if self.cut:
            raise ConnectionResetError("the cable is out")
        if self.silent:
            raise TimeoutError
        self.value += 1
        return self.value


class Settings(Table, frozen=True):
    device: object
    poll_s: float = 1.0


class Good:
    """A driver as it should be; each bad one below changes one thing."""

    backoff_ceiling_s = 60.0

    def __init__(self, context, table):
        self.settings = convert(table, Settings)
        self.devices = (context.name,)
        self.clock = context.clock
        self.device = self.settings.device

    async def run(self, emit, memory):
        while True:
            try:
                value = await self.device.ask()
            except TimeoutError:
                continue  # one device is silent: no sample, the link stays
            except OSError as error:
                raise LinkError(str(error)) from error
            await self.tell(emit, value)

    async def tell(self, emit, value):
        await emit(Sample(self.devices[0], self.clock.boot_ms(), {"grid_power_w": value}))


@asynccontextmanager
async def healthy():
    device = Device()
    yield Rig({"device": device}, silence=device.silence, mend=device.mend)


@asynccontextmanager
async def cut():
    device = Device()
    device.cut = True
    yield Rig({"device": device}, mend=device.mend)


async def examine(driver, **faults):
    await contract.check(driver, healthy, faults, limits=QUICK)


async def test_a_good_driver_passes():
    await examine(Good, cut=cut)


class TakesAnyKey(Good):
    def __init__(self, context, table):
        super().__init__(context, {key: table[key] for key in table if key == "device"})


class FailsUnnamedOnAWrongTable(Good):
    def __init__(self, context, table):
        if set(table) - {"device"}:
            raise KeyError("no_such_key")
        super().__init__(context, table)


class HasOneDeviceTwice(Good):
    def __init__(self, context, table):
        super().__init__(context, table)
        self.devices = (context.name, context.name)


class NeverGivesUpWaiting(Good):
    backoff_ceiling_s = float("inf")


class SaysNothing(Good):
    async def tell(self, emit, value):
        pass


class Returns(Good):
    async def run(self, emit, memory):
        await self.tell(emit, await self.device.ask())


class RunsOnlyOnce(Good):
    ran = False

    async def run(self, emit, memory):
        if self.ran:
            raise LinkError("the port is still open")
        self.ran = True
        await super().run(emit, memory)


class LeavesLate(Good):
    async def run(self, emit, memory):
        try:
            await super().run(emit, memory)
        finally:
            await asyncio.sleep(0.5)


class SwallowsItsCancellation(Good):
    async def run(self, emit, memory):
        try:
            await super().run(emit, memory)
        except asyncio.CancelledError:
            return


class AnswersACancellationWithAnError(Good):
    async def run(self, emit, memory):
        try:
            await super().run(emit, memory)
        except asyncio.CancelledError as error:
            raise LinkError("closed") from error


class LeavesATaskBehind(Good):
    async def run(self, emit, memory):
        self.forgotten = asyncio.get_running_loop().create_task(asyncio.sleep(30), name="forgotten")
        await super().run(emit, memory)


class BlocksTheLoop(Good):
    async def tell(self, emit, value):
        if value % 5 == 0:
            time.sleep(0.3)  # noqa: ASYNC251  (the fault itself)
        await super().tell(emit, value)


class StampsAnOldValueAnew(Good):
    """The last value again when the device is silent: the classic mistake of gateways."""

    async def run(self, emit, memory):
        value = None
        while True:
            try:
                value = await self.device.ask()
            except TimeoutError:
                if value is None:
                    continue
            except OSError as error:
                raise LinkError(str(error)) from error
            await self.tell(emit, value)


class SaysEverythingTwice(Good):
    async def tell(self, emit, value):
        sample = Sample(self.devices[0], self.clock.boot_ms(), {"grid_power_w": value})
        await emit(sample)
        await emit(sample)


class StampsTheFuture(Good):
    async def tell(self, emit, value):
        await emit(Sample(self.devices[0], self.clock.boot_ms() + 5000, {"grid_power_w": value}))


class StampsWithTheWallClock(Good):
    async def tell(self, emit, value):
        await emit(Sample(self.devices[0], time.time(), {"grid_power_w": value}))


class HasTimesWithoutZone(Good):
    async def tell(self, emit, value):
        await emit(Sample(self.devices[0], datetime(2026, 6, 1), {"grid_power_w": value}))  # noqa: DTZ001


class SpeaksForAStranger(Good):
    async def tell(self, emit, value):
        await emit(Sample("neighbour", self.clock.boot_ms(), {"grid_power_w": value}))


class GivesEmptySamples(Good):
    async def tell(self, emit, value):
        await emit(Sample(self.devices[0], self.clock.boot_ms(), {}))


class GivesNotANumber(Good):
    async def tell(self, emit, value):
        await emit(Sample(self.devices[0], self.clock.boot_ms(), {"grid_power_w": float("nan")}))


class NamesQuantitiesFreely(Good):
    async def tell(self, emit, value):
        await emit(Sample(self.devices[0], self.clock.boot_ms(), {"Grid Power": value}))


class RemembersWithoutBound(Good):
    async def tell(self, emit, value):
        sample = Sample(self.devices[0], self.clock.boot_ms(), {"grid_power_w": value})
        await emit(sample, {"everything": "x" * 70_000})


class DoesNotRecover(Good):
    async def run(self, emit, memory):
        try:
            await super().run(emit, memory)
        except LinkError:
            await asyncio.Event().wait()


class LetsTheLibrarysErrorOut(Good):
    async def run(self, emit, memory):
        while True:
            await self.tell(emit, await self.device.ask())


@pytest.mark.parametrize(
    ("driver", "says"),
    [
        (TakesAnyKey, "takes a key it does not know"),
        (FailsUnnamedOnAWrongTable, "must give ConfigError"),
        (HasOneDeviceTwice, "distinct"),
        (NeverGivesUpWaiting, "backoff_ceiling_s"),
        (SaysNothing, "0 items came"),
        (Returns, "run ended"),
        (RunsOnlyOnce, "a second run"),
        (LeavesLate, "not gone"),
        (SwallowsItsCancellation, "swallows"),
        (AnswersACancellationWithAnError, "answers a cancellation"),
        (LeavesATaskBehind, "forgotten"),
        (BlocksTheLoop, "blocks the event loop"),
        (StampsAnOldValueAnew, "an old value"),
        (SaysEverythingTwice, "came twice"),
        (StampsTheFuture, "in the future"),
        (StampsWithTheWallClock, "not stamped with an int"),
        (HasTimesWithoutZone, "without a zone"),
        (SpeaksForAStranger, "not in `devices`"),
        (GivesEmptySamples, "holds no values"),
        (GivesNotANumber, "neither a finite number"),
        (NamesQuantitiesFreely, "no quantity's name"),
        (RemembersWithoutBound, "the memory holds"),
        (DoesNotRecover, "serves nothing"),
        (LetsTheLibrarysErrorOut, "left run"),
    ],
    ids=lambda case: case.__name__ if isinstance(case, type) else "",
)
async def test_a_driver_that_breaks_the_contract_is_caught(driver, says):
    with pytest.raises(ContractError, match=says):
        await examine(driver, cut=cut)


@pytest.mark.parametrize("error", [LinkError, RefusedError, MalformedError])
async def test_the_errors_of_the_seam_may_leave_run(error):
    class FailsProperly(Good):
        async def run(self, emit, memory):
            while True:
                try:
                    value = await self.device.ask()
                except TimeoutError:
                    continue
                except OSError as cause:
                    raise error("cut") from cause
                await self.tell(emit, value)

    await examine(FailsProperly, cut=cut)


async def test_a_breach_under_a_fault_names_the_fault():
    class LetsOneErrorOut(Good):
        async def run(self, emit, memory):
            while True:
                try:
                    value = await self.device.ask()
                except TimeoutError:
                    continue
                await self.tell(emit, value)

    with pytest.raises(ContractError, match=r"under the fault 'cable out': ConnectionResetError"):
        await examine(LetsOneErrorOut, **{"cable out": cut})


async def test_a_value_that_was_never_served_is_caught():
    def judge(sample):
        return "odd" if sample.values["grid_power_w"] % 2 else None

    @asynccontextmanager
    async def judged():
        yield Rig({"device": Device()}, judge=judge)

    with pytest.raises(ContractError, match="never served: odd"):
        await contract.check(Good, judged, limits=QUICK)


async def test_a_secret_that_is_not_given_is_a_config_error():
    class NeedsASecret(Good):
        def __init__(self, context, table):
            super().__init__(context, table)
            context.secret("password")

    with pytest.raises(ConfigError, match="password"):
        await examine(NeedsASecret)
