"""What several systems say of every item as features of one conditional logit, fitted on validation rows.

    P(i | s)  proportional to  exp( sum over features f of c_f x_f(i, s) )    over the items that the user may get

A mixture (`policy.mixture`) adds probabilities, and an item to which counts give none can only gain by what other
parts put there. A product of experts (a logarithmic opinion pool, Genest and Zidek 1986; a multinomial logit,
McFadden 1974) also takes features that are no distributions: likenesses, an item's own prior, or whether an item is
new. The likelihood is concave in c, so nothing is searched for, and rows may have weights: where few rows ask for new
items, these can count as much as all others together.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.optimize import minimize
from scipy.special import logsumexp

from llmrec.errors import RequestError
from llmrec.types import BoolArray, FloatArray, IntArray

PENALTY = 1.0
"""Of c squared, in rows of average weight: what one row says moves no coefficient far."""


def fit_logit(
    features: Sequence[FloatArray],
    targets_B: IntArray,
    open_BN: BoolArray,
    weights_B: FloatArray | None = None,
    *,
    penalty: float = PENALTY,
    least_F: Sequence[float] | None = None,
) -> FloatArray:
    """The coefficients c (F,) of greatest penalised likelihood.

    Features are divided by their standard deviations for the penalty alone; what is returned belongs to the features
    as they are given.

    Args:
        features: F arrays (B, N), finite wherever items are open; one that does not depend on the state may be (N,).
        targets_B: the item that was chosen in each row.
        open_BN: items that the user may get. A row whose target is not open says nothing.
        weights_B: of the rows; all 1 by default. Their mean is scaled to 1.
        penalty: see `PENALTY`; above 0, so that features which say the same share one coefficient.
        least_F: the least value of each coefficient, 0 or -inf; none has one by default.

    Raises:
        RequestError: no row whose target is open, no feature, or a feature that is not finite or of another shape.
    """
    rows = np.flatnonzero(open_BN[np.arange(len(targets_B)), targets_B])
    if not len(rows) or not features:
        raise RequestError("A conditional logit needs a feature, and a row whose target the user may get.")
    open_BN, target_B = open_BN[rows], targets_B[rows]
    weight_B = np.ones(len(rows)) if weights_B is None else np.asarray(weights_B, dtype=np.float64)[rows]
    weight_B = weight_B / weight_B.mean()
    x_FBN = np.stack([_checked(x, open_BN, rows) for x in features])
    spread_F = np.array([float(x_BN[open_BN].std()) or 1.0 for x_BN in x_FBN])
    x_FBN /= spread_F[:, None, None].astype(np.float32)
    own_FB = x_FBN[:, np.arange(len(rows)), target_B]

    def loss(c_F: FloatArray) -> tuple[float, FloatArray]:
        score_BN = np.where(open_BN, np.tensordot(c_F.astype(np.float32), x_FBN, axes=1), -np.inf).astype(np.float64)
        total_B1 = logsumexp(score_BN, axis=1, keepdims=True)
        chance_BN = (np.exp(score_BN - total_B1) * weight_B[:, None]).astype(np.float32)
        expected_F = np.einsum("fbn,bn->f", x_FBN, chance_BN, dtype=np.float64)
        value = weight_B @ (total_B1[:, 0] - c_F @ own_FB) + penalty / 2 * float(c_F @ c_F)
        return value / len(rows), (expected_F - own_FB @ weight_B + penalty * c_F) / len(rows)

    start_F = np.zeros(len(features))
    bounds = None if least_F is None else [(least, None) for least in least_F]
    options = {"maxiter": 200, "ftol": 1e-9}
    found = minimize(loss, start_F, jac=True, method="L-BFGS-B", bounds=bounds, options=options)
    fitted_F: FloatArray = found.x / spread_F
    return fitted_F


def logit_scores(features: Sequence[FloatArray], c_F: FloatArray) -> FloatArray:
    """sum of c_f x_f, (B, N): log P up to a constant of the row."""
    total: FloatArray = sum(
        (c * np.asarray(x, dtype=np.float64) for c, x in zip(c_F, features, strict=True)), start=np.zeros(1)
    )
    return total


def _checked(x: FloatArray, open_BN: BoolArray, rows: IntArray) -> FloatArray:
    x_BN = np.broadcast_to(x, open_BN.shape) if np.ndim(x) == 1 else np.asarray(x)[rows]
    if x_BN.shape != open_BN.shape:
        raise RequestError(f"A feature has the shape {np.shape(x)}; give one value for each row and item.")
    found: FloatArray = np.where(open_BN, x_BN, 0.0).astype(np.float32)
    if not np.isfinite(found).all():
        raise RequestError("A feature of a conditional logit is not finite at an item that the user may get.")
    return found
