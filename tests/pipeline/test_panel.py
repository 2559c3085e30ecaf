"""What the gate judges: sessions where the training is of sessions, impressions else, and what the verdict calls it."""

from __future__ import annotations

import dataclasses

import numpy as np
import polars as pl
import pytest

from llmrec.baselines.popularity import Popularity, Random
from llmrec.config import RunConfig
from llmrec.dataset.split import PARTS
from llmrec.evaluation.sessions import SessionFigures
from llmrec.evaluation.simulated import Simulated
from llmrec.evaluation.verdict import verdict
from llmrec.evaluation.witnesses import LEAST
from llmrec.pipeline.data import open_data
from llmrec.pipeline.measure import make_arena, make_tables, measure_run, session_table, witnessed_table
from llmrec.pipeline.panel import Panel, gate_key
from llmrec.pipeline.promotion import RankingChange, promote, refusals, settled
from llmrec.pipeline.ruled import RULED, run_rules, shown
from llmrec.pipeline.simulation import log_of, met_states, met_users, simulator_stage
from llmrec.pipeline.work import Work
from llmrec.simulator.environments.learned_users import LearnedUsers
from llmrec.simulator.judge import Correction, Judge
from llmrec.types import State

TINY = {
    "world.users": 120,
    "world.items": 24,
    "world.slates_per_user": 5,
    "simulator.epochs": 2,
    "simulator.members": 1,
    "simulator.batch_size": 256,
    "simulator.replicates": 7,
    "gate.users": 20,
    "gate.events": 30,
    "gate.slate": 3,
    "evaluation.users": 12,
    "evaluation.test_events": 20,
    "evaluation.bootstrap": 100,
    "dynamics.trust.enabled": True,
    "dynamics.satiation.enabled": True,
}
SESSIONS = TINY | {"session.turns": 3, "session.slate": 3, "ppo.draws": 1}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    work = Work(tmp_path_factory.mktemp("panel"))
    config = RunConfig.read(None, SESSIONS)
    data = open_data(config, work)
    simulators = simulator_stage(config, data, work)
    start, other = (kind(seed=0).fit(data.dataset, data.split.train) for kind in (Popularity, Random))
    return config, data, simulators, start, other


def replicate(judge: Judge, r: int) -> Judge:
    """A judge that takes the heads of replicate r for its own."""
    heads = {
        name: dataclasses.replace(one, feature_RP=one.feature_RP[r : r + 1], item_RN=one.item_RN[r : r + 1])
        for name, one in judge.correction.drawn.items()
    }
    return Judge(judge, Correction(heads, judge.correction.drawn, judge.correction.scale_22))


def test_sessions_are_judged_as_sessions_and_single_slates_as_slates(made):
    config, data, simulators, start, other = made
    panel = Panel.of(config, data, simulators, 24)
    base, found = panel.measure(start), panel.measure(other)
    assert isinstance(base.judged, SessionFigures)
    assert base.judged.users_B == tuple(str(state.user_id) for state in panel.states)
    assert base.judged.replicas["value"].shape == (7, len(panel.states))
    assert (base.judged.turns_B > 1).any()
    # several turns are worth more than the first, and that as much as the judge expects of the slate by itself
    assert (base.judged.value_B >= base.judged.first_B - 1e-12).all()
    assert base.judged.value_B.sum() > 1.5 * base.judged.first_B.sum()
    plain = dataclasses.replace(config, session=dataclasses.replace(config.session, turns=1))
    alone = Panel.of(plain, data, simulators, 24)
    assert isinstance(alone.measure(start).judged, Simulated)
    score = panel.score(1, found, base)
    assert score["judged"] == "a session of up to 3 turns"
    assert alone.score(1, alone.measure(other), alone.measure(start))["judged"] == "an impression"
    gain = found.judged.value_B.mean() - base.judged.value_B.mean()
    assert score["judge_gain"]["mean"] == pytest.approx(gain)
    lost = settled([score], [panel.draws(found, base)], config.gate)[0]
    worse = lost | {"judge_gain": {"mean": -0.1, "low": -0.2, "high": 0.1, "level": 0.95}}
    refused = refusals(worse, config.gate, RankingChange(**score["ranking"]))
    assert refused[0].startswith("the judge sees no significant gain over SFT in the value of a session of up to 3")
    assert "over SFT in the value of a session of up to 3 turns)." in promote([worse | {"admissible": True}])[1]


def test_lists_are_judged_under_the_rules_of_the_run(made):
    """The most popular items are forbidden: they stand in no list, and the lists are those of the rest."""
    config, data, simulators, start, _ = made
    config = dataclasses.replace(config, session=dataclasses.replace(config.session, turns=1))
    free = Panel.of(config, data, simulators, 24)
    assert shown(start, free.rules) is start
    (first,) = start.recommend([State()], 12)
    top = [data.dataset.item(item).item_id for item in first.items_K[:4]]
    rules = ({"never": {"ids": top}},)
    ruled = Panel.of(dataclasses.replace(config, rules=rules), data, simulators, 24)
    (slate,) = shown(start, ruled.rules).recommend([State()], 8)
    assert slate.items_K == first.items_K[4:]
    found, base = ruled.measure(start), free.measure(start)
    chosen = np.isin([e.target for e in ruled.examples], first.items_K[:4])
    assert base.ndcg_M[chosen].any()
    assert not found.ndcg_M[chosen].any()
    unruled = dataclasses.replace(config, rules=rules, rules_in_training="none")
    assert Panel.of(unruled, data, simulators, 24).rules is None
    assert gate_key(unruled) == gate_key(config) != gate_key(dataclasses.replace(config, rules=rules))


def test_each_replicate_values_a_turn_as_a_judge_of_its_own(made):
    """Of the first turn, whose users are as they were; later turns are those that the judge itself led to."""
    config, data, simulators, start, _ = made
    one = dataclasses.replace(config, session=dataclasses.replace(config.session, turns=2))
    panel = Panel.of(one, data, simulators, 24)
    arena = dataclasses.replace(panel.sessions)
    first = dataclasses.replace(one, session=dataclasses.replace(one.session, turns=1))
    whole = arena.play(start, first, doubt=True)
    assert isinstance(arena.population, LearnedUsers)
    for r in (0, 4):
        own = LearnedUsers(
            replicate(simulators.judge, r), panel.states, data.dataset, quality_N=arena.population.items.quality_N
        )
        plain = dataclasses.replace(arena, population=own).play(start, first)
        np.testing.assert_allclose(whole.replicas["value"][r], plain.value_B, rtol=1e-6)
    assert whole.replicas["value"].std(axis=0).min() > 0
    two = arena.play(start, one, doubt=True)
    assert (two.replicas["value"] >= whole.replicas["value"] - 1e-12).all()
    assert arena.play(start, first).replicas == {}


def test_the_verdict_names_the_session(made):
    config, data, simulators, start, other = made
    arena = make_arena(config, data, simulators.judge)
    table = session_table(config, data, arena, {"SFT": start, "PPO": other}, "SFT")
    said = verdict(table, None, after="PPO")
    assert "he judged value of a session of up to 3 turns goes from" in said.sentence
    assert "Intervals hold the judge's own error" in table.note
    assert RULED not in table.note
    assert table.cells["SFT"]["value"].mean != table.cells["PPO"]["value"].mean
    # one item is left to everybody, so that there is one list whoever recommends
    left = [{"never": {"ids": [item.item_id for item in data.dataset.item_list[1:]]}}]
    arena = dataclasses.replace(arena, rules=run_rules(dataclasses.replace(config, rules=left), data))
    alike = session_table(config, data, arena, {"SFT": start, "PPO": other}, "SFT")
    assert alike.cells["SFT"]["value"].mean == alike.cells["PPO"]["value"].mean
    assert RULED in alike.note
    plain = dataclasses.replace(config, session=dataclasses.replace(config.session, turns=1))
    assert session_table(plain, data, arena, {"SFT": start}, "SFT") is None


def test_witnesses_are_heard_where_they_are_asked_for(made):
    config, data, simulators, _, other = made
    plain = dataclasses.replace(config, session=dataclasses.replace(config.session, turns=1))
    heard = dataclasses.replace(plain, gate=dataclasses.replace(plain.gate, judged="witnessed"))
    alone, panel = (Panel.of(one, data, simulators, 24) for one in (plain, heard))
    assert alone.witnesses is None
    met = {state.user_id for state in panel.states}
    assert not met & {state.user_id for state in panel.witnesses.states}
    error = panel.witnesses.error(panel.witnesses.lists(other, 3))
    assert error.impressions > 20
    weighed = error.mean_2 @ [plain.reward.click, plain.reward.conversion]
    values = [one.measure(other).judged.value_B for one in (alone, panel)]
    np.testing.assert_allclose(values[1] - values[0], weighed, atol=1e-9)
    assert make_arena(heard, data, simulators.judge).witnesses is not None
    # stages that were made before there was a choice are found again
    assert "judged" not in gate_key(plain)
    assert gate_key(heard)["judged"] == "witnessed"


def _but_for(arena, system):
    """Weights of the witnesses' impressions: 0 for those of the system's top items."""
    top_S = arena.witnesses.lists(system, 1)[:, 0]
    return np.where(arena.witnesses.item_M == top_S[arena.witnesses.row_M], 0.0, arena.witnesses.weight_M)


def test_what_the_log_says_stands_beside_the_judges_figures_where_it_has_propensities(made):
    config, data, simulators, start, other = made
    plain = dataclasses.replace(
        config,
        session=dataclasses.replace(config.session, turns=1),
        evaluation=dataclasses.replace(config.evaluation, test_events=60),
    )
    heard = dataclasses.replace(plain, gate=dataclasses.replace(plain.gate, judged="witnessed"))
    systems = {"SFT": start, "PPO": other}
    arena = make_arena(plain, data, simulators.judge)
    measured = measure_run(plain, arena, systems)
    table = witnessed_table(plain, arena, measured, systems, "SFT")
    for name, system in systems.items():
        error = arena.witnesses.error(arena.witnesses.lists(system, 10))
        assert error.impressions >= LEAST
        judged = np.mean(measured.deployed["judge"][name]["value"])
        more = error.mean_2 @ [plain.reward.click, plain.reward.conversion]
        assert table.cells[name]["value"].mean == pytest.approx(judged + more)
    # asked for, it is the judge's own figure, and the same one
    whole = measure_run(heard, arena, systems)
    for name in systems:
        assert np.mean(whole.deployed["judge"][name]["value"]) == pytest.approx(table.cells[name]["value"].mean)
    assert witnessed_table(heard, arena, whole, systems, "SFT") is None
    # the verdict says it and is not changed by it
    judged = verdict(make_tables(plain, arena, measured, "SFT").deployed["judge"], None, after="PPO")
    both = judged.beside(table, after="PPO")
    assert both.outcome == judged.outcome
    assert both.sentence.startswith(judged.sentence)
    assert f"on such lists, the judged value goes from {table.cells['SFT']['value'].mean:.4f} (SFT)" in both.sentence
    # a log without propensities: nothing is said that was not asked for, and asked for it is said by matching
    split = data.split
    parts = {part: split.part(part).with_columns(propensity=pl.lit(None, pl.Float64)) for part in PARTS}
    unknown = dataclasses.replace(data, split=dataclasses.replace(split, **parts))
    assert make_arena(plain, unknown, simulators.judge).witnesses is None
    matched = make_arena(heard, unknown, simulators.judge).witnesses
    assert set(matched.weight_M) == {1.0}
    sessions = make_arena(config, data, simulators.judge)
    assert sessions.witnesses is None
    # lists that the log shows, and top items that it shows too seldom: of these nothing is said
    asked = dataclasses.replace(
        arena, witnesses=dataclasses.replace(arena.witnesses, weight_M=_but_for(arena, start))
    )
    said = witnessed_table(plain, arena, measured, {"SFT": start}, "SFT")
    assert "value@1" in said.cells["SFT"]
    assert "value@1" not in table.cells["SFT"]  # a random list's top item is seldom shown
    alone = witnessed_table(plain, asked, measured, {"SFT": start}, "SFT")
    assert "value" in alone.cells["SFT"]
    assert "value@1" not in alone.cells["SFT"]
    few = dataclasses.replace(plain, evaluation=dataclasses.replace(plain.evaluation, test_events=1))
    arena = make_arena(few, data, simulators.judge)
    assert witnessed_table(few, arena, measure_run(few, arena, systems), systems, "SFT") is None


def test_people_are_met_first_or_in_a_state_that_is_drawn(made):
    config, data, _, _, _ = made
    drawn = dataclasses.replace(config, gate=dataclasses.replace(config.gate, met="drawn"))
    log, met = log_of(config, data, "valid"), met_users(config, data)
    first = met_states(config, log, met.gate)
    rows = met_states(drawn, log, met.gate)
    people = [str(log.user_ids[row]) for row in rows]
    assert sorted(people) == sorted(met.gate)
    assert len(set(people)) == len(people) == len(first)
    assert rows == sorted(rows) != first
    # whoever else is met, a user is met in the same state
    alone = people[3]
    assert met_states(drawn, log, {alone}) == [rows[3]]
    other = dataclasses.replace(drawn, seed=config.seed + 1)
    assert met_states(other, log, met.gate) != rows


def test_the_first_state_of_a_user_is_as_likely_met_as_another(made):
    config, data, _, _, _ = made
    log = log_of(config, data, "valid")
    of: dict[str, list[int]] = {}
    for row, user in enumerate(log.user_ids):
        of.setdefault(str(user), []).append(row)
    user, rows = max(of.items(), key=lambda one: len(one[1]))
    gate = dataclasses.replace(config.gate, met="drawn")
    seeds = range(600)
    found = [met_states(dataclasses.replace(config, gate=gate, seed=seed), log, {user})[0] for seed in seeds]
    share = np.bincount([rows.index(row) for row in found], minlength=len(rows)) / len(seeds)
    assert len(rows) > 1
    assert share == pytest.approx(1 / len(rows), abs=4 * np.sqrt(0.25 / len(seeds)))


def test_a_gate_of_first_states_has_the_key_of_before(made):
    config = made[0]
    drawn = dataclasses.replace(config, gate=dataclasses.replace(config.gate, met="drawn"))
    assert "met" not in gate_key(config)
    assert gate_key(drawn) == gate_key(config) | {"met": "drawn"}
