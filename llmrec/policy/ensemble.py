"""Several policies as one recommender: the mean of their probabilities, item by item; nothing is trained.

    p(i | state) = mean over m of pi_m(i | state)

Members (adapters of several seeds, checkpoints of one run, even policies that write items differently) share the
items and nothing else. What is averaged is probability and not log-probability, as in deep ensembles
(Lakshminarayanan, Pritzel and Blundell 2017): the mean is a distribution over the catalogue again, and an item that
one member is sure of stays.

Candidates are the union of each member's `depth` best items, and each candidate is scored by every member. Where the
members' searches are exact, an item outside the union has at most the mean of the members' last probabilities; with
`depth` at the catalogue's size the ranking is exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from llmrec.errors import RequestError
from llmrec.policy.filtered import padded
from llmrec.policy.fusion import Mixable, candidate_depth, item_probabilities
from llmrec.policy.language_policy import LanguagePolicy
from llmrec.progress import track
from llmrec.types import FloatArray, IntArray, Slate, State


@dataclass(frozen=True)
class EnsembleCandidates:
    """The union of all members' best items, with what each member gives them.

    Attributes:
        items_BC: item indices, each once in a row, in rising order; -1 at padding.
        members_MBC: pi_m(item | state) of each of M members; 0 at padding.
    """

    items_BC: IntArray
    members_MBC: FloatArray

    @property
    def mean_BC(self) -> FloatArray:
        """p of every candidate."""
        mean_BC: FloatArray = self.members_MBC.mean(0)
        return mean_BC

    def top(self, k: int) -> list[Slate]:
        """The k candidates of the greatest p; of equal ones the lower item index is first."""
        mean_BC = np.where(self.items_BC >= 0, self.mean_BC, -1.0)
        order_BK = np.argsort(-mean_BC, axis=1, kind="stable")[:, :k]
        slates = []
        for items_C, mean_C, order_K in zip(self.items_BC, mean_BC, order_BK, strict=True):
            kept_K = order_K[items_C[order_K] >= 0]
            with np.errstate(divide="ignore"):  # a probability below the smallest float
                slates.append(Slate(tuple(items_C[kept_K].tolist()), tuple(np.log(mean_C[kept_K]).tolist())))
        return slates


class EnsemblePolicy:
    """Recommends by the mean of its members' probabilities; takes the place of a policy where one only recommends.

    It can also be the policy of `fusion.FusedPolicy`, `find_candidates` and `fit_weight`.

    Args:
        members: policies over the same items in the same order.
        depth: items taken from each member; by default 2k and at least 20.

    Raises:
        RequestError: no member, or members that differ in items or in the rule about repeats.
    """

    def __init__(self, members: Sequence[LanguagePolicy], *, depth: int | None = None) -> None:
        if not members:
            raise RequestError("An ensemble needs at least one policy; give some.")
        self.members, self.depth = tuple(members), depth
        self.catalogue, self.repeat = members[0].catalogue, members[0].repeat
        for number, member in enumerate(self.members[1:], 1):
            if list(member.catalogue.item_ids) != list(self.catalogue.item_ids):
                raise RequestError(
                    f"Member {number} of the ensemble has other items than member 0; give policies of one data set."
                )
            if member.repeat != self.repeat:
                raise RequestError(
                    f"Member {number} of the ensemble says {member.repeat!r} about repeats, member 0 says "
                    f"{self.repeat!r}; give policies of one data set."
                )
        self.model = torch.nn.ModuleList([member.model for member in self.members])

    def exclude(self, states: Sequence[State], seen: Sequence[IntArray] | None = None) -> Tensor:
        """Items of each state, and of `seen` beside it, as (B, E) item indices padded with -1."""
        return self.members[0].exclude(states, seen)

    def log_prob(self, states: Sequence[State], items_BG: Tensor) -> Tensor:
        """log p(item | state) over the whole catalogue: (B, G), differentiable."""
        log_MBG = torch.stack([member.log_prob(states, items_BG).double() for member in self.members])
        return log_MBG.logsumexp(0) - float(np.log(len(self.members)))

    def candidates(
        self,
        states: Sequence[State],
        depth: int,
        *,
        beams: int | None = None,
        exclude_seen: bool | None = None,
        seen: Sequence[IntArray] | None = None,
        batch_size: int = 64,
    ) -> EnsembleCandidates:
        """The union of the members' `depth` best items, with the probability that each member gives them.

        Args:
            states: what to recommend for.
            depth: items taken from each member.
            beams: width of each beam search; at least `depth`.
            exclude_seen: leave out seen items; by default as `repeat` says.
            seen: all items each user has seen, beside those in the state.
            batch_size: states decoded and scored at once.

        Raises:
            RequestError: depth below 1 or above the catalogue's size.
        """
        beams = max(depth, 20 if beams is None else beams)
        lists_M = [
            member.recommend(states, depth, beams=beams, exclude_seen=exclude_seen, seen=seen, batch_size=batch_size)
            for member in self.members
        ]
        union = [_union([slates[b] for slates in lists_M]) for b in range(len(states))]
        items_BC = padded(union)
        pairs = list(zip(self.members, lists_M, strict=True))
        found = [
            known_and_scored(member, states, slates, union, items_BC.shape[1], batch_size)
            for member, slates in (track(pairs, "ensemble") if len(states) > batch_size else pairs)
        ]
        return EnsembleCandidates(items_BC, np.stack(found))

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
        """The k candidates of each state with the greatest p; `log_probs_K` holds log p. Arguments as the members'.

        Raises:
            RequestError: k below 1 or above the catalogue's size, or a depth below k.
        """
        depth = candidate_depth(len(self.catalogue), k, self.depth)
        found = self.candidates(
            states, depth, beams=beams, exclude_seen=exclude_seen, seen=seen, batch_size=batch_size
        )
        return found.top(k)


def _union(slates: Sequence[Slate]) -> IntArray:
    """Items of all slates, each once, in rising order."""
    return np.unique(np.concatenate([np.asarray(slate.items_K, dtype=np.int64) for slate in slates]))


def known_and_scored(
    member: Mixable,
    states: Sequence[State],
    slates: Sequence[Slate],
    union: Sequence[IntArray],
    width: int,
    batch_size: int,
) -> FloatArray:
    """pi of every candidate, (B, C): known of the member's own list, and scored for what only others proposed.

    `union` has the candidates of each state in rising order, `slates` the member's own list among them.
    """
    pi_BC = np.zeros((len(states), width))
    missing = []
    for b, slate in enumerate(slates):
        own_K = np.asarray(slate.items_K, dtype=np.int64)
        pi_BC[b, np.searchsorted(union[b], own_K)] = np.exp(slate.log_probs_K)
        missing.append(np.setdiff1d(union[b], own_K, assume_unique=True))
    for start in range(0, len(states), batch_size):
        rows = range(start, min(start + batch_size, len(states)))
        wanted_BX = padded([missing[b] for b in rows])
        pi_BX = item_probabilities(member, states[rows.start : rows.stop], wanted_BX)
        for b, pi_X in zip(rows, pi_BX, strict=True):
            pi_BC[b, np.searchsorted(union[b], missing[b])] = pi_X[: len(missing[b])]
    return pi_BC
