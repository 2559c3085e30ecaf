"""`llmrec data push` and `llmrec data pull`: data sets up to and down from the Hugging Face Hub."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from llmrec.cli.told import AsJson, Told, tell
from llmrec.printing import command

Collection = Annotated[
    str | None,
    typer.Option(help="Put it into this collection: OWNER/NAME-ID, or the title of one of yours (made if missing)."),
]


def push_command(
    folder: Annotated[Path, typer.Argument(help="A data set's folder.")],
    repository: Annotated[str, typer.Argument(help="USER/NAME on the Hub.")],
    public: Annotated[
        bool, typer.Option("--public", help="Let everybody read what every user did (private unless told otherwise).")
    ] = False,
    revision: Annotated[str | None, typer.Option(help="Branch to push to (made if missing).")] = None,
    create_pr: Annotated[bool, typer.Option("--create-pr", help="Open a pull request instead of pushing.")] = False,
    collection: Collection = None,
    as_json: AsJson = False,
) -> None:
    """Uploads a data set with a card to the Hugging Face Hub as one commit."""
    from llmrec.hub import push_dataset

    own: dict[str, Any] = {"public": public, "revision": revision, "create_pr": create_pr, "collection": collection}
    address = push_dataset(folder, repository, **own)
    tell(Told(address, address=address, repository=repository), as_json)


def pull_command(
    repository: Annotated[str, typer.Argument(help="USER/NAME on the Hub.")],
    out: Annotated[Path, typer.Argument(help="The new folder; it appears whole or not at all.")],
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit.")] = None,
    as_json: AsJson = False,
) -> None:
    """Downloads a data set of llmrec from the Hugging Face Hub into a folder."""
    from llmrec.hub import pull_dataset

    dataset = pull_dataset(repository, out, revision=revision)
    manifest, next_ = dataset.manifest, command(["llmrec", "run", "--dataset", "folder", "--source", out])
    counts = {name: manifest.counts[name] for name in ("users", "items", "events")}
    told = ", ".join(f"{count:,} {name}" for name, count in counts.items())
    said = f"{out} is there: {told} ({manifest.hub}); next: {next_} --out runs/mine"
    tell(Told(said, folder=str(out), hub=manifest.hub, content_hash=manifest.content_hash, **counts), as_json)
