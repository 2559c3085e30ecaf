"""What a log says of a judge on a policy's own lists: by hand, against a plain twin, and on a judge that is wrong."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from llmrec.evaluation.simulated import JudgeError, simulate
from llmrec.evaluation.witnesses import CLIP, LEAST, Witnesses
from llmrec.types import Prediction, Slate, State

ITEMS, FACTORS = 6, (0.9, 1.0, 1.2)


class Doubted:
    """P(click) 0.1 and P(conversion | click) 0.5 of everything, but for what a replicate makes of it."""

    def with_replicates(self, states, items_BK):
        click_BK = np.where(items_BK >= 0, 0.1, 0.0)
        click_RBK = np.stack([factor * click_BK for factor in FACTORS])
        return Prediction(click_BK, np.full(click_BK.shape, 0.5)), SimpleNamespace(
            click_RBK=click_RBK, joint_RBK=0.5 * click_RBK
        )

    def predict(self, states, items_BK):
        return self.with_replicates(states, items_BK)[0]


class Same:
    """The same list for everybody."""

    def __init__(self, *items):
        self.items = items

    def recommend(self, states, k, *, seen=None):
        return [Slate(self.items[:k], (0.0,) * len(self.items[:k])) for _ in states]


def a_log(states=40, seed=0):
    """Three items a state; items 0 and 1 are clicked far more often than the judge believes."""
    random = np.random.default_rng(seed)
    item_M = np.concatenate([random.permutation(ITEMS)[:3] for _ in range(states)])
    click_M = (random.random(len(item_M)) < np.where(item_M < 2, 0.6, 0.1)).astype(np.float32)
    order = random.permutation(len(item_M))  # rows of a log need no order
    return SimpleNamespace(
        states=[State(f"u{n // 2}", time=n) for n in range(states)],
        seen=[np.zeros(0, dtype=np.int64)] * states,
        state_row_M=np.repeat(np.arange(states), 3)[order],
        item_M=item_M[order],
        click_M=click_M[order],
        conversion_M=(click_M * (random.random(len(item_M)) < 0.5)).astype(np.float32)[order],
    )


def test_what_was_not_expected_is_the_mean_over_what_the_policy_would_have_shown():
    log = a_log()
    witnesses = Witnesses.of(log, Doubted(), left_out={"u0", "u3"}, limit=1000, seed=0)
    users = np.array([log.states[row].user_id for row in log.state_row_M])
    own_M = np.isin(log.item_M, (0, 1)) & ~np.isin(users, ("u0", "u3"))
    found = witnesses.error(witnesses.lists(Same(0, 1), 2))
    assert found.impressions == own_M.sum() >= LEAST
    wanted = log.click_M[own_M].mean() - 0.1, log.conversion_M[own_M].mean() - 0.05
    np.testing.assert_allclose(found.mean_2, wanted, atol=1e-7)
    # each replicate with its own expectation and its own sample of users
    names = list(dict.fromkeys(state.user_id for state in witnesses.states))
    for r, factor in enumerate(FACTORS):
        times_M = np.array([witnesses.times_RU[r, names.index(user)] if user in names else 0.0 for user in users])
        weight_M = times_M * own_M
        wanted = (weight_M @ (log.click_M - 0.1 * factor)) / weight_M.sum()
        assert found.mean_2R[0, r] == pytest.approx(wanted, abs=1e-7)
    assert witnesses.times_RU.sum(axis=1).tolist() == [18.0] * 3


def test_few_matches_say_nothing_and_places_weigh_as_they_are_looked_at():
    log = a_log(states=12)
    witnesses = Witnesses.of(log, Doubted(), left_out=(), limit=1000, seed=0)
    found = witnesses.error(witnesses.lists(Same(0), 1))
    assert found.impressions < LEAST
    assert not found.mean_2.any()
    assert not found.mean_2R.any()
    nobody = Witnesses.of(log, Doubted(), left_out={f"u{n}" for n in range(6)}, limit=10, seed=0)
    assert nobody.error(nobody.lists(Same(0), 1)).impressions == 0
    some = Witnesses.of(a_log(), Doubted(), left_out=(), limit=7, seed=0)
    assert (len(some.states), len(some.item_M)) == (7, 21)
    # places that are looked at half of the time lose half of the clicks, which dividing by it gives back
    log = a_log(states=400)
    look_M = np.where(np.arange(len(log.item_M)) % 2, 0.5, 1.0)
    kept_M = np.random.default_rng(1).random(len(look_M)) < look_M
    lost = SimpleNamespace(
        **{**vars(log), "click_M": log.click_M * kept_M, "conversion_M": log.conversion_M * kept_M}
    )
    whole, half = (
        Witnesses.of(one, Doubted(), left_out=(), limit=1000, seed=0, look_M=look)
        for one, look in ((log, None), (lost, look_M))
    )
    values = [one.error(one.lists(Same(0, 1), 2)).mean_2[0] for one in (whole, half)]
    assert values[1] == pytest.approx(values[0], abs=0.06)
    assert values[0] == pytest.approx(0.5, abs=0.06)


def test_impressions_count_as_often_as_they_stand_for():
    """Item 0 is shown four times as often as item 1 and clicked more: unweighed its clicks would be all that is heard."""
    random = np.random.default_rng(5)
    item_M = random.choice(ITEMS, size=6000, p=[0.4, 0.1, 0.2, 0.1, 0.1, 0.1])
    click_M = (random.random(6000) < np.where(item_M == 0, 0.5, np.where(item_M == 1, 0.2, 0.1))).astype(np.float32)
    log = SimpleNamespace(
        states=[State(f"u{n}", time=n) for n in range(6000)],
        seen=[np.zeros(0, dtype=np.int64)] * 6000,
        state_row_M=np.arange(6000),
        item_M=item_M,
        click_M=click_M,
        conversion_M=np.zeros(6000, dtype=np.float32),
    )
    count_M = 1 / np.array([0.4, 0.1, 0.2, 0.1, 0.1, 0.1])[item_M]
    plain, weighed = (
        Witnesses.of(log, Doubted(), left_out=(), limit=6000, seed=0, count_M=count) for count in (None, count_M)
    )
    errors = [one.error(one.lists(Same(0, 1), 2)).mean_2[0] for one in (plain, weighed)]
    assert errors[0] == pytest.approx(0.8 * 0.5 + 0.2 * 0.2 - 0.1, abs=0.03)
    assert errors[1] == pytest.approx(0.5 * 0.5 + 0.5 * 0.2 - 0.1, abs=0.03)
    # what is not known is left out, one rare impression is not heard above all, and few that count are too few
    some = Witnesses.of(
        log, Doubted(), left_out=(), limit=6000, seed=0, count_M=np.where(np.arange(6000) < 5800, 0.0, count_M)
    )
    assert some.error(some.lists(Same(0, 1), 2)).impressions == np.isin(item_M[5800:], (0, 1)).sum()
    heavy_M = np.ones(6000)
    heavy_M[np.flatnonzero(item_M == 1)[0]] = 1e6
    heavy = Witnesses.of(log, Doubted(), left_out=(), limit=6000, seed=0, count_M=heavy_M)
    assert heavy.weight_M.max() == CLIP
    few_M = np.where(item_M == 1, 1e-6, 1.0)
    few_M[np.flatnonzero(item_M == 1)[: LEAST - 1]] = 1.0
    few = Witnesses.of(log, Doubted(), left_out=(), limit=6000, seed=0, count_M=few_M)
    assert not few.error(few.lists(Same(1), 1)).mean_2.any()


def test_a_judge_that_underrates_a_policys_items_is_put_right_for_every_user_that_is_shown_something():
    states = [State("a"), State("b"), State("c")]
    slates = [Slate((0, 1), (0.0, 0.0)), Slate((1,), (0.0,)), Slate((), ())]
    plain = simulate(slates, states, Doubted(), k=2)
    error = JudgeError(np.array([0.5, 0.25]), np.array([[0.5, 0.4, 0.6], [0.2, 0.3, 0.25]]), 30)
    found = plain.corrected(error, click=1.0, conversion=3.0)
    np.testing.assert_allclose(found.click_B, [0.6, 0.6, 0.0])
    np.testing.assert_allclose(found.conversion_B, [0.3, 0.3, 0.0])
    np.testing.assert_allclose(found.value_B, [1.5, 1.5, 0.0])
    np.testing.assert_allclose(
        found.replicas["value"][:, 0], [0.09 + 0.135 + 1.1, 0.1 + 0.15 + 1.3, 0.12 + 0.18 + 1.35]
    )
    assert not found.replicas["value"][:, 2].any()
