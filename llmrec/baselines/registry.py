"""Every baseline by name: how it is made, what its settings are chosen from, and what it needs.

A table of systems and the command line make baselines through this list alone, so each of them gets its settings by
the same rule (`llmrec.baselines.selection.select`) within a budget that stands here.
"""

from __future__ import annotations

import difflib
import importlib.util
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import polars as pl

from llmrec.baselines import grids
from llmrec.baselines.bandits import LinearThompson, LinUCB, LinUCBSettings, ThompsonSettings
from llmrec.baselines.base import FittableRanker
from llmrec.baselines.covisitation import COUNTS_ONLY, FIXED_GRID, GRID, Covisitation, CovisitationSettings
from llmrec.baselines.ease import EASE, EASESettings
from llmrec.baselines.factors import ALS, BPR, ALSSettings, BPRSettings
from llmrec.baselines.interpolation import Interpolation
from llmrec.baselines.likeness import ContentProfile, ContentSettings, EmbeddingProfile, EmbeddingSettings
from llmrec.baselines.neighbours import ItemKNN, ItemKNNSettings, UserKNN, UserKNNSettings
from llmrec.baselines.neural import GRU4RecSettings, NCFSettings, SASRecSettings
from llmrec.baselines.popularity import (
    GroupPopularity,
    GroupPopularitySettings,
    Popularity,
    Random,
    RecentPopularity,
    RecentPopularitySettings,
)
from llmrec.baselines.selection import Selection, select
from llmrec.dataset.examples import Examples
from llmrec.dataset.store import Dataset
from llmrec.errors import ConfigError, RequestError
from llmrec.vectors.sentences import EXTRA, MODULE, VARIABLE

MODEL = "model"
"""Key of the model that a baseline reads texts with, in what decides its lists."""


@dataclass(frozen=True, kw_only=True)
class BaselineSpec:
    """What is known of one baseline before it is made.

    Attributes:
        name: by which tables and the command line call it.
        description: one line for tables and help.
        make: gives an unfitted recommender from settings (None: the defaults) and the run's seed. It imports what
            it needs when called, so that this list stays cheap to read.
        settings: the default settings, a frozen dataclass; None where there is nothing to set.
        grid: settings that `select` chooses from, in the order in which they are tried; empty where there is no
            choice.
        random: whether the seed changes what is learnt or scored (not only the order of equal scores): such a
            baseline is measured with several seeds.
        budget_seconds: CPU seconds that the choice among `grid` may take.
        extra: the optional dependency group that it needs, or None.
        module: the module of that group which must be importable.
        variable: the environment variable that names a model which it needs, or None.
    """

    name: str
    description: str
    make: Callable[[Any, int], FittableRanker]
    settings: Any = None
    grid: tuple[Any, ...] = ()
    random: bool = False
    budget_seconds: float = 60.0
    extra: str | None = None
    module: str | None = None
    variable: str | None = None

    @property
    def available(self) -> bool:
        """Whether what it needs is installed and named."""
        return self._installed and (self.variable is None or bool(self.named[MODEL]))

    @property
    def named(self) -> dict[str, str]:
        """The model that `variable` names now, under MODEL, for keys of what is kept; empty where it needs none."""
        return {} if self.variable is None else {MODEL: os.environ.get(self.variable, "")}

    @property
    def _installed(self) -> bool:
        return self.module is None or importlib.util.find_spec(self.module) is not None

    def require(self) -> None:
        """Raises `RequestError` where its packages are not installed, or its model is not named."""
        if not self._installed:
            raise RequestError(f"Baseline {self.name!r} needs a package more: pip install 'llmrec[{self.extra}]'.")
        if not self.available:
            raise RequestError(f"Baseline {self.name!r} needs a model: set {self.variable} to its folder or Hub id.")

    def chosen(
        self,
        dataset: Dataset,
        events: pl.DataFrame,
        valid: Examples,
        *,
        seed: int = 0,
        k: int = 10,
        budget: float = 1.0,
    ) -> Selection[Any] | None:
        """What `select` finds in the grid on `valid` after learning from `events`; None where there is no choice.

        Args:
            dataset: items, texts and the manifest's rules.
            events: those that may be learnt from to rank `valid`.
            valid: examples of the validation part; without any there is no choice.
            seed: of the fits.
            k: the cut-off of NDCG.
            budget: factor of `budget_seconds`.
        """
        if not self.grid or not len(valid):
            return None
        make, seconds = partial(self._seeded, seed), self.budget_seconds * budget
        return select(make, self.grid, dataset, events, valid.rows, seen=valid.seen, k=k, budget_seconds=seconds)

    def fitted(
        self, dataset: Dataset, events: pl.DataFrame, valid: Examples | None = None, *, seed: int = 0
    ) -> FittableRanker:
        """Fitted on `events`, with the settings that are best on `valid` (the default ones where that has no rows).

        Raises:
            RequestError: its packages are not installed.
        """
        self.require()
        found = None if valid is None else self.chosen(dataset, events, valid, seed=seed)
        return self.make(self.settings if found is None else found.settings, seed).fit(dataset, events)

    def _seeded(self, seed: int, settings: Any) -> FittableRanker:
        return self.make(settings, seed)


def _neural(kind: str) -> Callable[[Any, int], FittableRanker]:
    def make(settings: Any, seed: int) -> FittableRanker:
        from llmrec.baselines.neural import recommenders  # torch takes seconds to import

        found: FittableRanker = getattr(recommenders, kind)(settings, seed=seed)
        return found

    return make


def _specs(*specs: BaselineSpec) -> dict[str, BaselineSpec]:
    return {spec.name: spec for spec in specs}


BASELINES: dict[str, BaselineSpec] = _specs(
    BaselineSpec(
        name="random",
        description="every order of the catalogue equally likely",
        make=lambda settings, seed: Random(seed=seed),
    ),
    BaselineSpec(
        name="popularity",
        description="number of training clicks",
        make=lambda settings, seed: Popularity(seed=seed),
    ),
    BaselineSpec(
        name="recent-popularity",
        description="training clicks with exponential forgetting",
        make=lambda settings, seed: RecentPopularity(settings, seed=seed),
        settings=RecentPopularitySettings(),
        grid=grids.RECENT_POPULARITY,
    ),
    BaselineSpec(
        name="group-popularity",
        description="training clicks of people like the user, by what profiles say",
        make=lambda settings, seed: GroupPopularity(settings, seed=seed),
        settings=GroupPopularitySettings(),
        grid=grids.GROUP_POPULARITY,
    ),
    BaselineSpec(
        name="covisitation-counts",
        description="decayed transition counts between items",
        make=lambda settings, seed: Covisitation(settings or COUNTS_ONLY, seed=seed),
        settings=COUNTS_ONLY,
        grid=grids.COUNTS,
    ),
    BaselineSpec(
        name="covisitation-fixed",
        description="the same plus text likeness, with counts that only break ties",
        make=lambda settings, seed: Covisitation(settings, seed=seed),
        settings=CovisitationSettings(),
        grid=FIXED_GRID,
    ),
    BaselineSpec(
        name="covisitation",
        description="decayed transition counts, text likeness and counts that may forget",
        make=lambda settings, seed: Covisitation(settings, seed=seed),
        settings=CovisitationSettings(),
        grid=GRID,
    ),
    BaselineSpec(
        name="interpolation",
        description="mixture of covisitation, recent and plain counts by the time since the last choice",
        make=lambda settings, seed: Interpolation(seed=seed),
    ),
    BaselineSpec(
        name="interpolation-untimed",
        description="the same mixture without the time of the state",
        make=lambda settings, seed: Interpolation(timed=False, seed=seed),
    ),
    BaselineSpec(
        name="content",
        description="likeness of words to the decayed history, the request and the profile",
        make=lambda settings, seed: ContentProfile(settings, seed=seed),
        settings=ContentSettings(),
        grid=grids.CONTENT,
    ),
    BaselineSpec(
        name="embeddings",
        description="the same likeness of sentence embeddings",
        make=lambda settings, seed: EmbeddingProfile(settings, seed=seed),
        settings=EmbeddingSettings(),
        grid=grids.EMBEDDINGS,
        budget_seconds=600.0,
        extra=EXTRA,
        module=MODULE,
        variable=VARIABLE,
    ),
    BaselineSpec(
        name="item-knn",
        description="items clicked by the same users as those of the history",
        make=lambda settings, seed: ItemKNN(settings, seed=seed),
        settings=ItemKNNSettings(),
        grid=grids.ITEM_KNN,
    ),
    BaselineSpec(
        name="user-knn",
        description="items clicked by the users most like this one",
        make=lambda settings, seed: UserKNN(settings, seed=seed),
        settings=UserKNNSettings(),
        grid=grids.USER_KNN,
    ),
    BaselineSpec(
        name="als",
        description="weighted matrix factorisation by alternating least squares",
        make=lambda settings, seed: ALS(settings, seed=seed),
        settings=ALSSettings(),
        grid=grids.ALS,
        random=True,
        budget_seconds=120.0,
        extra="baselines",
        module="implicit",
    ),
    BaselineSpec(
        name="bpr",
        description="matrix factorisation by Bayesian personalised ranking",
        make=lambda settings, seed: BPR(settings, seed=seed),
        settings=BPRSettings(),
        grid=grids.BPR,
        random=True,
        budget_seconds=120.0,
        extra="baselines",
        module="implicit",
    ),
    BaselineSpec(
        name="ease",
        description="linear item-to-item autoencoder in closed form",
        make=lambda settings, seed: EASE(settings, seed=seed),
        settings=EASESettings(),
        grid=grids.EASE,
        budget_seconds=120.0,
    ),
    BaselineSpec(
        name="linucb",
        description="linear bandit with upper confidence bounds, fitted on the log",
        make=lambda settings, seed: LinUCB(settings, seed=seed),
        settings=LinUCBSettings(),
        grid=grids.LINUCB,
        random=True,
        budget_seconds=120.0,
    ),
    BaselineSpec(
        name="thompson",
        description="linear bandit with Thompson sampling, fitted on the log",
        make=lambda settings, seed: LinearThompson(settings, seed=seed),
        settings=ThompsonSettings(),
        grid=grids.THOMPSON,
        random=True,
        budget_seconds=120.0,
    ),
    BaselineSpec(
        name="ncf",
        description="neural collaborative filtering (NeuMF) over the mean of the history",
        make=_neural("NCF"),
        settings=NCFSettings(),
        grid=grids.NCF,
        random=True,
        budget_seconds=900.0,
    ),
    BaselineSpec(
        name="gru4rec",
        description="recurrent network over the history, full softmax",
        make=_neural("GRU4Rec"),
        settings=GRU4RecSettings(),
        grid=grids.GRU4REC,
        random=True,
        budget_seconds=900.0,
    ),
    BaselineSpec(
        name="sasrec",
        description="self-attention over the history, full softmax",
        make=_neural("SASRec"),
        settings=SASRecSettings(),
        grid=grids.SASREC,
        random=True,
        budget_seconds=900.0,
    ),
    BaselineSpec(
        name="sasrec-text",
        description="SASRec with the items' texts added to its embeddings",
        make=_neural("SASRec"),
        settings=SASRecSettings(text_dims=64),
        grid=grids.SASREC_TEXT,
        random=True,
        budget_seconds=900.0,
    ),
)
"""Every baseline, simplest first."""


def baseline(name: str) -> BaselineSpec:
    """The baseline called `name`.

    Raises:
        ConfigError: no baseline has this name.
    """
    if name not in BASELINES:
        near = difflib.get_close_matches(name, BASELINES, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"choose one of {', '.join(BASELINES)}."
        raise ConfigError(f"Baseline {name!r} is unknown; {hint}")
    return BASELINES[name]
