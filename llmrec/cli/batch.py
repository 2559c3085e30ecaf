"""`llmrec batch`: the best items of every user of a data set, into one file."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from llmrec.cli import filter_options as wishes
from llmrec.errors import RequestError
from llmrec.printing import echo, json_line


def batch_command(
    model: Annotated[str, typer.Option(help="A run folder or a Hub id (USER/NAME).")],
    out: Annotated[Path, typer.Option("--out", help="The Parquet file; it appears whole when all is done.")],
    data: Annotated[Path | None, typer.Option(help="The data set's folder (default: the run's own).")] = None,
    k: Annotated[int, typer.Option("-k", help="How many items for each user.")] = 10,
    users: Annotated[
        Path | None, typer.Option(help="Only these users, ids one a line, in this order (default: all).")
    ] = None,
    category: wishes.Category = [],  # noqa: B006
    brand: wishes.Brand = [],  # noqa: B006
    min_price: wishes.MinPrice = None,
    max_price: wishes.MaxPrice = None,
    in_stock: wishes.InStock = None,
    candidates: wishes.Candidates = None,
    exclude: wishes.Exclude = [],  # noqa: B006
    max_per_category: wishes.MaxPerCategory = None,
    rules: wishes.Rules = None,
    prefer: wishes.Prefer = [],  # noqa: B006
    fuse: wishes.Fuse = None,
    exact: wishes.Exact = False,
    titles: Annotated[bool, typer.Option("--titles/--no-titles", help="With a column of titles.")] = True,
    backend: Annotated[
        Literal["torch", "vllm"], typer.Option(help="What runs the model; vllm where it is installed (docs/vllm.md).")
    ] = "torch",
    engine: Annotated[list[str], typer.Option(help="KEY=VALUE of vllm.LLM; may be repeated.")] = [],  # noqa: B006
    part: Annotated[int, typer.Option(help="Users that are decoded and kept together.", min=1)] = 256,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of a Hub repository.")] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace a file of another origin, or parts of another job.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was done as JSON.")] = False,
) -> None:
    """Writes the best items of every user: user_id, rank, item_id, title, log_prob. The same command resumes it.

    On several processes: accelerate launch -m llmrec batch ..., or torchrun -m llmrec batch ...
    """
    from llmrec.cli.show import asked_filters, asked_weights, loaded, read_ids

    if out.suffix != ".parquet":
        raise RequestError(f"--out is {out}; let the file's name end with .parquet.")
    bounds = (min_price, max_price)
    stock, filters = asked_filters(category, brand, bounds, in_stock, candidates, exclude, max_per_category)
    weights = asked_weights(prefer)
    chosen = None if users is None else read_ids(users, "--users")
    given: dict[str, Any] = {"data": data, "revision": revision, "fuse": fuse, "rules": rules}
    given |= {"engine": _engine(backend, engine, fuse)}
    if backend == "torch":
        from llmrec.training.arguments import world_size

        world_size()  # joins the processes, so that each has a device of its own
    recommender, filters = loaded(model, **given, filters=filters, stock=stock)
    from llmrec.batch import BatchJob, write_slates
    from llmrec.recommender.recommender import UNREWARDED

    job = BatchJob(k, chosen, filters, exact, titles=titles, part=part, prefer=weights or None)
    found = write_slates(recommender, out, job, force=force)
    if weights and not recommender.bundle.facts["stated"]["rewarded"]:
        echo(UNREWARDED, err=True)
    if found is not None:
        echo(json_line(found.to_json()) if as_json else found)


def _engine(backend: str, settings: list[str], fuse: float | None) -> Callable[[Path], Any] | None:
    """What runs the model, where it is not torch; refused before anything is loaded where it cannot."""
    if backend == "torch":
        if settings:
            raise RequestError("--engine sets vLLM's arguments; give --backend vllm with it.")
        return None
    from llmrec.vllm_engine.backend import open_vllm, read_engine_arguments, require_vllm

    if fuse is not None:
        raise RequestError(
            "--fuse scores items that no search found, which --backend vllm cannot; leave one of the two out."
        )
    arguments = read_engine_arguments(settings)
    require_vllm()
    return partial(open_vllm, arguments=arguments)
