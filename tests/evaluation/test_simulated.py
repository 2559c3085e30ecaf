"""Judged slates by hand: rates are per impression, empty places are no impressions."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace

import numpy as np
import pytest

from llmrec.errors import RequestError
from llmrec.evaluation import simulated
from llmrec.evaluation.significance import paired_bootstrap
from llmrec.evaluation.simulated import simulate
from llmrec.types import IntArray, Prediction, Slate, State

CLICK = np.array([0.9, 0.5, 0.1, 0.0])
CONVERSION = np.array([0.0, 0.2, 1.0, 0.5])


class Known:
    """Answers by item alone; item 0 would be counted if an empty place were."""

    def predict(self, states: Sequence[State], items_BK: IntArray) -> Prediction:
        assert len(states) == len(items_BK)
        return Prediction(CLICK[items_BK], CONVERSION[items_BK])


def slate(*items: int) -> Slate:
    return Slate(items, tuple(0.0 for _ in items))


STATES = [State("a"), State("b"), State()]


def test_rates_by_hand() -> None:
    found = simulate([slate(1, 2), slate(3), slate()], STATES, Known())
    assert found.click_B == pytest.approx([0.3, 0.0, 0.0])
    assert found.conversion_B == pytest.approx([(0.5 * 0.2 + 0.1 * 1.0) / 2, 0.0, 0.0])
    assert found.value_B == pytest.approx([0.3 + 3 * 0.1, 0.0, 0.0])
    assert found.shown_B.tolist() == [2, 1, 0]
    assert found.means["click_rate"] == pytest.approx(0.1)


def test_only_the_first_k_are_shown_and_weights_count() -> None:
    found = simulate([slate(1, 2)], STATES[:1], Known(), k=1, click=2.0, conversion=10.0)
    assert found.value_B == pytest.approx([2 * 0.5 + 10 * 0.1])


def test_batches_do_not_change_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    slates = [slate(n % 4, (n + 1) % 4) for n in range(11)]
    states = [State(str(n)) for n in range(11)]
    whole = simulate(slates, states, Known())
    monkeypatch.setattr(simulated, "BATCH", 3)
    assert simulate(slates, states, Known()).value_B.tolist() == whole.value_B.tolist()


def test_paired_interval_of_two_systems() -> None:
    states = [State(str(n)) for n in range(60)]
    better = simulate([slate(1)] * 60, states, Known())
    worse = simulate([slate(2 + n % 2) for n in range(60)], states, Known())
    difference = better.minus(worse, samples=300)
    assert difference["click_rate"].mean == pytest.approx(0.45)
    assert difference["click_rate"].above_zero
    assert better.intervals(samples=100)["click_rate"].low == pytest.approx(0.5)
    with pytest.raises(RequestError, match="same users"):
        better.minus(simulate([slate(1)], states[:1], Known()))


def test_bad_requests() -> None:
    class Broken:
        def __init__(self, click: object) -> None:
            self.click = np.asarray(click)

        def predict(self, states: Sequence[State], items_BK: IntArray) -> Prediction:
            return Prediction(self.click, self.click)

    with pytest.raises(RequestError, match="slates"):
        simulate([], [], Known())
    with pytest.raises(RequestError, match="from 0 to 1"):
        simulate([slate(1)], STATES[:1], Broken([[1.5]]))
    with pytest.raises(RequestError, match="from 0 to 1"):
        simulate([slate(1)], STATES[:1], Broken([[np.nan]]))
    with pytest.raises(RequestError, match="shape"):
        simulate([slate(1)], STATES[:1], Broken([0.5]))


def test_each_replicate_of_a_judge_values_slates_as_a_judge_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """And the interval of a difference is that of their differences, replicate by replicate."""

    class Doubted(Known):
        factors = (0.8, 1.0, 1.1)

        def one(self, factor: float) -> Known:
            class One(Known):
                def predict(self, states: Sequence[State], items_BK: IntArray) -> Prediction:
                    found = super().predict(states, items_BK)
                    return Prediction(factor * found.click_BK, found.conversion_BK)

            return One()

        def with_replicates(self, states: Sequence[State], items_BK: IntArray) -> tuple[Prediction, SimpleNamespace]:
            found = [self.one(factor).predict(states, np.maximum(items_BK, 0)) for factor in self.factors]
            real_BK = items_BK >= 0
            click_RBK = np.stack([one.click_BK * real_BK for one in found])
            joint_RBK = click_RBK * np.stack([o.conversion_BK for o in found])
            doubt = SimpleNamespace(click_RBK=click_RBK, joint_RBK=joint_RBK)
            return self.predict(states, np.maximum(items_BK, 0)), doubt

    judge = Doubted()
    slates, others = [slate(0, 1), slate(2), slate(1, 2)], [slate(1, 3), slate(1), slate(2, 3)]
    monkeypatch.setattr(simulated, "BATCH", 2)
    found, base = simulate(slates, STATES, judge, k=2), simulate(others, STATES, judge, k=2)
    for row, factor in enumerate(judge.factors):
        plain = simulate(slates, STATES, judge.one(factor), k=2)
        assert plain.replicas == {}
        for name, values_B in plain.per_user.items():
            np.testing.assert_allclose(found.replicas[name][row], values_B)
    interval = found.minus(base, samples=400, seed=3)["value"]
    wanted = paired_bootstrap(
        found.value_B,
        base.value_B,
        users=found.users_B,
        samples=400,
        seed=3,
        replicas=(found.replicas["value"], base.replicas["value"]),
    )
    assert interval == wanted
