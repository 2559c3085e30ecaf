"""A tree whose branches are weighted: a policy that knows what each item is worth beside what the model says.

    pi'(i | state)  proportional to  pi(i | state)^p exp(a_i)

asks of the step from a prefix to a child the factor

    pi(child | prefix)^p  sum over items i below of  pi(i | child)^p exp(a_i)

whose sum depends on the state where more than one item lies below. A tilt takes pi(i | child) from the mean of pi
over states: exact where one item alone lies below, and elsewhere as far as states agree on what lies below a prefix.
Each step stays a distribution over the children, so that searches, draws and probabilities are as exact as without.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from llmrec.types import FloatArray, IntArray

_LEAST = 1e-12
"""The least share of the mean of pi, so that an item which nobody is shown keeps a logarithm."""
_LOWEST = -600.0
"""Nats below the best item, where e to their power is still a number."""


@dataclass(frozen=True)
class Tilt:
    """What becomes of the logits of a step.

    Attributes:
        power: p, by which they are multiplied.
        more_M: what is then added at the edge into each node, float64.
    """

    power: float
    more_M: Tensor

    @classmethod
    def of(cls, power: float, worth_N: FloatArray, mean_N: FloatArray, ranges_M: tuple[IntArray, IntArray]) -> Tilt:
        """The tilt of a tree.

        Args:
            power: p, 0 or more.
            worth_N: a of each item, in nats, by sorted row of the tree.
            mean_N: the mean of pi over states, likewise.
            ranges_M: sorted rows low .. high - 1 below each node.
        """
        mean_N = np.maximum(mean_N / mean_N.sum(), _LEAST)
        value_N = power * np.log(mean_N) + worth_N
        top = float(value_N.max())
        below_M = _sums(np.exp(np.maximum(value_N - top, _LOWEST)), ranges_M)
        more_M = top + np.log(below_M) - power * np.log(_sums(mean_N, ranges_M))
        return cls(power, torch.from_numpy(more_M))

    def to(self, device: torch.device | str) -> Tilt:
        """The same on `device`."""
        return Tilt(self.power, self.more_M.to(device))

    def __call__(self, logits_E: Tensor, child_E: Tensor) -> Tensor:
        """Logits of edges, given their children: (E,), float64."""
        return self.power * logits_E.double() + self.more_M.index_select(0, child_E)


def _sums(value_N: FloatArray, ranges_M: tuple[IntArray, IntArray]) -> FloatArray:
    """Sums of ranges, each added up by itself: no digits are lost to larger sums beside it."""
    low_M, high_M = ranges_M
    ends = np.stack([low_M, high_M], 1).ravel()
    found: FloatArray = np.add.reduceat(np.append(value_N, 0.0), ends)[::2]
    return found
