"""The visible half of the log: slates drawn from the logging policy with exact propensities, clicks, conversions.

A slate is drawn in order without replacement (Plackett-Luce): P(i at k | earlier) = mu_i / (1 - sum of earlier mu).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from llmrec.dataset.world.truth import (
    Parameters,
    Truth,
    click_logit,
    conversion_logit,
    examination_K,
    logging_policy_BN,
    sigmoid,
)
from llmrec.progress import Bar
from llmrec.seeding import numpy_stream
from llmrec.types import BoolArray, FloatArray, IntArray

START = 1_704_067_200  # 2024-01-01 00:00 UTC
DAY = 86_400
DAYS = 90
_SESSION_GAP_S = 1800
_CELLS = 2_000_000  # (user, item) pairs whose probabilities are held at a time


@dataclass(frozen=True)
class Slates:
    """M slates of K items: whose (user row), when (seconds), in which of the user's sessions, and what."""

    user_M: IntArray
    time_M: IntArray
    session_M: IntArray
    items_MK: IntArray
    propensity_MK: FloatArray


def draw_slates(
    truth: Truth, parameters: Parameters, users: int, slates_per_user: int, slate_size: int, seed: int
) -> Slates:
    """Draws the slates of all users, ordered by user and then time, from the streams "times" and "slates"."""
    time_US = _times(numpy_stream(seed, "world", "times"), users, slates_per_user)
    new_session = np.diff(time_US, axis=1, prepend=time_US[:, :1]) > _SESSION_GAP_S
    stream = numpy_stream(seed, "world", "slates")
    chunk = max(1, _CELLS // truth.topic_N.shape[0])
    items, propensities = [], []
    with Bar("World: slates", users) as bar:
        for low in range(0, users, chunk):
            user_B = np.arange(low, min(low + chunk, users))
            policy_BN = logging_policy_BN(truth, parameters, user_B)
            row_M = np.repeat(np.arange(user_B.size), slates_per_user)
            items_MK = without_replacement(stream, policy_BN, row_M, slate_size)
            items.append(items_MK)
            propensities.append(sequential_propensity(policy_BN, row_M, items_MK))
            bar.advance(user_B.size)
    return Slates(
        user_M=np.repeat(np.arange(users), slates_per_user),
        time_M=time_US.ravel(),
        session_M=np.cumsum(new_session, axis=1, dtype=np.int64).ravel(),
        items_MK=np.concatenate(items),
        propensity_MK=np.concatenate(propensities),
    )


def _times(stream: np.random.Generator, users: int, slates: int) -> IntArray:
    """Strictly increasing times (users, slates): visits at random moments of the period, some with several slates."""
    visit_US = stream.integers(0, max(1, (slates + 1) // 2), (users, slates))
    start_UV = stream.integers(0, DAYS * DAY - 2 * DAY, (users, slates))
    moment_US = np.take_along_axis(start_UV, visit_US, axis=1) + stream.integers(0, 1200, (users, slates))
    return START + np.sort(moment_US, axis=1) + np.arange(slates)


def without_replacement(
    stream: np.random.Generator, policy_BN: FloatArray, row_M: IntArray, slate_size: int
) -> IntArray:
    """Draws M ordered slates (M, K) of distinct items, slate m from row `row_M[m]` of the policy.

    An item drawn a second time is dropped and drawn anew, which is exactly renormalising over the items left.
    """
    # One ascending sequence for all rows (row b lies in [b, b + 1)) lets one search serve every draw.
    cumulative_BN = np.cumsum(policy_BN, axis=1)
    ladder = (cumulative_BN / cumulative_BN[:, -1:] + np.arange(len(policy_BN))[:, None]).ravel()
    n = policy_BN.shape[1]
    items_MK = np.full((row_M.size, slate_size), -1, dtype=np.int64)
    filled_M = np.zeros(row_M.size, dtype=np.int64)
    open_M = np.arange(row_M.size)
    while open_M.size:
        rung = np.searchsorted(ladder, row_M[open_M] + stream.random(open_M.size), side="right")
        drawn = np.minimum(rung - row_M[open_M] * n, n - 1)
        fresh = ~(items_MK[open_M] == drawn[:, None]).any(axis=1)
        slate = open_M[fresh]
        items_MK[slate, filled_M[slate]] = drawn[fresh]
        filled_M[slate] += 1
        open_M = open_M[filled_M[open_M] < slate_size]
    return items_MK


def sequential_propensity(policy_BN: FloatArray, row_M: IntArray, items_MK: IntArray) -> FloatArray:
    """P(item at k | items at earlier positions), shape (M, K)."""
    mass_MK = policy_BN[row_M[:, None], items_MK]
    earlier_MK = np.cumsum(mass_MK, axis=1) - mass_MK
    return np.minimum(mass_MK / (1.0 - earlier_MK), 1.0)  # rounding, where the last item left is certain


def draw_feedback(
    truth: Truth, parameters: Parameters, slates: Slates, position_bias: float, seed: int
) -> tuple[BoolArray, BoolArray]:
    """Independent clicks and conversions (M, K) for each impression, from the stream "feedback"."""
    stream = numpy_stream(seed, "world", "feedback")
    user, shape = slates.user_M[:, None], slates.items_MK.shape
    click = sigmoid(click_logit(truth, parameters, user, slates.items_MK))
    click_MK = stream.random(shape) < click * examination_K(shape[1], position_bias)
    buy = sigmoid(conversion_logit(truth, parameters, user, slates.items_MK))
    return click_MK, click_MK & (stream.random(shape) < buy)


def events_table(
    slates: Slates,
    click_MK: BoolArray,
    conversion_MK: BoolArray,
    user_ids: pl.Series,
    item_ids: pl.Series,
    prices: pl.Series,
) -> pl.DataFrame:
    """The events: an impression, and where it happened a click and a conversion, share time, session and position.

    Every event carries the propensity of its impression; the value of a conversion is the item's price.
    """
    m, k = slates.items_MK.shape
    user, item = pl.Series(np.repeat(slates.user_M, k)), pl.Series(slates.items_MK.ravel())
    user_id = user_ids.gather(user)
    shown = pl.DataFrame(
        {
            "user_id": user_id,
            "item_id": item_ids.gather(item),
            "time": np.repeat(slates.time_M, k),
            "position": np.tile(np.arange(k, dtype=np.int32), m),
            "propensity": slates.propensity_MK.ravel(),
            "number": np.repeat(slates.session_M, k),
            "price": prices.gather(item),
        }
    ).with_columns(session=pl.format("{}-{}", "user_id", "number"))
    parts = []
    everything = np.ones((m, k), dtype=bool)
    for kind, mask in (("impression", everything), ("click", click_MK), ("conversion", conversion_MK)):
        value = pl.col("price") if kind == "conversion" else pl.lit(None, dtype=pl.Float64)
        part = shown.filter(pl.Series(mask.ravel()))
        parts.append(part.with_columns(kind=pl.lit(kind), value=value))
    return pl.concat(parts).drop("number", "price")
