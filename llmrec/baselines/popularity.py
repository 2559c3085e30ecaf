"""Rankings that read no history: random, by training clicks, by the recent ones, or by those of one's group."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from llmrec.baselines.base import ScoreRecommender, item_counts
from llmrec.dataset.store import Dataset
from llmrec.errors import ConfigError
from llmrec.text.profiles import profile_facts
from llmrec.types import FloatArray, State

DAY = 86400.0


class Random(ScoreRecommender):
    """Scores all items alike, so that the fair order of ties decides (and tie-aware metrics are exact)."""

    name = "random"

    def _learn(self, dataset: Dataset, events: pl.DataFrame) -> None:
        """Nothing to learn."""

    def score(self, states: Sequence[State]) -> FloatArray:
        """Zeros, shape (B, N)."""
        return np.zeros((len(states), self.n_items))


class Popularity(ScoreRecommender):
    """Scores an item by how often it was clicked in training."""

    name = "popularity"

    def _learn(self, dataset: Dataset, events: pl.DataFrame) -> None:
        self.count_N = item_counts(events, dataset.n_items)

    def score(self, states: Sequence[State]) -> FloatArray:
        """The items' click counts for every state, shape (B, N)."""
        return np.tile(self.count_N, (len(states), 1))


@dataclass(frozen=True, kw_only=True)
class RecentPopularitySettings:
    """`half_life` in days: a click of that age counts half."""

    half_life: float = 30.0

    def __post_init__(self) -> None:
        if not self.half_life > 0:
            raise ConfigError(f"half_life is {self.half_life}; give a number of days above 0.")


class RecentPopularity(ScoreRecommender):
    """Popularity with exponential forgetting: score(i | t) = sum of 2^(-(t - t_e) / half-life) over clicks e of i.

    t is the state's time, and only clicks before it count; a state without a time, or after training, is scored as
    of the last training click (a later t would scale all scores alike).

    Args:
        settings: the half-life.
        seed: run seed, for the order of items of equal score.
    """

    name = "recent-popularity"

    def __init__(self, settings: RecentPopularitySettings | None = None, *, seed: int = 0) -> None:
        super().__init__(seed=seed)
        self.settings = settings or RecentPopularitySettings()

    def _learn(self, dataset: Dataset, events: pl.DataFrame) -> None:
        ordered = events.sort("time")
        self._items, self._times = ordered["item"].to_numpy(), ordered["time"].to_numpy()

    def score(self, states: Sequence[State]) -> FloatArray:
        """Decayed click counts before each state, shape (B, N)."""
        ends = [self._before(state.time) for state in states]
        rows = {end: self._counts(end) for end in set(ends)}
        return np.stack([rows[end] for end in ends]) if ends else np.empty((0, self.n_items))

    def _before(self, time: int | None) -> int:
        """How many training clicks came before `time`."""
        return len(self._times) if time is None else int(np.searchsorted(self._times, time, side="left"))

    def _counts(self, end: int) -> FloatArray:
        if not end:
            return np.zeros(self.n_items)
        # Relative to the last click before the state: decaying further would scale all counts alike.
        age = (self._times[end - 1] - self._times[:end]) / (DAY * self.settings.half_life)
        counts: FloatArray = np.bincount(self._items[:end], np.exp2(-age), self.n_items).astype(np.float64)
        return counts


@dataclass(frozen=True, kw_only=True)
class GroupPopularitySettings:
    """How groups speak.

    Attributes:
        attributes: of the profile, as `text.profiles.profile_facts` names them (age, gender, ...); none: all.
        smoothing: clicks of everybody that are counted to each group's own.
    """

    attributes: tuple[str, ...] = ()
    smoothing: float = 300.0

    def __post_init__(self) -> None:
        if not self.smoothing > 0:
            raise ConfigError(f"smoothing is {self.smoothing}; give a number of clicks above 0.")


class GroupPopularity(ScoreRecommender):
    """Popularity among people like the user: those of one age, gender, occupation, or what else profiles name.

        score(i | profile) = p_i * product over attributes a of p(i | a = v) / p_i
        p(i | a = v) = (clicks of i by users with a = v, + m p_i) / (all clicks of such users + m)

    with p_i the share of all clicks and m the smoothing: naive Bayes, as if attributes said independent things. What
    a profile does not name, or nobody in training had, says nothing.

    Args:
        settings: attributes and smoothing.
        seed: run seed, for the order of items of equal score.
    """

    name = "group-popularity"

    def __init__(self, settings: GroupPopularitySettings | None = None, *, seed: int = 0) -> None:
        super().__init__(seed=seed)
        self.settings = settings or GroupPopularitySettings()

    def _learn(self, dataset: Dataset, events: pl.DataFrame) -> None:
        count_N = item_counts(events, dataset.n_items)
        self.share_N = count_N / max(1.0, count_N.sum())
        profiles = dict(zip(dataset.users["user_id"], dataset.users["profile"], strict=True))
        clicks: dict[tuple[str, str], Counter[int]] = {}
        for user, item in events.select("user_id", "item").iter_rows():
            for fact in self._facts(profiles.get(user) or ""):
                clicks.setdefault(fact, Counter())[item] += 1
        self._lifts = {fact: self._lift(found) for fact, found in clicks.items()}

    def _lift(self, clicks: Counter[int]) -> FloatArray:
        """log p(i | a = v) - log p_i, (N,); 0 where nobody chose the item."""
        own_N = np.zeros(self.n_items)
        own_N[list(clicks)] = list(clicks.values())
        smoothing = self.settings.smoothing
        within_N = (own_N + smoothing * self.share_N) / (own_N.sum() + smoothing)
        lift_N: FloatArray = np.zeros(self.n_items)
        chosen_N = self.share_N > 0
        lift_N[chosen_N] = np.log(within_N[chosen_N] / self.share_N[chosen_N])
        return lift_N

    def _facts(self, profile: str) -> list[tuple[str, str]]:
        wanted = self.settings.attributes
        return [fact for fact in profile_facts(profile).items() if not wanted or fact[0] in wanted]

    def score(self, states: Sequence[State]) -> FloatArray:
        """Scores by the formula, shape (B, N); the state's profile alone is read."""
        rows = {state.profile: self._row(state.profile) for state in states}
        return np.stack([rows[state.profile] for state in states]) if states else np.empty((0, self.n_items))

    def _row(self, profile: str) -> FloatArray:
        lifts = [self._lifts[fact] for fact in self._facts(profile) if fact in self._lifts]
        row_N: FloatArray = self.share_N * np.exp(np.sum(lifts, axis=0) if lifts else 0.0)
        return row_N
