"""One question to the meter: its deadline, its attempts, which answers count; and what comes unasked."""

import asyncio
import contextlib

import pytest

from drivers.api import LinkError
from drivers.route_b import echonet
from drivers.route_b.echonet import CONTROLLER, GET_RES, GET_SNA, INF, INFC, METER, NODE_PROFILE, Frame
from drivers.route_b.requests import Limits, NoAnswerError, Patience, Question, Requests, SessionLostError

pytestmark = pytest.mark.looptime

POWER = bytes.fromhex("000003A1")


class Clock:
    def boot_ms(self):
        return round(asyncio.get_running_loop().time() * 1000)

    def unix_ms(self):
        return None

    async def sleep_until(self, boot_ms):
        await asyncio.sleep(max(0, boot_ms - self.boot_ms()) / 1000)


class Air:
    """What carries datagrams: notes them with their times, and answers after `latency_s` those it does not lose."""

    def __init__(self, limits=None, clock=None):
        self.sent = []  # (time, frame)
        self.heard = []
        self.lost = set()  # numbers of the datagrams, from 1, that get no answer
        self.latency_s = 0.5
        self.error = None
        self.requests = Requests(self.send, self.heard.append, limits, clock)

    async def send(self, data):
        if self.error is not None:
            raise self.error
        frame = echonet.decode(data)
        self.sent.append((asyncio.get_running_loop().time(), frame))
        if len(self.sent) not in self.lost and frame.esv in (echonet.GET, echonet.SET_C):
            asyncio.get_running_loop().call_later(self.latency_s, self.say, self.answer(frame))

    @staticmethod
    def answer(frame, **changes):
        esv = echonet.SET_RES if frame.esv == echonet.SET_C else GET_RES
        properties = dict.fromkeys(frame.properties, b"" if frame.esv == echonet.SET_C else POWER)
        return Frame(frame.tid, METER, CONTROLLER, esv, properties)._replace(**changes)

    def say(self, frame):
        self.requests.take(echonet.encode(frame))

    @property
    def times(self):
        return [round(time, 3) for time, _ in self.sent]


@pytest.fixture
async def air():
    return Air()


async def test_an_answer_is_returned_and_its_latency_learnt(air):
    frame = await air.requests.get([0xE7])
    assert frame.properties == {0xE7: POWER}
    assert air.requests.patience.mean_s == pytest.approx(0.5)
    assert air.times == [0]


async def test_a_lost_answer_costs_seconds_not_the_deadline(air):
    air.lost = {1}
    await air.requests.get([0xE7, 0xE8])
    assert air.times == [0, 5]
    air.lost = {12}
    for _ in range(20):
        await air.requests.get([0xE7, 0xE8])
    waits = [later - earlier for earlier, later in zip(air.times, air.times[1:], strict=False)]
    assert waits[11] == pytest.approx(2.0)  # learnt: twice as patient as needed, never less than 2 s
    assert air.requests.tally.resent == 2


async def test_a_question_is_asked_until_its_deadline_with_growing_waits(air):
    air.lost = set(range(1, 100))
    with pytest.raises(NoAnswerError, match="within 60 s"):
        await air.requests.get([0xE7, 0xE8])
    waits = [later - earlier for earlier, later in zip(air.times, air.times[1:], strict=False)]
    assert waits == pytest.approx([5, 7.5, 11.25, 15, 15])
    assert asyncio.get_running_loop().time() == pytest.approx(60)


async def test_one_property_has_the_shorter_deadline_of_the_norm(air):
    air.lost = set(range(1, 100))
    with pytest.raises(NoAnswerError, match="within 20 s"):
        await air.requests.get([0xE7])
    assert asyncio.get_running_loop().time() == pytest.approx(20)


async def test_an_answer_to_an_earlier_attempt_counts(air):
    air.latency_s = 7
    frame = await air.requests.get([0xE7])
    assert (frame.tid, len(air.sent)) == (1, 2)
    assert asyncio.get_running_loop().time() == pytest.approx(7)
    assert air.requests.patience.mean_s == pytest.approx(7)  # measured from the attempt it answers
    await asyncio.sleep(10)
    assert air.requests.tally.late == 1  # the second attempt's answer, which nobody needs any more


async def test_an_answer_after_the_deadline_is_dropped_and_counted(air):
    air.latency_s = 21
    with pytest.raises(NoAnswerError):
        await air.requests.get([0xE7])
    air.latency_s = 0.5
    assert (await air.requests.get([0xE7])).tid == 4
    await asyncio.sleep(30)
    assert air.requests.tally.late == 3


async def test_an_inf_with_our_own_tid_between_request_and_answer_is_a_notification(air):
    def interfere():
        ((_, request),) = air.sent
        air.say(air.answer(request, esv=INF, properties={0xE7: bytes(4)}))
        air.say(air.answer(request, esv=INFC, properties={0xE7: bytes(4)}))

    asyncio.get_running_loop().call_later(0.2, interfere)
    assert (await air.requests.get([0xE7])).properties == {0xE7: POWER}
    assert [frame.esv for frame in air.heard] == [INF, INFC]


@pytest.mark.parametrize(
    "changes",
    [
        {"tid": 0x0361},
        {"seoj": bytes.fromhex("028802")},
        {"seoj": NODE_PROFILE},
        {"deoj": bytes.fromhex("05FF02")},
        {"esv": echonet.SET_RES},
        {"properties": {0xE8: POWER}},
        {"properties": {0xE7: POWER, 0xE8: POWER}},
    ],
)
async def test_what_answers_another_question_is_not_taken(changes, air):
    asyncio.get_running_loop().call_later(0.2, lambda: air.say(air.answer(air.sent[0][1], **changes)))
    assert (await air.requests.get([0xE7])).properties == {0xE7: POWER}
    assert asyncio.get_running_loop().time() == pytest.approx(0.5)
    assert air.requests.tally.late == 1


async def test_a_meter_that_answers_in_an_order_of_its_own_is_heard(air):
    air.lost = {1}
    said = {0xE0: bytes(4), 0xE7: POWER, 0xE8: bytes(4)}
    asyncio.get_running_loop().call_later(0.2, lambda: air.say(air.answer(air.sent[0][1], properties=said)))
    assert (await air.requests.get([0xE7, 0xE8, 0xE0])).properties == said
    assert asyncio.get_running_loop().time() == pytest.approx(0.2)


async def test_an_answer_with_one_property_less_or_another_in_its_place_is_foreign(air):
    def interfere():
        asked = air.sent[0][1]
        for epcs in ([0xE7], [0xE8], [0xE7, 0xE0], [0xE7, 0xE8, 0xE0]):
            air.say(air.answer(asked, properties=dict.fromkeys(epcs, POWER)))

    asyncio.get_running_loop().call_later(0.2, interfere)
    assert set((await air.requests.get([0xE7, 0xE8])).properties) == {0xE7, 0xE8}
    assert air.requests.tally.late == 4


async def test_what_was_served_of_a_refused_question_is_an_answer(air):
    asyncio.get_running_loop().call_later(
        0.2, lambda: air.say(air.answer(air.sent[0][1], esv=GET_SNA, properties={0xE7: POWER, 0xD3: b""}))
    )
    assert (await air.requests.get([0xE7, 0xD3])).properties == {0xE7: POWER, 0xD3: b""}


async def test_an_infc_is_confirmed_even_while_a_question_waits(air):
    air.lost = {1}
    async with asyncio.TaskGroup() as group:
        confirming = group.create_task(air.requests.run())
        asking = group.create_task(air.requests.get([0xE7]))
        await asyncio.sleep(1)
        air.say(Frame(0x029F, METER, CONTROLLER, INFC, {0xEA: bytes(11)}))
        await asking
        confirming.cancel()
    assert [frame.esv for _, frame in air.sent] == [echonet.GET, echonet.INFC_RES, echonet.GET]
    assert air.sent[1][1] == Frame(0x029F, CONTROLLER, METER, echonet.INFC_RES, {0xEA: b""})


async def test_more_infcs_than_can_be_confirmed_fill_no_memory(air):
    for tid in range(1000):
        air.say(Frame(tid, METER, CONTROLLER, INFC, {0xEA: bytes(11)}))
    assert air.requests._infcs.qsize() == 8


async def test_two_questions_keep_two_seconds_apart_whoever_asks():
    air = Air(clock=Clock())
    await asyncio.gather(air.requests.get([0xE7]), air.requests.get([0xE8]), air.requests.get([0xE0]))
    assert air.times == [0, 2, 4]


async def test_nothing_comes_between_a_demand_and_its_question(air):
    await asyncio.gather(
        air.requests.ask(Question.set({0xE5: b"\x01"}), Question.get([0xE2, 0xE5])),
        air.requests.get([0xE7]),
    )
    assert [list(frame.properties) for _, frame in air.sent] == [[0xE5], [0xE2, 0xE5], [0xE7]]
    assert air.sent[0][1].esv == echonet.SET_C


async def test_a_lost_session_ends_the_question_at_once(air):
    air.lost = {1}
    asyncio.get_running_loop().call_later(1, air.requests.lose, "the meter ended the session")
    with pytest.raises(SessionLostError, match="ended"):
        await air.requests.get([0xE7])
    assert asyncio.get_running_loop().time() == pytest.approx(1)


async def test_a_link_that_cannot_send_is_tried_again_seldom_and_named(air):
    air.error = NoAnswerError("the dongle refuses to send: FAIL ER10")
    asyncio.get_running_loop().call_later(12, setattr, air, "error", None)
    await air.requests.get([0xE7])
    assert air.times == [15]
    air.error = NoAnswerError("the dongle refuses to send: FAIL ER10")
    with pytest.raises(NoAnswerError, match="ER10"):
        await air.requests.get([0xE7])


async def test_after_the_link_says_it_was_not_sent_the_next_attempt_comes_five_seconds_later(air):
    await air.requests.get([0xE7])
    air.lost = {2}
    asyncio.get_running_loop().call_later(1, air.requests.unsent)
    await air.requests.get([0xE7])
    assert air.times[2] - air.times[1] == pytest.approx(6)


async def test_a_link_that_is_gone_ends_the_question_and_leaves_room_for_the_next(air):
    air.error = LinkError("gone")
    with pytest.raises(LinkError, match="gone"):
        await air.requests.get([0xE7])
    air.error = None
    assert (await air.requests.get([0xE7])).properties == {0xE7: POWER}


async def test_a_cancelled_question_leaves_room_for_the_next(air):
    air.lost = {1}
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(1):
            await air.requests.get([0xE7])
    assert (await air.requests.get([0xE7])).properties == {0xE7: POWER}


async def test_tids_start_over_after_the_last(air):
    air.requests._tid = 0xFFFE
    await air.requests.get([0xE7])
    await air.requests.get([0xE7])
    assert [frame.tid for _, frame in air.sent] == [0xFFFF, 1]


def test_patience_follows_what_is_measured_within_its_bounds():
    patience = Patience(Limits())
    assert patience.wait_s == 5
    for _ in range(50):
        patience.learn(0.6)
    assert patience.wait_s == 2
    for latency_s in (3.0, 4.0, 3.5, 3.8) * 10:
        patience.learn(latency_s)
    assert 3.5 < patience.wait_s < 8
    for _ in range(50):
        patience.learn(40)
    assert patience.wait_s == 15
