"""Log lines for people and for machines, and what never stands in them."""

import io
import json
import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent import logs
from edge_agent.logs import LogSettings, Secrets

ROUTE_B = '{"id": "00112233445566778899AABBCCDDEEFF", "password": "0123456789AB"}'


@pytest.fixture
def said(monkeypatch):
    """`said(form)` sets logging up and returns the stream that takes it; everything is put back afterwards."""
    root = logging.getLogger()
    former, level = root.handlers[:], root.level
    monkeypatch.setattr(logs, "SECRETS", Secrets())

    def start(**settings):
        stream = io.StringIO()
        logs.set_up(LogSettings(**settings), stream, {})
        return stream

    yield start
    root.handlers[:] = former
    root.setLevel(level)


def test_people_read_one_line(said):
    stream = said()
    logging.getLogger("edge_agent.supervisor").warning("driver %s failed", "meter")
    assert stream.getvalue().rstrip().endswith("warning supervisor: driver meter failed")


def test_machines_read_one_object_with_the_level_that_journald_knows(said):
    stream = said(format="json")
    logging.getLogger("edge_agent.uplink").error("line one\nline two 電力")
    line = stream.getvalue()
    assert line.startswith("<3>{")
    assert line.count("\n") == 1
    fields = json.loads(line[3:])
    assert (fields["level"], fields["area"], fields["message"]) == ("error", "uplink", "line one\nline two 電力")


def test_a_traceback_stays_in_its_line(said):
    stream = said(format="json")
    try:
        raise KeyError("power")
    except KeyError:
        logging.getLogger("edge_agent").exception("a bug")
    assert stream.getvalue().count("\n") == 1
    assert "KeyError" in json.loads(stream.getvalue()[3:])["traceback"]


def test_under_systemd_the_form_is_chosen_by_itself():
    stream, root = io.StringIO(), logging.getLogger()
    former, level = root.handlers[:], root.level
    try:
        logs.set_up(LogSettings(), stream, {"JOURNAL_STREAM": "8:1"})
        logging.getLogger("edge_agent").info("hello")
    finally:
        root.handlers[:] = former
        root.setLevel(level)
    assert stream.getvalue().startswith("<6>{")


def test_a_message_that_does_not_fit_its_arguments_is_still_said(said, monkeypatch):
    stream = said()
    logging.getLogger("edge_agent").warning("%d volts", "many")
    assert "'%d volts' ('many',)" in stream.getvalue()


@pytest.mark.parametrize("form", ["human", "json"])
@pytest.mark.parametrize("word", ["00112233445566778899AABBCCDDEEFF", "0123456789AB"])
def test_a_secret_is_masked_in_message_arguments_and_traceback(said, form, word):
    stream = said(format=form)
    logs.SECRETS.add(ROUTE_B)
    try:
        raise ValueError(f"SKSETPWD C {word}")
    except ValueError:
        logging.getLogger("drivers.route_b").exception("sent %s", f"SKSETRBID {word}")
    assert word not in stream.getvalue()
    assert logs.MASK in stream.getvalue()


def test_a_password_of_letters_alone_is_masked_and_the_words_around_it_are_not():
    secrets = Secrets()
    secrets.add("hunter\n")
    secrets.add('{"password": "0123456789AB"}')
    assert secrets.masked("the password hunter is wrong") == "the password *** is wrong"


def test_a_secret_typed_with_spaces_and_full_width_digits_is_masked_as_the_driver_uses_it():
    secrets = Secrets()
    secrets.add('{"id": "0011 2233 4455 6677 8899 AABB CCDD EEFF", "password": "０１２３４５６７８９ＡＢ"}')
    assert secrets.masked("SKSETRBID 00112233445566778899AABBCCDDEEFF") == "SKSETRBID ***"
    assert secrets.masked("SKSETPWD C 0123456789AB") == "SKSETPWD C ***"


@given(st.text(min_size=4).filter(lambda text: len(text.strip()) >= 4), st.text(), st.text())
def test_a_secret_never_survives(secret, before, after):
    secrets = Secrets()
    secrets.add(secret)
    assert secret.strip() not in secrets.masked(before + secret + after).replace(logs.MASK, "\0")
