"""Weights of a mixture (`mixture`), fitted on validation rows for each group of states."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Unpack

import numpy as np

from llmrec.errors import RequestError
from llmrec.policy.language_policy import LanguagePolicy
from llmrec.policy.mixture import Candidates, Mixture, Part, candidate_depth
from llmrec.policy.remembering import RememberedPolicy, remembered
from llmrec.policy.searching import Search
from llmrec.types import FloatArray, IntArray, State

ONE_OF_EACH = (1.0, 0.99, 0.98, 0.95, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.05, 0.02, 0.01, 0.0)
"""Shares of one policy beside one score: fine at both ends, because one part may be much flatter than the other."""
SHARES = (0.0, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 0.95, 1.0)
"""What several policies, or one beside several scores, may get together; the scores get the rest."""
UNITS = 2
"""Either share is divided among its parts in so many equal pieces, where a group may have few rows."""
EVEN = {1: 1, 2: 20, 3: 20, 4: 10}
"""Pieces that the whole is divided in by the number of parts, where all are policies or all are scores; else 5."""


@dataclass(frozen=True)
class FittedMixture:
    """What was chosen for each group.

    Attributes:
        mixture: with the weights.
        ndcg_G: NDCG of the group's rows with them; of all rows where the group has none.
        rows_G: the group's rows.
        grid_WP: all weights that were tried.
        ndcg_W: NDCG of all rows with each of them.
    """

    mixture: Mixture
    ndcg_G: FloatArray
    rows_G: IntArray
    grid_WP: FloatArray
    ndcg_W: FloatArray

    @property
    def ndcg(self) -> float:
        """NDCG of all rows, each with the weights of its group."""
        return float(self.ndcg_G @ self.rows_G / self.rows_G.sum())


def fit(
    mixture: Mixture,
    states: Sequence[State],
    targets: Sequence[int],
    *,
    groups: int = 1,
    k: int = 10,
    grid: FloatArray | None = None,
    **search: Unpack[Search],
) -> FittedMixture:
    """Chooses each group's weights by NDCG@k on validation examples; candidates are found once for all weights.

    NDCG is a mean over rows, so groups are chosen for one by one. Of equally good weights those are taken that are
    best for all rows together, of these the first of the grid; a group without a row gets what is best for all rows.
    Fitting more groups than there are hundreds of rows fits chance.

    Args:
        mixture: its parts, group and depth; the parts learnt without the validation events.
        states: validation states.
        targets: the item index that was then chosen at each state.
        groups: how many groups there are.
        k: cut-off of the metric.
        grid: weights to choose from, (W, P); by default `weight_grid`, fine where there is one group.
        search: see `Search`.

    Raises:
        RequestError: no example, targets that do not fit, weights that are none, or a group outside 0 .. groups - 1.
    """
    if not len(states) or len(targets) != len(states):
        raise RequestError(
            f"Fitting weights needs examples, but there are {len(states)} states and {len(targets)} targets."
        )
    if grid is None:
        scored = np.array([not isinstance(part, LanguagePolicy | Mixture) for part in mixture.parts])
        grid = weight_grid(int((~scored).sum()), int(scored.sum()), fine=groups == 1)
        grid = grid[:, np.argsort(np.argsort(scored, kind="stable"))]
    grid_WP = mixture.changed(weights=grid).weights_GP
    group_B = mixture.changed(weights=grid_WP[np.zeros(groups, dtype=np.int64)]).groups_of(states)
    depth = candidate_depth(mixture.items.n_items, k, mixture.depth)
    target_B = np.asarray(targets, dtype=np.int64)
    ndcg_WB = np.empty((len(grid_WP), len(states)))
    for rows, found in mixture.candidates(states, depth, **search):
        ndcg_WB[:, rows] = [_ndcg(found, weights_P, target_B[rows], k) for weights_P in grid_WP]
    rows_G, pooled_W = np.bincount(group_B, minlength=groups), ndcg_WB.mean(1)
    chosen = []
    for g in range(groups):
        mean_W = ndcg_WB[:, group_B == g].mean(1) if rows_G[g] else pooled_W
        best_W = np.flatnonzero(mean_W >= mean_W.max() - 1e-12)
        chosen.append(int(best_W[pooled_W[best_W].argmax()]))
    own = [ndcg_WB[w, group_B == g].mean() if rows_G[g] else pooled_W[w] for g, w in enumerate(chosen)]
    return FittedMixture(mixture.changed(weights=grid_WP[chosen]), np.array(own), rows_G, grid_WP, pooled_W)


def fit_forms(
    mixture: Mixture,
    forms: Sequence[Sequence[Part]],
    states: Sequence[State],
    targets: Sequence[int],
    *,
    groups: int = 1,
    k: int = 10,
    **search: Unpack[Search],
) -> list[FittedMixture]:
    """`fit` for each form of a mixture, with one reading of each policy for all of them.

    A form's candidates are what its own parts propose, so another power or half-life of a score asks a policy for
    other items. The mixture of all parts of all forms has every form's candidates among its own: it is read once, and
    each form is then fitted to its own candidates from what was said there.

    Args:
        mixture: depth, group and items; its own parts are not asked.
        forms: the parts of each form; a part that several share is the same object in each.
        states: see `fit`.
        targets: see `fit`.
        groups: see `fit`.
        k: see `fit`.
        search: see `Search`.

    Returns:
        The fit of each form; its mixture's parts answer from memory what they were asked here.

    Raises:
        RequestError: as `fit` does.
    """
    kept: dict[int, Part] = {}
    own = [[_remembering(part, kept) for part in parts] for parts in forms]
    every = list({id(part): part for parts in own for part in parts}.values())
    wide = mixture.changed(parts=every, weights=None)
    if len(forms) > 1 and wide.policies:
        depth = candidate_depth(mixture.items.n_items, k, mixture.depth)
        for _ in wide.candidates(states, depth, **search):
            pass
    return [fit(mixture.changed(parts=parts), states, targets, groups=groups, k=k, **search) for parts in own]


def _remembering(part: Part, kept: dict[int, Part]) -> Part:
    """The part, the policies of an inner mixture too, with a memory; the same for the same part."""
    if id(part) not in kept:
        if isinstance(part, Mixture):
            made: Part = part.changed(parts=[_remembering(inner, kept) for inner in part.parts])
        elif isinstance(part, LanguagePolicy):
            made = part if isinstance(part, RememberedPolicy) else RememberedPolicy(part)
        else:
            made = remembered(part)
        kept[id(part)] = made
    return kept[id(part)]


def weight_grid(policies: int, scores: int, *, fine: bool = False) -> FloatArray:
    """Weights to choose from, (W, P), when policies stand before scores.

    One policy and one score share the whole by `ONE_OF_EACH`. Where all parts are policies or all are scores, they
    share it in `EVEN` pieces. Else the policies together have one of `SHARES`, and either side is divided in `UNITS`
    pieces; with `fine` the scores are divided as they are without a policy, so that a mixture that is to be better by
    a policy has every choice that it has without.
    """
    if policies == scores == 1:
        return np.array([(share, 1.0 - share) for share in ONE_OF_EACH])
    if not policies or not scores:
        return np.array(_divisions(policies + scores, _pieces(policies + scores)))
    rows = {
        (*(share * ours).tolist(), *((1.0 - share) * others).tolist())
        for share in SHARES
        for ours in _divisions(policies)
        for others in _divisions(scores, _pieces(scores) if fine else UNITS)
    }
    return np.array(sorted(rows))


def _pieces(parts: int) -> int:
    return EVEN.get(parts, 5)


def _divisions(parts: int, units: int = UNITS) -> list[FloatArray]:
    every = itertools.product(range(units + 1), repeat=parts - 1)
    return [np.array([*pieces, units - sum(pieces)]) / units for pieces in every if sum(pieces) <= units]


def _ndcg(found: Candidates, weights_P: FloatArray, target_B: IntArray, k: int) -> FloatArray:
    """NDCG@k of each row, (B,), with the ties of `Mixture.recommend`."""
    mixed_BC = found.mixed(np.broadcast_to(weights_P, (len(target_B), len(weights_P))))
    at_BC = found.items_BC == target_B[:, None]
    own_B1 = np.where(at_BC, mixed_BC, -2.0).max(1, initial=-2.0)[:, None]
    lower_BC = found.items_BC < target_B[:, None]
    rank_B = ((mixed_BC > own_B1) | ((mixed_BC == own_B1) & lower_BC)).sum(1)
    ndcg_B: FloatArray = np.where(at_BC.any(1) & (rank_B < k), 1.0 / np.log2(rank_B + 2.0), 0.0)
    return ndcg_B
