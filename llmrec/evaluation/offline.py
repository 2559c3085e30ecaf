"""The offline question: which system ranks held-out events best over the whole catalogue?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl

from llmrec.dataset.examples import Examples
from llmrec.dataset.store import Dataset
from llmrec.errors import DataError, RequestError
from llmrec.evaluation.beyond import LOWER_IS_BETTER, ItemFacts, beyond_accuracy
from llmrec.evaluation.groups import GroupTable, families, group_table
from llmrec.evaluation.leaks import check_leaks, check_targets
from llmrec.evaluation.ranking import (
    check_cutoffs,
    contains,
    coverage,
    illegal_share,
    ranking_metrics,
    slates_to_items,
)
from llmrec.evaluation.relevance import set_metrics, target_sets
from llmrec.evaluation.resampling import Resampler
from llmrec.evaluation.table import Cell, Comparison
from llmrec.types import BoolArray, FloatArray, IntArray, Ranker, Slate

Figures = dict[str, FloatArray | float]
"""A system's metrics: arrays over rows, or plain numbers."""

CUTOFFS = (1, 5, 10)


@dataclass(frozen=True)
class Ranking(Comparison):
    """The main table, one row of the test a target, with the others beside it.

    Attributes:
        sets: metrics of the unordered sets of targets of one user and moment.
        repeats: targets that the user had before and new ones, apart; None where repeats are not recommended.
        beyond: measures beyond accuracy; None without training events.
        groups: NDCG at the longest cut-off by groups of users and items, by family; empty without training events.
    """

    sets: Comparison | None = None
    repeats: Comparison | None = None
    beyond: Comparison | None = None
    groups: dict[str, GroupTable] = field(default_factory=dict)

    def further(self) -> dict[str, Comparison]:
        """All tables but the main one, by name, in the order in which they are shown."""
        named = {"sets": self.sets, "repeats": self.repeats, "beyond": self.beyond}
        tables = {name: table for name, table in named.items() if table is not None}
        return tables | {f"by {family}": found.table for family, found in self.groups.items()}

    def to_json(self) -> dict[str, Any]:
        """As `Comparison.to_json`, with the note and the further tables."""
        plain = super().to_json() | {"note": self.note}
        plain["further"] = {name: table.to_json() for name, table in self.further().items()}
        for family, found in self.groups.items():
            plain["further"][f"by {family}"] |= {"rows": found.rows, "gap between": found.between}
        return plain


def rank_systems(
    systems: Mapping[str, Ranker | IntArray],
    examples: Examples,
    dataset: Dataset,
    *,
    k: Sequence[int] | None = None,
    reference: str | None = None,
    samples: int = 1000,
    seed: int = 0,
    train: pl.DataFrame | None = None,
    split: str = "time",
    facts: ItemFacts | None = None,
) -> Ranking:
    """HR, NDCG and MRR at each k, coverage and illegal share of every system, with intervals clustered by user.

    Args:
        systems: by the name in the table; or the lists that they gave, items (B, K) as long as the longest cut-off.
        examples: held-out events and what their users had seen.
        dataset: for its size and its rule about repeats.
        k: cut-offs; by default those of 1, 5 and 10 that the catalogue can fill.
        reference: the system that the others are compared with, pair by pair.
        samples: bootstrap samples.
        seed: run seed.
        train: all events that the systems were trained on; given, leaks are refused, and the measures beyond
            accuracy and the groups are added.
        split: the split that was made: "time", "leave-last-out" or "given".
        facts: of the items by `train`, if they were made before.

    Raises:
        DataError: no held-out event, a target outside the catalogue, or a leak.
        RequestError: a cut-off above the catalogue's size, or a reference that is no system.
    """
    if not len(examples):
        raise DataError("There is no held-out event to rank; widen the test period.")
    cutoffs = tuple(k) if k is not None else _default_cutoffs(dataset.n_items)
    check_cutoffs(cutoffs, dataset.n_items, f"the catalogue of {dataset.manifest.name!r} has only")
    if reference is not None and reference not in systems:
        raise RequestError(f"The reference {reference!r} is not among the systems {', '.join(systems)}.")
    # A leak makes every figure below it worthless, so it is looked for before anything is computed.
    note = "" if train is None else check_leaks(dataset, train, examples, split)
    check_targets(dataset, examples)
    test = _Test(examples, dataset, cutoffs, reference, samples, seed)
    states = [e.state for e in examples]
    lists = {
        name: system[:, : test.top]
        if isinstance(system, np.ndarray)
        else slates_to_items(system.recommend(states, test.top, seen=examples.seen), test.top)
        for name, system in systems.items()
    }
    rows = {name: test.figures(items_BK) for name, items_BK in lists.items()}
    if train is not None and facts is None:
        facts = ItemFacts.of(dataset, train)
    main = test.table(
        f"{len(examples)} held-out events of {dataset.manifest.name}, all {dataset.n_items} items ranked",
        rows,
        percent=("illegal",),
        lower_is_better=("illegal",),
        note=note,
    )
    return Ranking(
        **{name: getattr(main, name) for name in main.__dataclass_fields__},
        sets=test.sets(lists),
        repeats=test.repeats(rows),
        beyond=None if facts is None else test.beyond(lists, facts),
        groups={} if facts is None else test.groups(rows, facts),
    )


def list_figures(
    recommended: Sequence[Slate] | IntArray,
    targets_B: Sequence[int] | IntArray,
    n_items: int,
    cutoffs: Sequence[int],
    excluded: Sequence[IntArray] | None = None,
) -> Figures:
    """One system's columns of the main table.

    Args:
        recommended: slates or item indices (B, K), best first.
        targets_B: held-out item of each row.
        n_items: catalogue size.
        cutoffs: of the metrics; coverage is taken at K.
        excluded: items that each row must not show, or None where repeats are allowed.
    """
    items_BK = recommended if isinstance(recommended, np.ndarray) else slates_to_items(recommended, max(cutoffs))
    top = items_BK.shape[1]
    found: Figures = dict(ranking_metrics(items_BK, targets_B, k=cutoffs).per_row)
    found[f"coverage@{top}"] = coverage(items_BK, n_items, top)
    found["illegal"] = illegal_share(items_BK, n_items, excluded)
    return found


def repeat_split(examples: Examples) -> BoolArray:
    """Which rows' targets their users had chosen before, (B,)."""
    targets_B1 = np.array([[e.target] for e in examples], dtype=np.int64)
    return contains(examples.seen, targets_B1)[:, 0]


class _Test:
    """The rows that all systems are measured on, and how tables are made of them."""

    def __init__(
        self,
        examples: Examples,
        dataset: Dataset,
        cutoffs: Sequence[int],
        reference: str | None,
        samples: int,
        seed: int,
    ) -> None:
        self.examples, self.n_items, self.cutoffs, self.top = examples, dataset.n_items, cutoffs, max(cutoffs)
        self.excluded = examples.seen if dataset.manifest.repeat == "exclude" else None
        self.targets_B = np.array([e.target for e in examples], dtype=np.int64)
        ids = [e.state.user_id for e in examples]
        # A row without a user is a cluster of its own; a tuple equals no id.
        self.users: list[object] = [(row,) if user is None else user for row, user in enumerate(ids)]
        self.reference, self.samples, self.seed = reference, samples, seed
        self.resampler = Resampler(len(examples), self.users, samples=samples, seed=seed)

    def figures(self, items_BK: IntArray) -> Figures:
        return list_figures(items_BK, self.targets_B, self.n_items, self.cutoffs, self.excluded)

    def table(
        self,
        title: str,
        rows: Mapping[str, Figures],
        resampler: Resampler | None = None,
        draws: str | None = None,
        **options: Any,
    ) -> Comparison:
        """As `Comparison.of`; a row without a value (NaN) in one system is left out of that metric for all.

        All metrics share the bootstrap samples called `draws`; by default each has its own.
        """
        plain = {
            system: {m: v for m, v in row.items() if not isinstance(v, np.ndarray)} for system, row in rows.items()
        }
        table = Comparison.of(title, plain, reference=self.reference, **options)
        by, order = resampler or self.resampler, list(dict.fromkeys(m for row in rows.values() for m in row))
        for metric in order:
            values = {system: v for system, row in rows.items() if isinstance(v := row.get(metric), np.ndarray)}
            for system, cell in (by.cells(values, draws or metric, self.reference) if values else {}).items():
                table.cells[system][metric] = cell
        return table.select(order)

    def sets(self, lists: Mapping[str, IntArray]) -> Comparison:
        found = target_sets(self.examples)
        rows: dict[str, Figures] = {
            name: dict(set_metrics(items_BK[found.first_P], found.relevant, k=self.cutoffs).per_row)
            for name, items_BK in lists.items()
        }
        users = [self.users[row] for row in found.first_P]
        # Sets are other rows than events: the user weights of the main table do not fit them.
        resampler = Resampler(len(users), users, samples=self.samples, seed=self.seed)
        largest = max(len(items) for items in found.relevant)
        title = f"{len(users)} unordered sets of up to {largest} held-out items (one user, one moment)"
        return self.table(title, rows, resampler, "sets")

    def repeats(self, rows: Mapping[str, Figures]) -> Comparison | None:
        if self.excluded is not None:
            return None
        before_B = repeat_split(self.examples)
        apart = {"all": np.ones_like(before_B), "had before": before_B, "new": ~before_B}
        cells: dict[str, dict[str, Cell]] = {name: {} for name in rows}
        labels = {}
        for metric in (f"HR@{self.top}", f"NDCG@{self.top}"):
            values = _arrays(rows, metric)
            for part, kept_B in apart.items():
                labels[f"{metric}, {part}"] = f"{metric}\n{part} (n={kept_B.sum()})"
                for name, cell in self.resampler.cells(values, metric, self.reference, kept_B).items():
                    cells[name][f"{metric}, {part}"] = cell
        title = f"Repeats apart: {before_B.sum()} of {len(before_B)} targets are items that the user had before"
        return Comparison(title, cells, self.reference, labels=labels)

    def beyond(self, lists: Mapping[str, IntArray], facts: ItemFacts) -> Comparison:
        past_BN = facts.past([e.state for e in self.examples])
        rows = {
            name: beyond_accuracy(items_BK, facts, past_BN, self.targets_B, self.excluded, self.users, seed=self.seed)
            for name, items_BK in lists.items()
        }
        lower = tuple(f"{name}@{self.top}" for name in LOWER_IS_BETTER)
        return self.table(f"Beyond accuracy, first {self.top} places", rows, draws="beyond", lower_is_better=lower)

    def groups(self, rows: Mapping[str, Figures], facts: ItemFacts) -> dict[str, GroupTable]:
        metric = f"NDCG@{self.top}"
        values = _arrays(rows, metric)
        return {
            family: group_table(
                f"{metric} by {family}", values, groups, self.resampler, name="groups", reference=self.reference
            )
            for family, groups in families(self.examples, facts).items()
        }


def _arrays(rows: Mapping[str, Figures], metric: str) -> dict[str, FloatArray]:
    return {name: np.asarray(row[metric]) for name, row in rows.items()}


def _default_cutoffs(n_items: int) -> tuple[int, ...]:
    return tuple(n for n in CUTOFFS if n <= n_items)
