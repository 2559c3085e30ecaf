"""`llmrec export`: a finished run in another form."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llmrec.printing import echo, json_line


def export_command(
    run_folder: Annotated[str, typer.Argument(metavar="RUN", help="A run folder or a Hub id (USER/NAME).")],
    to: Annotated[str, typer.Option("--to", help="merged, int8, int4, onnx or gguf (docs/exporting.md).")],
    out: Annotated[Path, typer.Option("--out", help="The new run folder; it appears whole or not at all.")],
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of a Hub repository.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was done as JSON.")] = False,
) -> None:
    """Writes a run with its weights in another form, its catalogue and wording beside them.

    merged: whole weights, an adapter put in; int8 and int4: whole numbers with scales; onnx: for onnxruntime; gguf:
    for llama.cpp and --model. The new folder is used like any run.
    """
    from llmrec.conversion import convert
    from llmrec.export import read_bundle
    from llmrec.files import entries
    from llmrec.finding import run_folder as find

    folder = find(run_folder, revision=revision)
    convert(read_bundle(folder), to, out)
    before, after = (sum((place / name).stat().st_size for name in entries(place)) for place in (folder, out))
    found = {"run": str(folder), "to": to, "out": str(out), "bytes_before": before, "bytes": after}
    said = f"{out}: {to}, {after / 1e6:,.1f} MB in all ({before / 1e6:,.1f} MB before)."
    echo(json_line(found) if as_json else said)
