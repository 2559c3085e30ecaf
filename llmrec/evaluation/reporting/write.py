"""The report of a run, or of several, as files: one HTML page that needs nothing else, and Markdown with its figures.

All text from data, configuration and command line is untrusted and shown as literal text. The page loads nothing,
runs no script, and follows the reader's light or dark setting.
"""

from __future__ import annotations

from pathlib import Path

from jinja2 import Environment
from markupsafe import Markup

from llmrec.evaluation.drawing import DARK, LIGHT, css_variables, save_svg
from llmrec.evaluation.reporting.contents import RunReport
from llmrec.evaluation.reporting.jinja import page_environment
from llmrec.evaluation.reporting.page import Page, agreement, fenced, figure
from llmrec.evaluation.reporting.plain import plain_words
from llmrec.evaluation.reporting.record import RECORD, write_record
from llmrec.evaluation.reporting.reported_run import ReportedRun
from llmrec.evaluation.table import markdown
from llmrec.files import write_text
from llmrec.printing import lines

HTML, MARKDOWN, FIGURES = "report.html", "report.md", "figures"
PAIRED_NOTE = "Small: the paired 95% interval of the difference to the reference."


def write_report(folder: Path, report: RunReport, *, absent: tuple[str, ...] = ()) -> tuple[Path, Path]:
    """Writes report.json, report.md (with figures/*.svg) and report.html of one run into `folder`.

    Args:
        folder: where; each file is written whole or not at all.
        report: the contents.
        absent: sentences on what is not shown.

    Returns:
        Paths of the Markdown and the HTML file.
    """
    write_record(folder / RECORD, report)
    return write_page(folder, Page([ReportedRun(report.title, report, absent=absent)]))


def write_page(folder: Path, page: Page) -> tuple[Path, Path]:
    """Writes report.md (with figures/*.svg) and report.html into `folder`, each file whole or not at all.

    Returns:
        Paths of the Markdown and the HTML file.
    """
    for drawn in page.figures:
        save_svg(folder / FIGURES / f"{drawn.name}.svg", drawn.svg)
    write_text(folder / MARKDOWN, render_markdown(page))
    write_text(folder / HTML, render_html(page))
    return folder / MARKDOWN, folder / HTML


def render_html(page: Page) -> str:
    """The page as HTML."""
    environment = _environment(autoescape=True)
    text = environment.get_template("page.html").render(
        page=page, light=Markup(css_variables(LIGHT)), dark=Markup(css_variables(DARK)), paired_note=PAIRED_NOTE
    )
    return text.lstrip()


def render_markdown(page: Page) -> str:
    """The page as Markdown; figures stand in figures/."""
    note = PAIRED_NOTE.replace("Small:", "In brackets:")
    text = _environment(autoescape=False).get_template("page.md").render(page=page, paired_note=note)
    lines = [line.rstrip() for line in text.strip().splitlines()]
    # Blocks of the template that are empty leave runs of blank lines.
    kept = [line for n, line in enumerate(lines) if line or (n and lines[n - 1])]
    return "\n".join(kept) + "\n"


def _shown(value: object) -> object:
    """What an expression of a page gives, without characters that act: reversed directions would fake a text."""
    if isinstance(value, Markup):
        return Markup(lines(value))  # escaped, or drawn, already
    return lines(value) if isinstance(value, str) else value


def _environment(*, autoescape: bool) -> Environment:
    return page_environment(
        "llmrec.evaluation.reporting",
        _shown,
        autoescape=autoescape,
        md=lambda text: markdown(str(text)),
        fenced=fenced,
        figure_number=figure,
        agreement=agreement,
        plain=plain_words,
    )
