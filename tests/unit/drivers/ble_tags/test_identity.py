"""The allow-list: strict, bounded, versioned, and with an end to each consent."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivers.api import MalformedError
from drivers.ble_tags.adverts import key_of_id
from drivers.ble_tags.identity import MAX_LIST_BYTES, MAX_TAGS, AllowList, decode_list

BEACON = "ibeacon:e2c56db5dffb48d2b060d0f5a71096e0:1:2"
UID = "eddystone:edd1ebeac04e5defa017:000000000001"


def payload(*entries, version=3) -> bytes:
    return json.dumps({"version": version, "tags": list(entries)}).encode()


def entry(name=BEACON, pseudonym="t-01", valid_until=None, **more) -> dict:
    return {"id": name, "pseudonym": pseudonym, "valid_until": valid_until, **more}


def test_an_enrolled_tag_is_found_by_its_key() -> None:
    known = decode_list(payload(entry(), entry(UID, "t-02")))
    assert known.find([key_of_id(BEACON)], None) == "t-01"
    assert known.find([b"x" * 20, key_of_id(UID)], None) == "t-02"
    assert known.find([b"x" * 20], None) is None
    assert known.find([], None) is None


def test_consent_ends_at_its_moment() -> None:
    known = decode_list(payload(entry(valid_until="2026-11-21T12:00:00+09:00")))
    end_ms = 1_795_230_000_000
    assert known.find([key_of_id(BEACON)], end_ms - 1) == "t-01"
    assert known.find([key_of_id(BEACON)], end_ms) is None
    assert known.find([key_of_id(BEACON)], None) == "t-01"


def test_an_older_list_never_replaces_a_newer_one() -> None:
    old, new = decode_list(payload(entry(), version=3)), decode_list(payload(version=4))
    assert AllowList().replaced_by(old) is old
    assert old.replaced_by(new) is new
    assert new.replaced_by(old) is new
    assert new.replaced_by(decode_list(payload(entry(), version=4))) is new


def test_keys_of_a_later_contract_are_ignored() -> None:
    assert decode_list(payload(entry(colour="red"))).pseudonyms() == {"t-01"}


@pytest.mark.parametrize(
    "bad",
    [
        b"",
        b"{}",
        b"[]",
        b"null",
        b'{"version":1}',
        b'{"version":"1","tags":[]}',
        b'{"version":1.5,"tags":[]}',
        b'{"version":true,"tags":[]}',
        b'{"version":-1,"tags":[]}',
        b'{"version":1e400,"tags":[]}',
        b'{"version":99999999999999999999,"tags":[]}',
        b'{"version":1,"tags":{}}',
        b'{"version":1,"tags":[1]}',
        b'\xff{"version":1,"tags":[]}',
        b"[" * 100_000,
        payload(entry(name="mac:00:11")),
        payload(entry(), entry()),
        payload(entry(pseudonym="")),
        payload(entry(pseudonym="Taro Yamada")),
        payload(entry(pseudonym="x" * 33)),
        payload(entry(pseudonym="t-01\n")),
        payload(entry(valid_until="tomorrow")),
        payload(entry(valid_until="2026-11-21T12:00:00")),
        payload(entry(valid_until=5)),
    ],
)
def test_a_malformed_list_is_refused_whole(bad) -> None:
    with pytest.raises(MalformedError):
        decode_list(bad)


def test_a_refusal_names_the_place_and_never_the_tag() -> None:
    with pytest.raises(MalformedError) as refused:
        decode_list(payload(entry(), entry("ibeacon:00ff00ff:1:2")))
    assert "entry 1" in str(refused.value)
    assert "00ff00ff" not in str(refused.value)


def test_a_list_is_bounded() -> None:
    with pytest.raises(MalformedError, match="at most"):
        decode_list(b" " * (MAX_LIST_BYTES + 1))
    many = [{"id": f"ibeacon:{'0' * 32}:{n // 65536}:{n % 65536}", "pseudonym": "t"} for n in range(MAX_TAGS + 1)]
    with pytest.raises(MalformedError, match="at most"):
        decode_list(payload(*many))
    assert len(decode_list(payload(*many[:-1])).tags) == MAX_TAGS


@given(st.binary(max_size=200))
def test_any_bytes_give_a_list_or_a_refusal(data) -> None:
    with contextlib.suppress(MalformedError):
        assert isinstance(decode_list(data), AllowList)


@given(st.integers(0, 400), st.integers(0, 255))
def test_any_changed_byte_gives_a_list_or_a_refusal(place, byte) -> None:
    data = bytearray(payload(entry(valid_until="2026-11-21T12:00:00+09:00"), entry(UID, "t-02")))
    data[place % len(data)] = byte
    with contextlib.suppress(MalformedError):
        assert len(decode_list(bytes(data)).tags) == 2
