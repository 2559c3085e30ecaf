"""What the terms say of plain slates on MovieLens 100K, against what must hold of popular, random and own films."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from llmrec.config import RewardSettings
from llmrec.dataset.examples import examples
from llmrec.dataset.importers import import_dataset
from llmrec.dataset.split import make_split
from llmrec.rewards import RewardContext, combine, make_terms
from llmrec.types import Feedback

FOLDER = Path(os.environ.get("LLMREC_DATA", Path(__file__).parents[3] / "shared" / "data")) / "movielens-100k"
pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason=f"{FOLDER} is absent; set LLMREC_DATA to the real data")
NAMES = (
    "diversity",
    "calibration",
    "novelty",
    "long_tail",
    "repetition",
    "category_repetition",
    "exposure",
    "next_item",
)


@pytest.fixture(scope="module")
def found() -> dict[str, dict[str, float]]:
    """Mean of each term over 1,000 test states: the slate's sum for list-level terms, else the mean an item."""
    dataset = import_dataset("movielens", FOLDER)
    split = make_split(dataset)
    tests = examples(dataset, split, "test", limit=1000, seed=0)
    context = RewardContext.of(dataset, split.train, targets=tests, slate_size=10)
    assert context.popularity_N.sum() == len(split.train)  # every rating is a click, once a user and film
    assert context.rating_range == (1.0, 5.0)
    terms = make_terms(RewardSettings(terms=dict.fromkeys(NAMES, 1.0)), context)
    random, states = np.random.default_rng(0), [example.state for example in tests]
    popular_K = np.argsort(-context.popularity_N, kind="stable")[:10]
    past = [[i.item for i in state.history][-10:] for state in states]
    slates = {
        "popular": np.tile(popular_K, (len(states), 1)),
        "random": np.stack([random.choice(dataset.n_items, 10, replace=False) for _ in states]),
        "past": np.array([items + [-1] * (10 - len(items)) for items in past]),
        "truth": np.array([[example.target] * 10 for example in tests]),
    }
    empty = {name: np.zeros(items_BK.shape) for name, items_BK in slates.items()}
    rewards = {n: combine(terms, states, i, Feedback(empty[n], empty[n])).terms for n, i in slates.items()}
    lists = {"diversity", "coherence", "calibration"}
    return {
        slate: {
            name: float(value.sum(1).mean() if name in lists else value[slates[slate] >= 0].mean())
            for name, value in values.items()
        }
        for slate, values in rewards.items()
    }


def test_popular_films_are_the_head_and_no_news(found):
    assert found["popular"]["long_tail"] == 0
    assert found["popular"]["novelty"] < found["past"]["novelty"] < found["random"]["novelty"]
    assert found["random"]["long_tail"] > 0.5  # four fifths of the ratings are of far fewer than half of the films


def test_the_own_past_is_best_calibrated_and_all_repetition(found):
    assert found["past"]["calibration"] > found["popular"]["calibration"] > found["random"]["calibration"]
    assert found["past"]["repetition"] == -1 < found["random"]["repetition"]
    assert found["past"]["category_repetition"] < found["random"]["category_repetition"]


def test_random_films_are_exposed_as_the_catalogue_and_hit_nothing(found):
    assert found["random"]["exposure"] > found["popular"]["exposure"]
    assert found["truth"]["next_item"] == 1
    assert found["random"]["next_item"] == pytest.approx(1 / 1682, abs=1e-3)
    assert found["truth"]["diversity"] == pytest.approx(0, abs=1e-12)
