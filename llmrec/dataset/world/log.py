"""The visible half of the log: slates drawn from the logging policy with exact propensities, clicks, conversions.

How a slate is drawn stands in `slates`; what a scenario changes in `scenario`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import polars as pl

from llmrec.config import ScenarioSettings
from llmrec.dataset.world.scenario import DAY, DAYS, START, Scenario
from llmrec.dataset.world.slates import SlateSampler
from llmrec.dataset.world.truth import (
    WorldParameters,
    WorldTruth,
    click_logit,
    conversion_logit,
    examination_K,
    sigmoid,
)
from llmrec.progress import Bar
from llmrec.seeding import numpy_stream
from llmrec.types import BoolArray, FloatArray, IntArray

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
    truth: WorldTruth,
    parameters: WorldParameters,
    users: int,
    slates_per_user: int,
    slate_size: int,
    seed: int,
    scenario: Scenario | None = None,
) -> Slates:
    """Draws the slates of all users, ordered by user and then time, from the streams "times" and "slates".

    The phases of a scenario are drawn one after another, as what is shown in one may depend on the ones before.
    """
    scenario = scenario or Scenario.draw(ScenarioSettings(), users, truth.topic_N.size, seed)
    time_US = scenario.times(_times(numpy_stream(seed, "world", "times"), users, slates_per_user))
    new_session = np.diff(time_US, axis=1, prepend=time_US[:, :1]) > _SESSION_GAP_S
    stream = numpy_stream(seed, "world", "slates")
    user_M, phase_M = np.repeat(np.arange(users), slates_per_user), scenario.phase_M(time_US.ravel())
    items_MK = np.zeros((user_M.size, slate_size), dtype=np.int64)
    propensity_MK = np.zeros(items_MK.shape)
    shown_N = np.zeros(truth.topic_N.size, dtype=np.int64)
    appeal_N = parameters.logging_appeal * truth.appeal_N
    with Bar("World: slates", user_M.size) as bar:
        # What the logging policy shows may follow what it has shown (the popularity loop), so phases cannot be drawn
        # at once.
        for phase in range(scenario.phases):
            sampler = SlateSampler(truth, parameters, scenario.tilt_N(phase, shown_N, appeal_N))
            for part_M in _parts(user_M, np.flatnonzero(phase_M == phase), max(1, _CELLS // sampler.width)):
                items_MK[part_M], propensity_MK[part_M] = sampler.draw(stream, user_M[part_M], slate_size)
                shown_N += np.bincount(items_MK[part_M].ravel(), minlength=shown_N.size)
                bar.advance(part_M.size)
    return Slates(
        user_M=user_M,
        time_M=time_US.ravel(),
        session_M=np.cumsum(new_session, axis=1, dtype=np.int64).ravel(),
        items_MK=items_MK,
        propensity_MK=propensity_MK,
    )


def _parts(user_M: IntArray, rows: IntArray, users: int) -> Iterator[IntArray]:
    """`rows` (ordered by user) in parts of the slates of `users` users each."""
    border = np.flatnonzero(np.diff(user_M[rows] // users)) + 1
    return (part for part in np.split(rows, border) if part.size)


def _times(stream: np.random.Generator, users: int, slates: int) -> IntArray:
    """Strictly increasing times (users, slates): visits at random moments of the period, some with several slates."""
    visit_US = stream.integers(0, max(1, (slates + 1) // 2), (users, slates))
    start_UV = stream.integers(0, DAYS * DAY - 2 * DAY, (users, slates))
    moment_US = np.take_along_axis(start_UV, visit_US, axis=1) + stream.integers(0, 1200, (users, slates))
    # Plus 0, 1, 2, ...: sorted moments may tie, times of one user must not.
    return START + np.sort(moment_US, axis=1) + np.arange(slates)


def draw_feedback(
    truth: WorldTruth,
    parameters: WorldParameters,
    slates: Slates,
    position_bias: float,
    seed: int,
    scenario: Scenario | None = None,
) -> tuple[BoolArray, BoolArray]:
    """Independent clicks and conversions (M, K) for each impression, from the stream "feedback"."""
    stream = numpy_stream(seed, "world", "feedback")
    user, shape = slates.user_M[:, None], slates.items_MK.shape
    logit = click_logit(truth, parameters, user, slates.items_MK)
    if scenario is not None:
        logit = logit + scenario.offset(slates.time_M[:, None], truth.topic_N[slates.items_MK])
    click = sigmoid(logit)
    # Seen and liked: P(click at k) = P(look at k) P(click | looked at), one uniform for both.
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

    Every event carries the propensity of its impression, in as many digits as 32 bits hold: what stands behind them
    depends on the processor. The value of a conversion is the item's price.
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
            "propensity": slates.propensity_MK.ravel().astype(np.float32).astype(np.float64),
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
