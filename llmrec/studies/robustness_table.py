"""The table of robustness: rankings of the same held-out events as they are, and through perturbations' views."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from llmrec.dataset.examples import Examples
from llmrec.dataset.store import Dataset
from llmrec.errors import DataError, RequestError
from llmrec.evaluation.ranking import illegal_share, ranking_metrics, slates_to_items
from llmrec.evaluation.significance import Interval, resampled_means
from llmrec.evaluation.table import Comparison
from llmrec.progress import track
from llmrec.seeding import numpy_stream
from llmrec.studies.answer import Answer, Sheet
from llmrec.studies.views import under
from llmrec.text.hostile import KINDS, Hostile
from llmrec.text.perturb import (
    Described,
    DroppedHistory,
    OtherWording,
    Perturbation,
    Renamed,
    ShuffledHistory,
    Typos,
    View,
)
from llmrec.types import FloatArray, Ranker, State

CLEAN = "clean"
WORDINGS = ("shop", "course")
"""Whose wording stands in for the own one: the first that is another."""


@dataclass(frozen=True)
class Robustness:
    """Figures with and without perturbations.

    Attributes:
        tables: for each system a table of the clean figures and of those under each perturbation, which are compared
            with the clean ones pair by pair.
        relative: by system and perturbation, what is lost or gained of the main metric as a share of the clean figure
            (-0.1: a tenth is lost), with its interval; absent where the clean figure is 0.
        promoted: the item that each hostile perturbation promotes.
        metric: the main metric.
        k: length of the lists.
    """

    tables: dict[str, Comparison]
    relative: dict[str, dict[str, Interval]]
    promoted: dict[str, int]
    metric: str
    k: int

    def to_json(self) -> dict[str, Any]:
        """Plain dictionaries."""
        return {
            "metric": self.metric,
            "k": self.k,
            "promoted_items": self.promoted,
            "tables": {system: table.to_json() for system, table in self.tables.items()},
            "relative_change": {
                system: {name: asdict(interval) for name, interval in row.items()}
                for system, row in self.relative.items()
            },
        }

    def answer(self, dataset: Dataset, **facts: Any) -> Answer:
        """The tables, and the relative change of the main metric: perturbations by systems."""

        def change(system: str, row: str) -> str:
            cell = self.relative[system].get(row)
            text = "–" if cell is None else f"{cell.mean:+.1%} ({cell.low:+.1%} to {cell.high:+.1%})"
            return text.replace("-", "−")

        rows = [row for row in next(iter(self.tables.values())).systems if row != CLEAN]
        relative = Sheet(
            f"Relative change of {self.metric} (95% interval, paired by event, clustered by user)",
            ("perturbation", *self.tables),
            [(row, *(change(system, row) for system in self.tables)) for row in rows],
        )
        figures = self.to_json() | facts | {"data_hash": dataset.manifest.content_hash}
        return Answer("What perturbed text and histories cost", figures, (*self.tables.values(), relative))


def standard_perturbations(domain: str, seed: int = 0) -> list[Perturbation]:
    """The perturbations of the documented table, for a data set of `domain`."""
    other = next(name for name in WORDINGS if name != domain)
    return [
        Typos(seed=seed, rate=0.05),
        Typos(seed=seed, rate=0.2),
        DroppedHistory(seed=seed, share=0.5),
        ShuffledHistory(seed=seed),
        OtherWording(seed=seed, domain=other),
        Renamed(seed=seed),
        Described(seed=seed),
        *(Hostile(seed=seed, kind=kind) for kind in KINDS),
    ]


def robustness_table(
    systems: Mapping[str, Ranker],
    examples: Examples,
    dataset: Dataset,
    perturbations: Sequence[Perturbation],
    *,
    k: int = 10,
    places: int = 0,
    samples: int = 1000,
    seed: int = 0,
) -> Robustness:
    """Ranks the examples clean and under each perturbation.

    Columns: HR@k and NDCG@k; "changed", the share of lists that are not the clean ones; for hostile text "promoted",
    the share of lists that hold the promoted item, "promoted, clean", the same without the attack, and "attack
    success", the share that holds it under attack alone; "illegal", as in `rank_systems`.

    Args:
        systems: by the name in the table; see `under` for what they see of a view.
        examples: held-out events and what their users had seen.
        dataset: items and the rule about repeats.
        perturbations: of distinct names.
        k: length of the lists; at most the catalogue.
        places: ask for so many where that is more, and take the first k: how a system orders equal scores may depend
            on how many are asked for.
        samples: bootstrap samples.
        seed: run seed of the bootstrap.

    Raises:
        DataError: no held-out event.
        RequestError: two perturbations of one name.
    """
    names = [CLEAN, *(perturbation.name for perturbation in perturbations)]
    if twice := {name for name in names if names.count(name) > 1}:
        raise RequestError(f"Two perturbations are called {min(twice)!r}; leave one out.")
    if not len(examples):
        raise DataError("There is no held-out event to rank; widen the test period.")
    k = min(k, dataset.n_items)
    places = min(max(k, places), dataset.n_items)
    states = [example.state for example in examples]
    views = {p.name: p.view(states, dataset.item_list) for p in perturbations}
    promoted = {name: view.promoted for name, view in views.items() if view.promoted is not None}
    draw: dict[str, Any] = {"users": [str(s.user_id) for s in states], "samples": samples, "seed": seed}
    tables, relative = {}, {}
    for name, system in systems.items():
        rows = _rows(name, system, views, states, examples, dataset, k, places)
        tables[name] = Comparison.of(
            f"{name}: {len(examples)} held-out events of {dataset.manifest.name}, seen as they are and perturbed",
            rows,
            reference=CLEAN,
            percent=("changed", "illegal", "promoted", "promoted, clean", "attack success"),
            lower_is_better=("changed", "illegal", "promoted", "attack success"),
            **draw,
        )
        relative[name] = _relative(rows, f"NDCG@{k}", draw)
    return Robustness(tables, relative, promoted, f"NDCG@{k}", k)


def _rows(
    name: str,
    system: Ranker,
    views: Mapping[str, View],
    states: Sequence[State],
    examples: Examples,
    dataset: Dataset,
    k: int,
    places: int,
) -> dict[str, dict[str, FloatArray | float]]:
    """Figures by row of one system: clean, and under each view."""
    seen = [np.union1d(had, state.seen()).astype(np.int64) for had, state in zip(examples.seen, states, strict=True)]
    excluded = seen if dataset.manifest.repeat == "exclude" else None
    targets = [example.target for example in examples]
    clean_BK = slates_to_items(system.recommend(states, places, seen=seen), places)[:, :k]
    rows: dict[str, dict[str, FloatArray | float]] = {}
    shown: list[tuple[str, View | None]] = [(CLEAN, None), *views.items()]
    for label, view in track(shown, name):
        items_BK = clean_BK
        if view is not None:
            slates = under(system, view).recommend(view.states, places, seen=seen)
            items_BK = slates_to_items(slates, places)[:, :k]
        found = ranking_metrics(items_BK, targets, k=(k,)).per_row
        rows[label] = {metric: found[metric] for metric in (f"HR@{k}", f"NDCG@{k}")}
        if view is not None:
            rows[label]["changed"] = (items_BK != clean_BK).any(1).astype(np.float64)
        if view is not None and view.promoted is not None:
            now_B, before_B = ((lists_BK == view.promoted).any(1) for lists_BK in (items_BK, clean_BK))
            rows[label] |= {
                "promoted": now_B.astype(np.float64),
                "promoted, clean": before_B.astype(np.float64),
                "attack success": (now_B & ~before_B).astype(np.float64),
            }
        rows[label]["illegal"] = illegal_share(items_BK, dataset.n_items, excluded)
    return rows


def _relative(
    rows: Mapping[str, Mapping[str, FloatArray | float]], metric: str, draw: Mapping[str, Any]
) -> dict[str, Interval]:
    """mean(perturbed) / mean(clean) - 1 with its percentile interval, users drawn with all their rows."""
    clean_B = np.asarray(rows[CLEAN][metric])
    if clean_B.mean() <= 0:
        return {}
    found = {}
    for name in rows:
        if name != CLEAN:
            now_B = np.asarray(rows[name][metric])
            rng = numpy_stream(draw["seed"], "bootstrap", "relative", name)
            means_S2 = resampled_means((now_B, clean_B), draw["users"], draw["samples"], rng)
            means_S2 = means_S2[means_S2[:, 1] > 0]  # a draw without a clean hit has no share to lose
            low, high = np.quantile(means_S2[:, 0] / means_S2[:, 1] - 1.0, [0.025, 0.975])
            found[name] = Interval(float(now_B.mean() / clean_B.mean() - 1.0), float(low), float(high))
    return found
