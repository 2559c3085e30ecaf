"""Every key of the configuration is read by something: a key that nothing reads promises what it does not keep.

Types are followed through the source as far as annotations, attributes and plain assignments tell them, so a `rate`
that one section's transition reads is no reader of another section's `rate`.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import typing
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

from llmrec.config import RunConfig, algorithms

ROOT = Path(__file__).parents[1] / "llmrec"
Types = frozenset[str]
Key = tuple[str, str]


def sections(cls: type, found: dict[str, type]) -> dict[str, type]:
    """The dataclasses of a configuration with their bases, by name."""
    found.update({base.__name__: base for base in cls.__mro__[:-1]})
    for hint in typing.get_type_hints(cls).values():
        if dataclasses.is_dataclass(hint):
            sections(typing.cast(type, hint), found)
    return found


SECTIONS = sections(RunConfig, {})
for algorithm in algorithms.SECTIONS.values():
    sections(algorithm, SECTIONS)


def owner(section: str, field: str) -> str | None:
    """The class that first has the field."""
    bases = [base for base in SECTIONS[section].__mro__ if field in vars(base).get("__annotations__", {})]
    return bases[-1].__name__ if bases else None


def keys() -> set[Key]:
    """(section, field) of all fields that are no sections themselves, by the class that first has them."""
    found = set()
    for name, cls in SECTIONS.items():
        hints = typing.get_type_hints(cls)
        found |= {(owner(name, f), f) for f in cls.__annotations__ if not dataclasses.is_dataclass(hints[f])}
    return found - {("RunConfig", "sections")}  # type: ignore[return-value]


def union(parts: Iterable[Types]) -> Types:
    return frozenset().union(*parts)


class Source:
    """What classes and functions of some source say of their types, by name."""

    def __init__(self, texts: Iterable[str]) -> None:
        self.trees = [ast.parse(text) for text in texts]
        self.attributes: dict[str, dict[str, Types]] = defaultdict(lambda: defaultdict(frozenset))
        self.returns: dict[str, Types] = defaultdict(frozenset)
        classes = [n for tree in self.trees for n in ast.walk(tree) if isinstance(n, ast.ClassDef)]
        self.known = {node.name for node in classes}
        for tree in self.trees:
            for node in ast.walk(tree):
                if isinstance(node, ast.FunctionDef) and node.returns is not None:
                    self.returns[node.name] |= self.named(node.returns)
        for _ in range(2):  # what one class holds of another is known once the other is
            for node in classes:
                self._learn(node)

    def named(self, annotation: ast.expr | None) -> Types:
        """The classes that an annotation names."""
        nodes = [] if annotation is None else ast.walk(annotation)
        return frozenset(n.id for n in nodes if isinstance(n, ast.Name) and n.id in self.known)

    def _learn(self, node: ast.ClassDef) -> None:
        own = self.attributes[node.name]
        for base in node.bases:
            for name, types in list(self.attributes[base.id].items()) if isinstance(base, ast.Name) else ():
                own[name] |= types
        for part in node.body:
            if isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name):
                own[part.target.id] |= self.named(part.annotation)
            elif isinstance(part, ast.FunctionDef):
                if any(isinstance(d, ast.Name) and "property" in d.id for d in part.decorator_list):
                    own[part.name] |= self.named(part.returns)
                env = self.environment(part, node.name, {})
                for target, value in assignments(part):
                    if isinstance(target, ast.Attribute) and self.type_of(target.value, env) == {node.name}:
                        own[target.attr] |= self.type_of(value, env)

    def environment(self, function: ast.FunctionDef, inside: str | None, outer: dict[str, Types]) -> dict[str, Types]:
        """Types of names within a function: its parameters, and what is assigned."""
        given = function.args
        env = defaultdict(frozenset, outer)
        env.update({a.arg: self.named(a.annotation) for a in (*given.posonlyargs, *given.args, *given.kwonlyargs)})
        env.update({name: frozenset([inside]) for name in ("self", "cls") if inside and name in env})
        for target, value in 2 * assignments(function):  # in no order: one may stand on another
            if isinstance(target, ast.Name):
                env[target.id] |= self.type_of(value, env)
        return env

    def type_of(self, node: ast.expr, env: dict[str, Types]) -> Types:
        """The classes that an expression may be of."""
        match node:
            case ast.Name(id=name):
                return env.get(name, frozenset())
            case ast.Attribute(value=value, attr=attr):
                return union(self.attributes[name].get(attr, frozenset()) for name in self.type_of(value, env))
            case ast.BoolOp(values=values):
                return union(self.type_of(value, env) for value in values)
            case ast.IfExp(body=body, orelse=other):
                return self.type_of(body, env) | self.type_of(other, env)
            case ast.Subscript(value=value):
                return self.type_of(value, env)
            case ast.Call(func=ast.Name(id="replace") | ast.Attribute(attr="replace"), args=[first, *_]):
                return self.type_of(first, env)
            case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name)):
                return frozenset([name]) if name in self.known else self.returns[name]
        return frozenset()

    def reads(self) -> set[Key]:
        """(section, field) of every attribute of a section that is read."""
        return {key for tree in self.trees for key in self._reads(tree, None, tree, {})}

    def _reads(self, node: ast.AST, inside: str | None, around: ast.AST, env: dict[str, Types]) -> Iterator[Key]:
        for part in ast.iter_child_nodes(node):
            if isinstance(part, ast.ClassDef):
                yield from self._reads(part, part.name, around, env)
            elif isinstance(part, ast.FunctionDef):
                yield from self._reads(part, inside, part, self.environment(part, inside, env))
            else:
                yield from self._read(part, around, env)
                yield from self._reads(part, inside, around, env)

    def _read(self, node: ast.AST, around: ast.AST, env: dict[str, Types]) -> Iterator[Key]:
        match node:
            case ast.Attribute(value=value, attr=attr, ctx=ast.Load()):
                names = [attr]
            case ast.DictComp(value=ast.Call(func=ast.Name(id="getattr"), args=[value, *_])):
                names = [str(n.value) for n in ast.walk(around) if isinstance(n, ast.Constant)]  # getattr(x, key)
            case _:
                return
        for section in self.type_of(value, env) & SECTIONS.keys():
            yield from ((found, name) for name in names if (found := owner(section, name)))


@functools.cache
def assignments(function: ast.FunctionDef) -> list[tuple[ast.expr, ast.expr]]:
    """Targets and values, one by one."""
    found: list[tuple[ast.expr, ast.expr]] = []
    for node in ast.walk(function):
        match node:
            case ast.Assign(targets=[ast.Tuple(elts=targets)], value=ast.Tuple(elts=values)):
                found += zip(targets, values, strict=False)
            case ast.Assign(targets=targets, value=value):
                found += ((target, value) for target in targets)
            case ast.NamedExpr(target=target, value=value):
                found.append((target, value))
            case ast.Call(func=ast.Name(id="isinstance"), args=[ast.Name() as name, kinds]):
                found += ((name, ast.Call(kind)) for kind in ast.walk(kinds) if isinstance(kind, ast.Name))
    return found


def test_every_key_has_a_reader() -> None:
    paths = [path for path in ROOT.rglob("*.py") if path.parent.name != "config"]
    config = [path for path in ROOT.rglob("*.py") if path.parent.name == "config"]
    source = Source(path.read_text(encoding="utf-8") for path in (*paths, *config))
    source.trees = source.trees[: len(paths)]  # a configuration that reads itself keeps no promise
    assert sorted(keys() - source.reads()) == []


def test_a_key_of_the_same_name_in_another_section_is_no_reader() -> None:
    text = """
class DynamicsSettings:
    drift: DriftSettings
class DriftSettings: pass
class NoveltySettings: pass
class Turn:
    def __init__(self, settings: DynamicsSettings) -> None:
        self.all, self.other = settings, 3
    def move(self, novelty: NoveltySettings) -> float:
        near = self.all.drift
        return near.rate + self.rate + novelty.weight
"""
    assert Source([text]).reads() & keys() == {("DriftSettings", "rate"), ("NoveltySettings", "weight")}
