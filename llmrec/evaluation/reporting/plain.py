"""A report in words for somebody who decides and does not measure: one sentence, what it covers, what to do next."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from llmrec.evaluation.reporting.contents import RunReport
from llmrec.evaluation.table import Comparison


@dataclass(frozen=True, slots=True)
class PlainWords:
    """What a run brought.

    Attributes:
        sentence: what changed for people and what it cost, in numbers that need no glossary.
        coverage: how much of the catalogue is shown, before and after; "" where that was not measured.
        next: what to do now.
        tone: "gain", "caution", "none" or "loss".
    """

    sentence: str
    coverage: str
    next: tuple[str, ...]
    tone: str


def plain_words(report: RunReport) -> PlainWords | None:
    """The words for a report; None where it holds no verdict, or not the two systems that it is on."""
    before, after = report.slate_names
    judged = _table(report, "click_rate", before, after)
    ranking = _table(report, "HR@", before, after)
    if report.verdict is None or judged is None:
        return None
    gained = report.verdict.outcome == "gain"
    parts = ", ".join(filter(None, (_shown(judged, before, after), _found(ranking, before, after, gained))))
    head = (
        f"With {after}, which is handed on,"
        if gained
        else f"{before} is handed on, since no gain of {after} held up; with {after}"
    )
    coverage = _coverage(ranking, before, after)
    return PlainWords(f"{head} {parts}.", coverage, tuple(_next(report, before, after)), report.verdict.tone)


def _table(report: RunReport, metric: str, *systems: str) -> Comparison | None:
    """The first table that has a metric of this beginning for all systems."""
    for table in report.tables:
        if all(any(m.startswith(metric) for m in table.cells.get(system, {})) for system in systems):
            return table
    return None


def _shown(judged: Comparison, before: str, after: str) -> str:
    said = []
    for metric, verb in (("click_rate", "click"), ("conversion_rate", "buy (convert)")):
        if all(metric in judged.cells[system] for system in (before, after)):
            one, two = (f"{100 * judged.cells[system][metric].mean:.1f}" for system in (before, after))
            said.append(f"{verb} {two} as before" if one == two else f"{verb} {two} instead of {one}")
    return f"a judge that simulates people expects them to {' and '.join(said)} of 100 items that they are shown"


def _found(ranking: Comparison | None, before: str, after: str, gained: bool) -> str:
    """Of what people really chose later, the share that stands in the lists."""
    if ranking is None:
        return ""
    metric = next(m for m in reversed(ranking.metrics) if m.startswith("HR@"))
    one, two = (100 * ranking.cells[system][metric].mean for system in (before, after))
    k = metric.removeprefix("HR@")
    mark = ranking.cells[after][metric].mark
    sure = " (which may be chance)" if ranking.cells[after][metric].difference is not None and not mark else ""
    join = "but" if gained and mark == "▼" else "and"
    return (
        f"{join} lists of {k} hold {two:.0f} instead of {one:.0f} of 100 things that people really chose later{sure}"
    )


def _coverage(ranking: Comparison | None, before: str, after: str) -> str:
    if ranking is None:
        return ""
    metric = next((m for m in reversed(ranking.metrics) if m.startswith("coverage@")), None)
    if metric is None:
        return ""
    one, two = (ranking.cells[system][metric].mean for system in (before, after))
    return (
        f"All of these lists of {metric.removeprefix('coverage@')} together show {two:.0%} of the catalogue, "
        f"{_direction(one, two)}."
    )


def _direction(one: float, two: float) -> str:
    if f"{one:.0%}" == f"{two:.0%}":
        return "as before"
    return f"{'up' if two > one else 'down'} from {one:.0%}"


def _next(report: RunReport, before: str, after: str) -> Iterator[str]:
    verdict = report.verdict
    assert verdict is not None
    if verdict.outcome != "gain":
        yield (
            f"Use {before}. Before training again, look at the trust gate and the pilot below: they say whether the "
            "reward could have brought more."
        )
        yield "More events, or another reward or KL coefficient, can change this; more steps alone seldom do."
        return
    if verdict.caveats:
        said = " ".join(caveat.removeprefix("Traded: ") for caveat in verdict.caveats)
        yield f"Decide whether this is wanted: {said}"
    if report.worse:
        count = len(report.worse)
        yield f"Read what got worse below ({count} figure{'s' if count > 1 else ''}), and for which groups."
    yield (
        f"Then show {after} to a small part of real users beside {before}: gains here are simulated, only such a "
        "test says what people do."
    )
