"""Parameters planted in the transitions come back from simulated traces by least squares and maximum likelihood.

Each trace is read with noise where the transition is deterministic; the stated error is some four standard errors.
"""

import numpy as np
import pytest
from scipy.optimize import minimize

from llmrec.config import (
    DriftSettings,
    NoveltySettings,
    PatienceSettings,
    ReturnSettings,
    SatiationSettings,
    TrustSettings,
)
from tests.simulator.dynamics.worlds import CATEGORIES, feedback, only, world

USERS = 3000


def traced(settings, name, turns, seed=0, rate=0.2):
    """Noisy readings of one array before and after each turn, with the turn's items and clicks."""
    random = np.random.default_rng(seed)
    dynamics, users = world(settings, USERS)
    rows = []
    for _ in range(turns):
        before = getattr(users, name).copy()
        item, click, conversion, luck = feedback(USERS, random, rate)
        outcome = dynamics.step(users, item, click, conversion, luck)
        after = getattr(users, name) + 0.02 * random.standard_normal(before.shape)
        rows.append((before, after, item, click, conversion, outcome))
    return dynamics.items, users, rows


def least_squares(columns, target):
    return np.linalg.lstsq(np.stack([c.ravel() for c in columns], axis=1), target.ravel(), rcond=None)[0]


def test_drift():
    """x'' = x + decay (1 - rate) (home - x) + rate (m - x): linear in rate and in decay (1 - rate)."""
    planted = only(drift=DriftSettings(rate=0.15, decay=0.05, conversion=0.0))
    items, users, rows = traced(planted, "interest_BD", 8)
    to_item, to_home, change = [], [], []
    for before, after, item, click, _, _ in rows:
        one = click.sum(axis=1) > 0
        total = (items.vector_ND[item] * click[..., None]).sum(axis=1)
        mean = total[one] / click[one].sum(axis=1, keepdims=True)
        to_item.append(mean - before[one])
        to_home.append((users.home_BD - before)[one])
        change.append((after - before)[one])
    rate, home = least_squares([np.concatenate(to_item), np.concatenate(to_home)], np.concatenate(change))
    assert rate == pytest.approx(0.15, abs=0.001)
    assert home / (1 - rate) == pytest.approx(0.05, abs=0.002)


def test_satiation():
    planted = only(satiation=SatiationSettings(recovery=0.3, clicked=0.8, shown=0.1))
    items, _, rows = traced(planted, "satiation_BC", 6)
    old, clicked, shown, new = [], [], [], []
    for before, after, item, click, _, _ in rows:
        one_hot = np.eye(CATEGORIES)[items.category_N[item]]
        old.append(before)
        shown.append(one_hot.sum(axis=1))
        clicked.append((one_hot * click[..., None]).sum(axis=1))
        new.append(after)
    kept, by_click, by_sight = least_squares([np.concatenate(v) for v in (old, clicked, shown)], np.concatenate(new))
    assert 1 - kept == pytest.approx(0.3, abs=0.002)
    assert by_click / kept == pytest.approx(0.8, abs=0.004)
    assert by_sight / kept == pytest.approx(0.1, abs=0.002)


def test_familiarity():
    """Cells with one click or none: f' = (1 - forgetting) f, and learning (1 - that) on top."""
    planted = only(novelty=NoveltySettings(learning=0.25, forgetting=0.05))
    items, _, rows = traced(planted, "familiarity_BC", 8)
    forgetting, learning = [], []
    for before, after, item, click, _, _ in rows:
        clicks = (np.eye(CATEGORIES)[items.category_N[item]] * click[..., None]).sum(axis=1)
        none, one = clicks == 0, clicks == 1
        forgetting.append((before[none], before[none] - after[none]))
        learning.append((1 - 0.95 * before[one], after[one] - 0.95 * before[one]))
    for pairs, truth in ((forgetting, 0.05), (learning, 0.25)):
        x, y = (np.concatenate(v) for v in zip(*pairs, strict=True))
        assert least_squares([x], y)[0] == pytest.approx(truth, abs=0.002)


def test_trust():
    planted = only(trust=TrustSettings(gain=0.08, loss=0.3, threshold=0.4))
    items, _, rows = traced(planted, "trust_B", 8)
    up, down, change = [], [], []
    for before, after, item, click, _, _ in rows:
        one = click.sum(axis=1) > 0
        over = items.quality_N[item] - 0.4
        mean = [
            (v * click).sum(axis=1)[one] / click.sum(axis=1)[one] for v in (over.clip(0) / 0.6, (-over).clip(0) / 0.4)
        ]
        up.append(mean[0] * (1 - before[one]))
        down.append(-mean[1] * before[one])
        change.append((after - before)[one])
    gain, loss = least_squares([np.concatenate(up), np.concatenate(down)], np.concatenate(change))
    assert gain == pytest.approx(0.08, abs=0.005)
    assert loss == pytest.approx(0.3, abs=0.008)


def test_patience_and_leaving():
    """Gain and loss by least squares; the two chances of leaving by maximum likelihood of who left."""
    patience = PatienceSettings(gain=0.3, loss=0.25, leave_full=0.03, leave_empty=0.4)
    items, _, rows = traced(only(patience=patience), "patience_B", 12, rate=0.12)
    alive = np.ones(USERS, dtype=bool)
    won, lost, level, left = [], [], [], []
    for before, after, item, click, _, outcome in rows:
        clicks = click.sum(axis=1)
        quality = (items.quality_N[item] * click).sum(axis=1) / np.maximum(clicks, 1)
        one, none = alive & (clicks > 0), alive & (clicks == 0)
        won.append((quality[one] * (1 - before[one]), after[one] - before[one]))
        lost.append((before[none], before[none] - after[none]))
        level.append(np.where(one, before + 0.3 * quality * (1 - before), before * 0.75)[alive])
        left.append(outcome.left_B[alive])
        alive &= ~outcome.gone_B
    for pairs, truth in ((won, 0.3), (lost, 0.25)):
        x, y = (np.concatenate(v) for v in zip(*pairs, strict=True))
        assert least_squares([x], y)[0] == pytest.approx(truth, abs=0.01)
    p, y = np.concatenate(level), np.concatenate(left)
    empty, full = logistic(p, y)
    assert (empty, full) == (pytest.approx(0.4, abs=0.08), pytest.approx(0.03, abs=0.008))


def logistic(share, outcome):
    """Probabilities at share 0 and 1 of a logistic regression."""

    def loss(w):
        score = w[0] + w[1] * share
        return np.logaddexp(0, score).sum() - score[outcome].sum()

    low, slope = minimize(loss, [0.0, 0.0], method="BFGS").x
    return 1 / (1 + np.exp(-low)), 1 / (1 + np.exp(-low - slope))


def test_the_hazard_of_return():
    """Days away are as many daily trials: each day of waiting a 0, the return a 1, silence after the last a row of 0."""
    leave = PatienceSettings(leave_full=0.5, leave_empty=0.5)
    back = ReturnSettings(hazard_unsatisfied=0.1, hazard_satisfied=0.5, rate=0.3, max_days=20)
    items, _, rows = traced(only(patience=leave, comeback=back), "satisfaction_B", 6, rate=0.4)
    share, outcome = [], []
    for before, _, item, click, _, result in rows:
        quality = (items.quality_N[item] * click).sum(axis=1) / np.maximum(click.sum(axis=1), 1)
        satisfaction = before + 0.3 * (quality - before)
        trials = np.where(result.gone_B, 20, result.days_B).astype(int)
        share.append(np.repeat(satisfaction, trials))
        ends = np.cumsum(trials)
        came = np.zeros(ends[-1], dtype=bool)
        came[ends[(result.days_B > 0)] - 1] = True
        outcome.append(came)
    low, high = logistic(np.concatenate(share), np.concatenate(outcome))
    assert (low, high) == (pytest.approx(0.1, abs=0.02), pytest.approx(0.5, abs=0.06))
