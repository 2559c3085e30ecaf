"""Models of a user who reads from the top: cascade, and dynamic Bayesian network."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from llmrec.simulator.choice.base import Choice
from llmrec.simulator.choice.slates import KeyedParameters, require_probabilities
from llmrec.types import BoolArray, FloatArray


class CascadeChoice(Choice):
    """The user reads down, clicks the first attractive item, and stops: at most one click.

    P(click at k) = a_k prod over j < k of (1 - a_j); Craswell et al. 2008.
    """

    name = "cascade"

    def _expected(self, attraction: FloatArray, satisfaction: FloatArray) -> FloatArray:
        passed = np.ones_like(attraction)
        np.cumprod(1 - attraction[:, :-1], axis=1, out=passed[:, 1:])
        return np.asarray(passed * attraction)

    def _sample(self, attraction: FloatArray, satisfaction: FloatArray, uniforms: FloatArray) -> BoolArray:
        attracted = uniforms[..., 0] < attraction
        first = np.zeros_like(attracted)
        rows = np.flatnonzero(attracted.any(axis=1))
        first[rows, np.argmax(attracted[rows], axis=1)] = True
        return first

    def _log_prob(
        self, attraction: FloatArray, satisfaction: FloatArray, click: BoolArray
    ) -> npt.NDArray[np.float64]:
        clicks = click.sum(axis=1)
        expected = self._expected(attraction, satisfaction)
        none = np.prod(1 - attraction, axis=1)
        chance = np.where(clicks == 0, none, (expected * click).sum(axis=1))
        return np.asarray(np.log(np.where(clicks > 1, 0.0, chance)))


class DynamicBayesianChoice(Choice):
    """Dynamic Bayesian network (DBN) of Chapelle & Zhang 2009.

    The user looks at rank 0; a place looked at is clicked with its attraction a; after a click the user is satisfied
    with P = s and stops; else, clicked or not, the user goes on to the next place with P = `perseverance`.
    The simplified model has perseverance 1.
    """

    name = "dynamic-bayesian"
    draws = 2

    def __init__(
        self,
        perseverance: float,
        attraction: KeyedParameters | None = None,
        satisfaction: KeyedParameters | None = None,
        curve: tuple[float, ...] = (),
    ) -> None:
        super().__init__(attraction, satisfaction, curve)
        self.perseverance = float(perseverance)
        require_probabilities(np.array([self.perseverance]), "perseverance")

    def _expected(self, attraction: FloatArray, satisfaction: FloatArray) -> FloatArray:
        examined = np.ones_like(attraction)
        onward = self.perseverance * (1 - attraction[:, :-1] * satisfaction[:, :-1])
        np.cumprod(onward, axis=1, out=examined[:, 1:])
        return np.asarray(examined * attraction)

    def _sample(self, attraction: FloatArray, satisfaction: FloatArray, uniforms: FloatArray) -> BoolArray:
        click = uniforms[..., 0] < attraction
        onward = np.where(click, self.perseverance * (1 - satisfaction), self.perseverance)
        goes_on = uniforms[..., 1] < onward
        np.logical_and.accumulate(goes_on[:, :-1], axis=1, out=goes_on[:, :-1])
        click[:, 1:] &= goes_on[:, :-1]
        return np.asarray(click)

    def _log_prob(
        self, attraction: FloatArray, satisfaction: FloatArray, click: BoolArray
    ) -> npt.NDArray[np.float64]:
        places, keep_on = attraction.shape[1], self.perseverance
        seen = np.full(len(attraction), 0.0)  # log P(clicks from k on | k is looked at), from the end
        quiet = np.ones(len(attraction))  # P(no click from k on | k is looked at)
        any_later = np.zeros(len(attraction), dtype=np.bool_)
        for k in reversed(range(places)):
            stop_or_quiet = np.where(any_later, 0.0, 1 - keep_on + keep_on * quiet)
            later = np.where(any_later, np.log(keep_on) + seen, np.log(stop_or_quiet))
            a, s = attraction[:, k], satisfaction[:, k]
            clicked = np.where(
                any_later, np.log(a) + np.log1p(-s) + later, np.log(a) + np.log(s + (1 - s) * stop_or_quiet)
            )
            passed = np.log1p(-a) + later
            quiet = (1 - a) * (1 - keep_on + keep_on * quiet)
            any_later |= click[:, k]
            seen = np.where(click[:, k], clicked, passed)
        return seen
