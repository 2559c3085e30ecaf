"""What is odd about a data set that can be loaded, as a list of findings."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import polars as pl

from llmrec.dataset.rules import RULES, Severity, now_seconds
from llmrec.dataset.schema import first_true, show
from llmrec.dataset.store import Dataset
from llmrec.progress import track

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


def check(data: Dataset | Path, now: int | None = None) -> list[Finding]:
    """Findings of every rule, worst first; an empty list is a data set without a remark.

    Args:
        data: a data set or the folder of one; a folder that cannot be loaded raises `DataError`.
        now: the present in seconds since the epoch, for the rule about future times (None: the clock).
    """
    dataset = data if isinstance(data, Dataset) else Dataset.load(data)
    moment = now_seconds() if now is None else now
    findings = _whole(dataset)
    for rule in track(RULES, "Checking"):
        mask = rule.find(dataset, moment)
        row = first_true(mask)
        if row is not None:
            example = _example(getattr(dataset, rule.table), rule.table, row)
            findings.append(Finding(rule.name, rule.table, int(mask.sum()), example, rule.severity, rule.meaning))
    rank = {"error": 0, "warning": 1, "info": 2}
    return sorted(findings, key=lambda finding: rank[finding.severity])


def _example(frame: pl.DataFrame, table: str, row: int) -> str:
    values = ", ".join(f"{name} {show(frame[name][row], 40)}" for name in _SHOWN[table])
    return f"row {row}: {values}"


def _whole(dataset: Dataset) -> list[Finding]:
    """Findings about the data set as a whole: nothing to learn from, stand-ins that no sentence explains."""
    manifest, events = dataset.manifest, dataset.events
    findings = []
    for which, severity in (("click", "error"), ("conversion", "warning")):
        rule = manifest.signal(which)
        if not events.select(rule.mask().any()).item():
            meaning = f"no event stands for a {which} (the manifest says {which} = {rule})"
            findings.append(Finding(f"no-{which}s", "events", events.height, "", severity, meaning))  # type: ignore[arg-type]
    stand_ins = [w for w in ("click", "conversion") if manifest.signal(w).kind != w]
    if stand_ins and not manifest.proxy:
        meaning = f"{' and '.join(stand_ins)} are stand-ins, but the manifest's 'proxy' does not say so for reports"
        findings.append(Finding("proxy-unexplained", "manifest", 1, "", "warning", meaning))
    return findings
