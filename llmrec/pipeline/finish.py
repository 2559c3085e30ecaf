"""The end of a run: report, model card and the run folder, written whole."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import yaml

from llmrec.evaluation.reporting.record import RECORD
from llmrec.evaluation.reporting.reported_run import MEASUREMENTS
from llmrec.evaluation.reporting.write import write_report
from llmrec.evaluation.table import code, markdown
from llmrec.export import Weights, write_bundle
from llmrec.files import new_folder
from llmrec.pipeline.algorithms import ALGORITHMS
from llmrec.pipeline.data import funnels
from llmrec.pipeline.gate import who_judges
from llmrec.pipeline.headroom import run_headroom
from llmrec.pipeline.place import OURS
from llmrec.pipeline.promotion import decisions, gate_table
from llmrec.pipeline.report import make_report, measurements
from llmrec.pipeline.result import RunResult, Stages, metrics_of
from llmrec.pipeline.sft import improved_policy, sft_policy
from llmrec.pipeline.wording import run_language
from llmrec.printing import one_line
from llmrec.progress import console
from llmrec.training.lora import combine_adapters, load_adapter
from llmrec.written import write_list

NO_SLATES = (
    "Slates of users: a run folder is made to be handed on and shows no user; NAME.work/report beside it does."
)

CARD = """---
{header}---

# llmrec: recommendations on {name}

A causal language model that reads a user's state as text and writes an item of a closed catalogue of {items} items.
It was warm-started by supervised fine-tuning and then {improved}.

```python
from llmrec import Recommender

recommender = Recommender.load("USER/NAME")  # this repository, or a folder
print(recommender.recommend(prompt="I liked ...", k=10))
```

On the command line: `llmrec recommend --model USER/NAME --prompt "I liked ..." -k 10`.

## Numbers

{verdict}

{tables}

## How it was made

- Base model: {base}.
- Data: {name}, {counts}; content hash `{hash}`. {proxy}
- Feedback of the training part: {feedback}.{withheld}
- Command: {command}, seed {seed}. The whole configuration is in `config.yaml`, every figure in `metrics.json`.
- {judge}
- {promotion}
{decisions}

## Limits

Rewards and judged figures are simulated. {rates}

Offline ranking metrics favour what was logged. Before real users see its recommendations, compare it with the
baselines of the table in an experiment. This folder holds the catalogue's texts and no user's rows. {terms}
"""


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


def model_card(run: RunResult, command: str) -> str:
    """README.md of the run folder, with the Hub's metadata header."""
    manifest = run.data.dataset.manifest
    header: dict[str, Any] = {
        "library_name": "llmrec",
        "pipeline_tag": "text-generation",
        "language": [run_language(run.config, run.data.dataset)],
        "tags": ["recommender-system", "reinforcement-learning", run.config.algorithm.replace("_", "-"), "llmrec"],
    }
    if run.base.published is not None:
        header["base_model"] = run.base.published
    tables = [run.tables.ranking, *run.tables.judged.values()]
    gate = gate_table(run.improvement.checkpoints, run.config.gate)
    tables += [gate] if gate is not None else []
    return CARD.format(
        header=yaml.safe_dump(header, sort_keys=False, allow_unicode=True),
        name=markdown(manifest.name),
        items=run.data.dataset.n_items,
        improved=_improved(run),
        verdict="\n\n".join(
            markdown(said) for said in (run.verdict.sentence, run_headroom(run), run.changed) if said
        ),
        tables="\n".join(f"### {markdown(t.title)}\n\n{t.to_markdown()}" for t in tables),
        base="a small Qwen3-architecture model made from this data set's own texts"
        if run.base.nano
        else code(run.base.described),
        counts=", ".join(f"{v:,} {k}" for k, v in manifest.counts.items() if k in ("items", "users", "events")),
        hash=manifest.content_hash[:16],
        proxy=markdown(manifest.proxy),
        feedback=markdown(str(funnels(run.config, run.data.dataset, run.data.split)["train"])),
        withheld="" if run.data.withheld is None else f"\n- New items: {markdown(run.data.withheld.sentence())}",
        command=code(command),
        seed=run.config.seed,
        judge=markdown(who_judges(run.config, run.simulators)),
        promotion=markdown(run.promotion),
        decisions="\n".join(f"  - {markdown(said)}" for said in decisions(run.improvement.checkpoints)),
        rates=markdown(run.arena.rates),
        terms=markdown(f"Terms of the data: {manifest.terms}" if manifest.terms else ""),
    )


def _improved(run: RunResult) -> str:
    """What became of the warm start, as the end of a sentence."""
    spec = ALGORITHMS[run.config.algorithm]
    by = spec.phrase or spec.label
    if not run.improved:
        return f"left as it was: {by} was tried and brought no improvement that could be confirmed"
    if run.verdict.trade:
        return f"changed by {by}, which traded the ranking of held-out events for simulated value"
    return f"improved by {by}" + (" with LoRA" if run.config.improvement.weights == "lora" else "")
