"""Logs as slates to learn from, and propensities: as they are logged, and as they are fitted."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from llmrec.config import OffPolicySettings
from llmrec.dataset.impressions import Impressions
from llmrec.errors import DataError
from llmrec.training.logged import logged_slates
from llmrec.training.propensities import fitted_propensities, propensities, state_features
from llmrec.types import Interaction, State

SETTINGS = OffPolicySettings()
GROUP = np.repeat(np.arange(3), 4)


def log_of(states, rows, items, position, propensity, click=None, seen=None):
    zero = np.zeros(len(items), dtype=np.float32)
    return Impressions(
        states,
        np.array(rows),
        np.array(items),
        zero if click is None else np.array(click, dtype=np.float32),
        zero,
        np.array(position, dtype=np.float32),
        np.array(propensity, dtype=np.float32),
        [np.array([], dtype=np.int64)] * len(states) if seen is None else seen,
    )


def two_slates(**more):
    """A slate of three places, written out of order, and one of a single place."""
    states = [State("a"), State("b")]
    given = {"position": [2, 0, 1, 0], "propensity": [0.5, 0.25, 0.125, 0.5], **more}
    return log_of(states, [0, 0, 0, 1], [7, 5, 6, 3], **given)


def test_rows_are_laid_out_by_slate_and_place():
    slates = logged_slates(two_slates(), np.array([3.0, 0.0, 1.0, 2.0]), SETTINGS, GROUP, seed=0)
    assert [state.user_id for state in slates.states] == ["a", "b"]
    assert slates.items_BK.tolist() == [[5, 6, 7], [3, -1, -1]]
    assert slates.reward_BK.tolist() == [[0.0, 1.0, 3.0], [2.0, 0.0, 0.0]]
    assert slates.propensity_BK.tolist() == [[0.25, 0.125, 0.5], [0.5, 1.0, 1.0]]
    assert slates.below_BK.tolist() == [[2.0, 1.0, 0.0], [0.0, 0.0, 0.0]]
    assert slates.share_BK.tolist() == [[1 / 3] * 3, [1.0, 0.0, 0.0]]


@pytest.mark.parametrize("case", ["places by themselves", "fitted", "no positions"])
def test_without_an_order_no_place_lies_below(case):
    log = two_slates(position=[np.nan] * 4) if case == "no positions" else two_slates()
    settings = {"places by themselves": {"without_replacement": False}, "fitted": {"propensities": "fitted"}}
    chosen = dataclasses.replace(SETTINGS, **settings.get(case, {}))
    assert not logged_slates(log, np.ones(4), chosen, GROUP, seed=0).below_BK.any()


def test_a_sample_is_drawn_by_the_seed_and_whole():
    states = [State(f"u{n}") for n in range(50)]
    log = log_of(states, np.repeat(np.arange(50), 2), np.arange(100) % 12, [0, 1] * 50, [0.1] * 100)
    few = dataclasses.replace(SETTINGS, examples=10)
    one, same, other = (logged_slates(log, np.ones(100), few, GROUP, seed=s) for s in (0, 0, 1))
    assert len(one) == 10
    assert (one.share_BK == 0.5).all()
    assert one.states == same.states != other.states
    assert one.digest() == same.digest() != other.digest()


def test_seen_items_are_left_out_and_the_others_keep_their_shares():
    states = [State("a", history=(Interaction(5, "click", 1),)), State("b")]
    seen = [np.array([7]), np.array([3])]
    log = log_of(states, [0, 0, 0, 1], [5, 6, 7, 3], [0, 1, 2, 0], [0.5] * 4, seen=seen)
    slates, excluded = logged_slates(log, np.ones(4), SETTINGS, GROUP, seed=0).open("exclude")
    assert [state.user_id for state in slates.states] == ["a"]  # the other slate showed nothing new
    assert slates.share_BK.tolist() == [[0.0, 1 / 3, 0.0]]
    assert slates.below_BK.tolist() == [[2.0, 1.0, 0.0]]
    assert [row.tolist() for row in excluded] == [[5, 7]]


@pytest.mark.parametrize(
    ("propensity", "source", "said"),
    [
        ([0.5, np.nan, 0.5, 0.5], "logged", "Impression 1 (item 5, shown to user 'a') has no propensity"),
        ([0.5, 0.5, 0.0, 0.5], "logged", "Impression 2 (item 6, shown to user 'a') has the propensity 0"),
        ([0.5, 0.5, 0.5, 1.5], "auto", "Impression 3 (item 3, shown to user 'b') has the propensity 1.5"),
        ([-0.5, 0.5, 0.5, 0.5], "auto", "the propensity -0.5"),
        ([np.inf, 0.5, 0.5, 0.5], "auto", "the propensity inf"),
    ],
)
def test_propensities_that_cannot_be_used_are_named(propensity, source, said):
    with pytest.raises(DataError) as raised:
        propensities(two_slates(propensity=propensity), source, GROUP, seed=0)
    assert said in str(raised.value)
    assert "set off_policy.propensities to fitted" in str(raised.value)


def test_rewards_that_cannot_be_used_are_named():
    log = two_slates()
    for reward, said in (
        (np.zeros(4), "No impression of the log earned anything"),
        (np.ones(3), "4 impressions but 3 rewards"),
        (np.array([1, np.nan, 1, 1]), "reward of impression 1 is nan"),
    ):
        with pytest.raises(DataError, match=said):
            logged_slates(log, reward, SETTINGS, GROUP, seed=0)
    with pytest.raises(DataError, match="holds no impression"):
        logged_slates(log_of([], [], [], [], []), np.array([]), SETTINGS, GROUP, seed=0)


def test_auto_takes_the_log_s_where_it_has_them():
    log = two_slates(propensity=[0.5, np.nan, 0.125, np.nan])
    found = propensities(log, "auto", GROUP, seed=0)
    assert found.given_M.tolist() == [True, False, True, False]
    fitted = propensities(log, "fitted", GROUP, seed=0).propensity_M
    assert "50% of the impressions are fitted" in found.note
    assert found.propensity_M.tolist() == [0.5, fitted[1], 0.125, fitted[3]]
    assert ((fitted > 0) & (fitted <= 1)).all()
    assert logged_slates(log, np.ones(4), SETTINGS, GROUP, seed=0).below_BK.tolist()[0] == [0.0, 0.0, 0.0]


def drawn_log(table_UN, words, number, seed=0):
    """Slates of four places of the policy `table_UN`, whose row is told by a word of the profile."""
    random = np.random.default_rng(seed)
    kind = random.integers(len(table_UN), size=number)
    states = [State(f"u{n}", f"likes {words[k]}") for n, k in enumerate(kind)]
    items = np.stack([random.choice(table_UN.shape[1], size=4, p=table_UN[k]) for k in kind])
    rows = np.repeat(np.arange(number), 4)
    log = log_of(states, rows, items.ravel(), [0, 1, 2, 3] * number, [np.nan] * (4 * number))
    return log, table_UN[kind[rows], items.ravel()]


def test_a_policy_of_groups_is_recovered_from_what_it_showed():
    """Films to one user, books to the other, within a group always 4 : 3 : 2 : 1."""
    within = np.array([0.4, 0.3, 0.2, 0.1])
    group_UG = np.array([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6]])
    table = (group_UG[:, :, None] * within).reshape(2, 12)
    log, truth = drawn_log(table, ("films", "books"), 1500)
    fitted = fitted_propensities(log, GROUP, seed=0)
    assert np.abs(np.log(fitted.propensity_M / truth)).mean() < 0.1
    assert fitted.weight <= 0.1
    assert fitted.log_likelihood > fitted.popularity + 0.1
    popular = np.bincount(log.item_M, minlength=12)[log.item_M] / len(log)
    assert np.abs(np.log(popular / truth)).mean() > 0.5  # popularity alone is far off


def test_where_the_context_tells_nothing_popularity_is_left():
    table = np.tile(np.arange(1, 13) / 78, (2, 1))
    log, truth = drawn_log(table, ("films", "books"), 1000)
    fitted = fitted_propensities(log, GROUP, seed=0)
    assert np.abs(np.log(fitted.propensity_M / truth)).mean() < 0.1


def test_features_are_shares_the_latest_group_and_words():
    states = [State(profile="films", history=tuple(Interaction(i, "click", i) for i in (0, 1, 8))), State()]
    found = state_features(states, GROUP)
    assert found[0, :6].tolist() == pytest.approx([2 / 3, 0.0, 1 / 3, 0.0, 0.0, 1.0])
    assert np.count_nonzero(found[0, 6:]) == 1
    assert not found[1].any()
    assert np.array_equal(found, state_features(states, GROUP))


def test_an_item_without_a_group_is_refused():
    with pytest.raises(DataError, match="give one an item"):
        fitted_propensities(two_slates(), GROUP[:7], seed=0)
