"""What a study found, shown and written: tables, sentences, plots, and the command, data and machine behind them."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from llmrec.evaluation.facts import machine_facts, package_versions
from llmrec.evaluation.significance import Interval
from llmrec.evaluation.table import Cell, Comparison, code, markdown
from llmrec.files import write_json, write_text
from llmrec.printing import command, one_line
from llmrec.screen import results


@dataclass(frozen=True)
class Sheet:
    """A table whose cells are texts already; where cells are figures with intervals, `Comparison` says more."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""

    def to_rich(self) -> Table:
        """The first column left, the others right."""
        table = Table(title=Text(one_line(self.title)), title_justify="left", caption_justify="left")
        table.caption = Text(self.note) if self.note else None
        for place, column in enumerate(self.columns):
            table.add_column(Text(column), justify="right" if place else "left")
        for row in self.rows:
            table.add_row(*(Text(one_line(cell)) for cell in row))
        return table

    def to_markdown(self) -> str:
        """A Markdown table, the note below it."""
        lines = ["| " + " | ".join(map(_inside, row)) + " |" for row in (self.columns, *self.rows)]
        lines.insert(1, "|---|" + "---:|" * (len(self.columns) - 1))
        return "\n".join(lines) + "\n" + (f"\n{markdown(self.note)}\n" if self.note else "")


@dataclass(frozen=True)
class Answer:
    """A study's answer.

    Attributes:
        title: what was asked, in a few words.
        figures: everything, for JSON.
        tables: for the terminal and Markdown.
        sentences: below the tables.
        plots: by name; a comparison becomes a forest plot, a text is SVG as `evaluation.plots` draws it.
    """

    title: str
    figures: Mapping[str, Any]
    tables: Sequence[Sheet | Comparison] = ()
    sentences: Sequence[str] = ()
    plots: Mapping[str, Comparison | str] = field(default_factory=dict)

    def finish(self, out: Path | None, json_file: Path | None = None, **more: Any) -> dict[str, Any]:
        """Prints tables and sentences, and writes `study.json`, `study.md` and `study-NAME.svg` into `out`.

        Args:
            out: folder of the files; None writes none.
            json_file: the figures are also written here.
            more: facts beside `facts()`, such as seeds and hashes.

        Returns:
            The figures with the facts.
        """
        screen, known = results(), facts(**more)
        for table in self.tables:
            screen.print(table.to_rich())
        for sentence in self.sentences:
            screen.print(sentence, soft_wrap=True)
        figures = {**known, **self.figures}
        if json_file is not None:
            write_json(json_file, figures)
        if out is not None:
            write_json(out / "study.json", figures)
            write_text(out / "study.md", self.to_markdown(known))
            for name, plot in self.plots.items():
                _draw(plot, out / _plot_file(name))
        return figures

    def to_markdown(self, known: Mapping[str, Any]) -> str:
        """A page to read: what made it, the tables, the sentences, the plots."""
        parts = [f"# {markdown(self.title)}", "\n".join(f"- {name}: {_said(known[name])}" for name in known)]
        for table in self.tables:
            parts += [f"## {markdown(table.title)}", table.to_markdown().strip()]
        if self.sentences:
            parts.append("\n".join(f"- {markdown(sentence)}" for sentence in self.sentences))
        for name, plot in self.plots.items():
            heading = [f"## {markdown(plot.title)}"] if isinstance(plot, Comparison) else []
            parts += [*heading, f"![{markdown(name)}]({_plot_file(name)})"]
        return "\n\n".join(parts) + "\n"


def facts(**more: Any) -> dict[str, Any]:
    """What figures stand with: the command, `more`, the machine and the versions of the packages."""
    called = command(["python", *sys.argv])
    return {"command": called, **more, "machine": machine_facts(), "versions": package_versions()}


def signed(found: Interval | Mapping[str, Any], digits: int = 4) -> str:
    """A difference with its interval: "+0.0120 (+0.0080 to +0.0160)"."""
    values = asdict(found) if isinstance(found, Interval) else found
    mean, low, high = (f"{values[name]:+.{digits}f}" for name in ("mean", "low", "high"))
    return f"{mean} ({low} to {high})"


def forest(title: str, rows: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> Comparison:
    """For a plot: by row and panel a figure with "mean", "low" and "high", as `asdict` makes it of an interval."""
    cells = {
        row: {name: Cell(f["mean"], Interval(f["mean"], f["low"], f["high"])) for name, f in given.items()}
        for row, given in rows.items()
    }
    return Comparison(title, cells)


def _inside(text: str) -> str:
    """`markdown` for a text that does not begin its line: figures such as 1.75 and -0.1 stay as they are."""
    return markdown(f"x{text}")[1:]


def _said(fact: Any) -> str:
    if isinstance(fact, Mapping):
        return _inside(", ".join(f"{name} {value}" for name, value in fact.items()))
    if isinstance(fact, Sequence) and not isinstance(fact, str):
        return _inside(", ".join(map(str, fact)))
    return code(str(fact))


def _plot_file(name: str) -> str:
    return f"study-{re.sub(r'[^a-z0-9]+', '-', name.lower())}.svg"


def _draw(plot: Comparison | str, path: Path) -> None:
    from llmrec.evaluation.drawing import save_svg  # matplotlib, for those who want a plot
    from llmrec.evaluation.plots import comparison_figure

    save_svg(path, comparison_figure(plot) if isinstance(plot, Comparison) else plot)
