"""Sessions cut into tasks: who adapts, who asks, and that draws are the seed's."""

from __future__ import annotations

import numpy as np
import pytest

from llmrec.adaptation.sessions import joined
from llmrec.adaptation.tasks import Tasks
from llmrec.errors import DataError
from tests.adaptation.conftest import place_of, slates


def test_sessions_are_cut_by_slate_with_all_their_places():
    found = slates(3)
    assert found.users == [f"u{n}" for n in range(12)]
    two = found.of(["u4", "u1"])
    assert [state.user_id for state in two.log.states] == ["u1", "u1", "u4", "u4"]
    rows = [2, 3, 8, 9]
    for new, old in enumerate(rows):
        at, was = two.log.state_row_M == new, found.log.state_row_M == old
        for name in ("item_M", "click_M", "conversion_M", "position_M", "propensity_M"):
            assert getattr(two.log, name)[at].tolist() == getattr(found.log, name)[was].tolist()
    turned = found.at([9, 2])
    assert [s.user_id for s in turned.log.states] == ["u4", "u1"]
    assert turned.log.item_M[:3].tolist() == found.log.item_M[27:30].tolist()
    assert (found.reward_M == found.log.click_M + 3 * found.log.conversion_M).all()
    both = joined([two, turned])
    assert len(both) == 6
    assert both.log.state_row_M.tolist() == [0] * 3 + [1] * 3 + [2] * 3 + [3] * 3 + [4] * 3 + [5] * 3
    assert both.at([4]).log.item_M.tolist() == turned.log.item_M[:3].tolist()


def test_choices_count_what_they_earned_over_how_likely_they_were_shown(shop):
    sessions, group_N = slates(3, users=400), place_of(shop, slates(3)).group_N
    examples = sessions.choices(group_N, 0)
    clicked = sessions.log.click_M > 0
    assert len(examples) == clicked.sum()
    weight = np.where(sessions.log.conversion_M > 0, 4.0, 1.0) / sessions.log.propensity_M
    items = np.array([e.target for e in examples])
    for thing in range(3):
        own = clicked & (sessions.log.item_M % 3 == thing)
        assert np.mean(items % 3 == thing) == pytest.approx(weight[own].sum() / weight[clicked].sum(), abs=0.02)


def test_tasks_are_the_seeds_and_keep_people_apart(shop):
    places = [place_of(shop, slates(n), f"p{n}") for n in range(3)]
    tasks = Tasks(places, support=4, query=5, seed=8)
    drawn = tasks.draw(2, 3)
    assert sorted(task.name for task in drawn) == ["p0", "p1", "p2"]
    for task, again in zip(drawn, tasks.draw(2, 3), strict=True):
        assert task.support.users == again.support.users
        assert len(task.support.users) == 4
        assert len(task.query.users) == 5
        assert not set(task.support.users) & set(task.query.users)
    assert [t.support.users for t in drawn] != [t.support.users for t in tasks.draw(3, 3)]


def test_groups_and_single_users(shop):
    groups = {f"u{n}": ("even", "odd")[n % 2] for n in range(10)}
    place = place_of(shop, slates(1, each=4), group_of=groups)
    for task in Tasks([place], "group", support=2, query=9).draw(0, 6):
        assert len({groups[user] for user in (*task.support.users, *task.query.users)}) == 1
        assert len(task.query.users) == 3
    for task in Tasks([place], "user", support=3, query=9).draw(0, 6):
        assert len(task.support) == 3
        assert len(task.query) == 1
        assert task.support.users == task.query.users
        assert max(s.time for s in task.support.log.states) < task.query.log.states[0].time
    with pytest.raises(DataError, match="no group of 7"):
        Tasks([place], "group", support=6).draw(0, 1)
    with pytest.raises(DataError, match="more than 4 slates"):
        Tasks([place], "user", support=4).draw(0, 1)
