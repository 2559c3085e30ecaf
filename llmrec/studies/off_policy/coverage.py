"""Counting, over many logs, how often intervals hold the truth, and how far estimates are from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy import stats
from scipy.special import ndtri

from llmrec.evaluation.off_policy.estimators import doubly_robust, ips, model_terms, snips
from llmrec.evaluation.off_policy.intervals import Method, Ratio, ratio_interval
from llmrec.evaluation.off_policy.log import BanditLog
from llmrec.evaluation.off_policy.outcome import CrossFitted, RidgeOutcome
from llmrec.evaluation.off_policy.weights import OverlapLimits, diagnose, overlap_refusal
from llmrec.types import FloatArray

BOUNDS = (0.925, 0.975)
"""Where the measured coverage of a 95% interval must lie."""


def outcome_model(log: BanditLog, seed: int) -> CrossFitted:
    """DR's outcome model of one log alone: a ridge without an intercept for each item, in two folds."""
    return CrossFitted.of(RidgeOutcome(alpha=100.0, intercepts=False), log, folds=2, seed=seed)


def estimates(log: BanditLog, pi_MN: FloatArray, fitted: CrossFitted) -> tuple[FloatArray, dict[str, Ratio]]:
    """The weights of a log under a target policy, and IPS, SNIPS and DR by them."""
    weight_M = pi_MN[np.arange(len(log)), log.item_M] / log.propensity_M
    return weight_M, {
        "IPS": ips(weight_M, log.reward_M),
        "SNIPS": snips(weight_M, log.reward_M),
        "DR": doubly_robust(weight_M, log.reward_M, model_terms(log, pi_MN, fitted)),
    }


@dataclass
class Tally:
    """What many logs of one pair of policies gave.

    Attributes:
        name: of the pair.
        truth: value of the target policy; nan where each log has its own.
        limits: of the overlap.
        errors: estimate minus truth, by estimator and log.
        covered: whether the interval held the truth, likewise; kept by estimator and method.
        widths: of the intervals, likewise.
        overlap: n_eff and largest weight share of each log.
        refusals: what was said against each log, or None.
    """

    name: str
    truth: float = float("nan")
    limits: OverlapLimits = field(default_factory=OverlapLimits)
    errors: dict[str, list[float]] = field(default_factory=dict)
    covered: dict[str, list[bool]] = field(default_factory=dict)
    widths: dict[str, list[float]] = field(default_factory=dict)
    overlap: list[tuple[float, float]] = field(default_factory=list)
    refusals: list[str | None] = field(default_factory=list)

    def add(
        self,
        weight_M: FloatArray,
        ratios: dict[str, Ratio],
        *,
        methods: Sequence[Method] = ("student",),
        truth: float | None = None,
        truth_error: float = 0.0,
        seed: int = 0,
    ) -> None:
        """Counts one log; `truth_error` is the standard error of a truth that is itself measured elsewhere."""
        value = self.truth if truth is None else truth
        found = diagnose(weight_M)
        self.overlap.append((found.effective_samples, found.max_share))
        self.refusals.append(overlap_refusal(found, self.limits))
        quantile = float(ndtri(0.975))
        for name, ratio in ratios.items():
            self.errors.setdefault(name, []).append(ratio.value - value)
            for method in methods:
                interval = ratio_interval(ratio, method=method, samples=400, seed=seed)
                noise = quantile * truth_error
                low = np.hypot(interval.mean - interval.low, noise)
                high = np.hypot(interval.high - interval.mean, noise)
                key = name if method == "student" else f"{name}, {method}"
                self.covered.setdefault(key, []).append(interval.mean - low <= value <= interval.mean + high)
                self.widths.setdefault(key, []).append(interval.high - interval.low)

    def summary(self) -> dict[str, Any]:
        """Plain figures: coverage with its 95% interval, RMSE, bias, mean width, overlap, share of refused logs."""
        effective_L, share_L = np.array(self.overlap).T
        refused_L = np.array([refusal is not None for refusal in self.refusals])
        found: dict[str, Any] = {
            "pair": self.name,
            "truth": None if np.isnan(self.truth) else self.truth,
            "logs": len(self.overlap),
            "effective_samples": float(np.median(effective_L)),
            "max_share": float(np.median(share_L)),
            "refused": float(refused_L.mean()),
            "refusal": next((refusal for refusal in self.refusals if refusal), None),
            "estimators": {},
        }
        for name, errors in self.errors.items():
            error_L = np.array(errors)
            figures = {
                "rmse": float(np.sqrt((error_L**2).mean())),
                "bias": float(error_L.mean()),
                "bias_error": float(error_L.std(ddof=1) / np.sqrt(len(error_L))),
            }
            found["estimators"][name] = figures
        for key, hits in self.covered.items():
            figures = found["estimators"].setdefault(key, {})
            low, high = clopper_pearson(sum(hits), len(hits))
            figures |= {
                "coverage": float(np.mean(hits)),
                "coverage_low": low,
                "coverage_high": high,
                "width": float(np.mean(self.widths[key])),
                "within_bounds": bool(BOUNDS[0] <= np.mean(hits) <= BOUNDS[1]),
            }
            kept_L = ~refused_L
            if 0 < kept_L.sum() < len(hits):
                figures["coverage_where_not_refused"] = float(np.array(hits)[kept_L].mean())
        return found


def clopper_pearson(hits: int, trials: int, level: float = 0.95) -> tuple[float, float]:
    """Exact interval of a share of successes (Clopper and Pearson 1934)."""
    tail = (1 - level) / 2
    low = 0.0 if hits == 0 else float(stats.beta.ppf(tail, hits, trials - hits + 1))
    high = 1.0 if hits == trials else float(stats.beta.ppf(1 - tail, hits + 1, trials - hits))
    return low, high
