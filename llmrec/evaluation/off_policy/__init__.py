"""Off-policy evaluation: what logs with propensities say of a policy that did not choose what was logged.

`evaluate_policy` is the entry point; docs/off-policy.md says which estimate to trust when.
"""

from llmrec.evaluation.off_policy.estimators import mse_clip, slope_clip
from llmrec.evaluation.off_policy.evaluate import (
    Estimate,
    EvaluationSettings,
    OffPolicyReport,
    compare_policies,
    evaluate_policy,
)
from llmrec.evaluation.off_policy.gate_values import OffPolicyValue, off_policy_gain, off_policy_value
from llmrec.evaluation.off_policy.intervals import Ratio, ratio_interval
from llmrec.evaluation.off_policy.log import BanditLog
from llmrec.evaluation.off_policy.outcome import (
    CrossFitted,
    LogisticOutcome,
    OutcomeModel,
    RidgeOutcome,
    TableOutcome,
)
from llmrec.evaluation.off_policy.slates import SlateValue, evaluate_slates
from llmrec.evaluation.off_policy.weights import (
    OverlapLimits,
    WeightDiagnostics,
    effective_samples,
    importance_weights,
    overlap_refusal,
)

__all__ = [
    "BanditLog",
    "CrossFitted",
    "Estimate",
    "EvaluationSettings",
    "LogisticOutcome",
    "OffPolicyReport",
    "OffPolicyValue",
    "OutcomeModel",
    "OverlapLimits",
    "Ratio",
    "RidgeOutcome",
    "SlateValue",
    "TableOutcome",
    "WeightDiagnostics",
    "compare_policies",
    "effective_samples",
    "evaluate_policy",
    "evaluate_slates",
    "importance_weights",
    "mse_clip",
    "off_policy_gain",
    "off_policy_value",
    "overlap_refusal",
    "ratio_interval",
    "slope_clip",
]
