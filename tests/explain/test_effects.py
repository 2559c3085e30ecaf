"""Effects are those of separate runs on the state without each part, whatever way items and prompts are written."""

from __future__ import annotations

import copy
import dataclasses
import math

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llmrec.baselines import Covisitation, Popularity
from llmrec.dataset.store import Dataset
from llmrec.errors import RequestError
from llmrec.explain import Explainer, Parted, explained
from llmrec.explain.effects import JOINT_NATS, JOINT_SHARE, attribute, odds_ratio
from llmrec.policy.mixture import Mixture
from llmrec.policy.scoring import score_items
from llmrec.types import State
from tests.explain.conftest import ITEMS, STATE, events, policy_of


def alone(policy, state, item, fields=frozenset()):
    """log pi by a run of its own: one state, one item, the plain path, a policy that was made for it."""
    renderer = policy.renderer.without(fields) if fields else policy.renderer
    ids = torch.tensor([renderer.token_ids(state)])
    with torch.no_grad():
        scores = score_items(
            policy.model, ids, torch.ones_like(ids), torch.tensor([[item]]), policy.index, path="plain"
        )
    return float(scores.item_log_prob_BG)


def by_hand(policy, state):
    """The states without each part, written down here and not by `Parted`."""
    keep = dataclasses.replace
    gone = {}
    for item in dict.fromkeys(e.item for e in (*state.history, *state.session)):
        history, session = (tuple(e for e in past if e.item != item) for past in (state.history, state.session))
        gone[("item", ITEMS[item].title)] = (keep(state, history=history, session=session), frozenset())
    gone[("profile", "A 34-year-old nurse. ")] = (keep(state, profile="Likes lamps; hates desks."), frozenset())
    gone[("profile", "Likes lamps; ")] = (keep(state, profile="A 34-year-old nurse. hates desks."), frozenset())
    gone[("profile", "hates desks.")] = (keep(state, profile="A 34-year-old nurse. Likes lamps; "), frozenset())
    gone[("context", "something for the kitchen")] = (keep(state, context=""), frozenset())
    for field in policy.renderer.card_fields:
        gone[("card", field)] = (state, frozenset([field]))
    return gone


def test_effects_equal_brute_force(policy):
    items = [1, 3, 8, 11]
    parted = Parted(STATE, ITEMS, policy.renderer.card_fields)
    found = attribute(explained(policy, STATE), parted, items)
    brute = by_hand(policy, STATE)
    for item, one in zip(items, found, strict=True):
        whole = alone(policy, STATE, item)
        assert one.log_score == pytest.approx(whole, abs=1e-5)
        assert {(e.part.kind, e.part.name) for e in one.effects} == set(brute)
        for effect in one.effects:
            state, fields = brute[effect.part.kind, effect.part.name]
            without = alone(policy, state, item, fields)
            assert effect.nats == pytest.approx(whole - without, abs=1e-5)
            p, q = math.exp(whole), math.exp(without)
            assert effect.odds == pytest.approx(p / (1 - p) / (q / (1 - q)), rel=1e-4)
        assert [abs(e.nats) for e in one.effects] == sorted((abs(e.nats) for e in one.effects), reverse=True)
        nothing = alone(policy, State("u", time=100), item)
        assert {w.of: w.nats for w in one.wholes}["everything"] == pytest.approx(whole - nothing, abs=1e-5)
    assert max(abs(n) for one in found for n in one.nats_P) > 0.05


def test_interactions_equal_brute_force(policy):
    items = list(range(12))
    parted = Parted(STATE, ITEMS, policy.renderer.card_fields)
    told = 0
    for item, one in zip(items, attribute(explained(policy, STATE), parted, items), strict=True):
        first, second = one.effects[:2]
        numbers = [parted.parts.index(e.part) for e in (first, second)]
        variant = parted.without(numbers)
        together = alone(policy, STATE, item) - alone(policy, variant.state, item, variant.fields)
        beyond = together - first.nats - second.nats
        matters = abs(beyond) >= max(JOINT_NATS, JOINT_SHARE * abs(first.nats))
        if abs(abs(beyond) - max(JOINT_NATS, JOINT_SHARE * abs(first.nats))) > 1e-4:
            assert (one.joint is not None) == matters
        if one.joint is not None:
            told += 1
            assert one.joint.parts == (first.part, second.part)
            assert one.joint.nats == pytest.approx(together, abs=1e-5)
            assert one.joint.interaction == pytest.approx(beyond, abs=2e-5)
    assert told


def test_what_never_reaches_the_prompt_has_no_effect_at_all():
    policy = policy_of("titles")
    state = dataclasses.replace(STATE, profile="\u200b\u200b", context="")
    parted = Parted(state, ITEMS)
    (found,) = attribute(explained(policy, state), parted, [3])
    assert [e.nats for e in found.effects if e.part.kind == "profile"] == [0.0] * len(parted.of_kind("profile"))
    short = policy_of("short")
    long = dataclasses.replace(STATE, history=events(*range(12)), session=())
    shown = short.renderer.shown([long])[0]
    assert 0 < shown <= 8
    (found,) = attribute(explained(short, long), Parted(long, ITEMS), [3])
    assert list(found.nats_P[: 12 - shown]) == [0.0] * (12 - shown)
    assert min(map(abs, found.nats_P[12 - shown : 12])) > 0.0


@settings(max_examples=20)
@given(st.permutations(range(6)), st.lists(st.integers(0, 11), min_size=1, max_size=4, unique=True))
def test_the_order_in_which_parts_are_left_out_does_not_matter(order, items):
    parted = Parted(STATE, ITEMS)
    assert parted.without(order[:3]) == parted.without(sorted(order[:3]))
    policy = policy_of("titles")
    scores = explained(policy, STATE)
    variants = [parted.without([n]) for n in order]
    straight = scores.log_scores([parted.without([n]) for n in range(6)], items)
    np.testing.assert_allclose(scores.log_scores(variants, items), straight[list(order)], rtol=0, atol=2e-6)


@settings(max_examples=30)
@given(st.text(alphabet="ab .;。；\n\u200b", max_size=60))
def test_fields_of_a_profile_are_the_profile(profile):
    parted = Parted(State(profile=profile), ITEMS)
    assert "".join(part.name for part in parted.parts) == profile
    assert len(parted.parts) <= 16
    for n in range(len(parted.parts)):
        rest = "".join(part.name for m, part in enumerate(parted.parts) if m != n)
        assert parted.without([n]).state.profile == rest


def test_a_part_is_an_item_with_all_its_events_and_its_strongest_feedback():
    past = (*events(1, 2), *events(1, feedback="impression", start=5))
    parted = Parted(State(history=past, session=events(2, feedback="conversion", start=9)), ITEMS)
    assert [(p.item_id, p.feedback) for p in parted.parts] == [("i1", "click"), ("i2", "conversion")]
    assert parted.without([1]).state == State(history=(past[0], past[2]))


def test_an_empty_state_has_no_parts_and_no_effects(policy):
    (found,) = attribute(explained(policy, State()), Parted(State(), ITEMS, policy.renderer.card_fields), [2])
    assert found.effects == found.wholes == ()
    assert found.joint is None


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    rng = np.random.default_rng(0)
    rows = [(f"u{n}", f"i{i}", t) for n in range(40) for t, i in enumerate(rng.choice(12, 5, replace=False))]
    frame = pl.DataFrame(rows, schema=["user_id", "item_id", "time"], orient="row")
    items = pl.DataFrame({"item_id": [i.item_id for i in ITEMS], "title": [i.title for i in ITEMS]})
    users = pl.DataFrame({"user_id": [f"u{n}" for n in range(40)], "profile": [""] * 40})
    told = frame.with_columns(pl.lit("click").alias("kind"))
    return Dataset.build(
        items, users, told, name="s", domain="shop", click="click", conversion="conversion", terms=""
    )


@pytest.mark.parametrize("repeat", ["allow", "exclude"])
def test_effects_of_mixtures_equal_separate_runs(shop, repeat):
    policy = copy.copy(policy_of("titles"))
    policy.repeat = repeat
    counts = Covisitation().fit(shop, shop.events)
    mixture = Mixture([policy, counts.score], [0.6, 0.4])
    seen = np.array([2, 11])
    hidden = sorted({2, 11, *STATE.seen()}) if repeat == "exclude" else []
    scores, parted = explained(mixture, STATE, seen), Parted(STATE, ITEMS)
    free = [i for i in range(12) if i not in hidden][:3]
    for item, one in zip(free, attribute(scores, parted, free), strict=True):
        for n, part in enumerate(parted.parts):
            state = parted.without([n]).state
            # by the deployed list: all items are candidates, with what is hidden held as in the whole state
            slates = mixture.recommend([STATE, state], 12, seen=[np.array(hidden, dtype=np.int64)] * 2)
            p, q = (dict(zip(s.items_K, s.log_probs_K, strict=True))[item] for s in slates)
            assert one.nats_P[n] == pytest.approx(p - q, abs=1e-5), part


def test_effects_of_baselines_are_of_their_shares(shop):
    counts = Covisitation().fit(shop, shop.events)
    scores, parted = explained(counts, STATE), Parted(STATE, ITEMS)
    (found,) = attribute(scores, parted, [1])
    assert scores.meaning == "log share"
    for n in parted.of_kind("item"):
        share = counts.distribution([STATE, parted.without([n]).state])[:, 1]
        assert found.nats_P[n] == pytest.approx(math.log(share[0] / share[1]), abs=1e-9)
    popular = Popularity().fit(shop, shop.events)
    best = popular.recommend([STATE], 1)[0].items_K[0]
    explainer = Explainer(popular, ITEMS, domain="shop", language="en")
    (flat,) = explainer.explain(STATE, [best], k=3)
    assert not any(e.nats for e in flat.effects)
    assert flat.sentence == "Nothing that is known of you matters here: anybody would be recommended this."
    assert flat.counterfactual is not None
    assert (flat.counterfactual.parts, flat.without) == ((), "")
    # what is not recommended needs nothing to be unknown
    (hidden,) = explainer.explain(STATE, [STATE.history[0].item], k=3)
    assert hidden.counterfactual is None


def test_rankers_without_probabilities_and_wrong_items_are_refused():
    class Lists:
        def recommend(self, states, k, *, seen=None):
            return []

    with pytest.raises(RequestError, match="gives no probability of a single item"):
        Explainer(Lists(), ITEMS, domain="shop", language="en").explain(STATE, [1], k=3)
    explainer = Explainer(policy_of("titles"), ITEMS, domain="shop", language="en")
    for wrong in ([12], [-1], [1, 1]):
        with pytest.raises(RequestError, match="cannot be explained"):
            explainer.explain(STATE, wrong, k=3)


@given(st.floats(-30, -1e-9), st.floats(-30, -1e-9))
def test_ratios_of_odds(log_p, log_q):
    p, q = math.exp(log_p), math.exp(log_q)
    assert odds_ratio(log_p, log_q) == pytest.approx(p / -math.expm1(log_p) / (q / -math.expm1(log_q)), rel=1e-6)
    assert math.isfinite(odds_ratio(0.0, log_q))


def test_sums_to_one_so_no_constant_is_free():
    """The mean of exp(-effect) over the catalogue under pi is 1: what a part takes from one item it gives to others."""
    policy = policy_of("titles")
    parted = Parted(STATE, ITEMS)
    found = attribute(explained(policy, STATE), parted, list(range(12)))
    for n in range(len(parted.parts)):
        total = sum(math.exp(one.log_score) * math.exp(-one.nats_P[n]) for one in found)
        assert total == pytest.approx(1.0, abs=1e-5)
