"""What is odd about a data set that can be loaded, as a list of findings."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from llmrec.dataset.linking import LINK_WINDOW, Funnel, span
from llmrec.dataset.rules import RULES, Severity, now_seconds
from llmrec.dataset.scales import Scale, rating_scale
from llmrec.dataset.schema import first_true, show
from llmrec.dataset.store import Dataset
from llmrec.progress import track

NEARLY_ALL = 0.95
"""Share of the ratings from which on a rule for conversions says hardly more than a click."""
_SHOWN = {
    "items": ("item_id", "title"),
    "users": ("user_id", "profile"),
    "events": ("user_id", "item_id", "kind", "time", "value"),
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One rule that found something: how many rows of which table, and the first of them.

    `severity`: info (worth knowing), warning (may harm), error (the data set cannot be trained on).
    """

    rule: str
    table: str
    count: int
    example: str
    severity: Severity
    meaning: str = ""


def check(data: Dataset | Path, now: int | None = None, link_window: int = LINK_WINDOW) -> list[Finding]:
    """Findings of every rule, worst first; an empty list is a data set without a remark.

    Args:
        data: a data set or the folder of one; a folder that cannot be loaded raises `DataError`.
        now: the present in seconds since the epoch, for the rule about future times (None: the clock).
        link_window: seconds within which feedback is joined (see `llmrec.dataset.linking`).
    """
    dataset = data if isinstance(data, Dataset) else Dataset.load(data)
    moment = now_seconds() if now is None else now
    findings = check_signals(dataset, link_window)
    for rule in track(RULES, "Checking"):
        mask = rule.find(dataset, moment)
        row = first_true(mask)
        if row is not None:
            example = _example(getattr(dataset, rule.table), rule.table, row)
            findings.append(Finding(rule.name, rule.table, int(mask.sum()), example, rule.severity, rule.meaning))
    return _worst_first(findings)


def _worst_first(findings: list[Finding]) -> list[Finding]:
    rank = {"error": 0, "warning": 1, "info": 2}
    return sorted(findings, key=lambda finding: rank[finding.severity])


def _example(frame: pl.DataFrame, table: str, row: int) -> str:
    values = ", ".join(f"{name} {show(frame[name][row], 40)}" for name in _SHOWN[table])
    return f"row {row}: {values}"


def check_signals(dataset: Dataset, link_window: int = LINK_WINDOW, funnel: Funnel | None = None) -> list[Finding]:
    """Findings about what stands for clicks and conversions: whether it occurs, fits the scale and hangs together.

    Args:
        dataset: the data set.
        link_window: seconds within which feedback is joined.
        funnel: the counts of all its events, where they are at hand.
    """
    ratings = dataset.events.filter(pl.col("kind") == "rating")["value"]
    scale = rating_scale(ratings)
    found = [*_absent(dataset, scale), *_unused(dataset), *_off_scale(dataset, ratings, scale)]
    found += check_links(funnel or Funnel.of(dataset, window=link_window))
    manifest = dataset.manifest
    stand_ins = [w for w in ("click", "conversion") if manifest.signal(w).kind != w]
    if stand_ins and not manifest.proxy:
        meaning = f"{' and '.join(stand_ins)} are stand-ins, but the manifest's 'proxy' does not say so for reports"
        found.append(Finding("proxy-unexplained", "manifest", 1, "", "warning", meaning))
    return _worst_first(found)


def _absent(dataset: Dataset, scale: Scale | None) -> Iterator[Finding]:
    """Signals that no event stands for."""
    severities: tuple[tuple[str, Severity], ...] = (("click", "error"), ("conversion", "warning"))
    for which, severity in severities:
        rule = dataset.manifest.signal(which)
        if dataset.events.select(rule.mask().any()).item():
            continue
        mend = ""
        if rule.kind == "rating" and scale is not None:
            mend = f"; {scale}, so import anew with a rule such as rating>={scale.conversion:g}"
        meaning = f"no event stands for a {which} (the manifest says {which} = {rule}){mend}"
        yield Finding(f"no-{which}s", "events", dataset.events.height, "", severity, meaning)


def _unused(dataset: Dataset) -> Iterator[Finding]:
    """Conversions that no rule reads."""
    count = dataset.manifest.counts.get("conversion", 0)
    if count and "conversion" not in {dataset.manifest.signal(which).kind for which in ("click", "conversion")}:
        meaning = (
            "events of the kind conversion stand for nothing by the manifest's rules; import anew with conversion"
        )
        meaning += " = conversion, or with click = conversion as well"
        yield Finding("unused-conversions", "events", count, "", "warning", meaning)


def _off_scale(dataset: Dataset, ratings: pl.Series, scale: Scale | None) -> Iterator[Finding]:
    """Rules about ratings that their scale speaks against."""
    if scale is None:
        return
    for which in ("click", "conversion"):
        rule = dataset.manifest.signal(which)
        if rule.kind == "rating" and scale.least is not None and (rule.at_least is None or rule.at_least <= 0):
            meaning = (
                f"{scale}, but {which} = {rule} counts a 0 as a {which}; import anew with {which} = {scale.click}"
            )
            yield Finding(f"zero-{which}s", "events", int((ratings == 0).sum()), "", "warning", meaning)
    rule = dataset.manifest.signal("conversion")
    if rule.kind != "rating" or rule.at_least is None:
        return
    reached = int((ratings >= rule.at_least).sum())
    rated = int((ratings >= (scale.low if scale.least is None else scale.least)).sum())
    better = f"a rule such as rating>={scale.conversion:g} tells more"
    if reached and reached >= NEARLY_ALL * rated:
        said = (
            f"conversion = {rule} holds for {reached / rated:.0%} of the ratings, so it hardly differs from a click"
        )
        meaning = f"{said}; {better}" if scale.conversion > rule.at_least else said
        yield Finding("conversion-nearly-always", "events", reached, "", "warning", meaning)
    elif reached and scale.kind == "graded" and rule.at_least < scale.middle:
        meaning = f"conversion = {rule} begins in the lower half of the scale ({scale}); {better}"
        yield Finding("conversion-of-low-ratings", "events", reached, "", "warning", meaning)


def check_links(funnel: Funnel, where: str = "") -> Iterator[Finding]:
    """Feedback that belongs to nothing shown or clicked, so that no reward sees it; `where` says of what part."""
    within = f"at one time, in one session or within {span(funnel.window)}"
    clicks, conversions = funnel.clicks - funnel.clicks_linked, funnel.conversions - funnel.linked
    if not funnel.clicks:  # said by "no-clicks"
        return
    if clicks:
        severity = _lost(clicks, funnel.clicks)
        meaning = (
            f"{_of(clicks, funnel.clicks)} clicks {where}belong to no impression of their user and item {within}"
        )
        mend = "; give a longer data.link_window or mend the ids" if severity == "error" else ""
        yield Finding("unlinked-clicks", "events", clicks, "", severity, meaning + mend)
    if conversions:
        severity = _lost(conversions, funnel.conversions)
        why = f"{funnel.late:,} come later, {funnel.unclicked:,} have no click before"
        why += f", {funnel.unshown:,} have a click that was never shown" if funnel.unshown else ""
        lost = f"{_of(conversions, funnel.conversions)} conversions {where}"
        meaning = f"{lost}belong to no click of their user and item {within}"
        mend = "; give a longer data.link_window, or let a conversion stand for a click as well"
        meaning += f" ({why}), so no reward sees them{mend if severity == 'error' else ''}"
        yield Finding("unlinked-conversions", "events", conversions, "", severity, meaning)


def _lost(part: int, whole: int) -> Severity:
    return "error" if part == whole else "warning" if part > whole / 2 else "info"


def _of(part: int, whole: int) -> str:
    return f"all {whole:,}" if part == whole else f"{part:,} of {whole:,}"
