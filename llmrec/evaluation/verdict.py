"""Sentences that say what a comparison shows, and what it does not."""

from __future__ import annotations

from dataclasses import dataclass

from llmrec.errors import RequestError
from llmrec.evaluation.table import Comparison


@dataclass(frozen=True, slots=True)
class Verdict:
    """`outcome` is "gain", "none" or "loss" on the judged measure; `sentence` says it with its numbers."""

    outcome: str
    sentence: str


def verdict(
    simulated: Comparison,
    ranking: Comparison | None,
    *,
    after: str,
    metric: str = "value",
    ranking_metric: str = "NDCG@10",
) -> Verdict:
    """Whether `after` beats the reference of `simulated` on `metric`, and what that did to the ranking.

    Args:
        simulated: judged figures; its reference is the system before reinforcement learning.
        ranking: offline figures on held-out events with the same reference, or None.
        after: the system after reinforcement learning.
        metric: the judged measure that decides.
        ranking_metric: the offline measure that is named beside it.

    Raises:
        RequestError: there is no paired difference of `after` and a reference on `metric`.
    """
    cell = simulated.cells.get(after, {}).get(metric)
    if simulated.reference is None or cell is None or cell.difference is None:
        raise RequestError(f"A verdict on {after!r} needs its paired difference in {metric!r} to a reference.")
    before = simulated.cells[simulated.reference][metric].mean
    outcome = "gain" if cell.difference.above_zero else "loss" if cell.difference.below_zero else "none"
    head = {"gain": "Significant gain", "loss": "Significant loss", "none": "No significant gain"}[outcome]
    relative = f", {100 * (cell.mean / before - 1):+.1f}%".replace("-", "−") if before > 0 else ""
    sentence = (
        f"{head}: the judged {simulated.label(metric)} goes from {simulated.number(metric, before)} "
        f"({simulated.reference}) to {simulated.number(metric, cell.mean)} ({after}{relative}; paired 95% interval "
        f"of the difference {simulated.interval(metric, cell.difference, sign=True)})."
    )
    return Verdict(outcome, " ".join(filter(None, [sentence, _ranking_sentence(ranking, after, ranking_metric)])))


def what_got_worse(tables: list[Comparison], system: str) -> list[str]:
    """One sentence for each figure of `system` that is significantly worse than its table's reference."""
    sentences = []
    for table in tables:
        for metric, cell in table.cells.get(system, {}).items():
            if cell.difference is None:
                continue
            lower = metric in table.lower_is_better
            if cell.difference.above_zero if lower else cell.difference.below_zero:
                before = table.cells[table.reference or ""][metric].mean
                sentences.append(
                    f"{table.label(metric)} ({table.title}): {table.number(metric, before)} → "
                    f"{table.number(metric, cell.mean)}, paired 95% interval of the difference "
                    f"{table.interval(metric, cell.difference, sign=True)}."
                )
    return sentences


def _ranking_sentence(ranking: Comparison | None, after: str, metric: str) -> str:
    cell = ranking.cells.get(after, {}).get(metric) if ranking is not None else None
    if ranking is None or cell is None or cell.difference is None:
        return ""
    before = ranking.cells[ranking.reference or ""][metric].mean
    change = (
        "rises significantly"
        if cell.difference.above_zero
        else "falls significantly"
        if cell.difference.below_zero
        else "does not change significantly"
    )
    return (
        f"{metric} on held-out events {change}: {ranking.number(metric, before)} to "
        f"{ranking.number(metric, cell.mean)} (difference {ranking.interval(metric, cell.difference, sign=True)})."
    )
