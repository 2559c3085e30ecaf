"""Nested dictionaries to dataclasses and back, strictly: what a configuration file and `key=value` overrides become.

An unknown key is an error that names it and the nearest known one; nothing is ignored.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import difflib
import math
import os
import re
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from llmrec.bounded import SETTINGS, parse_yaml, read_document
from llmrec.errors import ConfigError
from llmrec.printing import short_line

NAMED = "named"
"""In a field's metadata: it holds sections by name, which are written beside the others. The value gives the classes
of those that a tree could hold."""
Overrides = Mapping[str, Any]
"""Values by dotted key, each taken as it is: `{"seed": 1, "data.source": Path("a #b")}`; a later one wins."""


def parse_overrides(texts: Sequence[str], cls: type) -> dict[str, Any]:
    """Texts `a.b=value`, as on a command line, as values by key: read as YAML, but text where `cls` wants text.

    Where a field of `cls` is text, `model.name=NO` is "NO" and `data.source=a #b` is all of it; quotes of YAML around
    the whole and `null` for a field that may be empty are still understood.

    Raises:
        ConfigError: a text without "=", or a value that YAML cannot read.
    """
    found: dict[str, Any] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"Override {short_line(text)!r} has no '='; write it as key=value, for example seed=1.")
        key = key.strip()
        found.pop(key, None)
        found[key] = _value_of(text, value, _hint_at(cls, key))
    return found


def override_tree(overrides: Overrides) -> dict[str, Any]:
    """Overrides as nested dictionaries.

    Raises:
        ConfigError: a key below one that has a value.
    """
    tree: dict[str, Any] = {}
    for key, value in overrides.items():
        node = tree
        *parents, last = key.split(".")
        for part in parents:
            node = node.setdefault(part, {})
            if not isinstance(node, dict):
                raise ConfigError(f"Key {short_line(key)!r} goes below {part!r}, which is a value, not a section.")
        node[last] = copy.deepcopy(value) if isinstance(value, dict) else value
    return tree


def flat(tree: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """A tree of keys as values by dotted key; an empty mapping is a value."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
        found |= flat(value, f"{above}{key}.") if isinstance(value, Mapping) and value else {f"{above}{key}": value}
    return found


def _value_of(text: str, value: str, hint: Any) -> Any:
    union = typing.get_origin(hint) in (types.UnionType, typing.Union)
    plain_text = hint is str or (union and str in typing.get_args(hint))
    if plain_text and not (value[:1] in "'\"" or (value.strip() in ("", "null", "~") and hint is not str)):
        return value
    try:
        return parse_yaml(value)
    except ValueError:
        if plain_text:
            return value
        raise ConfigError(
            f"The value of override {short_line(text)!r} cannot be read; put quotes around text."
        ) from None


def _hint_at(cls: type, key: str) -> Any:
    """The type of a field by its dotted key; None where there is none."""
    hint: Any = cls
    for part in key.split("."):
        if not dataclasses.is_dataclass(hint):
            return None
        hint = _keys(hint, {part: None}).get(part)
    return hint


def _keys(cls: Any, tree: dict[str, Any]) -> dict[str, Any]:
    """The keys that `tree` may have as a `cls`, and the types of their values."""
    keys: dict[str, Any] = {}
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        keys |= field.metadata[NAMED](tree) if NAMED in field.metadata else {field.name: hints[field.name]}
    return keys


def merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """`above` on top of `below`; a mapping that is a value (sft.mixture) is merged key by key too."""
    tree = dict(below)
    for key, value in above.items():
        old = tree.get(key)
        tree[key] = merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return tree


def with_defaults(tree: dict[str, Any], given: dict[str, Any], default: dict[str, Any]) -> dict[str, Any]:
    """`tree` with the default of every section or mapping that `given` goes into and `tree` leaves out."""
    filled = dict(tree)
    for key, value in given.items():
        if isinstance(value, dict) and isinstance(default.get(key), dict):
            there = isinstance(filled.get(key), dict)
            filled[key] = with_defaults(filled[key], value, default[key]) if there else default[key]
    return filled


def plain(value: Any) -> Any:
    """Tuples as lists, all the way down."""
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, str):
        return str(value)  # without a class of its own, which YAML would not write
    return [plain(v) for v in value] if isinstance(value, tuple | list) else value


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping at the top of a YAML file; raises `ConfigError`."""
    try:
        tree = parse_yaml(read_document(path, SETTINGS))
    except FileNotFoundError:
        raise ConfigError(f"{path} does not exist; give the path of a YAML configuration.") from None
    except (ValueError, OSError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise ConfigError(f"{path} is not a YAML file in UTF-8: {reason}.") from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigError(f"{path} must hold keys and values at its top level, not {type(tree).__name__}.")
    return tree


T = typing.TypeVar("T")


def from_tree(cls: type[T], tree: dict[str, Any], origin: str, prefix: str = "") -> T:
    """Builds dataclass `cls` from nested dictionaries, strictly; `origin` names the source in errors."""
    if not isinstance(tree, dict):
        raise ConfigError(f"Key {prefix.rstrip('.')!r} in {origin} is a section and needs keys, not {tree!r}.")
    hints = _keys(cls, tree)
    for key in tree:
        if key not in hints:
            near = difflib.get_close_matches(str(key), hints, n=1)
            mend = f"did you mean {prefix + near[0]!r}?" if near else f"known keys: {', '.join(hints)}."
            raise ConfigError(f"Unknown key {prefix + str(key)!r} in {origin}; {mend}")
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]
        needed = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if needed and field.name not in tree:
            raise ConfigError(f"Key {prefix + field.name!r} is missing in {origin}; add it.")
    values = {key: _convert(value, hints[key], origin, prefix + key) for key, value in tree.items()}
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]
        if NAMED in field.metadata:
            given = {name: values.pop(name) for name in field.metadata[NAMED](tree) if name in values}
            values[field.name] = typing.cast(Any, field.default_factory)() | given
    return cls(**values)


def from_texts(cls: type[T], tree: dict[str, Any], origin: str) -> T:
    """Like `from_tree`, for trees whose leaves may be text: each is read by the type of its field, and never by YAML.

    `NO` stays text where text is wanted; a list may be written as words with commas between.
    """
    return from_tree(cls, _typed_tree(cls, tree), origin)


def typed(text: str, hint: Any) -> Any:
    """The value that `text` stands for where `hint` is wanted; the text itself where it is none, for `from_tree`."""
    base, arguments = typing.get_origin(hint), typing.get_args(hint)
    if base in (types.UnionType, typing.Union):
        inner = [a for a in arguments if a is not type(None)]
        if str in inner:
            return text
        empty = not text and typing.get_origin(inner[0]) is not tuple  # no words at all are a list too
        return None if empty else typed(text, inner[0])
    if base is Literal:
        return next((a for a in arguments if str(a) == text), text)
    if base is tuple:
        return [typed(part.strip(), arguments[0]) for part in text.split(",")] if text.strip() else []
    if hint is bool:
        return {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}.get(text.lower(), text)
    if hint is int and re.fullmatch(r"[+-]?\d{1,18}", text.strip()):
        return int(text)
    return text


def _typed_tree(hint: Any, value: Any) -> Any:
    base, arguments = typing.get_origin(hint), typing.get_args(hint)
    if base in (types.UnionType, typing.Union) and not isinstance(value, str):
        inner = [a for a in arguments if a is not type(None)]
        return _typed_tree(inner[0], value) if value is not None else None
    if isinstance(value, str):
        return typed(value, hint)
    if dataclasses.is_dataclass(hint) and isinstance(value, dict):
        hints = typing.get_type_hints(hint)
        return {k: _typed_tree(hints.get(k, Any), v) for k, v in value.items()}
    if base is dict and isinstance(value, dict):
        return {str(k): _typed_tree(arguments[1], v) for k, v in value.items()}
    if base is tuple and isinstance(value, list | tuple):
        return [_typed_tree(arguments[0], v) for v in value]
    return value


def _convert(value: Any, hint: Any, origin: str, key: str) -> Any:
    if dataclasses.is_dataclass(hint):
        return from_tree(typing.cast(type[Any], hint), value, origin, key + ".")
    if hint is Any:
        return value
    base, arguments = typing.get_origin(hint), typing.get_args(hint)
    if base in (types.UnionType, typing.Union):
        if value is None and type(None) in arguments:
            return None
        (inner,) = (a for a in arguments if a is not type(None))
        return _convert(value, inner, origin, key)
    if base is Literal:
        if value not in arguments:
            raise ConfigError(
                f"Key {key!r} in {origin} is {value!r}; choose one of {', '.join(map(str, arguments))}."
            )
        return value
    if base is tuple and isinstance(value, list | tuple):
        return tuple(_convert(v, arguments[0], origin, key) for v in value)
    if base is dict and isinstance(value, dict):
        return {str(k): _convert(v, arguments[1], origin, f"{key}.{k}") for k, v in value.items()}
    return _scalar(value, hint, origin, key)


def _scalar(value: Any, hint: Any, origin: str, key: str) -> Any:
    if hint is str and isinstance(value, os.PathLike):
        value = os.fspath(value)
    if hint is float and isinstance(value, str):  # YAML 1.1 reads 1e-3 as text
        with contextlib.suppress(ValueError):
            value = float(value)
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    if hint in (bool, str, int) and isinstance(value, hint) and (hint is bool or not isinstance(value, bool)):
        return value
    names = {float: "a finite number", int: "a whole number", bool: "true or false", str: "text"}
    raise ConfigError(f"Key {key!r} in {origin} is {value!r}, but it must be {names.get(hint, _shape(hint))}.")


def _shape(hint: Any) -> str:
    shapes = {dict: "keys with values", tuple: "a list", list: "a list"}
    return shapes.get(typing.get_origin(hint) or hint, str(hint))
