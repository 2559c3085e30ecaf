"""The report of a run: Markdown with figures beside it, and one HTML page that needs nothing else.

All text from data, configuration and command line is untrusted and shown as literal text. The page loads nothing,
runs no script, and follows the reader's light or dark setting.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from llmrec.evaluation.drawing import DARK, LIGHT, css_variables, save_svg
from llmrec.evaluation.plots import (
    Curve,
    Reliability,
    comparison_figure,
    gate_figure,
    improvement_figure,
    loss_figure,
    reliability_figure,
)
from llmrec.evaluation.table import Comparison, markdown
from llmrec.evaluation.verdict import Verdict
from llmrec.files import write_text

PLOTTED = ("HR@10", "NDCG@10", "coverage@10", "value", "value@1", "click_rate", "conversion_rate")
"""Metrics that are drawn where a table has them, unless a report names others."""


@dataclass(frozen=True, kw_only=True)
class DataFacts:
    """What the run's data set is. `split` says in words how it was divided; `proxy` what stands in for a signal."""

    name: str
    counts: Mapping[str, int]
    content_hash: str
    click: str
    conversion: str
    split: str
    repeat: str
    domain: str = ""
    source: str = ""
    terms: str = ""
    proxy: str = ""


@dataclass(frozen=True, kw_only=True)
class SlateChange:
    """One user's slates as titles, best first; `history` (oldest first) is what the user did before."""

    user: str
    history: Sequence[str]
    before: Sequence[str]
    after: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class RunReport:
    """Everything a report shows; empty parts are left out.

    Attributes:
        title: heading.
        date: when the run ended, as text.
        command: the command line that made the run.
        changes: configuration keys that differ from the defaults, (default, chosen).
        data: the data set.
        machine: facts by name.
        versions: package versions by name.
        seeds: seeds by what they decide.
        seconds: duration of each stage.
        verdict: what reinforcement learning brought.
        tables: comparisons; the first is shown as a figure too.
        plotted: metrics of all tables that are drawn.
        sft_curve: entries with step and loss.
        algorithm: what improved the policy.
        curve: its entries, with step and whatever it logs.
        gate: the checkpoints' figures on validation data, SFT as the reference.
        decisions: a sentence for each checkpoint.
        reliability: reliability of the simulator by signal.
        simulator: further figures of the simulator by signal (auc, log_loss, ...).
        slates: a few users' slates before and after reinforcement learning.
        slate_names: the two systems whose slates are shown.
        illegal: share of illegal recommendations by system.
        worse: sentences on what got worse.
        notes: sentences on what limits the result.
        reproduce: commands that make the run again.
    """

    title: str
    date: str
    command: str
    data: DataFacts
    changes: Mapping[str, tuple[Any, Any]] = field(default_factory=dict)
    machine: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    seeds: Mapping[str, int] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    verdict: Verdict | None = None
    tables: Sequence[Comparison] = ()
    plotted: Sequence[str] = PLOTTED
    sft_curve: Curve = ()
    algorithm: str = "PPO"
    curve: Curve = ()
    gate: Comparison | None = None
    decisions: Sequence[str] = ()
    reliability: Mapping[str, Reliability] = field(default_factory=dict)
    simulator: Mapping[str, Mapping[str, float | None]] = field(default_factory=dict)
    slates: Sequence[SlateChange] = ()
    slate_names: tuple[str, str] = ("SFT", "PPO")
    illegal: Mapping[str, float] = field(default_factory=dict)
    worse: Sequence[str] = ()
    notes: Sequence[str] = ()
    reproduce: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure with its file name (no ending), heading and the sentence below it."""

    name: str
    title: str
    caption: str
    svg: str


def write_report(folder: Path, report: RunReport) -> tuple[Path, Path]:
    """Writes report.md (with figures/*.svg) and report.html into `folder`, each file whole or not at all.

    Returns:
        Paths of the Markdown and the HTML file.
    """
    drawn = figures(report)
    for figure in drawn:
        save_svg(folder / "figures" / f"{figure.name}.svg", figure.svg)
    markdown_path, html_path = folder / "report.md", folder / "report.html"
    write_text(markdown_path, render_markdown(report, drawn))
    write_text(html_path, render_html(report, drawn))
    return markdown_path, html_path


def figures(report: RunReport) -> list[Figure]:
    """The report's figures; those without data are left out."""
    found = [
        Figure(f"comparison-{n}", table.title, "Dot: mean; bar: 95% interval; dashed: the reference.", svg)
        for n, table in enumerate(report.tables, 1)
        if (svg := comparison_figure(table, report.plotted))
    ]
    found += [
        Figure(
            "gate",
            "Trust gate",
            "Difference to SFT with its paired 95% interval, checkpoint by checkpoint; dashed: no difference.",
            gate_figure(report.gate) if report.gate is not None else "",
        ),
        Figure(
            "training",
            report.algorithm,
            "Pale: every logged entry; strong: running mean.",
            improvement_figure(report.curve, report.algorithm),
        ),
        Figure("sft", "Supervised fine-tuning", "Loss on the answer's tokens.", loss_figure(report.sft_curve)),
        Figure(
            "reliability",
            "Reliability of the simulator",
            "Held-out events in bins of equal count; on the dashed line, predictions mean what they say.",
            reliability_figure(report.reliability),
        ),
    ]
    return [figure for figure in found if figure.svg]


def render_html(report: RunReport, drawn: Sequence[Figure]) -> str:
    """The report as one page."""
    environment = _environment(autoescape=True)
    template = environment.get_template("report.html")
    return template.render(
        report=report,
        figures=[(figure, Markup(figure.svg)) for figure in drawn],
        light=Markup(css_variables(LIGHT)),
        dark=Markup(css_variables(DARK)),
    )


def render_markdown(report: RunReport, drawn: Sequence[Figure]) -> str:
    """The report as Markdown; figures stand in figures/."""
    text = _environment(autoescape=False).get_template("report.md").render(report=report, figures=drawn)
    return text.strip() + "\n"


def _environment(*, autoescape: bool) -> Environment:
    environment = Environment(
        loader=PackageLoader("llmrec.evaluation", "templates"),
        autoescape=autoescape,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"md": lambda value: markdown(str(value)), "fenced": _fenced}
    environment.filters |= {"value": _value, "duration": _duration, "figure_number": _number}
    return environment


def _fenced(text: str) -> str:
    """A code block whose fence the text cannot close."""
    fence = "```"
    while fence in text:
        fence += "`"
    return f"{fence}\n{text}\n{fence}"


def _value(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False) if not isinstance(value, str) else value


def _number(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:,}" if isinstance(value, int) else f"{value:.4f}".replace("-", "−")


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s"
