"""Corrections for logs that somebody's choice made: inverse propensities, doubly robust targets, propensity models.

The target is always the uniform choice over the catalogue: what users would have said of items that nobody picked
for them (Schnabel et al. 2016, "Recommendations as Treatments").
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from sklearn.linear_model import LogisticRegression

from llmrec.errors import DataError
from llmrec.types import FloatArray, IntArray


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
    weight_M = np.minimum(weight_M, clip * np.median(weight_M))
    return np.asarray(weight_M * (len(weight_M) / weight_M.sum()))


def effective_size(weight_M: FloatArray) -> float:
    """Kish's effective number of impressions, (sum w)^2 / sum w^2: what the weights leave of the log."""
    return float(weight_M.sum() ** 2 / np.square(weight_M).sum())


def logistic_propensities(
    users_UF: FloatArray, items_NF: FloatArray, chosen_UN: FloatArray, *, strength: float = 1.0
) -> FloatArray:
    """P(user u picks item n) from features alone, by logistic regression over all pairs: shape (U, N).

    Features of a pair are the user's, the item's and all their products, so that groups of users may prefer groups
    of items; `strength` is the inverse of the ridge (scikit-learn's C).

    Args:
        users_UF: Features of users.
        items_NF: Features of items.
        chosen_UN: Positive where u picked n.
        strength: Inverse regularisation.

    Raises:
        DataError: All pairs are picked, or none.
    """
    picked_UN = np.asarray(chosen_UN) > 0
    if picked_UN.all() or not picked_UN.any():
        raise DataError("Every pair of user and item is picked, or none is, so no propensity can be learnt.")
    rows = [pair_features(users_UF[u : u + 1], items_NF) for u in range(len(users_UF))]
    model = LogisticRegression(C=strength, max_iter=300)
    model.fit(np.concatenate(rows), picked_UN.ravel())
    return np.stack([model.predict_proba(row)[:, 1] for row in rows])


def pair_features(user_1F: FloatArray, items_NF: FloatArray) -> FloatArray:
    """Features of one user, of each item and their products: (N, F + G + F G)."""
    user_NF = np.repeat(user_1F, len(items_NF), axis=0)
    products = (user_NF[:, :, None] * items_NF[:, None, :]).reshape(len(items_NF), -1)
    return np.concatenate([user_NF, items_NF, products], axis=1)


def bayes_propensities(chosen_M: IntArray, random_M: IntArray, pairs: int, *, classes: Sequence[int]) -> FloatArray:
    """P(picked | rating = r) of each class by naive Bayes: P(r | picked) P(picked) / P(r) (Schnabel et al., eq. 19).

    Args:
        chosen_M: Ratings of picked pairs.
        random_M: Ratings of a few pairs that were drawn at random: they tell P(r).
        pairs: Number of all pairs of user and item.
        classes: The possible ratings.

    Returns:
        One propensity a class, at most 1; counts are smoothed by one.
    """
    chosen_R = np.array([(chosen_M == r).sum() + 1 for r in classes], dtype=np.float64)
    random_R = np.array([(random_M == r).sum() + 1 for r in classes], dtype=np.float64)
    share_R = chosen_R / chosen_R.sum() * (len(chosen_M) / pairs)
    return np.asarray(np.minimum(share_R / (random_R / random_R.sum()), 1.0))
