"""The scale of the ratings decides what stands for a click and for a conversion."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from llmrec.dataset.check import check
from llmrec.dataset.scales import default_signals, rating_scale
from tests.dataset.tiny import tiny

# counts of the ratings 0, 1, 2, ... 10 in the shape of a site for books where most entries are not rated
BOOKS = [6200, 15, 24, 52, 77, 443, 322, 664, 902, 592, 684]
TEN = [30, 31, 42, 53, 66, 90, 104, 152, 201, 149, 98]
random = np.random.default_rng(7)


def _of(counts, low=0):
    return [float(low + place) for place, count in enumerate(counts) for _ in range(count)]


CASES = {
    # name: (values, kind, low, high, click rule, conversion rule)
    "books, 0 not rated": (_of(BOOKS), "graded", 0, 10, "rating>=1", "rating>=8"),
    "few books, 0 not rated": ([0, 8, 5, 0, 0, 10], "graded", 0, 10, "rating>=1", "rating>=8"),
    "0 to 10 with a lowest 0": (_of(TEN), "graded", 0, 10, "rating", "rating>=8"),
    "1 to 10": (_of(TEN[1:], low=1), "graded", 1, 10, "rating", "rating>=8"),
    "stars": (_of([6, 11, 27, 34, 22], low=1), "graded", 1, 5, "rating", "rating>=4"),
    "half stars": ([0.5, 1, 2.5, 3, 3.5, 4, 4.5, 5] * 9, "graded", 0.5, 5, "rating", "rating>=4"),
    "half stars, 0 not rated": ([0] * 60 + [0.5, 3, 3.5, 4, 4.5, 5] * 9, "graded", 0, 5, "rating>=0.5", "rating>=4"),
    "stars with three slips": (
        [*_of([60, 110, 270, 340, 220], low=1), 55, 44, 12],
        "graded",
        1,
        5,
        "rating",
        "rating>=4",
    ),
    "stars, most of them 1": (_of([500, 20, 10, 20, 300], low=1), "graded", 1, 5, "rating", "rating>=4"),
    "likes": ([0, 1, 1, 0, 0, 0], "binary", 0, 1, "rating", "rating>=1"),
    "thumbs": ([-1, 1, 1, -1, 1], "binary", -1, 1, "rating", "rating>=1"),
    "marks out of 100": (
        random.normal(70, 9, 400).round().clip(0, 100).tolist(),
        "graded",
        0,
        100,
        "rating",
        "rating>=80",
    ),
    "1 to 7": ([1, 2, 3, 4, 5, 6, 7] * 5, "graded", 1, 7, "rating", "rating>=6"),
    "jokes": (random.uniform(-10, 10, 300).tolist(), "graded", -10, 10, "rating", "rating>=5"),
}


@pytest.mark.parametrize("name", CASES)
def test_usual_scales(name):
    values, kind, low, high, click, conversion = CASES[name]
    scale = rating_scale(pl.Series(values, dtype=pl.Float64))
    assert (scale.kind, scale.low, scale.high) == (kind, low, high)
    found = default_signals(
        pl.DataFrame({"kind": ["rating"] * len(values), "value": pl.Series(values, dtype=pl.Float64)})
    )
    assert (str(found.click), str(found.conversion)) == (click, conversion)
    assert found.proxy.startswith("No clicks are logged: ")


@pytest.mark.parametrize(
    "values",
    [
        np.floor(1 / random.uniform(size=3000) ** 1.3),  # plays: most are 1, a few thousands
        np.round(np.exp(random.normal(2, 2, 3000)), 1),  # hours
        np.floor(1 / random.uniform(size=3000)).clip(1, 9),  # plays, none above 9
        np.concatenate([np.zeros(500), np.ceil(np.exp(random.normal(3, 1, 3000)))]),  # 0: never played
    ],
    ids=["plays", "hours", "few plays", "plays with zeros"],
)
def test_counts_have_no_upper_end_and_their_upper_third_converts(values):
    scale = rating_scale(pl.Series(values))
    assert scale.kind == "counts"
    assert not scale.bounded
    positive = values[values > 0]
    assert 0.15 < (positive >= scale.conversion).mean() <= 0.351
    assert (scale.least is not None) == bool((values == 0).any())


def test_fractions_and_odd_scales():
    share = rating_scale(pl.Series(random.uniform(size=500)))
    assert (share.kind, share.low, share.high) == ("share", 0, 1)
    assert 0.6 < share.conversion < 0.72
    odd = rating_scale(pl.Series([-1000.0, 500, 22, 3, 7]))
    assert (odd.kind, odd.low, odd.high, odd.bounded) == ("other", -1000, 500, False)
    assert rating_scale(pl.Series([None], dtype=pl.Float64)) is None


def test_the_sentence_says_scale_and_rule():
    def said(values):
        return default_signals(
            pl.DataFrame({"kind": ["rating"] * len(values), "value": [float(v) for v in values]})
        ).proxy

    assert said([1, 2, 3, 4, 5]) == (
        "No clicks are logged: any rating stands for a click and 4 or more for a conversion."
    )
    assert said(_of(BOOKS)) == (
        "No clicks are logged: ratings go from 0 to 10, and the 62% that are 0 are taken for not rated; a rating of 1 "
        "or more stands for a click and 8 or more for a conversion."
    )
    assert said([0, 1, 1]) == (
        "No clicks are logged: values are 0 or 1; any value stands for a click and 1 for a conversion."
    )


@pytest.mark.parametrize(
    ("kinds", "rules"),
    [
        (["click", "conversion"], ("click", "conversion", False)),
        (["impression", "click", "rating"], ("click", "conversion", False)),
        (["conversion"], ("conversion", "conversion", True)),
    ],
)
def test_kinds_decide_before_scales(kinds, rules):
    found = default_signals(pl.DataFrame({"kind": kinds}))
    assert (str(found.click), str(found.conversion), bool(found.proxy)) == rules


def _rated(values, **rules):
    events = [("abc"[n % 3], "vwxyz"[n % 5], "rating", 10 + n, float(value)) for n, value in enumerate(values)]
    return {f.rule: f for f in check(tiny(events, proxy="Ratings.", **rules), now=10**9)}


def test_rules_that_do_not_fit_the_scale_are_warned_of():
    unrated = _rated([0, 8, 5, 0, 0, 10], click="rating", conversion="rating>=4")
    assert unrated["zero-clicks"].severity == "warning"
    assert unrated["zero-clicks"].count == 3
    assert "click = rating>=1" in unrated["zero-clicks"].meaning
    assert unrated["conversion-nearly-always"].severity == "warning"  # 5, 8 and 10 are all of the rated ones
    assert "zero-clicks" not in _rated([0, 8, 5, 0, 0, 10], click="rating>=1", conversion="rating>=8")

    never = _rated([0, 1, 0, 1], click="rating", conversion="rating>=4")["no-conversions"]
    assert never.severity == "warning"
    assert "values are 0 or 1" in never.meaning
    assert "rating>=1" in never.meaning

    low = _rated([1, 2, 3, 4, 5, 6, 7, 8, 9, 10], click="rating", conversion="rating>=4")["conversion-of-low-ratings"]
    assert "rating>=8 tells more" in low.meaning

    always = _rated([4, 5] * 30 + [3], click="rating", conversion="rating>=4")["conversion-nearly-always"]
    assert "98% of the ratings" in always.meaning


def test_rules_that_fit_are_left_alone():
    for values, rules in (
        ([1, 2, 3, 4, 5, 5, 4], {"click": "rating", "conversion": "rating>=4"}),
        ([0, 1, 0, 1], {"click": "rating", "conversion": "rating>=1"}),
        (_of([1] * 11), {"click": "rating", "conversion": "rating>=8"}),
    ):
        assert {f.rule for f in _rated(values, **rules).values() if f.severity != "info"} == set()


def test_purchases_that_no_rule_reads_are_said():
    dataset = tiny(
        [("a", "v", "rating", 1, 5.0), ("a", "w", "conversion", 2)], click="rating", conversion="rating>=4"
    )
    (found,) = [f for f in check(dataset, now=10**9) if f.rule == "unused-conversions"]
    assert (found.severity, found.count) == ("warning", 1)
