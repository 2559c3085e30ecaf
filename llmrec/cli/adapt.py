"""`llmrec adapt` and `llmrec meta-train`: a finished run for a new domain or new people, by their sessions."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llmrec.cli.told import AsJson, Told, tell

Sets = Annotated[list[str], typer.Option("--set", help="A key, for example --set meta.inner.steps=5 (repeatable).")]


def adapt_command(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder; it is left as it is.")],
    sessions: Annotated[
        Path, typer.Option(help="A data set's folder with the first sessions; its items are those of the new run.")
    ],
    out: Annotated[Path, typer.Option("--out", help="The new run folder; it appears whole or not at all.")],
    start: Annotated[
        Path | None, typer.Option(help="An adapter of meta-train to start from; by default a fresh one.")
    ] = None,
    learns: Annotated[
        str, typer.Option(help="supervised (choices weighed by reward) or off_policy (logged propensities).")
    ] = "supervised",
    steps: Annotated[int, typer.Option(help="Optimiser steps.")] = 10,
    learning_rate: Annotated[float, typer.Option(help="At the first step; it falls to 0.")] = 3e-3,
    batch_size: Annotated[int, typer.Option(help="Choices (or slates) of a step.")] = 16,
    seed: Annotated[int, typer.Option(help="Of the adapter and of the order.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Adapts a run to a few sessions of a new domain, catalogue or group: seconds for the nano model."""
    from llmrec.adaptation.inner import InnerSettings
    from llmrec.adaptation.runs import adapt_run, read_start
    from llmrec.cli.data import load_dataset
    from llmrec.config_tree import from_tree
    from llmrec.export import read_bundle

    given = {"learns": learns, "steps": steps, "learning_rate": learning_rate, "batch_size": batch_size}
    settings = from_tree(InnerSettings, given, "the command line")
    settings.check()
    adapter = None if start is None else read_start(start)
    dataset = load_dataset(sessions)
    told = adapt_run(read_bundle(run), dataset, settings, out, start=adapter, seed=seed)
    said = (
        f"{out}: adapted to {told['choices']} choices in {told['slates']} slates of {told['users']} users, "
        f"{told['steps']} steps from {told['from']}. The figures in metrics.json are those of {run}."
    )
    tell(Told(said, **{"out": str(out), **told}), as_json)


def meta_command(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder; it is left as it is.")],
    sessions: Annotated[
        list[Path], typer.Option(help="A data set's folder that tasks are drawn from; give it once for each domain.")
    ],
    out: Annotated[Path, typer.Option("--out", help="The adapter's folder; it appears whole or not at all.")],
    config: Annotated[
        Path | None, typer.Option(help="A YAML configuration (train/recipes/meta.yaml); defaults without.")
    ] = None,
    overrides: Sets = [],  # noqa: B006 (typer needs a literal; it is never changed)
    as_json: AsJson = False,
) -> None:
    """Learns over tasks an adapter from which a few steps lead far; the same command resumes it."""
    from llmrec.adaptation.runs import MetaConfig, meta_run
    from llmrec.cli.data import load_dataset
    from llmrec.config_tree import from_tree, merged, override_tree, parse_overrides, read_yaml
    from llmrec.export import read_bundle
    from llmrec.storage import work_folder

    tree = {} if config is None else read_yaml(config)
    tree = merged(tree, override_tree(parse_overrides(overrides, MetaConfig)))
    settings = from_tree(MetaConfig, tree, "the command line" if config is None else str(config))
    settings.check()
    datasets = [load_dataset(folder) for folder in sessions]
    meta_run(read_bundle(run), datasets, settings, out, work_folder(out))
    steps = settings.meta.steps
    said = f"{out}: an adapter after {steps} outer steps; llmrec adapt {run} --start {out} starts from it."
    tell(Told(said, out=str(out), steps=steps), as_json)
