"""The air between a dongle and one meter: what is lost, how long it takes, who is let in. Knows no dongle, no frame."""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass, replace
from typing import Literal, Protocol, TypeAlias

METER_MAC = "001C640003CD76A4"
CHANNEL = 0x3B
LQI = 0xB2

Spread: TypeAlias = tuple[tuple[float, float], ...]
"""How long something takes: shares of all times, rising from 0 to 1, each with the seconds that they stay within."""

ONE_PROPERTY: Spread = ((0.0, 0.340), (0.5, 0.569), (0.95, 0.730), (1.0, 0.810))
"""From a request for one property to its answer: 42 logged requests of a BP35A1."""
SEVERAL_PROPERTIES: Spread = ((0.0, 0.340), (0.5, 0.569), (0.95, 0.730), (1.0, 3.8))
"""The same, up to the longest that was ever reported for several properties (an ESP32, three of them)."""
SENDING: Spread = ((0.0, 0.115), (0.5, 0.215), (1.0, 0.343))
"""The part of it until the dongle says that the request has left (EVENT 21)."""
MEASURED_LOSS = 0.09
"""Each way; 17 of 100 requests stay without an answer then, as a report over 48 days counted."""

Joins: TypeAlias = Literal["welcome", "refused", "unanswered"]


class Peer(Protocol):
    """The meter on the other side of the radio."""

    def joined(self) -> None:
        """Hear that a session stands."""

    def heard(self, data: bytes) -> None:
        """Hear a datagram on the ECHONET Lite port."""


@dataclass(frozen=True, slots=True)
class Neighbour:
    """The meter of another house in range: its beacons are heard, and it lets nobody of ours in."""

    mac: str = "001C640003CDFFFE"
    lqi: int = 0xF0
    pair_id: str = "01234567"


@dataclass(frozen=True, slots=True)
class Radio:
    """How the air behaves, and what the meter's owner wrote on the credentials' letter."""

    route_b_id: str = "00112233445566778899AABBCCDDEEFF"
    password: str = "0123456789AB"  # noqa: S105  (an invented meter's)
    radio_time: float = 0.0
    loss: float = 0.0
    latency_s: float = 0.0  # without a spread below
    expires_s: float | None = None  # a session's lifetime, after which the dongle authenticates again by itself
    renews: bool = True  # whether that succeeds
    transmit_ms: int = 360_000  # in an hour, by ARIB STD-T108; then the dongle drops what it is told to send
    rest_s: float = 600.0  # until it may send again
    neighbour: Neighbour | None = None
    mac: str = METER_MAC
    joins: Joins = "welcome"
    one_property: Spread | None = None
    several_properties: Spread | None = None
    sending: Spread | None = None

    @property
    def pan_id(self) -> int:
        """Return the network's number: the end of the meter's address in every log that shows both."""
        return int(self.mac[-4:], 16)

    @property
    def address(self) -> str:
        """Return the meter's IPv6 address, as SKSTACK writes it."""
        return link_local(self.mac)


def measured(radio: Radio) -> Radio:
    """Return the same with losses and times as measured on real ones."""
    return _with(radio, MEASURED_LOSS, ONE_PROPERTY, SEVERAL_PROPERTIES, SENDING)


def ideal(radio: Radio) -> Radio:
    """Return the same without loss and without delay."""
    return _with(radio, 0.0, None, None, None)


def _with(radio: Radio, loss: float, one: Spread | None, several: Spread | None, sending: Spread | None) -> Radio:
    return replace(radio, loss=loss, latency_s=0.0, one_property=one, several_properties=several, sending=sending)


def link_local(mac: str) -> str:
    """Return the IPv6 address of a MAC of 16 hexadecimal digits, all its groups written out."""
    interface = f"{int(mac, 16) ^ (0x02 << 56):016X}"
    return "FE80:0000:0000:0000:" + ":".join(interface[place : place + 4] for place in range(0, 16, 4))


def drawn(spread: Spread, chance: random.Random) -> float:
    """Return seconds drawn from a spread, evenly between two of its points."""
    share = chance.random()
    for (low, low_s), (high, high_s) in itertools.pairwise(spread):
        if share <= high:
            return low_s + (high_s - low_s) * (share - low) / (high - low)
    return spread[-1][1]


class Times:
    """How long one dongle's requests take: one draw covers the way out and the way back."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._spent_s = 0.0

    def sending_s(self, radio: Radio) -> float:
        """Return the time until the request has left."""
        self._spent_s = 0.0 if radio.sending is None else drawn(radio.sending, self._chance)
        return self._spent_s

    def answering_s(self, radio: Radio, properties: int) -> float:
        """Return the time from there to the answer to a request for so many properties."""
        spread = radio.one_property if properties <= 1 else radio.several_properties
        return radio.latency_s if spread is None else max(0.0, drawn(spread, self._chance) - self._spent_s)
