"""The whole driver on a real pseudo-terminal: joins, polls, losses, refusals, unplugging, secrets."""

import asyncio
import json
import logging
from decimal import Decimal

import pytest

from drivers.api import ConfigError, Context, CredentialsError, LinkError, RefusedCredentialsError, RefusedError
from drivers.contract import DictMemory, FastClock
from drivers.route_b import driver as driver_module
from drivers.route_b import joining
from drivers.route_b.credentials import parse_credentials
from drivers.route_b.driver import RouteB, create
from drivers.route_b.echonet import FrameError
from drivers.route_b.session import Timeouts

SCALING = "62" + "03E100D300D700"
C02 = "1081000102880105FF017302EA0B07EA051F001E000000458EEB0B07EA051F001E0000000015"
H01 = "1081029F02880105FF017402EA0B07EA051F1200000000FBD2EB0B07EA051F12000000000009"
H02 = "1081029F05FF010288017A02EA00EB00"
ROUTE_B_ID, PASSWORD = "00112233445566778899AABBCCDDEEFF", "0123456789AB"
CREDENTIALS = f'{{"id": "{ROUTE_B_ID}", "password": "{PASSWORD}"}}'


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(driver_module, "FIRST_WAIT_S", 0.02)
    monkeypatch.setattr(driver_module, "LONGEST_WAIT_S", 0.1)
    monkeypatch.setattr(joining, "JOIN_SPACING_S", 0.05)


@pytest.mark.parametrize("dialect", ["A1", "C2"])
async def test_a_meter_behind_either_dialect_is_read_exactly(dialect, dongle, working):
    dongle.dialect = dialect
    async with working(dongle) as bench:
        await bench.until(lambda: bench.samples)
        assert bench.samples[0].device == "meter"
        assert bench.samples[0].values == {
            "grid_power_w": 929,
            "current_r_a": 7.0,
            "current_t_a": 4.0,
            "import_energy_kwh": Decimal("4757.5"),
            "export_energy_kwh": Decimal("1.1"),
        }
        assert isinstance(bench.samples[0].values["import_energy_kwh"], Decimal)
        await bench.until(lambda: bench.half_hours)
        assert bench.driver.describe() == {
            "meter": {
                "maker": "Toshiba",
                "serial": "F24G366505",
                "release": "F revision 0",
                "series": 1,
                "unit_kwh": 0.1,
                "coefficient": 1,
                "modulus_kwh": 100_000,
            }
        }
        status = bench.driver.status()
        assert (status["state"], status["dialect"], status["joins"]) == ("joined", dongle.dialect, 1)
        assert status["rssi_dbm"] == (-79.5 if dongle.dialect == "C2" else -43.5)
        assert bench.events == []


@pytest.mark.parametrize("told", [None, "010C0100", "00002000", "000046"])
async def test_a_meter_that_names_no_release_is_described_without_one(told, dongle, working):
    dongle.values[0x82] = told
    async with working(dongle) as bench:
        await bench.until(lambda: bench.half_hours)
        about = bench.driver.describe()["meter"]
    assert "release" not in about
    assert about["serial"] == "F24G366505"


async def test_one_request_asks_for_all_four_values_on_every_tick(dongle, working):
    async with working(dongle) as bench:
        await bench.until(lambda: len(bench.samples) >= 5)
    polls = [data for data in dongle.requests if data[10:] == bytes.fromhex("6204E700E800E000E300")]
    assert len(polls) >= 5
    assert sum(data[10:] == bytes.fromhex(SCALING) for data in dongle.requests) == 2  # until two answers agree
    ticks = [sample.at // 10_000 for sample in bench.samples[1:]]
    assert ticks == sorted(set(ticks))  # at most one sample a tick, however late its answer


async def test_at_six_hundredfold_speed_the_driver_keeps_up(dongle, working):
    async with working(dongle) as bench:
        await bench.until(lambda: bench.samples)
        begin = bench.samples[0].at
        await bench.until(lambda: len(bench.samples) >= 40)
    spent = (bench.samples[-1].at - begin) / 10_000
    assert spent < 2 * 40  # at least every other tick even on a busy machine
    assert bench.events == []


async def test_opening_costs_less_than_two_seconds_beyond_the_radios_own_time(dongle, working):
    began = asyncio.get_running_loop().time()
    async with working(dongle, speed=1.0):  # this radio takes no time at all
        await dongle.until(lambda: dongle.requests)
        assert asyncio.get_running_loop().time() - began < 2


async def test_a_known_network_is_joined_without_a_scan(dongle, working):
    async with working(dongle) as bench:
        await bench.until(lambda: bench.samples)
    memory = bench.memory
    assert {"channel": 0x31, "pan_id": 0x6677, "mac": "0011223344556677"}.items() <= memory.kept["pan"].items()
    dongle.commands.clear()
    async with working(dongle, memory) as again:
        await again.until(lambda: again.samples)
    assert dongle.count("SKSCAN") == 0
    assert dongle.count("SKJOIN") == 1


async def test_a_remembered_network_that_is_gone_is_scanned_for(dongle, working):
    async with working(dongle) as bench:
        await bench.until(lambda: bench.samples)
    refusals = iter(["OK\r\nEVENT 24 FE80:0000:0000:0000:0211:2233:4455:6677 0\r\n"])
    dongle.answers["SKJOIN"] = lambda: next(refusals, dongle._usual("SKJOIN"))
    dongle.commands.clear()
    async with working(dongle, bench.memory) as again:
        await again.until(lambda: again.samples)
    assert (dongle.count("SKJOIN"), dongle.count("SKSCAN")) == (2, 1)
    assert again.events == []


@pytest.mark.parametrize("kept", [17, {"channel": 1}, {"of": "", "channel": 0x31, "pan_id": 1, "mac": "0" * 16}, "x"])
async def test_a_memory_that_makes_no_sense_is_not_used(kept, dongle, working):
    async with working(dongle) as bench:
        bench.memory.kept["pan"] = kept
        await bench.until(lambda: bench.samples)
    assert dongle.count("SKSCAN") == 1


async def test_a_refused_coefficient_means_one_and_refused_values_are_not_asked_again(dongle, working):
    del dongle.values[0xD3], dongle.values[0xE3]
    async with working(dongle) as bench:
        await bench.until(lambda: len(bench.samples) >= 3)
        assert bench.driver.status()["refused"] == ["E3"]
    assert [set(sample.values) for sample in bench.samples] == [
        {"grid_power_w", "current_r_a", "current_t_a", "import_energy_kwh"}
    ] * len(bench.samples)
    assert bench.samples[0].values["import_energy_kwh"] == Decimal("4757.5")
    assert dongle.requests[-1][10:] in (bytes.fromhex("6203E700E800E000"), bytes.fromhex("6202EA00EB00"))


async def test_values_that_the_meter_does_not_have_are_none_never_zero(dongle, working):
    dongle.values |= {0xE7: "7FFFFFFE", 0xE8: "00467FFE", 0xE0: "FFFFFFFE", 0xE3: "000B"}
    async with working(dongle) as bench:
        await bench.until(lambda: bench.samples)
        assert bench.driver.status()["malformed_values"] >= 1
    assert bench.samples[0].values == {
        "grid_power_w": None,
        "current_r_a": 7.0,
        "current_t_a": None,
        "import_energy_kwh": None,
        "export_energy_kwh": None,
    }


async def test_a_meter_without_a_valid_unit_gives_power_but_no_energy(dongle, working):
    dongle.values[0xE1] = "05"
    async with working(dongle) as bench:
        await bench.until(lambda: bench.samples)
    assert set(bench.samples[0].values) == {"grid_power_w", "current_r_a", "current_t_a"}
    assert bench.half_hours == []


async def test_a_silent_meter_yields_no_sample_and_one_event_until_it_is_back(dongle, working):
    async with working(dongle, answer_timeout_s=0.25) as bench:
        await bench.until(lambda: bench.samples)
        dongle.deaf = True
        await bench.until(lambda: bench.events)
        seen = len(bench.samples)
        await dongle.until(lambda: dongle.count("SKJOIN") >= 2)  # three silent polls, then a new join
        assert len(bench.samples) == seen
        dongle.deaf = False
        await bench.until(lambda: len(bench.samples) > seen)
    assert [event.kind for event in bench.events] == ["device_lost", "device_back"]
    assert bench.events[0].data["reason"]


@pytest.mark.parametrize("number", [26, 27, 28])
async def test_an_ended_session_is_joined_again(number, dongle, working):
    async with working(dongle) as bench:
        await bench.until(lambda: bench.samples)
        dongle.event(number)
        await dongle.until(lambda: dongle.count("SKJOIN") == 2)
        seen = len(bench.samples)
        await bench.until(lambda: len(bench.samples) > seen)
    assert dongle.count("SKSCAN") == 1
    assert [event.kind for event in bench.events] == ["device_lost", "device_back"]


@pytest.mark.parametrize(("stop", "go"), [(29, 25), (32, 33)])
async def test_while_the_dongle_must_not_send_nothing_is_sent(stop, go, dongle, working):
    async with working(dongle) as bench:
        await bench.until(lambda: bench.samples)
        dongle.event(stop)
        await bench.driver._session._command(b"SKVER\r\n")  # its answer comes after the event
        await bench.clock.sleep_until(bench.clock.boot_ms() + 15_000)  # a request that was under way ends
        sent = len(dongle.requests)
        await bench.clock.sleep_until(bench.clock.boot_ms() + 60_000)  # six ticks
        assert len(dongle.requests) == sent
        dongle.event(go)
        await dongle.until(lambda: len(dongle.requests) > sent)
    assert dongle.count("SKJOIN") == 1
    assert bench.events == []


async def test_a_session_that_is_not_renewed_is_joined_again(dongle, working):
    async with working(dongle) as bench:
        await bench.until(lambda: bench.samples)
        dongle.event(29)
        dongle.event(24)
        await dongle.until(lambda: dongle.count("SKJOIN") == 2)


async def test_a_meter_that_answers_the_join_and_declines_has_refused(dongle, working):
    def decline():
        dongle.say("OK\r\n")
        dongle.pana()
        dongle.event(24)

    dongle.answers["SKJOIN"] = decline
    async with working(dongle) as bench:
        await bench.until(lambda: bench.error)
        assert bench.driver.status()["refusals"] == 2
    assert isinstance(bench.error, RefusedCredentialsError)
    assert "the first 24 characters" in bench.error.remedy
    assert dongle.count("SKJOIN") == 2  # one may be the radio's fault
    assert [event.kind for event in bench.events] == ["device_lost"]


async def test_credentials_that_have_let_us_in_before_are_never_taken_for_wrong(dongle, working):
    async with working(dongle) as bench:
        await bench.until(lambda: bench.samples)
    memory, refused = bench.memory, iter(range(5))

    def decline():
        if next(refused, None) is None:
            return dongle._usual("SKJOIN")
        dongle.say("OK\r\n")
        dongle.pana()
        dongle.event(24)
        return None

    dongle.answers["SKJOIN"] = decline
    async with working(dongle, memory) as again:
        await again.until(lambda: again.samples)
        assert again.driver.status()["refusals"] == 0  # they count in a row
    assert again.error is None
    assert [event.kind for event in again.events] == ["device_lost", "device_back"]
    assert "0123456789AB" not in str(memory.kept)


async def test_a_person_who_moves_the_dongle_gets_the_strength_anew(dongle, working):
    async with working(dongle) as bench:
        await bench.until(lambda: bench.samples)
        told = await bench.driver.command("signal", {})
        assert (told["state"], told["rssi_dbm"], told["follows"]) == ("joined", -79.5, True)
        assert told["answered_s"] < 6
        assert await bench.driver.command("signal", {}) == told  # at once: nothing is sent again
        with pytest.raises(RefusedError, match="known: history, signal, transcript"):
            await bench.driver.command("dance", {})


async def test_the_transcript_of_a_real_join_holds_no_secret(dongle, working):
    def let_in():
        dongle.say("OK\r\n")
        dongle.pana()
        dongle.event(25)

    dongle.answers["SKJOIN"] = let_in
    async with working(dongle) as bench:
        await bench.until(lambda: bench.samples)
        lines = [text for _, _, text in (await bench.driver.command("transcript", {}))["lines"]]
    assert "SKSETPWD ****" in lines
    assert any("02CC (PANA)" in line for line in lines)
    assert any(line.startswith("EVER") for line in lines)
    text = "\n".join(lines)
    assert not any(len(set(piece := ROUTE_B_ID[at : at + 4])) > 2 and piece in text for at in range(29))
    assert not any(PASSWORD[at : at + 4] in text for at in range(9))


async def test_the_status_tells_an_installer_how_far_it_came(dongle, working):
    async with working(dongle) as bench:
        await bench.until(lambda: bench.half_hours)
        status = bench.driver.status()
    assert (status["channel"], status["pan_id"], status["nothing_found"], status["refusals"]) == (
        0x31,
        "6677",
        False,
        0,
    )
    assert status["join_s"] < 5
    assert status["trouble"] is None


async def test_a_join_without_any_answer_is_tried_again_not_called_refused(dongle, working):
    dongle.answers["SKJOIN"] = lambda: (dongle.say("OK\r\n"), dongle.event(24))[0]
    async with working(dongle) as bench:
        await dongle.until(lambda: dongle.count("SKJOIN") >= 3)
        assert bench.error is None
    assert [event.kind for event in bench.events] == ["device_lost"]


async def test_authentication_frames_of_a_neighbours_meter_make_no_refusal(dongle, working):
    def decline():
        dongle.say("OK\r\n")
        dongle.pana(mac="FFEEDDCCBBAA9988")
        dongle.event(24)

    dongle.answers["SKJOIN"] = decline
    async with working(dongle) as bench:
        await dongle.until(lambda: dongle.count("SKJOIN") >= 3)
        assert bench.error is None
        assert bench.driver.status()["refusals"] == 0


async def test_authentication_frames_of_an_earlier_join_make_no_refusal_of_a_later_one(dongle, working):
    answers = iter([dongle.pana])

    def decline():
        dongle.say("OK\r\n")
        next(answers, lambda: None)()
        dongle.event(24)

    dongle.answers["SKJOIN"] = decline
    async with working(dongle) as bench:
        await dongle.until(lambda: dongle.count("SKJOIN") >= 4)
        assert bench.error is None
        assert bench.driver.status()["refusals"] == 1


async def test_a_session_that_is_still_open_is_closed_before_the_join(dongle, working):
    replies = iter(["FAIL ER05\r\n"])
    dongle.answers["SKJOIN"] = lambda: next(replies, dongle._usual("SKJOIN"))
    async with working(dongle) as bench:
        await bench.until(lambda: bench.samples)
    assert dongle.count("SKTERM") == 1


async def test_a_meter_that_does_not_show_in_any_scan_is_lost_once(dongle, working, monkeypatch):
    monkeypatch.setattr("drivers.route_b.session.SCAN_DURATIONS", range(4, 6))
    dongle.answers["SKSCAN"] = "OK\r\nEVENT 22 FE80:0000:0000:0000:021D:1291:0004:E578 0\r\n"
    async with working(dongle) as bench:
        bench.driver._timeouts = Timeouts(late_beacon_s=0.01)
        await dongle.until(lambda: dongle.count("SKSCAN") >= 3)
    assert [line for line in dongle.commands if line.startswith("SKSCAN")][:3] == [
        "SKSCAN 2 FFFFFFFF 4 0",
        "SKSCAN 2 FFFFFFFF 5 0",
        "SKSCAN 2 FFFFFFFF 4 0",
    ]
    assert [event.kind for event in bench.events] == ["device_lost"]


def set_back(clock, hours=23.5):
    """Let the gateway's clock show 2026-05-31T00:30 and a little more, the half hour that the recorded notices name."""
    clock.start_ms -= round(hours * 3_600_000)


async def test_half_hourly_readings_are_timed_by_the_meter_and_passed_on_once(dongle, working):
    async with working(dongle, speed=60) as bench:
        await bench.until(lambda: bench.half_hours)
        set_back(bench.clock)
        dongle.datagram(C02)
        dongle.datagram(C02)
        await bench.until(lambda: len(bench.half_hours) >= 2)
        seen = len(bench.samples)
        await bench.until(lambda: len(bench.samples) > seen + 2)
    first, second = bench.half_hours
    assert first.at.isoformat() == "2026-05-31T15:00:00+00:00"
    assert first.values == {"import_energy_at_30min_kwh": Decimal("10.0"), "export_energy_at_30min_kwh": Decimal("0.3")}
    assert second.at.isoformat() == "2026-05-30T15:30:00+00:00"
    assert second.values == {
        "import_energy_at_30min_kwh": Decimal("1780.6"),
        "export_energy_at_30min_kwh": Decimal("2.1"),
    }


async def test_a_notification_that_wants_an_answer_gets_it(dongle, working):
    async with working(dongle, speed=60) as bench:
        await bench.until(lambda: bench.half_hours)
        set_back(bench.clock, hours=6)
        dongle.datagram(H01)
        await dongle.until(lambda: bytes.fromhex(H02) in dongle.requests)
        await bench.until(lambda: len(bench.half_hours) == 2)


async def test_a_half_hour_that_was_not_notified_is_asked_for_five_minutes_later(dongle, working):
    # Simulated time starts at 00:00:00; the reading of 00:30 is due by 00:35, 3.5 s later at this speed.
    async with working(dongle, speed=1800) as bench:
        await bench.until(lambda: bench.half_hours)
        asked = bytes.fromhex("6202EA00EB00")
        assert sum(data[10:] == asked for data in dongle.requests) == 1
        dongle.values |= {0xEA: "07EA0601001E0000000065", 0xEB: "07EA0601001E0000000003"}
        await bench.until(lambda: len(bench.half_hours) == 2)
        assert bench.clock.unix_ms() % 1_800_000 >= 300_000
        assert bench.half_hours[1].at.isoformat() == "2026-05-31T15:30:00+00:00"
        assert sum(data[10:] == asked for data in dongle.requests) == 2


async def test_a_notification_before_the_unit_is_known_waits_for_it(dongle, working):
    def notify_first(data):
        if data[10:] == bytes.fromhex(SCALING):
            dongle.datagram(C02)
        dongle.reply(data)

    dongle.answers["SKSENDTO"] = notify_first
    async with working(dongle, speed=60) as bench:
        set_back(bench.clock)
        await bench.until(lambda: bench.half_hours)
    assert bench.half_hours[0].values["import_energy_at_30min_kwh"] == Decimal("1780.6")


async def test_another_meter_behind_a_new_session_is_asked_for_its_own_unit(dongle, working):
    async with working(dongle) as bench:
        await bench.until(lambda: bench.samples)
        dongle.values |= {0xE1: "02", 0xD3: "00000003", 0x8D: "4E4557" + "20" * 9}
        dongle.event(26)
        await dongle.until(lambda: dongle.count("SKJOIN") == 2)
        seen = len(bench.samples)
        await bench.until(lambda: len(bench.samples) > seen)
        assert bench.samples[-1].values["import_energy_kwh"] == Decimal("1427.25")
        await bench.until(lambda: len(bench.samples) > seen + 1)
        assert bench.driver.describe()["meter"]["serial"] == "NEW"


async def test_a_half_hour_out_of_step_or_broken_is_dropped_and_counted(dongle, working):
    async with working(dongle, speed=60) as bench:
        await bench.until(lambda: bench.half_hours)
        set_back(bench.clock)
        dongle.datagram("1081000102880105FF017301EA0B07EA051F001E010000458E")  # one second late
        dongle.datagram("1081000102880105FF017301EA0B07EA0D13001E000000458E")  # month 13
        dongle.datagram("1081000102880105FF017301EA0B07EA051F001E00FFFFFFFE")  # no count
        dongle.datagram("1081000102880105FF017301EA05FFFFFFFFFF")
        dongle.datagram(C02)
        await bench.until(lambda: len(bench.half_hours) >= 2)
        assert bench.driver.status()["malformed_values"] == 2
    assert len(bench.half_hours) == 2


async def test_strangers_and_late_answers_change_nothing(dongle, working):
    forged = "1081{tid:04X}02880105FF017204E70400009999E80400460028E0040000B9D7E3040000000B"

    def answer(data):
        tid = int.from_bytes(data[2:4], "big")
        dongle.event(21, "00")
        dongle.say("OK\r\n")
        dongle.datagram(forged.format(tid=tid), mac="0011223344556678")
        dongle.datagram(forged.format(tid=tid), secured=0)
        dongle.datagram(forged.format(tid=tid), port="0E1B")
        dongle.datagram(forged.format(tid=(tid + 1) & 0xFFFF))
        dongle.datagram(forged.format(tid=tid).replace("028801", "028802"))
        dongle.datagram(forged.format(tid=tid).replace("0172", "0171"))
        dongle.datagram(f"1081{tid:04X}02880105FF017201E70400009999")
        dongle.datagram("108100")
        dongle.datagram(dongle.answer_to(data))

    dongle.answers["SKSENDTO"] = answer
    async with working(dongle) as bench:
        await bench.until(lambda: len(bench.samples) >= 3)
        status = bench.driver.status()
    assert {sample.values["grid_power_w"] for sample in bench.samples} == {929}
    assert status["strangers"] >= 9
    assert status["late"] >= 9
    assert status["malformed"] >= 3


async def test_noise_between_the_lines_costs_nothing_but_itself(dongle, working):
    def answer(data):
        dongle.say(b"\xff\x00ERXUDP \r\n" + bytes(range(14, 200)) + b"\r\nEVENT zz\r\nERX")
        dongle.say("\r\n")
        dongle.reply(data)

    dongle.answers["SKSENDTO"] = answer
    async with working(dongle) as bench:
        await bench.until(lambda: len(bench.samples) >= 5)
    assert bench.events == []


async def test_an_unplugged_dongle_ends_the_run_with_link_error(dongle, working, caplog):
    async with working(dongle) as bench:
        await bench.until(lambda: bench.samples)
        dongle.unplug()
        await bench.until(lambda: bench.error)
    assert isinstance(bench.error, LinkError)
    assert [one for one in caplog.records if one.levelno >= logging.WARNING] == []  # the supervisor says it, once
    assert [event.kind for event in bench.events] == ["device_lost"]
    assert bench.driver.status()["state"] == "closed"


async def test_a_port_with_no_dongle_is_a_link_error_in_seconds(dongle, working):
    dongle.answers["SKVER"] = None
    async with working(dongle, command_timeout_s=0.05) as bench:
        bench.driver._timeouts = Timeouts(wake_s=0.05, late_beacon_s=0.01)
        await bench.until(lambda: bench.error)
    assert isinstance(bench.error, LinkError)
    assert dongle.count("SKVER") == 4  # to learn its family, then thrice to free it


async def test_a_dongle_left_in_the_middle_of_a_request_is_freed(dongle, working):
    replies = iter([None, None])
    dongle.answers["SKVER"] = lambda: next(replies, dongle._usual("SKVER"))
    async with working(dongle) as bench:
        bench.driver._timeouts = Timeouts(wake_s=0.05, late_beacon_s=0.01)
        await bench.until(lambda: bench.samples)


async def test_a_missing_port_and_a_busy_port_are_link_errors(dongle, working):
    async with working(dongle) as bench:
        await bench.until(lambda: bench.samples)
        async with working(dongle) as second:
            await second.until(lambda: second.error)
        assert isinstance(second.error, LinkError)
        async with working(dongle, port="/dev/does-not-exist") as third:
            await third.until(lambda: third.error)
        assert isinstance(third.error, LinkError)
        seen = len(bench.samples)
        await bench.until(lambda: len(bench.samples) > seen)


async def test_a_cancelled_driver_stops_at_once_and_frees_the_port(dongle, working):
    loop = asyncio.get_running_loop()
    async with working(dongle) as bench:
        await bench.until(lambda: bench.samples)
        began = loop.time()
    assert loop.time() - began < 1
    assert bench.events == []
    async with working(dongle) as again:
        await again.until(lambda: again.samples)


async def test_no_secret_reaches_a_log_an_event_or_the_status(dongle, working, caplog):
    caplog.set_level(logging.DEBUG)
    secrets = ("00112233445566778899AABBCCDDEEFF", "0123456789AB", "CCDDEEFF", "30303131323233333434")

    def echoing(command):
        return lambda: f"{command}\r\nOK\r\n"

    id_command, password_command = f"SKSETRBID {secrets[0]}", f"SKSETPWD C {secrets[1]}"
    dongle.answers |= {id_command: echoing(id_command), password_command: f"{password_command[4:]}\r\nOK\r\n"}

    def decline():
        dongle.say("OK\r\n")
        dongle.pana()
        dongle.say(b"X" + bytes(3))
        dongle.pana()
        dongle.say(f"RXUDP x 02CC 02CC {(b'SM' + secrets[0].encode()).hex().upper()}\r\n")
        dongle.event(24)

    dongle.answers["SKJOIN"] = decline
    async with working(dongle) as bench:
        await bench.until(lambda: bench.error)
        status = bench.driver.status()
    assert "EVENT 24" in caplog.text
    assert isinstance(bench.error, RefusedCredentialsError)
    shown = f"{caplog.text} {bench.items} {status} {bench.memory.kept} {bench.error!r} {bench.driver._credentials!r}"
    for secret in secrets:
        assert secret not in shown.upper()


def context(secret):
    return Context("meter", FastClock(600), secret)


TABLE = {"port": "/dev/ttyUSB0", "credentials": "route-b"}


def test_building_a_driver_opens_nothing_and_names_its_device():
    good = '{"id": "00112233445566778899aabbccddeeff", "password": "0123456789AB"}'
    driver = create(context(lambda name: good), TABLE)
    assert isinstance(driver, RouteB)
    assert driver.devices == ("meter",)
    assert create(context(lambda name: good), TABLE | {"device": "grid"}).devices == ("grid",)
    assert driver.describe() == {}
    assert driver.status()["state"] == "closed"


@pytest.mark.parametrize(
    "text",
    [
        '{"id": "00112233445566778899AABBCCDDEEFF", "password": "0123456789Ab"}',
        '{"id": "0011 2233 4455 6677 8899 AABB CCDD EEFF", "password": " 0123 4567 89Ab "}',
        (
            '{"id": "００１１２２３３　４４５５６６７７　８８９９ＡＡＢＢ　ｃｃｄｄｅｅｆｆ",'
            ' "password": "０１２３４５６７８９Ａｂ"}'
        ),
    ],
)
def test_credentials_may_be_typed_as_the_letter_prints_them(text):
    credentials = parse_credentials(text)
    assert (credentials.route_b_id, credentials.password) == ("00112233445566778899AABBCCDDEEFF", "0123456789Ab")
    assert repr(credentials) == "Credentials()"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "7",
        "[" * 100_000,
        '{"id": "00", "password": "0123456789AB"}',
        '{"id": 7}',
        '{"password": null}',
        '{"id": "00112233445566778899AABBCCDDEEFG", "password": "0123456789AB"}',
        '{"id": "00112233445566778899AABBCCDDEEFF", "password": "SECRET-12345"}',
    ],
)
async def test_credentials_that_cannot_be_are_waited_for_without_being_shown(text):
    driver = create(context(lambda name: text), TABLE)
    assert driver.status() == {"state": "waiting_for_credentials"}
    with pytest.raises(CredentialsError) as caught:
        await driver.run(None, None)
    assert caught.value.key == "credentials"
    assert "0123456789AB" not in str(caught.value)
    assert "SECRET" not in str(caught.value)
    assert caught.value.__cause__ is None


async def test_a_driver_whose_credentials_come_later_begins_when_they_are_there(dongle):
    kept = {}
    driver = create(context(kept.__getitem__), {**TABLE, "port": dongle.path})
    assert "the secret is missing" in str(driver.awaits())
    kept["route-b"] = CREDENTIALS
    samples = asyncio.Event()

    async def emit(item, remember=None):
        samples.set()

    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(driver.run(emit, DictMemory()))
        await asyncio.wait_for(samples.wait(), 10)
        assert driver.awaits() is None
        running.cancel()


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"poll_s": 1}, "poll_s"),
        ({"port": ""}, "port"),
        ({"pots": 1}, "pots"),
        ({"join_timeout_s": 0}, "join_timeout_s"),
    ],
)
def test_a_wrong_setting_is_named(change, key):
    with pytest.raises(ConfigError) as caught:
        create(context(lambda name: ""), TABLE | change)
    assert caught.value.key == key


def test_waits_between_joins_have_full_jitter_and_grow_from_5_to_300_seconds_and_start_over(monkeypatch):
    monkeypatch.undo()
    drawn = []
    monkeypatch.setattr(driver_module.random, "uniform", lambda low, high: drawn.append((low, high)) or high)
    waits = driver_module._Waits()
    assert [waits.next_s() for _ in range(9)] == [5, 10, 20, 40, 80, 160, 300, 300, 300]
    assert {low for low, _ in drawn} == {0}
    waits.start_over()
    assert waits.next_s() == 5


@pytest.mark.parametrize("energy", ["0.0001", "0.0003", "0.1", "1", "100000.0", "12345678.9"])
def test_what_meta_says_of_the_registers_is_a_number_that_reads_as_the_decimal(energy):
    shown = json.dumps(driver_module._number(Decimal(energy)))
    assert Decimal(shown) == Decimal(energy)
    assert "e" not in shown


def test_a_fault_of_the_driver_is_told_before_what_a_device_did():
    bug = KeyError("bug")
    group = BaseExceptionGroup("", [LinkError("gone"), BaseExceptionGroup("", [FrameError("x", 1), bug])])
    assert driver_module._first_cause(group) in (bug, group.exceptions[0])
    assert driver_module._first_cause(BaseExceptionGroup("", [LinkError("gone"), bug])) is bug
