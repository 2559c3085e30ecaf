"""`llmrec run` and `llmrec demo`: the main job, and what is printed at its end."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

from llmrec.config import RunConfig
from llmrec.pipeline.headroom import run_headroom
from llmrec.pipeline.result import RunResult, control_sentences
from llmrec.pipeline.run import make_stage, run_job
from llmrec.pipeline.work import LastStage, is_first
from llmrec.printing import command, echo, json_line, one_line, short_line
from llmrec.screen import Screen
from llmrec.storage import work_folder


def run_and_print(
    config: RunConfig,
    out: Path,
    line: str,
    *,
    force: bool,
    stage: LastStage | None = None,
    timed: bool = False,
    as_json: bool = False,
) -> None:
    """Runs the main job, or up to `stage`, and prints its table, honest if the gain is absent.

    Under several processes the first one alone prints.
    """
    start = time.monotonic()
    if stage is not None:
        make_stage(config, out, stage, force=force)
        if as_json and is_first():
            echo(json_line({"stage": str(stage), "work": str(work_folder(out))}))
        return
    finished = run_job(config, out, command=line, force=force)
    if finished is not None:
        print_result(finished, as_json=as_json)
        if timed and not as_json:
            Screen().print(f"Done in {(time.monotonic() - start) / 60:.1f} minutes.")


def print_result(finished: RunResult, *, as_json: bool = False) -> None:
    """The summary table, the verdict and where the report is, on standard output; or these as one line of JSON."""
    if as_json:
        return echo(json_line(_facts(finished)))
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


def _facts(finished: RunResult) -> dict[str, Any]:
    return {
        "run": str(finished.out),
        "report": str(finished.out / "report.html"),
        "improved": finished.improved,
        "verdict": finished.verdict.sentence,
        "promotion": finished.promotion,
        "changed": finished.changed,
        "summary": finished.tables.summary.to_json(),
        "seconds": finished.seconds,
    }


def try_it(out: Path, title: str) -> str:
    """The command that asks the run in `out` about an item's title, safe to paste: both are written by others."""
    liked = f"I liked {short_line(title)}"
    return command(["llmrec", "recommend", f"--model={out}", f"--prompt={liked}", "-k", "5"])
