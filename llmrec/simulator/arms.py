"""Does a simulator that was fitted on one half of an experiment reproduce the other half, arm by arm?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import chi2, chi2_contingency

from llmrec.errors import DataError
from llmrec.simulator.ensemble import Predictor
from llmrec.simulator.log import ImpressionLog, read_log
from llmrec.simulator.metrics import predict_log
from llmrec.types import FloatArray, IntArray


@dataclass(frozen=True)
class ArmTest:
    """A joint chi-square test over A arms of the outcomes nothing, click without conversion, conversion.

    Attributes:
        simulated_A3: Mean predicted probability of each outcome.
        observed_A3: Observed rate of each outcome.
        statistic: Sum over arms of Pearson's statistic of the two-sample table.
        degrees: Degrees of freedom, 2 an arm.
        p_value: P(a statistic as great), if simulator and other half had equal rates.
    """

    simulated_A3: FloatArray
    observed_A3: FloatArray
    statistic: float
    degrees: int
    p_value: float


def arm_test(model: Predictor, other_half: ImpressionLog, fitted_A: IntArray) -> ArmTest:
    """Compares simulated and observed rates on `other_half`, whose items are the arms.

    The simulated rates stand for `fitted_A` customers an arm, those that the model was fitted on, since they are no
    more certain than these: a model that repeats its own half exactly passes with probability 95%.

    Raises:
        DataError: An arm without an impression in one of the halves.
    """
    arms = len(fitted_A)
    log = read_log(other_half, arms)
    count_A = np.bincount(log.item_M, minlength=arms)
    if not (count_A.all() and np.all(fitted_A)):
        raise DataError("An arm has no impression in one of the halves, so the halves cannot be compared.")
    found = predict_log(model, list(other_half.states), log)
    joint_M = found.click_BK * found.conversion_BK
    simulated_A3 = _rates(log.item_M, count_A, found.click_BK, joint_M)
    observed_A3 = _rates(log.item_M, count_A, log.click_M, log.conversion_M)
    statistic, degrees = 0.0, 0
    for simulated, observed, before, after in zip(simulated_A3, observed_A3, fitted_A, count_A, strict=True):
        table = np.stack([simulated * before, observed * after])
        table = table[:, table.sum(axis=0) > 0]
        test = chi2_contingency(table, correction=False)
        statistic, degrees = statistic + float(test.statistic), degrees + int(test.dof)
    return ArmTest(simulated_A3, observed_A3, statistic, degrees, float(chi2.sf(statistic, degrees)))


def _rates(arm_M: IntArray, count_A: IntArray, click_M: FloatArray, joint_M: FloatArray) -> FloatArray:
    click_A, joint_A = (np.bincount(arm_M, values, len(count_A)) / count_A for values in (click_M, joint_M))
    return np.stack([1 - click_A, click_A - joint_A, joint_A], axis=1)
