"""EM for the dynamic Bayesian network (Chapelle & Zhang 2009)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from llmrec.progress import Bar
from llmrec.simulator.choice.models import DynamicBayesianChoice
from llmrec.simulator.choice.slates import SlateLog
from llmrec.simulator.choice.tally import EDGE, Keyed, Prior, Stop, last_click
from llmrec.types import BoolArray, FloatArray

SATISFACTION_RATE = 0.5
"""Prior mean of satisfaction, of which a log says nothing beforehand."""


def fit_dynamic_bayesian(
    log: SlateLog,
    prior: Prior,
    strength: float,
    stop: Stop,
    random: np.random.Generator,
) -> DynamicBayesianChoice:
    """Attraction and satisfaction by item and the perseverance, by EM with exact posteriors.

    Args:
        log: Ranked slates whose empty places come last. Attractions that it brings are kept and not fitted.
        prior: Of attraction.
        strength: Pseudo-observations of satisfaction, at `SATISFACTION_RATE`.
        stop: When to end.
        random: For the first guess of satisfaction.
    """
    keyed, given = Keyed.of(log), log.attraction_SK
    calm = Prior.at(SATISFACTION_RATE, strength)
    clicks_P = keyed.total(log.click_SK.astype(np.float64))
    attraction_P = prior.rate(clicks_P, keyed.total(keyed.shown_SK.astype(np.float64)))
    satisfaction_P = 0.5 + 0.1 * (random.random(len(clicks_P)) - 0.5)
    # A start off the bounds: EM never leaves 0 or 1.
    keep_on = 0.8
    curve: list[float] = []
    with Bar("EM of the dynamic Bayesian model", stop.max_steps) as bar:
        for _ in range(stop.max_steps):
            attraction_SK = keyed.spread(attraction_P) if given is None else np.where(keyed.shown_SK, given, 0.0)
            # E step, exact: the hidden chain has one unknown stretch, that below the last click.
            found = posterior(log.click_SK, keyed.shown_SK, attraction_SK, keyed.spread(satisfaction_P), keep_on)
            density = prior.log_density(attraction_P) if given is None else 0.0
            curve.append(float(found.log_likelihood_S.sum()) + density + calm.log_density(satisfaction_P))
            if stop.done(curve):
                break
            # M step: each parameter is its expected successes over its expected trials, plus the prior's
            # pseudo-counts.
            attraction_P = prior.rate(clicks_P, keyed.total(found.examined_SK))
            satisfaction_P = calm.rate(keyed.total(found.satisfied_SK), clicks_P)
            if found.could_go_on > 0:
                keep_on = float(np.clip(found.went_on / found.could_go_on, EDGE, 1 - EDGE))
            bar.advance(note=f"{curve[-1]:.1f}")
    learnt = keyed.parameters(attraction_P, prior.mean) if given is None else None
    return DynamicBayesianChoice(keep_on, learnt, keyed.parameters(satisfaction_P, calm.mean), tuple(curve))


@dataclass(frozen=True, slots=True)
class Posterior:
    """What a log tells of the hidden part, under given parameters.

    Attributes:
        examined_SK: P(place looked at | clicks).
        satisfied_SK: P(satisfied by this click | clicks), 0 where there is no click.
        went_on: Expected number of times that a user went on to a next place ...
        could_go_on: ... of those in which there was one and the user was not satisfied.
        log_likelihood_S: log P(clicks) of each slate.
    """

    examined_SK: npt.NDArray[np.float64]
    satisfied_SK: npt.NDArray[np.float64]
    went_on: float
    could_go_on: float
    log_likelihood_S: npt.NDArray[np.float64]


def posterior(
    click_SK: BoolArray, shown_SK: BoolArray, attraction_SK: FloatArray, satisfaction_SK: FloatArray, keep_on: float
) -> Posterior:
    """Exact posteriors, place by place over all slates at once.

    Down to the last click l all is known: every place was looked at, and clicks before l did not satisfy. Below, with
    t_k = P(no click from k on | k is looked at) = (1 - a_k)(1 - g + g t_k+1) and g the perseverance,

        P(clicks from l on | l is looked at) = a_l Z,   Z = s_l + (1 - s_l)(1 - g + g t_l+1)
        P(satisfied at l | clicks) = s_l / Z,   P(l + 1 looked at | clicks) = (1 - s_l) g t_l+1 / Z
        P(k + 1 looked at | clicks) = P(k looked at | clicks) g t_k+1 / (1 - g + g t_k+1)   for k > l
    """
    slates, places = click_SK.shape
    quiet = np.ones((slates, places + 1))
    # t_k = (1 - a_k)(1 - g + g t_k+1), from the bottom up; t below the last place is 1.
    for k in reversed(range(places)):
        quiet[:, k] = (1 - attraction_SK[:, k]) * (1 - keep_on + keep_on * quiet[:, k + 1])
    onward = 1 - keep_on + keep_on * quiet[:, 1:]
    last = last_click(click_SK)[:, None]
    rank = np.arange(places)
    at_last, before = rank == last, rank < last
    unsure = satisfaction_SK + (1 - satisfaction_SK) * onward
    satisfied = np.where(at_last, satisfaction_SK / np.maximum(unsure, EDGE), 0.0)
    pass_on = keep_on * quiet[:, 1:] / np.maximum(onward, EDGE)
    pass_on = np.where(before, 1.0, np.where(at_last, (1 - satisfied) * pass_on, pass_on))
    examined = np.ones((slates, places))
    # P(k looked at | clicks) is a product along the chain, 1 down to the last click.
    np.cumprod(pass_on[:, :-1], axis=1, out=examined[:, 1:])
    examined *= shown_SK
    # The likelihood's factor of each place, in three parts: above the last click all is seen (g for going on, 1 - s
    # for a click that did not satisfy), at it the unknown rest is summed out, below it nothing is left.
    chance = np.where(click_SK, attraction_SK, 1 - attraction_SK)
    chance = np.where(before, chance * keep_on * np.where(click_SK, 1 - satisfaction_SK, 1.0), chance)
    chance = np.where(at_last, attraction_SK * unsure, np.where(rank > last, 1.0, chance))
    with np.errstate(divide="ignore"):
        likelihood = np.log(chance).sum(axis=1) + np.where(last[:, 0] < 0, np.log(quiet[:, 0]), 0.0)
    could = (examined[:, :-1] * (1 - satisfied[:, :-1]))[shown_SK[:, 1:]].sum()
    return Posterior(examined, satisfied, float(examined[:, 1:].sum()), float(could), likelihood)
