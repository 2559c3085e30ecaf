"""The branches of the main job that learn from the log or from the best of draws, on a small world whose truth rewards."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from llmrec.catalogue.catalogue import Catalogue
from llmrec.config import ModelConfig, RunConfig
from llmrec.dataset.split import make_split
from llmrec.dataset.world.world import generate_world
from llmrec.errors import ConfigError
from llmrec.pipeline.algorithms import check_algorithm, improve
from llmrec.pipeline.algorithms.logs import rewards_of
from llmrec.pipeline.data import RunData
from llmrec.pipeline.sft import lessons_of
from llmrec.pipeline.simulation import Simulators, log_of
from llmrec.pipeline.systems import TruthJudge
from llmrec.policy.language_policy import LanguagePolicy
from llmrec.policy.nano import make_nano, train_tokenizer
from llmrec.rewards import RewardFunction
from llmrec.text.render import StateRenderer
from llmrec.training import sft
from llmrec.training.improvement import Checkpointing
from llmrec.training.logged import logged_slates
from llmrec.training.propensities import item_groups
from llmrec.types import Item
from tests.overrides import given

TINY = ["world.users=30", "world.items=24", "world.slates_per_user=3", "data.history_events=4"]
OWN = {
    "off_policy": ["off_policy.batch_size=4", "off_policy.examples=8", "off_policy.draws=2"],
    "best_of_n": ["best_of_n.batch_size=4", "best_of_n.prompts=4", "best_of_n.rounds=2", "best_of_n.draws=3"],
    "continued_sft": ["sft.examples=16", "sft.epochs=1", "sft.batch_size=8", "continued_sft.share=2"],
}


def config_of(algorithm, *more):
    return RunConfig.read(None, given(*TINY, f"algorithm={algorithm}", *OWN[algorithm], *more))


@pytest.fixture(scope="module")
def small():
    """The world as a run's data, its truth as simulators, and an untrained policy."""
    config = config_of("off_policy")
    world = generate_world(config.world, 0)
    data = RunData(world.dataset, make_split(world.dataset, "time"), world)
    items = world.dataset.item_list
    tokenizer = train_tokenizer([f"{i.title} {i.description}" for i in items] * 2, 400)
    renderer = StateRenderer(items, tokenizer, domain="shop", language="en", max_tokens=96)
    catalogue = Catalogue.from_titles(
        [i.item_id for i in items], [i.title for i in items], tokenizer, answer_prefix=renderer.answer_prefix
    )

    def policy():
        model = make_nano(tokenizer, ModelConfig(nano_hidden=32, nano_layers=2), 0).eval()
        return LanguagePolicy(model, tokenizer, catalogue, renderer, world.dataset.manifest.repeat)

    truth = TruthJudge(world)
    return data, policy, Simulators(truth, truth, {})


def test_what_happened_is_rewarded_by_the_run_s_terms(small):
    data, _, simulators = small
    config = config_of("off_policy", "reward.click=2.0", "reward.conversion=5.0")
    log = log_of(config, data, "train")

    class Dear:
        name, weight = "dear", 0.25

        def __call__(self, states, items_BK, feedback):
            return items_BK.astype(float)

    plain = rewards_of(log, RewardFunction(simulators.reward, config.reward))
    assert np.array_equal(plain, 2.0 * log.click_M + 5.0 * log.conversion_M)
    more = rewards_of(log, RewardFunction(simulators.reward, config.reward, terms=[Dear()]))
    assert np.allclose(more, plain + 0.25 * log.item_M)


def test_the_world_s_slates_are_drawn_in_order(small):
    """Propensities are of an item given the places above it; the places below are counted."""
    data, _, simulators = small
    config = config_of("off_policy")
    log = log_of(config, data, "train")
    reward = rewards_of(log, RewardFunction(simulators.reward, config.reward))
    groups = item_groups(data.dataset.item_list)
    slates = logged_slates(log, reward, config.improvement, groups, seed=0)
    places = config.world.slate_size
    assert len(slates) == 8
    assert slates.below_BK.tolist() == [list(range(places - 1, -1, -1))] * 8
    users = [state.user_id for state in slates.states]
    mu_BN = data.world.logging_policy_BN(users)
    left = np.ones(8)
    for k in range(places):
        own = mu_BN[np.arange(8), slates.items_BK[:, k]]
        assert np.allclose(slates.propensity_BK[:, k], own / left, rtol=1e-5)
        left -= own


def test_groups_are_first_categories_or_brands():
    items = [Item("a", "A", categories=("x", "y")), Item("b", "B", brand="z"), Item("c", "C", categories=("x",))]
    groups = item_groups(items)
    assert groups[0] == groups[2] != groups[1]
    assert set(groups) == {0, 1}


@pytest.mark.parametrize(
    ("algorithm", "more", "figures"),
    [
        ("off_policy", [], {"value", "capped"}),
        ("off_policy", ["off_policy.estimator=doubly-robust"], {"fitted_reward"}),
        ("off_policy", ["off_policy.propensities=fitted"], {"value"}),
        ("best_of_n", [], {"best", "reward/click"}),
    ],
)
def test_the_main_job_takes_them(small, tmp_path, algorithm, more, figures):
    data, policy, simulators = small
    config, judged = config_of(algorithm, *more), []
    check_algorithm(config)
    result = improve(
        config, data, policy(), simulators, Checkpointing(tmp_path, lambda step, model: judged.append(step))
    )
    assert judged == [2]
    assert figures <= result.curve[-1].keys()


@pytest.mark.parametrize("weights", ["full", "lora"])
def test_a_warm_start_goes_on_with_lessons_drawn_anew(small, tmp_path, monkeypatch, weights):
    """Twice as many rows as the warm start had, in another order, and the policy changes."""
    data, policy, simulators = small
    config = config_of("continued_sft", f"continued_sft.weights={weights}")
    rows, built = [], sft.build_rows

    def noted(*given_, **more):
        rows.append(built(*given_, **more))
        return rows[-1]

    monkeypatch.setattr(sft, "build_rows", noted)
    start = policy()
    sft.learn(
        start.model,
        start.tokenizer,
        start.catalogue,
        start.renderer,
        lessons_of(config, data),
        config.sft,
        seed=config.seed,
        checkpointing=Checkpointing(tmp_path / "warm"),
    )
    before = start.model.state_dict()["model.layers.0.mlp.up_proj.weight"].clone()
    check_algorithm(config)
    result = improve(config, data, start, simulators, Checkpointing(tmp_path / "more"))
    assert len(rows[1]) == pytest.approx(2 * len(rows[0]), abs=8)
    assert [row.input_ids for row in rows[1][: len(rows[0])]] != [row.input_ids for row in rows[0]]
    assert result.cpu_seconds > 0
    changed = any(
        float(parameter.detach().abs().sum()) > 0
        for name, parameter in result.model.named_parameters()
        if "lora_B" in name
    )
    after = start.model.state_dict()
    name = next(key for key in after if key.endswith("layers.0.mlp.up_proj.weight") or "up_proj.base_layer" in key)
    assert changed if weights == "lora" else not torch.equal(before, after[name])


def test_settings_are_refused_before_anything_is_made():
    with pytest.raises(ConfigError, match=r"off_policy\.weight_cap"):
        check_algorithm(config_of("off_policy", "off_policy.weight_cap=0"))
    with pytest.raises(ConfigError, match=r"best_of_n\.draws"):
        check_algorithm(config_of("best_of_n", "best_of_n.draws=1"))
