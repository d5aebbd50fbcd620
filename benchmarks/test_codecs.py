"""How long the codecs of the hot path take on this machine. No device, no broker."""

from __future__ import annotations

from pathlib import Path

import msgspec

from drivers.route_b import echonet, skstack
from edge_agent import wire

POLL = bytes.fromhex((Path(__file__).parents[1] / "tests/data/echonet/E02/frame.hex").read_text())
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
