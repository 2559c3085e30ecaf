"""The model card of a run folder: what the Hub reads of it (base model, data, figures), and what people do."""

from __future__ import annotations

import re
from typing import Any

import yaml
from huggingface_hub import EvalResult
from huggingface_hub.repocard_data import eval_results_to_model_index

from llmrec.evaluation.table import code, markdown
from llmrec.pipeline.algorithms import ALGORITHMS
from llmrec.pipeline.data import funnels
from llmrec.pipeline.gate import who_judges
from llmrec.pipeline.headroom import run_headroom
from llmrec.pipeline.promotion import decisions, gate_table
from llmrec.pipeline.result import SFT, RunResult, label
from llmrec.pipeline.wording import run_language
from llmrec.printing import short_line

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


def card_header(run: RunResult) -> dict[str, Any]:
    """The Hub's metadata: tags, base model, the data set's repository, and the figures of what is handed on.

    The figures are those of the tables: ranking on held-out events, and value as simulated users have it.
    """
    manifest, algorithm = run.data.dataset.manifest, run.config.algorithm
    tags = ["recommender-system", "reinforcement-learning", algorithm.replace("_", "-"), manifest.domain, "llmrec"]
    header: dict[str, Any] = {
        "library_name": "llmrec",
        "pipeline_tag": "text-generation",
        "language": [run_language(run.config, run.data.dataset)],
        "tags": tags,
    }
    if run.base.published is not None:
        whole = run.base.gguf is not None or (run.deployed is not None and (run.deployed / "model").is_dir())
        header["base_model"] = run.base.published
        header["base_model_relation"] = "adapter" if run.sft.has_adapter and not whole else "finetune"
    if manifest.hub:
        header["datasets"] = [manifest.hub.partition("@")[0]]
    return header | {"model-index": eval_results_to_model_index(short_line(manifest.name), eval_results(run))}


def eval_results(run: RunResult) -> list[EvalResult]:
    """The figures of what is handed on, as the Hub has them."""
    manifest = run.data.dataset.manifest
    handed = label(run.config.algorithm) if run.improved else SFT
    repository, _, commit = manifest.hub.partition("@")
    # a data set that is nowhere on the Hub has no name there, and may be called as it likes
    kind = repository or re.sub(r"[^a-z0-9_.-]+", "-", manifest.name.lower()).strip("-") or "own"
    shared: dict[str, Any] = {
        "dataset_type": kind,
        "dataset_name": short_line(manifest.name),
        "dataset_split": "test",
        "dataset_revision": commit or manifest.content_hash[:16],
    }
    tables = [
        ("recommendation", "Next item among the whole catalogue", run.tables.ranking),
        *(
            (f"recommendation-{name}", f"Slates to simulated users, as the {name} has it", t)
            for name, t in run.tables.judged.items()
        ),
    ]
    return [
        EvalResult(
            task_type=task,
            task_name=told,
            metric_type=re.sub(r"\W+", "_", metric.lower().replace("@", "_at_")).strip("_"),
            metric_name=metric,
            metric_value=float(cell.mean),
            **shared,
        )
        for task, told, table in tables
        for metric, cell in table.cells.get(handed, {}).items()
    ]


def model_card(run: RunResult, command: str) -> str:
    """README.md of the run folder, with the Hub's metadata header."""
    manifest = run.data.dataset.manifest
    tables = [run.tables.ranking, *run.tables.judged.values()]
    gate = gate_table(run.improvement.checkpoints, run.config.gate)
    tables += [gate] if gate is not None else []
    return CARD.format(
        header=yaml.safe_dump(card_header(run), sort_keys=False, allow_unicode=True),
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
