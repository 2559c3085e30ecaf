"""Rankers of any kind in one mixture, with weights that depend on what kind of state it is.

    p(i | state) = sum over m of w_gm pi_m(i | state, F) + sum over s of w_gs s(i | state, F),    g = group(state)

with F the items that the user may get and every part conditioned on F, exactly as in `fusion` (which is the case of
one policy, one score and one group). A policy is searched and asked for the probability of single items; a score says
a number of every item, so any recommender can be a part (`mean_scorer`: several of them). Either kind may be missing.
`mixture_weights` fits w. Policies that learnt in different ways are right about
different states: where a user comes back within the hour what was chosen last says most, after months it says little,
and one weight for both gives up something in each (stacked generalisation, Wolpert 1992; gating, Jacobs et al. 1991).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from llmrec.errors import RequestError
from llmrec.policy.ensemble import known_and_scored
from llmrec.policy.filtered import hidden_items, padded
from llmrec.policy.fusion import Mixable, Scorer, allowed_scores, candidate_depth, item_probabilities
from llmrec.progress import track
from llmrec.types import FloatArray, IntArray, Slate, State

Group = Callable[[State], int]
"""Number of a state's group, from 0."""


@dataclass(frozen=True, slots=True)
class Items:
    """What all parts of a mixture agree on: the number of items, and whether repeats are recommended."""

    n_items: int
    repeat: str

    @classmethod
    def of(cls, policies: Sequence[Mixable], given: Items | None = None) -> Items:
        """Those of the policies; where there is none, `given`.

        Raises:
            RequestError: neither, or policies of other items or another rule about repeats.
        """
        if not policies and given is None:
            raise RequestError("A mixture without a policy needs items=Items(number, repeat); give them.")
        for number, policy in enumerate(policies):
            if list(policy.catalogue.item_ids) != list(policies[0].catalogue.item_ids):
                raise RequestError(
                    f"Policy {number} of the mixture has other items than policy 0; give those of one data set."
                )
            if policy.repeat != policies[0].repeat:
                raise RequestError(
                    f"Policy {number} of the mixture says {policy.repeat!r} about repeats, policy 0 says "
                    f"{policies[0].repeat!r}; give policies of one data set."
                )
        own = cls(len(policies[0].catalogue), policies[0].repeat) if policies else given
        if given not in (None, own):
            raise RequestError(f"The mixture's items are {given}, but its policies have {own}; leave them out.")
        assert own is not None
        return own


@dataclass(frozen=True)
class Parts:
    """The items that may be recommended, with what each part gives them.

    Attributes:
        items_BC: item indices, each once in a row, in rising order; -1 at padding.
        parts_PBC: probability given that an allowed item is chosen, of M policies and then of S scores; 0 at padding.
            A state of which a score knows nothing has the policies' mean there; without a policy, that of the scores
            which know something.
    """

    items_BC: IntArray
    parts_PBC: FloatArray

    def mixed(self, weights_BP: FloatArray) -> FloatArray:
        """p of every candidate, (B, C), -1 at padding."""
        mixed_BC = np.einsum("bp,pbc->bc", weights_BP, self.parts_PBC)
        found: FloatArray = np.where(self.items_BC >= 0, mixed_BC, -1.0)
        return found


def find_parts(
    policies: Sequence[Mixable],
    scorers: Sequence[Scorer],
    states: Sequence[State],
    depth: int,
    *,
    beams: int | None = None,
    exclude_seen: bool | None = None,
    seen: Sequence[IntArray] | None = None,
    batch_size: int = 64,
    items: Items | None = None,
) -> Parts:
    """The union of every part's `depth` best items, with the probability that each part gives them.

    With `depth` at the catalogue's size these are all items. Arguments as those of `fusion.find_candidates`.

    Raises:
        RequestError: a depth below 1 or above the catalogue's size, or scores that are negative, not finite or of
            another shape than (B, N).
    """
    items = Items.of(policies, items)
    beams = max(depth, 20 if beams is None else beams)
    hide = items.repeat == "exclude" if exclude_seen is None else exclude_seen
    lists_M = [
        policy.recommend(states, depth, beams=beams, exclude_seen=exclude_seen, seen=seen, batch_size=batch_size)
        for policy in policies
    ]
    excluded_BE = padded(hidden_items(states, seen)) if hide else np.empty((len(states), 0), dtype=np.int64)
    batches = [slice(start, start + batch_size) for start in range(0, len(states), batch_size)]
    found = [
        _parts(policies, scorers, states[rows], [slates[rows] for slates in lists_M], excluded_BE[rows], depth, items)
        for rows in (track(batches, "mixture") if len(batches) > 1 else batches)
    ]
    return _stacked(found, len(policies) + len(scorers))


def _parts(
    policies: Sequence[Mixable],
    scorers: Sequence[Scorer],
    states: Sequence[State],
    lists_M: Sequence[Sequence[Slate]],
    excluded_BE: IntArray,
    depth: int,
    items: Items,
) -> Parts:
    """One batch."""
    scores_SBN = [allowed_scores(scorer, states, excluded_BE, items.n_items) for scorer in scorers]
    best_SBD = [np.argsort(-score_BN, axis=1, kind="stable")[:, :depth] for score_BN in scores_SBN]
    union = []
    for b in range(len(states)):
        own = [np.asarray(slates[b].items_K, dtype=np.int64) for slates in lists_M]
        own += [
            best_BD[b][score_BN[b, best_BD[b]] > 0.0] for best_BD, score_BN in zip(best_SBD, scores_SBN, strict=True)
        ]
        union.append(np.unique(np.concatenate(own)))
    items_BC = padded(union)
    policy_MBC = [
        _conditioned(policy, states, slates, union, items_BC, excluded_BE)
        for policy, slates in zip(policies, lists_M, strict=True)
    ]
    score_SBC = [
        np.where(items_BC >= 0, np.take_along_axis(score_BN, items_BC.clip(min=0), 1), 0.0) for score_BN in scores_SBN
    ]
    silent_SB1 = [score_BN.sum(1, keepdims=True) <= 0.0 for score_BN in scores_SBN]
    if policy_MBC:
        otherwise_BC = np.mean(policy_MBC, axis=0)
    else:  # a silent score adds nothing to the sum
        otherwise_BC = np.sum(score_SBC, axis=0) / np.maximum(np.sum(~np.stack(silent_SB1), axis=0), 1)
    filled = [
        np.where(silent_B1, otherwise_BC, part_BC) for part_BC, silent_B1 in zip(score_SBC, silent_SB1, strict=True)
    ]
    return Parts(items_BC, np.stack([*policy_MBC, *filled]))


def _conditioned(
    policy: Mixable,
    states: Sequence[State],
    slates: Sequence[Slate],
    union: Sequence[IntArray],
    items_BC: IntArray,
    excluded_BE: IntArray,
) -> FloatArray:
    """pi(i | state, F) of the candidates: (B, C)."""
    pi_BC = known_and_scored(policy, states, slates, union, items_BC.shape[1], len(states))
    hidden_B = item_probabilities(policy, states, excluded_BE).sum(1)
    # rounding may use up the difference, but what is left holds at least the candidates
    left_B1 = np.maximum(1.0 - hidden_B, pi_BC.sum(1))[:, None]
    given_BC: FloatArray = np.divide(pi_BC, left_B1, out=np.zeros_like(pi_BC), where=left_B1 > 0)
    return given_BC


def _stacked(found: Sequence[Parts], n_parts: int) -> Parts:
    """The rows of all batches, padded to one width."""
    widest = max((part.items_BC.shape[1] for part in found), default=0)
    missing = [((0, 0), (0, widest - part.items_BC.shape[1])) for part in found]
    items = [np.pad(part.items_BC, m, constant_values=-1) for part, m in zip(found, missing, strict=True)]
    parts = [np.pad(part.parts_PBC, ((0, 0), *m)) for part, m in zip(found, missing, strict=True)]
    none = np.empty((0, widest))  # for no state at all
    return Parts(
        np.concatenate([none.astype(np.int64), *items]),
        np.concatenate([np.empty((n_parts, 0, widest)), *parts], axis=1),
    )


class MixturePolicy:
    """Recommends by the mixture; takes the place of a policy where something is only recommended.

    Args:
        policies: M policies over the same items, each a `LanguagePolicy` or an `EnsemblePolicy`; may be none.
        scorers: S other scores.
        weights_GP: (G, M + S), a row for each group, each with the sum 1.
        group: which row a state has; all states have the first by default.
        depth: items taken from each part; by default 2k and at least 20.
        items: what the scores are of, where there is no policy to tell.

    Raises:
        RequestError: no items, policies of other items or another rule about repeats, or weights that are none.
    """

    def __init__(
        self,
        policies: Sequence[Mixable],
        scorers: Sequence[Scorer],
        weights_GP: FloatArray,
        group: Group | None = None,
        *,
        depth: int | None = None,
        items: Items | None = None,
    ) -> None:
        self.items = Items.of(policies, items)
        weights_GP = np.asarray(weights_GP, dtype=np.float64)
        if weights_GP.ndim != 2 or weights_GP.shape[1] != len(policies) + len(scorers) or not len(weights_GP):
            raise RequestError(
                f"Weights of the shape {weights_GP.shape} do not fit {len(policies)} policies and {len(scorers)} "
                f"scores; give rows of {len(policies) + len(scorers)}."
            )
        if not (np.isfinite(weights_GP).all() and (weights_GP >= 0).all() and np.allclose(weights_GP.sum(1), 1.0)):
            raise RequestError("The weights of a mixture must be at least 0 and have the sum 1 in each group.")
        self.policies, self.scorers, self.weights_GP = tuple(policies), tuple(scorers), weights_GP
        self.group, self.depth = group, depth
        self.model = torch.nn.ModuleList([policy.model for policy in policies])

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
        """The k candidates of each state with the greatest p; `log_probs_K` holds log p. Arguments as a policy's.

        Of equally probable items the lower item index is first.

        Raises:
            RequestError: k below 1 or above the catalogue's size, an unfit score, or a state of a group that
                has no weights.
        """
        depth = candidate_depth(self.items.n_items, k, self.depth)
        group_B = groups_of(states, self.group, len(self.weights_GP))
        parts = find_parts(
            self.policies,
            self.scorers,
            states,
            depth,
            beams=beams,
            exclude_seen=exclude_seen,
            seen=seen,
            batch_size=batch_size,
            items=self.items,
        )
        mixed_BC = parts.mixed(self.weights_GP[group_B])
        order_BK = np.argsort(-mixed_BC, axis=1, kind="stable")[:, :k]
        slates = []
        for items_C, mixed_C, order_K in zip(parts.items_BC, mixed_BC, order_BK, strict=True):
            kept_K = order_K[items_C[order_K] >= 0]
            with np.errstate(divide="ignore"):  # a candidate of a part without weight
                slates.append(Slate(tuple(items_C[kept_K].tolist()), tuple(np.log(mixed_C[kept_K]).tolist())))
        return slates


def groups_of(states: Sequence[State], group: Group | None, n_groups: int) -> IntArray:
    """Number of each state's group, (B,).

    Raises:
        RequestError: one outside 0 .. n_groups - 1.
    """
    group_B = np.array([0 if group is None else group(state) for state in states], dtype=np.int64)
    wrong = group_B[(group_B < 0) | (group_B >= n_groups)]
    if len(wrong):
        raise RequestError(f"A state has the group {wrong[0]}, but there are weights for {n_groups} groups.")
    return group_B


def mean_scorer(scorers: Sequence[Scorer]) -> Scorer:
    """The mean of the scorers' distributions: an ensemble of recommenders as one part."""

    def score(states: Sequence[State]) -> FloatArray:
        total_BN: FloatArray = np.zeros(())
        for scorer in scorers:
            own_BN = np.asarray(scorer(states), dtype=np.float64)
            total_BN = total_BN + own_BN / np.maximum(own_BN.sum(axis=1, keepdims=True), 1e-300)
        return total_BN / len(scorers)

    return score
