"""There is something to find in the default world: the order of policies that docs/world.md tables, on another seed.

The imitator is what supervised fine-tuning learns from clicks: a softmax regression from what the text shows (topics
and styles named in the profile, those of the items in the history) to the item clicked next. Value is the true
click + 3 * conversion of the items that a policy would deploy.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from llmrec.config import WorldConfig
from llmrec.dataset.examples import History, examples
from llmrec.dataset.split import make_split
from llmrec.dataset.world import World, generate_world
from llmrec.dataset.world.wording import entries
from llmrec.dataset.world.world import LANGUAGES
from llmrec.types import State

SEED, USERS = 11, 800


def _features(world: World, states: Sequence[State]) -> np.ndarray:
    wording = LANGUAGES[world.config.language][1][world.config.domain]
    names = [name for table in (wording.topics, wording.styles) for name, _ in entries(table)]
    kinds = np.array(
        [[name in c for name in names] for c in world.dataset.items["categories"].to_list()], dtype=float
    )
    rows = np.zeros((len(states), 2 * len(names)))
    for row, state in zip(rows, states, strict=True):
        row[: len(names)] = [name in state.profile for name in names]
        if state.history:
            row[len(names) :] = np.sqrt(kinds[[i.item for i in state.history]].sum(axis=0))
    return rows


def _imitator(world: World, states: Sequence[State]) -> np.ndarray:
    """P(next click) of every item for the states, shape (states, N)."""
    split = make_split(world.dataset, "time", valid_fraction=0.1, test_fraction=0.1)
    rows = list(examples(world.dataset, split, "train", limit=6_000, seed=SEED))
    model = LogisticRegression(C=0.1, max_iter=50)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # close enough for an order of policies
        model.fit(_features(world, [row.state for row in rows]), [row.target for row in rows])
    probability = np.zeros((len(states), world.dataset.n_items))
    probability[:, model.classes_] = model.predict_proba(_features(world, states))
    return probability


@pytest.fixture(scope="module")
def table() -> dict[str, np.ndarray]:
    """Values (top 1, mean of top 10) of each policy; a sampled policy has the same value twice."""
    world = generate_world(WorldConfig(), SEED)
    users = world.dataset.users["user_id"].to_list()
    met, others = users[:USERS], users[USERS:]
    history = History(world.dataset, 20)
    imitated = _imitator(world, [history.state(user) for user in met])
    value = world.value_BN(met)

    def deployed(score: np.ndarray) -> np.ndarray:
        ranked = np.argsort(-np.broadcast_to(score, value.shape), axis=1)
        picked = np.take_along_axis(value, ranked[:, :10], axis=1)
        return np.array([picked[:, 0].mean(), picked.mean()])

    def sampled(policy: np.ndarray) -> np.ndarray:
        return np.full(2, (policy * value).sum(axis=1).mean())

    return {
        "uniform": np.full(2, value.mean()),
        "logging": sampled(world.logging_policy_BN(met)),
        "sampled imitator": sampled(imitated),
        "imitator": deployed(imitated),
        "item mean": deployed(world.value_BN(others).mean(axis=0)),
        "optimum": np.array([world.optimum(met, 1).value_BK.mean(), world.optimum(met, 10).value_BK.mean()]),
    }


def test_logging_policy_is_far_from_the_optimum(table: dict[str, np.ndarray]) -> None:
    assert (table["logging"] < 0.5 * table["optimum"]).all()
    assert (table["logging"] > table["uniform"]).all()


def test_imitation_beats_the_log_and_leaves_room(table: dict[str, np.ndarray]) -> None:
    assert (table["sampled imitator"] > table["logging"]).all()
    assert (table["imitator"] > table["sampled imitator"]).all()
    assert table["optimum"][0] > 2 * table["imitator"][0]
    assert table["optimum"][1] > 1.7 * table["imitator"][1]


def test_knowing_items_helps_and_knowing_people_helps_more(table: dict[str, np.ndarray]) -> None:
    share = (table["item mean"] - table["imitator"]) / (table["optimum"] - table["imitator"])
    assert (share > 0.1).all()
    assert (share < 0.7).all()
