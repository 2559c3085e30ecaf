"""The policy mixed with a second score (co-visitation, a retriever): an option of what is deployed, never trained.

    p(i | state) = w pi(i | state, F) + (1 - w) s(i | state, F)

with F the items that the user may get, both parts normalised over F, and w fitted on validation examples. A mixture
keeps what either part is sure of. Sums of log-scores are not offered: there one part's noise on items that it knows
nothing of buries what the other knows.

Normalisers, both exact. s sums over F directly. pi(i | state, F) is pi conditioned on F,

    pi(i | state, F) = pi(i | state) / (1 - sum over excluded j of pi(j | state)),

and not pi_F, which hands an excluded item's mass to its siblings. Excluded are the items that a user has seen, so the
sum is a few more items in the row that scores the candidates.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from llmrec.catalogue.catalogue import Catalogue
from llmrec.errors import RequestError
from llmrec.policy.decoding import check_k
from llmrec.policy.modes import evaluating
from llmrec.progress import track
from llmrec.types import FloatArray, IntArray, Slate, State

Scorer = Callable[[Sequence[State]], FloatArray]
"""Scores of all items for each state: (B, N), finite and at least 0; only their proportions in a row matter."""

GRID = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 1.0)
"""Weights of the policy to choose from: fine at both ends, because one part may be much flatter than the other."""

ROW_ITEMS = 256
"""Items of one state that are scored together: bounds the packed row."""


class Mixable(Protocol):
    """What a mixture asks of its policy: a `LanguagePolicy`, or an `EnsemblePolicy` of several."""

    @property
    def model(self) -> Any:
        """Holds all modules whose mode matters."""
        ...

    @property
    def catalogue(self) -> Catalogue:
        """The items."""
        ...

    @property
    def repeat(self) -> str:
        """Whether items of the history may be recommended again: allow or exclude."""
        ...

    def recommend(
        self,
        states: Sequence[State],
        k: int,
        *,
        beams: int | None = None,
        exclude_seen: bool | None = None,
        seen: Sequence[IntArray] | None = None,
        batch_size: int = 64,
    ) -> list[Slate]:
        """The k best items of each state, `log_probs_K` over the whole catalogue."""
        ...

    def exclude(self, states: Sequence[State], seen: Sequence[IntArray] | None = None) -> Tensor:
        """Items of each state, and of `seen` beside it, as (B, E) padded with -1."""
        ...

    def log_prob(self, states: Sequence[State], items_BG: Tensor) -> Tensor:
        """log pi over the whole catalogue: (B, G)."""
        ...


@dataclass(frozen=True)
class Candidates:
    """The items that may be recommended, with both probabilities given that an allowed item is chosen.

    Attributes:
        items_BC: item indices, each once in a row, those of the policy first; -1 at padding.
        policy_BC: pi(item | state, F); 0 at padding.
        second_BC: the second score normalised over F; 0 at padding. A state whose scores over F are all 0 has the
            policy's probabilities here, so that its ranking is the policy's.
    """

    items_BC: IntArray
    policy_BC: FloatArray
    second_BC: FloatArray

    def mixed(self, weight: float) -> FloatArray:
        """p of every candidate: (B, C)."""
        mixed_BC: FloatArray = weight * self.policy_BC + (1.0 - weight) * self.second_BC
        return mixed_BC

    def top(self, weight: float, k: int) -> tuple[IntArray, FloatArray]:
        """The k best candidates by p, (B, k), padded with -1 and 0; of equal ones the policy's better is first."""
        mixed_BC = np.where(self.items_BC >= 0, self.mixed(weight), -1.0)
        order_BK = np.argsort(-mixed_BC, axis=1, kind="stable")[:, :k]
        items_BK = np.take_along_axis(self.items_BC, order_BK, 1)
        mixed_BK = np.take_along_axis(mixed_BC, order_BK, 1).clip(min=0.0)
        missing = ((0, 0), (0, k - items_BK.shape[1]))
        return np.pad(items_BK, missing, constant_values=-1), np.pad(mixed_BK, missing)


def find_candidates(
    policy: Mixable,
    scorer: Scorer,
    states: Sequence[State],
    depth: int,
    *,
    beams: int | None = None,
    exclude_seen: bool | None = None,
    seen: Sequence[IntArray] | None = None,
    batch_size: int = 64,
) -> Candidates:
    """The `depth` best items by pi and the `depth` best by the second score, with both probabilities of each.

    With `depth` at the catalogue's size these are all items. Below it, an item that neither list holds cannot have
    more than w times the last pi plus 1 - w times the last s.

    Args:
        policy: the language-model policy, or an ensemble of several.
        scorer: the second score.
        states: what to recommend for.
        depth: items taken from each side.
        beams: width of the policy's beam search; at least `depth`, which is the default.
        exclude_seen: leave out seen items; by default as the policy's `repeat` says.
        seen: all items each user has seen, beside those in the state.
        batch_size: states decoded and scored at once.

    Raises:
        RequestError: depth below 1 or above the catalogue's size, or scores that are negative, not finite or of
            another shape than (B, N).
    """
    beams = max(depth, 20 if beams is None else beams)
    slates = policy.recommend(states, depth, beams=beams, exclude_seen=exclude_seen, seen=seen, batch_size=batch_size)
    hide = policy.repeat == "exclude" if exclude_seen is None else exclude_seen
    excluded_BE = policy.exclude(states, seen).numpy() if hide else np.empty((len(states), 0), dtype=np.int64)
    parts = [slice(start, start + batch_size) for start in range(0, len(states), batch_size)]
    found = [
        _candidates(policy, scorer, states[rows], slates[rows], excluded_BE[rows], depth)
        for rows in (track(parts, "fusion") if len(parts) > 1 else parts)
    ]
    return _stacked(found)


def _candidates(
    policy: Mixable,
    scorer: Scorer,
    states: Sequence[State],
    slates: Sequence[Slate],
    excluded_BE: IntArray,
    depth: int,
) -> Candidates:
    """One batch: the policy's slates joined with the best by the second score."""
    second_BN = allowed_scores(scorer, states, excluded_BE, len(policy.catalogue))
    own_BC = np.full((len(states), depth), -1, dtype=np.int64)
    own_pi_BC = np.zeros((len(states), depth))
    for b, slate in enumerate(slates):
        own_BC[b, : len(slate.items_K)], own_pi_BC[b, : len(slate.items_K)] = slate.items_K, np.exp(slate.log_probs_K)
    best_BC = np.argsort(-second_BN, axis=1, kind="stable")[:, :depth]
    doubled_BC = (best_BC[:, :, None] == own_BC[:, None, :]).any(2)
    useless_BC = np.take_along_axis(second_BN, best_BC, 1) <= 0.0
    further_BC = _to_the_left(np.where(doubled_BC | useless_BC, -1, best_BC))
    pi_BX = item_probabilities(policy, states, np.concatenate([further_BC, excluded_BE], 1))
    items_BC = np.concatenate([own_BC, further_BC], 1)
    pi_BC = np.concatenate([own_pi_BC, pi_BX[:, : further_BC.shape[1]]], 1)
    # rounding may use up the difference, but what is left holds at least the candidates
    left_B1 = np.maximum(1.0 - pi_BX[:, further_BC.shape[1] :].sum(1), pi_BC.sum(1))[:, None]
    policy_BC = np.divide(pi_BC, left_B1, out=np.zeros_like(pi_BC), where=left_B1 > 0)
    second_BC = np.where(items_BC >= 0, np.take_along_axis(second_BN, items_BC.clip(min=0), 1), 0.0)
    silent_B1 = second_BN.sum(1, keepdims=True) <= 0.0
    return Candidates(items_BC, policy_BC, np.where(silent_B1, policy_BC, second_BC))


def allowed_scores(scorer: Scorer, states: Sequence[State], excluded_BE: IntArray, n_items: int) -> FloatArray:
    """The second score over the allowed items, (B, N), each row with the sum 1, or 0 where it knows none of them.

    Raises:
        RequestError: scores that are negative, not finite or of another shape than (B, N).
    """
    scores_BN: FloatArray = np.array(scorer(states), dtype=np.float64)
    if scores_BN.shape != (len(states), n_items):
        raise RequestError(
            f"The second score has the shape {scores_BN.shape}, not {(len(states), n_items)}; give a score for each "
            "state and each item of the policy's catalogue."
        )
    if not np.isfinite(scores_BN).all() or (scores_BN < 0).any():
        raise RequestError("The second score is negative or not finite somewhere; give scores of at least 0.")
    row, at = np.nonzero(excluded_BE >= 0)
    scores_BN[row, excluded_BE[row, at]] = 0.0
    top_B1 = scores_BN.max(1, keepdims=True)
    scores_BN = np.divide(scores_BN, top_B1, out=scores_BN, where=top_B1 > 0)  # so that no sum can overflow
    total_B1 = scores_BN.sum(1, keepdims=True)
    np.divide(scores_BN, total_B1, out=scores_BN, where=total_B1 > 0)
    return scores_BN


@torch.no_grad()
def item_probabilities(policy: Mixable, states: Sequence[State], items_BX: IntArray) -> FloatArray:
    """pi of items, without dropout (0 at padding): (B, X)."""
    parts = [np.empty((len(states), 0))]
    with evaluating(policy.model):
        for start in range(0, items_BX.shape[1], ROW_ITEMS):
            items = torch.from_numpy(items_BX[:, start : start + ROW_ITEMS].clip(min=0))
            parts.append(policy.log_prob(states, items).double().exp().cpu().numpy())
    return np.where(items_BX >= 0, np.concatenate(parts, 1), 0.0)


def _to_the_left(items_BC: IntArray) -> IntArray:
    """Items before padding in each row, and no column of padding alone."""
    order_BC = np.argsort(items_BC < 0, axis=1, kind="stable")
    width = int((items_BC >= 0).sum(1).max(initial=0))
    return np.take_along_axis(items_BC, order_BC, 1)[:, :width]


def _stacked(parts: Sequence[Candidates]) -> Candidates:
    """The rows of all parts, padded to one width."""
    widest = max((part.items_BC.shape[1] for part in parts), default=0)
    missing = [((0, 0), (0, widest - part.items_BC.shape[1])) for part in parts]
    items = [np.pad(part.items_BC, m, constant_values=-1) for part, m in zip(parts, missing, strict=True)]
    policy = [np.pad(part.policy_BC, m) for part, m in zip(parts, missing, strict=True)]
    second = [np.pad(part.second_BC, m) for part, m in zip(parts, missing, strict=True)]
    none = np.empty((0, widest))  # for no state at all
    return Candidates(
        np.concatenate([none.astype(np.int64), *items]),
        np.concatenate([none, *policy]),
        np.concatenate([none, *second]),
    )


class FusedPolicy:
    """Recommends by the mixture; takes the place of the policy wherever something is only recommended.

    Args:
        policy: the language-model policy, which stays as it is.
        scorer: the second score.
        weight: w, the policy's share, from 0 to 1; see `fit_weight`.
        depth: items taken from each side; by default 2k and at least 20.

    Raises:
        RequestError: a weight outside 0 .. 1.
    """

    def __init__(self, policy: Mixable, scorer: Scorer, weight: float, *, depth: int | None = None) -> None:
        self.policy, self.scorer, self.weight, self.depth = policy, scorer, _weight(weight), depth

    def recommend(
        self,
        states: Sequence[State],
        k: int,
        *,
        beams: int | None = None,
        exclude_seen: bool | None = None,
        seen: Sequence[IntArray] | None = None,
        batch_size: int = 64,
    ) -> list[Slate]:
        """The k candidates of each state with the greatest p; `log_probs_K` holds log p. Arguments as the policy's.

        Raises:
            RequestError: k below 1 or above the catalogue's size, or an unfit second score.
        """
        depth = candidate_depth(len(self.policy.catalogue), k, self.depth)
        candidates = find_candidates(
            self.policy,
            self.scorer,
            states,
            depth,
            beams=beams,
            exclude_seen=exclude_seen,
            seen=seen,
            batch_size=batch_size,
        )
        items_BK, mixed_BK = candidates.top(self.weight, k)
        slates = []
        for items_K, mixed_K in zip(items_BK.tolist(), mixed_BK, strict=True):
            found = sum(item >= 0 for item in items_K)
            with np.errstate(divide="ignore"):  # at the weights 0 and 1 a candidate of the other side may have p = 0
                slates.append(Slate(tuple(items_K[:found]), tuple(np.log(mixed_K[:found]).tolist())))
        return slates


@dataclass(frozen=True)
class FittedWeight:
    """The policy's weight of the best mean NDCG, and NDCG by weight in rising order of the weight."""

    weight: float
    curve: dict[float, float]


def fit_weight(
    policy: Mixable,
    scorer: Scorer,
    states: Sequence[State],
    targets: Sequence[int],
    k: int = 10,
    grid: Sequence[float] = GRID,
    *,
    depth: int | None = None,
    beams: int | None = None,
    exclude_seen: bool | None = None,
    seen: Sequence[IntArray] | None = None,
    batch_size: int = 64,
) -> FittedWeight:
    """Chooses w by NDCG@k on validation examples; of equally good weights the policy's largest.

    The candidates and both of their probabilities are computed once for all weights.

    Args:
        policy: the language-model policy, or an ensemble of several.
        scorer: the second score, learnt without the validation events.
        states: validation states.
        targets: the item index that was then chosen at each state.
        k: cut-off of the metric.
        grid: weights to choose from.
        depth: see `FusedPolicy`; use the same value there.
        beams: see `find_candidates`.
        exclude_seen: see `find_candidates`.
        seen: see `find_candidates`.
        batch_size: see `find_candidates`.

    Raises:
        RequestError: no example, targets that do not fit, an empty grid, or a weight outside 0 .. 1.
    """
    weights = sorted({_weight(weight) for weight in grid})
    if not len(states) or len(targets) != len(states) or not weights:
        raise RequestError(
            f"Fitting a weight needs examples and a grid, but there are {len(states)} states, {len(targets)} targets "
            f"and {len(weights)} weights."
        )
    depth = candidate_depth(len(policy.catalogue), k, depth)
    candidates = find_candidates(
        policy, scorer, states, depth, beams=beams, exclude_seen=exclude_seen, seen=seen, batch_size=batch_size
    )
    target_B1 = np.asarray(targets, dtype=np.int64)[:, None]
    gain_K = 1.0 / np.log2(np.arange(k) + 2.0)
    curve = {w: float(((candidates.top(w, k)[0] == target_B1) * gain_K).sum(1).mean()) for w in weights}
    return FittedWeight(max(weights, key=lambda w: (curve[w], w)), curve)


def candidate_depth(n_items: int, k: int, depth: int | None) -> int:
    """Items taken from each side for a list of k: by default 2k and at least 20, at most the catalogue.

    Raises:
        RequestError: k below 1 or above the catalogue's size, or a depth below k.
    """
    check_k(k, n_items)
    if depth is not None and depth < k:
        raise RequestError(f"A depth of {depth} cannot fill {k} places; take at least as many items from each side.")
    return min(n_items, max(2 * k, 20) if depth is None else depth)


def _weight(weight: float) -> float:
    if not 0.0 <= weight <= 1.0:
        raise RequestError(f"The policy's weight is {weight}; it must lie between 0 and 1.")
    return float(weight)
