"""Corrections for logs that somebody's choice made: inverse propensities, doubly robust targets, propensity models.

The target is always the uniform choice over the catalogue: what users would have said of items that nobody picked
for them (Schnabel et al. 2016, "Recommendations as Treatments").
"""

from __future__ import annotations

import numpy as np

from llmrec.errors import DataError
from llmrec.types import FloatArray


def inverse_weights(propensity_M: FloatArray, *, clip: float, what: str = "Impression") -> FloatArray:
    """Clipped, self-normalised weights min(1 / p, clip * median) * M / sum, so that their mean is 1: (M,).

    `clip` bounds the ratio of the largest weight to the median one: a bound that does not depend on how many items
    the propensities are spread over.

    Raises:
        DataError: A propensity is missing or outside (0, 1].
    """
    propensity_M = np.asarray(propensity_M, dtype=np.float64)
    bad_M = ~((propensity_M > 0) & (propensity_M <= 1))
    if bad_M.any():
        row = int(np.argmax(bad_M))
        raise DataError(
            f"{what} {row} has the propensity {propensity_M[row]}, but the correction needs a number above 0 and at "
            "most 1 for each; log propensities, or set simulator.correction to none."
        )
    weight_M = 1.0 / propensity_M
    # Bounded by the median and not by a number: 1 / p grows with the catalogue. The bias is towards what was logged
    # often.
    weight_M = np.minimum(weight_M, clip * np.median(weight_M))
    # Dividing by the sum (Hajek) costs a bias of order 1 / M and takes the noise of the sum away; a mean of 1 leaves
    # learning rate and priors what they are without weights.
    return np.asarray(weight_M * (len(weight_M) / weight_M.sum()))


def effective_size(weight_M: FloatArray) -> float:
    """Kish's effective number of impressions, (sum w)^2 / sum w^2: what the weights leave of the log."""
    return float(weight_M.sum() ** 2 / np.square(weight_M).sum())
