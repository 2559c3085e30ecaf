"""Recipes: the shipped configurations, in the wheel or in the checkout. Light: a bad key is named at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from llmrec.config import RunConfig
from llmrec.config_tree import Override

_PACKAGE = Path(__file__).resolve().parent.parent


def recipes_root() -> Path:
    """The folder of the shipped configurations."""
    shipped = _PACKAGE / "_train_recipes"
    return shipped if shipped.is_dir() else _PACKAGE.parent / "train" / "recipes"


def recipe_for(dataset: str) -> Path | None:
    """The recipe made for an importer's data sets, None where the defaults serve."""
    place = recipes_root() / f"{dataset}.yaml"
    return place if place.is_file() else None


def with_defaults(path: Path | None, overrides: Sequence[Override], *, trust_code: bool = False) -> RunConfig:
    """The configuration of `path`, else the shipped recipe of the data set asked for, with `overrides` on top."""
    if path is None:
        path = recipe_for(RunConfig.read(None, overrides).data.dataset)
    return RunConfig.read(path, overrides, trust_code=trust_code)


def demo_config(seed: int = 0, overrides: Sequence[Override] = ()) -> RunConfig:
    """The demo's configuration: train/recipes/demo.yaml."""
    return RunConfig.read(recipes_root() / "demo.yaml", [f"seed={seed}", *overrides])


def overrides_of(named: Mapping[str, object | None], texts: Sequence[Override]) -> list[Override]:
    """Overrides for the keys of `named` that are not None, before those in `texts` (which win)."""
    given = [(key, str(value)) for key, value in named.items() if value is not None]
    return [*given, *texts]
