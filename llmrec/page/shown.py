"""The page's parts as HTML: every text in it is inert, in the browser and for the template engines before it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from jinja2 import Environment
from markupsafe import Markup, escape

from llmrec.evaluation.drawing import DARK, LIGHT, css_variables
from llmrec.evaluation.reporting.contents import RunReport
from llmrec.evaluation.reporting.jinja import page_environment
from llmrec.evaluation.reporting.plain import plain_words
from llmrec.page.studio import Board, Told
from llmrec.page.training import Training
from llmrec.page.words import words
from llmrec.printing import lines

_ACTIVE = str.maketrans({"{": "&#123;", "}": "&#125;", "$": "&#36;", "`": "&#96;"})
"""What Gradio's own templates (Handlebars, template strings) would read as theirs."""


def board_html(board: Board, language: str) -> str:
    """The slates side by side."""
    return _render("board.html", language, board=board)


def visit_html(board: Board, language: str) -> str:
    """What was done, what was known before, and the text that the policies read."""
    return _render("visit.html", language, board=board)


def found_html(found: Sequence[Told], query: str, language: str) -> str:
    """The answer of a search."""
    return _render("found.html", language, found=found, query=query.strip())


def head_html(
    run: str, report: RunReport | None, absent: Sequence[str], language: str, *, running: bool = False
) -> str:
    """What the run brought and cost, in plain words, at the top of the page; or that it is not finished."""
    plain = None if report is None else plain_words(report)
    return _render(
        "head.html",
        language,
        run=run,
        plain=plain,
        changed="" if report is None else report.changed,
        worse=() if report is None else report.worse,
        verdict="" if report is None or report.verdict is None else report.verdict.sentence,
        absent=absent,
        running=running,
    )


def training_html(training: Training | None, seconds: int, language: str) -> str:
    """The curves of the improvement."""
    return _render("training.html", language, training=training, seconds=seconds)


def style() -> str:
    """The page's style, with the report's colours for light and dark."""
    own = _environment().loader
    assert own is not None
    text, _, _ = own.get_source(_environment(), "style.css")
    light, dark = css_variables(LIGHT), css_variables(DARK)
    return f":root{{{light}}}.dark{{{dark}}}\n{text}"


def inert(text: object) -> Markup:
    """A text that neither a browser nor a template engine takes for more than a text."""
    return Markup(str(escape(lines(str(text)))).translate(_ACTIVE))


def _finished(value: object) -> object:
    if isinstance(value, Markup) or not isinstance(value, str):
        return value
    return inert(value)


def _render(name: str, language: str, **values: object) -> str:
    return _environment().get_template(name).render(w=words(language), **values).strip()


@lru_cache(maxsize=1)
def _environment() -> Environment:
    # a word of the page with the one name or number that it is about
    return page_environment("llmrec.page", _finished, put=lambda text, value: _put(str(text), value))


def _put(text: str, value: object) -> str:
    before, _, rest = text.partition("{")
    return f"{before}{value}{rest.partition('}')[2]}"
