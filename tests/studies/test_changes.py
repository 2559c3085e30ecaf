"""Which of two changes needs an update, and which the session: what is asked, the traffic, and the whole study."""

from __future__ import annotations

import numpy as np
import pytest

from llmrec.config import ScenarioSettings, WorldConfig
from llmrec.dataset.world.scenario import DAY, START
from llmrec.dataset.world.world import generate_world
from llmrec.errors import ConfigError
from llmrec.online.traffic import TrafficSettings
from llmrec.studies.adaptation.choosing import LONGEST
from llmrec.studies.online import run_online
from llmrec.studies.online.changes import (
    BEST,
    CHANGES,
    CHOICES,
    MOVED,
    OPTIMUM,
    READ,
    SHIFTED,
    STALE,
    UNREAD,
    Asked,
    changes_answer,
    side,
    sides_of,
)
from llmrec.studies.online.month import FROZEN, UPDATED
from llmrec.studies.online.reading import SessionTraffic
from llmrec.studies.study import Pooled, SeedRows
from llmrec.types import Slate, State

DAY_0 = START + 40 * DAY


@pytest.fixture(scope="module")
def world():
    scenario = ScenarioSettings(kind="shift", day=45.0)
    config = WorldConfig(users=30, items=14, slates_per_user=4, slate_size=4, scenario=scenario)
    return generate_world(config, seed=3)


class Tells:
    """The same list for everybody, and what was told."""

    def recommend(self, states, k, *, seen=None):
        self.states = states
        return [Slate(tuple(range(k)), tuple(-float(i) for i in range(k)))] * len(states)


def test_an_interest_moves_to_the_next_ones_and_demand_shifts_for_the_same_people(world):
    users = world.dataset.users["user_id"].to_list()[:6]
    moved = Asked.of(world, MOVED, users, DAY_0, 0)
    assert list(moved.users) == [*users[1:], users[0]]
    assert [state.user_id for state in moved.states] == users
    assert all(len({e.item for e in state.session}) == 2 * CHOICES for state in moved.states)
    shifted = Asked.of(world, SHIFTED, users, START + 80 * DAY, 0)
    assert list(shifted.users) == users
    assert all(len(state.session) == CHOICES for state in shifted.states)
    for asked in (moved, shifted):
        value_BN = world.value_BN(asked.users, time=asked.time)
        np.testing.assert_allclose(asked.values(world, Tells(), 3), value_BN[:, :3].mean(axis=1))
        known = asked.known(world, users, 3)
        np.testing.assert_allclose(known[OPTIMUM], np.sort(value_BN, axis=1)[:, -3:].mean(axis=1))
        best = np.argsort(-world.value_BN(users, time=asked.time).mean(axis=0))[:3]
        np.testing.assert_allclose(known[BEST], value_BN[:, best].mean(axis=1))


def test_a_system_is_told_nothing_what_was_before_or_everything(world):
    users = world.dataset.users["user_id"].to_list()[:3]
    asked, ranker = Asked.of(world, MOVED, users, DAY_0, 0), Tells()
    for name, count in ((UNREAD, 0), (STALE, CHOICES), (READ, 2 * CHOICES)):
        sides_of("it", ranker)[side("it", name)].recommend(asked.states, 2)
        assert [state.session for state in ranker.states] == [state.session[:count] for state in asked.states]


def test_those_who_come_have_a_session_of_their_own_and_nothing_else(world):
    users = world.dataset.users["user_id"].to_list()
    known = world.with_dataset(world.dataset.with_events(world.dataset.events))
    sizes = TrafficSettings(days=3, visits=8, places=3)
    people = SessionTraffic(known, users[:20], sizes, DAY_0, 0)
    assert set(people.visitors(0)) <= set(users[:20])
    states = [people.state(user) for user in people.users]
    assert all(state == State(state.user_id, session=state.session) for state in states)
    lengths = {len(state.session) for state in states}
    assert len(lengths) > 3
    assert max(lengths) <= LONGEST
    assert states == [people.state(user) for user in people.users]
    people.now += DAY
    assert states != [people.state(user) for user in people.users]


def test_the_answer_says_what_reading_and_updating_are_worth_in_each_change():
    def rows(*values):
        names = [side(policy, how) for policy in (FROZEN, UPDATED) for how in (UNREAD, STALE, READ)]
        made = dict(zip((*names, OPTIMUM), values, strict=True))
        return {n: {MOVED: np.full(4, m), SHIFTED: np.full(4, s)} for n, (m, s) in made.items()}

    people = [f"u{n}" for n in range(4)]
    told = {"promoted": {MOVED: 0, SHIFTED: 2}, "alarms": [6]}
    one = rows((0.5, 0.1), (0.4, 0.1), (0.6, 0.2), (0.5, 0.5), (0.4, 0.5), (0.6, 0.6), (1.0, 0.8))
    two = rows((0.5, 0.1), (0.4, 0.1), (0.8, 0.2), (0.5, 0.7), (0.4, 0.7), (0.8, 0.8), (1.0, 0.8))
    found = changes_answer(
        Pooled([SeedRows(s, "h", r, dict.fromkeys(CHANGES, people), told) for s, r in enumerate((one, two))])
    )
    gains, worlds = found.figures["gains"], found.figures["worlds"]
    assert gains["reading the session, frozen"][MOVED]["mean"] == pytest.approx(0.2)
    assert worlds["reading the session, frozen"][MOVED]["by_seed"] == pytest.approx([0.1, 0.3])
    assert gains["updating, session not read"][MOVED]["mean"] == 0
    assert gains["updating, session not read"][SHIFTED]["mean"] == pytest.approx(0.5)
    assert gains["reading, less updating"][SHIFTED]["mean"] == pytest.approx(-0.4)
    assert found.tables[0].rows[2] == [side(FROZEN, READ), "0.7000 (0.70)", "0.2000 (0.25)"]


TINY = {
    **{"users": 90, "new": 20, "items": 20, "slates": 4, "examples": 60},
    **{"model.nano_hidden": 32, "model.nano_layers": 1, "model.nano_vocabulary": 600},
    "model.nano_pretrain_sequences": 64,
}


def test_what_cannot_be_asked_is_refused(tmp_path):
    for more, sessions in (({"trained": 2}, 5), ({"new": 1}, 5), ({}, 0)):
        with pytest.raises(ConfigError, match="Take one session"):
            run_online("changes", seeds=[0], out=tmp_path, overrides={**TINY, **more}, sessions=sessions)


@pytest.mark.slow
def test_from_end_to_end_and_again(tmp_path):
    asked = {"seeds": [3], "out": tmp_path, "overrides": TINY, "visits": 40, "days": 8, "sessions": 8}
    found = run_online("changes", **asked)
    values = found["values"]
    assert all(0 < own[change] <= values[OPTIMUM][change] for own in values.values() for change in CHANGES)
    assert values[side(FROZEN, STALE)][SHIFTED] == values[side(FROZEN, UNREAD)][SHIFTED], "nothing was chosen before"
    assert found["facts"][0]["lessons"] == 8 * (LONGEST + 1)
    assert (tmp_path / "study.md").is_file()
    assert run_online("changes", **asked) == found
