"""What the report shows of a finished run, gathered from its stages."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from llmrec.config import RunConfig
from llmrec.dataset.manifest import account_lines
from llmrec.evaluation.facts import config_changes, machine_facts, package_versions, peak_memory
from llmrec.evaluation.plots import Reliability
from llmrec.evaluation.reporting.contents import DataFacts, RewardModelFacts, RunReport, SlateChange
from llmrec.evaluation.significance import Interval
from llmrec.evaluation.table import Comparison
from llmrec.evaluation.verdict import coverage_losses, what_got_worse
from llmrec.files import read_json
from llmrec.pipeline.algorithms.preferences import REWARD_MODEL
from llmrec.pipeline.data_check import funnels
from llmrec.pipeline.promotion import decisions, gate_table
from llmrec.pipeline.reporting.groups import group_tables
from llmrec.pipeline.reporting.rows import test_rows
from llmrec.pipeline.result import SFT, RunResult, label
from llmrec.pipeline.trust import who_judges
from llmrec.printing import command as shell_command
from llmrec.printing import one_line

SHOWN_USERS, SHOWN_HISTORY = 4, 6
SIGNALS = ("click", "conversion_given_click", "click_and_conversion")
FIGURES = (
    *("events", "rate", "auc", "log_loss", "calibration_error", "calibration_error_low", "calibration_error_high"),
    *("baseline_auc", "baseline_log_loss"),
)


def make_report(run: RunResult, command: str, work: Path) -> RunReport:
    """What the report shows of a finished run whose stages lie in `work`."""
    config = run.config
    tables, groups = [run.tables.ranking, *run.tables.deployed.values()], group_tables(run)
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
        tables=tables,
        rows=test_rows(run, work),
        samples=config.evaluation.bootstrap,
        plotted=_plotted(run.tables.ranking),
        groups=groups,
        sft_curve=run.sft.curve,
        curve=run.improvement.curve,
        algorithm=label(config.algorithm),
        reward_model=_reward_model(run.improvement.folder / REWARD_MODEL),
        gate=gate_table(run.improvement.checkpoints, config.gate),
        gate_curve=_gate_curve(run.improvement.checkpoints),
        decisions=decisions(run.improvement.checkpoints),
        promotion=run.promotion,
        reliability=dict(_reliability(run.simulators.fit)),
        simulator=dict(_fits(run.simulators.fit)),
        slates=_slates(run, run.after),
        slate_names=(SFT, run.after),
        illegal={name: float(np.mean(row["illegal"])) for name, row in run.measured.ranking.items()},
        worse=[*what_got_worse([*tables, *groups], run.after), *coverage_losses(tables, run.after)],
        notes=[
            *([run.arena.rates] if run.arena.rates else []),
            who_judges(config, run.simulators),
            *([run.improvement.stopped] if run.improvement.stopped else []),
        ],
        reproduce=[command, _again(run.out, config)],
    )


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


def _gate_curve(checkpoints: list[dict[str, Any]]) -> list[dict[str, float]]:
    """The simulators' figures over the steps, from SFT on."""
    names = {"reward": "reward simulator", "judge": "judge"}
    rows = [{"step": 0} | {key: checkpoints[0]["sft"][key] for key in names}] if checkpoints else []
    rows += [{"step": c["step"]} | {key: c[f"{key}_value"] for key in names} for c in checkpoints]
    return [{"step": float(r["step"])} | {f"gate/{said}": r[key] for key, said in names.items()} for r in rows]


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
    return [
        SlateChange(
            user=str(state.user_id),
            history=[items[i.item].title for i in state.history[-SHOWN_HISTORY:]],
            before=[items[i].title for i in run.measured.slates[SFT][row].items_K],
            after=[items[i].title for i in run.measured.slates[after][row].items_K],
        )
        for row, state in list(enumerate(run.arena.states))[::step][:SHOWN_USERS]
    ]
