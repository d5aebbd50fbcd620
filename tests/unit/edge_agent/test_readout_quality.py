"""What `read` says of single values: only what a driver tells of them, whatever its status looks like."""

import pytest

from edge_agent.readout import of_values


def test_values_that_are_not_good_are_named():
    status = {"devices": {"inverter": {"lost": False, "quality": {"pv_power_w": "stale"}}, "other": {}}}
    assert of_values(status, "inverter") == {"values": {"pv_power_w": "stale"}}
    assert of_values(status, "other") == {}


@pytest.mark.parametrize(
    "status",
    [
        {},
        {"devices": 3},
        {"devices": ["inverter"]},
        {"devices": {"inverter": 1}},
        {"devices": {"inverter": {"quality": {}}}},
    ],
)
def test_a_driver_that_tells_nothing_of_them_is_believed(status):
    assert of_values(status, "inverter") == {}
