"""Sentences that say what a comparison shows, and what it does not."""

from __future__ import annotations

from dataclasses import dataclass, replace

from llmrec.errors import RequestError
from llmrec.evaluation.table import Comparison
from llmrec.evaluation.variety import Variety


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a comparison shows.

    Attributes:
        outcome: "gain", "none" or "loss" on the judged measure; of a whole run "gain" only if it is improved.
        sentence: says it with its numbers.
        reasons: of a whole run, why it is not called improved.
        figures: the numbers alone, in a sentence that does not judge.
        caveats: of a run that is improved, what speaks against using it as it is.
        relative: the difference as a share of the reference; None where that is not above 0.
        trade: where the ranking of held-out events fell significantly, how far, as a clause; else nothing.
    """

    outcome: str
    sentence: str
    reasons: tuple[str, ...] = ()
    figures: str = ""
    caveats: tuple[str, ...] = ()
    relative: float | None = None
    trade: str = ""

    @property
    def tone(self) -> str:
        """The outcome, or "caution" where a gain has a caveat: how a page colours it."""
        return "caution" if self.outcome == "gain" and self.caveats else self.outcome

    def beside(self, witnessed: Comparison, *, after: str, metric: str = "value") -> Verdict:
        """The same, with what logged feedback makes of the judged figures; it decides nothing."""
        moved = _goes(witnessed, after, metric)
        said = f"Put right by logged feedback on such lists, the judged {witnessed.label(metric)} {moved}."
        return replace(self, sentence=_said(self.sentence, said), figures=_said(self.figures, said))


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
    figures = f"he judged {simulated.label(metric)} {_goes(simulated, after, metric)}."
    outcome = {"▲": "gain", "▼": "loss", "": "none"}[simulated.cells[after][metric].mark]
    head = {"gain": "Significant gain", "loss": "Significant loss", "none": "No significant gain"}[outcome]
    ranked = _ranking_sentence(ranking, after, ranking_metric)
    return Verdict(
        outcome,
        " ".join(filter(None, [f"{head}: t{figures}", ranked])),
        figures=" ".join(filter(None, [f"T{figures}", ranked])),
        relative=_share(simulated, after, metric),
        trade=_fall(ranking, after, ranking_metric),
    )


def run_verdict(
    judged: Verdict,
    *,
    promoted: bool,
    promotion: str,
    ranking_kept: bool,
    ranking: str,
    kept: str,
    variety: tuple[Variety, Variety] | None = None,
    after: str = "",
    smallest_gain: float = 0.0,
) -> Verdict:
    """Whether a whole run may be called improved, on the test period that decided nothing before.

    It may if a checkpoint was promoted, the judge's gain on the test period is significant and not smaller than what
    is of interest, and the ranking of held-out events has not fallen by more than is tolerated. Where that ranking
    fell significantly all the same, the run traded one for the other and is not called improved without saying so.
    One list for everybody is named in the same breath.

    Args:
        judged: `verdict` of the promoted checkpoint, or of the last one where none was promoted.
        promoted: whether there is a promoted checkpoint.
        promotion: the sentence on what was promoted.
        ranking_kept: whether the ranking on test events is within the tolerance.
        ranking: how the ranking changed, as a clause.
        kept: the system that is handed on where the run is not improved.
        variety: how far lists differ between users, of `kept` and of `after`.
        after: the system after reinforcement learning.
        smallest_gain: the smallest gain of interest, in percent of the judged figure of `kept`.
    """
    reasons = _reasons(judged, promoted, promotion, ranking_kept, ranking, smallest_gain)
    lists = f"{kept}: {variety[0]}. {after}: {variety[1]}." if variety is not None else ""
    handed_on = None if variety is None else variety[1 if not reasons else 0]
    same = handed_on is not None and handed_on.one_for_all
    if not reasons:
        traded = f"Traded: the judged value {_moved(judged.relative)}, {judged.trade}." if judged.trade else ""
        caveats = (*([traded] if traded else []), *([f"{after} shows one list to everybody."] if same else []))
        too = f", as {kept} does" if variety is not None and variety[0].one_for_all else ""
        told = f"{after} shows one list to everybody{too}."
        if traded:
            head = _said(traded, told if same else "")
        else:
            head = f"Improved by the judge's figures, but {told}" if same else "Improved."
        wanted = f"The smallest gain of interest is {smallest_gain:g}%." if smallest_gain > 0 else ""
        sentence = _said(head, judged.sentence, wanted, lists)
        return Verdict(
            "gain", sentence, figures=judged.figures, caveats=caveats, relative=judged.relative, trade=judged.trade
        )
    also = f"{kept} shows one list to everybody, too." if same else ""
    if not promoted:
        found = "Without the gate, the last checkpoint would have been handed on."
        sentence = _said("Not improved.", promotion, found, judged.figures, also, lists)
        return Verdict("none", sentence, reasons, judged.figures)
    head = f"Not improved, so {kept} is handed on."
    outcome = "loss" if judged.outcome == "loss" else "none"
    return Verdict(outcome, _said(head, *reasons, judged.figures, also, lists), reasons, judged.figures)


def _reasons(
    judged: Verdict, promoted: bool, promotion: str, ranking_kept: bool, ranking: str, smallest_gain: float
) -> tuple[str, ...]:
    """Why a run is not improved; nothing if it is."""
    if not promoted:
        return (promotion,)
    found = []
    if judged.outcome != "gain":
        found.append("The judge sees no significant gain on the test period.")
    elif judged.relative is not None and 100 * judged.relative < smallest_gain:
        # By the estimate: whoever asks for a gain of interest wants one that is expected to be there, and an
        # interval wholly below it is below it all the more.
        found.append(
            f"The judged gain of {_percent(judged.relative)} on the test period is below the smallest gain of "
            f"interest, {smallest_gain:g}% (gate.smallest_gain)."
        )
    return (*found, *([] if ranking_kept else [f"On the test period {ranking}."]))


def _percent(share: float) -> str:
    return f"{100 * share:+.1f}%".replace("-", "−")


def _moved(relative: float | None) -> str:
    return "rises" if relative is None else f"rises by {100 * relative:.1f}%"


def _fall(ranking: Comparison | None, after: str, metric: str) -> str:
    """How far a ranking metric fell, where it did so significantly."""
    cell = ranking.cells.get(after, {}).get(metric) if ranking is not None else None
    if ranking is None or cell is None or cell.mark != "▼":
        return ""
    before = ranking.cells[ranking.reference or ""][metric].mean
    return f"{metric} on held-out events falls significantly, by {100 * (1 - cell.mean / before):.1f}%"


def _share(table: Comparison, after: str, metric: str) -> float | None:
    before = table.cells[str(table.reference)][metric].mean
    return table.cells[after][metric].mean / before - 1 if before > 0 else None


def _goes(table: Comparison, after: str, metric: str) -> str:
    """From where to where a figure goes, as a clause.

    Raises:
        RequestError: there is no paired difference of `after` and a reference on `metric`.
    """
    cell = table.cells.get(after, {}).get(metric)
    if table.reference is None or cell is None or cell.difference is None:
        raise RequestError(f"A verdict on {after!r} needs its paired difference in {metric!r} to a reference.")
    before, share = table.cells[table.reference][metric].mean, _share(table, after, metric)
    relative = "" if share is None else f", {_percent(share)}"
    return (
        f"goes from {table.number(metric, before)} ({table.reference}) to {table.number(metric, cell.mean)} "
        f"({after}{relative}; paired 95% interval of the difference "
        f"{table.interval(metric, cell.difference, sign=True)})"
    )


def _said(*sentences: str) -> str:
    return " ".join(filter(None, sentences))


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
