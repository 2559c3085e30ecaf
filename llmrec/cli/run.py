"""`llmrec run` and `llmrec demo`: the main job, and what is printed at its end."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

from llmrec.config import RunConfig
from llmrec.pipeline.headroom import run_headroom
from llmrec.pipeline.result import RunResult, control_sentences
from llmrec.pipeline.run import make_stage, run_job
from llmrec.pipeline.work import LastStage
from llmrec.printing import command, one_line, short_line
from llmrec.screen import Screen


def run_and_print(
    config: RunConfig, out: Path, line: str, *, force: bool, stage: LastStage | None = None, timed: bool = False
) -> None:
    """Runs the main job, or up to `stage`, and prints its table, honest if the gain is absent.

    Under several processes the first one alone prints.
    """
    start = time.monotonic()
    if stage is not None:
        return make_stage(config, out, stage, force=force)
    finished = run_job(config, out, command=line, force=force)
    if finished is not None:
        print_result(finished)
        if timed:
            Screen().print(f"Done in {(time.monotonic() - start) / 60:.1f} minutes.")


def print_result(finished: RunResult) -> None:
    """The summary table, the verdict and where the report is, on standard output."""
    screen = Screen(piped=110)
    screen.print(finished.tables.summary.to_rich())
    illegal = max(float(np.max(row["illegal"])) for row in finished.measured.ranking.values())
    screen.print(f"Illegal recommendations: {100 * illegal:.2f}%. {finished.verdict.sentence}")
    if finished.improved:
        screen.print(finished.improvement.verdict)
    for sentence in control_sentences(finished):
        screen.print(sentence)
    found = run_headroom(finished)
    if found:
        screen.print(found)
    screen.print(finished.changed)
    screen.print(f"Run folder {one_line(finished.out)} (model card, metrics, report.html). Try it:")
    screen.print(f"  {try_it(finished.out, finished.data.dataset.item(0).title)}", soft_wrap=True)


def try_it(out: Path, title: str) -> str:
    """The command that asks the run in `out` about an item's title, safe to paste: both are written by others."""
    liked = f"I liked {short_line(title)}"
    return command(["llmrec", "recommend", f"--model={out}", f"--prompt={liked}", "-k", "5"])
