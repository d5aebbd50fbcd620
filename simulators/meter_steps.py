"""The kinds of steps that a scenario of a meter and its dongle may have. Plays none of them."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from drivers.api import ConfigError
from simulators.air import ONE_PROPERTY
from simulators.faults import Way
from simulators.scenario import Epcs, LastingStep, Moment, Seconds, Share, Step, kinds_of

MAX_CLOCK_ERROR_S = 100 * 86_400
EventNumber = Annotated[str, msgspec.Meta(pattern="^[0-9A-Fa-f]{2}$")]
"""As SKSTACK prints it, hexadecimal; in quotes."""
Mac = Annotated[str, msgspec.Meta(pattern="^[0-9A-F]{16}$")]
Serial = Annotated[str, msgspec.Meta(pattern="^[ -~]{1,12}$")]


class Restart(Step, frozen=True, kw_only=True, tag="restart"):
    """The dongle's module starts anew by itself."""


class Unplug(Step, frozen=True, kw_only=True, tag="unplug"):
    """The dongle is pulled out, and plugged in again."""

    for_s: Seconds = 10.0


class Mute(Step, frozen=True, kw_only=True, tag="mute"):
    """The dongle neither hears nor says anything."""

    for_s: Seconds = 10.0


class EndSession(Step, frozen=True, kw_only=True, tag="end_session"):
    """The session ends, with an event of SKSTACK (27 without one)."""

    event: EventNumber | None = None


class Announce(Step, frozen=True, kw_only=True, tag="announce"):
    """An event is said and nothing else happens."""

    event: EventNumber = "27"


class Expire(Step, frozen=True, kw_only=True, tag="expire"):
    """The session's lifetime ends (EVENT 29); the dongle authenticates again by itself, which the meter may refuse."""

    renews: bool = False


class Loss(Step, frozen=True, kw_only=True, tag="loss"):
    """The share of datagrams that the air loses from now on, each way."""

    share: Share = 0.0


class Latency(Step, frozen=True, kw_only=True, tag="latency"):
    """From a request to its answer, from now on: the least, the median, the 95th percentile and the most."""

    percentiles_s: tuple[float, float, float, float] = (
        ONE_PROPERTY[0][1],
        ONE_PROPERTY[1][1],
        ONE_PROPERTY[2][1],
        ONE_PROPERTY[3][1],
    )

    def __post_init__(self) -> None:
        least, median, p95, most = self.percentiles_s
        if not 0 <= least <= median <= p95 <= most <= 600:
            raise ValueError("percentiles_s: not four rising times from 0 to 600 s")


class AirStep(Step, frozen=True, kw_only=True, tag="air"):
    """Losses and times as measured on real ones, or none, from now on."""

    profile: Literal["measured", "ideal"]


class JoinsStep(LastingStep, frozen=True, kw_only=True):
    """How the meter takes joins; the last one of these says when they are welcome again."""

    @property
    def what(self) -> object:
        """Return what it is that lasts."""
        return JoinsStep


class WrongPassword(JoinsStep, frozen=True, kw_only=True, tag="wrong_password"):
    """The meter knows another password: it answers a join (PANA frames come) and declines."""


class NoJoinAnswer(JoinsStep, frozen=True, kw_only=True, tag="no_join_answer"):
    """The meter answers no join, and nothing tells why."""


class DutyLimit(LastingStep, frozen=True, kw_only=True, tag="duty_limit"):
    """The hour's transmit time is used up: nothing that the dongle is told to send leaves it."""

    for_s: Seconds | None = 600.0


class NeighbourStep(LastingStep, frozen=True, kw_only=True, tag="neighbour"):
    """Another house's meter is in range, stronger than ours."""

    mac: Mac = "001C640003CDFFFE"
    lqi: Annotated[int, msgspec.Meta(ge=0, le=255)] = 0xF0
    pair_id: Annotated[str, msgspec.Meta(pattern="^[0-9A-F]{8}$")] = "01234567"


class RefuseStep(LastingStep, frozen=True, kw_only=True, tag="refuse"):
    """The meter answers some properties without data (Get_SNA), though its map lists them."""

    epcs: Epcs


class Notify(Step, frozen=True, kw_only=True, tag="notify"):
    """The meter tells properties unasked: now, or with the TID of the next request and before its answer."""

    service: Literal["inf", "infc"] = "inf"
    epcs: Epcs = ("EA", "EB")
    own_tid: bool = True


class Stray(Step, frozen=True, kw_only=True, tag="stray"):
    """Before the next answer comes one to somebody else's like question: a foreign TID, a power no house has."""

    tid: Annotated[str, msgspec.Meta(pattern="^[0-9A-F]{4}$")] = "FFFE"


class Damage(LastingStep, frozen=True, kw_only=True, tag="damage"):
    """Bytes on the serial line suffer a fault of simulators/faults.py, for a minute without other word."""

    kind: Literal["drop", "duplicate", "corrupt", "insert", "split", "delay", "stall"]
    rate: Share = 1.0
    seconds: Moment = 0.0
    way: Way = "both"
    for_s: Seconds | None = 60.0


class MeterFault(LastingStep, frozen=True, kw_only=True, tag="meter_fault"):
    """The meter says that it is faulty (88), at once and when asked."""


class MeterClock(Step, frozen=True, kw_only=True, tag="meter_clock"):
    """The meter's clock (97, 98) is so many seconds ahead from now on."""

    error_s: Annotated[int, msgspec.Meta(ge=-MAX_CLOCK_ERROR_S, le=MAX_CLOCK_ERROR_S)]


class Exchange(Step, frozen=True, kw_only=True, tag="exchange"):
    """Another meter hangs there: its serial number (8D) and address, its registers at zero, its memory empty."""

    serial: Serial = "SIM0000002"
    mac: Mac = "001C640003CD80B5"


KINDS = kinds_of(
    Restart, Unplug, Mute, EndSession, Announce, Expire, Loss, Latency, AirStep, WrongPassword, NoJoinAnswer, DutyLimit,
    NeighbourStep, RefuseStep, Notify, Stray, Damage, MeterFault, MeterClock, Exchange,
)  # fmt: skip

_J11_HAS_NO = {
    Announce: "the J11 family says no such events; remove the step, or use end_session, duty_limit",
    Expire: "the J11 family tells an expiry as the session's end; use end_session",
    NeighbourStep: "the J11 family shows networks of its own pairing ID alone; remove the step",
}


def unfit_for_j11(step: Step) -> ConfigError | None:
    """Return what makes no sense with a J11 dongle, or None."""
    if (why := _J11_HAS_NO.get(type(step))) is not None:
        return ConfigError("do", "no meaning with --dialect j11", why, type(step).__struct_config__.tag)
    if isinstance(step, EndSession) and step.event is not None:
        return ConfigError(
            "event", "no meaning with --dialect j11", "the family tells no number; leave it out", step.event
        )
    return None
