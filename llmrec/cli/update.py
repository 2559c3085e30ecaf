"""`llmrec update`: a finished run goes on with new events, into a new run folder."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from llmrec.cli.told import AsJson
from llmrec.printing import command


def update_command(
    run_folder: Annotated[str, typer.Argument(metavar="RUN", help="A run folder or a Hub id (USER/NAME).")],
    data: Annotated[Path, typer.Option(help="The data set's folder: the whole log up to now, in llmrec's format.")],
    out: Annotated[Path, typer.Option("--out", help="The new run folder; it appears whole when the job is done.")],
    algorithm: Annotated[
        str, typer.Option(help="What is tried: continued_sft, or one that learns by reward (ppo, ...).")
    ] = "continued_sft",
    overrides: Annotated[
        list[str], typer.Option("--set", help="A configuration key on top of the run's own (repeatable).")
    ] = [],  # noqa: B006 (typer needs a literal; it is never changed)
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of a Hub repository.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a run of another configuration in --out.")] = False,
    as_json: AsJson = False,
) -> None:
    """Trains on from a finished run on new events; the gate decides, and the old run stays as it is.

    The same command resumes it. What is not promoted leaves the old policy in the new folder, and is said.
    """
    from llmrec.cli.run import print_result
    from llmrec.pipeline.recipes import overrides_of
    from llmrec.pipeline.update import update_run

    line = command(["llmrec", *sys.argv[1:]])
    given = overrides_of({}, overrides)
    found = update_run(
        run_folder, data, out, algorithm=algorithm, overrides=given, command=line, revision=revision, force=force
    )
    if found is not None:
        print_result(found, as_json=as_json)
