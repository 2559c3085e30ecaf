"""The end of a run: report, model card and the run folder, written whole."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from llmrec.config import RunConfig
from llmrec.evaluation.facts import config_changes, machine_facts, package_versions
from llmrec.evaluation.plots import Reliability
from llmrec.evaluation.report import DataFacts, RunReport, SlateChange, write_report
from llmrec.evaluation.table import Comparison
from llmrec.evaluation.verdict import what_got_worse
from llmrec.export import Weights, write_bundle
from llmrec.files import new_folder
from llmrec.pipeline.card import model_card
from llmrec.pipeline.policies import improved_policy, sft_policy
from llmrec.pipeline.promotion import decisions, gate_table
from llmrec.pipeline.result import SFT, Finished, label, metrics_of
from llmrec.pipeline.trust import who_judges
from llmrec.progress import console
from llmrec.training.lora import combine_adapters, load_adapter

SHOWN_USERS = 4


def finish(run: Finished, command: str, work: Path) -> None:
    """Writes the run folder, and a second report with a few users' slates into the working folder `work`.

    The run folder is made to be handed on, so its own report shows no user.
    """
    config, data = run.config, run.data
    policy = (
        improved_policy(config, data, run.sft, run.deployed)
        if run.deployed is not None
        else sft_policy(config, data, run.sft)
    )
    report = make_report(run, command)
    with new_folder(run.out) as folder:
        write_bundle(
            folder,
            weights=_weights(run, policy.model),
            policy=policy,
            dataset=data.dataset,
            config=config,
            metrics=metrics_of(run),
            card=model_card(run, command),
            identifiers=run.sft.identifiers,
        )
        write_report(folder, dataclasses.replace(report, slates=()))
    with new_folder(work / "report") as folder:
        write_report(folder, report)
    console.print(f"[dim]report with users' slates (not for handing on): {work / 'report' / 'report.html'}[/dim]")


def _weights(run: Finished, merged: Any) -> Weights:
    """Full weights, or one adapter on the Hub model: SFT's, the improvement's, or both joined."""
    deployed = run.deployed
    if run.base.nano or not run.sft.has_adapter or (deployed is not None and (deployed / "model").is_dir()):
        return Weights(merged)
    adapter = load_adapter(run.sft.folder / "adapter")
    if deployed is not None:
        adapter = combine_adapters(adapter, load_adapter(deployed / "adapter"))
    return Weights(merged, adapter, run.base.name, run.base.revision)


def make_report(run: Finished, command: str) -> RunReport:
    """What the report shows of a finished run."""
    config, manifest, split = run.config, run.data.dataset.manifest, run.data.split
    tables = [run.tables.ranking, *run.tables.deployed.values()]
    return RunReport(
        title=f"llmrec run on {manifest.name}",
        date=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        command=command,
        data=DataFacts(
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
        ),
        changes=config_changes(RunConfig().tree(), config.tree()),
        machine=machine_facts(),
        versions=package_versions(),
        seeds={"run": config.seed},
        seconds=run.seconds,
        verdict=run.verdict,
        tables=tables,
        plotted=_plotted(run.tables.ranking),
        sft_curve=run.sft.curve,
        curve=run.improvement.curve,
        algorithm=label(config.algorithm),
        gate=gate_table(run.improvement.checkpoints, config.gate),
        decisions=decisions(run.improvement.checkpoints),
        reliability=_reliability(run.simulators.fit["reward"]["reliability"]),
        simulator=dict(_fits(run.simulators.fit)),
        slates=_slates(run, run.after),
        slate_names=(SFT, run.after),
        illegal={name: float(np.mean(row["illegal"])) for name, row in run.measured.ranking.items()},
        worse=what_got_worse(tables, run.after),
        notes=[
            who_judges(config, run.simulators),
            *([run.improvement.stopped] if run.improvement.stopped else []),
        ],
        reproduce=[command],
    )


def _plotted(ranking: Comparison) -> tuple[str, ...]:
    """The ranking at its widest cut-off, and what slates are worth."""
    cutoff = next(m for m in reversed(ranking.metrics) if m.startswith("NDCG@")).removeprefix("NDCG@")
    widest = tuple(f"{name}@{cutoff}" for name in ("HR", "NDCG", "coverage"))
    return (*widest, "value", "value@1", "click_rate", "conversion_rate")


def _reliability(bins: dict[str, list[dict[str, float]]]) -> dict[str, Reliability]:
    return {
        name: Reliability(*(np.array([b[k] for b in rows]) for k in ("predicted", "observed", "count")))
        for name, rows in bins.items()
        if rows
    }


def _fits(fit: dict[str, Any]) -> Iterator[tuple[str, dict[str, float | None]]]:
    shown = ("events", "rate", "auc", "log_loss", "calibration_error", "baseline_auc", "baseline_log_loss")
    for model, report in fit.items():
        for signal in ("click", "conversion_given_click", "click_and_conversion"):
            yield f"{model}: {signal.replace('_', ' ')}", {k: report[signal].get(k) for k in shown}


def _slates(run: Finished, after: str) -> list[SlateChange]:
    items = run.data.dataset.item_list
    step = max(1, len(run.arena.states) // SHOWN_USERS)
    return [
        SlateChange(
            user=str(state.user_id),
            history=[items[i.item].title for i in state.history[-6:]],
            before=[items[i].title for i in run.measured.slates[SFT][row].items_K],
            after=[items[i].title for i in run.measured.slates[after][row].items_K],
        )
        for row, state in list(enumerate(run.arena.states))[::step][:SHOWN_USERS]
    ]
