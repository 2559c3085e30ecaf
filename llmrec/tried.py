"""What has been tried with pretrained models, read from `models_tried.yaml`, which is shipped with the package."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llmrec.bounded import parse_yaml, read_document

FILE = Path(__file__).resolve().parent / "models_tried.yaml"


@dataclass(frozen=True)
class Tried:
    """One thing that was done with a model.

    Attributes:
        data: name of the data set.
        what: what was done.
        rows: what was ranked.
        hr: HR@10.
        ndcg: NDCG@10 with the ends of its 95% interval.
        machine: where.
        command: by which command.
        beside: NDCG@10 of others on the same rows, by name.
    """

    data: str
    what: str
    rows: str
    hr: float
    ndcg: tuple[float, float, float]
    machine: str
    command: str
    beside: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class TriedModel:
    """A pretrained model and what was done with it.

    Attributes:
        name: Hub id.
        parameters: number of weights.
        architecture: the model type in transformers' words.
        licence: of the weights.
        weights: where the weights came from, where they are not the published ones.
        runs: what was done.
    """

    name: str
    parameters: float
    architecture: str
    licence: str
    runs: tuple[Tried, ...]
    weights: str = ""


@dataclass(frozen=True)
class Checked:
    """A model that `eval/check_pretrained.py` was run on."""

    architecture: str
    model: str
    passed: str
    machine: str
    command: str


@dataclass(frozen=True)
class Trials:
    """All of it. `tiny` and `plain` are architectures that the tests try at tiny size, the latter without sharing."""

    models: tuple[TriedModel, ...]
    checks: tuple[Checked, ...]
    tiny: tuple[str, ...]
    plain: tuple[str, ...]


def read_trials() -> Trials:
    """Reads the file."""
    tree: dict[str, Any] = parse_yaml(read_document(FILE))
    models = []
    for entry in tree["models"]:
        runs = tuple(Tried(**{**run, "ndcg": tuple(run["ndcg"])}) for run in entry["runs"])
        models.append(TriedModel(**{**entry, "runs": runs, "parameters": float(entry["parameters"])}))
    checks = tuple(Checked(**entry) for entry in tree["checks"])
    return Trials(tuple(models), checks, tuple(tree["tiny"]["passed"]), tuple(tree["tiny"]["plain"]))
