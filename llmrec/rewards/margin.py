"""What an item is worth beyond the best of those that were not chosen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from llmrec.types import FloatArray, IntArray


@dataclass(frozen=True)
class MarginReward:
    """The value of a draw less the best value among the other draws of its state.

        m_g = v_g - max over h != g of v_h,    v = the weighted sum of all other terms

    over the G independent draws of a state: what was not chosen is what the policy might as well have shown there.
    Another draw of the same item is a rival like any other, so that its margin is 0: nothing is gained by what was
    there anyway. A draw without rivals has 0.

    A constant that is added to all values of a state leaves the margin as it is, and a factor scales it. The rival of
    draw g does not depend on draw g, so that for pi's own draws E[m_g grad log pi(i_g)] = grad E[v]: the term has the
    expected gradient of the value itself, and what it adds beside a scale is noise or its opposite. With the weight w

    - ppo, reinforce (a baseline that does not know the other draws): the gradient is (1 + w) grad E[v], so that
      the best policy is the same, and under a KL term the optimum is that of v at the coefficient beta / (1 + w);
    - rloo, grpo: the mean of the siblings, taken off, knows the draw, and what is climbed is
      (1 + w) E[v] + w / (G - 1) E[max of v over G - 1 draws]. The best policy is the same once more, since the best
      item maximises both; under a KL term the optimum leans to the best item, and not to each by its value.

    Example: values 0.5, 0.2, 0.4 of three draws. Margins 0.1, -0.3, -0.1. Values 0.5, 0.5, 0.4: 0, 0, -0.1.
    """

    weight: float = 1.0
    name: str = "margin"
    compares: ClassVar[bool] = True

    def compare(self, items_BG: IntArray, value_BG: FloatArray) -> FloatArray:
        """Margins (B, G) of draws (-1: none, who is nobody's rival) with these values."""
        there_BG = items_BG >= 0
        known_BG = np.where(there_BG, value_BG, -np.inf)
        best_B = known_BG.argmax(axis=1)
        rows = np.arange(len(known_BG))
        rival_BG = np.repeat(known_BG[rows, best_B, None], known_BG.shape[1], axis=1)
        # everybody's best rival is the best, whose own is the next
        without_BG = known_BG.copy()
        without_BG[rows, best_B] = -np.inf
        rival_BG[rows, best_B] = without_BG.max(axis=1)
        met_BG = there_BG & np.isfinite(rival_BG)
        return np.asarray(np.where(met_BG, value_BG, 0.0) - np.where(met_BG, rival_BG, 0.0))
