"""Multinomial logit: the places compete, with one another and with clicking nothing."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from llmrec.errors import DataError
from llmrec.simulator.choice.base import Choice
from llmrec.simulator.choice.slates import KeyedParameters
from llmrec.types import BoolArray, FloatArray

_ALMOST_ONE = 1 - 1e-6  # an attraction of 1 would be infinite odds


class LogitChoice(Choice):
    """At most one click a slate: P(click at k) = w_k / (1 + sum of w), the 1 standing for no click.

    McFadden 1974. The weight w_k = exp(offset_k) a_k / (1 - a_k) are the odds of the item's attraction, so that an
    item alone at rank 0 is clicked with P = a; `offset_K` (log-odds by rank, 0 at rank 0) carries position effects.
    Every place's click depends on every other place, so the model is not causal in place.
    """

    name = "logit"
    causal = False
    ranked = False

    def __init__(
        self,
        offset_K: npt.ArrayLike | None = None,
        attraction: KeyedParameters | None = None,
        curve: tuple[float, ...] = (),
    ) -> None:
        super().__init__(attraction, None, curve)
        self.offset_K = None if offset_K is None else np.asarray(offset_K, dtype=np.float64)
        if self.offset_K is not None and not np.isfinite(self.offset_K).all():
            raise DataError(f"The rank offsets {self.offset_K.tolist()} must be finite numbers.")

    def _weights(self, attraction: FloatArray) -> FloatArray:
        attraction = np.minimum(attraction, attraction.dtype.type(_ALMOST_ONE))
        weight = attraction / (1 - attraction)
        if self.offset_K is None:
            return np.asarray(weight)
        places = attraction.shape[1]
        if places > len(self.offset_K):
            raise DataError(
                f"Slates have {places} places but the logit model knows {len(self.offset_K)} ranks; "
                "shorten the slates or fit the model on longer ones."
            )
        return np.asarray(weight * np.exp(self.offset_K[:places]).astype(attraction.dtype))

    def _expected(self, attraction: FloatArray, satisfaction: FloatArray) -> FloatArray:
        weight = self._weights(attraction)
        return np.asarray(weight / (1 + weight.sum(axis=1, keepdims=True)))

    def _sample(self, attraction: FloatArray, satisfaction: FloatArray, uniforms: FloatArray) -> BoolArray:
        """Inverts the distribution function (rank 0 first, no click last) at the slate's first uniform."""
        weight = self._weights(attraction)
        reach = np.cumsum(weight, axis=1)
        mark = uniforms[:, 0, :1] * (1 + reach[:, -1:])
        first = np.argmax(mark < reach, axis=1)
        click = np.zeros(weight.shape, dtype=np.bool_)
        rows = np.flatnonzero(mark[:, 0] < reach[:, -1])
        click[rows, first[rows]] = True
        return click

    def _log_prob(
        self, attraction: FloatArray, satisfaction: FloatArray, click: BoolArray
    ) -> npt.NDArray[np.float64]:
        weight = self._weights(attraction)
        clicks = click.sum(axis=1)
        chosen = np.where(clicks == 0, 1.0, (weight * click).sum(axis=1))
        return np.asarray(np.log(np.where(clicks > 1, 0.0, chosen)) - np.log1p(weight.sum(axis=1)))
