"""Lessons of running sessions, rankers that do not see feedback, and values turn by turn."""

from __future__ import annotations

import numpy as np
import pytest

from llmrec.adaptation.context import Told, as_sessions, halves, without_feedback, without_session
from llmrec.config import EnvironmentSettings
from llmrec.evaluation.sessions import simulate_sessions
from llmrec.simulator.environments import domain_users
from llmrec.types import Interaction, Slate, State
from tests.adaptation.conftest import slates


def test_a_state_tells_what_its_user_was_shown_before_and_nothing_later():
    sessions = slates(2, users=3, each=3)
    found = as_sessions(sessions, 4)
    log = sessions.log
    for slate, state in enumerate(found.log.states):
        before = [n for n, other in enumerate(log.states) if other.user_id == state.user_id and n < slate]
        rows = np.flatnonzero(np.isin(log.state_row_M, before))
        told = [
            Interaction(
                int(log.item_M[row]),
                "conversion" if log.conversion_M[row] else "click" if log.click_M[row] else "impression",
                log.states[log.state_row_M[row]].time,
            )
            for row in rows
        ]
        assert state.session == tuple(told[-4:])
        assert state.history == ()
        assert state.profile == log.states[slate].profile
    assert (found.log.item_M == log.item_M).all()


class Asked:
    def __init__(self):
        self.states = []

    def recommend(self, states, k, *, seen=None):
        self.states += states
        return [Slate(tuple(range(k)), (0.0,) * k)] * len(states)


def test_the_blind_do_not_see_feedback():
    history = (Interaction(1, "click", 1),)
    session = (Interaction(2, "conversion", 5, 3.0), Interaction(3, "impression", 5))
    passed = (Interaction(2, "impression", 5), Interaction(3, "impression", 5))
    for telling, told in ((without_feedback, passed), (without_session, ())):
        ranker = Asked()
        Told(ranker, telling).recommend([State("u", "p", history, session, time=9)], 2)
        assert ranker.states == [State("u", "p", history, told, time=9)]


def test_halves_leave_a_middle_turn_out():
    early_B, late_B = halves(np.array([[1.0, 2.0, 9.0, 4.0, 6.0], [0.0, 0.0, 5.0, 0.0, 2.0]]))
    assert early_B.tolist() == [1.5, 0.0]
    assert late_B.tolist() == [5.0, 1.0]


def test_values_by_turn_add_up_to_the_sessions_and_are_the_worlds():
    population = domain_users("film", users=20, items=15)
    sizes = EnvironmentSettings(slate_size=3, turns=4)
    found = simulate_sessions(Asked(), population, np.arange(20), sizes, seed=3)
    assert found.turn_BT.shape == (20, 4)
    assert found.turn_BT.sum(axis=1) == pytest.approx(found.value_B)
    assert found.turn_BT[:, 0] == pytest.approx(found.first_B)
    world = population.world
    users = world.dataset.users["user_id"].to_list()
    wanted = world.value_of_BK(users, np.tile(np.arange(3), (20, 1))).sum(axis=1)
    assert found.turn_BT[:, 2] == pytest.approx(wanted, rel=1e-4)
