"""The branches of the main job that learn from preferences, on a small world."""

from __future__ import annotations

import numpy as np
import pytest
from transformers import AutoModelForSequenceClassification

from llmrec.config import RewardModelSettings, RunConfig
from llmrec.errors import ConfigError
from llmrec.files import read_json
from llmrec.pipeline.algorithms import check_algorithm, improve
from llmrec.pipeline.algorithms.preferences import held_out, pairs_of
from llmrec.training.improvement import Checkpointing
from llmrec.types import Reward
from tests.overrides import given
from tests.pipeline.test_offline import TINY, small  # noqa: F401  # a fixture

OWN = {
    "dpo": ["dpo.batch_size=4", "dpo.pairs=8", "dpo.loss=sigmoid+sft"],
    "sdpo": ["sdpo.batch_size=4", "sdpo.pairs=8", "sdpo.negatives=2"],
    "rlhf": [
        "rlhf.reward_model.batch_size=4",
        "rlhf.reward_model.pairs=8",
        "rlhf.reward_model.held_out=20",
        "rlhf.steps=2",
        "rlhf.prompts=4",
        "rlhf.draws=2",
    ],
}


def config_of(algorithm, *more):
    return RunConfig.read(None, given(*TINY, f"algorithm={algorithm}", *OWN[algorithm], *more))


@pytest.mark.parametrize("algorithm", ["dpo", "sdpo"])
def test_the_main_job_takes_preferences(small, tmp_path, algorithm):  # noqa: F811
    data, policy, simulators = small
    config, judged = config_of(algorithm), []
    check_algorithm(config)
    result = improve(
        config, data, policy(), simulators, Checkpointing(tmp_path, lambda step, model: judged.append(step))
    )
    assert judged == [2]
    assert {"loss", "rewards/accuracies"} <= result.curve[-1].keys()
    assert result.folders == {}


def test_rlhf_keeps_the_reward_model_and_says_how_far_to_trust_it(small, tmp_path):  # noqa: F811
    data, policy, simulators = small
    config, judged = config_of("rlhf"), []
    check_algorithm(config)
    checkpointing = Checkpointing(tmp_path, lambda step, model: judged.append(step))
    result = improve(config, data, policy(), simulators, checkpointing)
    assert judged == [2]  # the reward model's own checkpoints are not judged
    assert "reward/preference" in result.curve[-1]
    folder = result.folders["reward_model"]
    assert AutoModelForSequenceClassification.from_pretrained(folder).config.num_labels == 1
    figures = read_json(folder / "figures.json")
    agreed = figures["agreement"]
    assert 0 <= agreed["low"] <= agreed["mean"] <= agreed["high"] <= 1
    assert 0 < agreed["pairs"] <= 20
    again = improve(config, data, policy(), simulators, checkpointing)
    assert read_json(folder / "figures.json")["curve"] == figures["curve"]
    assert again.curve == result.curve


def test_agreement_is_counted_over_preferences_of_the_validation_period(small):  # noqa: F811
    """A reward that prefers what was chosen agrees always; its opposite never."""
    data, _, _ = small
    config, settings = config_of("rlhf"), RewardModelSettings(held_out=20)
    pairs = pairs_of(config, data, "valid", 1, 20, "click")

    def first(sign):
        def reward(states, items_BK):
            assert len(states) == len(pairs)
            assert items_BK[:, 0].tolist() == pairs.chosen_R.tolist()
            return Reward(sign * np.tile([2.0, 1.0], (len(states), 1)))

        return reward

    assert held_out(config, data, first(1), settings)["mean"] == 1.0
    assert held_out(config, data, first(-1), settings)["mean"] == 0.0
    assert held_out(config, data, first(1), RewardModelSettings(held_out=0)) is None


@pytest.mark.parametrize(
    ("algorithm", "more", "said"),
    [
        ("dpo", "dpo.negatives=2", r"'dpo\.negatives' is 2, but sigmoid\+sft compares two items"),
        ("sdpo", "sdpo.batch_size=0", r"'sdpo\.batch_size' is 0"),
        ("rlhf", "rlhf.reward_model.centre=-1", r"'rlhf\.reward_model\.centre' is -1"),
        ("rlhf", "rlhf.prompts=5", r"'rlhf\.prompts' is 5; it must be a multiple of 2"),
    ],
)
def test_settings_are_refused_before_anything_is_made(algorithm, more, said):
    with pytest.raises(ConfigError, match=said):
        check_algorithm(config_of(algorithm, more))
