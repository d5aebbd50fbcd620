"""The driver keeps the contract of the seam, on a healthy link and under every fault of it."""

import contextlib
import random
from decimal import Decimal
from functools import partial

import pytest

from drivers import contract
from drivers.contract import Limits, Rig
from drivers.route_b import driver as driver_module
from drivers.route_b.driver import create

SERVED = {
    "grid_power_w": 929,
    "current_r_a": 7.0,
    "current_t_a": 4.0,
    "import_energy_kwh": Decimal("4757.5"),
    "export_energy_kwh": Decimal("1.1"),
    "import_energy_at_30min_kwh": Decimal("10.0"),
    "export_energy_at_30min_kwh": Decimal("0.3"),
}
CREDENTIALS = '{"id": "00112233445566778899AABBCCDDEEFF", "password": "0123456789AB"}'
TIMEOUTS = {"command_timeout_s": 0.3, "join_timeout_s": 0.5, "answer_timeout_s": 0.3}


def judge(sample):
    wrong = {name: value for name, value in sample.values.items() if SERVED[name] != value}
    return str(wrong) if wrong else None


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(driver_module, "FIRST_WAIT_S", 0.02)
    monkeypatch.setattr(driver_module, "LONGEST_WAIT_S", 0.1)
    monkeypatch.setattr("drivers.route_b.joining.JOIN_SPACING_S", 0.05)


@contextlib.asynccontextmanager
async def behind(dongle, spoil, mend, **rig):
    """A bench on the dongle, spoilt from the start until mended."""
    dongle.deaf = False
    spoil()
    table = {"port": dongle.path, "credentials": "route-b", "poll_s": 10} | TIMEOUTS
    yield Rig(table | rig.pop("table", {}), mend=mend, secrets={"route-b": CREDENTIALS}, **rig)
    mend()


def deafen(dongle, *, deaf):
    dongle.deaf = deaf


@pytest.mark.slow
@pytest.mark.timeout(120)
async def test_the_driver_keeps_the_contract(dongle, tmp_path):
    said = dongle.say
    dice = random.Random(7)

    def garble(text):
        data = bytearray(text if isinstance(text, bytes) else text.encode())
        for at in range(len(data)):
            if dice.random() < 0.02:
                data[at] = dice.randrange(256)
        said(bytes(data))

    def answer(word, reply):
        dongle.answers[word] = reply

    def say_with(speaker):
        dongle.say = speaker

    mend_answers = dongle.answers.clear
    port = tmp_path / "port"
    refuse = "OK\r\nERXUDP x\r\nEVENT 24 FE80:0000:0000:0000:0211:2233:4455:6677 0\r\n"
    faults = {
        "a silent meter": partial(deafen, dongle, deaf=True),
        "a dongle that says nothing": partial(say_with, lambda text: None),
        "a line that garbles": partial(say_with, garble),
        "a join without an answer": partial(answer, "SKJOIN", refuse),
        "a dongle that fails every command": partial(answer, "SKSENDTO", lambda data: dongle.say("FAIL ER10\r\n")),
        "a dongle that never says it has sent": partial(answer, "SKSENDTO", lambda data: None),
        "noise without end": partial(answer, "SKSENDTO", lambda data: dongle.say(bytes(range(14, 255)) * 12)),
    }

    def mend():
        dongle.deaf, dongle.say = False, said
        mend_answers()

    benches = {name: partial(behind, dongle, spoil, mend) for name, spoil in faults.items()}
    benches["a port that is not there yet"] = partial(
        behind,
        dongle,
        lambda: None,
        lambda: port.is_symlink() or port.symlink_to(dongle.path),
        table={"port": str(port)},
    )
    silence = partial(deafen, dongle, deaf=True)
    healthy = partial(behind, dongle, lambda: None, mend, silence=silence, judge=judge)
    # A spoilt end of a scan is only found out by its time-out of 17 s.
    limits = Limits(silence_s=1.0, recover_s=30.0)
    await contract.check(create, healthy, benches, name="meter", speed=600, limits=limits)
