"""Each classic recommender against the right answer of a planted world and a formula written apart from it."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmrec.baselines import (
    BASELINES,
    EASE,
    ALSSettings,
    BPRSettings,
    ContentProfile,
    ContentSettings,
    EASESettings,
    ItemKNN,
    ItemKNNSettings,
    RecentPopularity,
    RecentPopularitySettings,
    UserKNN,
    UserKNNSettings,
)
from llmrec.baselines.neighbours import strongest_columns
from llmrec.errors import ConfigError, DataError
from llmrec.types import Interaction, State
from tests.baselines.worlds import CLASSIC, DAY, clusters, dataset, interactions, state

SMALL = {"als": ALSSettings(factors=3), "bpr": BPRSettings(factors=3, regularization=0.05)}  # three clusters
PERSONAL = [n for n in CLASSIC if n not in ("random", "popularity", "recent-popularity", "linucb", "thompson")]


def made(name: str, data, events=None, settings=None):  # type: ignore[no-untyped-def]
    spec = BASELINES[name]
    if not spec.available:
        pytest.skip(f"{name} needs the extra {spec.extra}")
    return spec.make(settings, 0).fit(data, data.events if events is None else events)


@pytest.mark.parametrize("name", PERSONAL)
def test_an_unseen_user_gets_the_rest_of_the_cluster(name: str) -> None:
    data = clusters()
    model = made(name, data, settings=SMALL.get(name))
    for cluster in range(3):
        own = set(range(cluster * 6, cluster * 6 + 6))
        slate = model.recommend([state(cluster * 6, cluster * 6 + 1, user="stranger")], 4)[0]
        assert set(slate.items_K) == own - {cluster * 6, cluster * 6 + 1}


@pytest.mark.parametrize("name", CLASSIC)
def test_contract(name: str) -> None:
    """Finite scores, seen items excluded, unknown users, empty histories and states without a time are served."""
    data = clusters()
    model = made(name, data)
    states = [state(), state(0, 7), state(3, user="u000", time=99 * DAY), state(1, 1, 1), State(user_id="u001")]
    scores = model.score(states)
    assert scores.shape == (5, 18)
    assert np.isfinite(scores).all()
    for slate, given_state in zip(model.recommend(states, 18), states, strict=True):
        assert sorted(slate.items_K) == sorted(set(range(18)) - set(given_state.seen()))
    assert model.score([]).shape == (0, 18)


@pytest.mark.parametrize("name", CLASSIC)
def test_no_training_event_and_one_item(name: str) -> None:
    data = clusters()
    empty = made(name, data, data.events.clear())
    assert np.isfinite(empty.score([state(), state(2)])).all()
    single = dataset([("a", 0, 1), ("b", 0, 2)], ["only thing"], repeat="allow")
    assert made(name, single).recommend([state(), state(0)], 1)[1].items_K == (0,)


@pytest.mark.parametrize("name", CLASSIC)
def test_equal_seeds_give_equal_scores(name: str) -> None:
    data = clusters()
    states = [state(0, 1), state(), state(9, user="u001")]
    assert (made(name, data).score(states) == made(name, data).score(states)).all()


def test_recent_clicks_count_more_and_later_ones_not_at_all() -> None:
    data = dataset([("a", 0, 0), ("b", 0, 1), ("c", 1, 10 * DAY), ("d", 2, 20 * DAY)], ["x", "y", "z"])
    model = RecentPopularity(RecentPopularitySettings(half_life=10.0)).fit(data, data.events)
    late, middle, first = model.score([state(), state(time=10 * DAY + 1), state(time=0)])
    second = 2 ** (1 / (10 * DAY))
    assert late == pytest.approx([0.25 * (1 + second), 0.5, 1.0])
    assert middle == pytest.approx([0.5 * (1 + second), 1.0, 0.0])
    assert first.tolist() == [0.0, 0.0, 0.0]
    forever = RecentPopularity(RecentPopularitySettings(half_life=1e9)).fit(data, data.events)
    assert forever.score([state()])[0] == pytest.approx([2, 1, 1], abs=1e-6)


def test_content_profile_is_the_decayed_mean_of_likenesses() -> None:
    data = dataset([("a", 4, 1)], ["oak", "oak", "elm", "elm", "fir"])
    scores = ContentProfile(ContentSettings(history_decay=0.5)).fit(data, data.events).score([state(2, 0), state()])
    # The latest item weighs 2/3, the one before 1/3; equal titles have cosine 1, others share no term.
    assert scores[0] == pytest.approx([0, 2 / 3, 0, 1 / 3, 0.001 * np.log(2)])
    assert scores[1] == pytest.approx([0, 0, 0, 0, 0.001 * np.log(2)])


def test_item_knn_by_loops() -> None:
    data, matrix = interactions(12, 7, 0.3, seed=1)
    k, shrink, decay = 3, 2.0, 0.5
    model = ItemKNN(ItemKNNSettings(k=k, shrink=shrink, history_decay=decay)).fit(data, data.events)
    likeness = np.zeros((7, 7))
    for i in range(7):
        for j in range(7):
            both = sum(matrix[u, i] * matrix[u, j] for u in range(12))
            if i != j and both:
                likeness[i, j] = both / (matrix[:, i].sum() ** 0.5 * matrix[:, j].sum() ** 0.5 + shrink)
        for j in sorted(range(7), key=lambda j: (-likeness[i, j], j))[k:]:
            likeness[i, j] = 0.0
    expected = likeness[5] + decay * likeness[2] + decay**2 * likeness[5]
    expected += 0.001 * np.log(1 + matrix.sum(axis=0))
    assert model.score([state(5, 2, 5)])[0] == pytest.approx(expected)


@pytest.mark.parametrize("weighting", ["cosine", "tfidf", "bm25"])
def test_item_knn_has_the_likenesses_of_the_reference_library(weighting: str) -> None:
    reference = pytest.importorskip("implicit.nearest_neighbours")
    from scipy.sparse import csr_matrix

    data, matrix = interactions(40, 12, 0.25, seed=2)
    setting = ItemKNNSettings(k=11, weighting=weighting)  # type: ignore[arg-type]
    found = ItemKNN(setting).fit(data, data.events).likeness_NN.toarray()
    names = {"cosine": "CosineRecommender", "tfidf": "TFIDFRecommender", "bm25": "BM25Recommender"}
    theirs = getattr(reference, names[weighting])(K=12, num_threads=1)
    theirs.fit(csr_matrix(matrix), show_progress=False)
    expected = theirs.similarity.toarray()
    np.fill_diagonal(expected, 0.0)
    assert found == pytest.approx(expected)


@pytest.mark.parametrize("weighting", ["cosine", "tfidf"])
def test_user_knn_by_dense_formulas(weighting: str) -> None:
    data, matrix = interactions(15, 8, 0.3, seed=3)
    k, shrink = 4, 1.5
    setting = UserKNNSettings(k=k, shrink=shrink, weighting=weighting)  # type: ignore[arg-type]
    model = UserKNN(setting).fit(data, data.events)
    idf = np.log(15 / (1 + matrix.sum(axis=0))) if weighting == "tfidf" else np.ones(8)
    weighted = matrix * np.maximum(idf, 0.0)
    own = np.flatnonzero(matrix[6])  # a training user, who must not be their own neighbour
    asking = weighted[6]
    similar = weighted @ asking / (np.linalg.norm(weighted, axis=1) * np.linalg.norm(asking) + shrink)
    similar[6] = 0.0
    similar[np.argsort(-similar, kind="stable")[k:]] = 0.0
    expected = similar @ matrix + 0.001 * np.log(1 + matrix.sum(axis=0))
    assert model.score([state(*own.tolist(), user="u006")])[0] == pytest.approx(expected)
    assert model.score([state(user="u006", time=10**6)])[0] == pytest.approx(expected)


def test_user_knn_serves_a_stranger_who_is_like_a_training_user() -> None:
    data = dataset([("a", 0, 1), ("a", 1, 2), ("b", 2, 1), ("b", 3, 2)], ["w", "x", "y", "z"])
    model = UserKNN(UserKNNSettings(k=1, shrink=0.0)).fit(data, data.events)
    # a and the stranger share one of a's two items: cosine 1 / sqrt(2).
    known = 0.001 * np.log(2)
    assert model.score([state(0)])[0] == pytest.approx([0.5**0.5 + known] * 2 + [known] * 2)


def test_ease_solves_the_constrained_ridge_regression_of_each_item() -> None:
    data, matrix = interactions(25, 9, 0.3, seed=4)
    model = EASE(EASESettings(l2=3.0)).fit(data, data.events)
    weights = np.zeros((9, 9))
    for j in range(9):
        others = [i for i in range(9) if i != j]
        design, target = matrix[:, others], matrix[:, j]
        weights[others, j] = np.linalg.solve(design.T @ design + 3.0 * np.eye(8), design.T @ target)
    assert model.b_NN == pytest.approx(weights, abs=1e-6)
    scores = model.score([state(2, 5, 2), state()])
    assert scores[0] == pytest.approx(weights[2] + weights[5], abs=1e-6)
    assert scores[1].tolist() == matrix.sum(axis=0).tolist()
    decayed = EASE(EASESettings(l2=3.0, history_decay=0.5)).fit(data, data.events)
    assert decayed.score([state(2, 5)])[0] == pytest.approx(0.5 * weights[2] + weights[5], abs=1e-6)


def test_ease_refuses_a_catalogue_too_big_for_memory() -> None:
    data = clusters()
    with pytest.raises(DataError, match=r"18 items of 'planted'.*max_items \(17\)"):
        EASE(EASESettings(max_items=17)).fit(data, data.events)


def test_training_items_are_remembered_only_from_before_the_state() -> None:
    log = [("a", 0, 10), ("a", 1, 20), ("b", 0, 10), ("b", 2, 20), ("c", 1, 5), ("c", 3, 6)]
    data = dataset(log, ["w", "x", "y", "z"])
    memory = ItemKNN().fit(data, data.events).memory
    assert memory.items(state(user="a", time=21)) == [0, 1]
    assert memory.items(state(user="a", time=20)) == [0]
    assert memory.items(state(user="a", time=10)) == []
    assert memory.items(state(0, 3, user="a", time=30)) == [1, 0, 3]
    assert memory.items(state(3, user="a")) == [3]
    assert memory.items(state(3, user="nobody", time=30)) == [3]
    assert memory.matrix_UN.toarray().tolist() == [[1, 1, 0, 0], [1, 0, 1, 0], [0, 1, 0, 1]]


def test_items_that_were_only_shown_or_disliked_are_no_sign_of_taste() -> None:
    data = dataset([("a", 0, 1)], ["x", "y", "z"])
    shown = State(session=(Interaction(1, "impression", 1), Interaction(2, "click", 2)))
    assert ItemKNN().fit(data, data.events).memory.items(shown) == [2]
    from llmrec.baselines.memory import Memory

    rows = pl.DataFrame({"user_id": ["a"], "user": [1], "item": [0], "time": [1]})
    rated = State(
        history=(Interaction(0, "rating", 1, 2.0), Interaction(1, "rating", 2, 4.0), Interaction(2, "conversion", 3))
    )
    assert Memory(rows, 3, "rating>=4").items(rated) == [1, 2]


@given(st.lists(st.lists(st.integers(-2, 3), min_size=5, max_size=5), min_size=1, max_size=4), st.integers(1, 6))
@settings(max_examples=50)
def test_strongest_columns_keeps_the_k_largest_of_each_row(rows: list[list[int]], k: int) -> None:
    from scipy.sparse import csr_matrix

    found = strongest_columns(csr_matrix(np.array(rows, dtype=float)), k).toarray()
    for row, kept in zip(rows, found, strict=True):
        best = sorted((j for j in range(5) if row[j] > 0), key=lambda j: (-row[j], j))[:k]
        assert kept.tolist() == [row[j] if j in best else 0 for j in range(5)]


def test_settings_that_cannot_be_are_refused() -> None:
    for wrong in (
        lambda: RecentPopularitySettings(half_life=0),
        lambda: ItemKNNSettings(k=0),
        lambda: ItemKNNSettings(weighting="jaccard"),  # type: ignore[arg-type]
        lambda: UserKNNSettings(shrink=-1),
        lambda: UserKNNSettings(weighting="bm25"),  # type: ignore[arg-type]
        lambda: EASESettings(l2=0),
    ):
        with pytest.raises(ConfigError):
            wrong()
