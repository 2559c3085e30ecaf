"""A terminal that shows what it is given and obeys nothing of it."""

from __future__ import annotations

from rich.console import Console, ConsoleOptions, ConsoleRenderable, RenderHook, RenderResult
from rich.measure import Measurement
from rich.segment import Segment

from llmrec.printing import lines


class Screen(Console):
    """A rich console that prints what it is given as text: no markup, no highlighting, nothing that acts.

    Args:
        stderr: write to standard error.
        width: columns; None takes the terminal's (80 where there is none).
        piped: columns where nobody watches a terminal, if `width` is None.
    """

    def __init__(self, *, stderr: bool = False, width: int | None = None, piped: int | None = None) -> None:
        super().__init__(stderr=stderr, width=width, highlight=False, markup=False, emoji=False)
        if width is None and piped is not None and not self.is_terminal:
            self.width = piped
        self.push_render_hook(_CleanHook())


def results() -> Screen:
    """Where a script prints what it found: standard output, and wide where it is read by a pipe or a file."""
    return Screen(piped=160)


class _CleanHook(RenderHook):
    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        return [_Clean(renderable) for renderable in renderables]


class _Clean:
    """A renderable whose segments hold nothing that acts; rich's own control codes (a bar's) pass."""

    def __init__(self, renderable: ConsoleRenderable) -> None:
        self.renderable = renderable

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for text, style, control in console.render(self.renderable, options):
            yield Segment(text if control else lines(text), style, control)

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement.get(console, options, self.renderable)
