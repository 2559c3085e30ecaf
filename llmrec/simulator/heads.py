"""Heads on frozen features: what a log says of a fitted network's answers, and how sure it is of that.

A head corrects the log-odds z of a network that was fitted on other users,

    z'(state, item) = z + x(state, item) . g + d(item),

with P features x of the pair and one number d an item, by the weighted likelihood of the log's outcomes y,

    L(g, d) = sum_m a_m [y_m z'_m - log(1 + exp z'_m)] - FEATURE |g|^2 / 2 - ITEM |d|^2 / 2.

It is the maximum of a concave function, so it can be found again in no time where users are weighed otherwise. At the
maximum sum_m a_m x_m (y_m - p'_m) = FEATURE g, and the same for each item: over the log what is expected agrees with
what was seen, in all directions of x and item by item, whatever the network believed in (a generalised linear model
has residuals without correlation with its columns; McCullagh and Nelder 1989). To first order the network's own
errors do not matter any more where they lie in these directions (Neyman orthogonality; Chernozhukov et al. 2018), and
what is left to chance is the sample of the head's users, which a bootstrap over them shows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import sparse
from scipy.special import expit

from llmrec.types import FloatArray, IntArray

FEATURE, ITEM = 0.1, 1.0
"""Precisions of the Gaussian priors on g (of standardised features) and on d, in squared log-odds. They are wide, so
that what the log says is hardly pulled back to the network: a strong prior would make intervals narrow around the
network's own bias."""
CELLS = 4_000_000
"""Numbers held at a time while users are drawn anew."""
STEPS = 50


@dataclass(frozen=True)
class HeadRows:
    """M impressions of U users: features (M, P), the network's log-odds, item, outcome, weight and user, each (M,).

    Outcomes are 0 or 1, or any number of that mean: a click over the probability that its place was looked at.
    """

    feature_MP: FloatArray
    offset_M: FloatArray
    item_M: IntArray
    outcome_M: FloatArray
    weight_M: FloatArray
    user_M: IntArray
    items: int
    users: int


@dataclass(frozen=True)
class Heads:
    """R heads: g (R, P) and d (R, N)."""

    feature_RP: FloatArray
    item_RN: FloatArray


def fit_head(rows: HeadRows, times_U: FloatArray | None = None) -> Heads:
    """The maximum of L, one head, with users counted `times_U` times (by default once): Newton's method."""
    weight_M = rows.weight_M if times_U is None else rows.weight_M * times_U[rows.user_M]
    g_P, d_N = np.zeros(rows.feature_MP.shape[1]), np.zeros(rows.items)
    value = _likelihood(rows, weight_M, g_P, d_N)
    for _ in range(STEPS):
        step_P, step_N = _newton(rows, weight_M, g_P, d_N)
        # Halved until L grows: far from the maximum a whole step may overshoot.
        share = 1.0
        while share > 1e-6:
            found = _likelihood(rows, weight_M, g_P + share * step_P, d_N + share * step_N)
            if found >= value - 1e-12 * abs(value):
                break
            share /= 2
        g_P, d_N, value = g_P + share * step_P, d_N + share * step_N, found
        if max(np.abs(step_P).max(initial=0), np.abs(step_N).max(initial=0)) < 1e-8:
            break
    return Heads(g_P[None], d_N[None])


def resampled_heads(rows: HeadRows, head: Heads, times_RU: FloatArray) -> Heads:
    """Heads of R samples of the users, each counted `times_RU` times: one Newton step from `head`.

    The step takes gradient and curvature of the weighed L at the maximum of L itself, whose error is of second order
    in the difference of the two maxima. Both are linear in the weights, so all samples are a few matrix products.
    """
    p_M = expit(rows.offset_M + rows.feature_MP @ head.feature_RP[0] + head.item_RN[0][rows.item_M])
    rest_M, curve_M = rows.weight_M * (rows.outcome_M - p_M), rows.weight_M * p_M * (1 - p_M)
    parts = [_stepped(rows, head, rest_M, curve_M, times_rU) for times_rU in _chunks(times_RU, rows)]
    return Heads(np.concatenate([p.feature_RP for p in parts]), np.concatenate([p.item_RN for p in parts]))


def user_draws(users: int, samples: int, random: np.random.Generator) -> FloatArray:
    """How often each user stands in each of R samples of as many users with replacement, (R, U)."""
    return random.multinomial(users, np.full(users, 1.0 / users), size=samples).astype(np.float64)


def _chunks(times_RU: FloatArray, rows: HeadRows) -> list[FloatArray]:
    width = rows.items * (rows.feature_MP.shape[1] + 2)
    count = max(1, CELLS // max(1, width))
    return [times_RU[low : low + count] for low in range(0, len(times_RU), count)]


def _stepped(rows: HeadRows, head: Heads, rest_M: FloatArray, curve_M: FloatArray, times_RU: FloatArray) -> Heads:
    x_MP, features = rows.feature_MP, rows.feature_MP.shape[1]

    def by_item(values_M: FloatArray) -> FloatArray:
        """Sums over the impressions of each item in each sample, (R, N)."""
        table_UN = sparse.csr_array((values_M, (rows.user_M, rows.item_M)), shape=(rows.users, rows.items))
        return np.asarray((table_UN.T @ times_RU.T).T)

    def by_user(values_MX: FloatArray) -> FloatArray:
        """Sums over all impressions of each sample, (R, X)."""
        chosen_UM = sparse.csr_array(
            (np.ones(len(rows.user_M)), (rows.user_M, np.arange(len(rows.user_M)))),
            shape=(rows.users, len(rows.user_M)),
        )
        return np.asarray(times_RU @ (chosen_UM @ values_MX))

    slope_RP = by_user(rest_M[:, None] * x_MP) - FEATURE * head.feature_RP[0]
    slope_RN = by_item(rest_M) - ITEM * head.item_RN[0]
    diagonal_RN = by_item(curve_M) + ITEM
    mixed_RNP = np.stack([by_item(curve_M * x_MP[:, k]) for k in range(features)], axis=2)
    square_MX = (x_MP[:, :, None] * x_MP[:, None, :]).reshape(len(x_MP), -1)
    block_RPP = by_user(curve_M[:, None] * square_MX).reshape(-1, features, features) + FEATURE * np.eye(features)
    step_RP, step_RN = _solved(slope_RP, slope_RN, block_RPP, mixed_RNP, diagonal_RN)
    return Heads(head.feature_RP + step_RP, head.item_RN + step_RN)


def _solved(
    slope_RP: FloatArray, slope_RN: FloatArray, block_RPP: FloatArray, mixed_RNP: FloatArray, diagonal_RN: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Newton's step: the curvature's inverse times the slope, the items eliminated first (Schur complement)."""
    # Items meet one another through the features alone: their own block of the curvature is a diagonal.
    scaled_RNP = mixed_RNP / diagonal_RN[:, :, None]
    rest_RPP = block_RPP - np.einsum("rnp,rnq->rpq", scaled_RNP, mixed_RNP)
    rest_RP = slope_RP - np.einsum("rnp,rn->rp", scaled_RNP, slope_RN)
    step_RP = np.linalg.solve(rest_RPP, rest_RP[:, :, None])[:, :, 0]
    step_RN = slope_RN / diagonal_RN - np.einsum("rnp,rp->rn", scaled_RNP, step_RP)
    return step_RP, step_RN


def _newton(rows: HeadRows, weight_M: FloatArray, g_P: FloatArray, d_N: FloatArray) -> tuple[FloatArray, FloatArray]:
    x_MP, item_M, features = rows.feature_MP, rows.item_M, rows.feature_MP.shape[1]
    p_M = expit(rows.offset_M + x_MP @ g_P + d_N[item_M])
    rest_M, curve_M = weight_M * (rows.outcome_M - p_M), weight_M * p_M * (1 - p_M)
    mixed_NP: FloatArray = np.stack(
        [np.bincount(item_M, curve_M * x_MP[:, k], minlength=rows.items) for k in range(features)], axis=1
    ).astype(np.float64)
    step_RP, step_RN = _solved(
        (x_MP.T @ rest_M - FEATURE * g_P)[None],
        np.asarray(np.bincount(item_M, rest_M, minlength=rows.items) - ITEM * d_N)[None],
        ((x_MP * curve_M[:, None]).T @ x_MP + FEATURE * np.eye(features))[None],
        mixed_NP[None],
        np.asarray(np.bincount(item_M, curve_M, minlength=rows.items) + ITEM, dtype=np.float64)[None],
    )
    return step_RP[0], step_RN[0]


def _likelihood(rows: HeadRows, weight_M: FloatArray, g_P: FloatArray, d_N: FloatArray) -> float:
    z_M = rows.offset_M + rows.feature_MP @ g_P + d_N[rows.item_M]
    return float(
        weight_M @ (rows.outcome_M * z_M - np.logaddexp(0.0, z_M))
        - FEATURE * (g_P @ g_P) / 2
        - ITEM * (d_N @ d_N) / 2
    )
