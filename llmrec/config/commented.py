"""A configuration as YAML with a comment at every key, taken from what the settings' own docstrings say.

What is printed can be saved, changed and read again: it is the configuration itself. Comments have one home, the
docstrings of the settings.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
import textwrap
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from llmrec.config.run import RunConfig
from llmrec.config_tree import plain
from llmrec.errors import ConfigError

WIDTH = 100


def commented(config: RunConfig, only: Sequence[str] = ()) -> str:
    """The configuration as YAML, each key below what its docstring says of it.

    Args:
        config: whose values stand there.
        only: names of sections or keys at the top; all by default.

    Raises:
        ConfigError: a name that is none.
    """
    sections: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        sections |= dict(value) if field.name == "sections" else {field.name: value}
    for name in only:
        if name not in sections:
            raise ConfigError(f"There is no section {name!r}; choose among {', '.join(sections)}.")
    said, hints = _said(RunConfig), typing.get_type_hints(RunConfig)
    lines: list[str] = []
    for name, value in sections.items():
        if not only or name in only:
            lines += _entry(name, value, said.get(name, ""), hints.get(name), 0)
            lines.append("")
    return "\n".join(lines)


def _entry(name: str, value: Any, said: str, hint: Any, depth: int) -> list[str]:
    """The lines of one key, its comment above them."""
    margin = "  " * depth
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        own, hints = _said(type(value)), typing.get_type_hints(type(value))
        lines = [
            *_comment(" ".join(part for part in (said, _first(type(value))) if part), margin),
            f"{margin}{name}:",
        ]
        for field in dataclasses.fields(value):
            inner = getattr(value, field.name)
            lines += _entry(field.name, inner, own.get(field.name, ""), hints.get(field.name), depth + 1)
        return lines
    choices = _choices(hint)
    told = " ".join(part for part in (said, f"One of {choices}." if choices else "") if part)
    dumped = yaml.safe_dump({name: plain(_mapping(value))}, allow_unicode=True, sort_keys=False, width=10**6)
    return _comment(told, margin) + textwrap.indent(dumped.rstrip("\n"), margin).split("\n")


def _mapping(value: Any) -> Any:
    return dict(value) if isinstance(value, Mapping) else value


def _comment(text: str, margin: str) -> list[str]:
    return textwrap.wrap(
        text, WIDTH, initial_indent=f"{margin}# ", subsequent_indent=f"{margin}# ", break_long_words=False
    )


def _first(cls: type) -> str:
    """The first paragraph of a section's docstring, in one line."""
    return " ".join((inspect.getdoc(cls) or "").split("\n\n")[0].split())


def _choices(hint: Any) -> str:
    """The values of a `Literal`, alone or beside others; empty where any value may stand."""
    if typing.get_origin(hint) is typing.Literal:
        return ", ".join("null" if value is None else str(plain(value)) for value in typing.get_args(hint))
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        found = [_choices(part) for part in typing.get_args(hint)]
        return ", ".join(part for part in found if part)
    return ""


@functools.cache
def _said(cls: type) -> dict[str, str]:
    """What the docstring below each field says, in one line; of a class and those it extends."""
    found: dict[str, str] = {}
    for one in reversed(cls.__mro__):
        if dataclasses.is_dataclass(one):
            [body] = ast.parse(textwrap.dedent(inspect.getsource(one))).body
            assert isinstance(body, ast.ClassDef)
            for line, after in zip(body.body, body.body[1:], strict=False):
                told = after.value if isinstance(after, ast.Expr) else None
                if (
                    isinstance(line, ast.AnnAssign)
                    and isinstance(line.target, ast.Name)
                    and isinstance(told, ast.Constant)
                    and isinstance(told.value, str)
                ):
                    found[line.target.id] = " ".join(told.value.split())
    return found
