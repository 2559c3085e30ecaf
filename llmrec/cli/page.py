"""`llmrec page`: a run to try in the browser, or as a Space."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Annotated

import typer

from llmrec.errors import RequestError, RunError
from llmrec.printing import echo, one_line


def page_command(
    model: Annotated[
        str, typer.Argument(metavar="RUN", help="A run folder, also one that is being made, or a Hub id (USER/NAME).")
    ],
    other: Annotated[
        list[Path], typer.Option(help="Another run on the same catalogue, side by side; may be repeated.")
    ] = [],  # noqa: B006
    port: Annotated[int, typer.Option(help="Port on this machine; 0 takes a free one.", min=0, max=65_535)] = 7860,
    dataset: Annotated[
        Path | None, typer.Option("--data", "--source", help="The data set's folder (default: the run's own).")
    ] = None,
    language: Annotated[
        str | None, typer.Option(help="Of the page's own words, en or zh (default: the run's).")
    ] = None,
    space: Annotated[
        Path | None, typer.Option(help="Write a Hugging Face Space of RUN into this folder instead of serving.")
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of a Hub repository.")] = None,
) -> None:
    """A page to try a run: slates before and after side by side, clicks, reasons, its training (docs/page.md)."""
    if importlib.util.find_spec("gradio") is None:
        raise RunError("The page needs the package gradio; install it by pip install 'llmrec[page]'.")
    if language not in (None, "en", "zh"):
        raise RequestError(f"--language is {one_line(language, 40)!r}; give en or zh.")
    if space is not None:
        from llmrec.finding import run_folder
        from llmrec.page.space import write_space

        made = write_space(run_folder(model, revision=revision), space)
        echo(f"Space in {made}: look at README.md, then push the folder to a Space, or start it by python app.py.")
        return
    from llmrec.page.serving import serve_page

    serve_page(model, other, port=port, data=dataset, language=language, revision=revision)
