"""Settings chosen on validation examples within a budget, and the list of baselines that they belong to."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import polars as pl
import pytest

from llmrec.baselines import (
    BASELINES,
    BaselineSpec,
    Covisitation,
    ItemKNN,
    ItemKNNSettings,
    ScoreRecommender,
    baseline,
    select,
)
from llmrec.baselines.covisitation import FIXED_GRID, GRID, POPULARITIES
from llmrec.baselines.selection import excluded_items, validation_ndcg
from llmrec.dataset.examples import Examples
from llmrec.dataset.store import Dataset
from llmrec.errors import ConfigError, DataError, RequestError
from llmrec.types import Example, FloatArray
from tests.baselines.worlds import CLASSIC, clusters, dataset, state


@dataclass(frozen=True)
class Constant:
    """`first` is the best item; `boost` only scales the scores."""

    first: int
    boost: float = 1.0


class Fixed(ScoreRecommender):
    """Ranks one item first, all others alike; counts how often it was fitted."""

    name = "fixed"
    scoring = frozenset({"boost"})
    fits: ClassVar[list[Constant]] = []

    def __init__(self, settings: Constant) -> None:
        super().__init__()
        self.settings = settings

    def _learn(self, data: Dataset, events: pl.DataFrame) -> None:
        self.first = self.settings.first
        self.fits.append(self.settings)

    def score(self, states) -> FloatArray:  # type: ignore[no-untyped-def]
        scores = np.zeros((len(states), self.n_items))
        scores[:, self.first] = self.settings.boost
        return scores


class Clock:
    """Each reading is the given time; the last one stays."""

    def __init__(self, *seconds: float) -> None:
        self.seconds = list(seconds)

    def __call__(self) -> float:
        return self.seconds.pop(0) if len(self.seconds) > 1 else self.seconds[0]


@pytest.fixture
def data() -> Dataset:
    Fixed.fits.clear()
    return dataset([("a", 0, 1), ("b", 1, 2)], ["p", "q", "r", "s"])


VALID = [Example(state(0), 2), Example(state(0), 2), Example(state(0), 3)]


def test_the_setting_with_the_best_expected_ndcg_wins(data: Dataset) -> None:
    chosen = select(Fixed, [Constant(1), Constant(2), Constant(3)], data, data.events, VALID)
    # Item 0 is seen. The first place is worth 1; two tied places 1 / log2(3) and 1 / log2(4), half each.
    rest = (1 / math.log2(3) + 1 / 2) / 2
    assert [t.ndcg for t in chosen.trials] == pytest.approx([rest, (2 + rest) / 3, (1 + 2 * rest) / 3])
    assert chosen.settings == Constant(2)
    assert chosen.ndcg == pytest.approx((2 + rest) / 3)
    assert chosen.untried == ()


def test_the_first_of_equal_settings_wins_and_a_cut_off_is_kept(data: Dataset) -> None:
    chosen = select(Fixed, [Constant(3), Constant(3, boost=2.0), Constant(2)], data, data.events, VALID[1:], k=1)
    assert chosen.settings == Constant(3)
    assert [t.ndcg for t in chosen.trials] == [0.5, 0.5, 0.5]
    assert select(Fixed, [Constant(3)], data, data.events, VALID, k=99).k == 4


def test_settings_that_only_scoring_reads_share_a_fit(data: Dataset) -> None:
    grid = [Constant(1), Constant(1, boost=-1.0), Constant(2, boost=-1.0), Constant(2)]
    chosen = select(Fixed, grid, data, data.events, VALID)
    assert Fixed.fits == [Constant(1), Constant(2, boost=-1.0)]
    assert chosen.settings == Constant(2)


def test_what_no_longer_fits_the_budget_is_untried(data: Dataset) -> None:
    grid = [Constant(1), Constant(2), Constant(3)]
    # Start at 0; the first takes 4 s, the second 1 s; at 5 s the longest (4 s) no longer fits 8 s.
    clock = Clock(0, 0, 4, 4, 5, 5)
    chosen = select(Fixed, grid, data, data.events, VALID, budget_seconds=8, clock=clock)
    assert [t.seconds for t in chosen.trials] == [4, 1, 0]
    assert chosen.untried == (Constant(3),)
    assert chosen.settings == Constant(2)
    # The first setting is tried even where the budget is nothing.
    chosen = select(Fixed, grid, data, data.events, VALID, budget_seconds=0, clock=Clock(0, 0, 4))
    assert chosen.untried == (Constant(2), Constant(3))


def test_seen_items_are_excluded_as_the_manifest_says(data: Dataset) -> None:
    again = [Example(state(0), 0)]
    assert select(Fixed, [Constant(0)], data, data.events, again).ndcg == 0.0
    given = select(Fixed, [Constant(0)], data, data.events, again, seen=[np.array([1])])
    assert given.ndcg == 1.0
    free = dataset([("a", 0, 1)], ["p", "q"], repeat="allow")
    assert select(Fixed, [Constant(0)], free, free.events, again, seen=[np.array([0])]).ndcg == 1.0


def test_covisitation_is_selected_in_one_pass_with_the_figures_of_the_plain_way() -> None:
    world = clusters()
    valid = [Example(state(n, (n + 1) % 6), (n + 3) % 6) for n in range(6)]
    grid = [*FIXED_GRID[::7], FIXED_GRID[0]]
    chosen = select(Covisitation, grid, world, world.events, valid, k=5)
    excluded = excluded_items(world, valid, None)
    for trial in chosen.trials:
        plain = validation_ndcg(Covisitation(trial.settings).fit(world, world.events), valid, excluded, 5)
        assert trial.ndcg == pytest.approx(plain)


def test_popularity_is_chosen_for_the_best_of_the_settings_that_only_break_ties_by_it() -> None:
    world = clusters()
    valid = [Example(state(n, (n + 1) % 6), (n + 3) % 6) for n in range(6)]
    chosen = select(Covisitation, GRID, world, world.events, valid, k=5)
    tried = {trial.settings: trial.ndcg for trial in chosen.trials if trial.ndcg is not None}
    best = max(FIXED_GRID, key=tried.__getitem__)
    assert set(tried) == {*FIXED_GRID, *(option for option in GRID if option.without_popularity == best)}
    assert len(tried) == len(FIXED_GRID) + len(POPULARITIES) - 1
    assert len(chosen.untried) == len(GRID) - len(tried)
    excluded = excluded_items(world, valid, None)
    for option in [option for option in tried if option.without_popularity == best][::4]:
        plain = validation_ndcg(Covisitation(option).fit(world, world.events), valid, excluded, 5)
        assert tried[option] == pytest.approx(plain)
    assert chosen.ndcg == max(tried.values())


def test_a_real_baseline_is_selected_and_refitted() -> None:
    world = clusters()
    valid = [Example(state(0, 1), 2), Example(state(6, 7), 9)]
    grid = [ItemKNNSettings(k=1), ItemKNNSettings(k=1, history_decay=0.5), ItemKNNSettings(k=10)]
    chosen = select(ItemKNN, grid, world, world.events, valid)
    for trial in chosen.trials:
        plain = validation_ndcg(ItemKNN(trial.settings).fit(world, world.events), valid, [[0, 1], [6, 7]], 10)
        assert trial.ndcg == pytest.approx(plain)


def test_clear_errors(data: Dataset) -> None:
    for grid, valid in (([], VALID), ([Constant(1)], [])):
        with pytest.raises(DataError, match="needs a validation example and a grid"):
            select(Fixed, grid, data, data.events, valid)
    with pytest.raises(DataError, match="3 validation examples need 3 lists"):
        select(Fixed, [Constant(1)], data, data.events, VALID, seen=[])


class TestRegistry:
    def test_names_are_those_of_the_models(self) -> None:
        for name, spec in BASELINES.items():
            assert spec.name == name
            assert spec.description
            assert spec.budget_seconds > 0
            if name in CLASSIC and spec.available and name != "covisitation-counts":
                assert spec.make(spec.settings, 3).name == name

    def test_defaults_and_grids_are_of_one_kind_and_each_setting_stands_once(self) -> None:
        for spec in BASELINES.values():
            assert len(set(spec.grid)) == len(spec.grid)
            for setting in spec.grid:
                assert type(setting) is type(spec.settings)
                if spec.name in CLASSIC:
                    assert spec.make(setting, 0).settings == setting  # type: ignore[attr-defined]

    def test_unknown_names(self) -> None:
        with pytest.raises(ConfigError, match="did you mean 'item-knn'"):
            baseline("itemknn")
        with pytest.raises(ConfigError, match="choose one of random, popularity"):
            baseline("zzz")

    def test_a_missing_package_makes_a_baseline_unavailable(self, data: Dataset) -> None:
        assert baseline("random").available
        missing = replace(baseline("als"), module="no_such_package")
        assert not missing.available
        with pytest.raises(RequestError, match=r"'als' needs a package more: pip install 'llmrec\[baselines\]'"):
            missing.fitted(data, data.events)

    def test_settings_are_chosen_where_there_is_a_grid_and_a_row_to_choose_by(self, data: Dataset) -> None:
        grid = (Constant(1), Constant(2), Constant(3))
        spec = BaselineSpec(
            name="fixed", description="planted", make=lambda s, seed: Fixed(s), settings=Constant(1), grid=grid
        )
        valid, none = Examples(VALID, [np.array([0])] * 3), Examples([], [])
        found = spec.chosen(data, data.events, valid, k=1)
        assert found is not None
        assert (found.settings, found.k, found.ndcg) == (Constant(2), 1, pytest.approx(2 / 3))
        given = spec.chosen(data, data.events, Examples(VALID, [np.array([0, 2])] * 3))
        assert given is not None
        assert given.settings == Constant(3)
        assert spec.chosen(data, data.events, none) is replace(spec, grid=()).chosen(data, data.events, valid) is None
        for rows, first in ((valid, 2), (none, 1), (None, 1)):
            model = spec.fitted(data, data.events, rows)
            assert model.recommend([state(0)], 1)[0].items_K == (first,)
