"""Which late answer belongs to which request, on a line without transaction ids."""

from drivers.modbus.frames import Answer
from drivers.modbus.missing import LATEST_S, Missing


def missing(*functions, unit=1):
    owed = Missing()
    for function in functions:
        owed.add(unit, function, 0.0, 1.0)
    return owed


def test_a_request_of_the_same_function_waits_for_what_is_missing():
    owed = missing(3)
    assert owed.may_come(1, 3, 1)
    assert not owed.may_come(1, 4, 1)
    assert not owed.may_come(2, 3, 1)


def test_a_late_answer_is_taken_once():
    owed = missing(3)
    assert not owed.takes(Answer(2, 3, b""), 1)
    assert owed.takes(Answer(1, 3, b""), 1)
    assert not owed.takes(Answer(1, 3, b""), 1)
    assert not owed.may_come(1, 3, 1)


def test_an_exception_is_an_answer_to_its_function():
    assert missing(3).takes(Answer(1, 0x83, b"\x02"), 1)


def test_an_answer_settles_what_was_asked_before_it_and_nothing_later():
    owed = missing(3, 4, 3)
    assert owed.takes(Answer(1, 4, b""), 1)
    assert owed.may_come(1, 3, 1)
    assert owed.takes(Answer(1, 3, b""), 1)
    assert not owed.may_come(1, 3, 1)


def test_an_answer_to_a_newer_request_settles_everything():
    owed = missing(3, 4, 16)
    owed.settle(1)
    assert not any(owed.may_come(1, function, 1) for function in (3, 4, 16))


def test_what_never_comes_is_forgotten():
    owed = missing(3)
    assert owed.may_come(1, 3, LATEST_S - 1)
    assert not owed.may_come(1, 3, LATEST_S + 1)


def test_a_probe_asks_with_a_function_that_is_not_missing():
    assert missing(3).probe(1, 3, 1) == 4
    assert missing(4).probe(1, 4, 1) == 3
    assert missing(16, 4).probe(1, 16, 1) == 3
    assert missing(3, 4).probe(1, 3, 1) == 4
