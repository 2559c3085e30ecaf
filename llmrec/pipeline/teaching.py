"""The teacher of the warm start, fitted on the training period alone."""

from __future__ import annotations

import dataclasses

import numpy as np
import polars as pl

from llmrec.baselines import Covisitation
from llmrec.baselines.base import item_counts, positives
from llmrec.baselines.interpolation import Interpolation
from llmrec.baselines.registry import baseline
from llmrec.config import RunConfig
from llmrec.dataset.examples import examples
from llmrec.dataset.split import Split
from llmrec.pipeline.data import RunData
from llmrec.progress import console
from llmrec.training.teacher import Teacher, check_teacher

HELD_OUT = 0.1
"""Share of the training events, the last ones, on which the teacher's settings are chosen."""
ROWS = 2000


def make_teacher(config: RunConfig, data: RunData) -> Teacher | None:
    """What `sft.teacher` asks for; None where it asks for nothing.

    Co-visitation's settings are chosen on the last tenth of the training events, with the counts of those before
    them; then all of them are counted.

    Raises:
        ConfigError: settings that cannot be used.
    """
    settings = config.sft.teacher
    if settings.kind == "none":
        return None
    check_teacher(settings)
    dataset, train = data.dataset, data.split.train
    counts = item_counts(positives(dataset, train), dataset.n_items)
    if settings.kind == "interpolation":
        mixture = Interpolation(seed=config.seed).fit(dataset, train)
        return Teacher(mixture.score, counts, settings, dataset.manifest.repeat)
    spec, inner = baseline("covisitation-fixed"), inner_split(train)
    rows = examples(dataset, inner, "valid", history_events=config.data.history_events, limit=ROWS, seed=config.seed)
    found = spec.chosen(dataset, inner.train, rows)
    if found is not None:
        console.print(f"  teacher: {dataclasses.asdict(found.settings)}", style="dim")
    teacher = Covisitation(None if found is None else found.settings, seed=config.seed).fit(dataset, train)
    return Teacher(teacher.score, counts, settings, dataset.manifest.repeat)


def inner_split(train: pl.DataFrame) -> Split:
    """The training events with their last tenth as validation part; events of equal time stay together."""
    times = np.sort(train["time"].to_numpy())
    cut = int(times[min(len(times) - 1, round((1 - HELD_OUT) * len(times)))]) if len(times) else 0
    time = pl.col("time")
    return Split(train.filter(time < cut), train.filter(time >= cut), train.clear(), "time", cut, None)
