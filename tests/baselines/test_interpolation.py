"""The mixture of cheap recommenders: a planted world in which the time since the last choice decides."""

from __future__ import annotations

import dataclasses

import numpy as np
import polars as pl
import pytest

from llmrec.baselines.interpolation import BANDS, Interpolation, _maximised
from llmrec.dataset.store import Dataset
from llmrec.types import Interaction, State

DAY = 86_400


def planted(users=300, repeat="allow"):
    """Within a visit the item after i is i + 1 (mod 8); a visit months later begins with item 8 or, lately, item 9."""
    rng = np.random.default_rng(0)
    rows = []
    for user in range(users):
        start = int(rng.integers(0, 300)) * DAY
        for visit in range(2):
            first = 9 if start > 250 * DAY else 8
            item = first if visit else int(rng.integers(8))
            for step in range(3):
                rows.append((f"u{user}", f"i{item}", start + 60 * step))
                item = int(rng.integers(8)) if item >= 8 else (item + 1) % 8
            start += 100 * DAY
    events = pl.DataFrame(rows, ["user_id", "item_id", "time"], orient="row").with_columns(
        pl.lit("click").alias("kind")
    )
    items = pl.DataFrame({"item_id": [f"i{n}" for n in range(10)], "title": [f"thing {n}" for n in range(10)]})
    return Dataset.build(
        items, None, events, name="planted", domain="shop", click="click", conversion="conversion", repeat=repeat,
        add_missing_users=True,
    )  # fmt: skip


@pytest.fixture(scope="module")
def fitted():
    dataset = planted()
    return Interpolation().fit(dataset, dataset.events)


def state(item, away):
    return State("u", history=(Interaction(item, "click", 0),), time=round(away * DAY))


def test_rows_are_distributions_and_the_weights_too(fitted):
    states = [state(3, 0.01), state(3, 200), State(), State(history=(Interaction(1, "click", 0),))]
    p_BN = fitted.score(states)
    assert p_BN.shape == (4, 10)
    assert np.allclose(p_BN.sum(1), 1.0)
    assert (p_BN > 0).all()
    assert fitted.weights_RK.shape[0] == BANDS + 1
    assert np.allclose(fitted.weights_RK.sum(1), 1.0)


def test_time_decides_between_the_next_item_and_what_is_bought_these_days(fitted):
    within, after = fitted.score([state(3, 0.01), state(3, 200)])
    assert within.argmax() == 4
    assert after[9] > within[9] + 0.05
    assert after[4] < within[4]
    assert after[9] > after[8], "what begins visits lately, not what began more of them over all"


def test_without_times_all_states_have_the_pooled_weights(fitted):
    untimed = Interpolation(timed=False).fit(planted(), planted().events)
    within, after, unknown = untimed.score(
        [state(3, 0.01), state(3, 200), dataclasses.replace(state(3, 1), time=None)]
    )
    assert np.array_equal(within, after)
    assert np.array_equal(within, unknown)
    assert within == pytest.approx(fitted.score([dataclasses.replace(state(3, 1), time=None)])[0])


def test_seen_items_have_no_probability_where_repeats_are_excluded():
    dataset = planted(80, "exclude")
    model = Interpolation().fit(dataset, dataset.events)
    [p] = model.score([State(history=(Interaction(4, "click", 0), Interaction(3, "click", 5)), time=10)])
    assert p[4] == p[3] == 0.0
    assert p.sum() == pytest.approx(1.0)


def test_weights_maximise_the_likelihood():
    """Two parts, closed form: with p = (a, 0) on n rows and (0, b) on m rows the weights are n and m over n + m."""
    p_EK = np.array([[0.3, 0.0]] * 30 + [[0.0, 0.9]] * 10)
    assert _maximised(p_EK, np.array([0.5, 0.5]), 0.0) == pytest.approx([0.75, 0.25])
    assert _maximised(p_EK, np.array([0.5, 0.5]), 40.0) == pytest.approx([0.625, 0.375])
    assert _maximised(p_EK[:0], np.array([0.2, 0.8]), 40.0) == pytest.approx([0.2, 0.8])


def test_nothing_to_hold_out():
    dataset = planted(1)
    one = Interpolation().fit(dataset, dataset.events.head(1))
    assert np.allclose(one.score([State()]).sum(1), 1.0)
