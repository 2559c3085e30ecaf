"""Weights of a mixture (`mixture`), fitted on validation rows for each group of states."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from llmrec.errors import RequestError
from llmrec.policy.fusion import Mixable, Scorer, candidate_depth
from llmrec.policy.mixture import Group, Items, Parts, find_parts, groups_of
from llmrec.types import FloatArray, IntArray, State

SHARES = (0.0, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 0.95, 1.0)
"""What all policies together may get; the scores get the rest."""
EVEN = {1: 1, 2: 20, 3: 20, 4: 10}
"""Pieces that the whole is divided in by the number of parts, where all are policies or all are scores; else 5."""
UNITS = 2
"""Either share is divided among its parts in so many equal pieces: coarse, because a group may have few rows."""


@dataclass(frozen=True)
class FittedMixture:
    """What was chosen for each group.

    Attributes:
        weights_GP: (G, M + S).
        ndcg_G: NDCG of the group's rows with them; of all rows where the group has none.
        rows_G: the group's rows.
    """

    weights_GP: FloatArray
    ndcg_G: FloatArray
    rows_G: IntArray


def fit_mixture(
    policies: Sequence[Mixable],
    scorers: Sequence[Scorer],
    states: Sequence[State],
    targets: Sequence[int],
    group: Group | None = None,
    n_groups: int = 1,
    k: int = 10,
    *,
    depth: int | None = None,
    seen: Sequence[IntArray] | None = None,
    batch_size: int = 64,
    items: Items | None = None,
) -> FittedMixture:
    """Chooses each group's weights by NDCG@k on validation examples, from `simplex_grid`.

    NDCG is a mean over rows, so groups are chosen for one by one. Of equally good weights those are taken that are
    best for all rows together; a group without a row gets these as well. Fitting more groups than there are hundreds
    of rows fits chance.

    Args:
        policies: M policies, trained without the validation events; may be none.
        scorers: S other scores, learnt without them too.
        states: validation states.
        targets: the item index that was then chosen at each state.
        group: see `MixturePolicy`.
        n_groups: how many there are.
        k: cut-off of the metric.
        depth: see `MixturePolicy`; use the same value there.
        seen: all items each user has seen, beside those in the state.
        batch_size: states decoded and scored at once.
        items: see `MixturePolicy`.

    Raises:
        RequestError: no example, targets that do not fit, no part, or a group outside 0 .. n_groups - 1.
    """
    if not len(states) or len(targets) != len(states):
        raise RequestError(
            f"Fitting weights needs examples, but there are {len(states)} states and {len(targets)} targets."
        )
    if not policies and not scorers:
        raise RequestError("Fitting a mixture needs something to mix; give policies or scores.")
    items = Items.of(policies, items)
    group_B = groups_of(states, group, n_groups)
    depth = candidate_depth(items.n_items, k, depth)
    parts = find_parts(policies, scorers, states, depth, seen=seen, batch_size=batch_size, items=items)
    grid_WP = simplex_grid(len(policies), len(scorers))
    ndcg_WB = np.stack([_ndcg(parts, weights_P, np.asarray(targets), k) for weights_P in grid_WP])
    rows_G = np.bincount(group_B, minlength=n_groups)
    pooled_W = ndcg_WB.mean(1)
    chosen = []
    for g in range(n_groups):
        mean_W = ndcg_WB[:, group_B == g].mean(1) if rows_G[g] else pooled_W
        best_W = np.flatnonzero(mean_W >= mean_W.max() - 1e-12)
        chosen.append(int(best_W[pooled_W[best_W].argmax()]))
    own = [ndcg_WB[w, group_B == g].mean() if rows_G[g] else pooled_W[w] for g, w in enumerate(chosen)]
    return FittedMixture(grid_WP[chosen], np.array(own), rows_G)


def simplex_grid(n_policies: int, n_scores: int = 1) -> FloatArray:
    """Weights to choose from, (W, M + S): `SHARES` for the policies together, either side in `UNITS` pieces.

    Where all parts are policies or all are scores there are no sides: they share the whole in `EVEN` pieces.
    """
    if not n_policies or not n_scores:
        parts = n_policies + n_scores
        return np.array(_divisions(parts, EVEN.get(parts, 5)))
    rows = {
        (*(share * ours).tolist(), *((1.0 - share) * others).tolist())
        for share in SHARES
        for ours in _divisions(n_policies)
        for others in _divisions(n_scores)
    }
    return np.array(sorted(rows))


def _divisions(parts: int, units: int = UNITS) -> list[FloatArray]:
    every = itertools.product(range(units + 1), repeat=parts - 1)
    return [np.array([*pieces, units - sum(pieces)]) / units for pieces in every if sum(pieces) <= units]


def _ndcg(parts: Parts, weights_P: FloatArray, target_B: IntArray, k: int) -> FloatArray:
    """NDCG@k of each row, (B,), with the ties of `MixturePolicy.recommend`."""
    mixed_BC = parts.mixed(np.broadcast_to(weights_P, (len(target_B), len(weights_P))))
    at_BC = parts.items_BC == target_B[:, None]
    own_B1 = np.where(at_BC, mixed_BC, -2.0).max(1, initial=-2.0)[:, None]
    lower_BC = parts.items_BC < target_B[:, None]
    rank_B = ((mixed_BC > own_B1) | ((mixed_BC == own_B1) & lower_BC)).sum(1)
    ndcg_B: FloatArray = np.where(at_BC.any(1) & (rank_B < k), 1.0 / np.log2(rank_B + 2.0), 0.0)
    return ndcg_B
