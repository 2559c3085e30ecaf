"""The baselines on a data set small enough to work out by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import polars as pl
import pytest

from llmrec.baselines import Covisitation, CovisitationSettings, Popularity, Random, likeness, select
from llmrec.baselines.base import Meaning, ScoreRecommender, history_weights
from llmrec.baselines.covisitation import FIXED_GRID
from llmrec.baselines.likeness import text_vectors
from llmrec.dataset.store import Dataset
from llmrec.errors import ConfigError, DataError, RequestError
from llmrec.types import Example, FloatArray, Interaction, State

TITLES = ["red apple", "green apple", "blue boat", "blue boat sail", "moon"]


def make(log: list[tuple[str, str, str, int]], repeat: str = "exclude", titles: list[str] = TITLES) -> Dataset:
    items = pl.DataFrame({"item_id": [f"i{n}" for n in range(len(titles))], "title": titles})
    rows = [{"user_id": u, "item_id": i, "kind": k, "time": t} for u, i, k, t in log]
    return Dataset.build(
        items,
        None,
        pl.DataFrame(rows),
        name="tiny",
        domain="shop",
        click="click",
        conversion="conversion",
        repeat=repeat,  # type: ignore[arg-type]
    )


LOG = [
    ("a", "i0", "click", 1),
    ("a", "i1", "click", 2),
    ("a", "i2", "click", 3),
    ("b", "i0", "click", 1),
    ("b", "i1", "click", 5),
    ("b", "i4", "impression", 6),
]


def state(*items: int) -> State:
    return State(history=tuple(Interaction(item, "click", n) for n, item in enumerate(items)))


def test_popularity_counts_clicks_and_not_impressions() -> None:
    data = make(LOG)
    model = Popularity().fit(data, data.events)
    assert model.score([state(), state(1)]).tolist() == [[2, 2, 1, 0, 0]] * 2
    assert model.recommend([state(1)], 2)[0].items_K == (0, 2)


def test_only_the_given_events_are_learnt() -> None:
    data = make(LOG)
    model = Popularity().fit(data, data.events.filter(pl.col("user_id") == "a"))
    assert model.score([state()])[0].tolist() == [1, 1, 1, 0, 0]


def test_transition_counts_by_hand() -> None:
    data = make(LOG, repeat="allow")
    settings = CovisitationSettings(window=2, decay=0.5, back=0.25, history_decay=0.5, text=0.0)
    model = Covisitation(settings).fit(data, data.events)
    # Forward: 0->1 twice, 1->2 once, 0->2 once at distance 2 (weight .5). Backward adds a quarter of the reverse.
    counts = np.zeros((5, 5))
    counts[0, 1], counts[0, 2] = 2 / 3, 0.5 / 3
    counts[1, 0], counts[1, 2] = 0.5 / 3, 1 / 3
    counts[2, 1], counts[2, 0] = 0.25 / 2, 0.125 / 2
    popularity = 0.001 * np.log([3, 3, 2, 1, 1])
    assert model.score([state(0)])[0] == pytest.approx(counts[0] + popularity)
    # The latest item weighs 1, the one before it history_decay.
    assert model.score([state(0, 1)])[0] == pytest.approx(counts[1] + 0.5 * counts[0] + popularity)
    assert model.score([state()])[0] == pytest.approx(popularity)


def test_events_of_equal_time_have_no_order() -> None:
    log = [("a", "i0", "click", 1), ("a", "i1", "click", 1), ("a", "i2", "click", 2)]
    data = make(log, repeat="allow")
    settings = CovisitationSettings(window=1, text=0.0, history_decay=1.0)
    model = Covisitation(settings).fit(data, data.events)
    # 0, 1, 2 and 1, 0, 2 are equally likely: each pair of neighbours has half a count, divided by 1 + 1.
    quarter = model.score([state(0)])[0] - 0.001 * math.log(2) * np.array([1, 1, 1, 0, 0])
    assert quarter == pytest.approx([0, 0.25, 0.25, 0, 0])
    assert model.score([state(1)])[0, [0, 2]] == pytest.approx(model.score([state(0)])[0, [1, 2]])


def test_text_likeness_is_the_cosine_and_zero_for_the_item_itself() -> None:
    data = make([("a", "i4", "click", 1)], repeat="allow", titles=["oak", "oak", "elm", "elm", "fir"])
    settings = CovisitationSettings(text=0.5, history_decay=0.5)
    scores = Covisitation(settings).fit(data, data.events).score([state(2, 0)])[0]
    # Titles that are equal have cosine 1, others share no term; item 4 only has its popularity.
    assert scores == pytest.approx([0.0, 0.5, 0.0, 0.25, 0.001 * math.log(2)])


def test_likeness_of_a_large_catalogue_is_that_of_a_small_one(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = text_vectors(make(LOG))
    weights = history_weights([state(0, 3, 0), state()], 5, 0.5)
    kept = likeness.TextLikeness(vectors).sum(weights)
    monkeypatch.setattr(likeness, "DENSE_ITEMS", 0)
    assert likeness.TextLikeness(vectors).sum(weights) == pytest.approx(kept, abs=1e-6)


def test_text_works_where_no_term_is_shared() -> None:
    data = make(LOG, titles=["a1", "b2", "c3", "d4", "e5"])
    assert np.isfinite(Covisitation().fit(data, data.events).score([state(0)])).all()


def test_session_items_count_as_the_latest() -> None:
    states = [State(history=state(0).history, session=state(1).history)]
    assert history_weights(states, 3, 0.5).toarray().tolist() == [[0.5, 1.0, 0.0]]


def test_manifest_decides_about_repeats_and_the_caller_may_overrule_it() -> None:
    data = make(LOG, repeat="allow")
    model = Popularity().fit(data, data.events)
    assert set(model.recommend([state(0, 1)], 2)[0].items_K) == {0, 1}
    assert model.recommend([state(0, 1)], 1, exclude_seen=True)[0].items_K == (2,)
    strict = Popularity().fit(make(LOG), data.events)
    assert set(strict.recommend([state(0, 1)], 2, exclude_seen=False)[0].items_K) == {0, 1}
    assert strict.recommend([state()], 1, seen=[np.array([0, 1, -1])])[0].items_K == (2,)


def test_slate_is_shorter_where_fewer_items_are_allowed() -> None:
    data = make(LOG)
    slate = Popularity().fit(data, data.events).recommend([state(0, 1, 2, 4)], 3)[0]
    assert slate.items_K == (3,)
    assert slate.log_probs_K == (0.0,)


def test_random_shows_every_item_equally_often_and_the_seed_decides() -> None:
    data = make(LOG, repeat="allow")
    states = [state()] * 6000
    first = [s.items_K[0] for s in Random(seed=3).fit(data, data.events).recommend(states, 1)]
    assert np.bincount(first, minlength=5) / 6000 == pytest.approx(np.full(5, 0.2), abs=0.025)
    again = [s.items_K[0] for s in Random(seed=3).fit(data, data.events).recommend(states, 1)]
    other = [s.items_K[0] for s in Random(seed=4).fit(data, data.events).recommend(states, 1)]
    assert first == again != other


def test_selection_takes_the_setting_that_ranks_the_validation_targets_best() -> None:
    log = [(f"u{n}", item, "click", time) for n in range(4) for time, item in enumerate(("i0", "i2", "i1"))]
    data = make(log)
    far = CovisitationSettings(window=2, text=0.0)
    near = CovisitationSettings(window=1, text=0.0)
    text = CovisitationSettings(window=1, text=5.0)
    valid = [Example(state(0), 1)] * 3
    # After item 0 the target 1 comes at distance 2: text (both are apples) knows it best, window 1 not at all.
    chosen = select(Covisitation, [near, far, text], data, data.events, valid)
    valid_ndcg = {trial.settings: trial.ndcg for trial in chosen.trials}
    assert chosen.settings == text
    assert valid_ndcg[text] == 1.0
    assert valid_ndcg[far] == pytest.approx(1 / math.log2(3))
    for setting in (near, far, text):
        fitted = Covisitation(setting).fit(data, data.events)
        ranked = fitted.recommend([valid[0].state], 4)[0].items_K
        assert valid_ndcg[setting] == pytest.approx(1 / math.log2(ranked.index(1) + 2))


@pytest.mark.parametrize(("half_life", "counts"), [(None, [2, 1, 0, 0, 0]), (1.0, [0.25 + 0.5, 1.0, 0, 0, 0])])
def test_popularity_that_forgets(half_life: float | None, counts: list[float]) -> None:
    # item 0 was clicked two days and one day before the last click, which is of item 1
    day = 86400
    data = make([("a", "i0", "click", 0), ("b", "i0", "click", day), ("c", "i1", "click", 2 * day)], repeat="allow")
    settings = CovisitationSettings(text=0.0, popularity=0.3, half_life=half_life)
    model = Covisitation(settings).fit(data, data.events)
    assert model.score([state()])[0] == pytest.approx(0.3 * np.log1p(counts))
    with pytest.raises(ConfigError, match="half_life is 0"):
        CovisitationSettings(half_life=0.0)


def test_scores_of_each_kind_as_a_distribution() -> None:
    data = make(LOG)

    class Fixed(Popularity):
        kind: Meaning = "weights"

        @property
        def meaning(self) -> Meaning:
            return self.kind

        def score(self, states: Sequence[State]) -> FloatArray:
            return (
                np.array([[1.0, 2.0, 0.0, 1.0, 0.0]])
                if self.kind != "log-probabilities"
                else np.log([[0.4, 0.3, 0.2, 0.06, 0.04]])
            )

    model = Fixed().fit(data, data.events)
    assert model.distribution([state()])[0] == pytest.approx([0.25, 0.5, 0, 0.25, 0])
    assert model.distribution([state()], 2.0)[0] == pytest.approx([1 / 6, 4 / 6, 0, 1 / 6, 0])
    model.kind = "log-probabilities"
    assert model.distribution([state()])[0] == pytest.approx([0.4, 0.3, 0.2, 0.06, 0.04])
    squares = np.array([0.4, 0.3, 0.2, 0.06, 0.04]) ** 2
    assert model.distribution([state()], 2.0)[0] == pytest.approx(squares / squares.sum())
    model.kind = "numbers"
    z = (np.array([1.0, 2.0, 0.0, 1.0, 0.0]) - 0.8) / np.std([1.0, 2.0, 0.0, 1.0, 0.0])
    assert model.distribution([state()])[0] == pytest.approx(np.exp(z) / np.exp(z).sum())
    silent = Random().fit(data, data.events)
    assert silent.distribution([state()])[0].tolist() == [0.0] * 5


def test_clear_errors() -> None:
    data = make(LOG)
    with pytest.raises(RequestError, match="not fitted"):
        Popularity().recommend([state()], 1)
    model: ScoreRecommender = Popularity().fit(data, data.events)
    for k in (0, 6):
        with pytest.raises(RequestError, match="1 to 5"):
            model.recommend([state()], k)
    with pytest.raises(RequestError, match="seen"):
        model.recommend([state()], 1, seen=[])
    with pytest.raises(DataError, match="validation"):
        select(Covisitation, FIXED_GRID, data, data.events, [])
