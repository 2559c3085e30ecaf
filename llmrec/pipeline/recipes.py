"""Recipes: the shipped configurations, in the wheel or in the checkout."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent.parent


def recipes_root() -> Path:
    """The folder of the shipped configurations."""
    shipped = _PACKAGE / "_train_recipes"
    return shipped if shipped.is_dir() else _PACKAGE.parent / "train" / "recipes"


def recipe_for(dataset: str) -> Path | None:
    """The recipe made for an importer's data sets, None where the defaults serve."""
    place = recipes_root() / f"{dataset}.yaml"
    return place if place.is_file() else None
