"""Fit of the multinomial logit: a concave likelihood, by L-BFGS."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize
from scipy.special import expit, log_expit, logit

from llmrec.progress import Bar
from llmrec.simulator.choice.models import LogitChoice
from llmrec.simulator.choice.slates import SlateLog
from llmrec.simulator.choice.tally import EDGE, Keyed, Prior, Stop
from llmrec.types import FloatArray

_RANK_RIDGE = 0.01  # keeps the offset of a rank that is never clicked finite


class LogitObjective:
    """Minus log-likelihood minus log prior of utilities by item and offsets by rank, and its gradient.

    Both the likelihood (McFadden 1974) and the Beta prior on the attraction 1 / (1 + exp(-utility)) are concave, so
    there is one optimum. Offsets are 0 at rank 0 and left out where the log has no ranks.
    """

    def __init__(self, log: SlateLog, keyed: Keyed, prior: Prior) -> None:
        self.keyed, self.prior = keyed, prior
        self.given = None if log.attraction_SK is None else logit(np.clip(log.attraction_SK, EDGE, 1 - EDGE))
        self.items = len(keyed.key_P) if self.given is None else 0
        self.offsets = log.item_SK.shape[1] - 1 if log.ranked else 0
        self.click_SK = log.click_SK.astype(np.float64)

    def __call__(self, parameters: FloatArray) -> tuple[float, npt.NDArray[np.float64]]:
        """Value and gradient."""
        utility_P, offset = parameters[: self.items], parameters[self.items :]
        utility = self.keyed.spread(utility_P) if self.given is None else self.given.copy()
        if self.offsets:
            utility[:, 1:] += offset
        utility = np.where(self.keyed.shown_SK, utility, -np.inf)
        # log(1 + sum exp u) by the largest term, of which "no click" with utility 0 is one: no exponential overflows.
        top = np.maximum(utility.max(axis=1), 0.0)[:, None]
        weight = np.exp(utility - top)
        norm = weight.sum(axis=1, keepdims=True) + np.exp(-top)
        value = float((self.click_SK * np.where(self.keyed.shown_SK, utility, 0.0)).sum())
        value -= float((np.log(norm) + top).sum())
        # The gradient of a softmax's log-likelihood: what was clicked less what was expected.
        excess = self.click_SK - weight / norm
        gradient = np.concatenate([self.keyed.total(excess)[: self.items], excess.sum(axis=0)[1 : 1 + self.offsets]])
        # Beta(yes + 1, no + 1) on a = s(u): log density yes log s(u) + no log s(-u), whose derivative is yes - (yes +
        # no) s(u).
        yes, no = self.prior.yes, self.prior.no
        value += float((yes * log_expit(utility_P) + no * log_expit(-utility_P)).sum())
        gradient[: self.items] += yes - (yes + no) * expit(utility_P)
        value -= 0.5 * _RANK_RIDGE * float(offset @ offset)
        gradient[self.items :] -= _RANK_RIDGE * offset
        return -value, -gradient


def fit_logit(log: SlateLog, prior: Prior, stop: Stop) -> LogitChoice:
    """Utilities by item (as attractions) and offsets by rank; attractions that the log brings are kept."""
    keyed = Keyed.of(log)
    objective = LogitObjective(log, keyed, prior)
    start = np.concatenate(
        [np.full(objective.items, logit(np.clip(prior.mean, EDGE, 1 - EDGE))), np.zeros(objective.offsets)]
    )
    curve = [-objective(start)[0]]
    if not len(start):
        return LogitChoice(None, None, tuple(curve))
    with Bar("fit of the logit model", stop.max_steps) as bar:

        def note(intermediate_result: object) -> None:
            curve.append(-float(intermediate_result.fun))  # type: ignore[attr-defined]
            bar.advance(note=f"{curve[-1]:.1f}")

        options = {"maxiter": stop.max_steps, "ftol": 1e-12, "gtol": stop.tolerance * stop.impressions}
        found = minimize(objective, start, jac=True, method="L-BFGS-B", callback=note, options=options)
    learnt = None if objective.given is not None else keyed.parameters(expit(found.x[: objective.items]), prior.mean)
    offset = np.concatenate([[0.0], found.x[objective.items :]]) if objective.offsets else None
    return LogitChoice(offset, learnt, tuple(curve))
