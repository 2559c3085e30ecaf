"""Can it be told from a model's answers whom it was trained on? Membership inference (Shokri et al. 2017).

An attacker has one figure of every person, higher where training is likelier (the mean log-probability of what they
chose, Yeom et al. 2018), and takes all above a threshold for members. What that gives does not depend on the
threshold where it is the area under the ROC curve; what an attacker is sure of is the share of members found at a
small share of false alarms (Carlini et al. 2022).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from llmrec.evaluation.significance import Interval
from llmrec.seeding import numpy_stream
from llmrec.types import FloatArray

SURE = 0.05
"""Share of false alarms at which the share of members that are found is given."""


@dataclass(frozen=True, slots=True)
class Leak:
    """What an attack finds.

    Attributes:
        auc: P(a member's figure is above another person's), ties as a half; 1/2 is a coin.
        found: share of members above the threshold that `SURE` of the others are above.
    """

    auc: Interval
    found: Interval


def auc_of(member_M: FloatArray, other_O: FloatArray) -> float:
    """Mann-Whitney's statistic as a share of pairs, ties as a half."""
    sorted_O = np.sort(other_O)
    below_M = np.searchsorted(sorted_O, member_M, side="left")
    level_M = np.searchsorted(sorted_O, member_M, side="right") - below_M
    return float((below_M + 0.5 * level_M).mean() / len(other_O))


def found_at(member_M: FloatArray, other_O: FloatArray, alarms: float = SURE) -> float:
    """Share of members strictly above the smallest figure that at most `alarms` of the others surpass."""
    threshold = np.sort(other_O)[::-1][int(alarms * len(other_O))]
    return float((member_M > threshold).mean())


def leak_of(member_M: FloatArray, other_O: FloatArray, *, samples: int = 1000, seed: int = 0) -> Leak:
    """Both figures with 95% bootstrap intervals; members and others are drawn anew, each among themselves.

    Args:
        member_M: figures of people who trained the model.
        other_O: of people like them who did not.
        samples: of the bootstrap.
        seed: of its stream.

    Raises:
        ValueError: a group of fewer than two.
    """
    if min(len(member_M), len(other_O)) < 2:
        raise ValueError("membership needs two people or more on either side")
    random = numpy_stream(seed, "membership", "bootstrap")
    drawn = []
    for _ in range(samples):
        members = random.choice(member_M, len(member_M))
        others = random.choice(other_O, len(other_O))
        drawn.append((auc_of(members, others), found_at(members, others)))
    low_2, high_2 = np.quantile(np.array(drawn), (0.025, 0.975), axis=0)
    means = (auc_of(member_M, other_O), found_at(member_M, other_O))
    auc, found = (Interval(m, float(low), float(high)) for m, low, high in zip(means, low_2, high_2, strict=True))
    return Leak(auc, found)
