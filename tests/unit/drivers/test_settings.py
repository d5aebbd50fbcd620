"""Untyped tables into strict structs: key, value, problem and remedy, for any input."""

from typing import Any

import msgspec
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from drivers.api import ConfigError
from drivers.settings import MAX_TEXT_BYTES, Table, convert, load_yaml


class Line(Table, frozen=True):
    port: str
    speed: int = 9600


class House(Table, frozen=True):
    name: str
    line: Line | None = None
    lines: dict[str, Line] = msgspec.field(default_factory=dict)
    units: list[int] = msgspec.field(default_factory=list)


@pytest.mark.parametrize(
    ("table", "key", "value", "says"),
    [
        ({}, "name", None, "missing; add it"),
        ({"name": 7}, "name", 7, "expected `str`"),
        ({"name": "a", "nam": "b"}, "nam", None, "did you mean 'name'"),
        ({"name": "a", "zzz": "b"}, "zzz", None, "known keys: line, lines, name, units"),
        ({"name": "a", "line": {"port": "x", "sped": 1}}, "line.sped", None, "did you mean 'speed'"),
        ({"name": "a", "line": {}}, "line.port", None, "missing"),
        ({"name": "a", "line": {"port": "x", "speed": "fast"}}, "line.speed", "fast", "expected `int`"),
        ({"name": "a", "units": [1, "two"]}, "units.1", "two", "expected `int`"),
        ({"name": "a", "line": {"port": "x", "speed": True}}, "line.speed", True, "expected `int`"),
    ],
)
def test_a_mistake_names_its_key_its_value_and_what_to_do(table, key, value, says):
    with pytest.raises(ConfigError) as caught:
        convert(table, House)
    assert (caught.value.key, caught.value.value) == (key, value)
    assert says in str(caught.value)


def test_a_sound_table_becomes_the_struct():
    assert convert({"name": "a", "line": {"port": "x"}}, House) == House("a", Line("x", 9600))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: 1\na: 2", "stands twice"),
        ("a: &x 1\nb: *x", "alias"),
        ("a: !!python/object/apply:os.system [ls]", "not YAML"),
        ("[1, 2", "not YAML"),
        ("- a", "not a table"),
        ("1: a", "not a table"),
        ("", "not a table"),
        ("? [a]\n: 1", "not YAML"),
        ("a: " + "[" * 5000, "not YAML"),
        ("a: 9999-99-99", "not YAML"),
        ("#" * (MAX_TEXT_BYTES + 1), "longer than"),
    ],
)
def test_what_is_no_table_says_why(text, says):
    with pytest.raises(ConfigError, match=says):
        load_yaml(text)


def test_a_message_names_the_line():
    with pytest.raises(ConfigError, match="line 3"):
        load_yaml("a: 1\nb: 2\na: 3")


@pytest.mark.parametrize("text", ["a: [1\nb: 2", "a: 1\na: 2", "a: \x07", "a:\n\t- 1", "a: &x 1\nb: *x", "- '"])
def test_a_yaml_mistake_is_told_without_the_librarys_word_for_a_text(text):
    with pytest.raises(ConfigError, match=r"line [12], column|position 3") as caught:
        load_yaml(text)
    assert "unicode" not in str(caught.value)
    assert '"' not in str(caught.value)


@given(st.text(max_size=200))
def test_any_text_is_a_table_or_a_configuration_error(text):
    try:
        assert isinstance(load_yaml(text), dict)
    except ConfigError as error:
        assert error.remedy  # noqa: PT017  (either outcome is right)


trees: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.dates(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["name", "line", "lines", "units", "port", "speed", "x.y", "[0]"]), inner)
    ),
    max_leaves=12,
)


@given(st.dictionaries(st.text(max_size=8) | st.sampled_from(["name", "line", "lines", "units"]), trees, max_size=4))
def test_any_tree_is_the_struct_or_a_configuration_error(tree):
    try:
        convert(tree, House)
    except ConfigError as error:
        assert error.key or error.problem  # noqa: PT017  (either outcome is right)


words = st.text(st.characters(categories=["L", "N", "P"]), min_size=1, max_size=8)


@given(st.dictionaries(words, st.integers() | words, max_size=5))
def test_what_yaml_wrote_is_read_back(table):
    text = yaml.safe_dump(table, allow_unicode=True)
    if table:
        assert load_yaml(text) == table
