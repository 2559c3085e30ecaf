"""`llmrec audit`: does a result hold?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmrec.errors import DataError
from llmrec.printing import command, one_line

if TYPE_CHECKING:
    import numpy as np
    import polars as pl

FOUND = 1
"""Exit code where a fault was found."""


def audit_command(
    predictions: Annotated[
        Path,
        typer.Argument(metavar="PREDICTIONS", help="A JSON object a line: user, target, items; see docs/audit.md."),
    ],
    data: Annotated[Path, typer.Option(help="A data set's folder (llmrec data import).")],
    split: Annotated[str, typer.Option(help="time, leave-last-out or given.")] = "time",
    k: Annotated[int, typer.Option("-k", help="The longest cut-off.")] = 10,
    trained_on: Annotated[
        Path | None,
        typer.Option(help="Events that the system learnt from: user_id, item_id, time; CSV, Parquet or JSON lines."),
    ] = None,
    identifiers: Annotated[
        Path | None, typer.Option(help="What items are written as: item_id, identifier; CSV, Parquet or JSON lines.")
    ] = None,
    tried: Annotated[list[Path], typer.Option(help="Lists of other settings that were tried; may be repeated.")] = [],  # noqa: B006
    curve: Annotated[
        Path | None, typer.Option(help="A training's log with flat_groups by rollout, JSON lines.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of intervals and baselines.")] = 0,
    page: Annotated[Path | None, typer.Option(help="Write the page here, as Markdown.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures to this JSON file.")] = None,
) -> None:
    """Audits anybody's lists on public rows: faults, figures over all items, strong baselines beside, intervals.

    Exit code 0 where no fault was found, 1 where one was, 2 for input that cannot be used.
    """
    import sys

    from llmrec.cli.data import load_dataset
    from llmrec.dataset.split import make_split
    from llmrec.files import write_text
    from llmrec.studies.answer import facts
    from llmrec.studies.audit import audit, read_predictions

    dataset = load_dataset(data)
    found = audit(
        read_predictions(predictions),
        dataset,
        make_split(dataset, split),  # type: ignore[arg-type]  # a text that make_split checks
        k=k,
        trained_on=None if trained_on is None else _events(trained_on),
        identifiers=None if identifiers is None else _identifiers(identifiers),
        tried=[read_predictions(path) for path in tried],
        flat=None if curve is None else _flat(curve),
        seed=seed,
    )
    answer = found.answer()
    hashes = {"dataset_hash": dataset.manifest.content_hash}
    answer.finish(None, json_file, **hashes)
    if page is not None:
        known = facts(**hashes) | {"command": command(["llmrec", *sys.argv[1:]])}
        write_text(page, answer.to_markdown(known))
    if found.faults:
        raise typer.Exit(FOUND)


def _table(path: Path, columns: tuple[str, ...]) -> pl.DataFrame:
    """A table with at least these columns."""
    import polars as pl

    from llmrec import bounded

    try:
        if path.suffix == ".parquet":
            table = bounded.read_parquet(path)
        elif path.suffix in (".jsonl", ".ndjson", ".json"):
            table = pl.DataFrame([row for _, row in bounded.json_objects(path)], infer_schema_length=None)
        else:
            table = pl.read_csv(bounded.read_bytes(path), infer_schema=False)
    except (OSError, ValueError, pl.exceptions.PolarsError) as error:
        raise DataError(f"{path} cannot be read: {one_line(error, 200)}; give CSV, Parquet or JSON lines.") from None
    lacking = [name for name in columns if name not in table.columns]
    if lacking:
        raise DataError(f"{path} lacks {', '.join(lacking)}; it has {one_line(', '.join(table.columns), 120)}.")
    return table.select(columns)


def _events(path: Path) -> pl.DataFrame:
    import polars as pl

    table = _table(path, ("user_id", "item_id", "time"))
    try:
        return table.with_columns(pl.col("user_id", "item_id").cast(pl.String), pl.col("time").cast(pl.Int64))
    except pl.exceptions.PolarsError as error:
        raise DataError(f"{path}: 'time' must be whole seconds ({one_line(error, 120)}).") from None


def _identifiers(path: Path) -> dict[str, str]:
    import polars as pl

    table = _table(path, ("item_id", "identifier")).cast(pl.String)
    return dict(table.iter_rows())


def _flat(path: Path) -> np.ndarray[Any, Any]:
    import numpy as np

    from llmrec import bounded

    try:
        rates = [row["flat_groups"] for _, row in bounded.json_objects(path) if "flat_groups" in row]
        found = np.array(rates, dtype=np.float64)
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"{path} cannot be read: {one_line(error, 200)}.") from None
    if not len(found) or not ((found >= 0) & (found <= 1)).all():
        raise DataError(f"{path} holds no shares of flat groups; each line has flat_groups, from 0 to 1.")
    return found
