"""Holm's correction by hand and by its property, p-values beside the t test, marks of a table after correction."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from llmrec.errors import RequestError
from llmrec.evaluation.multiple import corrected_marks, holm, paired_holm, simultaneous
from llmrec.evaluation.significance import paired_bootstrap
from llmrec.evaluation.table import Comparison


def test_holm_by_hand() -> None:
    # 0.01 * 4; max(0.04, 0.005 * ...): smallest 0.005 * 4 = 0.02, then 0.01 * 3 = 0.03, 0.03 * 2 = 0.06, 0.04 -> 0.06
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.6]) == pytest.approx([1.0, 1.0])
    assert holm([0.2]) == pytest.approx([0.2])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8), st.floats(0.01, 0.2))
def test_holm_rejects_what_the_step_down_procedure_rejects(p_values: list[float], alpha: float) -> None:
    rejected = set()
    for step, row in enumerate(np.argsort(p_values, kind="stable").tolist()):
        if p_values[row] * (len(p_values) - step) > alpha:
            break
        rejected.add(row)
    assert set(np.flatnonzero(holm(p_values) <= alpha).tolist()) == rejected


def test_p_values_are_close_to_those_of_the_t_test() -> None:
    rng = np.random.default_rng(0)
    for shift in (0.0, 0.05, 0.1, 0.15):
        values = rng.normal(shift, 1.0, 400)
        found = paired_holm({"one": values}, samples=10_000)["one"]
        expected = stats.ttest_1samp(values, 0).pvalue
        error = 2 * np.sqrt(expected / 2 * (1 - expected / 2) / 10_000)  # of 10,000 bootstrap samples
        assert found.p_value == pytest.approx(expected, abs=4 * error + 0.003)  # 0.003: normal beside t
        assert found.adjusted == found.p_value
        assert (
            found.corrected == found.difference == paired_bootstrap(values, 0 * values, samples=10_000, name=("one",))
        )


def test_corrected_intervals_decide_as_adjusted_p_values() -> None:
    rng = np.random.default_rng(1)
    for trial in range(40):
        shifts = rng.choice([0.0, 0.1, 0.2, 0.3], 4)
        drawn = {f"m{n}": rng.normal(shift, 1.0, 150) for n, shift in enumerate(shifts)}
        for found in paired_holm(drawn, seed=trial).values():
            assert found.corrected.level >= 0.95
            if abs(found.adjusted - 0.05) > 0.01:  # the border itself is a matter of one bootstrap sample
                excludes = found.corrected.above_zero or found.corrected.below_zero
                assert excludes == (found.adjusted <= 0.05)


def test_among_five_differences_of_nothing_there_is_a_false_one_in_some_five_of_a_hundred() -> None:
    rng, plain, corrected = np.random.default_rng(2), 0, 0
    for trial in range(120):
        drawn = {f"m{n}": row for n, row in enumerate(rng.normal(0, 1, (5, 100)))}
        found = paired_holm(drawn, samples=1000, seed=trial).values()
        plain += any(t.difference.above_zero or t.difference.below_zero for t in found)
        corrected += any(t.corrected.above_zero or t.corrected.below_zero for t in found)
    assert plain >= 14  # 1 - 0.95 ** 5 = 0.226 of 120 is 27, deviation 4.6
    assert corrected <= 14  # 0.05 of 120 is 6, deviation 2.4; the percentile interval is a little short at 100 rows


def test_no_difference_and_a_constant_one() -> None:
    found = paired_holm({"none": np.zeros(30), "same": np.full(30, 0.5)})
    assert (found["none"].p_value, found["none"].adjusted) == (1.0, 1.0)
    assert not found["none"].corrected.above_zero
    assert not found["none"].corrected.below_zero
    assert found["same"].corrected.above_zero
    assert found["same"].p_value == pytest.approx(2 / 1001)


def test_marks_of_a_table_after_correction() -> None:
    rng = np.random.default_rng(3)
    base = rng.normal(1, 1, 200)
    row = {f"m{n}": base for n in range(12)}
    other = {f"m{n}": base + rng.normal(1.0 if n == 0 else 0.0, 1, 200) for n in range(12)}
    other["m1"] = base + _shifted_to(rng.normal(0, 1, 200), 2.3)  # significant alone, p about 0.02
    values = {"A": row | {"all": 0.5}, "B": other | {"all": 0.6}}
    table = Comparison.of("t", values, reference="A")
    fixed = corrected_marks(table, values)
    assert [table.cells["B"][m].mark for m in ("m0", "m1")] == ["▲", "▲"]
    assert [fixed.cells["B"][m].mark for m in ("m0", "m1", "all")] == ["▲", "", ""]
    assert fixed.cells["B"]["m1"].difference.level == pytest.approx(1 - 0.05 / 11)
    assert "12 comparisons (Holm)" in fixed.legend()
    assert fixed.cells["A"] == table.cells["A"]


def _shifted_to(values: np.ndarray, t: float) -> np.ndarray:
    """The values with their t statistic moved to `t`."""
    return values - values.mean() + t * values.std(ddof=1) / np.sqrt(len(values))


def test_what_cannot_be_tested_is_refused() -> None:
    with pytest.raises(RequestError, match="one or more"):
        paired_holm({})
    with pytest.raises(RequestError, match="'value' needs a finite"):
        paired_holm({"value": np.array([np.nan])})
    with pytest.raises(RequestError, match="one p-value"):
        holm([])
    with pytest.raises(RequestError, match="test 1"):
        holm([0.1, np.nan])
    with pytest.raises(RequestError, match="reference"):
        corrected_marks(Comparison.of("t", {"A": {"m": 1.0}}), {"A": {"m": 1.0}})


def test_intervals_that_hold_at_once_do_so_for_means_that_vary_together() -> None:
    """2,000 samples of six means with correlation 0.5: all six intervals hold 0 in 95 of a hundred."""
    random = np.random.default_rng(3)

    def drawn(times: int) -> np.ndarray:
        return 0.5**0.5 * random.normal(size=(1, times)) + 0.5**0.5 * random.normal(size=(6, times))

    draws_KS = drawn(20_000)
    held = [all(i.low <= 0 <= i.high for i in simultaneous(means_K, draws_KS[:, :2000])) for means_K in drawn(400).T]
    assert 0.93 <= np.mean(held) <= 0.97
    one = simultaneous([0.0], draws_KS[:1])[0]
    six = simultaneous([0.0] * 6, draws_KS)[0]
    assert one.high == pytest.approx(1.96, abs=0.05)
    assert 2.3 < six.high < 2.63  # Bonferroni's would be 2.64
    with pytest.raises(RequestError, match="draws of shape"):
        simultaneous([0.0], draws_KS)
