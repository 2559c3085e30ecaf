"""Text states are made when they are asked for, and say what happened."""

from __future__ import annotations

import numpy as np
import pytest

from llmrec.config import EnvironmentSettings
from llmrec.dataset.history import History
from llmrec.dataset.world import World
from llmrec.dataset.world.scenario import END
from llmrec.errors import RequestError
from llmrec.simulator.environments import DOMAINS, RecEnv, VectorRecEnv, WorldUsers
from llmrec.simulator.environments.record import Record


def _counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    made: list[int] = []
    plain = Record.state

    def counting(self: Record, row: int, *args: int, **options: bool) -> object:
        made.append(row)
        return plain(self, row, *args, **options)

    monkeypatch.setattr(Record, "state", counting)
    return made


def test_no_state_is_made_unless_asked_for(people: WorldUsers, monkeypatch: pytest.MonkeyPatch) -> None:
    made = _counted(monkeypatch)
    env = VectorRecEnv(people, 40, EnvironmentSettings(slate_size=4, turns=5), dynamics=DOMAINS["news"])
    _, info = env.reset(seed=0)
    for _ in range(20):
        _, _, _, _, info = env.step(np.tile(np.arange(4), (40, 1)))
    assert made == []
    assert info["states"].made == 0
    assert len(info["states"]) == 40
    assert made == []
    state = info["states"][7]
    assert made == [7]
    assert info["states"].made == 1
    assert state.user_id is not None
    assert [s.user_id for s in info["states"]][7] == state.user_id
    assert info["states"].made == 41


def test_the_session_tells_the_last_turns(people: WorldUsers, world: World) -> None:
    env = VectorRecEnv(people, 12, EnvironmentSettings(slate_size=3, turns=9, remembered_turns=2))
    env.reset(seed=3, options={"users": np.arange(12)})
    random = np.random.default_rng(0)
    told = []
    for _ in range(3):
        slates = random.permuted(np.tile(np.arange(80), (12, 1)), axis=1)[:, :3]
        observations, _, _, _, info = env.step(slates)
        told.append((slates, observations["clicks"], observations["conversions"]))
    history = History(world.dataset, 20)
    for row in range(12):
        state = info["states"][row]
        known = history.state(world.dataset.users["user_id"][row], END)
        assert (state.user_id, state.profile, state.history) == (known.user_id, known.profile, known.history)
        expected = [
            (int(slates[row, k]), "conversion" if sold[row, k] else "click" if clicks[row, k] else "impression")
            for slates, clicks, sold in told[1:]
            for k in range(3)
        ]
        assert [(i.item, i.feedback) for i in state.session] == expected
        assert state.time == END + 180
        assert [i.time for i in state.session] == [END + 60] * 3 + [END + 120] * 3
        assert all(i.time < state.time for i in (*state.history, *state.session))


def test_states_of_a_moment_that_has_passed_are_refused(people: WorldUsers) -> None:
    env = RecEnv(people, EnvironmentSettings(slate_size=2))
    _, info = env.reset(seed=0)
    early = info["state"]
    assert early().session == ()
    _, _, _, _, info = env.step([4, 5])
    assert [i.item for i in info["state"]().session] == [4, 5]
    assert info["state"].made == 1
    with pytest.raises(RequestError, match="read them before the next step"):
        early()
