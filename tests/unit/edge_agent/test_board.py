"""The retained messages for people: values of one tick go together, at most once a second; a loss goes at once."""

import json
from itertools import pairwise

import pytest

from edge_agent.board import GATHER_S, NOW_EVERY_S, Board
from edge_agent.clock import ClockSettings, SystemClock


class Shown:
    """A board with a hand on its time."""

    def __init__(self):
        self.now_s = 1000.0
        self.board = Board("house-001", SystemClock(ClockSettings(trust="system")), lambda: self.now_s)

    def values(self, device, power_w):
        self.board.put_values(device, {"power_w": power_w}, 30.0)

    def take(self, after_s=0.0):
        self.now_s += after_s
        return {topic.split("/")[-1]: json.loads(payload or b"{}") for topic, payload, _ in self.board.take()}

    def powers(self, after_s=0.0):
        return {device: said.get("power_w") for device, said in self.take(after_s).items()}


@pytest.fixture
def shown():
    return Shown()


def test_the_values_of_one_tick_go_together(shown):
    shown.values("inverter", 1)
    assert shown.powers() == {}
    shown.now_s += 0.05
    shown.values("meter", 2)
    assert shown.board.wait_s(1.0) == pytest.approx(GATHER_S)
    assert shown.powers(GATHER_S) == {"inverter": 1, "meter": 2}
    assert shown.powers(10) == {}


@pytest.mark.parametrize("tick_s", [0.03, 0.25, 0.5])
def test_in_fast_time_every_message_has_a_companion_of_its_own_tick(shown, tick_s):
    moments, at_s = [], shown.now_s
    for tick in range(200):
        for device, late_s in (("inverter", 0.0), ("meter", 0.01)):
            while shown.now_s < at_s + tick * tick_s + late_s:
                shown.now_s += 0.005
                if said := shown.powers():
                    moments.append((shown.now_s, said))
            shown.values(device, tick)
    assert len(moments) >= 200 * tick_s / (NOW_EVERY_S + 0.5) - 1
    assert all(later[0] - earlier[0] >= NOW_EVERY_S for earlier, later in pairwise(moments))
    assert all(said.keys() == {"inverter", "meter"} for _, said in moments)
    if tick_s > GATHER_S:
        assert all(said["inverter"] == said["meter"] for _, said in moments)


def test_values_that_never_pause_are_shown_all_the_same(shown):
    for _ in range(30):
        shown.values("meter", 1)
        if shown.powers(GATHER_S / 2):
            break
    assert shown.now_s - 1000 <= NOW_EVERY_S + GATHER_S


def test_a_loss_goes_at_once_and_takes_waiting_values_along(shown):
    shown.values("meter", 1)
    shown.board.put_lost("meter", 0)
    assert shown.take()["meter"]["lost_since"]
    assert shown.take(10) == {}


def test_a_device_that_left_is_cleared_once_even_with_values_waiting(shown):
    shown.values("meter", 1)
    shown.board.clear("meter")
    assert shown.take() == {"meter": {}}
    shown.board.rewrite()
    assert shown.take(10) == {}


def test_a_new_connection_gets_everything_that_is_still_true_at_once(shown):
    shown.values("meter", 1)
    shown.powers(1)
    shown.values("inverter", 2)
    shown.board.rewrite()
    assert shown.powers() == {"meter": 1, "inverter": 2}
    shown.now_s += 60
    shown.board.rewrite()
    assert shown.powers() == {}
