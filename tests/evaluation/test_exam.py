"""The examination: popularity has exactly one half, whoever knows no person gains nothing, whoever does is told apart."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrec.config import WorldConfig
from llmrec.dataset.examples import Examples, examples
from llmrec.dataset.split import make_split
from llmrec.dataset.world.world import generate_world
from llmrec.errors import DataError
from llmrec.evaluation.exam import RIVALS, Questions, answers, marks, rivals, verdict, yardstick
from llmrec.types import Example, Prediction, State

USERS, ITEMS, EVENTS = 300, 80, 1500


class Known:
    """A simulator whose P(click) is a table: one row a user."""

    def __init__(self, table_UN: np.ndarray) -> None:
        self.table_UN = table_UN

    def predict_all(self, states):
        click = self.table_UN[[int(state.user_id) for state in states]]
        return Prediction(click, np.zeros_like(click))

    def predict(self, states, items_BK):
        click = np.take_along_axis(self.predict_all(states).click_BK, items_BK.clip(min=0), axis=1)
        return Prediction(click * (items_BK >= 0), np.zeros_like(click))


@pytest.fixture(scope="module")
def planted():
    """Choices by popularity, a trend that the counts do not know, and a liking of each user's own."""
    random = np.random.default_rng(0)
    count_N = np.sort(random.zipf(1.6, ITEMS).clip(max=200).astype(float))[::-1].copy()
    trend_N = random.normal(0, 1, ITEMS)
    like_UN = random.normal(0, 1.0, (USERS, ITEMS))
    weight_UN = np.exp(np.log(count_N) + trend_N + like_UN)
    user_E = random.integers(0, USERS, EVENTS)
    rows = [
        Example(State(user_id=str(u)), int(random.choice(ITEMS, p=weight_UN[u] / weight_UN[u].sum()))) for u in user_E
    ]
    known = Examples(rows, [np.empty(0, dtype=np.int64) for _ in rows])
    stream = np.random.default_rng(1)
    rival_ER = np.full((EVENTS, RIVALS), -1)
    for row, example in enumerate(rows):
        found = rivals(count_N, example.target, np.empty(0, dtype=np.int64), RIVALS, stream)
        rival_ER[row, : len(found)] = found
    other_E = np.array([stream.choice(np.flatnonzero(user_E != u)) for u in user_E])
    questions = Questions(known, count_N, rival_ER, other_E, None, 0)
    return questions, trend_N, like_UN


def asked(planted, table_UN, samples=200):
    questions = planted[0]
    probability_UN = np.exp(table_UN - table_UN.max())
    popular = {"popularity": yardstick(questions.popularity, questions)}
    return marks(answers(Known(probability_UN), questions), questions, popular, name="judge", samples=samples)


@given(
    st.lists(st.integers(0, 4), min_size=2, max_size=40),
    st.integers(0, 39),
    st.sets(st.integers(0, 39)),
    st.integers(1, 12),
    st.integers(0, 100),
)
def test_any_order_by_counts_has_half_of_the_rivals_below(counts, target, banned, size, seed) -> None:
    count_N = np.array(counts, dtype=float)
    target %= len(counts)
    kept = np.array(sorted(b for b in banned if b < len(counts)), dtype=np.int64)
    found = rivals(count_N, target, kept, size, np.random.default_rng(seed))
    assert len(found) == len(set(found.tolist())) <= size
    assert not set(found.tolist()) & {target, *kept.tolist()}
    below, tied = (count_N[found] < count_N[target]).sum(), (count_N[found] == count_N[target]).sum()
    assert 2 * below + tied == len(found)


def test_rivals_are_the_nearest_in_popularity() -> None:
    count_N = np.array([9.0, 7, 5, 5, 4, 2, 1, 1])
    near = rivals(count_N, 2, np.array([4]), 5, np.random.default_rng(0))
    assert sorted(near.tolist()) == [0, 1, 3, 5, *near[near >= 6]]  # its equal, two above, two below without 4
    assert len(rivals(count_N, 0, np.empty(0, dtype=np.int64), 5, np.random.default_rng(0))) == 0  # nothing above


def test_popularity_is_a_coin_and_named(planted) -> None:
    found = asked(planted, np.tile(0.3 * np.log(planted[0].count_N), (USERS, 1)))
    assert (found["auc"]["mean"], found["auc"]["low"], found["auc"]["high"]) == (0.5, 0.5, 0.5)
    assert found["agreement"] == pytest.approx(1.0)
    assert found["verdict"] == "popularity in disguise"
    assert found["ndcg_minus"]["popularity"]["mean"] == pytest.approx(0.0)
    assert found["sentence"].startswith("judge: popularity in disguise; its top ten are popularity's (100%")


def test_what_is_the_same_for_everybody_is_no_knowledge_of_a_person(planted) -> None:
    """It beats the coin and has lists of its own: only another person's state tells."""
    questions, trend_N, _ = planted
    found = asked(planted, np.tile(np.log(questions.count_N) + 2 * trend_N, (USERS, 1)))
    assert found["auc"]["low"] > 0.6
    assert found["agreement"] < 0.8
    assert found["personal"]["mean"] == 0
    assert found["verdict"] == "popularity in disguise"


def test_knowledge_of_people_passes(planted) -> None:
    questions, trend_N, like_UN = planted
    found = asked(planted, np.log(questions.count_N) + trend_N + like_UN)
    assert found["personal"]["low"] > 0
    assert found["verdict"] == "knows people"
    assert found["ndcg_minus"]["popularity"]["low"] > 0
    # a whisper of it passes (b), but whoever sees popularity's lists has popularity's opinion
    whisper = asked(planted, np.log(questions.count_N) + 0.02 * like_UN)
    assert whisper["agreement"] > 0.8
    assert whisper["verdict"] == "popularity in disguise"


def test_few_events_decide_nothing(planted) -> None:
    questions, trend_N, _ = planted
    few = Questions(questions.examples[:25], questions.count_N, questions.rival_ER[:25], np.arange(25)[::-1], None, 0)
    model = Known(np.tile(1 / (1 + np.exp(-trend_N - np.random.default_rng(3).normal(0, 1, ITEMS))), (USERS, 1)))
    found = marks(answers(model, few), few, {}, name="judge", samples=200)
    assert found["verdict"] == "undecided"
    assert "25 choices of 2" in found["sentence"]


def test_the_rule() -> None:
    def of(auc, personal, agreement=0.0, people=30):
        pair = [None if one is None else {"mean": 0.0, "low": one[0], "high": one[1]} for one in (auc, personal)]
        return verdict({"auc": pair[0], "personal": pair[1], "agreement": agreement, "people": people})

    assert of((0.51, 0.6), (0.01, 0.1)) == "knows people"
    assert of((0.49, 0.55), (0.01, 0.1)) == "popularity in disguise"
    assert of((0.51, 0.6), (-0.01, 0.02)) == "popularity in disguise"
    assert of((0.45, 0.6), (0.01, 0.1)) == "undecided"
    assert of((0.51, 0.6), (0.01, 0.1), 0.8) == "popularity in disguise"
    assert of((0.51, 0.6), (0.01, 0.1), people=29) == of((0.5, 0.5), (0.0, 0.0), people=29) == "undecided"
    assert of(None, None) == "undecided"


def test_figures_by_hand() -> None:
    """Two users, four items of counts 2, 1, 1, 1: NDCG at place 1 and 3, AUC of the rivals, the other's state."""
    rows = [Example(State(user_id="0"), 1), Example(State(user_id="1"), 2)]
    known = Examples(rows, [np.array([0]), np.array([0])])
    rival_ER = np.array([[2, 3, -1], [1, 3, -1]])
    table = np.array([[0.9, 0.8, 0.3, 0.8], [0.9, 0.5, 0.4, 0.6]])
    questions = Questions(known, np.array([2.0, 1, 1, 1]), rival_ER, np.array([1, 0]), known.seen, 0)
    found = answers(Known(table), questions)
    # item 0 may not be shown; 1 and 3 tie at the first place of user 0, and 2 is the last of user 1
    assert found.ndcg_E == pytest.approx([(1 + 1 / np.log2(3)) / 2, 1 / np.log2(4)])
    assert found.own_E == pytest.approx([0.75, 0.0])
    assert found.other_E == pytest.approx([0.5, 0.0])  # user 1's row for 1 against 2, 3; user 0's for 2 against 1, 3


def test_questions_of_a_data_set() -> None:
    world = generate_world(WorldConfig(users=60, items=40), seed=1)
    split = make_split(world.dataset, "time")
    held_out = examples(world.dataset, split, "valid", limit=50)
    questions = Questions.of(world.dataset, split.train, held_out, seed=0)
    assert [u != questions.users[o] for u, o in zip(questions.users, questions.other_E, strict=True)] == [True] * 50
    same = Questions.of(world.dataset, split.train, held_out, seed=0)
    assert (questions.rival_ER == same.rival_ER).all()
    if world.dataset.manifest.repeat == "exclude":
        for row, seen in zip(questions.rival_ER, held_out.seen, strict=True):
            assert not set(row[row >= 0].tolist()) & set(seen.tolist())
    with pytest.raises(DataError, match="widen the validation period"):
        Questions.of(world.dataset, split.train, held_out[:0], seed=0)
