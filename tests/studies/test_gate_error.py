"""The study of the gate's errors: planted gains are what they shall be, the rules are the gate's, shares by hand."""

from __future__ import annotations

import numpy as np
import pytest

from llmrec.config import RunConfig
from llmrec.errors import RequestError
from llmrec.pipeline.recipes import recipes_root
from llmrec.studies.gate_error import (
    CHECKPOINTS,
    RULES,
    SIDES,
    Bench,
    Planted,
    Scored,
    Shop,
    Tastes,
    answer_of,
    ask,
    root,
    run_gate_error,
    some,
    sure,
)
from llmrec.studies.study import Pooled, SeedRows

TINY = {
    "world.users": 150,
    "world.items": 24,
    "world.slates_per_user": 6,
    "simulator.epochs": 1,
    "simulator.replicates": 20,
    "gate.held_out": 0.2,
    "evaluation.bootstrap": 60,
}


@pytest.fixture(scope="module")
def bench():
    shop = Shop.of(RunConfig.read(recipes_root() / "gate_error.yaml", {"seed": 3, **TINY}), 1)
    return Bench.of(shop, 1)


def test_harm_is_found_by_which_a_falling_gain_is_as_wanted():
    much, found = root(lambda harm: 0.5 - 0.1 * harm, 0.2)
    assert found == pytest.approx(0.2, abs=2e-4)
    assert much == pytest.approx(3.0, abs=0.01)


def test_a_planted_training_gains_what_it_shall_on_a_path_that_hangs_together(bench):
    shop = bench.shop
    base = shop.true_value(shop.begin(shop.pool))
    tastes = Tastes.drawn(np.random.default_rng(0), 24)
    for gain in (0.0, 0.05):
        training = Planted.of(shop, "items", tastes, gain)
        for step in range(CHECKPOINTS):
            found = shop.true_value(training.checkpoint(step).score(shop.pool)) / base - 1
            assert found == pytest.approx(training.gain_C[step])
            assert found == pytest.approx(
                gain * (step + 1) / CHECKPOINTS, abs=0.02
            )  # few users, so it moves in jumps
    assert Planted.of(shop, "items", tastes, 50.0) is None
    # neighbours on the path have more of their items in common than its ends
    lists = [
        [set(s.items_K) for s in training.checkpoint(step).recommend(shop.pool, 5)] for step in range(CHECKPOINTS)
    ]
    near, far = (np.mean([len(a & b) for a, b in zip(lists[0], lists[n], strict=True)]) for n in (1, 5))
    assert near > far
    # nobody of the people that reward and judge were fitted on is in the pool
    fitted = set(shop.world.dataset.users["user_id"][:150].to_list())
    assert not fitted & {state.user_id for state in shop.pool}


def test_figures_of_some_users_and_of_a_judge_that_is_sure(bench):
    whole = bench.measured(Scored(bench.shop.begin))["weighed"]
    rows = np.array([0, 3])
    part = some(whole, rows)
    assert part.judged.users_B == tuple(whole.judged.users_B[row] for row in rows)
    np.testing.assert_array_equal(part.judged.replicas["value"], whole.judged.replicas["value"][:, rows])
    assert sure(whole).judged.replicas == {}


def test_one_people_is_asked_everything(bench):
    found = ask(bench, 1, True)
    assert {null["path"] for null in found["nulls"]} <= {"reward", "items"}
    for null in found["nulls"]:
        assert set(null["promoted"]) == {rule.name for rule in RULES}
        assert len(null["gains"]) == CHECKPOINTS
    assert {row["part"] for row in found["power"]} == {0.25, 0.5, 1.0}
    for name, own in found["coverage"].items():
        assert set(own["judged"]) == {"users alone", *SIDES}, name
        alone, doubted = (own["judged"][side] for side in ("users alone", "with the judge's own error"))
        assert alone[0] == doubted[0]
        assert alone[2] < doubted[2]  # more is uncertain


def test_shares_are_counted_as_they_are_by_hand():
    """Four worlds: of two trainings each three of eight are promoted; the truth lies in three of four intervals."""

    def people(n):
        promoted = {rule.name: 6 if n == 0 and rule.looks else None for rule in RULES}
        other = promoted | {RULES[0].name: 2 if n == 1 else promoted[RULES[0].name]}
        nulls = [
            {"path": path, "gains": [0.0] * 6, "promoted": own, "improved": n == 0}
            for path, own in (("reward", promoted), ("items", other))
        ]
        wide = [0.1, 0.1, 0.05, 0.0, 0.2]
        judged = {
            "users alone": [0.1, 0.1, 0.01, 0.09, 0.11],
            **dict.fromkeys(SIDES, wide),
        }
        power = [{"path": "items", "gain": 0.2, "rule": RULES[0].name, "part": 1.0, "users": 40, "promoted": n < 2}]
        return {
            "nulls": nulls,
            "power": power,
            "coverage": {"x": {"true": 0.25 if n == 3 else 0.15, "judged": judged}},
        }

    seeds = [SeedRows(0, "h", facts={"peoples": [people(n) for n in range(4)]})]
    answer = answer_of(Pooled(seeds))
    promoted = answer.figures["nulls"]["promoted"]["the gate"]
    assert (promoted["all"]["mean"], promoted["all"]["of"]) == (3 / 8, 8)
    assert promoted["items"]["mean"] == 0.5
    assert answer.figures["nulls"]["called_improved"]["mean"] == 0.25
    own = answer.figures["coverage"]["x"]["sides"]
    assert own["users alone"]["covered"]["mean"] == 0.0
    assert own["with witnesses and propensities"]["covered"]["mean"] == 0.75
    assert own["with witnesses and propensities"]["below"] == 0.25
    assert own["with witnesses and propensities"]["symmetric"]["mean"] == 0.75
    assert own["with witnesses and propensities"]["error"] == pytest.approx(np.sqrt((3 * 0.05**2 + 0.15**2) / 4))
    table = next(sheet for sheet in answer.tables if sheet.title.startswith("Promoted: the gate"))
    assert table.rows[-1][1].startswith("50.0%")
    assert set(answer.plots) == {"power", "coverage"}
    with pytest.raises(RequestError, match="--peoples 1 or more"):
        run_gate_error((0,), None, peoples=0)
