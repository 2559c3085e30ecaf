"""Item-level terms beyond accuracy: novelty, the long tail, fair exposure of groups, repetition."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from llmrec.errors import DataError
from llmrec.rewards.past import latest_items, past_items
from llmrec.rewards.term import lookup
from llmrec.types import Feedback, FloatArray, IntArray, State


@dataclass(frozen=True, eq=False)
class NoveltyReward:
    """Self-information of an item, -log2 of its share of interactions, in bits (Zhou et al. 2010).

    share = (count + 1) / (all counts + N), so that an item nobody has met is finite.

    Example: counts 5, 1, 0 of three items. Shares 6/9, 2/9, 1/9: 0.585, 2.170 and 3.170 bits.
    """

    bits_N: FloatArray
    weight: float = 1.0
    name: str = "novelty"

    @classmethod
    def of(cls, popularity_N: FloatArray, weight: float = 1.0) -> NoveltyReward:
        """From the number of interactions of each item in the training period."""
        count_N = checked_counts(popularity_N, "novelty")
        return cls(-np.log2((count_N + 1) / (count_N.sum() + len(count_N))), weight)

    def __call__(self, states: Sequence[State], items_BK: IntArray, feedback: Feedback) -> FloatArray:
        """Bits of shape (B, K)."""
        return lookup(self.bits_N, items_BK, self.name)


@dataclass(frozen=True, eq=False)
class LongTailReward:
    """1 for an item of the long tail, 0 for one of the head; its mean over items shown is the share of the tail.

    The head is the fewest items that make `head_share` of all interactions, the most popular first (equal counts: the
    lower item index first); the tail is the rest.

    Example: counts 6, 2, 1, 1 and a head share of 0.8. The first two items make 8 of 10: values 0, 0, 1, 1.
    """

    tail_N: FloatArray
    weight: float = 1.0
    name: str = "long_tail"

    @classmethod
    def of(cls, popularity_N: FloatArray, head_share: float = 0.8, weight: float = 1.0) -> LongTailReward:
        """From the number of interactions of each item in the training period."""
        count_N = checked_counts(popularity_N, "long_tail")
        order_N = np.argsort(-count_N, kind="stable")
        before_N = np.cumsum(count_N[order_N]) - count_N[order_N]
        tail_N = np.empty(len(count_N))
        tail_N[order_N] = before_N >= head_share * count_N.sum() - 1e-9 * count_N.sum()  # 0.8 is not a sum of bits
        return cls(tail_N, weight)

    def __call__(self, states: Sequence[State], items_BK: IntArray, feedback: Feedback) -> FloatArray:
        """0 or 1, of shape (B, K)."""
        return lookup(self.tail_N, items_BK, self.name)


@dataclass(frozen=True, eq=False)
class ExposureReward:
    """log(target share / exposure share) of an item's group (provider or category), in nats.

    Below 0 for a group that is shown more than its share, above 0 for one that is shown less. Targets are fixed
    before training: equal, by the size of the catalogue, or by merit as in the fairness of exposure of Singh and
    Joachims (2018), who ask that exposure be proportional to merit; the exposure is that of the log, or of any slates
    that `of` is given. The value of an item is therefore a constant: it depends neither on the batch, nor on the
    number of processes, nor on the order of rollouts.

    Why a logarithm: under a KL penalty of coefficient b against a reference that exposes as measured, the optimum of
    weight * value alone is pi proportional to pi_ref * (target / exposure)^(weight / b), whose groups have the target
    shares at weight = b (exactly where all states are alike, since each state is normalised by itself). A larger
    weight overshoots, and without a KL penalty the group of the highest value takes all; the value does not follow
    what the policy shows by then. Measure its slates and build the term anew from those.

    Example: groups a, b shown 80 and 20 times, with equal targets. Shares 81/102 and 21/102 (counts + 1):
    log(0.5 / 0.794) = -0.463 for items of a, log(0.5 / 0.206) = 0.887 for those of b.
    """

    price_N: FloatArray
    weight: float = 1.0
    name: str = "exposure"

    @classmethod
    def of(
        cls, groups: Sequence[Hashable], exposure_N: FloatArray, target_N: FloatArray, weight: float = 1.0
    ) -> ExposureReward:
        """From each item's group and how often it was shown.

        Args:
            groups: The group of each item.
            exposure_N: How often each item was shown; one is added to the count of every group.
            target_N: Weight of each item in its group's target, 0 or more: ones for the size of the catalogue, merit
                (clicks), or one over the group's size for equal groups. One (in mean weight) is added as above.
            weight: Weight of the term.
        """
        number = {group: k for k, group in enumerate(dict.fromkeys(groups))}
        if len(number) < 2:
            raise DataError("Reward 'exposure' needs two groups of items or more; group them by something else.")
        group_N = np.array([number[group] for group in groups])
        shown_N, wanted_N = checked_counts(exposure_N, "exposure"), checked_counts(target_N, "exposure")
        shown_X = np.bincount(group_N, shown_N, minlength=len(number)) + 1.0
        wanted_X = np.bincount(group_N, wanted_N, minlength=len(number))
        wanted_X = wanted_X + wanted_X.sum() / max(shown_N.sum(), 1.0)  # the same prior count, in units of the target
        price_X = np.log(wanted_X / wanted_X.sum()) - np.log(shown_X / shown_X.sum())
        return cls(price_X[group_N], weight)

    def __call__(self, states: Sequence[State], items_BK: IntArray, feedback: Feedback) -> FloatArray:
        """Nats of shape (B, K)."""
        return lookup(self.price_N, items_BK, self.name)


@dataclass(frozen=True)
class RepetitionReward:
    """-1 for an item that stands in the state's history or session already, else 0.

    Example: after items 3 and 5, the slate (5, 7) is worth -1 and 0.
    """

    weight: float = 1.0
    name: str = "repetition"

    def __call__(self, states: Sequence[State], items_BK: IntArray, feedback: Feedback) -> FloatArray:
        """-1 or 0, of shape (B, K)."""
        row_M, item_M = past_items(states)
        width = 1 + max(int(items_BK.max(initial=0)), int(item_M.max(initial=0)))
        shown_BK = np.arange(len(items_BK))[:, None] * width + items_BK
        return -np.isin(shown_BK, row_M * width + item_M).astype(np.float64)


@dataclass(frozen=True, eq=False)
class CategoryRepetitionReward:
    """Minus the share of the last `window` interactions (history, then session) of the item's first category.

    Example: after films of the categories (war, war, drama, war), another war film is worth -3/4.
    """

    category_N: IntArray
    window: int = 10
    weight: float = 1.0
    name: str = "category_repetition"

    def __call__(self, states: Sequence[State], items_BK: IntArray, feedback: Feedback) -> FloatArray:
        """Shares in -1..0, of shape (B, K); 0 for a user without past."""
        past_BW = latest_items(states, self.window)
        there_BW = past_BW >= 0
        same_BKW = self.category_N[items_BK][:, :, None] == np.where(there_BW, self.category_N[past_BW], -1)[:, None]
        return np.asarray(-same_BKW.sum(axis=2) / np.maximum(there_BW.sum(axis=1), 1)[:, None])


def checked_counts(count_N: FloatArray, name: str) -> FloatArray:
    """Counts of items as floats; raises `DataError` where one is below 0, or none is above."""
    count_N = np.asarray(count_N, dtype=np.float64)
    if not (count_N >= 0).all() or not count_N.sum() > 0:
        raise DataError(f"Reward {name!r} needs counts of 0 or more, and one above 0; check the training period.")
    return count_N
