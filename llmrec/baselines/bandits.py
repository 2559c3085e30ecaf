"""Linear contextual bandits: LinUCB (Li et al. 2010) and linear Thompson sampling (Agrawal and Goyal 2013).

Both believe that the expected reward of item i in state s is linear in features phi(s, i) with unknown weights theta
and keep the ridge posterior A = l2 I + sum phi phi', b = sum reward phi, theta_hat = A^-1 b. They explore where A is
small: LinUCB by a bonus, Thompson sampling by drawing the weights.

    joint     phi(s, i) = x_s (x) z_i, all products of features of state and item: one theta for all items, so that
              every reward teaches something about every item (the shared part of hybrid LinUCB)
    disjoint  phi(s, i) = x_s, with a theta of its own for each item (Li et al. 2010, algorithm 1)
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Self, get_args

import numpy as np
import polars as pl

from llmrec.baselines.bandit_features import Features, LatentFeatures
from llmrec.baselines.base import Meaning, ScoreRecommender, positives
from llmrec.baselines.posterior import DisjointPosterior, JointPosterior
from llmrec.dataset.impressions import impressions
from llmrec.dataset.split import Split
from llmrec.dataset.store import Dataset
from llmrec.errors import ConfigError, RequestError
from llmrec.progress import track
from llmrec.seeding import numpy_stream, stream_seed
from llmrec.types import FloatArray, IntArray, State

BanditModel = Literal["joint", "disjoint"]

CHUNK = 4096
"""Rewards learnt from at a time."""


@dataclass(frozen=True, kw_only=True)
class LinUCBSettings:
    """Parameters of `LinUCB`.

    Attributes:
        alpha: width of the bonus in standard deviations; 0 exploits only.
        model: "joint" or "disjoint" (see above).
        l2: prior precision of the weights.
        dims: latent coordinates of the features, even.
        negatives: items drawn as not clicked for each click where the data log no impressions.
        states: keep a uniform sample of at most this many logged states.
    """

    alpha: float = 0.1
    model: BanditModel = "joint"
    l2: float = 1.0
    dims: int = 8
    negatives: int = 4
    states: int = 50_000

    def __post_init__(self) -> None:
        if self.model not in get_args(BanditModel):
            raise ConfigError(f"model of linucb is {self.model!r}; choose joint or disjoint.")
        _check("alpha of linucb", self.alpha, self.l2, self.dims)


@dataclass(frozen=True, kw_only=True)
class ThompsonSettings:
    """Parameters of `LinearThompson`.

    Attributes:
        scale: v, standard deviations of the drawn weights.
        explore: whether `score` draws weights; otherwise it takes their mean.
        l2: prior precision of the weights.
        dims: latent coordinates of the features, even.
        negatives: items drawn as not clicked for each click where the data log no impressions.
        states: keep a uniform sample of at most this many logged states.
    """

    scale: float = 0.1
    explore: bool = True
    l2: float = 1.0
    dims: int = 8
    negatives: int = 4
    states: int = 50_000

    def __post_init__(self) -> None:
        _check("scale of thompson", self.scale, self.l2, self.dims)


class LinearBandit(ScoreRecommender):
    """What both bandits share: features, the batch fit from a log, and learning from rewards.

    `fit` learns from the impressions of `events`, reward 1 for a click and 0 for none. Where the data set logs no
    impressions, a click stands for an impression and `negatives` items that the user never touched are drawn as not
    clicked: such a reward says "chosen rather than a random item", not "clicked when shown". The features hold the
    clicks that the weights are fitted on, so the weights of the collaborative coordinates come out a little high.

    Args:
        features: features of states and items; by default `LatentFeatures` of the data set.
        seed: run seed, for drawn items, drawn weights and the order of items of equal score.
    """

    settings: LinUCBSettings | ThompsonSettings

    def __init__(self, *, features: Features | None = None, seed: int = 0) -> None:
        super().__init__(seed=seed)
        self._given = features

    @property
    def meaning(self) -> Meaning:
        """What the scores are."""
        return "numbers"

    def fit(self, dataset: Dataset, events: pl.DataFrame) -> Self:
        """Learns from the logged impressions of `events`, or from its clicks (see above)."""
        self.start(dataset, events)
        if events.is_empty():
            return self
        empty = events.clear()
        # A log with impressions says what was not clicked; without them items are drawn, and the reward means another
        # thing (see the class).
        logged = impressions(
            dataset,
            Split(events, empty, empty, "train"),
            "train",
            limit=self.settings.states,
            seed=stream_seed(self.seed, self.name),
            negatives=self.settings.negatives,
        )
        x_SP = self.features.states(logged.states)
        for begin in track(range(0, len(logged), CHUNK), f"Training {self.name}"):
            part = slice(begin, begin + CHUNK)
            self.posterior.learn(x_SP[logged.state_row_M[part]], logged.item_M[part], logged.click_M[part])
        return self

    def start(self, dataset: Dataset, events: pl.DataFrame) -> Self:
        """Makes the features from the clicks of `events` and forgets all rewards: a bandit before its first round."""
        self.n_items, self.repeat = dataset.n_items, dataset.manifest.repeat
        self._learn(dataset, positives(dataset, events))
        return self

    def _learn(self, dataset: Dataset, events: pl.DataFrame) -> None:
        seed = stream_seed(self.seed, self.name, "features")
        self.features = self._given or LatentFeatures(dataset, events, self.settings.dims, seed)
        self.posterior = self._posterior()
        self._rng = numpy_stream(self.seed, "baseline", self.name, "explore")

    def update(self, states: Sequence[State], items: Sequence[int] | IntArray, rewards: Sequence[float]) -> None:
        """Learns that showing each item in its state gave that reward.

        Args:
            states: B states.
            items: the item index shown in each.
            rewards: what each gave, any finite number.

        Raises:
            RequestError: not fitted, lengths that differ, an item outside the catalogue or a reward that is not
                finite.
        """
        self._check(1)
        item_B, reward_B = np.asarray(items, dtype=np.int64), np.asarray(rewards, dtype=np.float64)
        if item_B.shape != (len(states),) or reward_B.shape != (len(states),):
            raise RequestError(
                f"{len(states)} states need as many items and rewards, not {len(items)}, {len(rewards)}."
            )
        if len(item_B) and not 0 <= item_B.min() <= item_B.max() < self.n_items:
            raise RequestError(f"Every item must be an item index from 0 to {self.n_items - 1}.")
        if not np.isfinite(reward_B).all():
            raise RequestError(f"The reward of row {int(np.argmin(np.isfinite(reward_B)))} is not a finite number.")
        self.posterior.learn(self.features.states(states), item_B, reward_B)

    @abstractmethod
    def _posterior(self) -> JointPosterior | DisjointPosterior:
        """What is known of the weights before any reward."""


class LinUCB(LinearBandit):
    """score(s, i) = theta_hat' phi + alpha sqrt(phi' A^-1 phi): optimism where little is known.

    Args:
        settings: parameters.
        features: features of states and items; by default `LatentFeatures` of the data set.
        seed: run seed.
    """

    name = "linucb"
    scoring = frozenset({"alpha"})

    def __init__(
        self, settings: LinUCBSettings | None = None, *, features: Features | None = None, seed: int = 0
    ) -> None:
        super().__init__(features=features, seed=seed)
        self.settings: LinUCBSettings = settings or LinUCBSettings()

    def _posterior(self) -> JointPosterior | DisjointPosterior:
        kind = JointPosterior if self.settings.model == "joint" else DisjointPosterior
        return kind(self.features.item_NQ, self.features.state_size, self.settings.l2)

    def score(self, states: Sequence[State]) -> FloatArray:
        """Upper confidence bounds, shape (B, N)."""
        x_BP = self.features.states(states)
        scores_BN = self.posterior.mean(x_BP)
        if self.settings.alpha:
            scores_BN = scores_BN + self.settings.alpha * np.sqrt(self.posterior.variance(x_BP))
        return scores_BN


class LinearThompson(LinearBandit):
    """score(s, i) = theta' phi with theta drawn from N(theta_hat, scale^2 A^-1), anew for each state; joint model.

    Draws come from one stream of the seed, in the order of the states scored since fitting.

    Args:
        settings: parameters.
        features: features of states and items; by default `LatentFeatures` of the data set.
        seed: run seed.
    """

    name = "thompson"
    posterior: JointPosterior

    def __init__(
        self, settings: ThompsonSettings | None = None, *, features: Features | None = None, seed: int = 0
    ) -> None:
        super().__init__(features=features, seed=seed)
        self.settings: ThompsonSettings = settings or ThompsonSettings()

    def _posterior(self) -> JointPosterior:
        return JointPosterior(self.features.item_NQ, self.features.state_size, self.settings.l2)

    def score(self, states: Sequence[State]) -> FloatArray:
        """Rewards under drawn weights (explore) or expected rewards, shape (B, N)."""
        x_BP = self.features.states(states)
        if not self.settings.explore:
            return self.posterior.mean(x_BP)
        return self.posterior.sample(x_BP, self.settings.scale, self._rng)


def _check(name: str, width: float, l2: float, dims: int) -> None:
    if width < 0 or not l2 > 0 or dims < 2 or dims % 2:
        raise ConfigError(
            f"{name} ({width}) must be 0 or more, l2 ({l2}) above 0 and dims ({dims}) an even number from 2."
        )
