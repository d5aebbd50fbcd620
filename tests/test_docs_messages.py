"""Every message and event of the meter and of home devices stands in a table of its pages, in both languages.

In the pages `…` stands for what varies.
"""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("route_b", "echonet_ip")
TEXT_AT = {
    "LinkError": 0, "NoAnswerError": 0, "SessionLostError": 0, "SilentError": 0, "RefusedError": 0,
    "CredentialsFormError": 0, "ConfigError": 1, "CredentialsError": 1, "RefusedCredentialsError": 1,
    "_lose": 0, "_say": 0, "_complain": 0, "info": 0, "warning": 0,
}  # fmt: skip
"""Calls that carry a text to a person, and which argument it is."""
HOLDERS = ("problem", "hint", "_LOST", "REFUSES", "_REASONS", "_LOSSES", "self.lost_because", "flight.problem")
"""Names that hold such a text until then."""
JAPANESE = re.compile(r"[\u3040-\u30ff\u4e00-\u9fff]")


def template(node):
    """Return the text of a literal with `…` for what varies, or None for what is no literal."""
    match node:
        case ast.Constant(value=str(text)):
            return re.sub(r"%\w+", "…", text)
        case ast.JoinedStr(values=parts):
            return "".join(template(part) or "…" for part in parts)
    return None


def comparable(text):
    """Return a text without what stands at its ends and varies, and without back quotes."""
    return re.sub(r"…[… ]*…", "…", " ".join(text.replace("`", "").split())).strip(" ,:;()…")


@cache
def modules(package):
    """Return the name and the syntax of each module of a driver."""
    paths = sorted((ROOT / "drivers" / package).glob("*.py"))
    return [(path.stem, ast.parse(path.read_text(encoding="utf-8"))) for path in paths]


def calls(node):
    """Yield the last name and the arguments of each call."""
    for part in ast.walk(node):
        if isinstance(part, ast.Call):
            yield ast.unparse(part.func).rpartition(".")[2], part.args


def told(tree):
    """Yield what a module tells a person, as syntax."""
    for name, arguments in calls(tree):
        if name in TEXT_AT:
            yield from arguments[TEXT_AT[name] :][:1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) in HOLDERS:
            yield from node.value.values if isinstance(node.value, ast.Dict) else [node.value]
        elif isinstance(node, ast.FunctionDef) and node.name.endswith("_problem"):
            yield from (part for part in ast.walk(node) if isinstance(part, ast.JoinedStr))


def found_by_doctor(tree):
    """Yield what `doctor` says in two languages, as syntax; a remedy explains itself."""
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    parts = [part for function in functions for part in ast.walk(function)]
    pieces = {id(piece) for part in parts if isinstance(part, ast.JoinedStr) for piece in part.values}
    yield from (part for part in parts if id(part) not in pieces and JAPANESE.search(template(part) or ""))


def messages(package):
    """Return all that a driver tells a person."""
    nodes = [node for name, tree in modules(package) for node in (found_by_doctor if name == "checks" else told)(tree)]
    return {text for node in nodes if (text := comparable(template(node) or ""))}


def events(package):
    """Return the kinds of events that a driver emits, and the names of their fields."""
    found = set()
    for _, tree in modules(package):
        for function in (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)):
            made = [arguments for name, arguments in calls(function) if name == "Event" and len(arguments) > 2]
            tables = [arguments[3] for arguments in made if len(arguments) > 3]
            if made:
                tables += [node.value for node in ast.walk(function) if assigns(node, "data")]
            elif function.name == "as_data":
                tables = [node for node in ast.walk(function) if isinstance(node, ast.Dict)]
            keys = [key for table in tables if isinstance(table, ast.Dict) for key in table.keys]
            found |= {template(node) for node in (*keys, *(arguments[1] for arguments in made))}
    return found - {None}


def assigns(node, name):
    """Tell whether a statement gives a name its value."""
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    return hasattr(node, "value") and any(isinstance(one, ast.Name) and one.id == name for one in targets)


def page(package, language):
    """Return the lines of a page that belong to tables."""
    text = (ROOT / "docs" / f"{package}{language}.md").read_text(encoding="utf-8")
    return [line for line in text.splitlines() if line.startswith("|")]


def quoted(rows):
    """Return what stands in back quotes."""
    return [text.strip() for row in rows for _, text in re.findall(r"(`+)(.+?)\1(?!`)", row)]


def explained(package, language):
    """Return what the section of messages explains: what stands in back quotes in the first column."""
    text = (ROOT / "docs" / f"{package}{language}.md").read_text(encoding="utf-8")
    section = re.split(r"^## (?:Messages|メッセージ一覧)$", text, flags=re.MULTILINE)[1]
    own = re.split(r"^## ", section, flags=re.MULTILINE)[0]
    return quoted(row.split("|")[1] for row in own.splitlines() if row.startswith("|"))


@cache
def spoken(package):
    """Return all texts in the source of a driver and of the agent, one a line."""
    paths = [*(ROOT / "drivers" / package).glob("*.py"), *(ROOT / "edge_agent").glob("*.py")]
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in paths]
    texts = [template(node) for tree in trees for node in ast.walk(tree)]
    return "\n".join(comparable(text) for text in texts if text)


def health_fields(package):
    """Return the names that a driver's status has."""
    for _, tree in modules(package):
        for function in (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)):
            if function.name in {"status", "_way_there", "json"}:
                keys = [key for node in ast.walk(function) if isinstance(node, ast.Dict) for key in node.keys]
                yield from (text for key in keys if key is not None and (text := template(key)))


def test_messages_are_found_in_all_the_ways_they_are_written():
    assert messages("route_b") >= {
        "there is no such port; is the dongle plugged in?",  # a table of reasons
        "the dongle refuses to scan",  # an error
        "the meter ended the session",  # a loss of the session
        "the id has … characters, not",  # a check of what was typed
        "スキャン中 / still scanning",  # the doctor
        "another meter answers",  # the log
        "稼働中のエージェントに該当ドライバなし / the running agent has no driver that uses them",  # the terminal
    }
    assert events("route_b") >= {"half_hours", "repairable_until", "meter_fault", "fault", "clock_check", "offset_s"}


@pytest.mark.parametrize("language", ["", ".ja"], ids=["en", "ja"])
@pytest.mark.parametrize("package", PACKAGES)
def test_every_message_stands_in_a_table_of_the_page(package, language):
    assert messages(package) - {comparable(text) for text in quoted(page(package, language))} == set()


@pytest.mark.parametrize("language", ["", ".ja"], ids=["en", "ja"])
@pytest.mark.parametrize("package", PACKAGES)
def test_every_event_stands_in_a_table_of_the_page_with_its_fields(package, language):
    assert events(package) - set(quoted(page(package, language))) == set()


@pytest.mark.parametrize("package", PACKAGES)
def test_both_languages_explain_the_same_messages(package):
    english, japanese = ({comparable(text) for text in explained(package, language)} for language in ("", ".ja"))
    assert english ^ japanese == set()


@pytest.mark.parametrize("language", ["", ".ja"], ids=["en", "ja"])
@pytest.mark.parametrize("package", PACKAGES)
def test_no_message_is_explained_that_nobody_says(package, language):
    pieces = [piece for text in explained(package, language) for piece in comparable(text).split("…")]
    assert len(pieces) > 20
    assert [piece for piece in pieces if piece.strip() not in spoken(package)] == []


@pytest.mark.parametrize("language", ["", ".ja"], ids=["en", "ja"])
@pytest.mark.parametrize("package", PACKAGES)
def test_every_field_of_health_is_named_on_the_page(package, language):
    text = (ROOT / "docs" / f"{package}{language}.md").read_text(encoding="utf-8")
    assert {field for field in health_fields(package) if f"`{field}`" not in text} == set()
