"""Users of a generated world, whose interests are known: the fastest and the exact population."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from llmrec.dataset.history import History
from llmrec.dataset.world.scenario import END, Scenario
from llmrec.dataset.world.truth import (
    STYLE_WEIGHT,
    STYLES,
    TOPIC_WEIGHT_BUYING,
    TOPICS,
    WorldParameters,
    WorldTruth,
    sigmoid,
)
from llmrec.dataset.world.wording import entries
from llmrec.dataset.world.world import LANGUAGES, World
from llmrec.simulator.dynamics import ItemTable
from llmrec.simulator.environments.population import Float32Array
from llmrec.types import IntArray, State

_HISTORY = 20


@dataclass(slots=True)
class Tastes:
    """Hidden interests of B users: topics, styles, styles when buying, side by side."""

    taste_BX: Float32Array

    def take(self, rows: Any) -> Tastes:
        """The users at `rows`."""
        return Tastes(self.taste_BX[rows])

    def put(self, rows: Any, other: Tastes) -> None:
        """Overwrites the users at `rows`."""
        self.taste_BX[rows] = other.taste_BX


class WorldUsers:
    """A population that answers by a world's truth: docs/world.md has the equations.

    Interests drift in a space where an item stands at (1 for its topic, 0.6 for its style) and a user at home at
    click_affinity / norm * (z, s), so that their product is the affinity's part of the click's logit. Quality, for
    trust and patience, is sigmoid(quality of the truth); the category, for satiation, is the topic.

    Args:
        truth: The world's hidden variables (U users, N items).
        parameters: Its scales.
        scenario: Moves demand in time, where it does.
        price_N: Prices, for budgets; 0 where not given.
        profile_UP: What profiles tell; a column of zeros where not given.
        world: The world with its texts and its log, for text states and for what is known of users beforehand.
    """

    def __init__(
        self,
        truth: WorldTruth,
        parameters: WorldParameters | None = None,
        *,
        scenario: Scenario | None = None,
        price_N: npt.ArrayLike | None = None,
        profile_UP: Float32Array | None = None,
        world: World | None = None,
        start: int = END,
    ) -> None:
        self.parameters, self.scenario, self.world, self.start = (
            parameters or WorldParameters(),
            scenario,
            world,
            start,
        )
        self._timed = scenario is not None and scenario.settings.kind in ("seasonality", "shift")
        self._taste = (truth.topic_interest_UT, truth.style_interest_UY, truth.buying_interest_UY)
        users, items = len(truth.topic_interest_UT), truth.topic_N.size
        self.profile_UP = np.zeros((users, 1), dtype=np.float32) if profile_UP is None else profile_UP
        self.feature_NF = np.zeros((items, TOPICS + STYLES), dtype=np.float32)
        self.feature_NF[np.arange(items), truth.topic_N] = 1
        self.feature_NF[np.arange(items), TOPICS + truth.style_N] = 1
        # An inner product of interest and item is then topic + STYLE_WEIGHT * style, the click's affinity, so a drift
        # of interests moves the logit in the units of the truth.
        vector_ND = self.feature_NF * np.repeat([1.0, STYLE_WEIGHT], [TOPICS, STYLES]).astype(np.float32)
        quality_N = sigmoid(truth.quality_N)
        self.items = ItemTable.of(
            truth.topic_N, quality_N=quality_N, price_N=price_N, vector_ND=vector_ND, categories=TOPICS
        )
        self._column_N3 = np.stack(
            [truth.topic_N, TOPICS + truth.style_N, TOPICS + STYLES + truth.style_N], axis=1
        ).astype(np.int32)
        base_N2 = [self.parameters.click_bias + truth.appeal_N, self.parameters.conversion_bias + truth.quality_N]
        self._base_N2: Float32Array = np.stack(base_N2, axis=1).astype(np.float32)

    @classmethod
    def of(cls, world: World) -> WorldUsers:
        """The users of a generated world, met after its log."""
        price_N = world.dataset.items["price"].fill_null(0.0).to_numpy()
        return cls(
            world.truth,
            world.parameters,
            scenario=world.scenario,
            price_N=price_N,
            profile_UP=profile_numbers(world),
            world=world,
        )

    def begin(self, user_B: IntArray) -> Tastes:
        """Hidden interests of the users at rows `user_B`."""
        return Tastes(np.concatenate([a[user_B] for a in self._taste], axis=1, dtype=np.float32, casting="same_kind"))

    def home_BD(self, user_B: IntArray) -> Float32Array:
        """Interests at home, (B, topics + styles), in the units of the class's docstring."""
        norm = np.sqrt(1 + STYLE_WEIGHT**2)
        home = np.concatenate([self._taste[0][user_B], self._taste[1][user_B]], axis=1)
        scaled_BD: Float32Array = (self.parameters.click_affinity / norm * home).astype(np.float32)
        return scaled_BD

    def respond(
        self, hidden: Tastes, user_B: IntArray, items_BK: IntArray, time_B: IntArray
    ) -> tuple[Float32Array, Float32Array]:
        """P(click | looked at) and P(conversion | click), shapes (B, K)."""
        parameters, width = self.parameters, hidden.taste_BX.shape[1]
        # Flat places of (user, topic), (user, style) and (user, style when buying), for one `take` on a flat array.
        # An empty place (-1) reads the last item and is masked by the engine.
        cell_BK3 = self._column_N3.take(items_BK, axis=0)
        cell_BK3 += (np.arange(len(items_BK), dtype=np.int32) * width)[:, None, None]
        taste_BK3 = hidden.taste_BX.reshape(-1).take(cell_BK3)
        logit_BK2 = self._base_N2.take(items_BK, axis=0)
        topic, style, own = taste_BK3[..., 0], taste_BK3[..., 1], taste_BK3[..., 2]
        click_scale = parameters.click_affinity / float(np.sqrt(1 + STYLE_WEIGHT**2))
        buy_scale = parameters.conversion_affinity / float(np.sqrt(1 + TOPIC_WEIGHT_BUYING**2))
        click_BK: Any = logit_BK2[..., 0] + np.float32(click_scale) * (topic + np.float32(STYLE_WEIGHT) * style)
        buy_BK: Any = logit_BK2[..., 1] + np.float32(buy_scale) * (np.float32(TOPIC_WEIGHT_BUYING) * topic + own)
        if self._timed:
            assert self.scenario is not None
            click_BK = click_BK + self.scenario.offset(time_B[:, None], self._column_N3[items_BK, 0])
        return _probability(click_BK), _probability(buy_BK)

    def observe(self, hidden: Tastes, items_BK: IntArray, click_BK: Any, conversion_BK: Any) -> None:
        """Nothing: what changes in these users are the dynamics."""

    def past(self, user_B: IntArray) -> tuple[Float32Array, Float32Array]:
        """Features of what the users clicked in the world's log, and how many clicks that were."""
        if self.world is None:
            return np.zeros((len(user_B), self.feature_NF.shape[1]), np.float32), np.zeros(len(user_B), np.float32)
        sum_UF, count_U = self._logged
        return sum_UF[user_B], count_U[user_B]

    def state(self, user: int) -> State:
        """Profile and logged history of a user; without a world's texts only an id."""
        if self.world is None:
            return State(user_id=f"u{user:05d}", time=self.start)
        return self._history.state(self.world.dataset.users["user_id"][user], self.start)

    @cached_property
    def _history(self) -> History:
        assert self.world is not None
        return History(self.world.dataset, _HISTORY)

    @cached_property
    def _logged(self) -> tuple[Float32Array, Float32Array]:
        assert self.world is not None
        dataset = self.world.dataset
        clicks = dataset.events.filter(pl.col("kind") == "click")
        user_M = clicks["user_id"].replace_strict(dataset.user_index, return_dtype=pl.Int64).to_numpy()
        item_M = clicks["item_id"].replace_strict(dataset.item_index, return_dtype=pl.Int64).to_numpy()
        sum_UF = np.zeros((dataset.users.height, self.feature_NF.shape[1]), dtype=np.float32)
        # A user may have clicked an item several times; fancy assignment would count it once.
        np.add.at(sum_UF, user_M, self.feature_NF[item_M])
        return sum_UF, np.bincount(user_M, minlength=len(sum_UF)).astype(np.float32)


def _probability(logit_BK: Any) -> Float32Array:
    """The logistic function."""
    # 1 / (1 + exp(-x)) in the one array that was just made: memory, not arithmetic, bounds the speed here.
    logit_BK = np.negative(logit_BK, dtype=np.float32)
    np.exp(logit_BK, out=logit_BK)
    logit_BK += np.float32(1)
    return np.asarray(np.divide(np.float32(1), logit_BK, out=logit_BK))


def profile_numbers(world: World) -> Float32Array:
    """Which topics and styles each profile's text names: shape (U, topics + styles), 0 or 1."""
    wording = LANGUAGES[world.config.language][1][world.config.domain]
    names = [name for table in (wording.topics, wording.styles) for name, _ in entries(table)]
    profiles = world.dataset.users["profile"]
    columns = [profiles.str.contains(name, literal=True).to_numpy() for name in names]
    return np.stack(columns, axis=1).astype(np.float32)
