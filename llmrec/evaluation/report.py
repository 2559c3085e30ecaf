"""The report of a run: report.json with its contents, Markdown with figures beside it, and one HTML page."""

from __future__ import annotations

from pathlib import Path

from llmrec.evaluation.reporting.contents import DataFacts, MeasuredRows, RewardModelFacts, RunReport, SlateChange
from llmrec.evaluation.reporting.page import Page
from llmrec.evaluation.reporting.record import RECORD, write_record
from llmrec.evaluation.reporting.reported_run import ReportedRun
from llmrec.evaluation.reporting.write import write_page

__all__ = ["DataFacts", "MeasuredRows", "RewardModelFacts", "RunReport", "SlateChange", "write_report"]


def write_report(folder: Path, report: RunReport, *, absent: tuple[str, ...] = ()) -> tuple[Path, Path]:
    """Writes report.json, report.md (with figures/*.svg) and report.html into `folder`.

    Args:
        folder: where; each file is written whole or not at all.
        report: the contents.
        absent: sentences on what is not shown.

    Returns:
        Paths of the Markdown and the HTML file.
    """
    write_record(folder / RECORD, report)
    return write_page(folder, Page([ReportedRun(report.title, report, absent=absent)]))
