"""What a stranger on a Modbus line is: which units answer, their models, their registers as a file. Reads only.

A survey asks one thing after the other, once each, so that an inverter with one slow processor is not disturbed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from drivers.api import Json, LinkError, MalformedError
from drivers.modbus import library
from drivers.modbus.link import ExceptionAnswerError, Reads, SilentError
from drivers.modbus.patience import read_or_refused
from drivers.modbus.planner import Request, Space
from drivers.modbus.register_map import RegisterMap
from drivers.modbus.registers import text
from drivers.modbus.sunspec import BASES, Chain, discover
from drivers.modbus.sunspec_points import table

MOST_DUMPED = 10_000
"""Registers of one dump; the largest captures of home inverters have about 3,000."""
BLOCK = 50
COMMON_MODEL = 1
SERIAL_AT, SERIAL_WORDS = 50, 16
NETWORK_MODELS = range(10, 20)
"""SunSpec's models of interfaces, addresses, proxies and dial-up: names, passwords, MAC addresses, nothing measured."""
NOT_SERVED = frozenset({4})
"""Beside 1, 2 and 3 what units say of registers that they do not have."""
TEXT_WORDS = 2
"""Registers in a row that hold letters or digits and so may be a text; a shorter one tells nobody apart."""
SPREAD_WORDS = 6
"""The same where each register holds one letter: small numbers look alike, so it takes a longer row."""


class Line(Reads, Protocol):
    """A link, or the agent that holds it."""

    @property
    def is_open(self) -> bool: ...

    async def open(self, timeout_s: float) -> None: ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Found:
    """A unit that answers: its SunSpec chain when it has one, and what known maps would read as its model."""

    unit: int
    chain: Chain | None
    models: dict[str, str]
    trouble: str = ""
    """Why it could not be told what the unit is: it was busy, or its answers made no sense."""

    def told(self) -> dict[str, Json]:
        """Return it as JSON, without a serial number."""
        told: dict[str, Json] = {"unit": self.unit, "sunspec": self.chain is not None}
        if self.chain is not None:
            told |= {name: value for name, value in self.chain.identity.items() if name != "serial"}
            told["models"] = [f"{model.id}@{model.address}+{model.length}" for model in self.chain.models]
        if self.models:
            told["maps"] = dict(self.models)
        if self.trouble:
            told["trouble"] = self.trouble
        return told


async def scan(link: Line, units: Iterable[int], timeout_s: float, maps: str | None = None) -> AsyncIterator[Found]:
    """Yield each unit that answers; a silent one costs one time-out. Raises LinkError when the endpoint is gone."""
    known = [library.find(name, maps) for name in library.known(maps)]
    for unit in units:
        if not link.is_open:
            await link.open(max(timeout_s, 3.0))
        try:
            chain = await chain_of(link, unit, timeout_s)
            models = {} if chain is not None else await _models(link, unit, known, timeout_s)
        except SilentError:
            continue
        except (ExceptionAnswerError, MalformedError) as error:
            yield Found(unit, None, {}, str(error))
            continue
        except LinkError:
            if link.is_open:
                raise
            continue  # some gateways hang up on units they do not know
        yield Found(unit, chain, models)


async def chain_of(link: Line, unit: int, timeout_s: float) -> Chain | None:
    """Return a unit's SunSpec chain, None when it answers and has none.

    Raises SilentError, LinkError, and RefusedError or MalformedError where a busy or garbled unit leaves that open.
    """
    walk = discover(BASES)
    request = next(walk)
    while True:
        data = await read_or_refused(link, unit, request, timeout_s)
        try:
            request = walk.send(data)
        except StopIteration as end:
            chain: Chain = end.value
            return chain
        except MalformedError:
            return None


async def _models(link: Line, unit: int, known: Sequence[RegisterMap], timeout_s: float) -> dict[str, str]:
    """Return what each map would read as the unit's model, where that is a text."""
    models: dict[str, str] = {}
    for one in known:
        point = next((point for point in one.identity if point.quantity == "model"), None)
        if point is None or point.encoding.type != "string":
            continue
        data = await read_or_refused(link, unit, Request(point.space, point.address, point.encoding.words), timeout_s)
        if data is not None and (shown := text(data)) and len(shown) >= 3:
            models[one.name] = shown
    return models


async def _served(link: Line, unit: int, request: Request, timeout_s: float) -> bytes | None:
    """Return registers, None where the unit has no sense for this read; raises RefusedError while it is busy."""
    try:
        return await read_or_refused(link, unit, request, timeout_s, NOT_SERVED)
    except MalformedError:
        return None


@dataclass(frozen=True, slots=True)
class Span:
    """Registers to dump: `first` up to but not including `end`; of unknown ones what looks like text is left out."""

    space: Space
    first: int
    end: int
    is_known: bool = True


def spans_of(register_map: RegisterMap) -> list[Span]:
    """Return the registers that a map knows of, in the space most of them lie in, with serial numbers left out."""
    secret = {point.address for point in register_map.identity if point.quantity == "serial"}
    points = [*register_map.points, *register_map.identity]
    (space, _), *_ = Counter(point.space for point in points).most_common()
    wanted = (point for point in points if point.space == space and point.address not in secret)
    return [Span(space, point.first, point.end) for point in wanted]


def spans_of_chain(chain: Chain) -> list[Span]:
    """Return the registers of a chain, from the marker to the end model, without the serial numbers.

    Of a model about the network only the header is dumped; a maker's own model is of unknown meaning.
    """
    spans = [Span("holding", chain.models[0].address - 2, chain.models[0].address)] if chain.models else []
    for model in chain.models:
        if model.id == COMMON_MODEL:
            spans.append(Span("holding", model.address, model.address + SERIAL_AT))
            spans.append(Span("holding", model.address + SERIAL_AT + SERIAL_WORDS, model.end))
        else:
            body = model.address + 2
            spans.append(Span("holding", model.address, body))
            if model.id not in NETWORK_MODELS:
                spans.append(Span("holding", body, model.end, is_known=table(model.id) is not None))
    if chain.models:
        spans.append(Span("holding", chain.models[-1].end, chain.models[-1].end + 2))
    return [span for span in spans if span.first < span.end]


async def dump(link: Line, unit: int, spans: Sequence[Span], timeout_s: float) -> list[tuple[int, str]]:
    """Return blocks of (first address, words in hex); what the unit refuses is halved and left out at last.

    Raises LinkError when the unit falls silent, RefusedError while it is busy, ValueError for more than MOST_DUMPED
    registers or two spaces.
    """
    if len({span.space for span in spans}) > 1:
        raise ValueError("one dump holds one kind of register: holding or input")
    wanted = sorted({address for span in spans for address in range(span.first, span.end)})
    if len(wanted) > MOST_DUMPED:
        raise ValueError(f"{len(wanted)} registers; at most {MOST_DUMPED}")
    waiting = _runs(wanted)[::-1]
    blocks: list[tuple[int, str]] = []
    while waiting:
        first, count = waiting.pop()
        data = await _served(link, unit, Request(spans[0].space, first, count), timeout_s)
        if data is not None:
            blocks.append((first, data.hex()))
        elif count > 1:
            waiting += [(first + count // 2, count - count // 2), (first, count // 2)]
    unknown = {address for span in spans if not span.is_known for address in range(span.first, span.end)}
    return _without_texts(_joined(blocks), unknown)


def image(blocks: Sequence[tuple[int, str]], unit: int, space: Space, name: str, description: str) -> dict[str, Json]:
    """Return a dump in the form of the captured devices, which `edge-sim inverter --image` plays."""
    shown: list[Json] = [[first, words] for first, words in blocks]
    return {
        "id": name,
        "description": description,
        "unit": unit,
        "fc": 3 if space == "holding" else 4,
        "blocks": shown,
        "expect": {},
    }


def _runs(addresses: Sequence[int], most: int = BLOCK) -> list[tuple[int, int]]:
    runs: list[tuple[int, int]] = []
    for address in addresses:
        if runs and address == sum(runs[-1]) and runs[-1][1] < most:
            runs[-1] = runs[-1][0], runs[-1][1] + 1
        else:
            runs.append((address, 1))
    return runs


def _without_texts(blocks: Sequence[tuple[int, str]], unknown: set[int]) -> list[tuple[int, str]]:
    """Leave out what looks like a text among registers whose meaning nobody knows: it may be a serial number."""
    words = {first + at // 4: shown[at : at + 4] for first, shown in blocks for at in range(0, len(shown), 4)}
    guessed = {address: bytes.fromhex(word) for address, word in words.items() if address in unknown}
    packed = {address for address, word in guessed.items() if _is_written(word)}
    spread = {address for address, word in guessed.items() if _is_written(word.lstrip(b"\0"))}
    texts = _rows(packed, TEXT_WORDS) | _rows(spread, SPREAD_WORDS)
    return _joined([(address, word) for address, word in words.items() if address not in texts])


def _is_written(word: bytes) -> bool:
    """Say whether a register may be a part of a text: visible ASCII, perhaps ended by a zero."""
    return len(word) > 0 and all(0x20 <= byte < 0x7F for byte in word[:1] + word[1:].rstrip(b"\0"))


def _rows(addresses: set[int], least: int) -> set[int]:
    """Return the addresses that stand in a row of at least so many."""
    rows = [range(first, first + count) for first, count in _runs(sorted(addresses), len(addresses))]
    return {address for row in rows if len(row) >= least for address in row}


def _joined(blocks: Sequence[tuple[int, str]]) -> list[tuple[int, str]]:
    joined: list[tuple[int, str]] = []
    for first, words in sorted(blocks):
        if joined and joined[-1][0] + len(joined[-1][1]) // 4 == first:
            joined[-1] = joined[-1][0], joined[-1][1] + words
        else:
            joined.append((first, words))
    return joined
