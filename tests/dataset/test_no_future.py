"""Nothing of the future reaches a state or the training part.

Whatever happens at or after a moment t, changed, removed or added: every state at t or before stays what it was,
and so does all that is trained on before a cut at t.
"""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from llmrec.dataset.examples import History, examples
from llmrec.dataset.impressions import impressions
from llmrec.dataset.split import make_split, split_at
from tests.dataset.tiny import tiny

USERS, ITEMS, LAST = "abc", "vwxyz", 7
RATING = {"click": "rating", "conversion": "rating>=4"}

event = st.tuples(
    st.sampled_from(USERS),
    st.sampled_from(ITEMS),
    st.sampled_from(["impression", "click", "conversion", "rating"]),
    st.integers(0, LAST),  # few moments, so many events share one
    st.sampled_from([None, 1.0, 4.0]),
    st.sampled_from([None, 0, 1]),
    st.none(),
    st.sampled_from([None, "s", "t"]),
)
tables = st.lists(event, max_size=25)
moment = st.integers(0, LAST + 1)


@settings(max_examples=50, deadline=None)
@given(tables, tables, moment, st.integers(0, 4))
def test_states_up_to_a_moment_do_not_depend_on_what_follows(events, others, t, kept):
    past = [e for e in events if e[3] < t]
    first, second = tiny(events), tiny(past + [e for e in others if e[3] >= t])
    one, two = History(first, kept), History(second, kept)
    for user in USERS:
        for before in range(t + 1):
            assert one.state(user, before) == two.state(user, before)
            assert one.seen(user, before).tolist() == two.seen(user, before).tolist()


def _rows(found):
    return [(e, s.tolist()) for e, s in zip(found.rows, found.seen, strict=True)]


@settings(max_examples=30, deadline=None)
@given(tables, tables, moment, st.sampled_from([{}, RATING]), st.sampled_from([None, 3]))
def test_training_before_a_cut_does_not_depend_on_what_follows(events, others, t, rules, limit):
    past = [e for e in events if e[3] < t]
    made = []
    for table in (events, past + [e for e in others if e[3] >= t]):
        dataset = tiny(table, **rules)
        split = split_at(dataset.events, t, t)
        for signal in ("click", "conversion"):
            made.append(_rows(examples(dataset, split, "train", signal=signal, limit=limit, seed=1)))
        shown = impressions(dataset, split, "train", limit=limit, seed=1)
        made.append((shown.states, [s.tolist() for s in shown.seen]))
        names = ("state_row_M", "item_M", "click_M", "conversion_M", "position_M", "propensity_M")
        made.append([np.nan_to_num(getattr(shown, name), nan=-1).tolist() for name in names])
    assert made[: len(made) // 2] == made[len(made) // 2 :]


@settings(max_examples=30, deadline=None)
@given(tables, tables, moment, st.integers(0, LAST))
def test_examples_of_the_past_of_any_part_do_not_change(events, others, t, cut):
    past = [e for e in events if e[3] < t]
    for part in ("train", "valid", "test"):
        made = []
        for table in (events, past + [e for e in others if e[3] >= t]):
            dataset = tiny(table)
            found = _rows(examples(dataset, split_at(dataset.events, cut, cut + 2), part, history_events=3))
            made.append([row for row in found if row[0].state.time < t])
        assert made[0] == made[1]


@settings(max_examples=30, deadline=None)
@given(tables.filter(bool), st.sampled_from(["time", "leave-last-out"]))
def test_every_state_is_strictly_earlier_and_training_states_hold_training_events_only(events, kind):
    if kind == "time" and len({e[3] for e in events}) < 2:
        return
    dataset = tiny(events)
    split = make_split(dataset, kind)
    trained = set(split.train.select("user_id", "item_id", "time").iter_rows())
    tested = set(split.test.select("user_id", "item_id", "time").iter_rows())
    assert not trained & tested
    for part in ("train", "valid", "test"):
        found = examples(dataset, split, part)
        shown = impressions(dataset, split, part)
        for state in [*(e.state for e in found), *shown.states]:
            keys = {(state.user_id, ITEMS[i.item], i.time) for i in state.history}
            assert all(i.time < state.time for i in state.history)
            assert keys <= trained or part != "train"
            if part == "valid":
                assert not keys & tested


@settings(max_examples=30, deadline=None)
@given(tables, moment, st.integers(0, 4))
def test_states_by_brute_force(events, t, kept):
    history = History(tiny(events), kept)
    strength = ("impression", "click", "rating", "conversion")
    for user in USERS:
        best = {}
        for who, item, kind, time, *_ in events:
            if who == user and kind != "impression" and time < t:
                key = (time, ITEMS.index(item))
                best[key] = max(best.get(key, "click"), kind, key=strength.index)
        expected = [(item, time, best[time, item]) for time, item in sorted(best)]
        state = history.state(user, t)
        assert [(i.item, i.time, i.feedback) for i in state.history] == expected[
            len(expected) - min(kept, len(expected)) :
        ]
        assert set(history.seen(user, t).tolist()) == {item for item, _, _ in expected}
    many, seen = history.states([*USERS, "stranger"], np.full(len(USERS) + 1, t))
    assert many == [history.state(user, t) for user in [*USERS, "stranger"]]
    assert [s.tolist() for s in seen] == [history.seen(user, t).tolist() for user in [*USERS, "stranger"]]
