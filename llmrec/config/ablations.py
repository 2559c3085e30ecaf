"""The file of an ablation: a recipe, what is set for all sides, and what each side changes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True, kw_only=True)
class SideSettings:
    """One side: the base with `set` on top, a tree of configuration keys."""

    set: dict[str, Any] = field(default_factory=dict)
    ensemble: int = 1
    """So many warm starts that differ in the seed of their SFT, ranked by their mean probability."""


@dataclass(frozen=True, kw_only=True)
class AblationSettings:
    """What eval/ablations.py reads."""

    recipe: str | None = None
    """Name of a shipped recipe, or a YAML file beside this one; null: the recipe made for the data set, if any."""
    set: dict[str, Any] = field(default_factory=dict)
    """Configuration keys of all sides, on top of the recipe."""
    sides: dict[str, SideSettings] = field(default_factory=dict)
    base: str | None = None
    """The side that the others are compared with; null: the first."""
    seeds: tuple[int, ...] = (0,)
    """Each side is trained once for each. On generated worlds each seed has a world of its own."""
    part: Literal["valid", "test"] = "valid"
    """The rows that are ranked. Choose by valid; ask test once."""
    until_part: bool = False
    """With part: test, train on the validation period too."""
    limit: int | None = None
    """Rank a uniform sample of this many rows, the same for all sides and seeds."""
    k: tuple[int, ...] = (5, 10)
