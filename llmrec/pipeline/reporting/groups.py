"""Who gained and who lost: the improved policy against SFT within groups of users and of items."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from llmrec.dataset.examples import Examples
from llmrec.evaluation.beyond import ItemFacts
from llmrec.evaluation.groups import FEW, Groups, families, group_table
from llmrec.evaluation.resampling import Resampler
from llmrec.evaluation.table import Comparison
from llmrec.pipeline.result import SFT, RunResult
from llmrec.types import Example, FloatArray

OF_ITEMS = "item training clicks"
"""The family of groups that a held-out target decides, which deployed slates do not have."""


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
        *tables(f"{metric} on held-out events", metric, ranked, families(examples, facts), users, draw),
        *tables("Value of deployed slates as the judge expects it", "value", judged, of_users, None, draw),
    ]


def tables(
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
            yield replace(
                told.table, note=f"Groups of fewer than {FEW} rows are left out." if len(large) < len(groups) else ""
            )
