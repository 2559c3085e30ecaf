"""Recommendations as a person reads them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from llmrec.errors import RequestError

if TYPE_CHECKING:
    from llmrec.recommender import Recommendation


def show_recommendations(
    model: str, user: str | None, prompt: str | None, k: int, data: Path | None, revision: str | None, as_json: bool
) -> None:
    """Prints titles with scores for `user` or `prompt`; one of the two is needed."""
    if (user is None) == (prompt is None):
        raise RequestError("Give either --user ID or --prompt TEXT.")
    if k < 1:
        raise RequestError(f"-k is {k}; it must be at least 1.")
    from llmrec.recommender import Recommender

    recommender = Recommender.load(model, revision=revision, data=data)
    answer = recommender.recommend(user=user, prompt=prompt, k=k)
    print(json.dumps(answer.to_json(), ensure_ascii=False)) if as_json else _print(answer)


def _print(answer: Recommendation) -> None:
    console = Console(highlight=False)
    for match in answer.matches:
        console.print(Text(f'"{match.text}" is read as {match.title} (similarity {match.score:.0f}%)', style="dim"))
    if answer.rest:
        console.print(Text(f"the rest is context: {answer.rest}", style="dim"))
    if answer.note:
        console.print(Text(answer.note, style="dim"))
    table = Table(box=None, pad_edge=False)
    for name, justify in (("", "right"), ("title", "left"), ("probability", "right"), ("log-prob", "right")):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    for place, item in enumerate(answer.items, 1):
        probability = f"{100 * math.exp(item.log_prob):.2f}%"
        table.add_row(str(place), Text(item.title), probability, f"{item.log_prob:.3f}")
    console.print(table)
