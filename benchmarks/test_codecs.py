"""How long the codecs of the hot path take on this machine. No device, no broker."""

from __future__ import annotations

import timeit
from decimal import Decimal

import msgspec
import pytest
from momonga import momonga_echonet_data as data
from momonga import momonga_echonet_enum as enum
from momonga.momonga import Momonga
from pychonet.lib.functions import decodeEchonetMsg
from pychonet.LowVoltageSmartElectricEnergyMeter import _0288E0, _0288E7, _0288E8

from drivers.route_b import echonet, meter, skstack
from drivers.route_b.meter import Scaling
from edge_agent import wire

POLL = bytes.fromhex(
    "1081106302880105FF017204E704000003A1E80400460028E0040000B9D7E3040000000B"
)  # power, currents, registers
FRAMES_PER_S = 500_000
"""Answers of a meter that the codec must decode in a second on this class of machine, measured alone."""
SCALING = Scaling(Decimal("0.1"), 1, 6)
VALUES = {
    "grid_power_w": 929,
    "current_r_a": 7.0,
    "current_t_a": 4.0,
    "import_energy_kwh": Decimal("4757.5"),
    "export_energy_kwh": Decimal("1.1"),
}
BATCH = wire.Batch(
    epoch="9f31c2aa04b7d1e5",
    seq=17,
    boot="a1b2c3d4",
    b0=1_000,
    t0=1_760_000_000_000,
    clock="synced",
    blocks=[
        wire.Block(
            device="meter",
            columns=["grid_power_w", "current_r_a", "current_t_a"],
            rows=[[offset, 2534, 13.1, 12.9] for offset in range(0, 1_000_000, 10_000)],
        )
    ],
)
PAYLOAD = wire.encode(BATCH)


def test_decode_an_answer_of_the_meter(benchmark):
    assert benchmark(echonet.decode, POLL).esv == 0x72


def test_decode_an_answer_and_its_four_values(benchmark):
    values, problems = benchmark(lambda: meter.readings(echonet.decode(POLL).properties, SCALING))
    assert (values, problems) == (VALUES, [])


def rates(*works, rounds=25, number=5_000):
    """Return how often each is done in a second, in its best round; they take turns, so that a busy machine is fair."""
    taken = [[timeit.timeit(work, number=number) for work in works] for _ in range(rounds)]
    return [number / min(column) for column in zip(*taken, strict=True)]


def of_momonga():
    """Return momonga's decoding of a frame, and of the frame with its values."""
    asked = [data.EchonetProperty(enum.EchonetPropertyCode(epc)) for epc in (0xE7, 0xE8, 0xE0, 0xE3)]
    tid = int.from_bytes(POLL[2:4], "big")

    def frame():
        return Momonga._extract_response_payload(POLL, tid, asked)  # noqa: SLF001  (it has no public decoder)

    def value(one):
        parse = data.PARSER_MAP[one.epc]
        return parse(one.edt, 0.1, 1) if parse in data.ENERGY_PARSERS else parse(one.edt)

    def values():
        return [value(one) for one in frame()]

    return frame, values


def of_pychonet():
    """Return pychonet's decoding of a frame, and of the frame with its values; neither checks lengths."""
    parsers = {0xE7: _0288E7, 0xE8: _0288E8, 0xE0: _0288E0, 0xE3: _0288E0}

    def values():
        return [parsers[one["EPC"]](one["EDT"]) for one in decodeEchonetMsg(POLL)["OPC"]]

    return lambda: decodeEchonetMsg(POLL), values


@pytest.mark.parametrize("name", ["momonga", "pychonet"])
def test_decoding_beside_a_peer(name, capsys):
    """Measure both in one run and print the ratio: ours checks every length and returns exact decimals."""
    frame, values = {"momonga": of_momonga, "pychonet": of_pychonet}[name]()
    work = {
        "frame": (lambda: echonet.decode(POLL), frame),
        "frame and 4 values": (lambda: meter.readings(echonet.decode(POLL).properties, SCALING), values),
    }
    for what, (ours, theirs) in work.items():
        our_rate, their_rate = rates(ours, theirs)
        with capsys.disabled():
            print(f"\n{what}: ours {our_rate:,.0f}/s, {name} {their_rate:,.0f}/s, ratio {our_rate / their_rate:.2f}")
        assert our_rate > their_rate


def test_the_codec_decodes_as_many_frames_a_second_as_it_must(capsys):
    (rate,) = rates(lambda: echonet.decode(POLL), rounds=50)
    with capsys.disabled():
        print(f"\nframe: {rate:,.0f}/s, required {FRAMES_PER_S:,}/s")
    assert rate >= FRAMES_PER_S


def test_cut_a_stream_into_lines(benchmark):
    stream = b"OK\r\nEVENT 21 FE80:0000:0000:0000:0000:0000:0000:0001 00\r\n" * 100
    assert len(benchmark(lambda: list(skstack.SkReader().feed(stream)))) == 200


def test_encode_a_batch_of_100_rows(benchmark):
    assert len(benchmark(wire.encode, BATCH)) < wire.MAX_BATCH_BYTES


def test_check_a_batch_of_100_rows(benchmark):
    assert benchmark(wire.decode_batch, PAYLOAD).seq == 17


def test_pack_a_backfill_of_ten_batches(benchmark):
    packed = benchmark(wire.encode_backfill, [PAYLOAD] * 10)
    assert [msgspec.json.decode(one)["seq"] for one in wire.decode_backfill(packed)] == [17] * 10
