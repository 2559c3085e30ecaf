"""Foresight by dynamic programming against the enumeration of all policies, and where it pays."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from llmrec.config import RewardSettings, TrustSettings
from llmrec.studies.foresight import foresight, run_foresight, small_catalogue

CLICK, CONVERSION, QUALITY = np.array([0.5, 0.4]), np.array([0.3, 0.3]), np.array([0.1, 0.9])
REWARD = RewardSettings(click=1.0, conversion=3.0)


def shifted(p: float, delta: float) -> float:
    return p * math.exp(delta) / (1 - p + p * math.exp(delta))


def worth(policy, trust, gamma, level, seen, left):
    """Discounted reward of a policy that maps what was clicked or not (`seen`) to an item."""
    item = policy[seen]
    gained = level - trust.initial
    click = shifted(CLICK[item], trust.weight * gained)
    now = click * (1 + 3 * shifted(CONVERSION[item], trust.conversion_weight * gained))
    if left == 1:
        return now
    good = max(QUALITY[item] - trust.threshold, 0) / (1 - trust.threshold)
    bad = max(trust.threshold - QUALITY[item], 0) / trust.threshold
    moved = level + trust.gain * good * (1 - level) - trust.loss * bad * level
    later = [worth(policy, trust, gamma, at, (*seen, c), left - 1) for c, at in ((0, level), (1, moved))]
    return now + gamma * ((1 - click) * later[0] + click * later[1])


@pytest.mark.parametrize("weight", [2.0, 16.0])
def test_it_is_the_best_of_all_policies(weight):
    trust, turns = TrustSettings(weight=weight, conversion_weight=weight / 2, loss=0.6, gain=0.3), 3
    seen = [s for turn in range(turns) for s in itertools.product((0, 1), repeat=turn)]
    policies = [dict(zip(seen, acts, strict=True)) for acts in itertools.product((0, 1), repeat=len(seen))]
    assert len(policies) == 128
    values = [worth(p, trust, 1.0, trust.initial, (), turns) for p in policies]
    discounted = [worth(p, trust, 0.7, trust.initial, (), turns) for p in policies]
    found = foresight(trust, CLICK, CONVERSION, QUALITY, turns=turns, gamma=0.7, reward=REWARD)
    assert found.optimum == pytest.approx(max(values), rel=1e-5)
    assert found.sighted == pytest.approx(values[int(np.argmax(discounted))], rel=1e-5)
    assert found.greedy == pytest.approx(values[policies.index(dict.fromkeys(seen, 0))], rel=1e-5)


def test_it_pays_where_trust_answers_strongly_and_not_where_it_does_not():
    weak, strong = (
        foresight(
            TrustSettings(weight=weight, conversion_weight=weight / 2),
            CLICK,
            CONVERSION,
            QUALITY,
            turns=5,
            gamma=0.95,
            reward=REWARD,
        )
        for weight in (0.0, 16.0)
    )
    assert weak.greedy == weak.sighted == weak.optimum
    assert strong.sighted > 1.05 * strong.greedy


def test_a_small_catalogue_by_hand():
    value, quality = np.array([0.2, 0.9, 0.8, 0.5]), np.array([0.9, 0.3, 0.2, 0.6])
    assert small_catalogue(value, quality, 4).tolist() == [1, 3, 0]
    assert small_catalogue(value, quality, 2).tolist() == [1, 3]


def test_the_study_has_a_row_for_each_strength(tmp_path):
    found = run_foresight([0, 1], tmp_path, users=3, size=2)
    assert list(found["strengths"]) == ["1", "2", "4", "8"]
    for one in found["strengths"].values():
        assert one["optimum"]["mean"] >= one["sighted"]["mean"] - 1e-9
        assert one["optimum"]["mean"] >= 0
