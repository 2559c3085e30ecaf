"""Sample sizes beside published values and a direct computation, and the promised power by simulation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from llmrec.errors import RequestError
from llmrec.evaluation.effect import (
    detectable,
    users_for_means,
    users_for_pairs,
)


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
    assert (
        detectable(users, 1.0, alpha=alpha, power=power)
        <= effect
        < detectable(users - 2, 1.0, alpha=alpha, power=power)
    )


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


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: users_for_pairs(0.0, 1.0), "difference of 0"),
        (lambda: users_for_pairs(1.0, -1.0), "standard deviation"),
        (lambda: users_for_pairs(1.0, 1.0, power=1.0), "alpha and power"),
        (lambda: detectable(0, 1.0), "one or more"),
    ],
)
def test_what_has_no_answer_is_refused(call, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        call()
