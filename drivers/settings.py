"""Turn untyped tables into strict structs, with messages a person can act on. Pure: reads no file."""

from __future__ import annotations

import difflib
import re
from collections.abc import Hashable, Mapping
from typing import Any, TypeVar

import msgspec
import yaml

from drivers.api import ConfigError

T = TypeVar("T")

MAX_TEXT_BYTES = 1024 * 1024
"""No configuration is larger; a bigger file is not one."""

MAX_NUMBER = 1 << 128
"""No whole number of a configuration is larger."""

_NO_FILE = ' in "<unicode string>",'
"""What PyYAML says in the place of a file's name, since it is handed a text."""

_AT = re.compile(r"^(?P<problem>.*?)(?: - at `(?:key in )?\$(?P<path>.*)`)?$", re.DOTALL)
_UNKNOWN = re.compile(r"unknown field `(?P<field>[^`]*)`")
_MISSING = re.compile(r"missing required field `(?P<field>[^`]*)`")


class Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of every table of the configuration: a key that is not a field is an error."""


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, refusing a key that stands twice in one table and aliases (a known way to explode)."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:  # noqa: FBT001, FBT002
        seen: set[Hashable] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):
                raise yaml.constructor.ConstructorError(None, None, "a key must be a word", key_node.start_mark)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} stands twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        number: int = super().construct_yaml_int(node)
        if abs(number) > MAX_NUMBER:  # Python refuses to show such a number, even in a message
            raise yaml.constructor.ConstructorError(None, None, "a number is too long", node.start_mark)
        return number

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.composer.ComposerError(None, None, "an alias (*name) is not supported here", mark)
        return super().compose_node(parent, index)


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)


def load_yaml(text: str) -> dict[str, Any]:
    """Return the top table of a YAML text; raises ConfigError that names the line."""
    if len(text) > MAX_TEXT_BYTES:
        raise ConfigError("", f"longer than {MAX_TEXT_BYTES} characters", "check that this is the configuration")
    try:
        loaded = yaml.load(text, Loader=_Loader)  # noqa: S506  (a subclass of the safe loader)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise ConfigError("", f"not YAML: {_one_line(error)}", "mend the line named") from error
    if not isinstance(loaded, dict) or not all(isinstance(key, str) for key in loaded):
        raise ConfigError("", "not a table of key: value lines", "start from a file in configs/")
    return loaded


def convert(table: Mapping[str, Any], kind: type[T]) -> T:
    """Return the table as a struct; raises ConfigError with key, value, problem and remedy."""
    try:
        return msgspec.convert(table, kind, strict=True)
    except msgspec.ValidationError as error:
        raise _explain(str(error), table, kind) from error


def _explain(message: str, table: Mapping[str, Any], kind: type) -> ConfigError:
    match = _AT.match(message)
    problem, path = (match["problem"], match["path"] or "") if match else (message, "")
    keys = [part for part in re.split(r"[.\[\]]+", path) if part]
    if unknown := _UNKNOWN.search(problem):
        known = sorted(_fields_at(kind, keys))
        near = difflib.get_close_matches(unknown["field"], known, 1)
        remedy = f"did you mean {near[0]!r}?" if near else f"remove it; known keys: {', '.join(known)}"
        return ConfigError(".".join([*keys, unknown["field"]]), "no such key", remedy)
    if missing := _MISSING.search(problem):
        return ConfigError(".".join([*keys, missing["field"]]), "missing", "add it")
    return ConfigError(".".join(keys), problem[:1].lower() + problem[1:], "correct the value", _value_at(table, keys))


def _value_at(table: object, keys: list[str]) -> object:
    for key in keys:
        if isinstance(table, Mapping) and key in table:
            table = table[key]
        elif isinstance(table, list) and key.isdigit() and int(key) < len(table):
            table = table[int(key)]
        else:
            return None
    return table


def _fields_at(kind: Any, keys: list[str]) -> set[str]:
    """Return the field names of the struct that `keys` lead to, as far as types tell."""
    for key in keys:
        found = next((part for part in _structs(kind) if key in part.__struct_fields__), None)
        if found is None:
            continue
        kind = msgspec.structs.fields(found)[found.__struct_fields__.index(key)].type
    return {name for part in _structs(kind) for name in part.__struct_encode_fields__}


def _structs(kind: Any) -> list[Any]:
    """Return the struct types inside a type such as `Link | None` or `dict[str, Device]`."""
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return [kind]
    return [part for inner in getattr(kind, "__args__", ()) for part in _structs(inner)]


def _one_line(error: Exception) -> str:
    return " ".join(str(error).replace(_NO_FILE, "").split())
