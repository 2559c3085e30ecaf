"""The report of a finished run: what it shows, gathered from the stages, and what its tables were measured on."""

from __future__ import annotations

import dataclasses
import datetime
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from llmrec.config import RunConfig
from llmrec.dataset.examples import Examples
from llmrec.dataset.manifest import account_lines
from llmrec.evaluation.beyond import ItemFacts
from llmrec.evaluation.facts import config_changes, machine_facts, package_versions, peak_memory
from llmrec.evaluation.groups import FEW, Groups, families, group_table
from llmrec.evaluation.plots import Reliability
from llmrec.evaluation.reporting.contents import DataFacts, MeasuredRows, RewardModelFacts, RunReport, SlateChange
from llmrec.evaluation.reporting.reported_run import RowFigures
from llmrec.evaluation.resampling import Resampler
from llmrec.evaluation.significance import Interval
from llmrec.evaluation.table import Comparison
from llmrec.evaluation.verdict import coverage_losses, what_got_worse
from llmrec.files import read_json, sha256_of
from llmrec.pipeline.algorithms.preferences import REWARD_MODEL
from llmrec.pipeline.data import funnels
from llmrec.pipeline.exam import sentences
from llmrec.pipeline.gate import who_judges
from llmrec.pipeline.headroom import run_headroom
from llmrec.pipeline.pilot import pilot_table
from llmrec.pipeline.promotion import decisions, gate_table
from llmrec.pipeline.result import SFT, RunResult, control_sentences, label
from llmrec.printing import command as shell_command
from llmrec.printing import one_line
from llmrec.seeding import numpy_stream
from llmrec.types import Example, FloatArray

SHOWN_USERS, SHOWN_HISTORY = 3, 6
SIGNALS = ("click", "conversion_given_click", "click_and_conversion")
FIGURES = (
    *("events", "rate", "auc", "log_loss", "calibration_error", "calibration_error_low", "calibration_error_high"),
    *("baseline_auc", "baseline_log_loss"),
)
OF_ITEMS = "item training clicks"
"""The family of groups that a held-out target decides, which deployed slates do not have."""
DIGITS = 16
VISITS = (
    "What was clicked and bought in a slate is one visit, drawn from {judge}, with the same luck for both slates; in "
    "the history it is what was logged."
)


def make_report(run: RunResult, command: str, work: Path) -> RunReport:
    """What the report shows of a finished run whose stages lie in `work`."""
    config = run.config
    tables, groups = [run.tables.ranking, *run.tables.judged.values()], group_tables(run)
    return RunReport(
        title=f"llmrec run on {run.data.dataset.manifest.name}",
        date=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        command=command,
        data=_data(run),
        changes=config_changes(RunConfig().tree(), config.tree()),
        model=_model(run),
        handed_on=label(config.algorithm) if run.improved else SFT,
        machine=machine_facts() | peak_memory(),
        versions=package_versions(),
        seeds={"run": config.seed},
        seconds=run.seconds,
        verdict=run.verdict,
        headroom=run_headroom(run),
        changed=run.changed,
        tables=tables,
        rows=measured_rows(run, work),
        samples=config.evaluation.bootstrap,
        plotted=_plotted(run.tables.ranking),
        groups=groups,
        sft_curve=run.sft.curve,
        curve=run.improvement.curve,
        algorithm=label(config.algorithm),
        reward_model=_reward_model(run.improvement.folder / REWARD_MODEL),
        pilot=None if run.pilot is None else pilot_table(run.pilot),
        pilot_said="" if run.pilot is None else run.pilot.sentence,
        gate=gate_table(run.improvement.checkpoints, config.gate),
        gate_curve=gate_curve(run.improvement.checkpoints),
        decisions=decisions(run.improvement.checkpoints),
        promotion=run.promotion,
        reliability=dict(_reliability(run.simulators.fit)),
        simulator=dict(_fits(run.simulators.fit)),
        exam=sentences(run.simulators.exam),
        slates=_slates(run, run.after),
        slate_names=(SFT, run.after),
        visits=VISITS.format(judge="the world's truth" if "truth" in run.arena.judges else "the judge"),
        illegal={name: float(np.mean(row["illegal"])) for name, row in run.measured.ranking.items()},
        worse=[*what_got_worse([*tables, *groups], run.after), *coverage_losses(tables, run.after)],
        notes=[
            *([run.arena.rates] if run.arena.rates else []),
            *([run.data.withheld.sentence()] if run.data.withheld else []),
            who_judges(config, run.simulators),
            *([run.improvement.stopped] if run.improvement.stopped else []),
            *control_sentences(run),
        ],
        reproduce=[command, _again(run.out, config)],
    )


def group_tables(run: RunResult) -> list[Comparison]:
    """NDCG on held-out events and the judge's value of deployed slates, by families of groups.

    Groups below `FEW` rows are left out: they say little, and a run folder must not show what a few people wrote in
    their profiles. So is a family of fewer than two groups, which would say what the whole says.
    """
    facts = ItemFacts.of(run.data.dataset, run.data.split.train)
    metric = next(m for m in reversed(run.tables.ranking.metrics) if m.startswith("NDCG@"))
    examples, users = run.arena.examples, [str(e.state.user_id) for e in run.arena.examples]
    ranked = {name: np.asarray(run.measured.ranking[name][metric]) for name in (SFT, run.after)}
    judged = {name: np.asarray(run.measured.deployed["judge"][name]["value"]) for name in (SFT, run.after)}
    met = Examples([Example(state, 0) for state in run.arena.states], run.arena.seen)
    draw: dict[str, Any] = {"samples": run.config.evaluation.bootstrap, "seed": run.config.seed}
    of_users = {name: groups for name, groups in families(met, facts).items() if name != OF_ITEMS}
    return [
        *family_tables(f"{metric} on held-out events", metric, ranked, families(examples, facts), users, draw),
        *family_tables("Value of deployed slates as the judge expects it", "value", judged, of_users, None, draw),
    ]


def family_tables(
    title: str,
    metric: str,
    values: Mapping[str, FloatArray],
    found: Mapping[str, Groups],
    users: Sequence[str] | None,
    draw: dict[str, Any],
) -> Iterator[Comparison]:
    """One table a family with two groups of `FEW` rows or more, and the groups as columns.

    Args:
        title: what is measured, to which the family is added.
        metric: names the bootstrap samples.
        values: the metric (B,), of SFT and of the improved policy.
        found: rows (B,) of each group, by family.
        users: the user of each row, where users are drawn whole.
        draw: samples and seed.
    """
    rows = len(next(iter(values.values())))
    resampler = Resampler(rows, users, **draw)
    for family, groups in found.items():
        large = {name: kept_B for name, kept_B in groups.items() if int(kept_B.sum()) >= FEW}
        if len(large) > 1:
            told = group_table(
                f"{title}, by {family}", values, large, resampler, name=metric, reference=SFT, gap=False
            )
            yield dataclasses.replace(
                told.table, note=f"Groups of fewer than {FEW} rows are left out." if len(large) < len(groups) else ""
            )


def measured_rows(run: RunResult, work: Path) -> tuple[MeasuredRows, ...]:
    """One entry a table, in the order of the report: the ranking, then what each judge says of deployed slates.

    Args:
        run: the finished run.
        work: its working folder, where the judge's weights lie.
    """
    data = run.data.dataset.manifest.content_hash
    events = [[e.state.user_id, e.state.time, e.target] for e in run.arena.examples]
    users = [[state.user_id, state.time] for state in run.arena.states]
    weights = [run.config.reward.click, run.config.reward.conversion]
    places = min(max(run.config.evaluation.k), run.data.dataset.n_items)
    found = [MeasuredRows(kind="ranking", data=data, rows=_digest(events))]
    for name in run.tables.deployed:
        judge = _folder_digest(work / "simulator" / name) if name == "judge" else ""
        found.append(
            MeasuredRows(kind=name, data=data, rows=_digest(users), measure=_digest([name, judge, weights, places]))
        )
    return tuple(found)


def measurements(run: RunResult) -> RowFigures:
    """The figures of all systems row by row; users are numbered."""
    users = {"ranking": [str(e.state.user_id) for e in run.arena.examples]}
    return RowFigures.of({"ranking": run.measured.ranking, **run.measured.deployed}, users)


def _again(out: Path, config: RunConfig) -> str:
    """The command that makes the run from what its folder keeps."""
    trusted = ["--trust-code"] if config.reward.custom else []
    return shell_command(["llmrec", "run", f"--config={out / 'config.yaml'}", f"--out={out}-again", *trusted])


def _data(run: RunResult) -> DataFacts:
    manifest, split = run.data.dataset.manifest, run.data.split
    return DataFacts(
        name=manifest.name,
        counts=manifest.counts,
        content_hash=manifest.content_hash,
        click=manifest.click,
        conversion=manifest.conversion,
        split=f"{split.name}: {len(split.train)} train, {len(split.valid)} valid, {len(split.test)} test events",
        repeat=manifest.repeat,
        domain=manifest.domain,
        source=manifest.source,
        terms=manifest.terms,
        proxy=manifest.proxy,
        imported=one_line(" ".join(account_lines(manifest.account)), 2000),
        feedback=f"{funnels(run.config, run.data.dataset, split)['train']} (training part)",
    )


def _model(run: RunResult) -> str:
    if not run.base.nano:
        return run.base.name if run.base.revision is None else f"{run.base.name} at {run.base.revision}"
    model = run.config.model
    size = f"{model.nano_layers} layers, hidden size {model.nano_hidden}"
    return f"nano: Qwen3's architecture, {size}, made from this data set's own texts"


def _plotted(ranking: Comparison) -> tuple[str, ...]:
    """The ranking at its widest cut-off, and what slates are worth."""
    cutoff = next(m for m in reversed(ranking.metrics) if m.startswith("NDCG@")).removeprefix("NDCG@")
    widest = tuple(f"{name}@{cutoff}" for name in ("HR", "NDCG", "coverage"))
    return (*widest, "value", "value@1", "click_rate", "conversion_rate")


def _reward_model(folder: Path) -> RewardModelFacts | None:
    """The learned reward model of RLHF, as it was kept with the improvement."""
    if not (folder / "figures.json").is_file():
        return None
    found = read_json(folder / "figures.json")
    agreed = dict(found["agreement"] or {})
    pairs = int(agreed.pop("pairs", 0))
    interval = Interval(**agreed) if agreed else None
    return RewardModelFacts(curve=found["curve"], agreement=interval, pairs=pairs, seconds=found["seconds"])


def gate_curve(checkpoints: list[dict[str, Any]]) -> list[dict[str, float]]:
    """The simulators' figures and the ranking of held-out events over the steps, from SFT on."""
    if not checkpoints:
        return []
    ranking = f"ranking/{checkpoints[0]['metric']}"
    names = {"reward": "gate/reward simulator", "judge": "gate/judge"}
    first = checkpoints[0]["sft"]
    rows = [{"step": 0.0} | {said: first[key] for key, said in names.items()} | {ranking: first["ndcg"]}]
    for score in checkpoints:
        found = {said: score[f"{key}_value"] for key, said in names.items()} | {ranking: score["ndcg"]}
        rows.append({"step": float(score["step"])} | found)
    return rows


def _reliability(fit: dict[str, Any]) -> Iterator[tuple[str, Reliability]]:
    for model, report in fit.items():
        for signal, rows in report["reliability"].items():
            if rows:
                yield f"{model}: {signal.replace('_', ' ')}", Reliability.of(rows)


def _fits(fit: dict[str, Any]) -> Iterator[tuple[str, dict[str, float | None]]]:
    for model, report in fit.items():
        for signal in SIGNALS:
            yield f"{model}: {signal.replace('_', ' ')}", {k: report[signal].get(k) for k in FIGURES}


def _slates(run: RunResult, after: str) -> list[SlateChange]:
    items = run.data.dataset.item_list
    step = max(1, len(run.arena.states) // SHOWN_USERS)
    found = []
    for row, state in list(enumerate(run.arena.states))[::step][:SHOWN_USERS]:
        before_K, after_K = (run.measured.slates[system][row].items_K for system in (SFT, after))
        past = state.history[-SHOWN_HISTORY:]
        found.append(
            SlateChange(
                user=str(state.user_id),
                history=[items[i.item].title for i in past],
                before=[items[i].title for i in before_K],
                after=[items[i].title for i in after_K],
                history_did=[i.feedback for i in past],
                before_did=_visited(run, row, before_K),
                after_did=_visited(run, row, after_K),
            )
        )
    return found


def _visited(run: RunResult, row: int, items_K: Sequence[int]) -> list[str]:
    """What one simulated visit does with the items of a user's slate; the luck belongs to user and item."""
    if not items_K:
        return []
    judges = run.arena.judges
    expected = judges.get("truth", judges["judge"]).predict([run.arena.states[row]], np.array([items_K]))
    luck_2N = numpy_stream(run.config.seed, "report", "visit", row).random((2, run.arena.n_items))
    clicked_K = luck_2N[0, list(items_K)] < expected.click_BK[0]
    bought_K = clicked_K & (luck_2N[1, list(items_K)] < expected.conversion_BK[0])
    return [
        "conversion" if bought else "click" if clicked else ""
        for clicked, bought in zip(clicked_K, bought_K, strict=True)
    ]


def _digest(value: Any) -> str:
    return sha256_of(json.dumps(value))[:DIGITS]


def _folder_digest(folder: Path) -> str:
    """Of all files below `folder`, by name and content."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    parts = [part for path in files for part in (path.relative_to(folder).as_posix(), path.read_bytes())]
    return sha256_of(*parts)
