"""Prompts that were read before: the same answers, fewer tokens, bounded memory."""

from __future__ import annotations

import random

import pytest
import torch

from llmrec.catalogue.filters import Attributes, Filters
from llmrec.policy import prefill
from llmrec.policy.decoding import certified_beams, walker_of
from llmrec.policy.kept import Kept, KeptPrompts
from llmrec.policy.packing import padded_prompts
from llmrec.policy.prefill import SharedPrefill, read_apart
from llmrec.types import Interaction, State
from tests.explain.conftest import ITEMS, policy_of
from tests.policy.tiny import SHARING, VOCABULARY, index_of, tiny_model

INDEX = index_of()


class Pad:
    pad_token_id = 0


@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("name", [*SHARING, "mamba"])
def test_prompts_that_grow_and_change_give_the_same_items(name, apart, monkeypatch):
    """Batches of prompts that grow, change in the middle, shrink or are new, against reading each of them anew."""
    calls: list[int] = []
    if apart:  # whatever it costs
        monkeypatch.setattr(prefill, "FORWARD", {"cpu": -1000})
    monkeypatch.setattr(SharedPrefill, "_known_then", _counted(SharedPrefill._known_then, calls))
    model, draw = tiny_model(name), random.Random(3)
    kept = KeptPrompts(1 << 20)
    rows = {user: [draw.randrange(2, VOCABULARY) for _ in range(5 + user)] for user in range(5)}
    for _ in range(5):
        users = draw.sample(sorted(rows), 3)
        ids, mask = padded_prompts([rows[user] for user in users], Pad, torch.device("cpu"))
        with torch.no_grad():
            walker = walker_of(model, ids, mask, INDEX, kept, users)
        found = certified_beams(model, ids, mask, 5, INDEX, walker=walker)
        plain = certified_beams(model, ids, mask, 5, INDEX)
        assert torch.equal(found.items_BK, plain.items_BK)
        torch.testing.assert_close(found.log_prob_BK, plain.log_prob_BK, rtol=0, atol=1e-6)
        for user in users:
            row = rows[user]
            change = draw.choice(("grow", "grow", "middle", "shrink"))
            if change == "grow":
                row += [draw.randrange(2, VOCABULARY) for _ in range(3)]
            elif change == "middle":
                row[len(row) // 2] = draw.randrange(2, VOCABULARY)
            else:
                del row[-2:]
    assert (kept.saved > 0) == (name != "mamba"), "what cannot share rows keeps nothing"
    assert bool(calls) == (apart and name != "mamba")


def _counted(call, calls):
    def counted(self, known, rows, apart):
        calls.append(len(apart))
        return call(self, known, rows, apart)

    return counted


@pytest.mark.parametrize(
    ("new", "expected"),
    [
        ([1, 1, 1], []),
        ([76], []),
        ([20, 20, 20, 20], []),
        # 4 rows of 40 tokens: 160; one of 39, four of 1 and a call worth 64: 107
        ([1, 40, 1, 1], [[1]]),
        # 3 rows of 40: 120; 39 + 3 + 64 = 106, but of 20 tokens: 60 against 86
        ([1, 20, 1], []),
        # 6 rows of 76: 456; 3 * 75 + 6 * 8 + 64 = 337; 4 * 75 + 6 * 5 + 64 = 394; 3 * 75 + 7 + 6 * 5 + 128 = 390
        ([5, 76, 70, 8, 76, 5], [[1, 4, 2]]),
        # 2 * 99 + 32 * 30 + 64 = 1,222; 10 * 99 + 32 + 64 = 1,086; 2 * 99 + 8 * 29 + 32 + 128 = 590
        ([1] * 11 + [30] * 8 + [1] * 11 + [100] * 2, [[30, 31], list(range(11, 19))]),
    ],
)
def test_long_prompts_are_read_apart_where_padding_costs_more(new, expected):
    assert read_apart(new, "cpu") == expected
    assert read_apart(new, "cuda") == []


@pytest.mark.parametrize("way", ["titles", "list", "cards"])
def test_a_policy_answers_the_same_and_says_what_it_read(way):
    policy, kept = policy_of(way), KeptPrompts(1 << 24)
    if policy.filters is None:
        policy.set_attributes(Attributes.of(ITEMS))
    history: list[Interaction] = []
    for step in range(6):
        history.append(Interaction((5 * step) % len(ITEMS), "click", step))
        states = [State("a", "Likes lamps.", tuple(history)), State("b", "", tuple(history[::2]))]
        for options in ({}, {"exact": True}, {"filters": Filters(max_per_category=1)}):
            found = policy.certified(states, 3, kept=kept, names=["a", "b"], **options)
            plain = policy.certified(states, 3, **options)
            for one, other in zip(found, plain, strict=True):
                assert one.slate.items_K == other.slate.items_K
                assert one.slate.log_probs_K == pytest.approx(other.slate.log_probs_K, abs=1e-5)
                assert one.tokens == other.tokens > one.cached >= 0 == other.cached
        assert found[0].cached == found[0].tokens - 1, "the same prompt again"


def test_memory_is_bounded_and_the_oldest_go_first():
    def prompt(n):
        return Kept((n,) * 4, [(torch.zeros(1, 4, 2), torch.zeros(1, 4, 2))])

    kept = KeptPrompts(2 * prompt(0).size)
    for user in range(3):
        kept.keep(user, prompt(user))
        kept.keep(user, prompt(user))
        assert kept.size <= kept.most
    assert kept.find(0, (0,) * 9)[1] == 0
    assert kept.find(1, (1,) * 9)[1] == 4
    kept.keep(3, prompt(3))
    assert kept.find(2, (2,) * 9)[1] == 0, "1 was asked for since"
    assert (len(kept), kept.prompts, kept.hits, kept.tokens, kept.saved) == (2, 3, 1, 27, 4)
    nothing = KeptPrompts(1)
    nothing.keep(0, prompt(0))
    assert len(nothing) == nothing.size == 0


@pytest.mark.parametrize(("way", "share"), [("list", 0.2), ("titles", 0.2), ("short", 1.0)])
def test_how_much_of_a_returning_user_is_new(way, share):
    """One more entry behind twelve: few tokens are new, unless the oldest had to go to make room for it."""
    policy, kept = policy_of(way), KeptPrompts(1 << 24)
    choices = [Interaction((5 * n) % len(ITEMS), "click", n) for n in range(41 if way == "short" else 13)]
    before, after = (State("a", "", tuple(choices[:count])) for count in (len(choices) - 1, len(choices)))
    (cold,) = policy.certified([before], 3, exclude_seen=False, kept=kept, names=["a"])
    (warm,) = policy.certified([after], 3, exclude_seen=False, kept=kept, names=["a"])
    assert cold.cached == 0
    assert (warm.tokens - warm.cached) / cold.tokens <= share
    if way == "short":
        assert (warm.tokens - warm.cached) / warm.tokens > 0.5


def test_what_all_prompts_begin_with_goes_last():
    one = [(torch.zeros(1, 4, 2), torch.zeros(1, 4, 2))]
    size = Kept((1, 2, 3, 4), one).size
    kept = KeptPrompts(3 * size)
    kept.keep(None, Kept((1, 2, 3, 4), one))
    for name in range(5):
        kept.keep(name, Kept((1, 2, 9, name), one))
    assert kept.size == 3 * size
    # a name that is new takes over what it has in common with prompts of nobody, however long ago these were read
    assert kept.find("new", (1, 2, 3, 7))[1] == 3
    assert [kept.find(name, (1, 2, 9, name, 0))[1] for name in range(5)] == [2, 2, 2, 4, 4]
