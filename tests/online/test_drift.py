"""Tests of the stream: their level under the null, by theory step by step and by simulation, and their power."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrec.errors import ConfigError
from llmrec.online.drift import Drift, Worse


def rewards(rng, number, click=0.2):
    """Mean rewards of slates of five: many ties, a long tail."""
    clicks = rng.binomial(5, click, number)
    return (clicks + 3 * rng.binomial(clicks, 0.3)) / 5


def test_drift_sums_all_bets(monkeypatch):
    """Against the definition: sum over beginnings j of 1 / (j (j + 1)) times the product of payments from j on."""
    drift = Drift(0.01, seed=1)
    uniforms = np.random.default_rng(5).random(6)
    monkeypatch.setattr(drift, "_random", type("R", (), {"random": staticmethod(iter(uniforms).__next__)}))
    values = [0.3, 0.1, 0.1, 0.5, 0.1, 0.0]
    ranks = []
    for n, value in enumerate(values, start=1):
        drift.add(value)
        lower = sum(v < value for v in values[:n])
        equal = sum(v == value for v in values[:n])
        ranks.append((lower + uniforms[n - 1] * equal) / n)
    total = 0.0
    for slope in (0.25, 0.5, 0.75, 1.0):
        pays = [1 + slope * (1 - 2 * rank) for rank in ranks]
        began = sum(np.prod(pays[j - 1 :]) / (j * (j + 1)) for j in range(1, 7))
        total += (began + 1 / 7) / 4
    assert drift.evidence == pytest.approx(total)


def test_drift_keeps_its_level_and_finds_a_fall():
    rng, level = np.random.default_rng(1), 0.05
    false, delays = 0, []
    for run in range(40):
        drift = Drift(level, seed=run)
        false += any(drift.add(float(r)) for r in rewards(rng, 500))
        drift.restart()
        early = any(drift.add(float(r)) for r in rewards(rng, 200))
        after = [drift.add(float(r)) for r in rewards(rng, 500, 0.08)]
        if not early:
            delays.append(after.index(True) if any(after) else np.inf)
    assert false <= 5  # 95% of Binomial(40, 0.05) and more
    assert np.median(delays) < 300


@given(
    st.lists(st.floats(0, 1, allow_subnormal=False), min_size=2, max_size=40, unique=True),
    st.lists(st.floats(0, 1), max_size=40),
)
def test_rewards_that_only_rise_are_less_evidence_than_rewards_that_stay(rewards, rises):
    """So the level holds for a version that earns more than the one before it. (Each is raised by all rises so far.)"""
    level = np.cumsum([*rises, *(0.0 for _ in rewards[len(rises) :])][: len(rewards)])
    stays, rise = Drift(0.01, seed=4), Drift(0.01, seed=4)
    # equal ones are ranked by chance: kept apart here
    for n, reward in enumerate(rewards):
        stays.add(round(reward * 1e9) + n * 1e-4)
        rise.add(round(reward * 1e9) + n * 1e-4 + 10 * round(level[n] * 1e9))
        assert rise.evidence <= stays.evidence * (1 + 1e-12)


def test_a_version_that_earns_more_keeps_the_level():
    rng, level = np.random.default_rng(4), 0.05
    false = 0
    for run in range(200):
        drift = Drift(level, seed=run)
        earned = itertools.chain(rewards(rng, 300, 0.15), rewards(rng, 300, 0.2), rewards(rng, 300, 0.2))
        false += any(drift.add(float(r)) for r in earned)
    assert false <= 18  # 99% of Binomial(200, 0.05)


def test_drift_of_both_directions_sees_a_rise():
    rng = np.random.default_rng(2)
    drift = Drift(0.01, both=True)
    assert not any(drift.add(float(r)) for r in rewards(rng, 300, 0.1))
    assert any(drift.add(float(r)) for r in rewards(rng, 500, 0.3))
    low = Drift(0.01)
    for r in itertools.chain(rewards(rng, 300, 0.1), rewards(rng, 500, 0.3)):
        assert not low.add(float(r))


def test_a_worse_version_is_found_and_a_better_one_left():
    rng, level = np.random.default_rng(3), 0.05
    false, found = 0, []
    for _ in range(40):
        same, worse = Worse(level, most=4.0), Worse(level, most=4.0)
        false += any(same.add(float(r), new=bool(n % 2)) for n, r in enumerate(rewards(rng, 800)))
        pairs = zip(rewards(rng, 600, 0.08), rewards(rng, 600), strict=True)
        any(worse.add(float(r), new=new) for pair in pairs for r, new in zip(pair, (True, False), strict=True))
        found.append(worse.pairs)
    assert false <= 5
    assert np.median(found) < 400


def test_worse_multiplies_what_its_pairs_pay():
    worse = Worse(0.05, most=2.0, margin=0.5)
    for new, old in ((0.0, 2.0), (1.0, 0.5)):
        worse.add(new, new=True)
        worse.add(old, new=False)
    pays = [(1 + s * 1.5 / 2.5) * (1 - s * 1.0 / 2.5) for s in (0.1, 0.2, 0.4, 0.8)]
    assert worse.evidence == pytest.approx(np.mean(pays))
    assert worse.pairs == 2


def test_levels_and_rewards_that_cannot_be():
    for level in (0, 1, -0.1):
        with pytest.raises(ConfigError, match="between 0 and 1"):
            Drift(level)
    with pytest.raises(ConfigError, match="largest reward"):
        Worse(0.05, most=0)
    with pytest.raises(ValueError, match="leave the slate out"):
        Drift(0.05).add(float("nan"))
    with pytest.raises(ValueError, match="not in 0 to"):
        Worse(0.05, most=1).add(1.5, new=True)
