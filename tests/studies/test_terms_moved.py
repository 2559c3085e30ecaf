"""What terms move: the answer from figures that are given, and a small study from end to end."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from llmrec.studies.study import Pooled, SeedRows
from llmrec.studies.terms_moved import BY_DRAWS, ELSE, TOP, TRUE, Planted, Side, _answer, terms_moved

TINY = {
    "world.users": 60,
    "world.items": 16,
    "world.slates_per_user": 6,
    "model.nano_pretrain_sequences": 64,
    "model.nano_layers": 1,
    "model.nano_hidden": 32,
    "sft.examples": 64,
    "simulator.epochs": 1,
    "gate.users": 10,
    "gate.events": 10,
    "evaluation.users": 10,
}


def seed_rows(seed: int, gain: float) -> SeedRows:
    sides = [
        Side(BY_DRAWS, BY_DRAWS, TRUE),
        Side("novelty", BY_DRAWS, "novelty", {"novelty": 0.5}),
        Side("margin", BY_DRAWS, TOP, {"margin": 1.0}),
    ]
    plain = {name: np.array([0.0, 1.0, 2.0, 3.0]) for name in (*ELSE, "novelty")}
    rows = {
        BY_DRAWS: plain,
        "novelty": {**plain, "novelty": plain["novelty"] + gain},
        "margin": {**plain, TOP: plain[TOP] - 0.1},
    }
    people = [f"{seed} {n}" for n in range(4)]
    return SeedRows(
        seed, "hash", rows, dict.fromkeys(plain, people), {"sides": [dataclasses.asdict(side) for side in sides]}
    )


def test_changes_are_of_seeds_and_in_deviations_over_states():
    found = _answer(Pooled([seed_rows(0, 0.2), seed_rows(1, 0.3), seed_rows(2, 0.4)]))
    novelty = found.figures["terms"]["novelty"]
    assert novelty["weights"] == [0.5] * 3
    assert novelty["change"]["by_seed"] == pytest.approx([0.2, 0.3, 0.4])
    assert novelty["change"]["mean"] == pytest.approx(0.3)
    assert novelty["change"]["low"] == pytest.approx(0.3 - 4.3027 * 0.1 / 3**0.5, abs=1e-4)  # t of 2 degrees
    assert novelty["in deviations"]["mean"] == pytest.approx(0.3 / np.std([0, 1, 2, 3]))
    assert novelty["beside"][TOP]["mean"] == 0
    assert any(line.startswith("novelty moves novelty: +0.3000") for line in found.sentences)
    assert any(line.startswith("margin lowers top share: -0.1000") for line in found.sentences)
    alone = _answer(Pooled([seed_rows(0, 0.2)]))  # one seed: over users
    assert alone.figures["terms"]["novelty"]["change"]["low"] == pytest.approx(0.2)


def test_planted_values_are_the_items_own():
    found = Planted(np.array([3.0, 5.0])).expected_value([], np.array([[1, 0]]))
    np.testing.assert_array_equal(found, [[5.0, 3.0]])


@pytest.mark.slow
def test_a_study_from_end_to_end_and_again_from_its_stages(tmp_path, monkeypatch):
    monkeypatch.setenv("LLMREC_CACHE", str(tmp_path / "cache"))
    only = ("next_item", "next_item_rank", "diversity", "rating", "margin")
    options = {"out": tmp_path / "out", "seeds": (0,), "only": only, "steps": 2, "asked": 12, "overrides": TINY}
    first, again = terms_moved(**options), terms_moved(**options)
    assert set(first["terms"]) == {*only, "doubled", "next_item, credit"}
    assert first["terms"] == again["terms"]
    assert (tmp_path / "out" / "study-moved.svg").is_file()
    assert all(np.isfinite(one["change"]["mean"]) for one in first["terms"].values())
