"""Credentials as people give them, and a driver that waits for them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivers.api import ConfigError, CredentialsError, RefusedError
from drivers.route_b.awaiting import AwaitingCredentials
from drivers.route_b.credentials import (
    CredentialsFormError,
    as_secret,
    id_problem,
    in_groups,
    parse_credentials,
    password_problem,
    plain,
    read_credentials,
)

ID, PASSWORD = "00112233445566778899AABBCCDDEEFF", "0123456789AB"


@pytest.mark.parametrize(
    "typed",
    ["0011 2233", "００１１２２３３", " 0011\u30002233\t", "00\u00a011 2233"],
    ids=["groups", "wide", "blanks", "nbsp"],
)
def test_spaces_and_full_width_characters_are_forgiven(typed):
    assert plain(typed) == "00112233"


def test_what_was_typed_is_shown_in_groups_of_four_with_its_length():
    assert in_groups("0011223344") == "0011 2233 44 (10)"
    assert in_groups("") == " (0)"


@pytest.mark.parametrize(
    ("problem", "says"),
    [
        (id_problem(ID[:-1]), "31 characters"),
        (id_problem(ID[:5] + "G" + ID[6:]), "place 6"),
        (password_problem(PASSWORD + "C"), "13 characters"),
        (password_problem(PASSWORD[:-1] + "-"), "place 12"),
        (id_problem(ID), None),
        (password_problem(PASSWORD), None),
    ],
)
def test_a_problem_is_told_by_length_or_place(problem, says):
    assert problem is None if says is None else says in problem


def test_what_is_stored_can_be_read_again():
    credentials = parse_credentials(f'{{"id": "{ID.lower()}", "password": "{PASSWORD}"}}')
    assert parse_credentials(as_secret(credentials)) == credentials


@given(st.text(max_size=200) | st.builds(lambda a, b: f'{{"id": "{a}", "password": "{b}"}}', st.text(), st.text()))
def test_any_text_is_credentials_or_an_error_that_does_not_show_it(text):
    try:
        parse_credentials(text)
    except CredentialsFormError as error:
        assert not any(len(part) > 3 and part in str(error) for part in text.split('"')[3::4])  # noqa: PT017


def test_missing_and_unusable_credentials_are_waited_for_and_a_wrong_name_is_a_mistake():
    def refuse(error):
        def secret(name):
            raise error

        return secret

    for secret in ({}.__getitem__, refuse(CredentialsError("", "not there", "x")), lambda name: "{}"):
        with pytest.raises(CredentialsError) as caught:
            read_credentials(secret, "route-b")
        assert caught.value.key == "credentials"
        assert "route-b credentials" in caught.value.remedy
    with pytest.raises(ConfigError) as caught:
        read_credentials(refuse(ConfigError("", "not the name of a secret", "x")), "../x")
    assert not isinstance(caught.value, CredentialsError)


async def test_a_driver_without_credentials_says_so_until_they_come():
    class Real:
        async def run(self, emit, memory):
            ran.append((emit, memory))

        def describe(self):
            return {"meter": {"serial": "1"}}

        def status(self):
            return {"state": "joined"}

        async def command(self, name, arguments):
            return name

    def build():
        if not there:
            raise CredentialsError("credentials", "still not there", "x")
        return Real()

    there, ran = [], []
    driver = AwaitingCredentials("meter", CredentialsError("credentials", "not there", "x"), build)
    assert (driver.devices, driver.status(), driver.describe()) == (
        ("meter",),
        {"state": "waiting_for_credentials"},
        {},
    )
    with pytest.raises(RefusedError, match="waits for credentials"):
        await driver.command("history", {})
    with pytest.raises(CredentialsError, match="still not there"):
        await driver.run(1, 2)
    assert "still" in str(driver.awaits())
    there.append(True)
    await driver.run(1, 2)
    assert (ran, driver.awaits(), driver.status(), await driver.command("x", {})) == (
        [(1, 2)],
        None,
        {"state": "joined"},
        "x",
    )
    assert driver.describe() == {"meter": {"serial": "1"}}
