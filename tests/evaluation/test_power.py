"""Sample sizes beside published values and a direct computation, and the promised power by simulation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from llmrec.errors import RequestError
from llmrec.evaluation.effect import (
    detectable,
    power_of_pairs,
    users_for_means,
    users_for_pairs,
    users_for_proportions,
)


def test_two_proportions_as_published() -> None:
    # R, power.prop.test(p1 = .50, p2 = .75, power = .90): n = 76.7
    assert users_for_proportions(0.50, 0.75, power=0.9) == 77
    assert users_for_proportions(0.75, 0.50, power=0.9) == 77
    # by hand: (1.959964 sqrt(2 * 0.055 * 0.945) + 0.841621 sqrt(0.05 * 0.95 + 0.06 * 0.94))^2 / 0.01^2 = 8157.6
    assert users_for_proportions(0.05, 0.06) == 8158


def test_means_by_hand() -> None:
    # (1.959964 + 1.281552)^2 * (1 + 1) = 21.0148
    assert users_for_means(1.0, 1.0, 1.0, power=0.9) == 22
    # (1.959964 + 0.841621)^2 * 2^2 / 0.5^2 = 125.58
    assert users_for_pairs(0.5, 2.0) == users_for_pairs(-0.5, 2.0) == 126
    assert users_for_pairs(10.0, 0.1) == users_for_pairs(1.0, 0.0) == 2
    assert detectable(126, 2.0) == pytest.approx(0.5, rel=0.002)
    assert detectable(100, 0.0) == 0


@pytest.mark.parametrize(("effect", "alpha", "power"), [(0.1, 0.05, 0.8), (0.31, 0.01, 0.9), (0.05, 0.05 / 6, 0.5)])
def test_size_and_power_are_inverse(effect: float, alpha: float, power: float) -> None:
    users = users_for_pairs(effect, 1.0, alpha=alpha, power=power)
    assert power_of_pairs(effect, 1.0, users, alpha=alpha) >= power - 1e-3
    assert power_of_pairs(effect, 1.0, users - 2, alpha=alpha) < power
    assert detectable(users, 1.0, alpha=alpha, power=power) <= effect


def test_power_without_an_effect_is_the_level() -> None:
    assert power_of_pairs(0.0, 3.0, 50, alpha=0.05) == pytest.approx(0.05)


def test_the_promised_power_is_there() -> None:
    rng = np.random.default_rng(0)
    shared = 4.0  # what a user brings to both systems
    noise, effect = 1.0, 0.3
    users = users_for_pairs(effect, np.sqrt(2) * noise)
    draws = rng.normal(0, shared, (4000, users, 1)) + rng.normal(0, noise, (4000, users, 2))
    a, b = draws[..., 0], draws[..., 1] + effect
    paired = stats.ttest_rel(b, a, axis=1).pvalue < 0.05
    assert paired.mean() == pytest.approx(0.8, abs=0.03)
    unpaired = users_for_means(effect, np.hypot(shared, noise), np.hypot(shared, noise))
    assert unpaired / users == pytest.approx(17, rel=0.01)  # (4^2 + 1^2) / 1^2
    apart = stats.ttest_ind(b, a, axis=1).pvalue < 0.05
    assert apart.mean() < 0.2


def test_the_promised_power_of_proportions_is_there() -> None:
    users = users_for_proportions(0.3, 0.4)
    rng = np.random.default_rng(1)
    a, b = (rng.binomial(users, share, 20_000) / users for share in (0.3, 0.4))
    pooled = (a + b) / 2
    z = (b - a) / np.sqrt(2 * pooled * (1 - pooled) / users)
    assert (np.abs(z) > stats.norm.ppf(0.975)).mean() == pytest.approx(0.8, abs=0.015)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: users_for_pairs(0.0, 1.0), "difference of 0"),
        (lambda: users_for_pairs(1.0, -1.0), "standard deviation"),
        (lambda: users_for_pairs(1.0, 1.0, power=1.0), "alpha and power"),
        (lambda: users_for_proportions(0.5, 0.5), "difference of 0"),
        (lambda: users_for_proportions(-0.1, 0.5), "Shares"),
        (lambda: detectable(0, 1.0), "one or more"),
        (lambda: power_of_pairs(1.0, 0.0, 10), "deviation above 0"),
    ],
)
def test_what_has_no_answer_is_refused(call, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        call()
