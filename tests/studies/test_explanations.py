"""The study of reasons on a world whose cause is planted, with an untrained model: what is measured is what it says."""

from __future__ import annotations

import json

import numpy as np
import pytest

from llmrec.explain import Parted
from llmrec.studies import explanations as study
from llmrec.types import State


@pytest.fixture(scope="module")
def world():
    items, learnt, asked, digest = study.planted(3, 32, 4)
    return study.trained(items, learnt, 3, 0.5), items, learnt, asked, digest


def test_one_key_in_each_history_decides_the_answer(world):
    _, items, learnt, asked, digest = world
    assert len({item.title for item in items}) == len(items) == 2 * study.KEYS + study.FILLERS
    for example in (*learnt, *asked):
        keys = [e.item for e in example.state.history if e.item < study.KEYS]
        assert [key + study.KEYS for key in keys] == [example.target]
    assert study.planted(3, 32, 4)[3] == digest != study.planted(4, 32, 4)[3]


def test_attention_and_area_by_hand(world):
    policy, items, _, asked, _ = world
    parted = Parted(asked[0].state, items)
    weights = study.attention(policy, parted)
    assert weights.shape == (study.LENGTH,)
    assert (weights > 0).all()
    assert weights.sum() < 1
    order = [2, 0, 5, 1, 4, 3]
    logs = []
    for count in range(len(order) + 1):
        gone = {parted.parts[n].item_id for n in order[:count]}
        kept = tuple(e for e in asked[0].state.history if items[e.item].item_id not in gone)
        state = State(asked[0].state.user_id, "", kept, time=study.LENGTH)
        (slate,) = policy.recommend([state], len(items), exclude_seen=False, beams=len(items))
        logs.append(dict(zip(slate.items_K, slate.log_probs_K, strict=True))[7])
    assert study.area(policy, parted, order, 7) == pytest.approx(np.mean(logs[0] - np.array(logs[1:])), abs=1e-5)


@pytest.mark.slow
def test_the_answer_has_every_figure(tmp_path):
    out = tmp_path / "out"
    figures = study.explanations([0, 1], out, examples=32, epochs=0.5, states=3)
    assert figures["largest_gap"] <= 1e-5
    assert set(figures["less"]) == set(study.ORDERS) - {study.EFFECTS}
    assert len(figures["found_first"]["by_seed"]) == 2
    assert json.loads((out / "study.json").read_text())["area"][study.EFFECTS] == figures["area"][study.EFFECTS]
    assert "separate runs take" in (out / "study.md").read_text()
