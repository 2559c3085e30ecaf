"""The figures of a page: what is drawn of each run, and of each table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count

from llmrec.evaluation.drawing import own_ids
from llmrec.evaluation.plots import (
    comparison_figure,
    curve_figure,
    gate_figure,
    improvement_figure,
    loss_figure,
    reliability_figure,
)
from llmrec.evaluation.reporting.reported_run import ReportedRun
from llmrec.evaluation.reporting.side_by_side import Joined

REWARD_MODEL_PANELS = (
    ("Loss of the reward model", ("loss",)),
    ("Pairs in order (share)", ("accuracy", "rewards/accuracies")),
)


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure with its file name (no ending), its part of the page, heading and the sentence below it.

    `run` is the name of the run that it shows, "" for one of several runs.
    """

    name: str
    part: str
    title: str
    caption: str
    svg: str
    run: str = ""
    wide: bool = True


def draw(runs: Sequence[ReportedRun], joined: Sequence[Joined]) -> list[Figure]:
    """The figures of a page in its order; those without data are left out. No two share an id."""
    found = [
        *_of_tables(runs, joined),
        *(figure for n, run in enumerate(runs, 1) for figure in _of_run(run, n, len(runs))),
    ]
    numbers = count()
    return [
        Figure(f.name, f.part, f.title, f.caption, own_ids(f.svg, f"f{next(numbers)}-"), f.run, f.wide)
        for f in found
        if f.svg
    ]


def _of_tables(runs: Sequence[ReportedRun], joined: Sequence[Joined]) -> Iterator[Figure]:
    plotted = list(dict.fromkeys(metric for run in runs for metric in run.report.plotted))
    caption = "Dot: mean; bar: 95% interval; dashed: the reference."
    for n, found in enumerate((found for found in joined if not found.improved), 1):
        yield Figure(f"comparison-{n}", "tables", found.table.title, caption, comparison_figure(found.table, plotted))


def _of_run(run: ReportedRun, number: int, runs: int) -> Iterator[Figure]:
    """`number` of the run goes into the file names where there are several."""
    report, end = run.report, "" if runs == 1 else f"-{number}"
    if report.pilot is not None:
        yield Figure(
            f"pilot{end}",
            "pilot",
            "Pilot",
            "What the reward could make of SFT at best, by the weight of the KL term: difference to SFT with its "
            "paired 95% interval; dashed: no difference.",
            gate_figure(report.pilot),
            run.name,
        )
    if report.gate is not None:
        yield Figure(
            f"gate{end}",
            "gate",
            "Trust gate",
            "Difference to SFT with its paired 95% interval, checkpoint by checkpoint; dashed: no difference.",
            gate_figure(report.gate),
            run.name,
        )
    yield Figure(
        f"training{end}",
        "training",
        report.algorithm,
        "Pale: every logged entry; strong: running mean. Simulators at checkpoints: slates of validation users.",
        improvement_figure([*report.curve, *report.gate_curve], report.algorithm),
        run.name,
    )
    yield Figure(
        f"sft{end}",
        "training",
        "Supervised fine-tuning",
        "Loss on the answer's tokens.",
        loss_figure(report.sft_curve),
        run.name,
        wide=False,
    )
    if report.reward_model is not None:
        yield Figure(
            f"reward-model{end}",
            "training",
            "Learned reward model",
            "Training on preferences of logged users.",
            curve_figure(report.reward_model.curve, REWARD_MODEL_PANELS, label="reward model"),
            run.name,
        )
    yield Figure(
        f"reliability{end}",
        "simulator",
        "Reliability of the simulators",
        "Held-out events in bins of equal count; on the dashed line, predictions mean what they say.",
        reliability_figure(report.reliability),
        run.name,
    )
