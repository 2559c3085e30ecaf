"""What logged feedback says of a judge on a policy's own lists.

A judge that knows less of users than a policy does expects of the policy's choices what is usual: it takes the gain
of lists that another model picked for smaller than it is, however many users it was corrected on, since what it
overlooks is just what these items were picked by. The log can tell. Of the impressions of people who are never met,
those count that the policy would have shown, too: how far their outcomes lie from what the judge expected there, in
the mean over them, is taken for the judge's error on the policy's lists and added to what it expects,

    V(policy) = mean_b q(s_b, list_b) + mean_m (y_m - q(s_m, i_m))   over impressions m with i_m in list(s_m),

a doubly robust estimate (Dudik et al. 2011). Where the log has propensities each impression counts as often as it
stands for (self-normalised), and the estimate is right whatever the judge believes. Where it has none, matching
stands in their place: right where the judge is, and where within a policy's choices the log shows what it shows
regardless of how they turn out. Its users are drawn anew with the judge's replicates, so the interval holds this
chance, too. Few matches make wide intervals.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from scipy import sparse

from llmrec.evaluation.ranking import slates_to_items
from llmrec.evaluation.significance import unit_codes
from llmrec.evaluation.simulated import BATCH, JudgeError, Replicated
from llmrec.seeding import numpy_stream
from llmrec.simulator.heads import user_draws
from llmrec.types import FloatArray, IntArray, Ranker, State

LEAST = 20
"""Impressions on a policy's own lists (effective ones, Kish) below which nothing is said of the judge."""
CLIP = 20.0
"""The most that an impression counts, as a multiple of the median one: rare ones are cut, a small bias."""


class Logged(Protocol):
    """Impressions with their states, such as `llmrec.dataset.impressions.Impressions`."""

    @property
    def states(self) -> Sequence[State]: ...  # noqa: D102
    @property
    def seen(self) -> Sequence[IntArray]: ...  # noqa: D102
    @property
    def state_row_M(self) -> IntArray: ...  # noqa: D102
    @property
    def item_M(self) -> IntArray: ...  # noqa: D102
    @property
    def click_M(self) -> FloatArray: ...  # noqa: D102
    @property
    def conversion_M(self) -> FloatArray: ...  # noqa: D102


@dataclass(frozen=True)
class Witnesses:
    """M impressions of S states of people who are not met, and what the judge did not expect of them.

    Attributes:
        states: the S states; `seen` what their users had chosen before.
        row_M: the state of each impression; `item_M` what was shown.
        rest_2M: click and conversion less what the judge expected.
        rest_2RM: the same by each replicate of the judge.
        weight_M: how much each impression counts: P(its place is looked at), over its propensity where it is known.
        user_M: whose it is, numbered from 0; `times_RU` how often each stands in each of R samples of them.
    """

    states: list[State]
    seen: list[IntArray]
    row_M: IntArray
    item_M: IntArray
    rest_2M: FloatArray
    rest_2RM: FloatArray
    weight_M: FloatArray
    user_M: IntArray
    times_RU: FloatArray

    @classmethod
    def of(
        cls,
        log: Logged,
        judge: Replicated,
        *,
        left_out: Collection[str],
        limit: int,
        seed: int,
        look_M: FloatArray | None = None,
        count_M: FloatArray | None = None,
    ) -> Witnesses:
        """Those of `log` who are not `left_out`.

        Args:
            log: impressions that nothing was fitted on.
            judge: whose error is sought.
            left_out: users who are met.
            limit: at most so many states, a uniform sample.
            seed: of the sample and of the draws of users.
            look_M: P(the place of each impression is looked at), where the judge was corrected for it.
            count_M: how many impressions each stands for, where propensities tell; 0 leaves one out.
        """
        look_M = np.ones(len(log.item_M)) if look_M is None else look_M
        random = numpy_stream(seed, "evaluation", "witnesses")
        rows = [row for row, state in enumerate(log.states) if state.user_id not in left_out]
        rows = sorted(random.choice(rows, size=min(limit, len(rows)), replace=False).tolist()) if rows else []
        at_M = np.flatnonzero(np.isin(log.state_row_M, rows))
        at_M = at_M[np.argsort(log.state_row_M[at_M], kind="stable")]
        row_M, item_M = np.searchsorted(rows, log.state_row_M[at_M]), np.asarray(log.item_M)[at_M]
        states = [log.states[row] for row in rows]
        expected_2M, by_replicate_2RM = _expected(judge, states, row_M, item_M)
        outcome_2M = np.stack([log.click_M[at_M], log.conversion_M[at_M]]).astype(np.float64) / look_M[at_M]
        weight_M = look_M[at_M] if count_M is None else _clipped(count_M[at_M])
        user_S = unit_codes([state.user_id or f"\0{row}" for row, state in enumerate(states)])
        users, replicas = int(user_S.max(initial=-1)) + 1, by_replicate_2RM.shape[1]
        return cls(
            states,
            [log.seen[row] for row in rows],
            row_M,
            item_M,
            outcome_2M - expected_2M,
            outcome_2M[:, None] - by_replicate_2RM,
            weight_M,
            user_S[row_M] if users else np.zeros(0, dtype=np.int64),
            user_draws(users, replicas, random) if users else np.zeros((replicas, 0)),
        )

    def lists(self, policy: Ranker, k: int) -> IntArray:
        """What the policy would have shown in each state, (S, k); -1 where a list is shorter."""
        if not self.states:
            return np.zeros((0, k), dtype=np.int64)
        return slates_to_items(policy.recommend(self.states, k, seen=self.seen), k)

    def error(self, items_SK: IntArray) -> JudgeError:
        """How far the judge is off on a policy's lists, an impression."""
        own_M = np.flatnonzero((items_SK[self.row_M] == self.item_M[:, None]).any(axis=1) & (self.weight_M > 0))
        weight_m, user_m = self.weight_M[own_M], self.user_M[own_M]
        if weight_m.sum() ** 2 < LEAST * (weight_m @ weight_m) or not len(own_M):
            return JudgeError(np.zeros(2), np.zeros(self.rest_2RM.shape[:2]), len(own_M))
        # One number a user and replicate: how much each weighs, and what was not expected of that.
        of_user = sparse.csr_array(
            (weight_m, (user_m, np.arange(len(own_M)))), shape=(self.times_RU.shape[1], len(own_M))
        )
        much_R = self.times_RU @ np.asarray(of_user.sum(axis=1)).ravel()
        times_Rm = self.times_RU[:, user_m] * weight_m
        mean_2 = self.rest_2M[:, own_M] @ weight_m / weight_m.sum()
        sum_2R = np.einsum("rm,krm->kr", times_Rm, self.rest_2RM[:, :, own_M], optimize=True)
        # A sample without any of those users says what all of them say.
        mean_2R = np.where(much_R > 0, sum_2R / np.where(much_R > 0, much_R, 1.0), mean_2[:, None])
        return JudgeError(mean_2, mean_2R, len(own_M))


def _clipped(count_M: FloatArray) -> FloatArray:
    known_M = count_M[count_M > 0]
    return np.minimum(count_M, CLIP * np.median(known_M)) if len(known_M) else count_M


def _expected(
    judge: Replicated, states: Sequence[State], row_M: IntArray, item_M: IntArray
) -> tuple[FloatArray, FloatArray]:
    """P(click) and P(click and conversion) of logged pairs, (2, M), and by each replicate, (2, R, M)."""
    # One padded slate a state, so that a state is encoded once.
    place_M = np.arange(len(row_M)) - np.searchsorted(row_M, row_M)
    items_SK = np.full((len(states), int(place_M.max(initial=0)) + 1), -1, dtype=np.int64)
    items_SK[row_M, place_M] = item_M
    points, drawn = [np.zeros((2, 0))], []
    for low in range(0, len(states), BATCH):
        part = slice(low, low + BATCH)
        found, doubt = judge.with_replicates(states[part], items_SK[part])
        real = items_SK[part] >= 0
        points.append(np.stack([found.click_BK[real], (found.click_BK * found.conversion_BK)[real]]))
        drawn.append(np.stack([doubt.click_RBK[:, real], doubt.joint_RBK[:, real]]))
    return np.concatenate(points, axis=1), np.concatenate(drawn, axis=2) if drawn else np.zeros((2, 1, 0))
