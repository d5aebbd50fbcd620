"""What is shown now: only what somebody vouches for, and no listener holds up the others."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.live import MAX_LISTENERS, MAX_WAITING, Live, TooManyListenersError

NOW = 1_795_000_000_000
ROLES = {"grid": "meter", "pv": "inverter", "battery": "inverter"}


class Town:
    """A Live with hands on both clocks."""

    def __init__(self):
        self.unix_ms, self.monotonic = NOW, 1000.0
        self.live = Live(lambda: self.unix_ms, lambda: self.monotonic)
        self.hear("meta", {"v": 1, "gateway": "house-001", "roles": ROLES})

    def hear(self, rest, body, *, retained=False):
        payload = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.live.hear(f"gw/v1/house-001/{rest}", payload, retained=retained)

    def now(self, device, at=NOW, valid_s=30, *, retained=False, **values):
        times = {"time": iso(at), "valid_until": iso(at + valid_s * 1000)} if at else {}
        return self.hear(f"now/{device}", times | values, retained=retained)

    def flow(self):
        return self.live.flow("house-001")

    def later(self, seconds):
        self.unix_ms += int(seconds * 1000)
        self.monotonic += seconds


def iso(unix_ms):
    return datetime.fromtimestamp(unix_ms / 1000, UTC).isoformat()


@pytest.fixture
def town():
    return Town()


def test_load_is_told_from_fresh_parts_only(town):
    town.now("meter", grid_power_w=500)
    assert town.flow()["load_power_w"] is None
    town.now("inverter", at=NOW - 5000, pv_power_w=1000, battery_power_w=-300, battery_soc_percent=55.5)
    assert town.flow()["load_power_w"] == 1200
    town.now("inverter", at=NOW - 16_000, pv_power_w=1000, battery_power_w=-300)
    assert town.flow()["load_power_w"] is None
    assert town.flow()["grid_power_w"] == 500


def test_a_value_nobody_vouches_for_any_more_is_gone(town):
    town.now("meter", valid_s=30, grid_power_w=500)
    town.later(29)
    assert town.flow()["grid_power_w"] == 500
    town.later(2)
    assert town.flow()["grid_power_w"] is None
    assert town.live.devices("house-001")["meter"]["values"] == {}


def test_a_lost_device_shows_nothing_at_once(town):
    town.now("meter", grid_power_w=500)
    town.hear("now/meter", {"time": iso(NOW), "lost_since": iso(NOW)})
    assert town.flow()["grid_power_w"] is None
    assert town.live.devices("house-001")["meter"]["lost_since"] == iso(NOW)


def test_a_retained_value_of_yesterday_is_not_fresh(town):
    town.now("meter", at=NOW - 86_400_000, retained=True, grid_power_w=500)
    assert town.flow()["grid_power_w"] is None


def test_a_clock_that_is_slow_does_not_hide_live_values(town):
    town.now("meter", at=NOW - 120_000, grid_power_w=500)
    assert town.flow()["grid_power_w"] == 500


def test_a_gateway_without_a_clock_is_shown_by_receive_time(town):
    town.now("meter", at=None, grid_power_w=500)
    assert town.flow()["grid_power_w"] == 500
    assert town.flow()["time"] == NOW


def test_simulated_values_are_shown_long_enough_to_be_seen(town):
    town.live.note_clock("house-001", "simulated")
    town.now("meter", at=NOW - 10**9, valid_s=1, grid_power_w=500)
    town.later(10)
    assert town.flow()["grid_power_w"] == 500
    town.later(10)
    assert town.flow()["grid_power_w"] is None


def test_in_simulated_time_the_last_values_that_belong_together_stay_shown(town):
    town.hear("health", {"clock": "simulated"})
    town.now("meter", grid_power_w=500)
    town.now("inverter", pv_power_w=1000, battery_power_w=0)
    town.later(1)
    town.now("meter", at=NOW + 120_000, grid_power_w=700)
    assert town.flow()["load_power_w"] == 1500
    assert (town.flow()["grid_power_w"], town.flow()["time"]) == (500, NOW)
    town.now("inverter", at=NOW + 121_000, pv_power_w=1100, battery_power_w=0)
    assert (town.flow()["load_power_w"], town.flow()["time"]) == (1800, NOW + 121_000)
    town.now("meter", at=NOW + 240_000, grid_power_w=1)
    town.later(20)
    town.now("meter", at=NOW + 360_000, grid_power_w=2)
    town.now("inverter", at=NOW + 480_000, pv_power_w=3, battery_power_w=0)
    town.later(11)
    assert town.flow()["load_power_w"] is None
    assert town.flow()["grid_power_w"] == 2


def test_in_simulated_time_a_lost_part_still_leaves_the_load_unknown(town):
    town.hear("health", {"clock": "simulated"})
    town.now("meter", grid_power_w=500)
    town.now("inverter", pv_power_w=1000, battery_power_w=0)
    town.hear("now/inverter", {"time": iso(NOW), "lost_since": iso(NOW)})
    assert town.flow()["load_power_w"] is None
    assert town.flow()["pv_power_w"] is None


def test_an_empty_message_clears_a_device(town):
    town.now("meter", grid_power_w=500)
    town.hear("now/meter", b"")
    assert town.live.devices("house-001") == {}


def test_text_where_power_belongs_is_unknown(town):
    town.now("meter", grid_power_w="much")
    assert town.flow()["grid_power_w"] is None


@pytest.mark.parametrize("body", [b"x", b"[]", b'{"a":{}}', b'{"a":true}', b'{"a":1e99}', b"{" + b" " * 10**6 + b"}"])
def test_nonsense_is_counted_and_handed_on_to_be_put_aside(town, body):
    assert town.hear("now/meter", body)
    assert town.live.refused == 1


@given(st.binary(max_size=200), st.sampled_from(["now/meter", "health", "state", "meta", "telemetry", "now/", "x"]))
def test_any_bytes_are_heard(payload, rest):
    town = Town()
    assert town.hear(rest, payload) in (True, False)
    assert town.flow()["load_power_w"] is None


def test_data_and_retained_words_also_go_to_the_database(town):
    assert town.hear("telemetry", b"anything")
    assert town.hear("state", {"state": "online"})
    assert not town.now("meter", grid_power_w=1)
    assert not town.hear("health", {"clock": "synced"})


async def test_a_listener_hears_its_gateway_only(town):
    mine, other = town.live.listen("house-001"), town.live.listen("house-002")
    town.now("meter", grid_power_w=500)
    assert (await mine.next(1))[0] == "now"
    name, data = await mine.next(1)
    assert name == "flow"
    assert json.loads(data)["grid_power_w"] == 500
    assert await other.next(0) == ("heartbeat", b"{}")


async def test_a_listener_that_does_not_keep_up_is_dropped(town):
    slow, quick = town.live.listen("house-001"), town.live.listen("house-001")
    for number in range(MAX_WAITING):
        town.now("meter", grid_power_w=number)
        assert await quick.next(1)
        assert await quick.next(1)
    assert slow.closed
    assert not quick.closed
    assert await slow.next(1) is None


async def test_there_is_room_for_so_many_listeners(town):
    listeners = [town.live.listen("house-001", town=True) for _ in range(MAX_LISTENERS)]
    with pytest.raises(TooManyListenersError):
        town.live.listen("house-001")
    town.live.leave(listeners[0])
    town.live.listen("house-001")
