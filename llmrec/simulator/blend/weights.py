"""How much each column counts: a conditional logit, with the columns and the share of the network that rank best."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from llmrec.log_linear import fit_logit
from llmrec.simulator.blend.asked import gain
from llmrec.types import BoolArray, FloatArray, IntArray

COLUMNS = ("network", "counted", "again", "popular", "recent")
POPULAR = ("popular", "recent")
"""Columns that are the same for everybody."""
SHARES = (0.5, 0.25)
"""Of the network's likeliest weight, which are tried by how they rank."""
PENALTY = 2e-3
"""Of half the squared weights of standardised columns, a choice."""


@dataclass(frozen=True)
class Rivals:
    """Choices among alternatives, the choice first: columns (J, C, A), and which alternatives are real (C, A)."""

    column_JCA: FloatArray
    real_CA: BoolArray

    def weights(self, kept_J: BoolArray, rows: BoolArray | slice = slice(None)) -> FloatArray:
        """Weights of the columns `kept_J`, 0 of the others, fitted on the choices `rows`."""
        column_JCA = np.where(kept_J[:, None, None], self.column_JCA[:, rows], 0.0)
        return np.where(kept_J, weights_of(column_JCA, self.real_CA[rows]), 0.0)

    def ndcg(self, weight_J: FloatArray) -> FloatArray:
        """NDCG@10 of each choice, (C,)."""
        score_CA = np.where(self.real_CA, np.tensordot(weight_J, self.column_JCA, axes=1), -np.inf)
        return gain(score_CA, np.zeros(len(score_CA), dtype=np.int64), self.real_CA)


def chosen_weights(drawn: Rivals, foremost: Rivals, user_C: IntArray) -> FloatArray:
    """Weights of greatest likelihood, of the columns and with the share of the network that rank best.

    The likelihood is about all of the catalogue, and most of it is what nothing speaks for: there popularity and a
    network's opinion tell much, and may do harm among the first ten. So sets of columns are weighed on one half of
    the users and compared by NDCG@10 on the other: all or network and co-visitation alone, each with the network's
    weight as fitted, at `SHARES` of it, and fitted without it. The first of equals wins.

    Args:
        drawn: choices among alternatives that were drawn uniformly, for the likelihood.
        foremost: the same choices among all that may stand first, for the ranking.
        user_C: number of the user of each choice.
    """
    half_C = np.unique(user_C, return_inverse=True)[1] % 2
    network_J = np.isin(COLUMNS, ("network",))
    best, most = (np.ones(len(COLUMNS), dtype=bool), 1.0), -1.0
    for kept_J in (np.ones(len(COLUMNS), dtype=bool), np.isin(COLUMNS, ("network", "counted"))):
        for with_J, shares in ((kept_J, (1.0, *SHARES)), (kept_J & ~network_J, (1.0,))):
            weight_HJ = np.stack([drawn.weights(with_J, _rows(half_C != half)) for half in (0, 1)])
            for share in shares:
                scaled_HJ = np.where(network_J, share * weight_HJ, weight_HJ)
                ndcg_HC = np.stack([foremost.ndcg(weight_J) for weight_J in scaled_HJ])
                found = float(ndcg_HC[half_C, np.arange(len(half_C))].mean())
                if found > most:
                    best, most = (with_J, share), found
    weight_J = drawn.weights(best[0])
    return np.where(network_J, best[1] * weight_J, weight_J)


def _rows(wanted_C: BoolArray) -> BoolArray:
    """The choices that are wanted; all where there is none, as with a single user."""
    return wanted_C if wanted_C.any() else ~wanted_C


def weights_of(columns_JCA: FloatArray, real_CA: BoolArray | None = None, penalty: float = PENALTY) -> FloatArray:
    """Weights (J,) under which the first alternative of each choice is likeliest; those of tastes are not below 0."""
    choices, asked = columns_JCA.shape[1:]
    # A negative weight of taste would turn a ranking round by chance; having had or being popular may repel.
    least_J = [-np.inf if name in ("again", *POPULAR) else 0.0 for name in COLUMNS]
    first_C = np.zeros(choices, dtype=np.int64)
    real_CA = np.ones((choices, asked), dtype=bool) if real_CA is None else real_CA
    return fit_logit(list(columns_JCA), first_C, real_CA, penalty=penalty * choices, least_F=least_J)
