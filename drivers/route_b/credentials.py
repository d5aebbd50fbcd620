"""The Route-B ID and password: from a secret or typed off a letter, told by their lengths alone. Opens no port."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable

from drivers.api import ConfigError, CredentialsError
from drivers.route_b.conversation import Credentials

ID_LENGTH, PASSWORD_LENGTH = 32, 12
MAX_TYPED = 4096
"""Nobody types more; what is longer is another file."""
REMEDY = "登録する / store them: edge-agent route-b credentials CONFIG"
REFUSALS = 2
"""So many refused joins one after another make credentials that never worked wrong ones; a bad radio spoils one."""


class CredentialsFormError(ValueError):
    """What was given cannot be credentials; the text tells lengths and places, never a character."""


def read_credentials(secret: Callable[[str], str], name: str) -> Credentials:
    """Return the credentials kept under a name; raises CredentialsError, whose text never holds them."""
    try:
        text = secret(name)
    except CredentialsError as error:
        raise CredentialsError("credentials", error.problem, f"{REMEDY} (or: {error.remedy})", name) from error
    except ConfigError as error:
        raise error.under("credentials") from error
    except (KeyError, OSError) as error:
        raise CredentialsError("credentials", "the secret is missing", REMEDY, name) from error
    try:
        return parse_credentials(text)
    except CredentialsFormError as error:
        raise CredentialsError("credentials", str(error), REMEDY, name) from None


def parse_credentials(text: str) -> Credentials:
    """Return credentials from JSON as typed off a letter, with spaces or full-width characters."""
    try:
        table = json.loads(text) if len(text) <= MAX_TYPED else None
    except (ValueError, RecursionError):
        raise CredentialsFormError("the secret is not JSON") from None
    if not isinstance(table, dict):
        raise CredentialsFormError("the secret is no JSON object with id and password")
    route_b_id, password = (plain(str(table.get(key) or "")) for key in ("id", "password"))
    if (problem := id_problem(route_b_id) or password_problem(password)) is not None:
        raise CredentialsFormError(problem)
    return Credentials(route_b_id.upper(), password)


def as_secret(credentials: Credentials) -> str:
    """Return the text of the secret that holds credentials."""
    return json.dumps({"id": credentials.route_b_id, "password": credentials.password})


def plain(typed: str) -> str:
    """Return what was typed with half-width characters and without any spaces."""
    return "".join(unicodedata.normalize("NFKC", typed).split())


def id_problem(route_b_id: str) -> str | None:
    """Say why a text is no Route-B ID, or None."""
    if len(route_b_id) != ID_LENGTH:
        return f"the id has {len(route_b_id)} characters, not {ID_LENGTH}"
    wrong = [place for place, digit in enumerate(route_b_id, 1) if digit not in "0123456789abcdefABCDEF"]
    return f"the id has no hexadecimal digit in place {wrong[0]}" if wrong else None


def password_problem(password: str) -> str | None:
    """Say why a text is no Route-B password, or None."""
    if len(password) != PASSWORD_LENGTH:
        return f"the password has {len(password)} characters, not {PASSWORD_LENGTH}"
    wrong = [place for place, letter in enumerate(password, 1) if not (letter.isascii() and letter.isalnum())]
    return f"the password has no letter or digit in place {wrong[0]}" if wrong else None


def in_groups(text: str) -> str:
    """Return a text as a letter prints it, in groups of four, with its length: `0123 4567 89 (10)`."""
    groups = (text[at : at + 4] for at in range(0, len(text), 4))
    return f"{' '.join(groups)} ({len(text)})"
