"""The main job: data, base model, SFT, simulator, improvement with its gate, evaluation, report, run folder.

Every stage is finished or not there, so the same command after a kill goes on and ends with the same figures. What
would fail an hour later is refused before: settings by `check_config`, before anything is made, and data by
`check_run`, before anything is trained. Each check lies beside its stage and calls what the stage itself will call.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from llmrec.baselines.popularity import Popularity
from llmrec.baselines.registry import baseline
from llmrec.config import RunConfig
from llmrec.errors import DataError
from llmrec.evaluation.verdict import Verdict, run_verdict, verdict
from llmrec.pipeline.algorithms import check_algorithm, check_algorithm_on
from llmrec.pipeline.algorithms.reward import check_terms, run_reward
from llmrec.pipeline.base_model import base_model, check_base
from llmrec.pipeline.before import before_sft
from llmrec.pipeline.controls import ControlStage, control_stages, controls_of
from llmrec.pipeline.data import RunData, check_source, open_data
from llmrec.pipeline.exam import check_exam, examined
from llmrec.pipeline.finish import finish
from llmrec.pipeline.gate import check_trust
from llmrec.pipeline.improve import improve_stage
from llmrec.pipeline.item_tokens import check_naming
from llmrec.pipeline.measure import (
    Arena,
    SystemFigures,
    Tables,
    check_evaluation,
    make_arena,
    make_tables,
    measure_run,
    session_table,
    varieties,
    witnessed_table,
)
from llmrec.pipeline.order import EVALUATION, REPORT, ahead_of
from llmrec.pipeline.pilot import check_pilot, piloted
from llmrec.pipeline.place import check_same_data, run_place
from llmrec.pipeline.promotion import ranking_change
from llmrec.pipeline.result import (
    BEFORE_SFT,
    COVISITATION,
    GREEDY,
    POPULARITY,
    RERANKED,
    SFT,
    RunResult,
    Stages,
    label,
    last_label,
)
from llmrec.pipeline.ruled import RULES, run_rules
from llmrec.pipeline.sft import check_targets, check_warm_start, improved_policy, sft_policy, sft_stage, targets
from llmrec.pipeline.simulation import check_simulation, simulator_stage
from llmrec.pipeline.stated import Followed, followed
from llmrec.pipeline.systems import Greedy, Policy, Reranked, best_known
from llmrec.pipeline.wording import check_wording
from llmrec.pipeline.work import LastStage, Work, is_first, say
from llmrec.policy.loading import check_quantization
from llmrec.rewards import RewardFunction
from llmrec.rules import parse_rules
from llmrec.simulator.ensemble import check_simulator
from llmrec.training.arguments import check_launch
from llmrec.training.lora import check_lora
from llmrec.types import Ranker

SAMPLE = 4000
"""States of a part that are looked at where there are many: what is not refused for these is not for all."""
CHECKS: tuple[Callable[[RunConfig, RunData, int | None], None], ...] = (
    check_simulation,
    check_terms,
    check_algorithm_on,
)


def run_job(config: RunConfig, out: Path, command: str = "llmrec run", *, force: bool = False) -> RunResult | None:
    """Runs the main job to its end and writes the run folder `out`.

    Under several processes all train, and the first one alone evaluates and writes.

    Args:
        config: what decides the run.
        out: the run folder.
        command: the command line, for card and report.
        force: replace the run of another configuration; files that llmrec did not write are kept.

    Returns:
        What the run has found; None on the other processes.

    Raises:
        LLMRecError: anything that a person can mend; nothing is half-written.
    """
    check_config(config)
    with run_place(out, config, force=force) as (place, work):
        work.ahead = ahead_of(config)
        data = open_data(config, work)
        check_same_data(place, data.dataset, force=force)
        stages = train_stages(config, work, data=data)
        return conclude(stages, work, place, command) if is_first() else None


def make_stage(config: RunConfig, out: Path, stage: LastStage, *, force: bool = False) -> None:
    """Makes one stage of the main job and those before it that it needs, in the working folder of `out`.

    Raises:
        LLMRecError: as `run_job` does.
    """
    check_config(config)
    with run_place(out, config, force=force) as (_, work):
        data = open_data(config, work)
        check_run(config, data)
        if stage is LastStage.SFT:
            sft_stage(config, data, base_model(config, data, work), work)
        else:
            simulator_stage(config, data, work)


def conclude(stages: Stages, work: Work, out: Path, command: str) -> RunResult:
    """Evaluates finished stages and writes the run folder."""
    finished = evaluate(stages, work, out)
    work.begins(REPORT)
    finish(finished, command, work.folder)
    return finished


def train_stages(
    config: RunConfig, work: Work, *, data: RunData | None = None, improved_name: str | None = None
) -> Stages:
    """Data (unless given), simulators, base model, SFT and the improvement, each from its stage if it is finished."""
    data = open_data(config, work) if data is None else data
    if not work.finished_only:
        check_run(config, data)
    # First, as it is cheap: a judge that fails its examination is refused before hours of warm start.
    simulators = examined(config, data, simulator_stage(config, data, work), work)
    base = base_model(config, data, work)
    sft = sft_stage(config, data, base, work)
    pilot = piloted(config, data, sft, simulators, work)
    improvement = improve_stage(config, data, sft, simulators, work, name=improved_name, pilot=pilot)
    controls: dict[str, ControlStage] = {}
    if pilot is None or pilot.kl_coefficient is not None:
        asked = config if pilot is None else pilot.applied(config)
        controls = control_stages(asked, data, sft, simulators, improvement, work)
    return Stages(config, data, base, sft, simulators, improvement, controls, pilot)


def check_config(config: RunConfig) -> None:
    """Refuses before anything is made what would fail an hour later."""
    check_naming(config)
    parse_rules(config.rules, RULES)
    check_algorithm(config)
    controls_of(config)
    check_simulator(config.simulator)
    check_launch(config.report_to)
    check_quantization(config.model)
    check_base(config)
    check_trust(config)
    check_exam(config)
    check_pilot(config)
    check_warm_start(config)
    check_lora(config.improvement.lora, f"{config.algorithm}.lora")
    check_source(config)
    check_evaluation(config)


def make_systems(stages: Stages) -> dict[str, Ranker]:
    """What stands in the table, in its order."""
    config, data, sft, improved = stages.config, stages.data, stages.sft, stages.improvement
    beams, manifest = config.evaluation.beams, data.dataset.manifest
    policy = sft_policy(config, data, sft)
    reward = run_reward(config, data, stages.simulators, policy, slate_size=config.session.slate).for_ranking()
    start = Policy(policy, beams)
    valid = targets(config, data, "valid", config.gate.events)
    train = data.split.train
    systems: dict[str, Ranker] = {
        POPULARITY: Popularity(seed=config.seed).fit(data.dataset, train),
        COVISITATION: baseline("covisitation").fitted(data.dataset, train, valid, seed=config.seed),
    }
    if (untrained := before_sft(config, data, stages.base)) is not None:
        systems[BEFORE_SFT] = untrained
    systems[SFT] = start
    if improved.promoted is not None:
        systems[label(config.algorithm)] = Policy(improved_policy(config, data, sft, improved.promoted), beams)
    if improved.promoted != improved.last:
        systems[last_label(config.algorithm)] = Policy(improved_policy(config, data, sft, improved.last), beams)
    for name, control in stages.controls.items():
        systems[name] = Policy(improved_policy(config, data, sft, control.stage.kept), beams)
    systems[RERANKED] = Reranked(start, reward, data.dataset.n_items)
    systems[GREEDY] = Greedy(reward, data.dataset.n_items, manifest.repeat)
    return systems | best_known(data.world, config.reward.click, config.reward.conversion)


def evaluate(stages: Stages, work: Work, out: Path) -> RunResult:
    """Measures all systems on the test period and says whether the run may be called improved."""
    work.begins(EVALUATION)
    config = stages.config
    arena = make_arena(config, stages.data, stages.simulators.judge)
    improved, systems = stages.improvement, make_systems(stages)
    measured = measure_run(config, arena, systems)
    after = _after(config, promoted=improved.promoted is not None)
    both = {name: systems[name] for name in (SFT, after)}
    sessions = session_table(config, stages.data, arena, both, SFT)
    witnessed = witnessed_table(config, arena, measured, both, SFT)
    tables = replace(make_tables(config, arena, measured, SFT), sessions=sessions, witnessed=witnessed)
    found = said_of(
        config, arena, measured, tables, promoted=improved.promoted is not None, promotion=improved.verdict
    )
    return RunResult(
        config,
        stages.data,
        stages.base,
        stages.sft,
        stages.simulators,
        stages.improvement,
        stages.controls,
        stages.pilot,
        arena,
        measured,
        tables,
        found,
        dict(work.seconds),
        out,
        _followed(stages, arena, systems, after),
    )


def _followed(stages: Stages, arena: Arena, systems: Mapping[str, Ranker], after: str) -> Followed | None:
    """How the improved policy follows what states ask for, by the judge."""
    config, data, start = stages.config, stages.data, systems[SFT]
    assert isinstance(start, Policy)

    def judged() -> RewardFunction:
        plain = replace(config, reward=replace(config.reward, pessimism=0.0))
        return run_reward(plain, data, stages.simulators, start.policy, behaviour=stages.simulators.judge)

    return followed(config, data.dataset, judged, systems[after], arena.states, arena.seen)


def _after(config: RunConfig, *, promoted: bool) -> str:
    """The system that the verdict is on."""
    return (label if promoted else last_label)(config.algorithm)


def said_of(
    config: RunConfig, arena: Arena, measured: SystemFigures, tables: Tables, *, promoted: bool, promotion: str
) -> Verdict:
    """The gate's own tests once more, on the test period, with what it promoted and why."""
    after = _after(config, promoted=promoted)
    metric = next(m for m in reversed(tables.ranking.metrics) if m.startswith("NDCG@"))
    rows = [np.asarray(measured.ranking[system][metric]) for system in (after, SFT)]
    users = [str(e.state.user_id) for e in arena.examples]
    draw = {"samples": config.evaluation.bootstrap, "seed": config.seed}
    ranking = ranking_change(rows[0], rows[1], config.gate, metric=metric, users=users, **draw)
    lists = varieties(config, arena, measured)
    decides = tables.deployed["judge"] if tables.sessions is None else tables.sessions
    judged = verdict(decides, tables.ranking, after=after, ranking_metric=metric)
    if tables.witnessed is not None:
        judged = judged.beside(tables.witnessed, after=after)
    return run_verdict(
        judged,
        promoted=promoted,
        promotion=promotion,
        ranking_kept=ranking.kept,
        ranking=ranking.sentence,
        kept=SFT,
        variety=(lists[SFT], lists[after]),
        after=after,
        smallest_gain=config.gate.smallest_gain,
    )


def check_run(config: RunConfig, data: RunData) -> None:
    """Refuses, before anything is trained, data that a run of this configuration could not be finished on.

    Raises:
        LLMRecError: what is missing, and how to mend it.
    """
    items = data.dataset.n_items
    run_rules(config, data)
    if items < 2:
        raise DataError("The catalogue has one item, so there is nothing to choose between; add items.")
    check_wording(config, data)
    check_targets(config, data)
    for check in CHECKS:
        _tried(check, config, data)
    wanted = max(*config.evaluation.k, config.gate.slate)
    if wanted > items:
        say(
            f"  The catalogue has {items} items: lists are of {items}, not of {wanted} (evaluation.k, gate.slate).",
            style="dim",
        )


def _tried(check: Callable[[RunConfig, RunData, int | None], None], config: RunConfig, data: RunData) -> None:
    """A check on a sample of a large log, and on all of it only where the sample does not suffice."""
    if data.dataset.events.height > 10 * SAMPLE and config.simulator.correction == "none":
        try:
            return check(config, data, SAMPLE)
        except DataError:
            pass
    return check(config, data, None)
