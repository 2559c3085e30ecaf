"""One policy, or two, valued from a log by every estimator, with the overlap said first."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np

from llmrec.errors import DataError, RequestError
from llmrec.evaluation.off_policy.estimators import (
    ModelTerms,
    chunks,
    direct,
    doubly_robust,
    ips,
    model_terms,
    mse_clip,
    slope_clip,
    snips,
)
from llmrec.evaluation.off_policy.intervals import Method, Ratio, ratio_interval
from llmrec.evaluation.off_policy.log import BanditLog, Policy, policy_rows
from llmrec.evaluation.off_policy.outcome import CrossFitted, LogisticOutcome, OutcomeModel, RidgeOutcome
from llmrec.evaluation.off_policy.weights import OverlapLimits, WeightDiagnostics, diagnose, overlap_refusal
from llmrec.evaluation.significance import Interval
from llmrec.evaluation.table import Cell, Comparison
from llmrec.types import FloatArray

Outcome = OutcomeModel | Literal["ridge", "logistic"] | None
Clip = float | Literal["mse", "slope"] | None


@dataclass(frozen=True, slots=True)
class EvaluationSettings:
    """How a log is evaluated.

    Attributes:
        outcome: model of DM and DR; None leaves them out.
        clip: largest weight of CIPS and switch-DR, "mse" or "slope" for a choice by the data (see `estimators`), None
            for neither of the two estimates.
        folds: of cross-fitting.
        method: of the intervals, see `intervals`.
        level: two-sided confidence.
        samples: bootstrap samples.
        limits: when the overlap is too small.
        refuse: raise then; otherwise the report says so (`refusal`).
        seed: run seed.
    """

    outcome: Outcome = "ridge"
    clip: Clip = "mse"
    folds: int = 5
    method: Method = "student"
    level: float = 0.95
    samples: int = 1000
    limits: OverlapLimits = field(default_factory=OverlapLimits)
    refuse: bool = True
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Estimate:
    """An estimated value in the unit of the rewards.

    `interval` is None for DM: what its model has wrong shows in no interval. Those of CIPS and switch-DR are for what
    these estimate, which is the value only as far as clipping costs nothing.
    """

    value: float
    interval: Interval | None


@dataclass(frozen=True)
class OffPolicyReport:
    """What a log says of a policy.

    Attributes:
        estimates: by estimator: IPS, CIPS, SNIPS, DM, DR, switch-DR, as far as asked for.
        weights: the overlap.
        refusal: why the log cannot value the policy, or None.
        on_policy: what the logging policy earned, with its interval.
    """

    estimates: dict[str, Estimate]
    weights: WeightDiagnostics
    refusal: str | None
    on_policy: Interval

    def table(self, title: str = "Off-policy value") -> Comparison:
        """One row, a column an estimator, the logging policy's own mean first; below it what the overlap is."""
        cells = {name: Cell(e.value, e.interval) for name, e in self.estimates.items()}
        note = (
            f"{self.weights.rows} rows, {self.weights.effective_samples:.0f} effective; the largest weight has "
            f"{self.weights.max_share:.1%} of all; mean weight {self.weights.mean.mean:.3f}."
        )
        row = {"logged": Cell(self.on_policy.mean, self.on_policy)} | cells
        return Comparison(title, {"policy": row}, note=f"{note} {self.refusal}" if self.refusal else note)

    def to_json(self) -> dict[str, Any]:
        """Plain dictionaries of all of it."""
        return asdict(self)


def evaluate_policy(log: BanditLog, policy: Policy, settings: EvaluationSettings | None = None) -> OffPolicyReport:
    """The value of a draw of `policy` where the log was made, by every estimator.

    Args:
        log: what was logged.
        policy: pi; an array (M,) of the logged items' probabilities suffices for IPS and SNIPS (`outcome` None).
        settings: see the class.

    Raises:
        DataError: the policy does not fit the log, or a row is no distribution.
        RequestError: the overlap is too small (unless `refuse` is off), or settings that cannot be.
    """
    chosen = settings or EvaluationSettings()
    weight_M, unsupported = _weights(log, policy)
    clip = _clip(chosen.clip, weight_M, log)
    # Before anything is fitted: without overlap no estimate below means anything.
    weights = diagnose(weight_M, users=log.users, clip=clip, unsupported=unsupported)
    refusal = overlap_refusal(weights, chosen.limits)
    if refusal and chosen.refuse:
        raise RequestError(refusal)
    fitted = _fitted(log, policy, chosen)
    terms = None if fitted is None else model_terms(log, policy, fitted)
    ratios = _ratios(log, weight_M, terms, clip)
    estimates = {name: _estimate(name, r, None, log, chosen) for name, r in ratios.items()}
    on_policy = _interval(Ratio.mean(log.reward_M), None, log, chosen)
    return OffPolicyReport(estimates, weights, refusal, on_policy)


def compare_policies(
    log: BanditLog, policy: Policy, base: Policy, settings: EvaluationSettings | None = None
) -> dict[str, Estimate]:
    """The value of `policy` minus that of `base` by every estimator, paired row by row, hence with narrow intervals.

    Both must have the overlap that `evaluate_policy` asks for; arguments and errors are as there.
    """
    chosen = settings or EvaluationSettings()
    _need_all_items(base, chosen)
    fitted = _fitted(log, policy, chosen)
    sides: list[dict[str, Ratio]] = []
    for side in (policy, base):
        weight_M, unsupported = _weights(log, side)
        clip = _clip(chosen.clip, weight_M, log)
        refusal = overlap_refusal(diagnose(weight_M, users=log.users, unsupported=unsupported), chosen.limits)
        if refusal and chosen.refuse:
            raise RequestError(refusal)
        terms = None if fitted is None else model_terms(log, side, fitted)
        sides.append(_ratios(log, weight_M, terms, clip))
    one, other = sides
    return {name: _estimate(name, one[name], other[name], log, chosen) for name in one}


def _weights(log: BanditLog, policy: Policy) -> tuple[FloatArray, float | None]:
    """pi / mu of each row, and the share of pi that the log cannot show, where that is known."""
    if not callable(policy) and np.ndim(policy) == 1:
        chance_M = np.asarray(policy, dtype=np.float64)
        # Negated, so that nan, which fails every comparison, is bad too.
        bad_M = ~((chance_M >= 0) & (chance_M <= 1)) if chance_M.shape == (len(log),) else np.ones(1, dtype=bool)
        if bad_M.any():
            raise DataError(
                f"The policy's probability of logged item {int(bad_M.argmax())} is missing or outside 0 to 1; give "
                f"{len(log)} probabilities, one for each row."
            )
        return chance_M / log.propensity_M, None
    chance_M, lacking = np.empty(len(log)), 0.0
    for rows in chunks(np.arange(len(log)), log.n_items):
        chance_RN = policy_rows(policy, log, rows)
        chance_M[rows] = chance_RN[np.arange(len(rows)), log.item_M[rows]]
        if log.logging_MN is not None:
            # What the policy would show and the log never can: no weight makes up for it, so its share is reported.
            lacking += float(chance_RN[log.logging_MN[rows] == 0].sum())
    return chance_M / log.propensity_M, None if log.logging_MN is None else lacking / len(log)


def _clip(clip: Clip, weight_M: FloatArray, log: BanditLog) -> float | None:
    if clip is None or not weight_M.any():
        return None
    if clip in ("mse", "slope"):
        choose = mse_clip if clip == "mse" else slope_clip
        # No clip is the infinite one; the largest weight is the same clip, and a number.
        return min(choose(weight_M, log.reward_M, log.users), float(weight_M.max()))
    if not isinstance(clip, str) and clip > 0:
        return float(clip)
    raise RequestError(f"The clip of importance weights is {clip!r}; it must be above 0, 'mse', 'slope' or None.")


def _need_all_items(policy: Policy, chosen: EvaluationSettings) -> None:
    if chosen.outcome is not None and not callable(policy) and np.ndim(policy) == 1:
        raise RequestError(
            "DM and DR need the policy's probabilities of all items, but only those of the logged items are given; "
            "give an array of rows by items, or leave them out (outcome None)."
        )


def _fitted(log: BanditLog, policy: Policy, chosen: EvaluationSettings) -> CrossFitted | None:
    _need_all_items(policy, chosen)
    if chosen.outcome is None:
        return None
    named: dict[str, OutcomeModel] = {"ridge": RidgeOutcome(), "logistic": LogisticOutcome()}
    if isinstance(chosen.outcome, str) and chosen.outcome not in named:
        raise RequestError(f"The outcome model {chosen.outcome!r} is unknown; choose ridge, logistic, or give one.")
    model = named[chosen.outcome] if isinstance(chosen.outcome, str) else chosen.outcome
    return CrossFitted.of(model, log, folds=chosen.folds, seed=chosen.seed)


def _ratios(log: BanditLog, weight_M: FloatArray, terms: ModelTerms | None, clip: float | None) -> dict[str, Ratio]:
    found = {"IPS": ips(weight_M, log.reward_M)}
    if clip is not None:
        found["CIPS"] = ips(weight_M, log.reward_M, clip)
    found["SNIPS"] = snips(weight_M, log.reward_M)
    if terms is not None:
        found |= {"DM": direct(terms), "DR": doubly_robust(weight_M, log.reward_M, terms)}
        if clip is not None:
            found["switch-DR"] = doubly_robust(weight_M, log.reward_M, terms, clip)
    return found


def _estimate(name: str, one: Ratio, other: Ratio | None, log: BanditLog, chosen: EvaluationSettings) -> Estimate:
    value = one.value - (0.0 if other is None else other.value)
    # The direct method's error is the model's bias, which its rows do not show; an interval would call it certain.
    return Estimate(value, None if name == "DM" else _interval(one, other, log, chosen))


def _interval(one: Ratio, other: Ratio | None, log: BanditLog, chosen: EvaluationSettings) -> Interval:
    return ratio_interval(
        one,
        other,
        users=log.users,
        method=chosen.method,
        level=chosen.level,
        samples=chosen.samples,
        seed=chosen.seed,
    )
