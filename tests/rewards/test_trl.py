"""Functions in TRL's signature as terms and under a trainer, and functions that a configuration names."""

from __future__ import annotations

import pickle
import sys

import numpy as np
import pytest
import torch

from llmrec.config import RewardSettings
from llmrec.errors import ConfigError, DataError
from llmrec.rewards import (
    CheckedReward,
    CustomReward,
    RewardFunction,
    TRLReward,
    TRLTerm,
    custom_digest,
    custom_term,
    load_custom,
    make_terms,
    needs_target,
    reading_next,
    without,
)

from .sample import CONTEXT, FEEDBACK, SHOWN, STATES, Half, Written, context


def length_reward(prompts, completions, completion_ids, **fields):
    """One call says all that a function is told."""
    assert len(prompts) == len(completions) == len(completion_ids) == len(fields["item"])
    return [float(len(text)) for text in completions]


def term_of(function, **more):
    return TRLTerm("mine", 0.5, function, Written(), CONTEXT.prompts, **more)


def test_a_function_of_trl_is_a_term():
    told = {}

    def look(prompts, completions, completion_ids, log_metric, **fields):
        told.update(fields, prompts=prompts, completions=completions, ids=completion_ids)
        log_metric("seen", 3.0)
        return [1.0, None, torch.tensor(2.0), np.float32(4), True, 6]

    term = term_of(look)
    np.testing.assert_array_equal(term(STATES, SHOWN, FEEDBACK), [[1, 0, 2, 4], [1, 0, 6, 0]])
    assert told["prompts"] == ["user u"] * 4 + ["user v"] * 2
    assert told["completions"] == ["Alpha", "Beta", "Gamma", "Delta", "Gamma", "Alpha"]
    assert told["ids"] == [[item + 10, 99] for item in (0, 1, 2, 3, 2, 0)]
    assert told["item"] == [0, 1, 2, 3, 2, 0]
    assert told["place"] == [0, 1, 2, 3, 0, 2]
    assert told["user_id"] == ["u"] * 4 + ["v"] * 2
    assert told["user_state"] == [STATES[0]] * 4 + [STATES[1]] * 2
    assert term.metrics == {"seen": 3.0}


def test_term_and_trainer_get_the_same_from_one_function():
    """The same function as a term inside a reward model in TRL's signature, and given to the trainer itself."""
    model = RewardFunction(Half(), RewardSettings(click=0, conversion=0), terms=[term_of(length_reward)])
    ids = [[10, 99], [12, 99], [13, 99]]
    inside = TRLReward(model, STATES, lambda tokens: tokens[0] - 10)
    rows = {"prompts": ["p"] * 3, "completions": ["Alpha", "Gamma", "Delta"], "completion_ids": ids}
    direct = CheckedReward(length_reward)(**rows, item=[0, 2, 3])
    assert direct == [5, 5, 5]
    assert inside(**rows, state=[0, 0, 1]) == [0.5 * value for value in direct]


def test_rewards_of_trl_itself():
    """TRL's own functions, as they come: tokens beyond 1 of at most 3 cost (1 - n) / 2, and there are 2."""
    from trl.rewards import get_soft_overlong_punishment, think_format_reward

    overlong = term_of(get_soft_overlong_punishment(max_completion_len=3, soft_punish_cache=2))
    np.testing.assert_allclose(overlong(STATES, SHOWN, FEEDBACK), np.where(SHOWN >= 0, -0.5, 0))
    thinking = term_of(think_format_reward, conversational=True)
    np.testing.assert_array_equal(thinking(STATES, SHOWN, FEEDBACK), np.zeros(SHOWN.shape))


def test_coroutines_are_awaited():
    async def slow(completions, **fields):
        return [2.0] * len(completions)

    assert CheckedReward(slow)(["p"], ["c"], [[1]]) == [2.0]


def test_no_item_asks_nothing():
    def never(**fields):
        raise AssertionError

    np.testing.assert_array_equal(term_of(never)(STATES, np.full((2, 3), -1), FEEDBACK), np.zeros((2, 3)))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ([1.0], "returned 1 values for 6 items; return one an item"),
        ([float("nan")] * 6, "returned nan; every value must be a finite number"),
        ([1.0] * 5 + [float("inf")], "returned inf"),
        (["good"] * 6, "returned 'good'"),
        ("123456", "returned str; return a list of numbers"),
        (None, "returned NoneType; return a list of numbers"),
        ([None] * 6, "returned None for all 6 items; return a number"),
        (np.ones((6, 2)), r"returned \[1\.0, 1\.0\]"),
        (["x" * 1000] * 6, r"returned 'x{59}; every"),
    ],
)
def test_functions_that_return_nonsense_are_named(given, words):
    with pytest.raises(DataError, match=f"^Reward 'mine' {words}"):
        term_of(lambda **fields: given)(STATES, SHOWN, FEEDBACK)
    with pytest.raises(DataError, match=f"^Reward 'mine' {words}"):
        CheckedReward(lambda **fields: given, "mine")(["p"] * 6, ["c"] * 6, [[1]] * 6)


def test_functions_that_cannot_be_called_are_refused_at_once():
    with pytest.raises(ConfigError, match=r"Reward 'short' cannot be called as TRL calls it; write it as def short"):
        CheckedReward(lambda prompts, completions: [], "short")


def test_wrapped_functions_can_be_sent_to_a_worker():
    reward = pickle.loads(pickle.dumps(CheckedReward(length_reward)))
    assert reward.__name__ == "length_reward"
    assert reward(["p"], ["four"], [[1]], item=[0]) == [4.0]


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A module of one's own, by name and as a file."""
    path = tmp_path / "own_rewards.py"
    path.write_text(
        "def bonus(completions, **fields):\n    return [1.0 if text == 'Beta' else None for text in completions]\n"
        "def even(state, items):\n    return [float(item % 2 == 0) for item in items]\n"
        "def spread(state, items):\n    return [1.0] * len(items)\n"
        "spread.list_level = True\n"
        "def hit(state, items, targets):\n    return [float(item in targets) for item in items]\n"
        "hit.needs_target = True\n"
        "def told(completion_ids, item, target, **fields):\n"
        "    return [float(i in t) for i, t in zip(item, target)]\n"
        "told.needs_target = True\n"
        "def blind(state, items):\n    return []\n"
        "blind.needs_target = True\n"
        "def odd(a, b, c):\n    return []\n"
        "number = 3\n",
        encoding="utf-8",
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield path
    sys.modules.pop("own_rewards", None)


def test_functions_named_in_the_configuration(module):
    settings = RewardSettings(custom=("own_rewards:bonus", f"{module}:even"), terms={"even": 0.25})
    terms = {term.name: term for term in make_terms(settings, CONTEXT)}
    assert {name: term.weight for name, term in terms.items()} == {"even": 0.25, "bonus": 1.0}
    np.testing.assert_array_equal(terms["bonus"](STATES, SHOWN, FEEDBACK), SHOWN == 1)
    np.testing.assert_array_equal(terms["even"](STATES, np.array([[0, 1], [2, 3]]), FEEDBACK), [[1, 0], [1, 0]])


def test_a_function_may_ask_for_whole_slates(module):
    term = custom_term("own_rewards:spread", 1.0, None, None)
    assert isinstance(term, CustomReward)
    with pytest.raises(ConfigError, match="'spread' is defined on a slate"):
        RewardFunction(Half(), RewardSettings(), terms=[term])
    assert (
        RewardFunction(Half(), RewardSettings(), terms=[term], slate=True)(STATES, SHOWN).terms["spread"].sum() == 6
    )


@pytest.mark.parametrize("name", ["hit", "told"])
def test_a_function_of_one_s_own_may_know_the_logged_next_item(module, name):
    settings = RewardSettings(custom=("own_rewards:even", f"own_rewards:{name}"), terms={"novelty": 1.0})
    assert reading_next(settings) == (name,)
    left = without(settings, (name,))
    assert (left.custom, left.terms) == (("own_rewards:even",), {"novelty": 1.0})
    terms = {term.name: term for term in make_terms(settings, CONTEXT)}
    assert needs_target(terms[name])
    assert not needs_target(terms["even"])
    # items 2 and 3 were chosen by the first, item 0 by the second
    np.testing.assert_array_equal(terms[name](STATES, SHOWN, FEEDBACK) * (SHOWN >= 0), [[0, 0, 1, 1], [0, 0, 1, 0]])
    model = RewardFunction(Half(), RewardSettings(), terms=list(terms.values()))
    assert [term.name for term in model.for_ranking().own_terms] == ["novelty", "even"]
    with pytest.raises(DataError, match=f"'{name}' needs states with known targets"):
        make_terms(settings, context(targets=()))
    with pytest.raises(ConfigError, match=r"takes neither \(state, items, targets\)"):
        custom_term("own_rewards:blind", 1.0, None, None, CONTEXT.targets)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("own_rewards:nothing", "own_rewards has no 'nothing'"),
        ("own_rewards:number", "is no function"),
        ("own_rewards", "write it as package.module:function"),
        ("own_rewards:", "write it as package.module:function"),
        ("no.such.module:f", r"cannot be imported \(ModuleNotFoundError: No module named 'no'\)"),
        ("gone.py:f", r"cannot be imported \(FileNotFoundError: there is no file gone.py\)"),
        ("collections:OrderedDict", "is no function"),
        ("own_rewards:odd", r"takes neither \(state, items\) nor TRL's"),
    ],
)
def test_names_that_lead_nowhere(module, spec, words):
    with pytest.raises(ConfigError, match=words) as caught:
        custom_term(spec, 1.0, None, None)
    assert "\n" not in str(caught.value)


def test_a_module_that_breaks_is_named_with_its_reason(tmp_path):
    path = tmp_path / "broken.py"
    path.write_text("raise ValueError('first line\\nsecond line')", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"cannot be imported \(ValueError: first line second line\)"):
        load_custom(f"{path}:f")


def test_texts_must_be_there_for_functions_of_trl(module):
    settings = RewardSettings(custom=("own_rewards:bonus",))
    with pytest.raises(ConfigError, match="'bonus' in TRL's signature reads prompts and titles"):
        make_terms(settings, context(catalogue=None))


def test_the_digest_follows_the_source(module):
    settings = RewardSettings(custom=(f"{module}:even",))
    before = custom_digest(settings)
    assert before == custom_digest(settings) != custom_digest(RewardSettings())
    module.write_text(module.read_text(encoding="utf-8") + "# changed\n", encoding="utf-8")
    assert custom_digest(settings) != before


def test_a_row_s_fields_may_be_asked_for_by_name():
    def red(prompts, completions, completion_ids, item, *, place, **_):
        return [float(i) for i in item]

    assert CheckedReward(red)([""], ["a"], [[1]], item=[3], place=[0]) == [3.0]
    with pytest.raises(ConfigError, match="cannot be called as TRL calls it"):
        CheckedReward(lambda state, items: [0.0])
