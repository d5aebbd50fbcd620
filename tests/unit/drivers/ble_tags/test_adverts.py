"""Frames of watch-over tags. Golden frames follow the layouts Apple and Google publish; each says what it shows."""

from __future__ import annotations

import contextlib
import random
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivers.api import MalformedError
from drivers.ble_tags.adverts import (
    APPLE,
    EDDYSTONE,
    EddystoneUid,
    IBeacon,
    decode_eddystone,
    decode_ibeacon,
    key_of_id,
    keys_of,
)

IBEACONS = [
    # Apple's AirLocate sample: its UUID, major 0, minor 0, -59 dBm at 1 m.
    (
        "0215e2c56db5dffb48d2b060d0f5a71096e000000000c5",
        "ibeacon:e2c56db5dffb48d2b060d0f5a71096e0:0:0",
        -59,
    ),
    # A widely sold tag's default UUID; major and minor are big endian.
    (
        "0215fda50693a4e24fb1afcfc6eb0764782500010102bf",
        "ibeacon:fda50693a4e24fb1afcfc6eb07647825:1:258",
        -65,
    ),
    ("0215ffffffffffffffffffffffffffffffffffffffff7f", "ibeacon:ffffffffffffffffffffffffffffffff:65535:65535", 127),
]
EDDYSTONES = [
    # Eddystone-UID with and without the two reserved bytes; -18 dBm at 0 m is -59 dBm at 1 m.
    ("00ee" + "edd1ebeac04e5defa017" + "000000000001" + "0000", "eddystone:edd1ebeac04e5defa017:000000000001", -59),
    ("00ee" + "edd1ebeac04e5defa017" + "0123456789ab", "eddystone:edd1ebeac04e5defa017:0123456789ab", -59),
]
STRANGERS = [
    "1005011c6d9a2f",  # a phone nearby
    "1219" + "00" * 25,  # a find-my tag: rotating, never to be resolved
    "0c0e" + "00" * 14,  # Handoff
    "",
]
OTHER_EDDYSTONES = [
    "10ee0367697468756200",
    "2000" + "00" * 12,
    "30ee" + "11" * 8,
    "40" + "22" * 20,
    "41" + "22" * 20,
    "",
]


@pytest.mark.parametrize(("frame", "name", "power_dbm"), IBEACONS)
def test_an_ibeacon_says_who_it_is(frame, name, power_dbm) -> None:
    beacon = decode_ibeacon(bytes.fromhex(frame))
    assert beacon is not None
    assert (beacon.id, beacon.power_dbm) == (name, power_dbm)
    assert keys_of({APPLE: bytes.fromhex(frame)}, {}) == (beacon.key,) == (key_of_id(name),)


@pytest.mark.parametrize(("frame", "name", "power_dbm"), EDDYSTONES)
def test_an_eddystone_says_who_it_is(frame, name, power_dbm) -> None:
    uid = decode_eddystone(bytes.fromhex(frame))
    assert uid is not None
    assert (uid.id, uid.power_dbm) == (name, power_dbm)
    assert keys_of({}, {EDDYSTONE: bytes.fromhex(frame)}) == (uid.key,) == (key_of_id(name),)


@pytest.mark.parametrize("frame", STRANGERS)
def test_other_frames_of_the_same_company_are_not_tags(frame) -> None:
    assert decode_ibeacon(bytes.fromhex(frame)) is None


@pytest.mark.parametrize("frame", OTHER_EDDYSTONES)
def test_other_frames_on_the_same_service_are_not_tags(frame) -> None:
    assert decode_eddystone(bytes.fromhex(frame)) is None


def test_a_frame_of_another_length_is_malformed() -> None:
    ibeacon, eddystone = bytes.fromhex(IBEACONS[0][0]), bytes.fromhex(EDDYSTONES[0][0])
    for length in (*range(1, 23), 24, 60):
        with pytest.raises(MalformedError):
            decode_ibeacon((ibeacon * 3)[:length])
    for length in (*range(1, 18), 19, 21, 60):
        with pytest.raises(MalformedError):
            decode_eddystone((eddystone * 3)[:length])


def test_an_ibeacon_that_lies_about_its_length_is_malformed() -> None:
    with pytest.raises(MalformedError):
        decode_ibeacon(b"\x02\x14" + bytes(21))


def test_every_changed_byte_is_another_tag_or_none() -> None:
    frame = bytes.fromhex(IBEACONS[0][0])
    known = decode_ibeacon(frame)
    for place in range(22):
        changed = frame[:place] + bytes([frame[place] ^ 0x01]) + frame[place + 1 :]
        assert keys_of({APPLE: changed}, {}) != (known.key,)


def test_a_tag_that_sends_both_frames_shows_both_keys() -> None:
    keys = keys_of({APPLE: bytes.fromhex(IBEACONS[0][0])}, {EDDYSTONE: bytes.fromhex(EDDYSTONES[0][0])})
    assert [len(key) for key in keys] == [20, 16]


@given(st.dictionaries(st.integers(0, 65535) | st.just(APPLE), st.binary(max_size=40)), st.binary(max_size=40))
def test_the_fast_look_agrees_with_the_strict_reading(manufacturer_data, eddystone) -> None:
    expected = []
    for data, decode in ((manufacturer_data.get(APPLE, b""), decode_ibeacon), (eddystone, decode_eddystone)):
        try:
            frame = decode(data)
        except MalformedError:
            frame = None
        if frame is not None:
            expected.append(frame.key)
    assert list(keys_of(manufacturer_data, {EDDYSTONE: eddystone})) == expected


@given(st.binary(min_size=16, max_size=16), st.integers(0, 65535), st.integers(0, 65535))
def test_every_ibeacon_has_a_name_that_leads_back_to_it(uuid, major, minor) -> None:
    beacon = IBeacon(uuid, major, minor, -59)
    assert key_of_id(beacon.id) == beacon.key


@given(st.binary(min_size=10, max_size=10), st.binary(min_size=6, max_size=6))
def test_every_eddystone_has_a_name_that_leads_back_to_it(namespace, instance) -> None:
    uid = EddystoneUid(namespace, instance, -59)
    assert key_of_id(uid.id) == uid.key


def test_a_uuid_may_be_written_with_dashes() -> None:
    plain = key_of_id("ibeacon:e2c56db5dffb48d2b060d0f5a71096e0:1:2")
    assert key_of_id("ibeacon:e2c56db5-dffb-48d2-b060-d0f5a71096e0:1:2") == plain


@pytest.mark.parametrize(
    "name",
    [
        "",
        "ibeacon",
        "ibeacon:e2c56db5dffb48d2b060d0f5a71096e0:1",
        "ibeacon:e2c56db5dffb48d2b060d0f5a71096e0:1:65536",
        "ibeacon:e2c56db5dffb48d2b060d0f5a71096e0:01:2",
        "ibeacon:e2c56db5dffb48d2b060d0f5a71096e0:1:2\n",
        "ibeacon:E2C56DB5DFFB48D2B060D0F5A71096E0:1:2",
        "ibeacon:e2c56db5dffb48d2b060d0f5a71096e0:１:2",
        "ibeacon:e2c56db5-dffb48d2b060d0f5a71096e0:1:2",
        "eddystone:edd1ebeac04e5defa017:00000000001",
        "mac:00:11:22:33:44:55",
    ],
)
def test_a_name_that_is_not_exact_is_refused(name) -> None:
    with pytest.raises(MalformedError):
        key_of_id(name)


@given(st.text(max_size=120))
def test_any_text_is_a_name_or_refused(text) -> None:
    with contextlib.suppress(MalformedError):
        assert len(key_of_id(text)) in (16, 20)


def test_a_look_at_a_packet_takes_less_than_the_callback_may() -> None:
    rng = random.Random(1)
    packets = [({APPLE: b"\x02\x15" + rng.randbytes(21)}, {EDDYSTONE: b"\0" + rng.randbytes(19)}) for _ in range(2000)]
    best_s = min(_seconds(packets) for _ in range(5))
    assert best_s / len(packets) < 10e-6


def _seconds(packets) -> float:
    began = time.perf_counter()
    for manufacturer_data, service_data in packets:
        keys_of(manufacturer_data, service_data)
    return time.perf_counter() - began
