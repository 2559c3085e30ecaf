"""`llmrec models`: what has been tried with pretrained models, and with what figures."""

from __future__ import annotations

import dataclasses

from rich.table import Table
from rich.text import Text

from llmrec.printing import echo, json_line
from llmrec.screen import results
from llmrec.tried import TriedModel, read_trials


def show_models(*, as_json: bool = False, commands: bool = False) -> None:
    """Prints a table a model, then the architectures that were checked."""
    found = read_trials()
    if as_json:
        echo(json_line(dataclasses.asdict(found)))
        return
    screen = results()
    for model in found.models:
        screen.print(_table(model))
        for command in dict.fromkeys(run.command for run in model.runs) if commands else ():
            echo(f"  {command}")
    for check in found.checks:
        echo(f"check_pretrained: {check.architecture} passed {check.passed} ({check.model}; {check.machine})")
    echo(f"Tested at tiny size, one prompt shared by its items: {', '.join(found.tiny)}.")
    echo(f"Tested at tiny size, one row an item: {', '.join(found.plain)}.")
    echo(
        "Any other causal language model of transformers: python eval/check_pretrained.py MODEL says whether it fits."
    )


def _table(model: TriedModel) -> Table:
    title = f"{model.name}: {model.parameters / 1e6:.1f} M parameters, {model.architecture}, {model.licence}"
    table = Table(title=Text(title), title_justify="left", caption_justify="left")
    table.caption = Text(f"Weights {model.weights}.") if model.weights else None
    for column in ("data", "what", "HR@10", "NDCG@10 (95%)", "beside it", "machine"):
        table.add_column(Text(column), overflow="fold")
    for run in model.runs:
        mean, low, high = run.ndcg
        beside = ", ".join(f"{name} {figure:.4f}" for name, figure in run.beside.items())
        interval = f"{mean:.4f} ({low:.4f} to {high:.4f})"
        table.add_row(f"{run.data}, {run.rows}", run.what, f"{run.hr:.4f}", interval, beside, run.machine)
    return table
