"""Sessions of those who choose for themselves: their posterior against enumeration, their lessons and frequencies."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from llmrec.config import ScenarioSettings, WorldConfig
from llmrec.dataset.world.scenario import DAY, START
from llmrec.dataset.world.world import generate_world
from llmrec.studies.adaptation.choosing import LONGEST, MOVES, Follower, choices, choosing_lessons, told, whose
from llmrec.types import State

EARLY, LATE = START + DAY, START + 80 * DAY


@pytest.fixture(scope="module")
def world():
    scenario = ScenarioSettings(kind="shift", day=45.0)
    config = WorldConfig(users=30, items=14, slates_per_user=2, slate_size=4, scenario=scenario)
    return generate_world(config, seed=3)


@pytest.fixture(scope="module")
def users(world):
    return world.dataset.users["user_id"].to_list()


@pytest.mark.parametrize("time", [EARLY, LATE])
def test_the_posterior_is_the_sum_over_all_ways_an_interest_could_have_gone(world, users, time):
    people, session = users[:3], (4, 0, 11)
    appeal = world.expected_click_BN(people, time) ** 3
    weight = np.zeros(3)
    for way in itertools.product(range(3), repeat=3):
        chance, left = 1 / 3, appeal.copy()
        for at, (person, item) in enumerate(zip(way, session, strict=True)):
            if at:
                chance *= (0.9 if person == way[at - 1] else 0.0) + 0.1 / 3
            chance *= left[person, item] / left[person].sum()
            left[:, item] = 0
        weight[way[-1]] += chance
    mean = (weight / weight.sum()) @ world.value_BN(people, time=time)
    (slate,) = Follower(world, people, time).recommend([State(session=told(session))], 14)
    assert list(slate.items_K) == np.argsort(-mean, kind="stable").tolist()
    np.testing.assert_allclose(np.exp(slate.log_probs_K), np.sort(mean)[::-1])


def test_who_knows_another_demand_ranks_otherwise(world, users):
    before, behind = (Follower(world, users, time).recommend([State()], 5)[0] for time in (EARLY, LATE))
    best = np.argsort(-world.value_BN(users, time=LATE).mean(axis=0))[:5]
    assert set(behind.items_K) == set(best.tolist()) != set(before.items_K)


def test_choices_are_drawn_by_the_cube_of_appeal_and_never_twice():
    stream = np.random.default_rng(0)
    first = np.array([[0.1, 0.2, 0.4]])
    found = [choices(np.repeat(first, 3, axis=0), stream) for _ in range(4000)]
    assert all(sorted(one) == [0, 1, 2] for one in found)
    counts = np.bincount([one[0] for one in found], minlength=3) / 4000
    np.testing.assert_allclose(counts, np.array([1, 8, 64]) / 73, atol=0.02)
    assert first.tolist() == [[0.1, 0.2, 0.4]]
    assert choices(np.empty((0, 3)), stream) == []


def test_an_interest_stays_or_becomes_anybodys_and_is_the_last_ones_in_the_end():
    stream, people = np.random.default_rng(0), 4
    rows = np.stack([whose(2, 3, people, stream) for _ in range(6000)])
    assert (rows[:, -1] == 2).all()
    stays = 1 - MOVES + MOVES / people
    np.testing.assert_allclose((rows[:, 1] == 2).mean(), stays, atol=0.02)
    np.testing.assert_allclose((rows[:, 0] == rows[:, 1]).mean(), stays, atol=0.02)
    others = np.bincount(rows[rows[:, 1] != 2, 1], minlength=people)
    assert others[2] == 0
    assert others[[0, 1, 3]].min() > 0.7 * others.max()
    assert [whose(1, length, people, stream).size for length in (0, 1, 2)] == [0, 1, 2]


def test_lessons_are_sessions_choice_by_choice_whose_answers_are_favoured(world, users):
    teacher = Follower(world, users, EARLY)
    found = choosing_lessons(teacher, 40, seed=1)
    assert len(found) == 40 * (LONGEST + 1)
    for before, after in zip(found, found[40:], strict=False):
        assert after.state.session[:-1] == before.state.session
    whole = [event.item for event in found[-1].state.session]
    assert len(set(whole)) == LONGEST
    assert {e.feedback for example in found for e in example.state.session} == {"click"}
    assert found == choosing_lessons(teacher, 40, seed=1) != choosing_lessons(teacher, 40, seed=2)
    # the answers behind ten choices are those of the posterior there, more than of the one that was told nothing
    last = found[-40:]
    ends = [teacher.recommend([example.state], 14)[0] for example in last]
    rank = [list(slate.items_K).index(example.target) for slate, example in zip(ends, last, strict=True)]
    blind = list(teacher.recommend([State()], 14)[0].items_K)
    assert np.mean(rank) < np.mean([blind.index(example.target) for example in last])
