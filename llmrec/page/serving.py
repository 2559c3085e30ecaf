"""Serves the page under uvicorn, until SIGTERM or Ctrl-C."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import gradio as gr
import uvicorn
from fastapi import FastAPI

from llmrec.errors import RunError, Stopped
from llmrec.export import CARD, read_facts
from llmrec.finding import run_folder
from llmrec.page.app import look, make_page
from llmrec.page.studio import Studio
from llmrec.page.systems import load_systems
from llmrec.page.words import words
from llmrec.printing import one_line
from llmrec.progress import console
from llmrec.service.server import listen
from llmrec.storage import work_folder

LONGEST_TEXT_UPLOAD = "1kb"
"""Nobody uploads anything here."""


def page_app(
    run: Path, others: Sequence[Path] = (), *, data: Path | None = None, language: str | None = None
) -> FastAPI:
    """The page of a run as an ASGI application; of a run that is not finished, its training alone.

    Args:
        run: a run folder, or the place of one whose working folder is there already.
        others: run folders on the same catalogue.
        data: the data set's folder, by default the run's own.
        language: of the page's words; by default the run's.

    Raises:
        LLMRecError: what cannot be loaded.
    """
    studio = None
    if (run / CARD).is_file():
        language = language or str(read_facts(run)["language"])
        words(language)  # before a model is loaded
        studio = Studio(load_systems(run, others, data))
    elif others or not work_folder(run).is_dir():
        raise RunError(f"{run} is neither a run folder nor the place of one that is being made; give one that is.")
    page = make_page(run, studio, language or "en")
    # API of the parts beside the page, but no list of it below the page, and no files
    app: FastAPI = gr.mount_gradio_app(
        FastAPI(openapi_url=None),
        page,
        path="/",
        footer_links=[],
        show_error=True,
        max_file_size=LONGEST_TEXT_UPLOAD,
        ssr_mode=False,
        enable_monitoring=False,
        **look(),
    )
    return app


def serve_page(
    model: str,
    others: Sequence[Path] = (),
    *,
    port: int = 7860,
    host: str = "127.0.0.1",
    data: Path | None = None,
    language: str | None = None,
    revision: str | None = None,
) -> None:
    """Serves the page; returns after a shutdown that was asked for.

    Args:
        model: a run folder, the place of one that is being made, or a Hub id.
        others: run folders on the same catalogue.
        port: 0 takes a free one.
        host: address to listen at.
        data: the data set's folder.
        language: of the page's words.
        revision: of a Hub repository.

    Raises:
        LLMRecError: what cannot be loaded, or a port that is taken.
    """
    with listen(host, port) as listening:
        place = Path(model).expanduser()
        run = place if work_folder(place).is_dir() and not place.exists() else run_folder(model, revision=revision)
        app = page_app(run, others, data=data, language=language)
        config = uvicorn.Config(app, log_level="critical", server_header=False, timeout_graceful_shutdown=3)
        address = listening.getsockname()
        console.print(f"The page of {one_line(run)} is at http://{address[0]}:{address[1]} (Ctrl-C ends it).")
        try:
            uvicorn.Server(config).run(sockets=[listening])
        except Stopped:  # uvicorn raises the signal again when it has ended
            pass
