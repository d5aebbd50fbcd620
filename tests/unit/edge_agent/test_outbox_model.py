"""The outbox against a plain list: whatever happens in whatever order, what is owed is there, once and unchanged."""

from __future__ import annotations

import asyncio
import sqlite3
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from drivers.api import Event, Sample
from edge_agent import wire
from edge_agent.outbox import Outbox, OutboxSettings


class Time:
    boot = "a1b2c3d4"
    s = 1000.0

    def boot_ms(self):
        return round(self.s * 1000)

    def offset_ms(self):
        return 0

    def quality(self):
        return "synced"

    def now_s(self):
        return self.s


class OutboxModel(RuleBasedStateMachine):
    """`owed` are items accepted and not acknowledged, with the moment from which a crash must not take them."""

    def __init__(self):
        super().__init__()
        self.runner = asyncio.Runner()
        self.folder = tempfile.TemporaryDirectory()
        self.time = Time()
        self.sent: dict = {}
        self.owed: dict[int, float] = {}
        self.lost: set[int] = set()
        self.memory: dict[str, int] = {}
        self.number = 0
        self.refusing = False
        self.open()

    def open(self):
        path = Path(self.folder.name) / "outbox.db"
        chosen = OutboxSettings(write_after=4.0)
        self.outbox = Outbox.open(path, "house-001", self.time, chosen, now_s=self.time.now_s, boot="a1b2c3d4")
        self.run(self.outbox.__aenter__())
        self.outbox.answering = True

    def run(self, work):
        return self.runner.run(work)

    def teardown(self):
        self.close()
        self.runner.close()
        self.folder.cleanup()

    def close(self):
        self.refuse(False)
        self.run(self.outbox.__aexit__(None, None, None))

    @rule(events=st.integers(0, 3), samples=st.integers(0, 120))
    def accept(self, events, samples):
        async def accept():
            for _ in range(samples):
                self.number += 1
                values = {"number": self.number}
                await self.outbox.accept("meter", Sample("meter", self.time.boot_ms(), values))
                self.owed[self.number] = self.time.s + 4.0
            for _ in range(events):
                self.number += 1
                event = Event("meter", "x", self.time.boot_ms(), {"number": self.number})
                await self.outbox.accept("meter", event, {"last": self.number})
                self.owed[self.number] = 0.0
                self.memory = {"last": self.number}

        self.run(accept())

    @rule(seconds=st.sampled_from([0.5, 2.0, 5.0, 70.0]))
    def wait(self, seconds):
        self.time.s += seconds
        self.run(self.outbox.upkeep())
        self.run(self.outbox.upkeep())

    def peek(self):
        async def peek():
            place, found = 0, []
            while place is not None:
                more, place = await self.outbox.backlog(place, 3000, ())
                found += more
            return found

        return self.run(peek())

    @rule(choice=st.randoms(use_true_random=False))
    def acknowledge_some(self, choice):
        for batch in self.peek():
            if choice.random() < 0.5:
                assert self.outbox.acknowledge(batch.epoch, [batch.seq]) == 1
                assert self.outbox.acknowledge(batch.epoch, [batch.seq]) in {0, 1}
                for number in numbers(batch.payload):
                    del self.owed[number]

    @precondition(lambda self: not self.refusing)
    @rule()
    def restart(self):
        self.close()
        self.open()

    @precondition(lambda self: not self.refusing)
    @rule()
    def crash(self):
        """Lose everything that is only in memory, as SIGKILL does."""
        store = self.outbox._store
        at_risk = {number for number, until_s in self.owed.items() if until_s > self.time.s - 0.001}
        acknowledged = set(self.outbox._acknowledged)
        self.run(store._db.close())
        self.open()
        kept = set()
        for batch in self.peek():
            assert self.sent.get(batch.key, batch.payload) == batch.payload
            if batch.key in acknowledged:  # let go, and not yet deleted: it comes again, and may
                self.outbox.acknowledge(*batch.key[:1], [batch.seq])
                continue
            kept |= numbers(batch.payload)
        assert set(self.owed) - kept <= at_risk
        for number in set(self.owed) - kept:
            del self.owed[number]
        assert kept <= set(self.owed) | self.lost

    @rule(refusing=st.booleans())
    def refuse(self, refusing):
        self.refusing = refusing
        store = self.outbox._store
        if refusing:

            async def refuse(*_):
                raise sqlite3.OperationalError("database or disk is full")

            store.write = refuse
        else:
            vars(store).pop("write", None)
            self.time.s += 6
            self.run(self.outbox.upkeep())
            assert self.outbox.statistics()["durable"]

    @invariant()
    def owed_is_there_once_and_unchanged(self):
        found: list[int] = []
        for batch in self.peek():
            assert self.sent.setdefault(batch.key, batch.payload) == batch.payload
            found += sorted(numbers(batch.payload))
        assert len(found) == len(set(found))
        unnumbered = self.outbox.intake.rows
        assert set(found) <= set(self.owed)
        assert len(self.owed) - len(found) == unnumbered
        assert self.outbox.memory("meter").get("last") == self.memory.get("last")


def numbers(payload):
    batch = wire.decode_batch(payload)
    rows = {row[1] for block in batch.blocks for row in block.rows}
    return rows | {event.data["number"] for event in batch.events}


TestOutboxModel = OutboxModel.TestCase
TestOutboxModel.settings = settings(max_examples=25, stateful_step_count=25, deadline=None, derandomize=True)
TestOutboxModel.pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]
