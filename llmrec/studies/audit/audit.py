"""An audit: the lists of any system on public rows, their faults and figures, and strong simple baselines beside.

A figure can be too good without anybody's ill will: rows left out, an item's neighbours counted as itself, a sample
of candidates in place of the catalogue, training on what came later. What a file alone can show is looked for; what
it cannot show is asked for (`trained_on`, `identifiers`, `tried`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import polars as pl

from llmrec.baselines.registry import baseline
from llmrec.dataset.examples import Examples, examples
from llmrec.dataset.split import Split
from llmrec.dataset.store import Dataset
from llmrec.errors import RequestError
from llmrec.evaluation.multiple import simultaneous
from llmrec.evaluation.offline import Ranking, rank_systems
from llmrec.evaluation.ranking import ranking_metrics, slates_to_items
from llmrec.evaluation.significance import Interval, bootstrap_means
from llmrec.printing import short_line
from llmrec.studies.answer import Answer, Sheet, signed
from llmrec.studies.audit.faults import (
    Finding,
    Matched,
    claims,
    collisions,
    flat_groups,
    leaks,
    list_faults,
    matched,
    sampled,
    tied_scores,
    told,
    tuned,
)
from llmrec.studies.audit.predictions import Predictions
from llmrec.types import FloatArray, IntArray, Ranker

BASELINES = ("popularity", "covisitation", "interpolation")
"""What stands beside every system: counts, what follows what, and a mixture of counts; fitted in seconds."""
SELECTION = 2000
"""Validation rows that baselines choose their settings on, at most."""
CUTOFFS = (1, 5, 10)


@dataclass(frozen=True)
class Audit:
    """What was found.

    Attributes:
        name: of the system.
        findings: faults and cautions, in the order of the checks.
        ranking: the system and the baselines on all test rows.
        best: the best baseline by NDCG at the longest cut-off.
        difference: of the system to it, over users; with settings that were tried, it holds for all of them at once.
        tried: how many files of settings were compared together, this one among them.
        facts: rows, cut-offs, split.
    """

    name: str
    findings: Sequence[Finding]
    ranking: Ranking
    best: str
    difference: Interval
    tried: int
    facts: Mapping[str, Any]

    @property
    def faults(self) -> list[Finding]:
        """What makes the figures wrong."""
        return [finding for finding in self.findings if finding.severity == "fault"]

    @property
    def verdict(self) -> str:
        """One sentence."""
        if self.faults:
            many = "a fault makes" if len(self.faults) == 1 else f"{len(self.faults)} faults make"
            return f"It does not hold as reported: {many} the figures another thing than they seem."
        k = self.facts["k"]
        against = f"NDCG@{k} less {self.best}'s {signed(self.difference)}"
        if self.difference.low > 0:
            return f"No fault was found, and it is significantly above the best simple baseline ({against})."
        where = "significantly below" if self.difference.high < 0 else "not told apart from"
        return f"No fault was found; it is {where} the best simple baseline ({against})."

    def answer(self) -> Answer:
        """For the terminal, Markdown and JSON."""
        rows = [(one.severity, one.kind, one.sentence) for one in self.findings]
        sheet = Sheet("What was found", ("", "kind", "what"), rows or [("", "", "nothing")])
        together = f" The interval holds for all {self.tried} settings at once (max-T)." if self.tried > 1 else ""
        sentences = [
            self.verdict + together,
            "Figures are of all test events over the whole catalogue; intervals are over users. Looked for was what "
            "a file can show; that nothing was found does not prove that nothing is there.",
        ]
        figures = {
            "verdict": self.verdict,
            "findings": [asdict(one) for one in self.findings],
            "table": self.ranking.to_json(),
            "best": self.best,
            "difference": asdict(self.difference),
            "tried": self.tried,
            **self.facts,
        }
        return Answer(f"Audit of {short_line(self.name)}", figures, (sheet, self.ranking), sentences)


def audit(
    predictions: Predictions,
    dataset: Dataset,
    split: Split,
    *,
    k: int = 10,
    trained_on: pl.DataFrame | None = None,
    identifiers: Mapping[str, str] | None = None,
    tried: Sequence[Predictions] = (),
    flat: FloatArray | None = None,
    seed: int = 0,
) -> Audit:
    """Audits the lists of one system.

    Args:
        predictions: the lists.
        dataset: the public rows.
        split: which of them are the test.
        k: the longest cut-off.
        trained_on: the events (user_id, item_id, time) that the system learnt from, if they are known.
        identifiers: what items were written as, by id, where a system writes identifiers.
        tried: lists of other settings that were tried; differences then hold for all at once.
        flat: of a training by reinforcement, the share of groups without any spread of reward, by rollout.
        seed: of intervals and baselines.

    Raises:
        DataError: no list belongs to the test part, or there is none.
        RequestError: a cut-off above the catalogue's size.
    """
    if not 1 <= k <= dataset.n_items:
        raise RequestError(f"-k is {k}; choose 1 to {dataset.n_items}, the catalogue's size.")
    test = examples(dataset, split, "test", limit=None, seed=seed)
    width = min(max(k, *(len(one.items_K) for one in predictions.rows)), dataset.n_items)
    found = matched(predictions, test, dataset, split, width)
    cutoffs = sorted({*(n for n in CUTOFFS if n <= k), k})
    lists = _baselines(dataset, split, test, k, seed)
    name = predictions.name if predictions.name not in lists else f"{predictions.name} (file)"
    ranking = rank_systems(
        {name: found.items_BK[:, :k], **lists}, test, dataset, k=cutoffs, reference=name, seed=seed, split=split.name
    )
    metric = f"NDCG@{k}"
    best = max(lists, key=lambda one: ranking.cells[one][metric].mean)
    measured = {
        m: ranking.cells[name][m].mean for m in ranking.metrics if m.partition("@")[0] in ("HR", "NDCG", "MRR")
    }
    first = max(ranking.cells[one]["HR@1"].mean for one in lists)
    findings = [
        *found.findings,
        *list_faults(found, dataset, k),
        *sampled(found, dataset),
        *tied_scores(found, k),
        *(collisions(found, identifiers, dataset, k) if identifiers else ()),
        *(leaks(dataset, trained_on, test, split.name) if trained_on is not None else ()),
        *tuned(predictions),
        *claims(predictions, measured),
        *told(found, first, k),
        *(flat_groups(flat) if flat is not None else ()),
    ]
    others = [matched(other, test, dataset, split, width) for other in tried]
    difference = _difference([found, *others], lists[best], test, k, seed)
    facts = {
        "k": k,
        "split": split.name,
        "rows": {"test": len(test), "with a list": int(found.given_B.sum())},
        "dataset": dataset.manifest.name,
        "dataset_hash": dataset.manifest.content_hash,
    }
    return Audit(name, findings, ranking, best, difference, 1 + len(others), facts)


def _baselines(dataset: Dataset, split: Split, test: Examples, k: int, seed: int) -> dict[str, IntArray]:
    """Lists of simple baselines: settings chosen on the validation part, then fitted on all before the test."""
    valid = examples(dataset, split, "valid", limit=SELECTION, seed=seed)
    states = [example.state for example in test]
    lists: dict[str, IntArray] = {}
    for name in BASELINES:
        spec = baseline(name)
        if not spec.available:
            continue
        chosen = spec.chosen(dataset, split.train, valid, seed=seed, k=k)
        settings = spec.settings if chosen is None else chosen.settings
        model: Ranker = spec.make(settings, seed).fit(dataset, split.until("valid"))
        lists[name] = slates_to_items(model.recommend(states, k, seen=test.seen), k)
    return lists


def _difference(sides: Sequence[Matched], base_BK: IntArray, test: Examples, k: int, seed: int) -> Interval:
    """NDCG@k of the first side less the baseline's; the interval holds for all sides at once."""
    targets_B = np.array([example.target for example in test], dtype=np.int64)
    users: list[object] = [(row,) if e.state.user_id is None else e.state.user_id for row, e in enumerate(test)]

    def gains(items_BK: IntArray) -> FloatArray:
        return ranking_metrics(items_BK[:, :k], targets_B, k=(k,)).per_row[f"NDCG@{k}"]

    base_B = gains(base_BK)
    apart = [gains(side.items_BK) - base_B for side in sides]
    # one name for all of them: the same users are drawn, sample by sample
    draws = np.stack([bootstrap_means(one_B, users=users, seed=seed, name=("audit",)) for one_B in apart])
    means = [float(one_B.mean()) for one_B in apart]
    if len(sides) > 1:
        return simultaneous(means, draws)[0]
    low, high = np.quantile(draws[0], [0.025, 0.975])
    return Interval(means[0], float(low), float(high), 0.95)
