"""Independent clicks, and clicks that depend on the place alone (position-based)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from llmrec.errors import DataError
from llmrec.simulator.choice.base import Choice
from llmrec.simulator.choice.slates import KeyedParameters, require_probabilities
from llmrec.types import FloatArray


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
