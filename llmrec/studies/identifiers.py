"""Identifier schemes side by side: an ablation whose sides write items in other ways, with what each way costs.

Sides are chosen on the validation rows. The test rows are asked once, for sides whose settings are fixed by then; the
training period may then reach to their beginning.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llmrec.baselines import Covisitation, Popularity
from llmrec.config import RunConfig
from llmrec.config_tree import Overrides, override_tree, parse_overrides
from llmrec.evaluation.offline import rank_systems
from llmrec.pipeline.data import RunData
from llmrec.studies.ablations import Ablation, facts_sheet, record, run_ablation
from llmrec.studies.answer import Answer
from llmrec.studies.study import Pooled
from llmrec.studies.warm_starts import AblationSettings, SideSettings
from llmrec.types import Ranker

SIDES: dict[str, Overrides] = {
    "title": {},
    "semantic": {"identifiers.scheme": "semantic", "text.history": "id"},
    "atomic": {"identifiers.scheme": "atomic", "text.history": "id"},
}
"""Names, and what each changes, where none are given."""
COVISITATION = "covisitation"
METRICS = ("HR@5", "HR@10", "NDCG@5", "NDCG@10", "coverage@10")


def compare_identifiers(
    *,
    dataset: str,
    out: Path,
    source: str | Path | None = None,
    sides: Sequence[Sequence[str]] | None = None,
    test: bool = False,
    limit: int | None = None,
    overrides: Overrides | None = None,
    json_file: Path | None = None,
) -> dict[str, Any]:
    """Trains every side that is not trained yet, ranks all on the same rows and returns the figures.

    Args:
        dataset: an importer's name, folder, or world.
        out: trained sides are kept here.
        source: of the data set; that of amazon-minionerec by default LLMREC_DATA/amazon-industrial.
        sides: a name and KEY=VALUE texts each; `SIDES` by default.
        test: train on everything before the test rows and rank those, instead of the validation rows.
        limit: rank a uniform sample of this many rows.
        overrides: values by key for all sides, `seed` among them.
        json_file: the figures are also written here.

    Raises:
        ConfigError: sides that do not agree, or settings that cannot be used.
    """
    if source is None and dataset == "amazon-minionerec" and os.environ.get("LLMREC_DATA"):
        source = Path(os.environ["LLMREC_DATA"]) / "amazon-industrial"
    named = {"data.dataset": dataset} | ({} if source is None else {"data.source": source})
    common: dict[str, Any] = {**named, **(overrides or {})}
    chosen = {name: parse_overrides(own, RunConfig) for name, *own in sides} if sides else SIDES
    settings = AblationSettings(
        seeds=(int(common.pop("seed", 0)),),
        sides={name: SideSettings(set=override_tree(own)) for name, own in chosen.items()},
        part="test" if test else "valid",
        until_part=test,
        limit=limit,
    )
    ablation = Ablation.of(settings, common, "the command line")
    return run_ablation(ablation, out, json_file=json_file, baselines=_baselines, answer=_answer)


def _baselines(config: RunConfig, data: RunData) -> dict[str, Ranker]:
    return {
        "popularity": Popularity(seed=config.seed).fit(data.dataset, data.split.train),
        COVISITATION: Covisitation(seed=config.seed).fit(data.dataset, data.split.train),
    }


def _answer(ablation: Ablation, found: Pooled) -> Answer:
    """The table of all figures twice: against the first side, and against co-visitation."""
    (one,) = found.seeds
    lists, shared = one.facts["lists"], one.facts["shared"]
    tables = [
        rank_systems(
            lists, shared.rows, shared.data.dataset, k=ablation.settings.k, reference=reference, seed=one.seed
        )
        for reference in (ablation.base, COVISITATION)
    ]
    figures = {"tables": [table.to_json() for table in tables], **record(ablation, found)}
    shown = [table.select(METRICS) for table in tables]
    return Answer("Ways of writing items", figures, (facts_sheet(one.facts["sides"]), *shown))
