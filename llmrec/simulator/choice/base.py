"""What every choice model can do: draw clicks of a slate, say what it expects, and judge a log.

All models speak of *attraction*, P(click) of an item that is looked at for certain (shown alone, at the top), and of
*satisfaction*, P(the user needs nothing more | click). Definitions follow Chuklin, Markov & de Rijke 2015, "Click
Models for Web Search". Empty places have attraction 0 and are never clicked.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from llmrec.errors import DataError
from llmrec.simulator.choice.slates import KeyedParameters, SlateLog, require_probabilities
from llmrec.types import BoolArray, FloatArray


class Choice(ABC):
    """A choice model, fitted or configured.

    Attributes:
        name: Its name in `ChoiceSettings.model`.
        draws: Uniforms that `sample` reads at each place.
        causal: Whether what happens at a place depends on the places above it and on its own alone. Only then may
            the choice at a place be credited with what follows from it on down, and not with the whole slate.
        ranked: Whether the model needs to know ranks.
        attraction: Fitted attraction by item; None for a model that is only configured.
        satisfaction: Fitted satisfaction by item, where the model has it.
        curve: Objective (log-likelihood plus log prior, in nats) after each step of the fit.
    """

    name: ClassVar[str]
    draws: ClassVar[int] = 1
    causal: ClassVar[bool] = True
    ranked: ClassVar[bool] = True

    def __init__(
        self,
        attraction: KeyedParameters | None = None,
        satisfaction: KeyedParameters | None = None,
        curve: tuple[float, ...] = (),
    ) -> None:
        self.attraction, self.satisfaction, self.curve = attraction, satisfaction, curve

    def sample(self, attraction_BK: FloatArray, satisfaction_BK: FloatArray, uniforms_BK: FloatArray) -> BoolArray:
        """Draws the clicks of B slates.

        Args:
            attraction_BK: Attraction of each place, 0 where it is empty.
            satisfaction_BK: P(satisfied | click); only the dynamic Bayesian model reads it.
            uniforms_BK: Numbers in [0, 1) of shape (B, K, n) with n of at least `draws`, or (B, K) where one will do.

        Raises:
            DataError: A probability outside [0, 1], or shapes that do not fit.
        """
        self._check(attraction_BK, satisfaction_BK)
        # Always three axes within: models that read several uniforms a place take them along the last.
        uniforms_BKn = uniforms_BK[..., None] if uniforms_BK.ndim == 2 else uniforms_BK
        if uniforms_BKn.shape[:2] != attraction_BK.shape or uniforms_BKn.shape[2] < self.draws:
            raise DataError(
                f"Uniforms of shape {uniforms_BK.shape} do not fit slates of shape {attraction_BK.shape}; the "
                f"choice model {self.name!r} reads {self.draws} a place."
            )
        return self._sample(attraction_BK, satisfaction_BK, uniforms_BKn)

    def expected(self, attraction_BK: FloatArray, satisfaction_BK: FloatArray) -> FloatArray:
        """Exact P(click at place k) of each slate: shape (B, K); raises as `sample`."""
        self._check(attraction_BK, satisfaction_BK)
        return self._expected(attraction_BK, satisfaction_BK)

    def log_prob(
        self, attraction_SK: FloatArray, satisfaction_SK: FloatArray, click_SK: BoolArray
    ) -> npt.NDArray[np.float64]:
        """log P(this pattern of clicks) of each slate, in nats: shape (S,); -inf where it is impossible."""
        self._check(attraction_SK, satisfaction_SK)
        with np.errstate(divide="ignore"):
            # In double precision: a long slate's probability is a product of many small ones.
            return self._log_prob(attraction_SK.astype(np.float64), satisfaction_SK.astype(np.float64), click_SK)

    def log_likelihood(self, log: SlateLog) -> float:
        """Sum of `log_prob` over the log's slates, with fitted parameters or else those that the log carries."""
        attraction_SK, satisfaction_SK = self.parameters_of(log)
        return float(self.log_prob(attraction_SK, satisfaction_SK, log.click_SK).sum())

    def parameters_of(self, log: SlateLog) -> tuple[FloatArray, FloatArray]:
        """Attraction and satisfaction of each place of a log: fitted ones, or else those that the log carries.

        Raises:
            DataError: There are neither, or the log has no ranks and the model needs them.
        """
        require_ranks(self, log)
        if self.attraction is not None:
            attraction_SK = self.attraction.of(log.item_SK)
        elif log.attraction_SK is not None:
            attraction_SK = np.where(log.shown_SK, log.attraction_SK, 0.0)
        else:
            raise DataError(
                f"The choice model {self.name!r} holds no attractions and the log brings none; fit the model first."
            )
        if self.satisfaction is not None:
            return attraction_SK, self.satisfaction.of(log.item_SK)
        if log.satisfaction_SK is not None:
            return attraction_SK, np.where(log.shown_SK, log.satisfaction_SK, 0.0)
        return attraction_SK, np.zeros_like(attraction_SK)

    def _check(self, attraction_BK: FloatArray, satisfaction_BK: FloatArray) -> None:
        if attraction_BK.ndim != 2 or satisfaction_BK.shape != attraction_BK.shape:
            raise DataError(
                f"Attractions of shape {attraction_BK.shape} and satisfactions of shape {satisfaction_BK.shape} must "
                "both have one row a slate and one column a place."
            )
        require_probabilities(attraction_BK, "attraction")
        require_probabilities(satisfaction_BK, "satisfaction")

    def _sample(self, attraction: FloatArray, satisfaction: FloatArray, uniforms: FloatArray) -> BoolArray:
        return np.asarray(uniforms[..., 0] < self._expected(attraction, satisfaction))

    @abstractmethod
    def _expected(self, attraction: FloatArray, satisfaction: FloatArray) -> FloatArray: ...

    def _log_prob(
        self, attraction: FloatArray, satisfaction: FloatArray, click: BoolArray
    ) -> npt.NDArray[np.float64]:
        expected = self._expected(attraction, satisfaction)
        # Independent places: the log-probability of a pattern is the sum over places. Models in which places depend
        # on one another have their own.
        return np.asarray(np.log(np.where(click, expected, 1 - expected)).sum(axis=1))


def require_ranks(model: Choice | type[Choice], log: SlateLog) -> None:
    """Raises `DataError` where `model` needs ranks and the log has none."""
    if model.ranked and not log.ranked:
        raise DataError(
            f"The log carries no positions, which the choice model {model.name!r} needs; log each impression's rank "
            "or choose 'independent' or 'logit'."
        )
