"""Recipes: the shipped configurations, in the wheel or in the checkout. Light: a bad key is named at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llmrec.config import Algorithm, ModelConfig, RunConfig
from llmrec.config_tree import Overrides, override_tree, parse_overrides, read_yaml
from llmrec.errors import ConfigError
from llmrec.pipeline.work import say
from llmrec.storage import shown

OWN = "own"
"""The recipe of data of one's own: of every data set but generated worlds that has none of its name."""
_PACKAGE = Path(__file__).resolve().parent.parent


def recipes_root() -> Path:
    """The folder of the shipped configurations."""
    shipped = _PACKAGE / "_train_recipes"
    return shipped if shipped.is_dir() else _PACKAGE.parent / "train" / "recipes"


def recipe_for(name: str) -> Path | None:
    """The recipe made for an importer's data sets, or for an algorithm; None where the defaults serve."""
    place = recipes_root() / f"{name}.yaml"
    return place if place.is_file() else None


def with_defaults(
    path: Path | None, overrides: Overrides, *, algorithm: Algorithm | None = None, trust_code: bool = False
) -> RunConfig:
    """The configuration of `path`, else the shipped recipe of the data set asked for, with `overrides` on top.

    A data set without a recipe of its name has that of data of one's own (`OWN`), by the model's kind. A source
    without the name of its data set is recognised, and said. A generated world takes the recipe of `algorithm`,
    where one is named.

    Raises:
        ConfigError: a key or value that cannot be used, or a source for a generated world, which reads none.
        DataError: a source that is not recognised.
    """
    overrides = {**overrides, **_recognised(path, overrides)}
    if path is None:
        asked = RunConfig.read(None, overrides)
        dataset = asked.data.dataset
        path = recipe_for(algorithm if algorithm and dataset == "world" else dataset)
        if path is None and dataset != "world":
            return _layered(OWN, overrides, pretrained=asked.model.name != ModelConfig().name)
    return RunConfig.read(path, overrides, trust_code=trust_code)


def _recognised(path: Path | None, overrides: Overrides) -> Overrides:
    """What `data.dataset` is, where only `data.source` is given; a default world is no answer to that."""
    data = RunConfig.read(path, overrides).data
    if data.source is None or data.dataset != "world":
        return {}
    trees = ({} if path is None else read_yaml(path), override_tree(overrides))
    if any("dataset" in (tree.get("data") or {}) for tree in trees):
        raise ConfigError(worldly(data.source))
    from llmrec.dataset.importers.layouts import recognise

    kind, place = recognise(Path(data.source))
    say(f"{data.source} is recognised as {kind} (--dataset {kind}).")
    return {"data.dataset": kind, "data.source": place}


def worldly(source: str) -> str:
    """The sentence for a source beside a generated world."""
    return (
        f"Keys 'data.dataset' and 'data.source': world is generated and reads nothing, so {shown(source)} would not "
        "be used; name the data set of the source with --dataset, or leave the source out."
    )


def demo_config(seed: int = 0, overrides: Overrides | None = None, model: str | None = None) -> RunConfig:
    """The demo's configuration: train/recipes/demo.yaml, and demo-pretrained.yaml on top where a `model` is named."""
    given = {"seed": seed, **(overrides or {})}
    if model is not None:
        given = {"model.name": model, **given}
    return _layered("demo", given, pretrained=model is not None)


def _layered(name: str, overrides: Overrides, *, pretrained: bool) -> RunConfig:
    """The recipe of that name, with what it changes for a pretrained model on top, and `overrides` on top of both."""
    changed = _dotted(read_yaml(recipes_root() / f"{name}-pretrained.yaml")) if pretrained else {}
    return RunConfig.read(recipes_root() / f"{name}.yaml", {**changed, **overrides})


def _dotted(tree: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """The values of a tree by dotted key."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
        found |= _dotted(value, f"{before}{key}.") if isinstance(value, dict) else {f"{before}{key}": value}
    return found


def overrides_of(named: Mapping[str, object | None], texts: Sequence[str]) -> dict[str, Any]:
    """Overrides of a command line: the keys of `named` that are not None, and `--set` texts, which win."""
    given = {key: value for key, value in named.items() if value is not None}
    return {**given, **parse_overrides(texts, RunConfig)}
