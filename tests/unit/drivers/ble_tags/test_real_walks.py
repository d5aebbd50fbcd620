"""Real beacons past real receivers (Position-Annotated BLE RSSI dataset, CC0): one walk is one passage."""

from __future__ import annotations

from collections import defaultdict

import pytest

from drivers.ble_tags.passage import Left, Passages, Rules

TRACKS = ["straight_01", "straight_03", "straight_05", "rectangular_without_rotation", "zigzagging_without_rotation"]


@pytest.mark.parametrize("track", TRACKS)
def test_every_receiver_sees_one_passage(shared, track) -> None:
    packets = defaultdict(list)
    for line in shared(f"data/ble_rssi/{track}_all_sensors.mbd").read_text().splitlines():
        time_s, receiver, _beacon, rssi, *_ = line.split(",")
        packets[receiver].append((round(float(time_s) * 1000), int(rssi)))
    for heard in packets.values():
        heard.sort()
        machine = Passages(Rules())
        left = [each for at_ms, rssi in heard for each in machine.heard("a", at_ms, rssi) if isinstance(each, Left)]
        left += machine.silent(heard[-1][0] + 10**6)
        assert len(left) == 1
        assert left[0].packets == len(heard)
        assert left[0].peak_rssi == max(rssi for _, rssi in heard)
