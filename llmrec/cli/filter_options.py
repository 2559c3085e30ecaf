"""Options that say which items a list may hold, of every command that makes lists."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Category = Annotated[list[str], typer.Option(help="Only items of this category; may be repeated.")]
Brand = Annotated[list[str], typer.Option(help="Only items of this brand; may be repeated.")]
MinPrice = Annotated[float | None, typer.Option(help="Least price.")]
MaxPrice = Annotated[float | None, typer.Option(help="Greatest price.")]
InStock = Annotated[Path | None, typer.Option(help="Only items whose ids are in this file, one a line.")]
Candidates = Annotated[Path | None, typer.Option(help="Choose from the item ids in this file, one a line.")]
Exclude = Annotated[list[str], typer.Option(help="Leave out this item id; may be repeated.")]
MaxPerCategory = Annotated[int | None, typer.Option(help="At most so many of one category in a list.")]
Rules = Annotated[Path | None, typer.Option(help="Rules that every list obeys, a YAML file (docs/rules.md).")]
Fuse = Annotated[float | None, typer.Option(help="Mix with co-visitation; the policy's weight, 0 to 1.")]
Exact = Annotated[bool, typer.Option("--exact", help="Search until each list is proven to be the best.")]
Prefer = Annotated[
    list[str],
    typer.Option(
        "--prefer",
        metavar="NAME=WEIGHT",
        help="What to weigh, 0 to 3, by a run that was trained to read it (reward.stated); may be repeated.",
    ),
]
