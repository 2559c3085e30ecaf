"""Text as a retriever: the formula of what a state says, by words and by an encoder, and where it is plugged in."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import polars as pl
import pytest

from llmrec.baselines import (
    BASELINES,
    ContentProfile,
    ContentSettings,
    EmbeddingProfile,
    EmbeddingSettings,
    likeness,
    registry,
)
from llmrec.baselines.base import POPULARITY
from llmrec.dataset.store import Dataset
from llmrec.errors import RequestError
from llmrec.policy.mixture import Items, Mixture, Scores
from llmrec.types import State
from tests.baselines.worlds import clusters, dataset, state

TITLES = ["oak table", "oak chair", "steel chair", "steel pan"]
LOG = [("a", 0, 1), ("b", 0, 2), ("b", 3, 3)]
COUNTS = np.array([2, 0, 0, 1])


def shop(repeat: str = "allow") -> Dataset:
    return dataset(LOG, TITLES, repeat=repeat)


def by_word(texts: Sequence[str]) -> np.ndarray:
    """1 for each of five words, and 1 everywhere."""
    return np.array(
        [[1.0, *(float(word in text) for word in ["oak", "steel", "chair", "table", "pan"])] for text in texts]
    )


def cosines(text: str) -> np.ndarray:
    def unit(one: str) -> np.ndarray:
        vector = by_word([one])[0]
        return vector / np.linalg.norm(vector)

    return np.array([unit(text) @ unit(title) for title in TITLES])


def test_what_a_state_says_is_summed_with_its_weights() -> None:
    settings = EmbeddingSettings(history_decay=0.5, request=2.0, profile=0.25)
    model = EmbeddingProfile(settings, encode=by_word).fit(shop(), shop().events)
    asked = dataclasses.replace(state(0, 2), context="a pan", profile="likes oak")
    found = model.score([asked, state(), dataclasses.replace(state(), context="a pan")])
    # the later item counts twice, an item's likeness to itself not at all
    history = (np.array([0, 1, 1, 1]) * cosines(TITLES[0]) + np.array([2, 2, 0, 2]) * cosines(TITLES[2])) / 3
    bias = POPULARITY * np.log1p(COUNTS)
    whole = history + 2 * cosines("a pan") + 0.25 * cosines("likes oak") + bias
    assert found == pytest.approx(np.array([whole, bias, 2 * cosines("a pan") + bias]), abs=1e-6)


def test_words_hear_a_request_and_a_profile() -> None:
    model = ContentProfile(ContentSettings(profile=0.5)).fit(shop(), shop().events)
    lists = model.recommend([State(context="Steel, please"), State(profile="Owns a STEEL shed"), State()], 2)
    assert {frozenset(slate.items_K) for slate in lists[:2]} == {frozenset({2, 3})}
    assert lists[2].items_K == (0, 3)  # nothing is said: by popularity
    deaf = ContentProfile(ContentSettings(request=0.0)).fit(shop(), shop().events)
    assert deaf.recommend([State(context="Steel, please")], 1)[0].items_K == (0,)


def test_categories_are_words_where_they_are_asked_for() -> None:
    items = pl.DataFrame(
        {
            "item_id": ["1", "2", "3"],
            "title": ["one", "two", "three"],
            "categories": [["tables"], ["tables", "oak"], ["chairs"]],
        }
    )
    events = pl.DataFrame({"user_id": ["a"], "item_id": ["3"], "kind": ["click"], "time": [1]})
    data = Dataset.build(items, None, events, name="x", domain="shop", click="click", conversion="conversion")
    asked = [State(context="tables")]
    assert ContentProfile().fit(data, data.events).recommend(asked, 1)[0].items_K == (2,)
    found = ContentProfile(ContentSettings(categories=True)).fit(data, data.events).recommend(asked, 2)
    assert set(found[0].items_K) == {0, 1}


def test_a_whole_prompt_as_one_text_and_another_text_of_items() -> None:
    seen: list[str] = []

    def encode(texts: Sequence[str]) -> np.ndarray:
        seen.extend(texts)
        return by_word(texts)

    model = EmbeddingProfile(
        encode=encode,
        read=lambda states: [f"{len(one.history)} steel" for one in states],
        describe=lambda data: [f"{title}!" for title in data.items["title"]],
    ).fit(shop(), shop().events)
    found = model.score([state(0)])
    assert found[0] == pytest.approx(cosines("steel") + POPULARITY * np.log1p(COUNTS), abs=1e-6)
    assert seen == [*(f"{title}!" for title in TITLES), "1 steel"]
    assert model.score([]).shape == (0, 4)


def test_a_large_catalogue_of_vectors_has_the_scores_of_a_small_one(monkeypatch: pytest.MonkeyPatch) -> None:
    states = [state(0, 3, 0), state()]
    small = EmbeddingProfile(encode=by_word).fit(shop(), shop().events).score(states)
    monkeypatch.setattr(likeness, "DENSE_ITEMS", 0)
    assert EmbeddingProfile(encode=by_word).fit(shop(), shop().events).score(states) == pytest.approx(small, abs=1e-6)


def test_nearest_items_are_a_part_of_a_mixture() -> None:
    data = clusters()
    model = EmbeddingProfile(
        encode=lambda texts: np.array([[float(w in t) for w in ("garden", "kitchen", "office")] for t in texts])
    )
    model.fit(data, data.events)
    mixed = Mixture(
        [Scores((model,), 4.0), lambda states: np.ones((len(states), 18))], [0.5, 0.5], items=Items(18, "exclude")
    )
    assert set(mixed.recommend([State(context="for the office")], 6)[0].items_K) == set(range(12, 18))


def test_the_registry_names_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = BASELINES["embeddings"]
    monkeypatch.setattr(registry.importlib.util, "find_spec", lambda name: None)
    assert not spec.available
    with pytest.raises(RequestError, match=r"pip install 'llmrec\[embeddings\]'"):
        spec.require()
    monkeypatch.setattr(registry.importlib.util, "find_spec", lambda name: object())
    monkeypatch.delenv("LLMREC_EMBEDDINGS", raising=False)
    assert not spec.available
    with pytest.raises(RequestError, match="set LLMREC_EMBEDDINGS"):
        spec.require()
    monkeypatch.setenv("LLMREC_EMBEDDINGS", "somewhere")
    assert spec.available
