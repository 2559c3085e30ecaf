"""From a configuration to a reward: every name, every refusal, and what a data set gives."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from llmrec.config import RewardSettings, RunConfig
from llmrec.config.reward import COMPARING_TERMS, LIST_LEVEL_TERMS, REWARD_TERMS, check_reward
from llmrec.dataset.store import Dataset
from llmrec.errors import ConfigError, DataError
from llmrec.rewards import (
    MarginReward,
    RewardContext,
    RewardFunction,
    TRLReward,
    compares,
    is_list_level,
    make_terms,
    reading_next,
    reward_function,
    without,
)
from llmrec.rewards.registry import TERMS
from llmrec.types import Item
from tests.overrides import given

from .sample import CONTEXT, SHOWN, STATES, Half, Stars, context

FULL = context(
    ratings=Stars(), rating_range=(1.0, 5.0), seconds=Stars(60.0), vector_ND=np.eye(4), exposure_N=np.arange(1.0, 5.0)
)


def test_every_name_is_built_and_logged_apart():
    assert set(TERMS) == set(REWARD_TERMS)
    assert {name for name, known in TERMS.items() if is_list_level(known.kind)} == LIST_LEVEL_TERMS
    assert {name for name, known in TERMS.items() if compares(known.kind)} == COMPARING_TERMS
    for made, left_out in ((FULL, COMPARING_TERMS), (FULL_ALONE, LIST_LEVEL_TERMS)):
        names = [name for name in REWARD_TERMS if name not in left_out]
        settings = RewardSettings(terms={name: 0.1 * (k + 1) for k, name in enumerate(names)})
        terms = make_terms(settings, made)
        assert {term.name: term.weight for term in terms} == settings.terms
        assert all(isinstance(term, TERMS[term.name].kind) for term in terms)
        reward = reward_function(settings, Half(), made)(STATES, SHOWN)
        assert list(reward.terms) == ["click", "conversion", *names]
        weights = {"click": 1.0, "conversion": 3.0, **settings.terms}
        total = sum(weights[name] * value_BK for name, value_BK in reward.terms.items())
        np.testing.assert_allclose(reward.total_BK, total)
        assert (reward.total_BK[SHOWN < 0] == 0).all()


def test_terms_say_themselves_that_they_read_the_logged_next_item():
    both = RewardSettings(terms={"next_item": 1.0, "novelty": 1.0, "next_item_rank": 0.5})
    assert reading_next(both) == ("next_item", "next_item_rank")
    assert without(both, reading_next(both)).terms == {"novelty": 1.0}
    assert reading_next(RewardSettings(terms={"margin": 1.0})) == ()


def test_the_order_of_independent_draws_is_of_no_account():
    names = [name for name in REWARD_TERMS if name not in LIST_LEVEL_TERMS | COMPARING_TERMS]
    model = reward_function(RewardSettings(terms=dict.fromkeys(names, 1.0)), Half(), FULL_ALONE)
    together = model(STATES, SHOWN).total_BK
    for k in range(4):
        np.testing.assert_allclose(model(STATES, SHOWN[:, k : k + 1]).total_BK[:, 0], together[:, k])


FULL_ALONE = context(
    ratings=Stars(), rating_range=(1.0, 5.0), seconds=Stars(60.0), exposure_N=np.arange(1.0, 5.0), slate_size=1
)


def test_settings_are_read_from_the_command_line():
    texts = ("reward.terms.novelty=0.1", "reward.custom=[my.module:f]", "reward.group_by=brand")
    settings = RunConfig.read(overrides=given(*texts)).reward
    assert settings.terms == {"novelty": 0.1}
    assert settings.custom == ("my.module:f",)
    assert settings.custom_names() == ("f",)
    assert settings.group_by == "brand"


@pytest.mark.parametrize(
    ("settings", "size", "words"),
    [
        ({"terms": {"noveltie": 1.0}}, 1, "Unknown reward term 'noveltie' in 'reward.terms'; did you mean 'novelty'"),
        ({"terms": {"zzz": 1.0}}, 1, "known terms: rating, satisfaction"),
        ({"terms": {"bonuss": 1.0}, "custom": ("m:bonus",)}, 1, "did you mean 'bonus'"),
        ({"terms": {"click": 1.0}}, 1, "set 'reward.click' instead"),
        ({"terms": {"diversity": 1.0}}, 1, "'reward.terms.diversity' is defined on slates of two items or more"),
        ({"terms": {"margin": 1.0}}, 2, "'reward.terms.margin' compares independent draws of a state"),
        ({"terms": {"calibration": 0.0}}, 1, "'reward.terms.calibration' is defined on slates"),
        ({"custom": ("a:f", "b:f")}, 1, "'reward.custom' names 'f', which another term is called too"),
        ({"custom": ("a:novelty",)}, 1, "names 'novelty'"),
        ({"custom": ("a:click",)}, 1, "names 'click'"),
        ({"custom": ("nothing",)}, 1, "holds 'nothing'; write it as"),
        ({"head_share": 1.0}, 1, "'reward.head_share' is 1.0"),
        ({"calibration_alpha": 0.0}, 2, "'reward.calibration_alpha' is 0.0"),
        ({"repetition_window": 0}, 1, "'reward.repetition_window' is 0"),
        ({"pessimism": -1.0}, 1, "'reward.pessimism' is -1.0"),
        ({"pessimism": 1.0, "sampled": True}, 1, "exclude each other"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_read(settings, size, words):
    with pytest.raises(ConfigError, match=words) as caught:
        check_reward(RewardSettings(**settings), size)
    assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match=words):
        make_terms(RewardSettings(**settings), context(slate_size=size))


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("rating", {}, "needs a model of ratings"),
        ("watch_time", {}, "needs a model of seconds watched"),
        ("satisfaction", {"ratings": Stars()}, "needs the range of the ratings"),
        ("next_item", {"targets": ()}, "needs states with logged targets"),
        ("next_item_rank", {"targets": ()}, "needs states with logged targets"),
        ("novelty", {"popularity_N": None}, "needs the items' clicks"),
        ("long_tail", {"popularity_N": None}, "needs the items' clicks"),
        ("exposure", {"popularity_N": None}, "needs the items' clicks"),
    ],
)
def test_a_term_says_what_it_lacks(name, changes, words):
    with pytest.raises(ConfigError, match=f"'reward.terms.{name}' {words}.* or remove the term"):
        make_terms(RewardSettings(terms={name: 1.0}), context(**changes))


def test_choices_that_need_more():
    with pytest.raises(ConfigError, match="needs logged impressions for the target 'merit'"):
        make_terms(RewardSettings(terms={"exposure": 1.0}, exposure_target="merit"), CONTEXT)
    with pytest.raises(DataError, match="no item has one"):
        make_terms(RewardSettings(terms={"revenue": 1.0}), context(items=[CONTEXT.items[1]]))


def test_targets_of_exposure():
    """Brands x, x, y, y with clicks 6, 2, 1, 1, shown 1, 2, 3, 4 times: shares (counts + 1) 4/12 and 8/12."""
    shown = np.log([4 / 12, 8 / 12])
    # the prior of one show is 0.4, 1 and 0.2 in units of items (4 to 10 shows), clicks (10 to 10) and groups (2 to 10)
    wanted = {"catalogue": [0.5, 0.5], "equal": [0.5, 0.5], "merit": [9 / 12, 3 / 12]}
    for target, share in wanted.items():
        settings = RewardSettings(terms={"exposure": 1.0}, group_by="brand", exposure_target=target)
        (term,) = make_terms(settings, FULL)
        np.testing.assert_allclose(term.price_N, np.repeat(np.log(share) - shown, 2))
    (term,) = make_terms(RewardSettings(terms={"exposure": 1.0}, exposure_target="equal"), FULL)
    # first categories a, b, a, none are shown 4, 2 and 4 times
    np.testing.assert_allclose(term.price_N, np.log(1 / 3) - np.log(np.array([5, 3, 5, 5]) / 13))


def test_ensembles_whose_members_know_values():
    class Members:
        members = (Stars(1.0), Stars(3.0))

    (term,) = make_terms(RewardSettings(terms={"rating": 1.0}, pessimism=1.0), context(ratings=Members()))
    # the members say 1 and 3, then 2 and 4: their mean less sqrt(2), the deviation of a sample of two
    np.testing.assert_allclose(term(STATES, np.array([[0], [1]]), None), [[2 - 2**0.5], [3 - 2**0.5]])


def test_slates_and_draws_are_told_apart():
    settings = RewardSettings(terms={"diversity": 1.0, "next_item": 1.0, "novelty": 1.0})
    model = reward_function(settings, Half(), CONTEXT)
    assert model.slate
    with pytest.raises(ConfigError, match="'diversity' is defined on a slate, but here the items of a row"):
        RewardFunction(Half(), settings, terms=make_terms(settings, CONTEXT))
    with pytest.raises(
        ConfigError, match="'margin' compares independent draws of a state, but here a row is one slate"
    ):
        RewardFunction(Half(), RewardSettings(), terms=[MarginReward()], slate=True)
    with pytest.raises(ConfigError, match="'margin' compares the draws of a state, but TRL's trainers write"):
        TRLReward(RewardFunction(Half(), RewardSettings(), terms=[MarginReward()]), STATES, lambda ids: ids[0])
    with pytest.raises(ConfigError, match="TRL's trainers write one item a completion"):
        TRLReward(model, STATES, lambda ids: ids[0])
    alone = model.for_ranking()
    assert not alone.slate
    assert not reward_function(RewardSettings(), Half(), context(slate_size=1)).slate
    assert [term.name for term in alone.terms] == ["click", "conversion", "novelty"]
    everything = np.tile(np.arange(4), (2, 1))
    np.testing.assert_array_equal(
        alone(STATES, everything).terms["novelty"], model(STATES, everything).terms["novelty"]
    )


def test_brands_stand_for_categories_where_there_are_none():
    items = [replace(item, categories=()) for item in CONTEXT.items]
    for name in ("diversity", "coherence", "calibration", "category_repetition", "exposure"):
        with pytest.raises(DataError, match=rf"'{name}' needs items of different category.*set reward\.group_by"):
            make_terms(RewardSettings(terms={name: 1.0}), context(items=items))
        make_terms(RewardSettings(terms={name: 1.0}, group_by="brand"), context(items=items))
    settings = RewardSettings(terms={"diversity": 1.0}, group_by="brand")  # brands x, x, y, y
    found = reward_function(settings, Half(), CONTEXT)(STATES[:1], SHOWN[:1]).terms["diversity"]
    np.testing.assert_allclose(found, [[0, 0, 2 / 6, 2 / 6]])


def test_diversity_of_texts():
    items = [
        Item("0", "red apple pie"),
        Item("1", "red apple pie"),
        Item("2", "steel hammer"),
        Item("3", "hammer set"),
    ]
    settings = RewardSettings(terms={"diversity": 1.0}, diversity_by="vector")
    model = reward_function(settings, Half(), context(items=items))
    same, apart = model([STATES[0]] * 2, np.array([[0, 1], [0, 2]])).terms["diversity"].sum(axis=1)
    assert same == pytest.approx(0, abs=1e-6)
    assert 0.9 < apart < 2 + 1e-6  # text vectors are centred, so those of other words point apart


def test_parameters_of_the_configuration_reach_the_terms():
    settings = {"head_share": 0.5, "calibration_alpha": 0.2, "repetition_window": 2}
    names = ("long_tail", "calibration", "category_repetition")
    tail, calibration, repetition = make_terms(RewardSettings(terms=dict.fromkeys(names, 1.0), **settings), CONTEXT)
    assert tail.tail_N.tolist() == [0, 1, 1, 1]  # item 0 has 6 of 10 clicks
    assert calibration.alpha == 0.2
    assert repetition.window == 2


def test_a_configured_term_is_never_left_out_silently():
    with pytest.raises(ConfigError, match="'novelty' is configured but was not built"):
        RewardFunction(Half(), RewardSettings(terms={"novelty": 1.0}))


def test_counts_of_a_data_set():
    events = pl.DataFrame(
        {
            "user_id": ["u", "u", "u", "v", "v", "v"],
            "item_id": ["a", "a", "b", "b", "c", "a"],
            "kind": ["impression", "click", "impression", "click", "rating", "conversion"],
            "time": [1, 2, 3, 4, 5, 6],
            "value": [None, None, None, None, 4.0, 20.0],
        }
    )
    items = pl.DataFrame({"item_id": ["a", "b", "c"], "title": ["A", "B", "C"]})
    dataset = Dataset.build(
        items, None, events, name="n", domain="shop", click="click", conversion="conversion", add_missing_users=True
    )
    found = RewardContext.of(dataset, dataset.events, slate_size=3)
    assert found.exposure_N.tolist() == [1, 1, 0]
    assert found.popularity_N.tolist() == [1, 1, 0]
    assert found.rating_range is None  # one rating is no range
    assert found.slate_size == 3
    assert len(found.items) == 3
    assert RewardContext.of(dataset, dataset.events.filter(pl.col("kind") != "impression")).exposure_N is None
