"""The end of a run: report, model card and the run folder, written whole."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from llmrec.evaluation.reporting.record import RECORD
from llmrec.evaluation.reporting.reported_run import MEASUREMENTS
from llmrec.evaluation.reporting.write import write_report
from llmrec.export import Weights, write_bundle
from llmrec.files import new_folder
from llmrec.pipeline.card import model_card
from llmrec.pipeline.place import OURS
from llmrec.pipeline.report import make_report, measurements
from llmrec.pipeline.result import RunResult, Stages, metrics_of
from llmrec.pipeline.sft import improved_policy, sft_policy
from llmrec.printing import one_line
from llmrec.progress import console
from llmrec.training.lora import combine_adapters, load_adapter
from llmrec.written import write_list

NO_SLATES = (
    "Slates of users: a run folder is made to be handed on and shows no user; NAME.work/report beside it does."
)


def finish(run: RunResult, command: str, work: Path) -> None:
    """Writes the run folder, and a second report with a few users' slates into the working folder `work`.

    The run folder is made to be handed on, so its own report shows no user; the figures by row, which comparisons
    with other runs need, stay in the working folder as well.
    """
    config, data = run.config, run.data
    policy = (
        improved_policy(config, data, run.sft, run.deployed)
        if run.deployed is not None
        else sft_policy(config, data, run.sft)
    )
    report = make_report(run, command, work)
    with new_folder(run.out, ours=OURS) as folder:
        write_bundle(
            folder,
            weights=handed_weights(run, policy.model, run.deployed),
            policy=policy,
            dataset=data.dataset,
            config=config,
            metrics=metrics_of(run),
            card=model_card(run, command),
            identifiers=run.sft.identifiers,
            lineage=run.base.lineage,
            rewarded=run.deployed is not None,
        )
        write_report(folder, dataclasses.replace(report, slates=()), absent=(NO_SLATES,))
        write_list(folder)
    with new_folder(work / "report", mark=RECORD) as folder:
        write_report(folder, report)
        measurements(run).save(folder / MEASUREMENTS)
    console.print(
        f"report with users' slates (not for handing on): {one_line(work / 'report' / 'report.html')}", style="dim"
    )


def handed_weights(stages: Stages, merged: Any, checkpoint: Path | None) -> Weights:
    """Full weights, or one adapter on the Hub model: SFT's, or that joined with a checkpoint's of the improvement."""
    # weights turned back from a GGUF file are nobody else's, so an adapter would have nothing to stand on
    if (
        stages.base.nano
        or stages.base.gguf is not None
        or not stages.sft.has_adapter
        or (checkpoint is not None and (checkpoint / "model").is_dir())
    ):
        return Weights(merged)
    adapter = load_adapter(stages.sft.folder / "adapter")
    if checkpoint is not None:
        adapter = combine_adapters(adapter, load_adapter(checkpoint / "adapter"))
    return Weights(merged, adapter, stages.base.name, stages.base.revision)
