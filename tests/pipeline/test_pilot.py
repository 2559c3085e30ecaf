"""The pilot: its lists are the optimum's, its choice is the gate's, and what nobody wants is not trained."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from llmrec.config import RewardSettings, RunConfig
from llmrec.errors import ConfigError
from llmrec.evaluation.multiple import simultaneous
from llmrec.pipeline import panel
from llmrec.pipeline.opening import open_run
from llmrec.pipeline.panel import Panel
from llmrec.pipeline.pilot import (
    PilotStage,
    ShortList,
    Tilted,
    check_pilot,
    chosen,
    flat_share,
    run_pilot,
    wants_pilot,
)
from llmrec.pipeline.promotion import Looks, settled
from llmrec.pipeline.run import run_job
from llmrec.pipeline.simulation import Simulators
from llmrec.rewards import RewardFunction
from llmrec.simulator.ensemble import Ensemble
from llmrec.types import Prediction, Slate, State
from tests.overrides import given
from tests.pipeline.test_gate import CONFIG, tiny
from tests.pipeline.test_identifiers import TINY

__all__ = ["tiny"]
ITEMS = 24
# the noise of 20 users and 30 events decides nothing here
LENIENT = dataclasses.replace(
    CONFIG,
    gate=dataclasses.replace(CONFIG.gate, ndcg_tolerance=1.0, slate=5),
    pilot=dataclasses.replace(CONFIG.pilot, coefficients=(0.001, 5.0), depth=ITEMS),
    sections={**CONFIG.sections, "ppo": dataclasses.replace(CONFIG.improvement, kl_coefficient=0.05)},
)


class Known:
    """A policy of known log-probabilities, and how often it was asked."""

    def __init__(self, log_prob_K):
        self.log_prob_K, self.asked = np.asarray(log_prob_K), 0

    def recommend(self, states, k, *, seen=None):
        self.asked += 1
        order = np.argsort(-self.log_prob_K)[:k].tolist()
        return [Slate(tuple(order), tuple(self.log_prob_K[order].tolist()))] * len(states)


class Paid:
    """Clicks of known chance."""

    def __init__(self, click_K):
        self.click_K = np.asarray(click_K)

    def predict(self, states, items_BK):
        return Prediction(self.click_K[np.maximum(items_BK, 0)], np.zeros(items_BK.shape))


@pytest.mark.parametrize("beta", [0.01, 0.1, 1.0])
@pytest.mark.parametrize("bonus", [0.0, 0.3])
def test_lists_are_in_the_order_of_the_optimum(beta, bonus):
    """J = E[r] - beta KL + c H is climbed to its top over all distributions of six items; its order is the list's."""
    rng = np.random.default_rng(5)
    reference, click = np.log(rng.dirichlet(np.ones(6))), rng.random(6)
    logits = np.zeros(6)
    for _ in range(60_000):
        pi = np.exp(logits - logits.max())
        pi /= pi.sum()
        worth = click - beta * (np.log(pi) - reference) - bonus * np.log(pi)
        logits += 0.5 * pi * (worth - pi @ worth) / (beta + bonus)
    short = ShortList(Known(reference), RewardFunction(Paid(click), RewardSettings(click=1.0, conversion=0.0)), 6)
    (found,) = Tilted(short, beta).recommend([State("a")], 4)
    assert found.items_K == tuple(np.argsort(-pi)[:4].tolist())


def test_short_lists_are_read_once_and_nothing_below_them_is_asked():
    reward = RewardFunction(Paid([0.0, 0.1, 0.2, 0.9]), RewardSettings(click=1.0, conversion=0.0))
    policy = Known([-0.1, -1.0, -2.0, -3.0])
    short, states = ShortList(policy, reward, 3), [State("a"), State("b")]
    assert [s.items_K for s in Tilted(short, None).recommend(states, 2)] == [(0, 1)] * 2
    assert [s.items_K for s in Tilted(short, 1e-3).recommend(states, 2)] == [(2, 1)] * 2
    assert policy.asked == 1
    assert Tilted(short, 1e9).recommend([State("c")], 3)[0].items_K == (0, 1, 2)
    assert policy.asked == 2


def test_the_smaller_the_coefficient_the_more_the_reward_gets(tiny):
    data, policy, simulators = tiny
    found = run_pilot(LENIENT, data, policy(0), simulators)
    worth = [score["reward_value"] for score in found["scores"]]
    assert worth[0] > worth[1] > worth[2] >= found["scores"][0]["sft"]["reward"] - 1e-9
    assert found["draws"].shape == found["ranking"].shape == (3, LENIENT.evaluation.bootstrap)
    for score, change_S in zip(found["scores"], found["ranking"], strict=True):
        assert np.nanquantile(change_S, 0.05) == pytest.approx(score["ranking"]["low"])
    assert 0.0 <= found["flat_groups"] <= 1.0


def test_lists_under_rules_are_read_among_what_may_be_shown(tiny, monkeypatch):
    """Two thirds of the items are forbidden, and lists of 8 candidates fill slates of 5 all the same."""
    data, policy, simulators = tiny
    forbidden, judged = {item.item_id for item in data.dataset.item_list[:16]}, []
    config = dataclasses.replace(
        LENIENT,
        rules=({"never": {"ids": sorted(forbidden)}},),
        pilot=dataclasses.replace(LENIENT.pilot, depth=8),
    )
    values = panel.slate_values
    monkeypatch.setattr(panel, "slate_values", lambda *given: judged.extend(given[2]) or values(*given))
    found = run_pilot(config, data, policy(0), simulators)
    seen_much = sum(len(slate.items_K) < 5 for slate in judged)
    assert seen_much < len(judged) / 4
    assert all(item >= 16 for slate in judged for item in slate.items_K)
    assert len(found["scores"]) == 3


def decided(found, config=LENIENT):
    return chosen(settled(found["scores"], list(found["draws"]), config.gate), config)


def test_a_reward_that_people_share_is_gone_on_with(tiny):
    """Reward and judge are the truth: the list nearest to the reward is worth most."""
    data, policy, simulators = tiny
    best, said = decided(run_pilot(LENIENT, data, policy(0), simulators))
    assert best == 0.001
    assert "ppo.kl_coefficient 0.001, 0.05, 5, 0.001 is gone on with" in said


def test_a_reward_that_nobody_shares_is_not_trained_on(tiny):
    """The reward is one less the truth."""
    data, policy, simulators = tiny

    class Contrary:
        def predict(self, states, items_BK):
            found = simulators.judge.predict(states, np.maximum(items_BK, 0))
            return Prediction(1 - found.click_BK, 1 - found.conversion_BK)

        def predict_all(self, states):
            return self.predict(states, np.tile(np.arange(ITEMS), (len(states), 1)))

    contrary = Simulators(Ensemble([Contrary(), Contrary()]), simulators.judge, {})
    best, said = decided(run_pilot(LENIENT, data, policy(0), contrary))
    assert best is None
    assert "nothing was trained" in said
    assert "the judge sees no significant gain" in said
    assert "Set pilot.run=never" in said


def test_a_gain_below_the_smallest_of_interest_is_none(tiny):
    data, policy, simulators = tiny
    found = run_pilot(LENIENT, data, policy(0), simulators)
    gain = max(s["judge_gain"]["mean"] / s["sft"]["judge"] for s in found["scores"])
    high = dataclasses.replace(LENIENT, gate=dataclasses.replace(LENIENT.gate, smallest_gain=100 * gain * 1.01))
    best, said = decided(found, high)
    assert best is None
    assert "is of no interest" in said


def test_its_lists_are_looks_that_checkpoints_pay_for(tiny):
    data, policy, simulators = tiny
    panel = Panel.of(LENIENT, data, simulators, ITEMS)
    base, other = panel.measure(policy(0)), panel.measure(policy(3))
    score, draws_S = panel.score(1, other, base), panel.draws(other, base)
    rng = np.random.default_rng(0)
    looks = Looks([0.1, 0.2], rng.normal(size=(2, len(draws_S))))
    (alone,) = settled([score], [draws_S], LENIENT.gate)
    (beside,) = settled([score], [draws_S], LENIENT.gate, besides=looks)
    wanted = simultaneous([score["judge_gain"]["mean"], 0.1, 0.2], np.stack([draws_S, *looks.draws_KS]))[0]
    assert beside["judge_gain"] == dataclasses.asdict(wanted)
    assert beside["judge_gain"]["high"] > alone["judge_gain"]["high"]
    assert (alone["looks"], beside["looks"]) == (1, 3)


def test_groups_are_flat_where_all_draws_earn_the_same():
    config = RunConfig.read(None, given("ppo.draws=4"))
    equal, apart = np.full(3, 0.2), np.array([0.0, 0.2, 0.4])
    sure = Slate((0, 1, 2), (0.0, -60.0, -60.0))
    even = Slate((0, 1, 2), (-1.0, -1.0, -1.0))
    assert flat_share(config, [even] * 50, [equal] * 50) == 1.0
    assert flat_share(config, [sure] * 50, [apart] * 50) == 1.0
    # four draws of three that are equally likely are one and the same in 3 * (1 / 3)^4 = 1 / 27 of the states
    assert flat_share(config, [even] * 4000, [apart] * 4000) == pytest.approx(1 / 27, abs=0.012)
    assert flat_share(config, [even, Slate((), ())], [equal, np.zeros(0)]) == 1.0
    assert flat_share(config, [Slate((), ())], [np.zeros(0)]) is None
    assert flat_share(RunConfig.read(None, given("ppo.draws=1")), [even], [apart]) is None


def test_it_is_asked_where_nobody_has_chosen():
    assert wants_pilot(RunConfig.read(None, {}))
    for texts in (
        ["ppo.kl_coefficient=0.1"],
        ["pilot.run=never"],
        ["algorithm=dpo"],
        ["algorithm=rlhf"],
        ["session.turns=3", "session.slate=2", "ppo.draws=1"],
        ["reward.terms.next_item=1"],
        ["reward.terms.next_item_rank=1"],
        ["reward.terms.margin=1"],
        ["reward.shuffle=rewards"],
        ["ppo.stability.kl_target=0.05"],
    ):
        assert not wants_pilot(RunConfig.read(None, given(*texts))), texts
    assert wants_pilot(RunConfig.read(None, given("ppo.kl_coefficient=0.1", "pilot.run=always")))


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        (["pilot.run=always", "algorithm=dpo"], "dpo does not learn from the reward of a simulator"),
        (["pilot.run=always", "session.turns=3", "session.slate=2"], "session.turns is above 1"),
        (["pilot.run=always", "ppo.stability.kl_target=0.05"], "kl_target moves the coefficient"),
        (["pilot.depth=5"], "'pilot.depth' is 5, below the places of a list"),
        (["pilot.coefficients=[0.1, 0.1]"], "each larger than the one before"),
        (["pilot.coefficients=[0.0, 0.1]"], "above 0"),
        (["pilot.coefficients=[]"], "give KL coefficients"),
    ],
)
def test_what_cannot_be_asked_is_refused(texts, said):
    with pytest.raises(ConfigError, match=said.replace("[", r"\[")):
        check_pilot(RunConfig.read(None, given(*texts)))


def test_long_lists_without_a_pilot_are_nobody_s_business():
    check_pilot(RunConfig.read(None, given("gate.slate=60", "pilot.run=never")))
    check_pilot(RunConfig.read(None, given("gate.slate=60", "ppo.kl_coefficient=0.1")))


def test_the_coefficient_is_set_for_the_algorithm_alone(tmp_path):
    config = RunConfig.read(None, given("algorithm=grpo"))
    stage = PilotStage(tmp_path, [], 0.5, "", None, Looks([], np.zeros((0, 2))))
    applied = stage.applied(config)
    assert applied.improvement.kl_coefficient == 0.5
    assert applied.sections["ppo"] == config.sections["ppo"]
    assert dataclasses.replace(stage, kl_coefficient=None).applied(config) == config


@pytest.mark.parametrize("wanted", [True, False])
def test_a_run_says_what_the_pilot_found(tmp_path, wanted):
    """A tiny run to its end: trained with what was found, or ended at the warm start, and opened again."""
    settings = {
        **TINY,
        "pilot.run": "always",
        "pilot.depth": 12,
        "gate.slate": 5,
        "gate.ndcg_tolerance": 1.0,
        "gate.smallest_gain": 0.0 if wanted else 1000.0,
        "gate.exam": "warn",
    }
    config = RunConfig.read(None, settings)
    found = run_job(config, tmp_path / "run")
    assert found.pilot is not None
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    report = (tmp_path / "run" / "report.md").read_text()
    assert metrics["pilot"]["sentence"] == found.pilot.sentence
    assert "Pilot, on the validation period" in report
    assert found.changed in report
    trained = found.pilot.kl_coefficient is not None
    assert bool(found.improvement.curve) is trained
    if not wanted:
        assert not trained
        assert found.improvement.last.name == "step-000000"
        assert not found.improved
        assert "For people nothing changes from SFT to PPO (last)" in found.changed
        assert "nothing was trained" in found.improvement.stopped
    assert open_run(tmp_path / "run").pilot.kl_coefficient == found.pilot.kl_coefficient
