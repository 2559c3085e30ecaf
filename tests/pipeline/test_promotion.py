"""What the gate decides from figures that are given: refusals, promotion, patience, and the words of every outcome."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from llmrec.config import GateSettings, RunConfig, SimulatorSettings
from llmrec.errors import ConfigError
from llmrec.evaluation.multiple import simultaneous_lower
from llmrec.evaluation.variety import Variety
from llmrec.evaluation.verdict import Verdict, run_verdict
from llmrec.pipeline.gate import check_trust, who_judges
from llmrec.pipeline.promotion import (
    Looks,
    RankingChange,
    decisions,
    gate_table,
    in_a_line,
    out_of_patience,
    promote,
    ranking_change,
    refusals,
    settled,
)
from llmrec.pipeline.simulation import Simulators
from llmrec.simulator.ensemble import Ensemble
from llmrec.types import Slate
from tests.overrides import given

GATE = GateSettings()
KEPT = ranking_change(np.ones(50), np.ones(50), GATE, metric="NDCG@10", users=range(50), samples=50, seed=0)


def interval(mean, half=0.01):
    return {"mean": mean, "low": mean - half, "high": mean + half, "level": 0.95}


def score(step, gain=0.05, *, logged=None, effective=500.0, ranking=KEPT, **more):
    made = {
        "step": step,
        "metric": "NDCG@10",
        "sft": {"reward": 0.2, "pessimistic": 0.1, "judge": 0.2, "ndcg": 0.3, "off_policy": None},
        "reward_value": 0.5,
        "reward_gain": interval(0.3),
        "pessimistic_value": 0.1,
        "pessimistic_gain": interval(0.0),
        "judge_value": 0.2 + gain,
        "judge_gain": interval(gain),
        "ndcg": 0.3,
        "ndcg_change": interval(0.0),
        "ndcg_relative": {"mean": 0.0, "low": -0.01, "level": 0.95},
        "ranking": dataclasses.asdict(ranking),
        "off_policy": None,
    }
    if logged is not None:
        made["sft"]["off_policy"] = 0.2
        made["off_policy"] = {"value": 0.2 + logged, "gain": interval(logged), "effective_samples": effective}
    refused = refusals(made, more.pop("gate", GATE), ranking)
    return made | {"refused": refused, "admissible": not refused} | more


def test_the_best_admissible_checkpoint_is_promoted_or_none():
    best, why = promote([score(1, 0.05), score(2, 0.9, admissible=False, refused=["x"]), score(3, 0.04)])
    assert best is not None
    assert best["step"] == 1
    assert "Checkpoint 1 was promoted: of 2 admissible among 3" in why
    assert promote([score(1, -0.1)])[0] is None
    assert promote([score(1, -0.1)])[1] == (
        "No checkpoint was promoted, none of 1 is admissible: the SFT policy is kept."
    )
    assert "SFT policy is kept" in promote([])[1]


def test_each_test_refuses_and_says_so():
    assert score(1)["admissible"]
    (why,) = score(1, 0.005)["refused"]
    assert why.startswith("the judge sees no significant gain over SFT (+0.0050")
    (why,) = score(1, logged=-0.05)["refused"]
    assert why.startswith("logged feedback speaks against it")
    assert score(1, logged=-0.005)["admissible"]  # not significant
    assert score(1, logged=-0.05, effective=20.0)["admissible"]  # too few effective samples to refuse
    shown = dataclasses.replace(GATE, off_policy="show")
    assert score(1, logged=-0.05, gate=shown)["admissible"]
    fallen = dataclasses.replace(KEPT, kept=False, sentence="NDCG@10 changed by −9.0%")
    assert score(1, ranking=fallen)["refused"] == ["NDCG@10 changed by −9.0%"]


def test_a_gain_or_loss_by_rounding_alone_decides_nothing():
    """Equal slates in another order: 1e-10 on a value of 0.2 is no gain, and on logged feedback no loss."""
    rounding = {"judge_gain": {"mean": 2e-10, "low": 1e-10, "high": 3e-10, "level": 0.95}}
    made = score(1) | rounding | {"judge_value": 0.2}
    (why,) = refusals(made, GATE, KEPT)
    assert why.startswith("the judge sees no significant gain over SFT (+0.0000")
    assert gate_table([made], GATE).cells["checkpoint 1, promoted"]["judge"].mark == ""
    logged = score(1, logged=0.0)
    logged["off_policy"]["gain"] = {"mean": -2e-10, "low": -3e-10, "high": -1e-10, "level": 0.95}
    assert refusals(logged, GATE, KEPT) == []


def test_non_inferiority_is_shown_by_the_bound_and_not_by_the_mean_alone():
    """Three events in four unchanged, the others ±: the mean change is 0, the bound of 80 events is not."""
    rng = np.random.default_rng(0)
    before_M = np.ones(80)
    change_M = np.tile([0.0, 0.0, 0.5, -0.5], 20)
    common = {"metric": "NDCG@10", "users": range(80), "samples": 2000, "seed": 0}
    bound = ranking_change(before_M + change_M, before_M, GATE, **common)
    assert bound.relative == pytest.approx(0.0)
    # sd of a row 0.354, of the mean 0.0395; one-sided 95%: -1.645 * 0.0395
    assert bound.low == pytest.approx(-0.065, abs=0.006)
    assert not bound.kept
    mean = dataclasses.replace(GATE, ndcg_test="mean")
    assert ranking_change(before_M + change_M, before_M, mean, **common).kept
    many_M = rng.permutation(np.tile(change_M, 40))
    many = common | {"users": range(3200)}
    assert ranking_change(1 + many_M, np.ones(3200), GATE, **many).kept
    worse = ranking_change(0.9 * np.ones(80), before_M, mean, **common)
    assert not worse.kept
    assert "−10.0%" in worse.sentence
    assert ranking_change(np.zeros(80), np.zeros(80), GATE, **common).kept


def test_patience_counts_checkpoints_without_a_new_best_admissible_one():
    gains = [0.05, 0.04, 0.06, 0.03, 0.02]
    scores = [score(n, gain) for n, gain in enumerate(gains, 1)]
    ends = [out_of_patience(scores[:n], 2) for n in range(1, 6)]
    assert ends == [False, False, False, False, True]
    assert not out_of_patience(scores, None)
    never = [score(n, -0.1) for n in range(1, 4)]
    assert [out_of_patience(never[:n], 3) for n in (1, 2, 3)] == [False, False, True]
    refused_best = [score(1, 0.05), score(2, 0.9, admissible=False, refused=["x"])]
    assert out_of_patience(refused_best, 1)  # what is refused is no new best


def test_the_four_figures_stand_side_by_side():
    scores = [score(10, 0.05, logged=0.03), score(20, 0.04, logged=0.02), score(30, 0.9, logged=-0.2)]
    table = gate_table(scores, GATE)
    assert table.systems == ("SFT", "checkpoint 10, promoted", "checkpoint 20, admissible", "checkpoint 30, refused")
    assert table.metrics == ("reward", "pessimistic", "judge", "ndcg", "off_policy")
    assert table.cells["checkpoint 30, refused"]["off_policy"].mark == "▼"
    assert table.cells["checkpoint 10, promoted"]["judge"].mark == "▲"
    assert gate_table([], GATE) is None
    said = decisions(scores)
    assert said[0].startswith("Checkpoint 10 was promoted")
    assert said[1] == "Checkpoint 20 was admissible, but the judge values checkpoint 10 as much or more."
    assert said[2].startswith("Checkpoint 30 was refused: logged feedback speaks against it")
    line = in_a_line(scores[2])
    for part in (
        "reward +0.3000",
        "pessimistic +0.0000",
        "judge +0.9000",
        "NDCG@10 +0.0%",
        "logged feedback -0.2000",
    ):
        assert part in line
    assert "off_policy" not in gate_table([score(1)], GATE).metrics


def planned(gains, draws_KS):
    """Scores and draws of checkpoints whose single intervals are what their draws say."""
    made = []
    for step, (gain, draws_S) in enumerate(zip(gains, draws_KS, strict=True), 1):
        low, high = np.quantile(draws_S, [0.025, 0.975])
        one = score(step, gain) | {"ranking": dataclasses.asdict(KEPT)}
        made.append(one | {"judge_gain": {"mean": gain, "low": low, "high": high, "level": 0.95}})
    return made


def test_more_checkpoints_ask_for_more():
    """Two standard errors are significant for one checkpoint, and not for the best of six that vary alone."""
    draws_KS = np.random.default_rng(0).normal(0.0, 1.0, (6, 4000)) * 0.01
    gains = [0.021, 0.0, 0.0, 0.0, 0.0, 0.0]
    scores = planned(gains, draws_KS)
    (alone,) = settled(scores[:1], draws_KS[:1], GATE)
    assert alone["admissible"]
    assert alone["judge_gain"]["low"] == pytest.approx(0.021 - 1.96 * 0.01, abs=0.0008)
    six = settled(scores, draws_KS, GATE)
    assert not six[0]["admissible"]
    # the 95% quantile of the largest of six independent |z|: 0.95 ** (1/6) two-sided, 2.63
    assert six[0]["judge_gain"]["low"] == pytest.approx(0.021 - 2.63 * 0.01, abs=0.001)
    assert six[0]["judge_gain_alone"] == scores[0]["judge_gain"]
    assert "no significant gain" in six[0]["refused"][0]
    assert settled(six, draws_KS, GATE) == six  # once more changes nothing
    assert settled([], [], GATE) == []


def ranked(change_KS):
    """Scores of checkpoints that the judge is sure of, whose ranking changes are what their draws say, each alone."""
    made = []
    for step, change_S in enumerate(change_KS, 1):
        low = float(np.quantile(change_S, 0.05))
        change = RankingChange(float(np.mean(change_S)), low, low >= -GATE.ndcg_tolerance, f"limit {low}")
        one = score(step, 0.05) | {"ranking": dataclasses.asdict(change)}
        made.append(one | {"ndcg_relative": {"mean": change.relative, "low": low, "level": 0.95}})
    return made


SURE = np.random.default_rng(1).normal(0.05, 1e-4, 500)


def test_more_looks_at_the_ranking_ask_for_more():
    """1.9 standard errors above the limit pass for one checkpoint, and not beside five looks that vary alone."""
    change_KS = np.random.default_rng(0).normal(0.0, 0.01, (6, 4000))
    change_KS += (-GATE.ndcg_tolerance + 0.019) - change_KS.mean(axis=1, keepdims=True)
    scores = ranked(change_KS)
    (alone,) = settled(scores[:1], [SURE], GATE, ranking=list(change_KS[:1]))
    assert alone["admissible"]
    # the mean less 1.645 standard errors, which is what the checkpoint's own limit says
    assert alone["ranking"]["low"] == pytest.approx(scores[0]["ranking"]["low"], abs=0.0005)
    looks = Looks([0.05] * 5, np.tile(SURE, (5, 1)), change_KS[1:].mean(axis=1).tolist(), change_KS[1:])
    (beside,) = settled(scores[:1], [SURE], GATE, ranking=list(change_KS[:1]), besides=looks)
    # the 95% quantile of the largest of six independent z: Phi^-1(0.95 ** (1/6)) = 2.39
    assert beside["ranking"]["low"] == pytest.approx(-GATE.ndcg_tolerance + 0.019 - 0.0239, abs=0.001)
    assert beside["ndcg_relative"]["low"] == beside["ranking"]["low"]
    assert not beside["admissible"]
    assert "the limit may not be below" in beside["refused"][0]
    six = settled(scores, [SURE] * 6, GATE, ranking=list(change_KS))
    assert six[0]["ranking"] == beside["ranking"]
    assert settled(six, [SURE] * 6, GATE, ranking=list(change_KS)) == six
    # of draws that were not kept each limit is that of the checkpoint alone
    assert settled(scores, [SURE] * 6, GATE)[0]["ranking"] == scores[0]["ranking"]


@pytest.mark.parametrize("alike", [0.0, 0.8])
def test_ranking_that_fell_too_far_passes_in_one_training_of_twenty(alike):
    """Nulls: NDCG truly falls by just what is tolerated at all ten looks, which vary alone or together."""
    rng, trainings, samples, looks = np.random.default_rng(3), 400, 400, 10
    mix = np.linalg.cholesky(alike + (1 - alike) * np.eye(looks)) * 0.01
    passed = [0, 0]
    for _ in range(trainings):
        mean_K = -GATE.ndcg_tolerance + mix @ rng.normal(size=looks)
        change_KS = mean_K[:, None] + mix @ rng.normal(size=(looks, samples))
        change_KS += mean_K[:, None] - change_KS.mean(axis=1, keepdims=True)
        limit_K = simultaneous_lower(mean_K, change_KS)
        passed[0] += bool((limit_K >= -GATE.ndcg_tolerance).any())
        passed[1] += bool((np.quantile(change_KS, 0.05, axis=1) >= -GATE.ndcg_tolerance).any())
    # a binomial's 99.9% limit around 5% of 400
    assert passed[0] / trainings <= 0.05 + 3.1 * np.sqrt(0.05 * 0.95 / trainings)
    assert passed[1] / trainings > 0.15  # each look as if it were the only one


def test_a_ranking_that_did_not_move_costs_nothing():
    change_KS = np.stack([np.zeros(400), np.random.default_rng(0).normal(0.0, 0.01, 400)])
    still, _ = settled(ranked(change_KS), [SURE] * 2, GATE, ranking=list(change_KS))
    assert (still["ranking"]["low"], still["admissible"]) == (0.0, True)
    blank = change_KS.copy()
    blank[1, :5] = np.nan  # samples in which SFT ranked nothing
    assert np.isfinite(settled(ranked(change_KS), [SURE] * 2, GATE, ranking=list(blank))[1]["ranking"]["low"])


def test_checkpoints_that_are_one_and_the_same_cost_nothing():
    draws_S = np.random.default_rng(0).normal(0.0, 0.01, 4000)
    six = settled(planned([0.021] * 6, [draws_S] * 6), [draws_S] * 6, GATE)
    assert all(one["admissible"] for one in six)
    still = settled(planned([0.0], [np.zeros(10)]), [np.zeros(10)], GATE)
    assert (still[0]["judge_gain"]["low"], still[0]["admissible"]) == (0.0, False)


GAIN = Verdict("gain", "Significant gain: the value goes from 1 to 2.", figures="The value goes from 1 to 2.")
NONE = Verdict("none", "No significant gain: the value goes from 1 to 1.", figures="The value goes from 1 to 1.")
LOSS = Verdict("loss", "Significant loss: the value goes from 1 to 0.", figures="The value goes from 1 to 0.")


@pytest.mark.parametrize(
    ("judged", "promoted", "kept", "outcome", "words"),
    [
        (GAIN, True, True, "gain", "Improved. Significant gain"),
        (
            NONE,
            True,
            True,
            "none",
            "Not improved, so SFT is handed on. The judge sees no significant gain on the test",
        ),
        (
            LOSS,
            True,
            True,
            "loss",
            "Not improved, so SFT is handed on. The judge sees no significant gain on the test",
        ),
        (GAIN, True, False, "none", "Not improved, so SFT is handed on. On the test period NDCG@10 changed by −9%."),
        (
            GAIN,
            False,
            True,
            "none",
            "Not improved. No checkpoint was promoted. Without the gate, the last checkpoint",
        ),
        (
            LOSS,
            False,
            False,
            "none",
            "Not improved. No checkpoint was promoted. Without the gate, the last checkpoint",
        ),
    ],
)
def test_a_run_is_called_improved_only_if_it_is(judged, promoted, kept, outcome, words):
    found = run_verdict(
        judged,
        promoted=promoted,
        promotion="No checkpoint was promoted.",
        ranking_kept=kept,
        ranking="NDCG@10 changed by −9%",
        kept="SFT",
    )
    assert found.outcome == outcome
    assert found.sentence.startswith(words)
    assert judged.figures[1:] in found.sentence
    assert ("Significant" in found.sentence) == (outcome == "gain")  # one verdict, not two
    assert (found.reasons == ()) == (outcome == "gain")


def _lists(rows, n_items=300):
    """How far lists differ that show `rows` (a row of items for each user)."""
    return Variety.of([Slate(tuple(row), (0.0,) * len(row)) for row in rows], n_items, len(rows[0]))


SAME = _lists([[4, 8, 15, 16, 23, 42, 108, 1, 2, 3]] * 200)
OWN = _lists([[(7 * user + place) % 300 for place in range(10)] for user in range(200)])


def _ended(judged, kept=True, promoted=True, variety=(OWN, SAME)):
    return run_verdict(
        judged,
        promoted=promoted,
        promotion="No checkpoint was promoted.",
        ranking_kept=kept,
        ranking="NDCG@10 changed by −9%",
        kept="SFT",
        variety=variety,
        after="PPO",
    )


def test_one_list_for_everybody_is_named_and_is_no_plain_improvement():
    found = _ended(GAIN)
    assert found.outcome == "gain"
    assert found.tone == "caution"
    assert found.caveats == ("PPO shows one list to everybody.",)
    assert found.sentence.startswith("Improved by the judge's figures, but PPO shows one list to everybody.")
    assert (
        "PPO: 1 different list for 200 users, coverage@10 3.3%, two users share 100% of their items."
        in found.sentence
    )
    assert "SFT: 200 different lists for 200 users, coverage@10 100.0%" in found.sentence


def _with_gain(share, trade="", smallest=1.0, variety=None):
    judged = dataclasses.replace(GAIN, relative=share, trade=trade)
    return run_verdict(
        judged,
        promoted=True,
        promotion="Checkpoint 1 was promoted.",
        ranking_kept=True,
        ranking="NDCG@10 changed by −9%",
        kept="SFT",
        after="PPO",
        smallest_gain=smallest,
        variety=variety,
    )


def test_a_gain_too_small_to_be_of_interest_is_no_improvement():
    found = _with_gain(0.001)
    assert found.outcome == "none"
    assert found.reasons == (
        "The judged gain of +0.1% on the test period is below the smallest gain of interest, 1% "
        "(gate.smallest_gain).",
    )
    assert found.sentence.startswith("Not improved, so SFT is handed on. The judged gain of +0.1%")
    assert _with_gain(0.001, smallest=0.0).sentence.startswith("Improved. Significant gain")
    large = _with_gain(0.05)
    assert large.outcome == "gain"
    assert "The smallest gain of interest is 1%." in large.sentence
    assert _with_gain(None).outcome == "gain"  # a reference of 0 has no percent


def test_a_trade_is_called_a_trade():
    trade = "NDCG@10 on held-out events falls significantly, by 47.6%"
    found = _with_gain(0.3, trade)
    assert found.sentence.startswith(
        "Traded: the judged value rises by 30.0%, NDCG@10 on held-out events falls significantly, by 47.6%. "
    )
    assert "Improved" not in found.sentence
    assert (found.outcome, found.tone) == ("gain", "caution")
    assert found.caveats[0].startswith("Traded:")
    both = _with_gain(0.3, trade, variety=(OWN, SAME))
    assert "PPO shows one list to everybody." in both.sentence
    assert len(both.caveats) == 2


def test_one_list_that_was_there_before_is_said_of_both():
    assert "but PPO shows one list to everybody, as SFT does." in _ended(GAIN, variety=(SAME, SAME)).sentence


def test_lists_of_their_own_leave_the_improvement_plain():
    found = _ended(GAIN, variety=(SAME, OWN))
    assert (found.tone, found.caveats) == ("gain", ())
    assert found.sentence.startswith("Improved. Significant gain")


@pytest.mark.parametrize(
    ("judged", "kept", "promoted"), [(GAIN, False, True), (NONE, True, True), (GAIN, True, False)]
)
def test_a_warm_start_with_one_list_is_named_where_it_is_handed_on(judged, kept, promoted):
    assert "SFT shows one list to everybody" in _ended(judged, kept, promoted, (SAME, OWN)).sentence
    assert "to everybody" not in _ended(judged, kept, promoted, (OWN, SAME)).sentence


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("simulator.judge_architecture=factorised", "a judge must be of another architecture"),
        ("simulator.judge_user_share=0", "it must lie between 0 and 1"),
        ("gate.patience=0", "it must be 1 or more"),
        ("gate.events=0", "'gate.events' is 0"),
        ("gate.ndcg_tolerance=-0.1", "'gate.ndcg_tolerance' is -0.1"),
        ("gate.weight_cap=0", "'gate.weight_cap'"),
        ("gate.smallest_gain=-1", "'gate.smallest_gain' is -1"),
        ("gate.held_out=0.5", "'gate.held_out' is 0.5"),
    ],
)
def test_a_judge_that_is_none_is_refused_beforehand(override, words):
    with pytest.raises(ConfigError, match=words):
        check_trust(RunConfig.read(None, given(override)))


def test_pessimism_needs_members_that_can_disagree():
    config = RunConfig.read(None, given("reward.pessimism=1.0", "simulator.members=1"))
    with pytest.raises(ConfigError, match="one member never disagrees"):
        check_trust(config)
    check_trust(dataclasses.replace(config, simulator=SimulatorSettings(members=2)))


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ((), "The reward came from a simulator of users (1 × factorised, fitted on 70 users of its own)."),
        (("algorithm=dpo",), "It learned from logged feedback alone; a simulator"),
        (("algorithm=off_policy", "off_policy.estimator=doubly-robust"), "with a simulator (1 × factorised"),
        (("algorithm=rlhf",), "The reward is a model learned from logged preferences"),
    ],
)
def test_every_run_says_who_rewards_and_who_judges(overrides, words):
    class Model:
        def __init__(self, users):
            self.facts = {"users": users}

    simulators = Simulators(Ensemble([Model(70)]), Model(30), {})
    said = who_judges(RunConfig.read(None, given(*overrides)), simulators)
    assert words in said
    assert said.endswith(
        "The judge is another model with another seed (crossed, fitted on 30 users of its own), and never a reward."
    )
