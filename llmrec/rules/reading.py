"""Rules from YAML and back.

    rules:
      - {minimum_age: 18, items: {categories: [Horror]}}
      - {at_most: 2, per: category}

Each rule has exactly one of the keys never, minimum_age, forbidden_words, at_most, at_least; the others say of what
and to whom. `docs/rules.md` lists them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

import yaml

from llmrec.config_tree import from_tree, plain, read_yaml
from llmrec.errors import ConfigError
from llmrec.printing import short_line
from llmrec.rules.types import (
    AtLeast,
    AtMost,
    ForbiddenWords,
    ItemSet,
    MinimumAge,
    Never,
    People,
    Price,
    Rule,
    Unknown,
)

MOST_RULES = 1000
_KINDS = ("never", "minimum_age", "forbidden_words", "at_most", "at_least")
_BESIDE = {
    "never": ("to", "unknown"),
    "minimum_age": ("items", "unknown"),
    "forbidden_words": (),
    "at_most": ("items", "per", "to", "unknown"),
    "at_least": ("items", "of", "to", "unknown"),
}
"""What may stand beside each kind of rule."""


@dataclass(frozen=True, kw_only=True)
class _Written:
    """A rule as it stands in a file."""

    name: str | None = None
    never: ItemSet | None = None
    minimum_age: int | None = None
    forbidden_words: tuple[str, ...] | None = None
    at_most: int | None = None
    at_least: Any = None
    items: ItemSet | None = None
    per: Literal["category"] | None = None
    of: Literal["slate", "day"] | None = None
    to: dict[str, tuple[str, ...]] | None = None
    unknown: Unknown | None = None


def read_rules(path: Path) -> tuple[Rule, ...]:
    """The rules of a file, a list under the key `rules`.

    Raises:
        ConfigError: the file is missing, or holds a rule that cannot be read.
    """
    return parse_rules(_trees(path), str(path))


def rule_trees(path: Path) -> list[dict[str, Any]]:
    """The rules of a file as they stand there, read once to see that they can be; raises as `read_rules`."""
    trees = _trees(path)
    parse_rules(trees, str(path))
    return trees


def _trees(path: Path) -> list[dict[str, Any]]:
    tree = read_yaml(path)
    strangers = [key for key in tree if key != "rules"]
    if strangers or not isinstance(tree.get("rules"), list):
        raise ConfigError(f"{path} must hold one key, rules, with a list of rules (docs/rules.md).")
    found: list[dict[str, Any]] = tree["rules"]
    return found


def parse_rules(trees: Sequence[Any], origin: str) -> tuple[Rule, ...]:
    """Rules from plain lists and dictionaries; `origin` names the source in errors.

    Raises:
        ConfigError: a rule that cannot be read, or two of one name.
    """
    if len(trees) > MOST_RULES:
        raise ConfigError(f"{origin} holds {len(trees):,} rules; at most {MOST_RULES:,} can be kept.")
    rules = tuple(_rule(tree, number, origin) for number, tree in enumerate(trees, 1))
    names = [rule.name for rule in rules]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"{origin} has two rules of the name {short_line(name)!r}; give each its own name.")
    return rules


def _rule(tree: Any, number: int, origin: str) -> Rule:
    where = f"rule {number} of {origin}"
    if not isinstance(tree, Mapping):
        raise ConfigError(f"{where} is no mapping of keys to values; see docs/rules.md.")
    written = from_tree(_Written, _listed(tree), where)
    kinds = [kind for kind in _KINDS if getattr(written, kind) is not None]
    if len(kinds) != 1:
        said = f"has both {kinds[0]} and {kinds[1]}" if kinds else "says nothing"
        raise ConfigError(f"{where} {said}; give exactly one of {', '.join(_KINDS)}.")
    kind = kinds[0]
    for one in fields(_Written):
        stranger = one.name not in ("name", kind, *_BESIDE[kind])
        if stranger and getattr(written, one.name) is not None:
            raise ConfigError(f"{where} has the key {one.name!r}, which means nothing beside {kind!r}; leave it out.")
    name = written.name or f"rule {number}"
    if kind == "never" and written.never is not None:
        return Never(name=name, items=_some(written.never, where), to=_people(written))
    if kind == "minimum_age" and written.minimum_age is not None:
        if not 1 <= written.minimum_age <= 120:
            raise ConfigError(f"{where} asks for an age of {written.minimum_age}; give 1 to 120 years.")
        items = _some(written.items, where)
        return MinimumAge(name=name, items=items, age=written.minimum_age, unknown=written.unknown or "forbid")
    if kind == "forbidden_words" and written.forbidden_words is not None:
        if not [word for word in written.forbidden_words if word.strip()]:
            raise ConfigError(f"{where} forbids no word; give some.")
        return ForbiddenWords(name=name, words=written.forbidden_words)
    if kind == "at_most" and written.at_most is not None:
        if written.at_most < 1:
            raise ConfigError(f"{where} allows at most {written.at_most}; give at least 1, or write `never`.")
        if (written.items is None) == (written.per is None):
            raise ConfigError(f"{where} needs either items or `per: category`.")
        own = None if written.items is None else _some(written.items, where)
        if own is None and (written.to or written.unknown):
            raise ConfigError(f"{where} has `per: category`, which holds for everybody; leave out `to`.")
        return AtMost(name=name, most=written.at_most, items=own, to=_people(written))
    return _at_least(written, name, where)


def _at_least(written: _Written, name: str, where: str) -> AtLeast:
    value, over = written.at_least, written.of or "slate"
    items, to = _some(written.items, where), _people(written)
    if isinstance(value, int) and not isinstance(value, bool):
        if value < 1 or over == "day":
            raise ConfigError(
                f"{where} asks for at least {value} of a {over}; give 1 or more of a slate, or a share."
            )
        return AtLeast(name=name, items=items, least=value, to=to)
    share = value
    if isinstance(value, str) and value.strip().endswith("%"):
        try:
            share = float(value.strip()[:-1]) / 100
        except ValueError:
            share = None
    if not isinstance(share, float) or not (math.isfinite(share) and 0 < share <= 1):
        raise ConfigError(
            f"{where} asks for at least {short_line(str(value))!r}; give a number of places, or a share as 20%."
        )
    if over == "day" and to.fields:
        raise ConfigError(f"{where} asks for a share of a day, which is of everybody's slates; leave out `to`.")
    return AtLeast(name=name, items=items, share=share, over=over, to=to)


def _listed(tree: Mapping[Any, Any]) -> dict[str, Any]:
    """The tree with single words where lists of words are wanted made lists."""
    out: dict[str, Any] = {str(key): value for key, value in tree.items()}
    for key in ("never", "items", "to"):
        if isinstance(out.get(key), Mapping):
            out[key] = {str(k): [v] if isinstance(v, str) else v for k, v in out[key].items()}
    if isinstance(out.get("forbidden_words"), str):
        out["forbidden_words"] = [out["forbidden_words"]]
    return out


def _some(items: ItemSet | None, where: str) -> ItemSet:
    if items is None:
        raise ConfigError(f"{where} names no items; give items: with ids, categories, brands, price or words.")
    if items == ItemSet() or items.price == Price():
        raise ConfigError(f"{where} is about all items; name ids, categories, brands, a price or words.")
    low, high = (items.price.low, items.price.high) if items.price else (None, None)
    if low is not None and high is not None and low > high:
        raise ConfigError(f"{where} has prices from {low:g} down to {high:g}; give the lower one first.")
    return items


def _people(written: _Written) -> People:
    given = tuple((field, tuple(values)) for field, values in (written.to or {}).items())
    return People(fields=given, unknown=written.unknown or "allow")


def write_rules(rules: Sequence[Rule]) -> str:
    """The rules as YAML, which `read_rules` reads again as the same rules."""
    return yaml.safe_dump({"rules": [_tree(rule) for rule in rules]}, sort_keys=False, allow_unicode=True)


def _tree(rule: Rule) -> dict[str, Any]:
    tree: dict[str, Any] = {"name": rule.name}
    if isinstance(rule, ForbiddenWords):
        return tree | {"forbidden_words": list(rule.words)}
    own = None if rule.items is None else _items_tree(rule.items)
    if isinstance(rule, MinimumAge):
        return tree | {"minimum_age": rule.age, "items": own, "unknown": rule.unknown}
    if isinstance(rule, Never):
        tree |= {"never": own}
    elif isinstance(rule, AtMost):
        tree |= {"at_most": rule.most, **({"per": "category"} if own is None else {"items": own})}
    else:
        tree |= {"at_least": rule.share if rule.least is None else rule.least, "items": own, "of": rule.over}
    if rule.to.fields:
        tree |= {"to": {key: list(values) for key, values in rule.to.fields}, "unknown": rule.to.unknown}
    return tree


def _items_tree(items: ItemSet) -> dict[str, Any]:
    return {key: plain(value) for key, value in asdict(items).items() if value not in ((), None)}
