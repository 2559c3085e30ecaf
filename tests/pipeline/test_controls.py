"""Controls: which there are for a run, what each changes, and what a gain is found to be worth beside them."""

from __future__ import annotations

import numpy as np
import pytest

from llmrec.config import RunConfig
from llmrec.errors import ConfigError
from llmrec.pipeline.algorithms import check_algorithm
from llmrec.pipeline.base_model import Base
from llmrec.pipeline.controls import CONTROLS, Cost, against, controls_of
from llmrec.pipeline.improve import improvement_key
from llmrec.pipeline.sft import SFTStage
from llmrec.training.continued import check_continued
from tests.overrides import given


def config_of(*texts):
    return RunConfig.read(None, given(*texts))


def test_all_are_those_that_mean_something():
    assert set(controls_of(config_of("evaluation.controls=[all]"))) == set(CONTROLS) - {"no_next_item"}
    known = config_of("evaluation.controls=[all]", "reward.terms.next_item=1")
    assert set(controls_of(known)) == set(CONTROLS)
    logged = config_of("evaluation.controls=[all]", "algorithm=dpo")
    assert set(controls_of(logged)) == {"continued_sft", "best_of_n"}
    assert not controls_of(config_of())


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        (["evaluation.controls=[luck]"], "luck"),
        (["evaluation.controls=[no_next_item]"], "no term of the reward reads the logged next item"),
        (["evaluation.controls=[shuffled_reward]", "algorithm=off_policy"], "does not learn from rewards"),
        (["evaluation.controls=[best_of_n]", "algorithm=best_of_n"], "it is best_of_n itself"),
        (
            [
                "evaluation.controls=[no_next_item]",
                "reward.terms.next_item=1",
                "reward.click=0",
                "reward.conversion=0",
            ],
            "nothing else is rewarded",
        ),
    ],
)
def test_one_without_meaning_is_refused(texts, said):
    with pytest.raises(ConfigError, match=said):
        controls_of(config_of(*texts))


def test_each_changes_one_thing():
    config = config_of(
        "reward.terms={next_item: 1, novelty: 0.1, next_item_rank: 1}", "evaluation.controls=[all]", "ppo.steps=10"
    )
    changed = {name: control.changed(config, Cost(2.345)) for name, control in controls_of(config).items()}
    assert changed["no_next_item"].reward.terms == {"novelty": 0.1}
    assert changed["other_people"].reward.shuffle == "people"
    assert changed["shuffled_reward"].reward.shuffle == "rewards"
    for name in ("no_next_item", "other_people", "shuffled_reward"):
        assert changed[name].improvement == config.improvement
    best = changed["best_of_n"].improvement
    assert best.draws * best.rounds * best.prompts == 10 * config.improvement.prompts * config.improvement.draws
    more = changed["continued_sft"].improvement
    assert more.share == 2.345
    assert more.weights == "full"
    # as the warm start was trained, which a small model of any name does with all weights
    assert CONTROLS["continued_sft"].changed(config, Cost(1.0, adapter=True)).improvement.weights == "lora"
    for one in changed.values():
        check_algorithm(one)
    labels = [control.label(config) for control in CONTROLS.values()]
    assert len(set(labels)) == len(labels)


def test_one_s_own_term_that_knows_the_next_item_is_left_out_too(tmp_path):
    own = tmp_path / "own.py"
    own.write_text("def told(state, items, targets):\n    return [0.0] * len(items)\ntold.needs_target = True\n")
    config = config_of(
        f"reward.custom=[{own}:told]", "reward.terms={told: 2, margin: 0.5}", "evaluation.controls=[all]"
    )
    found = controls_of(config)
    assert found["no_next_item"].changed(config, Cost(1.0)).reward == config_of("reward.terms={margin: 0.5}").reward
    for control in found.values():
        check_algorithm(control.changed(config, Cost(1.0)))


def test_controls_decide_nothing_of_the_improvement_and_change_no_key(tmp_path):
    (tmp_path / "stage.json").write_text('{"key": "of the warm start"}')
    sft = SFTStage(tmp_path, Base("nano", None, nano=True), [])
    plain = improvement_key(config_of(), sft)
    assert improvement_key(config_of("evaluation.controls=[all]"), sft) == plain
    assert "shuffle" not in str(plain)
    assert improvement_key(config_of("reward.shuffle=people"), sft) != plain


def test_shuffling_is_for_draws_alone():
    for texts in (["algorithm=dpo"], ["session.turns=3", "session.slate=2", "ppo.draws=1"]):
        with pytest.raises(ConfigError, match=r"reward\.shuffle"):
            check_algorithm(config_of("reward.shuffle=rewards", *texts))


def test_settings_of_a_continued_warm_start_are_refused():
    for text, said in (("share=0", "share"), ("warmup=1.5", "warmup"), ("max_grad_norm=2", "fixed at 1.0")):
        with pytest.raises(ConfigError, match=said):
            check_continued(config_of("algorithm=continued_sft", f"continued_sft.{text}").improvement)


def test_a_system_less_its_controls_by_hand():
    """A gain of exactly 1 in every row over the one, none over the other."""
    value = {"PPO": np.arange(40.0), "same": np.arange(40.0), "worse": np.arange(40.0) - 1.0}
    ranking = {name: row / 100 for name, row in value.items()}
    draw = {"people": range(40), "users": [n // 2 for n in range(40)], "samples": 200, "seed": 0}
    same, worse = against("PPO", ["same", "worse"], value, ranking, **draw)
    assert (same.value.mean, same.value.low, same.value.high) == (0.0, 0.0, 0.0)
    assert (worse.value.mean, worse.value.low, worse.value.high) == (1.0, 1.0, 1.0)
    assert worse.ranking.mean == pytest.approx(0.01)
    assert "no significant difference" in same.sentence("PPO", "NDCG@10")
    assert worse.sentence("PPO", "NDCG@10").startswith(
        "PPO less worse: judged value +1.0000 (+1.0000 to +1.0000), more;"
    )
