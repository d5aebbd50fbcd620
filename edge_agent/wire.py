"""The published contract, version 1: topics and payloads (docs/wire.md). Pure: no broker, no clock, no database."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import Any, Literal, TypeAlias, TypeVar

import msgspec

from drivers.api import MalformedError

VERSION = 1
MAX_PAYLOAD_BYTES = 64 * 1024
"""The largest message a gateway sends."""
MAX_INFLATED_BYTES = 1024 * 1024
"""The most a compressed backfill may unpack to."""
MAX_ROWS = 100
MAX_BATCH_BYTES = 16 * 1024

GATEWAY_ID = re.compile(r"^(?!all$)[a-z0-9][a-z0-9-]{2,31}\Z")
EPOCH = re.compile(r"^[0-9a-f]{16}\Z")
UP = "gw/v1"
DOWN = "gwc/v1"

ClockQuality: TypeAlias = Literal["synced", "holdover", "meter", "unknown", "simulated"]

T = TypeVar("T")


class WireError(MalformedError):
    """A payload breaks the contract."""


class VersionError(WireError):
    """A payload of a version this code does not know; keep it for one that does."""


class _Message(msgspec.Struct, omit_defaults=True):
    """Base of all payloads: unknown keys are ignored, fields at their default are left out."""


class Block(_Message):
    """Rows of one device with one column set; a row is `[offset ms, *values]`, offsets count from `utc` or `b0`."""

    device: str
    columns: list[str]
    rows: list[list[Any]]
    utc: int | None = None


class BatchEvent(_Message):
    """An event inside a batch; `dt` counts from the batch's `b0`, or `utc` is the device's own time in unix ms."""

    id: str
    device: str
    kind: str
    dt: int = 0
    data: dict[str, Any] = {}
    utc: int | None = None


class Batch(_Message):
    """One numbered piece of a gateway's output; encoded once, byte-identical in every resend."""

    epoch: str
    seq: int
    boot: str
    b0: int
    t0: int | None
    clock: ClockQuality
    v: int = msgspec.field(default=VERSION)
    blocks: list[Block] = []
    events: list[BatchEvent] = []


class Ack(_Message):
    """Numbers of one epoch that the aggregator has committed."""

    epoch: str
    seqs: list[int]


class State(_Message):
    """`state`: online with boot and version, lost (the will), or offline with a reason."""

    state: Literal["online", "offline", "lost"]
    boot: str | None = None
    since: str | None = None
    version: str | None = None
    reason: str | None = None


class Meta(_Message):
    """`meta`: what the gateway is, which devices have which role, and what their quantities mean."""

    gateway: str
    site: str = ""
    area: str = ""
    roles: dict[str, str] = {}
    devices: dict[str, dict[str, Any]] = {}
    quantities: dict[str, dict[str, Any]] = {}
    config: str = ""
    v: int = msgspec.field(default=VERSION)


class Command(_Message):
    """`command/{name}`: valid until `sent` (unix ms) + `expires_s`."""

    id: str
    sent: int
    expires_s: float
    arguments: dict[str, Any] = {}


class Response(_Message):
    """`response/{id}`: the result of a command, or why there is none."""

    id: str
    ok: bool
    result: Any = None
    error: str | None = None


class _Versioned(msgspec.Struct):
    v: int


class _Backfill(msgspec.Struct):
    batches: list[msgspec.Raw]


_encoder = msgspec.json.Encoder(decimal_format="number")
_decoders: dict[type, msgspec.json.Decoder[Any]] = {}


def is_gateway_id(text: str) -> bool:
    """Tell whether a text may name a gateway."""
    return GATEWAY_ID.match(text) is not None


def up_topic(gateway: str, *rest: str) -> str:
    """Return `gw/v1/{gateway}/{rest…}`, what a gateway publishes."""
    return "/".join((UP, gateway, *rest))


def down_topic(gateway: str, *rest: str) -> str:
    """Return `gwc/v1/{gateway}/{rest…}`, what a gateway receives; `all` addresses every gateway."""
    return "/".join((DOWN, gateway, *rest))


def split_up_topic(topic: str) -> tuple[str, list[str]]:
    """Return (gateway, rest) of a topic a gateway publishes; raises WireError for any other."""
    first, version, gateway, *rest = [*topic.split("/"), "", ""][: max(4, topic.count("/") + 1)]
    if f"{first}/{version}" != UP or not is_gateway_id(gateway) or not rest or not rest[0]:
        raise WireError(f"not a topic of a gateway: {topic[:120]!r}")
    return gateway, rest


def is_value(value: object) -> bool:
    """Tell whether a batch can carry a value: null, text, or a finite number of physical size."""
    if isinstance(value, float):
        return value == 0 or 1e-29 <= abs(value) < 1e30
    if isinstance(value, str):
        return value.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in value)
    return value is None or _is_plain(value)


def encode(message: _Message | dict[str, Any]) -> bytes:
    """Return a payload as JSON; Decimals become plain numbers."""
    if isinstance(message, Batch | Meta):
        fields = {"v": message.v} | {
            name: value
            for name in message.__struct_fields__
            if name != "v" and (value := getattr(message, name)) not in ([], {})
        }
        return _encoder.encode(fields)
    return _encoder.encode(message)


def decode(payload: bytes, kind: type[T]) -> T:
    """Return a payload as `kind`, fractions as Decimal; raises WireError."""
    decoder = _decoders.get(kind)
    if decoder is None:
        decoder = _decoders[kind] = msgspec.json.Decoder(kind, float_hook=Decimal)
    try:
        return decoder.decode(payload)  # type: ignore[no-any-return]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError) as error:
        raise WireError(f"not a {kind.__name__}: {error}") from error


def decode_batch(payload: bytes) -> Batch:
    """Return a checked batch; raises VersionError for another version and WireError for anything malformed."""
    version = decode(payload, _Versioned).v
    if version != VERSION:
        raise VersionError(f"version {version} is not known here (this is {VERSION})")
    batch = decode(payload, Batch)
    if not EPOCH.match(batch.epoch) or batch.seq < 0 or not batch.boot:
        raise WireError(f"epoch {batch.epoch[:20]!r}, number {batch.seq} or boot {batch.boot[:20]!r} is out of form")
    for block in batch.blocks:
        _check_block(block)
    return batch


def _check_block(block: Block) -> None:
    width = len(block.columns) + 1
    if len(set(block.columns)) != len(block.columns):
        raise WireError(f"a column of {block.device[:40]!r} stands twice")
    for row in block.rows:
        if len(row) != width or type(row[0]) is not int:
            raise WireError(f"a row of {block.device[:40]!r} does not fit its {width - 1} columns")
        if not all(value is None or _is_plain(value) for value in row[1:]):
            raise WireError(f"a value of {block.device[:40]!r} is neither number, text nor null")


def _is_plain(value: object) -> bool:
    if isinstance(value, Decimal):
        return value.is_finite() and abs(value.adjusted()) < 30  # beyond any physical quantity
    if isinstance(value, int):
        return not isinstance(value, bool) and -(2**63) <= value < 2**63
    return isinstance(value, str)


def encode_backfill(batches: Sequence[bytes]) -> bytes:
    """Return stored batches, unchanged, as one message; compressed where that is shorter."""
    plain = b'{"v":1,"batches":[' + b",".join(batches) + b"]}"
    packed = zlib.compress(plain, 6)
    return packed if len(packed) < len(plain) else plain


def decode_backfill(payload: bytes) -> list[bytes]:
    """Return the batches of a backfill message, each as it was first encoded; raises WireError or VersionError."""
    plain = _inflate(payload) if payload[:1] == b"\x78" else payload
    version = decode(plain, _Versioned).v
    if version != VERSION:
        raise VersionError(f"version {version} is not known here (this is {VERSION})")
    return [bytes(raw) for raw in decode(plain, _Backfill).batches]


def _inflate(payload: bytes) -> bytes:
    inflater = zlib.decompressobj()
    try:
        plain = inflater.decompress(payload, MAX_INFLATED_BYTES)
    except zlib.error as error:
        raise WireError(f"not compressed as it claims: {error}") from error
    if inflater.unconsumed_tail or not inflater.eof or inflater.unused_data:
        raise WireError(f"cut, followed by other bytes, or longer than {MAX_INFLATED_BYTES} bytes unpacked")
    return plain


def encode_acks(committed: Iterable[tuple[str, int]]) -> list[bytes]:
    """Return one payload per epoch that names its committed numbers."""
    by_epoch: dict[str, list[int]] = {}
    for epoch, seq in committed:
        by_epoch.setdefault(epoch, []).append(seq)
    return [encode(Ack(epoch, seqs)) for epoch, seqs in by_epoch.items()]
