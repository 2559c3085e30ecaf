"""The entry point: what it reports, what it refuses, and what it says of logs that cannot be used."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from llmrec.errors import DataError, RequestError
from llmrec.evaluation.off_policy import (
    BanditLog,
    EvaluationSettings,
    OverlapLimits,
    TableOutcome,
    compare_policies,
    evaluate_policy,
)

MU = np.array([[0.5, 0.3, 0.2], [0.2, 0.3, 0.5]])
PI = np.array([[0.2, 0.3, 0.5], [0.5, 0.3, 0.2]])
CLICK = np.array([[0.2, 0.4, 0.8], [0.7, 0.4, 0.1]])
FAST = EvaluationSettings(outcome=None, clip=None)


def world(rows: int = 3000, seed: int = 0, **more) -> tuple[BanditLog, np.ndarray]:
    rng = np.random.default_rng(seed)
    state = rng.integers(2, size=rows)
    item = (rng.random(rows)[:, None] > MU[state].cumsum(axis=1)).sum(axis=1)
    reward = (rng.random(rows) < CLICK[state, item]).astype(float)
    parts = {"states_MF": np.eye(2)[state], "items_ND": np.eye(3), **more}
    return BanditLog(item, MU[state, item], reward, 3, **parts), state


def test_every_estimate_finds_the_value_and_the_report_says_what_it_rests_on():
    log, state = world()
    truth = (PI * CLICK).sum(axis=1).mean()
    for outcome in ("ridge", "logistic"):
        report = evaluate_policy(log, PI[state], EvaluationSettings(outcome=outcome))
        assert list(report.estimates) == ["IPS", "CIPS", "SNIPS", "DM", "DR", "switch-DR"]
        assert report.refusal is None
        for name in ("IPS", "SNIPS", "DR"):
            interval = report.estimates[name].interval
            assert interval is not None
            assert interval.low - 0.01 < truth < interval.high + 0.01
        assert report.estimates["DM"].interval is None
        assert report.estimates["DM"].value == pytest.approx(truth, abs=0.04)
        assert report.on_policy.mean == pytest.approx(log.reward_M.mean())
    weight = PI[state, log.item_M] / MU[state, log.item_M]
    assert report.weights.effective_samples == pytest.approx(weight.sum() ** 2 / (weight**2).sum())
    assert report.weights.max_share == pytest.approx(weight.max() / weight.sum())
    assert report.weights.quantiles[-1] == pytest.approx(2.5)
    assert report.weights.mean.low < 1 < report.weights.mean.high
    json.dumps(report.to_json(), allow_nan=False)
    table = report.table("A policy")
    assert table.metrics == ("logged", *report.estimates)
    assert "effective" in table.note
    assert "| policy |" in table.to_markdown()


def test_the_logging_policy_has_an_interval_of_the_level_that_was_asked_for():
    log, state = world()
    narrow = evaluate_policy(log, PI[state], dataclasses.replace(FAST, level=0.5))
    wide = evaluate_policy(log, PI[state], FAST)
    assert narrow.on_policy.level == narrow.estimates["IPS"].interval.level == 0.5
    assert narrow.on_policy.high - narrow.on_policy.low < 0.5 * (wide.on_policy.high - wide.on_policy.low)


def test_a_policy_may_be_a_table_a_function_or_the_logged_items_probabilities():
    log, state = world(400)
    chance = PI[state]
    logged = chance[np.arange(400), log.item_M]
    limits = OverlapLimits(effective_samples=50)
    settings = dataclasses.replace(FAST, limits=limits)
    found = [evaluate_policy(log, p, settings).estimates for p in (chance, lambda rows: chance[rows], logged)]
    assert found[0] == found[1] == found[2]
    with pytest.raises(RequestError, match="need the policy's probabilities of all items"):
        evaluate_policy(log, logged)


def test_differences_are_paired_and_zero_for_the_same_policy():
    log, state = world()
    near = 0.9 * PI[state] + 0.1 / 3
    gain = compare_policies(log, PI[state], near)
    one, other = (evaluate_policy(log, p) for p in (PI[state], near))
    for name in ("IPS", "SNIPS", "DM", "DR"):
        assert gain[name].value == pytest.approx(one.estimates[name].value - other.estimates[name].value)
    width = gain["DR"].interval.high - gain["DR"].interval.low
    alone = one.estimates["DR"].interval
    assert width < 0.3 * (alone.high - alone.low)
    same = compare_policies(log, near, near)
    assert all(estimate.value == 0.0 for estimate in same.values())


def test_the_logging_policy_is_worth_its_mean_reward():
    log, state = world(500)
    found = evaluate_policy(log, MU[state], FAST)
    for estimate in found.estimates.values():
        assert estimate.value == pytest.approx(log.reward_M.mean())
    assert found.weights.effective_samples == pytest.approx(500)


def refusal(log: BanditLog, policy, **limits) -> str:
    settings = dataclasses.replace(FAST, limits=OverlapLimits(**limits))
    with pytest.raises(RequestError) as caught:
        evaluate_policy(log, policy, settings)
    report = evaluate_policy(log, policy, dataclasses.replace(settings, refuse=False))
    assert report.refusal == str(caught.value)
    with pytest.raises(RequestError):
        compare_policies(log, policy, policy, settings)
    return str(caught.value)


def test_too_little_overlap_is_refused_with_its_reason():
    log, state = world(300)
    assert "fewer than 250" in refusal(log, PI[state], effective_samples=250)
    assert "one row bears" in refusal(log, PI[state], effective_samples=50, max_share=0.005)
    with pytest.raises(RequestError, match="shows nothing of what was logged"):
        evaluate_policy(log, np.zeros(300), FAST)


def test_what_the_log_never_shows_is_seen_where_the_logging_policy_is_known():
    rng = np.random.default_rng(1)
    mu = np.tile([0.6, 0.4, 0.0], (1000, 1))
    item = (rng.random(1000) > 0.6).astype(np.int64)
    log = BanditLog(item, mu[np.arange(1000), item], rng.random(1000), 3, logging_MN=mu)
    pi = np.tile([0.5, 0.4, 0.1], (1000, 1))
    said = refusal(log, pi)
    assert "10.0% of its probability to items that the log never shows" in said
    assert evaluate_policy(log, mu, FAST).weights.unsupported == 0.0
    blind = dataclasses.replace(log, logging_MN=None)  # the mean weight still tells, where much is missing
    far = np.tile([0.3, 0.2, 0.5], (1000, 1))
    assert "should be 1" in refusal(blind, far)


def test_wrong_propensities_show_in_the_mean_weight():
    log, state = world()
    halved = dataclasses.replace(log, propensity_M=log.propensity_M / 2)
    assert "and should be 1: propensities are wrong" in refusal(halved, PI[state])
    mean = evaluate_policy(halved, PI[state], dataclasses.replace(FAST, refuse=False)).weights.mean
    assert mean.low < 2 < mean.high


@pytest.mark.parametrize("bad", [0.0, -0.1, 1.5, np.nan])
def test_a_propensity_that_cannot_be_is_named_with_its_row(bad):
    log, _ = world(10)
    propensity = log.propensity_M.copy()
    propensity[4] = bad
    with pytest.raises(DataError, match=rf"Impression 4 has the propensity {bad}.*leave such impressions out"):
        dataclasses.replace(log, propensity_M=propensity)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"item_M": np.array([0, 1, 3])}, r"Impression 2 of the log has an item outside 0\.\.2"),
        ({"reward_M": np.array([0, np.nan, 1])}, "Impression 1 of the log has a reward that is not a finite number"),
        ({"states_MF": np.full((3, 2), np.inf)}, "Impression 0 of the log has a state that is not"),
        ({"items_ND": np.full((3, 1), np.nan)}, "items_ND"),
        ({"reward_M": np.zeros(2)}, r"reward_M has the shape \(2,\)"),
        ({"items_ND": np.zeros((2, 2))}, r"items_ND has the shape \(2, 2\)"),
        ({"users": ["a"]}, "3 logged rows need 3 users"),
        ({"logging_MN": np.full((3, 3), 1 / 3)}, "Impression 0 of the log has a propensity that differs"),
        ({"logging_MN": np.full((3, 3), 0.5)}, "logging policy must give row 0 probabilities that sum to 1"),
    ],
)
def test_logs_that_cannot_be_used(change, message):
    log = BanditLog(np.array([0, 1, 2]), np.full(3, 0.5), np.ones(3), 3)
    with pytest.raises(DataError, match=message):
        dataclasses.replace(log, **change)


def test_policies_and_settings_that_cannot_be():
    log, state = world(300)
    settings = dataclasses.replace(FAST, limits=OverlapLimits(effective_samples=10))
    pi = PI[state].copy()
    pi[7] = 0.5
    with pytest.raises(DataError, match=r"row 7 probabilities that sum to 1, but they sum to 1\.5"):
        evaluate_policy(log, pi, settings)
    with pytest.raises(DataError, match="for 300 rows of 3 items"):
        evaluate_policy(log, PI[state][:, :2], settings)
    with pytest.raises(DataError, match="item 2 is missing or outside 0 to 1"):
        evaluate_policy(log, np.where(np.arange(300) == 2, np.nan, 0.3), settings)
    with pytest.raises(RequestError, match="clip of importance weights is -1"):
        evaluate_policy(log, PI[state], dataclasses.replace(settings, clip=-1.0))
    with pytest.raises(RequestError, match="'forest' is unknown"):
        evaluate_policy(log, PI[state], dataclasses.replace(settings, outcome="forest"))
    with pytest.raises(RequestError, match="300 by 3 finite numbers"):
        evaluate_policy(log, PI[state], dataclasses.replace(settings, outcome=TableOutcome(np.zeros((2, 3)))))


def test_users_widen_the_interval_where_their_rows_agree():
    log, state = world(1200)
    users = np.repeat(np.arange(300), 4)
    agreeing = dataclasses.replace(log, reward_M=np.random.default_rng(2).random(300)[users], users=users.tolist())
    apart = dataclasses.replace(agreeing, users=None)
    widths = [
        (i := evaluate_policy(part, MU[state], FAST).estimates["SNIPS"].interval).high - i.low
        for part in (agreeing, apart)
    ]
    assert widths[0] == pytest.approx(2 * widths[1], rel=0.05)  # four rows that say the same are one
    assert evaluate_policy(agreeing, MU[state], FAST).weights.clusters == 300
