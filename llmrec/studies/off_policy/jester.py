"""Jester: users who rated all jokes make every counterfactual known, so intervals can be held against the truth.

The population are the users who rated all 100 jokes. A log draws as many users from it with replacement, so the truth
is the mean over the whole population; each drawn user is shown one of the 90 jokes outside the gauge set by the
logging policy and earns its rating, or 1 where that is above 0. The state are the ratings of the ten gauge jokes,
which Jester asks of everyone first. Policies are softmax policies of a scorer (one ridge regression a joke on the
gauge ratings) fitted on the users outside the population. The outcome model of DR (ridge on
gauge ratings, joke factors and their products) is fitted on each log alone, cross-fitted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from llmrec.dataset.importers.jester import rating_table
from llmrec.dataset.store import Dataset
from llmrec.errors import DataError
from llmrec.evaluation.off_policy.intervals import Method
from llmrec.evaluation.off_policy.log import BanditLog
from llmrec.progress import Bar
from llmrec.seeding import numpy_stream
from llmrec.studies.off_policy.coverage import Tally, estimates, outcome_model
from llmrec.types import FloatArray, IntArray

GAUGE = (4, 6, 7, 12, 14, 15, 16, 17, 18, 19)
"""Jester's gauge set, counted from 0 (jokes 5, 7, 8, 13 and 15 to 20)."""
FACTORS = 3
PENALTY = 50.0
PAIRS: tuple[tuple[str, str], ...] = (
    ("uniform", "soft 4"),
    ("uniform", "soft 2"),
    ("uniform", "soft 1"),
    ("popular 2", "soft 1"),
    ("soft 4", "soft 1"),
    ("soft 2", "uniform"),
    ("against 2", "soft 2"),
    ("uniform", "soft 0.5"),
    ("soft 1", "uniform"),
)
"""Logging and target policy: at first much overlap, at last little. "soft T" is softmax(score / T)."""


@dataclass(frozen=True)
class JesterWorld:
    """The population: U users by N jokes.

    Attributes:
        rating_UN: what each would rate each joke.
        state_UF: their gauge ratings.
        score_UN: the scorer.
        mean_N: mean rating of each joke outside the population.
        items_ND: mean and leading factors of the jokes, from ratings outside the population.
    """

    rating_UN: FloatArray
    state_UF: FloatArray
    score_UN: FloatArray
    mean_N: FloatArray
    items_ND: FloatArray

    @classmethod
    def of(cls, dataset: Dataset) -> JesterWorld:
        """Builds the population and fits the scorer.

        Raises:
            DataError: no 100 jokes, or no users who rated all of them or not all.
        """
        table_UJ = rating_table(dataset)
        whole_U = np.isfinite(table_UJ).all(axis=1)
        others_U = (
            ~whole_U & np.isfinite(table_UJ[:, list(GAUGE)]).all(axis=1) if dataset.n_items == 100 else ~whole_U
        )
        if dataset.n_items != 100 or whole_U.sum() < 100 or others_U.sum() < 100:
            raise DataError(
                "The trial needs Jester's 100 jokes, users who rated them all, and others; import Jester."
            )
        jokes = np.setdiff1d(np.arange(100), GAUGE)
        gauge_UF, shown_UN = table_UJ[:, list(GAUGE)], table_UJ[:, jokes]
        if not np.isfinite(shown_UN[others_U]).any(axis=0).all():
            raise DataError("The scorer needs a rating of every joke by users who did not rate all; import more.")
        mean_N = np.nanmean(shown_UN[others_U], axis=0)
        slope_FN, level_N = _scorer(gauge_UF[others_U], shown_UN[others_U])
        filled_XN = np.where(np.isfinite(shown_UN[others_U]), shown_UN[others_U] - mean_N, 0.0)
        factors_ND = np.linalg.svd(filled_XN, full_matrices=False)[2][:FACTORS].T
        return cls(
            shown_UN[whole_U],
            gauge_UF[whole_U],
            gauge_UF[whole_U] @ slope_FN + level_N,
            mean_N,
            np.column_stack([mean_N, factors_ND]),
        )

    def policy(self, name: str) -> FloatArray:
        """A policy of `PAIRS` by name: (U, N)."""
        kind, _, temperature = name.partition(" ")
        scores = {
            "uniform": np.zeros_like(self.score_UN),
            "soft": self.score_UN,
            "against": -self.score_UN,
            "popular": np.broadcast_to(self.mean_N, self.score_UN.shape),
        }
        return softmax(scores[kind] / float(temperature or 1))

    def reward(self, liked: bool) -> FloatArray:
        """What each user would earn with each joke: the rating, or 1 where it is above 0."""
        return (self.rating_UN > 0).astype(np.float64) if liked else self.rating_UN


def run_jester(
    world: JesterWorld, *, logs: int, seed: int = 0, pairs: Sequence[tuple[str, str]] = PAIRS, resampled: bool = False
) -> list[dict[str, Any]]:
    """Coverage, RMSE and bias of IPS, SNIPS and DR over `logs` logs for each pair and both rewards.

    With `resampled` the bootstrap-t intervals are measured too, which takes some twenty times as long.
    """
    found = []
    with Bar("Jester logs", len(pairs) * logs) as bar:
        for logging, target in pairs:
            pair = _Pair.of(world, logging, target)
            for trial in range(logs):
                rng = numpy_stream(seed, "off-policy", "jester", logging, target, trial)
                user_M = np.sort(rng.integers(len(pair.mu_UN), size=len(pair.mu_UN)))  # sorted draws are faster
                pair.count(world, user_M, pair.drawer.draw(user_M, rng), trial, resampled)
                bar.advance()
            for reward, tally in pair.tallies.items():
                found.append(tally.summary() | {"logging": logging, "target": target, "reward": reward})
    return found


@dataclass(frozen=True)
class _Pair:
    """A logging and a target policy, and what their logs gave by reward."""

    mu_UN: FloatArray
    pi_UN: FloatArray
    drawer: Drawer
    earned: dict[str, FloatArray]
    tallies: dict[str, Tally]

    @classmethod
    def of(cls, world: JesterWorld, logging: str, target: str) -> _Pair:
        mu_UN, pi_UN = world.policy(logging), world.policy(target)
        earned = {"rating": world.reward(liked=False), "liked": world.reward(liked=True)}
        tallies = {
            name: Tally(f"{logging} → {target}, {name}", float((pi_UN * earned_UN).sum(axis=1).mean()))
            for name, earned_UN in earned.items()
        }
        return cls(mu_UN, pi_UN, Drawer(mu_UN), earned, tallies)

    def count(self, world: JesterWorld, user_M: IntArray, item_M: IntArray, trial: int, resampled: bool) -> None:
        """One log, with both rewards."""
        methods: tuple[Method, ...] = ("student", "bootstrap-t") if resampled else ("student",)
        pi_MN, mu_M, state_MF = self.pi_UN[user_M], self.mu_UN[user_M, item_M], world.state_UF[user_M]
        for name, tally in self.tallies.items():
            reward_M = self.earned[name][user_M, item_M]
            n_items = pi_MN.shape[1]
            log = BanditLog(item_M, mu_M, reward_M, n_items, states_MF=state_MF, items_ND=world.items_ND)
            tally.add(*estimates(log, pi_MN, outcome_model(log, trial)), methods=methods, seed=trial)


class Drawer:
    """Draws of items from the rows of a policy (U, N) by inverting its distribution function."""

    def __init__(self, chance_UN: FloatArray) -> None:
        self.items = chance_UN.shape[1]
        rising_UN = np.cumsum(chance_UN, axis=1)
        rising_UN /= rising_UN[:, -1:]
        self.rising = (rising_UN + np.arange(len(chance_UN))[:, None]).ravel()

    def draw(self, user_M: IntArray, rng: np.random.Generator) -> IntArray:
        """One item for each of these rows, (M,)."""
        place_M = np.searchsorted(self.rising, user_M + rng.random(len(user_M)), side="right")
        item_M: IntArray = np.clip(place_M - user_M * self.items, 0, self.items - 1)
        return item_M


def softmax(score_UN: FloatArray) -> FloatArray:
    """Row-wise softmax."""
    raised_UN = np.exp(score_UN - score_UN.max(axis=1, keepdims=True))
    found: FloatArray = raised_UN / raised_UN.sum(axis=1, keepdims=True)
    return found


def _scorer(gauge_XF: FloatArray, shown_XN: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Slopes (F, N) and levels (N,) of a ridge regression for each joke on those who rated it."""
    features, jokes = gauge_XF.shape[1], shown_XN.shape[1]
    slope_FN, level_N = np.empty((features, jokes)), np.empty(jokes)
    for n in range(jokes):
        rated_X = np.isfinite(shown_XN[:, n])
        x_RF, y_R = gauge_XF[rated_X], shown_XN[rated_X, n]
        middle_F, level = x_RF.mean(axis=0), float(y_R.mean())
        gram_FF = (x_RF - middle_F).T @ (x_RF - middle_F) + PENALTY * np.eye(features)
        slope_FN[:, n] = np.linalg.solve(gram_FF, (x_RF - middle_F).T @ (y_R - level))
        level_N[n] = level - float(middle_F @ slope_FN[:, n])
    return slope_FN, level_N
