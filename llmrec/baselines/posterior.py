"""Ridge posteriors of linear rewards, kept as sums: A = l2 I + sum phi phi', b = sum reward phi."""

from __future__ import annotations

from functools import cached_property

import numpy as np
from scipy.linalg import cho_factor, cho_solve, solve_triangular

from llmrec.types import FloatArray, IntArray


class JointPosterior:
    """One weight for each product of a state's feature and an item's: phi = x (x) z, of size D = P Q.

    Args:
        item_NQ: z of each item.
        state_size: P, the length of x.
        l2: prior precision.
    """

    def __init__(self, item_NQ: FloatArray, state_size: int, l2: float) -> None:
        self.item_NQ, self.state_size = item_NQ, state_size
        size = state_size * item_NQ.shape[1]
        self.a_DD: FloatArray = l2 * np.eye(size)
        self.b_D: FloatArray = np.zeros(size)

    def learn(self, x_MP: FloatArray, items_M: IntArray, rewards_M: FloatArray) -> None:
        """Adds M rewards."""
        phi_MD = (x_MP[:, :, None] * self.item_NQ[items_M][:, None, :]).reshape(len(x_MP), -1)
        self.a_DD += phi_MD.T @ phi_MD
        self.b_D += phi_MD.T @ np.asarray(rewards_M, dtype=np.float64)
        # Factorised when they are asked for next: learning from many small batches costs sums only.
        for name in ("_cholesky", "theta_D", "inverse_DD"):
            self.__dict__.pop(name, None)

    @cached_property
    def _cholesky(self) -> FloatArray:
        """Lower L with L L' = A."""
        lower: FloatArray = np.linalg.cholesky(self.a_DD)
        return lower

    @cached_property
    def theta_D(self) -> FloatArray:
        """Mean of the weights."""
        theta: FloatArray = cho_solve((self._cholesky, True), self.b_D)
        return theta

    @cached_property
    def inverse_DD(self) -> FloatArray:
        """A^-1."""
        inverse: FloatArray = cho_solve((self._cholesky, True), np.eye(len(self.b_D)))
        return inverse

    def mean(self, x_BP: FloatArray) -> FloatArray:
        """theta_hat' phi for every state and item, (B, N)."""
        return self._products(x_BP, self.theta_D[None, :])

    def variance(self, x_BP: FloatArray) -> FloatArray:
        """phi' A^-1 phi for every state and item, (B, N)."""
        size, width = self.state_size, self.item_NQ.shape[1]
        inverse = self.inverse_DD.reshape(size, width, size, width)
        # (x (x) z)' A^-1 (x (x) z) = z' [x' A^-1 x] z: the state's part is contracted once for all items.
        middle_BQQ = np.einsum("bp,pqrs,br->bqs", x_BP, inverse, x_BP, optimize=True)
        variance_BN: FloatArray = np.empty((len(x_BP), len(self.item_NQ)))
        for row, middle_QQ in enumerate(middle_BQQ):
            variance_BN[row] = ((self.item_NQ @ middle_QQ) * self.item_NQ).sum(axis=1)
        return np.maximum(variance_BN, 0.0)

    def sample(self, x_BP: FloatArray, scale: float, rng: np.random.Generator) -> FloatArray:
        """theta' phi for every state and item, theta drawn from N(theta_hat, scale^2 A^-1) for each state, (B, N)."""
        # L'^-1 of standard normal numbers has the covariance (L L')^-1 = A^-1.
        noise_DB = solve_triangular(
            self._cholesky, rng.standard_normal((len(x_BP), len(self.b_D))).T, lower=True, trans="T"
        )
        return self._products(x_BP, self.theta_D + scale * noise_DB.T)

    def _products(self, x_BP: FloatArray, theta_BD: FloatArray) -> FloatArray:
        theta_BPQ = theta_BD.reshape(len(theta_BD), self.state_size, self.item_NQ.shape[1])
        products: FloatArray = (x_BP[:, :, None] * theta_BPQ).sum(axis=1) @ self.item_NQ.T
        return products


class DisjointPosterior:
    """A weight vector of its own for each item: phi = x, of size P.

    Args:
        item_NQ: only its length counts, the number of items.
        state_size: P, the length of x.
        l2: prior precision.
    """

    def __init__(self, item_NQ: FloatArray, state_size: int, l2: float) -> None:
        n_items = len(item_NQ)
        self.a_NPP: FloatArray = np.tile(l2 * np.eye(state_size), (n_items, 1, 1))
        self.inverse_NPP: FloatArray = np.tile(np.eye(state_size) / l2, (n_items, 1, 1))
        self.b_NP: FloatArray = np.zeros((n_items, state_size))
        self.theta_NP: FloatArray = np.zeros((n_items, state_size))

    def learn(self, x_MP: FloatArray, items_M: IntArray, rewards_M: FloatArray) -> None:
        """Adds M rewards."""
        np.add.at(self.a_NPP, items_M, x_MP[:, :, None] * x_MP[:, None, :])
        np.add.at(self.b_NP, items_M, np.asarray(rewards_M, dtype=np.float64)[:, None] * x_MP)
        # Only the items that were shown change; each has a small matrix of its own.
        for item in np.unique(items_M):
            factor = cho_factor(self.a_NPP[item], lower=True)
            self.inverse_NPP[item] = cho_solve(factor, np.eye(self.a_NPP.shape[1]))
            self.theta_NP[item] = cho_solve(factor, self.b_NP[item])

    def mean(self, x_BP: FloatArray) -> FloatArray:
        """theta_hat_i' x for every state and item, (B, N)."""
        mean_BN: FloatArray = x_BP @ self.theta_NP.T
        return mean_BN

    def variance(self, x_BP: FloatArray) -> FloatArray:
        """x' A_i^-1 x for every state and item, (B, N)."""
        size = x_BP.shape[1]
        outer_BC = (x_BP[:, :, None] * x_BP[:, None, :]).reshape(-1, size * size)
        variance_BN: FloatArray = outer_BC @ self.inverse_NPP.reshape(-1, size * size).T
        return np.maximum(variance_BN, 0.0)
