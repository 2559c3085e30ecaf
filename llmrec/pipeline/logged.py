"""Logged impressions whose propensities are known, and a policy's importance weights on them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from llmrec.config import RewardSettings
from llmrec.dataset.impressions import Impressions
from llmrec.evaluation.off_policy import importance_weights
from llmrec.policy.language_policy import LanguagePolicy
from llmrec.seeding import numpy_stream
from llmrec.types import FloatArray, IntArray, State


@dataclass(frozen=True)
class LoggedImpressions:
    """Logged impressions with known propensities, state by state: M rows of S states.

    Attributes:
        states: the S states; `seen` what their users had chosen before.
        row_M: the state of each impression.
        reward_M: what each earned, over P(its place is looked at): what it earns where it is looked at for certain.
        note: which places count, and how.
        below_M: places of its slate below it, where the slate is ordered: a slate that is filled place by place logs
            the propensity of an item given the places above, which by itself says nothing of those.
    """

    states: list[State]
    seen: list[IntArray]
    row_M: IntArray
    item_M: IntArray
    propensity_M: FloatArray
    below_M: FloatArray
    reward_M: FloatArray
    note: str = ""

    @classmethod
    def of(
        cls,
        log: Impressions,
        limit: int,
        seed: int,
        reward: RewardSettings,
        *,
        without_replacement: bool = True,
        examination_K: FloatArray | None = None,
    ) -> LoggedImpressions | None:
        """A sample of at most `limit` states of a log; None where it has no propensities.

        A place that is looked at less earns less whatever is shown there, and weights do not undo that. Where it is
        known how often places are looked at, rewards are divided by it; else the first place of a slate counts alone.

        Args:
            log: the impressions.
            limit: at most so many states.
            seed: the run's seed.
            reward: what clicks and conversions are worth.
            without_replacement: a propensity is of an item given the places above; else of each place by itself
                (`off_policy.without_replacement`).
            examination_K: P(a place is looked at), from the first place on; None where it is not known.
        """
        look_M, note = _looks(log, examination_K)
        # A propensity of 0 says that the log could not have happened so; dividing by it says nothing.
        known_M = np.isfinite(log.propensity_M) & (log.propensity_M > 0) & (look_M > 0)
        rows = np.unique(log.state_row_M[known_M])
        if not len(rows):
            return None
        stream = numpy_stream(seed, "gate", "logged")
        # Whole states are drawn: the Des Raj terms need all places of a slate.
        rows = np.sort(stream.choice(rows, size=min(limit, len(rows)), replace=False))
        at_M = np.flatnonzero(known_M & np.isin(log.state_row_M, rows))
        clicks_M, conversions_M = log.click_M[at_M].astype(np.float64), log.conversion_M[at_M].astype(np.float64)
        return cls(
            [log.states[r] for r in rows],
            [log.seen[r] for r in rows],
            np.searchsorted(rows, log.state_row_M[at_M]),
            log.item_M[at_M],
            log.propensity_M[at_M].astype(np.float64),
            _below(log, (look_M > 0).astype(np.float64))[at_M] * without_replacement,
            (reward.click * clicks_M + reward.conversion * conversions_M) / look_M[at_M],
            note,
        )

    @property
    def users_M(self) -> list[str]:
        """The user of each impression."""
        return [str(self.states[row].user_id) for row in self.row_M]

    def weights(self, policy: LanguagePolicy, batch: int = 64) -> FloatArray:
        """Importance weight of each impression; F leaves out what the policy would not show.

        pi_F / mu, plus pi_F for each place below: averaged over a slate that was filled place by place without
        replacement this is unbiased for the expected reward of a single draw at a place that is looked at for certain
        (Des Raj 1956), if an item's `reward_M` depends on no place: clicks of the position-based model over P(look).
        """
        log_prob_M = self.log_prob(policy, batch)
        return importance_weights(log_prob_M, self.propensity_M) + self.below_M * np.exp(log_prob_M)

    @torch.no_grad()
    def log_prob(self, policy: LanguagePolicy, batch: int = 64) -> FloatArray:
        """log pi_F of each impression, (M,); F leaves out what the policy would not show (-inf)."""
        # Impressions of one state are scored in one packed row, so that its prompt is read once.
        order = np.argsort(self.row_M, kind="stable")
        start = np.searchsorted(self.row_M[order], np.arange(len(self.states) + 1))
        log_prob_M = np.empty(len(self.row_M))
        for first in range(0, len(self.states), batch):
            part = range(first, min(first + batch, len(self.states)))
            places = [order[start[s] : start[s + 1]] for s in part]
            # Slates are padded with an item that is there anyway; what it scores is thrown away.
            items_BG = np.full((len(part), max(map(len, places))), self.item_M[order[start[first]]], dtype=np.int64)
            for b, place in enumerate(places):
                items_BG[b, : len(place)] = self.item_M[place]
            found_BG = policy.log_prob(
                [self.states[s] for s in part],
                torch.from_numpy(items_BG),
                exclude_seen=policy.repeat == "exclude",
                seen=[self.seen[s] for s in part],
            ).cpu()
            for b, place in enumerate(places):
                log_prob_M[place] = found_BG[b, : len(place)].double().numpy()
        return log_prob_M


def _looks(log: Impressions, examination_K: FloatArray | None) -> tuple[FloatArray, str]:
    """P(its place is looked at) of each impression, (M,), 0 where that is not known; and a sentence.

    Impressions whose place was not logged are taken as looked at: nothing tells their places apart.
    """
    look_M, placed_M = np.ones(len(log)), np.isfinite(log.position_M)
    if not placed_M.any():
        return look_M, "Places were not logged, so all count as looked at."
    place_M = log.position_M[placed_M].astype(np.int64)
    if examination_K is None:
        look_M[placed_M] = place_M == place_M.min()
        return look_M, "Only the first place of a slate counts: nobody knows how often the others are looked at."
    curve_K = np.append(np.asarray(examination_K, dtype=np.float64), 0.0)
    look_M[placed_M] = curve_K[np.minimum(place_M, len(curve_K) - 1)]
    return look_M, "Rewards are divided by how often their place is looked at."


def stands_for(log: Impressions, look_M: FloatArray, *, without_replacement: bool) -> FloatArray | None:
    """How many impressions at places that are looked at each stands for, (M,); None where no propensity is known.

    Its look over its propensity, plus, where slates are filled without replacement, the looks of the places below it
    (Des Raj 1956): summed over the slates of a log, the expectation is the same for every item, however likely it is
    shown. 0 where the propensity is unknown.

    Args:
        log: the impressions.
        look_M: P(its place is looked at) of each.
        without_replacement: as in `LoggedImpressions.of`.
    """
    known_M = np.isfinite(log.propensity_M) & (log.propensity_M > 0) & (look_M > 0)
    if not known_M.any():
        return None
    count_M = np.zeros(len(log))
    count_M[known_M] = look_M[known_M] / log.propensity_M[known_M]
    return np.where(known_M, count_M + _below(log, look_M) * without_replacement, 0.0)


def _below(log: Impressions, weight_M: FloatArray) -> FloatArray:
    """The weight of the places of its slate below each, (M,); 0 in slates with a place or propensity unknown.

    Places of weight 0 are none.
    """
    # A place whose propensity is not known makes the conditioning of all others unknown, so such a slate counts place
    # by place, without the terms of the places below.
    kept_M = weight_M > 0
    lacking_M = kept_M & ~(np.isfinite(log.position_M) & np.isfinite(log.propensity_M))
    order = np.lexsort((np.nan_to_num(log.position_M), ~kept_M, log.state_row_M))
    slate_M = log.state_row_M[order]
    through_S = np.cumsum(np.bincount(log.state_row_M, weights=weight_M, minlength=len(log.states)))
    lacking_S = np.bincount(log.state_row_M[lacking_M], minlength=len(log.states))
    left_M = np.maximum(through_S[slate_M] - np.cumsum(weight_M[order]), 0.0)
    below_M = np.zeros(len(order))
    below_M[order] = np.where((lacking_S[slate_M] == 0) & kept_M[order], left_M, 0.0)
    return below_M
