"""The offline question: which system ranks held-out events best over the whole catalogue?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from llmrec.dataset.examples import Examples
from llmrec.dataset.store import Dataset
from llmrec.errors import DataError
from llmrec.evaluation.ranking import coverage, illegal_share, ranking_metrics, slates_to_items
from llmrec.evaluation.table import Comparison
from llmrec.types import FloatArray, IntArray, Slate, State


class Ranker(Protocol):
    """A policy or a baseline."""

    def recommend(self, states: Sequence[State], k: int, *, seen: Sequence[IntArray] | None = None) -> list[Slate]:
        """The k best items for each state, without the items in `seen` where the data set excludes repeats."""
        ...


def rank_systems(
    systems: Mapping[str, Ranker],
    examples: Examples,
    dataset: Dataset,
    *,
    k: Sequence[int] = (1, 5, 10),
    reference: str | None = None,
    samples: int = 1000,
    seed: int = 0,
) -> Comparison:
    """HR, NDCG and MRR at each k, coverage and illegal share of every system, with intervals clustered by user.

    Args:
        systems: by the name in the table.
        examples: held-out events and what their users had seen.
        dataset: for its size and its rule about repeats.
        k: cut-offs; those above the catalogue's size are left out.
        reference: the system that the others are compared with, pair by pair.
        samples: bootstrap samples.
        seed: run seed.

    Raises:
        DataError: no held-out event.
    """
    if not len(examples):
        raise DataError("There is no held-out event to rank; widen the test period.")
    cutoffs = tuple(n for n in k if n <= dataset.n_items) or (dataset.n_items,)
    top = max(cutoffs)
    states, targets = [e.state for e in examples], [e.target for e in examples]
    excluded = examples.seen if dataset.manifest.repeat == "exclude" else None
    rows: dict[str, dict[str, FloatArray | float]] = {}
    for name, system in systems.items():
        items_BK = slates_to_items(system.recommend(states, top, seen=examples.seen), top)
        rows[name] = {
            **ranking_metrics(items_BK, targets, k=cutoffs).per_row,
            f"coverage@{top}": coverage(items_BK, dataset.n_items, top),
            "illegal": illegal_share(items_BK, dataset.n_items, excluded),
        }
    return Comparison.of(
        f"{len(examples)} held-out events of {dataset.manifest.name}, all {dataset.n_items} items ranked",
        rows,
        reference=reference,
        users=[str(s.user_id) for s in states],
        samples=samples,
        seed=seed,
        percent=("illegal",),
        lower_is_better=("illegal",),
    )
