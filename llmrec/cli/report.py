"""`llmrec report`: one page on one or several finished runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def make_report(runs: Sequence[Path], out: Path, command: str, *, users: bool) -> str:
    """Writes the report of `runs` into `out` and returns what was done, in a sentence.

    Raises:
        LLMRecError: whatever cannot be read, compared or written; then nothing is left behind.
    """
    from llmrec.pipeline.reporting.folders import report_runs

    page = report_runs(runs, out, command=command, users=users)
    many = "1 run" if len(runs) == 1 else f"{len(runs)} runs"
    held = "" if not users else " It may show users' histories: not for handing on."
    return f"Report of {many}: {page} and {page.with_suffix('.md').name}.{held}"
