"""What the doctor says of Route B at each stage an installer can be stuck in, and how the aim looks."""

import pytest

from drivers.api import Context
from drivers.contract import FastClock
from drivers.route_b import radio
from drivers.route_b.checks import check
from drivers.route_b.commands import BAR_CELLS, aim_line

CONTEXT = Context("meter", FastClock(), str)
REFUSES = "the meter refuses the route-B ID or the password"
TABLE = {"port": "/dev/ttyUSB0", "credentials": "route-b"}
DONGLE = {"state": "scanning", "firmware": "1.5.2", "dialect": "C2", "polls": 0}
FOUND = DONGLE | {"state": "joining", "channel": 49, "pan_id": "6677", "rssi_dbm": -79.5}
JOINED = FOUND | {"state": "joined", "join_s": 3.3, "joins": 1, "history": None}
AGAIN = {"state": "waiting", "polls": 9, "joins": 1, "history": True}  # a session is over, and the next not there
READ = JOINED | {"polls": 9, "failures": 1, "loss": 0.05, "history": True, "repaired": 40, "days_to_read": 1}


def steps(state, detail, error=""):
    health = {"state": state, "error": error, "detail": detail}
    return {name.removeprefix("meter: "): rest for name, *rest in check(CONTEXT, TABLE, health)}


@pytest.mark.parametrize(
    ("state", "detail", "error", "last", "verdict", "remedy"),
    [
        ("waiting_for_credentials", {}, "no secret", "credentials", "error", "route-b credentials"),
        ("waiting", {"state": "closed"}, "/dev/ttyUSB0: there is no such port", "port", "error", "by-id"),
        ("waiting", {"state": "closed"}, "no dongle with SK commands answers", "dongle", "error", "plug it in again"),
        ("waiting", DONGLE | {"state": "closed"}, "no dongle with SK commands answers", "dongle", "error", "plug"),
        ("running", {"state": "opening"}, "", "network", "warning", "again"),
        ("running", DONGLE, "", "network", "warning", "again"),
        ("running", DONGLE | {"state": "waiting"}, "", "network", "warning", "again"),
        ("running", DONGLE | {"nothing_found": True}, "", "network", "error", "last 8 characters"),
        ("running", DONGLE | {"nothing_found": True, "foreign_networks": 2}, "", "network", "error", "other houses"),
        ("running", FOUND, "", "join", "warning", "again"),
        ("running", FOUND | {"state": "waiting", "trouble": "no answer"}, "", "join", "error", "aim"),
        ("running", FOUND | {"refusals": 1, "trouble": "refuses"}, "", "join", "warning", "if it stays, check"),
        ("waiting_for_credentials", FOUND | {"refusals": 2}, "refused", "join", "error", "first 24 characters"),
        ("running", FOUND | {"state": "waiting", "refusals": 7}, "", "join", "error", "first 24 characters"),
        ("running", FOUND | AGAIN | {"refusals": 73, "trouble": REFUSES}, "", "join", "error", "first 24 characters"),
        ("running", FOUND | AGAIN | {"trouble": "does not answer the join"}, "", "join", "error", "by itself"),
        ("running", FOUND | AGAIN | {"trouble": "ended the session"}, "", "join", "error", "by itself"),
        ("running", FOUND | {"polls": 9, "trouble": "ended the session"}, "", "join", "error", "by itself"),
        ("running", JOINED, "", "reading", "warning", "aim"),
        ("running", READ | {"trouble": "no answer within 20 s"}, "", "history", "ok", ""),
        ("running", READ | {"history": False}, "", "history", "warning", "gaps"),
        ("running", READ, "", "history", "ok", ""),
    ],
)  # fmt: skip
def test_the_last_step_that_was_reached_says_what_to_do(state, detail, error, last, verdict, remedy):
    found = steps(state, detail, error)
    assert list(found)[-1] == last
    assert found[last][0] == verdict
    assert remedy in found[last][2]
    assert all(rest[0] != "error" for name, rest in found.items() if name != last)
    assert all(rest[2] for rest in found.values() if rest[0] != "ok")  # nothing is wrong without a remedy


def test_a_single_refusal_after_earlier_polls_is_a_warning_and_no_reading_is_claimed():
    found = steps("running", FOUND | AGAIN | {"refusals": 1, "trouble": REFUSES})
    assert found["join"][0] == "warning"
    assert "if it stays, check" in found["join"][2]
    assert "reading" not in found


def test_values_of_a_driver_that_was_closed_in_peace_count():
    assert steps("running", READ | {"state": "closed"})["join"][0] == "ok"  # as the doctor closes it without an agent


def test_a_meter_that_is_read_passes_every_step():
    found = steps("running", READ)
    assert list(found) == ["credentials", "port", "dongle", "network", "signal", "join", "reading", "history"]
    assert {rest[0] for rest in found.values()} == {"ok"}
    assert found["signal"][1] == "-79.5 dBm, 普通 / fair"


def test_a_health_that_says_nothing_is_no_crash():
    assert [rest[0] for rest in steps("", {}).values()][-1] == "warning"
    assert list(check(CONTEXT, {}, {"detail": 7}))


@pytest.mark.parametrize(
    ("dbm", "word"),
    [(-40.0, "good"), (-75.0, "good"), (-75.1, "fair"), (-85.1, "weak"), (-92.1, "bad"), (-150.0, "bad")],
)
def test_a_power_has_one_word(dbm, word):
    assert radio.strength(dbm) == word


def test_the_bar_grows_with_the_signal_and_never_leaves_its_frame():
    fills = [aim_line({"rssi_dbm": float(dbm), "answered_s": 0.5}, None).count("█") for dbm in range(-140, -20)]
    assert fills == sorted(fills)
    assert (fills[0], fills[-1]) == (0, BAR_CELLS)


def test_the_bar_says_when_there_is_no_meter_and_when_its_value_does_not_follow():
    waiting = aim_line({"state": "scanning", "rssi_dbm": None, "trouble": "no meter answers the scan"}, None)
    assert "no meter yet (scanning)" in waiting
    assert "as of the scan" in aim_line({"rssi_dbm": -60.0, "answered_s": 1, "follows": False}, -60.0)
    assert "no answer" in aim_line({"rssi_dbm": -60.0, "answered_s": None}, None)


def test_the_bar_fits_into_the_terminal():
    told = {"rssi_dbm": -60.0, "answered_s": 1}
    wide = aim_line(told, -58.0)
    narrow = aim_line(told, -58.0, 80)
    assert "best -58.0" in wide
    assert wide.startswith(narrow)
    assert sum(2 if ord(letter) > 0x3000 else 1 for letter in narrow) <= 80
