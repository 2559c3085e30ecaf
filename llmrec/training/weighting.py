"""What a logged choice counts in the warm start: examples are drawn in proportion to it.

A log says what was shown before it says what was liked: where a policy mu chose what a user saw, the items chosen in
a state are distributed as mu(i | s) P(chosen | s, i), and a model that imitates them learns mu above all. Drawn with
weight 1 / mu they are distributed as P(chosen | s, i) (Horvitz and Thompson 1952; Schnabel et al. 2016), and with
r / mu as E[r | s, i], the reward of a choice times its chance: reward-weighted regression (Peters and Schaal 2007),
whose ranking is that of the expected rewards.
"""

from __future__ import annotations

import numpy as np

from llmrec.config import WeightingSettings
from llmrec.dataset.impressions import Impressions
from llmrec.errors import ConfigError, DataError
from llmrec.seeding import numpy_stream
from llmrec.training.propensities import propensities
from llmrec.types import EventKind, Example, FloatArray, IntArray

BY_PROPENSITY = ("propensity", "both")
BY_VALUE = ("value", "both")
KEY = "sft.weighting.propensities"


def check_weighting(settings: WeightingSettings) -> None:
    """Raises `ConfigError` for a bound that cannot be one; cheap."""
    if settings.clip < 1:
        raise ConfigError(
            f"Key 'sft.weighting.clip' is {settings.clip}; it must be 1 or more times the median weight."
        )


def weighted_examples(
    log: Impressions,
    settings: WeightingSettings,
    number: int,
    *,
    target: EventKind,
    click: float,
    conversion: float,
    group_N: IntArray,
    seed: int,
) -> list[Example]:
    """At most `number` examples of a log, drawn in proportion to what they count, in the log's order.

    As many are drawn as there are choices, if those are fewer; one that counts much may be drawn several times.

    Args:
        log: impressions of the training period; those that were chosen are the examples.
        settings: by what they count.
        number: of examples.
        target: click or conversion, what was chosen.
        click: what a click earns.
        conversion: what a conversion earns beside its click.
        group_N: each item's group, for propensities that are fitted.
        seed: the run's seed.

    Raises:
        DataError: nothing was chosen, nothing that was chosen earned anything, or a propensity is missing.
    """
    chosen_M = (log.click_M if target == "click" else log.conversion_M) > 0
    at_E = np.flatnonzero(chosen_M)
    if not len(at_E):
        raise DataError(f"No impression of the training period has a {target}, so there is nothing to imitate.")
    weight_E: FloatArray = np.ones(len(at_E))
    if settings.kind in BY_PROPENSITY:
        mu = propensities(log, settings.propensities, group_N, seed=seed, key=KEY)
        weight_E = inverse(mu.propensity_M[at_E], settings.clip)
    if settings.kind in BY_VALUE:
        earned_E = click + conversion * (log.conversion_M[at_E] > 0)
        weight_E = weight_E * np.maximum(earned_E, 0.0)
    if not weight_E.sum() > 0:
        raise DataError("No choice of the training period earned a reward; set 'sft.weighting.kind' to propensity.")
    drawn_E = draw(weight_E, min(number, len(at_E)), numpy_stream(seed, "sft", "weighted"))
    rows = ((log.state_row_M[at], int(log.item_M[at]), log.conversion_M[at] > 0) for at in at_E[drawn_E].tolist())
    return [Example(log.states[row], item, "conversion" if bought else "click") for row, item, bought in rows]


def inverse(propensity_E: FloatArray, clip: float) -> FloatArray:
    """1 / p, at most `clip` times the median one: a bound that does not depend on the size of the catalogue."""
    weight_E = 1.0 / np.asarray(propensity_E, dtype=np.float64)
    return np.asarray(np.minimum(weight_E, clip * np.median(weight_E)))


def draw(weight_E: FloatArray, number: int, random: np.random.Generator) -> IntArray:
    """`number` rows in order, each as often as number * weight / sum, rounded up or down so that the mean is that.

    Systematic sampling on rows in random order: as exact as counts can be, where independent draws would leave a
    third of the rows out by luck.
    """
    share_E = np.asarray(weight_E, dtype=np.float64) / np.sum(weight_E)
    order = random.permutation(len(share_E))
    marks = (random.random() + np.arange(number)) / number
    place = np.searchsorted(np.cumsum(share_E[order]), marks, side="right")
    # a sum a rounding below 1 would leave the last mark without a row
    return np.sort(order[np.minimum(place, len(order) - 1)]).astype(np.int64)
