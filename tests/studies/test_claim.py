"""The claim of the demo by hand: what is closed, and what is gained over reranking by the same reward."""

from __future__ import annotations

import numpy as np
import pytest

from llmrec.pipeline.result import RERANKED, SFT
from llmrec.pipeline.systems import INFORMED, OPTIMUM
from llmrec.studies.claim import MEASURES, NDCG, RATES, answer_of
from llmrec.studies.study import Pooled, SeedRows

VALUES = {SFT: 0.2, "PPO": 0.4, "PPO (last)": 0.4, RERANKED: 0.3, INFORMED: 0.5, OPTIMUM: 0.6}


def world(seed: int, shift: float) -> SeedRows:
    """Two users, PPO moved by `shift`."""
    rows = {}
    for side, value in VALUES.items():
        moved = value + shift * side.startswith("PPO")
        rows[side] = {m: np.array([moved - 0.1, moved + 0.1]) for m in (*MEASURES, *RATES)} | {
            NDCG: np.array([0.1, 0.2])
        }
    return SeedRows(seed, f"hash-{seed}", rows, {NDCG: ["a", "b"]}, {"names": ("PPO", "PPO (last)"), "seconds": 1.0})


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
