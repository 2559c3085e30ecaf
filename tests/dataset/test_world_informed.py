"""The informed optimum: its posterior is the generator's own, by enumeration, by simulation and by calibration."""

from __future__ import annotations

import dataclasses
import itertools
from collections import defaultdict

import numpy as np
import pytest

from llmrec.config import ScenarioSettings, WorldConfig
from llmrec.dataset.examples import History
from llmrec.dataset.world import World, WorldParameters, generate_world
from llmrec.dataset.world.truth import STYLES, TOPICS, clear_interests, conversion_logit, sigmoid
from llmrec.dataset.world.wording import ProfileReader, Told, entries
from llmrec.dataset.world.world import LANGUAGES
from llmrec.errors import RequestError
from llmrec.types import State

NO_NOISE = WorldParameters(interest_noise=0.0, buying_correlation=1.0, logging_noise=0.0, click_bias=-0.5)
UNLIKELY = 4.5
"""Standard errors."""


def _states(world: World, users: int, before: int | None = None) -> list[State]:
    history = History(world.dataset, 20)
    return [history.state(user, before) for user in world.dataset.users["user_id"].to_list()[:users]]


def _every_kind(world: World) -> World:
    """The world with one user of each kind of favourites in place of its own; for worlds without noise."""
    rows = list(itertools.product(itertools.combinations(range(TOPICS), 2), range(STYLES)))
    topic = clear_interests(np.array([[t in pair for t in range(TOPICS)] for pair, _ in rows]), world.parameters)
    style = clear_interests(np.array([[y == own for y in range(STYLES)] for _, own in rows]), world.parameters)
    truth = dataclasses.replace(
        world.truth,
        topic_interest_UT=topic,
        style_interest_UY=style,
        buying_interest_UY=style,
        logged_topic_UT=topic,
        logged_style_UY=style,
    )
    return World(world.dataset, truth, world.config, world.seed, world.parameters)


def _by_enumeration(world: World, state: State, cut: bool) -> np.ndarray:
    """Posterior mean values: every kind of user, every ordered slate that can have been shown, one after another."""
    kinds, n = _every_kind(world), world.dataset.n_items
    users = np.arange(len(kinds.truth.topic_interest_UT))
    ids = world.dataset.users["user_id"].to_list()
    kinds._row = {str(user): user for user in users}
    names = [str(user) for user in users]
    click, mu = kinds.expected_click_BN(names), kinds.logging_policy_BN(names)
    buy = sigmoid(conversion_logit(kinds.truth, kinds.parameters, users[:, None], np.arange(n)))
    look = [(k + 1) ** -world.config.position_bias for k in range(world.config.slate_size)]
    shown = world.dataset.events.filter(user_id=ids[ids.index(state.user_id)], kind="impression")
    chance = np.ones(users.size)
    for moment in shown["time"].unique():
        chosen = {i.item: i.feedback == "conversion" for i in state.history if i.time == moment}
        if cut and (not state.history or moment < state.history[0].time):
            continue
        edge = state.history[0].item if cut and moment == state.history[0].time else 0
        total = np.zeros(users.size)
        for slate in itertools.permutations(range(n), len(look)):
            if not set(chosen) <= set(slate):
                continue
            one, left = np.ones(users.size), np.ones(users.size)
            for place, item in enumerate(slate):
                one = one * mu[:, item] / left
                left = left - mu[:, item]
                seen = look[place] * click[:, item]
                if item in chosen:
                    one = one * seen * (buy[:, item] if chosen[item] else 1 - buy[:, item])
                elif item >= edge:
                    one = one * (1 - seen)
            total += one
        chance *= total
    return chance @ kinds.value_BN(names) / chance.sum()


@pytest.mark.parametrize("bias", [0.0, 0.7])
def test_equals_enumeration_where_interests_have_no_noise(bias: float) -> None:
    sizes = {"users": 8, "items": 5, "slates_per_user": 3, "slate_size": 3, "position_bias": bias}
    world = generate_world(WorldConfig(**sizes), 2, NO_NOISE)
    scores = []
    for state in _states(world, 2):
        state = dataclasses.replace(state, profile="")
        assert len(state.history) >= 2
        for kept in (len(state.history), 1, 0):
            cut = dataclasses.replace(state, history=state.history[len(state.history) - kept :])
            exact = _by_enumeration(world, cut, kept < len(state.history))
            for k in (1, 2, 5):
                found = world.informed_optimum([cut], k, particles=4000)
                far = found.value_BK[0].mean() - exact[found.items_BK[0]].mean()
                scores.append(far / found.error_B[0])
                assert abs(far) < 0.03 * exact.max()
                assert found.effective_B[0] > 400
    assert max(map(abs, scores)) < UNLIKELY
    assert np.mean(np.square(scores)) < 3  # three k of one state are not independent
    # Negative control: what was seen of one user is not the answer for another.
    other = _by_enumeration(world, dataclasses.replace(_states(world, 8)[7], profile=""), False)
    assert abs(other[found.items_BK[0]] - exact[found.items_BK[0]]).max() > 0.02


def test_people_of_one_history_have_its_posterior_mean() -> None:
    """30,000 simulated users of a shop of 3 items: those who clicked alike are worth what the posterior says."""
    sizes = {"users": 30_000, "items": 3, "slates_per_user": 2, "slate_size": 2}
    parameters = WorldParameters(click_bias=-1.5, quality_sd=1.0, logging_affinity=1.0, click_affinity=1.0)
    world = generate_world(WorldConfig(**sizes), 3, parameters)
    states = _states(world, 30_000)
    groups: dict[object, list[int]] = defaultdict(list)
    for row, state in enumerate(states):
        moments = {i.time for i in state.history}
        if len(moments) < 2:  # of two moments the order may matter: other groups than these suffice
            groups[tuple((i.item, i.feedback) for i in state.history)].append(row)
    value = world.value_BN([str(state.user_id) for state in states])
    scores = []
    for rows in groups.values():
        if len(rows) < 200:
            continue
        found = world.informed_optimum([dataclasses.replace(states[rows[0]], profile="")], 3, particles=3000)
        theirs = value[rows][:, found.items_BK[0]]
        error = np.hypot(theirs.std(axis=0) / len(rows) ** 0.5, 1.7 * found.error_B[0])
        scores.extend(((theirs.mean(axis=0) - found.value_BK[0]) / error).tolist())
    assert len(scores) > 20
    assert max(map(abs, scores)) < UNLIKELY
    assert np.mean(np.square(scores)) < 2


@pytest.fixture(scope="module")
def world() -> World:
    return generate_world(WorldConfig(users=400), 4)


def _calibrated(world: World, states: list[State]) -> tuple[float, float]:
    """Mean true value of the ten items that are chosen, and how many standard errors it lies from the expected one."""
    found = world.informed_optimum(states, 10)
    true_B = world.value_of_BK([str(s.user_id) for s in states], found.items_BK).mean(axis=1)
    gap_B = true_B - found.value_BK.mean(axis=1)
    return float(true_B.mean()), float(gap_B.mean() / (gap_B.std() / len(gap_B) ** 0.5))


def test_is_calibrated_and_lies_between_what_is_easy_and_what_is_hidden(world: World) -> None:
    states = _states(world, 50)
    users = [str(state.user_id) for state in states]
    true, far = _calibrated(world, states)
    told, far_told = _calibrated(world, [dataclasses.replace(state, history=()) for state in states])
    assert max(abs(far), abs(far_told)) < UNLIKELY
    same_for_all = np.sort(world.value_BN(users).mean(axis=0))[-10:].mean()
    assert same_for_all < told < true < world.optimum(users, 10).value_BK.mean()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["cold-start", "popularity-loop", "seasonality", "shift", "clickbait"])
def test_is_calibrated_in_scenarios(kind: str) -> None:
    scenario = ScenarioSettings(kind=kind)
    world = generate_world(WorldConfig(users=400, position_bias=0.5, scenario=scenario), 6)
    assert abs(_calibrated(world, _states(world, 250))[1]) < UNLIKELY


def test_a_state_has_one_answer(world: World) -> None:
    states = _states(world, 3)
    together, alone = world.informed_optimum(states, 5), world.informed_optimum(states[1:2], 5)
    assert together.items_BK[1].tolist() == alone.items_BK[0].tolist()
    assert together.value_BK[1].tolist() == alone.value_BK[0].tolist()
    assert (together.effective_B >= 100).all()


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("domain", ["shop", "film", "music", "news", "course", "social"])
def test_profiles_are_read_as_they_are_written(domain: str, language: str) -> None:
    people, domains = LANGUAGES[language]
    wording = domains[domain]
    reader = ProfileReader(wording, people)
    topics, styles = ([name for name, _ in entries(table)] for table in (wording.topics, wording.styles))
    world = generate_world(WorldConfig(users=300, items=12, domain=domain, language=language), 1)
    named = 0
    for profile in world.dataset.users["profile"]:
        told = reader.told(profile)
        if not told.topics:
            assert told == Told()
            assert wording.likes.partition("{")[0] not in profile
            continue
        named += 1
        assert wording.likes.format(topics=people.separator.join(topics[t] for t in told.topics)) in profile
        says_style = wording.prefers.partition("{")[0] in profile
        assert says_style == (told.style is not None)
        assert told.style is None or wording.prefers.format(styles=styles[told.style]) in profile
    assert 200 < named < 280  # 80%


def test_the_chance_of_a_profile_is_how_often_it_is_written() -> None:
    """Users of one truth differ by what they tell: counts of 20,000 profiles against the stated chances."""
    world = generate_world(WorldConfig(users=20_000, items=12, slates_per_user=1, slate_size=1), 8)
    people, domains = LANGUAGES["en"]
    reader = ProfileReader(domains["shop"], people)
    topic, style = world.truth.topic_interest_UT, world.truth.style_interest_UY
    found: dict[Told, int] = defaultdict(int)
    for profile in world.dataset.users["profile"]:
        found[reader.told(profile)] += 1
    by_topics: dict[tuple[int, ...], int] = defaultdict(int)
    for told, count in found.items():
        by_topics[told.topics] += count
    score = 0.0
    for topics, count in by_topics.items():
        if topics:
            expected = reader.chance_U(Told(topics), topic, style)
            score += (count - expected.sum()) ** 2 / (expected * (1 - expected)).sum()
    assert len(by_topics) == 1 + 12 + 12 * 11
    assert score / 144 < 1.4
    # A style is named by half of those who name a topic, and it is the favourite.
    styled = sum(count for told, count in found.items() if told.style is not None)
    assert styled / (20_000 - by_topics[()]) == pytest.approx(0.5, abs=0.02)
    assert (
        reader.chance_U(Told((0,), 3), topic, style).nonzero()[0].tolist()
        == (np.argmax(style, axis=1) == 3).nonzero()[0].tolist()
    )


def test_states_of_no_log_are_refused(world: World) -> None:
    (state,) = _states(world, 1)
    strange = [
        dataclasses.replace(state, user_id=None),
        dataclasses.replace(state, user_id="nobody"),
        dataclasses.replace(state, history=state.history[:-1]),
        dataclasses.replace(state, session=state.history[:1]),
        dataclasses.replace(state, time=state.history[-1].time),
    ]
    for one in strange:
        with pytest.raises(RequestError, match="none of this world's log"):
            world.informed_optimum([one], 3)
    for k in (0, 301):
        with pytest.raises(RequestError, match="choose k between 1 and 300"):
            world.informed_optimum([state], k)
    many = generate_world(WorldConfig(users=2, items=20_001, slates_per_user=1), 1)
    with pytest.raises(RequestError, match="up to 20000 items"):
        many.informed_optimum(_states(many, 1), 3)
