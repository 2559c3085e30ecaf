"""Every expected value is worked out by hand from the formula in the term's docstring, unless a comment says how."""

from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from llmrec.errors import ConfigError, DataError
from llmrec.evaluation.ranking import ranking_metrics
from llmrec.rewards import (
    CategoryRepetitionReward,
    ExposureReward,
    LongTailReward,
    MarginReward,
    NextItemRankReward,
    NextItemReward,
    NoveltyReward,
    RatingReward,
    RepetitionReward,
    RevenueReward,
    SatisfactionReward,
    ValueEnsemble,
    WatchTimeReward,
    combine,
    is_causal,
)
from llmrec.types import Example, Feedback, Interaction, Item, State

from .sample import FEEDBACK, ITEMS, NEW, SHOWN, SOME, STATES, Stars

COUNTS = st.lists(st.integers(0, 50), min_size=2, max_size=12).filter(any)


def values(term, items_BK=SHOWN, states=STATES, feedback=FEEDBACK):
    return combine([term], states, items_BK, feedback).terms[term.name]


def test_ratings_are_in_their_own_units():
    np.testing.assert_allclose(values(RatingReward(Stars())), [[1, 2, 3, 4], [3, 0, 1, 0]])


def test_satisfaction_is_click_times_rating_on_its_range():
    # P(click) = 0.5; (E - 1) / (5 - 1) = 0, 1/4, 2/4, 3/4
    np.testing.assert_allclose(values(SatisfactionReward(Stars(), 1, 5)), [[0, 0.125, 0.25, 0.375], [0.25, 0, 0, 0]])
    above = values(SatisfactionReward(Stars(4.0), 1, 5))  # 4, 5, 6, 7 stars: nobody is more than satisfied
    np.testing.assert_allclose(above[0], [0.375, 0.5, 0.5, 0.5])
    with pytest.raises(ConfigError, match="range above 0"):
        SatisfactionReward(Stars(), 5, 5)


def test_satisfaction_without_ratings_is_a_click_that_converts():
    np.testing.assert_array_equal(values(SatisfactionReward()), np.where(SHOWN >= 0, 0.1, 0))


def test_watch_time_is_seconds_per_impression_and_never_negative():
    np.testing.assert_allclose(values(WatchTimeReward(Stars(-2.0)))[0], [0, 0, 0, 0.5])
    np.testing.assert_allclose(values(WatchTimeReward(Stars(600.0)))[0, 0], 300)


def test_drawn_feedback_gives_drawn_values():
    drawn = Feedback(np.array([[1.0, 0, 1, 0], [0, 0, 1, 0]]), np.array([[1.0, 0, 0, 0], [0, 0, 1, 0]]))
    np.testing.assert_allclose(values(RevenueReward.of(ITEMS), feedback=drawn), [[30, 0, 0, 0], [0, 0, 30, 0]])
    np.testing.assert_allclose(values(WatchTimeReward(Stars(9.0)), feedback=drawn), [[9, 0, 11, 0], [0, 0, 9, 0]])


def test_revenue_is_price_times_conversion_and_unknown_prices_are_worth_nothing():
    np.testing.assert_allclose(values(RevenueReward.of(ITEMS)), [[3, 0, 0.8, 0], [0.8, 0, 3, 0]])
    with pytest.raises(DataError, match="no item has one"):
        RevenueReward.of([Item("i", "t"), Item("j", "s", price=0.0)])
    with pytest.raises(DataError, match=r"Item 1 has the price -1\.0"):
        RevenueReward.of([Item("i", "t", price=2.0), Item("j", "s", price=-1.0)])


def test_values_of_several_models_less_their_disagreement():
    # 1 and 3 stars: mean 2, deviation (of a sample of two) 1.414
    both = (Stars(1.0), Stars(3.0))
    assert ValueEnsemble(both).expected_value(STATES, np.array([[0], [1]])).tolist() == [[2], [3]]
    bound = ValueEnsemble(both, 0.5).expected_value(STATES, np.array([[0], [1]]))
    np.testing.assert_allclose(bound, [[2 - 0.5 * 2**0.5], [3 - 0.5 * 2**0.5]])


def test_next_item_hits_any_logged_target():
    term = NextItemReward.of([Example(SOME, 2), Example(NEW, 0), Example(SOME, 3)])
    np.testing.assert_array_equal(values(term), [[0, 0, 1, 1], [0, 0, 1, 0]])
    again = State(SOME.user_id, history=SOME.history, session=SOME.session, time=10)
    np.testing.assert_array_equal(values(term, SHOWN[:1], [again]), [[0, 0, 1, 1]])
    assert values(term, np.zeros((0, 4), dtype=np.int64), []).shape == (0, 4)


def test_next_item_tells_states_apart_by_all_they_hold():
    # equal user, time, lengths and last item: only the older history differs
    one, two = (State("u", history=(Interaction(k, "click", 1), Interaction(5, "click", 2)), time=9) for k in (1, 2))
    term = NextItemReward.of([Example(one, 0), Example(two, 1)])
    np.testing.assert_array_equal(
        values(term, np.array([[0, 1], [0, 1]]), [one, two], Feedback(*np.zeros((2, 2, 2)))), np.eye(2)
    )


def test_next_item_without_truth_is_refused():
    term = NextItemReward.of([Example(SOME, 2)])
    with pytest.raises(DataError, match="knows no target of user 'v' at time 10"):
        values(term)
    with pytest.raises(DataError, match="needs states with known targets"):
        NextItemReward.of([])


def test_a_logged_state_is_found_at_another_moment_if_one_alone_is_meant():
    """A simulated session begins where the whole log ends; a history tells which logged state it began with."""
    term = NextItemReward.of([Example(SOME, 2), Example(NEW, 0)])
    later = [replace(state, time=99) for state in STATES]
    np.testing.assert_array_equal(values(term, SHOWN, later), [[0, 0, 1, 0], [0, 0, 1, 0]])
    twice = NextItemReward.of([Example(NEW, 0), Example(replace(NEW, time=20), 1)])  # without history: two moments
    np.testing.assert_array_equal(values(twice, SHOWN[:1], [NEW]), [[1, 0, 0, 0]])
    with pytest.raises(DataError, match="knows no target of user 'v' at time 99"):
        values(twice, SHOWN[:1], later[1:])


def test_a_hit_is_worth_less_the_lower_it_stands():
    examples = [Example(SOME, 2), Example(SOME, 3), Example(NEW, 0)]
    ranked = NextItemRankReward.of(examples, slate=True)
    # items 2 and 3 stand at places 3 and 4 of the first slate, item 0 at place 3 of the second
    np.testing.assert_allclose(values(ranked), [[0, 0, 0.5, 1 / np.log2(5)], [0, 0, 0.5, 0]])
    assert is_causal(ranked)
    drawn = NextItemRankReward.of(examples, slate=False)
    np.testing.assert_array_equal(values(drawn), values(NextItemReward.of(examples)))


@given(st.permutations(range(12)), st.integers(0, 11))
def test_the_gain_of_a_slate_is_its_ndcg(order, target):
    slate = np.array([order[:10]])
    term = NextItemRankReward.of([Example(NEW, target)], slate=True)
    found = term([NEW], slate, FEEDBACK).sum()
    assert found == pytest.approx(ranking_metrics(slate, [target], k=(10,)).per_row["NDCG@10"][0])


MARGINS = MarginReward()


@pytest.mark.parametrize(
    ("value", "margin"),
    [
        ([0.5, 0.2, 0.4], [0.1, -0.3, -0.1]),
        ([0.5, 0.5, 0.4], [0.0, 0.0, -0.1]),  # the best twice: neither is above the other
        ([-1.0, -3.0], [2.0, -2.0]),
        ([7.0], [0.0]),
    ],
)
def test_margins_by_hand(value, margin):
    items = np.arange(len(value))[None]
    np.testing.assert_allclose(MARGINS.compare(items, np.array([value])), [margin], atol=1e-12)


def test_what_is_not_there_is_nobody_s_rival():
    items = np.array([[3, -1, 1], [-1, 2, -1]])
    found = MARGINS.compare(items, np.array([[1.0, 9.0, 4.0], [9.0, 2.0, 9.0]]))
    np.testing.assert_array_equal(found, [[-3, 0, 3], [0, 0, 0]])
    assert MARGINS.compare(np.zeros((0, 2), dtype=np.int64), np.zeros((0, 2))).shape == (0, 2)


@given(hnp.arrays(float, (3, 5), elements=st.floats(-9, 9)), st.floats(-9, 9), st.floats(0.01, 9))
def test_margins_against_the_definition(value_BG, shift, factor):
    items = np.zeros((3, 5), dtype=np.int64)
    found = MARGINS.compare(items, value_BG)
    plain = [[row[g] - max(row[h] for h in range(5) if h != g) for g in range(5)] for row in value_BG]
    np.testing.assert_allclose(found, plain, atol=1e-12)
    np.testing.assert_allclose(MARGINS.compare(items, value_BG + shift), found, atol=1e-9)
    np.testing.assert_allclose(MARGINS.compare(items, value_BG * factor), found * factor, atol=1e-9)


def test_a_margin_is_of_the_weighted_sum_of_all_other_terms():
    price = RevenueReward.of(ITEMS, weight=0.5)
    found = combine([MarginReward(2.0), price], STATES, SHOWN, FEEDBACK)
    # revenue 30, 0, 8, 0 times 0.1 times 0.5: 1.5, 0, 0.4, 0; of the second row 0.4, none, 1.5, none
    np.testing.assert_allclose(found.terms["margin"], [[1.1, -1.5, -1.1, -1.5], [-1.1, 0, 1.1, 0]])
    np.testing.assert_allclose(found.total_BK[0], [1.5 + 2.2, -3.0, 0.4 - 2.2, -3.0])
    assert list(found.terms) == ["margin", "revenue"]


def test_novelty_in_bits():
    np.testing.assert_allclose(NoveltyReward.of(np.array([5, 1, 0])).bits_N, [0.5850, 2.1699, 3.1699], atol=1e-4)
    found = values(NoveltyReward.of(np.array([1, 1, 1, 1])))  # equal shares of 1/4: 2 bits each
    np.testing.assert_allclose(found, np.where(SHOWN >= 0, 2, 0))


@given(COUNTS)
def test_novelty_is_a_self_information(counts):
    bits_N = NoveltyReward.of(np.array(counts)).bits_N
    assert np.exp2(-bits_N).sum() == pytest.approx(1)
    assert (np.diff(bits_N[np.argsort(counts, kind="stable")]) <= 1e-12).all()


@pytest.mark.parametrize(
    ("counts", "share", "tail"),
    [
        ([6, 2, 1, 1], 0.8, [0, 0, 1, 1]),
        ([6, 2, 1, 1], 0.81, [0, 0, 0, 1]),
        ([1, 1, 2, 6], 0.5, [1, 1, 1, 0]),
        ([1, 1, 1, 1, 1], 0.8, [0, 0, 0, 0, 1]),
        ([3, 0], 0.99, [0, 1]),
        ([55, 40, 5], 0.55, [0, 1, 1]),  # 0.55 * 100 is a little above 55
        ([1, 2] * 20, 1 / 3, [1, 0] * 10 + [1, 1] * 10),  # ten of the twenty best: those that come first
    ],
)
def test_long_tail_begins_where_the_head_has_its_share(counts, share, tail):
    assert LongTailReward.of(np.array(counts), share).tail_N.tolist() == tail


@given(COUNTS, st.floats(0.05, 0.95))
def test_the_head_is_the_smallest_that_reaches_its_share(counts, share):
    counts = np.array(counts)
    head = LongTailReward.of(counts, share).tail_N == 0
    assert counts[head].sum() >= share * counts.sum() * (1 - 1e-6)
    assert counts[head].sum() - counts[head].min() < share * counts.sum()
    assert not (~head).any() or counts[head].min() >= counts[~head].max()


def test_repetition_counts_history_and_session():
    np.testing.assert_array_equal(values(RepetitionReward()), [[-1, -1, 0, -1], [0, 0, 0, 0]])
    elsewhere = State("w", history=(Interaction(2, "click", 1),))
    np.testing.assert_array_equal(
        values(RepetitionReward(), np.array([[0, 2], [0, 2]]), [elsewhere, NEW], Feedback(*np.zeros((2, 2, 2)))),
        [[0, -1], [0, 0]],
    )


def test_category_repetition_looks_at_the_latest():
    # the past is 0, 3, 1, 0 of first categories a, none, b, a; items 0..3 are of a, b, a, none
    code_N = np.array([1, 2, 1, 0])
    np.testing.assert_allclose(values(CategoryRepetitionReward(code_N)), [[-0.5, -0.25, -0.5, -0.25], [0, 0, 0, 0]])
    np.testing.assert_allclose(values(CategoryRepetitionReward(code_N, window=2))[0], [-0.5, -0.5, -0.5, 0])


def test_exposure_is_the_log_of_target_over_exposure():
    # shown 80 and 20 times; one more each: 81/102 and 21/102 against a half
    term = ExposureReward.of(["a", "b", "b"], np.array([80, 15, 5]), np.array([1, 0.5, 0.5]))
    np.testing.assert_allclose(term.price_N, [-0.4626, 0.8873, 0.8873], atol=1e-4)


@given(st.lists(st.integers(1, 400), min_size=3, max_size=3))
def test_exposure_as_wanted_costs_nothing(counts):
    term = ExposureReward.of(["a", "b", "c"], np.array(counts), 7.0 * np.array(counts))
    np.testing.assert_allclose(term.price_N, 0, atol=1e-12)


def test_the_optimum_under_a_kl_penalty_has_the_target_shares():
    """max over pi of E[r] - KL(pi || ref) is ref exp(r), normalised: enumerated here over four items."""
    shown = np.array([700_000, 100_000, 150_000, 50_000])
    term = ExposureReward.of(["a", "a", "b", "b"], shown, np.array([1.0, 2.0, 3.0, 4.0]))
    best = shown * np.exp(term.price_N)
    best = best / best.sum()
    np.testing.assert_allclose([best[:2].sum(), best[2:].sum()], [0.3, 0.7], atol=1e-5)
    np.testing.assert_allclose(best[0] / best[1], 7, rtol=1e-6)  # within a group nothing moves


def test_exposure_needs_groups_and_counts():
    with pytest.raises(DataError, match="two groups"):
        ExposureReward.of(["a", "a"], np.ones(2), np.ones(2))
    for bad in ([0, 0], [1, -1], [1, np.nan]):
        with pytest.raises(DataError, match="counts of 0 or more"):
            NoveltyReward.of(np.array(bad))


def test_an_item_beyond_the_table_is_named():
    with pytest.raises(DataError, match="knows 3 items but met item index 3"):
        values(NoveltyReward.of(np.array([5, 1, 0])))


@pytest.mark.parametrize(
    "term",
    [
        RatingReward(Stars()),
        SatisfactionReward(Stars(), 1, 5),
        WatchTimeReward(Stars()),
        RevenueReward.of(ITEMS),
        NextItemReward.of([Example(SOME, 2), Example(NEW, 1)]),
        NextItemRankReward.of([Example(SOME, 2), Example(NEW, 1)], slate=False),
        NoveltyReward.of(np.ones(4)),
        LongTailReward.of(np.ones(4)),
        RepetitionReward(),
        CategoryRepetitionReward(np.array([1, 2, 1, 0])),
        ExposureReward.of(list("abab"), np.ones(4), np.ones(4)),
    ],
)
def test_terms_survive_pickling_and_do_not_mix_places(term):
    """Each place is judged by itself: any order of the places gives the same values in that order."""
    found = values(term)
    np.testing.assert_array_equal(values(pickle.loads(pickle.dumps(term))), found)
    order = [2, 0, 3, 1]
    np.testing.assert_array_equal(values(term, SHOWN[:, order]), found[:, order])
    np.testing.assert_array_equal(values(term, SHOWN[::-1], STATES[::-1]), found[::-1])
