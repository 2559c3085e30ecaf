"""The choice models: independent clicks, position-based, cascade, dynamic Bayesian network, multinomial logit."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from llmrec.errors import DataError
from llmrec.simulator.choice.base import Choice
from llmrec.simulator.choice.slates import KeyedParameters, require_probabilities
from llmrec.types import BoolArray, FloatArray

_ALMOST_ONE = 1 - 1e-6  # an attraction of 1 would be infinite odds


class IndependentChoice(Choice):
    """Every place is looked at: P(click at k) = attraction of its item."""

    name = "independent"
    ranked = False

    def _expected(self, attraction: FloatArray, satisfaction: FloatArray) -> FloatArray:
        return attraction


class PositionChoice(Choice):
    """Position-based model (PBM): P(click at k) = examination_k * attraction of the item at k.

    Craswell et al. 2008; Chuklin et al. 2015, section 3.3. `examination_K` belongs to ranks 0 .. K - 1.
    """

    name = "position"

    def __init__(
        self, examination_K: npt.ArrayLike, attraction: KeyedParameters | None = None, curve: tuple[float, ...] = ()
    ) -> None:
        super().__init__(attraction, None, curve)
        self.examination_K = np.asarray(examination_K, dtype=np.float64)
        require_probabilities(self.examination_K, "examination")

    @classmethod
    def power(cls, bias: float, places: int) -> PositionChoice:
        """P(rank k is looked at) = (k + 1) ** -bias, k from 0."""
        if not bias >= 0:
            raise DataError(f"The position bias is {bias}, but it must be 0 or more.")
        return cls(np.arange(1, places + 1, dtype=np.float64) ** -bias)

    def _expected(self, attraction: FloatArray, satisfaction: FloatArray) -> FloatArray:
        places = attraction.shape[1]
        if places > len(self.examination_K):
            raise DataError(
                f"Slates have {places} places but the position model knows {len(self.examination_K)} ranks; "
                "shorten the slates or fit the model on longer ones."
            )
        return np.asarray(attraction * self.examination_K[:places].astype(attraction.dtype))


class CascadeChoice(Choice):
    """The user reads down, clicks the first attractive item, and stops: at most one click.

    P(click at k) = a_k prod over j < k of (1 - a_j); Craswell et al. 2008.
    """

    name = "cascade"

    def _expected(self, attraction: FloatArray, satisfaction: FloatArray) -> FloatArray:
        passed = np.ones_like(attraction)
        # P(no place above was clicked): the first place has 1, so the product is shifted by one.
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
        # P(k + 1 looked at | k looked at) = perseverance (1 - P(clicked and satisfied)); clicks at different places
        # are independent given the looks.
        onward = self.perseverance * (1 - attraction[:, :-1] * satisfaction[:, :-1])
        np.cumprod(onward, axis=1, out=examined[:, 1:])
        return np.asarray(examined * attraction)

    def _sample(self, attraction: FloatArray, satisfaction: FloatArray, uniforms: FloatArray) -> BoolArray:
        click = uniforms[..., 0] < attraction
        onward = np.where(click, self.perseverance * (1 - satisfaction), self.perseverance)
        goes_on = uniforms[..., 1] < onward
        # Whoever stops anywhere above does not look here.
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
        # From the last place up: what a click at k says of satisfaction depends on whether any click follows, and the
        # sum over all places where the user may have stopped is folded into `quiet` on the way. P(no click below |
        # not satisfied) = 1 - g + g * quiet, with g the perseverance.
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
        # An attraction of 1 has infinite odds; the bound is one that float32 still tells from 1.
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
        # Dividing by the norm is left out: u * (1 + sum w) lies below the sum of the first k weights with probability
        # P(click at a rank up to k).
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
        # More than one click is impossible here and gets log 0.
        chosen = np.where(clicks == 0, 1.0, (weight * click).sum(axis=1))
        return np.asarray(np.log(np.where(clicks > 1, 0.0, chosen)) - np.log1p(weight.sum(axis=1)))
