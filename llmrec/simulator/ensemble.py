"""Several behaviour models as one: the mean of what they expect, and how far they disagree."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from llmrec.config import SimulatorSettings
from llmrec.errors import ConfigError, RunError
from llmrec.files import new_folder, read_json, write_json
from llmrec.seeding import stream_seed
from llmrec.simulator.behaviour import (
    REWARD_ARCHITECTURE,
    BehaviourModel,
    Catalogued,
    fit_behaviour,
    load_behaviour,
)
from llmrec.simulator.judge import Judge, fit_judge
from llmrec.simulator.learning import check_objective, lesson
from llmrec.simulator.log import (
    ImpressionLog,
    Subset,
    both_logs,
    check_probabilities,
    of_users,
    resampled_users,
    two_parts,
    user_share,
)
from llmrec.simulator.networks import ARCHITECTURES
from llmrec.types import Feedback, FloatArray, IntArray, Item, Prediction, State


class Predictor(Protocol):
    """Anything that predicts slates, such as a behaviour model or an ensemble of them."""

    def predict(self, states: Sequence[State], items_BK: IntArray) -> Prediction: ...  # noqa: D102
    def predict_all(self, states: Sequence[State]) -> Prediction: ...  # noqa: D102


@dataclass(frozen=True)
class Disagreement:
    """Standard deviation over members (ddof 1) of P(click) and of P(click and conversion): shapes (B, K)."""

    click_BK: FloatArray
    joint_BK: FloatArray


@dataclass(frozen=True)
class MemberSpread:
    """What members expect on average and how far they disagree, from one pass over them.

    Attributes:
        mean: As `Ensemble.predict`.
        deviation: Standard deviations over members; 0 with one member.
    """

    mean: Prediction
    deviation: Disagreement


class Ensemble:
    """Predicts the mean of its members' P(click) and P(click and conversion).

    The conversion probability is the ratio of the two means, so that the product of the two predictions is the
    mean of the members' products.
    """

    def __init__(self, members: Sequence[Predictor]) -> None:
        if not members:
            raise RunError("An ensemble needs one member at least; set simulator.members to 1 or more.")
        self.members = tuple(members)

    @property
    def proxy(self) -> str:
        """The members' sentence on stand-ins, or nothing."""
        return str(getattr(self.members[0], "proxy", ""))

    @property
    def facts(self) -> dict[str, Any]:
        """What each member says of its fit."""
        return {"members": [getattr(member, "facts", {}) for member in self.members]}

    def predict(self, states: Sequence[State], items_BK: IntArray) -> Prediction:
        """Mean prediction of the items `items_BK`."""
        return mean_prediction([member.predict(states, items_BK) for member in self.members])

    def predict_all(self, states: Sequence[State]) -> Prediction:
        """Mean prediction of every item, shape (B, N)."""
        return mean_prediction([member.predict_all(states) for member in self.members])

    def disagreement(self, states: Sequence[State], items_BK: IntArray) -> Disagreement:
        """Standard deviation over members (0 with one member)."""
        return self.predict_with_spread(states, items_BK).deviation

    def predict_with_spread(self, states: Sequence[State], items_BK: IntArray) -> MemberSpread:
        """Mean and disagreement of the members.

        Raises:
            DataError: A member predicts something else than probabilities.
        """
        click_EBK, joint_EBK = self.by_member(states, items_BK)
        deviation = Disagreement(member_deviation(click_EBK), member_deviation(joint_EBK))
        return MemberSpread(_mean(click_EBK, joint_EBK), deviation)

    def by_member(self, states: Sequence[State], items_BK: IntArray) -> tuple[FloatArray, FloatArray]:
        """P(click) and P(click and conversion) by each of the E members, both (E, B, K).

        Raises:
            DataError: A member predicts something else than probabilities.
        """
        predictions = [member.predict(states, items_BK) for member in self.members]
        for prediction in predictions:
            check_probabilities(prediction.click_BK, "click")
            check_probabilities(prediction.conversion_BK, "conversion")
        click_EBK = np.stack([p.click_BK for p in predictions])
        return click_EBK, click_EBK * np.stack([p.conversion_BK for p in predictions])

    def save(self, folder: Path) -> None:
        """Writes one folder a member, whole or not at all."""
        with new_folder(folder, mark="ensemble.json") as work:
            for k, member in enumerate(self.members):
                if not isinstance(member, BehaviourModel):
                    raise RunError(f"Member {k} is a {type(member).__name__}, which cannot be saved; fit its own.")
                member.save(work / f"member-{k}")
            write_json(work / "ensemble.json", {"kind": "ensemble", "members": len(self.members)})


def mean_prediction(predictions: Sequence[Prediction]) -> Prediction:
    """Mean P(click), and the conversion by which the product is the mean of the products."""
    click_EBK = np.stack([p.click_BK for p in predictions])
    return _mean(click_EBK, click_EBK * np.stack([p.conversion_BK for p in predictions]))


def member_deviation(value_EX: FloatArray) -> FloatArray:
    """Standard deviation over the first axis: of the E members as a sample (ddof 1), 0 of one member."""
    # A handful of members is a sample of all that might have been fitted; dividing by E instead of E - 1 makes the
    # spread of two of them too small by a factor of 1.41.
    return np.asarray(value_EX.std(axis=0, ddof=1) if len(value_EX) > 1 else np.zeros(value_EX.shape[1:]))


def slate_doubt(
    click_EBK: FloatArray,
    joint_EBK: FloatArray,
    *,
    click: float | FloatArray,
    conversion: float | FloatArray,
    slate: bool,
) -> Feedback:
    """What a standard deviation over members takes off each place's clicks and conversions, (B, K) each.

    With v_k = click c_k + conversion j_k of place k by a member, V their sum over the slate (or v_k itself where
    places are independent draws) and s the standard deviation of V over members (ddof 1), mean(V) - kappa s is a
    lower bound on the slate's value. Euler's rule for functions of degree one shares s out over places and kinds,

        cov(c_k, V) / s of the clicks,    cov(j_k, V) / s of the conversions,

    whose weighted sum is s exactly. A standard deviation of each place and kind by itself would take off more: doubts
    of different items cancel within a slate. The share of a place is below 0 where the members that doubt the rest of
    the slate believe in it.

    Args:
        click_EBK: P(click) of each place by each of E members.
        joint_EBK: P(click and conversion).
        click: worth of a click, the same for all states or (B, 1).
        conversion: worth of a conversion, likewise.
        slate: whether a row is one slate.
    """
    value_EBK = click * click_EBK + conversion * joint_EBK
    whole_EBK = value_EBK.sum(axis=2, keepdims=True) if slate else value_EBK
    apart_EBK, spread_BK = whole_EBK - whole_EBK.mean(axis=0), member_deviation(whole_EBK)
    free = max(1, len(value_EBK) - 1)

    def share(one_EBK: FloatArray) -> FloatArray:
        together_BK = ((one_EBK - one_EBK.mean(axis=0)) * apart_EBK).sum(axis=0) / free
        return np.asarray(np.divide(together_BK, spread_BK, out=np.zeros_like(together_BK), where=spread_BK > 0))

    return Feedback(share(click_EBK), share(joint_EBK))


def _mean(click_EBK: FloatArray, joint_EBK: FloatArray) -> Prediction:
    click_BK, joint_BK = click_EBK.mean(axis=0), joint_EBK.mean(axis=0)
    # E[pq] / E[p]: a mean of the q alone would multiply to something else than the mean joint probability, since
    # members that expect more clicks may expect fewer conversions of them.
    conversion_BK = np.divide(joint_BK, click_BK, out=np.zeros_like(joint_BK), where=click_BK > 0)
    return Prediction(click_BK, np.clip(conversion_BK, 0.0, 1.0))


def load_ensemble(folder: Path, items: Sequence[Item] | Catalogued) -> Ensemble:
    """Loads what `Ensemble.save` wrote; raises `RunError` for anything else."""
    facts = read_json(folder / "ensemble.json")
    if not isinstance(facts, dict) or not isinstance(facts.get("members"), int):
        raise RunError(f"{folder / 'ensemble.json'} does not describe an ensemble; fit it anew.")
    return Ensemble([load_behaviour(folder / f"member-{k}", items) for k in range(facts["members"])])


def fit_ensemble(
    dataset: Any,
    impressions: ImpressionLog,
    *,
    architecture: str = REWARD_ARCHITECTURE,
    seed: int,
    settings: SimulatorSettings,
    valid: ImpressionLog | None = None,
    on_member: Callable[[int], None] | None = None,
) -> Ensemble:
    """Fits `settings.members` models that differ in their seeds; see `fit_behaviour` for the arguments.

    With `settings.bootstrap` they also differ in their users, drawn with replacement for each of them.
    """
    members = []
    for k in range(settings.members):
        # Members differ by initial weights and order of batches; with the bootstrap also by users, which adds the
        # spread of sampling to that of optimisation (Lakshminarayanan et al. 2017 found the former enough).
        own = stream_seed(seed, "simulator", "member", k)
        mine = resampled_users(impressions, seed, k) if settings.bootstrap else impressions
        members.append(
            fit_behaviour(dataset, mine, architecture=architecture, seed=own, settings=settings, valid=valid)
        )
        if on_member is not None:
            on_member(k)
    return Ensemble(members)


def fit_reward_and_judge(
    dataset: Any,
    impressions: ImpressionLog,
    *,
    seed: int,
    settings: SimulatorSettings,
    valid: ImpressionLog | None = None,
    left_out: Collection[str] = (),
) -> tuple[Ensemble, Judge]:
    """The reward ensemble and a judge that shares with it neither users, nor architecture, nor seed.

    Users `left_out` are in neither: those who will be met when policies are judged.
    """
    check_simulator(settings)
    shares = shared_out(impressions, valid, settings, seed, left_out)
    reward = fit_ensemble(
        dataset,
        shares.reward[0],
        architecture=settings.reward_architecture,
        seed=seed,
        settings=settings,
        valid=shares.reward[1],
    )
    judge = fit_judge(
        dataset,
        shares.judge[0],
        shares.calibration,
        architecture=settings.judge_architecture,
        seed=stream_seed(seed, "simulator", "judge"),
        settings=settings,
        valid=shares.judge[1],
    )
    return reward, judge


@dataclass(frozen=True)
class Shares:
    """Logs of three kinds of users: two parts in time of the reward's and the judge's, all of the judge's slice."""

    reward: tuple[Subset, Subset | None]
    judge: tuple[Subset, Subset | None]
    calibration: Subset


def shared_out(
    impressions: ImpressionLog,
    valid: ImpressionLog | None,
    settings: SimulatorSettings,
    seed: int,
    left_out: Collection[str] = (),
) -> Shares:
    """Shares out the users who are not `left_out`.

    `settings.judge_user_share` of them (of both parts together) go to the judge, `settings.calibration_user_share` of
    those to its calibration slice, the rest to the reward.

    Raises:
        DataError: too few users.
    """
    # Whole users are shared out, not rows: a judge that had met the same users would have learnt the reward's own
    # errors, and a policy that exploits these would be praised for it.
    users = {state.user_id for part in (impressions, valid) if part for state in part.states if state.user_id}
    users -= set(left_out)
    judges = user_share(users, settings.judge_user_share, seed, "judge")
    slice_ = user_share(judges, settings.calibration_user_share, seed, "calibration")

    def of(theirs: set[str]) -> tuple[Subset, Subset | None]:
        return of_users(impressions, theirs), None if valid is None else of_users(valid, theirs)

    return Shares(of(users - judges), of(judges - slice_), both_logs(*of(slice_)))


def check_simulator(settings: SimulatorSettings) -> None:
    """Refuses settings that cannot work with any log.

    Raises:
        ConfigError: a number out of bounds, an unknown architecture, or settings that exclude each other.
    """
    for key in ("members", "epochs", "batch_size", "replicates"):
        if getattr(settings, key) < 1:
            raise ConfigError(f"Key 'simulator.{key}' is {getattr(settings, key)}, but it must be at least 1.")
    for key in ("learning_rate", "clip"):
        if getattr(settings, key) <= 0:
            raise ConfigError(f"Key 'simulator.{key}' is {getattr(settings, key)}, but it must be above 0.")
    if settings.negatives < 0:
        raise ConfigError(f"Key 'simulator.negatives' is {settings.negatives}, but it must be 0 or more.")
    for key in ("judge_user_share", "calibration_user_share"):
        if not 0 < getattr(settings, key) < 1:
            raise ConfigError(f"Key 'simulator.{key}' is {getattr(settings, key)}; it must lie between 0 and 1.")
    architectures = (settings.reward_architecture, settings.judge_architecture)
    for key, name in zip(("reward_architecture", "judge_architecture"), architectures, strict=True):
        if name not in ARCHITECTURES:
            raise ConfigError(f"Key 'simulator.{key}' is {name!r}; choose one of {', '.join(ARCHITECTURES)}.")
    if architectures[0] == architectures[1]:
        raise ConfigError(
            "Keys 'simulator.reward_architecture' and 'simulator.judge_architecture' are both "
            f"{settings.judge_architecture!r}; a judge must be of another architecture than the reward."
        )
    check_objective(settings, architectures)


def check_fit(
    items: int,
    impressions: ImpressionLog,
    *,
    seed: int,
    settings: SimulatorSettings,
    valid: ImpressionLog | None = None,
    left_out: Collection[str] = (),
) -> None:
    """Refuses, without fitting anything, what `fit_reward_and_judge` would refuse for a catalogue of `items` items.

    Raises:
        DataError: too few users, no or one-sided clicks, or no propensities or positions where they are needed.
        ConfigError: see `check_simulator`.
    """
    check_simulator(settings)
    shares = shared_out(impressions, valid, settings, seed, left_out)
    for log, later in (shares.reward, shares.judge):
        # Both logs are prepared as a fit would prepare them, so everything that a fit refuses is refused before the
        # first epoch.
        fitted, held_out, _ = two_parts(log, later, items)
        lesson(fitted, held_out, settings)
