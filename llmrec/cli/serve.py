"""`llmrec serve`: a run behind an API."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llmrec.errors import RunError


def serve_command(
    model: Annotated[str, typer.Argument(metavar="RUN", help="A run folder or a Hub id (USER/NAME).")],
    host: Annotated[str, typer.Option(help="Address; others than this machine's own need keys.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0 takes a free one.", min=0, max=65_535)] = 8000,
    data: Annotated[Path | None, typer.Option(help="The data set's folder (default: the run's own).")] = None,
    state: Annotated[
        Path | None,
        typer.Option(help="Folder of what must not be lost: event log, catalogue (default: RUN.service)."),
    ] = None,
    events: Annotated[
        str | None,
        typer.Option(
            help="The event log: a file or postgresql://USER@HOST/DATABASE (default: a file in --state).",
            envvar="LLMREC_EVENTS",
        ),
    ] = None,
    keys: Annotated[
        Path | None, typer.Option(help="File of API keys, one a line (default: those of LLMREC_API_KEYS).")
    ] = None,
    versions: Annotated[
        Path | None, typer.Option(help="Versions of the policy by llmrec online; the promoted one is served.")
    ] = None,
    rules: Annotated[
        Path | None,
        typer.Option(help="Rules that every answer obeys, a YAML file (docs/rules.md; default: the run's own)."),
    ] = None,
    batch: Annotated[int, typer.Option(help="Requests decoded at once.", min=1)] = 32,
    waiting: Annotated[int, typer.Option(help="Requests that may wait; one more is answered with 429.", min=1)] = 256,
    deadline: Annotated[float, typer.Option(help="Seconds until the fallback answers.", min=0.001)] = 5.0,
    most: Annotated[int, typer.Option("--most", help="Items of an answer, at most.", min=1)] = 100,
    cache: Annotated[int, typer.Option(help="Megabytes of prompts kept for returning users.", min=0)] = 256,
    seed: Annotated[int, typer.Option(help="Seed of slates that explore.")] = 0,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of a Hub repository.")] = None,
) -> None:
    """Serves recommendations over HTTP: POST /v1/recommend, POST /v1/feedback, /docs, /metrics (docs/serving.md).

    SIGTERM or Ctrl-C ends it when what was asked is answered.
    """
    try:
        from llmrec.service.server import serve
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] not in (
            "fastapi",
            "uvicorn",
            "prometheus_client",
            "starlette",
            "pydantic",
        ):
            raise
        raise RunError(
            f"Serving needs the package {error.name}; install it by pip install 'llmrec[serve]'."
        ) from None
    from llmrec.service.settings import ServiceSettings

    settings = ServiceSettings(
        batch=batch, waiting=waiting, deadline_s=deadline, k=most, seed=seed, cache=cache << 20
    )
    serve(
        model,
        host=host,
        port=port,
        settings=settings,
        data=data,
        revision=revision,
        state=state,
        keys=keys,
        events=events,
        versions=versions,
        rules=rules,
    )
