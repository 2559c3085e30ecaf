"""The model card of a run folder: what it is, how to use it, its numbers and its limits."""

from __future__ import annotations

from typing import Any

import yaml

from llmrec.evaluation.table import code, markdown
from llmrec.pipeline.algorithms import ALGORITHMS
from llmrec.pipeline.data_check import funnels
from llmrec.pipeline.promotion import decisions, gate_table
from llmrec.pipeline.result import RunResult
from llmrec.pipeline.trust import who_judges
from llmrec.pipeline.wording import run_language

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
- Feedback of the training part: {feedback}.
- Command: {command}, seed {seed}. The whole configuration is in `config.yaml`, every figure in `metrics.json`.
- {judge}
- {promotion}
{decisions}

## Limits

Rewards and judged figures are simulated. {rates}

Offline ranking metrics favour what was logged. Before real users see its recommendations, compare it with the
baselines of the table in an experiment. This folder holds the catalogue's texts and no user's rows. {terms}
"""


def model_card(run: RunResult, command: str) -> str:
    """README.md of the run folder, with the Hub's metadata header."""
    manifest = run.data.dataset.manifest
    header: dict[str, Any] = {
        "library_name": "llmrec",
        "pipeline_tag": "text-generation",
        "language": [run_language(run.config, run.data.dataset)],
        "tags": ["recommender-system", "reinforcement-learning", run.config.algorithm.replace("_", "-"), "llmrec"],
    }
    if not run.base.nano:
        header["base_model"] = run.base.name
    tables = [run.tables.ranking, *run.tables.deployed.values()]
    gate = gate_table(run.improvement.checkpoints, run.config.gate)
    tables += [gate] if gate is not None else []
    return CARD.format(
        header=yaml.safe_dump(header, sort_keys=False, allow_unicode=True),
        name=markdown(manifest.name),
        items=run.data.dataset.n_items,
        improved=_improved(run),
        verdict=markdown(run.verdict.sentence),
        tables="\n".join(f"### {markdown(t.title)}\n\n{t.to_markdown()}" for t in tables),
        base="a small Qwen3-architecture model made from this data set's own texts"
        if run.base.nano
        else code(run.base.name),
        counts=", ".join(f"{v:,} {k}" for k, v in manifest.counts.items() if k in ("items", "users", "events")),
        hash=manifest.content_hash[:16],
        proxy=markdown(manifest.proxy),
        feedback=markdown(str(funnels(run.config, run.data.dataset, run.data.split)["train"])),
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
    return f"improved by {by}" + (" with LoRA" if run.config.improvement.weights == "lora" else "")
