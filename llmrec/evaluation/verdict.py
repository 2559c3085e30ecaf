"""Sentences that say what a comparison shows, and what it does not."""

from __future__ import annotations

from dataclasses import dataclass

from llmrec.errors import RequestError
from llmrec.evaluation.table import Comparison


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a comparison shows.

    Attributes:
        outcome: "gain", "none" or "loss" on the judged measure; of a whole run "gain" only if it is improved.
        sentence: says it with its numbers.
        reasons: of a whole run, why it is not called improved.
    """

    outcome: str
    sentence: str
    reasons: tuple[str, ...] = ()


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
    outcome = {"▲": "gain", "▼": "loss", "": "none"}[cell.mark]
    head = {"gain": "Significant gain", "loss": "Significant loss", "none": "No significant gain"}[outcome]
    relative = f", {100 * (cell.mean / before - 1):+.1f}%".replace("-", "−") if before > 0 else ""
    sentence = (
        f"{head}: the judged {simulated.label(metric)} goes from {simulated.number(metric, before)} "
        f"({simulated.reference}) to {simulated.number(metric, cell.mean)} ({after}{relative}; paired 95% interval "
        f"of the difference {simulated.interval(metric, cell.difference, sign=True)})."
    )
    return Verdict(outcome, " ".join(filter(None, [sentence, _ranking_sentence(ranking, after, ranking_metric)])))


def run_verdict(
    judged: Verdict, *, promoted: bool, promotion: str, ranking_kept: bool, ranking: str, kept: str
) -> Verdict:
    """Whether a whole run may be called improved, on the test period that decided nothing before.

    It may if a checkpoint was promoted, the judge's gain on the test period is significant, and the ranking of
    held-out events has not fallen by more than is tolerated.

    Args:
        judged: `verdict` of the promoted checkpoint, or of the last one where none was promoted.
        promoted: whether there is a promoted checkpoint.
        promotion: the sentence on what was promoted.
        ranking_kept: whether the ranking on test events is within the tolerance.
        ranking: how the ranking changed, as a clause.
        kept: the system that is handed on where the run is not improved.
    """
    if not promoted:
        after = f"Without the gate, the last checkpoint would have been handed on. {judged.sentence}"
        return Verdict("none", f"Not improved. {promotion} {after}", (promotion,))
    reasons = []
    if judged.outcome != "gain":
        reasons.append("The judge sees no significant gain on the test period.")
    if not ranking_kept:
        reasons.append(f"On the test period {ranking}.")
    if not reasons:
        return Verdict("gain", f"Improved. {judged.sentence}")
    outcome = "loss" if judged.outcome == "loss" else "none"
    why = " ".join(reasons)
    return Verdict(outcome, f"Not improved, so {kept} is handed on. {why} {judged.sentence}", tuple(reasons))


def what_got_worse(tables: list[Comparison], system: str) -> list[str]:
    """One sentence for each figure of `system` that is significantly worse than its table's reference."""
    sentences = []
    for table in tables:
        for metric, cell in table.cells.get(system, {}).items():
            if cell.difference is None:
                continue
            if cell.mark == ("▲" if metric in table.lower_is_better else "▼"):
                before = table.cells[table.reference or ""][metric].mean
                sentences.append(
                    f"{table.label(metric)} ({table.title}): {table.number(metric, before)} → "
                    f"{table.number(metric, cell.mean)}, paired 95% interval of the difference "
                    f"{table.interval(metric, cell.difference, sign=True)}."
                )
    return sentences


def coverage_losses(tables: list[Comparison], system: str) -> list[str]:
    """One sentence for each table in which `system` covers less of the catalogue than the reference.

    Coverage is a count over all rows, so it has no interval and stands apart from `what_got_worse`.
    """
    sentences = []
    for table in tables:
        row, base = (table.cells.get(name, {}) for name in (system, table.reference or ""))
        for metric, cell in row.items():
            if metric.startswith("coverage@") and cell.difference is None and metric in base:
                before, after = base[metric].mean, cell.mean
                if after < before:
                    sentences.append(
                        f"{table.label(metric)} ({table.title}): {table.number(metric, before)} → "
                        f"{table.number(metric, after)} of the catalogue (a count without an interval)."
                    )
    return sentences


def _ranking_sentence(ranking: Comparison | None, after: str, metric: str) -> str:
    cell = ranking.cells.get(after, {}).get(metric) if ranking is not None else None
    if ranking is None or cell is None or cell.difference is None:
        return ""
    before = ranking.cells[ranking.reference or ""][metric].mean
    change = {"▲": "rises significantly", "▼": "falls significantly", "": "does not change significantly"}[cell.mark]
    return (
        f"{metric} on held-out events {change}: {ranking.number(metric, before)} to "
        f"{ranking.number(metric, cell.mean)} (difference {ranking.interval(metric, cell.difference, sign=True)})."
    )
