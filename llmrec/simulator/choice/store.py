"""Choice models as JSON files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llmrec.errors import DataError, RunError
from llmrec.files import read_json, write_json
from llmrec.simulator.choice.base import Choice
from llmrec.simulator.choice.cascade import CascadeChoice, DynamicBayesianChoice
from llmrec.simulator.choice.independent import IndependentChoice, PositionChoice
from llmrec.simulator.choice.logit import LogitChoice
from llmrec.simulator.choice.slates import KeyedParameters


def save_choice(model: Choice, path: Path) -> None:
    """Writes a choice model to `path`, whole or not at all."""
    tree: dict[str, Any] = {
        "kind": "choice",
        "model": model.name,
        "values": model.values(),
        "curve": list(model.curve),
    }
    for name in ("attraction", "satisfaction"):
        held = getattr(model, name)
        tree[name] = None if held is None else held.tree()
    write_json(path, tree)


def load_choice(path: Path) -> Choice:
    """Reads what `save_choice` wrote.

    Raises:
        RunError: The file is missing, broken or holds no choice model.
    """
    tree = read_json(path)
    if not isinstance(tree, dict) or tree.get("kind") != "choice":
        raise RunError(f"{path} does not describe a choice model; fit it anew.")
    held = [
        None if tree.get(name) is None else KeyedParameters.from_tree(tree[name], str(path))
        for name in ("attraction", "satisfaction")
    ]
    try:
        curve = tuple(float(value) for value in tree["curve"])
        return _made(tree["model"], tree["values"], held[0], held[1], curve)
    except (KeyError, TypeError, ValueError, DataError) as error:
        raise RunError(f"{path} cannot be read as a choice model ({error}); fit it anew.") from None


def _made(
    name: str,
    values: dict[str, Any],
    attraction: KeyedParameters | None,
    satisfaction: KeyedParameters | None,
    curve: tuple[float, ...],
) -> Choice:
    if name == "position":
        return PositionChoice(values["examination"], attraction, curve)
    if name == "dynamic-bayesian":
        return DynamicBayesianChoice(values["perseverance"], attraction, satisfaction, curve)
    if name == "logit":
        return LogitChoice(values["offset"], attraction, curve)
    if name == "cascade":
        return CascadeChoice(attraction, None, curve)
    if name == "independent":
        return IndependentChoice(attraction, None, curve)
    raise ValueError(f"unknown model {name!r}")
