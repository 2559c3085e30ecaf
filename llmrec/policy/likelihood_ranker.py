"""Ranking by the likelihood that a model gives to items, without any training: the row "before SFT".

    score(i | state) = s(i | state) - prior * s(i) + popularity * log(1 + n_i)

s is the log-likelihood of the item's text (`likelihood`), s(i) that without a state, n_i how often the item was
chosen in training. A pretrained model knows better what follows from a history than what is chosen often here: s by
itself is led by titles that are likely as text, whatever was watched. Less all of s(i) it is the pointwise mutual
information of item and state (Holtzman et al. 2021, "surface form competition"); with log n_i it is Bayes' rule,
the shop's own counts the prior. The shares are chosen on validation events (`calibrated`); items are read once.

A ranker of scores: it can be mixed with others (`policy.mixture.Scores`), and takes the place of a policy where
something is only recommended. Any causal language model will do, a trained one too.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
import torch
from scipy.special import softmax

from llmrec.errors import RequestError
from llmrec.policy.best_first import best_first_search
from llmrec.policy.decoding import check_k
from llmrec.policy.filtered import hidden_items, padded
from llmrec.policy.heads import checked_head
from llmrec.policy.language_policy import LanguagePolicy
from llmrec.policy.likelihood import among_legal, is_read, item_sums, nodes_to_read, read_tree
from llmrec.policy.walks import LikelihoodWalk
from llmrec.progress import track
from llmrec.types import FloatArray, IntArray, Slate, State

UNTIL_DECIDED = 1_000_000
"""Of `tokens`: all that are needed to tell an item from the others, however many."""
READ = 4096
"""Prefixes up to which a tree is read as a whole rather than searched."""
AT_ONCE, AT_ONCE_ON_GPU, ENTRIES = 8, 64, 1 << 24
"""States that are read together, and the most values of nodes that are kept for them."""


@dataclass(frozen=True)
class Shares:
    """How the likelihood is corrected.

    Attributes:
        prior: of the log-likelihood without a state, which is taken off.
        popularity: of log(1 + how often an item was chosen), which is added.
    """

    prior: float = 1.0
    popularity: float = 0.0


_KEPT = ("_empty", "prior_N", "_tail_N", "_remembered")
GRID = tuple(
    Shares(prior, popularity)
    for prior, popularity in itertools.product((0.0, 0.25, 0.5, 0.75, 1.0), (0.0, 0.5, 1.0, 2.0, 4.0, 8.0))
)
"""What `calibrated` chooses from."""


@dataclass(frozen=True)
class Calibrated:
    """What was chosen on validation events.

    Attributes:
        ranker: with the best shares.
        ndcg: NDCG@k of each of the grid, in its order.
        grid: what was tried.
    """

    ranker: LikelihoodRanker
    ndcg: tuple[float, ...]
    grid: tuple[Shares, ...]


class LikelihoodRanker:
    """Ranks the catalogue by corrected likelihood.

    Args:
        policy: model, catalogue and wording; its pi is not used.
        shares: of the corrections.
        tokens: of an item that are read at a state; the rest has the likelihood without a state. None reads items to
            their end.
        count_N: how often each item was chosen, for `Shares.popularity`.

    Raises:
        RequestError: tokens below 1, counts that do not fit, or a share of counts that there are not.
    """

    name = "likelihood"

    def __init__(
        self,
        policy: LanguagePolicy,
        shares: Shares = Shares(),
        *,
        tokens: int | None = UNTIL_DECIDED,
        count_N: FloatArray | None = None,
    ) -> None:
        self.policy, self.shares, self.tokens, self.count_N = policy, shares, tokens, count_N
        if count_N is not None and count_N.shape != (len(policy.catalogue),):
            raise RequestError(f"There are {len(policy.catalogue)} items, but counts of the shape {count_N.shape}.")
        if count_N is None and shares.popularity:
            raise RequestError("A share of the items' popularity needs their counts; give count_N.")
        self._nodes = len(nodes_to_read(policy.index, tokens))
        self._remembered: dict[State, FloatArray] = {}

    @property
    def _decided(self) -> bool:
        """Whether items are read at least until they are told from all others."""
        return self.tokens is None or self.tokens >= self.policy.index.max_length

    @cached_property
    def _empty(self) -> torch.Tensor:
        """Node values without a state, of all tokens: (1, M)."""
        ids, mask = self.policy.encode([State()])
        return read_tree(self.policy.model, ids, mask, self.policy.index)

    @cached_property
    def prior_N(self) -> FloatArray:
        """log-likelihood of each item without a state, (N,); read once."""
        prior_N: FloatArray = _array(item_sums(self.policy.index, self._empty))[0]
        return prior_N

    @cached_property
    def _tail_N(self) -> FloatArray:
        """Of it, what belongs to tokens that are not read at a state."""
        kept = self._empty.masked_fill(is_read(self.policy.index, self.tokens), 0.0)
        tail_N: FloatArray = _array(item_sums(self.policy.index, kept))[0]
        return tail_N

    def with_shares(self, shares: Shares) -> Self:
        """The same with other shares; what was read, without a state and to be remembered, is kept."""
        other = type(self)(self.policy, shares, tokens=self.tokens, count_N=self.count_N)
        kept = {name: value for name, value in vars(self).items() if name in _KEPT}
        vars(other).update(kept)
        return other

    def likelihood(self, states: Sequence[State]) -> FloatArray:
        """log-likelihood of every item at each state, (B, N)."""
        if self._remembered and all(state in self._remembered for state in states):
            return np.array([self._remembered[state] for state in states]).reshape(-1, len(self.policy.catalogue))
        out = np.empty((len(states), len(self.policy.catalogue)))
        for part, ids, mask in self._batches(states):
            value_BM = read_tree(self.policy.model, ids, mask, self.policy.index, tokens=self.tokens)
            out[part] = _array(item_sums(self.policy.index, value_BM))
        return out + self._tail_N

    def remember(self, states: Sequence[State]) -> None:
        """Reads `states` once: this ranker, and it with other shares, answer about them from memory (B x N)."""
        new = list(dict.fromkeys(state for state in states if state not in self._remembered))
        if new:
            self._remembered |= zip(new, self.likelihood(new), strict=True)

    def with_pi(self, states: Sequence[State]) -> tuple[FloatArray, FloatArray]:
        """`likelihood` and log pi of every item, (B, N) each, from one reading.

        Raises:
            RequestError: items are not read until they are decided, so that pi is not known.
        """
        if not self._decided:
            raise RequestError(f"Items of which {self.tokens} tokens are read have no known pi; read all tokens.")
        likelihood_BN, pi_BN = (np.empty((len(states), len(self.policy.catalogue))) for _ in range(2))
        index = self.policy.index
        for part, ids, mask in self._batches(states):
            value_BM = read_tree(self.policy.model, ids, mask, index, tokens=self.tokens)
            likelihood_BN[part] = _array(item_sums(index, value_BM))
            pi_BN[part] = _array(item_sums(index, among_legal(index, value_BM)))
        return likelihood_BN + self._tail_N, pi_BN

    def corrected(self, likelihood_BN: FloatArray) -> FloatArray:
        """Scores from likelihoods, (B, N)."""
        return likelihood_BN + self._term(self.shares)

    def score(self, states: Sequence[State]) -> FloatArray:
        """Scores of all items, (B, N)."""
        return self.corrected(self.likelihood(states))

    def distribution(self, states: Sequence[State], power: float = 1.0) -> FloatArray:
        """The softmax of `power` times the scores: (B, N)."""
        probability_BN: FloatArray = softmax(power * self.score(states), axis=1)
        return probability_BN

    def recommend(
        self,
        states: Sequence[State],
        k: int,
        *,
        seen: Sequence[IntArray] | None = None,
        exclude_seen: bool | None = None,
        search: bool | None = None,
    ) -> list[Slate]:
        """The k items of each state with the greatest scores; `log_probs_K` holds the scores.

        Args:
            states: what to recommend for.
            k: items wanted; a slate is shorter where fewer items are allowed.
            seen: all items each user has seen, beside those in the state.
            exclude_seen: leave out seen items; by default as the policy's `repeat` says.
            search: find the same items by best-first search in place of reading all; by default where the tree has
                more than `READ` prefixes. Only for items that are read whole or until they are decided.

        Raises:
            RequestError: k below 1 or above the catalogue's size, or a search where it cannot be.
        """
        check_k(k, len(self.policy.catalogue))
        hide = self.policy.repeat == "exclude" if exclude_seen is None else exclude_seen
        hidden_BE = padded(hidden_items(states, seen)) if hide else np.empty((len(states), 0), dtype=np.int64)
        searchable = self._decided
        if search and not searchable:
            raise RequestError(
                f"Items of which {self.tokens} tokens are read cannot be searched for; read all items."
            )
        read = bool(self._remembered) and all(state in self._remembered for state in states)
        if search or (search is None and searchable and self._nodes > READ and not read):
            return self._searched(states, k, hidden_BE)
        score_BN = self.score(states)
        row, at = np.nonzero(hidden_BE >= 0)
        score_BN[row, hidden_BE[row, at]] = -np.inf
        order_BK = np.argsort(-score_BN, axis=1, kind="stable")[:, :k]
        return [_slate(items, score_N[items]) for items, score_N in zip(order_BK, score_BN, strict=True)]

    def _searched(self, states: Sequence[State], k: int, hidden_BE: IntArray) -> list[Slate]:
        policy, slates = self.policy, [Slate((), ())] * len(states)
        term_N = torch.from_numpy(self._term(self.shares) + self._tail_N)
        walk = LikelihoodWalk(checked_head(policy.model), policy.index, whole=self.tokens is None, term_N=term_N)
        for part, ids, mask in self._batches(states):
            exclude = torch.from_numpy(hidden_BE[part])
            found = best_first_search(policy.model, ids, mask, k, policy.index, exclude=exclude, walk=walk)
            for b, items_K, score_K in zip(part, found.items_BK.cpu(), found.log_prob_BK.cpu(), strict=True):
                slates[b] = _slate(items_K.numpy(), score_K.numpy())
        return slates

    def _batches(self, states: Sequence[State]) -> Iterator[tuple[list[int], Any, Any]]:
        at_once = AT_ONCE_ON_GPU if self.policy.index.device.type == "cuda" else AT_ONCE
        size = max(1, min(at_once, ENTRIES // self.policy.index.n_nodes))
        batches = self.policy.batches(states, size)
        yield from track(batches, "likelihood") if len(batches) > 1 else batches

    def _term(self, shares: Shares) -> FloatArray:
        """What is added to the likelihood of each item, (N,)."""
        term_N: FloatArray = -shares.prior * self.prior_N
        if self.count_N is not None:
            term_N = term_N + shares.popularity * np.log1p(self.count_N)
        return term_N

    def calibrated(
        self,
        states: Sequence[State],
        targets: Sequence[int],
        *,
        seen: Sequence[IntArray] | None = None,
        k: int = 10,
        grid: Iterable[Shares] = GRID,
    ) -> Calibrated:
        """Chooses the shares with the best NDCG@k on validation events, of equals the first; items are read once.

        Args:
            states: validation states.
            targets: the item index that was then chosen at each.
            seen: see `recommend`.
            k: cut-off of the metric.
            grid: what to choose from; where there are no counts, only what needs none.

        Raises:
            RequestError: no event, or nothing to choose from.
        """
        tried = tuple(shares for shares in grid if self.count_N is not None or not shares.popularity)
        if not tried or not len(states) or len(targets) != len(states):
            raise RequestError("Calibrating needs validation events, one target for each, and shares to choose from.")
        hide = self.policy.repeat == "exclude"
        hidden_BE = padded(hidden_items(states, seen)) if hide else np.empty((len(states), 0), dtype=np.int64)
        row, at = np.nonzero(hidden_BE >= 0)
        likelihood_BN, target_B = self.likelihood(states), np.asarray(targets, dtype=np.int64)
        likelihood_BN[row, hidden_BE[row, at]] = -np.inf
        ndcg = tuple(float(_ndcg(likelihood_BN + self._term(shares), target_B, k).mean()) for shares in tried)
        return Calibrated(self.with_shares(tried[int(np.argmax(ndcg))]), ndcg, tried)


def _array(values_BN: torch.Tensor) -> FloatArray:
    array_BN: FloatArray = values_BN.cpu().numpy()
    return array_BN


def _slate(items_K: IntArray, score_K: FloatArray) -> Slate:
    kept = np.isfinite(score_K)
    return Slate(tuple(items_K[kept].tolist()), tuple(score_K[kept].tolist()))


def _ndcg(score_BN: FloatArray, target_B: IntArray, k: int) -> FloatArray:
    """NDCG@k of each row, (B,), with the ties of `recommend`."""
    own_B1 = np.take_along_axis(score_BN, target_B[:, None], 1)
    before_N = np.arange(score_BN.shape[1]) < target_B[:, None]
    rank_B = ((score_BN > own_B1) | ((score_BN == own_B1) & before_N)).sum(1)
    found_B = (rank_B < k) & np.isfinite(own_B1[:, 0])
    ndcg_B: FloatArray = np.where(found_B, 1.0 / np.log2(rank_B + 2.0), 0.0)
    return ndcg_B
