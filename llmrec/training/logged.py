"""Logged slates as rows to learn from: what was shown in a state, what it earned, and how likely it was."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from llmrec.config import OffPolicySettings
from llmrec.dataset.impressions import Impressions
from llmrec.errors import DataError
from llmrec.files import sha256_of
from llmrec.seeding import numpy_stream
from llmrec.training.obeyed import Obeyed, chosen, closed_to, shut
from llmrec.training.propensities import propensities
from llmrec.types import BoolArray, FloatArray, IntArray, State


@dataclass(frozen=True, slots=True)
class LoggedSlates:
    """B slates of up to K rows, the highest place first; K is the longest slate's.

    Attributes:
        states: the state of each slate.
        seen: for each, all items that its user had chosen before.
        items_BK: what was shown, -1 behind the last.
        reward_BK: what each row earned.
        propensity_BK: mu, above 0 and at most 1.
        below_BK: how many places lie below, where the propensity is of an item given the places above; else 0.
        share_BK: one over the rows of the slate, 0 where there is none or where a row is left out.
        note: where the propensities come from.
    """

    states: Sequence[State]
    seen: Sequence[IntArray]
    items_BK: IntArray
    reward_BK: FloatArray
    propensity_BK: FloatArray
    below_BK: FloatArray
    share_BK: FloatArray
    note: str = ""

    def __len__(self) -> int:
        return len(self.states)

    def take(self, rows: IntArray) -> LoggedSlates:
        """The slates of `rows`, in that order."""
        return LoggedSlates(
            [self.states[r] for r in rows],
            [self.seen[r] for r in rows],
            self.items_BK[rows],
            self.reward_BK[rows],
            self.propensity_BK[rows],
            self.below_BK[rows],
            self.share_BK[rows],
            self.note,
        )

    def open(self, repeat: str, rules: Obeyed | None = None) -> tuple[LoggedSlates, Sequence[IntArray] | None]:
        """Slates that have a row whose item the policy could show, with those rows alone, and what it could not.

        A policy that shows nothing twice, and nothing that is forbidden, shows such an item with probability 0, so
        that its term in every sum is 0: the other rows keep their shares and places.
        """
        closed = closed_to(self.states, self.seen, repeat, rules)
        if closed is None:
            return self, None
        fresh = np.array([~shut(closed, b, row) for b, row in enumerate(self.items_BK)], dtype=bool)
        # the shares of the other rows stay: rescaled they would estimate the value of another slate
        share = np.where(fresh.reshape(self.share_BK.shape), self.share_BK, 0.0)
        rows = np.flatnonzero((share > 0).any(axis=1))
        return replace(self, share_BK=share).take(rows), chosen(closed, rows.tolist())

    def digest(self) -> str:
        """A hash of all that a training reads of the slates."""
        arrays = (self.items_BK, self.reward_BK, self.propensity_BK, self.below_BK, self.share_BK)
        return sha256_of(repr(list(self.states)), *(np.ascontiguousarray(a).tobytes() for a in arrays))


def logged_slates(
    log: Impressions, reward_M: FloatArray, settings: OffPolicySettings, group_N: IntArray, *, seed: int
) -> LoggedSlates:
    """The slates of `log`, at most `settings.examples` of them, drawn by the seed.

    Args:
        log: impressions.
        reward_M: what each of them earned.
        settings: where propensities come from and how they are meant.
        group_N: each item's group, for fitted propensities; see `llmrec.training.propensities`.
        seed: the run's seed.

    Raises:
        DataError: there is no impression, none earned anything, rewards are not finite, or a propensity cannot be
            used.
    """
    _check_rewards(log, reward_M)
    mu = propensities(log, settings.propensities, group_N, seed=seed)
    # by slate, then place (the last key counts first); unknown places keep the log's order
    order = np.lexsort((np.nan_to_num(log.position_M), log.state_row_M))
    slate_M, count_B = log.state_row_M[order], np.bincount(log.state_row_M, minlength=len(log.states))
    # places counted within each slate: logged positions may have gaps or be missing
    place_M = np.arange(len(order)) - (np.cumsum(count_B) - count_B)[slate_M]
    shape = (len(log.states), int(count_B.max()))

    def table(values: FloatArray | IntArray, empty: float) -> FloatArray:
        made = np.full(shape, empty, dtype=np.float64)
        made[slate_M, place_M] = values
        return made

    # One fitted or placeless row spoils a slate: Des Raj's weights need the propensity of every place given those
    # above.
    in_order = _in_order(log, mu.given_M, settings.without_replacement)[slate_M]
    slates = LoggedSlates(
        log.states,
        log.seen,
        table(log.item_M[order], -1).astype(np.int64),
        table(np.asarray(reward_M, dtype=np.float64)[order], 0.0),
        table(mu.propensity_M[order], 1.0),
        table(np.where(in_order, count_B[slate_M] - 1 - place_M, 0), 0.0),
        table(1.0 / count_B[slate_M], 0.0),
        mu.note,
    )
    rows = np.flatnonzero(count_B)
    drawn = numpy_stream(seed, "off_policy", "slates").permutation(len(rows))[: settings.examples]
    return slates.take(rows[np.sort(drawn)])


def _in_order(log: Impressions, given_M: BoolArray, without_replacement: bool) -> BoolArray:
    """Slates whose propensities are all of an item given the places above it: (B,)."""
    usable_M = given_M & np.isfinite(log.position_M)
    lacking_B = np.bincount(log.state_row_M[~usable_M], minlength=len(log.states))
    return np.asarray((lacking_B == 0) & without_replacement)


def _check_rewards(log: Impressions, reward_M: FloatArray) -> None:
    if not len(log):
        raise DataError("The log holds no impression to learn from; import a data set whose events have some.")
    if len(reward_M) != len(log):
        raise DataError(f"There are {len(log)} impressions but {len(reward_M)} rewards; give one an impression.")
    bad = np.flatnonzero(~np.isfinite(reward_M))
    if len(bad):
        raise DataError(f"The reward of impression {bad[0]} is {reward_M[bad[0]]}; every reward must be finite.")
    if not np.any(reward_M):
        raise DataError(
            "No impression of the log earned anything, so there is nothing to learn from; give reward.click or "
            "reward.conversion a weight, or a log with clicks."
        )
