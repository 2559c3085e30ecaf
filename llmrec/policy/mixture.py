"""Rankers of any kind mixed into one: what is deployed may be more than one policy. Nothing here is trained.

    p(i | state) = sum over parts m of w_gm p_m(i | state, U),    g = group(state)

U is what the user may get: the catalogue without seen items, where those are left out. A part is a policy (searched,
and asked for the probability of single items), a score of all items (any recommender: `Scores`, or a function), or a
mixture again. Probabilities are averaged and not log-probabilities: an item that one part is sure of stays, and one
part's noise on items that it knows nothing of buries nothing (deep ensembles, Lakshminarayanan, Pritzel and Blundell
2017). Weights by group let each part speak where it is right: within the hour what was chosen last says most, after
months little (stacked generalisation, Wolpert 1992; gating, Jacobs et al. 1991). `mixture_weights` fits them.

What is mixed are probabilities of whole items, so parts may write items differently. Mixing the conditionals token by
token is another distribution: there a part keeps its say on a path that it finds impossible.

*Seen items condition each part.* p_m(i | state, U) = p_m(i | state) / (1 - sum over seen j of p_m(j | state)): the
weights were fitted between parts that speak of the same items, and a part that spends its mass on what the user knows
loses no say by it. This is pi conditioned on U and not pi_U, which hands an excluded item's mass to its siblings.
*An ensemble is one distribution* (`Mixture.ensemble`, and any mixture that is a part of another): the mean of its
members over the whole catalogue, conditioned as a whole.
*Filters restrict.* They take items away and change no score, as for a policy: p is not normalised anew.

Candidates are the union of every part's `depth` best items, and each has its exact p. An item outside has at most the
mixture of the parts' last values, so `exact` goes deeper until the list lies above that; with `depth` at the
catalogue's size all items are candidates. Equally probable items stand by item index.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias, Unpack

import numpy as np
import torch

from llmrec.catalogue.filters import Attributes, Filters
from llmrec.errors import RequestError
from llmrec.policy.at_once import scored_at_once
from llmrec.policy.decoding import check_k
from llmrec.policy.filtered import hidden_items, nothing_left, one_each, padded, passing
from llmrec.policy.language_policy import LanguagePolicy
from llmrec.policy.mixture_parts import (
    Candidates,
    Distributed,
    Items,
    Scorer,
    Scores,
    best_items,
    candidate_depth,
    filled,
    normalised_scores,
    taken,
)
from llmrec.policy.modes import evaluating
from llmrec.policy.searching import Search, require_options
from llmrec.policy.slates import Again, bounded_slates
from llmrec.progress import track
from llmrec.types import BoolArray, FloatArray, IntArray, Slate, State

__all__ = ["Candidates", "Distributed", "Group", "Items", "Mixture", "Part", "Scorer", "Scores", "candidate_depth"]

Group = Callable[[State], int]
"""Number of a state's group, from 0."""
Part: TypeAlias = "LanguagePolicy | Mixture | Scorer"

_UNKNOWN = "This mixture knows no attributes of its items; give some before filtering."
BATCH = 64
"""States whose candidates are found at once, where nothing else is said."""
ROW_ITEMS = 256
"""Items of one state that are scored together: bounds the packed row."""


class Mixture:
    """Recommends by the mixture; takes the place of a policy where something is only recommended.

    Args:
        parts: P policies, scores or mixtures over the same items.
        weights: (G, P), a row for each group, each with the sum 1; (P,) for one group; None mixes evenly.
        group: which row a state has; all states have the first by default.
        items: what the scores are of, where there is no policy to tell.
        depth: items taken from each part; by default 2k and at least 20.
        conditioned: whether seen items condition each part; else p is over the whole catalogue, as a policy's is.

    Raises:
        RequestError: no part, no items, policies of other items or another rule about repeats, or weights that are
            none.
    """

    def __init__(
        self,
        parts: Sequence[Part],
        weights: FloatArray | Sequence[float] | None = None,
        group: Group | None = None,
        *,
        items: Items | None = None,
        depth: int | None = None,
        conditioned: bool = True,
    ) -> None:
        if not parts:
            raise RequestError("A mixture needs at least one part; give some.")
        self.parts, self.group, self.depth, self.conditioned = tuple(parts), group, depth, conditioned
        self.weights_GP = _weights(weights, len(parts))
        self.items = _shared_items(self.policies, items)

    @classmethod
    def ensemble(
        cls,
        members: Sequence[Part],
        *,
        items: Items | None = None,
        depth: int | None = None,
    ) -> Mixture:
        """The mean of the members' probabilities over the whole catalogue."""
        return cls(members, items=items, depth=depth, conditioned=False)

    def changed(self, **changes: Any) -> Mixture:
        """The same mixture but for some arguments."""
        names = ("parts", "group", "items", "depth", "conditioned")
        return Mixture(**({name: getattr(self, name) for name in names} | {"weights": self.weights_GP} | changes))

    @property
    def policies(self) -> list[LanguagePolicy]:
        """All policies among the parts, those of inner mixtures too."""
        inner = [part.policies for part in self.parts if isinstance(part, Mixture)]
        return [part for part in self.parts if isinstance(part, LanguagePolicy)] + [p for own in inner for p in own]

    def recommend(
        self,
        states: Sequence[State],
        k: int,
        *,
        filters: Filters | Sequence[Filters] | None = None,
        exact: bool = False,
        **search: Unpack[Search],
    ) -> list[Slate]:
        """The k candidates of each state with the greatest p; `log_probs_K` holds log p. Arguments as a policy's.

        `exact` goes deeper until the list is proven; so do bounds on the slate, as with a policy (`slates`).

        Raises:
            RequestError: k below 1 or above the catalogue's size, an unfit score, a state of a group that has no
                weights, or a filter that leaves nothing or is unknown.
        """
        wishes = one_each(filters, len(states))
        if any(wish.bounds_slate for wish in wishes):
            return self._bounded(states, k, wishes, search)
        depth = candidate_depth(self.items.n_items, k, self.depth)
        weights_BP = self.weights_GP[self.groups_of(states)]
        while True:
            found: list[tuple[Slate, bool]] = []
            for rows, candidates in self.candidates(states, depth, filters=wishes, exact=exact, **search):
                found += candidates.top(weights_BP[rows], k)
            if not exact or depth == self.items.n_items or all(proven for _, proven in found):
                return [slate for slate, _ in found]
            depth = min(2 * depth, self.items.n_items)

    def _bounded(
        self,
        states: Sequence[State],
        k: int,
        wishes: Sequence[Filters],
        search: Search,
    ) -> list[Slate]:
        """Slates under bounds, of lists that are exact."""
        check_k(k, self.items.n_items)
        known = self.attributes
        if known is None:
            raise RequestError(_UNKNOWN)
        for wish in wishes:
            known.check(wish)
        hide, seen = self._hides(search.get("exclude_seen")), search.get("seen")
        hidden = hidden_items(states, seen) if hide else []

        def lists(within: tuple[str, ...]) -> Again:
            asked = [dataclasses.replace(wish.unbounded, within=(*wish.within, *within)) for wish in wishes]
            # what a floor asks for may not be there, which is no fault of the request
            open_BN = passing(known, asked) if within else np.ones((len(states), 1), dtype=np.bool_)
            for b, items in enumerate(hidden if within else ()):
                open_BN[b, items] = False

            def ask(part: Sequence[int], depth: int) -> list[Slate]:
                found = dict.fromkeys(part, Slate((), ()))
                left = [b for b in part if open_BN[b].any()]
                if left:
                    given = None if seen is None else [seen[b] for b in left]
                    own: Search = {**search, "seen": given}
                    deep = self if self.depth is None else self.changed(depth=max(self.depth, depth))
                    wanted = [asked[b] for b in left]
                    slates = deep.recommend([states[b] for b in left], depth, filters=wanted, exact=True, **own)
                    found |= dict(zip(left, slates, strict=True))
                return [found[b] for b in part]

            return Again(ask, len(states), self.items.n_items)

        return bounded_slates(lists(()), lambda name: lists((name,)), wishes, known, k)

    def candidates(
        self,
        states: Sequence[State],
        depth: int,
        *,
        filters: Sequence[Filters] = (),
        exact: bool = False,
        **search: Unpack[Search],
    ) -> Iterator[tuple[slice, Candidates]]:
        """The union of every part's `depth` best items, with the probability that each part gives them.

        With `depth` at the catalogue's size these are all items. Arguments as those of `recommend`; `filters` are
        none, or one for each state, and what bounds a slate is not looked at.

        Yields:
            Which states, and their candidates; `batch_size` states at a time.
        """
        require_options(search)
        seen, beams, batch_size = search.get("seen"), search.get("beams"), search.get("batch_size") or BATCH
        hide = self._hides(search.get("exclude_seen"))
        hidden_BE = padded(hidden_items(states, seen)) if hide else np.empty((len(states), 0), dtype=np.int64)
        wishes = [wish.unbounded for wish in filters]
        options: dict[str, Any] = {"exclude_seen": hide, "seen": seen, "filters": wishes or None, "exact": exact}
        options |= {"beams": max(depth, 20 if beams is None else beams), "batch_size": batch_size}
        lists: dict[int, list[Slate]] = {}
        for p, part in enumerate(self.parts):
            if isinstance(part, Mixture):  # one distribution over the whole catalogue, as a policy is
                lists[p] = part.changed(depth=depth, conditioned=False).recommend(states, depth, **options)
            elif isinstance(part, LanguagePolicy):
                lists[p] = part.recommend(states, depth, **options)
        batches = [slice(start, start + batch_size) for start in range(0, len(states), batch_size)]
        for rows in track(batches, "mixture") if len(batches) > 1 else batches:
            own = {p: slates[rows] for p, slates in lists.items()}
            yield rows, self._joined(states[rows], own, hidden_BE[rows], wishes[rows], depth)

    def _joined(
        self,
        states: Sequence[State],
        lists: Mapping[int, Sequence[Slate]],
        hidden_BE: IntArray,
        wishes: Sequence[Filters],
        depth: int,
    ) -> Candidates:
        """The candidates of one batch; `lists` are those of the searched parts."""
        given_BE = hidden_BE if self.conditioned else hidden_BE[:, :0]
        scores = self._scores(states, given_BE)
        open_BN = self._open(hidden_BE, wishes) if scores else np.empty(0)
        best = {p: best_items(np.where(open_BN, score_BN, 0.0), depth) for p, score_BN in scores.items()}
        union = []
        for b in range(len(states)):
            own = [np.asarray(slates[b].items_K, dtype=np.int64) for slates in lists.values()]
            union.append(np.unique(np.concatenate([*own, *(items[b] for items, _ in best.values())])))
        items_BC = padded(union)
        values = [  # the last column is of items outside
            np.c_[taken(scores[p], items_BC), best[p][1]]
            if p in scores
            else _searched(part, states, lists[p], union, given_BE, depth)
            for p, part in enumerate(self.parts)
        ]
        filled_PBC = filled(values, scores)
        return Candidates(items_BC, filled_PBC[:, :, :-1] * (items_BC >= 0), filled_PBC[:, :, -1])

    def _hides(self, exclude_seen: bool | None) -> bool:
        return self.items.repeat == "exclude" if exclude_seen is None else exclude_seen

    def probabilities(
        self, states: Sequence[State], items_BX: IntArray, given_BE: IntArray | None = None
    ) -> FloatArray:
        """p of items (0 at padding): (B, X); over the whole catalogue, or given that none of `given_BE` is chosen."""
        given_BE = np.empty((len(states), 0), dtype=np.int64) if given_BE is None else given_BE
        scores = self._scores(states, given_BE)
        values = [
            taken(scores[p], items_BX) if p in scores else _conditioned(part, states, items_BX, given_BE)
            for p, part in enumerate(self.parts)
        ]
        mixed_BX: FloatArray = np.einsum(
            "bp,pbx->bx", self.weights_GP[self.groups_of(states)], filled(values, scores)
        )
        return np.where(items_BX >= 0, mixed_BX, 0.0)

    def groups_of(self, states: Sequence[State]) -> IntArray:
        """Number of each state's group, (B,).

        Raises:
            RequestError: one that has no weights.
        """
        group_B = np.array([0 if self.group is None else self.group(state) for state in states], dtype=np.int64)
        wrong = group_B[(group_B < 0) | (group_B >= len(self.weights_GP))]
        if len(wrong):
            raise RequestError(f"A state has the group {wrong[0]}, but there are weights for {len(self.weights_GP)}.")
        return group_B

    @property
    def attributes(self) -> Attributes | None:
        """What filters look at, as the policies know it now."""
        books = [policy.filters for policy in self.policies if policy.filters is not None]
        return books[0].attributes if books else self.items.attributes

    def _scores(self, states: Sequence[State], hidden_BE: IntArray) -> dict[int, FloatArray]:
        """Each score's probabilities of the items that are not hidden, (B, N), by the number of the part."""
        return {
            p: normalised_scores(part, states, hidden_BE, self.items.n_items)
            for p, part in enumerate(self.parts)
            if not isinstance(part, LanguagePolicy | Mixture)
        }

    def _open(self, hidden_BE: IntArray, wishes: Sequence[Filters]) -> BoolArray:
        """What is left for each state, (B, N)."""
        attributes = self.attributes
        if wishes and attributes is None:
            raise RequestError(_UNKNOWN)
        open_BN = np.ones((len(hidden_BE), self.items.n_items), dtype=np.bool_)
        if attributes is not None and wishes:
            open_BN = passing(attributes, wishes)
        row, at = np.nonzero(hidden_BE >= 0)
        open_BN[row, hidden_BE[row, at]] = False
        for b, wish in enumerate(wishes):
            if not open_BN[b].any():
                raise nothing_left(wish)
        return open_BN


@torch.no_grad()
def _probabilities(part: Part, states: Sequence[State], items_BX: IntArray) -> FloatArray:
    """p_m of items over the whole catalogue, without dropout (0 at padding): (B, X)."""
    if isinstance(part, Mixture):
        return part.probabilities(states, items_BX)
    assert isinstance(part, LanguagePolicy)
    values, at_once = [np.empty((len(states), 0))], scored_at_once(part.model)
    with evaluating(part.model):
        for start in range(0, items_BX.shape[1], ROW_ITEMS):
            items = torch.from_numpy(items_BX[:, start : start + ROW_ITEMS].clip(min=0))
            values.append(part.log_prob(states, items, batch_size=at_once).double().exp().cpu().numpy())
    return np.where(items_BX >= 0, np.concatenate(values, 1), 0.0)


def _conditioned(part: Part, states: Sequence[State], items_BX: IntArray, given_BE: IntArray) -> FloatArray:
    """p_m of items given that none of `given_BE` is chosen: (B, X), 0 at those and at padding."""
    if not given_BE.shape[1]:
        return _probabilities(part, states, items_BX)
    width = items_BX.shape[1]
    value_BX = _probabilities(part, states, np.concatenate([items_BX, given_BE], 1))
    gone_BX = (items_BX[:, :, None] == np.where(given_BE < 0, -2, given_BE)[:, None, :]).any(2)
    left_B1 = np.maximum(1.0 - value_BX[:, width:].sum(1, keepdims=True), np.finfo(np.float64).tiny)
    return np.where(gone_BX, 0.0, np.minimum(value_BX[:, :width] / left_B1, 1.0))


def _searched(
    part: Part,
    states: Sequence[State],
    slates: Sequence[Slate],
    union: Sequence[IntArray],
    given_BE: IntArray,
    depth: int,
) -> FloatArray:
    """p_m of the candidates given that none of `given_BE` is chosen, and of the items outside at most: (B, C + 1).

    Known of the part's own list, and scored for what only others proposed.
    """
    value_BC = np.zeros((len(states), max(map(len, union), default=0) + 1))
    missing = []
    for b, slate in enumerate(slates):
        own_K = np.asarray(slate.items_K, dtype=np.int64)
        value_BC[b, np.searchsorted(union[b], own_K)] = np.exp(slate.log_probs_K)
        value_BC[b, -1] = np.exp(slate.log_probs_K[-1]) if len(own_K) == depth else 0.0
        missing.append(np.setdiff1d(union[b], own_K, assume_unique=True))
    wanted_BX = padded(missing)
    value_BX = _probabilities(part, states, np.concatenate([wanted_BX, given_BE], 1))
    for b, items in enumerate(missing):
        value_BC[b, np.searchsorted(union[b], items)] = value_BX[b, : len(items)]
    # rounding may use up the difference, but what is left holds at least the candidates
    left_B1 = np.maximum(1.0 - value_BX[:, wanted_BX.shape[1] :].sum(1), value_BC[:, :-1].sum(1))[:, None]
    given_BC: FloatArray = np.divide(value_BC, left_B1, out=np.zeros_like(value_BC), where=left_B1 > 0)
    return given_BC


def _weights(weights: FloatArray | Sequence[float] | None, parts: int) -> FloatArray:
    weights_GP = np.atleast_2d(np.full(parts, 1.0 / parts) if weights is None else np.asarray(weights, np.float64))
    if weights_GP.ndim != 2 or weights_GP.shape[1] != parts or not len(weights_GP):
        raise RequestError(f"Weights of the shape {weights_GP.shape} do not fit {parts} parts; give rows of {parts}.")
    if not (np.isfinite(weights_GP).all() and (weights_GP >= 0).all() and np.allclose(weights_GP.sum(1), 1.0)):
        raise RequestError("The weights of a mixture must be at least 0 and have the sum 1 in each group.")
    return weights_GP


def _shared_items(policies: Sequence[LanguagePolicy], given: Items | None) -> Items:
    """What the policies agree on; where there is none, `given`."""
    if not policies:
        if given is None:
            raise RequestError("A mixture without a policy needs items=Items(number, repeat); give them.")
        return given
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
    own = Items(len(policies[0].catalogue), policies[0].repeat)
    if given not in (None, own):
        raise RequestError(f"The mixture's items are {given}, but its policies have {own}; leave them out.")
    return own
