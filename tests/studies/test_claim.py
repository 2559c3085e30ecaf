"""The claim of the demo by hand: what is closed, and what is gained over reranking by the same reward."""

from __future__ import annotations

import numpy as np
import pytest

from llmrec.config import WorldConfig
from llmrec.dataset.world.world import generate_world
from llmrec.pipeline.result import RERANKED, SFT
from llmrec.pipeline.systems import INFORMED, OPTIMUM
from llmrec.studies.claim import MEASURES, NDCG, RATES, answer_of, share_in_category
from llmrec.studies.study import Pooled, SeedRows
from llmrec.types import Slate

VALUES = {SFT: 0.2, "PPO": 0.4, "PPO (last)": 0.4, RERANKED: 0.3, INFORMED: 0.5, OPTIMUM: 0.6}


def world(seed: int, shift: float) -> SeedRows:
    """Two users, PPO moved by `shift`."""
    rows = {}
    for side, value in VALUES.items():
        moved = value + shift * side.startswith("PPO")
        rows[side] = {m: np.array([moved - 0.1, moved + 0.1]) for m in (*MEASURES, *RATES)} | {
            NDCG: np.array([0.1, 0.2])
        }
    facts = {"names": ("PPO", "PPO (last)"), "seconds": 1.0, "requests": {SFT: 0.8 + shift, "PPO": 0.6}}
    return SeedRows(seed, f"hash-{seed}", rows, {NDCG: ["a", "b"]}, facts)


def test_ppo_is_held_against_reranking_world_by_world():
    answer = answer_of(Pooled([world(0, 0.0), world(1, 0.02)]), click_only=False)
    closed = answer.figures["informed_headroom_closed"]["PPO"]["top ten"]
    assert closed["by_seed"] == pytest.approx([2 / 3, 0.22 / 0.3])
    beyond = answer.figures["less_reranked"]["PPO"]["top ten"]
    assert beyond["by_seed"] == pytest.approx([0.1, 0.12])
    assert beyond["mean"] == pytest.approx(beyond["paired"]["mean"]) == pytest.approx(0.11)
    # every user of a world gains alike, so that resampling stays between the worlds' gains
    assert 0.1 - 1e-9 <= beyond["paired"]["low"] <= beyond["paired"]["high"] <= 0.12 + 1e-9
    assert beyond["low"] < 0.1 < 0.12 < beyond["high"]
    said = [s for s in answer.sentences if s.startswith(f"PPO less {RERANKED}")]
    assert [", top item:" in s for s in said] == [True, False]
    assert "top ten: +0.1100 (" in said[1]
    assert answer.figures["requests"] == {SFT: [0.8, pytest.approx(0.82)], "PPO": [0.6, 0.6]}
    (requests,) = [s for s in answer.sentences if "I liked TITLE" in s]
    assert "SFT 81% (by seed 80%, 82%); PPO 60% (by seed 60%, 60%)" in requests


class Fixed:
    """Answers each liked item with the same two."""

    def __init__(self, answers):
        self.answers = answers

    def recommend(self, states, k, *, seen=None):
        return [Slate(tuple(self.answers[state.history[0].item][:k]), (0.0,) * k) for state in states]


def test_a_request_is_answered_by_the_best_item_that_it_does_not_name():
    dataset = generate_world(WorldConfig(users=40, items=24), seed=1).dataset
    kind = [item.categories[0] for item in dataset.item_list]
    same = {n: [m for m in range(24) if kind[m] == kind[n] and m != n] for n in range(24)}
    other = {n: next(m for m in range(24) if kind[m] != kind[n]) for n in range(24)}
    able = [n for n in range(24) if same[n]]
    assert len(able) > 3
    echo = Fixed({n: [n, same[n][0] if same[n] else other[n]] for n in range(24)})
    assert share_in_category(echo, dataset, 0) == pytest.approx(len(able) / 24)
    assert share_in_category(Fixed({n: [n, other[n]] for n in range(24)}), dataset, 0) == 0.0
