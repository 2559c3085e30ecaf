"""The comparison of systems: one table for the terminal, Markdown, HTML and JSON."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from rich.table import Table
from rich.text import Text

from llmrec.errors import RequestError
from llmrec.evaluation.significance import Interval, bootstrap_interval, paired_bootstrap
from llmrec.printing import one_line, short_line, visible
from llmrec.types import FloatArray

HOLLOW = {"▲": "△", "▼": "▽", "": ""}

_NAME = 24
"""Up to so many characters, names of systems stay on one line in the terminal."""
_MARKDOWN = re.compile(r"[\\`*\[\]|~$]|(?<!\w)_|_(?!\w)|:(?=//)|(?<=www)\.|^[#+\-=]|(?<=^\d)[.)]")


@dataclass(frozen=True, slots=True)
class Cell:
    """One system's figure. Without `interval` it is a plain number; `difference` is paired, to the reference.

    `adjusted` is the p-value of the difference after a correction for the number of comparisons, where there is one.
    """

    mean: float
    interval: Interval | None = None
    difference: Interval | None = None
    adjusted: float | None = None

    @property
    def mark(self) -> str:
        """ "▲" where significantly above the reference, "▼" for below, else nothing."""
        return "" if self.difference is None else self.difference.mark(self.mean)

    @property
    def shown_mark(self) -> str:
        """`mark`, hollow where the difference is not significant any more after the correction."""
        if self.difference is None or self.adjusted is None or self.adjusted <= 1 - self.difference.level:
            return self.mark
        return HOLLOW[self.mark]


@dataclass(frozen=True)
class Comparison:
    """Systems by metrics. `cells[system][metric]` may be absent: not measured.

    Attributes:
        title: what the table compares, in one line.
        cells: figures by system and metric, both in the order of the table.
        reference: the system that differences are taken to.
        percent: metrics that are shown as percentages.
        lower_is_better: metrics where less is better (they are not marked as best by their maximum).
        note: a sentence below the table.
    """

    title: str
    cells: dict[str, dict[str, Cell]]
    reference: str | None = None
    percent: tuple[str, ...] = ()
    lower_is_better: tuple[str, ...] = ()
    note: str = ""
    labels: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        title: str,
        values: Mapping[str, Mapping[str, FloatArray | float]],
        *,
        reference: str | None = None,
        users: Sequence[object] | None = None,
        samples: int = 1000,
        seed: int = 0,
        replicas: Mapping[str, Mapping[str, FloatArray]] | None = None,
        **options: Any,
    ) -> Comparison:
        """Builds the table from per-row arrays (intervals, paired differences) or plain numbers.

        Args:
            title: see the class.
            values: by system and metric; arrays (B,) of all systems are over the same rows.
            reference: system that the others are compared with.
            users: user of each row, for clustered intervals.
            samples: bootstrap samples.
            seed: run seed.
            replicas: by system and metric what each replicate of a judge says of the same rows, (R, B), where its own
                error is in the intervals (`significance.bootstrap_means`).
            options: percent, lower_is_better, note, labels.

        Raises:
            RequestError: the reference is not among the systems, or rows that do not fit.
        """
        if reference is not None and reference not in values:
            raise RequestError(f"The reference {reference!r} is not among the systems {', '.join(values)}.")
        base = values[reference] if reference is not None else {}
        doubt = replicas or {}
        base_doubt = doubt.get(reference or "", {})
        cells = {
            system: {
                metric: _cell(
                    value,
                    None if system == reference else base.get(metric),
                    doubt.get(system, {}).get(metric),
                    base_doubt.get(metric),
                    {"users": users, "samples": samples, "seed": seed, "name": (metric,)},
                )
                for metric, value in row.items()
            }
            for system, row in values.items()
        }
        return cls(title, cells, reference, **options)

    @property
    def systems(self) -> tuple[str, ...]:
        """Row names, in order."""
        return tuple(self.cells)

    @property
    def metrics(self) -> tuple[str, ...]:
        """Column names, in order of first appearance."""
        return tuple(dict.fromkeys(metric for row in self.cells.values() for metric in row))

    def select(self, metrics: Sequence[str]) -> Comparison:
        """The same table with these columns only, in this order; absent ones are left out."""
        chosen = {system: {m: row[m] for m in metrics if m in row} for system, row in self.cells.items()}
        return replace(self, cells=chosen)

    def label(self, metric: str) -> str:
        """What stands above a column."""
        return self.labels.get(metric, metric)

    def best(self, metric: str) -> frozenset[str]:
        """The system(s) with the best mean of a metric; none where fewer than two have it."""
        means = {system: row[metric].mean for system, row in self.cells.items() if metric in row}
        if len(means) < 2:
            return frozenset()
        top = min(means.values()) if metric in self.lower_is_better else max(means.values())
        return frozenset(system for system, mean in means.items() if mean == top)

    def number(self, metric: str, value: float, *, sign: bool = False) -> str:
        """A figure in the metric's own format: 0.0846, or 8.46% where it is a percentage."""
        text = (
            f"{100 * value:{'+' if sign else ''}.2f}%"
            if metric in self.percent
            else f"{value:{'+' if sign else ''}.4f}"
        )
        return text.replace("-", "−")

    def interval(self, metric: str, value: Interval | None, *, sign: bool = False) -> str:
        """An interval as text, "0.08 to 0.09"; nothing for None."""
        if value is None:
            return ""
        return f"{self.number(metric, value.low, sign=sign)} to {self.number(metric, value.high, sign=sign)}"

    def legend(self) -> str:
        """What the marks mean, for below the table."""
        if self.reference is None:
            return self.note
        if any(cell.adjusted is not None for row in self.cells.values() for cell in row.values()):
            marks = (
                f"▲ ▼ significantly above or below {self.reference} after Holm's correction for the rows of a "
                "column, △ ▽ without it only (paired 95% intervals over users and trainings)."
            )
            return f"{marks} {self.note}".strip()
        marks = f"▲ ▼ significantly above or below {self.reference} (paired 95% interval without 0)."
        return f"{marks} {self.note}".strip()

    def to_markdown(self, *, intervals: bool = True, paired: bool = False) -> str:
        """A Markdown table; the best figure of a column is bold. `paired` shows the intervals of differences."""
        head = "| system | " + " | ".join(markdown(self.label(m)) for m in self.metrics) + " |"
        lines = [head, "|---|" + "---:|" * len(self.metrics)]
        for system, row in self.cells.items():
            texts = [self._markdown_cell(system, m, row.get(m), intervals, paired) for m in self.metrics]
            lines.append(f"| {markdown(system)} | " + " | ".join(texts) + " |")
        legend = self.legend()
        return "\n".join(lines) + "\n" + (f"\n{markdown(legend)}\n" if legend else "")

    def _markdown_cell(self, system: str, metric: str, cell: Cell | None, intervals: bool, paired: bool) -> str:
        if cell is None:
            return "–"
        shown = cell.difference if paired else cell.interval
        text = self.number(metric, cell.mean)
        text = f"**{text}**" if system in self.best(metric) else text
        text += f" {cell.shown_mark}" if cell.shown_mark else ""
        return text + (f" ({self.interval(metric, shown, sign=paired)})" if intervals and shown else "")

    def to_json(self) -> dict[str, Any]:
        """Plain dictionaries: title, reference, and by system and metric mean, low, high and the difference."""
        return {
            "title": self.title,
            "reference": self.reference,
            "systems": {
                system: {metric: _plain(cell) for metric, cell in row.items()} for system, row in self.cells.items()
            },
        }

    def to_rich(self) -> Table:
        """A table for the terminal."""
        table = Table(
            title=Text(one_line(self.title)),
            caption=Text(self.legend()) if self.legend() else None,
            title_justify="left",
            caption_justify="left",
        )
        longest = max((len(short_line(system)) for system in self.cells), default=0)
        table.add_column("system", overflow="fold", no_wrap=longest <= _NAME)  # headers are broken before names
        for metric in self.metrics:
            table.add_column(Text(one_line(self.label(metric))), justify="right")
        for system, row in self.cells.items():
            table.add_row(Text(short_line(system)), *(self._rich_cell(system, m, row.get(m)) for m in self.metrics))
        return table

    def _rich_cell(self, system: str, metric: str, cell: Cell | None) -> Text:
        if cell is None:
            return Text("–")
        text = Text(self.number(metric, cell.mean), style="bold" if system in self.best(metric) else "")
        colour = {"▲": "green", "▼": "red"}.get(cell.mark)
        return text.append(f" {cell.mark}", style=f"not bold {colour}") if colour else text.append("  ")


def markdown(text: str) -> str:
    """Untrusted text as literal Markdown on one line: it can open no tag, link, code or table cell."""
    line = " ".join(visible(text).split())
    plain = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _MARKDOWN.sub(lambda match: "\\" + match[0], plain)


def code(text: str) -> str:
    """Untrusted text as a code span of Markdown, on one line, which the text cannot close."""
    line = " ".join(visible(text).split())
    ticks = "`" * (1 + max((len(run) for run in re.findall("`+", line)), default=0))
    pad = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{ticks}{pad}{line}{pad}{ticks}"


def _cell(
    value: FloatArray | float,
    base: FloatArray | float | None,
    doubt_RB: FloatArray | None,
    base_doubt_RB: FloatArray | None,
    draw: dict[str, Any],
) -> Cell:
    if not isinstance(value, np.ndarray):
        return Cell(float(value))
    difference = None
    if isinstance(base, np.ndarray):
        both = None if doubt_RB is None or base_doubt_RB is None else (doubt_RB, base_doubt_RB)
        difference = paired_bootstrap(value, base, replicas=both, **draw)
    return Cell(float(value.mean()), bootstrap_interval(value, replicas_RB=doubt_RB, **draw), difference)


def _plain(cell: Cell) -> dict[str, Any]:
    plain: dict[str, Any] = {"mean": cell.mean}
    if cell.interval is not None:
        plain |= {"low": cell.interval.low, "high": cell.interval.high, "level": cell.interval.level}
    if cell.difference is not None:
        plain["difference"] = asdict(cell.difference)
    if cell.adjusted is not None:
        plain["adjusted p"] = cell.adjusted
    return plain
