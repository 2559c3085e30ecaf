"""Intervals over users and trainings cover what was planted; over users alone they do not."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from llmrec.errors import RequestError
from llmrec.evaluation.significance import bootstrap_interval
from llmrec.evaluation.trainings import compare_trainings, paired, relative_bound, spread


def planted(random, mean=0.2, *, seeds=3, users=150, of_seed=0.02, of_user=0.2, own=0.05):
    """Figures (S, B), two rows a user: mean + training + user + both + row."""
    user_B = np.repeat(np.arange(users), 2)
    found_SB = mean + of_seed * random.standard_normal((seeds, 1)) + of_user * random.standard_normal(users)[user_B]
    found_SB = found_SB + own * random.standard_normal((seeds, users))[:, user_B]
    return found_SB + 0.1 * random.standard_normal(found_SB.shape), user_B.tolist()


@pytest.mark.parametrize("of_seed", [0.0, 0.02, 0.06])
def test_the_interval_covers_the_mean_of_the_next_training(of_seed):
    random, covered, of_users = np.random.default_rng(0), 0, 0
    for trial in range(400):
        found_SB, users = planted(random, of_seed=of_seed)
        own = spread(found_SB, users).interval()
        covered += own.low <= 0.2 <= own.high
        if trial < 100:
            alone = bootstrap_interval(found_SB.mean(0), users=users, samples=200, seed=trial)
            of_users += alone.low <= 0.2 <= alone.high
    assert covered >= 0.92 * 400, covered  # three standard errors below 95%
    assert covered <= 0.995 * 400
    if of_seed == 0.06:
        assert of_users < 80, "users alone say nothing of trainings that differ by more than users do"


def test_a_difference_is_paired_by_training_and_row():
    """What is trained on top of a policy shares its luck: the gain is known well although both differ by seed."""
    random = np.random.default_rng(1)
    base_SB, users = planted(random, of_seed=0.06)
    better_SB = base_SB + 0.01 + 0.001 * random.standard_normal(base_SB.shape)
    gain = spread(paired(better_SB, base_SB), users).interval()
    assert 0.0095 < gain.low < gain.high < 0.0105
    apart = spread(paired(better_SB, base_SB[[1, 2, 0]]), users).interval()
    assert apart.high - apart.low > 20 * (gain.high - gain.low)
    fixed = spread(paired(better_SB, base_SB[:1]), users)  # a reference without chance
    assert fixed.trainings == pytest.approx(better_SB.mean(1).var(ddof=1) / 3)


def test_parts_by_hand():
    values_SB = np.array([[0.0, 1.0, 0.0, 1.0], [1.0, 1.0, 0.0, 1.0]])
    found = spread(values_SB)
    mean_B = np.array([0.5, 1.0, 0.0, 1.0])
    assert found.mean == pytest.approx(0.625)
    assert found.users == pytest.approx(mean_B.var(ddof=1) / 4)
    assert found.trainings == pytest.approx(np.var([0.5, 0.75], ddof=1) / 2)
    total = found.users + found.trainings
    assert found.degrees == pytest.approx(total**2 / (found.users**2 / 3 + found.trainings**2 / 1))
    half = stats.t.ppf(0.975, found.degrees) * total**0.5
    assert found.interval().high == pytest.approx(0.625 + half)
    assert found.p_value == pytest.approx(2 * stats.t.sf(0.625 / total**0.5, found.degrees))
    assert spread(np.zeros((1, 4))).p_value == 1.0
    assert spread(values_SB[:1]).trainings == 0.0


def test_the_relative_bound_covers_from_below():
    random, covered = np.random.default_rng(2), 0
    for _ in range(300):
        base_SB, users = planted(random, mean=1.0)
        other_SB = base_SB * 1.0 + planted(random, mean=0.05)[0]
        bound = relative_bound(other_SB, base_SB, users=users)
        covered += bound.low <= 0.05
        assert bound.low < bound.relative
    assert 0.91 * 300 <= covered <= 0.99 * 300, covered


def test_marks_after_holm_s_correction_are_full_and_others_hollow():
    """Of forty systems that are the reference some differ by luck; one that is better stays."""
    random = np.random.default_rng(3)
    base_SB, users = planted(random, seeds=1)
    rows = {
        "reference": {"m": base_SB},
        "better": {"m": base_SB + 0.05 + 0.01 * random.standard_normal(base_SB.shape)},
    }
    for n in range(40):
        rows[f"same {n}"] = {"m": base_SB + 0.1 * random.standard_normal(base_SB.shape)}
    table = compare_trainings("t", rows, reference="reference", users=users)
    marks = {name: row["m"].shown_mark for name, row in table.cells.items()}
    assert marks["better"] == "▲"
    assert marks["reference"] == ""
    luck = [marks[f"same {n}"] for n in range(40)]
    assert set(luck) <= {"", "△", "▽"}
    assert luck.count("") < 40, "without a correction some of forty are marked"
    text = table.to_markdown()
    assert "after Holm's correction" in text
    assert "△" in text or "▽" in text
    assert table.to_json()["systems"]["better"]["m"]["adjusted p"] < 0.05


def test_figures_that_cannot_be_compared():
    with pytest.raises(RequestError, match="shape"):
        spread(np.zeros(3))
    with pytest.raises(RequestError, match="cannot be paired"):
        paired(np.zeros((3, 4)), np.zeros((2, 4)))
    with pytest.raises(RequestError, match="above 0"):
        relative_bound(np.ones((1, 4)), np.zeros((1, 4)))
    with pytest.raises(RequestError, match="not among the systems"):
        compare_trainings("t", {"a": {"m": np.ones((1, 4))}}, reference="b")
