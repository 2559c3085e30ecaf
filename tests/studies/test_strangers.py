"""The study of adaptation in context: its teacher against enumeration, its lessons, and the whole in a tiny world."""

from __future__ import annotations

import numpy as np
import pytest

from llmrec.adaptation.context import Told
from llmrec.config import WorldConfig
from llmrec.dataset.world.world import generate_world
from llmrec.errors import RequestError
from llmrec.studies.adaptation.strangers import (
    BY_ALL,
    BY_CHOICES,
    DRAWN,
    HIDDEN,
    LEARNT,
    SLATE,
    TURNS,
    Posterior,
    chosen,
    drawn,
    everything,
    lessons,
    run_strangers,
)
from llmrec.types import Interaction, Slate, State
from tests.studies.test_adaptation import MODEL

SIZES = {"users": 60, "items": 30, "new": 20, "slates": 4, "examples": 60, "model": MODEL}


@pytest.fixture(scope="module")
def teacher():
    world = generate_world(WorldConfig(users=40, items=12, slates_per_user=2, slate_size=4), seed=3)
    return Posterior(world, world.dataset.users["user_id"].to_list())


def test_the_posterior_mean_is_bayes_rule_written_out(teacher):
    """Two clicks, one of which led to a purchase, and one item that was passed over, person by person."""
    session = (Interaction(2, "click", 0), Interaction(5, "impression", 0), Interaction(7, "conversion", 0))
    click, buy = teacher.world.expected_click_BN(teacher.people), teacher.world.expected_conversion_BN(teacher.people)
    value = teacher.world.value_BN(teacher.people)
    mean, total = np.zeros(12), 0.0
    for person in range(len(teacher.people)):
        likelihood = (
            click[person, 2] * (1 - buy[person, 2]) * (1 - click[person, 5]) * click[person, 7] * buy[person, 7]
        )
        mean, total = mean + likelihood * value[person], total + likelihood
    (slate,) = teacher.recommend([State(session=session)], 12)
    assert list(slate.items_K) == np.argsort(-mean, kind="stable").tolist()
    np.testing.assert_allclose(np.exp(slate.log_probs_K), np.sort(mean / total)[::-1])
    (nothing,) = teacher.recommend([State()], 3)
    assert list(nothing.items_K) == np.argsort(-value.mean(axis=0), kind="stable")[:3].tolist()


def test_lessons_are_whole_sessions_and_repeat_themselves(teacher):
    found = lessons(teacher, 8, seed=1)
    assert len(found) == 8 * TURNS
    assert not any(example.state.session for example in found[:8]), "nothing is known at the first turn"
    for before, after in zip(found, found[8:], strict=False):
        assert after.state.session[: len(before.state.session)] == before.state.session
        assert len(after.state.session) <= len(before.state.session) + SLATE
    told = [event for example in found for event in example.state.session]
    assert {event.feedback for event in told} <= {"click", "conversion"}
    assert found == lessons(teacher, 8, seed=1)
    assert found != lessons(teacher, 8, seed=2)
    answers = np.array([example.target for example in found])
    worth = teacher.value_PN.mean(axis=0)
    assert worth[answers].mean() > worth.mean(), "answers are drawn from what the posterior favours"


SESSION = tuple(
    Interaction(item, kind, item) for item, kind in enumerate(("impression", "click", "impression", "conversion"))
)


def test_nothing_but_the_session_is_told():
    class Tells:
        def recommend(self, states, k, *, seen=None):
            self.states = states
            return [Slate((0,), (0.0,))] * len(states)

    asked = State("u", "likes tents", (Interaction(0, "click", 1),), SESSION, "gift", 9)
    for telling, told in ((chosen, (SESSION[1], SESSION[3])), (everything, SESSION)):
        ranker = Tells()
        Told(ranker, telling).recommend([asked], 1)
        assert ranker.states == [State(session=told)]


def test_drawn_choices_are_as_many_of_what_was_shown_whatever_was_chosen():
    items = []
    for user in range(400):
        state = State(str(user), session=SESSION)
        told = drawn(state).session
        assert [event.feedback for event in told] == ["click", "conversion"]
        assert told == drawn(state).session
        items += [event.item for event in told]
    np.testing.assert_allclose(np.bincount(items, minlength=4) / 800, 0.25, atol=0.04)
    assert drawn(State("u")) == State()


def test_what_cannot_be_asked_is_refused(tmp_path):
    for more in ({"played": 0}, {"sessions": 0}, {"sizes": [("trained", 2)]}):
        with pytest.raises(RequestError, match="Give one"):
            run_strangers([0], tmp_path, **more)


@pytest.mark.slow
def test_from_end_to_end_and_again(tmp_path):
    options = {"sessions": 6, "played": 5, "sizes": list(SIZES.items())}
    found = run_strangers([0, 1], tmp_path, **options)
    assert {LEARNT, HIDDEN, DRAWN, BY_CHOICES, BY_ALL, "popularity"} == set(found["turns"]) - {"covisitation-fixed"}
    assert all(len(turns) == TURNS for turns in found["turns"].values())
    assert found["rise"][HIDDEN]["mean"] == pytest.approx(0, abs=1e-6), "the same slate at every turn"
    assert {one["domain"] for one in found["seeds"]} == {"shop", "film"}
    assert (tmp_path / "study-turns.svg").is_file()
    assert run_strangers([0, 1], tmp_path, **options)["turns"] == found["turns"]
